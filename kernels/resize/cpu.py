"""Resizing and rearranging planes on NumPy arrays.

Interpolation works as pooling does: the input rows that an output row blends are joined over their full width, which
is contiguous and vectorises, then each output position blends its columns out of the joined row. One pair of kernels
serves every mode and rank, because a mode is a table of taps.
"""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..memory import empty
from ..pool.cpu import chunk_count
from ..pool.geometry import as_planes, pooled_shape, three
from .taps import axis_taps


@kernel
def interpolate_kernel(x, rows_d, weights_d, rows_h, weights_h, columns, weights_w, joined, y):
    """y = weighted sum of x over the taps of all three axes.

    Args:
        x: [planes, D, H, W]. y: [planes, OD, OH, OW].
        rows_d, rows_h, columns: [OD | OH | OW, taps] int64, where -1 ends a list of three or more taps early.
        weights_d, weights_h, weights_w: their weights, of x's type.
        joined: [chunks, W] scratch.
    """
    outer, inner, taps = rows_d.shape[0], rows_h.shape[0], columns.shape[1]
    rows = x.shape[0] * outer * inner
    chunks = joined.shape[0]
    for chunk in prange(chunks):
        row = joined[chunk]
        for unit in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
            plane, o, i = unit // (outer * inner), unit // inner % outer, unit % inner
            for s in range(rows_d.shape[1]):
                d = rows_d[o, s]
                for t in range(rows_h.shape[1]):
                    h = rows_h[i, t]
                    if d < 0 or h < 0:
                        break
                    weight = weights_d[o, s] * weights_h[i, t]
                    if s == 0 and t == 0:
                        for w in range(x.shape[3]):
                            row[w] = weight * x[plane, d, h, w]
                    else:
                        for w in range(x.shape[3]):
                            row[w] += weight * x[plane, d, h, w]
            if taps == 1:
                for j in range(columns.shape[0]):
                    y[plane, o, i, j] = row[columns[j, 0]]
            elif taps == 2:
                for j in range(columns.shape[0]):
                    y[plane, o, i, j] = weights_w[j, 0] * row[columns[j, 0]] + weights_w[j, 1] * row[columns[j, 1]]
            else:
                for j in range(columns.shape[0]):
                    total = x.dtype.type(0)
                    for t in range(taps):
                        if columns[j, t] < 0:
                            break
                        total += weights_w[j, t] * row[columns[j, t]]
                    y[plane, o, i, j] = total


@kernel
def interpolate_grad_input_kernel(grad_y, rows_d, weights_d, rows_h, weights_h, columns, weights_w, spread, grad_x):
    """grad_x = sum over the output positions that read each position of weight * grad_y, plane by plane.

    Arguments as in interpolate_kernel; spread: [chunks, W] scratch.
    """
    planes, chunks = grad_x.shape[0], spread.shape[0]
    for chunk in prange(chunks):
        row = spread[chunk]
        for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
            for d in range(grad_x.shape[1]):
                for h in range(grad_x.shape[2]):
                    for w in range(grad_x.shape[3]):
                        grad_x[plane, d, h, w] = 0
            for o in range(rows_d.shape[0]):
                for i in range(rows_h.shape[0]):
                    for w in range(grad_x.shape[3]):
                        row[w] = 0
                    for j in range(columns.shape[0]):
                        for t in range(columns.shape[1]):
                            if columns[j, t] < 0:
                                break
                            row[columns[j, t]] += weights_w[j, t] * grad_y[plane, o, i, j]
                    for s in range(rows_d.shape[1]):
                        d = rows_d[o, s]
                        for t in range(rows_h.shape[1]):
                            h = rows_h[i, t]
                            if d < 0 or h < 0:
                                break
                            weight = weights_d[o, s] * weights_h[i, t]
                            for w in range(grad_x.shape[3]):
                                grad_x[plane, d, h, w] += weight * row[w]


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


# ---- interpolation


