"""Dense products on NumPy arrays. A rectifier is part of the product; other activations are one pass over its result,
and so is what comes before the products backward: derivatives, and the bias' sums."""

import math
from functools import cache

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_lines import memory
from ..cpu_math import erf, exp, sigmoid, tanh
from ..cpu_matmul import matmul as multiply
from ..cpu_threads import thread_count
from ..destinations import gradient
from ..elementwise.broadcasting import broadcast_shape_of, broadcast_to, sum_to_shape
from ..memory import empty

_IDENTITY, _RELU, _SIGMOID, _TANH, _GELU = range(5)
# Elements from which on threads are worth it: fewer are done before another thread has woken up.
_WORTH_THREADS = 1 << 15
_SUMS_WORTH_THREADS = {code: _WORTH_THREADS if code > _RELU else 1 << 16 for code in range(5)}
_NO_DENSITY = 80.0  # e^-x from here on counts as 0: products with what is left of it, near to subnormal, are slow
_CODES = {None: _IDENTITY, "relu": _RELU, "sigmoid": _SIGMOID, "tanh": _TANH, "gelu": _GELU}


@cache
def _activation_kernel(code):
    """The kernel of one activation: its formula alone is compiled."""

    @kernel
    def dense_activation_kernel(z, y):
        """y = activation(z), row by row; y may be z, but for GELU, whose backward needs z."""
        for r in prange(z.shape[0]):
            if code == _SIGMOID:
                for c in range(z.shape[1]):
                    y[r, c] = sigmoid(z[r, c])
            elif code == _TANH:
                for c in range(z.shape[1]):
                    y[r, c] = tanh(z[r, c])
            elif code == _GELU:
                half, scale = z.dtype.type(0.5), z.dtype.type(math.sqrt(0.5))
                for c in range(z.shape[1]):
                    y[r, c] = z[r, c] * half * (z.dtype.type(1) + erf(z[r, c] * scale))

    return dense_activation_kernel


@cache
def _grad_sum_kernel(code):
    """The kernel of one activation's derivative; the rectifier's serves where there is no activation, too."""

    @kernel
    def dense_grad_sum_kernel(grad_y, state, changes, grad_z, grad_bias, parts):
        """grad_z = grad_y * activation'(z), from the activation's result (`state` = y) or GELU's argument (z); and
        its sums over all rows, if grad_bias has elements. Without activation nothing `changes`, and grad_z is grad_y.

        A task is a part of the columns, of which it walks down the rows.
        """
        zero, one = grad_y.dtype.type(0), grad_y.dtype.type(1)
        half, scale = grad_y.dtype.type(0.5), grad_y.dtype.type(math.sqrt(0.5))
        density, limit = grad_y.dtype.type(1 / math.sqrt(2 * math.pi)), grad_y.dtype.type(_NO_DENSITY)
        rows, columns = grad_y.shape
        grads, states, results, totals = memory(grad_y), memory(state), memory(grad_z), memory(grad_bias)
        for part in prange(parts):
            low, high = columns * part // parts, columns * (part + 1) // parts
            summed = low if grad_bias.size == 0 else high
            for c in range(low, summed):
                totals[c] = zero
            for r in range(rows):
                start = r * columns
                if changes:
                    for i in range(start + low, start + high):
                        if code == _RELU:
                            results[i] = grads[i] if states[i] > 0 else zero
                        elif code == _SIGMOID:
                            results[i] = grads[i] * states[i] * (one - states[i])
                        elif code == _TANH:
                            results[i] = grads[i] * (one - states[i] * states[i])
                        elif code == _GELU:
                            z = states[i]
                            exponent = half * z * z
                            bell = exp(-exponent if exponent < limit else -limit)
                            bell = bell if exponent < limit else zero
                            results[i] = grads[i] * (half * (one + erf(z * scale)) + z * density * bell)
                for c in range(low, summed):
                    totals[c] += results[start + c]

    return dense_grad_sum_kernel


def dense_forward(x, weight, bias=None, *, activation=None, out=None):
    rows, columns = _rows(x), weight.shape[0]
    y = empty((*x.shape[:-1], columns), x.dtype) if out is None else out
    y_rows = y if y.ndim == 2 else y.reshape(rows.shape[0], columns)
    code = _CODES[activation]
    if code in (_IDENTITY, _RELU):
        multiply(rows, weight.T, y_rows, bias, clips=code == _RELU)
        return y, (x.shape, rows, weight, None if code == _IDENTITY else y_rows, code)
    z = empty(y_rows.shape, x.dtype) if code == _GELU else y_rows
    multiply(rows, weight.T, z, bias)
    activate = _activation_kernel(code)
    (activate if z.size > _WORTH_THREADS else activate.serial)(z, y_rows)
    return y, (x.shape, rows, weight, z if code == _GELU else y_rows, code)


