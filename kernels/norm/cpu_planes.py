"""Normalisation of [N, C, ...] arrays in C order, for batch_norm, instance_norm and group_norm.

The array is seen as planes [N * C, S] of S neighbouring values, plane n * C + c. One thread normalises one set of
planes that share a mean: it reads them for the mean and the variance, and again for the result, and for all but the
largest sets the second time comes from its cache. With `Sets(count, members, step, member_step)`, set s holds the
planes s * step + j * member_step:

    batch_norm      C sets      of N planes             C apart; short planes are in `cpu_short_planes`
    instance_norm   N C sets    of 1 plane
    group_norm      N G sets    of C / G planes         next to each other
"""

import math
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from ..accumulate import sum_rows
from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import memory, zero_of
from ..cpu_math import multiply_add, wide_vectors
from ..memory import empty
from .cpu_moments import few_of, row_deviations, row_grad_sums, row_rectified_grad_sums, row_sum

_WORTH_THREADS = 1 << 14  # elements; fewer are normalised before another thread has woken up


class Sets(NamedTuple):
    """Which planes share a mean and a variance."""

    count: int
    members: int
    step: int
    member_step: int


@serial_kernel
def _normalize_line(x, start, count, centre, scale, offset, y):
    wide_vectors()
    for i in range(count):
        y[start + i] = (x[start + i] - centre) * scale + offset


@serial_kernel
def _rectified_line(x, start, count, centre, scale, offset, y):
    wide_vectors()
    zero = zero_of(x)
    for i in range(count):
        value = (x[start + i] - centre) * scale + offset
        y[start + i] = zero if value < 0 else value


@serial_kernel
def _grad_line(x, grad_y, start, count, centre, factor, slope, constant, grad_x):
    wide_vectors()
    for i in range(count):
        grad_x[start + i] = grad_y[start + i] * factor + (x[start + i] - centre) * slope + constant


@serial_kernel
def _rectified_grad_line(x, grad_y, start, count, centre, factor, offset, slope, constant, grad_x):
    wide_vectors()
    zero = zero_of(x)
    for i in range(count):
        deviation = x[start + i] - centre
        grad = grad_y[start + i] if deviation * factor + offset > 0 else zero
        grad_x[start + i] = multiply_add(grad, factor, deviation * slope) + constant


@cache
def _normalize_kernel(relu):
    """The kernel that normalises and, if relu, rectifies: what it does alone is compiled."""

    @kernel
    def normalize_planes_kernel(x, size, members, step, member_step, given, weight, bias, eps, mean, variance, y):
        """y = weight (x - mean) / sqrt(variance + eps) + bias, or 0 where that is negative if relu.

        x, y: flat, of planes of `size`; weight, bias: [C].
        mean, variance: [sets], written unless they are `given`.
        """
        count = max(members * size, 1)
        few = few_of(members * size)
        # Planes next to each other are one line.
        lines, length = (1, members * size) if member_step == 1 else (members, size)
        for s in prange(mean.size):
            first = s * step
            if not given:
                total, left = 0.0, few
                for j in range(lines):
                    start = (first + j * member_step) * size
                    total += row_sum(x[start : start + min(left, length)])
                    left -= min(left, length)
                    if left == 0:
                        break
                centre = x.dtype.type(total / few)
                total, squares = 0.0, 0.0
                for j in range(lines):
                    start = (first + j * member_step) * size
                    deviation, square = row_deviations(x[start : start + length], centre)
                    total += deviation
                    squares += square
                shift = total / count
                mean[s] = np.float64(centre) + shift
                variance[s] = max(squares / count - shift * shift, 0.0)
            centre = mean[s]
            rstd = 1.0 / math.sqrt(np.float64(variance[s]) + eps)
            for j in range(members):
                plane = first + j * member_step
                scale, offset = x.dtype.type(rstd * weight[plane % weight.size]), bias[plane % weight.size]
                if relu:
                    _rectified_line(memory(x), plane * size, size, centre, scale, offset, memory(y))
                else:
                    _normalize_line(memory(x), plane * size, size, centre, scale, offset, memory(y))

    return normalize_planes_kernel


