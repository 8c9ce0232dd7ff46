"""Convolutions with kernels of one position as matrix products on the images as they lie.

    correlate       z [out, P] = W x, image by image       both are packed, results go straight to their place
    spread          x [in, P] = W^T z                      the same with the weight transposed
    grad_weight     W = the sum over images of z x^T       both are packed, transposed

The columns of all images follow each other, so that no panel (`cpu_product.py`) is filled by halves at the end of each
image; a panel that lies across two images has its sums copied. With a stride, the positions that are read are first
taken out of x just before they are packed, and the gradient of x is set among zeros in the end.

All threads read the same packed weight. The bias is one term more of it, which a row of ones is multiplied with: adding
it to results that are written already took a tenth as long as the product, where sums are short. What is packed next is
asked for while tiles are multiplied: else a product waits for memory a fifth to a quarter of its time. A weight's
gradient is summed in chunks of the batch, so that no two threads pack the same images.
"""

import numpy as np
from numba import prange

from ..cpu_groups import multiply_groups, multiply_groups_ahead, pack_groups, shares
from ..cpu_jit import kernel, serial_kernel
from ..cpu_product import PANEL_BYTES, TALL, panel_width, transpose
from ..memory import workspace
from .cpu_pointwise_lines import add_rows, finish_rows, pack_lines, pack_turned, place_even, take_even
from .cpu_tiles import threads_of

_INNER = 320  # terms at a time: a group of rows of them stays in the first-level cache
_PANELS_BYTES = 1 << 19  # of packed columns, and
_SUMS_BYTES = 1 << 20  # of their results, at a time in the second-level cache
_PACKED_ROWS = 8 * TALL  # of the weight at a time: more of each column is read on end
_WORTH_THREADS = 1 << 16  # elements: fewer are packed before another thread has woken up
_LINES = 8  # of which one is asked for with each tile: as often as tiles ask
_POSITIONS = 400  # that a weight's gradient sums at a time, of
_ROWS = 20 * TALL  # packed results and
_COLUMNS = 512  # packed channels in the second-level cache
_CHUNKS, _PARTIAL_BYTES = 8, 1 << 20  # of a batch, summed apart, and of their sums, at most


def suits(shape) -> bool:
    """Whether a convolution is of this kind: every channel with every other, one position, nothing padded."""
    inside = all((out - 1) * stride < size for out, stride, size in zip(shape.output, shape.stride, shape.input))
    return shape.taps == 1 and shape.groups == 1 and shape.padding == (0, 0, 0) and inside


