"""Windows that slide by the same step everywhere, on NumPy arrays: max_pool and avg_pool.

Forward, the input rows under a row of windows come side by side into scratch (an average's already summed), with
padding around them, and with a step of s across taken apart into s phases (`cpu_lines`): what the windows of a row read
at one of their places is then a line of neighbours, and a row of results the largest, or the sum, of as many lines as a
window has places. Backward, each row of an average's grad_x gathers in the same way from the rows of windows that read
it. A max pool keeps one byte a window, its winner's place in the window in C order, and backward goes by that.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from ..accumulate import fill
from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import join_line, memory, split_line, weighted_sum_line
from ..cpu_streams import end_streams, is_past_caches, stream_line
from ..cpu_threads import thread_count
from ..memory import constant, empty, workspace
from .cpu_sliding_windows import (
    axis_readers,
    first_codes,
    places_by_phase,
    places_in_lines,
    places_in_plane,
    places_in_slots,
    windows_of,
)
from .cpu_taps import largest_line, largest_of_squares_line
from .cpu_windows import has_few_places, maxima_line, means_line, spread_line

MOST_PLACES = 256  # of a max pool's window, so that a byte names them
_PLANE_BYTES = 1 << 19  # of a plane that stays in the second cache while it is put together
_ROWS_OUT = 16  # put together before they are written around the caches: whole cache lines
_INTEGER = np.dtype(np.int64)
_WORTH_THREADS = 1 << 14  # elements read under windows; fewer are done before another thread has woken up


@serial_kernel
def _next(unit, sizes):
    """The next row of (plane, outer, inner), of sizes[0] * sizes[1] to a plane."""
    plane, outer, inner = unit
    inner += 1
    if inner == sizes[1]:
        inner, outer = 0, outer + 1
    if outer == sizes[0]:
        outer, plane = 0, plane + 1
    return plane, outer, inner


@serial_kernel
def _unit(row, sizes):
    """A row's number as (plane, outer, inner)."""
    return row // (sizes[0] * sizes[1]), row // sizes[1] % sizes[0], row % sizes[1]


# ---- maximum


