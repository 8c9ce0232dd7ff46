"""Convolutions on CuPy arrays of any strides: what is channels-last in memory stays so, forward and backward.

Three maps, each used by both directions:

                        convolution        transposed convolution
    correlate           forward            gradient of x
    spread              gradient of x      forward
    grad_weight         gradient of W      gradient of W, with x and grad_y changing places

Where every channel has its own kernel (`gpu_depthwise.py`) they are direct, otherwise products on tensor cores
(`gpu_products.py`). Ranks 1 and 2 run as rank 3 with leading axes of size 1.
"""

import numpy as np
import triton
import triton.language as tl

from ..dense.gpu import dense_grad_sum_kernel
from ..dense.gpu_product import parts_of, sum_parts
from ..gpu_arrays import contiguous, copy_into, strides
from ..launch import ceil_div, empty, launch
from . import gpu_depthwise, gpu_products
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
    steps = _five_strides(x, rank), _five_strides(y, rank)
    _method(shape).correlate(x, weight, bias, shape, y, activation == "relu", *steps, _laid_out_as(y, residual))
    return y, (x, weight, y if activation else None, shape)


def _backward(saved, grad_y, needs):
    x, weight, y, shape = saved
    rank = weight.ndim - 2
    grad_z = _grad_sum(grad_y, y, rank)
    x_steps, grad_steps = _five_strides(x, rank), _five_strides(grad_z, rank)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = _like(x, x.shape, rank)
        _method(shape).spread(grad_z, weight, None, shape, grad_x, False, grad_steps, _five_strides(grad_x, rank))
    if needs[1]:
        grad_weight = empty(weight)
        _method(shape).grad_weight(x, grad_z, shape, grad_weight, x_steps, grad_steps)
    if needs[2]:
        grad_bias = _grad_bias(grad_z, shape.batch, shape.out_channels, shape.output, grad_steps)
    return (grad_x, grad_weight, grad_bias, grad_z if True in needs[3:] else None)[: len(needs)]


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
    steps = _five_strides(x, rank), _five_strides(y, rank)
    _method(shape).spread(x, weight, bias, shape, y, activation == "relu", *steps, _laid_out_as(y, residual))
    return y, (x, weight, y if activation else None, shape)


def _transposed_backward(saved, grad_y, needs):
    x, weight, y, shape = saved
    rank = weight.ndim - 2
    grad_z = _grad_sum(grad_y, y, rank)
    x_steps, grad_steps = _five_strides(x, rank), _five_strides(grad_z, rank)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = _like(x, x.shape, rank)
        _method(shape).correlate(grad_z, weight, None, shape, grad_x, False, grad_steps, _five_strides(grad_x, rank))
    if needs[1]:
        grad_weight = empty(weight)
        _method(shape).grad_weight(grad_z, x, shape, grad_weight, grad_steps, x_steps)
    if needs[2]:
        grad_bias = _grad_bias(grad_z, shape.batch, shape.in_channels, shape.input, grad_steps)
    return (grad_x, grad_weight, grad_bias, grad_z if True in needs[3:] else None)[: len(needs)]


conv1d_forward = conv2d_forward = conv3d_forward = _forward
conv1d_backward = conv2d_backward = conv3d_backward = _backward
conv_transpose1d_forward = conv_transpose2d_forward = conv_transpose3d_forward = _transposed_forward
conv_transpose1d_backward = conv_transpose2d_backward = conv_transpose3d_backward = _transposed_backward


def _method(shape):
    return gpu_depthwise if shape.is_depthwise else gpu_products


def _five_strides(x, rank) -> tuple[int, ...]:
    """The strides of x [N, C, *spatial] or [C, *spatial] along [N, C, D, H, W], in elements; 0 where it has no axis."""
    steps = strides(x)
    leading, spatial = steps[: x.ndim - rank], steps[x.ndim - rank :]
    return (0,) * (2 - len(leading)) + leading + (0,) * (3 - rank) + spatial


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


def _grad_bias(grad_z, batch, channels, sizes, grad_steps):
    grad_bias = empty(grad_z, (channels,))
    block_c, block_p = (32, 32) if grad_steps[1] == 1 and channels > 1 else (1, 1024)
    tiles = ceil_div(channels, block_c)
    parts = parts_of(tiles, ceil_div(batch * sizes[0] * sizes[1] * sizes[2], block_p))
    double = grad_z.dtype == np.float64
    target = grad_bias if parts == 1 else empty(grad_z, (parts, channels), np.float64 if double else np.float32)
    launch(
        conv_grad_bias_kernel, (tiles, parts),
        grad_z, target, batch, channels, parts, *sizes, *grad_steps,
        ACCUMULATOR=tl.float64 if double else tl.float32, BLOCK_C=block_c, BLOCK_P=block_p, num_warps=4,
    )  # fmt: skip
    if parts > 1:
        sum_parts(target, grad_bias, parts)
    return grad_bias
