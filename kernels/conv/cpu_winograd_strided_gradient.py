"""The gradient of 4x4 kernels of stride 2 by the same combinations as `cpu_winograd_strided.py`: its transpose with
respect to the kernels.

For each phase of x and each of the 25 points the sum over patches is a matrix product, [results, patches] times
[patches, channels]. A task is a part of the results, with the patches of the whole batch: whatever the number of
threads, these are added in their order.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_product import PANEL_BYTES, REGISTER_BYTES, multiply_panels, panel_width, transpose
from ..memory import workspace
from .cpu_frames import fill_frame
from .cpu_tiles import threads_of
from .cpu_winograd_strided import TILE, plan_of
from .cpu_winograd_transforms import (
    SHORT_POINTS,
    combine_short_gradient,
    combine_short_patch,
    gradient_of_short_kernel,
)
from .plan import INNER

_RESULTS, _CHANNELS = 24, 128  # whose sums are in a core's second-level cache at a time


def suits(shape) -> bool:
    """Whether a convolution that suits `cpu_winograd_strided.py` has a batch of so few patches that all of their
    combinations are no more than the sums of their products."""
    down, across = plan_of(shape, False).tiles
    phases = 4 * shape.in_channels
    return shape.batch * down * across * (phases + shape.out_channels) <= phases * shape.out_channels


@kernel
def winograd_strided_grad_weight_kernel(
    x, z, weight, batch, channels, results, source, result, origins, step, tiles, parts, by_tap, turned, frames,
    patches, gradients, sums,
):  # fmt: skip
    """weight, flat [results, channels, 16] = the gradient.

    Args:
        x: flat [batch, channels, *source]; z: flat [batch, results, *result].
        origins, step, tiles: of correlate's Plan.
        parts: of the results.
        by_tap: scratch for weight as [16, results, channels].
        turned, frames, patches, gradients, sums: scratch, a row a worker.
    """
    width, lanes, workers = PANEL_BYTES // x.itemsize, REGISTER_BYTES // x.itemsize, len(frames)
    in_size, out_size, together = source[0] * source[1], result[0] * result[1], tiles[0] * tiles[1]
    low = origins[:, 0].min(), origins[:, 1].min()
    size = (
        origins[:, 0].max() - low[0] + 1 + TILE * tiles[0] * step,
        origins[:, 1].max() - low[1] + 1 + TILE * tiles[1] * step,
    )
    pitch = (channels + width - 1) // width * width
    # Rows and points lie a vector more than a power of two apart, or they would take each other's places in the cache.
    row_pitch, point_pitch = pitch + lanes, batch * together * (pitch + lanes) + lanes
    grad_size, wide = (TILE * tiles[0], TILE * tiles[1]), min(_CHANNELS, pitch)
    for worker in prange(workers):
        v, g, m, frame = patches[worker], gradients[worker], sums[worker], frames[worker]
        for part in range(worker, parts, workers):
            begin, end = part * (results // lanes) // parts * lanes, (part + 1) * (results // lanes) // parts * lanes
            grad_pitch = end - begin + lanes
            grad_point = batch * together * grad_pitch + lanes
            for image in range(batch):
                for r in range(begin, end, lanes):
                    start = (image * results + r) * out_size
                    fill_frame(
                        z, start, out_size, lanes, (1, result[0], result[1]), (0, 0, 0),
                        (1, grad_size[0], grad_size[1]), frame, 0, turned[worker],
                    )  # fmt: skip
                    for tile in range(together):
                        place = TILE * (tile // tiles[1] * grad_size[1] + tile % tiles[1]) * lanes
                        to = (image * together + tile) * grad_pitch + r - begin
                        combine_short_gradient(frame, place, grad_size[1] * lanes, lanes, g, to, grad_point)
                for c in range(0, channels, lanes):
                    fill_frame(
                        x, (image * channels + c) * in_size, in_size, lanes, (1, source[0], source[1]),
                        (0, low[0], low[1]), (1, size[0], size[1]), frame, 0, turned[worker],
                    )  # fmt: skip
                    for phase in range(4):
                        first = (origins[phase, 0] - low[0]) * size[1] + origins[phase, 1] - low[1]
                        for tile in range(together):
                            place = first + TILE * step * (tile // tiles[1] * size[1] + tile % tiles[1])
                            to = phase * SHORT_POINTS * point_pitch + (image * together + tile) * row_pitch + c
                            combine_short_patch(
                                frame, place * lanes, step * size[1] * lanes, step * lanes, v, to, point_pitch
                            )  # fmt: skip
            for phase in range(4):
                for channel in range(0, channels, wide):
                    across = min(wide, pitch - channel)
                    for first in range(begin, end, _RESULTS):
                        count = min(_RESULTS, end - first)
                        for point in range(SHORT_POINTS):
                            for term in range(0, batch * together, INNER):
                                multiply_panels(
                                    g, point * grad_point + term * grad_pitch + first - begin, None, 0, count,
                                    v, (phase * SHORT_POINTS + point) * point_pitch + term * row_pitch + channel, width,
                                    row_pitch, min(INNER, batch * together - term), across // width,
                                    m, point * _RESULTS * wide, wide, term > 0, grad_pitch,
                                )  # fmt: skip
                        tap = phase // 2 * 4 + phase % 2
                        tap_pitch = results * channels
                        for r in range(count):
                            for c in range(0, min(across, channels - channel), lanes):
                                to = tap * tap_pitch + (first + r) * channels + channel + c
                                place = r * wide + c
                                gradient_of_short_kernel(
                                    m, place, 5 * _RESULTS * wide, _RESULTS * wide, turned[worker], 0, lanes
                                )  # fmt: skip
                                for j in range(4):
                                    there = by_tap[to + (j // 2 * 8 + j % 2 * 2) * tap_pitch :]
                                    for i in range(lanes):
                                        there[i] = turned[worker, j * lanes + i]
            for r in range(begin, end):
                transpose(by_tap, r * channels, results * channels, 16, channels, weight, r * channels * 16, 16)


def grad_weight(x, z, shape, weight):
    """weight [out, in, taps] = the sum over images of z x^T, from x [N, in, input] and z [N, out, P]."""
    threads, plan, width = threads_of(shape), plan_of(shape, False), panel_width(x.itemsize)
    lanes, channels, results = REGISTER_BYTES // x.itemsize, shape.in_channels, shape.out_channels
    parts = min(threads, results // lanes)
    patches, pitch = shape.batch * plan.tiles[0] * plan.tiles[1], -(-channels // width) * width
    part = -(-(results // lanes) // parts) * lanes  # results of one, at most
    height, across = (int(span) + 1 + TILE * n * plan.step for span, n in zip(np.ptp(plan.origins, axis=0), plan.tiles))
    run = winograd_strided_grad_weight_kernel if parts > 1 else winograd_strided_grad_weight_kernel.serial
    run(
        x.reshape(-1),
        z.reshape(-1),
        weight.reshape(-1),
        shape.batch,
        channels,
        results,
        shape.input[1:],
        shape.output[1:],
        plan.origins,
        plan.step,
        plan.tiles,
        parts,
        workspace("conv weight", weight.size, x.dtype),
        workspace("winograd turned", (parts, max(4, shape.in_size, shape.out_size) * lanes), x.dtype),
        workspace("winograd frames", (parts, height * across * lanes), x.dtype),
        workspace("winograd patches", (parts, 4 * SHORT_POINTS * (patches * (pitch + lanes) + lanes)), x.dtype),
        workspace("winograd gradients", (parts, SHORT_POINTS * (patches * (part + lanes) + lanes)), x.dtype),
        workspace("winograd sums", (parts, SHORT_POINTS * _RESULTS * min(_CHANNELS, pitch)), x.dtype),
    )
