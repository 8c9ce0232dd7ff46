"""Normalisation, as a textbook writes it. Every other implementation is held against these, in float64."""

import math

import numpy as np


def _mean(x, axes):
    """The mean over the axes, which stay with size 1; of no values it is 0."""
    return x.sum(axis=axes, keepdims=True) / max(math.prod(x.shape[axis] for axis in axes), 1)


def _per_channel(parameter, x, default):
    """A [C] parameter, shaped to broadcast with x [N, C, ...]."""
    if parameter is None:
        parameter = np.full(x.shape[1], default, x.dtype)
    return parameter.reshape((1, -1) + (1,) * (x.ndim - 2))


def _sum_per_channel(x):
    return x.sum(axis=(0, *range(2, x.ndim)))


def _normalize(x, axes, eps):
    """x^, mean, variance and 1 / sqrt(variance + eps) over the axes."""
    mean = _mean(x, axes)
    variance = _mean((x - mean) ** 2, axes)
    rstd = 1 / np.sqrt(variance + eps)
    return (x - mean) * rstd, mean, variance, rstd


def _grad_normalized(grad_xhat, xhat, rstd, axes):
    return rstd * (grad_xhat - _mean(grad_xhat, axes) - xhat * _mean(grad_xhat * xhat, axes))


def _activated(z, activation):
    """activation(z), and the activation's derivative."""
    if activation == "relu":
        return np.maximum(z, 0), z > 0
    return z, 1


def _statistics_norm_forward(x, weight, bias, axes, eps, activation=None):
    """batch_norm and instance_norm, which differ in the axes."""
    xhat, mean, variance, rstd = _normalize(x, axes, eps)
    y, derivative = _activated(xhat * _per_channel(weight, x, 1) + _per_channel(bias, x, 0), activation)
    shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
    return (y, mean.reshape(shape), variance.reshape(shape)), (x, weight, axes, xhat, mean, rstd, derivative)


def _statistics_norm_backward(saved, grads, needs):
    x, weight, axes, xhat, mean, rstd, derivative = saved
    grad_y, grad_mean, grad_variance = grads
    grad_y = np.zeros_like(x) if grad_y is None else grad_y * derivative
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = _grad_normalized(grad_y * _per_channel(weight, x, 1), xhat, rstd, axes)
        count = max(math.prod(x.shape[axis] for axis in axes), 1)
        if grad_mean is not None:
            grad_x = grad_x + grad_mean.reshape(mean.shape) / count
        if grad_variance is not None:
            grad_x = grad_x + grad_variance.reshape(mean.shape) * 2 * (x - mean) / count
    if needs[1]:
        grad_weight = _sum_per_channel(grad_y * xhat)
    if needs[2]:
        grad_bias = _sum_per_channel(grad_y)
    return grad_x, grad_weight, grad_bias


def batch_norm_forward(x, weight=None, bias=None, *, eps, activation=None):
    return _statistics_norm_forward(x, weight, bias, (0, *range(2, x.ndim)), eps, activation)


def instance_norm_forward(x, weight=None, bias=None, *, eps):
    return _statistics_norm_forward(x, weight, bias, tuple(range(2, x.ndim)), eps)


batch_norm_backward = instance_norm_backward = _statistics_norm_backward


def batch_norm_inference_forward(x, mean, variance, weight=None, bias=None, *, eps, activation=None):
    rstd = 1 / np.sqrt(variance + eps)
    xhat = (x - _per_channel(mean, x, 0)) * _per_channel(rstd, x, 1)
    y, derivative = _activated(xhat * _per_channel(weight, x, 1) + _per_channel(bias, x, 0), activation)
    return y, (xhat, rstd, np.ones_like(rstd) if weight is None else weight, derivative)


def batch_norm_inference_backward(saved, grad_y, needs):
    xhat, rstd, weight, derivative = saved
    grad_y = grad_y * derivative
    grad_weight, grad_bias = _sum_per_channel(grad_y * xhat), _sum_per_channel(grad_y)
    return (
        grad_y * _per_channel(weight * rstd, xhat, 1) if needs[0] else None,
        -weight * rstd * grad_bias if needs[1] else None,
        -0.5 * weight * rstd**2 * grad_weight if needs[2] else None,
        grad_weight if needs[3] else None,
        grad_bias if needs[4] else None,
    )


