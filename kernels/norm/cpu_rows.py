"""layer_norm and rms_norm on NumPy arrays: one thread takes a row from memory once and works on it in its cache."""

import math
from functools import lru_cache

import numpy as np
from numba import prange

from ..accumulate import contiguous, sum_rows
from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import memory
from ..cpu_math import wide_vectors
from ..cpu_sums import line_scaled_deviations
from ..memory import constant, empty
from .cpu_moments import few_of, row_deviations, row_sum

_WORTH_THREADS = 1 << 14  # elements


@serial_kernel
def _normalize_line(x, start, count, centre, scale, weight, bias, y):
    wide_vectors()
    for i in range(count):
        y[start + i] = (x[start + i] - centre) * scale * weight[i] + bias[i]


@kernel
def normalize_rows_kernel(x, weight, bias, eps, centred, mean, rstd, y):
    """y = (x - mean) * rstd * weight + bias row by row. x, y: [rows, columns]; mean, rstd: [rows] are written.

    Where not `centred`, the mean counts as 0 and rstd is 1 / sqrt(mean(x^2) + eps).
    """
    columns = max(x.shape[1], 1)
    few = few_of(x.shape[1])
    for r in prange(x.shape[0]):
        centre = x.dtype.type(row_sum(x[r, :few]) / few if centred else 0.0)
        total, squares = row_deviations(x[r], centre)
        shift = total / columns if centred else 0.0
        centre = x.dtype.type(np.float64(centre) + shift)
        scale = x.dtype.type(1.0 / math.sqrt(max(squares / columns - shift * shift, 0.0) + eps))
        _normalize_line(memory(x), r * columns, x.shape[1], centre, scale, memory(weight), memory(bias), memory(y))
        mean[r], rstd[r] = centre, scale


@kernel
def normalize_rows_grad_kernel(
    x, grad_y, weight, centred, mean, rstd, needs_x, needs_sums, part_rows, grad_x, part_grad_weight, part_grad_bias
):
    """grad_x: [rows, columns], and each part's share of grad_weight and grad_bias: [parts, columns].

    A part is `part_rows` neighbouring rows, which one thread takes in order.
    """
    inverse = 1.0 / max(x.shape[1], 1)
    for part in prange((x.shape[0] + part_rows - 1) // part_rows):
        if needs_sums:
            for c in range(x.shape[1]):
                part_grad_weight[part, c] = part_grad_bias[part, c] = x.dtype.type(0)
        for r in range(part * part_rows, min((part + 1) * part_rows, x.shape[0])):
            centre, scale = mean[r], rstd[r]
            if needs_sums:
                for c in range(x.shape[1]):
                    part_grad_weight[part, c] += grad_y[r, c] * ((x[r, c] - centre) * scale)
                    part_grad_bias[part, c] += grad_y[r, c]
            if needs_x:
                total, products = line_scaled_deviations(grad_y[r], weight, x[r], centre)
                slope = x.dtype.type(np.float64(products) * scale * scale * scale * inverse)
                constant = x.dtype.type(np.float64(total) * scale * inverse if centred else 0.0)
                for c in range(x.shape[1]):
                    grad_x[r, c] = grad_y[r, c] * weight[c] * scale - (x[r, c] - centre) * slope - constant


def layer_norm_forward(x, weight=None, bias=None, *, normalized_shape, eps):
    return _forward(x, weight, bias, normalized_shape, eps, True)


def layer_norm_backward(saved, grad_y, needs):
    return _backward(saved, grad_y, needs)


def rms_norm_forward(x, weight=None, *, normalized_shape, eps):
    return _forward(x, weight, None, normalized_shape, eps, False)


def rms_norm_backward(saved, grad_y, needs):
    return _backward(saved, grad_y, (*needs, False))[:2]


def _forward(x, weight, bias, normalized_shape, eps, centred):
    rows, columns = sizes = _sizes(x.shape, len(normalized_shape))
    matrix = np.ascontiguousarray(x).reshape(sizes)
    weight = constant(columns, x.dtype, 1) if weight is None else weight.ravel()
    bias = constant(columns, x.dtype, 0) if bias is None else bias.ravel()
    mean, rstd, y = empty(rows, x.dtype), empty(rows, x.dtype), empty(x.shape, x.dtype)
    rows_kernel = normalize_rows_kernel if x.size >= _WORTH_THREADS else normalize_rows_kernel.serial
    rows_kernel(matrix, weight, bias, float(eps), centred, mean, rstd, y.reshape(sizes))
    return y, (matrix, weight, mean, rstd, centred, normalized_shape)


@lru_cache(maxsize=4096)
def _sizes(shape, trailing):
    """How many rows and columns an array has as a matrix, whose columns go over so many trailing axes."""
    first = len(shape) - trailing
    return math.prod(shape[:first]), math.prod(shape[first:])


def _backward(saved, grad_y, needs):
    x, weight, mean, rstd, centred, normalized_shape = saved
    needs_sums = needs[1] or needs[2]
    # Parts follow from the shape alone, so that the sums are the same on any number of threads.
    part_rows = max(4, -(-x.shape[0] // 64)) if needs_sums else 1
    shares = empty((2, -(-x.shape[0] // part_rows) if needs_sums else 0, x.shape[1]), x.dtype)
    grad_x = empty(grad_y.shape if needs[0] else 0, x.dtype)
    rows_kernel = normalize_rows_grad_kernel if x.size >= _WORTH_THREADS else normalize_rows_grad_kernel.serial
    rows_kernel(
        x,
        contiguous(grad_y).reshape(x.shape),
        weight,
        centred,
        mean,
        rstd,
        needs[0],
        needs_sums,
        part_rows,
        grad_x.reshape(x.shape if needs[0] else (0, 0)),
        *shares,
    )
    return (
        grad_x if needs[0] else None,
        sum_rows(shares[0]).reshape(normalized_shape) if needs[1] else None,
        sum_rows(shares[1]).reshape(normalized_shape) if needs[2] else None,
    )
