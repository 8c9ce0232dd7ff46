"""Losses of single elements on NumPy arrays.

One pair of kernels serves them all, each loss an integer code: a thread takes a block of elements, writes the loss (or
its derivative) of each into a piece of memory that stays in the first cache, and there weights, sums or scales it. The
inputs are read once and a reduced loss writes nothing else.
"""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import exp, log, log1p, sigmoid, softplus, wide_vectors
from ..cpu_sums import line_sum
from ..elementwise.broadcasting import sum_to_shape
from ..memory import empty
from .cpu_reduce import mean_of

# Fixed, so that a sum is formed in the same order whatever the number of threads: short in float32, then in float64.
_BLOCK = 1024
_WORTH_THREADS = 1 << 14  # elements; the losses of fewer are there before another thread has woken up
_NOTHING = {np.dtype(kind): np.empty(0, kind) for kind in (np.float32, np.float64)}

_MSE, _L1, _SMOOTH_L1, _HUBER, _POISSON_LOG, _POISSON, _GAUSSIAN = range(7)
_BCE, _BCE_LOGITS, _BCE_LOGITS_POSITIVE, _KL, _KL_LOG, _SOFT_MARGIN, _HINGE_EMBEDDING, _MARGIN_RANKING = range(7, 15)
_BY_INPUT, _BY_TARGET, _BY_OTHER = range(3)


@serial_kernel
def element_losses(code, x, t, other, p, full, values):
    """values = the losses of a block. other: pos_weight, var or input2; p: beta, delta, margin or eps."""
    wide_vectors()
    zero, half, one = x.dtype.type(0), x.dtype.type(0.5), x.dtype.type(1)
    if code == _MSE:
        for i in range(x.size):
            values[i] = (x[i] - t[i]) * (x[i] - t[i])
    elif code == _L1:
        for i in range(x.size):
            values[i] = abs(x[i] - t[i])
    elif code == _SMOOTH_L1:
        scale = half / p
        for i in range(x.size):
            d = abs(x[i] - t[i])
            values[i] = d * d * scale if d < p else d - half * p
    elif code == _HUBER:
        for i in range(x.size):
            d = abs(x[i] - t[i])
            values[i] = half * d * d if d < p else p * (d - half * p)
    elif code == _POISSON_LOG:
        for i in range(x.size):
            values[i] = exp(x[i]) - t[i] * x[i]
    elif code == _POISSON:
        for i in range(x.size):
            values[i] = x[i] - t[i] * log(x[i] + p)
    elif code == _GAUSSIAN:
        constant = x.dtype.type(0.5 * math.log(2 * math.pi)) if full else zero
        for i in range(x.size):
            v, d = max(other[i], p), x[i] - t[i]
            values[i] = half * (log(v) + d * d / v) + constant
    elif code == _BCE:
        floor = x.dtype.type(-100)
        for i in range(x.size):
            values[i] = (t[i] - one) * max(log1p(-x[i]), floor) - t[i] * max(log(x[i]), floor)
    elif code == _BCE_LOGITS:
        for i in range(x.size):
            values[i] = (one - t[i]) * x[i] + softplus(-x[i])
    elif code == _BCE_LOGITS_POSITIVE:
        for i in range(x.size):
            values[i] = (one - t[i]) * x[i] + (one + (other[i] - one) * t[i]) * softplus(-x[i])
    elif code == _KL:
        for i in range(x.size):
            logarithm = log(t[i]) if t[i] != zero else zero
            values[i] = t[i] * logarithm - t[i] * x[i]
    elif code == _KL_LOG:
        for i in range(x.size):
            values[i] = exp(t[i]) * (t[i] - x[i])
    elif code == _SOFT_MARGIN:
        for i in range(x.size):
            values[i] = softplus(-t[i] * x[i])
    elif code == _HINGE_EMBEDDING:
        for i in range(x.size):
            values[i] = x[i] if t[i] == one else (zero if p < x[i] else p - x[i])
    elif code == _MARGIN_RANKING:
        for i in range(x.size):
            inside = p - t[i] * (x[i] - other[i])
            values[i] = zero if inside < zero else inside
    if full and code in (_POISSON, _POISSON_LOG):
        circle = x.dtype.type(2 * math.pi)
        for i in range(x.size):
            n = max(t[i], one)
            values[i] += n * log(n) - n + half * log(circle * n) if t[i] > one else zero


