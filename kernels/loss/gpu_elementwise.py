"""Losses of single elements on CuPy arrays: one pair of kernels serves them all, each loss a constant of the kernel.

A program takes a block of elements, computes the loss (or its derivative) of each, and there weights, sums or scales
it: the inputs are read once and a reduced loss writes nothing but one number a block.
"""

import math

import triton
import triton.language as tl

from ..elementwise.broadcasting import broadcast_to
from ..gpu_arrays import contiguous
from ..launch import ceil_div, empty, launch
from .gpu_reduce import Reduction, as_wide, load_scale, load_wide, wide_type

_BLOCK = 1024
_MSE, _L1, _SMOOTH_L1, _HUBER, _POISSON_LOG, _POISSON, _GAUSSIAN = (tl.constexpr(code) for code in range(7))
_BCE, _BCE_LOGITS, _BCE_LOGITS_POSITIVE, _KL, _KL_LOG = (tl.constexpr(code) for code in range(7, 12))
_SOFT_MARGIN, _HINGE_EMBEDDING, _MARGIN_RANKING = (tl.constexpr(code) for code in range(12, 15))
_BY_INPUT, _BY_TARGET, _BY_OTHER = (tl.constexpr(code) for code in range(3))


@triton.jit
def _log1p(u):
    """log(1 + u) with the digits that 1 + u loses (Kahan): the error of the logarithm's argument cancels."""
    whole = 1.0 + u
    lost = whole == 1.0
    return tl.where(lost, u, tl.log(whole) * (u / tl.where(lost, 1.0, whole - 1.0)))


@triton.jit
def _softplus(z):
    """log(1 + exp(z)) without overflow."""
    return tl.where(z > 0, z, 0.0) + _log1p(tl.exp(-tl.abs(z)))


@triton.jit
def _sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def _at_least(z, least):
    """The greater of two, NaN where z is."""
    return tl.where(z < least, least, z)


@triton.jit
def _load_operands(x, t, other, constant, offset, inside):
    """A block's input, target and third operand in one type; what is no array is the constant."""
    value = load_wide(x, offset, inside)
    target = tl.zeros_like(value) + as_wide(constant, value)
    third = target
    if t is not None:
        target = load_wide(t, offset, inside).to(value.dtype)
    if other is not None:
        third = load_wide(other, offset, inside)
    return value, target, third


@triton.jit
def _element_loss(x, t, other, p, CODE: tl.constexpr, FULL: tl.constexpr):
    """other: pos_weight, var or input2; p: beta, delta, margin or eps."""
    if CODE == _MSE:
        loss = (x - t) * (x - t)
    elif CODE == _L1:
        loss = tl.abs(x - t)
    elif CODE == _SMOOTH_L1:
        d = tl.abs(x - t)
        loss = tl.where(d < p, d * d * (0.5 / p), d - 0.5 * p)
    elif CODE == _HUBER:
        d = tl.abs(x - t)
        loss = tl.where(d < p, 0.5 * d * d, p * (d - 0.5 * p))
    elif CODE == _POISSON_LOG:
        loss = tl.exp(x) - t * x
    elif CODE == _POISSON:
        loss = x - t * tl.log(x + p)
    elif CODE == _GAUSSIAN:
        v, d = _at_least(other, p), x - t
        loss = 0.5 * (tl.log(v) + d * d / v)
        if FULL:
            loss += 0.9189385332046727  # log(2 pi) / 2
    elif CODE == _BCE:
        loss = (t - 1.0) * _at_least(_log1p(-x), -100.0) - t * _at_least(tl.log(x), -100.0)
    elif CODE == _BCE_LOGITS:
        loss = (1.0 - t) * x + _softplus(-x)
    elif CODE == _BCE_LOGITS_POSITIVE:
        loss = (1.0 - t) * x + (1.0 + (other - 1.0) * t) * _softplus(-x)
    elif CODE == _KL:
        loss = t * tl.log(tl.where(t == 0, 1.0, t)) - t * x
    elif CODE == _KL_LOG:
        loss = tl.exp(t) * (t - x)
    elif CODE == _SOFT_MARGIN:
        loss = _softplus(-t * x)
    elif CODE == _HINGE_EMBEDDING:
        loss = tl.where(t == 1, x, _at_least(p - x, 0.0))
    else:
        loss = _at_least(p - t * (x - other), 0.0)
    if FULL and CODE != _GAUSSIAN:
        n = _at_least(t, 1.0)
        loss += tl.where(t > 1, n * tl.log(n) - n + 0.5 * tl.log(6.283185307179586 * n), 0.0)
    return loss


