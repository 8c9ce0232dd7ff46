"""Lines of attention scores, a vector register at a time: e to them, and the gradient through it.

A line is named by its memory, as in the `cpu_lines.py` of all families, and its length is a multiple of `LINE_STEP`;
what lies beyond the keys that a row sees is -inf, and comes out as 0. For float32 the loops are written in LLVM's
vectors, as Numba by itself takes half of AVX-512's registers, and an element at a time for what is left over. For
float64 they are plain loops.

exp is the polynomial of S. L. Moshier's Cephes library, for arguments that a subtracted maximum or log-sum has made at
most 0: what `cpu_math.py` does for overflow and subnormal numbers is not needed.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ..cpu_product import REGISTER_BYTES
from ..cpu_vectors import everywhere, fold, load, multiply_add, store

LINE_STEP = REGISTER_BYTES // 4  # elements
_FLOAT, _INTEGER = (ir.VectorType(kind, LINE_STEP) for kind in (ir.FloatType(), ir.IntType(32)))
_LOG2_E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # ln 2 in two parts keeps the remainder exact
_POLYNOMIAL = 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1
_LEAST = -87.0  # e to less counts as 0: what comes near to subnormal numbers is slow, and no weight
_ROUND = 1.5 * 2**23  # a float32 next to it has whole numbers only, and their two's complement in its last bits


def _all(value):
    return ir.Constant(_FLOAT, [value] * LINE_STEP)


def _exp(builder, x):
    """e^x for a vector of x <= 0 or NaN: 2^n e^r with r = x - n ln 2."""
    vanishes = builder.fcmp_ordered("<", x, _all(_LEAST))
    x = builder.select(vanishes, _all(_LEAST), x)
    shifted = multiply_add(builder, x, _all(_LOG2_E), _all(_ROUND))
    n = builder.fsub(shifted, _all(_ROUND))
    r = multiply_add(builder, n, _all(-_LN2_LOW), multiply_add(builder, n, _all(-_LN2_HIGH), x))
    p = _all(_POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        p = multiply_add(builder, p, r, _all(coefficient))
    p = builder.fadd(multiply_add(builder, p, builder.fmul(r, r), r), _all(1.0))
    exponent = builder.shl(builder.bitcast(shifted, _INTEGER), ir.Constant(_INTEGER, [23] * LINE_STEP))
    y = builder.bitcast(builder.add(builder.bitcast(p, _INTEGER), exponent), _FLOAT)
    return builder.select(vanishes, _all(0.0), y)


class _Loop:
    """What an intrinsic over lines needs: vectors of the lines, and numbers in all elements of one.

    Args:
        lines: pairs of a line's memory and where it starts. count: their elements.
    """

    def __init__(self, builder, lines, count):
        self.builder, self.lines, self.count = builder, lines, count

    def load(self, line, index):
        pointer, start = self.lines[line]
        return load(self.builder, _FLOAT, pointer, self.builder.add(start, index))

    def store(self, value, line, index):
        pointer, start = self.lines[line]
        store(self.builder, value, pointer, self.builder.add(start, index))

    def everywhere(self, number):
        return everywhere(self.builder, number, LINE_STEP)

    def steps(self):
        """Indices 0, LINE_STEP, 2 LINE_STEP, ... of a line."""
        zero, step = (ir.Constant(self.count.type, value) for value in (0, LINE_STEP))
        return cgutils.for_range_slice(self.builder, zero, self.count, step, intp=self.count.type)


@intrinsic
def _exponentiate(typing_context, line, start, count, peak):
    def generate(context, builder, signature, arguments):
        line, start, count, peak = arguments
        loop = _Loop(builder, [(line, start)], count)
        peak = loop.everywhere(peak)
        total = cgutils.alloca_once_value(builder, _all(0.0))
        with loop.steps() as (index, _):
            y = _exp(builder, builder.fsub(loop.load(0, index), peak))
            loop.store(y, 0, index)
            builder.store(builder.fadd(builder.load(total), y), total)
        return fold(builder, builder.fadd, builder.load(total))

    return types.float32(line, types.intp, types.intp, types.float32), generate


@intrinsic
def _differentiate(typing_context, line, grad, start, count, log_sum, dot):
    def generate(context, builder, signature, arguments):
        line, grad, start, count, *numbers = arguments
        loop = _Loop(builder, [(line, start), (grad, start)], count)
        log_sum, dot = (loop.everywhere(number) for number in numbers)
        with loop.steps() as (index, _):
            weight = _exp(builder, builder.fsub(loop.load(0, index), log_sum))
            loop.store(weight, 0, index)
            loop.store(builder.fmul(weight, builder.fsub(loop.load(1, index), dot)), 1, index)
        return context.get_dummy_value()

    return types.void(line, grad, types.intp, types.intp, types.float32, types.float32), generate


def exponentiate(line, start, count, peak):
    """line[start + i] = e^(line[start + i] - peak) for i < count, whose sum is returned."""


def differentiate(line, grad, start, count, log_sum, dot):
    """line[start + i] = e^(line[start + i] - log_sum) = weight, grad[start + i] = weight (grad[start + i] - dot)."""


@overload(exponentiate)
def _choose_exponentiate(line, start, count, peak):
    def plain(line, start, count, peak):
        total = peak * 0
        for i in range(count):
            line[start + i] = math.exp(line[start + i] - peak)
            total += line[start + i]
        return total

    if line.dtype == types.float32:
        return lambda line, start, count, peak: _exponentiate(line, start, count, peak)
    return plain


@overload(differentiate)
def _choose_differentiate(line, grad, start, count, log_sum, dot):
    def plain(line, grad, start, count, log_sum, dot):
        for i in range(count):
            line[start + i] = math.exp(line[start + i] - log_sum)
            grad[start + i] = line[start + i] * (grad[start + i] - dot)

    if line.dtype == types.float32:
        return lambda line, grad, start, count, log_sum, dot: _differentiate(line, grad, start, count, log_sum, dot)
    return plain