@kernel
def max_pool_kernel(x, numbers, first_codes, offsets, pitch, lines, starts, begins, y, codes):
    """y = largest value under each window, codes = its place in the window.

    Of equal values the first wins, and of NaNs, which beat all numbers, the last.

    Args:
        x: flat [planes, D, H, W]. y, codes (uint8): flat, one for each of the windows, of which `numbers` tells.
        first_codes: [windows across and some] uint8, the first place of each window that lies in the input.
        offsets: [places of a window], where in a part of `lines` the first window finds them.
        lines: [parts, rows of a window, stride across, pitch], -inf.
        starts, begins (int64): [parts, rows of a window] scratch.

    Windows of 2 x 2 next to each other are read where they lie.
    """
    windows = windows_of(numbers)
    (depth, height, width), counts, kernel_size = windows.shape, windows.counts, windows.kernel_size
    stride, padding, dilation = windows.stride, windows.padding, windows.dilation
    across, step, slot_size = counts[2], stride[2], stride[2] * pitch
    rows, parts = windows.planes * counts[0] * counts[1], lines.shape[0]
    squares = kernel_size == (1, 2, 2) and step == 2 and padding == (0, 0, 0) and dilation == (1, 1, 1)
    squares = squares and 2 * across <= width and (counts[1] - 1) * stride[1] + 2 <= height
    few = has_few_places(kernel_size[2], step, width) and dilation[2] == 1
    for part in prange(parts):
        start, begin = memory(starts[part]), memory(begins[part])
        source, line, places, result = memory(x), memory(lines[part]), memory(offsets), memory(y)
        unit = _unit(part * rows // parts, counts)
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            plane, o, i = unit
            unit = _next(unit, counts)
            if squares:
                upper = ((plane * depth + o * stride[0]) * height + i * stride[1]) * width
                largest_of_squares_line(source, upper, upper + width, result, memory(codes), row * across, across)
                continue
            if few:
                count = 0
                for a in range(kernel_size[0]):
                    d = o * stride[0] - padding[0] + a * dilation[0]
                    for b in range(kernel_size[1]):
                        h = i * stride[1] - padding[1] + b * dilation[1]
                        if 0 <= d < depth and 0 <= h < height:
                            start[count] = ((plane * depth + d) * height + h) * width
                            begin[count] = (a * kernel_size[1] + b) * kernel_size[2]
                            count += 1
                maxima_line(
                    source, start, begin, count, width, kernel_size[2], step, padding[2], memory(first_codes), result,
                    memory(codes), row * across, across,
                )  # fmt: skip
                continue
            slot, lowest = 0, -1
            for a in range(kernel_size[0]):
                d = o * stride[0] - padding[0] + a * dilation[0]
                for b in range(kernel_size[1]):
                    h = i * stride[1] - padding[1] + b * dilation[1]
                    if 0 <= d < depth and 0 <= h < height:
                        first = ((plane * depth + d) * height + h) * width
                        split_line(source, first, width, step, padding[2], line, slot, pitch)
                        lowest = (a * kernel_size[1] + b) * kernel_size[2] if lowest < 0 else lowest
                    else:
                        for k in range(slot_size):
                            line[slot + k] = -np.inf
                    slot += slot_size
            largest_line(
                line, places, offsets.size, lowest, memory(first_codes), result, memory(codes), row * across, across
            )  # fmt: skip


@kernel
def max_pool_indices_kernel(codes, numbers, indices):
    """indices = where in its flattened plane each window has found its largest value. All flat."""
    windows = windows_of(numbers)
    counts, kernel_size, stride = windows.counts, windows.kernel_size, windows.stride
    padding, dilation, (_, height, width) = windows.padding, windows.dilation, windows.shape
    for row in prange(windows.planes * counts[0] * counts[1]):
        _, o, i = _unit(row, counts)
        for j in range(counts[2]):
            code = np.int64(codes[row * counts[2] + j])
            d = o * stride[0] - padding[0] + code // (kernel_size[1] * kernel_size[2]) * dilation[0]
            h = i * stride[1] - padding[1] + code // kernel_size[2] % kernel_size[1] * dilation[1]
            w = j * stride[2] - padding[2] + code % kernel_size[2] * dilation[2]
            indices[row * counts[2] + j] = (d * height + h) * width + w


@kernel
def max_pool_grad_input_kernel(grad_y, codes, numbers, places, scratch, grad_x):
    """grad_x = sum of grad_y over the windows whose largest value each position is: 0, then window by window in order.

    Args:
        grad_x, grad_y, codes: flat, as x, y, codes in max_pool_kernel.
        places: [places of a window], where they lie in a plane, seen from its first.
        scratch: [parts, D * H * W] for planes that then go around the caches, or [parts, 0].
    """
    windows = windows_of(numbers)
    (depth, height, width), counts, stride, padding = windows.shape, windows.counts, windows.stride, windows.padding
    plane_size, across = depth * height * width, counts[2]
    parts, streamed = scratch.shape[0], scratch.shape[1] > 0
    for part in prange(parts):
        grads, winners, shifts, result = memory(grad_y), memory(codes), memory(places), memory(grad_x)
        for plane in range(part * windows.planes // parts, (part + 1) * windows.planes // parts):
            target, first = result, plane * plane_size
            if streamed:
                target, first = memory(scratch[part]), 0
            for position in range(plane_size):
                target[first + position] = 0
            start = plane * counts[0] * counts[1] * across
            for o in range(counts[0]):
                for i in range(counts[1]):
                    row = ((o * stride[0] - padding[0]) * height + i * stride[1] - padding[1]) * width - padding[2]
                    for j in range(across):
                        target[first + row + j * stride[2] + shifts[winners[start + j]]] += grads[start + j]
                    start += across
            if streamed:
                stream_line(target, 0, result, plane * plane_size, plane_size)
        if streamed:
            end_streams()


# ---- average


@kernel
def avg_pool_kernel(
    x, numbers, over_depth, over_height, over_width, places, ones, pitch, lines, offsets, scales, scratch, y
):
    """y = sum under each window / (over_depth * over_height * over_width), each divisor being one a window.

    Args:
        x: flat [planes, D, H, W]. y: flat, one for each of the windows, of which `numbers` tells, and which are not
            dilated.
        over_depth, over_height, over_width: [windows] of x's type. ones: [rows of a window or places across], 1.
        places: [places across], where a window's places begin in its phases.
        lines: [parts, stride across * pitch + W], zeros. offsets (int64): [parts, rows of a window] scratch.
        scales: [parts, 2, windows across] scratch for a row's divisors and what 1 is by them.
        scratch: [parts, rows * windows across] for so many rows, which then go around the caches, or [parts, 0].
    """
    windows = windows_of(numbers)
    (depth, height, width), counts, kernel_size = windows.shape, windows.counts, windows.kernel_size
    stride, padding = windows.stride, windows.padding
    across, step = counts[2], stride[2]
    rows, parts, rows_out = windows.planes * counts[0] * counts[1], lines.shape[0], scratch.shape[1] // across
    few = has_few_places(kernel_size[2], step, width)
    for part in prange(parts):
        line, offset, result = memory(lines[part]), memory(offsets[part]), memory(y)
        divisors, shares, divisor = memory(scales[part, 0]), memory(scales[part, 1]), x.dtype.type(0)
        low, high, waiting = part * rows // parts, (part + 1) * rows // parts, 0
        unit = _unit(low, counts)
        for row in range(low, high):
            plane, o, i = unit
            unit = _next(unit, counts)
            if over_depth[o] * over_height[i] != divisor:
                divisor = over_depth[o] * over_height[i]
                for j in range(across):
                    divisors[j] = divisor * over_width[j]
                    shares[j] = 1 / divisors[j]
            count, top = 0, i * stride[1] - padding[1]
            for a in range(kernel_size[0]):
                d = o * stride[0] - padding[0] + a
                if 0 <= d < depth:
                    first = ((plane * depth + d) * height + top) * width
                    for b in range(max(-top, 0), min(kernel_size[1], height - top)):
                        offset[count] = first + b * width
                        count += 1
            target, to = result, row * across
            if rows_out:
                target, to = memory(scratch[part]), waiting * across
                waiting += 1
            if few:
                means_line(
                    memory(x), offset, count, width, kernel_size[2], step, padding[2], divisors, shares, target, to,
                    across,
                )  # fmt: skip
            else:
                if step == 1:
                    weighted_sum_line(memory(x), offset, 0, memory(ones), count, line, padding[2], width)
                else:
                    weighted_sum_line(memory(x), offset, 0, memory(ones), count, line, step * pitch, width)
                    split_line(line, step * pitch, width, step, padding[2], line, 0, pitch)
                weighted_sum_line(line, memory(places), 0, memory(ones), kernel_size[2], target, to, across)
                for j in range(across):
                    target[to + j] /= divisors[j]
            if rows_out and (waiting == rows_out or row == high - 1):
                stream_line(target, 0, result, row * across - to, to + across)
                waiting = 0
        if rows_out:
            end_streams()


@kernel
def avg_pool_grad_input_kernel(
    grad_y, numbers, over_depth, over_height, over_width, readers_d, readers_h, places, starts, ones, margin, pitch,
    lines, offsets, weights, scales, scratch, grad_x,
):  # fmt: skip
    """grad_x = sum over the windows above each position of grad_y / divisor.

    Args:
        grad_x, grad_y, over_depth, ...: as x, y, ... in avg_pool_kernel. ones: [places across], 1.
        readers_d, readers_h: [D | H, places of a window], the window that has a position at a place, -1 if none has.
        places: [places across], where the grads of the windows begin that have a phase's positions at one of their
            places: of phase p, starts[p]..starts[p + 1] - 1.
        lines: [parts, (stride across + 1) * pitch], zeros up to `pitch`, where a row of grads lies from `margin` on.
        offsets (int64), weights: [parts, rows of a window] scratch. scales: [parts, windows across] scratch for what 1
        is by over_width.
        scratch: [parts, rows * W] for so many rows, which then go around the caches, or [parts, 0].
    """
    windows = windows_of(numbers)
    shape, counts, kernel_size = windows.shape, windows.counts, windows.kernel_size
    depth, height, width = shape
    across, step, padding = counts[2], windows.stride[2], windows.padding[2]
    rows, parts, rows_out = windows.planes * depth * height, lines.shape[0], scratch.shape[1] // width
    few = has_few_places(kernel_size[2], step, width)
    for part in prange(parts):
        line, offset, weight = memory(lines[part]), memory(offsets[part]), memory(weights[part])
        shares, result = memory(scales[part]), memory(grad_x)
        for j in range(across):
            shares[j] = 1 / over_width[j]
        low, high, waiting = part * rows // parts, (part + 1) * rows // parts, 0
        unit = _unit(low, shape)
        for row in range(low, high):
            plane, d, h = unit
            unit = _next(unit, shape)
            count = 0
            for a in range(kernel_size[0]):
                for b in range(kernel_size[1]):
                    o, i = readers_d[d, a], readers_h[h, b]
                    if o >= 0 and i >= 0:
                        offset[count] = ((plane * counts[0] + o) * counts[1] + i) * across
                        weight[count] = 1 / (over_depth[o] * over_height[i])
                        count += 1
            target, to = result, row * width
            if rows_out:
                target, to = memory(scratch[part]), waiting * width
                waiting += 1
            if count == 0:
                for w in range(width):
                    target[to + w] = 0
            elif few:
                spread_line(
                    memory(grad_y), offset, weight, count, across, shares, kernel_size[2], step, padding,
                    target, to, width,
                )  # fmt: skip
            else:
                weighted_sum_line(memory(grad_y), offset, 0, weight, count, line, margin, across)
                for j in range(across):
                    line[margin + j] *= shares[j]
                for phase in range(step):
                    first, terms = starts[phase], starts[phase + 1] - starts[phase]
                    length, there = (width + padding - phase + step - 1) // step, (phase + 1) * pitch
                    if terms:
                        weighted_sum_line(line, memory(places), first, memory(ones), terms, line, there, length)
                join_line(line, pitch, pitch, step, padding, target, to, width)
            if rows_out and (waiting == rows_out or row == high - 1):
                stream_line(target, 0, result, row * width - to, to + width)
                waiting = 0
        if rows_out:
            end_streams()


# ---- from arrays to kernels


def _parts(rows, threads):
    """Enough parts to keep all threads busy to the end, none of them empty; one where there is no thread but this."""
    return max(1, min(rows, 8 * threads)) if threads else 1


def _threads(elements) -> int:
    """How many threads so many elements are worth; 0 where they are worth no thread but this."""
    return thread_count() if elements > _WORTH_THREADS else 0


class _MaxPlan(NamedTuple):
    """What max_pool_kernel is called with: its tables, and the shapes of its scratch."""

    run: Callable
    tables: tuple
    splits: bool  # whether rows come side by side into lines
    lines: tuple[int, ...]
    rows: tuple[int, ...]


@lru_cache(maxsize=512)
def _max_plan(windows, threads) -> _MaxPlan:
    width, (outer, inner, across), (*_, places) = windows.shape[2], windows.counts, windows.kernel_size
    step, padding, dilation = windows.stride[2], windows.padding[2], windows.dilation[2]
    pitch = max((width + padding) // step + 1, across + (places - 1) * dilation // step)
    slots, parts = windows.places // places, _parts(windows.planes * outer * inner, threads)
    tables = first_codes(across, step, padding, dilation), places_in_slots(slots, places, step, dilation, pitch)
    splits = not has_few_places.py_func(places, step, width) or dilation > 1
    run = max_pool_kernel if threads else max_pool_kernel.serial
    return _MaxPlan(run, (windows.numbers, *tables, pitch), splits, (parts, slots, step, pitch), (parts, slots))


def max_forward(x, windows, y, return_indices):
    """x: flat and contiguous, y: flat, to be written. Returns the codes and, if asked for, the indices."""
    run, tables, splits, lines, rows = _max_plan(windows, _threads(y.size * windows.places))
    lines = workspace("pool lines", lines, x.dtype)
    if splits:
        fill(lines, -np.inf)
    starts, begins = workspace("pool starts", rows, _INTEGER), workspace("pool begins", rows, _INTEGER)
    codes = empty(y.size, np.uint8)
    run(x, *tables, lines, starts, begins, y, codes)
    indices = None
    if return_indices:
        indices = empty(y.size, np.int64)
        run = max_pool_indices_kernel if y.size > _WORTH_THREADS else max_pool_indices_kernel.serial
        run(codes, windows.numbers, indices)
    return codes, indices


@lru_cache(maxsize=512)
def _max_grad_plan(windows, itemsize, threads, past_caches):
    """What max_pool_grad_input_kernel is called with, and the shape of its scratch."""
    size = math.prod(windows.shape)
    streamed = past_caches and size * itemsize <= _PLANE_BYTES
    run = max_pool_grad_input_kernel if threads else max_pool_grad_input_kernel.serial
    places = places_in_plane(windows.shape, windows.kernel_size, windows.dilation)
    return run, (windows.numbers, places), (_parts(windows.planes, threads), size if streamed else 0)


def max_backward(grad_y, codes, windows, shape):
    """The gradient of x, of that shape; grad_y: flat and contiguous."""
    grad_x = empty(shape, grad_y.dtype)
    past_caches = is_past_caches(grad_x.nbytes)
    run, tables, scratch = _max_grad_plan(windows, grad_x.itemsize, _threads(grad_x.size), past_caches)
    run(grad_y, codes, *tables, workspace("pool scratch", scratch, grad_x.dtype), grad_x.ravel())
    return grad_x


class _AveragePlan(NamedTuple):
    """What avg_pool_kernel is called with: its tables, and the shapes of its scratch."""

    run: Callable
    tables: tuple
    splits: bool  # whether rows come side by side into lines
    lines: tuple[int, ...]
    offsets: tuple[int, ...]
    scales: tuple[int, ...]
    scratch: tuple[int, ...]


@lru_cache(maxsize=512)
def _average_plan(windows, dtype, threads, past_caches) -> _AveragePlan:
    width, (outer, inner, across), (*_, places) = windows.shape[2], windows.counts, windows.kernel_size
    step, rows = windows.stride[2], windows.places // places
    pitch = max((width + windows.padding[2]) // step + 1, across + (places - 1) // step)
    parts = _parts(windows.planes * outer * inner, threads)
    tables = places_in_lines(places, step, 1, pitch), constant(max(rows, places), dtype, 1), pitch
    splits = not has_few_places.py_func(places, step, width)
    run = avg_pool_kernel if threads else avg_pool_kernel.serial
    scratch = parts, _ROWS_OUT * across if past_caches else 0
    lines = parts, step * pitch + width
    return _AveragePlan(run, tables, splits, lines, (parts, rows), (parts, 2, across), scratch)


def average_forward(x, windows, divisors, y):
    """x: flat and contiguous, y: flat, to be written. divisors: of each axis, one a window, in x's type."""
    dtype = x.dtype
    plan = _average_plan(windows, dtype, _threads(y.size * windows.places), is_past_caches(y.nbytes))
    lines = workspace("pool lines", plan.lines, dtype)
    if plan.splits:
        fill(lines, 0)
    plan.run(
        x, windows.numbers, *divisors, *plan.tables, lines, workspace("pool offsets", plan.offsets, _INTEGER),
        workspace("pool scales", plan.scales, dtype), workspace("pool scratch", plan.scratch, dtype), y,
    )  # fmt: skip


class _AverageGradPlan(NamedTuple):
    """What avg_pool_grad_input_kernel is called with: its tables, and the shapes of its scratch."""

    run: Callable
    tables: tuple
    splits: bool  # whether rows come side by side into lines
    lines: tuple[int, ...]
    rows: tuple[int, ...]
    scales: tuple[int, ...]
    scratch: tuple[int, ...]


@lru_cache(maxsize=512)
def _average_grad_plan(windows, dtype, threads, past_caches) -> _AverageGradPlan:
    (depth, height, width), across, (*_, places) = windows.shape, windows.counts[2], windows.kernel_size
    step, rows, margin = windows.stride[2], windows.places // places, (places - 1) // windows.stride[2]
    pitch = margin + max(across, (width + windows.padding[2]) // step + 1)
    parts = _parts(windows.planes * depth * height, threads)
    tables = (
        axis_readers(windows, 0), axis_readers(windows, 1), *places_by_phase(places, step, margin),
        constant(places, dtype, 1), margin, pitch,
    )  # fmt: skip
    splits = not has_few_places.py_func(places, step, width)
    run = avg_pool_grad_input_kernel if threads else avg_pool_grad_input_kernel.serial
    lines, scratch = (parts, (step + 1) * pitch), (parts, _ROWS_OUT * width if past_caches else 0)
    return _AverageGradPlan(run, tables, splits, lines, (parts, rows), (parts, across), scratch)


def average_backward(grad_y, windows, divisors, shape):
    """The gradient of x, of that shape; grad_y: flat and contiguous."""
    dtype, grad_x = grad_y.dtype, empty(shape, grad_y.dtype)
    plan = _average_grad_plan(windows, dtype, _threads(grad_y.size * windows.places), is_past_caches(grad_x.nbytes))
    lines = workspace("pool lines", plan.lines, dtype)
    if plan.splits:
        fill(lines, 0)
    plan.run(
        grad_y, windows.numbers, *divisors, *plan.tables, lines, workspace("pool offsets", plan.rows, _INTEGER),
        workspace("pool weights", plan.rows, dtype), workspace("pool scales", plan.scales, dtype),
        workspace("pool scratch", plan.scratch, dtype), grad_x.ravel(),
    )  # fmt: skip
    return grad_x
