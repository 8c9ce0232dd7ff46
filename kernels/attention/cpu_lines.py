"""Lines of attention scores, a vector register at a time: their largest, e to them, the gradient through both.

A line is a part of a contiguous array whose length is a multiple of `LINE_STEP`; what lies beyond the keys that a row
sees is -inf, and comes out as 0. For float32 the loops are written in LLVM's vectors, as Numba by itself takes half of
AVX-512's registers, no vectors at all for a maximum, and an element at a time for what is left over. For float64 they
are plain loops.

exp is the polynomial of S. L. Moshier's Cephes library, for arguments that a subtracted maximum or log-sum has made at
most 0: what `cpu_math.py` does for overflow and subnormal numbers is not needed.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ..cpu_product import REGISTER_BYTES
from ..cpu_vectors import everywhere, fold, multiply_add

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
    """What an intrinsic over lines needs: pointers to vectors of its arrays, and numbers in all elements of one."""

    def __init__(self, context, builder, signature, arguments):
        self.builder, self.context = builder, context
        self.lines = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments)
            if isinstance(kind, types.Array)
        ]
        self.count = self.lines[0].nitems

    def at(self, line, index):
        pointer = self.builder.gep(self.lines[line].data, [index])
        return self.builder.bitcast(pointer, _FLOAT.as_pointer())

    def load(self, line, index):
        return self.builder.load(self.at(line, index), align=4)

    def store(self, value, line, index):
        self.builder.store(value, self.at(line, index), align=4)

    def everywhere(self, number):
        return everywhere(self.builder, number, LINE_STEP)

    def steps(self):
        """Indices 0, LINE_STEP, 2 LINE_STEP, ... of a line."""
        zero, step = (ir.Constant(self.count.type, value) for value in (0, LINE_STEP))
        return cgutils.for_range_slice(self.builder, zero, self.count, step, intp=self.count.type)


@intrinsic
def _largest(typing_context, line):
    def generate(context, builder, signature, arguments):
        loop = _Loop(context, builder, signature, arguments)

        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        peak = cgutils.alloca_once_value(builder, _all(-math.inf))
        with loop.steps() as (index, _):
            builder.store(larger(loop.load(0, index), builder.load(peak)), peak)
        return fold(builder, larger, builder.load(peak))

    return types.float32(line), generate


@intrinsic
def _exponentiate(typing_context, line, peak):
    def generate(context, builder, signature, arguments):
        loop = _Loop(context, builder, signature, arguments)
        peak = loop.everywhere(arguments[1])
        total = cgutils.alloca_once_value(builder, _all(0.0))
        with loop.steps() as (index, _):
            y = _exp(builder, builder.fsub(loop.load(0, index), peak))
            loop.store(y, 0, index)
            builder.store(builder.fadd(builder.load(total), y), total)
        return fold(builder, builder.fadd, builder.load(total))

    return types.float32(line, types.float32), generate


@intrinsic
def _differentiate(typing_context, line, grad, log_sum, dot):
    def generate(context, builder, signature, arguments):
        loop = _Loop(context, builder, signature, arguments)
        log_sum, dot = (loop.everywhere(number) for number in arguments[2:])
        with loop.steps() as (index, _):
            weight = _exp(builder, builder.fsub(loop.load(0, index), log_sum))
            loop.store(weight, 0, index)
            loop.store(builder.fmul(weight, builder.fsub(loop.load(1, index), dot)), 1, index)
        return context.get_dummy_value()

    return types.void(line, grad, types.float32, types.float32), generate


def largest(line):
    """The largest element that is not NaN, -inf if there is none."""


def exponentiate(line, peak):
    """line = e^(line - peak), whose sum is returned."""


def differentiate(line, grad, log_sum, dot):
    """line = e^(line - log_sum) = weights, grad = weights (grad - dot)."""


@overload(largest)
def _choose_largest(line):
    def plain(line):
        peak = line.dtype.type(-np.inf)
        for x in line:
            peak = x if x > peak else peak
        return peak

    return (lambda line: _largest(line)) if line.dtype == types.float32 else plain


@overload(exponentiate)
def _choose_exponentiate(line, peak):
    def plain(line, peak):
        total = line.dtype.type(0)
        for i in range(line.size):
            line[i] = math.exp(line[i] - peak)
            total += line[i]
        return total

    return (lambda line, peak: _exponentiate(line, peak)) if line.dtype == types.float32 else plain


@overload(differentiate)
def _choose_differentiate(line, grad, log_sum, dot):
    def plain(line, grad, log_sum, dot):
        for i in range(line.size):
            line[i] = math.exp(line[i] - log_sum)
            grad[i] = line[i] * (grad[i] - dot)

    if line.dtype == types.float32:
        return lambda line, grad, log_sum, dot: _differentiate(line, grad, log_sum, dot)
    return plain
