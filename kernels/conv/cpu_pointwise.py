"""Convolutions with kernels of one position as matrix products on the images as they lie.

    correlate       z [out, P] = W x, image by image       both are packed, results go straight to their place
    spread          x [in, P] = W^T z                      the same with the weight transposed
    grad_weight     W = the sum over images of z x^T       columns of z are packed, x is read where it lies

The columns of all images follow each other, so that no panel (`cpu_product.py`) is filled by halves at the end of each
image; a panel that lies across two images has its sums copied. With a stride, the positions that are read are first
taken out of x, by correlate just before they are packed, and the gradient of x is set among zeros in the end.

All threads read the same packed weight. The bias is one term more of it, which a row of ones is multiplied with: adding
it to results that are written already took a tenth as long as the product, where sums are short.
"""

import math

import numpy as np
from numba import prange

from ..cpu_groups import multiply_groups, pack_groups
from ..cpu_jit import kernel
from ..cpu_product import PANEL_BYTES, TALL, multiply_panels, pack_columns, panel_width
from ..memory import workspace
from .cpu_pointwise_lines import add_rows, finish_rows, pack_lines, place_even, take_even
from .cpu_tiles import threads_of

_INNER = 320  # terms at a time: a group of rows of them stays in the first-level cache
_PANELS_BYTES = 1 << 19  # of packed columns, and
_SUMS_BYTES = 1 << 20  # of their results, at a time in the second-level cache
_WORTH_THREADS = 1 << 16  # elements: fewer are packed before another thread has woken up
_LEFT_ROWS = 240  # that are multiplied with one panel after the other


def suits(shape) -> bool:
    """Whether a convolution is of this kind: every channel with every other, one position, nothing padded."""
    inside = all((out - 1) * stride < size for out, stride, size in zip(shape.output, shape.stride, shape.input))
    return shape.taps == 1 and shape.groups == 1 and shape.padding == (0, 0, 0) and inside


