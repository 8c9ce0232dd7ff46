"""Dropout on NumPy arrays: one pass that draws the mask and writes the result. A mask for every element is kept, as
one bit each, for the backward pass: reading it costs less than a tenth of drawing it again."""

import math
from functools import lru_cache

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_philox import fill_uniform, uniform
from ..memory import empty
from . import Affine, alpha_affine, plain_affine
from .cpu_bits import BITS, WORD, pack_bits, scale_kept

# Elements that a thread takes at a time: whole words of bits, one page of float32, thousands of cycles of Philox.
_BLOCK = 4096
_WORTH_THREADS = 1 << 15  # elements; a smaller gradient is there before another thread has woken up


@kernel
def dropout_kernel(x, seed, p, scale, shift, dropped, y, kept):
    """y = scale * x + shift where Philox draws at least p for the element's index, else `dropped`. x, y: flat; kept: a
    bit for each element."""
    for block in prange((x.size + _BLOCK - 1) // _BLOCK):
        # Slices, indexed from 0: an index that starts elsewhere could be negative, and would be gathered one by one.
        first = block * _BLOCK
        x_block, y_block = x[first : first + _BLOCK], y[first : first + _BLOCK]
        draws = np.empty(x_block.size, np.float32)
        fill_uniform(seed, first, draws)
        pack_bits(draws, p, kept[first // BITS : (first + _BLOCK) // BITS])
        for i in range(x_block.size):
            y_block[i] = scale * x_block[i] + shift if draws[i] >= p else dropped


@kernel
def dropout_grad_kernel(grad_y, kept, scale, grad_x):
    """grad_x = scale * grad_y where an element's bit is set, else 0. All flat."""
    for block in prange((grad_y.size + _BLOCK - 1) // _BLOCK):
        first, last = block * _BLOCK, (block + 1) * _BLOCK
        scale_kept(grad_y[first:last], scale, kept[first // BITS : last // BITS], grad_x[first:last])


@kernel
def channel_dropout_kernel(x, seed, p, scale, shift, dropped, y):
    """The same with one draw for each row. x, y: [channels, elements of one]."""
    for channel in prange(x.shape[0]):
        if uniform(seed, channel) >= p:
            for i in range(x.shape[1]):
                y[channel, i] = scale * x[channel, i] + shift
        else:
            y[channel, :] = dropped


def _arguments(x, affine, p, seed, out):
    """What both kernels take: x, contiguous; the numbers; and where to write, which is `out` if that is contiguous."""
    x = x if x.flags.c_contiguous else np.ascontiguousarray(x)
    numbers = int(seed), *_in_type(x.dtype, p, *affine)
    return x, numbers, out if out is not None and out.flags.c_contiguous else empty(x.shape, x.dtype)


@lru_cache(maxsize=256)
def _in_type(dtype, p, *numbers):
    """p, which drawn numbers are held to, in float32, and the others in x's type."""
    return np.float32(p), *(dtype.type(number) for number in numbers)


def _deliver(y, out):
    """y, in the caller's array where there is one."""
    if out is None or y is out:
        return y
    out[...] = y
    return out


def _by_element(affine_of):
    """Forward with a mask for every element, rescaled by `affine_of(p)`."""

    def forward(x, *, p, seed, out=None):
        affine = affine_of(p)
        x, numbers, y = _arguments(x, affine, p, seed, out)
        kept = empty(-(-x.size // BITS), WORD)
        (dropout_kernel if x.size > _BLOCK else dropout_kernel.serial)(x.ravel(), *numbers, y.ravel(), kept)
        return _deliver(y, out), (affine.scale, kept)

    return forward


def _backward_by_element(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    scale, kept = saved
    grad_x = empty(grad_y.shape, grad_y.dtype)
    run = dropout_grad_kernel if grad_y.size > _WORTH_THREADS else dropout_grad_kernel.serial
    run(grad_y.ravel(), kept, grad_y.dtype.type(scale), grad_x.ravel())
    return (grad_x,)


def _drop_channels(x, affine, p, seed, mask_axes, out=None):
    x, numbers, y = _arguments(x, affine, p, seed, out)
    rows = math.prod(x.shape[:mask_axes]), math.prod(x.shape[mask_axes:])
    many = rows[0] > _BLOCK or x.size > _WORTH_THREADS
    run = channel_dropout_kernel if many else channel_dropout_kernel.serial
    run(x.reshape(rows), *numbers, y.reshape(rows))
    return _deliver(y, out)


def _by_channel(affine_of):
    """Forward with a mask for every channel, rescaled by `affine_of(p)`."""

    def forward(x, *, p, seed, mask_axes=2, out=None):
        affine = affine_of(p)
        return _drop_channels(x, affine, p, seed, mask_axes, out), (affine.scale, p, seed, mask_axes)

    return forward


def _backward_by_channel(saved, grad_y, needs):
    scale, p, seed, mask_axes = saved
    return (_drop_channels(grad_y, Affine(scale, 0.0, 0.0), p, seed, mask_axes) if needs[0] else None,)


dropout_forward, dropout_backward = _by_element(plain_affine), _backward_by_element
alpha_dropout_forward, alpha_dropout_backward = _by_element(alpha_affine), _backward_by_element
channel_dropout_forward, channel_dropout_backward = _by_channel(plain_affine), _backward_by_channel
feature_alpha_dropout_forward, feature_alpha_dropout_backward = _by_channel(alpha_affine), _backward_by_channel
