"""exp, log, tanh and their kin for CPU kernels, in forms that vectorise.

Inside a Numba loop, libm's functions are called element by element. These are branch-free polynomials for float32 (at
most 6 units in the last place off, tests/kernels/test_cpu_math.py) that LLVM turns into vector code; for float64 they
are libm's. Call them from kernels only: `from ..cpu_math import exp, tanh`.

Coefficients: S. L. Moshier's Cephes library (`expf`, `logf`) and minimax rationals for tanh and erf.
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
    # One rounding, and unlike a * b + c never taken apart when sums are reordered.
    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@register_jitable
def _exp32(x):
    # exp(x) = 2^n * exp(r) with r = x - n ln 2 in [-ln 2 / 2, ln 2 / 2]; ln 2 in two parts keeps r exact.
    bounded = min(max(x, f32(-104.0)), f32(89.0))
    n = np.floor(bounded * f32(1.44269504088896341) + f32(0.5))
    r = _fma(n, f32(2.12194440e-4), _fma(n, f32(-0.693359375), bounded))
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1.0)
    # times 2^n by adding n to the exponent's bits: a product of two powers could be reordered, and then overflow before
    # its time. What gets near to subnormal is scaled up by 2^64 first.
    tiny = n < f32(-64.0)
    bits = _bits_from_float(p) + (np.int32(n + (f32(64.0) if tiny else f32(0.0))) << np.int32(23))
    y = _float_from_bits(np.int32(bits)) * (f32(5.42101086242752217e-20) if tiny else f32(1.0))
    y = f32(np.inf) if x > f32(88.7228317) else y
    return y if x == x else x


@register_jitable
def _log32(x):
    # x = 2^e * m with m in [sqrt(1/2), sqrt(2)); subnormals are scaled up first.
    tiny = x < f32(1.17549435e-38)
    bits = _bits_from_float(x * f32(8388608.0) if tiny else x)
    e = np.int32(((bits >> np.int32(23)) & np.int32(0xFF)) - np.int32(126))
    m = _float_from_bits(np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)))
    below = m < f32(0.707106781186547524)
    exponent = f32(e) - (f32(1.0) if below else f32(0.0)) - (f32(23.0) if tiny else f32(0.0))
    m = (m + m if below else m) - f32(1.0)
    z = m * m
    p = f32(7.0376836292e-2)
    p = p * m + f32(-1.1514610310e-1)
    p = p * m + f32(1.1676998740e-1)
    p = p * m + f32(-1.2420140846e-1)
    p = p * m + f32(1.4249322787e-1)
    p = p * m + f32(-1.6668057665e-1)
    p = p * m + f32(2.0000714765e-1)
    p = p * m + f32(-2.4999993993e-1)
    p = p * m + f32(3.3333331174e-1)
    y = p * m * z + exponent * f32(-2.12194440e-4) - f32(0.5) * z
    result = m + y + exponent * f32(0.693359375)
    result = x if x == f32(np.inf) else result
    result = f32(-np.inf) if x == f32(0.0) else result
    return result if x >= f32(0.0) else f32(np.nan)


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
    # Below 1/2 the Taylor series keeps the digits that exp(x) - 1 would cancel.
    p = f32(1.0 / 40320.0)
    p = p * x + f32(1.0 / 5040.0)
    p = p * x + f32(1.0 / 720.0)
    p = p * x + f32(1.0 / 120.0)
    p = p * x + f32(1.0 / 24.0)
    p = p * x + f32(1.0 / 6.0)
    p = p * x + f32(0.5)
    return p * x * x + x if abs(x) < f32(0.5) else _exp32(x) - f32(1.0)


@register_jitable
def _log1p_32(x):
    # Below 1/2, log(1 + x) = 2 atanh(s) with s = x / (2 + x), whose series keeps the digits that 1 + x rounds away.
    s = x / (f32(2.0) + x)
    z = s * s
    p = f32(2.0 / 15.0)
    p = p * z + f32(2.0 / 13.0)
    p = p * z + f32(2.0 / 11.0)
    p = p * z + f32(2.0 / 9.0)
    p = p * z + f32(2.0 / 7.0)
    p = p * z + f32(2.0 / 5.0)
    p = p * z + f32(2.0 / 3.0)
    p = p * z + f32(2.0)
    near, far = p * s, _log32(f32(1.0) + x)  # both are computed: a select vectorises, a branch does not
    return near if abs(x) < f32(0.5) else far


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
