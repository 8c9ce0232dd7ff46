"""Normalisation."""

import math

import numpy as np

from ...kernels import norm as kernels
from ...kernels.check import refuse_value
from ..tensor import apply

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm"]


def batch_norm(
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    activation=None,
):
    """Brings each channel to mean 0 and variance 1, then scales and shifts it (Ioffe & Szegedy 2015); the activation is
    part of the same operation.

    Args:
        input: [N, C, ...].
        running_mean: [C], or None. In training it moves towards the batch's mean; else it is the mean.
        running_var: [C], or None. In training it moves towards the batch's unbiased variance; else it is the variance.
        weight: [C] or None, the factor.
        bias: [C] or None, the shift.
        training: whether mean and variance are the batch's.
        momentum: how far the running statistics move, in [0, 1].
        eps: added to the variance.
        activation: None or 'relu'. (PyTorch has no such argument.)

    Raises:
        ValueError: training with one value per channel; not training without running statistics.
    """
    if not training:
        _require_statistics("batch_norm", running_mean, running_var)
        inputs = input, running_mean, running_var, weight, bias
        return apply(kernels.batch_norm_inference, *inputs, eps=eps, activation=activation)
    if input.ndim < 2 or input.size == input.shape[1] > 0:
        expectation = "as [N, C, ...] with more than 1 value per channel when training"
        refuse_value("batch_norm", "input", expectation, f"shape {input.shape}")
    y, mean, variance = apply(kernels.batch_norm, input, weight, bias, eps=eps, activation=activation)
    _track(running_mean, running_var, mean, variance, momentum, count=input.size // max(input.shape[1], 1))
    return y


def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    """Brings each channel of each instance to mean 0 and variance 1, then scales and shifts it (Ulyanov et al. 2016).

    Args:
        input: [N, C, ...].
        running_mean: [C], or None. Moves towards the mean of the instances' means, or is the mean.
        running_var: [C], or None. Moves towards the mean of the instances' unbiased variances, or is the variance.
        weight: [C] or None, the factor.
        bias: [C] or None, the shift.
        use_input_stats: whether mean and variance are the instance's; else the running ones.
        momentum: how far the running statistics move, in [0, 1].
        eps: added to the variance.

    Raises:
        ValueError: one spatial element; use_input_stats False without running statistics.
    """
    if not use_input_stats:
        _require_statistics("instance_norm", running_mean, running_var)
        return apply(kernels.batch_norm_inference, input, running_mean, running_var, weight, bias, eps=eps)
    spatial = math.prod(input.shape[2:])
    if spatial == 1:
        expectation = "with more than 1 spatial element when training"
        refuse_value("instance_norm", "input", expectation, f"shape {input.shape}")
    y, mean, variance = apply(kernels.instance_norm, input, weight, bias, eps=eps)
    _track(running_mean, running_var, mean, variance, momentum, count=spatial if input.size else 0)
    return y


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    """Brings each group of neighbouring channels of each sample to mean 0 and variance 1, then scales and shifts the
    channels (Wu & He 2018).

    Args:
        input: [N, C, ...].
        num_groups: into how many groups the C channels are split; a divisor of C.
        weight: [C] or None, the factor.
        bias: [C] or None, the shift.
        eps: added to the variance.
    """
    return apply(kernels.group_norm, input, weight, bias, groups=num_groups, eps=eps)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Brings the values over the trailing axes to mean 0 and variance 1, then scales and shifts them (Ba et al. 2016).

    Args:
        input: [..., *normalized_shape].
        normalized_shape: sizes of the trailing axes; an integer stands for one.
        weight: normalized_shape or None, the factor.
        bias: normalized_shape or None, the shift.
        eps: added to the variance.
    """
    return apply(kernels.layer_norm, input, weight, bias, normalized_shape=_shape(normalized_shape), eps=eps)


def rms_norm(input, normalized_shape, weight=None, eps=None):
    """Divides the values over the trailing axes by their root mean square, then scales them (Zhang & Sennrich 2019).

    Args:
        input: [..., *normalized_shape].
        normalized_shape: sizes of the trailing axes; an integer stands for one.
        weight: normalized_shape or None, the factor.
        eps: added to the mean square; None is the spacing of floating-point numbers at 1, in the type computed in.
    """
    if eps is None:
        eps = float(np.finfo(np.float64 if input.dtype == np.float64 else np.float32).eps)
    return apply(kernels.rms_norm, input, weight, normalized_shape=_shape(normalized_shape), eps=eps)


def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    """Divides each value by (k + alpha * mean of the squares over neighbouring channels)^beta (Krizhevsky et al. 2012).

    Args:
        input: [N, C, ...] with at least one spatial axis.
        size: how many channels the mean goes over; those past the first and the last channel count as zeros.
        alpha: factor of the mean.
        beta: exponent.
        k: constant that is added to the mean.
    """
    if input.ndim < 3:
        refuse_value("local_response_norm", "input", "as [N, C, ...] of at least 3 axes", f"shape {input.shape}")
    return apply(kernels.local_response_norm, input, size=size, alpha=alpha, beta=beta, k=k)


def _shape(normalized_shape) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)


def _require_statistics(name, running_mean, running_var):
    if running_mean is None or running_var is None:
        refuse_value(name, "running_mean and running_var", "where the input's own statistics are not used", "None")


def _track(running_mean, running_var, mean, variance, momentum, count):
    """Moves the running statistics, in place and off the tape, towards those of `count` values."""
    if count == 0:
        return
    for running, value, scale in ((running_mean, mean, 1.0), (running_var, variance, count / (count - 1))):
        if running is not None:
            array = running.array
            kernels.running_average.forward(array, value.array, factor=momentum, scale=scale, out=array)
