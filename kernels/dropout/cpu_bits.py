"""A dropout mask as bits, sixteen elements at a time: bit i % 16 of word i // 16 is set where element i is kept.

A comparison of vectors yields such a word, and a selection between vectors takes one, in a single instruction where the
processor has mask registers. Call these from kernels only.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel
from ..cpu_vectors import everywhere

WORD = np.dtype(np.uint16)
BITS = 16

_MASK = ir.VectorType(ir.IntType(1), BITS)


def _place(context, builder, array_type, array, at, element):
    """A pointer to what stands at an index of an array, as one to `element`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), element.as_pointer())


@intrinsic
def _pack_word(typing_context, draws, at, least, kept, word):
    """kept[word] = which of draws[at : at + 16] are at least `least`."""

    def generate(context, builder, signature, arguments):
        draws, at, least, kept, word = arguments
        vector = ir.VectorType(ir.FloatType(), BITS)
        values = builder.load(_place(context, builder, signature.args[0], draws, at, vector), align=4)
        mask = builder.fcmp_ordered(">=", values, everywhere(builder, least, BITS))
        bits = builder.bitcast(mask, ir.IntType(BITS))
        builder.store(bits, _place(context, builder, signature.args[3], kept, word, ir.IntType(BITS)))
        return context.get_dummy_value()

    return types.void(draws, types.intp, types.float32, kept, types.intp), generate


@intrinsic
def _scale_word(typing_context, x, at, scale, kept, word, y):
    """y[at : at + 16] = scale * x[at : at + 16] where a bit of kept[word] is set, else 0."""

    def generate(context, builder, signature, arguments):
        x, at, scale, kept, word, y = arguments
        kind, align = context.get_data_type(signature.args[0].dtype), signature.args[0].dtype.bitwidth // 8
        vector = ir.VectorType(kind, BITS)
        bits = builder.load(_place(context, builder, signature.args[3], kept, word, ir.IntType(BITS)))
        values = builder.load(_place(context, builder, signature.args[0], x, at, vector), align=align)
        scaled = builder.fmul(values, everywhere(builder, scale, BITS))
        result = builder.select(builder.bitcast(bits, _MASK), scaled, ir.Constant(vector, None))
        builder.store(result, _place(context, builder, signature.args[5], y, at, vector), align=align)
        return context.get_dummy_value()

    return types.void(x, types.intp, x.dtype, kept, types.intp, y), generate


@serial_kernel
def pack_bits(draws, least, kept):
    """The bits of kept say which draws, float32, are at least `least`."""
    whole = len(draws) // BITS
    for word in range(whole):
        _pack_word(draws, word * BITS, least, kept, word)
    if whole < len(kept):
        bits = np.uint32(0)
        for i in range(len(draws) - whole * BITS):
            bits |= np.uint32(draws[whole * BITS + i] >= least) << np.uint32(i)
        kept[whole] = bits


@serial_kernel
def scale_kept(x, scale, kept, y):
    """y = scale * x where an element's bit is set, else 0."""
    whole = len(x) // BITS
    for word in range(whole):
        _scale_word(x, word * BITS, scale, kept, word, y)
    for i in range(len(x) - whole * BITS):
        is_kept = (kept[whole] >> i) & 1
        y[whole * BITS + i] = scale * x[whole * BITS + i] if is_kept else y.dtype.type(0)
