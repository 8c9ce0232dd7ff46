"""local_response_norm on NumPy arrays. x is seen as [N, C, S]; a thread takes all channels of one n over a block of S,
so that what the window over the channels reads again is in its cache."""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import exp, log
from ..memory import empty

_BLOCK = 256  # neighbouring values of S: with 256 channels, 256 KB of float32 a scratch array
_WORTH_THREADS = 1 << 12  # elements; the powers of fewer are there before another thread has woken up


@serial_kernel
def _response_base(x, first, size, alpha, k, base):
    """base = k + alpha / size * (sum of x^2 over each channel's window). x: [C, S], base: [C, B] from `first` on."""
    factor = x.dtype.type(alpha / size)
    for c in range(base.shape[0]):
        for i in range(base.shape[1]):
            base[c, i] = x.dtype.type(0)
        for d in range(max(c - size // 2, 0), min(c + (size - 1) // 2 + 1, x.shape[0])):
            # A slice, indexed from 0: an index that starts elsewhere could be negative, and the compiler would gather.
            row = x[d, first : first + _BLOCK]
            for i in range(row.size):
                base[c, i] += row[i] * row[i]
        for i in range(base.shape[1]):
            base[c, i] = k + factor * base[c, i]


@kernel
def local_response_kernel(x, size, alpha, beta, k, y):
    """y = x * base^-beta. x, y: [N, C, S]."""
    blocks = (x.shape[2] + _BLOCK - 1) // _BLOCK
    for task in prange(x.shape[0] * blocks):
        n, first = task // blocks, task % blocks * _BLOCK
        base = np.empty((x.shape[1], min(_BLOCK, x.shape[2] - first)), x.dtype)
        _response_base(x[n], first, size, alpha, k, base)
        for c in range(x.shape[1]):
            x_row, y_row = x[n, c, first : first + _BLOCK], y[n, c, first : first + _BLOCK]
            for i in range(x_row.size):
                y_row[i] = x_row[i] * exp(-beta * log(base[c, i]))


@kernel
def local_response_grad_kernel(x, grad_y, size, alpha, beta, k, grad_x):
    """grad_x = grad_y base^-beta - 2 alpha beta / size x (sum over windows that hold the channel of what they owe)."""
    blocks = (x.shape[2] + _BLOCK - 1) // _BLOCK
    factor = x.dtype.type(2 * alpha * beta / size)
    for task in prange(x.shape[0] * blocks):
        n, first = task // blocks, task % blocks * _BLOCK
        owed = np.empty((x.shape[1], min(_BLOCK, x.shape[2] - first)), x.dtype)
        _response_base(x[n], first, size, alpha, k, owed)
        for c in range(x.shape[1]):
            x_row, grad_y_row = x[n, c, first : first + _BLOCK], grad_y[n, c, first : first + _BLOCK]
            grad_x_row = grad_x[n, c, first : first + _BLOCK]
            for i in range(x_row.size):
                base = owed[c, i]
                power = exp(-beta * log(base))
                grad_x_row[i] = grad_y_row[i] * power
                owed[c, i] = grad_y_row[i] * x_row[i] * power / base
        for c in range(x.shape[1]):
            x_row, grad_x_row = x[n, c, first : first + _BLOCK], grad_x[n, c, first : first + _BLOCK]
            # Channel c stands in the windows of these channels: the window, mirrored.
            for d in range(max(c - (size - 1) // 2, 0), min(c + size // 2 + 1, x.shape[1])):
                for i in range(x_row.size):
                    grad_x_row[i] -= factor * x_row[i] * owed[d, i]


def local_response_norm_forward(x, *, size, alpha, beta, k):
    numbers = (size, *(x.dtype.type(number) for number in (alpha, beta, k)))
    x, y = np.ascontiguousarray(x), empty(x.shape, x.dtype)
    run = local_response_kernel if x.size > _WORTH_THREADS else local_response_kernel.serial
    run(_with_flat_spatial(x), *numbers, _with_flat_spatial(y))
    return y, (x, numbers)


def local_response_norm_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, numbers = saved
    grad_x = empty(x.shape, x.dtype)
    grad_y = _with_flat_spatial(np.ascontiguousarray(grad_y))
    run = local_response_grad_kernel if x.size > _WORTH_THREADS else local_response_grad_kernel.serial
    run(_with_flat_spatial(x), grad_y, *numbers, _with_flat_spatial(grad_x))
    return (grad_x,)


def _with_flat_spatial(x):
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
