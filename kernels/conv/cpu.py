"""Convolutions on NumPy arrays, in NCHW order.

Three maps, each used by both directions:

                        convolution        transposed convolution
    correlate           forward            gradient of x
    spread              gradient of x      forward
    grad_weight         gradient of W      gradient of W, with x and grad_y changing places

Where every channel has its own kernel (`cpu_planes.py`, `cpu_depthwise.py`) they are direct; where kernels have one
position, products of images as they lie (`cpu_pointwise.py`). Otherwise they are products of combinations where these
need fewer multiplications (`cpu_winograd.py`, `cpu_winograd_strided.py`, and with few channels `cpu_rows.py`); with
many images of few channels, sums of as many images at once as a vector holds (`cpu_images.py`); else products of frames
(`cpu_frames.py`), or put together tile by tile (`cpu_tiles.py`). Ranks 1 and 2 run as rank 3 with leading axes of size
1.
"""

import math
from functools import lru_cache

import numpy as np
from numba import prange

from ..cpu_jit import kernel, threads_for
from ..cpu_sums import line_sum
from ..destinations import gradient
from ..memory import empty
from . import (
    cpu_depthwise,
    cpu_frames,
    cpu_images,
    cpu_planes,
    cpu_pointwise,
    cpu_rows,
    cpu_tiles,
    cpu_winograd,
    cpu_winograd_gradient,
    cpu_winograd_strided,
    cpu_winograd_strided_gradient,
)
from .shape import conv_shape, transposed_conv_shape

_BLOCK = 4096  # elements that a thread takes at a time
_PASS = 16  # multiply-adds that reading an element takes as long as


