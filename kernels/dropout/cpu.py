"""Dropout on NumPy arrays: one pass that draws the mask and writes the result, forward and backward alike."""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_philox import fill_uniform, uniform
from ..memory import empty
from . import Affine, alpha_affine, plain_affine

_BLOCK = 4096  # elements that a thread takes at a time: one page of float32, thousands of cycles of Philox


@kernel
def dropout_kernel(x, seed, p, scale, shift, dropped, y):
    """y = scale * x + shift where Philox draws at least p for the element's index, else `dropped`. x, y: flat."""
    for block in prange((x.size + _BLOCK - 1) // _BLOCK):
        # Slices, indexed from 0: an index that starts elsewhere could be negative, and would be gathered one by one.
        first = block * _BLOCK
        x_block, y_block = x[first : first + _BLOCK], y[first : first + _BLOCK]
        draws = np.empty(x_block.size, np.float32)
        fill_uniform(seed, first, draws)
        for i in range(x_block.size):
            y_block[i] = scale * x_block[i] + shift if draws[i] >= p else dropped


@kernel
def channel_dropout_kernel(x, seed, p, scale, shift, dropped, y):
    """The same with one draw for each row. x, y: [channels, elements of one]."""
    for channel in prange(x.shape[0]):
        if uniform(seed, channel) >= p:
            for i in range(x.shape[1]):
                y[channel, i] = scale * x[channel, i] + shift
        else:
            y[channel, :] = dropped


def _run(x, affine, p, seed, mask_axes, out):
    """Either kernel on x of any shape; `mask_axes` None draws for every element."""
    x = np.ascontiguousarray(x).reshape(x.shape)  # ascontiguousarray alone would give a scalar an axis
    target = out if out is not None and out.flags.c_contiguous else empty(x.shape, x.dtype)
    numbers = np.int64(seed), np.float32(p), *(x.dtype.type(number) for number in affine)
    if mask_axes is None:
        run = dropout_kernel if x.size > _BLOCK else dropout_kernel.serial
        run(x.reshape(-1), *numbers, target.reshape(-1))
    else:
        rows = math.prod(x.shape[:mask_axes]), math.prod(x.shape[mask_axes:])
        channel_dropout_kernel(x.reshape(rows), *numbers, target.reshape(rows))
    if out is not None and target is not out:
        out[...] = target
        target = out
    return target, (affine.scale, p, seed, mask_axes)


def dropout_forward(x, *, p, seed, out=None):
    return _run(x, plain_affine(p), p, seed, None, out)


def alpha_dropout_forward(x, *, p, seed, out=None):
    return _run(x, alpha_affine(p), p, seed, None, out)


def channel_dropout_forward(x, *, p, seed, mask_axes=2, out=None):
    return _run(x, plain_affine(p), p, seed, mask_axes, out)


def feature_alpha_dropout_forward(x, *, p, seed, mask_axes=2, out=None):
    return _run(x, alpha_affine(p), p, seed, mask_axes, out)


def dropout_backward(saved, grad_y, needs):
    scale, p, seed, mask_axes = saved
    return (_run(grad_y, Affine(scale, 0.0, 0.0), p, seed, mask_axes, None)[0] if needs[0] else None,)


alpha_dropout_backward = channel_dropout_backward = feature_alpha_dropout_backward = dropout_backward
