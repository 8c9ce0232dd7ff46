"""Philox 4x32-10 for CPU kernels; `philox.py` is the definition and names the source.

`fill_uniform` draws for many offsets in a row, a vector register at a time, five times as fast as `uniform` does one by
one. Call them from kernels only.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from .cpu_jit import serial_kernel
from .cpu_product import REGISTER_BYTES
from .philox import KEY_STEP_A, KEY_STEP_B, MULTIPLIER_A, MULTIPLIER_B, ROUNDS, UNIFORM_SCALE

_A, _B = np.uint64(MULTIPLIER_A), np.uint64(MULTIPLIER_B)
_STEP_A, _STEP_B = np.uint32(KEY_STEP_A), np.uint32(KEY_STEP_B)
_WORD, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_SCALE = np.float32(UNIFORM_SCALE)
_LANES = REGISTER_BYTES // 4


@register_jitable
def uniform(seed, offset):
    """A float32 in [0, 1) for one offset: `philox.uniform` of an int64 seed and a non-negative int64 offset."""
    c0, c1, c2, c3 = np.uint64(offset) & _WORD, np.uint64(offset) >> _32, np.uint64(0), np.uint64(0)
    k0, k1 = np.uint32(seed), np.uint32(seed >> 32)
    for _ in range(ROUNDS):
        # Words stay in 64-bit lanes, as the vector unit's 32 x 32 -> 64 bit product wants them.
        product_a, product_b = c0 * _A, c2 * _B
        c0, c1 = (product_b >> _32) ^ c1 ^ np.uint64(k0), product_b & _WORD
        c2, c3 = (product_a >> _32) ^ c3 ^ np.uint64(k1), product_a & _WORD
        k0, k1 = np.uint32(k0 + _STEP_A), np.uint32(k1 + _STEP_B)
    bits = np.int32(np.uint32(c0))
    return np.float32(bits ^ (bits >> np.int32(31))) * _SCALE


@intrinsic
def _uniform_vector(typing_context, seed, offset, draws, at):
    """draws[at : at + _LANES] = uniform of the offsets from `offset` on. LLVM does not vectorise the loop by itself."""

    def generate(context, builder, signature, arguments):
        seed, offset, draws, at = arguments
        pointer = context.make_array(signature.args[2])(context, builder, draws).data
        word, long = ir.IntType(32), ir.IntType(64)
        words, longs, floats = (ir.VectorType(kind, _LANES) for kind in (word, long, ir.FloatType()))

        def everywhere(value):
            one = builder.insert_element(ir.Constant(longs, ir.Undefined), value, ir.Constant(word, 0))
            return builder.shuffle_vector(one, one, ir.Constant(words, [0] * _LANES))

        def constant(vector, value):
            return ir.Constant(vector, [value] * _LANES)

        def multiply(c, factor):
            # Words stay in 64-bit lanes, whose upper halves the vector unit's 32 x 32 -> 64 bit product does not read.
            product = builder.mul(builder.and_(c, constant(longs, 0xFFFFFFFF)), constant(longs, factor))
            return builder.lshr(product, constant(longs, 32)), product

        c0 = builder.add(everywhere(offset), ir.Constant(longs, list(range(_LANES))))
        c1 = builder.lshr(c0, constant(longs, 32))
        c2 = c3 = constant(longs, 0)
        k0, k1 = builder.trunc(seed, word), builder.trunc(builder.lshr(seed, ir.Constant(long, 32)), word)
        for _ in range(ROUNDS):
            high_a, low_a = multiply(c0, MULTIPLIER_A)
            high_b, low_b = multiply(c2, MULTIPLIER_B)
            c0, c1 = builder.xor(builder.xor(high_b, c1), everywhere(builder.zext(k0, long))), low_b
            c2, c3 = builder.xor(builder.xor(high_a, c3), everywhere(builder.zext(k1, long))), low_a
            k0 = builder.add(k0, ir.Constant(word, KEY_STEP_A))
            k1 = builder.add(k1, ir.Constant(word, KEY_STEP_B))
        c0 = builder.trunc(c0, words)
        bits = builder.xor(c0, builder.ashr(c0, constant(words, 31)))
        values = builder.fmul(builder.sitofp(bits, floats), constant(floats, float(_SCALE)))
        builder.store(values, builder.bitcast(builder.gep(pointer, [at]), floats.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, draws, types.intp), generate


@serial_kernel
def fill_uniform(seed, first, draws):
    """draws[i] = uniform(seed, first + i), for a contiguous float32 array."""
    whole = len(draws) // _LANES * _LANES
    for i in range(0, whole, _LANES):
        _uniform_vector(seed, first + i, draws, i)
    for i in range(whole, len(draws)):
        draws[i] = uniform(seed, first + i)