@kernel
def pointwise_groups_kernel(left, row_pitch, step, rows, terms, bias, groups):
    """The left side of a product in groups of rows (`cpu_groups.py`), and one term more: the bias, if there is one.

    Element (row, k) of left is left[row * row_pitch + k * step]; groups are [rows / TALL, terms + 1, TALL], flat.
    """
    for group in prange((rows + TALL - 1) // TALL):
        row, size = group * TALL, (terms + 1) * TALL
        count, packed = min(TALL, rows - row), groups[group * size : (group + 1) * size]
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
    in_size, wide = input[0] * input[1] * input[2], output[2]
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
                        line, rows = place // wide, (place + count - 1) // wide - place // wide + 1
                        for term in range(lines):
                            for i in range(rows):
                                there = (image * inner + first + term) * in_size
                                there += (line + i) // output[1] * stride[0] * input[1] * input[2]
                                there += (line + i) % output[1] * stride[1] * input[2]
                                to = (term * rows + i) * wide
                                if stride[2] == 2:
                                    take_even(x, there, 2 * wide - 1, dense, to)
                                else:
                                    for c in range(wide):
                                        dense[to + c] = x[there + c * stride[2]]
                        pack_lines(
                            dense, place - line * wide, rows * wide, lines, column - low * width, count, packed, 0,
                            terms * width,
                        )  # fmt: skip
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
                for row in range(0, results, TALL):
                    group, count = groups[row * (inner + 1) + first * TALL :], min(TALL, results - row)
                    panel = low
                    while panel < high:
                        column, start = panel * width, (panel - low) * terms * width
                        image, place = column // size, column % size
                        whole = min((size - place) // width, high - panel)  # panels that lie in this image
                        if whole > 0:
                            to = (image * results + row) * size + place
                            multiply_groups(
                                group, count, packed, start, terms * width, width, terms, whole, z, to, size, part > 0
                            )
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
def pointwise_grad_weight_kernel(x, z, batch, channels, results, size, row_parts, parts, gradient, bias, panels):
    """gradient [channels, results filled up to panels] = the sum over images of x z^T, and bias [so many] = that of z.

    A task is a part of the channels and a part of the panels, over all images and positions in their order.

    Args:
        x: flat [batch, channels, size]; z: flat [batch, results, size].
        row_parts, parts: of the channels, and of the panels.
        panels: scratch, a row a worker, for a part's packed positions.
    """
    workers, width = len(panels), PANEL_BYTES // x.itemsize
    panel_count = (results + width - 1) // width
    pitch, rounds = panel_count * width, (size + _INNER - 1) // _INNER
    rows = np.arange(channels) * size
    for worker in prange(workers):
        packed = panels[worker]
        for task in range(worker, row_parts * parts, workers):
            row_part, part = task // parts, task % parts
            low, high = channels * row_part // row_parts, channels * (row_part + 1) // row_parts
            first, last = panel_count * part // parts, panel_count * (part + 1) // parts
            bias[first * width : last * width if row_part == 0 else first * width] = x.dtype.type(0)
            for n in range(batch):
                for turn in range(rounds):
                    begin, end = size * turn // rounds, size * (turn + 1) // rounds
                    terms, count = end - begin, min(last * width, results) - first * width
                    pack_columns(z, (n * results + first * width) * size + begin, size, terms, count, packed, 0)
                    for panel in range(first if row_part == 0 else last, last):
                        add_rows(packed, (panel - first) * terms * width, terms, bias, panel * width)
                    for row in range(low, high, _LEFT_ROWS):
                        multiply_panels(
                            x, n * channels * size + begin, rows, row, min(row + _LEFT_ROWS, high), packed, 0,
                            terms * width, width, terms, last - first, gradient, first * width, pitch, n + turn > 0,
                        )  # fmt: skip


@kernel
def pointwise_take_kernel(x, planes, input, output, stride, taken):
    """taken [planes, *output] = what a stride reads of x [planes, *input], both flat."""
    for plane in prange(planes):
        for row in range(output[0] * output[1]):
            line = (plane * input[0] + row // output[1] * stride[0]) * input[1] + row % output[1] * stride[1]
            to = (plane * output[0] * output[1] + row) * output[2]
            if stride[2] == 2:
                take_even(x, line * input[2], 2 * output[2] - 1, taken, to)
            else:
                for i in range(output[2]):
                    taken[to + i] = x[line * input[2] + i * stride[2]]


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
    panel_count = -(-results // width)
    parts = min(threads, panel_count)
    row_parts = min(-(-threads // parts), -(-channels // TALL))
    workers, part_panels = min(threads, parts * row_parts), -(-panel_count // parts)
    pitch = panel_count * width
    gradient = workspace("pointwise gradient", channels * pitch, x.dtype)
    totals = workspace("pointwise bias", pitch, x.dtype)
    run = pointwise_grad_weight_kernel if workers > 1 else pointwise_grad_weight_kernel.serial
    run(
        _taken(x, shape).reshape(-1), z.reshape(-1), shape.batch, channels, results, size, row_parts, parts, gradient,
        totals, workspace("conv panels", (workers, min(size, _INNER) * part_panels * width), x.dtype),
    )  # fmt: skip
    weight[:, :, 0] = gradient.reshape(channels, pitch)[:, :results].T
    if bias is not None:
        bias[...] = totals[:results]


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
    taken = terms * (min(size, task_panels * width) + 2 * output[2]) if input != output else 0
    run = pointwise_kernel if workers > 1 else pointwise_kernel.serial
    run(
        groups, int(bias is not None), x.reshape(-1), z.reshape(-1), relu, batch, inner, results, input, output, stride,
        tasks, workspace("conv panels", (workers, terms * task_panels * width), x.dtype),
        workspace("pointwise sums", (workers, task_panels * results * width), x.dtype),
        workspace("pointwise taken", (workers, taken), x.dtype),
    )  # fmt: skip


def _taken(x, shape):
    """x, or what a stride reads of it."""
    if shape.input == shape.output or x.size == 0:
        return x.reshape(*x.shape[:2], -1) if x.size else np.empty((*x.shape[:2], shape.out_size), x.dtype)
    taken = workspace("pointwise taken", (*x.shape[:2], math.prod(shape.output)), x.dtype)
    take = pointwise_take_kernel if threads_of(shape) > 1 else pointwise_take_kernel.serial
    take(x.reshape(-1), shape.batch * x.shape[1], shape.input, shape.output, shape.stride, taken.reshape(-1))
    return taken


def _given(bias, dtype):
    return np.empty(0, dtype) if bias is None else bias
