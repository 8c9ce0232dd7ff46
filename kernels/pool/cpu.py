"""Pooling on NumPy arrays: windows that slide by the same step everywhere are in `cpu_sliding`, all others here.

A row of output is made in two steps. First the input rows under its windows are joined element by element, over the
full width: contiguous, so it vectorises, and an input column is read once for all windows that share it. Then each
window picks its stretch out of the joined row. The rows (forward) or the planes (backward, where windows overlap) are
cut into a fixed number of chunks with a scratch row each; the cut changes no sum.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import memory
from ..cpu_sums import line_sum
from ..cpu_threads import thread_count
from ..elementwise.memory_order import deliver
from ..memory import empty
from . import cpu_sliding
from .cpu_sliding_windows import Sliding, sliding
from .geometry import adaptive_windows, as_planes, padded_lengths, pooled_shape, sliding_windows, three

_WORTH_THREADS = 1 << 13  # elements; fewer are pooled before another thread has woken up


@kernel
def uneven_max_pool_kernel(x, depth, height, width, steps, best, where, y, indices):
    """y = largest value under each window, indices = its flat position in the plane.

    Of equal values the first in the plane's order wins, and of NaNs, which beat all numbers, the last.

    Args:
        x: [planes, D, H, W]. depth, height, width: [2, windows], first position and end on each axis.
        steps: distance of a window's positions on each axis.
        best, where: [chunks, W] scratch for the joined row and the positions its values came from.
        y, indices: [planes, windows on D, on H, on W].
    """
    outer, inner = depth.shape[1], height.shape[1]
    columns = x.shape[3]
    rows = x.shape[0] * outer * inner
    chunks = best.shape[0]
    for chunk in prange(chunks):
        row, source = best[chunk], where[chunk]
        for unit in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
            plane, o, i = unit // (outer * inner), unit // inner % outer, unit % inner
            for d in range(depth[0, o], depth[1, o], steps[0]):
                for h in range(height[0, i], height[1, i], steps[1]):
                    start = (d * x.shape[2] + h) * columns
                    if d == depth[0, o] and h == height[0, i]:
                        for w in range(columns):
                            row[w] = x[plane, d, h, w]
                            source[w] = start + w
                    else:
                        for w in range(columns):
                            value = x[plane, d, h, w]
                            better = (value > row[w]) | (value != value)
                            row[w] = value if better else row[w]
                            source[w] = start + w if better else source[w]
            for j in range(width.shape[1]):
                first = width[0, j]
                largest, position = row[first], source[first]
                for w in range(first + steps[2], width[1, j], steps[2]):
                    value, candidate = row[w], source[w]
                    better = (value > largest) | ((value == largest) & (candidate < position))
                    better |= (value != value) & ((largest == largest) | (candidate > position))
                    largest = value if better else largest
                    position = candidate if better else position
                y[plane, o, i, j] = largest
                indices[plane, o, i, j] = position


@kernel
def scatter_planes_kernel(values, indices, accumulate, planes):
    """planes = 0, then in each plane planes[index] = value, or += value, in the order of the values.

    Args:
        values, indices: [planes, values]. planes: [planes, positions].
    """
    for p in prange(planes.shape[0]):
        for position in range(planes.shape[1]):
            planes[p, position] = 0
        if accumulate:
            for v in range(values.shape[1]):
                planes[p, indices[p, v]] += values[p, v]
        else:
            for v in range(values.shape[1]):
                planes[p, indices[p, v]] = values[p, v]


@kernel
def gather_planes_kernel(planes, indices, values):
    """values = planes[index], plane by plane: what scatter_planes_kernel spreads, collected."""
    for p in prange(planes.shape[0]):
        for v in range(values.shape[1]):
            values[p, v] = planes[p, indices[p, v]]


@kernel
def uneven_avg_pool_kernel(x, depth, height, width, over_depth, over_height, over_width, joined, y):
    """y = sum under each window / (over_depth * over_height * over_width), each divisor being one a window.

    Args:
        x: [planes, D, H, W]. depth, height, width: [2, windows], first position and end on each axis.
        over_depth, over_height, over_width: [windows] of x's type. joined: [chunks, W] scratch.
        y: [planes, windows on D, on H, on W].
    """
    outer, inner = depth.shape[1], height.shape[1]
    rows = x.shape[0] * outer * inner
    chunks = joined.shape[0]
    for chunk in prange(chunks):
        row = joined[chunk]
        for unit in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
            plane, o, i = unit // (outer * inner), unit // inner % outer, unit % inner
            for d in range(depth[0, o], depth[1, o]):
                for h in range(height[0, i], height[1, i]):
                    if d == depth[0, o] and h == height[0, i]:
                        for w in range(x.shape[3]):
                            row[w] = x[plane, d, h, w]
                    else:
                        for w in range(x.shape[3]):
                            row[w] += x[plane, d, h, w]
            divisor = over_depth[o] * over_height[i]
            for j in range(width.shape[1]):
                total = x.dtype.type(0)
                for w in range(width[0, j], width[1, j]):
                    total += row[w]
                y[plane, o, i, j] = total / (divisor * over_width[j])


@kernel
def uneven_avg_pool_grad_input_kernel(
    grad_y, depth, height, width, over_depth, over_height, over_width, spread, grad_x
):
    """grad_x = sum over the windows above each position of grad_y / divisor. Arguments as in uneven_avg_pool_kernel."""
    outer, inner = depth.shape[1], height.shape[1]
    columns = grad_x.shape[3]
    planes, chunks = grad_x.shape[0], spread.shape[0]
    for chunk in prange(chunks):
        row = spread[chunk]
        for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
            for d in range(grad_x.shape[1]):
                for h in range(grad_x.shape[2]):
                    for w in range(columns):
                        grad_x[plane, d, h, w] = 0
            for o in range(outer):
                for i in range(inner):
                    for w in range(columns):
                        row[w] = 0
                    divisor = over_depth[o] * over_height[i]
                    for j in range(width.shape[1]):
                        share = grad_y[plane, o, i, j] / (divisor * over_width[j])
                        for w in range(width[0, j], width[1, j]):
                            row[w] += share
                    for d in range(depth[0, o], depth[1, o]):
                        for h in range(height[0, i], height[1, i]):
                            for w in range(columns):
                                grad_x[plane, d, h, w] += row[w]


@kernel
def global_avg_pool_kernel(planes, y):
    """y[p] = mean of planes[p]: one contiguous sum a plane."""
    for p in prange(planes.shape[0]):
        y[p] = line_sum(planes[p]) / planes.dtype.type(planes.shape[1])


@serial_kernel
def _fill_line(target, start, count, value):
    for i in range(count):
        target[start + i] = value


@kernel
def global_avg_pool_grad_kernel(grad_y, size, grad_x):
    """grad_x = grad_y[p] / size over the `size` positions of each plane p. grad_x: flat."""
    for p in prange(grad_y.size):
        _fill_line(memory(grad_x), p * size, size, grad_y[p] / grad_y.dtype.type(size))


def chunk_count(units):
    """Enough chunks to keep all threads busy to the end, none of them empty."""
    return max(1, min(units, 8 * thread_count()))


def _sliding(shape, kernel_size, stride, padding, dilation, ceil_mode):
    """The windows of the three axes, [2, windows] each."""
    counts = pooled_shape(shape, kernel_size, stride, padding, dilation, ceil_mode)
    windows = [sliding_windows(*axis) for axis in zip(shape, kernel_size, stride, padding, dilation, counts)]
    return [sliding_windows(1, 1, 1, 0, 1, 1)] * (3 - len(shape)) + windows


def _adaptive(shape, output_size):
    return [adaptive_windows(size, count) for size, count in zip(three(shape, 1), three(output_size, 1))]


def _output(x, windows, rank, out):
    """The array to write to, and its [planes, depth, height, width] where the kernels can write there directly."""
    counts = [axis.shape[1] for axis in windows]
    y = empty((*x.shape[:-rank], *counts[3 - rank :]), x.dtype) if out is None else out
    shape = (math.prod(x.shape[:-rank]), *counts)
    return y, y.reshape(shape) if y.flags.c_contiguous else empty(shape, x.dtype)


# ---- maximum


def _max_forward(x, windows, steps, rank, return_indices, out):
    planes = as_planes(x, rank)
    targets = out if type(out) is tuple else (out, None)
    y, y_planes = _output(x, windows, rank, targets[0])
    # Half the memory of int64, wherever a plane's positions fit.
    index_type = np.int32 if math.prod(planes.shape[1:]) < 2**31 else np.int64
    indices = empty(y_planes.shape, index_type)
    chunks, columns = chunk_count(y_planes.shape[0] * y_planes.shape[1] * y_planes.shape[2]), planes.shape[3]
    best, where = empty((chunks, columns), x.dtype), empty((chunks, columns), index_type)
    run = uneven_max_pool_kernel if max(x.size, y.size) > _WORTH_THREADS else uneven_max_pool_kernel.serial
    run(planes, *windows, steps, best, where, y_planes, indices)
    _deliver(y_planes, y)
    saved = x.shape, indices
    return _with_indices(y, indices if return_indices else None, targets[1]), saved


class _SavedCodes(NamedTuple):
    """What a max pool with sliding windows keeps: the place in its window of each largest value."""

    x_shape: tuple[int, ...]
    codes: np.ndarray
    windows: Sliding


def _max_sliding_forward(x, windows, return_indices, out):
    targets = out if type(out) is tuple else (out, None)
    y = empty(windows.output, x.dtype)
    codes, indices = cpu_sliding.max_forward(x.ravel(), windows, y.ravel(), return_indices)
    return _with_indices(deliver(y, targets[0]), indices, targets[1]), _SavedCodes(x.shape, codes, windows)


def _with_indices(y, indices, out):
    """y, and with it the indices where there are any, int64 or in the caller's array."""
    if indices is None:
        return y
    if out is None:
        return y, indices.astype(np.int64, copy=False).reshape(y.shape)
    out[...] = indices.reshape(y.shape)
    return y, out


