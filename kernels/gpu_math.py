"""exp, log1p, tanh, power and their kin for GPU kernels, from what the compiler and the interpreter both have.

Call them from Triton kernels only, on float32 or float64: `from ..gpu_math import sigmoid, tanh`.

Sources: W. Kahan's log1p and expm1 (N. J. Higham, "Accuracy and stability of numerical algorithms", section 1.14).
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x), from e to a negative power only: nothing overflows, and small results keep their digits."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, tl.full(x.shape, 1, x.dtype), e) / (1 + e)


@triton.jit
def tanh(x):
    """-t / (t + 2) with t = e^(-2 |x|) - 1, and x's sign."""
    t = expm1(-2 * tl.abs(x))
    magnitude = -t / (t + 2)
    return tl.where(x < 0, -magnitude, magnitude)


@triton.jit
def expm1(x):
    """e^x - 1 with all its digits near 0."""
    if x.dtype == tl.float64:
        # (e^x - 1) x / log(e^x): what e^x lost in rounding, its logarithm lost as well.
        e = tl.exp(x)
        near = tl.where(e == 1, x, (e - 1) * (x / tl.where(e == 1, e, tl.log(e))))
        result = tl.where(tl.abs(x) < 1, near, e - 1)
    else:
        # Below 1/2 the Taylor series.
        p = x * (1 / 40320) + 1 / 5040
        p = p * x + 1 / 720
        p = p * x + 1 / 120
        p = p * x + 1 / 24
        p = p * x + 1 / 6
        p = p * x + 0.5
        result = tl.where(tl.abs(x) < 0.5, p * x * x + x, tl.exp(x) - 1)
    return result


@triton.jit
def log1p(x):
    """log(1 + x) with all its digits near 0: log(u) x / (u - 1), where u is 1 + x as it came out rounded."""
    u = 1 + x
    near = tl.where(u == 1, x, tl.log(u) * (x / tl.where(u == 1, u, u - 1)))
    return tl.where(tl.abs(x) < 1, near, tl.log(u))


@triton.jit
def exp(x):
    """e^x with float32's last digits for arguments far from 0 too, where `tl.exp` rounds x log2(e) and loses some."""
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        # e^x = 2^n e^r with r = x - n ln 2, ln 2 in two parts. 2^(n - 1), because 2^128 would overflow before its time.
        bounded = tl.minimum(tl.maximum(x, -104.0), 89.0)
        n = tl.floor(bounded * 1.4426950408889634 + 0.5)
        r = tl.fma(n, -0.693359375 + tl.zeros_like(x), bounded)
        r = tl.fma(n, 2.12194440e-4 + tl.zeros_like(x), r)
        result = tl.exp2(n - 1) * (2 * tl.exp2(r * 1.4426950408889634))
        result = tl.where(x > 88.7228317, tl.full(x.shape, float("inf"), x.dtype), result)
        result = tl.where(x == x, result, x)
    return result


@triton.jit
def divide(x, y):
    """x / y, rounded as IEEE 754 wants; a bare `/` may be a unit or two off in float32."""
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def sqrt(x):
    """The square root, rounded as IEEE 754 wants."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def power(x, y):
    """x^y by e^(y log |x|) in float64, and C's `pow` for the special cases.

    float32 comes out all but exact; of float64, the relative error may be |y log x| units in the last place.
    """
    base, exponent = tl.abs(x).to(tl.float64), y.to(tl.float64)
    one = tl.full(base.shape, 1, tl.float64)
    result = tl.where(base == 1, one, tl.exp(exponent * tl.log(base)))
    whole = tl.floor(exponent) == exponent
    odd = whole & (tl.floor(exponent * 0.5) != exponent * 0.5)
    nan = tl.full(base.shape, float("nan"), tl.float64)
    of_negative = tl.where(odd, -result, tl.where(whole | (base == float("inf")) | (base == 0), result, nan))
    has_sign = x.to(tl.float64).to(tl.int64, bitcast=True) < 0  # -0 too
    result = tl.where(has_sign, of_negative, result)
    return tl.where((exponent == 0) | (x == 1), one, result).to(x.dtype)


@triton.jit
def integer_power(x, y):
    """x^y of integers, by squaring, wrapping as integers do; 0 for a negative y unless x is 1 or -1."""
    one = tl.full(x.shape, 1, x.dtype)
    result, square, left = one, x, tl.where(y < 0, y & 1, y)
    for _ in range(x.dtype.primitive_bitwidth):
        result = tl.where((left & 1) == 1, result * square, result)
        square = square * square
        left = left >> 1
    return tl.where((y < 0) & (x != 1) & (x != -one), tl.zeros_like(x), result)


@triton.jit
def _floor_quotient_and_rest(x, y):
    x, y = x.to(tl.float64), y.to(tl.float64)
    quotient = tl.floor(x / y)
    # A quotient of 0 leaves x, also where y is infinite; else a fused product leaves the rest with all its digits.
    rest = tl.where(quotient == 0, x, tl.fma(-quotient, y, x))
    # Where x / y was rounded up to a whole number, it is one too many.
    above = (rest != 0) & ((rest < 0) != (y < 0))
    return tl.where(above, quotient - 1, quotient), tl.where(above, rest + y, rest)


@triton.jit
def floor_divide(x, y):
    """The largest integer not above x / y; an integer divided by 0 gives 0."""
    if x.dtype.is_floating():
        result = _floor_quotient_and_rest(x, y)[0].to(x.dtype)
    else:
        divisor = tl.where(y == 0, tl.full(y.shape, 1, y.dtype), y)
        quotient, rest = x // divisor, x % divisor
        quotient = tl.where((rest != 0) & ((rest < 0) != (divisor < 0)), quotient - 1, quotient)
        result = tl.where(y == 0, tl.zeros_like(x), quotient)
    return result


@triton.jit
def remainder(x, y):
    """x - y floor(x / y), which has y's sign; an integer divided by 0 leaves 0."""
    if x.dtype.is_floating():
        result = _floor_quotient_and_rest(x, y)[1].to(x.dtype)
    else:
        divisor = tl.where(y == 0, tl.full(y.shape, 1, y.dtype), y)
        rest = x % divisor
        rest = tl.where((rest != 0) & ((rest < 0) != (divisor < 0)), rest + divisor, rest)
        result = tl.where(y == 0, tl.zeros_like(x), rest)
    return result


@triton.jit
def round_half_even(x):
    """The nearest integer, of two that are as near the even one."""
    low = tl.floor(x)
    above = x - low
    odd = low * 0.5 != tl.floor(low * 0.5)
    return tl.where((above > 0.5) | ((above == 0.5) & odd), low + 1, low)
