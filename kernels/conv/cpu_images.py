"""Convolutions of small images with few channels, on as many images at once as a vector register has lanes.

A product's panels would be filled by halves with so few channels, and lines of so few positions by parts. Images that
lie element by element beside each other fill every vector: a batch is turned, position by position, into a frame with
the zeros around it, sums are made there, and results are turned back.
"""

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numba import prange

from ..accumulate import contiguous
from ..cpu_jit import kernel, serial_kernel, threads_for
from ..cpu_product import REGISTER_BYTES, copy_line, copy_vector, transpose
from ..memory import workspace
from .cpu_images_tiles import ACROSS, RESULTS, sum_images, sum_positions
from .cpu_tiles import conv_transpose_weight_kernel
from .shape import ConvShape, Sizes

_FRAME_BYTES = 1 << 19  # of a frame with all its channels, and as many of results: in the second-level cache
_CHANNELS = 16  # with more on either side, products fill their panels
_IMAGES = REGISTER_BYTES // 4 // 2 + 1  # with fewer, most lanes have nothing to do
_CHUNKS = 8  # of a batch, whose weight gradients are summed apart


class Plan(NamedTuple):
    """How a sum over terms reads its frame: numbers for kernels.

    Attributes:
        frame: positions along each axis; before: how many of them are before the source's first.
        places: [result positions] where the frame holds what a position reads with its first term,
        table: [terms] and how much further the others lie: channel, then kernel position.
    """

    frame: Sizes
    before: Sizes
    places: np.ndarray
    table: np.ndarray


def suits(shape, gradient=False) -> bool:
    """Whether this way is open for a convolution, or for the gradient of its x, and shorter."""
    if shape.groups > 1 or shape.taps == 1 or max(shape.in_channels, shape.out_channels) > _CHANNELS:
        return False
    if shape.batch < _IMAGES:
        return False
    channels, results, count, step = shape.in_channels, shape.out_channels, shape.output, shape.stride
    if gradient:
        if step != (1, 1, 1) or min(_gradient_padding(shape)) < 0:
            return False
        channels, results, count = results, channels, shape.input
    frame = channels * math.prod(_frame(count, shape.kernel, step, shape.dilation))
    return max(frame, results * math.prod(count)) * REGISTER_BYTES <= _FRAME_BYTES


@kernel
def images_frame_kernel(x, channels, source, frame, before, turned, frames):
    """frames [groups of images, channels, *frame, lanes] = x [images, channels, *source] and zeros around, all flat.

    turned: scratch, a group of images a row, for x position by position; one more row for a group that is not full, to
    which zeros are added because nothing but whole blocks is transposed fast.
    """
    lanes, size = REGISTER_BYTES // x.itemsize, channels * source[0] * source[1] * source[2]
    for group in prange(len(frames)):
        start, flat, to = group * lanes * size, turned[group], frames[group]
        count = min(lanes * size, len(x) - start)
        if count < lanes * size:
            full = turned[len(frames)]
            copy_line(x, start, full, 0, count)
            full[count:] = x.dtype.type(0)
            transpose(full, 0, size, lanes, size, flat, 0, lanes)
        else:
            transpose(x, start, size, lanes, size, flat, 0, lanes)
        to[:] = x.dtype.type(0)
        for channel in range(channels):
            for d in range(min(source[0], frame[0] - before[0])):
                for h in range(min(source[1], frame[1] - before[1])):
                    there = ((channel * source[0] + d) * source[1] + h) * source[2] * lanes
                    place = (channel * frame[0] + d + before[0]) * frame[1] + h + before[1]
                    place = (place * frame[2] + before[2]) * lanes
                    for i in range(0, min(source[2], frame[2] - before[2]) * lanes, lanes):
                        copy_vector(flat, there + i, to, place + i)