@serial_kernel
def element_derivatives(code, by, x, t, other, p, full, values):
    """values = the derivatives of a block's losses by the input, the target or the variance."""
    wide_vectors()
    zero, half, one = x.dtype.type(0), x.dtype.type(0.5), x.dtype.type(1)
    if code == _MSE:
        for i in range(x.size):
            d = x[i] - t[i]
            values[i] = d + d
    elif code == _L1:
        for i in range(x.size):
            d = x[i] - t[i]
            values[i] = one if d > zero else (-one if d < zero else d)
    elif code in (_SMOOTH_L1, _HUBER):
        scale = one / p if code == _SMOOTH_L1 else one
        for i in range(x.size):
            d = x[i] - t[i]
            values[i] = (p if d >= p else (-p if d <= -p else d)) * scale
    elif code == _GAUSSIAN:
        for i in range(x.size):
            v, d = max(other[i], p), x[i] - t[i]
            values[i] = half * (one - d * d / v) / v if by == _BY_OTHER else d / v
    elif code == _POISSON_LOG:
        for i in range(x.size):
            values[i] = exp(x[i]) - t[i] if by == _BY_INPUT else -x[i]
    elif code == _POISSON:
        for i in range(x.size):
            values[i] = one - t[i] / (x[i] + p) if by == _BY_INPUT else -log(x[i] + p)
    elif code == _BCE and by == _BY_INPUT:
        least = x.dtype.type(1e-12)
        for i in range(x.size):
            values[i] = (x[i] - t[i]) / max((one - x[i]) * x[i], least)
    elif code == _BCE:
        floor = x.dtype.type(-100)
        for i in range(x.size):
            values[i] = max(log1p(-x[i]), floor) - max(log(x[i]), floor)
    elif code == _BCE_LOGITS and by == _BY_INPUT:
        for i in range(x.size):
            values[i] = (one - t[i]) * sigmoid(x[i]) - t[i] * sigmoid(-x[i])
    elif code == _BCE_LOGITS:
        for i in range(x.size):
            values[i] = -x[i]
    elif code == _BCE_LOGITS_POSITIVE and by == _BY_INPUT:
        for i in range(x.size):
            values[i] = (one - t[i]) * sigmoid(x[i]) - other[i] * t[i] * sigmoid(-x[i])
    elif code == _BCE_LOGITS_POSITIVE:
        for i in range(x.size):
            values[i] = (other[i] - one) * softplus(-x[i]) - x[i]
    elif code == _KL:
        for i in range(x.size):
            values[i] = -t[i] if by == _BY_INPUT else log(t[i]) + one - x[i]
    elif code == _KL_LOG:
        for i in range(x.size):
            values[i] = exp(t[i]) * (-one if by == _BY_INPUT else t[i] - x[i] + one)
    elif code == _SOFT_MARGIN:
        for i in range(x.size):
            values[i] = -(t[i] if by == _BY_INPUT else x[i]) * sigmoid(-t[i] * x[i])
    elif code == _HINGE_EMBEDDING:
        for i in range(x.size):
            values[i] = one if t[i] == one else (-one if p >= x[i] else zero)
    elif code == _MARGIN_RANKING:
        for i in range(x.size):
            d = x[i] - other[i]
            slope = -t[i] if by == _BY_INPUT else -d
            values[i] = slope if p - t[i] * d >= zero else zero
    if full and by == _BY_TARGET and code in (_POISSON, _POISSON_LOG):
        for i in range(x.size):
            n = max(t[i], one)
            values[i] += log(n) + half / n if t[i] > one else zero


@kernel
def elementwise_loss_kernel(code, x, t, other, weight, p, full, keep, losses, partial):
    """losses = every element's loss if `keep`; partial = the sum of each block."""
    weighted = weight.size > 0
    for block in prange(partial.size):
        start = block * _BLOCK
        stop = min(start + _BLOCK, x.size)
        values = losses[start:stop] if keep else np.empty(stop - start, x.dtype)
        element_losses(code, x[start:stop], t[start:stop], other[start:stop], p, full, values)
        if weighted:
            for i in range(stop - start):
                values[i] *= weight[start + i]
        partial[block] = line_sum(values)


