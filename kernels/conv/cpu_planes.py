"""Depthwise 3x3 convolutions as networks for small devices have them: padding 1, stride 1 or 2; plane by plane.

A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications" (2017). What
these convolutions cost is reading and writing planes: each is read once (`cpu_planes_walks.py`), by both gradients
while it is in the cache. Other kernels, strides and paddings are computed by `cpu_depthwise.py`.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel, threads_for
from ..cpu_product import REGISTER_BYTES
from ..memory import workspace
from .cpu_planes_walks import (
    TAPS,
    add_products,
    add_products_by_two,
    spread_plane_by_two,
    sum_plane,
    sum_plane_by_two,
)

_CHANNELS = 8  # with fewer, threads had better share a plane


def suits(shape) -> bool:
    """Whether a convolution is of this kind."""
    return (
        shape.is_depthwise
        and shape.in_channels == shape.out_channels
        and shape.kernel == (1, 3, 3)
        and shape.stride in ((1, 1, 1), (1, 2, 2))
        and shape.padding == (0, 1, 1)
        and shape.dilation == (1, 1, 1)
        and shape.input[0] == 1
        and all((size - 1) // stride + 1 == out for size, stride, out in zip(shape.input, shape.stride, shape.output))
        and shape.in_channels >= _CHANNELS
    )


@serial_kernel
def _pass_plane(source, plane, weight, channel, bias, relu, result, source_sizes, result_sizes):
    """A plane of result: from larger planes to smaller ones as a convolution reads them, from smaller ones to larger
    ones as its transpose does."""
    (height, width), (rows, count) = source_sizes, result_sizes
    start, to, tap = plane * height * width, plane * rows * count, channel * TAPS
    if rows > height or count > width:
        spread_plane_by_two(source, start, height, width, weight, tap, bias, relu, result, to, rows, count)
    elif rows == height and count == width:
        sum_plane(source, start, height, width, weight, tap, bias, relu, result, to, rows, count)
    else:
        sum_plane_by_two(source, start, height, width, weight, tap, bias, relu, result, to, rows, count)


@kernel
def depthwise_planes_kernel(source, weight, result, bias, relu, planes, channels, source_sizes, result_sizes):
    """result [planes, *result_sizes] = activation(bias + 3x3 sums of source [planes, *source_sizes]), all flat."""
    for plane in prange(planes):
        b = bias[plane % channels] if len(bias) else source.dtype.type(0)
        _pass_plane(source, plane, weight, plane % channels, b, relu, result, source_sizes, result_sizes)


@kernel
def depthwise_planes_gradient_kernel(
    x, grad, weight, grad_x, grad_weight, grad_bias, batch, channels, sizes, grad_sizes, sums
):
    """grad_x [batch, channels, *sizes], grad_weight [channels, 9] and grad_bias [channels] from grad [batch, channels,
    *grad_sizes], all flat; those that are empty are not computed.

    Args:
        weight: [channels, 9], backwards where the stride is 1.
        sums: scratch, ten vectors a channel.
    """
    (height, width), (rows, count) = sizes, grad_sizes
    lanes = sums.shape[1] // (TAPS + 1)
    for channel in prange(channels):
        totals = sums[channel]
        totals[:] = x.dtype.type(0)
        for image in range(batch):
            plane = image * channels + channel
            start, there = plane * height * width, plane * rows * count
            if len(grad_weight) or len(grad_bias):
                if rows == height and count == width:
                    add_products(x, start, height, width, grad, there, rows, count, totals)
                else:
                    add_products_by_two(x, start, height, width, grad, there, rows, count, totals)
            if len(grad_x):
                _pass_plane(grad, plane, weight, channel, x.dtype.type(0), False, grad_x, grad_sizes, sizes)
        for tap in range(TAPS + 1):
            total = x.dtype.type(0)
            for lane in range(lanes):
                total += totals[tap * lanes + lane]
            if tap < TAPS and len(grad_weight):
                grad_weight[channel * TAPS + tap] = total
            elif tap == TAPS and len(grad_bias):
                grad_bias[channel] = total


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, C, P] = activation(W x + bias) from x [N, C, input positions] and weight [C, 1, 9]."""
    _pass(x, weight, shape, shape.input[1:], z, shape.output[1:], bias, relu)


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, C, input positions] = activation(W^T z + bias): the transpose of correlate."""
    _pass(z, _spread_weight(weight, shape), shape, shape.output[1:], x, shape.input[1:], bias, relu)


def gradients(x, z, weight, shape, grad_x, grad_weight, grad_bias):
    """The gradients of x, weight and bias from z, that of the output; None for those that are not needed. The weight
    may be None where x's gradient is."""
    nothing = np.empty(0, x.dtype)
    spreading = nothing if grad_x is None else _spread_weight(weight, shape).reshape(-1)
    threads = threads_of(shape)
    run = depthwise_planes_gradient_kernel if threads > 1 else depthwise_planes_gradient_kernel.serial
    sums = workspace("depthwise sums", (shape.in_channels, (TAPS + 1) * REGISTER_BYTES // x.itemsize), x.dtype)
    flat = [nothing if gradient is None else gradient.reshape(-1) for gradient in (grad_x, grad_weight, grad_bias)]
    run(
        x.reshape(-1), z.reshape(-1), spreading, *flat, shape.batch, shape.in_channels, shape.input[1:],
        shape.output[1:], sums,
    )  # fmt: skip


def threads_of(shape):
    return threads_for(shape.batch * shape.out_channels * shape.out_size * shape.taps)


def _spread_weight(weight, shape):
    """The weight as the transpose of correlate reads it: backwards where it is a correlation itself."""
    return weight if shape.stride[2] == 2 else np.ascontiguousarray(weight[:, :, ::-1])


def _pass(source, weight, shape, source_sizes, result, result_sizes, bias, relu):
    run = depthwise_planes_kernel if threads_of(shape) > 1 else depthwise_planes_kernel.serial
    run(
        source.reshape(-1), weight.reshape(-1), result.reshape(-1), np.empty(0, source.dtype) if bias is None else bias,
        relu, shape.batch * shape.in_channels, shape.in_channels, source_sizes, result_sizes,
    )  # fmt: skip
