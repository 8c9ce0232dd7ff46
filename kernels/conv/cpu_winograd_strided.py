"""4x4 convolutions of stride 2, and their transposes, with 100 multiplications for 16 results instead of 256.

Both axes fall apart into even and odd: what a convolution of stride 2 sums are four convolutions of stride 1, of the
four phases of x, by kernels of 2x2 taps. The four phases of its gradient are one such convolution each. F(4x4, 2x2), as
`cpu_winograd.py` has F(4x4, 3x3), takes 25 products of combinations (`cpu_winograd_transforms.py`) for 16 results where
the sum as it is written takes 64. As there, an infinity becomes NaN in the whole patch that it lies in. (3x3 kernels
lack 7 of the 16 taps: for them, frames are faster.)

    correlate       z = W x, terms are phases and channels of x
    spread          x = W^T z, phase by phase of x

A task is some images, or some rows of patches of one, and some of their results. Kernels are combined in each task:
that takes no longer than reading combinations from beyond the second-level cache.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_product import PANEL_BYTES, REGISTER_BYTES, copy_vector, multiply_panels, panel_width, transpose
from ..memory import workspace, zeros
from .cpu_frames import fill_frame
from .cpu_tiles import conv_transpose_weight_kernel, threads_of
from .cpu_winograd_transforms import SHORT_POINTS, combine_short_kernel, combine_short_patch, short_results_of

TILE = 4  # results of a patch along each axis
_LANES = REGISTER_BYTES // 4
_WORTH = 1.8  # times as many multiplications of the plain sum
_CHANNELS = 32  # with fewer, on either side, combining takes longer than it saves
_PATCHES = 32  # of a task, at least; with fewer in all, combining kernels takes longer than it saves
_RESULTS = 64  # at a time


class Plan(NamedTuple):
    """How patches are read, and results written: numbers for kernels.

    Attributes:
        origins: [4 phases, 2 axes] of the source's position that the first patch begins with.
        firsts: [4 phases, 2 axes] of the first result.
        taps: [4 phases] the number of the first tap of its kernel of 2x2; the next one is `tap_step` further along
            each axis.
        step: from a position of a patch to the next, in the source.
        every: from a result of a patch to the next.
        tiles: patches along each axis.
    """

    origins: np.ndarray
    firsts: np.ndarray
    taps: np.ndarray
    tap_step: int
    step: int
    every: int
    tiles: tuple[int, int]


def suits(shape, gradient=False) -> bool:
    """Whether this way is open for a convolution, or for the gradient of its x, and shorter."""
    if (
        shape.kernel != (1, 4, 4)
        or shape.stride != (1, 2, 2)
        or shape.dilation != (1, 1, 1)
        or (shape.groups, shape.padding[0], shape.input[0], shape.output[0]) != (1, 0, 1, 1)
        or min(shape.in_channels, shape.out_channels) < _CHANNELS
        or shape.in_channels % _LANES
        or shape.out_channels % _LANES
    ):
        return False
    down, across = plan_of(shape, gradient).tiles
    return (
        shape.batch * down * across >= _PATCHES
        and shape.taps * shape.out_size >= _WORTH * 4 * SHORT_POINTS * down * across
    )


@lru_cache(maxsize=256)
def plan_of(shape, gradient: bool) -> Plan:
    """The plan of correlate, or of its gradient with respect to x."""
    axes = []
    for size, out, padding in zip(shape.input[1:], shape.output[1:], shape.padding[1:]):
        if gradient:
            starts = [-((phase - padding) // 2) for phase in range(2)]  # position 2 start + phase - padding is in x
            firsts = [2 * start + phase - padding for phase, start in enumerate(starts)]
            origins = [start - 1 for start in starts]
            count = max(-(-(size - first) // 2) for first in firsts)
        else:
            origins, firsts, count = [phase - padding for phase in range(2)], [0, 0], out
        axes.append((origins, firsts, -(-count // TILE)))
    (top, first_row, down), (left, first_column, across) = axes
    phases = [(p, q) for p in range(2) for q in range(2)]
    first_tap = 2 if gradient else 0  # a gradient reads z with its kernels turned around
    return Plan(
        np.array([(top[p], left[q]) for p, q in phases]),
        np.array([(first_row[p], first_column[q]) for p, q in phases]),
        np.array([(first_tap + p) * 4 + first_tap + q for p, q in phases]),
        *((-2, 1, 2) if gradient else (2, 2, 1)),
        (down, across),
    )


@serial_kernel
def _combine_kernels(taps, results, first, count, term, terms, first_tap, tap_step, panels, point_pitch):
    """panels [panel][SHORT_POINTS][terms][panel width] = the combinations of `terms` kernels from `term` on.

    taps: flat [terms, 16, results], of which results first..first + count - 1 are taken.
    first_tap, tap_step: which taps a kernel has, as in Plan.
    """
    lanes, width = REGISTER_BYTES // taps.itemsize, PANEL_BYTES // taps.itemsize
    for result in range(0, count, lanes):
        to = result // width * SHORT_POINTS * point_pitch + result % width
        for t in range(terms):
            there = ((term + t) * 16 + first_tap) * results + first + result
            combine_short_kernel(
                taps, there, 4 * tap_step * results, tap_step * results, panels, to + t * width, point_pitch
            )  # fmt: skip


@serial_kernel
def _make_results(
    sums, start, row_pitch, point_pitch, patches, across, rows, first, every, there, bias, first_result, count, relu,
    edge, lines, place,
):  # fmt: skip
    """lines [vectors of results, images, rows, columns, lanes] = the results of a phase, from the sums of patches.

    Args:
        across, rows: patches of an image.
        first: row and column of the first result; every: from one to the next.
        there: rows and columns of lines.
        first_result, count: of the results; place: of the first one's in lines, in positions times lanes.
        edge: scratch for 16 vectors.
    """
    lanes, together, height, width = REGISTER_BYTES // sums.itemsize, across * rows, there[0], there[1]
    line_step, step = every * width * lanes, every * lanes
    for patch in range(patches):
        image, tile = patch // together, patch % together
        row, column = TILE * every * (tile // across) + first[0], TILE * every * (tile % across) + first[1]
        inside = row + 3 * every < height and column + 3 * every < width
        for result in range(0, count, lanes):
            source = start + patch * row_pitch + result
            to = (place + result * (patches // together) + image * lanes) * height * width
            to += (row * width + column) * lanes
            if inside:
                short_results_of(
                    sums, source, point_pitch, bias, first_result + result, relu, lines, to, line_step, step
                )
                continue
            short_results_of(sums, source, point_pitch, bias, first_result + result, relu, edge, 0, TILE * lanes, lanes)
            for i in range(min(TILE, (height - row + every - 1) // every)):
                for j in range(min(TILE, (width - column + every - 1) // every)):
                    copy_vector(edge, (TILE * i + j) * lanes, lines, to + i * line_step + j * step)


@kernel
def winograd_strided_kernel(
    x, taps, z, bias, relu, batch, channels, results, source, result, origins, firsts, first_taps, tap_step, step,
    every, tiles, images, rows, parts, results_at_a_time, terms_at_a_time, turned, frames, combined, panels, sums,
    lines,
):  # fmt: skip
    """z [batch, results, *result] = activation(weight x + bias), all flat; every = 1: correlate, 2: spread.

    Args:
        taps: [channels, 16, results].
        bias: [results].
        origins, ... tiles: of the Plan.
        images, rows: of a task, rows of patches; parts: of the results, each in a task of its own.
        turned, frames, combined, panels, sums, lines: scratch, a row a worker.
    """
    width, lanes, workers = PANEL_BYTES // x.itemsize, REGISTER_BYTES // x.itemsize, len(frames)
    in_size, out_size, spreads = source[0] * source[1], result[0] * result[1], every == 2
    low = origins[:, 0].min(), origins[:, 1].min()
    span = origins[:, 0].max() - low[0] + 1, origins[:, 1].max() - low[1] + 1
    bands, result_panels = (tiles[0] + rows - 1) // rows, (results + width - 1) // width
    frame_width = span[1] + TILE * tiles[1] * step
    # A vector more than a power of two: a patch's combinations, and a kernel's, would take each other's places in the
    # nearest cache.
    point_pitch, panel_pitch = channels + lanes, terms_at_a_time * width + lanes
    row_pitch, sum_pitch = SHORT_POINTS * point_pitch, SHORT_POINTS * results_at_a_time + lanes
    for worker in prange(workers):
        v, m, frame = combined[worker], sums[worker], frames[worker]
        edge = np.zeros(16 * lanes, x.dtype)
        left_rows = np.arange(images * rows * tiles[1]) * row_pitch
        for task in range(worker, (batch + images - 1) // images * bands * parts, workers):
            n, band, part = task // (bands * parts) * images, task // parts % bands * rows, task % parts
            begin, end = part * result_panels // parts * width, (part + 1) * result_panels // parts * width
            end = min(end, results)
            task_images, task_rows = min(images, batch - n), min(rows, tiles[0] - band)
            together = task_rows * tiles[1]
            patches, size = task_images * together, (span[0] + TILE * task_rows * step, frame_width)
            frame_size = size[0] * size[1] * lanes
            for index in range(task_images * (channels // lanes)):
                start = (n * channels + index * lanes) * in_size
                corner = 0, low[0] + TILE * band * step, low[1]
                fill_frame(
                    x, start, in_size, lanes, (1, source[0], source[1]), corner, (1, size[0], size[1]), frame,
                    index * frame_size, turned[worker],
                )  # fmt: skip
            top = TILE * every * band
            there = min(TILE * every * task_rows, result[0] - top), result[1]
            for phase in range(4):
                first_place = (origins[phase, 0] - low[0]) * frame_width + origins[phase, 1] - low[1]
                for patch in range(patches):
                    tile = patch % together
                    place = first_place + TILE * step * (tile // tiles[1] * frame_width + tile % tiles[1])
                    for channel in range(0, channels, lanes):
                        index = patch // together * (channels // lanes) + channel // lanes
                        combine_short_patch(
                            frame, index * frame_size + place * lanes, step * frame_width * lanes, step * lanes,
                            v, patch * row_pitch + channel, point_pitch,
                        )  # fmt: skip
                for first in range(begin, end, results_at_a_time):
                    count = min(results_at_a_time, end - first)
                    block = 0 if spreads else (first - begin) // results_at_a_time * patches * sum_pitch
                    for term in range(0, channels, terms_at_a_time):
                        _combine_kernels(
                            taps, results, first, count, term, terms_at_a_time, first_taps[phase], tap_step,
                            panels[worker], panel_pitch,
                        )  # fmt: skip
                        for point in range(SHORT_POINTS):
                            multiply_panels(
                                v, point * point_pitch + term, left_rows, 0, patches,
                                panels[worker], point * panel_pitch, SHORT_POINTS * panel_pitch, width,
                                terms_at_a_time, (count + width - 1) // width, m, block + point * results_at_a_time,
                                sum_pitch, term > 0 or (phase > 0 and not spreads),
                            )  # fmt: skip
                    if spreads or phase == 3:
                        _make_results(
                            m, block, sum_pitch, results_at_a_time, patches, tiles[1], task_rows, firsts[phase], every,
                            there, bias, first, count, relu, edge, lines[worker], (first - begin) * task_images,
                        )  # fmt: skip
            for result_vector in range(0, end - begin, lanes):
                for image in range(task_images):
                    start = (result_vector * task_images + image * lanes) * there[0] * there[1]
                    to = ((n + image) * results + begin + result_vector) * out_size + top * there[1]
                    transpose(lines[worker], start, lanes, there[0] * there[1], lanes, z, to, out_size)


class _Share(NamedTuple):
    images: int
    rows: int
    parts: int
    count: int


def _share(plan, batch, results, threads) -> _Share:
    """What a task is: enough patches to be worth the combination of kernels, and something for each thread."""
    down, across = plan.tiles
    rows = min(down, max(1, -(-_PATCHES // across)))
    rows = -(-down // -(-down // rows))  # tasks of about one size
    images = 1 if rows < down else min(batch, -(-_PATCHES // (down * across)))
    groups = -(-batch // images)
    if groups % threads and batch >= threads:
        groups += threads - groups % threads
    images = -(-batch // groups)
    blocks = -(-batch // images) * -(-down // rows)
    parts = 1 if blocks >= threads else min(-(-threads // blocks), -(-results // (2 * _LANES)))
    return _Share(images, rows, parts, blocks * parts)


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in, taps]."""
    _run(x, weight, shape, False, shape.in_channels, shape.out_channels, shape.input, shape.output, z, bias, relu)


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    _run(z, weight, shape, True, shape.out_channels, shape.in_channels, shape.output, shape.input, x, bias, relu)


