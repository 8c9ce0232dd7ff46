"""Resizing and rearranging planes on NumPy arrays: interpolation is in `cpu_interpolate`, rearranged channels are in
`cpu_shuffle`, windows as columns here."""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..memory import empty
from ..pool.geometry import pooled_shape
from .cpu_interpolate import interpolate_backward, interpolate_forward
from .cpu_shuffle import (
    WORTH_THREADS,
    channel_shuffle_backward,
    channel_shuffle_forward,
    pixel_shuffle_backward,
    pixel_shuffle_forward,
    pixel_unshuffle_backward,
    pixel_unshuffle_forward,
)

__all__ = [
    "channel_shuffle_backward",
    "channel_shuffle_forward",
    "fold_backward",
    "fold_forward",
    "interpolate_backward",
    "interpolate_forward",
    "pixel_shuffle_backward",
    "pixel_shuffle_forward",
    "pixel_unshuffle_backward",
    "pixel_unshuffle_forward",
    "unfold_backward",
    "unfold_forward",
]


@kernel
def unfold_kernel(x, kernel_size, dilation, padding, stride, columns):
    """columns[p, i, j, a, b] = x[p, a * stride - padding + i * dilation, the same of b and j], or 0 outside the plane.

    Args:
        x: [planes, H, W]. columns: [planes, kernel height, kernel width, windows down, windows across].
    """
    area = kernel_size[0] * kernel_size[1]
    across = columns.shape[4]
    zero = x.dtype.type(0)
    for unit in prange(x.shape[0] * area):
        p, i, j = unit // area, unit % area // kernel_size[1], unit % kernel_size[1]
        left = j * dilation[1] - padding[1]
        # The windows that lie inside the plane at this place: first <= b < stop.
        first = min(max(-(left // stride[1]), 0), across)
        stop = max(min((x.shape[2] - left + stride[1] - 1) // stride[1], across), first)
        for a in range(columns.shape[3]):
            h = a * stride[0] - padding[0] + i * dilation[0]
            if h < 0 or h >= x.shape[1]:
                for b in range(across):
                    columns[p, i, j, a, b] = zero
                continue
            for b in range(first):
                columns[p, i, j, a, b] = zero
            for b in range(first, stop):
                columns[p, i, j, a, b] = x[p, h, b * stride[1] + left]
            for b in range(stop, across):
                columns[p, i, j, a, b] = zero


@kernel
def fold_kernel(columns, kernel_size, dilation, padding, stride, y):
    """y = sum of all columns that unfold_kernel would take from each place. Arguments as there."""
    across = columns.shape[4]
    for p in prange(y.shape[0]):
        for h in range(y.shape[1]):
            for w in range(y.shape[2]):
                y[p, h, w] = 0
        for i in range(kernel_size[0]):
            for j in range(kernel_size[1]):
                left = j * dilation[1] - padding[1]
                first = min(max(-(left // stride[1]), 0), across)
                stop = max(min((y.shape[2] - left + stride[1] - 1) // stride[1], across), first)
                for a in range(columns.shape[3]):
                    h = a * stride[0] - padding[0] + i * dilation[0]
                    if 0 <= h < y.shape[1]:
                        for b in range(first, stop):
                            y[p, h, b * stride[1] + left] += columns[p, i, j, a, b]


# ---- windows as columns, and back


def _windows(shape, kernel_size, dilation, padding, stride):
    """How many windows fit down and across."""
    return pooled_shape(shape, kernel_size, stride, padding, dilation, False)


def _unfold(x, window):
    """[..., C, H, W] -> [..., C * kernel area, windows]."""
    kernel_size, counts = window[0], _windows(x.shape[-2:], *window)
    *leading, channels = x.shape[:-2]
    planes = np.ascontiguousarray(x).reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    columns = empty((planes.shape[0], *kernel_size, *counts), x.dtype)
    run = unfold_kernel if columns.size > WORTH_THREADS else unfold_kernel.serial
    run(planes, *window, columns)
    return columns.reshape(*leading, channels * math.prod(kernel_size), math.prod(counts))


def _fold(columns, shape, window):
    """[..., C * kernel area, windows] -> [..., C, H, W]."""
    kernel_size, counts = window[0], _windows(shape, *window)
    *leading, rows = columns.shape[:-1]
    channels = rows // math.prod(kernel_size)
    planes = empty((math.prod(leading) * channels, *shape), columns.dtype)
    run = fold_kernel if columns.size > WORTH_THREADS else fold_kernel.serial
    run(np.ascontiguousarray(columns).reshape(planes.shape[0], *kernel_size, *counts), *window, planes)
    return planes.reshape(*leading, channels, *shape)


def unfold_forward(x, *, kernel_size, dilation, padding, stride):
    window = kernel_size, dilation, padding, stride
    return _unfold(x, window), (x.shape[-2:], window)


def unfold_backward(saved, grad_y, needs):
    return (_fold(grad_y, *saved) if needs[0] else None,)


def fold_forward(x, *, output_size, kernel_size, dilation, padding, stride):
    window = kernel_size, dilation, padding, stride
    return _fold(x, output_size, window), window


def fold_backward(saved, grad_y, needs):
    return (_unfold(grad_y, saved) if needs[0] else None,)
