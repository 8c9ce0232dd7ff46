"""Where pooling windows lie, and the questions about them that several operations ask.

Every rank is treated as three: planes of depth, height and width, of which the first one or two may be 1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..check import check_float, refuse_type, refuse_value

LAYOUTS = {1: "[N, C, L] or [C, L]", 2: "[N, C, H, W] or [C, H, W]", 3: "[N, C, D, H, W] or [C, D, H, W]"}


def check_axes(operation: str, argument: str, value, rank: int, low: int) -> None:
    """value is a tuple with one integer >= low for each of `rank` axes."""
    if type(value) is not tuple:
        refuse_type(operation, argument, f"{_integers(rank, low)} in a tuple", repr(value))
    if len(value) != rank:
        refuse_value(operation, argument, _integers(rank, low), value)
    for size in value:
        if type(size) is not int and (isinstance(size, bool) or not isinstance(size, (int, np.integer))):
            refuse_type(operation, argument, _integers(rank, low), value)
        if size < low:
            refuse_value(operation, argument, _integers(rank, low), value)


def _integers(rank: int, low: int) -> str:
    return f"as {rank} integer{'s' if rank > 1 else ''} of at least {low}"


def check_planes(operation: str, argument: str, x, axes, name: str) -> None:
    """x is a floating-point array of one or two leading axes and as many spatial ones, none empty, as `axes` has."""
    check_float(operation, argument, x)
    if type(axes) is not tuple:
        refuse_type(operation, name, "as a tuple of integers", repr(axes))
    rank = len(axes)
    if rank not in LAYOUTS:
        refuse_value(operation, name, "of one to three axes", axes)
    if x.ndim not in (rank + 1, rank + 2):
        refuse_value(operation, argument, f"as {LAYOUTS[rank]}", f"shape {x.shape}")
    if 0 in x.shape[-rank:]:
        refuse_value(operation, argument, f"as {LAYOUTS[rank]} with no empty spatial axis", f"shape {x.shape}")


def check_windows(operation: str, x, kernel_size, stride, padding, dilation, ceil_mode) -> None:
    """The sliding windows are well formed, there is at least one, and each touches the input."""
    check_planes(operation, "x", x, kernel_size, "kernel_size")
    rank = len(kernel_size)
    check_axes(operation, "kernel_size", kernel_size, rank, 1)
    check_axes(operation, "stride", stride, rank, 1)
    check_axes(operation, "padding", padding, rank, 0)
    check_axes(operation, "dilation", dilation, rank, 1)
    if not isinstance(ceil_mode, bool):
        refuse_type(operation, "ceil_mode", "as True or False", repr(ceil_mode))
    if any(p > k // 2 for p, k in zip(padding, kernel_size)):
        refuse_value(operation, "padding", f"of at most half of kernel_size {kernel_size}", padding)
    output = pooled_shape(x.shape[-rank:], kernel_size, stride, padding, dilation, ceil_mode)
    if min(output) < 1:
        reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation))
        refuse_value(
            operation,
            "kernel_size",
            f"to fit into the input {x.shape[-rank:]} padded with {padding}",
            f"{kernel_size} with dilation {dilation}, which reaches over {reach}",
        )
    for size, step, axis in zip(x.shape[-rank:], dilation, range(rank)):
        # A dilated window can step over an input shorter than its step, from padding to padding.
        if size < step and padding[axis]:
            first, _ = sliding_windows(size, kernel_size[axis], stride[axis], padding[axis], step, output[axis])
            if (first >= size).any():
                refuse_value(
                    operation,
                    "dilation",
                    f"such that every window touches the input {x.shape[-rank:]}",
                    f"{dilation} with padding {padding}",
                )


@lru_cache(maxsize=4096)
def pooled_shape(shape, kernel_size, stride, padding, dilation, ceil_mode) -> tuple[int, ...]:
    """The spatial shape of a pool's output; below 1 where no window fits.

    With `ceil_mode` a last window may reach past the padded input, but it has to start in the input or in the padding
    before it.
    """
    sizes = []
    for size, k, s, p, d in zip(shape, kernel_size, stride, padding, dilation):
        room = size + 2 * p - d * (k - 1) - 1
        count = (room + (s - 1 if ceil_mode else 0)) // s + 1
        sizes.append(count - 1 if ceil_mode and (count - 1) * s >= size + p else count)
    return tuple(sizes)


@lru_cache(maxsize=512)
def sliding_windows(size: int, kernel: int, stride: int, padding: int, dilation: int, count: int) -> np.ndarray:
    """[2, count]: for each window of one axis its first position inside the input, and the end of its positions."""
    start = np.arange(count) * stride - padding
    skipped = (np.maximum(-start, 0) + dilation - 1) // dilation
    return np.stack([start + skipped * dilation, np.minimum(start + dilation * (kernel - 1) + 1, size)])


@lru_cache(maxsize=512)
def adaptive_windows(size: int, count: int) -> np.ndarray:
    """[2, count]: first position and end of each of `count` windows that share `size` positions evenly."""
    o = np.arange(count)
    return np.stack([o * size // count, -(-(o + 1) * size // count)])


@lru_cache(maxsize=512)
def padded_lengths(size: int, kernel: int, stride: int, padding: int, count: int) -> np.ndarray:
    """[count]: how many positions of the input and its padding each window of one axis covers."""
    start = np.arange(count) * stride - padding
    return np.minimum(start + kernel, size + padding) - start


def as_planes(x, rank: int):
    """[..., *spatial] as a C-contiguous [planes, depth, height, width]."""
    shape = (math.prod(x.shape[:-rank]), *(1,) * (3 - rank), *x.shape[-rank:])
    return np.ascontiguousarray(x).reshape(shape)


def three(axes: tuple, fill: int) -> tuple:
    """One entry an axis for depth, height and width, with `fill` for those that are not there."""
    return (fill,) * (3 - len(axes)) + axes
