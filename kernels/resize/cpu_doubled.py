"""Interpolation of NumPy arrays whose width doubles, as in most decoders and generators: the taps are the same at all
even and at all odd positions across, so that lines are resized in vectors.

Forward, an output row is first the weighted sum of input rows, whose width then doubles; backward, a row of grad_x is
first the sum of those of grad_y, which then halves. A few rows at a time wait in the first cache between the two: what
has just been stored is slow to load from another place.
"""

import numpy as np
from numba import get_num_threads, prange

from ..accumulate import fill
from ..cpu_jit import kernel
from ..cpu_lines import memory, weighted_sum_line
from ..cpu_streams import end_streams, is_past_caches, stream_line
from ..memory import empty, workspace
from .cpu_doubled_lines import double_line, halve_lines

_WAITING = 8  # rows
_APART = 32  # elements: two cache lines, as processors fetch them
WORTH_THREADS = 1 << 13  # elements of x or y; fewer are there before another thread has woken up


@kernel
def doubled_kernel(x, shape, rows_d, weights_d, rows_h, weights_h, weights, lines, places, products, scratch, y):
    """y = weighted sum of x over the taps of all three axes.

    Args:
        x, y: flat [planes, D, H, W] and [planes, OD, OH, 2 W]. shape: (planes, D, H, W).
        rows_d, rows_h: [OD | OH, taps] int64, where -1 ends a list of three or more taps early.
        weights_d, weights_h: their weights, of x's type.
        weights: those of even and then of odd positions across, as many as 4 margins: position 2 q reads from q -
            margin on, 2 q + 1 from the next place on; beyond either end lies the last element.
        lines: [parts, rows that wait, W + 2 margin], places (int64) and products: [parts, taps of D * taps of H]
            scratch.
        scratch: [parts, rows that wait * 2 W] for rows that then go around the caches, or [parts, 0].
    """
    planes, depth, height, width = shape
    outer, inner, margin = rows_d.shape[0], rows_h.shape[0], len(weights) // 4
    parts, waiting, pitch = lines.shape
    rows, streamed = planes * outer * inner, scratch.shape[1] > 0
    for part in prange(parts):
        line, offsets, factors = memory(lines[part]), memory(places[part]), memory(products[part])
        last = (part + 1) * rows // parts
        for first in range(part * rows // parts, last, waiting):
            count = min(waiting, last - first)
            plane, o, i = first // (outer * inner), first // inner % outer, first % inner
            for row in range(count):
                terms, to = 0, row * pitch + margin
                for s in range(rows_d.shape[1]):
                    for t in range(rows_h.shape[1]):
                        if rows_d[o, s] >= 0 and rows_h[i, t] >= 0:
                            offsets[terms] = ((plane * depth + rows_d[o, s]) * height + rows_h[i, t]) * width
                            factors[terms] = weights_d[o, s] * weights_h[i, t]
                            terms += 1
                weighted_sum_line(memory(x), offsets, 0, factors, terms, line, to, width)
                for k in range(margin):
                    line[to - margin + k], line[to + width + k] = line[to], line[to + width - 1]
                i += 1
                if i == inner:
                    i, o = 0, o + 1
                if o == outer:
                    o, plane = 0, plane + 1
            target, to = (memory(scratch[part]), 0) if streamed else (memory(y), first * 2 * width)
            for row in range(count):
                double_line(line, row * pitch, weights, target, to + row * 2 * width, width)
            if streamed:
                stream_line(target, 0, memory(y), first * 2 * width, count * 2 * width)
        if streamed:
            end_streams()


@kernel
def halved_kernel(grad_y, shape, reading_d, reading_h, weights, lines, places, products, grad_x):
    """grad_x = sum over the output positions that read each position of weight * grad_y.

    Args:
        grad_y, grad_x: flat [planes, OD, OH, 2 W] and [planes, D, H, W]. shape: (planes, OD, OH, 2 W).
        reading_d, reading_h: which rows read each row, as `_Reading` of cpu_interpolate has it. weights: as above.
        lines: [parts, rows that wait, 2 (W + 4 margin)], zeros. places (int64) and products: [parts, outputs of D *
            outputs of H, at least 4 margins] scratch.
    """
    planes, outer, inner, count = shape
    starts_d, outputs_d, weights_d, _, _ = reading_d
    starts_h, outputs_h, weights_h, _, _ = reading_h
    depth, height, width, margin = starts_d.size - 1, starts_h.size - 1, count // 2, len(weights) // 4
    parts, waiting, pitch = lines.shape
    half, rows = pitch // 2, planes * depth * height
    for part in prange(parts):
        line, offsets, factors = memory(lines[part]), memory(places[part]), memory(products[part])
        last = (part + 1) * rows // parts
        for first in range(part * rows // parts, last, waiting):
            count = min(waiting, last - first)
            for row in range(count):
                plane, d, h = (first + row) // (depth * height), (first + row) // height % depth, (first + row) % height
                terms = 0
                for s in range(starts_d[d], starts_d[d + 1]):
                    for t in range(starts_h[h], starts_h[h + 1]):
                        offsets[terms] = ((plane * outer + outputs_d[s]) * inner + outputs_h[t]) * 2 * width
                        factors[terms] = weights_d[s] * weights_h[t]
                        terms += 1
                even = row * pitch + 2 * margin
                if terms:
                    halve_lines(memory(grad_y), offsets, factors, terms, line, even, even + half, width)
                else:
                    for k in range(width):
                        line[even + k] = line[even + half + k] = 0
            for row in range(count):
                # The element at i of a line was read by positions i + margin - t of the even, one less of the odd ones.
                for t in range(2 * margin):
                    offsets[t], factors[t] = row * pitch + 3 * margin - t, weights[t]
                    offsets[2 * margin + t], factors[2 * margin + t] = offsets[t] + half - 1, weights[2 * margin + t]
                to = (first + row) * width
                weighted_sum_line(line, offsets, 0, factors, 4 * margin, memory(grad_x), to, width)
                left = right = grad_x.dtype.type(0)
                for t in range(4 * margin):
                    for k in range(1, margin + 1):
                        left += factors[t] * line[offsets[t] - k]
                        right += factors[t] * line[offsets[t] + width - 1 + k]
                grad_x[to] += left
                grad_x[to + width - 1] += right


def forward(x, shape, taps_d, taps_h, weights, y):
    """x, y: flat, x [planes, D, H, W] of `shape`. taps_d, taps_h: (index, weight) of two axes; weights: as above."""
    (rows_d, weights_d), (rows_h, weights_h) = taps_d, taps_h
    parts = _parts(shape[0] * len(rows_d) * len(rows_h))
    lines = workspace("interpolate lines", (parts, _WAITING, shape[3] + len(weights) // 2), x.dtype)
    scratch = scratch_for_terms(parts, rows_d.shape[1] * rows_h.shape[1], x.dtype)
    out = workspace("interpolate rows", (parts, _WAITING * 2 * shape[3] if is_past_caches(y.nbytes) else 0), x.dtype)
    run = doubled_kernel if max(x.size, y.size) > WORTH_THREADS else doubled_kernel.serial
    run(x, shape, rows_d, weights_d, rows_h, weights_h, weights, lines, *scratch, out, y)


def backward(grad_y, shape, reading_d, reading_h, weights, sizes):
    """The gradient [planes, *sizes], flat. grad_y: flat, [planes, OD, OH, OW] of `shape`."""
    planes, (depth, height, width) = shape[0], sizes
    parts = _parts(planes * depth * height)
    lines = workspace("interpolate lines", (parts, _WAITING, 2 * (width + len(weights))), grad_y.dtype)
    fill(lines, 0)
    scratch = scratch_for_terms(parts, max(reading_d.most * reading_h.most, len(weights)), grad_y.dtype)
    grad_x = empty(planes * depth * height * width, grad_y.dtype)
    run = halved_kernel if max(grad_y.size, grad_x.size) > WORTH_THREADS else halved_kernel.serial
    run(grad_y, shape, reading_d, reading_h, weights, lines, *scratch, grad_x)
    return grad_x


def _parts(rows):
    return max(1, min(rows // _WAITING, 4 * get_num_threads()))


def scratch_for_terms(parts, count, dtype):
    """Scratch for the places and weights of the lines that a row is the sum of: each part's in cache lines of its own,
    or two threads would take turns at writing to one."""
    count = -(-count // _APART) * _APART
    return (
        workspace("interpolate places", (parts, count), np.int64),
        workspace("interpolate weights", (parts, count), dtype),
    )
