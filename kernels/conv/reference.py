"""Convolutions, as a textbook writes them: one kernel position (a tap) after the other, for any number of axes.

With o an output position, k a kernel position and i = o * stride + k * dilation - padding, axis by axis:

    convolution             y[n, out, o] = b[out] + sum over in, k of  W[out, in, k] x[n, in, i]
    transposed convolution  y[n, out, i] = b[out] + sum over in, o, k of  W[in, out, k] x[n, in, o]

Then y = activation(y + residual), where there is one. Every other implementation is held against these, in float64.
"""

import itertools
import math

import numpy as np

from .shape import output_sizes, transposed_output_sizes, with_defaults


def _forward(
    x, weight, bias=None, residual=None, *, stride=None, padding=None, dilation=None, groups=1, activation=None
):
    stride, padding, dilation, _ = with_defaults(weight.ndim - 2, stride, padding, dilation)
    images = _batched(x, weight)
    output = output_sizes(images.shape[2:], weight.shape[2:], stride, padding, dilation)
    padded = np.pad(images, [(0, 0), (0, 0), *padding])
    z = _correlate(padded, weight, output, stride, dilation, groups)
    y, derivative = _finish(z, bias, residual, activation)
    return y.reshape(y.shape[-x.ndim :]), (x, weight, padded, derivative, (stride, padding, dilation, groups))


def _backward(saved, grad_y, needs):
    x, weight, padded, derivative, (stride, padding, dilation, groups) = saved
    g = _batched(grad_y, weight) * derivative
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        spread = _spread(g, weight, padded.shape, stride, dilation, groups)
        grad_x = _unpad(spread, padding).reshape(x.shape)
    if needs[1]:
        grad_weight = _grad_weight(padded, g, weight.shape, stride, dilation, groups)
    if needs[2]:
        grad_bias = g.sum(axis=(0, *range(2, g.ndim)))
    grad_residual = g.reshape(grad_y.shape) if True in needs[3:] else None
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
):
    rank = weight.ndim - 2
    stride, padding, dilation, output_padding = with_defaults(rank, stride, padding, dilation, output_padding)
    images = _batched(x, weight)
    sizes = transposed_output_sizes(images.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    padded_sizes = [size + before + after for size, (before, after) in zip(sizes, padding)]
    shape = (images.shape[0], weight.shape[1] * groups, *padded_sizes)
    z = _unpad(_spread(images, weight, shape, stride, dilation, groups), padding)
    y, derivative = _finish(z, bias, residual, activation)
    return y.reshape(y.shape[-x.ndim :]), (x, weight, derivative, (stride, padding, dilation, groups))


def _transposed_backward(saved, grad_y, needs):
    x, weight, derivative, (stride, padding, dilation, groups) = saved
    g = _batched(grad_y, weight) * derivative
    padded = np.pad(g, [(0, 0), (0, 0), *padding])
    images = _batched(x, weight)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = _correlate(padded, weight, images.shape[2:], stride, dilation, groups).reshape(x.shape)
    if needs[1]:
        grad_weight = _grad_weight(padded, images, weight.shape, stride, dilation, groups)
    if needs[2]:
        grad_bias = g.sum(axis=(0, *range(2, g.ndim)))
    grad_residual = g.reshape(grad_y.shape) if True in needs[3:] else None
    return (grad_x, grad_weight, grad_bias, grad_residual)[: len(needs)]


conv1d_forward = conv2d_forward = conv3d_forward = _forward
conv1d_backward = conv2d_backward = conv3d_backward = _backward
conv_transpose1d_forward = conv_transpose2d_forward = conv_transpose3d_forward = _transposed_forward
conv_transpose1d_backward = conv_transpose2d_backward = conv_transpose3d_backward = _transposed_backward


def _correlate(padded, weight, output, stride, dilation, groups):
    """[N, in, *padded] -> [N, out, *output]: every output gathers what the kernel covers."""
    batch, positions, weight = len(padded), math.prod(output), _grouped(weight, groups)
    z = np.zeros((batch, groups, weight.shape[1], positions), padded.dtype)
    for tap, window in _windows(weight.shape[3:], output, stride, dilation):
        patch = padded[window].reshape(batch, groups, weight.shape[2], positions)
        z += np.einsum("goc,ngcp->ngop", weight[(..., *tap)], patch)
    return z.reshape(batch, groups * weight.shape[1], *output)


def _spread(g, weight, padded_shape, stride, dilation, groups):
    """[N, out, *output] -> [N, in, *padded], the transpose of _correlate: every output spreads over its window."""
    batch, output, weight = len(g), g.shape[2:], _grouped(weight, groups)
    g = g.reshape(batch, groups, weight.shape[1], math.prod(output))
    result = np.zeros(padded_shape, g.dtype)
    for tap, window in _windows(weight.shape[3:], output, stride, dilation):
        patch = np.einsum("goc,ngop->ngcp", weight[(..., *tap)], g)
        result[window] += patch.reshape(batch, padded_shape[1], *output)
    return result


def _grad_weight(padded, g, weight_shape, stride, dilation, groups):
    """For every tap, the product of the outputs' gradients with the inputs that the tap saw."""
    batch, output = len(g), g.shape[2:]
    result = np.zeros((groups, weight_shape[0] // groups, *weight_shape[1:]), g.dtype)
    positions = math.prod(output)
    g = g.reshape(batch, groups, result.shape[1], positions)
    for tap, window in _windows(weight_shape[2:], output, stride, dilation):
        patch = padded[window].reshape(batch, groups, weight_shape[1], positions)
        result[(..., *tap)] = np.einsum("ngop,ngcp->goc", g, patch)
    return result.reshape(weight_shape)


def _windows(kernel, output, stride, dilation):
    """Every tap, and the padded inputs that it sees: one per output position."""
    for tap in itertools.product(*map(range, kernel)):
        starts = [k * d for k, d in zip(tap, dilation)]
        yield tap, (..., *(slice(b, b + s * (n - 1) + 1, s) for b, n, s in zip(starts, output, stride)))


def _finish(z, bias, residual, activation):
    """Bias, residual and activation -> (y, the activation's derivative)."""
    if bias is not None:
        z = z + bias.reshape(-1, *[1] * (z.ndim - 2))
    if residual is not None:
        z = z + residual.reshape(z.shape)
    if activation == "relu":
        return np.maximum(z, 0), (z > 0).astype(z.dtype)
    return z, np.ones_like(z)


def _unpad(padded, padding):
    return padded[(..., *(slice(before, size - after) for size, (before, after) in zip(padded.shape[2:], padding)))]


def _grouped(weight, groups):
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def _batched(x, weight):
    """[C, *spatial] as a batch of one."""
    return x if x.ndim == weight.ndim else x[None]
