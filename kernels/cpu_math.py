"""exp, log, tanh and their kin for CPU kernels, in forms that vectorise.

Inside a Numba loop, libm's functions are called element by element. These are branch-free polynomials for float32 (at
most 6 units in the last place off, tests/kernels/test_cpu_math.py) that LLVM turns into vector code; for float64 they
are libm's. Call them from kernels only: `from ..cpu_math import exp, tanh`.

Each is an intrinsic that writes LLVM's instructions into the loop that calls it (`cpu_formulas.py`): compiled as
functions of their own, they took a tenth of a second each, in the first seconds after an installation.

Coefficients: minimax fits of the relative error (Lawson's algorithm) for exp, expm1, log, log1p and softplus, minimax
rationals for tanh and erf. The reductions of the argument are those of S. L. Moshier's Cephes library (`expf`, `logf`).
"""

from __future__ import annotations

import math

from numba import types
from numba.extending import intrinsic

from .cpu_formulas import Number, absolute, call, choose, copy_sign, fma, largest, library_call, smallest


@intrinsic
def wide_vectors(typing_context):
    """Lets the loops of the function that calls this have the widest vectors of the processor. LLVM prefers 256 bits to
    512, for the clock of older processors and the memory traffic of most loops; long formulas gain a third."""

    def generate(context, builder, signature, arguments):
        # A set's own add: llvmlite refuses attributes that it does not know.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def multiply_add(typing_context, a, b, c):
    """a * b + c with one rounding. In a * b + c * d, LLVM contracts now one product and now the other; where the bits
    shall be those of another loop, this says which."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, a, a), generate


def _by_width(single, double):
    """What kernels call: `single` for float32, `double` for all other numbers, which become float64."""

    @intrinsic
    def function(typing_context, x):
        formula, kind = (single, x) if x == types.float32 else (double, types.float64)

        def generate(context, builder, signature, arguments):
            return formula(Number(builder, arguments[0])).value

        return kind(kind), generate

    return function


_LEAST_NORMAL, NORMALS = 0x00800000, 0x7F000000  # the bits of the smallest; how many there are


@intrinsic
def normal_place(typing_context, x):
    """Below NORMALS, `normal_log(x)`, which has two thirds of the steps, is log(x): for positive, finite float32 that
    are not subnormal, and for any float64."""

    def generate(context, builder, signature, arguments):
        if x != types.float32:
            return context.get_constant(types.uint32, 0)
        return (Number(builder, arguments[0]).bits() - _LEAST_NORMAL).value

    return types.uint32(x), generate


_INFINITY, _NAN = math.inf, math.nan
# 1.5 * 2^23: a sum with it has no fraction left, and the integer n that remains stands in its lowest bits.
_ROUNDING = 12582912.0
_ONE_BITS = 0x3F800000


def _polynomial(x, *coefficients):
    """The polynomial with these coefficients, that of the highest power first."""
    total = x.like(coefficients[0])
    for coefficient in coefficients[1:]:
        total = fma(total, x, coefficient)
    return total


def _power_of_two(exponent):
    """2^exponent from an integer's lowest bits, for exponents from -126 to 127."""
    return ((exponent << 23) + _ONE_BITS).from_bits()


def _without_powers_of_two(x):
    """(n, r) with x = n ln 2 + r, r in [-ln 2 / 2, ln 2 / 2], and n in the lowest bits; ln 2 in two parts keeps r
    exact."""
    shifted = fma(x, 1.44269504088896341, _ROUNDING)
    n = shifted - _ROUNDING
    return shifted.bits(), fma(n, 2.12194440e-4, fma(n, -0.693359375, x))


def _exp32(x):
    # Bounds written so that NaN comes through; at them the result is 0 or infinite.
    return _bounded_exp(smallest(largest(x, -104.0), 89.0))


def _exp_of_rest(r):
    """exp(r) for r in [-ln 2 / 2, ln 2 / 2]."""
    return _polynomial(r, 1.383683522e-3, 8.374824055e-3, 4.166822620e-2, 1.666642007e-1, 4.999999208e-1, 1.0, 1.0)


def _decay32(x):
    # One power of two is enough, and no bound above: two thirds of the steps of exp.
    n, r = _without_powers_of_two(largest(x, -86.5))
    return choose(x < -86.5, x.like(0.0), _exp_of_rest(r) * _power_of_two(n))


def _bounded_exp(x):
    """exp(x) = 2^n exp(r), from where it is 0 to where it is infinite."""
    n, r = _without_powers_of_two(x)
    p = _exp_of_rest(r)
    # 2^n as two powers, neither of which overflows before the result does, nor vanishes.
    half = n >> 1
    return p * _power_of_two(half) * _power_of_two(n - half)


def _exponent_and_fraction(x):
    """(e, f) with x = 2^e (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)), for normal positive x; e is an integer."""
    bits = x.bits()
    e = (bits - 0x3F3504F3) >> 23
    return e, (bits - (e << 23)).from_bits() - 1.0


