"""Normalisation on NumPy arrays: the kernels are in `cpu_planes` and `cpu_short_planes` (C order), `cpu_columns`
(features and channels-last images), `cpu_rows` (trailing axes) and `cpu_response`; here operations choose among them by
how x lies in memory."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..cpu_jit import serial_kernel
from ..memory import constant, empty, zeros
from . import cpu_columns, cpu_planes, cpu_short_planes
from .cpu_planes import Sets
from .cpu_response import local_response_norm_backward, local_response_norm_forward
from .cpu_rows import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference_backward",
    "batch_norm_inference_forward",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm_backward",
    "instance_norm_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "local_response_norm_backward",
    "local_response_norm_forward",
    "rms_norm_backward",
    "rms_norm_forward",
    "running_average_forward",
]


_SHORT = 128  # values of a plane, below which several planes go together


def batch_norm_forward(x, weight=None, bias=None, *, eps, activation=None):
    y, mean, variance, saved = _by_channel_forward(x, weight, bias, eps, activation)
    return (y, mean, variance), saved


def batch_norm_backward(saved, grads, needs):
    return _by_channel_backward(saved, *grads, needs)


def batch_norm_inference_forward(x, mean, variance, weight=None, bias=None, *, eps, activation=None):
    # Copies of what is read-only, such as a mapped file: the kernels are compiled to write statistics, too.
    mean, variance = (np.ascontiguousarray(s) if s.flags.writeable else s.copy() for s in (mean, variance))
    y, _, _, saved = _by_channel_forward(x, weight, bias, eps, activation, mean, variance)
    return y, saved


def batch_norm_inference_backward(saved, grad_y, needs):
    affine = any(needs[1:])
    grad_x, grad_weight, grad_bias = _by_channel_backward(saved, grad_y, None, None, (needs[0], affine, affine))
    grad_mean = grad_variance = None
    if needs[1] or needs[2]:
        # d y / d mean and d y / d variance are d y / d bias and d y / d weight times a factor of the channel.
        weight, variance, eps = saved.weight, saved.variance, saved.eps
        rstd = (1 / np.sqrt(variance.astype(np.float64) + eps)).astype(variance.dtype)
        grad_mean = -weight * rstd * grad_bias if needs[1] else None
        grad_variance = variance.dtype.type(-0.5) * weight * rstd * rstd * grad_weight if needs[2] else None
    return grad_x, grad_mean, grad_variance, grad_weight if needs[3] else None, grad_bias if needs[4] else None


def instance_norm_forward(x, weight=None, bias=None, *, eps):
    sets = Sets(x.shape[0] * x.shape[1], 1, 1, 0)
    y, mean, variance, saved = _by_set_forward(x, weight, bias, sets, eps)
    return (y, mean.reshape(x.shape[:2]), variance.reshape(x.shape[:2])), saved


def instance_norm_backward(saved, grads, needs):
    return _by_set_backward(saved, *grads, needs)


def group_norm_forward(x, weight=None, bias=None, *, groups, eps):
    y, _, _, saved = _by_set_forward(x, weight, bias, _group_sets(x.shape, groups), eps)
    return y, saved


def group_norm_backward(saved, grad_y, needs):
    return _by_set_backward(saved, grad_y, None, None, needs)


@serial_kernel
def running_average_kernel(running, value, factor, scale, result):
    """result = running + factor (scale * value - running); all [C]. result may be running."""
    kind = running.dtype.type
    factor, scale = kind(factor), kind(scale)
    for c in range(running.size):
        result[c] = running[c] + factor * (scale * value[c] - running[c])


def running_average_forward(running, value, *, factor, scale=1.0, out=None):
    if value.ndim == 2:
        value = value.mean(axis=0)
    result = out if out is not None and out.flags.c_contiguous else empty(running.shape, running.dtype)
    running_average_kernel(
        np.ascontiguousarray(running), np.ascontiguousarray(value), float(factor), float(scale), result
    )
    if out is None or result is out:
        return result, None
    out[...] = result
    return out, None


def _affine(x, weight, bias):
    """Contiguous [C] parameters, 1 and 0 where there are none."""
    weight = constant(x.shape[1], x.dtype, 1) if weight is None else np.ascontiguousarray(weight)
    bias = constant(x.shape[1], x.dtype, 0) if bias is None else np.ascontiguousarray(bias)
    return weight, bias


@lru_cache(maxsize=4096)
def _group_sets(shape, groups):
    members = shape[1] // groups
    return Sets(shape[0] * groups, members, members, 1)


def _by_set_forward(x, weight, bias, sets, eps):
    x, (weight, bias) = np.ascontiguousarray(x), _affine(x, weight, bias)
    y, mean, variance = cpu_planes.forward(x, sets, weight, bias, float(eps), False)
    return y, mean, variance, (x, weight, bias, mean, variance, float(eps), sets)


def _by_set_backward(saved, grad_y, grad_mean, grad_variance, needs):
    x, weight, bias, mean, variance, eps, sets = saved
    grad_y = np.zeros_like(x) if grad_y is None else grad_y
    statistics = (_or_zeros(grad, mean) for grad in (grad_mean, grad_variance))
    grad_x, grad_weight, grad_bias = cpu_planes.backward(
        x, grad_y, sets, False, weight, bias, eps, False, mean, variance, *statistics, needs[0], needs[1] or needs[2]
    )
    return grad_x, grad_weight if needs[1] else None, grad_bias if needs[2] else None


class _SavedByChannel(NamedTuple):
    """What batch normalisation keeps: x as [N, C, ...], or as [N * ..., C] where it lies `as_columns`."""

    x: np.ndarray
    shape: tuple[int, ...]
    as_columns: bool
    given: bool
    weight: np.ndarray
    bias: np.ndarray
    eps: float
    relu: bool
    mean: np.ndarray
    variance: np.ndarray


def _by_channel_forward(x, weight, bias, eps, activation, mean=None, variance=None):
    """Batch normalisation; a mean and variance that are given are used, else they are computed."""
    given, shape, as_columns = mean is not None, x.shape, _lies_as_columns(x)
    (weight, bias), eps, relu = _affine(x, weight, bias), float(eps), activation == "relu"
    if as_columns:
        x = _rows_of_channels(x)
        y, mean, variance = cpu_columns.forward(x, weight, bias, eps, relu, mean, variance)
        y = _from_rows(y, shape)
    else:
        x = np.ascontiguousarray(x)
        forward = cpu_short_planes.forward if _has_short_planes(x) else _long_planes_forward
        y, mean, variance = forward(x, weight, bias, eps, relu, mean, variance)
    return y, mean, variance, _SavedByChannel(x, shape, as_columns, given, weight, bias, eps, relu, mean, variance)


def _by_channel_backward(saved, grad_y, grad_mean, grad_variance, needs):
    x, shape, as_columns, *state = saved
    statistics = [_or_zeros(grad, saved.mean) for grad in (grad_mean, grad_variance)]
    needed = needs[0], needs[1] or needs[2]
    if as_columns:
        grad_y = np.zeros_like(x) if grad_y is None else _rows_of_channels(grad_y)
        grad_x, grad_weight, grad_bias = cpu_columns.backward(x, grad_y, *state, *statistics, *needed)
        grad_x = _from_rows(grad_x, shape) if needs[0] else None
    else:
        grad_y = np.zeros_like(x) if grad_y is None else grad_y
        backward = cpu_short_planes.backward if _has_short_planes(x) else _long_planes_backward
        grad_x, grad_weight, grad_bias = backward(x, grad_y, *state, *statistics, *needed)
    return grad_x, grad_weight if needs[1] else None, grad_bias if needs[2] else None


def _channel_sets(x):
    return Sets(x.shape[1], x.shape[0], 1, x.shape[1])


def _long_planes_forward(x, *arguments):
    return cpu_planes.forward(x, _channel_sets(x), *arguments)


def _long_planes_backward(x, grad_y, *arguments):
    return cpu_planes.backward(x, grad_y, _channel_sets(x), *arguments)


def _has_short_planes(x):
    return 0 < _plane_size(x.shape) < _SHORT


@lru_cache(maxsize=4096)
def _plane_size(shape):
    return math.prod(shape[2:])


def _lies_as_columns(x):
    """Whether neighbours in memory are of neighbouring channels: [N, C], [N, C, 1, 1], or channels-last memory."""
    if _plane_size(x.shape) == 1:
        return True
    return not x.flags.c_contiguous and np.moveaxis(x, 1, -1).flags.c_contiguous


def _rows_of_channels(x):
    """[N, C, ...] as contiguous [N * ..., C], sharing memory where x lies like that."""
    if x.ndim == 2:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(x.size // max(x.shape[1], 1), x.shape[1])


def _from_rows(rows, shape):
    """[N * ..., C] as [N, C, ...] in channels-last memory, without a copy."""
    if len(shape) == 2:
        return rows
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def _or_zeros(gradient, like):
    return zeros(like.shape, like.dtype) if gradient is None else np.ascontiguousarray(gradient).reshape(-1)
