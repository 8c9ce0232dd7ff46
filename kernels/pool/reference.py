"""Pooling, as a textbook writes it: for every output position, look at the input positions under its window."""

import itertools
import math

import numpy as np


def _sliding_positions(size, kernel, stride, padding, dilation, ceil_mode):
    """For one axis, the input positions of each window, without those in the padding."""
    steps = (size + 2 * padding - dilation * (kernel - 1) - 1) / stride
    count = (math.ceil if ceil_mode else math.floor)(steps) + 1
    starts = [o * stride - padding for o in range(count) if not ceil_mode or o * stride < size + padding]
    return [[p for k in range(kernel) if 0 <= (p := start + k * dilation) < size] for start in starts]


def _adaptive_positions(size, count):
    """For one axis, the input positions of each of `count` windows that share it evenly."""
    return [list(range(math.floor(o * size / count), math.ceil((o + 1) * size / count))) for o in range(count)]


def _all_sliding(x, kernel_size, stride, padding, dilation, ceil_mode):
    shape = x.shape[-len(kernel_size) :]
    return [_sliding_positions(*axis, ceil_mode) for axis in zip(shape, kernel_size, stride, padding, dilation)]


def _all_adaptive(x, output_size):
    return [_adaptive_positions(size, count) for size, count in zip(x.shape[-len(output_size) :], output_size)]


def _windows(axes, shape):
    """Yields (number of the output position, flat input positions under its window) over the whole plane."""
    for number, window in enumerate(itertools.product(*axes)):
        yield number, np.ravel_multi_index(np.ix_(*window), shape).ravel()


def _flat(x, rank):
    """[..., *spatial] as [planes, positions]."""
    return x.reshape(math.prod(x.shape[:-rank]), math.prod(x.shape[-rank:]))


def _pooled(x, axes):
    """An empty [planes, output positions] and the output's shape."""
    counts = tuple(len(windows) for windows in axes)
    return np.empty((math.prod(x.shape[: -len(axes)]), math.prod(counts))), (*x.shape[: -len(axes)], *counts)


# ---- maximum: the first largest value of each window, or its last NaN


def _max_forward(x, axes, return_indices):
    rank = len(axes)
    planes = _flat(x, rank)
    best, shape = _pooled(x, axes)
    where = np.empty(best.shape, np.int64)
    for number, window in _windows(axes, x.shape[-rank:]):
        values = planes[:, window]
        first = np.where(np.isnan(values), np.inf, values).argmax(axis=1)
        last_nan = len(window) - 1 - np.isnan(values)[:, ::-1].argmax(axis=1)
        choice = np.where(np.isnan(values).any(axis=1), last_nan, first)
        where[:, number] = window[choice]
        best[:, number] = np.take_along_axis(values, choice[:, None], axis=1)[:, 0]
    y, indices = best.astype(x.dtype).reshape(shape), where.reshape(shape)
    return (y, indices) if return_indices else y, (x.shape, where)


