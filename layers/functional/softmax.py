"""Softmax and its kin."""

import warnings

from ...kernels import device
from ...kernels import softmax as kernels
from ...kernels.check import check_number
from .. import random
from ..tensor import apply
from .elementwise import add, div, eq, neg, sub
from .promotion import cast
from .reduce import amax
from .shape import axis_of, reshape, squeeze

__all__ = ["gumbel_softmax", "log_softmax", "logsumexp", "softmax", "softmin"]


def softmax(input, dim=None, *, dtype=None):
    """e^x over its sum along the axis dim.

    Args:
        input: any shape; a tensor without axes counts as one of a single class.
        dim: the axis. Left out, it is 0 for inputs of one or three axes and else 1, with a warning, as in PyTorch.
        dtype: the type that input is converted to first; None leaves it.
    """
    return _along(kernels.softmax, _cast(input, dtype), _axis("softmax", input, dim))


def log_softmax(input, dim=None, *, dtype=None):
    """log(softmax(input, dim)), computed without the way through numbers that round to 0."""
    return _along(kernels.log_softmax, _cast(input, dtype), _axis("log_softmax", input, dim))


def softmin(input, dim=None, *, dtype=None):
    """softmax(-input, dim)."""
    return softmax(neg(_cast(input, dtype)), _axis("softmin", input, dim))


def logsumexp(input, dim, keepdim=False):
    """log of the sum of e^x along dim, an axis or a tuple of axes, which go, or stay with size 1 if keepdim."""
    if not isinstance(dim, (tuple, list)):
        return apply(kernels.logsumexp, input, axis=dim, keepdims=keepdim)
    axes = [axis_of("logsumexp", axis, input.ndim) for axis in dim]
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(f"logsumexp: expected one axis or more as dim, each once, got {dim}")
    for axis in axes:
        input = apply(kernels.logsumexp, input, axis=axis, keepdims=True)
    return input if keepdim else squeeze(input, tuple(axes))


def gumbel_softmax(logits, tau=1.0, hard=False, dim=-1):
    """A random choice along the axis dim that gradients pass through (Jang et al. 2017, Maddison et al. 2017).

    Args:
        logits: unnormalised log-probabilities.
        tau: temperature, above 0: the lower, the nearer to one-hot.
        hard: give exactly one-hot vectors, with the soft ones' gradient.
        dim: the axis.
    """
    check_number("gumbel_softmax", "tau", tau, 0, open_low=True)
    noise = random.generator().gumbel(size=logits.shape).astype(logits.dtype)
    soft = softmax(div(add(logits, device.to_device(noise, logits.device)), tau), dim)
    if not hard:
        return soft
    constant = soft.detach()
    chosen = cast(eq(constant, amax(constant, dim, keepdim=True)), soft.dtype)
    return add(sub(chosen, constant), soft)


def _along(operation, input, axis):
    if getattr(input, "ndim", None) == 0 and axis in (0, -1):
        return reshape(apply(operation, reshape(input, (1,)), axis=0), ())
    return apply(operation, input, axis=axis)


def _cast(input, dtype):
    return input if dtype is None else cast(input, dtype)


def _axis(function, input, dim):
    if dim is not None:
        return dim
    dim = 0 if input.ndim in (0, 1, 3) else 1
    warnings.warn(f"{function}: dim was left out and is taken as {dim}; name it", stacklevel=3)
    return dim