@kernel
def images_sum_kernel(frames, table, places, weight, bias, relu, z, sums):
    """z [batch, results, positions] = activation(weight x frames + bias), weight [results, terms] flat, z flat.

    sums: scratch, a group of images a row; one more row for a group that is not full.
    """
    lanes, inner, positions = REGISTER_BYTES // z.itemsize, len(table), len(places)
    results, pitch = len(weight) // inner, positions * lanes
    for group in prange(len(frames)):
        frame, there = frames[group], sums[group]
        for place in range(0, positions, ACROSS):
            count = min(ACROSS, positions - place)
            for result in range(0, results, RESULTS):
                sum_images(
                    frame, table, inner, places, place, count, weight, result * inner, min(RESULTS, results - result),
                    there, result * pitch, pitch,
                )  # fmt: skip
        for result in range(results if relu or len(bias) else 0):
            b, line = bias[result] if len(bias) else z.dtype.type(0), there[result * pitch : (result + 1) * pitch]
            for i in range(pitch):
                value = line[i] + b
                line[i] = z.dtype.type(0) if relu and value < 0 else value
        size = results * positions
        start = group * lanes * size
        count = min(lanes * size, len(z) - start)
        if count < lanes * size:
            full = sums[len(frames)]
            transpose(there, 0, lanes, size, lanes, full, 0, size)
            copy_line(full, 0, z, start, count)
        else:
            transpose(there, 0, lanes, size, lanes, z, start, size)


@kernel
def images_grad_weight_kernel(frames, table, places, grads, results, sums):
    """sums [chunks of groups, results, terms, lanes] = the weight's gradient, by lanes, from grads turned position by
    position, [groups, results, positions, lanes]."""
    inner, chunks, groups = len(table), len(sums), len(frames)
    lanes = sums.shape[1] // (results * inner)
    for chunk in prange(chunks):
        low, high = groups * chunk // chunks, groups * (chunk + 1) // chunks
        for group in range(low, high):
            frame, grad, to = frames[group], grads[group], sums[chunk]
            for result in range(0, results, RESULTS):
                for term in range(0, inner, ACROSS):
                    sum_positions(
                        frame, table, term, min(ACROSS, inner - term), inner, places, len(places), grad,
                        result * len(places) * lanes, min(RESULTS, results - result), to, result * inner * lanes,
                        group > low,
                    )  # fmt: skip


