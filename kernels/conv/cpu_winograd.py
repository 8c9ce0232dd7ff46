"""3x3 convolutions of stride 1 with 36 multiplications for 16 results where the sum as it is written takes 144.

F(4x4, 3x3) of A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): of every 6x6 patch of
x and every 3x3 kernel, 36 combinations are made (`cpu_winograd_transforms.py`); products are summed over channels for
each of the 36 apart, as matrix products; and 4x4 results are combinations of those sums. Rounding errors are about
twice those of the plain sum (tests/kernels/test_conv.py bounds them). An infinity becomes NaN in the whole patch that
it lies in.

With a dilation, the positions of a plane that are a multiple of it apart are a convolution of their own: only where a
patch's elements lie differs. A third axis is summed as it is written, one of its taps after the other.

Everything is computed a vector of channels at a time: planes are transposed into frames of that width as they are read,
and back as they are written. A task is some images, or some bands of patches of one, and some of their results.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from ..accumulate import copy_into
from ..cpu_jit import kernel, serial_kernel
from ..cpu_product import PANEL_BYTES, REGISTER_BYTES, copy_line, copy_vector, multiply_panels, panel_width, transpose
from ..memory import workspace, zeros
from .cpu_tiles import threads_of
from .cpu_winograd_transforms import POINTS, combine_gradient, combine_kernel, combine_patch, results_of
from .plan import INNER

TILE = 4  # results of a patch along each axis
_CHANNELS = 16  # with fewer, on either side, combining takes longer than it saves
_PATCHES = 16  # with fewer, so does combining the kernels
_WORTH = 2  # times as many multiplications of the plain sum
_WORK_BYTES = 3 << 18  # combined patches and their sums, in a core's second-level cache
_WEIGHT_BYTES = 10 << 20  # of combined kernels that are worth keeping for all tasks
_RESULTS, _TERMS, _ROWS = 64, 32, 50  # results and terms of kernels at a time; patches at a time, at least


def suits(shape) -> bool:
    """Whether this way is open for a convolution, and shorter."""
    if (
        shape.kernel[1:] != (3, 3)
        or shape.stride != (1, 1, 1)
        or min(shape.in_channels, shape.out_channels) < _CHANNELS * shape.groups
    ):
        return False
    for _, height, width in (shape.output, shape.input):
        patches = len(patches_of(height, width, *shape.dilation[1:]).rows)
        if shape.batch * patches < _PATCHES or 9 * height * width < _WORTH * POINTS * patches:
            return False
    return True


class Places(NamedTuple):
    """The patches of a plane, band by band: a band's results fill whole rows of the plane.

    Attributes:
        rows, columns: of each patch's first result.
        bands: each band's first patch, and the number of patches.
    """

    rows: np.ndarray
    columns: np.ndarray
    bands: np.ndarray


@lru_cache(maxsize=256)
def patches_of(height, width, row_step, column_step) -> Places:
    rows, columns, bands = [], [], [0]
    for band in range(0, height, TILE * row_step):
        for row in range(band, min(band + row_step, height)):
            for column in range(min(column_step, width)):
                across = range(column, width, TILE * column_step)
                rows += [row] * len(across)
                columns += across
        bands.append(len(rows))
    return Places(np.array(rows), np.array(columns), np.array(bands))


@serial_kernel
def combine_patches(
    x, start, channel_pitch, channels, plane, low, high, padding, dilation, rows, columns, gradient, frame,
    edge, combined, to, row_pitch, point_pitch,
):  # fmt: skip
    """combined[to + patch * row_pitch + point * point_pitch + channel] = the combinations of patches.

    Args:
        x: flat; channel c of the plane at start + c * channel_pitch.
        plane: its height and width; low, high: its rows that go into the frame.
        padding: what a patch begins before its first result, along the two axes.
        rows, columns: of the patches' first results.
        gradient: whether patches are 4x4, of the results' gradients.
        frame: scratch for high - low rows, a vector each position; edge: for 37 vectors, the last one zero.
    """
    lanes, width = REGISTER_BYTES // x.itemsize, plane[1]
    size = 4 if gradient else 6
    row_step, column_step = dilation[0] * width * lanes, dilation[1] * lanes
    zero = 36 * lanes
    for channel in range(0, channels, lanes):
        there = start + channel * channel_pitch + low * width
        transpose(x, there, channel_pitch, min(lanes, channels - channel), (high - low) * width, frame, 0, lanes)
        for patch in range(len(rows)):
            row, column = rows[patch] - padding[0], columns[patch] - padding[1]
            target = to + patch * row_pitch + channel
            last_row, last_column = row + (size - 1) * dilation[0], column + (size - 1) * dilation[1]
            if row >= low and last_row < high and column >= 0 and last_column < width:
                place = ((row - low) * width + column) * lanes
                if gradient:
                    combine_gradient(frame, place, row_step, column_step, combined, target, point_pitch)
                else:
                    combine_patch(frame, place, row_step, column_step, combined, target, point_pitch)
                continue
            for i in range(size):
                r = row + i * dilation[0]
                for j in range(size):
                    c = column + j * dilation[1]
                    inside = r >= low and r < high and c >= 0 and c < width
                    if inside:
                        copy_vector(frame, ((r - low) * width + c) * lanes, edge, (i * size + j) * lanes)
                    else:
                        copy_vector(edge, zero, edge, (i * size + j) * lanes)
            if gradient:
                combine_gradient(edge, 0, size * lanes, lanes, combined, target, point_pitch)
            else:
                combine_patch(edge, 0, size * lanes, lanes, combined, target, point_pitch)


@serial_kernel
def _combine_kernels(
    weight, start, result_pitch, term_pitch, results, terms, depth, flipped, taps, panels, to, point_pitch
):
    """panels[to + (d * POINTS + point) * point_pitch + term * panel width + result] for a vector of results."""
    lanes, width = REGISTER_BYTES // weight.itemsize, PANEL_BYTES // weight.itemsize
    inner = depth * 9
    if results < lanes:
        taps[: terms * inner * lanes] = weight.dtype.type(0)
    if flipped:
        # Copied first: lines so far apart are waited for together, where gathering would wait for one after the other.
        block, size = terms * inner * lanes, results * inner
        for term in range(terms):
            copy_line(weight, start + term * term_pitch, taps, block + term * size, size)
        if results == lanes:
            # No fewer rows than make a block; what is too much, the next term overwrites.
            for term in range(terms):
                transpose(
                    taps, block + term * size, inner, lanes, max(inner, lanes), taps, term * inner * lanes, lanes
                )  # fmt: skip
        else:
            for term in range(terms):
                for tap in range(inner):
                    there, here = taps[block + term * size + tap :], taps[(term * inner + tap) * lanes :]
                    for i in range(results):
                        here[i] = there[i * inner]
    else:
        transpose(weight, start, result_pitch, results, terms * inner, taps, 0, lanes)
    step = -lanes if flipped else lanes
    for term in range(terms):
        for d in range(depth):
            first = (term * inner + ((depth - d) * 9 - 1 if flipped else d * 9)) * lanes
            target = to + d * POINTS * point_pitch + term * width
            combine_kernel(taps, first, 3 * step, step, panels, target, point_pitch)


@serial_kernel
def _combine_panels(
    weight, start, result_pitch, term_pitch, results, terms, depth, flipped, taps, panels, to, point_pitch
):
    """As many whole panels as `results` need."""
    lanes, width = REGISTER_BYTES // weight.itemsize, PANEL_BYTES // weight.itemsize
    for first in range(0, results, width):
        for part in range(first, first + width, lanes):
            count = max(0, min(lanes, results - part))
            there = to + first // width * depth * POINTS * point_pitch + part - first
            for term in range(0, terms, _TERMS):
                _combine_kernels(
                    weight, start + part * result_pitch + term * term_pitch, result_pitch, term_pitch, count,
                    min(_TERMS, terms - term), depth, flipped, taps, panels, there + term * width, point_pitch,
                )  # fmt: skip


@kernel
def winograd_weight_kernel(weight, groups, results, terms, depth, flipped, result_pitch, term_pitch, combined):
    """combined [groups, panels, depth, POINTS, terms and a vector, panel width] = the combinations of all kernels."""
    width, lanes = PANEL_BYTES // weight.itemsize, REGISTER_BYTES // weight.itemsize
    panels, point_pitch = (results + width - 1) // width, terms * width + lanes
    for index in prange(groups * panels):
        group, first = index // panels, index % panels * width
        taps = np.empty((2 * _TERMS * depth * 9 + lanes) * lanes, weight.dtype)
        _combine_panels(
            weight, group * results * terms * depth * 9 + first * result_pitch, result_pitch, term_pitch,
            min(width, results - first), terms, depth, flipped, taps, combined, index * depth * POINTS * point_pitch,
            point_pitch,
        )  # fmt: skip


@serial_kernel
def _write_results(
    sums, start, row_pitch, point_pitch, bias, first_bias, relu, results, plane, low, high, dilation, rows, columns,
    lines, edge, z, to, channel_pitch,
):  # fmt: skip
    """Rows low..high - 1 of `results` planes of z, from the sums of the patches that fill them."""
    lanes, width = REGISTER_BYTES // z.itemsize, plane[1]
    for channel in range(0, results, lanes):
        for patch in range(len(rows)):
            row, column = rows[patch] - low, columns[patch]
            last_row, last_column = row + low + 3 * dilation[0], column + 3 * dilation[1]
            there, place = start + patch * row_pitch + channel, (row * width + column) * lanes
            line_step, step = dilation[0] * width * lanes, dilation[1] * lanes
            if last_row < high and last_column < width:
                results_of(sums, there, point_pitch, bias, first_bias + channel, relu, lines, place, line_step, step)
                continue
            results_of(sums, there, point_pitch, bias, first_bias + channel, relu, edge, 0, 4 * lanes, lanes)
            for i in range(min(4, (high - low - row + dilation[0] - 1) // dilation[0])):
                for j in range(min(4, (width - column + dilation[1] - 1) // dilation[1])):
                    copy_vector(edge, (4 * i + j) * lanes, lines, place + i * line_step + j * step)
        transpose(
            lines, 0, lanes, (high - low) * width, min(lanes, results - channel),
            z, to + channel * channel_pitch + low * width, channel_pitch,
        )  # fmt: skip


@kernel
def winograd_kernel(
    x, weight, ready, depth, flipped, result_pitch, term_pitch, z, bias, relu, batch, groups, channels, results,
    source, result, padding, dilation, rows, columns, bands, images, bands_at_a_time, parts, results_at_a_time,
    terms_at_a_time, frames, combined, panels, sums,
):  # fmt: skip
    """z [batch, groups * results, *result] = activation(weight x + bias), all flat.

    Args:
        weight: as it is, or if `ready` as winograd_weight_kernel leaves it.
        depth: taps along the first axis.
        bias: [groups * results], filled up with a vector.
        rows, columns, bands: of patches, as in Places.
        images, bands_at_a_time: of a task; parts: of a group's results, each in a task of its own.
        frames, combined, panels, sums: scratch, a row a worker.
    """
    width, lanes, workers = PANEL_BYTES // x.itemsize, REGISTER_BYTES // x.itemsize, len(frames)
    in_plane, out_plane = source[1] * source[2], result[1] * result[2]
    in_size, out_size = source[0] * in_plane, result[0] * out_plane
    channel_lanes = (channels + lanes - 1) // lanes * lanes
    # A vector more than a power of two: a patch's combinations, and a kernel's, would take each other's places in the
    # nearest cache.
    point_pitch = channel_lanes + lanes
    row_pitch, sum_pitch = POINTS * point_pitch, POINTS * results_at_a_time + lanes
    blocks = (len(bands) - 2 + bands_at_a_time) // bands_at_a_time
    result_panels = (results + width - 1) // width
    band_rows = TILE * dilation[1]
    # To zeros, where planes of results have different numbers of taps.
    adds = depth > 1 or padding[0] != 0 or result[0] > source[0]
    for worker in prange(workers):
        v, m, frame = combined[worker], sums[worker], frames[worker]
        edge = np.zeros(37 * lanes, x.dtype)
        taps = np.empty((2 * _TERMS * depth * 9 + lanes) * lanes, x.dtype)
        left_rows = np.arange(max(source[0], result[0]) * (v.size // (source[0] * row_pitch))) * row_pitch
        for task in range(worker, (batch + images - 1) // images * blocks * parts, workers):
            n, band = task // (blocks * parts) * images, task // parts % blocks * bands_at_a_time
            part = task % parts
            begin, end = (
                part * result_panels // parts * width,
                min((part + 1) * result_panels // parts * width, results),
            )
            task_images, last_band = min(images, batch - n), min(band + bands_at_a_time, len(bands) - 1)
            there_rows, there_columns = rows[bands[band] : bands[last_band]], columns[bands[band] : bands[last_band]]
            patches = len(there_rows)
            together = task_images * patches
            low, high = band * band_rows, min(last_band * band_rows, result[1])
            read_low = min(max(low - padding[1], 0), source[1])
            read_high = max(min(last_band * band_rows + 2 * dilation[1] - padding[1], source[1]), read_low)
            for group in range(groups):
                for plane in range(source[0]):
                    for image in range(task_images):
                        combine_patches(
                            x, ((n + image) * groups + group) * channels * in_size + plane * in_plane, in_size,
                            channels, (source[1], source[2]), read_low, read_high, (padding[1], padding[2]),
                            (dilation[1], dilation[2]), there_rows, there_columns, False, frame, edge,
                            v, (plane * together + image * patches) * row_pitch, row_pitch, point_pitch,
                        )  # fmt: skip
                for first in range(begin, end, results_at_a_time):
                    count = min(results_at_a_time, end - first)
                    if adds:
                        m[: result[0] * together * sum_pitch] = x.dtype.type(0)
                    for term in range(0, channels, terms_at_a_time):
                        terms = min(terms_at_a_time, channels - term)
                        if ready:
                            kernels, panel_pitch = weight, channels * width + lanes
                            panel_start = (group * result_panels + first // width) * depth * POINTS * panel_pitch
                            panel_start += term * width
                        else:
                            kernels, panel_pitch, panel_start = panels[worker], terms * width + lanes, 0
                            there = group * results * channels * depth * 9
                            there += first * result_pitch + term * term_pitch
                            _combine_panels(
                                weight, there, result_pitch, term_pitch, count, terms, depth, flipped, taps, kernels,
                                0, panel_pitch,
                            )  # fmt: skip
                        for d in range(depth):
                            shift = d * dilation[0] - padding[0]
                            from_plane, to_plane = max(0, -shift), min(result[0], source[0] - shift)
                            for point in range(POINTS):
                                multiply_panels(
                                    v, shift * together * row_pitch + point * point_pitch + term, left_rows,
                                    from_plane * together, to_plane * together, kernels,
                                    panel_start + (d * POINTS + point) * panel_pitch,
                                    depth * POINTS * panel_pitch, width, terms, (count + width - 1) // width,
                                    m, point * results_at_a_time, sum_pitch, adds or term > 0,
                                )  # fmt: skip
                    for plane in range(result[0]):
                        for image in range(task_images):
                            _write_results(
                                m, (plane * together + image * patches) * sum_pitch, sum_pitch, results_at_a_time,
                                bias, group * results + first, relu, count, (result[1], result[2]), low, high,
                                (dilation[1], dilation[2]), there_rows, there_columns, frame, edge,
                                z, (((n + image) * groups + group) * results + first) * out_size + plane * out_plane,
                                out_size,
                            )  # fmt: skip


class _Tasks(NamedTuple):
    """How much a task is, and how many of them there are: numbers for the kernel; `patches` are one's at most."""

    images: int
    bands: int
    parts: int
    count: int
    patches: int
    results: int
    terms: int
    ready: bool