def group_norm_forward(x, weight=None, bias=None, *, groups, eps):
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    xhat, _, _, rstd = _normalize(grouped, tuple(range(2, grouped.ndim)), eps)
    y = xhat.reshape(x.shape) * _per_channel(weight, x, 1) + _per_channel(bias, x, 0)
    return y, (weight, xhat, rstd)


def group_norm_backward(saved, grad_y, needs):
    weight, xhat, rstd = saved
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_xhat = (grad_y * _per_channel(weight, grad_y, 1)).reshape(xhat.shape)
        grad_x = _grad_normalized(grad_xhat, xhat, rstd, tuple(range(2, xhat.ndim))).reshape(grad_y.shape)
    if needs[1]:
        grad_weight = _sum_per_channel(grad_y * xhat.reshape(grad_y.shape))
    if needs[2]:
        grad_bias = _sum_per_channel(grad_y)
    return grad_x, grad_weight, grad_bias


def layer_norm_forward(x, weight=None, bias=None, *, normalized_shape, eps):
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    xhat, _, _, rstd = _normalize(x, axes, eps)
    y = xhat if weight is None else xhat * weight
    return y if bias is None else y + bias, (weight, xhat, rstd, axes)


def layer_norm_backward(saved, grad_y, needs):
    weight, xhat, rstd, axes = saved
    rows = tuple(range(axes[0]))
    grad_xhat = grad_y if weight is None else grad_y * weight
    grad_x = _grad_normalized(grad_xhat, xhat, rstd, axes) if needs[0] else None
    grad_weight = np.asarray((grad_y * xhat).sum(axis=rows)) if needs[1] else None
    grad_bias = np.asarray(grad_y.sum(axis=rows)) if needs[2] else None
    return grad_x, grad_weight, grad_bias


def rms_norm_forward(x, weight=None, *, normalized_shape, eps):
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    rstd = 1 / np.sqrt(_mean(x**2, axes) + eps)
    xhat = x * rstd
    return xhat if weight is None else xhat * weight, (weight, xhat, rstd, axes)


def rms_norm_backward(saved, grad_y, needs):
    weight, xhat, rstd, axes = saved
    grad_x = grad_weight = None
    if needs[0]:
        grad_xhat = grad_y if weight is None else grad_y * weight
        grad_x = rstd * (grad_xhat - xhat * _mean(grad_xhat * xhat, axes))
    if needs[1]:
        grad_weight = np.asarray((grad_y * xhat).sum(axis=tuple(range(axes[0]))))
    return grad_x, grad_weight


def _window_sum(x, before, after):
    """For each channel the sum over the channels from `before` earlier to `after` later, as far as they exist."""
    channels = x.shape[1]
    windows = [x[:, max(c - before, 0) : c + after + 1].sum(axis=1) for c in range(channels)]
    return np.stack(windows, axis=1) if windows else np.zeros_like(x)


def local_response_norm_forward(x, *, size, alpha, beta, k):
    base = k + alpha / size * _window_sum(x * x, size // 2, (size - 1) // 2)
    return x * base**-beta, (x, base, size, alpha, beta)


def local_response_norm_backward(saved, grad_y, needs):
    x, base, size, alpha, beta = saved
    if not needs[0]:
        return (None,)
    # Channel c stands in the windows of the channels from (size - 1) // 2 earlier to size // 2 later.
    through_base = _window_sum(grad_y * x * base ** (-beta - 1), (size - 1) // 2, size // 2)
    return (grad_y * base**-beta - 2 * alpha * beta / size * x * through_base,)


def running_average_forward(running, value, *, factor, scale=1.0, out=None):
    value = value.mean(axis=0) if value.ndim == 2 else value
    result = running + factor * (scale * value - running)
    if out is not None:
        out[...] = result
        result = out
    return result, None