def _max_backward(saved, grad_output, needs):
    if not needs[0]:
        return (None,)
    grad_y = grad_output[0] if type(grad_output) is tuple else grad_output
    if type(saved) is _SavedCodes:
        return (cpu_sliding.max_backward(grad_y.ravel(), saved.codes, saved.windows, saved.x_shape),)
    x_shape, indices = saved
    return (_scatter(grad_y, indices, True, x_shape),)


def max_pool_forward(x, *, kernel_size, stride, padding, dilation, ceil_mode=False, return_indices=False, out=None):
    windows = sliding(x, kernel_size, stride, padding, dilation, ceil_mode)
    if windows.places <= cpu_sliding.MOST_PLACES:
        return _max_sliding_forward(x, windows, return_indices, out)
    rank = len(kernel_size)
    windows = _sliding(x.shape[-rank:], kernel_size, stride, padding, dilation, ceil_mode)
    return _max_forward(x, windows, three(dilation, 1), rank, return_indices, out)


def adaptive_max_pool_forward(x, *, output_size, return_indices=False, out=None):
    rank = len(output_size)
    return _max_forward(x, _adaptive(x.shape[-rank:], output_size), (1, 1, 1), rank, return_indices, out)


max_pool_backward = adaptive_max_pool_backward = _max_backward


