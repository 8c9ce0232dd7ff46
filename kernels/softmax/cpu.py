"""Softmax on NumPy arrays.

An axis whose elements lie side by side is worked off row by row: a row stays in the first cache over its passes
(largest, sum, result). Any other axis is worked off in strips of neighbouring columns, so that memory is still read
along the lines in which it lies.
"""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import largest_of_line, memory
from ..cpu_math import exp, log, wide_vectors
from ..cpu_sums import line_product, line_sum
from ..memory import empty

_STRIP = 256
_WORTH_THREADS = 1 << 13  # elements
_SOFTMAX, _LOG_SOFTMAX, _LOGSUMEXP = range(3)


@serial_kernel
def exp_line(x, start, count, peak, target, to):
    """target[to + i] = exp(x[start + i] - peak) for i < count: memory of two arrays."""
    wide_vectors()
    for i in range(count):
        target[to + i] = exp(x[start + i] - peak)


@serial_kernel
def _multiply_line(y, start, count, scale):
    for i in range(count):
        y[start + i] *= scale


@serial_kernel
def _shift_line(x, y, start, count, peak, log_total):
    for i in range(count):
        y[start + i] = x[start + i] - peak - log_total


@kernel
def softmax_rows_kernel(x, code, y):
    """x [rows, n] -> y [rows, n], for logsumexp y [rows, 1]."""
    n = x.shape[1]
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for row in prange(x.shape[0]):
        peak = largest_of_line(memory(x), row * n, n)
        if code == _LOGSUMEXP:
            if abs(peak) == np.inf:
                peak = zero  # infinities then come out of exp and log by themselves
            terms = np.empty(n, x.dtype)
            exp_line(memory(x), row * n, n, peak, memory(terms), 0)
            y[row, 0] = peak + log(line_sum(terms))
        else:
            exp_line(memory(x), row * n, n, peak, memory(y), row * n)
            total = line_sum(y[row])
            if code == _SOFTMAX:
                _multiply_line(memory(y), row * n, n, one / total)
            else:
                _shift_line(memory(x), memory(y), row * n, n, peak, log(total))


@kernel
def softmax_columns_kernel(x, code, y, peaks, totals):
    """x [outer, n, inner] -> y, for logsumexp [outer, 1, inner]; peaks and totals [outer, inner] are scratch.

    A strip of columns is swept from the first row to the last three times, all its columns at once.
    """
    outer, n, inner = x.shape
    strips = (inner + _STRIP - 1) // _STRIP
    zero = x.dtype.type(0)
    for job in prange(outer * strips):
        o, start = job // strips, job % strips * _STRIP
        stop = min(start + _STRIP, inner)
        peak, total = peaks[o, start:stop], totals[o, start:stop]
        peak[:] = -np.inf
        total[:] = zero
        for i in range(n):
            line = x[o, i, start:stop]
            for c in range(line.size):
                peak[c] = line[c] if line[c] > peak[c] else peak[c]
        if code == _LOGSUMEXP:
            for c in range(peak.size):
                peak[c] = zero if abs(peak[c]) == np.inf else peak[c]
        if code == _SOFTMAX:
            for i in range(n):
                line, result = x[o, i, start:stop], y[o, i, start:stop]
                for c in range(line.size):
                    e = exp(line[c] - peak[c])
                    result[c] = e
                    total[c] += e
            for i in range(n):
                result = y[o, i, start:stop]
                for c in range(result.size):
                    result[c] /= total[c]
        elif code == _LOG_SOFTMAX:
            for i in range(n):
                line, result = x[o, i, start:stop], y[o, i, start:stop]
                for c in range(line.size):
                    shifted = line[c] - peak[c]
                    result[c] = shifted
                    total[c] += exp(shifted)
            for c in range(total.size):
                total[c] = log(total[c])
            for i in range(n):
                result = y[o, i, start:stop]
                for c in range(result.size):
                    result[c] -= total[c]
        else:
            for i in range(n):
                line = x[o, i, start:stop]
                for c in range(line.size):
                    total[c] += exp(line[c] - peak[c])
            result = y[o, 0, start:stop]
            for c in range(result.size):
                result[c] = peak[c] + log(total[c])


@kernel
def softmax_rows_grad_input_kernel(grad_y, y, code, grad_x):
    """grad_x [rows, n] = y (grad_y - sum of grad_y y), for log_softmax grad_y - e^y (sum of grad_y)."""
    n = y.shape[1]
    for row in prange(y.shape[0]):
        if code == _SOFTMAX:
            total = line_product(grad_y[row], y[row])
            for i in range(n):
                grad_x[row, i] = y[row, i] * (grad_y[row, i] - total)
        else:
            total = line_sum(grad_y[row])
            for i in range(n):
                grad_x[row, i] = grad_y[row, i] - exp(y[row, i]) * total


