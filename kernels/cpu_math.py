"""exp, log, tanh and their kin for CPU kernels, in forms that vectorise.

Inside a Numba loop, libm's functions are called element by element. These are branch-free polynomials for float32 (at
most 6 units in the last place off, tests/kernels/test_cpu_math.py) that LLVM turns into vector code; for float64 they
are libm's. Call them from kernels only: `from ..cpu_math import exp, tanh`.

Coefficients: minimax fits of the relative error (Lawson's algorithm) for exp, expm1, log and log1p, minimax rationals
for tanh and erf. The reductions of the argument are those of S. L. Moshier's Cephes library (`expf`, `logf`).
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload, register_jitable

f32 = np.float32


@intrinsic
def _float_from_bits(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _bits_from_float(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _fma(typing_context, a, b, c):
    # One rounding: a * b + c may be contracted to it, this is always.
    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def wide_vectors(typing_context):
    """Lets the loops of the function that calls this have the widest vectors of the processor. LLVM prefers 256 bits to
    512, for the clock of older processors and the memory traffic of most loops; long formulas gain a third."""

    def generate(context, builder, signature, arguments):
        # A set's own add: llvmlite refuses attributes that it does not know.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


# 1.5 * 2^23: a sum with it has no fraction left, and the integer n that remains stands in its lowest bits.
_ROUNDING = f32(12582912.0)
_INT_1, _INT_23, _ONE_BITS = np.int32(1), np.int32(23), np.int32(0x3F800000)


@register_jitable
def _power_of_two(exponent):
    """2^exponent from an integer's lowest bits, for exponents from -126 to 127."""
    return _float_from_bits(np.int32(np.int32(exponent << _INT_23) + _ONE_BITS))


@register_jitable
def _without_powers_of_two(x):
    """(n, r) with x = n ln 2 + r, r in [-ln 2 / 2, ln 2 / 2], and n in the lowest bits; ln 2 in two parts keeps r
    exact."""
    shifted = _fma(x, f32(1.44269504088896341), _ROUNDING)
    n = shifted - _ROUNDING
    return _bits_from_float(shifted), _fma(n, f32(2.12194440e-4), _fma(n, f32(-0.693359375), x))


@register_jitable
def _exp32(x):
    # exp(x) = 2^n exp(r). Bounds written so that NaN comes through; at them the result is 0 or infinite.
    bounded = f32(-104.0) if x < f32(-104.0) else x
    bounded = f32(89.0) if bounded > f32(89.0) else bounded
    n, r = _without_powers_of_two(bounded)
    p = f32(1.383683522e-3)
    p = _fma(p, r, f32(8.374824055e-3))
    p = _fma(p, r, f32(4.166822620e-2))
    p = _fma(p, r, f32(1.666642007e-1))
    p = _fma(p, r, f32(4.999999208e-1))
    p = _fma(p, r, f32(1.0))
    p = _fma(p, r, f32(1.0))
    # 2^n as two powers, neither of which overflows before the result does, nor vanishes.
    half = n >> _INT_1
    return p * _power_of_two(half) * _power_of_two(n - half)


@register_jitable
def _exponent_and_fraction(x):
    """(e, f) with x = 2^e (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)), for normal positive x; e is an integer."""
    bits = _bits_from_float(x)
    e = np.int32(bits - np.int32(0x3F3504F3)) >> _INT_23
    return e, _float_from_bits(np.int32(bits - np.int32(e << _INT_23))) - f32(1.0)


@register_jitable
def _log_of_parts(exponent, f):
    """exponent ln 2 + log(1 + f), for the parts above."""
    p = f32(-7.634497759e-2)
    p = _fma(p, f, f32(1.276157754e-1))
    p = _fma(p, f, f32(-1.316018216e-1))
    p = _fma(p, f, f32(1.420175792e-1))
    p = _fma(p, f, f32(-1.662335736e-1))
    p = _fma(p, f, f32(2.000122688e-1))
    p = _fma(p, f, f32(-2.500082103e-1))
    p = _fma(p, f, f32(3.333333171e-1))
    z = f * f
    y = _fma(p * f, z, _fma(exponent, f32(-2.12194440e-4), f32(-0.5) * z))
    return _fma(exponent, f32(0.693359375), f + y)


@register_jitable
def _log_beyond(x, result):
    """log(x) where the result of the parts does not hold: at 0, below and at infinity."""
    result = x if x == f32(np.inf) else result
    outside = f32(-np.inf) if x == f32(0.0) else f32(np.nan)
    return result if x > f32(0.0) else outside