@cache
def _grad_kernel(relu):
    """The kernel that differentiates, if relu with a rectifier behind."""

    @kernel
    def normalize_planes_grad_kernel(
        x,
        grad_y,
        members,
        step,
        member_step,
        given,
        weight,
        bias,
        eps,
        mean,
        variance,
        grad_mean,
        grad_variance,
        needs_x,
        needs_sums,
        grad_x,
        plane_grad_weight,
        plane_grad_bias,
    ):
        """grad_x: [planes, S], and each plane's share of grad_weight and grad_bias: [planes].

        If relu, grad_y counts where y is above 0, as x says once more: y need not be read.
        """
        size = x.shape[1]
        count = max(members * size, 1)
        for s in prange(mean.size):
            first, centre = s * step, mean[s]
            rstd = 1.0 / math.sqrt(np.float64(variance[s]) + eps)
            sum_grad, sum_grad_xhat = 0.0, 0.0
            if needs_sums or not given:
                for j in range(members):
                    plane = first + j * member_step
                    if relu:
                        factor, offset = x.dtype.type(rstd * weight[plane % weight.size]), bias[plane % weight.size]
                        total, products = row_rectified_grad_sums(x[plane], grad_y[plane], centre, factor, offset)
                    else:
                        total, products = row_grad_sums(x[plane], grad_y[plane], centre)
                    plane_grad_bias[plane], plane_grad_weight[plane] = total, products * rstd
                    sum_grad += total * weight[plane % weight.size]
                    sum_grad_xhat += products * rstd * weight[plane % weight.size]
            if needs_x:
                slope, constant = 0.0, 0.0
                if not given:
                    slope = (2.0 * grad_variance[s] - rstd * rstd * sum_grad_xhat) / count
                    constant = (grad_mean[s] - rstd * sum_grad) / count
                slope, constant = x.dtype.type(slope), x.dtype.type(constant)
                for j in range(members):
                    plane = first + j * member_step
                    factor = x.dtype.type(rstd * weight[plane % weight.size])
                    if relu:
                        _rectified_grad_line(
                            memory(x), memory(grad_y), plane * size, size, centre, factor, bias[plane % weight.size],
                            slope, constant, memory(grad_x),
                        )  # fmt: skip
                    else:
                        _grad_line(
                            memory(x), memory(grad_y), plane * size, size, centre, factor, slope, constant,
                            memory(grad_x),
                        )  # fmt: skip

    return normalize_planes_grad_kernel


def forward(x, sets, weight, bias, eps, relu, mean=None, variance=None):
    """y, mean, variance of a C-contiguous x; a mean and variance that are given are used, else they are computed."""
    given = mean is not None
    if not given:
        mean, variance = empty(sets.count, x.dtype), empty(sets.count, x.dtype)
    y = empty(x.shape, x.dtype)
    size = math.prod(x.shape[2:])
    run = _normalize_kernel(relu) if x.size > _WORTH_THREADS else _normalize_kernel(relu).serial
    run(x.ravel(), size, *sets[1:], given, weight, bias, eps, mean, variance, y.ravel())
    return y, mean, variance


def backward(
    x, grad_y, sets, given, weight, bias, eps, relu, mean, variance, grad_mean, grad_variance, needs_x, needs_sums
):
    """grad_x (None where not needed), grad_weight and grad_bias (meaningless unless `needs_sums`)."""
    grad_x = empty(x.shape if needs_x else (0,) * x.ndim, x.dtype)
    shares = empty((2, *x.shape[:2]), x.dtype)
    run = _grad_kernel(relu) if x.size > _WORTH_THREADS else _grad_kernel(relu).serial
    run(
        _planes(x),
        _planes(np.ascontiguousarray(grad_y)),
        *sets[1:],
        given,
        weight,
        bias,
        eps,
        mean,
        variance,
        grad_mean,
        grad_variance,
        needs_x,
        needs_sums,
        _planes(grad_x),
        shares[0].reshape(-1),
        shares[1].reshape(-1),
    )
    grad_weight, grad_bias = map(sum_rows, shares) if needs_sums else (None, None)
    return grad_x if needs_x else None, grad_weight, grad_bias


def _planes(x):
    return x.reshape(_sizes(x.shape))


@lru_cache(maxsize=4096)
def _sizes(shape):
    return math.prod(shape[:2]), math.prod(shape[2:])
