"""Softmax, as a textbook writes it. Every other implementation is held against this, in float64."""

import numpy as np


def _shifted(x, axis):
    """x less its largest element along the axis, and that element."""
    largest = x.max(axis=axis, keepdims=True, initial=-np.inf)
    return x - largest, largest


def softmax_forward(x, *, axis=-1):
    e = np.exp(_shifted(x, axis)[0])
    y = e / e.sum(axis=axis, keepdims=True)
    return y, (y, axis)


def softmax_backward(saved, grad_y, needs):
    y, axis = saved
    return (y * (grad_y - (grad_y * y).sum(axis=axis, keepdims=True)) if needs[0] else None,)


def log_softmax_forward(x, *, axis=-1):
    if x.size == 0:
        return x.copy(), (x, axis)
    shifted = _shifted(x, axis)[0]
    y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return y, (y, axis)


def log_softmax_backward(saved, grad_y, needs):
    y, axis = saved
    return (grad_y - np.exp(y) * grad_y.sum(axis=axis, keepdims=True) if needs[0] else None,)


def logsumexp_forward(x, *, axis=-1, keepdims=False):
    if x.shape[axis] == 0:
        y = np.full_like(x, -np.inf, shape=x.sum(axis=axis, keepdims=True).shape)
    else:
        shifted, largest = _shifted(x, axis)
        y = largest + np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return y if keepdims else y.squeeze(axis), (x, y, axis, keepdims)


def logsumexp_backward(saved, grad_y, needs):
    x, y, axis, keepdims = saved
    if not needs[0]:
        return (None,)
    return ((grad_y if keepdims else np.expand_dims(grad_y, axis)) * np.exp(x - y),)
