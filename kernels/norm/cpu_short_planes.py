"""Batch normalisation of [N, C, ...] arrays in C order whose planes are short, as a network's last maps of 7 x 7.

The array is seen as rows [N, C * S]. One thread takes a tile of neighbouring channels, so that what it reads of a row
is a line worth starting, down all rows: for the sums, and again, from its cache, for the result. What belongs to a
channel is spread over a line with one value for each of its S columns; sums are of columns first, and then of a
channel's columns.
"""

import math
from functools import cache, lru_cache

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import memory, zero_of
from ..cpu_math import multiply_add, wide_vectors
from ..memory import empty
from .cpu_moments import row_sum

_TILE = 1024  # columns that one thread takes at a time, in whole channels
_PITCH = _TILE + 256  # of lines with a value a column: 4096 bytes apart, a load would wait for stores to another line
_WORTH_THREADS = 1 << 14  # elements; fewer are normalised before another thread has woken up


@serial_kernel
def _add_deviations(x, start, pitch, rows, count, centre, sums, squares):
    """Adds the sums of x - centre and of its square over rows, `pitch` apart, to those of `count` columns."""
    done = rows // 4 * 4
    for r in range(0, done, 4):
        a = start + r * pitch
        b, c, d = a + pitch, a + 2 * pitch, a + 3 * pitch
        for i in range(count):
            p, q, s, t = x[a + i] - centre[i], x[b + i] - centre[i], x[c + i] - centre[i], x[d + i] - centre[i]
            sums[i] += (p + q) + (s + t)
            squares[i] += (p * p + q * q) + (s * s + t * t)
    for r in range(done, rows):
        for i in range(count):
            deviation = x[start + r * pitch + i] - centre[i]
            sums[i] += deviation
            squares[i] += deviation * deviation


@serial_kernel
def _add_products(x, grad_y, start, pitch, rows, count, centre, sums, products):
    """Adds the sums of grad_y and grad_y * (x - centre) over rows, `pitch` apart, to those of `count` columns."""
    done = rows // 2 * 2
    for r in range(0, done, 2):
        a = start + r * pitch
        b = a + pitch
        for i in range(count):
            sums[i] += grad_y[a + i] + grad_y[b + i]
            products[i] += grad_y[a + i] * (x[a + i] - centre[i]) + grad_y[b + i] * (x[b + i] - centre[i])
    if done < rows:
        for i in range(count):
            grad = grad_y[start + done * pitch + i]
            sums[i] += grad
            products[i] += grad * (x[start + done * pitch + i] - centre[i])


@serial_kernel
def _add_rectified_products(x, grad_y, start, pitch, rows, count, centre, scale, offset, sums, products):
    """As `_add_products`, where grad_y counts where (x - centre) * scale + offset is above 0."""
    zero = zero_of(x)
    done = rows // 2 * 2
    for r in range(0, done, 2):
        a = start + r * pitch
        b = a + pitch
        for i in range(count):
            p, q = x[a + i] - centre[i], x[b + i] - centre[i]
            g = grad_y[a + i] if p * scale[i] + offset[i] > 0 else zero
            h = grad_y[b + i] if q * scale[i] + offset[i] > 0 else zero
            sums[i] += g + h
            products[i] += g * p + h * q
    if done < rows:
        a = start + done * pitch
        for i in range(count):
            deviation = x[a + i] - centre[i]
            grad = grad_y[a + i] if deviation * scale[i] + offset[i] > 0 else zero
            sums[i] += grad
            products[i] += grad * deviation


@serial_kernel
def _normalize_line(x, start, count, centre, scale, offset, y):
    wide_vectors()
    for i in range(count):
        y[start + i] = (x[start + i] - centre[i]) * scale[i] + offset[i]


@serial_kernel
def _rectified_line(x, start, count, centre, scale, offset, y):
    wide_vectors()
    zero = zero_of(x)
    for i in range(count):
        value = (x[start + i] - centre[i]) * scale[i] + offset[i]
        y[start + i] = zero if value < 0 else value


