"""expm1, log1p, tanh and their kin for GPU kernels, from what the compiler and the interpreter both have.

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
