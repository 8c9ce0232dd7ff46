"""Channels rearranged on NumPy arrays: into pixels and back row by row, among each other in whole planes."""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_lines import join_line, memory, split_line
from ..memory import empty

WORTH_THREADS = 1 << 14  # elements; fewer are copied before another thread has woken up


@kernel
def pixel_shuffle_kernel(x, r, channels, height, width, y):
    """y[c, h r + i, w r + j] = x[c, i, j, h, w]: r rows, a plane apart, are joined to one.

    Args:
        x, y: flat; x as [channels, r, r, height, width], y as [channels, height r, width r].
    """
    plane = height * width
    for line in prange(channels * r * height):
        c, i, h = line // (r * height), line // height % r, line % height
        start = (c * r + i) * r * plane + h * width
        to = ((c * height + h) * r + i) * width * r
        join_line(memory(x), start, plane, r, 0, memory(y), to, width * r)


@kernel
def pixel_unshuffle_kernel(x, r, channels, height, width, y):
    """y[c, i, j, h, w] = x[c, h r + i, w r + j]: what pixel_shuffle_kernel has joined, taken apart."""
    plane = height * width
    for line in prange(channels * r * height):
        c, i, h = line // (r * height), line // height % r, line % height
        to = (c * r + i) * r * plane + h * width
        start = ((c * height + h) * r + i) * width * r
        split_line(memory(x), start, width * r, r, 0, memory(y), to, plane)


def _pixel_shuffle(x, r):
    *leading, channels, height, width = x.shape
    y = empty((*leading, channels // r**2, height * r, width * r), x.dtype)
    planes = math.prod(leading) * (channels // r**2)
    run = pixel_shuffle_kernel if x.size > WORTH_THREADS else pixel_shuffle_kernel.serial
    run(np.ascontiguousarray(x).reshape(-1), r, planes, height, width, y.reshape(-1))
    return y


def _pixel_unshuffle(x, r):
    *leading, channels, height, width = x.shape
    y = empty((*leading, channels * r**2, height // r, width // r), x.dtype)
    planes = math.prod(leading) * channels
    run = pixel_unshuffle_kernel if x.size > WORTH_THREADS else pixel_unshuffle_kernel.serial
    run(np.ascontiguousarray(x).reshape(-1), r, planes, height // r, width // r, y.reshape(-1))
    return y


def _channel_shuffle(x, groups, channels_per_group):
    split = x.reshape(x.shape[0], groups, channels_per_group, math.prod(x.shape[2:])).transpose(0, 2, 1, 3)
    y = empty(split.shape, x.dtype)
    y[...] = split
    return y.reshape(x.shape)


def pixel_shuffle_forward(x, *, upscale_factor):
    return _pixel_shuffle(x, upscale_factor), upscale_factor


def pixel_shuffle_backward(saved, grad_y, needs):
    return (_pixel_unshuffle(grad_y, saved) if needs[0] else None,)


def pixel_unshuffle_forward(x, *, downscale_factor):
    return _pixel_unshuffle(x, downscale_factor), downscale_factor


def pixel_unshuffle_backward(saved, grad_y, needs):
    return (_pixel_shuffle(grad_y, saved) if needs[0] else None,)


def channel_shuffle_forward(x, *, groups):
    channels_per_group = x.shape[1] // groups
    return _channel_shuffle(x, groups, channels_per_group), (channels_per_group, groups)


def channel_shuffle_backward(saved, grad_y, needs):
    return (_channel_shuffle(grad_y, *saved) if needs[0] else None,)
