"""The gradient of 3x3 kernels by the same combinations as `cpu_winograd.py`: its transpose with respect to the kernels.

    grad_weight = G^T (sum over patches of (A grad_z A^T) (B^T x B)) G

For each of the 36 points apart the sum over patches is a matrix product, [results, patches] times [patches, channels].
A task is one chunk of the images and one part of a group's results. Whatever the number of threads, the batch has the
same chunks, and these are added in their order.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_product import PANEL_BYTES, REGISTER_BYTES, copy_line, multiply_panels, panel_width, transpose
from ..memory import workspace
from .cpu_tiles import threads_of
from .cpu_winograd import TILE, combine_patches, patches_of
from .cpu_winograd_transforms import POINTS, gradient_of_kernel
from .plan import INNER

_WORK_BYTES = 1 << 19  # combined patches of a task, in a core's second-level cache
_MOST_BYTES = 9 << 20  # of them, where the sums that they are added to leave the cache anyway
_PARTIAL_BYTES = 3 << 20  # of a weight's gradient's sums, all chunks of the batch together
_CHUNKS, _PATCHES = 8, 32  # parts of a batch at most; patches of one, at least: more lose digits in longer sums


@serial_kernel
def _write_gradient(
    sums, chunk_size, chunks, start, pitch, point_pitch, results, channels, depth, weight, to, weight_pitch, taps
):  # fmt: skip
    """weight[to + result * weight_pitch + channel * 9 depth + tap] = the gradient from the sum of chunks.

    Sum (result, d, point, channel) stands at start + chunk * chunk_size + (d * POINTS + point) * point_pitch +
    result * pitch + channel.
    """
    lanes = REGISTER_BYTES // weight.itemsize
    rows, size = max(depth * 9, lanes), depth * 9  # no fewer rows than make a block
    tile, line = taps[: rows * lanes], taps[rows * lanes : 2 * rows * lanes]
    total = taps[2 * rows * lanes : (2 * rows + POINTS) * lanes]
    for result in range(results):
        for channel in range(0, channels, lanes):
            for d in range(depth):
                there = start + d * POINTS * point_pitch + result * pitch + channel
                if chunks == 1:
                    gradient_of_kernel(sums, there, 6 * point_pitch, point_pitch, tile, d * 9 * lanes, lanes)
                else:
                    for point in range(POINTS):
                        part = total[point * lanes : (point + 1) * lanes]
                        first = sums[there + point * point_pitch :]
                        for i in range(lanes):
                            part[i] = first[i]
                        for chunk in range(1, chunks):
                            term = sums[there + chunk * chunk_size + point * point_pitch :]
                            for i in range(lanes):
                                part[i] += term[i]
                    gradient_of_kernel(total, 0, 6 * lanes, lanes, tile, d * 9 * lanes, lanes)
            # What a channel's rows beyond the last tap write is overwritten by the next one.
            transpose(tile, 0, lanes, rows, lanes, line, 0, size)
            there = to + result * weight_pitch + channel * size
            copy_line(line, 0, weight, there, min(lanes, channels - channel) * size)


@kernel
def winograd_grad_weight_kernel(
    x, z, weight, batch, groups, channels, results, depth, source, result, padding, dilation, rows, columns, bands,
    images, bands_at_a_time, parts, results_at_a_time, channels_at_a_time, chunks, sums, at_once, frames, patches,
    gradients,
):  # fmt: skip
    """sums = products of combined patches, a chunk of the batch each; if `at_once`, weight = the gradient.

    Args:
        x: flat [batch, groups * channels, *source]; z: flat [batch, groups * results, *result].
        weight: flat [groups * results, channels, depth * 9].
        images, bands_at_a_time: whose patches are combined at a time.
        parts: of a group's results, each in a task of its own; results_at_a_time, channels_at_a_time: of those.
        sums: [chunks, groups, depth, POINTS, results, channels filled up to panels]; at_once: that all patches are
            combined at a time, so that sums of as many results and channels are enough, a row a worker.
        frames, patches, gradients: scratch, a row a worker.
    """
    width, lanes, workers = PANEL_BYTES // x.itemsize, REGISTER_BYTES // x.itemsize, len(frames)
    in_plane, out_plane = source[1] * source[2], result[1] * result[2]
    in_size, out_size = source[0] * in_plane, result[0] * out_plane
    pitch, result_lanes = (channels + width - 1) // width * width, (results + lanes - 1) // lanes * lanes
    row_pitch, gradient_pitch = pitch + lanes, result_lanes + lanes
    band_rows, flat = TILE * dilation[1], sums.reshape(-1)
    # Of one of the sums' points.
    sum_pitch = channels_at_a_time if at_once else pitch
    sum_size = sum_pitch * (results_at_a_time if at_once else results)
    channel_blocks = (pitch + channels_at_a_time - 1) // channels_at_a_time
    for worker in prange(workers):
        v, g, frame = patches[worker], gradients[worker], frames[worker]
        v_pitch, g_pitch = len(v) // POINTS, len(g) // POINTS
        edge, taps = np.zeros(37 * lanes, x.dtype), np.zeros((2 * max(depth * 9, lanes) + POINTS) * lanes, x.dtype)
        for task in range(worker, chunks * groups * parts, workers):
            chunk, group, part = task // (groups * parts), task // parts % groups, task % parts
            begin, end = part * results // parts, (part + 1) * results // parts
            result_blocks = (end - begin + results_at_a_time - 1) // results_at_a_time
            if at_once:
                start = worker * sums.shape[1]
            else:
                start = (chunk * groups + group) * depth * POINTS * results * pitch
            add = False
            last_image = (chunk + 1) * batch // chunks
            for n in range(chunk * batch // chunks, last_image, images):
                task_images = min(images, last_image - n)
                for band in range(0, len(bands) - 1, bands_at_a_time):
                    last_band = min(band + bands_at_a_time, len(bands) - 1)
                    there_rows = rows[bands[band] : bands[last_band]]
                    there_columns = columns[bands[band] : bands[last_band]]
                    count = len(there_rows)
                    together = task_images * count
                    low, high = band * band_rows, min(last_band * band_rows, result[1])
                    read_low = min(max(low - padding[1], 0), source[1])
                    read_high = max(min(last_band * band_rows + 2 * dilation[1] - padding[1], source[1]), read_low)
                    for image in range(task_images):
                        for plane in range(source[0]):
                            combine_patches(
                                x, ((n + image) * groups + group) * channels * in_size + plane * in_plane, in_size,
                                channels, (source[1], source[2]), read_low, read_high, (padding[1], padding[2]),
                                (dilation[1], dilation[2]), there_rows, there_columns, False, frame, edge,
                                v, (plane * together + image * count) * row_pitch, row_pitch, v_pitch,
                            )  # fmt: skip
                        for plane in range(result[0]):
                            combine_patches(
                                z, ((n + image) * groups + group) * results * out_size + begin * out_size
                                + plane * out_plane, out_size,
                                end - begin, (result[1], result[2]), low, high, (0, 0),
                                (dilation[1], dilation[2]), there_rows, there_columns, True, frame, edge,
                                g, (plane * together + image * count) * gradient_pitch, gradient_pitch, g_pitch,
                            )  # fmt: skip
                    for block in range(result_blocks * channel_blocks):
                        first = begin + block % result_blocks * results_at_a_time
                        channel = block // result_blocks * channels_at_a_time
                        last, wide = (
                            min(first + results_at_a_time, end),
                            min(channels_at_a_time, pitch - channel),
                        )
                        place = 0 if at_once else first * pitch + channel
                        for d in range(depth):
                            shift = d * dilation[0] - padding[0]
                            from_plane, to_plane = max(0, -shift), min(result[0], source[0] - shift)
                            terms = max(0, to_plane - from_plane) * together
                            for point in range(POINTS):
                                to = start + (d * POINTS + point) * sum_size + place
                                if terms == 0 and not add:
                                    for row in range(last - first):
                                        flat[to + row * sum_pitch : to + row * sum_pitch + wide] = x.dtype.type(0)
                                for term in range(0, terms, INNER):
                                    there = from_plane * together + term
                                    multiply_panels(
                                        g, point * g_pitch + there * gradient_pitch + first - begin, None,
                                        0, last - first,
                                        v, point * v_pitch + (there + shift * together) * row_pitch + channel, width,
                                        row_pitch, min(INNER, terms - term), wide // width, flat, to, sum_pitch,
                                        add or term > 0, gradient_pitch,
                                    )  # fmt: skip
                        if at_once:
                            _write_gradient(
                                flat, 0, 1, start, sum_pitch, sum_size, last - first, min(wide, channels - channel),
                                depth, weight, ((group * results + first) * channels + channel) * depth * 9,
                                channels * depth * 9, taps,
                            )  # fmt: skip
                    add = True


@kernel
def winograd_sum_kernel(sums, results, channels, weight):
    """weight, flat [groups * results, channels, depth * 9] = the gradient from sums [chunks, groups, depth, ...]."""
    chunks, groups, depth, pitch = sums.shape[0], sums.shape[1], sums.shape[2], sums.shape[5]
    lanes, flat = REGISTER_BYTES // weight.itemsize, sums.reshape(-1)
    size = groups * depth * POINTS * results * pitch
    for index in prange(groups * results):
        taps = np.zeros((2 * max(depth * 9, lanes) + POINTS) * lanes, weight.dtype)
        group, first = index // results, index % results
        _write_gradient(
            flat, size, chunks, (group * depth * POINTS * results + first) * pitch, pitch, results * pitch, 1,
            channels, depth, weight, index * channels * depth * 9, 0, taps,
        )  # fmt: skip


class _Shares(NamedTuple):
    """How much is computed at a time: numbers for the kernel; `patches` are those of all its images and bands."""

    images: int
    bands: int
    parts: int
    chunks: int
    patches: int
    results: int
    channels: int
    at_once: bool


@lru_cache(maxsize=256)
def _tasks(batch, groups, channels, results, depth, source, result, dilation, itemsize, threads) -> _Shares:
    width = panel_width(itemsize)
    bands = np.diff(patches_of(*result[1:], *dilation[1:]).bands)
    image, pitch = int(bands.sum()), -(-channels // width) * width
    size = groups * results * pitch * depth * POINTS * itemsize
    chunks = 1
    while 2 * chunks <= min(batch, _CHUNKS, _PARTIAL_BYTES // size, batch * image * result[0] // _PATCHES):
        chunks *= 2
    parts = min(results, -(-threads // (chunks * groups)))
    # What follows sets the order of sums over planes, so that it must not depend on the number of threads.
    patch_bytes = POINTS * itemsize * (pitch * source[0] + results * result[0])
    at_once = chunks == 1 and batch * image * patch_bytes <= size
    room = max(_WORK_BYTES, min(size, _MOST_BYTES) if chunks == 1 else 0) // patch_bytes
    images, rows = min(max(1, room // image), -(-batch // chunks)), len(bands)
    if at_once:
        images = batch
    elif image > room:
        rows = max(1, room // int(bands.max()))
        rows = -(-len(bands) // -(-len(bands) // rows))
    starts = range(0, len(bands), rows)
    patches = images * max(int(bands[start : start + rows].sum()) for start in starts)
    # At once: results and channels whose sums stay in the second-level cache.
    at_a_time = min(-(-results // parts), 24 if at_once else 96)
    return _Shares(images, rows, parts, chunks, patches, at_a_time, min(pitch, 128) if at_once else pitch, at_once)


def grad_weight(x, z, shape, weight):
    """weight [out, in / groups, taps] = the sum over images of z x^T, from x [N, in, input] and z [N, out, P]."""
    if shape.batch == 0:
        weight[...] = 0
        return
    threads, groups, depth = threads_of(shape), shape.groups, shape.kernel[0]
    channels, results = shape.in_channels // groups, shape.out_channels // groups
    tasks = _tasks(
        shape.batch, groups, channels, results, depth, shape.input, shape.output, shape.dilation, x.itemsize, threads
    )
    workers = min(threads, tasks.chunks * groups * tasks.parts)
    width, lanes = panel_width(x.itemsize), REGISTER_BYTES // x.itemsize
    pitch, result_lanes = -(-channels // width) * width, -(-results // lanes) * lanes
    if tasks.at_once:
        size = depth * POINTS * tasks.results * tasks.channels
        sums = workspace("winograd sums", (workers, size, 1, 1, 1, 1), x.dtype)
    else:
        sums = workspace("winograd sums", (tasks.chunks, groups, depth, POINTS, results, pitch), x.dtype)
    band = TILE * shape.dilation[1] * tasks.bands

    def combined(name, planes, channels):
        """Scratch for [POINTS, patches, channels], rows and points of which lie apart so that caches hold them."""
        return workspace(name, (workers, POINTS * (planes * tasks.patches * (channels + lanes) + lanes)), x.dtype)

    positions = max((band + 2 * shape.dilation[1]) * shape.input[2], band * shape.output[2])
    run = winograd_grad_weight_kernel if workers > 1 else winograd_grad_weight_kernel.serial
    run(
        x.reshape(-1),
        z.reshape(-1),
        weight.reshape(-1),
        shape.batch,
        groups,
        channels,
        results,
        depth,
        shape.input,
        shape.output,
        shape.padding,
        shape.dilation,
        *patches_of(*shape.output[1:], *shape.dilation[1:]),
        tasks.images,
        tasks.bands,
        tasks.parts,
        tasks.results,
        tasks.channels,
        tasks.chunks,
        sums,
        tasks.at_once,
        workspace("winograd frames", (workers, positions * lanes), x.dtype),
        combined("winograd patches", shape.input[0], pitch),
        combined("winograd gradients", shape.output[0], result_lanes),
    )
    if not tasks.at_once:
        add_up = winograd_sum_kernel if workers > 1 else winograd_sum_kernel.serial
        add_up(sums, results, channels, weight.reshape(-1))