@triton.jit
def _element_derivative(x, t, other, p, CODE: tl.constexpr, BY: tl.constexpr, FULL: tl.constexpr):
    """The derivative of a loss by the input, the target or the variance."""
    if CODE == _MSE:
        slope = 2.0 * (x - t)
    elif CODE == _L1:
        d = x - t
        slope = tl.where(d > 0, 1.0, tl.where(d < 0, -1.0, d))
    elif CODE == _SMOOTH_L1:
        d = x - t
        slope = tl.where(d >= p, 1.0, tl.where(d <= -p, -1.0, d / p))
    elif CODE == _HUBER:
        d = x - t
        slope = tl.where(d >= p, p, tl.where(d <= -p, -p, d))
    elif CODE == _GAUSSIAN:
        v, d = _at_least(other, p), x - t
        if BY == _BY_OTHER:
            slope = 0.5 * (1.0 - d * d / v) / v
        else:
            slope = d / v
    elif CODE == _POISSON_LOG:
        if BY == _BY_INPUT:
            slope = tl.exp(x) - t
        else:
            slope = -x
    elif CODE == _POISSON:
        if BY == _BY_INPUT:
            slope = 1.0 - t / (x + p)
        else:
            slope = -tl.log(x + p)
    elif CODE == _BCE:
        if BY == _BY_INPUT:
            slope = (x - t) / _at_least((1.0 - x) * x, as_wide(1e-12, x))
        else:
            slope = _at_least(_log1p(-x), -100.0) - _at_least(tl.log(x), -100.0)
    elif CODE == _BCE_LOGITS:
        if BY == _BY_INPUT:
            slope = (1.0 - t) * _sigmoid(x) - t * _sigmoid(-x)
        else:
            slope = -x
    elif CODE == _BCE_LOGITS_POSITIVE:
        if BY == _BY_INPUT:
            slope = (1.0 - t) * _sigmoid(x) - other * t * _sigmoid(-x)
        else:
            slope = (other - 1.0) * _softplus(-x) - x
    elif CODE == _KL:
        if BY == _BY_INPUT:
            slope = -t
        else:
            slope = tl.log(t) + 1.0 - x
    elif CODE == _KL_LOG:
        if BY == _BY_INPUT:
            slope = -tl.exp(t)
        else:
            slope = tl.exp(t) * (t - x + 1.0)
    elif CODE == _SOFT_MARGIN:
        slope = -_sigmoid(-t * x)
        if BY == _BY_INPUT:
            slope *= t
        else:
            slope *= x
    elif CODE == _HINGE_EMBEDDING:
        slope = tl.where(t == 1, 1.0, tl.where(p >= x, -1.0, 0.0))
    else:
        d = x - other
        active = p - t * d >= 0
        if BY == _BY_INPUT:
            slope = tl.where(active, -t, 0.0)
        else:
            slope = tl.where(active, -d, 0.0)
    if FULL and BY == _BY_TARGET and CODE != _GAUSSIAN:
        n = _at_least(t, 1.0)
        slope += tl.where(t > 1, tl.log(n) + 0.5 / n, 0.0)
    return slope