@serial_kernel
def take(x, start, input, output, stride, first, count, taken, to):
    """taken = result positions first..first + count - 1 of what a stride reads of the plane that starts there in x."""
    wide, line = output[2], first // output[2]
    d, h, column, done = line // output[1], line % output[1], first - line * output[2], 0
    while done < count:
        some = min(wide - column, count - done)
        lines = max(1, min((count - done) // wide, output[1] - h)) if column == 0 else 1
        there = start + (d * stride[0] * input[1] + h * stride[1]) * input[2] + column * stride[2]
        if stride[2] == 2:
            take_even(x, there, stride[1] * input[2], lines, some, taken, to + done)
        else:
            for line in range(lines):
                for i in range(some):
                    taken[to + done + line * some + i] = x[there + line * stride[1] * input[2] + i * stride[2]]
        done, column, h = done + lines * some, 0, h + lines
        if h == output[1]:
            d, h = d + 1, 0


@serial_kernel
def _next_lines(start, first, panels, group, size, input, output, stride):
    """For which memory a group of rows asks while it is multiplied with so many panels, of what will be packed next.

    That are lines of x from `start` on, which a stride reads from result position `first` on. Each group asks for every
    eighth line of a section of each panel or, with a stride, of each row; later groups for the next sections.

    Returns:
        (the element that its first panel asks for, from that to every next line, from panel to panel), zeros for a
        group that has nothing to ask for.
    """
    turn = group // _LINES
    if input == output:
        unit, units, sections, there = size, panels, 1, start + first
    else:
        unit, units = stride[1] * input[2], panels * size // output[2] + 1
        sections = (input[2] + size - 1) // size
        there = start + first // output[2] * unit + first % output[2] * stride[2]
    if turn // sections * panels >= units:
        return 0, 0, 0
    pitch = input[0] * input[1] * input[2]
    there += turn // sections * panels * unit + turn % sections * size
    return there + group % _LINES * pitch, _LINES * pitch, unit


@kernel
def pointwise_groups_kernel(left, row_pitch, step, rows, terms, bias, groups):
    """The left side of a product in groups of rows (`cpu_groups.py`), and one term more: the bias, if there is one.

    Element (row, k) of left is left[row * row_pitch + k * step]; groups are [rows / TALL, terms + 1, TALL], flat.
    """
    size = (terms + 1) * TALL
    for part in prange((rows + _PACKED_ROWS - 1) // _PACKED_ROWS):
        low, high = part * _PACKED_ROWS, min((part + 1) * _PACKED_ROWS, rows)
        if row_pitch == 1:
            pack_turned(left, low, step, terms, high - low, groups, low // TALL * size, size)
        for row in range(low, high, TALL):
            count, packed = min(TALL, rows - row), groups[row // TALL * size : (row // TALL + 1) * size]
            if row_pitch != 1:
                pack_groups(left, row * row_pitch, row_pitch, step, count, terms, packed)
            for r in range(TALL if len(bias) else 0):
                packed[terms * TALL + r] = bias[row + min(r, count - 1)]


@kernel
def pointwise_kernel(
    groups, constants, x, z, relu, batch, inner, results, input, output, stride, tasks, panels, sums, taken
):  # fmt: skip
    """z [batch, results, *output] = activation(left x + bias), all flat.

    Args:
        groups: left [results, inner] and the bias, as `pointwise_groups_kernel` packs them.
        constants: 1 if there is a bias: it is multiplied by a term of ones; else 0.
        x: [batch, inner, *input].
        tasks: in how many parts of about equal panels the columns of all images are computed.
        panels, sums, taken: scratch, a row a worker, for a task's packed columns, for panels across images, and for
            what a stride reads of x.
    """
    size, strided = output[0] * output[1] * output[2], input != output
    in_size = input[0] * input[1] * input[2]
    workers, width = len(panels), PANEL_BYTES // x.itemsize
    columns = batch * size
    panel_count = (columns + width - 1) // width
    rounds = (inner + _INNER - 1) // _INNER
    for worker in prange(workers):
        packed, across, dense = panels[worker], sums[worker], taken[worker]
        for task in range(tasks * worker // workers, tasks * (worker + 1) // workers):
            low, high = panel_count * task // tasks, panel_count * (task + 1) // tasks
            for part in range(rounds):
                first, last = inner * part // rounds, inner * (part + 1) // rounds
                ends = part + 1 == rounds
                lines, terms = last - first, last - first + (constants if ends else 0)
                column = low * width
                while column < min(high * width, columns):
                    image, place = column // size, column % size
                    count = min(size - place, min(high * width, columns) - column)
                    if strided:
                        for term in range(lines):
                            there = (image * inner + first + term) * in_size
                            take(x, there, input, output, stride, place, count, dense, 0)
                            pack_lines(dense, 0, 0, 1, column - low * width, count, packed, term * width, terms * width)
                    else:
                        pack_lines(
                            x, (image * inner + first) * size + place, size, lines, column - low * width, count, packed,
                            0, terms * width,
                        )  # fmt: skip
                    column += count
                for panel in range(high - low if terms > lines else 0):
                    ones = packed[(panel * terms + lines) * width :]
                    for i in range(width):
                        ones[i] = x.dtype.type(1)
                # Next come other terms of these columns, or the first ones of the next task's.
                next_column = panel_count * (task + 1) // tasks * width if ends else low * width
                next_start = (next_column // size * inner + (0 if ends else last)) * in_size
                for row in range(0, results, TALL):
                    ahead, ahead_step, ahead_part = _next_lines(
                        next_start, next_column % size, high - low, row // TALL, width, input, output, stride
                    )
                    group, count = groups[row * (inner + 1) + first * TALL :], min(TALL, results - row)
                    panel = low
                    while panel < high:
                        column, start = panel * width, (panel - low) * terms * width
                        image, place = column // size, column % size
                        whole = min((size - place) // width, high - panel)  # panels that lie in this image
                        if whole > 0:
                            to = (image * results + row) * size + place
                            multiply_groups_ahead(
                                group, count, packed, start, terms * width, width, terms, whole, z, to, size, part > 0,
                                x, ahead + (panel - low) * ahead_part, ahead_step, ahead_part, whole,
                            )  # fmt: skip
                            if ends and relu:
                                finish_rows(z, to, size, whole * width, count, z, to, size, relu)
                            panel += whole
                            continue
                        there = ((panel - low) * results + row) * width
                        multiply_groups(group, count, packed, start, 0, width, terms, 1, across, there, width, part > 0)
                        done = 0
                        while ends and done < min(width, columns - column):
                            image, place = (column + done) // size, (column + done) % size
                            some = min(size - place, min(width, columns - column) - done)
                            finish_rows(
                                across, there + done, width, some, count, z, (image * results + row) * size + place,
                                size, relu,
                            )  # fmt: skip
                            done += some
                        panel += 1


@kernel
def pointwise_grad_weight_kernel(
    z, x, batch, results, channels, input, output, stride, images, chunks, row_parts, parts, partial, totals, scratch
):
    """partial [chunks, results, channels filled up to panels] = the sum over a chunk's images of z x^T, and totals
    [chunks, results] = that of z.

    A task is a chunk, a part of the results and a part of the panels; it sums over positions in their order.

    Args:
        z: flat [batch, results, *output]; x: flat [batch, channels, *input].
        images: whose positions are summed at a time, where they are small.
        chunks, row_parts, parts: of the images, of the results, and of the panels.
        scratch: a row a worker: packed columns of x, packed rows of z, and what a stride reads of a panel's channels.
    """
    size, in_size, strided = output[0] * output[1] * output[2], input[0] * input[1] * input[2], input != output
    workers, width = len(scratch), PANEL_BYTES // x.itemsize
    panel_count, group_count = (channels + width - 1) // width, (results + TALL - 1) // TALL
    rounds = (size + _POSITIONS - 1) // _POSITIONS
    pitch, most = panel_count * width, images * ((size + rounds - 1) // rounds)
    blocks = (batch + images - 1) // images * rounds
    packed_size, groups_size = (panel_count + parts - 1) // parts * width * most, (_ROWS * most + width)
    for worker in prange(workers):
        packed, groups = scratch[worker][:packed_size], scratch[worker][packed_size:][:groups_size]
        dense = scratch[worker][packed_size + groups_size :]
        for task in range(worker, chunks * row_parts * parts, workers):
            chunk, row_part, part = task // (row_parts * parts), task // parts % row_parts, task % parts
            low, high = group_count * row_part // row_parts * TALL, group_count * (row_part + 1) // row_parts * TALL
            first, last = panel_count * part // parts, panel_count * (part + 1) // parts
            start = blocks * chunk // chunks
            for block in range(start, blocks * (chunk + 1) // chunks):
                n, turn = block // rounds * images, block % rounds
                begin, span = size * turn // rounds, size * (turn + 1) // rounds - size * turn // rounds
                some = min(images, batch - n)
                terms = some * span
                for panel in range(first, last):
                    count = min(width, channels - panel * width)
                    for image in range(some):
                        there = ((n + image) * channels + panel * width) * in_size
                        to = ((panel - first) * terms + image * span) * width
                        if strided:
                            for c in range(count):
                                take(x, there + c * in_size, input, output, stride, begin, span, dense, c * span)
                            transpose(dense, 0, span, count, span, packed, to, width)
                        else:
                            transpose(x, there + begin, size, count, span, packed, to, width)
                    if count < width:
                        for k in range(terms):
                            packed[((panel - first) * terms + k) * width + count :][: width - count] = x.dtype.type(0)
                for row in range(low, min(high, results), _ROWS):
                    rows = min(_ROWS, min(high, results) - row)
                    for group in range(0, rows, TALL):
                        count = min(TALL, rows - group)
                        for image in range(some):
                            pack_groups(
                                z, ((n + image) * results + row + group) * size + begin, size, 1, count, span,
                                groups[group * terms + image * span * TALL :],
                            )  # fmt: skip
                        if part == 0:
                            to = chunk * results + row + group
                            add_rows(groups, group * terms, terms, count, totals, to, block > start)
                    multiply_groups(
                        groups, rows, packed, 0, terms * width, width, terms, last - first, partial,
                        (chunk * results + row) * pitch + first * width, pitch, block > start,
                    )  # fmt: skip


@kernel
def pointwise_sum_kernel(partial, totals, chunks, results, channels, pitch, weight, bias):
    """weight [results, channels] and bias [results] = the sums of partial and totals over chunks, in their order."""
    for row in prange(results):
        line, total = weight[row * channels : (row + 1) * channels], totals[row]
        for chunk in range(chunks):
            part = partial[(chunk * results + row) * pitch :]
            for i in range(channels):
                line[i] = part[i] if chunk == 0 else line[i] + part[i]
            total = total if chunk == 0 else total + totals[chunk * results + row]
        bias[row] = total


@kernel
def pointwise_place_kernel(taken, planes, channels, input, output, stride, bias, relu, x):
    """x [planes, *input] = taken [planes, *output] where a stride reads it, elsewhere activation(bias), all flat."""
    for plane in prange(planes):
        between = bias[plane % channels] if len(bias) else x.dtype.type(0)
        if relu and between < 0:
            between = x.dtype.type(0)
        for row in range(input[0] * input[1]):
            d, h = row // input[1], row % input[1]
            to = (plane * input[0] * input[1] + row) * input[2]
            line = x[to : to + input[2]]
            if d % stride[0] or h % stride[1] or d // stride[0] >= output[0] or h // stride[1] >= output[1]:
                line[:] = between
                continue
            start = ((plane * output[0] + d // stride[0]) * output[1] + h // stride[1]) * output[2]
            if stride[2] == 2:
                place_even(taken, start, x, to, 2 * output[2] - 1, between)
                for i in range(2 * output[2] - 1, input[2]):
                    line[i] = between
            else:
                line[:] = between
                for i in range(output[2]):
                    line[i * stride[2]] = taken[start + i]


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in, 1]."""
    _multiply(
        weight, shape.in_channels, 1, x, z, bias, relu, shape.input, shape.output, shape.stride, threads_of(shape)
    )


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    threads, dense = threads_of(shape), x
    if shape.input != shape.output:
        dense = workspace("pointwise taken", (*x.shape[:2], shape.out_size), x.dtype)
    _multiply(weight, 1, shape.in_channels, z, dense, bias, relu, shape.output, shape.output, (1, 1, 1), threads)
    if dense is x:
        return
    place = pointwise_place_kernel if threads > 1 else pointwise_place_kernel.serial
    place(
        dense.reshape(-1), shape.batch * shape.in_channels, shape.in_channels, shape.input, shape.output, shape.stride,
        _given(bias, x.dtype), relu, x.reshape(-1),
    )  # fmt: skip


def grad_weight(x, z, shape, weight, bias):
    """weight [out, in, 1] from x [N, in, input positions] and z [N, out, P]; bias [out], or None, = the sum of z."""
    if shape.batch == 0:
        for gradient in (weight, bias):
            if gradient is not None:
                gradient[...] = 0
        return
    threads, width = threads_of(shape), panel_width(x.itemsize)
    channels, results, size = shape.in_channels, shape.out_channels, shape.out_size
    images, rounds = min(max(1, _POSITIONS // size), shape.batch), -(-size // _POSITIONS)
    panel_count, most = -(-channels // width), images * -(-size // rounds)
    pitch = panel_count * width
    chunks = max(1, min(-(-shape.batch // images), _CHUNKS, _PARTIAL_BYTES // (results * pitch * x.itemsize)))
    row_parts, parts = shares(-(-threads // chunks), results, channels, width)
    parts *= -(-pitch // (parts * _COLUMNS))
    workers = min(threads, chunks * row_parts * parts)
    partial = workspace("pointwise partial", chunks * results * pitch, x.dtype)
    totals = workspace("pointwise totals", chunks * results, x.dtype)
    scratch = -(-panel_count // parts) * width * most + _ROWS * most + width + width * most
    run, total = pointwise_grad_weight_kernel, pointwise_sum_kernel
    if workers == 1:
        run, total = run.serial, total.serial
    run(
        z.reshape(-1), x.reshape(-1), shape.batch, results, channels, shape.input, shape.output, shape.stride, images,
        chunks, row_parts, parts, partial, totals, workspace("conv panels", (workers, scratch), x.dtype),
    )  # fmt: skip
    total(partial, totals, chunks, results, channels, pitch, weight.reshape(-1), totals if bias is None else bias)


def _multiply(weight, row_pitch, step, x, z, bias, relu, input, output, stride, threads):
    batch, results, size = z.shape
    if z.size == 0:
        return
    inner, width = x.shape[1], panel_width(x.itemsize)
    groups = workspace("pointwise groups", -(-results // TALL) * TALL * (inner + 1), x.dtype)
    pack = pointwise_groups_kernel if threads > 1 and groups.size > _WORTH_THREADS else pointwise_groups_kernel.serial
    pack(weight.reshape(-1), row_pitch, step, results, inner, _given(bias, x.dtype), groups)
    panel_count, terms = -(-batch * size // width), min(inner, _INNER) + 1
    most = max(1, min(_PANELS_BYTES // (terms * PANEL_BYTES), _SUMS_BYTES // (results * PANEL_BYTES)))
    workers = min(threads, panel_count)
    tasks = -(-panel_count // (workers * most)) * workers
    task_panels = -(-panel_count // tasks)
    taken = min(size, task_panels * width) if input != output else 0
    run = pointwise_kernel if workers > 1 else pointwise_kernel.serial
    run(
        groups, int(bias is not None), x.reshape(-1), z.reshape(-1), relu, batch, inner, results, input, output, stride,
        tasks, workspace("conv panels", (workers, terms * task_panels * width), x.dtype),
        workspace("pointwise sums", (workers, task_panels * results * width), x.dtype),
        workspace("pointwise taken", (workers, taken), x.dtype),
    )  # fmt: skip


def _given(bias, dtype):
    return np.empty(0, dtype) if bias is None else bias
