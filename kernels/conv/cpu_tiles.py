"""Convolutions as matrix products that are put together tile by tile in the cache (`plan.py` says what is summed).

    correlate       z = W x
    spread          x = W^T z
    grad_weight     W = z x^T

A task is some images, or some rows of results of one. Its thread copies what they read into frames, gathers columns of
the product's right matrix from these, multiplies, and writes the sums with bias and activation to their place: nothing
is written to memory but results, and no two threads write to one place.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel, threads_for
from ..cpu_product import (
    PANEL_BYTES,
    REGISTER_BYTES,
    copy_line,
    copy_vector,
    multiply_panels,
    pack_columns,
    panel_width,
    transpose,
)
from ..memory import workspace
from .plan import INNER, covers_everything, forward_sum, gradient_sums

_PARTIAL_BYTES = 1 << 22  # of a weight's gradient, all chunks of the batch together
_TERMS = 192  # positions that grad_weight sums at a time
_SLACK = REGISTER_BYTES // 4  # elements that copies of whole vectors may read or write past the end


@serial_kernel
def fill_frame(x, start, channels, source, low, step, padding, phases, frame, copy, to):
    """copy[to + (channel, phases, positions)] = x where there is a source, else zero.

    x: flat, the channels from `start`; low: the frame's first position along each axis; frame: how many it has.
    """
    zero = x.dtype.type(0)
    depth, height, width = source
    for channel in range(channels):
        for phase_d in phases[0]:
            for phase_h in phases[1]:
                for phase_w in phases[2]:
                    first = phase_w - padding[2] + low[2] * step[2]
                    begin = 0 if first >= 0 else min((step[2] - 1 - first) // step[2], frame[2])
                    end = max(begin, min((width - first + step[2] - 1) // step[2], frame[2]))
                    for position in range(frame[0] * frame[1]):
                        d = (low[0] + position // frame[1]) * step[0] + phase_d - padding[0]
                        h = (low[1] + position % frame[1]) * step[1] + phase_h - padding[1]
                        line = copy[to : to + frame[2]]
                        to += frame[2]
                        if d < 0 or d >= depth or h < 0 or h >= height:
                            line[:] = zero
                            continue
                        for i in range(begin):
                            line[i] = zero
                        for i in range(end, frame[2]):
                            line[i] = zero
                        there = start + ((channel * depth + d) * height + h) * width + first + begin * step[2]
                        if step[2] == 1:
                            copy_line(x, there, copy, to - frame[2] + begin, end - begin)
                        else:
                            inner, source_line = line[begin:end], x[there:]
                            for i in range(end - begin):
                                inner[i] = source_line[i * step[2]]


@serial_kernel
def _gather(
    frame, base, image_size, rows, row_pitch, row_length, position, count, shifts, furthest, width, pitch, columns
):
    """Term k of column i, what position + i reads at shifts[k], goes to columns, [panel of `width`][term][pitch].

    Positions count images, their rows and the places in these; (image, row, place) stands in the frame at
    base + image * image_size + row * row_pitch + place, and no shift is beyond `furthest`. Whole vectors are copied:
    what they write too much is overwritten by the next ones, or stands in the room that pitch leaves beyond width.
    """
    lanes = REGISTER_BYTES // columns.itemsize
    safe = len(frame) - lanes - furthest  # from beyond here whole vectors would be read past the end
    done = 0
    while done < count:
        line, place = (position + done) // row_length, (position + done) % row_length
        start = base + line // rows * image_size + line % rows * row_pitch + place
        length = min(row_length - place, count - done, width - done % width)
        for part in range(0, length, lanes):
            there, to = start + part, done // width * len(shifts) * pitch + done % width + part
            if there <= safe:
                for k in range(len(shifts)):
                    copy_vector(frame, there + shifts[k], columns, to + k * pitch)
            else:
                for k in range(len(shifts)):
                    for i in range(min(lanes, length - part)):
                        columns[to + k * pitch + i] = frame[there + shifts[k] + i]
        done += length


@serial_kernel
def _store(
    sums, pitch, channels, position, count, rows, row_length, z, start, image_size, channel_size, row_pitch, step,
    bias, relu,
):  # fmt: skip
    """z = activation(sums + bias), in place before, for the positions position..position + count - 1 of _gather.

    (image, channel, row, place) stands at start + image * image_size + channel * channel_size + row * row_pitch +
    place * step.
    """
    zero = sums.dtype.type(0)
    for channel in range(channels):
        values = sums[channel * pitch : channel * pitch + count]
        b = bias[channel] if len(bias) else zero
        if relu:
            for i in range(count):
                value = values[i] + b
                values[i] = zero if value < 0 else value
        elif len(bias):
            for i in range(count):
                values[i] += b
        done = 0
        while done < count:
            line, place = (position + done) // row_length, (position + done) % row_length
            length = min(row_length - place, count - done)
            to = start + line // rows * image_size + channel * channel_size + line % rows * row_pitch + place * step
            if step == 1:
                copy_line(sums, channel * pitch + done, z, to, length)
            else:
                there = z[to : to + (length - 1) * step + 1]
                for i in range(length):
                    there[i * step] = values[done + i]
            done += length


@kernel
def conv_sum_kernel(
    x, weight, table, z, bias, relu, batch, groups, channels, results, source, result, count, first, every, step,
    padding, phases, frame, origin, copies, images, rows, columns, frames, gathered, sums,
):  # fmt: skip
    """One sum of plan.py: z[n, result channel, its positions] = activation(weight x frame + bias).

    Args:
        x: flat [batch, groups * channels, *source]; z: flat [batch, groups * results, *result].
        weight: flat [groups * results, len(table)].
        bias: [groups * results], or empty.
        frames, gathered, sums: scratch, a row a worker.
    """
    furthest = table.max()
    inner, in_size, out_size = len(table), source[0] * source[1] * source[2], result[0] * result[1] * result[2]
    channel_size = frame[0] * frame[1] * frame[2] * len(phases[0]) * len(phases[1]) * len(phases[2])
    blocks, workers, width = (count[1] + rows - 1) // rows, len(frames), PANEL_BYTES // x.itemsize
    pitch = width + REGISTER_BYTES // x.itemsize
    weight_rows = np.arange(results) * inner
    rounds = (inner + INNER - 1) // INNER
    terms_at_a_time = (inner + rounds - 1) // rounds
    # Rows that touch each other are one row, where they are read and where they are written.
    read_as_one = frame[2] == count[2]
    written_as_one = every[2] == 1 and every[1] * result[2] == count[2]
    for worker in prange(workers):
        for task in range(worker, (batch + images - 1) // images * count[0] * blocks, workers):
            n, plane, row = task // (count[0] * blocks) * images, task // blocks % count[0], task % blocks * rows
            task_images, task_rows = min(images, batch - n), min(rows, count[1] - row)
            if copies:
                for image in range(task_images):
                    fill_frame(
                        x, (n + image) * groups * channels * in_size, groups * channels, source, (plane, row, 0), step,
                        padding, phases, frame, frames[worker], image * groups * channels * channel_size,
                    )  # fmt: skip
            for group in range(groups):
                base, image_size = group * channels * channel_size, groups * channels * channel_size
                if not copies:
                    base += n * image_size + origin + (plane * frame[1] + row) * frame[2]
                to = (n * groups + group) * results * out_size
                to += ((first[0] + plane * every[0]) * result[1] + first[1] + row * every[1]) * result[2] + first[2]
                for position in range(0, task_images * task_rows * count[2], columns):
                    wide = min(columns, task_images * task_rows * count[2] - position)
                    for k in range(0, inner, terms_at_a_time):
                        terms = min(terms_at_a_time, inner - k)
                        _gather(
                            frames[worker] if copies else x, base, image_size, 1 if read_as_one else task_rows,
                            frame[2], count[2] * (task_rows if read_as_one else 1), position, wide,
                            table[k : k + terms], furthest, width, pitch, gathered[worker],
                        )  # fmt: skip
                        multiply_panels(
                            weight, group * results * inner + k, weight_rows, 0, results,
                            gathered[worker], 0, terms * pitch, pitch, terms, (wide + width - 1) // width,
                            sums[worker], 0, columns, k > 0,
                        )  # fmt: skip
                    _store(
                        sums[worker], columns, results, position, wide, 1 if written_as_one else task_rows,
                        count[2] * (task_rows if written_as_one else 1), z, to, groups * results * out_size, out_size,
                        every[1] * result[2], every[2], bias[group * results : (group + 1) * results], relu,
                    )  # fmt: skip


@kernel
def conv_grad_weight_kernel(
    x, z, table, batch, groups, channels, results, source, count, step, padding, phases, frame, origin, copies, images,
    rows, parts, partial, frames, gathered, panels,
):  # fmt: skip
    """partial[chunk, group, channel and tap, result channel] = the sum of x z over a chunk's images and positions.

    A task is one chunk of the images and one part of a group's channels.

    Args:
        x: flat [batch, groups * channels, *source]; z: flat [batch, groups * results, *count].
        parts: of a group's channels.
        partial: [chunks, groups, len(table), result channels filled up to panels].
        frames, gathered, panels: scratch, a row a worker.
    """
    chunks, pitch, workers, width = partial.shape[0], partial.shape[3], len(frames), PANEL_BYTES // x.itemsize
    flat, furthest = partial.reshape(-1), table.max()
    gathered_pitch = _TERMS + REGISTER_BYTES // x.itemsize
    gathered_rows = np.arange(len(table)) * gathered_pitch
    taps, blocks = len(table) // channels, (count[1] + rows - 1) // rows
    in_size, out_size, plane_size = (
        source[0] * source[1] * source[2],
        count[0] * count[1] * count[2],
        count[1] * count[2],
    )
    channel_size = frame[0] * frame[1] * frame[2] * len(phases[0]) * len(phases[1]) * len(phases[2])
    read_as_one = frame[2] == count[2]
    for worker in prange(workers):
        for task in range(worker, chunks * groups * parts, workers):
            chunk, group, part = task // (groups * parts), task // parts % groups, task % parts
            low, high = part * channels // parts, (part + 1) * channels // parts
            terms, shifts = (high - low) * taps, table[low * taps : high * taps]
            to = ((chunk * groups + group) * len(table) + low * taps) * pitch
            add = False
            for n in range(chunk * batch // chunks, (chunk + 1) * batch // chunks):
                for plane in range(count[0]):
                    for block in range(blocks):
                        row, task_rows = block * rows, min(rows, count[1] - block * rows)
                        if copies:
                            base = -low * channel_size
                            fill_frame(
                                x, ((n * groups + group) * channels + low) * in_size, high - low, source,
                                (plane, row, 0), step, padding, phases, frame, frames[worker], 0,
                            )  # fmt: skip
                        else:
                            base = (n * groups + group) * channels * in_size + origin
                            base += (plane * frame[1] + row) * frame[2]
                        z_start = (n * groups + group) * results * out_size + plane * plane_size + row * count[2]
                        for position in range(0, task_rows * count[2], _TERMS):
                            positions = min(_TERMS, task_rows * count[2] - position)
                            _gather(
                                frames[worker] if copies else x, base, 0, 1 if read_as_one else task_rows, frame[2],
                                count[2] * (task_rows if read_as_one else 1), position, positions, shifts,
                                furthest, _TERMS, gathered_pitch, gathered[worker],
                            )  # fmt: skip
                            pack_columns(z, z_start + position, out_size, positions, results, panels[worker], 0)
                            multiply_panels(
                                gathered[worker], 0, gathered_rows, 0, terms,
                                panels[worker], 0, positions * width, width, positions, pitch // width,
                                flat, to, pitch, add,
                            )  # fmt: skip
                            add = True


@kernel
def conv_sum_partial_kernel(partial, results, weight):
    """weight [groups * results, inner] = the transpose of partial's sum over chunks, in their order."""
    chunks, groups, inner, pitch = partial.shape
    flat, block = partial.reshape(-1), 64
    blocks = (inner + block - 1) // block
    for index in prange(groups * blocks):
        group, first = index // blocks, index % blocks * block
        last = min(first + block, inner)
        for chunk in range(1, chunks):
            for row in range(first, last):
                total, term = partial[0, group, row], partial[chunk, group, row]
                for i in range(pitch):
                    total[i] += term[i]
        start = (group * inner + first) * pitch
        transpose(flat, start, pitch, last - first, results, weight, group * results * inner + first, inner)


