"""Convolutions as products with a matrix of columns: column p holds the inputs that output position p reads.

    correlate       z[n] = W columns(x[n])
    spread          x[n] = the sum of W^T z[n] at the inputs that each column was read from
    grad_weight     the sum over n of z[n] columns(x[n])^T

A tile of columns, some images or some output rows of one, is made and used before the next, so that the buffer stays
within _TILE_BYTES. A 1x1 convolution of stride 1 needs none: its columns are x.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..memory import empty

# Larger tiles cost memory; smaller ones cost a thread switch more often.
_TILE_BYTES = 1 << 24


@serial_kernel
def valid_range(offset, stride, size, count):
    """Those i in 0..count - 1 with 0 <= i * stride + offset < size, as (first, after the last)."""
    if stride == 1:  # spares the divisions
        first = min(max(-offset, 0), count)
        return first, min(max(size - offset, first), count)
    first = min(max((stride - 1 - offset) // stride, 0), count)
    return first, min(max((size - offset + stride - 1) // stride, first), count)


@kernel
def conv_columns_kernel(x, first, last, input, kernel, output, stride, padding, dilation, columns):
    """columns[b, c * taps + tap, :] = what each output position of rows first..last - 1 reads from x[b, c] at tap.

    x: [B, C, D * H * W]; columns: [B, C * taps, (last - first) * OW]. A row is a run of output positions along the last
    axis, numbered od * OH + oh. Threads share the (b, c, tap); each writes its rows from left to right.
    """
    (depth, height, width), (out_height, out_width) = input, output[1:]
    taps = kernel[0] * kernel[1] * kernel[2]
    zero = x.dtype.type(0)
    for index in prange(x.shape[0] * x.shape[1] * taps):
        b, c, tap = index // (x.shape[1] * taps), index // taps % x.shape[1], index % taps
        kd, kh, kw = tap // (kernel[1] * kernel[2]), tap // kernel[2] % kernel[1], tap % kernel[2]
        offset, step = kw * dilation[2] - padding[2], stride[2]
        low, high = valid_range(offset, step, width, out_width)
        plane, target = x[b, c], columns[b, c * taps + tap]
        for row in range(first, last):
            line = target[(row - first) * out_width : (row - first + 1) * out_width]
            d = row // out_height * stride[0] + kd * dilation[0] - padding[0]
            h = row % out_height * stride[1] + kh * dilation[1] - padding[1]
            if d < 0 or d >= depth or h < 0 or h >= height:
                line[:] = zero
                continue
            line[:low] = zero
            line[high:] = zero
            inner, source = line[low:high], plane[(d * height + h) * width + low * step + offset :]
            if step == 1:  # a loop of its own, which becomes a copy
                for i in range(high - low):
                    inner[i] = source[i]
            else:
                for i in range(high - low):
                    inner[i] = source[i * step]


@kernel
def conv_spread_kernel(columns, first, last, input, kernel, output, stride, padding, dilation, x):
    """Adds columns, shaped as in conv_columns_kernel, to the elements of x that they were read from.

    Threads share the (b, c), so that no two add to one element; taps come in order.
    """
    (depth, height, width), (out_height, out_width) = input, output[1:]
    taps = kernel[0] * kernel[1] * kernel[2]
    for index in prange(x.shape[0] * x.shape[1]):
        b, c = index // x.shape[1], index % x.shape[1]
        plane = x[b, c]
        for tap in range(taps):
            kd, kh, kw = tap // (kernel[1] * kernel[2]), tap // kernel[2] % kernel[1], tap % kernel[2]
            offset, step = kw * dilation[2] - padding[2], stride[2]
            low, high = valid_range(offset, step, width, out_width)
            source = columns[b, c * taps + tap]
            for row in range(first, last):
                d = row // out_height * stride[0] + kd * dilation[0] - padding[0]
                h = row % out_height * stride[1] + kh * dilation[1] - padding[1]
                if d < 0 or d >= depth or h < 0 or h >= height:
                    continue
                inner = source[(row - first) * out_width + low : (row - first) * out_width + high]
                target = plane[(d * height + h) * width + low * step + offset :]
                if step == 1:
                    for i in range(high - low):
                        target[i] += inner[i]
                else:
                    for i in range(high - low):
                        target[i * step] += inner[i]


def correlate(x, weight, shape, z):
    """z [N, out, P] from x [N, in, input positions] and weight [out, in / groups, taps]."""
    matrix, z = _matrix(weight, shape.groups), _grouped(z, shape.groups)
    if shape.is_pointwise:
        np.matmul(matrix, _grouped(x, shape.groups), out=z)
        return
    for images, rows, positions in _tiles(shape, x.itemsize):
        columns = _columns(x[images], rows, shape)
        np.matmul(matrix, _grouped(columns, shape.groups), out=z[images, ..., positions])


def spread(z, weight, shape, x):
    """x [N, in, input positions] from z [N, out, P] and weight [out, in / groups, taps]: the transpose of correlate."""
    matrix, z = _matrix(weight, shape.groups).swapaxes(1, 2), _grouped(z, shape.groups)
    if shape.is_pointwise:
        np.matmul(matrix, z, out=_grouped(x, shape.groups))
        return
    x[...] = 0
    for images, rows, positions in _tiles(shape, x.itemsize):
        tile = z[images, ..., positions]
        columns = empty((*tile.shape[:2], matrix.shape[1], tile.shape[3]), x.dtype)
        np.matmul(matrix, tile, out=columns)
        columns = columns.reshape(len(tile), -1, tile.shape[3])
        conv_spread_kernel(columns, rows.start, rows.stop, *shape[4:], x[images])


def grad_weight(x, z, shape, weight):
    """weight [out, in / groups, taps] from x [N, in, input positions] and z [N, out, P]."""
    matrix, z = _matrix(weight, shape.groups), _grouped(z, shape.groups)
    matrix[...] = 0
    product = empty(matrix.shape, matrix.dtype)
    for images, rows, positions in _tiles(shape, x.itemsize):
        columns = x[images, :, positions] if shape.is_pointwise else _columns(x[images], rows, shape)
        columns = _grouped(columns, shape.groups).swapaxes(2, 3)
        for z_image, image_columns in zip(z[images, ..., positions], columns):
            np.matmul(z_image, image_columns, out=product)
            matrix += product


def _tiles(shape, itemsize):
    """Slices of the images, of their output rows and of the positions in these: whole images, or rows of one."""
    row_bytes = shape.in_channels * shape.taps * shape.output[2] * itemsize
    image_rows = shape.output[0] * shape.output[1]
    rows = max(1, min(image_rows, _TILE_BYTES // row_bytes))
    images = max(1, _TILE_BYTES // (row_bytes * image_rows))
    for image in range(0, shape.batch, images):
        for row in range(0, image_rows, rows):
            last = min(row + rows, image_rows)
            yield (
                slice(image, image + images),
                slice(row, last),
                slice(row * shape.output[2], last * shape.output[2]),
            )


def _columns(x, rows, shape):
    columns = empty((len(x), shape.in_channels * shape.taps, (rows.stop - rows.start) * shape.output[2]), x.dtype)
    conv_columns_kernel(x, rows.start, rows.stop, *shape[4:], columns)
    return columns


def _matrix(weight, groups):
    """[out, in / groups, taps] as [groups, out / groups, in / groups * taps]."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _grouped(x, groups):
    """[N, C, P] as [N, groups, C / groups, P]."""
    return x.reshape(len(x), groups, x.shape[1] // groups, x.shape[2])
