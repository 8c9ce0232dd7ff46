"""Softmax on NumPy arrays.

An axis whose elements lie side by side is worked off row by row: a row stays in the first cache over its passes
(largest, sum, result). Any other axis is worked off in strips of neighbouring columns, so that memory is still read
along the lines in which it lies. Where a strip has many rows, and would come from memory three times, it is the work of
`cpu_tall`.
"""

import math
from functools import lru_cache

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import ask_for, largest_of_line, memory
from ..cpu_math import decay, exp, log, wide_vectors
from ..cpu_sums import line_product, line_sum
from ..cpu_threads import thread_count
from ..memory import empty, workspace
from .cpu_tall import softmax_tall

_ASKED = 128  # elements that memory is asked for at a time
_STRIP = 256  # columns
_TALL = 256  # rows from which on a strip comes from memory each time: it may as well be wider, up to
_WIDE_STRIP = 4096  # columns
_WORTH_THREADS = 1 << 13  # elements
_SOFTMAX, _LOG_SOFTMAX, _LOGSUMEXP = range(3)


@serial_kernel
def decay_line(x, start, count, peak, target, to, ahead):
    """target[to + i] = exp(x[start + i] - peak) for i < count, none of them above the peak: memory of two arrays.

    Meanwhile what lies `ahead` further in x is asked for, the next row: it comes while there is enough to compute.
    """
    wide_vectors()
    whole = count // _ASKED * _ASKED
    for first in range(0, whole, _ASKED):
        ask_for(x, start + first + ahead, _ASKED)
        for i in range(_ASKED):
            target[to + first + i] = decay(x[start + first + i] - peak)
    for i in range(whole, count):
        target[to + i] = decay(x[start + i] - peak)


@serial_kernel
def _exp_line(x, start, count, peak, target):
    wide_vectors()
    for i in range(count):
        target[i] = exp(x[start + i] - peak)


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
            _exp_line(memory(x), row * n, n, peak, memory(terms))
            y[row, 0] = peak + log(line_sum(terms))
        else:
            decay_line(memory(x), row * n, n, peak, memory(y), row * n, n)
            total = line_sum(y[row])
            if code == _SOFTMAX:
                _multiply_line(memory(y), row * n, n, one / total)
            else:
                _shift_line(memory(x), memory(y), row * n, n, peak, log(total))


@serial_kernel
def peaks_of_strip(x, start, pitch, n, count, peak):
    """peak[i] = the largest of column i, -inf if there is none, of `count` columns of n elements from x[start] on, rows
    `pitch` apart."""
    wide_vectors()
    for i in range(count):
        peak[i] = -np.inf
    for row in range(n):
        here = start + row * pitch
        for i in range(count):
            peak[i] = x[here + i] if x[here + i] > peak[i] else peak[i]


@serial_kernel
def add_exp_line(x, start, count, peak, total):
    """total[i] += exp(x[start + i] - peak[i])."""
    wide_vectors()
    for i in range(count):
        total[i] += exp(x[start + i] - peak[i])


@serial_kernel
def _exp_to_line(x, start, count, peak, total, y):
    """y[start + i] = exp(x[start + i] - peak[i]), which is added to total[i] too."""
    wide_vectors()
    for i in range(count):
        e = exp(x[start + i] - peak[i])
        y[start + i] = e
        total[i] += e


@serial_kernel
def _scale_line(y, start, count, factor):
    for i in range(count):
        y[start + i] *= factor[i]


@serial_kernel
def _subtract_line(x, start, count, peak, log_total, y):
    for i in range(count):
        y[start + i] = x[start + i] - peak[i] - log_total[i]


