"""Interpolation on NumPy arrays, line by line.

Forward, the input rows that a block of output rows reads are resized across, each once, and then each output row is a
weighted sum of such lines. Backward goes the same way: the rows of grad_y that a block of grad_x owes to are spread
across, and each row of grad_x is a weighted sum of them. A mode is a table of taps, and one pair of kernels serves all
modes but the nearest (`cpu_nearest`) and all ranks; where the width doubles, as in most decoders and generators, the
taps are the same at all even and at all odd positions, and rows are resized in vectors, the even and the odd apart.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import memory, weighted_sum_line
from ..memory import empty, workspace
from ..pool.geometry import three
from .cpu_doubled import WORTH_THREADS, scratch_for_terms
from .cpu_doubled import backward as doubled_backward
from .cpu_doubled import forward as doubled_forward
from .cpu_nearest import backward as nearest_backward
from .cpu_nearest import forward as nearest_forward
from .taps import axis_taps, doubled_taps, reading_outputs

_BLOCK_BYTES = 1 << 17  # of resized rows: with what they are read from and written to, they stay in the second cache
_LEAST_BLOCKS = 16  # so that no thread waits long for the last ones


class _Reading(NamedTuple):
    """Which outputs read each position of an axis: of position k, `outputs` and `weights` starts[k]..starts[k + 1] - 1.

    bounds: [size, 2], the first of them and the one after the last. most: the largest distance between the two.
    """

    starts: np.ndarray
    outputs: np.ndarray
    weights: np.ndarray
    bounds: np.ndarray
    most: int


@serial_kernel
def _resize_rows(x, start, rows, width, columns, weights, count, taps, target, to):
    """Rows of `width` elements from x[start] on, resized to `count`, to target[to...]. columns, weights: [count, taps],
    the taps of every position (-1 ends a list of three or more early)."""
    for row in range(rows):
        here, there = start + row * width, to + row * count
        if taps == 2:
            for j in range(count):
                value = weights[2 * j] * x[here + columns[2 * j]]
                target[there + j] = value + weights[2 * j + 1] * x[here + columns[2 * j + 1]]
        else:
            for j in range(count):
                total = weights[j * taps] * x[here + columns[j * taps]]
                for t in range(j * taps + 1, (j + 1) * taps):
                    if columns[t] < 0:
                        break
                    total += weights[t] * x[here + columns[t]]
                target[there + j] = total


@serial_kernel
def _spread_rows(grad_y, start, rows, width, columns, weights, count, taps, target, to):
    """The gradients of rows of `width` elements, whose resized rows' are grad_y[start...], to target[to...]."""
    for row in range(rows):
        here, there = start + row * count, to + row * width
        for i in range(width):
            target[there + i] = 0
        for j in range(count):
            for t in range(j * taps, (j + 1) * taps):
                if columns[t] < 0:
                    break
                target[there + columns[t]] += weights[t] * grad_y[here + j]


