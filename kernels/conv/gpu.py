"""Convolutions on CuPy arrays of any strides: results lie in memory as x does, channels first or last.

Three maps, each used by both directions:

                        convolution        transposed convolution
    correlate           forward            gradient of x
    spread              gradient of x      forward
    grad_weight         gradient of W      gradient of W, with x and grad_y changing places

Where every channel has its own kernel (`gpu_depthwise.py`) they are direct, otherwise products on tensor cores
(`gpu_products.py`), which read some images from a channels-last copy (`gpu_layout.py`). Ranks 1 and 2 run as rank 3
with leading axes of size 1.
"""

import numpy as np
import triton
import triton.language as tl

from ..dense.gpu import dense_grad_sum_kernel
from ..dense.gpu_product import parts_of, sum_parts
from ..gpu_arrays import contiguous, copy_into, strides
from ..launch import ceil_div, empty, launch
from . import gpu_depthwise, gpu_products
from .gpu_layout import PIECE, Image, channels_last, is_copied, reads_of_input, reads_of_output
from .gpu_products import cells_of
from .shape import conv_shape, transposed_conv_shape

_RELU = 1  # dense_grad_sum_kernel's code


@triton.jit
def conv_grad_bias_kernel(
    grad_z, grad_bias,
    batch, channels, parts, depth, height, width, grad_n, grad_c, grad_d, grad_h, grad_w,
    ACCUMULATOR: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """grad_bias[part, c] = the sum of grad_z[:, c] over one of `parts` stretches of its positions."""
    channel = (tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    positions = tl.cast(batch, tl.int64) * depth * height * width
    steps = tl.cdiv(positions, BLOCK_P)
    steps_of_part = tl.cdiv(steps, parts)
    first = tl.program_id(1) * steps_of_part
    last = tl.minimum(first + steps_of_part, steps)
    total = tl.zeros((BLOCK_C, BLOCK_P), dtype=ACCUMULATOR)
    for step in range(first, last):
        position = tl.cast(step, tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
        image, d, h, w = cells_of(position, depth, height, width)
        at = image * grad_n + d * grad_d + h * grad_h + w * grad_w
        mask = (channel < channels)[:, None] & (position < positions)[None, :]
        total += tl.load(grad_z + channel[:, None] * grad_c + at[None, :], mask=mask, other=0.0).to(ACCUMULATOR)
    target = grad_bias + tl.program_id(1) * channels + channel
    tl.store(target, tl.sum(total, axis=1).to(grad_bias.dtype.element_ty), mask=channel < channels)


def _forward(
    x,
    weight,
    bias=None,
    residual=None,
    *,
    stride=None,
    padding=None,
    dilation=None,
    groups=1,
    activation=None,
    out=None,
):
    shape, rank = conv_shape(x, weight, stride, padding, dilation, groups), weight.ndim - 2
    y = _output("conv", x, rank, shape.out_channels, shape.output, out)
    bias = None if bias is None else contiguous(bias)
    result = _image(y, rank, shape.out_channels, shape)
    image = _as_read(_image(x, rank, shape.in_channels, shape), shape, shape.input, reads_of_input(shape))
    _method(shape).correlate(image, weight, bias, shape, result, activation == "relu", _laid_out_as(y, residual))
    return y, (x, weight, y if activation else None, shape)


def _backward(saved, grad_y, needs):
    x, weight, y, shape = saved
    rank, grad_x, grad_weight, grad_bias = weight.ndim - 2, None, None, None
    reads = reads_of_output(shape) * sum(needs[:2])
    grad_z, grad_read = _gradients(grad_y, y, rank, shape, shape.out_channels, shape.output, reads, True in needs[3:])
    if needs[0]:
        grad_x = _like(x, x.shape, rank)
        _method(shape).spread(grad_read, weight, None, shape, _image(grad_x, rank, shape.in_channels, shape), False)
    if needs[1]:
        grad_weight = empty(weight)
        image = _as_read(_image(x, rank, shape.in_channels, shape), shape, shape.input, reads_of_input(shape))
        _method(shape).grad_weight(image, grad_read, shape, grad_weight)
    if needs[2]:
        grad_bias = _grad_bias(grad_z, shape.batch, shape.out_channels, shape.output)
    return (grad_x, grad_weight, grad_bias, grad_z.array if True in needs[3:] else None)[: len(needs)]


def _transposed_forward(
    x,
    weight,
    bias=None,
    residual=None,
    *,
    stride=None,
    padding=None,
    output_padding=None,
    dilation=None,
    groups=1,
    activation=None,
    out=None,
):
    rank = weight.ndim - 2
    shape = transposed_conv_shape(x, weight, stride, padding, output_padding, dilation, groups)
    y = _output("conv_transpose", x, rank, shape.in_channels, shape.input, out)
    bias = None if bias is None else contiguous(bias)
    result = _image(y, rank, shape.in_channels, shape)
    image = _as_read(_image(x, rank, shape.out_channels, shape), shape, shape.output, reads_of_output(shape))
    _method(shape).spread(image, weight, bias, shape, result, activation == "relu", _laid_out_as(y, residual))
    return y, (x, weight, y if activation else None, shape)


def _transposed_backward(saved, grad_y, needs):
    x, weight, y, shape = saved
    rank, grad_x, grad_weight, grad_bias = weight.ndim - 2, None, None, None
    reads = reads_of_input(shape) * sum(needs[:2])
    grad_z, grad_read = _gradients(grad_y, y, rank, shape, shape.in_channels, shape.input, reads, True in needs[3:])
    if needs[0]:
        grad_x = _like(x, x.shape, rank)
        _method(shape).correlate(grad_read, weight, None, shape, _image(grad_x, rank, shape.out_channels, shape), False)
    if needs[1]:
        grad_weight = empty(weight)
        image = _as_read(_image(x, rank, shape.out_channels, shape), shape, shape.output, reads_of_output(shape))
        _method(shape).grad_weight(grad_read, image, shape, grad_weight)
    if needs[2]:
        grad_bias = _grad_bias(grad_z, shape.batch, shape.in_channels, shape.input)
    return (grad_x, grad_weight, grad_bias, grad_z.array if True in needs[3:] else None)[: len(needs)]


conv1d_forward = conv2d_forward = conv3d_forward = _forward
conv1d_backward = conv2d_backward = conv3d_backward = _backward
conv_transpose1d_forward = conv_transpose2d_forward = conv_transpose3d_forward = _transposed_forward
conv_transpose1d_backward = conv_transpose2d_backward = conv_transpose3d_backward = _transposed_backward


def _method(shape):
    return gpu_depthwise if shape.is_depthwise else gpu_products


def _image(x, rank, channels, shape) -> Image:
    """x [N, C, *spatial] or [C, *spatial], of so many channels in the convolution's groups, as kernels walk it."""
    steps = strides(x)
    leading, spatial = steps[: x.ndim - rank], steps[x.ndim - rank :]
    steps = (0,) * (2 - len(leading)) + leading + (0,) * (3 - rank) + spatial
    return Image(x, steps, channels // shape.groups)


def _as_read(image, shape, sizes, reads) -> Image:
    """The image from which products read each element so often: itself, or a channels-last copy."""
    return channels_last(image, shape, sizes) if is_copied(image, shape, sizes, reads) else image


def _gradients(grad_y, y, rank, shape, channels, sizes, reads, is_result) -> tuple[Image, Image]:
    """The gradient before the activation, and that as products read it so often.

    ReLU's derivative is taken while a copy is made, unless the gradient itself `is_result`, the residual's gradient.
    """
    if y is not None and not is_result and channels // shape.groups % PIECE == 0:
        image = _image(grad_y, rank, channels, shape)
        if grad_y.flags.c_contiguous and y.flags.c_contiguous and is_copied(image, shape, sizes, reads):
            copy = channels_last(image, shape, sizes, y)
            return copy, copy
    grad_z = _image(_grad_sum(grad_y, y, rank), rank, channels, shape)
    return grad_z, _as_read(grad_z, shape, sizes, reads)


def _like(x, shape, rank):
    """An array of this shape with memory in x's order: channels first, or channels last where x's are."""
    channel = x.ndim - rank - 1
    if x.strides[channel] != x.itemsize or x.flags.c_contiguous:
        return empty(x, shape)
    order = _channels_last(x.ndim, rank)
    target = empty(x, tuple(shape[axis] for axis in order))
    return target.transpose(_channels_first(x.ndim, rank))


def _channels_last(ndim, rank):
    return (*range(ndim - rank - 1), *range(ndim - rank, ndim), ndim - rank - 1)


def _channels_first(ndim, rank):
    return (*range(ndim - rank - 1), ndim - 1, *range(ndim - rank - 1, ndim - 1))


def _output(name, x, rank, channels, sizes, out):
    """The output: x's rank and type, its channels and sizes replaced."""
    shape = (*x.shape[: x.ndim - rank - 1], channels, *sizes[3 - rank :])
    if out is None:
        return _like(x, shape, rank)
    if out.shape != shape or out.dtype != x.dtype:
        raise ValueError(
            f"{name}{rank}d: expected out of shape {shape} and type {x.dtype}, "
            f"got shape {out.shape} and type {out.dtype}"
        )
    return out


def _laid_out_as(y, residual):
    """The residual with y's strides, so that kernels walk both alike: itself, or a copy of it that waits in y."""
    if residual is None or residual.strides == y.strides:
        return residual
    copy_into(y, residual)
    return y


def _grad_sum(grad_y, y, rank):
    """The gradient before the activation, in the memory order of y; grad_y itself where there was none."""
    if y is None:
        return grad_y
    order, back = _channels_last(y.ndim, rank), _channels_first(y.ndim, rank)
    if y.flags.c_contiguous:
        order = back = tuple(range(y.ndim))
    y, grad_y = contiguous(y.transpose(order)), contiguous(grad_y.transpose(order))
    grad_z = empty(y)
    grid = (ceil_div(y.size, 1024),)
    launch(dense_grad_sum_kernel, grid, grad_y, y, grad_z, y.size, ACTIVATION=_RELU, BLOCK=1024)
    return grad_z.transpose(back)


def _grad_bias(image, batch, channels, sizes):
    grad_z, grad_bias = image.array, empty(image.array, (channels,))
    block_c, block_p = (32, 32) if image.strides[1] == 1 and channels > 1 else (1, 1024)
    tiles = ceil_div(channels, block_c)
    parts = parts_of(tiles, ceil_div(batch * sizes[0] * sizes[1] * sizes[2], block_p))
    double = grad_z.dtype == np.float64
    target = grad_bias if parts == 1 else empty(grad_z, (parts, channels), np.float64 if double else np.float32)
    launch(
        conv_grad_bias_kernel, (tiles, parts),
        grad_z, target, batch, channels, parts, *sizes, *image.strides,
        ACCUMULATOR=tl.float64 if double else tl.float32, BLOCK_C=block_c, BLOCK_P=block_p, num_warps=4,
    )  # fmt: skip
    if parts > 1:
        sum_parts(target, grad_bias, parts)
    return grad_bias