def _scatter(values, indices, accumulate, shape):
    """Zeros of `shape` with each plane's values set, or added, at its indices ([planes, ...])."""
    count = indices.shape[0]
    planes = empty((count, math.prod(shape) // max(count, 1)), values.dtype)
    values = np.ascontiguousarray(values).reshape(count, math.prod(indices.shape[1:]))
    run = scatter_planes_kernel if planes.size > _WORTH_THREADS else scatter_planes_kernel.serial
    run(values, indices.reshape(values.shape), accumulate, planes)
    return planes.reshape(shape)


def max_unpool_forward(x, indices, *, output_size, out=None):
    rank = len(output_size)
    shape = (*x.shape[:-rank], *output_size)
    index_type = np.int32 if math.prod(output_size) < 2**31 else np.int64
    indices = as_planes(indices, rank).astype(index_type, copy=False)
    y = _scatter(x, indices, False, shape)
    if out is not None:
        out[...] = y
    return y if out is None else out, (x.shape, indices)


def max_unpool_backward(saved, grad_y, needs):
    x_shape, indices = saved
    if not needs[0]:
        return None, None
    count = indices.shape[0]
    grad_x = empty((count, math.prod(indices.shape[1:])), grad_y.dtype)
    planes = np.ascontiguousarray(grad_y).reshape(count, grad_y.size // max(count, 1))
    run = gather_planes_kernel if grad_x.size > _WORTH_THREADS else gather_planes_kernel.serial
    run(planes, indices.reshape(grad_x.shape), grad_x)
    return grad_x.reshape(x_shape), None


# ---- average


def _average_forward(x, windows, divisors, rank, out=None):
    planes = as_planes(x, rank)
    y, y_planes = _output(x, windows, rank, out)
    divisors = [np.asarray(divisor, x.dtype) for divisor in divisors]
    joined = empty((chunk_count(math.prod(y_planes.shape[:3])), planes.shape[3]), x.dtype)
    run = uneven_avg_pool_kernel if max(x.size, y.size) > _WORTH_THREADS else uneven_avg_pool_kernel.serial
    run(planes, *windows, *divisors, joined, y_planes)
    _deliver(y_planes, y)
    return y, (x.shape, planes.shape, windows, divisors)


def _average_backward(saved, grad_y, needs):
    x_shape, planes_shape, windows, divisors = saved
    if not needs[0]:
        return (None,)
    grad_x = empty(planes_shape, grad_y.dtype)
    counts = [axis.shape[1] for axis in windows]
    grad_planes = np.ascontiguousarray(grad_y).reshape(planes_shape[0], *counts)
    spread = empty((chunk_count(planes_shape[0]), planes_shape[3]), grad_y.dtype)
    run = uneven_avg_pool_grad_input_kernel
    run = run if max(grad_y.size, grad_x.size) > _WORTH_THREADS else run.serial
    run(grad_planes, *windows, *divisors, spread, grad_x)
    return (grad_x.reshape(x_shape),)


def _lengths(windows):
    return [axis[1] - axis[0] for axis in windows]


def _average_sliding_forward(x, windows, divisors, out=None):
    y = empty(windows.output, x.dtype)
    cpu_sliding.average_forward(x.ravel(), windows, divisors, y.ravel())
    return deliver(y, out), (x.shape, windows, divisors)


def _average_sliding_backward(saved, grad_y, needs):
    x_shape, windows, divisors = saved
    if not needs[0]:
        return (None,)
    return (cpu_sliding.average_backward(grad_y.ravel(), windows, divisors, x_shape),)


def avg_pool_forward(
    x, *, kernel_size, stride, padding, ceil_mode=False, count_include_pad=True, divisor_override=None, out=None
):
    windows = sliding(x, kernel_size, stride, padding, (1,) * len(kernel_size), ceil_mode)
    divisors = _divisors(windows, count_include_pad, divisor_override, x.dtype)
    return _average_sliding_forward(x, windows, divisors, out)


@lru_cache(maxsize=256)
def _divisors(windows, count_include_pad, divisor_override, dtype):
    """What sums under windows are divided by: the product of one number an axis, of which there is one a window."""
    axes = zip(windows.shape, windows.kernel_size, windows.stride, windows.padding, windows.dilation, windows.counts)
    if divisor_override is not None:
        divisors = [np.ones(count) for count in windows.counts]
        divisors[0] *= divisor_override
    elif count_include_pad:
        divisors = [padded_lengths(*sizes, count) for *sizes, _, count in axes]
    else:
        divisors = _lengths([sliding_windows(*axis) for axis in axes])
    return [divisor.astype(dtype) for divisor in divisors]


avg_pool_backward = _average_sliding_backward


def adaptive_avg_pool_forward(x, *, output_size, out=None):
    rank = len(output_size)
    if math.prod(output_size) == 1:
        return _global_avg_pool_forward(x, rank, out)
    windows = _adaptive(x.shape[-rank:], output_size)
    return _average_forward(x, windows, _lengths(windows), rank, out)


def adaptive_avg_pool_backward(saved, grad_y, needs):
    x_shape, *rest = saved
    if rest:
        return _average_backward(saved, grad_y, needs)
    if not needs[0]:
        return (None,)
    grad_x = empty(x_shape, grad_y.dtype)
    grads = np.ascontiguousarray(grad_y).reshape(-1)
    run = global_avg_pool_grad_kernel if grad_x.size > _WORTH_THREADS else global_avg_pool_grad_kernel.serial
    run(grads, grad_x.size // max(grads.size, 1), grad_x.reshape(-1))
    return (grad_x,)


def _global_avg_pool_forward(x, rank, out):
    planes = as_planes(x, rank)
    means = empty(planes.shape[0], x.dtype)
    run = global_avg_pool_kernel if planes.size > _WORTH_THREADS else global_avg_pool_kernel.serial
    run(planes.reshape(planes.shape[0], math.prod(planes.shape[1:])), means)
    means = means.reshape(*x.shape[:-rank], *(1,) * rank)
    if out is not None:
        out[...] = means
    return means if out is None else out, (x.shape,)


# ---- power average


def lp_pool_forward(x, *, norm_type, kernel_size, stride, ceil_mode=False, out=None):
    rank = len(kernel_size)
    windows = kernel_size, stride, (0,) * rank, (1,) * rank, ceil_mode
    if math.isinf(norm_type):
        sign = math.copysign(1, norm_type)
        magnitudes = np.copysign(x, x.dtype.type(sign))
        names = "kernel_size", "stride", "padding", "dilation", "ceil_mode"
        y, pooled = max_pool_forward(magnitudes, **dict(zip(names, windows)), out=out)
        return np.abs(y, out=y), (x, norm_type, None, pooled)
    # A window cut short counts as if it were full of its mean, so the divisor is the part of it that is there.
    lengths = _lengths(_sliding(x.shape[-rank:], *windows))
    divisors = [(length / size).astype(x.dtype) for length, size in zip(lengths, three(kernel_size, 1))]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        total, pooled = _average_sliding_forward(_power(x, norm_type), sliding(x, *windows), divisors)
        y = empty(total.shape, total.dtype) if out is None else out
        np.power(total, total.dtype.type(1 / norm_type), out=y)
    return y, (x, norm_type, total, pooled)


def lp_pool_backward(saved, grad_y, needs):
    x, norm_type, total, pooled = saved
    if not needs[0]:
        return (None,)
    if total is None:
        (grad_x,) = _max_backward(pooled, grad_y, needs)
        grad_x *= np.sign(x)
        return (grad_x,)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        grad_total = grad_y * np.power(total, total.dtype.type(1 / norm_type - 1))
        grad_total[total == 0] = 0
        (grad_x,) = _average_sliding_backward(pooled, grad_total, needs)
        grad_x *= _power(x, norm_type - 1)
    return (grad_x,)


def _power(x, exponent):
    """x ** exponent, where the usual exponents are spared the general power."""
    if exponent == 1:
        return x
    return np.square(x) if exponent == 2 else np.power(x, x.dtype.type(exponent))


def _deliver(computed, target):
    """Copies a result that could not be computed in place to where the caller wants it."""
    if not np.may_share_memory(computed, target):
        target[...] = computed.reshape(target.shape)
