"""Convolutions in which every output channel reads one input channel, computed directly: rows of the output stay in
the first-level cache while the taps of the kernel pass over them.

Weights are [out, 1, taps]; output channel o reads input channel o // (out / in).
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel


@serial_kernel
def _valid_range(offset, stride, size, count):
    """Those i in 0..count - 1 with 0 <= i * stride + offset < size, as (first, after the last)."""
    if stride == 1:  # spares the divisions
        first = min(max(-offset, 0), count)
        return first, min(max(size - offset, first), count)
    first = min(max((stride - 1 - offset) // stride, 0), count)
    return first, min(max((size - offset + stride - 1) // stride, first), count)


@kernel
def depthwise_correlate_kernel(x, weight, input, kernel, output, stride, padding, dilation, z):
    """z[n, o] = x[n, o // multiplier] correlated with weight[o, 0], a plane a thread, row by row."""
    (depth, height, width), (out_height, out_width), step = input, output[1:], stride[2]
    multiplier = z.shape[1] // x.shape[1]
    for index in prange(z.shape[0] * z.shape[1]):
        n, o = index // z.shape[1], index % z.shape[1]
        plane = x[n, o // multiplier]
        for row in range(output[0] * out_height):
            target = z[n, o, row * out_width : (row + 1) * out_width]
            target[:] = z.dtype.type(0)
            for line in range(kernel[0] * kernel[1]):
                d = row // out_height * stride[0] + line // kernel[1] * dilation[0] - padding[0]
                h = row % out_height * stride[1] + line % kernel[1] * dilation[1] - padding[1]
                if d < 0 or d >= depth or h < 0 or h >= height:
                    continue
                source_line, taps = plane[(d * height + h) * width :], weight[o, 0, line * kernel[2] :]
                for kw in range(kernel[2]):
                    offset = kw * dilation[2] - padding[2]
                    low, high = _valid_range(offset, step, width, out_width)
                    inner, source, w = target[low:high], source_line[low * step + offset :], taps[kw]
                    if step == 1:
                        for i in range(high - low):
                            inner[i] += w * source[i]
                    else:
                        for i in range(high - low):
                            inner[i] += w * source[i * step]


@kernel
def depthwise_spread_kernel(z, weight, input, kernel, output, stride, padding, dilation, x):
    """x[n, c] = the output planes z of channel c, each spread with its kernel: the transpose of correlate."""
    (depth, height, width), (out_height, out_width), step = input, output[1:], stride[2]
    multiplier = z.shape[1] // x.shape[1]
    for index in prange(x.shape[0] * x.shape[1]):
        n, c = index // x.shape[1], index % x.shape[1]
        plane = x[n, c]
        plane[:] = x.dtype.type(0)
        for o in range(c * multiplier, (c + 1) * multiplier):
            for row in range(output[0] * out_height):
                source = z[n, o, row * out_width : (row + 1) * out_width]
                for line in range(kernel[0] * kernel[1]):
                    d = row // out_height * stride[0] + line // kernel[1] * dilation[0] - padding[0]
                    h = row % out_height * stride[1] + line % kernel[1] * dilation[1] - padding[1]
                    if d < 0 or d >= depth or h < 0 or h >= height:
                        continue
                    target_line, taps = plane[(d * height + h) * width :], weight[o, 0, line * kernel[2] :]
                    for kw in range(kernel[2]):
                        offset = kw * dilation[2] - padding[2]
                        low, high = _valid_range(offset, step, width, out_width)
                        inner, target, w = source[low:high], target_line[low * step + offset :], taps[kw]
                        if step == 1:
                            for i in range(high - low):
                                target[i] += w * inner[i]
                        else:
                            for i in range(high - low):
                                target[i * step] += w * inner[i]


@kernel
def depthwise_grad_weight_kernel(x, z, input, kernel, output, stride, padding, dilation, weight):
    """weight[o, 0, tap] = the sum of z[:, o] times what tap reads of x, an (o, tap) a thread."""
    (depth, height, width), (out_height, out_width) = input, output[1:]
    multiplier = z.shape[1] // x.shape[1]
    for index in prange(weight.shape[0] * weight.shape[2]):
        o, tap = index // weight.shape[2], index % weight.shape[2]
        kd, kh, kw = tap // (kernel[1] * kernel[2]), tap // kernel[2] % kernel[1], tap % kernel[2]
        offset, step = kw * dilation[2] - padding[2], stride[2]
        low, high = _valid_range(offset, step, width, out_width)
        total = z.dtype.type(0)
        for n in range(z.shape[0]):
            plane, image = x[n, o // multiplier], z.dtype.type(0)
            for row in range(output[0] * out_height):
                d = row // out_height * stride[0] + kd * dilation[0] - padding[0]
                h = row % out_height * stride[1] + kh * dilation[1] - padding[1]
                if d < 0 or d >= depth or h < 0 or h >= height:
                    continue
                gradient = z[n, o, row * out_width + low : row * out_width + high]
                source = plane[(d * height + h) * width + low * step + offset :]
                if step == 1:
                    for i in range(high - low):
                        image += gradient[i] * source[i]
                else:
                    for i in range(high - low):
                        image += gradient[i] * source[i * step]
            total += image
        weight[o, 0, tap] = total


@kernel
def depthwise_epilogue_kernel(z, bias, relu):
    """z = activation(z + bias) for z [N, C, P], plane by plane; an empty bias is none."""
    for index in prange(z.shape[0] * z.shape[1]):
        n, c = index // z.shape[1], index % z.shape[1]
        b = bias[c] if len(bias) else z.dtype.type(0)
        if relu:
            for p in range(z.shape[2]):
                value = z[n, c, p] + b
                z[n, c, p] = z.dtype.type(0) if value < 0 else value
        else:
            for p in range(z.shape[2]):
                z[n, c, p] += b


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, 1, taps]."""
    depthwise_correlate_kernel(x, weight, *shape[4:], z)
    _finish(z, bias, relu)


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    depthwise_spread_kernel(z, weight, *shape[4:], x)
    _finish(x, bias, relu)


def grad_weight(x, z, shape, weight):
    """weight [out, 1, taps] from x [N, in, input positions] and z [N, out, P]."""
    depthwise_grad_weight_kernel(x, z, *shape[4:], weight)


def _finish(z, bias, relu):
    if bias is not None or relu:
        depthwise_epilogue_kernel(z, np.empty(0, z.dtype) if bias is None else bias, relu)