def _run(x, weight, shape, gradient, channels, results, source, result, z, bias, relu):
    threads, plan = threads_of(shape), plan_of(shape, gradient)
    share = _share(plan, shape.batch, results, threads)
    workers = min(threads, share.count)
    width, lanes = panel_width(x.itemsize), REGISTER_BYTES // x.itemsize
    taps = workspace("conv weight", weight.size, x.dtype)
    turn = conv_transpose_weight_kernel if workers > 1 else conv_transpose_weight_kernel.serial
    if gradient:
        turn(weight.reshape(-1), channels, results, shape.taps, taps)
    else:
        turn(weight.reshape(-1), 1, results, channels * shape.taps, taps)
    at_a_time = min(-(-results // width) * width, _RESULTS)
    terms = next(n for n in (4 * _LANES, 3 * _LANES, 2 * _LANES, _LANES) if channels % n == 0)
    patches = share.images * share.rows * plan.tiles[1]
    span = np.ptp(plan.origins, axis=0) + 1
    height, across = (int(s) + TILE * n * plan.step for s, n in zip(span, (share.rows, plan.tiles[1])))
    positions = share.images * min(TILE * plan.every * share.rows, result[1]) * result[2]
    part = -(-results // (width * share.parts)) * width  # results of one, at most
    blocks = 1 if gradient else -(-part // at_a_time)
    run = winograd_strided_kernel if workers > 1 else winograd_strided_kernel.serial
    run(
        x.reshape(-1),
        taps,
        z.reshape(-1),
        zeros(results, x.dtype) if bias is None else bias,
        relu,
        shape.batch,
        channels,
        results,
        source[1:],
        result[1:],
        *plan,
        share.images,
        share.rows,
        share.parts,
        at_a_time,
        terms,
        workspace("winograd turned", (workers, min(height, source[1]) * source[2] * lanes), x.dtype),
        workspace("winograd frames", (workers, share.images * height * across * channels), x.dtype),
        workspace("winograd patches", (workers, patches * SHORT_POINTS * (channels + lanes)), x.dtype),
        workspace("winograd panels", (workers, SHORT_POINTS * (terms + 1) * at_a_time), x.dtype),
        workspace("winograd sums", (workers, blocks * patches * (SHORT_POINTS * at_a_time + lanes)), x.dtype),
        workspace("conv lines", (workers, positions * part), x.dtype),
    )
