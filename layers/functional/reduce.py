"""Reductions, with PyTorch's names, argument names and defaults. `dim` is an axis, a tuple of axes, or None for all."""

import math
from typing import NamedTuple

import numpy as np

from ...kernels import reduce as kernels
from ...kernels.check import FLOATS
from ..tensor import Tensor, apply
from . import elementwise
from .promotion import cast
from .shape import axis_of, broadcast_shape, expand, flatten, reshape

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "cosine_similarity",
    "count_nonzero",
    "cumprod",
    "cumsum",
    "max",
    "mean",
    "min",
    "norm",
    "normalize",
    "pairwise_distance",
    "prod",
    "std",
    "std_mean",
    "sum",
    "var",
    "var_mean",
]


def _axes(name: str, dim, ndim: int) -> tuple[int, ...]:
    """dim as the kernels take it: different axes in rising order. None and () stand for all axes, as in PyTorch."""
    if dim is None:
        return tuple(range(ndim))
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    axes = sorted(axis_of(name, axis, ndim) for axis in dims)
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name}: expected different axes as dim, got {dim}")
    if ndim == 0 or not axes:
        return tuple(range(ndim))
    return tuple(axes)


def _tensor(input, dtype=None):
    input = input if isinstance(input, Tensor) else Tensor(input)
    return input if dtype is None else cast(input, dtype)


def _countable(input):
    """Integers and bools as int64, for what adds or multiplies."""
    return input if input.dtype in FLOATS else cast(input, np.int64)


def _typed(output, dtype):
    """What was counted in int64, as the type that was asked for."""
    return output if dtype is None else cast(output, dtype)


def _fractional(name: str, input):
    if input.dtype not in FLOATS:
        raise TypeError(f"{name}: expected a floating-point input, got {input.dtype}; .float() converts")
    return input


def sum(input, dim=None, keepdim=False, *, dtype=None):
    """The sum over dim; integers and bools add up in int64, unless dtype names another type."""
    input = _countable(_tensor(input, dtype))
    return _typed(apply(kernels.sum, input, axis=_axes("sum", dim, input.ndim), keepdims=keepdim), dtype)


def mean(input, dim=None, keepdim=False, *, dtype=None):
    """The mean over dim of a floating-point input."""
    input = _fractional("mean", _tensor(input, dtype))
    return apply(kernels.mean, input, axis=_axes("mean", dim, input.ndim), keepdims=keepdim)


def prod(input, dim=None, keepdim=False, *, dtype=None):
    """The product over dim; integers and bools multiply in int64, unless dtype names another type."""
    input = _countable(_tensor(input, dtype))
    return _typed(apply(kernels.prod, input, axis=_axes("prod", dim, input.ndim), keepdims=keepdim), dtype)


def amax(input, dim=(), keepdim=False):
    """The maximum over dim; equal maxima share the gradient evenly."""
    input = _tensor(input)
    return apply(kernels.amax, input, axis=_axes("amax", dim, input.ndim), keepdims=keepdim)


def amin(input, dim=(), keepdim=False):
    """The minimum over dim; equal minima share the gradient evenly."""
    input = _tensor(input)
    return apply(kernels.amin, input, axis=_axes("amin", dim, input.ndim), keepdims=keepdim)


class Extremum(NamedTuple):
    """The largest or smallest elements along an axis, and their places (int64) there."""

    values: Tensor
    indices: Tensor


def _extremum(name, chosen, everywhere, pairwise):
    def function(input, dim=None, keepdim=False):
        if dim is None:
            return everywhere(input, (), keepdim)
        if hasattr(dim, "dtype"):
            return pairwise(input, dim)
        input = _tensor(input)
        axis = axis_of(name, dim, input.ndim)
        if input.ndim == 0:
            return Extremum(*apply(chosen, reshape(input, (1,)), axis=0))
        return Extremum(*apply(chosen, input, axis=axis, keepdims=keepdim))

    word = {"max": "largest", "min": "smallest"}[name]
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"""The {word} element of all; with dim a named pair (values, indices) along that axis.

    Args:
        input: any shape.
        dim: an axis. The gradient of a value goes to the first element that equals it. A tensor here makes this
            `{name}imum`, as in PyTorch.
        keepdim: keep the axis with size 1.
    """
    return function


max = _extremum("max", kernels.max, amax, elementwise.maximum)
min = _extremum("min", kernels.min, amin, elementwise.minimum)


def _place(name, operation):
    def function(input, dim=None, keepdim=False):
        input = _tensor(input)
        if dim is None or input.ndim == 0:
            place = apply(operation, flatten(input), axis=0)
            return reshape(place, (1,) * input.ndim) if keepdim else place
        return apply(operation, input, axis=axis_of(name, dim, input.ndim), keepdims=keepdim)

    function.__name__ = function.__qualname__ = name
    word = {"argmax": "largest", "argmin": "smallest"}[name]
    function.__doc__ = (
        f"The index (int64) of the {word} element along dim, or in the flattened input; of equals the first."
    )
    return function


