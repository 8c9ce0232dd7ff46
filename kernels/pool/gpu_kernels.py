"""Pooling's Triton kernels; `gpu.py` launches them.

Which positions a window has, and which windows lie above a position, is computed where it is needed: a few integer
operations cost less than reading a table.
"""

import triton
import triton.language as tl

LENGTH, PADDED, GIVEN, PART = (tl.constexpr(code) for code in range(4))
PLAIN, LARGEST, SMALLEST = (tl.constexpr(code) for code in range(3))


@triton.jit
def _window(o, size, count, kernel, stride, padding, dilation, ADAPTIVE: tl.constexpr):
    """The first position, perhaps in the padding, and the end of window o of one axis."""
    if ADAPTIVE:
        start = o * size // count
        stop = ((o + 1) * size + count - 1) // count
    else:
        start = o * stride - padding
        stop = tl.minimum(start + dilation * (kernel - 1) + 1, size)
    return start, stop


@triton.jit
def windows_above(position, size, count, kernel, stride, padding, dilation, ADAPTIVE: tl.constexpr):
    """The first and the last window of one axis that reach over a position."""
    if ADAPTIVE:
        first = position * count // size
        last = ((position + 1) * count + size - 1) // size - 1
    else:
        above = position + padding
        first = (tl.maximum(above - dilation * (kernel - 1), 0) + stride - 1) // stride
        last = tl.minimum(above // stride, count - 1)
    return first, last


@triton.jit
def _window_length(o, size, count, kernel, stride, padding, ADAPTIVE: tl.constexpr, DIVISOR: tl.constexpr):
    """How many positions of one axis an average over window o counts."""
    start, stop = _window(o, size, count, kernel, stride, padding, 1, ADAPTIVE)
    if DIVISOR == PADDED:
        length = tl.minimum(start + kernel, size + padding) - start
    else:
        length = stop - tl.maximum(start, 0)
    return length


@triton.jit
def _window_divisor(
    o, i, j, divisor,
    size_d, size_h, size_w, count_d, count_h, count_w, kernel_d, kernel_h, kernel_w,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w,
    ADAPTIVE: tl.constexpr, DIVISOR: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """What the sum over window (o, i, j) is divided by."""
    if DIVISOR == GIVEN:
        value = tl.zeros_like(o).to(COMPUTE) + divisor
    else:
        length = _window_length(o, size_d, count_d, kernel_d, stride_d, padding_d, ADAPTIVE, DIVISOR)
        length *= _window_length(i, size_h, count_h, kernel_h, stride_h, padding_h, ADAPTIVE, DIVISOR)
        length *= _window_length(j, size_w, count_w, kernel_w, stride_w, padding_w, ADAPTIVE, DIVISOR)
        value = length.to(COMPUTE)
        if DIVISOR == PART:
            value = value / (kernel_d * kernel_h * kernel_w)
    return value


@triton.jit
def _power(x, EXPONENT: tl.constexpr):
    """x ** EXPONENT; a negative x has one only for whole exponents, NaN otherwise."""
    if EXPONENT == 0:
        result = tl.full(x.shape, 1.0, x.dtype)
    elif EXPONENT == 1:
        result = x
    elif EXPONENT == 2:
        result = x * x
    elif EXPONENT == 3:
        result = x * x * x
    elif EXPONENT == 4:
        result = (x * x) * (x * x)
    elif EXPONENT == -1:
        result = 1 / x
    elif EXPONENT == 0.5:
        result = tl.sqrt(x)
    else:
        # In float64: the exponent multiplies the logarithm's rounding error.
        exact = x.to(tl.float64)
        result = tl.exp(EXPONENT * tl.log(tl.abs(exact)))
        if EXPONENT % 2 == 1:
            result = tl.where(exact < 0, -result, result)
        elif EXPONENT % 1 != 0:
            result = tl.where(exact < 0, float("nan"), result)
        result = result.to(x.dtype)
    return result


@triton.jit
def max_pool_kernel(
    x, y, indices, outputs,
    size_d, size_h, size_w, count_d, count_h, count_w, kernel_d, kernel_h, kernel_w,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w, dilation_d, dilation_h, dilation_w,
    ADAPTIVE: tl.constexpr, MAGNITUDE: tl.constexpr, COMPUTE: tl.constexpr, INDEX: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_WINDOW: tl.constexpr,
):  # fmt: skip
    """y = largest value under each window, indices = its flat position in the plane.

    Of equal values the first in the plane's order wins, and of NaNs, which beat all numbers, the last. Each lane keeps
    its own best along the window; the lanes of an output meet at the end. With MAGNITUDE the largest or smallest
    absolute value is taken.
    """
    output = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = output < outputs
    j, rest = output % count_w, output // count_w
    i, rest = rest % count_h, rest // count_h
    o, plane = rest % count_d, rest // count_d
    start_d, stop_d = _window(o, size_d, count_d, kernel_d, stride_d, padding_d, dilation_d, ADAPTIVE)
    start_h, stop_h = _window(i, size_h, count_h, kernel_h, stride_h, padding_h, dilation_h, ADAPTIVE)
    start_w, stop_w = _window(j, size_w, count_w, kernel_w, stride_w, padding_w, dilation_w, ADAPTIVE)
    start = plane * size_d * size_h * size_w

    best = tl.full((BLOCK, BLOCK_WINDOW), float("-inf"), COMPUTE)
    where = tl.full((BLOCK, BLOCK_WINDOW), -1, INDEX)
    for first in range(0, kernel_d * kernel_h * kernel_w, BLOCK_WINDOW):
        step = first + tl.arange(0, BLOCK_WINDOW)
        d = start_d[:, None] + (step // (kernel_h * kernel_w) * dilation_d)[None, :]
        h = start_h[:, None] + (step // kernel_w % kernel_h * dilation_h)[None, :]
        w = start_w[:, None] + (step % kernel_w * dilation_w)[None, :]
        valid = inside[:, None] & (d >= 0) & (h >= 0) & (w >= 0)
        valid = valid & (d < stop_d[:, None]) & (h < stop_h[:, None]) & (w < stop_w[:, None])
        position = (d * size_h + h) * size_w + w
        value = tl.load(x + start[:, None] + position, mask=valid, other=0.0).to(COMPUTE)
        if MAGNITUDE == LARGEST:
            value = tl.abs(value)
        elif MAGNITUDE == SMALLEST:
            value = -tl.abs(value)
        better = valid & ((value > best) | (value != value) | (where < 0))
        best = tl.where(better, value, best)
        where = tl.where(better, position.to(INDEX), where)

    last_nan = tl.max(tl.where(best != best, where, -1), axis=1)
    number = (best == best) & (where >= 0)
    largest = tl.max(tl.where(number, best, float("-inf")), axis=1)
    past = size_d * size_h * size_w
    position = tl.min(tl.where(number & (best == largest[:, None]), where, past), axis=1)
    largest = tl.where(last_nan >= 0, float("nan"), largest)
    position = tl.where(last_nan >= 0, last_nan, position)
    if MAGNITUDE != PLAIN:
        largest = tl.abs(largest)
    tl.store(y + output, largest.to(y.dtype.element_ty), mask=inside)
    tl.store(indices + output, position.to(indices.dtype.element_ty), mask=inside)


@triton.jit
def max_pool_grad_input_kernel(
    grad_y, indices, x, grad_x, positions, above_d, above_h, above_w,
    size_d, size_h, size_w, count_d, count_h, count_w, kernel_d, kernel_h, kernel_w,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w, dilation_d, dilation_h, dilation_w,
    ADAPTIVE: tl.constexpr, COMPUTE: tl.constexpr, INDEX: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_WINDOW: tl.constexpr,
):  # fmt: skip
    """grad_x = sum of grad_y over those windows above each position whose index it is; times x's sign where x is given.

    At most above_d * above_h * above_w windows lie above a position.
    """
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < positions
    w, rest = offset % size_w, offset // size_w
    h, rest = rest % size_h, rest // size_h
    d, plane = rest % size_d, rest // size_d
    first_d, last_d = windows_above(d, size_d, count_d, kernel_d, stride_d, padding_d, dilation_d, ADAPTIVE)
    first_h, last_h = windows_above(h, size_h, count_h, kernel_h, stride_h, padding_h, dilation_h, ADAPTIVE)
    first_w, last_w = windows_above(w, size_w, count_w, kernel_w, stride_w, padding_w, dilation_w, ADAPTIVE)
    position, start = (d * size_h + h) * size_w + w, plane * count_d

    total = tl.zeros((BLOCK, BLOCK_WINDOW), COMPUTE)
    for first in range(0, above_d * above_h * above_w, BLOCK_WINDOW):
        step = first + tl.arange(0, BLOCK_WINDOW)
        o = first_d[:, None] + (step // (above_h * above_w))[None, :]
        i = first_h[:, None] + (step // above_w % above_h)[None, :]
        j = first_w[:, None] + (step % above_w)[None, :]
        valid = inside[:, None] & (o <= last_d[:, None]) & (i <= last_h[:, None]) & (j <= last_w[:, None])
        output = ((start[:, None] + o) * count_h + i) * count_w + j
        chosen = valid & (tl.load(indices + output, mask=valid, other=-1) == position[:, None])
        total += tl.load(grad_y + output, mask=chosen, other=0.0).to(COMPUTE)
    gradient = tl.sum(total, axis=1)
    if x is not None:
        value = tl.load(x + offset, mask=inside, other=0.0).to(COMPUTE)
        sign = tl.where(value > 0, 1.0, tl.where(value < 0, -1.0, value))  # of zero 0, of NaN NaN
        gradient *= sign
    tl.store(grad_x + offset, gradient.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def avg_pool_kernel(
    x, y, total, outputs, divisor,
    size_d, size_h, size_w, count_d, count_h, count_w, kernel_d, kernel_h, kernel_w,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w,
    ADAPTIVE: tl.constexpr, DIVISOR: tl.constexpr, POWER: tl.constexpr, ROOT: tl.constexpr,
    COMPUTE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr, BLOCK_WINDOW: tl.constexpr,
):  # fmt: skip
    """y = (sum of x ** POWER under each window / its divisor) ** ROOT; `total`, where given, keeps what ROOT is taken
    of."""
    output = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = output < outputs
    j, rest = output % count_w, output // count_w
    i, rest = rest % count_h, rest // count_h
    o, plane = rest % count_d, rest // count_d
    start_d, stop_d = _window(o, size_d, count_d, kernel_d, stride_d, padding_d, 1, ADAPTIVE)
    start_h, stop_h = _window(i, size_h, count_h, kernel_h, stride_h, padding_h, 1, ADAPTIVE)
    start_w, stop_w = _window(j, size_w, count_w, kernel_w, stride_w, padding_w, 1, ADAPTIVE)
    start = plane * size_d * size_h * size_w

    partial = tl.zeros((BLOCK, BLOCK_WINDOW), COMPUTE)
    for first in range(0, kernel_d * kernel_h * kernel_w, BLOCK_WINDOW):
        step = first + tl.arange(0, BLOCK_WINDOW)
        d = start_d[:, None] + (step // (kernel_h * kernel_w))[None, :]
        h = start_h[:, None] + (step // kernel_w % kernel_h)[None, :]
        w = start_w[:, None] + (step % kernel_w)[None, :]
        valid = inside[:, None] & (d >= 0) & (h >= 0) & (w >= 0)
        valid = valid & (d < stop_d[:, None]) & (h < stop_h[:, None]) & (w < stop_w[:, None])
        position = (d * size_h + h) * size_w + w
        value = tl.load(x + start[:, None] + position, mask=valid, other=0.0).to(COMPUTE)
        partial += tl.where(valid, _power(value, POWER), 0.0)
    mean = tl.sum(partial, axis=1) / _window_divisor(
        o, i, j, divisor, size_d, size_h, size_w, count_d, count_h, count_w, kernel_d, kernel_h, kernel_w,
        stride_d, stride_h, stride_w, padding_d, padding_h, padding_w, ADAPTIVE, DIVISOR, COMPUTE,
    )  # fmt: skip
    if total is not None:
        tl.store(total + output, mean, mask=inside)
    tl.store(y + output, _power(mean, ROOT).to(y.dtype.element_ty), mask=inside)


@triton.jit
def avg_pool_grad_input_kernel(
    grad_y, x, total, grad_x, positions, divisor, above_d, above_h, above_w,
    size_d, size_h, size_w, count_d, count_h, count_w, kernel_d, kernel_h, kernel_w,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w,
    ADAPTIVE: tl.constexpr, DIVISOR: tl.constexpr, POWER: tl.constexpr, ROOT: tl.constexpr,
    COMPUTE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr, BLOCK_WINDOW: tl.constexpr,
):  # fmt: skip
    """grad_x = sum over the windows above each position of grad_y / divisor.

    Where x and total are given, of a power average: each grad_y is multiplied by total ** (ROOT - 1), or 0 for a total
    of 0, and the sum by x ** (POWER - 1). At most above_d * above_h * above_w windows lie above a position.
    """
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < positions
    w, rest = offset % size_w, offset // size_w
    h, rest = rest % size_h, rest // size_h
    d, plane = rest % size_d, rest // size_d
    first_d, last_d = windows_above(d, size_d, count_d, kernel_d, stride_d, padding_d, 1, ADAPTIVE)
    first_h, last_h = windows_above(h, size_h, count_h, kernel_h, stride_h, padding_h, 1, ADAPTIVE)
    first_w, last_w = windows_above(w, size_w, count_w, kernel_w, stride_w, padding_w, 1, ADAPTIVE)
    start = plane * count_d

    partial = tl.zeros((BLOCK, BLOCK_WINDOW), COMPUTE)
    for first in range(0, above_d * above_h * above_w, BLOCK_WINDOW):
        step = first + tl.arange(0, BLOCK_WINDOW)
        o = first_d[:, None] + (step // (above_h * above_w))[None, :]
        i = first_h[:, None] + (step // above_w % above_h)[None, :]
        j = first_w[:, None] + (step % above_w)[None, :]
        valid = inside[:, None] & (o <= last_d[:, None]) & (i <= last_h[:, None]) & (j <= last_w[:, None])
        output = ((start[:, None] + o) * count_h + i) * count_w + j
        share = tl.load(grad_y + output, mask=valid, other=0.0).to(COMPUTE)
        if total is not None:
            mean = tl.load(total + output, mask=valid, other=1.0)
            share = tl.where(mean == 0, 0.0, share * _power(mean, ROOT - 1))
        share = share / _window_divisor(
            o, i, j, divisor, size_d, size_h, size_w, count_d, count_h, count_w, kernel_d, kernel_h, kernel_w,
            stride_d, stride_h, stride_w, padding_d, padding_h, padding_w, ADAPTIVE, DIVISOR, COMPUTE,
        )  # fmt: skip
        partial += tl.where(valid, share, 0.0)
    gradient = tl.sum(partial, axis=1)
    if x is not None:
        gradient *= _power(tl.load(x + offset, mask=inside, other=1.0).to(COMPUTE), POWER - 1)
    tl.store(grad_x + offset, gradient.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def max_unpool_source_kernel(indices, source, values, count, positions, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """source[plane, indices[plane, v]] = v, the largest where several v meet, so that the last value wins.

    Integer maxima are the same in every order, so these atomics are deterministic.
    """
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < values
    place = offset // count * positions + tl.load(indices + offset, mask=inside, other=0).to(INDEX)
    tl.atomic_max(source + place, (offset % count).to(source.dtype.element_ty), mask=inside)


@triton.jit
def max_unpool_kernel(x, source, y, outputs, count, positions, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """y = the value of x whose place it is, 0 where there is none (a source of -1)."""
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < outputs
    found = tl.load(source + offset, mask=inside, other=-1).to(INDEX)
    value = tl.load(x + offset // positions * count + found, mask=inside & (found >= 0), other=0.0)
    tl.store(y + offset, value, mask=inside)


@triton.jit
def max_unpool_grad_input_kernel(
    grad_y, indices, grad_x, values, count, positions, INDEX: tl.constexpr, BLOCK: tl.constexpr
):
    """grad_x = grad_y at each value's place."""
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < values
    place = offset // count * positions + tl.load(indices + offset, mask=inside, other=0).to(INDEX)
    tl.store(grad_x + offset, tl.load(grad_y + place, mask=inside), mask=inside)
