"""Interpolation by the nearest neighbour on NumPy arrays: rows are copied forward and added up backward.

Where the width doubles, a row is read once for two rows of pairs, and comes back as a sum of pairs.
"""

from functools import lru_cache

import numpy as np
from numba import get_num_threads, prange

from ..cpu_jit import kernel
from ..cpu_lines import memory, sum_of_few_lines, weighted_sum_line
from ..cpu_streams import end_streams, is_past_caches, stream_line
from ..memory import empty, workspace
from .cpu_doubled import WORTH_THREADS, scratch_for_terms
from .cpu_doubled_lines import add_pairs_of_lines, repeat_line


@kernel
def nearest_kernel(x, shape, rows_d, rows_h, columns, doubled, pairs, y):
    """y[plane, o, i, j] = x[plane, rows_d[o], rows_h[i], columns[j]].

    Args:
        x, y: flat [planes, D, H, W] and [planes, OD, OH, OW]. shape: (planes, D, H, W).
        rows_d, rows_h, columns: [OD | OH | OW, 1] int64. doubled: columns are 0, 0, 1, 1, ...
        pairs: [parts, 2 OW] scratch for two doubled rows that then go around the caches, or [parts, 0].
    """
    planes, depth, height, width = shape
    outer, inner, count = rows_d.size, rows_h.size, columns.size
    slabs, parts, streamed = planes * outer, pairs.shape[0], pairs.shape[1] > 0
    for part in prange(parts):
        pair = memory(pairs[part])
        for slab in range(part * slabs // parts, (part + 1) * slabs // parts):
            start = (slab // outer * depth + rows_d[slab % outer, 0]) * height * width
            to = slab * inner * count
            for i in range(inner):
                here = start + rows_h[i, 0] * width
                if i > 0 and rows_h[i, 0] == rows_h[i - 1, 0]:
                    if streamed:
                        repeat_line(memory(x), here, pair, 0, count, width)
                        stream_line(pair, 0, memory(y), to - count, 2 * count)
                    elif doubled:
                        repeat_line(memory(x), here, memory(y), to - count, to, width)
                    else:
                        sum_of_few_lines(memory(y), (to - count,), (1,), memory(y), to, count)
                elif doubled:
                    if i + 1 == inner or rows_h[i, 0] != rows_h[i + 1, 0]:
                        repeat_line(memory(x), here, memory(y), to, to, width)
                else:
                    for j in range(count):
                        y[to + j] = x[here + columns[j, 0]]
                to += count
        if streamed:
            end_streams()


@kernel
def nearest_grad_input_kernel(grad_y, shape, starts_d, starts_h, starts_w, doubled, lines, places, ones, grad_x):
    """grad_x = sum of grad_y over the output positions that copy each position.

    Args:
        grad_y, grad_x: flat [planes, OD, OH, OW] and [planes, D, H, W]. shape: (planes, OD, OH, OW).
        starts_d, starts_h, starts_w: position k of an axis is copied to outputs starts[k]..starts[k + 1] - 1.
        doubled: these are 2 k and 2 k + 1 across.
        lines: [parts, OW], places (int64): [parts, most rows copied from one] scratch. ones: as many ones.
    """
    planes, outer, inner, count = shape
    depth, height, width = starts_d.size - 1, starts_h.size - 1, starts_w.size - 1
    slabs, parts = planes * depth, lines.shape[0]
    for part in prange(parts):
        line, offsets = memory(lines[part]), memory(places[part])
        for slab in range(part * slabs // parts, (part + 1) * slabs // parts):
            plane, d = slab // depth, slab % depth
            to = slab * height * width
            for h in range(height):
                terms = 0
                for o in range(starts_d[d], starts_d[d + 1]):
                    for i in range(starts_h[h], starts_h[h + 1]):
                        offsets[terms] = ((plane * outer + o) * inner + i) * count
                        terms += 1
                if terms == 0:
                    grad_x[to : to + width] = 0
                elif doubled:
                    add_pairs_of_lines(memory(grad_y), offsets, memory(ones), terms, memory(grad_x), to, width)
                else:
                    weighted_sum_line(memory(grad_y), offsets, 0, memory(ones), terms, line, 0, count)
                    for w in range(width):
                        total = grad_y.dtype.type(0)
                        for j in range(starts_w[w], starts_w[w + 1]):
                            total += line[j]
                        grad_x[to + w] = total
                to += width


def forward(x, shape, indices, doubled, y):
    """x, y: flat, x [planes, D, H, W] of `shape`. indices: for each axis [count, 1], where its outputs are read.
    doubled: as above."""
    rows_d, _, columns = indices
    parts = _parts(shape[0] * len(rows_d))
    pair = 2 * len(columns) if doubled and is_past_caches(y.nbytes) else 0
    run = nearest_kernel if y.size > WORTH_THREADS else nearest_kernel.serial
    run(x, shape, *indices, doubled, workspace("interpolate rows", (parts, pair), y.dtype), y)


def backward(grad_y, shape, readings, doubled, sizes):
    """The gradient [planes, D, H, W], flat; sizes: (D, H, W). grad_y: flat, [planes, OD, OH, OW] of `shape`.
    readings: for each axis (starts as above, the most outputs of a position). doubled: as above."""
    (starts_d, most_d), (starts_h, most_h), (starts_w, _) = readings
    parts = _parts(shape[0] * sizes[0])
    lines = workspace("interpolate lines", (parts, shape[3]), grad_y.dtype)
    places, _ = scratch_for_terms(parts, most_d * most_h, grad_y.dtype)
    grad_x = empty(shape[0] * sizes[0] * sizes[1] * sizes[2], grad_y.dtype)
    ones, run = _ones(most_d * most_h, grad_y.dtype), nearest_grad_input_kernel
    run = run if max(grad_y.size, grad_x.size) > WORTH_THREADS else run.serial
    run(grad_y, shape, starts_d, starts_h, starts_w, doubled, lines, places, ones, grad_x)
    return grad_x


@lru_cache(maxsize=256)
def _ones(count, dtype):
    """Weights of 1. The same array each time: what new arrays of numbers hold, no captured step can know."""
    return np.ones(count, dtype)


def _parts(slabs):
    return max(1, min(slabs, 4 * get_num_threads()))
