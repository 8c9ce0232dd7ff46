"""Convolutions as matrix products whose left matrix is never put together: its rows are read where they lie.

    correlate       z = W x
    spread          x = W^T z
    grad_weight     W = z x^T

What a task reads is transposed into a frame, [positions, channels] with the zeros around it. There the row of a result
position is one stretch for each row of the kernel, so products need only know where it begins. A gradient of x falls
apart into as many sums as its stride has residues (`plan.py`), which share a frame. Results are transposed back as they
are written. A task is some images, or some rows of results of one.
"""

import math

import numpy as np
from numba import prange

from ..accumulate import copy_into
from ..cpu_jit import kernel, serial_kernel
from ..cpu_product import PANEL_BYTES, REGISTER_BYTES, copy_line, copy_vector, multiply_panels, panel_width, transpose
from ..memory import workspace, zeros
from .cpu_frames_plan import plan_of
from .cpu_frames_results import write_results
from .cpu_tiles import threads_of
from .plan import INNER

_SUM_BYTES = 3 << 17  # with a frame, they share a core's second-level cache
_TERMS = 16  # of a row of the kernel, all channels
_PARTIAL_BYTES, _CHUNKS = 5 << 20, 8  # of a weight's gradient's sums; in so many parts the batch is summed at most


def suits(shape, gradient=False) -> bool:
    """Whether panels of results and stretches of terms are filled well enough, of correlate or of its gradient."""
    channels, results = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    if gradient:
        channels, results = results, channels
    width = panel_width(4)
    return channels * shape.kernel[2] >= _TERMS and 2 * results >= -(-results // width) * width


@serial_kernel
def fill_frame(x, start, channel_pitch, channels, source, low, frame, copy, to, columns):
    """copy[to + position * channels + channel] = x where there is a source, else zero.

    x: flat, the channels from `start`; low: the frame's first position along each axis; columns: scratch for rows that
    are shorter than a vector, which are transposed together.
    """
    lanes, zero = REGISTER_BYTES // x.itemsize, x.dtype.type(0)
    first_row, last_row = min(max(0, low[1]), source[1]), max(0, min(source[1], low[1] + frame[1]))
    first, last = min(max(0, low[2]), source[2]), max(0, min(source[2], low[2] + frame[2]))
    size = frame[2] * channels
    for d in range(frame[0]):
        plane = low[0] + d
        outside = plane < 0 or plane >= source[0] or first >= last
        there = start + plane * source[1] * source[2]
        if not outside and last - first < lanes and last_row > first_row:
            transpose(
                x, there + first_row * source[2], channel_pitch, channels, (last_row - first_row) * source[2],
                columns, 0, channels,
            )  # fmt: skip
        for r in range(frame[1]):
            row = low[1] + r
            line = copy[to : to + size]
            if outside or row < first_row or row >= last_row:
                line[:] = zero
            else:
                begin, end = (first - low[2]) * channels, (last - low[2]) * channels
                line[:begin] = zero
                line[end:] = zero
                if last - first < lanes:
                    place = ((row - first_row) * source[2] + first) * channels
                    copy_line(columns, place, copy, to + begin, end - begin)
                else:
                    transpose(
                        x, there + row * source[2] + first, channel_pitch, channels, last - first,
                        copy, to + begin, channels,
                    )  # fmt: skip
            to += size


@kernel
def conv_pack_weight_kernel(weight, order, groups, results, terms, taps, by_term, packed):
    """packed [groups, panels, taps of `order`, terms, panel width] = weight, filled up with zeros.

    weight: flat [groups * results, terms, taps], or [groups * terms, results, taps] if `by_term`.
    """
    width, lanes = PANEL_BYTES // weight.itemsize, REGISTER_BYTES // weight.itemsize
    panels = (results + width - 1) // width
    for index in prange(groups * panels):
        group, first = index // panels, index % panels * width
        columns = np.empty(terms * taps * lanes if not by_term else 0, weight.dtype)
        for part in range(0, width, lanes):
            count = max(0, min(lanes, results - first - part))
            start = group * results * terms * taps
            if not by_term:
                columns[: terms * taps * lanes if count < lanes else 0] = weight.dtype.type(0)
                there = start + (first + part) * terms * taps
                transpose(weight, there, terms * taps, count, terms * taps, columns, 0, lanes)
            for number in range(len(order)):
                to = ((index * len(order) + number) * terms) * width + part
                if by_term:
                    there = start + (first + part) * taps + order[number]
                    for term in range(terms):
                        source = weight[there + term * results * taps :]
                        target = packed[to + term * width : to + term * width + lanes]
                        for i in range(count):
                            target[i] = source[i * taps]
                        for i in range(count, lanes):
                            target[i] = weight.dtype.type(0)
                else:
                    for term in range(terms):
                        copy_vector(columns, (term * taps + order[number]) * lanes, packed, to + term * width)


@kernel
def conv_frames_kernel(
    x, packed, z, bias, relu, batch, groups, channels, results, source, result, counts, runs, left_rows, frame,
    before, step, every, units, images, rows, results_at_a_time, frames, columns, sums, lines,
):  # fmt: skip
    """z [batch, groups * results, *result] = activation(weight x + bias), all flat.

    Args:
        packed: as conv_pack_weight_kernel leaves the weight.
        bias: [groups * results], filled up with a vector.
        counts, runs, ... rows: of the Plan, counts being its sums.
        frames, columns, sums, lines: scratch, a row a worker.
    """
    width, workers = PANEL_BYTES // x.itemsize, len(frames)
    in_size, out_size = source[0] * source[1] * source[2], result[0] * result[1] * result[2]
    frame_size, blocks = frame[0] * frame[1] * frame[2] * channels, (units[1] + rows - 1) // rows
    panels, terms = (results + width - 1) // width, runs[:, 2].sum()
    for worker in prange(workers):
        sum_rows = np.zeros(len(counts) + 1, np.int64)
        for task in range(worker, (batch + images - 1) // images * units[0] * blocks, workers):
            n, unit, row = task // (units[0] * blocks) * images, task // blocks % units[0], task % blocks * rows
            task_images, task_rows = min(images, batch - n), min(rows, units[1] - row)
            for number in range(len(counts)):
                inside = max(0, min(task_rows, counts[number, 1] - row)) if unit < counts[number, 0] else 0
                sum_rows[number + 1] = sum_rows[number] + task_images * inside * counts[number, 2]
            low = unit * step[0] - before[0], row * step[1] - before[1], -before[2]
            for group in range(groups):
                for image in range(task_images):
                    start = ((n + image) * groups + group) * channels * in_size
                    fill_frame(
                        x, start, in_size, channels, source, low, frame, frames[worker], image * frame_size,
                        columns[worker],
                    )  # fmt: skip
                for first in range(0, panels * width, results_at_a_time):
                    count = min(results_at_a_time, panels * width - first)
                    for number in range(len(counts)):
                        first_run, positions = counts[number, 8], sum_rows[number + 1] - sum_rows[number]
                        places = left_rows[counts[number, 6] : counts[number, 6] + positions]
                        for run in range(first_run, first_run + counts[number, 9]):
                            for term in range(0, runs[run, 2], INNER):
                                packed_start = (group * panels * width + first) * terms
                                packed_start += (runs[run, 1] + term) * width
                                multiply_panels(
                                    frames[worker], runs[run, 0] + term, places, 0, positions,
                                    packed, packed_start, terms * width, width, min(INNER, runs[run, 2] - term),
                                    count // width, sums[worker], sum_rows[number] * results_at_a_time,
                                    results_at_a_time, run > first_run or term > 0,
                                )  # fmt: skip
                    for image in range(task_images):
                        to = (((n + image) * groups + group) * results + first) * out_size
                        for plane in range(unit * every[0], min((unit + 1) * every[0], result[0])):
                            write_results(
                                sums[worker], results_at_a_time, sum_rows, image, task_images, unit, row, task_rows,
                                counts, every, result, plane, bias[group * results + first :], relu, lines[worker],
                                z, to, min(count, results - first),
                            )  # fmt: skip


@kernel
def conv_frames_grad_weight_kernel(
    x, z, batch, groups, channels, results, source, result, runs, left_rows, frame, before, step, units, images, rows,
    parts, partial, frames, columns, gradients,
):  # fmt: skip
    """partial[chunk, group, term, result] = the sum over a chunk's images and positions of x z.

    Args:
        x: flat [batch, groups * channels, *source]; z: flat [batch, groups * results, *result].
        runs, left_rows, ... rows: of the Plan.
        parts: of a group's panels of results, each in a task of its own.
        partial: [chunks, groups, terms, results filled up to panels].
        frames, columns, gradients: scratch, a row a worker.
    """
    chunks, terms, pitch, flat = partial.shape[0], partial.shape[2], partial.shape[3], partial.reshape(-1)
    width, workers = PANEL_BYTES // x.itemsize, len(frames)
    in_size, out_size = source[0] * source[1] * source[2], result[0] * result[1] * result[2]
    frame_size, blocks = frame[0] * frame[1] * frame[2] * channels, (units[1] + rows - 1) // rows
    panels = pitch // width
    for worker in prange(workers):
        g = gradients[worker]
        for task in range(worker, chunks * groups * parts, workers):
            chunk, group, part = task // (groups * parts), task // parts % groups, task % parts
            begin, end = part * panels // parts * width, (part + 1) * panels // parts * width
            there, wide = min(results, end) - begin, end - begin
            last_image = (chunk + 1) * batch // chunks
            add = False
            for n in range(chunk * batch // chunks, last_image, images):
                task_images = min(images, last_image - n)
                for block in range(units[0] * blocks):
                    unit, row = block // blocks, block % blocks * rows
                    low = unit * step[0] - before[0], row * step[1] - before[1], -before[2]
                    image_positions = min(rows, units[1] - row) * units[2]
                    for image in range(task_images):
                        start = ((n + image) * groups + group) * channels * in_size
                        fill_frame(
                            x, start, in_size, channels, source, low, frame, frames[worker], image * frame_size,
                            columns[worker],
                        )  # fmt: skip
                        start = (((n + image) * groups + group) * results + begin) * out_size
                        start += (unit * units[1] + row) * units[2]
                        transpose(z, start, out_size, there, image_positions, g, image * image_positions * wide, wide)
                    positions = task_images * image_positions
                    for position in range(0, positions, INNER):
                        count = min(INNER, positions - position)
                        for run in range(len(runs)):
                            to = ((chunk * groups + group) * terms + runs[run, 1]) * pitch + begin
                            multiply_panels(
                                frames[worker], runs[run, 0], None, 0, runs[run, 2],
                                g, position * wide, width, wide, count, wide // width,
                                flat, to, pitch, add, left_rows[position : position + count],
                            )  # fmt: skip
                        add = True


@kernel
def conv_unpack_gradient_kernel(partial, order, results, channels, weight):
    """weight, flat [groups * results, channels, taps] = the sum of partial's chunks, in their order."""
    chunks, groups, terms, pitch = partial.shape
    taps, lanes, flat = len(order), REGISTER_BYTES // weight.itemsize, partial.reshape(-1)
    blocks, at_a_time = (results + lanes - 1) // lanes, min(channels, 32)
    for index in prange(groups * blocks):
        group, first = index // blocks, index % blocks * lanes
        lines = np.empty(at_a_time * taps * lanes, weight.dtype)
        for channel in range(0, channels, at_a_time):
            count = min(at_a_time, channels - channel)
            for number in range(taps):
                for c in range(count):
                    line = lines[(c * taps + order[number]) * lanes : (c * taps + order[number] + 1) * lanes]
                    there = (group * terms + number * channels + channel + c) * pitch + first
                    for chunk in range(chunks):
                        term = flat[chunk * groups * terms * pitch + there :]
                        for i in range(lanes):
                            line[i] = term[i] if chunk == 0 else line[i] + term[i]
            to = ((group * results + first) * channels + channel) * taps
            transpose(lines, 0, lanes, count * taps, min(lanes, results - first), weight, to, channels * taps)


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in / groups, taps]."""
    _run(x, weight, shape, False, shape.in_channels, shape.out_channels, shape.input, shape.output, z, bias, relu)


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    _run(z, weight, shape, True, shape.out_channels, shape.in_channels, shape.output, shape.input, x, bias, relu)


def _scratch(plan, workers, channels, source, dtype):
    frame = math.prod(plan.frame) * channels
    lanes = REGISTER_BYTES // dtype.itemsize
    # Of a row as many positions as frame and source have in common.
    common = min(source[2], plan.frame[2] - plan.before[2]) - max(0, -plan.before[2])
    short = min(plan.frame[1], source[1]) * source[2] * channels if common < lanes else 0
    yield workspace("conv frames", (workers, plan.images * frame + lanes), dtype)
    yield workspace("conv columns", (workers, short), dtype)


def _run(x, weight, shape, gradient, channels, results, source, result, z, bias, relu):
    if z.size == 0:
        return
    threads, groups = threads_of(shape), shape.groups
    plan = plan_of(shape, gradient, x.itemsize, 4 * threads)
    channels, results = channels // groups, results // groups
    width, lanes = panel_width(x.itemsize), REGISTER_BYTES // x.itemsize
    workers, padded = min(threads, plan.tasks(shape.batch)), -(-results // width) * width
    packed = workspace("conv weight", groups * padded * len(plan.order) * channels, x.dtype)
    pack = conv_pack_weight_kernel if workers > 1 else conv_pack_weight_kernel.serial
    pack(weight.reshape(-1), plan.order, groups, results, channels, shape.taps, gradient, packed)
    biases = zeros(groups * results + width, x.dtype)
    if bias is not None:
        copy_into(biases[: len(bias)], bias)
    positions = max(1, len(plan.left_rows))
    at_a_time = min(padded, max(width, _SUM_BYTES // (positions * x.itemsize) // width * width))
    run = conv_frames_kernel if workers > 1 else conv_frames_kernel.serial
    run(
        x.reshape(-1),
        packed,
        z.reshape(-1),
        biases,
        relu,
        shape.batch,
        groups,
        channels,
        results,
        source,
        result,
        plan.sums,
        plan.runs,
        plan.left_rows,
        plan.frame,
        plan.before,
        plan.step,
        plan.every,
        plan.units,
        plan.images,
        plan.rows,
        at_a_time,
        *_scratch(plan, workers, channels, source, x.dtype),
        workspace("conv sums", (workers, positions * at_a_time), x.dtype),
        workspace("conv lines", (workers, plan.rows * plan.every[1] * result[2] * lanes), x.dtype),
    )


def grad_weight(x, z, shape, weight):
    """weight [out, in / groups, taps] = the sum over images of z x^T, from x [N, in, input] and z [N, out, P]."""
    if shape.batch == 0:
        weight[...] = 0
        return
    threads, groups = threads_of(shape), shape.groups
    plan = plan_of(shape, False, x.itemsize, 1)
    channels, results = shape.in_channels // groups, shape.out_channels // groups
    width = panel_width(x.itemsize)
    panels, terms = -(-results // width), shape.taps * channels
    chunks = 1
    while 2 * chunks <= min(shape.batch, _CHUNKS, _PARTIAL_BYTES // (groups * terms * panels * width * x.itemsize)):
        chunks *= 2
    parts = min(panels, -(-2 * threads // (chunks * groups)))
    workers = min(threads, chunks * groups * parts)
    partial = workspace("conv partial", (chunks, groups, terms, panels * width), x.dtype)
    run = conv_frames_grad_weight_kernel if workers > 1 else conv_frames_grad_weight_kernel.serial
    run(
        x.reshape(-1),
        z.reshape(-1),
        shape.batch,
        groups,
        channels,
        results,
        shape.input,
        shape.output,
        plan.runs,
        plan.left_rows,
        plan.frame,
        plan.before,
        plan.step,
        plan.units,
        plan.images,
        plan.rows,
        parts,
        partial,
        *_scratch(plan, workers, channels, shape.input, x.dtype),
        workspace("conv sums", (workers, len(plan.left_rows) * -(-panels // parts) * width), x.dtype),
    )
    unpack = conv_unpack_gradient_kernel if workers > 1 else conv_unpack_gradient_kernel.serial
    unpack(partial, plan.order, results, channels, weight.reshape(-1))