def _log_of_parts(exponent, f):
    """exponent ln 2 + log(1 + f), for the parts above."""
    p = _polynomial(
        f, -7.634497759e-2, 1.276157754e-1, -1.316018216e-1, 1.420175792e-1, -1.662335736e-1, 2.000122688e-1,
        -2.500082103e-1, 3.333333171e-1,
    )  # fmt: skip
    y = fma(fma(p, f, -0.5), f * f, exponent * -2.12194440e-4)
    return fma(exponent, 0.693359375, f + y)


def _log_beyond(x, result):
    """log(x) where the result of the parts does not hold: at 0, below and at infinity."""
    result = choose(x.equals(_INFINITY), x, result)
    outside = choose(x.equals(0.0), x.like(-_INFINITY), _NAN)
    return choose(x > 0.0, result, outside)


def _log32(x):
    tiny = x < 1.17549435e-38  # subnormals are scaled up first
    e, f = _exponent_and_fraction(choose(tiny, x * 8388608.0, x))
    return _log_beyond(x, _log_of_parts(e.as_float() - choose(tiny, x.like(23.0), 0.0), f))


def _normal_log32(x):
    e, f = _exponent_and_fraction(x)
    return _log_of_parts(e.as_float(), f)


def _log1p_32(x):
    # What 1 + x rounds away, x - ((1 + x) - 1), is exact; scaled with 1 + x it is added to the fraction.
    u = 1.0 + x
    e, f = _exponent_and_fraction(u)
    rounded_away = (x - (u - 1.0)) * _power_of_two(-smallest(e, 126))
    return _log_beyond(u, _log_of_parts(e.as_float(), f + rounded_away))


def _tanh32(x):
    # Odd rational approximation; beyond 9.01 tanh is 1 in float32.
    bounded = smallest(largest(x, -9.01), 9.01)
    z = bounded * bounded
    p = _polynomial(
        z, -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
        1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
    )  # fmt: skip
    q = _polynomial(z, 1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
    result = choose(absolute(x) > 9.0, copy_sign(1.0, x), bounded * p / q)
    return choose(x.equals(x), result, x)


def _expm1_32(x):
    # 2^n (1 + q) - 1 = 2 (2^(n - 1) q + (2^(n - 1) - 1/2)) with q = exp(r) - 1: exact near 0, where n is 0.
    n, r = _without_powers_of_two(smallest(largest(x, -18.0), 89.0))
    p = _polynomial(r, 1.388251011e-3, 8.366580335e-3, 4.166720178e-2, 1.666654318e-1, 4.999999814e-1)
    q = fma(p * r, r, r)
    power = _power_of_two(n - 1)
    return 2.0 * fma(power, q, power - 0.5)


def _erf32(x):
    # x * P(x^2) / Q(x^2); beyond 3.925 erf is 1 in float32 up to rounding.
    bounded = smallest(largest(x, -3.925), 3.925)
    z = bounded * bounded
    p = _polynomial(
        z, -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
        -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
    )  # fmt: skip
    q = _polynomial(
        z, -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
        -1.42647390514189e-02,
    )  # fmt: skip
    result = choose(absolute(x) > 3.92, copy_sign(1.0, x), bounded * p / q)
    return choose(x.equals(x), result, x)


def _softplus32(x):
    # max(x, 0) + log(1 + e) with e = exp(-|x|), of which log(1 + e) / e is a polynomial: e is at most 1.
    e = _bounded_exp(largest(-absolute(x), -104.0))
    p = _polynomial(
        e, 5.23269069e-3, -2.95052289e-2, 7.82259443e-2, -1.3663246e-1, 1.91060074e-1, -2.48429826e-1, 3.33190969e-1,
        -4.99994931e-1, 9.9999997e-1,
    )  # fmt: skip
    return largest(x, 0.0) + e * p


def _sigmoid32(x):
    return 1.0 / (1.0 + _exp32(-x))


def _exp64(x):
    return call(x, "llvm.exp")


def _softplus64(x):
    return largest(x, 0.0) + library_call(_exp64(-absolute(x)), "log1p")


def _sigmoid64(x):
    # exp of a negative number only: nothing overflows.
    e = _exp64(-absolute(x))
    return choose(x < 0.0, e, 1.0) / (1.0 + e)


def _library(name):
    """libm's function of float64."""
    return lambda x: library_call(x, name)


exp = _by_width(_exp32, _exp64)
decay = _by_width(_decay32, _exp64)  # exp of what is not above 1, and 0 from where that is all but subnormal: 2.7e-38
log = _by_width(_log32, lambda x: call(x, "llvm.log"))
tanh = _by_width(_tanh32, _library("tanh"))
expm1 = _by_width(_expm1_32, _library("expm1"))
normal_log = _by_width(_normal_log32, lambda x: call(x, "llvm.log"))  # for what normal_place says
log1p = _by_width(_log1p_32, _library("log1p"))
erf = _by_width(_erf32, _library("erf"))
sigmoid = _by_width(_sigmoid32, _sigmoid64)
softplus = _by_width(_softplus32, _softplus64)