@kernel
def softmax_columns_grad_input_kernel(grad_y, y, code, grad_x, totals):
    """The same for [outer, n, inner], in strips of columns; totals [outer, inner] is scratch."""
    outer, n, inner = y.shape
    strips = (inner + _STRIP - 1) // _STRIP
    for job in prange(outer * strips):
        o, start = job // strips, job % strips * _STRIP
        stop = min(start + _STRIP, inner)
        total = totals[o, start:stop]
        total[:] = 0
        for i in range(n):
            grad, result = grad_y[o, i, start:stop], y[o, i, start:stop]
            if code == _SOFTMAX:
                for c in range(total.size):
                    total[c] += grad[c] * result[c]
            else:
                for c in range(total.size):
                    total[c] += grad[c]
        for i in range(n):
            grad, result, target = grad_y[o, i, start:stop], y[o, i, start:stop], grad_x[o, i, start:stop]
            if code == _SOFTMAX:
                for c in range(total.size):
                    target[c] = result[c] * (grad[c] - total[c])
            else:
                for c in range(total.size):
                    target[c] = grad[c] - exp(result[c]) * total[c]


@kernel
def logsumexp_grad_input_kernel(grad_y, x, y, grad_x):
    """grad_x [outer, n, inner] = grad_y e^(x - y), with grad_y and y [outer, inner]."""
    outer, n, inner = x.shape
    for line in prange(outer * n):
        o, i = line // n, line % n
        for c in range(inner):
            grad_x[o, i, c] = grad_y[o, c] * exp(x[o, i, c] - y[o, c])


def _run_forward(x, code):
    """x [outer, n, inner] -> y, by rows or by columns."""
    outer, n, inner = x.shape
    y = empty((outer, 1 if code == _LOGSUMEXP else n, inner), x.dtype)
    if inner == 1:
        rows_kernel = softmax_rows_kernel if x.size >= _WORTH_THREADS else softmax_rows_kernel.serial
        rows_kernel(x[:, :, 0], code, y[:, :, 0])
    else:
        peak, total = empty((outer, inner), x.dtype), empty((outer, inner), x.dtype)
        softmax_columns_kernel(x, code, y, peak, total)
    return y


def _forward(x, axis, code, out):
    lines = _lines(x, axis)
    y = _run_forward(lines, code)
    return _deliver(y.reshape(x.shape), out), (y, x.shape, code)


def _backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    y, shape, code = saved
    outer, _, inner = y.shape
    grad_y = np.ascontiguousarray(grad_y).reshape(y.shape)
    grad_x = empty(y.shape, y.dtype)
    if inner == 1:
        rows_kernel = softmax_rows_grad_input_kernel
        rows_kernel = rows_kernel if y.size >= _WORTH_THREADS else rows_kernel.serial
        rows_kernel(grad_y[:, :, 0], y[:, :, 0], code, grad_x[:, :, 0])
    else:
        softmax_columns_grad_input_kernel(grad_y, y, code, grad_x, empty((outer, inner), y.dtype))
    return (grad_x.reshape(shape),)


def _lines(x, axis):
    """x as [outer, n, inner], n along the axis."""
    axis %= x.ndim
    shape = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    return np.ascontiguousarray(x).reshape(shape)


def _deliver(y, out):
    """y, in the caller's array where there is one."""
    if out is None:
        return y
    out[...] = y
    return out


def softmax_forward(x, *, axis=-1, out=None):
    return _forward(x, axis, _SOFTMAX, out)


def log_softmax_forward(x, *, axis=-1, out=None):
    return _forward(x, axis, _LOG_SOFTMAX, out)


softmax_backward = log_softmax_backward = _backward


def logsumexp_forward(x, *, axis=-1, keepdims=False, out=None):
    axis %= x.ndim
    lines = _lines(x, axis)
    y = _run_forward(lines, _LOGSUMEXP)
    shape = (*x.shape[:axis], *[1] * keepdims, *x.shape[axis + 1 :])
    return _deliver(y.reshape(shape), out), (lines, y[:, 0, :], x.shape)


def logsumexp_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    lines, y, shape = saved
    grad_x = empty(lines.shape, lines.dtype)
    logsumexp_grad_input_kernel(np.ascontiguousarray(grad_y).reshape(y.shape), lines, y, grad_x)
    return (grad_x.reshape(shape),)