argmax = _place("argmax", kernels.argmax)
argmin = _place("argmin", kernels.argmin)


def all(input, dim=None, keepdim=False):
    """Whether all elements over dim are set (not 0): bool."""
    input = _tensor(input)
    return apply(kernels.all, input, axis=_axes("all", dim, input.ndim), keepdims=keepdim)


def any(input, dim=None, keepdim=False):
    """Whether any element over dim is set (not 0): bool."""
    input = _tensor(input)
    return apply(kernels.any, input, axis=_axes("any", dim, input.ndim), keepdims=keepdim)


def count_nonzero(input, dim=None):
    """How many elements over dim are not 0: int64."""
    return sum(elementwise.ne(_tensor(input), 0), dim)


def _correction(name: str, dim, correction, unbiased):
    """PyTorch's older argument `unbiased`, also where it stands for dim, as a correction: (dim, correction)."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is None:
        return dim, correction
    if correction != 1:
        raise ValueError(f"{name}: expected correction or unbiased, got both")
    return dim, int(unbiased)


def var(input, dim=None, unbiased=None, keepdim=False, *, correction=1):
    """The mean square distance from the mean over dim, where `correction` is taken from the count to divide by.

    Args:
        input: floating-point.
        dim: an axis, a tuple of axes, or None for all.
        unbiased: another way to say correction: True is 1, False 0.
        keepdim: keep the axes with size 1.
        correction: what is taken from the count.

    Raises:
        ValueError: no more elements than `correction`.
    """
    dim, correction = _correction("var", dim, correction, unbiased)
    input = _fractional("var", _tensor(input))
    axes = _axes("var", dim, input.ndim)
    return apply(kernels.var, input, axis=axes, keepdims=keepdim, correction=correction)


def std(input, dim=None, unbiased=None, keepdim=False, *, correction=1):
    """The square root of `var`, with its arguments; its gradient is 0 where it is 0."""
    dim, correction = _correction("std", dim, correction, unbiased)
    input = _fractional("std", _tensor(input))
    axes = _axes("std", dim, input.ndim)
    return apply(kernels.std, input, axis=axes, keepdims=keepdim, correction=correction)


def var_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=1):
    """(var, mean) over dim."""
    dim, correction = _correction("var_mean", dim, correction, unbiased)
    return var(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


def std_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=1):
    """(std, mean) over dim."""
    dim, correction = _correction("std_mean", dim, correction, unbiased)
    return std(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


def norm(input, p="fro", dim=None, keepdim=False):
    """(sum |input|^p)^(1/p) over dim; its gradient at 0 is 0.

    Args:
        input: floating-point.
        p: a number, infinities and 0 (the count of what is not 0) included, or 'fro' for 2.
    """
    input = _fractional("norm", _tensor(input))
    axes = _axes("norm", dim, input.ndim)
    p = 2.0 if p == "fro" else p
    if p == 0:
        return cast(sum(elementwise.ne(input, 0), axes, keepdim), input.dtype)
    if p == -math.inf:
        return amin(elementwise.abs(input), axes, keepdim)
    return apply(kernels.norm, input, axis=axes, keepdims=keepdim, p=p)


def cumsum(input, dim, *, dtype=None):
    """Running sums along dim."""
    input = _countable(_tensor(input, dtype))
    if input.ndim == 0:
        return _typed(input, dtype)
    return _typed(apply(kernels.cumsum, input, axis=axis_of("cumsum", dim, input.ndim)), dtype)


def cumprod(input, dim, *, dtype=None):
    """Running products along dim."""
    input = _countable(_tensor(input, dtype))
    if input.ndim == 0:
        return _typed(input, dtype)
    return _typed(apply(kernels.cumprod, input, axis=axis_of("cumprod", dim, input.ndim)), dtype)


def normalize(input, p=2.0, dim=1, eps=1e-12):
    """input / max(norm of order p over dim, eps)."""
    return elementwise.div(input, elementwise.clamp(norm(input, p, dim, keepdim=True), min=eps))


def cosine_similarity(x1, x2, dim=1, eps=1e-8):
    """The cosine of the angle of vectors along dim, x1 . x2 / (max(|x1|, eps) max(|x2|, eps)); shapes broadcast."""
    shape = broadcast_shape("cosine_similarity", x1.shape, x2.shape)
    x1, x2 = (expand(x, shape) for x in (x1, x2))
    lengths = (elementwise.clamp(norm(x, 2.0, dim), min=eps) for x in (x1, x2))
    return elementwise.div(sum(elementwise.mul(x1, x2), dim), elementwise.mul(*lengths))


def pairwise_distance(x1, x2, p=2.0, eps=1e-6, keepdim=False):
    """The norm of order p of x1 - x2 + eps along the last axis. Shapes broadcast."""
    return norm(elementwise.add(elementwise.sub(x1, x2), eps), p, -1, keepdim)