def _max_backward(saved, grad_output, needs):
    x_shape, where = saved
    grad_y = grad_output[0] if isinstance(grad_output, tuple) else grad_output
    planes = np.zeros((where.shape[0], math.prod(x_shape) // max(where.shape[0], 1)), grad_y.dtype)
    np.add.at(planes, (np.arange(len(planes))[:, None], where), grad_y.reshape(where.shape))
    return (planes.reshape(x_shape) if needs[0] else None,)


def max_pool_forward(x, *, kernel_size, stride, padding, dilation, ceil_mode=False, return_indices=False):
    return _max_forward(x, _all_sliding(x, kernel_size, stride, padding, dilation, ceil_mode), return_indices)


def adaptive_max_pool_forward(x, *, output_size, return_indices=False):
    return _max_forward(x, _all_adaptive(x, output_size), return_indices)


max_pool_backward = adaptive_max_pool_backward = _max_backward


# ---- average


def _average_forward(x, axes, divisor):
    """Sum over each window over divisor(number of the output position, positions in the window)."""
    planes = _flat(x, len(axes))
    y, shape = _pooled(x, axes)
    for number, window in _windows(axes, x.shape[-len(axes) :]):
        y[:, number] = planes[:, window].sum(axis=1) / divisor(number, len(window))
    return y.astype(x.dtype).reshape(shape), (x.shape, axes, divisor)


def _average_backward(saved, grad_y, needs):
    x_shape, axes, divisor = saved
    grads = _flat(grad_y, len(axes))
    grad_x = np.zeros(x_shape, grad_y.dtype)
    planes = _flat(grad_x, len(axes))
    for number, window in _windows(axes, x_shape[-len(axes) :]):
        planes[:, window] += grads[:, number, None] / divisor(number, len(window))
    return (grad_x if needs[0] else None,)


def avg_pool_forward(
    x, *, kernel_size, stride, padding, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    axes = _all_sliding(x, kernel_size, stride, padding, (1,) * len(kernel_size), ceil_mode)
    counts = [len(windows) for windows in axes]
    shape = x.shape[-len(kernel_size) :]

    def padded_length(axis, o):
        start = o * stride[axis] - padding[axis]
        return min(start + kernel_size[axis], shape[axis] + padding[axis]) - start

    def divisor(number, length):
        if divisor_override is not None:
            return divisor_override
        if not count_include_pad:
            return length
        return math.prod(padded_length(axis, o) for axis, o in enumerate(np.unravel_index(number, counts)))

    return _average_forward(x, axes, divisor)


def adaptive_avg_pool_forward(x, *, output_size):
    return _average_forward(x, _all_adaptive(x, output_size), lambda number, length: length)


avg_pool_backward = adaptive_avg_pool_backward = _average_backward


# ---- power average: (sum of x^p)^(1/p); a window cut short counts as if it were full of its mean


def lp_pool_forward(x, *, norm_type, kernel_size, stride, ceil_mode=False):
    zeros, ones = (0,) * len(kernel_size), (1,) * len(kernel_size)
    axes = _all_sliding(x, kernel_size, stride, zeros, ones, ceil_mode)
    if math.isinf(norm_type):
        sign = math.copysign(1, norm_type)
        y, pooled = _max_forward(sign * np.abs(x), axes, False)
        return sign * y, (x, norm_type, None, pooled)
    full = math.prod(kernel_size)
    with np.errstate(divide="ignore", invalid="ignore"):
        total, pooled = _average_forward(x**norm_type, axes, lambda number, length: length / full)
        return total ** (1 / norm_type), (x, norm_type, total, pooled)


def lp_pool_backward(saved, grad_y, needs):
    x, p, total, pooled = saved
    if not needs[0]:
        return (None,)
    if total is None:
        (grad_magnitude,) = _max_backward(pooled, grad_y, needs)
        return (grad_magnitude * np.sign(x),)
    with np.errstate(divide="ignore", invalid="ignore"):
        grad_total = np.where(total == 0, 0, grad_y * total ** (1 / p - 1) / p)
        (grad_power,) = _average_backward(pooled, grad_total, needs)
        return (grad_power * p * x ** (p - 1),)


# ---- unpooling


def max_unpool_forward(x, indices, *, output_size):
    rank = len(output_size)
    planes = np.zeros((math.prod(x.shape[:-rank]), math.prod(output_size)), x.dtype)
    where = _flat(indices, rank)
    for number in range(where.shape[1]):
        planes[np.arange(len(planes)), where[:, number]] = _flat(x, rank)[:, number]
    return planes.reshape(*x.shape[:-rank], *output_size), (x.shape, where)


def max_unpool_backward(saved, grad_y, needs):
    x_shape, where = saved
    planes = grad_y.reshape(len(where), -1) if grad_y.size else np.zeros((len(where), 1))
    return (np.take_along_axis(planes, where, axis=1).reshape(x_shape) if needs[0] else None, None)
