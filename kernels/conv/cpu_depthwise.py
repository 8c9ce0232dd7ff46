"""Convolutions in which every output channel reads one input channel, computed directly, plane by plane: those that
`cpu_planes.py` leaves.

Weights are [out, 1, taps]; output channel o reads input channel o // (out / in). Sums and gradients are computed in
vector registers, tile by tile (`cpu_depthwise_tiles.py`), from the planes where they lie. Only a stride along rows asks
for copies: a line that is read with a stride is split into its phases, and a gradient's line, whose columns read by
turns different taps, is put together from its residues.
"""

from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
from numba import prange

from ..cpu_jit import kernel, threads_for
from ..cpu_product import REGISTER_BYTES
from ..memory import workspace
from .cpu_depthwise_tiles import SHARED, STRIDED, add_products, add_taps, join_pairs, split_pairs
from .plan import covers_everything

_ROWS, _SHARED_LINES = SHARED.rows, SHARED.lines


class Lines(NamedTuple):
    """How results along an axis (depth or height) read the source along it.

    Result i of `count`, at first + i * every of the whole result, reads for each j of `taps` the source at
    i * step + offset + j * spacing, with tap number tap + j * tap_step.
    """

    count: int
    first: int
    every: int
    step: int
    offset: int
    spacing: int
    tap: int
    tap_step: int
    taps: int


class Columns(NamedTuple):
    """How results along a line read the source's line: numbers for kernels.

    Attributes:
        phases: into how many lines a source line is split; column c stands in line c % phases.
        split_pitch: elements from one phase's line to the next.
        counts: for each residue, how many results it has; result i of residue r is at r + i * len(counts).
        firsts: of each residue's entries in the table, and after them where the last one's end.
        table: flat, of four numbers a tap (`cpu_depthwise_tiles.py`).
        join_pitch: elements from one residue's line to the next.
    """

    phases: int
    split_pitch: int
    counts: np.ndarray
    firsts: np.ndarray
    table: np.ndarray
    join_pitch: int