def interpolate_forward(x, *, size, mode, align_corners=False, scales=None, antialias=False, out=None):
    rank = len(size)
    planes = as_planes(x, rank)
    tables = [np.zeros((1, 1), np.int64), np.ones((1, 1), x.dtype)] * (3 - rank)
    for length, count, scale in zip(x.shape[-rank:], size, scales or (None,) * rank):
        index, weight = axis_taps(length, count, mode, align_corners, scale, antialias)
        tables += [index, weight.astype(x.dtype)]
    y = empty((*x.shape[:-rank], *size), x.dtype) if out is None else out
    shape = (planes.shape[0], *three(size, 1))
    y_planes = y.reshape(shape) if y.flags.c_contiguous else empty(shape, x.dtype)
    chunks = chunk_count(math.prod(shape[:3]))
    interpolate_kernel(planes, *tables, empty((chunks, planes.shape[3]), x.dtype), y_planes)
    if not y.flags.c_contiguous:
        y[...] = y_planes.reshape(y.shape)
    return y, (x.shape, planes.shape, tables)


def interpolate_backward(saved, grad_y, needs):
    x_shape, shape, tables = saved
    if not needs[0]:
        return (None,)
    grad_planes = np.ascontiguousarray(grad_y).reshape(shape[0], *(index.shape[0] for index in tables[::2]))
    grad_x = empty(shape, grad_y.dtype)
    chunks = chunk_count(shape[0])
    interpolate_grad_input_kernel(grad_planes, *tables, empty((chunks, shape[3]), grad_y.dtype), grad_x)
    return (grad_x.reshape(x_shape),)


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
    unfold_kernel(planes, *window, columns)
    return columns.reshape(*leading, channels * math.prod(kernel_size), math.prod(counts))


def _fold(columns, shape, window):
    """[..., C * kernel area, windows] -> [..., C, H, W]."""
    kernel_size, counts = window[0], _windows(shape, *window)
    *leading, rows = columns.shape[:-1]
    channels = rows // math.prod(kernel_size)
    planes = empty((math.prod(leading) * channels, *shape), columns.dtype)
    fold_kernel(np.ascontiguousarray(columns).reshape(planes.shape[0], *kernel_size, *counts), *window, planes)
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


# ---- rearranged channels: a view with the axes in their new order, copied once


def _pixel_shuffle(x, r):
    *leading, channels, height, width = x.shape
    split = x.reshape(math.prod(leading), channels // r**2, r, r, height, width)
    return _copied(split.transpose(0, 1, 4, 2, 5, 3), (*leading, channels // r**2, height * r, width * r))


def _pixel_unshuffle(x, r):
    *leading, channels, height, width = x.shape
    split = x.reshape(math.prod(leading), channels, height // r, r, width // r, r)
    return _copied(split.transpose(0, 1, 3, 5, 2, 4), (*leading, channels * r**2, height // r, width // r))


def _channel_shuffle(x, groups, channels_per_group):
    split = x.reshape(x.shape[0], groups, channels_per_group, math.prod(x.shape[2:]))
    return _copied(split.transpose(0, 2, 1, 3), x.shape)


def _copied(view, shape):
    y = empty(view.shape, view.dtype)
    y[...] = view
    return y.reshape(shape)


def pixel_shuffle_forward(x, *, upscale_factor):
    return _pixel_shuffle(x, upscale_factor), upscale_factor


def pixel_shuffle_backward(saved, grad_y, needs):
    return (_pixel_unshuffle(grad_y, saved) if needs[0] else None,)


def pixel_unshuffle_forward(x, *, downscale_factor):
    return _pixel_unshuffle(x, downscale_factor), downscale_factor


def pixel_unshuffle_backward(saved, grad_y, needs):
    return (_pixel_shuffle(grad_y, saved) if needs[0] else None,)


def channel_shuffle_forward(x, *, groups):
    channels_per_group = x.shape[1] // groups
    return _channel_shuffle(x, groups, channels_per_group), (channels_per_group, groups)


def channel_shuffle_backward(saved, grad_y, needs):
    return (_channel_shuffle(grad_y, *saved) if needs[0] else None,)