@lru_cache(maxsize=256)
def _tasks(batch, groups, channels, results, depth, source, result, dilation, itemsize, threads) -> _Tasks:
    """How much a task is: what fits into the cache; whole images where they are small; something for each thread."""
    width = panel_width(itemsize)
    bands = np.diff(patches_of(*result[1:], *dilation[1:]).bands)
    image = int(bands.sum())
    ready = groups * results * channels * depth * POINTS * itemsize <= _WEIGHT_BYTES
    terms = -(-channels // -(-channels // (INNER if ready else _TERMS)))
    at_a_time = -(-min(results, _RESULTS) // width) * width
    room = _WORK_BYTES // (POINTS * itemsize * (channels * source[0] + at_a_time * result[0]))
    room = max(room, _ROWS // result[0])
    if image > room:
        images, rows = 1, max(1, room // int(bands.max()))
    else:
        # Combining kernels for each task takes longer than combining patches for each part of the results.
        images, rows = max(1, min(room // image, -(-batch // (2 * threads)) if ready else batch)), len(bands)
    rows = -(-len(bands) // -(-len(bands) // rows))  # tasks of about one size
    blocks = -(-batch // images) * -(-len(bands) // rows)
    parts = 1 if blocks >= 2 * threads else min(-(-results // width), -(-2 * threads // blocks))
    starts = range(0, len(bands), rows)
    patches = images * max(int(bands[start : start + rows].sum()) for start in starts)
    return _Tasks(images, rows, parts, blocks * parts, patches, at_a_time, terms, ready)


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in / groups, taps]."""
    _run(x, weight, False, shape, shape.in_channels, shape.out_channels, shape.input, shape.output, z, bias, relu)


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    _run(z, weight, True, shape, shape.out_channels, shape.in_channels, shape.output, shape.input, x, bias, relu)


def _run(x, weight, flipped, shape, channels, results, source, result, z, bias, relu):
    if z.size == 0:
        return
    threads, groups, depth = threads_of(shape), shape.groups, shape.kernel[0]
    channels, results = channels // groups, results // groups
    tasks = _tasks(shape.batch, groups, channels, results, depth, source, result, shape.dilation, x.itemsize, threads)
    workers = min(threads, tasks.count)
    width, lanes = panel_width(x.itemsize), REGISTER_BYTES // x.itemsize
    padding = shape.padding
    if flipped:
        padding = tuple((k - 1) * d - p for k, d, p in zip(shape.kernel, shape.dilation, padding))
    pitches = (shape.taps, results * shape.taps) if flipped else (channels * shape.taps, shape.taps)
    flat = weight.reshape(-1)
    panels = 0
    if tasks.ready:
        combined = workspace(
            "winograd weight", groups * -(-results // width) * depth * POINTS * (channels * width + lanes), x.dtype
        )
        transform = winograd_weight_kernel if workers > 1 else winograd_weight_kernel.serial
        transform(flat, groups, results, channels, depth, flipped, *pitches, combined)
        flat = combined
    else:
        panels = depth * POINTS * (tasks.terms * width + lanes) * (tasks.results // width)
    places = patches_of(*result[1:], *shape.dilation[1:])
    band = TILE * shape.dilation[1] * tasks.bands
    positions = max((band + 2 * shape.dilation[1]) * source[2], band * result[2])
    biases = zeros(groups * results + lanes, x.dtype)
    if bias is not None:
        copy_into(biases[: len(bias)], bias)
    run = winograd_kernel if workers > 1 else winograd_kernel.serial
    run(
        x.reshape(-1),
        flat,
        tasks.ready,
        depth,
        flipped,
        *pitches,
        z.reshape(-1),
        biases,
        relu,
        shape.batch,
        groups,
        channels,
        results,
        source,
        result,
        padding,
        shape.dilation,
        *places,
        tasks.images,
        tasks.bands,
        tasks.parts,
        tasks.results,
        tasks.terms,
        workspace("winograd frames", (workers, positions * lanes), x.dtype),
        workspace(
            "winograd patches",
            (workers, source[0] * tasks.patches * POINTS * (-(-channels // lanes) + 1) * lanes),
            x.dtype,
        ),
        workspace("winograd panels", (workers, panels), x.dtype),
        workspace("winograd sums", (workers, result[0] * tasks.patches * (POINTS * tasks.results + lanes)), x.dtype),
    )