@kernel
def elementwise_loss_grad_kernel(code, by, x, t, other, weight, p, full, factor, grad_output, each, grad):
    """grad = factor * grad_output * derivative; grad_output has a value for each element, or one for all."""
    weighted = weight.size > 0
    scale = x.dtype.type(factor if each else factor * np.float64(grad_output[0]))
    for block in prange((x.size + _BLOCK - 1) // _BLOCK):
        start = block * _BLOCK
        stop = min(start + _BLOCK, x.size)
        values = grad[start:stop]
        element_derivatives(code, by, x[start:stop], t[start:stop], other[start:stop], p, full, values)
        if weighted:
            for i in range(stop - start):
                values[i] *= weight[start + i]
        if each:
            for i in range(stop - start):
                values[i] *= scale * grad_output[start + i]
        else:
            for i in range(stop - start):
                values[i] *= scale


def _run(loss_kernel, x):
    """The kernel on all threads, or on the calling one for few elements."""
    return loss_kernel if x.size >= _WORTH_THREADS else loss_kernel.serial


def _flat(x, like):
    """The values as one row, stretched to the shape of `like`; None as an empty row."""
    if x is None:
        return _NOTHING[like.dtype]
    if type(x) is not np.ndarray or x.shape != like.shape:
        x = np.broadcast_to(x, like.shape)
    return np.ascontiguousarray(x, dtype=like.dtype).ravel()


def _forward(code, input, target, reduction, other=None, weight=None, p=0.0, full=False):
    """(output, saved) of the loss with this code."""
    x, t, other, weight = _flat(input, input), _flat(target, input), _flat(other, input), _flat(weight, input)
    call = (code, x, t, other, weight, x.dtype.type(p), full)
    keep = reduction == "none"
    losses = empty(x.size if keep else 0, x.dtype)
    partial = empty(-(-x.size // _BLOCK), np.float64)
    _run(elementwise_loss_kernel, x)(*call, keep, losses, partial)
    if keep:
        return losses.reshape(input.shape), (call, input.shape, 1.0, True)
    divisor = 1
    if reduction == "mean":
        divisor = x.size
    elif reduction == "batchmean" and input.ndim:
        divisor = input.shape[0]
    return mean_of(partial, divisor, x.dtype), (call, input.shape, 1 / max(divisor, 1), False)


def _gradient(saved, by, grad_output, sign=1.0):
    """The gradient by one of the inputs: `sign` times the kernel's derivative, for what enters as a difference."""
    call, shape, scale, each = saved
    x = call[1]
    grad = empty(shape, x.dtype)
    _run(elementwise_loss_grad_kernel, x)(
        call[0], by, *call[1:], sign * scale, grad_output.ravel(), each, grad.ravel()
    )  # fmt: skip
    return grad


def _difference_backward(saved, grad_output, needs):
    """For losses of input - target: the target's gradient is the input's with the sign turned."""
    if not needs[0]:
        return None, _gradient(saved, _BY_INPUT, grad_output, -1.0) if needs[1] else None
    grad_input = _gradient(saved, _BY_INPUT, grad_output)
    return grad_input, np.negative(grad_input, out=empty(grad_input.shape, grad_input.dtype)) if needs[1] else None


def _pair_backward(saved, grad_output, needs):
    grad_input = _gradient(saved, _BY_INPUT, grad_output) if needs[0] else None
    grad_target = _gradient(saved, _BY_TARGET, grad_output) if needs[1] else None
    return (grad_input, grad_target, *[None] * (len(needs) - 2))


def mse_loss_forward(input, target, *, reduction="mean"):
    return _forward(_MSE, input, target, reduction)


def l1_loss_forward(input, target, *, reduction="mean"):
    return _forward(_L1, input, target, reduction)


def smooth_l1_loss_forward(input, target, *, beta=1.0, reduction="mean"):
    return _forward(_SMOOTH_L1 if beta > 0 else _L1, input, target, reduction, p=beta)


def huber_loss_forward(input, target, *, delta=1.0, reduction="mean"):
    return _forward(_HUBER, input, target, reduction, p=delta)


mse_loss_backward = l1_loss_backward = smooth_l1_loss_backward = huber_loss_backward = _difference_backward


def poisson_nll_loss_forward(input, target, *, log_input=True, full=False, eps=1e-8, reduction="mean"):
    return _forward(_POISSON_LOG if log_input else _POISSON, input, target, reduction, p=eps, full=bool(full))


def binary_cross_entropy_forward(input, target, weight=None, *, reduction="mean"):
    return _forward(_BCE, input, target, reduction, weight=weight)


def binary_cross_entropy_with_logits_forward(input, target, weight=None, pos_weight=None, *, reduction="mean"):
    code = _BCE_LOGITS if pos_weight is None else _BCE_LOGITS_POSITIVE
    return _forward(code, input, target, reduction, pos_weight, weight)


def kl_div_forward(input, target, *, log_target=False, reduction="mean"):
    return _forward(_KL_LOG if log_target else _KL, input, target, reduction)


def soft_margin_loss_forward(input, target, *, reduction="mean"):
    return _forward(_SOFT_MARGIN, input, target, reduction)


poisson_nll_loss_backward = binary_cross_entropy_backward = binary_cross_entropy_with_logits_backward = _pair_backward
kl_div_backward = soft_margin_loss_backward = _pair_backward


def multilabel_soft_margin_loss_forward(input, target, weight=None, *, reduction="mean"):
    if reduction != "none":
        output, (call, shape, scale, each) = _forward(_BCE_LOGITS, input, target, reduction, weight=weight)
        if reduction == "sum":
            scale /= input.shape[-1]
            output /= input.dtype.type(input.shape[-1])
        return output, (call, shape, scale, each)
    losses, (call, shape, _, each) = _forward(_BCE_LOGITS, input, target, reduction, weight=weight)
    return np.asarray(losses.mean(axis=-1)), (call, shape, 1 / input.shape[-1], each)


def multilabel_soft_margin_loss_backward(saved, grad_output, needs):
    _, shape, _, each = saved
    if each:
        grad_output = np.broadcast_to(grad_output[..., None], shape)
    return _pair_backward(saved, grad_output, needs)


def gaussian_nll_loss_forward(input, target, var, *, full=False, eps=1e-6, reduction="mean"):
    array = type(var) is np.ndarray
    stretched = var[..., None] if array and var.ndim < input.ndim else var
    output, saved = _forward(_GAUSSIAN, input, target, reduction, stretched, p=eps, full=bool(full))
    return output, (saved, stretched.shape if array else None, var.shape if array else None)


def gaussian_nll_loss_backward(saved, grad_output, needs):
    saved, stretched_shape, var_shape = saved
    grad_var = None
    if needs[2] and var_shape is not None:
        grad_var = sum_to_shape(_gradient(saved, _BY_OTHER, grad_output), stretched_shape).reshape(var_shape)
    return *_difference_backward(saved, grad_output, needs[:2]), grad_var


def hinge_embedding_loss_forward(input, target, *, margin=1.0, reduction="mean"):
    return _forward(_HINGE_EMBEDDING, input, target, reduction, p=margin)


def hinge_embedding_loss_backward(saved, grad_output, needs):
    return _gradient(saved, _BY_INPUT, grad_output) if needs[0] else None, None


def margin_ranking_loss_forward(input1, input2, target, *, margin=0.0, reduction="mean"):
    output, saved = _forward(_MARGIN_RANKING, input1, target, reduction, input2, p=margin)
    differentiable = type(target) is np.ndarray and target.dtype.kind == "f"
    return output, (saved, differentiable)


def margin_ranking_loss_backward(saved, grad_output, needs):
    saved, differentiable = saved
    by_target = needs[2] and differentiable
    return (
        *_difference_backward(saved, grad_output, needs[:2]),
        _gradient(saved, _BY_TARGET, grad_output) if by_target else None,
    )
