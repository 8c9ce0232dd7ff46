"""Resizing and rearranging planes of CuPy arrays.

Interpolation of every mode and rank, forward and backward, is one kernel that reads tables of taps; small kernels make
the tables, so that nothing is copied from the host. Folding collects for each place from the windows above it.
"""

import math
from functools import lru_cache

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, copy_into
from ..launch import ceil_div, empty, launch
from ..pool.geometry import pooled_shape, three
from .gpu_kernels import (
    CUBIC,
    CUBIC_FILTER,
    LANCZOS_FILTER,
    LINEAR,
    LINEAR_FILTER,
    NEAREST,
    NEAREST_EXACT,
    POSITION,
    fold_kernel,
    interpolate_kernel,
    taps_kernel,
    taps_transposed_kernel,
    unfold_kernel,
)
from .taps import axis_taps

_BLOCK = 1024
_MODES = {"nearest": NEAREST, "nearest-exact": NEAREST_EXACT, "linear": LINEAR, "cubic": CUBIC}
_FILTERS = {"linear": LINEAR_FILTER, "cubic": CUBIC_FILTER, "lanczos": LANCZOS_FILTER}


def _grid(size, block=_BLOCK):
    return (ceil_div(size, block),)


def _index_type(*sizes):
    """32 bits as far as they reach: 64-bit divisions are slow."""
    return tl.int32 if max(sizes) < 2**31 - 2 * _BLOCK else tl.int64


def _compute_type(dtype):
    return tl.float64 if dtype == np.float64 else tl.float32


# ---- interpolation


@lru_cache(maxsize=256)
def _table_widths(*axis) -> tuple[int, int]:
    """The most input positions that an output position reads, and the most outputs that read an input position."""
    index, _ = axis_taps(*axis)
    first, last = index[:, 0], index.max(axis=1)
    position = np.arange(axis[0])
    readers = np.searchsorted(first, position, "right") - np.searchsorted(last, position, "left")
    return index.shape[1], max(int(readers.max()), 1)


def _rule(size, count, mode, align_corners, scale, antialias):
    """How an axis takes its values, as a code, and the step between output positions in input positions."""
    if mode.startswith("nearest"):
        if mode == "nearest" and count in (size, 2 * size):
            return POSITION, 0.0
        return _MODES[mode], float(np.float32(size) / np.float32(count) if scale is None else np.float32(1 / scale))
    if align_corners:
        step = (size - 1) / (count - 1) if count > 1 else 0.0
    else:
        step = size / count if scale is None else 1 / scale
    return (_FILTERS if antialias else _MODES)[mode], float(step)