@serial_kernel
def _grad_line(x, grad_y, start, count, centre, factor, slope, constant, grad_x):
    wide_vectors()
    for i in range(count):
        grad_x[start + i] = grad_y[start + i] * factor[i] + (x[start + i] - centre[i]) * slope[i] + constant[i]


@serial_kernel
def _rectified_grad_line(x, grad_y, start, count, centre, factor, offset, slope, constant, grad_x):
    wide_vectors()
    zero = zero_of(x)
    for i in range(count):
        deviation = x[start + i] - centre[i]
        grad = grad_y[start + i] if deviation * factor[i] + offset[i] > 0 else zero
        grad_x[start + i] = multiply_add(grad, factor[i], deviation * slope[i]) + constant[i]


@cache
def _normalize_kernel(relu):
    """The kernel that normalises and, if relu, rectifies: what it does alone is compiled."""

    @kernel
    def normalize_short_planes_kernel(x, size, given, weight, bias, eps, mean, variance, y):
        """y = weight (x - mean) / sqrt(variance + eps) + bias, or 0 where that is negative if relu.

        x, y: [N, C * size], all others: [C].
        mean, variance are written unless they are `given`.
        """
        rows, pitch = x.shape
        channels, tile = mean.size, max(_TILE // size, 1)
        few = max((rows + 15) // 16, 1)
        for part in prange((channels + tile - 1) // tile):
            first, count = part * tile, min(tile, channels - part * tile)
            start, width = first * size, count * size
            lines = np.zeros((3, _PITCH), x.dtype)
            centre = lines[0]
            if not given:
                # Deviations from the mean of a sixteenth of the rows, as `cpu_moments` has it.
                sums, squares = lines[1], lines[2]
                _add_deviations(
                    memory(x), start, pitch, min(few, rows), width, memory(centre), memory(sums), memory(squares)
                )
                for c in range(count):
                    centre[c * size : (c + 1) * size] = row_sum(sums[c * size : (c + 1) * size]) / (few * size)
                sums[:] = 0
                squares[:] = 0
                _add_deviations(memory(x), start, pitch, rows, width, memory(centre), memory(sums), memory(squares))
                for c in range(count):
                    shift = row_sum(sums[c * size : (c + 1) * size]) / max(rows * size, 1)
                    mean[first + c] = np.float64(centre[c * size]) + shift
                    variance[first + c] = max(
                        row_sum(squares[c * size : (c + 1) * size]) / max(rows * size, 1) - shift * shift, 0.0
                    )
            scale, offset = lines[1], lines[2]
            for c in range(count):
                here = slice(c * size, (c + 1) * size)
                rstd = 1.0 / math.sqrt(np.float64(variance[first + c]) + eps)
                centre[here], offset[here] = mean[first + c], bias[first + c]
                scale[here] = rstd * weight[first + c]
            for r in range(rows):
                if relu:
                    _rectified_line(
                        memory(x), r * pitch + start, width, memory(centre), memory(scale), memory(offset), memory(y)
                    )
                else:
                    _normalize_line(
                        memory(x), r * pitch + start, width, memory(centre), memory(scale), memory(offset), memory(y)
                    )

    return normalize_short_planes_kernel


@cache
def _grad_kernel(relu):
    """The kernel that differentiates, if relu with a rectifier behind."""

    @kernel
    def normalize_short_planes_grad_kernel(
        x, grad_y, size, given, weight, bias, eps, mean, variance, grad_mean, grad_variance, needs_x, needs_sums,
        grad_x, grad_weight, grad_bias,
    ):  # fmt: skip
        """grad_x: [N, C * size], grad_weight and grad_bias: [C]. If relu, grad_y counts where y is above 0."""
        rows, pitch = x.shape
        channels, tile = mean.size, max(_TILE // size, 1)
        for part in prange((channels + tile - 1) // tile):
            first, count = part * tile, min(tile, channels - part * tile)
            start, width = first * size, count * size
            lines = np.zeros((5, _PITCH), x.dtype)
            centre, factor, offset, sums, products = lines[0], lines[1], lines[2], lines[3], lines[4]
            for c in range(count):
                here, channel = slice(c * size, (c + 1) * size), first + c
                centre[here], offset[here] = mean[channel], bias[channel]
                factor[here] = 1.0 / math.sqrt(np.float64(variance[channel]) + eps) * weight[channel]
            if (needs_sums or not given) and relu:
                _add_rectified_products(
                    memory(x), memory(grad_y), start, pitch, rows, width, memory(centre), memory(factor),
                    memory(offset), memory(sums), memory(products),
                )  # fmt: skip
            elif needs_sums or not given:
                _add_products(
                    memory(x), memory(grad_y), start, pitch, rows, width, memory(centre), memory(sums), memory(products)
                )
            slope, constant = sums, products
            for c in range(count):
                here, channel = slice(c * size, (c + 1) * size), first + c
                rstd = 1.0 / math.sqrt(np.float64(variance[channel]) + eps)
                sum_grad, sum_grad_xhat = (
                    row_sum(sums[c * size : (c + 1) * size]),
                    row_sum(products[c * size : (c + 1) * size]) * rstd,
                )
                grad_bias[channel], grad_weight[channel] = sum_grad, sum_grad_xhat
                slope[here] = constant[here] = 0
                if not given:
                    inverse = 1.0 / max(rows * size, 1)
                    slope[here] = (
                        2.0 * grad_variance[channel] - rstd * rstd * weight[channel] * sum_grad_xhat
                    ) * inverse
                    constant[here] = (grad_mean[channel] - rstd * weight[channel] * sum_grad) * inverse
            if needs_x:
                for r in range(rows):
                    if relu:
                        _rectified_grad_line(
                            memory(x), memory(grad_y), r * pitch + start, width, memory(centre), memory(factor),
                            memory(offset), memory(slope), memory(constant), memory(grad_x),
                        )  # fmt: skip
                    else:
                        _grad_line(
                            memory(x), memory(grad_y), r * pitch + start, width, memory(centre), memory(factor),
                            memory(slope), memory(constant), memory(grad_x),
                        )  # fmt: skip

    return normalize_short_planes_grad_kernel


def forward(x, weight, bias, eps, relu, mean=None, variance=None):
    """y, mean, variance of a C-contiguous x; a mean and variance that are given are used, else they are computed."""
    given = mean is not None
    if not given:
        mean, variance = empty(x.shape[1], x.dtype), empty(x.shape[1], x.dtype)
    y = empty(x.shape, x.dtype)
    run = _normalize_kernel(relu) if x.size > _WORTH_THREADS else _normalize_kernel(relu).serial
    run(_rows(x), math.prod(x.shape[2:]), given, weight, bias, eps, mean, variance, _rows(y))
    return y, mean, variance


def backward(x, grad_y, given, weight, bias, eps, relu, mean, variance, grad_mean, grad_variance, needs_x, needs_sums):
    """grad_x (None where not needed), grad_weight and grad_bias (meaningless unless `needs_sums`)."""
    grad_x = empty(x.shape if needs_x else (0,) * x.ndim, x.dtype)
    grad_weight, grad_bias = empty(x.shape[1], x.dtype), empty(x.shape[1], x.dtype)
    run = _grad_kernel(relu) if x.size > _WORTH_THREADS else _grad_kernel(relu).serial
    run(
        _rows(x),
        _rows(np.ascontiguousarray(grad_y)),
        math.prod(x.shape[2:]),
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
        _rows(grad_x),
        grad_weight,
        grad_bias,
    )
    return grad_x if needs_x else None, grad_weight, grad_bias


def _rows(x):
    return x.reshape(_sizes(x.shape))


@lru_cache(maxsize=4096)
def _sizes(shape):
    return shape[0], math.prod(shape[1:])
