"""Reductions, as a textbook writes them. Every other implementation is held against these, in float64."""

import math

import numpy as np


def _kept(y, shape, axis):
    """y with the reduced axes as axes of size 1."""
    return np.asarray(y).reshape([1 if a in axis else n for a, n in enumerate(shape)])


def _reduction(function, gradient):
    """Forward by a NumPy function of (x, axis, keepdims), backward by gradient(x, y, grad_y, axis) on kept axes."""

    def forward(x, *, axis, keepdims=False):
        y = np.asarray(function(x, axis=axis, keepdims=keepdims))
        return y, (x, _kept(y, x.shape, axis), axis)

    def backward(saved, grad_y, needs):
        x, y, axis = saved
        return (gradient(x, y, _kept(grad_y, x.shape, axis), axis) if needs[0] else None,)

    return forward, backward


def _count(shape, axis):
    return math.prod(shape[a] for a in axis)


def _shared(x, y, grad_y, axis):
    chosen = x == y
    return grad_y * chosen / chosen.sum(axis=axis, keepdims=True)


def _product_of_others(x, y, grad_y, axis):
    """grad_y times the product of all elements but one, for each in turn."""
    rows = np.moveaxis(x, axis, range(x.ndim - len(axis), x.ndim))
    flat = rows.reshape(*rows.shape[: x.ndim - len(axis)], _count(x.shape, axis))
    others = np.empty_like(flat)
    for i in range(flat.shape[-1]):
        others[..., i] = np.delete(flat, i, -1).prod(-1)
    return grad_y * np.moveaxis(others.reshape(rows.shape), range(x.ndim - len(axis), x.ndim), axis)


sum_forward, sum_backward = _reduction(np.sum, lambda x, y, grad_y, axis: grad_y + np.zeros_like(x))
mean_forward, mean_backward = _reduction(
    np.mean, lambda x, y, grad_y, axis: grad_y / _count(x.shape, axis) + np.zeros_like(x)
)
prod_forward, prod_backward = _reduction(np.prod, _product_of_others)
amax_forward, amax_backward = _reduction(np.max, _shared)
amin_forward, amin_backward = _reduction(np.min, _shared)


def var_forward(x, *, axis, keepdims=False, correction=1.0):
    return np.asarray(np.var(x, axis=axis, keepdims=keepdims, ddof=correction)), (x, axis, correction)


def var_backward(saved, grad_y, needs):
    x, axis, correction = saved
    scale = 2 / (_count(x.shape, axis) - correction)
    deviation = x - x.mean(axis=axis, keepdims=True)
    return (_kept(grad_y, x.shape, axis) * scale * deviation if needs[0] else None,)


def std_forward(x, *, axis, keepdims=False, correction=1.0):
    y, saved = var_forward(x, axis=axis, keepdims=keepdims, correction=correction)
    return np.asarray(np.sqrt(y)), (np.sqrt(y), saved)


def std_backward(saved, grad_y, needs):
    y, of_variance = saved
    return var_backward(of_variance, np.divide(grad_y, 2 * y, out=np.zeros_like(y), where=y != 0), needs)


def norm_forward(x, *, axis, keepdims=False, p=2.0):
    size = np.abs(x)
    y = size.max(axis=axis, keepdims=True) if p == np.inf else (size**p).sum(axis=axis, keepdims=True) ** (1 / p)
    return np.asarray(y if keepdims else y.squeeze(axis)), (x, y, axis, p)


def norm_backward(saved, grad_y, needs):
    x, y, axis, p = saved
    if not needs[0]:
        return (None,)
    grad_y = _kept(grad_y, x.shape, axis)
    if p == np.inf:
        return (np.sign(x) * _shared(np.abs(x), y, grad_y, axis),)
    ratio = np.divide(np.abs(x), y, out=np.zeros_like(x), where=y != 0)
    return (grad_y * np.sign(x) * ratio ** (p - 1),)


def _choice(function, place_of):
    def forward(x, *, axis, keepdims=False):
        y, place = (np.asarray(f(x, axis=axis, keepdims=keepdims)) for f in (function, place_of))
        return (y, place), (x.shape, _kept(place, x.shape, (axis,)), axis)

    def backward(saved, grads, needs):
        shape, place, axis = saved
        if not needs[0] or grads[0] is None:
            return (None,)
        grad_x = np.zeros(shape)
        np.put_along_axis(grad_x, place, _kept(grads[0], shape, (axis,)), axis)
        return (grad_x,)

    return forward, backward


max_forward, max_backward = _choice(np.max, np.argmax)
min_forward, min_backward = _choice(np.min, np.argmin)


def _plain(function):
    """A reduction without a derivative."""

    def forward(x, *, axis, keepdims=False):
        return np.asarray(function(x, axis=axis, keepdims=keepdims)), None

    return forward


argmax_forward = _plain(np.argmax)
argmin_forward = _plain(np.argmin)
all_forward = _plain(np.all)
any_forward = _plain(np.any)


def cumsum_forward(x, *, axis):
    return np.cumsum(x, axis, x.dtype), axis


def cumsum_backward(axis, grad_y, needs):
    return (np.flip(np.cumsum(np.flip(grad_y, axis), axis), axis) if needs[0] else None,)


def cumprod_forward(x, *, axis):
    return np.cumprod(x, axis, x.dtype), (x, axis)


def cumprod_backward(saved, grad_y, needs):
    """dy_j / dx_i for i <= j is the product of x_0, ..., x_j without x_i."""
    x, axis = saved
    if not needs[0]:
        return (None,)
    rows, grads = np.moveaxis(x, axis, -1), np.moveaxis(grad_y, axis, -1)
    grad_x = np.zeros_like(rows)
    for i in range(rows.shape[-1]):
        without = rows.copy()
        without[..., i] = 1
        grad_x[..., i] = (np.cumprod(without, -1) * grads)[..., i:].sum(-1)
    return (np.moveaxis(grad_x, -1, axis),)