def dense_backward(saved, grad_y, needs):
    x_shape, rows, weight, state, code = saved
    grad_z = np.ascontiguousarray(grad_y).reshape(rows.shape[0], weight.shape[0])
    grad_bias = empty(weight.shape[0] if needs[2] else 0, weight.dtype)
    if code != _IDENTITY or needs[2]:
        grad_y_rows = grad_z
        if code == _IDENTITY:
            state = grad_z  # is not read
        else:
            state = np.ascontiguousarray(state)
            grad_z = empty(grad_z.shape, grad_z.dtype)
        threads = thread_count() if grad_z.size > _SUMS_WORTH_THREADS[code] else 1
        differentiate = _grad_sum_kernel(code or _RELU)
        differentiate = differentiate if threads > 1 else differentiate.serial
        differentiate(grad_y_rows, state, code != _IDENTITY, grad_z, grad_bias, threads)
    grad_x = grad_weight = None
    if needs[0]:
        grad_x = multiply(grad_z, weight, empty(rows.shape, rows.dtype)).reshape(x_shape)
    if needs[1]:
        grad_weight = multiply(grad_z.T, rows, gradient(1, weight.shape, weight.dtype))
    return grad_x, grad_weight, grad_bias if needs[2] else None


def matmul_forward(a, b, *, out=None):
    if a.ndim == b.ndim == 2:
        return multiply(a, b, empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out), (a, b)
    batch = broadcast_shape_of(a.shape[:-2], b.shape[:-2])
    shape = batch + a.shape[-2:-1] * (a.ndim > 1) + b.shape[-1:] * (b.ndim > 1)
    out = empty(shape, a.dtype) if out is None else out
    rows, columns = _matrices(a, b)
    _stacked(rows, columns, out.reshape(*batch, rows.shape[-2], columns.shape[-1]) if 1 in (a.ndim, b.ndim) else out)
    return out, (a, b)


def matmul_backward(saved, grad_c, needs):
    a, b = saved
    if a.ndim == b.ndim == 2:
        grad_a = multiply(grad_c, b.T, gradient(0, a.shape, a.dtype)) if needs[0] else None
        return grad_a, multiply(a.T, grad_c, gradient(1, b.shape, b.dtype)) if needs[1] else None
    rows, columns = _matrices(a, b)
    if a.ndim == 1:
        grad_c = np.expand_dims(grad_c, -1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        grad_c = np.expand_dims(grad_c, -1)
    grad_a = grad_b = None
    if needs[0]:
        grad_a = sum_to_shape(_product(grad_c, columns.swapaxes(-1, -2)), rows.shape).reshape(a.shape)
    if needs[1]:
        grad_b = sum_to_shape(_product(rows.swapaxes(-1, -2), grad_c), columns.shape).reshape(b.shape)
    return grad_a, grad_b


def _matrices(a, b):
    """Vectors as a row on the left, as a column on the right."""
    return a[None, :] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b


def _product(a, b):
    """a x b for stacks of matrices."""
    batch = broadcast_shape_of(a.shape[:-2], b.shape[:-2])
    return _stacked(a, b, empty((*batch, a.shape[-2], b.shape[-1]), a.dtype))


def _stacked(a, b, out):
    """out = a x b for stacks of matrices; out is contiguous."""
    if out.ndim == 2:
        return multiply(a, b, out)
    batch, count = out.shape[:-2], math.prod(out.shape[:-2])
    a, b = (_one_stack(x, batch, count) for x in (a, b))
    multiply(a, b, out if len(batch) == 1 else out.reshape(count, *out.shape[-2:]))
    return out


def _one_stack(x, batch, count):
    """A stack of matrices, repeated along axes that it has not, or of size 1, as [count, rows, columns]."""
    if x.shape[:-2] != batch:
        x = broadcast_to(x, (*batch, *x.shape[-2:]))
    return x if x.ndim == 3 else x.reshape(count, *x.shape[-2:])


def _rows(x):
    """[..., n] as [rows, n], sharing memory where x is contiguous."""
    if x.ndim == 2 and x.flags.c_contiguous:
        return x
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
