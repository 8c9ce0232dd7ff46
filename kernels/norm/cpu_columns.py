"""Batch normalisation of rows of channels [R, C]: features, and images in channels-last memory.

Rows are read in order, all channels of one at a time. Sums over R are taken in parts of neighbouring rows, one thread
each, and then over the parts; the parts depend on the shape alone, and so the result does not depend on the number of
threads.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..memory import empty


@kernel
def columns_moments_kernel(x, part_rows, centre, deviations, squares):
    """For each part and channel: a rounded mean, the sum of x - mean, and the sum of its squares. All [parts, C]."""
    for part in prange(centre.shape[0]):
        first, last = part * part_rows, min((part + 1) * part_rows, x.shape[0])
        inverse = x.dtype.type(1.0 / (last - first))
        for c in range(x.shape[1]):
            centre[part, c] = deviations[part, c] = squares[part, c] = x.dtype.type(0)
        for r in range(first, last):
            for c in range(x.shape[1]):
                centre[part, c] += x[r, c]
        for c in range(x.shape[1]):
            centre[part, c] *= inverse
        for r in range(first, last):
            for c in range(x.shape[1]):
                deviation = x[r, c] - centre[part, c]
                deviations[part, c] += deviation
                squares[part, c] += deviation * deviation


@kernel
def columns_normalize_kernel(x, mean, scale, bias, y):
    """y = (x - mean) * scale + bias."""
    for r in prange(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = (x[r, c] - mean[c]) * scale[c] + bias[c]


@kernel
def columns_grad_sums_kernel(x, grad_y, part_rows, mean, sum_grad, sum_products):
    """For each part and channel: the sums of grad_y and of grad_y * (x - mean). Both [parts, C]."""
    for part in prange(sum_grad.shape[0]):
        for c in range(x.shape[1]):
            sum_grad[part, c] = sum_products[part, c] = x.dtype.type(0)
        for r in range(part * part_rows, min((part + 1) * part_rows, x.shape[0])):
            for c in range(x.shape[1]):
                sum_grad[part, c] += grad_y[r, c]
                sum_products[part, c] += grad_y[r, c] * (x[r, c] - mean[c])


@kernel
def columns_grad_input_kernel(x, grad_y, mean, factor, slope, constant, grad_x):
    """grad_x = grad_y * factor + (x - mean) * slope + constant."""
    for r in prange(x.shape[0]):
        for c in range(x.shape[1]):
            grad_x[r, c] = grad_y[r, c] * factor[c] + (x[r, c] - mean[c]) * slope[c] + constant[c]


def forward(x, weight, bias, eps, mean=None, variance=None):
    """y, mean, variance of a C-contiguous x; a mean and variance that are given are used, else they are computed."""
    if mean is None:
        mean, variance = (moment.astype(x.dtype) for moment in _moments(x))
    y = empty(x.shape, x.dtype)
    columns_normalize_kernel(x, mean, (weight * _rstd(variance, eps)).astype(x.dtype), bias, y)
    return y, mean, variance


def backward(x, grad_y, given, weight, eps, mean, variance, grad_mean, grad_variance, needs_x, needs_sums):
    """grad_x (None where not needed), grad_weight and grad_bias (None unless `needs_sums`)."""
    rstd, rows = _rstd(variance, eps), max(x.shape[0], 1)
    slope = constant = np.zeros(x.shape[1])
    grad_x = grad_weight = grad_bias = None
    if needs_sums or not given:
        parts, part_rows = _parts(x)
        sums = empty((2, parts, x.shape[1]), x.dtype)
        columns_grad_sums_kernel(x, grad_y, part_rows, mean, *sums)
        grad_bias, products = sums.sum(axis=1, dtype=np.float64)
        grad_weight = products * rstd
    if needs_x:
        if not given:
            slope = (2 * grad_variance - rstd**2 * weight * grad_weight) / rows
            constant = (grad_mean - rstd * weight * grad_bias) / rows
        grad_x = empty(x.shape, x.dtype)
        coefficients = (vector.astype(x.dtype) for vector in (weight * rstd, slope, constant))
        columns_grad_input_kernel(x, grad_y, mean, *coefficients, grad_x)
    if needs_sums:
        return grad_x, grad_weight.astype(x.dtype), grad_bias.astype(x.dtype)
    return grad_x, None, None


def _moments(x):
    """Mean and variance of each column in float64: the parts' moments joined as T. F. Chan et al. (1979) do."""
    parts, part_rows = _parts(x)
    scratch = empty((3, parts, x.shape[1]), x.dtype)
    columns_moments_kernel(x, part_rows, *scratch)
    centre, deviations, squares = scratch.astype(np.float64)
    rows = np.minimum(part_rows, len(x) - part_rows * np.arange(parts))[:, None]
    part_mean = centre + deviations / rows
    total = max(len(x), 1)
    mean = (rows * part_mean).sum(axis=0) / total
    within = squares - deviations**2 / rows
    variance = (within + rows * (part_mean - mean) ** 2).sum(axis=0) / total
    return mean, np.maximum(variance, 0)


def _parts(x):
    """How many parts of how many rows: at most 64, of at least 32."""
    part_rows = max(32, -(-x.shape[0] // 64))
    return -(-x.shape[0] // part_rows), part_rows


def _rstd(variance, eps):
    return 1 / np.sqrt(variance.astype(np.float64) + eps)