@kernel
def interpolate_kernel(
    x, shape, rows_d, weights_d, rows_h, weights_h, bounds, columns, weights, block, kept, places, products, y
):  # fmt: skip
    """y = weighted sum of x over the taps of all three axes.

    Args:
        x, y: flat [planes, D, H, W] and [planes, OD, OH, OW]. shape: (planes, D, H, W).
        rows_d, rows_h: [OD | OH, taps] int64, where -1 ends a list of three or more taps early.
        weights_d, weights_h: their weights, of x's type. bounds: [OH, 2], the first row read and one after the last.
        columns, weights: the same of the width. block: how many output rows are made from one set of resized rows.
        kept: [parts, taps of D * rows of H that a block reads * OW], places (int64) and products: [parts, taps of D *
            taps of H] scratch.
    """
    planes, depth, height, width = shape
    outer, inner, count = rows_d.shape[0], rows_h.shape[0], columns.shape[0]
    blocks = (inner + block - 1) // block
    tasks, parts = planes * outer * blocks, kept.shape[0]
    for part in prange(parts):
        resized, offsets, factors = memory(kept[part]), memory(places[part]), memory(products[part])
        for task in range(part * tasks // parts, (part + 1) * tasks // parts):
            plane, o, first = task // (outer * blocks), task // blocks % outer, task % blocks * block
            stop = min(first + block, inner)
            top = bounds[first, 0]
            rows = bounds[stop - 1, 1] - top
            for s in range(rows_d.shape[1]):
                if rows_d[o, s] >= 0:
                    start = ((plane * depth + rows_d[o, s]) * height + top) * width
                    to = s * rows * count
                    _resize_rows(
                        memory(x), start, rows, width, memory(columns), memory(weights), count, columns.shape[1],
                        resized, to,
                    )  # fmt: skip
            to = ((plane * outer + o) * inner + first) * count
            for i in range(first, stop):
                terms = 0
                for s in range(rows_d.shape[1]):
                    for t in range(rows_h.shape[1]):
                        if rows_d[o, s] >= 0 and rows_h[i, t] >= 0:
                            offsets[terms] = (s * rows + rows_h[i, t] - top) * count
                            factors[terms] = weights_d[o, s] * weights_h[i, t]
                            terms += 1
                weighted_sum_line(resized, offsets, 0, factors, terms, memory(y), to, count)
                to += count


@kernel
def interpolate_grad_input_kernel(
    grad_y, shape, reading_d, reading_h, columns, weights, width, block, kept, places, products, grad_x
):  # fmt: skip
    """grad_x = sum over the output positions that read each position of weight * grad_y.

    Args:
        grad_y, grad_x: flat [planes, OD, OH, OW] and [planes, D, H, W]. shape: (planes, OD, OH, OW).
        reading_d, reading_h: _Reading of the two axes. columns, weights: [OW, taps], the width's. width: W.
        block: how many rows of grad_x are made from one set of spread rows.
        kept: [parts, rows of OD and OH that a block owes to * W], places (int64) and products: [parts, outputs of D *
            outputs of H] scratch.
    """
    planes, outer, inner, count = shape
    starts_d, outputs_d, weights_d, bounds_d, _ = reading_d
    starts_h, outputs_h, weights_h, bounds_h, _ = reading_h
    depth, height = starts_d.size - 1, starts_h.size - 1
    blocks = (height + block - 1) // block
    tasks, parts = planes * depth * blocks, kept.shape[0]
    for part in prange(parts):
        spread, offsets, factors = memory(kept[part]), memory(places[part]), memory(products[part])
        for task in range(part * tasks // parts, (part + 1) * tasks // parts):
            plane, d, first = task // (depth * blocks), task // blocks % depth, task % blocks * block
            stop = min(first + block, height)
            top = bounds_h[first, 0]
            rows = bounds_h[stop - 1, 1] - top
            for o in range(bounds_d[d, 0], bounds_d[d, 1]):
                start, to = ((plane * outer + o) * inner + top) * count, (o - bounds_d[d, 0]) * rows * width
                _spread_rows(
                    memory(grad_y), start, rows, width, memory(columns), memory(weights), count, columns.shape[1],
                    spread, to,
                )  # fmt: skip
            to = ((plane * depth + d) * height + first) * width
            for h in range(first, stop):
                terms = 0
                for s in range(starts_d[d], starts_d[d + 1]):
                    for t in range(starts_h[h], starts_h[h + 1]):
                        row = (outputs_d[s] - bounds_d[d, 0]) * rows + outputs_h[t] - top
                        offsets[terms], factors[terms] = row * width, weights_d[s] * weights_h[t]
                        terms += 1
                if terms:
                    weighted_sum_line(spread, offsets, 0, factors, terms, memory(grad_x), to, width)
                else:
                    grad_x[to : to + width] = 0
                to += width


@lru_cache(maxsize=256)
def _taps(dtype, *axis):
    """An axis's taps, their weights in a type, and [count, 2] the first position read and the one after the last."""
    index, weight = axis_taps(*axis)
    bounds = np.stack([np.where(index < 0, axis[0], index).min(axis=1), index.max(axis=1) + 1], axis=1)
    return np.ascontiguousarray(index), weight.astype(dtype), bounds


@lru_cache(maxsize=256)
def _doubled_weights(dtype, *axis):
    """The weights of an axis that doubles, of even and then of odd positions, as `cpu_doubled` takes them; None if it
    does not double."""
    weights = doubled_taps(*axis)
    return None if weights is None else tuple(weights.astype(dtype).ravel())


@lru_cache(maxsize=256)
def _in_pairs(dtype, size, count, *options):
    """Whether positions 2 k and 2 k + 1 of an axis read position k, and no other."""
    return count == 2 * size and bool((_taps(dtype, size, count, *options)[0][:, 0] == np.arange(count) // 2).all())


@lru_cache(maxsize=256)
def _reading(dtype, *axis):
    """The _Reading of an axis."""
    starts, outputs, weights = reading_outputs(*axis)
    # A position that nobody reads lies between two others: the next one's outputs are the next in the list.
    following = np.append(outputs, axis[1])
    first = following[starts[:-1]]
    bounds = np.stack([first, np.where(np.diff(starts) > 0, following[starts[1:] - 1] + 1, first)], axis=1)
    return _Reading(starts, outputs, weights.astype(dtype), bounds, max(int(np.diff(bounds).max()), 1))


def _blocks(bounds, row_bytes, others):
    """Rows of the result are made in blocks, `others` times those of `bounds`, from a set of rows of so many bytes
    each: the rows of a block, the most rows of a set, and the number of parts that the blocks are shared out in."""
    count = len(bounds)
    wanted = int(_BLOCK_BYTES / row_bytes * count / max(bounds[-1, 1] - bounds[0, 0], 1))
    size = max(1, min(wanted, count, count * others // _LEAST_BLOCKS))
    starts = np.arange(0, count, size)
    rows = bounds[np.minimum(starts + size, count) - 1, 1] - bounds[starts, 0]
    return size, max(int(rows.max()), 1), max(1, min(len(starts) * others, 4 * get_num_threads()))


def interpolate_forward(x, *, size, mode, align_corners=False, scales=None, antialias=False, out=None):
    rank = len(size)
    shape, counts = (math.prod(x.shape[:-rank]), *three(x.shape[-rank:], 1)), three(size, 1)
    options = ((mode, align_corners, scale, antialias) for scale in scales or (None,) * rank)
    # An axis that is not there is one of a single position.
    options = [("nearest", False, None, False)] * (3 - rank) + list(options)
    axes = [(x.dtype, *lengths, *option) for *lengths, option in zip(shape[1:], counts, options)]
    y = empty((*x.shape[:-rank], *size), x.dtype) if out is None else out
    flat = y.reshape(-1) if y.flags.c_contiguous else empty(y.size, x.dtype)
    saved = x.shape, shape, counts, axes
    source = np.ascontiguousarray(x).reshape(-1)
    if mode in ("nearest", "nearest-exact"):
        nearest_forward(source, shape, [_taps(*axis)[0] for axis in axes], _in_pairs(*axes[2]), flat)
    else:
        _weighted_forward(source, shape, counts, axes, flat)
    if not y.flags.c_contiguous:
        y[...] = flat.reshape(y.shape)
    return y, saved


def _weighted_forward(x, shape, counts, axes, y):
    """x, y: flat, [planes, D, H, W] of `shape` and [planes, *counts]."""
    (rows_d, weights_d, _), (rows_h, weights_h, bounds), doubled = (
        _taps(*axes[0]), _taps(*axes[1]), _doubled_weights(*axes[2])
    )  # fmt: skip
    if doubled:
        doubled_forward(x, shape, (rows_d, weights_d), (rows_h, weights_h), doubled, y)
        return
    columns, weights, _ = _taps(*axes[2])
    set_row = rows_d.shape[1] * counts[2]
    block, rows, parts = _blocks(bounds, set_row * x.itemsize, shape[0] * counts[0])
    kept = workspace("interpolate rows", (parts, rows * set_row), x.dtype)
    run = interpolate_kernel if max(x.size, y.size) > WORTH_THREADS else interpolate_kernel.serial
    run(
        x, shape, rows_d, weights_d, rows_h, weights_h, bounds, columns, weights, block, kept,
        *scratch_for_terms(parts, rows_d.shape[1] * rows_h.shape[1], x.dtype), y,
    )  # fmt: skip


def interpolate_backward(saved, grad_y, needs):
    x_shape, (planes, *sizes), counts, axes = saved
    if not needs[0]:
        return (None,)
    flat = np.ascontiguousarray(grad_y).reshape(-1)
    if axes[2][3] in ("nearest", "nearest-exact"):
        readings = [(reading.starts, reading.most) for reading in (_reading(*axis) for axis in axes)]
        grad_x = nearest_backward(flat, (planes, *counts), readings, _in_pairs(*axes[2]), sizes)
    else:
        grad_x = _weighted_backward(flat, (planes, *counts), axes, sizes)
    return (grad_x.reshape(x_shape),)


def _weighted_backward(grad_y, shape, axes, sizes):
    """The gradient [planes, *sizes], flat. grad_y: flat, [planes, OD, OH, OW] of `shape`."""
    planes, (depth, _, width) = shape[0], sizes
    reading_d, reading_h, doubled = _reading(*axes[0]), _reading(*axes[1]), _doubled_weights(*axes[2])
    if doubled:
        return doubled_backward(grad_y, shape, reading_d, reading_h, doubled, sizes)
    columns, weights, _ = _taps(*axes[2])
    set_row = reading_d.most * width
    block, rows, parts = _blocks(reading_h.bounds, set_row * grad_y.itemsize, planes * depth)
    kept = workspace("interpolate rows", (parts, rows * set_row), grad_y.dtype)
    grad_x = empty(planes * math.prod(sizes), grad_y.dtype)
    run = interpolate_grad_input_kernel
    run = run if max(grad_y.size, grad_x.size) > WORTH_THREADS else run.serial
    run(
        grad_y, shape, reading_d, reading_h, columns, weights, width, block, kept,
        *scratch_for_terms(parts, reading_d.most * reading_h.most, grad_y.dtype), grad_x,
    )  # fmt: skip
    return grad_x
