"""The functions of elementwise GPU kernels, chosen by name when a kernel is compiled; gradients are functions too.

`apply` gets tiles in the type to compute with: float32 for half types, int32 for bools, else the arrays' own.
"""

import math

import triton
import triton.language as tl

from .. import gpu_math

_TWO_OVER_ROOT_PI = tl.constexpr(2 / math.sqrt(math.pi))


@triton.jit
def apply(FUNCTION: tl.constexpr, a, b, c):
    """f(a), f(a, b) or f(a, b, c); gradients take grad as a, and as b (and c) what they are computed from."""
    if FUNCTION == "first":
        result = a
    elif FUNCTION == "negative":
        result = -a
    elif FUNCTION == "abs":
        result = tl.abs(a)
    elif FUNCTION == "abs_grad":
        result = a * _sign(b)
    elif FUNCTION == "sign":
        result = _sign(a)
    elif FUNCTION == "square":
        result = a * a
    elif FUNCTION == "square_grad":
        result = 2 * b * a
    elif FUNCTION == "floor":
        result = tl.floor(a)
    elif FUNCTION == "ceil":
        result = tl.ceil(a)
    elif FUNCTION == "round":
        result = gpu_math.round_half_even(a)
    elif FUNCTION == "exp":
        result = gpu_math.exp(a)
    elif FUNCTION == "expm1":
        result = tl.where(tl.abs(a) < 1, gpu_math.expm1(a), gpu_math.exp(a) - 1)
    elif FUNCTION == "expm1_grad":
        result = a * gpu_math.exp(b)
    elif FUNCTION == "log":
        result = tl.log(a)
    elif FUNCTION == "log1p":
        result = gpu_math.log1p(a)
    elif FUNCTION == "log1p_grad":
        result = gpu_math.divide(a, 1 + b)
    elif FUNCTION == "sqrt":
        result = gpu_math.sqrt(a)
    elif FUNCTION == "sqrt_grad":
        result = gpu_math.divide(0.5 * a, b)
    elif FUNCTION == "rsqrt":
        result = gpu_math.divide(tl.full(a.shape, 1, a.dtype), gpu_math.sqrt(a))
    elif FUNCTION == "rsqrt_grad":
        result = -0.5 * a * b * b * b
    elif FUNCTION == "reciprocal":
        result = gpu_math.divide(tl.full(a.shape, 1, a.dtype), a)
    elif FUNCTION == "reciprocal_grad":
        result = -a * b * b
    elif FUNCTION == "erf":
        result = tl.erf(a)
    elif FUNCTION == "erf_grad":
        result = a * _TWO_OVER_ROOT_PI * tl.exp(-b * b)
    elif FUNCTION == "sin":
        result = tl.sin(a)
    elif FUNCTION == "sin_grad":
        result = a * tl.cos(b)
    elif FUNCTION == "cos":
        result = tl.cos(a)
    elif FUNCTION == "cos_grad":
        result = -a * tl.sin(b)
    elif FUNCTION == "isnan":
        result = a != a
    elif FUNCTION == "isinf":
        result = (a == float("inf")) | (a == float("-inf")) if a.dtype.is_floating() else a != a
    elif FUNCTION == "isfinite":
        result = tl.abs(a) < float("inf") if a.dtype.is_floating() else a == a
    elif FUNCTION == "logical_not":
        result = a == 0
    else:
        result = _apply_to_two(FUNCTION, a, b, c)
    return result


@triton.jit
def _apply_to_two(FUNCTION: tl.constexpr, a, b, c):
    if FUNCTION == "add":
        result = a + b
    elif FUNCTION == "subtract":
        result = a - b
    elif FUNCTION == "multiply":
        result = a * b
    elif FUNCTION == "multiply_grad_x":
        result = a * c
    elif FUNCTION == "divide":
        result = gpu_math.divide(a, b)
    elif FUNCTION == "divide_grad_x":
        result = gpu_math.divide(a, c)
    elif FUNCTION == "divide_grad_y":
        result = -gpu_math.divide(gpu_math.divide(b, c), c) * a
    elif FUNCTION == "power":
        result = gpu_math.power(a, b) if a.dtype.is_floating() else gpu_math.integer_power(a, b)
    elif FUNCTION == "power_grad_x":
        result = a * tl.where(c == 0, tl.zeros_like(c), c * gpu_math.power(b, c - 1))
    elif FUNCTION == "power_grad_y":
        slope = gpu_math.power(b, c) * tl.log(b)
        result = a * tl.where((b == 0) & (c >= 0), tl.zeros_like(b), slope)
    elif FUNCTION == "remainder":
        result = gpu_math.remainder(a, b)
    elif FUNCTION == "remainder_grad_y":
        result = -gpu_math.floor_divide(b, c) * a
    elif FUNCTION == "floor_divide":
        result = gpu_math.floor_divide(a, b)
    elif FUNCTION == "maximum":
        result = tl.where((a > b) | (a != a), a, b)
    elif FUNCTION == "minimum":
        result = tl.where((a < b) | (a != a), a, b)
    elif FUNCTION == "grad_of_larger":
        # All of it where b is the larger, half of it where b and c tie.
        result = a * tl.where(b > c, tl.full(a.shape, 1, a.dtype), tl.where(b == c, 0.5 + tl.zeros_like(a), 0 * b))
    elif FUNCTION == "grad_of_smaller":
        result = a * tl.where(b < c, tl.full(a.shape, 1, a.dtype), tl.where(b == c, 0.5 + tl.zeros_like(a), 0 * b))
    elif FUNCTION == "where":
        result = tl.where(a != 0, b, c)
    elif FUNCTION == "prelu":
        result = tl.where(a > 0, a, a * b)
    elif FUNCTION == "prelu_grad_x":
        result = tl.where(b > 0, a, a * c)
    elif FUNCTION == "prelu_grad_weight":
        result = tl.where(b > 0, tl.zeros_like(a), a * b)
    else:
        result = _compare(FUNCTION, a, b)
    return result


@triton.jit
def _compare(FUNCTION: tl.constexpr, a, b):
    if FUNCTION == "equal":
        result = a == b
    elif FUNCTION == "not_equal":
        result = a != b
    elif FUNCTION == "less":
        result = a < b
    elif FUNCTION == "less_equal":
        result = a <= b
    elif FUNCTION == "greater":
        result = a > b
    elif FUNCTION == "greater_equal":
        result = a >= b
    elif FUNCTION == "logical_and":
        result = (a != 0) & (b != 0)
    elif FUNCTION == "logical_or":
        result = (a != 0) | (b != 0)
    else:
        tl.static_assert(FUNCTION == "logical_xor")
        result = (a != 0) ^ (b != 0)
    return result


@triton.jit
def _sign(x):
    one = tl.full(x.shape, 1, x.dtype)
    return tl.where(x > 0, one, tl.where(x < 0, -one, x))
