"""Batch normalisation of rows of channels [R, C]: features, and images in channels-last memory.

Rows are read in order, all channels of one at a time. Sums over R are taken in parts of neighbouring rows, one thread
each, and then over the parts; the parts depend on the shape alone, and so the result does not depend on the number of
threads.
"""

import math
from functools import cache

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import memory
from ..cpu_math import multiply_add, wide_vectors
from ..memory import empty
from .cpu_column_sums import column_sums, rectified_column_sums

_WORTH_THREADS = 1 << 14  # elements; fewer are read before another thread has woken up


@kernel
def columns_moments_kernel(x, part_rows, sums):
    """For each part and channel: a value near the mean, the sum of x - that value, and the sum of its squares; then
    scratch. sums: [4, parts, C].

    The value is the mean of a sixteenth of the part, at least 8 rows: however far these lie from the others, the
    squares are then at most 16 times those around the mean, and little is lost.
    """
    rows, columns = x.shape
    for part in prange(sums.shape[1]):
        first, count = part * part_rows, min(part_rows, rows - part * part_rows)
        centre, deviations, squares, zeros = sums[0, part], sums[1, part], sums[2, part], sums[3, part]
        zeros[:] = 0
        few = min(count, max(8, count // 16))
        inverse = x.dtype.type(1.0 / few)
        column_sums(
            memory(x), memory(x), True, first * columns, columns, few,
            memory(zeros), memory(centre), memory(squares), 0,
        )  # fmt: skip
        for c in range(columns):
            centre[c] *= inverse
        column_sums(
            memory(x), memory(x), True, first * columns, columns, count,
            memory(centre), memory(deviations), memory(squares), 0,
        )  # fmt: skip


@serial_kernel
def fill_scale(weight, variance, eps, scale):
    """scale = weight / sqrt(variance + eps). All [C]."""
    for c in range(len(scale)):
        scale[c] = np.float64(weight[c]) * (1.0 / math.sqrt(np.float64(variance[c]) + eps))


@serial_kernel
def join_moments(sums, part_rows, rows, weight, eps, moments, batch_mean, batch_variance, scale):
    """Mean and variance of each channel [C] from the parts, joined as T. F. Chan et al. (1979) do, in float64 in
    moments [2, C]; and what `fill_scale` makes of them."""
    wide_vectors()
    centre, deviations, squares = sums[0], sums[1], sums[2]
    mean, variance = moments
    parts, columns = centre.shape
    for c in range(columns):
        mean[c] = variance[c] = 0.0
    inverse_rows = 1.0 / max(rows, 1)
    for part in range(parts):
        count = np.float64(min(part_rows, rows - part * part_rows))
        for c in range(columns):
            mean[c] += count * np.float64(centre[part, c]) + np.float64(deviations[part, c])
    for c in range(columns):
        mean[c] *= inverse_rows
    for part in range(parts):
        count = np.float64(min(part_rows, rows - part * part_rows))
        inverse = 1.0 / count
        for c in range(columns):
            deviation = np.float64(deviations[part, c])
            apart = np.float64(centre[part, c]) + deviation * inverse - mean[c]
            within = np.float64(squares[part, c]) - deviation * deviation * inverse
            variance[c] += within + count * apart * apart
    for c in range(columns):
        batch_mean[c], batch_variance[c] = mean[c], max(variance[c] * inverse_rows, 0.0)
    fill_scale(weight, batch_variance, eps, scale)


@cache
def _normalize_kernel(relu):
    """The kernel that normalises and, if relu, rectifies: what it does alone is compiled."""

    @kernel
    def columns_normalize_kernel(x, mean, scale, bias, y):
        """y = (x - mean) * scale + bias, or 0 where that is negative if relu."""
        zero = y.dtype.type(0)
        for r in prange(x.shape[0]):
            for c in range(x.shape[1]):
                value = (x[r, c] - mean[c]) * scale[c] + bias[c]
                y[r, c] = zero if relu and value < 0 else value

    return columns_normalize_kernel


@cache
def _grad_sums_kernel(relu):
    """The kernel of the gradient's sums, if relu behind a rectifier's derivative."""

    @kernel
    def columns_grad_sums_kernel(x, grad_y, part_rows, mean, scale, bias, sums):
        """For each part and channel: the sums of grad_y and of grad_y * (x - mean). sums: [2, parts, C].

        If relu, grad_y counts where y is above 0; only then scale and bias are read.
        """
        rows, columns = x.shape
        sum_grad, sum_products = sums[0], sums[1]
        for part in prange(sums.shape[1]):
            first, count = part * part_rows, min(part_rows, rows - part * part_rows)
            if relu:
                rectified_column_sums(
                    memory(x), memory(grad_y), first * columns, columns, count,
                    memory(mean), memory(scale), memory(bias), memory(sum_grad), memory(sum_products), part * columns,
                )  # fmt: skip
            else:
                column_sums(
                    memory(x), memory(grad_y), False, first * columns, columns, count,
                    memory(mean), memory(sum_grad), memory(sum_products), part * columns,
                )  # fmt: skip

    return columns_grad_sums_kernel


@serial_kernel
def join_grad_sums(
    sums, rows, given, weight, eps, variance, grad_mean, grad_variance, coefficients, totals, grad_parameters
):
    """The sums [2, parts, C] of all parts, in float64 in totals [2, C], as grad_parameters [2, C]: grad_weight and
    grad_bias; and what columns_grad_input_kernel multiplies with: factor, slope and constant, coefficients [3, C]."""
    wide_vectors()
    columns, inverse = sums.shape[2], 1.0 / max(rows, 1)
    products, grads = totals
    for c in range(columns):
        products[c] = grads[c] = 0.0
    for part in range(sums.shape[1]):
        for c in range(columns):
            grads[c] += np.float64(sums[0, part, c])
            products[c] += np.float64(sums[1, part, c])
    for c in range(columns):
        rstd = 1.0 / math.sqrt(np.float64(variance[c]) + eps)
        products[c] *= rstd
        grad_parameters[0, c], grad_parameters[1, c] = products[c], grads[c]
        coefficients[0, c], coefficients[1, c], coefficients[2, c] = weight[c] * rstd, 0.0, 0.0
        if not given:
            coefficients[1, c] = (2.0 * grad_variance[c] - rstd * rstd * weight[c] * products[c]) * inverse
            coefficients[2, c] = (grad_mean[c] - rstd * weight[c] * grads[c]) * inverse


@cache
def _grad_input_kernel(relu):
    """The kernel of the gradient itself, if relu behind a rectifier's derivative."""

    @kernel
    def columns_grad_input_kernel(x, grad_y, mean, bias, coefficients, grad_x):
        """grad_x = grad_y * factor + (x - mean) * slope + constant. If relu, grad_y counts where y is above 0."""
        zero = grad_x.dtype.type(0)
        factor, slope, constant = coefficients[0], coefficients[1], coefficients[2]
        for r in prange(x.shape[0]):
            if relu:
                for c in range(x.shape[1]):
                    deviation = x[r, c] - mean[c]
                    grad = grad_y[r, c] if deviation * factor[c] + bias[c] > 0 else zero
                    grad_x[r, c] = multiply_add(grad, factor[c], deviation * slope[c]) + constant[c]
            else:
                for c in range(x.shape[1]):
                    grad_x[r, c] = grad_y[r, c] * factor[c] + (x[r, c] - mean[c]) * slope[c] + constant[c]

    return columns_grad_input_kernel


def forward(x, weight, bias, eps, relu, mean=None, variance=None):
    """y, mean, variance of a C-contiguous x; a mean and variance that are given are used, else they are computed."""
    scale, y = empty(x.shape[1], x.dtype), empty(x.shape, x.dtype)
    if mean is None:
        mean, variance, (parts, part_rows) = empty(x.shape[1], x.dtype), empty(x.shape[1], x.dtype), _parts(x)
        sums, moments = empty((4, parts, x.shape[1]), x.dtype), empty((2, x.shape[1]), np.float64)
        _run(columns_moments_kernel, x)(x, part_rows, sums)
        join_moments(sums, part_rows, x.shape[0], weight, eps, moments, mean, variance, scale)
    else:
        fill_scale(weight, variance, eps, scale)
    _run(_normalize_kernel(relu), x)(x, mean, scale, bias, y)
    return y, mean, variance


def backward(x, grad_y, given, weight, bias, eps, relu, mean, variance, grad_mean, grad_variance, needs_x, needs_sums):
    """grad_x (None where not needed), grad_weight and grad_bias (None unless `needs_sums`)."""
    grad_x, (parts, part_rows) = None, _parts(x) if needs_sums or not given else (0, 1)
    sums = empty((2, parts, x.shape[1]), x.dtype)
    if parts:
        scale = weight
        if relu:
            scale = empty(weight.shape, weight.dtype)
            fill_scale(weight, variance, eps, scale)
        _run(_grad_sums_kernel(relu), x)(x, grad_y, part_rows, mean, scale, bias, sums)
    coefficients, totals = empty((3, x.shape[1]), x.dtype), empty((2, x.shape[1]), np.float64)
    grad_parameters = empty((2, x.shape[1]), x.dtype)
    join_grad_sums(
        sums, x.shape[0], given, weight, eps, variance, grad_mean, grad_variance, coefficients, totals, grad_parameters
    )
    if needs_x:
        grad_x = empty(x.shape, x.dtype)
        _run(_grad_input_kernel(relu), x)(x, grad_y, mean, bias, coefficients, grad_x)
    return grad_x, *(grad_parameters if needs_sums else (None, None))


def _run(columns_kernel, x):
    """The kernel, on the calling thread where x is small."""
    return columns_kernel if x.size > _WORTH_THREADS else columns_kernel.serial


def _parts(x):
    """How many parts of how many rows: at most 64, of at least 32."""
    part_rows = max(32, -(-x.shape[0] // 64))
    return -(-x.shape[0] // part_rows), part_rows
