"""Copies of NumPy arrays that are worth all threads: large blocks, rows by index, planes with a border.

Blocks and rows are moved as bytes, so that one compiled kernel serves every type.
"""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import memory

# Below so many bytes a second thread takes longer to wake up than it saves.
WORTH_THREADS = 1 << 18
_PADDED_WORTH_THREADS = 1 << 16  # bytes of planes with a border, which are copied row by row
_PIECE = 1 << 16  # bytes that a thread copies at a time


@serial_kernel
def copy_elements(source, start, target, to, count):
    """target[to + i] = source[start + i] for i < count: memory of two arrays."""
    for i in range(count):
        target[to + i] = source[start + i]


@serial_kernel
def fill_elements(target, to, count, value):
    """target[to + i] = value for i < count."""
    for i in range(count):
        target[to + i] = value


@kernel
def copy_blocks_kernel(source, outer, block, target, pitch, first):
    """target[o, first : first + block] = source[o]. source: flat [outer, block], target: flat [outer, pitch], bytes."""
    pieces = (block + _PIECE - 1) // _PIECE
    for task in prange(outer * pieces):
        o, start = task // pieces, task % pieces * _PIECE
        count = min(_PIECE, block - start)
        copy_elements(memory(source), o * block + start, memory(target), o * pitch + first + start, count)


@kernel
def take_rows_kernel(source, rows, row_bytes, target):
    """target[k] = source[rows[k]]. source, target: flat [..., row_bytes], bytes; rows: [n] int64."""
    for k in prange(rows.size):
        copy_elements(memory(source), rows[k] * row_bytes, memory(target), k * row_bytes, row_bytes)


@kernel
def pad_planes_kernel(x, planes, rows, columns, top, left, value, padded_rows, padded_columns, y):
    """y[p, h, w] = x[p, h - top, w - left], or `value` where that is outside. x, y: flat [planes, rows, columns] and
    [planes, padded_rows, padded_columns]; a negative top or left leaves out rows or columns of x."""
    first, skipped = max(left, 0), max(-left, 0)
    count = max(min(columns - skipped, padded_columns - first), 0)
    for row in prange(planes * padded_rows):
        p, h, to = row // padded_rows, row % padded_rows - top, row * padded_columns
        if 0 <= h < rows:
            fill_elements(memory(y), to, first, value)
            copy_elements(memory(x), (p * rows + h) * columns + skipped, memory(y), to + first, count)
            fill_elements(memory(y), to + first + count, padded_columns - first - count, value)
        else:
            fill_elements(memory(y), to, padded_columns, value)


def as_bytes(x):
    """x, C-contiguous, as a vector of bytes in the same memory."""
    return x.reshape(-1).view(np.uint8)


def concatenate(arrays, axis, out):
    """out, C-contiguous, holds the arrays one after another along the axis."""
    outer, pitch, first = math.prod(out.shape[:axis]), out.nbytes // max(math.prod(out.shape[:axis]), 1), 0
    for x in arrays:
        block = x.nbytes // max(outer, 1)
        if block:
            copy_blocks_kernel(as_bytes(np.ascontiguousarray(x)), outer, block, as_bytes(out), pitch, first)
        first += block


def take_rows(flat, rows, y):
    """y[k] = flat[rows[k]]; flat, y: C-contiguous [..., row_size]."""
    take_rows_kernel(as_bytes(flat), rows, flat.shape[1] * flat.itemsize, as_bytes(y))


def pad_planes(x, widths, value, y):
    """y, C-contiguous, is x with a border around its last two axes; negative widths crop."""
    (top, _), (left, _) = widths[-2:]
    run = pad_planes_kernel if y.nbytes >= _PADDED_WORTH_THREADS else pad_planes_kernel.serial
    run(
        np.ascontiguousarray(x).reshape(-1), math.prod(x.shape[:-2]), *x.shape[-2:], top, left,
        x.dtype.type(value), *y.shape[-2:], y.reshape(-1),
    )  # fmt: skip