@kernel
def softmax_columns_kernel(x, code, peaks, totals, y):
    """x [outer, n, inner] -> y, for logsumexp [outer, 1, inner]; peaks, totals: [parts, columns of a strip] scratch.

    A strip of columns is swept from the first row to the last three times, all its columns at once.
    """
    outer, n, inner = x.shape
    parts, strip = peaks.shape
    strips = (inner + strip - 1) // strip
    jobs = outer * strips
    for part in prange(parts):
        peak, total = memory(peaks[part]), memory(totals[part])
        for job in range(part * jobs // parts, (part + 1) * jobs // parts):
            o, start = job // strips, job % strips * strip
            count, first = min(strip, inner - start), o * n * inner + start
            peaks_of_strip(memory(x), first, inner, n, count, peak)
            for i in range(count):
                total[i] = 0
                if code == _LOGSUMEXP and abs(peak[i]) == np.inf:
                    peak[i] = 0  # infinities then come out of exp and log by themselves
            for row in range(n):
                if code == _SOFTMAX:
                    _exp_to_line(memory(x), first + row * inner, count, peak, total, memory(y))
                else:
                    add_exp_line(memory(x), first + row * inner, count, peak, total)
            if code == _SOFTMAX:
                for i in range(count):
                    total[i] = 1 / total[i]
                for row in range(n):
                    _scale_line(memory(y), first + row * inner, count, total)
            elif code == _LOG_SOFTMAX:
                for i in range(count):
                    total[i] = log(total[i])
                for row in range(n):
                    _subtract_line(memory(x), first + row * inner, count, peak, total, memory(y))
            else:
                for i in range(count):
                    y[o, 0, start + i] = peak[i] + log(total[i])


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


@serial_kernel
def _add_grads_line(grad_y, y, start, count, code, total):
    """total[i] += grad_y[start + i] y[start + i], for log_softmax grad_y[start + i]."""
    wide_vectors()
    if code == _SOFTMAX:
        for i in range(count):
            total[i] += grad_y[start + i] * y[start + i]
    else:
        for i in range(count):
            total[i] += grad_y[start + i]


@serial_kernel
def _grad_line(grad_y, y, start, count, code, total, grad_x):
    wide_vectors()
    if code == _SOFTMAX:
        for i in range(count):
            grad_x[start + i] = y[start + i] * (grad_y[start + i] - total[i])
    else:
        for i in range(count):
            grad_x[start + i] = grad_y[start + i] - exp(y[start + i]) * total[i]


@kernel
def softmax_columns_grad_input_kernel(grad_y, y, code, totals, grad_x):
    """The same for [outer, n, inner], in strips of columns; totals: [parts, columns of a strip] scratch."""
    outer, n, inner = y.shape
    parts, strip = totals.shape
    strips = (inner + strip - 1) // strip
    jobs = outer * strips
    for part in prange(parts):
        total = memory(totals[part])
        for job in range(part * jobs // parts, (part + 1) * jobs // parts):
            o, start = job // strips, job % strips * strip
            count, first = min(strip, inner - start), o * n * inner + start
            for i in range(count):
                total[i] = 0
            for row in range(n):
                _add_grads_line(memory(grad_y), memory(y), first + row * inner, count, code, total)
            for row in range(n):
                _grad_line(memory(grad_y), memory(y), first + row * inner, count, code, total, memory(grad_x))


@kernel
def logsumexp_grad_input_kernel(grad_y, x, y, grad_x):
    """grad_x [outer, n, inner] = grad_y e^(x - y), with grad_y and y [outer, inner]."""
    outer, n, inner = x.shape
    for line in prange(outer * n):
        o, i = line // n, line % n
        for c in range(inner):
            grad_x[o, i, c] = grad_y[o, c] * exp(x[o, i, c] - y[o, c])


def strip_lines(name, x, *lines):
    """Scratch for walking x [outer, n, inner] in strips of columns: [parts, columns of a strip] for each of `lines`."""
    outer, n, inner = x.shape
    strip, threads = _STRIP, thread_count()
    if n >= _TALL:  # as wide as leaves work for all threads
        strip = max(strip, min(_WIDE_STRIP, -(-outer * inner // (threads * _STRIP)) * _STRIP))
    parts = max(1, min(outer * -(-inner // strip), 8 * threads))
    return tuple(workspace(f"{name} {line}", (parts, strip), x.dtype) for line in lines)


def _run(softmax_kernel, x):
    """The kernel, on the calling thread where x is small."""
    return softmax_kernel if x.size >= _WORTH_THREADS else softmax_kernel.serial


def _run_forward(x, axis, code, shape):
    """The result in that shape, by rows or by columns, and x as it was worked off: [outer, n, inner]."""
    outer, n, inner = sizes = _sizes(x.shape, axis)
    lines, y = np.ascontiguousarray(x).reshape(sizes), empty(shape, x.dtype)
    of_lines = outer, 1 if code == _LOGSUMEXP else n, inner
    if inner == 1:
        _run(softmax_rows_kernel, x)(lines.reshape(sizes[:2]), code, y.reshape(of_lines[:2]))
    elif n >= _TALL and code != _LOGSUMEXP:
        softmax_tall(lines, code == _LOG_SOFTMAX, y.reshape(of_lines))
    else:
        scratch = strip_lines("softmax", lines, "peaks", "totals")
        _run(softmax_columns_kernel, x)(lines, code, *scratch, y.reshape(of_lines))
    return y, lines


@lru_cache(maxsize=4096)
def _sizes(shape, axis):
    """[outer, n, inner], n along the axis."""
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    y, sizes, code = saved
    grad_y, grad_x = np.ascontiguousarray(grad_y), empty(y.shape, y.dtype)
    if sizes[2] == 1:
        rows = (array.reshape(sizes[:2]) for array in (grad_y, y))
        _run(softmax_rows_grad_input_kernel, y)(*rows, code, grad_x.reshape(sizes[:2]))
    else:
        lines = y.reshape(sizes)
        totals = strip_lines("softmax", lines, "totals")
        _run(softmax_columns_grad_input_kernel, y)(grad_y.reshape(sizes), lines, code, *totals, grad_x.reshape(sizes))
    return (grad_x,)


def _deliver(y, out):
    """y, in the caller's array where there is one."""
    if out is None:
        return y
    out[...] = y
    return out


def _forward(x, axis, code, out):
    y, lines = _run_forward(x, axis, code, x.shape)
    return _deliver(y, out), (y, lines.shape, code)


def softmax_forward(x, *, axis=-1, out=None):
    return _forward(x, axis, _SOFTMAX, out)


def log_softmax_forward(x, *, axis=-1, out=None):
    return _forward(x, axis, _LOG_SOFTMAX, out)


softmax_backward = log_softmax_backward = _backward


def logsumexp_forward(x, *, axis=-1, keepdims=False, out=None):
    axis %= x.ndim
    shape = (*x.shape[:axis], *[1] * keepdims, *x.shape[axis + 1 :])
    y, lines = _run_forward(x, axis, _LOGSUMEXP, shape)
    return _deliver(y, out), (lines, y.reshape(lines.shape[0], lines.shape[2]), x.shape)


def logsumexp_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    lines, y, shape = saved
    grad_x = empty(lines.shape, lines.dtype)
    _run(logsumexp_grad_input_kernel, lines)(np.ascontiguousarray(grad_y).reshape(y.shape), lines, y, grad_x)
    return (grad_x.reshape(shape),)
