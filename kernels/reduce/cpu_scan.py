"""Running sums of NumPy arrays, from the start of an axis or from its end.

A sum waits for the one before it, so several lines go side by side: four rows, or all columns of a strip. Sums are
carried in float64.
"""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..memory import empty

_ROWS = 4  # that go side by side
_COLUMNS = 512
_WORTH_THREADS = 1 << 15  # elements; NumPy has added fewer before another thread has woken up


@kernel
def row_scan_kernel(x, n, reverse, y):
    """y[row, k] = the sum of x[row] up to k, or from k on; both flat [rows * n]."""
    rows = x.size // n
    # Unsigned, so that no index has to be asked whether it is negative; a step back comes round.
    step, row_step = np.uint64(-1 if reverse else 1), np.uint64(n)
    for group in prange((rows + _ROWS - 1) // _ROWS):
        row = group * _ROWS
        p = np.uint64(row * n + (n - 1 if reverse else 0))
        if row + _ROWS <= rows:
            q, r, s = p + row_step, p + row_step * np.uint64(2), p + row_step * np.uint64(3)
            sum_p, sum_q, sum_r, sum_s = 0.0, 0.0, 0.0, 0.0
            for _ in range(n):
                sum_p += x[p]
                sum_q += x[q]
                sum_r += x[r]
                sum_s += x[s]
                y[p], y[q], y[r], y[s] = sum_p, sum_q, sum_r, sum_s
                p, q, r, s = p + step, q + step, r + step, s + step
        else:
            for place in range(rows - row):
                q = p + row_step * np.uint64(place)
                total = 0.0
                for _ in range(n):
                    total += x[q]
                    y[q] = total
                    q += step


@kernel
def column_scan_kernel(x, n, inner, reverse, y):
    """y[o, k, i] = the sum of x[o, :, i] up to k, or from k on; both flat [outer * n * inner]. Walks whole rows of a
    strip of columns, whose sums stay in the cache."""
    outer, strips = x.size // (n * inner), (inner + _COLUMNS - 1) // _COLUMNS
    for job in prange(outer * strips):
        start = job % strips * _COLUMNS
        totals = np.zeros(min(_COLUMNS, inner - start), np.float64)
        for k in range(n):
            first = (job // strips * n + (n - 1 - k if reverse else k)) * inner + start
            line, to = x[first : first + totals.size], y[first : first + totals.size]
            for i in range(totals.size):
                totals[i] += line[i]
                to[i] = totals[i]


def running_sums(x, axis, reverse=False, out=None):
    """The sums of x along an axis up to each element, or (reverse) from each element on."""
    y = empty(x.shape, x.dtype) if out is None else out
    if x.size < _WORTH_THREADS or x.dtype.kind != "f" or not y.flags.c_contiguous:
        source, target = (np.flip(array, axis) if reverse else array for array in (x, y))
        np.cumsum(source, axis, out=target)
        return y
    n, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    flat = np.ascontiguousarray(x).reshape(-1), n
    if inner == 1:
        row_scan_kernel(*flat, reverse, y.reshape(-1))
    else:
        column_scan_kernel(*flat, inner, reverse, y.reshape(-1))
    return y