@kernel
def conv_residual_kernel(y, residual, relu):
    """y = activation(y + residual), both flat, block by block."""
    zero = y.dtype.type(0)
    for block in prange((y.size + _BLOCK - 1) // _BLOCK):
        sums, added = y[block * _BLOCK : (block + 1) * _BLOCK], residual[block * _BLOCK : (block + 1) * _BLOCK]
        for i in range(len(sums)):
            value = sums[i] + added[i]
            sums[i] = zero if relu and value < 0 else value


@kernel
def conv_grad_sum_kernel(grad_y, y, grad_z):
    """grad_z = grad_y where relu let y through, else 0, all [N, C, P]."""
    for index in prange(y.shape[0] * y.shape[1]):
        n, c = index // y.shape[1], index % y.shape[1]
        for p in range(y.shape[2]):
            grad_z[n, c, p] = grad_y[n, c, p] if y[n, c, p] > 0 else y.dtype.type(0)


@kernel
def conv_grad_bias_kernel(grad_z, grad_bias):
    """grad_bias[c] = the sum of grad_z[:, c, :], a channel a thread; planes are summed first, to round less."""
    for c in prange(grad_z.shape[1]):
        total = grad_z.dtype.type(0)
        for n in range(grad_z.shape[0]):
            total += line_sum(grad_z[n, c])
        grad_bias[c] = total


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
    shape = conv_shape(x, weight, stride, padding, dilation, groups)
    planes = np.ascontiguousarray(x).reshape(shape.batch, shape.in_channels, shape.in_size)
    weight_rows = _rows(weight)
    y, z = _output("conv", x, weight.ndim - 2, shape.out_channels, shape.output, x.dtype, out)
    _convolve(_method(shape).correlate, planes, weight_rows, shape, z, bias, residual, activation)
    return y, (planes, weight_rows, z if activation else None, shape, x.shape, weight.shape)


def _backward(saved, grad_y, needs):
    planes, weight_rows, y, shape, x_shape, weight_shape = saved
    grad_z = _grad_sum(grad_y, y, (shape.batch, shape.out_channels, shape.out_size))
    grad_x = grad_weight = None
    grad_bias = empty(shape.out_channels, planes.dtype) if needs[2] else None
    grad_residual = grad_z.reshape(grad_y.shape) if True in needs[3:] else None
    if _method(shape) is cpu_planes:
        grad_x = empty(x_shape, planes.dtype) if needs[0] else None
        grad_weight = gradient(1, weight_shape, planes.dtype) if needs[1] else None
        cpu_planes.gradients(planes, grad_z, weight_rows, shape, grad_x, grad_weight, grad_bias)
        return (grad_x, grad_weight, grad_bias, grad_residual)[: len(needs)]
    if needs[0]:
        grad_x = empty(planes.shape, planes.dtype)
        _method(shape, True).spread(grad_z, weight_rows, shape, grad_x)
        grad_x = grad_x.reshape(x_shape)
    if needs[1]:
        grad_weight = _grad_weight(planes, grad_z, shape, weight_shape, grad_bias)
    elif needs[2]:
        _in_threads_of(grad_z, conv_grad_bias_kernel)(grad_z, grad_bias)
    return (grad_x, grad_weight, grad_bias, grad_residual)[: len(needs)]


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
    shape = transposed_conv_shape(x, weight, stride, padding, output_padding, dilation, groups)
    planes = np.ascontiguousarray(x).reshape(shape.batch, shape.out_channels, shape.out_size)
    weight_rows = _rows(weight)
    y, z = _output("conv_transpose", x, weight.ndim - 2, shape.in_channels, shape.input, x.dtype, out)
    _convolve(_method(shape, True).spread, planes, weight_rows, shape, z, bias, residual, activation)
    return y, (planes, weight_rows, z if activation else None, shape, x.shape, weight.shape)


def _transposed_backward(saved, grad_y, needs):
    planes, weight_rows, y, shape, x_shape, weight_shape = saved
    grad_z = _grad_sum(grad_y, y, (shape.batch, shape.in_channels, shape.in_size))
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = empty(planes.shape, planes.dtype)
        _method(shape).correlate(grad_z, weight_rows, shape, grad_x)
        grad_x = grad_x.reshape(x_shape)
    if needs[1]:
        grad_weight = _grad_weight(grad_z, planes, shape, weight_shape)
    if needs[2]:
        grad_bias = empty(shape.in_channels, planes.dtype)
        _in_threads_of(grad_z, conv_grad_bias_kernel)(grad_z, grad_bias)
    grad_residual = grad_z.reshape(grad_y.shape) if True in needs[3:] else None
    return (grad_x, grad_weight, grad_bias, grad_residual)[: len(needs)]


conv1d_forward = conv2d_forward = conv3d_forward = _forward
conv1d_backward = conv2d_backward = conv3d_backward = _backward
conv_transpose1d_forward = conv_transpose2d_forward = conv_transpose3d_forward = _transposed_forward
conv_transpose1d_backward = conv_transpose2d_backward = conv_transpose3d_backward = _transposed_backward


def _convolve(convolve, planes, weight_rows, shape, z, bias, residual, activation):
    """z = activation(convolve(planes, weight) + bias + residual).

    The residual is added in one more pass over z, with the activation, while much of z is still in the cache.
    """
    relu = activation == "relu"
    convolve(planes, weight_rows, shape, z, _row(bias), relu and residual is None)
    if residual is not None:
        flat = np.ascontiguousarray(residual).reshape(-1)
        _in_threads_of(z, conv_residual_kernel)(z.reshape(-1), flat, relu)


@lru_cache(maxsize=1024)
def _method(shape, gradient=False):
    """The module that computes y, or the gradient of x."""
    if cpu_planes.suits(shape):
        return cpu_planes
    if shape.is_depthwise:
        return cpu_depthwise
    if cpu_pointwise.suits(shape):
        return cpu_pointwise
    if cpu_winograd.suits(shape):
        return cpu_winograd
    if cpu_winograd_strided.suits(shape, gradient):
        return cpu_winograd_strided
    if cpu_images.suits(shape, gradient):
        return cpu_images
    if not gradient and cpu_rows.suits(shape):
        return cpu_rows
    return _product_method(shape, gradient)


def _product_method(shape, gradient=False):
    """The module that multiplies as the sum is written."""
    return cpu_frames if cpu_frames.suits(shape, gradient) else cpu_tiles


def _grad_weight(planes, grad_z, shape, weight_shape, grad_bias=None):
    """The weight's gradient; the bias's, unless it is None, is written on the way."""
    grad_weight = gradient(1, weight_shape, planes.dtype)
    rows = grad_weight.reshape(*weight_shape[:2], shape.taps)
    method = _method(shape)
    if method is cpu_planes:
        method.gradients(planes, grad_z, None, shape, None, rows, grad_bias)
        return grad_weight
    if method in (cpu_depthwise, cpu_pointwise):
        method.grad_weight(planes, grad_z, shape, rows, grad_bias)
        return grad_weight
    if method is cpu_winograd:
        method = cpu_winograd_gradient
    elif method is cpu_winograd_strided:
        method = cpu_winograd_strided_gradient if cpu_winograd_strided_gradient.suits(shape) else cpu_frames
    elif method is cpu_rows:
        method = _product_method(shape)
    method.grad_weight(planes, grad_z, shape, rows)
    if grad_bias is not None:
        _in_threads_of(grad_z, conv_grad_bias_kernel)(grad_z, grad_bias)
    return grad_weight


def _in_threads_of(array, kernel):
    """A kernel that passes over an array once, on as many threads as that is worth."""
    return kernel if threads_for(_PASS * array.size) > 1 else kernel.serial


def _rows(weight):
    """[out, in / groups, *kernel] as [out, in / groups, taps]."""
    return np.ascontiguousarray(weight).reshape(*weight.shape[:2], -1)


def _row(bias):
    return None if bias is None else np.ascontiguousarray(bias)


def _grad_sum(grad_y, y, shape):
    """The gradient before the activation, [N, C, P]."""
    grad_y = np.ascontiguousarray(grad_y).reshape(shape)
    if y is None:
        return grad_y
    grad_z = empty(shape, grad_y.dtype)
    _in_threads_of(grad_z, conv_grad_sum_kernel)(grad_y, y, grad_z)
    return grad_z


def _output(name, x, rank, channels, sizes, dtype, out):
    """The output with x's rank, and the same memory as [N, channels, P]."""
    shape = (*x.shape[: x.ndim - rank - 1], channels, *sizes[3 - rank :])
    if out is None:
        out = empty(shape, dtype)
    elif out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"{name}{rank}d: expected out as a contiguous array of shape {shape} and type {dtype}, "
            f"got shape {out.shape} and type {out.dtype}"
        )
    return out, out.reshape(math.prod(x.shape[: x.ndim - rank - 1]), channels, math.prod(sizes))
