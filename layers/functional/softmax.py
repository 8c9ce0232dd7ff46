"""Softmax and its kin."""

import warnings

from ...kernels import elementwise
from ...kernels import softmax as kernels
from ..tensor import apply

__all__ = ["softmax", "log_softmax", "softmin", "logsumexp"]


def softmax(input, dim=None):
    """e^x over its sum along the axis dim.

    Args:
        input: at least one axis.
        dim: the axis. Left out, it is 0 for inputs of one or three axes and else 1, with a warning, as in PyTorch.
    """
    return apply(kernels.softmax, input, axis=_axis("softmax", input, dim))


def log_softmax(input, dim=None):
    """log(softmax(input, dim)), computed without the way through numbers that round to 0."""
    return apply(kernels.log_softmax, input, axis=_axis("log_softmax", input, dim))


def softmin(input, dim=None):
    """softmax(-input, dim)."""
    return softmax(apply(elementwise.negative, input), _axis("softmin", input, dim))


def logsumexp(input, dim, keepdim=False):
    """log of the sum of e^x along the axis dim, which goes, or stays with size 1 if keepdim."""
    return apply(kernels.logsumexp, input, axis=dim, keepdims=keepdim)


def _axis(function, input, dim):
    if dim is not None:
        return dim
    dim = 0 if input.ndim in (0, 1, 3) else 1
    warnings.warn(f"{function}: dim was left out and is taken as {dim}; name it", stacklevel=3)
    return dim