@kernel
def depthwise_sum_kernel(
    source, weight, result, bias, relu, planes, channels, terms, multiplier, source_sizes, result_sizes, kernel, depth,
    rows, phases, split_pitch, counts, firsts, table, join_pitch, zeros, bands, split, joined,
):  # fmt: skip
    """result = activation(bias + sums of taps), for those depths and rows of it that `depth` and `rows` (Lines) say.

    A result plane of channel c adds up `terms` sums: with weight channels w = c * terms ..., each read from source
    channel w // multiplier of the same image. A task is a band of rows of a plane.

    Args:
        source: flat [images, source channels, *source_sizes]; result: flat [planes, *result_sizes].
        phases, split_pitch, counts, firsts, table, join_pitch: Columns.
        zeros: as long as a row of what tiles read.
        split, joined: scratch, a row a worker, for a plane's lines split, and for rows to be joined.
    """
    _, height, width = source_sizes
    source_size, result_size = source_sizes[0] * height * width, result_sizes[0] * result_sizes[1] * result_sizes[2]
    count_d, first_d, every_d, step_d, offset_d, spacing_d, tap_d, tap_step_d, taps_d = depth
    count_h, first_h, every_h, step_h, offset_h, spacing_h, tap_h, tap_step_h, taps_h = rows
    taps, residues, workers = kernel[0] * kernel[1] * kernel[2], len(counts), len(split)
    source_channels = channels * terms // multiplier
    splits, joins, together = phases > 1, residues > 1, step_h <= STRIDED.step and spacing_h == 1 and count_h > 1
    pitch = phases * split_pitch if splits else width
    for worker in prange(workers):
        lines, parts = split[worker], joined[worker]
        # Chosen out here: an array that a loop chooses has its references counted there, one by one.
        read, written = lines if splits else source, parts if joins else result
        for task in range(planes * bands * worker // workers, planes * bands * (worker + 1) // workers):
            plane, low, high = task, 0, count_h
            if bands > 1:
                plane, low, high = (
                    task // bands,
                    count_h * (task % bands) // bands,
                    count_h * (task % bands + 1) // bands,
                )
            image, channel = plane // channels, plane % channels
            b = bias[channel] if len(bias) else source.dtype.type(0)
            begin = max(0, low * step_h + offset_h)  # of the rows that are not split yet
            for row in range(low, high, _ROWS):
                tile_rows = min(_ROWS, high - row)
                if splits:  # then there is one term
                    base = (image * source_channels + channel // multiplier) * source_size
                    end = min(height, (row + tile_rows - 1) * step_h + offset_h + (taps_h - 1) * spacing_h + 1)
                    for line in range((end - begin) * source_sizes[0]):
                        place = line // (end - begin) * height + begin + line % (end - begin)
                        start, to = base + place * width, place * pitch
                        if phases == 2:
                            split_pairs(source, start, width, lines, to, to + split_pitch)
                        else:
                            for column in range(width):
                                lines[to + column % phases * split_pitch + column // phases] = source[start + column]
                    begin = max(begin, end)
                for d in range(count_d):
                    to = plane * result_size
                    to += ((first_d + d * every_d) * result_sizes[1] + first_h + row * every_h) * result_sizes[2]
                    for term in range(terms):
                        weight_channel = channel * terms + term
                        base = 0 if splits else (image * source_channels + weight_channel // multiplier) * source_size
                        for line_d in range(taps_d):
                            slice = d * step_d + offset_d + line_d * spacing_d
                            visible = height if 0 <= slice < source_sizes[0] else 0
                            line = 0
                            while line < taps_h:
                                shared = _SHARED_LINES if together and line + _SHARED_LINES <= taps_h else 1
                                first_line = (tap_d + line_d * tap_step_d) * kernel[1] + tap_h + line * tap_step_h
                                weight_start = weight_channel * taps + first_line * kernel[2]
                                line_step = tap_step_h * kernel[2]
                                adds = term + line_d + line > 0
                                ends = term + 1 == terms and line_d + 1 == taps_d and line + shared == taps_h
                                first_row = row * step_h + offset_h + line * spacing_h
                                for residue in range(residues):
                                    add_taps(
                                        read, base + slice * height * pitch, pitch, first_row, step_h, visible, zeros,
                                        weight, weight_start, line_step, shared, table, firsts[residue],
                                        firsts[residue + 1], written, residue * join_pitch if joins else to,
                                        residues * join_pitch if joins else every_h * result_sizes[2],
                                        tile_rows, counts[residue], adds, b, relu and ends,
                                    )  # fmt: skip
                                line += shared
                    if joins:
                        for r in range(tile_rows):
                            start, there = r * residues * join_pitch, to + r * every_h * result_sizes[2]
                            if residues == 2:
                                join_pairs(parts, start, start + join_pitch, result, there, result_sizes[2])
                            else:
                                for column in range(result_sizes[2]):
                                    place = start + column % residues * join_pitch + column // residues
                                    result[there + column] = parts[place]


@kernel
def depthwise_grad_weight_kernel(
    source, grad, grad_weight, grad_bias, batch, channels, multiplier, source_sizes, sizes, kernel, depth, rows, phases,
    split_pitch, table, zeros, split, sums,
):  # fmt: skip
    """grad_weight [channels, taps] and, unless it is empty, grad_bias [channels], from grad [batch, channels, *sizes].

    A task is a channel: its sums are kept by lanes over the whole batch.

    Args:
        source: flat [batch, channels / multiplier, *source_sizes]; grad: flat.
        depth, rows: Lines of the forward pass; phases, split_pitch, table: its Columns.
        zeros: as long as a row of either.
        split, sums: scratch, a row a worker, for a plane's lines split, and for a vector of each tap and of the bias.
    """
    _, height, width = source_sizes
    source_size, size = source_sizes[0] * height * width, sizes[0] * sizes[1] * sizes[2]
    count_d, _, _, step_d, offset_d, spacing_d, _, _, taps_d = depth
    count_h, _, _, step_h, offset_h, spacing_h, _, _, taps_h = rows
    taps, workers, lanes = kernel[0] * kernel[1] * kernel[2], len(split), REGISTER_BYTES // source.itemsize
    splits, together = phases > 1, step_h <= STRIDED.step and spacing_h == 1 and count_h > 1
    pitch = phases * split_pitch if splits else width
    tile_rows = _ROWS if count_h > 1 else 1
    for worker in prange(workers):
        lines, totals = split[worker], sums[worker]
        read = lines if splits else source
        for channel in range(channels * worker // workers, channels * (worker + 1) // workers):
            totals[:] = source.dtype.type(0)
            for image in range(batch):
                grad_base = (image * channels + channel) * size
                base = (image * (channels // multiplier) + channel // multiplier) * source_size
                begin = max(0, offset_h)  # of the rows that are not split yet
                for row in range(0, count_h, tile_rows):
                    if splits:
                        end = (min(row + tile_rows, count_h) - 1) * step_h + offset_h
                        end = min(height, end + (taps_h - 1) * spacing_h + 1)
                        for line in range((end - begin) * source_sizes[0]):
                            place = line // (end - begin) * height + begin + line % (end - begin)
                            start, to = base + place * width, place * pitch
                            if phases == 2:
                                split_pairs(source, start, width, lines, to, to + split_pitch)
                            else:
                                for column in range(width):
                                    lines[to + column % phases * split_pitch + column // phases] = source[
                                        start + column
                                    ]
                        begin = max(begin, end)
                    for d in range(count_d):
                        grad_start = grad_base + d * sizes[1] * sizes[2]
                        for line_d in range(taps_d):
                            slice = d * step_d + offset_d + line_d * spacing_d
                            inside = 0 <= slice < source_sizes[0]
                            start = (0 if splits else base) + slice * height * pitch
                            line = 0
                            while line < taps_h:
                                shared = _SHARED_LINES if together and line + _SHARED_LINES <= taps_h else 1
                                first_row = row * step_h + offset_h + line * spacing_h
                                # Rows that only results beyond the last would read count as zero.
                                last = (count_h - 1) * step_h + offset_h + (line + shared - 1) * spacing_h
                                visible = max(0, min(height, last + 1)) if inside else 0
                                to = 1 + (line_d * taps_h + line) * kernel[2]
                                with_bias = line_d + line == 0
                                add_products(
                                    read, start, pitch, first_row, step_h, visible, zeros, shared, table, grad,
                                    grad_start, sizes[2], row, tile_rows, count_h, sizes[2], totals, to, kernel[2],
                                    with_bias,
                                )  # fmt: skip
                                line += shared
            for tap in range(taps + 1):
                total = source.dtype.type(0)
                for lane in range(lanes):
                    total += totals[tap * lanes + lane]
                if tap > 0:
                    grad_weight[channel * taps + tap - 1] = total
                elif len(grad_bias):
                    grad_bias[channel] = total


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, 1, taps]."""
    depth, rows = _forward_lines(shape)
    multiplier = shape.out_channels // shape.in_channels
    columns = _forward_columns(shape, x.itemsize)
    _sum(x, weight, z, bias, relu, shape, 1, multiplier, shape.input, shape.output, depth, rows, columns)


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    if z.size == 0 or not covers_everything(shape):  # no tap reaches some positions
        x[...] = 0 if bias is None else (np.maximum(bias, 0) if relu else bias)[:, None]
    terms, columns = shape.out_channels // shape.in_channels, _gradient_columns(shape, x.itemsize)
    for depth in _residues(shape, 0):
        for rows in _residues(shape, 1):
            _sum(z, weight, x, bias, relu, shape, terms, 1, shape.output, shape.input, depth, rows, columns)


def _sum(
    source, weight, result, bias, relu, shape, terms, multiplier, source_sizes, result_sizes, depth, rows, columns
):
    if result.size == 0 or source.size == 0:
        return
    batch, channels, _ = result.shape
    threads = threads_of(shape)
    planes = batch * channels
    bands = 1 if planes >= 4 * threads else min(-(-4 * threads // planes), -(-rows.count // _ROWS))
    workers = min(threads, planes * bands)
    split = source_sizes[0] * source_sizes[1] * columns.phases * columns.split_pitch if columns.phases > 1 else 0
    run = depthwise_sum_kernel if workers > 1 else depthwise_sum_kernel.serial
    run(
        source.reshape(-1),
        weight.reshape(-1),
        result.reshape(-1),
        np.empty(0, source.dtype) if bias is None else bias,
        relu,
        planes,
        channels,
        terms,
        multiplier,
        source_sizes,
        result_sizes,
        shape.kernel,
        depth,
        rows,
        *columns,
        np.zeros(max(source_sizes[2], columns.phases * columns.split_pitch), source.dtype),
        bands,
        workspace("depthwise split", (workers, split), source.dtype),
        workspace("depthwise joined", (workers, _ROWS * len(columns.counts) * columns.join_pitch), source.dtype),
    )


def grad_weight(x, z, shape, weight, bias=None):
    """weight [out, 1, taps] from x [N, in, input positions] and z [N, out, P]; bias [out] = the sum of z."""
    threads = min(threads_of(shape), shape.out_channels)
    depth, rows = _forward_lines(shape)
    columns = _forward_columns(shape, x.itemsize)
    split = shape.input[0] * shape.input[1] * columns.phases * columns.split_pitch if columns.phases > 1 else 0
    lanes = REGISTER_BYTES // x.itemsize
    run = depthwise_grad_weight_kernel if threads > 1 else depthwise_grad_weight_kernel.serial
    run(
        x.reshape(-1),
        z.reshape(-1),
        weight.reshape(-1),
        np.empty(0, x.dtype) if bias is None else bias,
        shape.batch,
        shape.out_channels,
        shape.out_channels // shape.in_channels,
        shape.input,
        shape.output,
        shape.kernel,
        depth,
        rows,
        columns.phases,
        columns.split_pitch,
        columns.table,
        np.zeros(max(shape.input[2], shape.output[2], columns.phases * columns.split_pitch), x.dtype),
        workspace("depthwise split", (threads, split), x.dtype),
        workspace("depthwise sums", (threads, (shape.taps + 1) * lanes), x.dtype),
    )


def threads_of(shape):
    return threads_for(shape.batch * shape.out_channels * shape.out_size * shape.taps)


@lru_cache(maxsize=256)
def _forward_lines(shape):
    """The depth and the rows of a convolution's results, read forward."""
    return tuple(
        Lines(out, 0, 1, stride, -padding, dilation, 0, 1, kernel)
        for kernel, out, stride, padding, dilation in list(zip(*shape[5:]))[:2]
    )


@lru_cache(maxsize=256)
def _residues(shape, axis) -> tuple[Lines, ...]:
    """How positions of x along an axis read z: those whose position has the same residue by the stride alike.

    Position q * stride + r reads with tap t the result's position q + (r + padding - t * dilation) / stride, where that
    is whole: with every (stride / divisor)-th tap, positions dilation / divisor apart.
    """
    size, kernel, _, stride, padding, dilation = (sizes[axis] for sizes in shape[4:])
    divisor = gcd(stride, dilation)
    lines = []
    for residue in range(min(stride, size)):
        taps = [t for t in range(kernel) if (residue + padding - t * dilation) % stride == 0]
        if taps:
            offset = (residue + padding - taps[-1] * dilation) // stride
            count = (size - residue + stride - 1) // stride
            spacing, tap_step = dilation // divisor, -(stride // divisor)
            lines.append(Lines(count, residue, stride, 1, offset, spacing, taps[-1], tap_step, len(taps)))
    return tuple(lines)


@lru_cache(maxsize=256)
def _forward_columns(shape, itemsize) -> Columns:
    """The columns of a convolution's results."""
    width, kernel, out, stride, padding, dilation = (sizes[2] for sizes in shape[4:])
    pitch = _whole_vectors(-(-width // stride), itemsize)
    table = []
    for tap in range(kernel):
        offset, phase = divmod(tap * dilation - padding, stride)
        length = max(0, -(-(width - phase) // stride))
        table.append((offset, length, (phase * pitch if stride > 1 else 0) + offset, tap))
    return Columns(stride, pitch, np.array([out]), np.array([0, kernel]), np.array(table).ravel(), 0)


@lru_cache(maxsize=256)
def _gradient_columns(shape, itemsize) -> Columns:
    """The columns of x's gradient, by their residues."""
    width, _, out, stride, _, _ = (sizes[2] for sizes in shape[4:])
    by_residue = {lines.first: lines for lines in _residues(shape, 2)}
    counts, firsts, table = [], [0], []
    for residue in range(stride):
        counts.append(max(0, -(-(width - residue) // stride)))
        if residue in by_residue:
            lines = by_residue[residue]
            for j in range(lines.taps):
                offset = lines.offset + j * lines.spacing
                table.append((offset, out, offset, lines.tap + j * lines.tap_step))
        firsts.append(len(table))
    pitch = _whole_vectors(counts[0], itemsize)
    return Columns(1, 0, np.array(counts), np.array(firsts), np.array(table, np.intp).ravel(), pitch)


def _whole_vectors(count, itemsize):
    """At least count elements that are whole vectors."""
    lanes = REGISTER_BYTES // itemsize
    return -(-count // lanes) * lanes
