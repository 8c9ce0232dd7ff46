"""Whole matrix products on NumPy arrays, shared among Numba's threads (`cpu_product.py` has the tile).

BLAS would do, were it not for its threads: they and Numba's wait for each other on the same cores, each spinning while
the other has work. So it only gets what it computes on the calling thread. A product may start from a bias.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from .cpu_groups import multiply_groups, pack_groups
from .cpu_jit import kernel, serial_kernel, threads_for
from .cpu_product import (
    PANEL_BYTES,
    REGISTER_BYTES,
    TALL,
    multiply_panels,
    pack_columns,
    pack_rows,
    panel_width,
    transpose,
)
from .memory import workspace

_INNER = 256  # terms at a time: a panel of them stays in the first-level cache
_COLUMNS = 1024  # columns at a time, as packed panels,
_ROWS = 480  # and rows at a time, as packed groups, both in the second-level cache
_TURNED_ROWS = 240  # rows of the transposed result at a time, beside all of the packed left matrix
_FEW_ROWS = 64  # up to which packing the right matrix takes longer than transposing the result
_FEW = 1 << 18  # elements of a left matrix that, packed as a whole, leaves room for more in the second-level cache
_SMALL = 1 << 18  # multiply-adds up to which OpenBLAS computes on the calling thread, and starts faster than a kernel
_ALIASES = 4096  # bytes; rows that lie a multiple of this apart meet in the same lines of the first-level cache
_PACKING = 14  # multiply-adds in whose time an element is packed


@serial_kernel
def _multiply_block(
    packed, groups, left, start, places, rows, panels, panels_start, row_step, terms, count, result, to, pitch, adds
):  # fmt: skip
    """Rows of left, packed or where they lie, times panels that follow each other's, or lie beside each other."""
    width = PANEL_BYTES // result.itemsize
    panel_step = terms * width if row_step == width else width
    if packed:
        multiply_groups(groups, rows, panels, panels_start, panel_step, row_step, terms, count, result, to, pitch, adds)
    else:
        multiply_panels(
            left, start, places, 0, rows, panels, panels_start, panel_step, row_step, terms, count,
            result, to, pitch, adds,
        )  # fmt: skip


@serial_kernel
def _multiply_part(
    left, left_start, left_pitch, left_step, rows, right, right_start, right_pitch, right_by_columns, inner, columns,
    bias, first_bias, result, result_start, result_pitch, groups, panels, last_panel,
):  # fmt: skip
    """result [rows, columns] = left x right + bias for a task's rows and columns."""
    width = PANEL_BYTES // result.itemsize
    # Copying takes longer than what it saves where what is copied is read only a few times.
    packs_left = left_step != 1 or columns > 4 * width or left_pitch * left.itemsize % _ALIASES == 0
    packs_right = right_by_columns or rows > 2 * TALL
    for column in range(0, columns, _COLUMNS):
        wide = min(_COLUMNS, columns - column)
        whole, rest = wide // width, wide % width
        for k in range(0, inner, _INNER):
            terms, adds = min(_INNER, inner - k), len(bias) > 0 or k > 0
            if right_by_columns:
                pack_columns(right, right_start + column * right_pitch + k, right_pitch, terms, wide, panels, 0)
            elif packs_right or rest:
                pack_rows(right, right_start + k * right_pitch + column, right_pitch, terms, wide, panels, 0)
            for row in range(0, rows, _ROWS):
                count, start = min(_ROWS, rows - row), left_start + row * left_pitch + k * left_step
                if packs_left:
                    pack_groups(left, start, left_pitch, left_step, count, terms, groups)
                places = np.arange(0 if packs_left else count) * left_pitch
                to = result_start + row * result_pitch + column
                if k == 0 and len(bias):
                    _fill_rows(bias[first_bias + column :][:wide], result, to, result_pitch, count)
                if packs_right:
                    _multiply_block(
                        packs_left, groups, left, start, places, count, panels, 0, width, terms, whole,
                        result, to, result_pitch, adds,
                    )  # fmt: skip
                else:
                    _multiply_block(
                        packs_left, groups, left, start, places, count, right, right_start + k * right_pitch + column,
                        right_pitch, terms, whole, result, to, result_pitch, adds,
                    )  # fmt: skip
                if rest:
                    place = to + whole * width
                    for r in range(count if adds else 0):
                        for i in range(rest):
                            last_panel[r * width + i] = result[place + r * result_pitch + i]
                    _multiply_block(
                        packs_left, groups, left, start, places, count, panels, whole * terms * width, width, terms, 1,
                        last_panel, 0, width, adds,
                    )  # fmt: skip
                    for r in range(count):
                        for i in range(rest):
                            result[place + r * result_pitch + i] = last_panel[r * width + i]