@kernel
def conv_transpose_weight_kernel(weight, groups, results, inner, transposed):
    """transposed [groups, inner, results] = weight [groups, results, inner], group by group."""
    block = 64
    blocks = (inner + block - 1) // block
    for index in prange(groups * blocks):
        group, first = index // blocks, index % blocks * block
        start, to = group * results * inner + first, (group * inner + first) * results
        transpose(weight, start, inner, results, min(block, inner - first), transposed, to, results)


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in / groups, taps]."""
    if z.size == 0:
        return
    threads = threads_of(shape)
    plan = forward_sum(shape, x.itemsize, threads)
    _run(plan, threads, x, weight, shape, shape.in_channels, z, shape.out_channels, shape.output, bias, relu)


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    if z.size == 0 or not covers_everything(shape):  # no tap reaches some positions
        x[...] = 0 if bias is None else (np.maximum(bias, 0) if relu else bias)[:, None]
    if x.size == 0 or z.size == 0:
        return
    out, channels = shape.out_channels // shape.groups, shape.in_channels // shape.groups
    transposed = workspace("conv weight", weight.size, weight.dtype)
    threads = threads_of(shape)
    transpose_weight = conv_transpose_weight_kernel if threads > 1 else conv_transpose_weight_kernel.serial
    transpose_weight(weight.reshape(-1), shape.groups, out, channels * shape.taps, transposed)
    by_tap = transposed.reshape(shape.in_channels, shape.taps, out)
    for plan in gradient_sums(shape, z.itemsize, threads):
        taps = by_tap if len(plan.taps) == shape.taps else by_tap[:, plan.taps]
        _run(plan, threads, z, taps, shape, shape.out_channels, x, shape.in_channels, shape.input, bias, relu)


def _run(plan, threads, x, weight, shape, channels, z, results, result, bias, relu):
    workers = min(threads, plan.tasks(shape.batch))
    inner = min(len(plan.table), INNER)
    frame_size = plan.images * channels * plan.frame_size + _SLACK if plan.copies else 0
    run = conv_sum_kernel if workers > 1 else conv_sum_kernel.serial
    run(
        x.reshape(-1),
        weight.reshape(-1),
        plan.table,
        z.reshape(-1),
        np.empty(0, x.dtype) if bias is None else bias,
        relu,
        shape.batch,
        shape.groups,
        channels // shape.groups,
        results // shape.groups,
        plan.source,
        result,
        plan.count,
        plan.first,
        plan.every,
        plan.step,
        plan.padding,
        plan.phases,
        plan.frame,
        plan.origin,
        plan.copies,
        plan.images,
        plan.rows,
        plan.columns,
        workspace("conv frames", (workers, frame_size), x.dtype),
        workspace("conv gathered", (workers, inner * plan.columns // 2 * 3), x.dtype),
        workspace("conv sums", (workers, results // shape.groups * plan.columns), x.dtype),
    )


def grad_weight(x, z, shape, weight):
    """weight [out, in / groups, taps] = the sum over images of z x^T, from x [N, in, input] and z [N, out, P]."""
    if shape.batch == 0:
        weight[...] = 0
        return
    threads = threads_of(shape)
    plan = forward_sum(shape, x.itemsize, threads)
    results, width = shape.out_channels // shape.groups, panel_width(x.itemsize)
    pitch, inner, channels = -(-results // width) * width, len(plan.table), shape.in_channels // shape.groups
    chunks = min(shape.batch, 8, max(1, _PARTIAL_BYTES // (shape.groups * inner * pitch * x.itemsize)))
    parts = min(channels, -(-2 * threads // (chunks * shape.groups)))
    workers, part_channels = min(threads, chunks * shape.groups * parts), -(-channels // parts)
    partial = workspace("conv partial", (chunks, shape.groups, inner, pitch), x.dtype)
    gathered = part_channels * shape.taps * (_TERMS + width // 2)
    run = conv_grad_weight_kernel if workers > 1 else conv_grad_weight_kernel.serial
    run(
        x.reshape(-1),
        z.reshape(-1),
        plan.table,
        shape.batch,
        shape.groups,
        channels,
        results,
        plan.source,
        plan.count,
        plan.step,
        plan.padding,
        plan.phases,
        plan.frame,
        plan.origin,
        plan.copies,
        plan.images,
        plan.rows,
        parts,
        partial,
        workspace("conv frames", (workers, part_channels * plan.frame_size + _SLACK if plan.copies else 0), x.dtype),
        workspace("conv gathered", (workers, gathered), x.dtype),
        workspace("conv sums", (workers, _TERMS * pitch), x.dtype),
    )
    sum_partial = conv_sum_partial_kernel if workers > 1 else conv_sum_partial_kernel.serial
    sum_partial(partial, results, weight.reshape(-1))


def threads_of(shape):
    return threads_for(
        shape.batch * shape.out_channels * shape.out_size * shape.in_channels // shape.groups * shape.taps
    )