@triton.jit
def elementwise_loss_kernel(
    x, t, other, weight, losses, partial, size, p: tl.float64, constant: tl.float64,
    CODE: tl.constexpr, FULL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """losses = every element's loss, or partial = the sum of each block."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    value, target, third = _load_operands(x, t, other, constant, offset, inside)
    loss = _element_loss(value, target, third, as_wide(p, value), CODE, FULL)
    if weight is not None:
        loss *= load_wide(weight, offset, inside)
    if losses is not None:
        tl.store(losses + offset, loss.to(losses.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0), axis=0).to(tl.float64))


@triton.jit
def elementwise_loss_grad_kernel(
    x, t, other, weight, grad_output, factor, grad, opposite, size, columns, p: tl.float64, constant: tl.float64,
    CODE: tl.constexpr, BY: tl.constexpr, FULL: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad = scale * derivative, opposite = -grad. `columns` neighbours share one value of grad_output evenly."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    value, target, third = _load_operands(x, t, other, constant, offset, inside)
    slope = _element_derivative(value, target, third, as_wide(p, value), CODE, BY, FULL)
    if weight is not None:
        slope *= load_wide(weight, offset, inside)
    slope *= load_scale(grad_output, factor, offset // columns, inside, EACH)
    if EACH:
        slope = slope / columns
    if grad is not None:
        tl.store(grad + offset, slope.to(grad.dtype.element_ty), mask=inside)
    if opposite is not None:
        tl.store(opposite + offset, (-slope).to(opposite.dtype.element_ty), mask=inside)


@triton.jit
def axis_sum_kernel(
    x, total, outputs, length, inner, divisor: tl.float64,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_LENGTH: tl.constexpr,
):  # fmt: skip
    """total = the sum of x [outer, length, inner] over the middle axis / divisor; outputs = outer * inner.

    A program makes BLOCK sums and walks their axis BLOCK_LENGTH terms at a time.
    """
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    start = number // inner * length * inner + number % inner
    step = tl.arange(0, BLOCK_LENGTH)
    partial = tl.zeros((BLOCK_LENGTH, BLOCK), WIDE)
    for first in range(0, length, BLOCK_LENGTH):
        there = (first + step < length)[:, None] & (number < outputs)[None, :]
        partial += load_wide(x, start[None, :] + (first + step).to(tl.int64)[:, None] * inner, there)
    summed = tl.sum(partial, axis=0)
    summed = summed / as_wide(divisor, summed)
    tl.store(total + number, summed.to(total.dtype.element_ty), mask=number < outputs)


def _operand(x, shape):
    """An array stretched to `shape` and contiguous; None for what is no array."""
    return contiguous(broadcast_to(x, shape)) if hasattr(x, "shape") else None


def _forward(code, input, target, reduction, other=None, weight=None, p=0.0, full=False, divisor=None):
    """(output, saved) of the loss with this code."""
    x = contiguous(input)
    t, other_array, weight = (_operand(operand, x.shape) for operand in (target, other, weight))
    constant = float(other if isinstance(other, (int, float)) else target if isinstance(target, (int, float)) else 0)
    programs = ceil_div(x.size, _BLOCK)
    if divisor is None:
        batch = x.shape[0] if x.ndim else 1
        divisor = {"mean": x.size, "batchmean": batch}.get(reduction, 1)
    reduced = Reduction(x, x.shape, reduction, programs, divisor)
    numbers, constants = (float(p), constant), {"CODE": code.value, "FULL": full, "BLOCK": _BLOCK}
    launch(
        elementwise_loss_kernel, (programs,),
        x, t, other_array, weight, reduced.losses, reduced.partial, x.size, *numbers, **constants,
    )  # fmt: skip
    return reduced.output(x), ((x, t, other_array, weight), numbers, constants, reduced)


def _gradient(saved, by, grad_output, grad, opposite=None, columns=1):
    """Writes the gradient by one of the inputs, and into `opposite` the same with the sign turned."""
    arrays, numbers, constants, reduced = saved
    *scale, each = reduced.scale(grad_output)
    size = arrays[0].size
    launch(
        elementwise_loss_grad_kernel, (ceil_div(size, _BLOCK),),
        *arrays, *scale, grad, opposite, size, columns, *numbers, BY=by.value, EACH=each, **constants,
    )  # fmt: skip


def _difference_backward(saved, grad_output, needs):
    """For losses of input - target: the target's gradient is the input's with the sign turned."""
    grads = tuple(empty(saved[0][0]) if need else None for need in needs[:2])
    if any(needs[:2]):
        _gradient(saved, _BY_INPUT, grad_output, *grads)
    return grads


def _pair_backward(saved, grad_output, needs, columns=1):
    grads = [empty(saved[0][0]) if need else None for need in needs[:2]]
    for by, grad in zip((_BY_INPUT, _BY_TARGET), grads):
        if grad is not None:
            _gradient(saved, by, grad_output, grad, columns=columns)
    return (*grads, *[None] * (len(needs) - 2))


def _sum_over(x, total, axis, divisor=1.0):
    """total = the sum of x over an axis / divisor."""
    outputs, inner = total.size, math.prod(x.shape[axis + 1 :])
    launch(
        axis_sum_kernel, (ceil_div(outputs, 32),),
        x, total, outputs, x.shape[axis], inner, float(divisor),
        WIDE=wide_type(x)[1], BLOCK=32, BLOCK_LENGTH=32,
    )  # fmt: skip
    return total


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
    columns = input.shape[-1]
    if reduction != "none":
        divisor = input.size if reduction == "mean" else columns
        output, saved = _forward(_BCE_LOGITS, input, target, "mean", weight=weight, divisor=divisor)
        return output, (saved, 1)
    losses, saved = _forward(_BCE_LOGITS, input, target, reduction, weight=weight)
    return _sum_over(losses, empty(losses, losses.shape[:-1]), losses.ndim - 1, columns), (saved, columns)


def multilabel_soft_margin_loss_backward(saved, grad_output, needs):
    saved, columns = saved
    return _pair_backward(saved, grad_output, needs, columns)


def gaussian_nll_loss_forward(input, target, var, *, full=False, eps=1e-6, reduction="mean"):
    array = hasattr(var, "shape")
    stretched = var.reshape(*var.shape, 1) if array and var.ndim < input.ndim else var
    output, saved = _forward(_GAUSSIAN, input, target, reduction, stretched, p=eps, full=bool(full))
    return output, (saved, stretched.shape if array else None, var.shape if array else None)


def gaussian_nll_loss_backward(saved, grad_output, needs):
    saved, stretched, var_shape = saved
    grad_var = None
    if needs[2] and var_shape is not None:
        grad_var = _gradient_of_variance(saved, grad_output, stretched).reshape(var_shape)
    return *_difference_backward(saved, grad_output, needs[:2]), grad_var


def _gradient_of_variance(saved, grad_output, shape):
    """The gradient by a variance of `shape`, summed over the axis along which it was stretched, if there is one."""
    x = saved[0][0]
    stretched = [axis for axis, (v, n) in enumerate(zip(shape, x.shape)) if v != n]
    grad = empty(x)
    if not stretched:
        _gradient(saved, _BY_OTHER, grad_output, grad)
        return grad
    wide = empty(x, dtype=wide_type(x)[0])
    _gradient(saved, _BY_OTHER, grad_output, wide)
    return _sum_over(wide, empty(x, shape), stretched[0])


def hinge_embedding_loss_forward(input, target, *, margin=1.0, reduction="mean"):
    return _forward(_HINGE_EMBEDDING, input, target, reduction, p=margin)


def hinge_embedding_loss_backward(saved, grad_output, needs):
    return _pair_backward(saved, grad_output, (needs[0], False))


def margin_ranking_loss_forward(input1, input2, target, *, margin=0.0, reduction="mean"):
    output, saved = _forward(_MARGIN_RANKING, input1, target, reduction, input2, p=margin)
    return output, (saved, hasattr(target, "dtype") and target.dtype == input1.dtype)


def margin_ranking_loss_backward(saved, grad_output, needs):
    saved, differentiable = saved
    grad_target = empty(saved[0][0]) if needs[2] and differentiable else None
    if grad_target is not None:
        _gradient(saved, _BY_TARGET, grad_output, grad_target)
    return *_difference_backward(saved, grad_output, needs[:2]), grad_target