def _table(x, axis):
    """(index, weight, last) of an axis, or None where it stays as it is."""
    size, count, mode, align_corners, _, antialias = axis
    if count == size and mode in ("nearest", "linear") and not antialias:
        return None
    (taps, _), (code, step) = _table_widths(*axis), _rule(*axis)
    wide = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    index, weight = empty(x, (count, taps), np.dtype(np.int32)), empty(x, (count, taps), wide)
    last = empty(x, (count,), np.dtype(np.int32))
    along = min(triton.next_power_of_2(taps), 128)
    launch(
        taps_kernel, _grid(count, 128 // along),
        index, weight, last, size, count, taps, step,
        # Without fused multiply-adds, so that the device's floor is the host's.
        ALIGN_CORNERS=align_corners, MODE=code.value, BLOCK=128 // along, BLOCK_TAPS=along, enable_fp_fusion=False,
    )  # fmt: skip
    return index, weight, last


def _transposed(table, axis):
    if table is None:
        return None
    (index, weight, last), (size, count, *_, antialias) = table, axis
    _, readers = _table_widths(*axis)
    readers_index, readers_weight = empty(index, (size, readers)), empty(weight, (size, readers))
    launch(
        taps_transposed_kernel, _grid(readers_index.size, 256),
        index, weight, last, readers_index, readers_weight, readers_index.size, count, index.shape[1], readers,
        count.bit_length(),
        FILTER=antialias, COMPUTE=_compute_type(weight.dtype), BLOCK=256,
    )  # fmt: skip
    return readers_index, readers_weight


def _interpolate(x, y, tables, size, count):
    """y [planes, *count] = x [planes, *size] through three tables."""
    arrays = [array for table in tables for array in (table[:2] if table else (None, None))]
    taps = [table[0].shape[1] if table else 1 for table in tables]
    tabled = max(table[0].size if table else 0 for table in tables)
    launch(
        interpolate_kernel, _grid(y.size, 512),
        x, y, y.size, *arrays, *taps, *size, *count,
        COMPUTE=_compute_type(x.dtype), INDEX=_index_type(x.size, y.size, tabled), BLOCK=512,
    )  # fmt: skip


def interpolate_forward(x, *, size, mode, align_corners=False, scales=None, antialias=False, out=None):
    rank = len(size)
    lengths, size = x.shape[-rank:], tuple(int(count) for count in size)
    axes = [
        (*axis[:2], mode, align_corners, axis[2], antialias) for axis in zip(lengths, size, scales or (None,) * rank)
    ]
    tables = [None] * (3 - rank) + [_table(x, axis) for axis in axes]
    y = out if out is not None and out.flags.c_contiguous else empty(x, (*x.shape[:-rank], *size))
    _interpolate(contiguous(x), y, tables, three(lengths, 1), three(size, 1))
    if out is not None and out is not y:
        copy_into(out, y)
    return y if out is None else out, (x.shape, axes, tables)


def interpolate_backward(saved, grad_y, needs):
    x_shape, axes, tables = saved
    if not needs[0]:
        return (None,)
    grad_x, rank = empty(grad_y, x_shape), len(axes)
    transposed = [None] * (3 - rank) + [_transposed(*axis) for axis in zip(tables[3 - rank :], axes)]
    lengths, counts = (three(tuple(axis[side] for axis in axes), 1) for side in (0, 1))
    _interpolate(contiguous(grad_y), grad_x, transposed, counts, lengths)
    return (grad_x,)


# ---- windows as columns, and back


def _windows(shape, kernel_size, dilation, padding, stride):
    """How many windows fit down and across."""
    return pooled_shape(shape, kernel_size, stride, padding, dilation, False)


def _arguments(shape, counts, window):
    return tuple(int(n) for pair in (shape, counts, *window) for n in pair)


def _unfold(x, window):
    """[..., C, H, W] -> [..., C * kernel area, windows]."""
    kernel_size, counts = window[0], _windows(x.shape[-2:], *window)
    *leading, channels = x.shape[:-2]
    x, columns = contiguous(x), empty(x, (*leading, channels * math.prod(kernel_size), math.prod(counts)))
    launch(
        unfold_kernel, _grid(columns.size),
        x, columns, columns.size, *_arguments(x.shape[-2:], counts, window),
        INDEX=_index_type(x.size, columns.size), BLOCK=_BLOCK,
    )  # fmt: skip
    return columns


def _fold(columns, shape, window):
    """[..., C * kernel area, windows] -> [..., C, H, W]."""
    kernel_size, counts = window[0], _windows(shape, *window)
    *leading, rows = columns.shape[:-1]
    columns, y = contiguous(columns), empty(columns, (*leading, rows // math.prod(kernel_size), *shape))
    _, dilation, _, stride = window
    above = (min(d * (k - 1) // s + 1, n) for k, d, s, n in zip(kernel_size, dilation, stride, counts))
    launch(
        fold_kernel, _grid(y.size, 512),
        columns, y, y.size, *(int(n) for n in above), *_arguments(shape, counts, window),
        COMPUTE=_compute_type(y.dtype), INDEX=_index_type(columns.size, y.size), BLOCK=512,
    )  # fmt: skip
    return y


def unfold_forward(x, *, kernel_size, dilation, padding, stride):
    window = kernel_size, dilation, padding, stride
    return _unfold(x, window), (x.shape[-2:], window)


def unfold_backward(saved, grad_y, needs):
    return (_fold(grad_y, *saved) if needs[0] else None,)


def fold_forward(x, *, output_size, kernel_size, dilation, padding, stride):
    window = kernel_size, dilation, padding, stride
    return _fold(x, output_size, window), window


def fold_backward(saved, grad_y, needs):
    return (_unfold(grad_y, saved) if needs[0] else None,)


# ---- rearranged channels: a view with the axes in their new order, copied once


def _pixel_shuffle(x, r):
    *leading, channels, height, width = x.shape
    split = contiguous(x).reshape(math.prod(leading), channels // r**2, r, r, height, width)
    return _copied(split.transpose(0, 1, 4, 2, 5, 3), (*leading, channels // r**2, height * r, width * r))


def _pixel_unshuffle(x, r):
    *leading, channels, height, width = x.shape
    split = contiguous(x).reshape(math.prod(leading), channels, height // r, r, width // r, r)
    return _copied(split.transpose(0, 1, 3, 5, 2, 4), (*leading, channels * r**2, height // r, width // r))


def _channel_shuffle(x, groups, channels_per_group):
    split = contiguous(x).reshape(x.shape[0], groups, channels_per_group, math.prod(x.shape[2:]))
    return _copied(split.transpose(0, 2, 1, 3), x.shape)


def _copied(view, shape):
    y = empty(view, view.shape)
    copy_into(y, view)
    return y.reshape(shape)


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
