"""Clipping of gradients, as torch.nn.utils has it: a few kernel calls where the gradients lie in flat buffers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..kernels import accumulate
from ..kernels.check import check_number
from ..kernels.device import device_of, to_device
from ..kernels.operation import Operation
from ..kernels.optimizer import flat, gradient_clip, gradient_limit, gradient_scale
from ..kernels.optimizer.clipping import total_norm, total_norm_on_device
from ..layers.tensor import Parameter, Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def clip_grad_norm_(
    parameters: Iterable[Parameter] | Parameter,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scales all gradients together so that their norm, taken as one vector, is at most `max_norm`.

    Args:
        parameters: those without a gradient are skipped.
        max_norm: the bound.
        norm_type: 1, 2, any other number greater than 0, or infinity.
        error_if_nonfinite: raise where the norm is NaN or infinite, instead of scaling with what comes of it.

    Returns:
        The norm before, a tensor of no axes, on the GPU where all gradients lie on one.

    Gradients on one device are measured and scaled without the host looking at their norm, unless `error_if_nonfinite`
    is set. A norm of NaN makes all gradients NaN, but for elements that are 0.

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set; nothing has been changed.
    """
    norm_type = float(norm_type)
    check_number("clip_grad_norm_", "max_norm", max_norm, 0)
    check_number("clip_grad_norm_", "norm_type", norm_type, 0, open_low=True)
    return _clip_norm(parameters, max_norm, norm_type, error_if_nonfinite)


def clip_grad_value_(parameters: Iterable[Parameter] | Parameter, clip_value: float) -> None:
    """Clamps every element of every gradient to [-clip_value, clip_value]; NaN stays NaN.

    Args:
        parameters: those without a gradient are skipped.
        clip_value: the bound, 0 or more.
    """
    check_number("clip_grad_value_", "clip_value", clip_value, 0)
    _clip_values(parameters, clip_value)


# What a captured step replaces: these, whose names are looked up at each call, wherever the callers of the functions
# above have them from.


def _clip_norm(parameters, max_norm: float, norm_type: float, error_if_nonfinite: bool) -> Tensor:
    gradients, stretches = _gradients(parameters)
    if len({device_of(x) for x in stretches}) == 1:
        norm = total_norm_on_device(stretches, norm_type)
        if error_if_nonfinite:
            _check_finite(float(to_device(norm, "cpu")), norm_type)
        for stretch in stretches:
            _apply(gradient_limit, stretch, norm, max_norm=max_norm)
        return Tensor(norm)
    norm = total_norm(stretches, norm_type)
    if error_if_nonfinite:
        _check_finite(norm, norm_type)
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1:
        # A NaN must not reach the gaps between gradients in a flat buffer, where nothing would wash it out again.
        for gradient in gradients if math.isnan(factor) else stretches:
            _apply(gradient_scale, gradient, factor=factor)
    return Tensor(np.array(norm, np.float64 if any(g.dtype == np.float64 for g in gradients) else np.float32))


def _clip_values(parameters, clip_value: float) -> None:
    for gradient in _gradients(parameters)[1]:
        _apply(gradient_clip, gradient, low=-clip_value, high=clip_value)


def _gradients(parameters) -> tuple[list, list]:
    """The gradients' arrays, and the same as few arrays as they make: stretches of flat buffers, and single ones."""
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    parameters = [p for p in parameters if p.grad is not None]
    in_buffers = [p.grad.array for p in parameters if p.grad.array is p.grad_buffer]
    elsewhere = [p.grad.array for p in parameters if p.grad.array is not p.grad_buffer]
    return in_buffers + elsewhere, flat.joined(in_buffers) + elsewhere


def _check_finite(norm: float, norm_type: float) -> None:
    if not math.isfinite(norm):
        raise RuntimeError(f"clip_grad_norm_: expected gradients of a finite norm, got {norm} (norm_type {norm_type})")


def _apply(operation: Operation, gradient, *others, **attributes) -> None:
    """Changes a gradient in place."""
    if gradient.flags.c_contiguous:
        operation.forward(gradient, *others, out=gradient, **attributes)
    else:
        accumulate.copy_into(gradient, operation.forward(gradient, *others, **attributes)[0])
