"""Losses of single elements: for each its value and its derivatives by the inputs, then one reduction for all."""

import math

import numpy as np

from ..elementwise.broadcasting import sum_to_shape


def reduce(loss, reduction):
    """The losses reduced, and what to multiply the gradient with to reach each of them."""
    if reduction == "none":
        return loss, 1.0
    if reduction == "sum":
        return np.asarray(loss.sum()), 1.0
    divisor = loss.shape[0] if reduction == "batchmean" and loss.ndim else loss.size
    return np.asarray(loss.sum() / divisor if divisor else np.nan), 1 / max(divisor, 1)


def _finish(loss, derivatives, reduction):
    """(output, saved) from the elements' losses and their derivatives by each input."""
    output, scale = reduce(loss, reduction)
    return output, [None if d is None else d * scale for d in derivatives]


def _backward(saved, grad_output, needs):
    return tuple(grad_output * d if need and d is not None else None for d, need in zip(saved, needs))


def _softplus(z):
    return np.logaddexp(0, z)


def _sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def mse_loss_forward(input, target, *, reduction="mean"):
    d = input - target
    return _finish(d**2, [2 * d, -2 * d], reduction)


def l1_loss_forward(input, target, *, reduction="mean"):
    d = input - target
    return _finish(np.abs(d), [np.sign(d), -np.sign(d)], reduction)


def smooth_l1_loss_forward(input, target, *, beta=1.0, reduction="mean"):
    if beta == 0:
        return l1_loss_forward(input, target, reduction=reduction)
    loss, (by_input, by_target) = huber_loss_forward(input, target, delta=beta, reduction=reduction)
    return loss / beta, [by_input / beta, by_target / beta]


def huber_loss_forward(input, target, *, delta=1.0, reduction="mean"):
    d = input - target
    near = np.abs(d) < delta
    loss = np.where(near, d**2 / 2, delta * (np.abs(d) - delta / 2))
    slope = np.where(near, d, delta * np.sign(d))
    return _finish(loss, [slope, -slope], reduction)


def poisson_nll_loss_forward(input, target, *, log_input=True, full=False, eps=1e-8, reduction="mean"):
    if log_input:
        loss = np.exp(input) - target * input
        by_input, by_target = np.exp(input) - target, -input
    else:
        loss = input - target * np.log(input + eps)
        by_input, by_target = 1 - target / (input + eps), -np.log(input + eps)
    if full:
        above = np.where(target > 1, target, 1.0)
        stirling = above * np.log(above) - above + np.log(2 * np.pi * above) / 2
        loss = loss + np.where(target > 1, stirling, 0.0)
        by_target = by_target + np.where(target > 1, np.log(above) + 1 / (2 * above), 0.0)
    return _finish(loss, [by_input, by_target], reduction)


def gaussian_nll_loss_forward(input, target, var, *, full=False, eps=1e-6, reduction="mean"):
    array = isinstance(var, np.ndarray)
    v = np.asarray(var)
    v = np.maximum(v[..., None] if array and v.ndim < input.ndim else v, eps)
    d = input - target
    loss = (np.log(v) + d**2 / v) / 2 + (math.log(2 * math.pi) / 2 if full else 0)
    by_var = (1 / v - (d / v) ** 2) / 2 if array else None
    output, derivatives = _finish(loss, [d / v, -d / v, by_var], reduction)
    return output, (derivatives, v.shape, var.shape if array else None)


def gaussian_nll_loss_backward(saved, grad_output, needs):
    derivatives, shape, var_shape = saved
    by_input, by_target, by_var = _backward(derivatives, grad_output, needs)
    return by_input, by_target, None if by_var is None else sum_to_shape(by_var, shape).reshape(var_shape)


def binary_cross_entropy_forward(input, target, weight=None, *, reduction="mean"):
    w = 1.0 if weight is None else weight
    with np.errstate(divide="ignore"):
        log_yes, log_no = np.maximum(np.log(input), -100), np.maximum(np.log1p(-input), -100)
    loss = -w * (target * log_yes + (1 - target) * log_no)
    by_input = w * (input - target) / np.maximum(input * (1 - input), 1e-12)
    return _finish(loss, [by_input, w * (log_no - log_yes), None], reduction)


def binary_cross_entropy_with_logits_forward(input, target, weight=None, pos_weight=None, *, reduction="mean"):
    w = 1.0 if weight is None else weight
    p = 1.0 if pos_weight is None else pos_weight
    loss = w * ((1 - target) * input + (1 + (p - 1) * target) * _softplus(-input))
    by_input = w * ((1 - target) * _sigmoid(input) - p * target * _sigmoid(-input))
    by_target = w * ((p - 1) * _softplus(-input) - input)
    return _finish(loss, [by_input, by_target, None, None], reduction)


def kl_div_forward(input, target, *, log_target=False, reduction="mean"):
    if log_target:
        t = np.exp(target)
        return _finish(t * (target - input), [-t, t * (target - input + 1)], reduction)
    positive = target != 0
    with np.errstate(divide="ignore", invalid="ignore"):
        log_t = np.log(target)
    loss = np.where(positive, target * np.where(positive, log_t, 0.0), 0.0) - target * input
    return _finish(loss, [-target, log_t + 1 - input], reduction)


def soft_margin_loss_forward(input, target, *, reduction="mean"):
    slope = -_sigmoid(-target * input)
    return _finish(_softplus(-target * input), [target * slope, input * slope], reduction)


def multilabel_soft_margin_loss_forward(input, target, weight=None, *, reduction="mean"):
    w = 1.0 if weight is None else weight
    loss = w * ((1 - target) * input + _softplus(-input))
    output, scale = reduce(loss.mean(axis=-1), reduction)
    scale = scale / input.shape[-1]
    return output, (w * (_sigmoid(input) - target) * scale, -w * input * scale, reduction)


def multilabel_soft_margin_loss_backward(saved, grad_output, needs):
    by_input, by_target, reduction = saved
    if reduction == "none":
        grad_output = grad_output[..., None]
    return _backward([by_input, by_target, None], grad_output, needs)


def hinge_embedding_loss_forward(input, target, *, margin=1.0, reduction="mean"):
    same = target == 1
    loss = np.where(same, input, np.maximum(0, margin - input))
    return _finish(loss, [np.where(same, 1.0, -1.0 * (margin - input >= 0)), None], reduction)


def margin_ranking_loss_forward(input1, input2, target, *, margin=0.0, reduction="mean"):
    t = np.asarray(target)
    inside = margin - t * (input1 - input2)
    active = inside >= 0
    by_target = (
        np.where(active, input2 - input1, 0.0) if t.dtype.kind == "f" and isinstance(target, np.ndarray) else None
    )
    return _finish(np.maximum(0, inside), [np.where(active, -t, 0.0), np.where(active, t, 0.0), by_target], reduction)


mse_loss_backward = l1_loss_backward = smooth_l1_loss_backward = huber_loss_backward = _backward
poisson_nll_loss_backward = binary_cross_entropy_backward = binary_cross_entropy_with_logits_backward = _backward
kl_div_backward = soft_margin_loss_backward = _backward
hinge_embedding_loss_backward = margin_ranking_loss_backward = _backward
