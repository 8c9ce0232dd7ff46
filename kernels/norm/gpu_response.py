"""local_response_norm on CuPy arrays. x is seen as [N, C, S]; a tile holds some channels of neighbouring values of S,
and reads the channels of each window again, from the cache."""

import math

import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..gpu_lines import accumulator, line_choice, line_tile, state_dtype, tile_lines
from ..launch import empty, launch

RESPONSE = line_choice("norm.local_response")


@triton.jit
def _window_sum(x, offset, item, n, inner, inside, before, size, SQUARED: tl.constexpr, ACCUMULATOR: tl.constexpr):
    """The sum, over `size` channels from `before` ahead of each element's own on, of x or x^2 as far as they exist."""
    total = tl.zeros(inside.shape, ACCUMULATOR)
    for step in range(size):
        channel = item - before + step
        exists = inside & (channel >= 0) & (channel < n)
        value = tl.load(x + offset + (channel - item) * inner, mask=exists, other=0.0).to(ACCUMULATOR)
        total += value * value if SQUARED else value
    return total


@triton.jit
def local_response_kernel(
    x, y, lines, n, inner, chunks, size,
    ALPHA: tl.constexpr, BETA: tl.constexpr, K: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y = x base^-beta with base = k + alpha / size * (sum of x^2 over the window)."""
    program = tl.program_id(0)
    _, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    squares = _window_sum(x, offset, item, n, inner, inside, size // 2, size, True, ACCUMULATOR)
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    value *= tl.exp(-BETA * tl.log(K + squares * ALPHA / size))
    tl.store(y + offset, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def local_response_owed_kernel(
    x, grad_y, own, owed, lines, n, inner, chunks, size,
    ALPHA: tl.constexpr, BETA: tl.constexpr, K: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """own = grad_y base^-beta, and owed = grad_y x base^(-beta - 1), which reaches every channel of the window."""
    program = tl.program_id(0)
    _, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    base = K + _window_sum(x, offset, item, n, inner, inside, size // 2, size, True, ACCUMULATOR) * ALPHA / size
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0).to(ACCUMULATOR) * tl.exp(-BETA * tl.log(base))
    tl.store(own + offset, gradient, mask=inside)
    tl.store(owed + offset, gradient * value / base, mask=inside)


@triton.jit
def local_response_grad_x_kernel(
    x, own, owed, grad_x, lines, n, inner, chunks, size,
    ALPHA: tl.constexpr, BETA: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x = own - 2 alpha beta / size x (sum of owed over the mirrored window: the channels that x reaches)."""
    program = tl.program_id(0)
    _, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    sums = _window_sum(owed, offset, item, n, inner, inside, (size - 1) // 2, size, False, ACCUMULATOR)
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    result = tl.load(own + offset, mask=inside, other=0.0) - value * (2 * ALPHA * BETA) / size * sums
    tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=inside)


def local_response_norm_forward(x, *, size, alpha, beta, k):
    x, numbers = contiguous(x), {"ALPHA": float(alpha), "BETA": float(beta), "K": float(k)}
    y, tiling = empty(x), _tiling(x)
    launch(
        local_response_kernel, tiling.grid, x, y, *tiling.sizes, tiling.chunks, size,
        **numbers, ACCUMULATOR=accumulator(x.dtype), **tiling.constants,
    )  # fmt: skip
    return y, (x, size, numbers)


def local_response_norm_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, size, numbers = saved
    grad_x, own, owed = empty(x), empty(x, dtype=state_dtype(x.dtype)), empty(x, dtype=state_dtype(x.dtype))
    tiling = _tiling(x)
    sizes, constants = (*tiling.sizes, tiling.chunks, size), {"ACCUMULATOR": accumulator(x.dtype), **tiling.constants}
    launch(local_response_owed_kernel, tiling.grid, x, contiguous(grad_y), own, owed, *sizes, **numbers, **constants)
    of_window = {name: numbers[name] for name in ("ALPHA", "BETA")}
    launch(local_response_grad_x_kernel, tiling.grid, x, own, owed, grad_x, *sizes, **of_window, **constants)
    return (grad_x,)


def _tiling(x):
    return tile_lines(RESPONSE, x, x.shape[0], x.shape[1], math.prod(x.shape[2:]), cut=True)