@serial_kernel
def _fill_rows(line, result, start, pitch, rows):
    """A line as each of the rows."""
    for row in range(rows):
        to = result[start + row * pitch :][: len(line)]
        for i in range(len(line)):
            to[i] = line[i]


@kernel
def matmul_kernel(
    left, left_size, left_pitch, left_step, right, right_size, right_pitch, right_by_columns, bias, result, result_size,
    result_pitch, batch, rows, inner, columns, row_parts, column_parts, scratch,
):  # fmt: skip
    """result [batch, rows, columns] = left x right + bias; an empty bias is none.

    Where elements stand in flat memory: (item, row, k) of left at item * left_size + row * left_pitch + k * left_step;
    (item, k, column) of right at item * right_size + k * right_pitch + column or, by columns, column * right_pitch + k;
    (item, row, column) of result at item * result_size + row * result_pitch + column. A task is a part of rows and of
    columns.

    Args:
        scratch: a row a worker: panels of right, the last panel of the result, and packed rows of left. Panels begin at
            cache lines.
    """
    workers, width = len(scratch), PANEL_BYTES // result.itemsize
    panel_count, group_count = (columns + width - 1) // width, (rows + TALL - 1) // TALL
    panels_size, last_size = min(inner, _INNER) * min(panel_count * width, _COLUMNS), min(rows, _ROWS) * width
    for worker in prange(workers):
        panels, last_panel = scratch[worker][:panels_size], scratch[worker][panels_size:][:last_size]
        groups = scratch[worker][panels_size + last_size :]
        for task in range(worker, batch * row_parts * column_parts, workers):
            item, part = task // (row_parts * column_parts), task % (row_parts * column_parts)
            row_part, column_part = part // column_parts, part % column_parts
            low, first = group_count * row_part // row_parts * TALL, panel_count * column_part // column_parts * width
            high = min(group_count * (row_part + 1) // row_parts * TALL, rows)
            last = min(panel_count * (column_part + 1) // column_parts * width, columns)
            _multiply_part(
                left, item * left_size + low * left_pitch, left_pitch, left_step, high - low, right,
                item * right_size + first * (right_pitch if right_by_columns else 1), right_pitch, right_by_columns,
                inner, last - first, bias, first, result, item * result_size + low * result_pitch + first, result_pitch,
                groups, panels, last_panel,
            )  # fmt: skip


@kernel
def turned_matmul_kernel(
    left, left_pitch, right, right_pitch, bias, result, result_pitch, rows, inner, columns, parts, scratch
):
    """result [rows, columns] = left x right + bias, computed as the transpose of right^T x left^T.

    For few rows of left and contiguous columns of right, such as a dense layer's weight: these are read where they lie,
    once, while left is packed as a whole and stays in the second-level cache. A task is a part of the columns; sums
    have the same order as in `matmul_kernel`.

    Args:
        scratch: a row a worker: panels of left^T, and a block of the transposed result.
    """
    workers, width, lanes = len(scratch), PANEL_BYTES // result.itemsize, REGISTER_BYTES // result.itemsize
    padded = (rows + width - 1) // width * width
    pitch = padded + lanes  # not a power of two
    for worker in prange(workers):
        panels, sums = scratch[worker][: padded * inner], scratch[worker][padded * inner :]
        pack_columns(left, 0, left_pitch, inner, rows, panels, 0)
        for part in range(worker, parts, workers):
            low, high = columns * part // parts, columns * (part + 1) // parts
            for column in range(low, high, _TURNED_ROWS):
                count = min(_TURNED_ROWS, high - column)
                places = np.arange(count) * right_pitch
                for r in range(count if len(bias) else 0):
                    sums[r * pitch : r * pitch + padded] = bias[column + r]
                for k in range(0, inner, _INNER):
                    multiply_panels(
                        right, column * right_pitch + k, places, 0, count, panels, k * width, inner * width, width,
                        min(_INNER, inner - k), padded // width, sums, 0, pitch, k > 0 or len(bias) > 0,
                    )  # fmt: skip
                transpose(sums, 0, pitch, count, rows, result, column, result_pitch)


class _Layout(NamedTuple):
    """A stack of matrices as flat memory: where an element stands is item * size + row * pitch + column * step."""

    flat: np.ndarray
    size: int
    pitch: int
    step: int


def matmul(left, right, out, bias=None):
    """out = left x right (+ bias).

    Args:
        left: [rows, inner] or [batch, rows, inner].
        right: [inner, columns] or [batch, inner, columns]. A matrix without batch serves all; where neither its rows
            nor its columns are contiguous, it is copied.
        out: [rows, columns] or [batch, rows, columns], rows contiguous.
        bias: [columns], or None.
    """
    rows, inner = left.shape[-2:]
    batch, columns = out.shape[0] if out.ndim == 3 else 1, out.shape[-1]
    if out.size == 0:
        return out
    if inner == 0:
        out[...] = 0 if bias is None else bias
        return out
    if batch == 1 and rows * inner * columns <= _SMALL:
        np.matmul(left, right, out=out)
        return out if bias is None else np.add(out, bias, out=out)
    (a, a_size, a_pitch, a_step), (b, b_size, b_pitch, b_step) = _layout(left), _layout(right)
    c, c_size, c_pitch, _ = _layout(out)
    bias = _NO_BIAS[out.dtype.char] if bias is None else np.ascontiguousarray(bias)
    by_columns = b_step != 1
    threads, width = threads_for(batch * rows * inner * columns), panel_width(out.itemsize)
    if batch == 1 and by_columns and a_step == 1 and rows <= _FEW_ROWS and rows * inner <= _FEW and 2 * rows <= columns:
        workers = min(threads, -(-columns // TALL))
        run = turned_matmul_kernel if workers > 1 else turned_matmul_kernel.serial
        padded = -(-rows // width) * width
        size = padded * inner + min(columns, _TURNED_ROWS) * (padded + width)
        scratch = workspace("matmul", (workers, size), out.dtype)
        run(a, a_pitch, b, b_step, bias, c, c_pitch, rows, inner, columns, workers, scratch)
        return out
    row_parts, column_parts = (1, 1) if batch >= 4 * threads else _parts(threads, rows, columns, width)
    workers = min(threads, batch * row_parts * column_parts)
    terms, wide = min(inner, _INNER), min(-(-columns // width) * width, _COLUMNS)
    high = -(-min(rows, _ROWS) // TALL) * TALL
    size = -(-(terms * wide + high * (terms + width) + width) // width) * width
    run = matmul_kernel if workers > 1 else matmul_kernel.serial
    run(
        a, a_size, a_pitch, a_step, b, b_size, b_step if by_columns else b_pitch, by_columns, bias, c, c_size, c_pitch,
        batch, rows, inner, columns, row_parts, column_parts,
        workspace("matmul", (workers, size), out.dtype),
    )  # fmt: skip
    return out


@lru_cache(maxsize=1024)
def _parts(threads, rows, columns, width):
    """(parts of the rows, parts of the columns), a part a thread, so that the thread with most to do has least: to
    multiply, and to pack of both sides. Parts are whole groups of rows and whole panels of columns."""
    groups, panels = -(-rows // TALL), -(-columns // width)

    def longest(row_parts):
        high, wide = -(-groups // row_parts) * TALL, -(-panels // min(threads // row_parts, panels)) * width
        return high * wide + _PACKING * (high + wide)

    row_parts = min(range(1, min(threads, groups) + 1), key=longest)
    return row_parts, min(threads // row_parts, panels)


_NO_BIAS = {char: np.empty(0, char) for char in "fd"}


def _layout(x) -> _Layout:
    size = x.strides[0] // x.itemsize if x.ndim == 3 else 0
    if x.flags.c_contiguous:
        return _Layout(x.reshape(-1), size, x.shape[-1], 1)
    turned = x.swapaxes(-1, -2)
    if turned.flags.c_contiguous:
        return _Layout(turned.reshape(-1), size, 1, x.shape[-2])
    pitch, step = (stride // x.itemsize for stride in x.strides[-2:])
    if min(x.strides) < 0 or 1 not in (pitch, step):
        return _layout(np.ascontiguousarray(x))
    length = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.strides)) // x.itemsize
    return _Layout(np.lib.stride_tricks.as_strided(x, (length,), (x.itemsize,)), size, pitch, step)