@register_jitable
def _log32(x):
    tiny = x < f32(1.17549435e-38)  # subnormals are scaled up first
    e, f = _exponent_and_fraction(x * f32(8388608.0) if tiny else x)
    return _log_beyond(x, _log_of_parts(f32(e) - (f32(23.0) if tiny else f32(0.0)), f))


@register_jitable
def _log1p_32(x):
    # What 1 + x rounds away, x - ((1 + x) - 1), is exact; scaled with 1 + x it is added to the fraction.
    u = f32(1.0) + x
    e, f = _exponent_and_fraction(u)
    f += (x - (u - f32(1.0))) * _power_of_two(-min(e, np.int32(126)))
    return _log_beyond(u, _log_of_parts(f32(e), f))


@register_jitable
def _tanh32(x):
    # Odd rational approximation; beyond 9.01 tanh is 1 in float32.
    bounded = min(max(x, f32(-9.01)), f32(9.01))
    z = bounded * bounded
    p = f32(-2.76076847742355e-16)
    p = p * z + f32(2.00018790482477e-13)
    p = p * z + f32(-8.60467152213735e-11)
    p = p * z + f32(5.12229709037114e-08)
    p = p * z + f32(1.48572235717979e-05)
    p = p * z + f32(6.37261928875436e-04)
    p = p * z + f32(4.89352455891786e-03)
    q = f32(1.19825839466702e-06)
    q = q * z + f32(1.18534705686654e-04)
    q = q * z + f32(2.26843463243900e-03)
    q = q * z + f32(4.89352518554385e-03)
    result = bounded * p / q
    result = math.copysign(f32(1.0), x) if abs(x) > f32(9.0) else result
    return result if x == x else x


@register_jitable
def _expm1_32(x):
    # 2^n (1 + q) - 1 = 2 (2^(n - 1) q + (2^(n - 1) - 1/2)) with q = exp(r) - 1: exact near 0, where n is 0.
    bounded = f32(-18.0) if x < f32(-18.0) else x
    bounded = f32(89.0) if bounded > f32(89.0) else bounded
    n, r = _without_powers_of_two(bounded)
    p = f32(1.388251011e-3)
    p = _fma(p, r, f32(8.366580335e-3))
    p = _fma(p, r, f32(4.166720178e-2))
    p = _fma(p, r, f32(1.666654318e-1))
    p = _fma(p, r, f32(4.999999814e-1))
    q = _fma(p * r, r, r)
    power = _power_of_two(n - _INT_1)
    return f32(2.0) * _fma(power, q, power - f32(0.5))


@register_jitable
def _erf32(x):
    # x * P(x^2) / Q(x^2); beyond 3.925 erf is 1 in float32 up to rounding.
    bounded = min(max(x, f32(-3.925)), f32(3.925))
    z = bounded * bounded
    p = f32(-2.72614225801306e-10)
    p = p * z + f32(2.77068142495902e-08)
    p = p * z + f32(-2.10102402082508e-06)
    p = p * z + f32(-5.69250639462346e-05)
    p = p * z + f32(-7.34990630326855e-04)
    p = p * z + f32(-2.95459980854025e-03)
    p = p * z + f32(-1.60960333262415e-02)
    q = f32(-1.45660718464996e-05)
    q = q * z + f32(-2.13374055278905e-04)
    q = q * z + f32(-1.68282697438203e-03)
    q = q * z + f32(-7.37332916720468e-03)
    q = q * z + f32(-1.42647390514189e-02)
    result = bounded * p / q
    result = math.copysign(f32(1.0), x) if abs(x) > f32(3.92) else result
    return result if x == x else x


def exp(x): ...
def log(x): ...
def tanh(x): ...
def expm1(x): ...
def log1p(x): ...
def erf(x): ...
def sigmoid(x): ...


def _by_width(stub, single, double):
    """Lets kernels call `stub`: `single` for float32, `double` for float64."""

    @overload(stub, inline="always")
    def choose(x):
        return (lambda x: single(x)) if x == types.float32 else (lambda x: double(x))


_by_width(exp, _exp32, math.exp)
_by_width(log, _log32, math.log)
_by_width(tanh, _tanh32, math.tanh)
_by_width(expm1, _expm1_32, math.expm1)
_by_width(log1p, _log1p_32, math.log1p)
_by_width(erf, _erf32, math.erf)


@register_jitable
def _sigmoid32(x):
    return f32(1.0) / (f32(1.0) + _exp32(-x))


@register_jitable
def _sigmoid64(x):
    # exp of a negative number only: nothing overflows.
    e = math.exp(-abs(x))
    return (1.0 if x >= 0.0 else e) / (1.0 + e)


_by_width(sigmoid, _sigmoid32, _sigmoid64)
