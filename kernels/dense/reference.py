"""Dense products, as a textbook writes them. Every other implementation is held against these, in float64."""

import math

import numpy as np

from ..elementwise.broadcasting import sum_to_shape

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _activate(z, activation):
    """activation(z) and its derivative."""
    if activation == "relu":
        return np.maximum(z, 0), (z > 0).astype(z.dtype)
    if activation == "sigmoid":
        y = 1 / (1 + np.exp(-z))
        return y, y * (1 - y)
    if activation == "tanh":
        y = np.tanh(z)
        return y, 1 - y * y
    if activation == "gelu":
        phi = 0.5 * (1 + _erf(z / np.sqrt(2)))
        return z * phi, phi + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return z, np.ones_like(z)


def dense_forward(x, weight, bias=None, *, activation=None):
    z = x @ weight.T
    if bias is not None:
        z = z + bias
    y, derivative = _activate(z, activation)
    return y, (x, weight, derivative)


def dense_backward(saved, grad_y, needs):
    x, weight, derivative = saved
    g = grad_y * derivative
    rows = g.reshape(-1, g.shape[-1])
    grad_x = g @ weight if needs[0] else None
    grad_weight = rows.T @ x.reshape(-1, x.shape[-1]) if needs[1] else None
    grad_bias = rows.sum(axis=0) if needs[2] else None
    return grad_x, grad_weight, grad_bias


def matmul_forward(a, b):
    return np.asarray(a @ b), (a, b)


def matmul_backward(saved, grad_c, needs):
    a, b = saved
    rows, columns = a[None, :] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    if a.ndim == 1:
        grad_c = np.expand_dims(grad_c, -1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        grad_c = np.expand_dims(grad_c, -1)
    grad_a = sum_to_shape(grad_c @ columns.swapaxes(-1, -2), rows.shape).reshape(a.shape) if needs[0] else None
    grad_b = sum_to_shape(rows.swapaxes(-1, -2) @ grad_c, columns.shape).reshape(b.shape) if needs[1] else None
    return grad_a, grad_b