@serial_kernel
def images_weight_kernel(sums, turned, weight):
    """weight = the sum of sums [chunks, weight, lanes] over chunks and lanes.

    turned: scratch as large as a chunk's sums.
    """
    size, total = len(weight), sums[0]
    lanes = len(total) // size
    for chunk in range(1, len(sums)):
        term = sums[chunk]
        for i in range(len(total)):
            total[i] += term[i]
    transpose(total, 0, lanes, size, lanes, turned, 0, size)
    copy_line(turned, 0, weight, 0, size)
    for lane in range(1, lanes):
        term = turned[lane * size : (lane + 1) * size]
        for i in range(size):
            weight[i] += term[i]


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in, taps]."""
    plan = _forward_plan(shape, x.itemsize)
    _sum(plan, x, shape.in_channels, shape.input, weight.reshape(-1), z, bias, relu, threads_of(shape))


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    transposed = workspace("conv weight", weight.size, weight.dtype)
    inner = shape.in_channels * shape.taps
    conv_transpose_weight_kernel.serial(weight.reshape(-1), 1, shape.out_channels, inner, transposed)
    by_channel = transposed.reshape(shape.in_channels, shape.taps, shape.out_channels).swapaxes(1, 2)
    plan = _gradient_plan(shape, z.itemsize)
    flat = contiguous(by_channel).reshape(-1)
    _sum(plan, z, shape.out_channels, shape.output, flat, x, bias, relu, threads_of(shape))


def grad_weight(x, z, shape, weight):
    """weight [out, in, taps] = the sum over images of z x^T, from x [N, in, input] and z [N, out, P]."""
    threads, lanes = threads_of(shape), REGISTER_BYTES // x.itemsize
    plan = _forward_plan(shape, x.itemsize)
    frames = _frames(plan, x, shape.in_channels, shape.input, threads)
    grads = workspace("images gradient", (len(frames), shape.out_channels * shape.out_size * lanes), x.dtype)
    nothing = Plan((shape.out_size, 1, 1), (0, 0, 0), plan.places, plan.table)
    _turn(nothing, z, shape.out_channels, (shape.out_size, 1, 1), threads, grads)
    sums = workspace("images sums", (min(_CHUNKS, len(frames)), weight.size * lanes), x.dtype)
    run = images_grad_weight_kernel if threads > 1 else images_grad_weight_kernel.serial
    run(frames, plan.table, plan.places, grads, shape.out_channels, sums)
    images_weight_kernel(sums, workspace("images turned", weight.size * lanes, x.dtype), weight.reshape(-1))


def _sum(plan, x, channels, source, weight, z, bias, relu, threads):
    frames, lanes = _frames(plan, x, channels, source, threads), REGISTER_BYTES // x.itemsize
    sums = workspace("images sums", (len(frames) + 1, z[0].size * lanes), x.dtype)
    run = images_sum_kernel if threads > 1 else images_sum_kernel.serial
    given = np.empty(0, x.dtype) if bias is None else bias
    run(frames, plan.table, plan.places, weight, given, relu, z.reshape(-1), sums)


def _frames(plan, x, channels, source, threads):
    lanes = REGISTER_BYTES // x.itemsize
    size = channels * plan.frame[0] * plan.frame[1] * plan.frame[2] * lanes
    frames = workspace("images frames", (-(-len(x) // lanes), size), x.dtype)
    _turn(plan, x, channels, source, threads, frames)
    return frames


def _turn(plan, x, channels, source, threads, frames):
    lanes = REGISTER_BYTES // x.itemsize
    run = images_frame_kernel if threads > 1 else images_frame_kernel.serial
    turned = workspace("images turned", (len(frames) + 1, x[0].size * lanes), x.dtype)
    run(x.reshape(-1), channels, source, plan.frame, plan.before, turned, frames)


def threads_of(shape):
    return threads_for(shape.batch * shape.out_channels * shape.out_size * shape.in_channels * shape.taps)


@lru_cache(maxsize=256)
def _forward_plan(shape: ConvShape, itemsize: int) -> Plan:
    """The sum that a convolution is."""
    shifts = [[tap * dilation for tap in range(k)] for k, dilation in zip(shape.kernel, shape.dilation)]
    frame = _frame(shape.output, shape.kernel, shape.stride, shape.dilation)
    return _plan(frame, shape.padding, shape.output, shape.stride, shape.in_channels, shifts, itemsize)


@lru_cache(maxsize=256)
def _gradient_plan(shape: ConvShape, itemsize: int) -> Plan:
    """The sum that the gradient of x is, of a convolution without a stride: the kernel backwards, over z."""
    shifts = [[(k - 1 - tap) * dilation for tap in range(k)] for k, dilation in zip(shape.kernel, shape.dilation)]
    frame = _frame(shape.input, shape.kernel, (1, 1, 1), shape.dilation)
    return _plan(frame, _gradient_padding(shape), shape.input, (1, 1, 1), shape.out_channels, shifts, itemsize)


def _plan(frame, before, count, step, channels, shifts, itemsize) -> Plan:
    lanes, (depth, height, width) = REGISTER_BYTES // itemsize, frame

    def place(d, h, w):
        return ((d * height + h) * width + w) * lanes

    starts = [range(0, n * s, s) for n, s in zip(count, step)]
    table = [place(c * depth + d, h, w) for c in range(channels) for d, h, w in product(*shifts)]
    return Plan(frame, before, np.array([place(*position) for position in product(*starts)]), np.array(table))


def _frame(count, kernel, step, dilation) -> Sizes:
    return tuple((n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(count, kernel, step, dilation))


def _gradient_padding(shape) -> Sizes:
    return tuple((k - 1) * d - padding for k, d, padding in zip(shape.kernel, shape.dilation, shape.padding))
