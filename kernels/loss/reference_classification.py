"""Cross-entropy and negative log-likelihood, with the classes as the last axis and labels as one-hot rows."""

import numpy as np


def _classes_last(x):
    return x if x.ndim == 1 else np.moveaxis(x, 1, -1)


def _classes_second(x):
    return x if x.ndim == 1 else np.moveaxis(x, -1, 1)


def _one_hot(target, classes, ignore_index):
    """[..., C]: 1 at the label, and nowhere where the label is ignored."""
    return ((target[..., None] == np.arange(classes)) & (target != ignore_index)[..., None]).astype(np.float64)


def _finish(loss, reduction, divisor):
    if reduction == "none":
        return loss, 1.0
    if reduction == "sum":
        return np.asarray(loss.sum()), 1.0
    return np.asarray(loss.sum() / divisor if divisor else np.nan), 1 / divisor if divisor else 0.0


def cross_entropy_forward(
    input, target, weight=None, *, ignore_index=-100, label_smoothing=0.0, reduction="mean", inplace=False
):
    """inplace is about memory, of which the mathematics knows nothing."""
    x = _classes_last(input)
    classes = x.shape[-1]
    w = np.ones(classes) if weight is None else weight
    log_p = x - x.max(axis=-1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    if target.dtype.kind in "iu":
        t = _one_hot(target, classes, ignore_index)
        counted = t.sum(axis=-1, keepdims=True)
        divisor = (t * w).sum()
    else:
        t, counted = _classes_last(target), 1.0
        divisor = x.size // classes
    q = w * ((1 - label_smoothing) * t + label_smoothing / classes * counted)
    output, scale = _finish(-(q * log_p).sum(axis=-1), reduction, divisor)
    by_input = (q.sum(axis=-1, keepdims=True) * np.exp(log_p) - q) * scale
    by_target = None if target.dtype.kind in "iu" else -w * (1 - label_smoothing) * log_p * scale
    return output, (by_input, by_target, reduction)


def cross_entropy_backward(saved, grad_output, needs):
    by_input, by_target, reduction = saved
    g = grad_output[..., None] if reduction == "none" else grad_output
    grad_input = _classes_second(g * by_input) if needs[0] else None
    grad_target = _classes_second(g * by_target) if needs[1] and by_target is not None else None
    return grad_input, grad_target, None


def nll_loss_forward(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    x = _classes_last(input)
    w = np.ones(x.shape[-1]) if weight is None else weight
    t = _one_hot(target, x.shape[-1], ignore_index) * w
    output, scale = _finish(-(t * x).sum(axis=-1), reduction, t.sum())
    return output, (-t * scale, None, reduction)


nll_loss_backward = cross_entropy_backward
