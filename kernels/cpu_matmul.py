"""Whole matrix products on NumPy arrays, shared among Numba's threads (`cpu_product.py` has the tile).

BLAS would do, were it not for its threads: they and Numba's wait for each other on the same cores, each spinning while
the other has work. Small products are one call on the calling thread (`cpu_small_product.py`). A product may end with a
bias and a rectifier.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_groups import multiply_groups_ahead, pack_groups, shares
from .cpu_jit import kernel, serial_kernel, threads_for
from .cpu_lines import memory
from .cpu_product import (
    LOW,
    MIDDLE,
    PANEL_BYTES,
    REGISTER_BYTES,
    TALL,
    multiply_panels,
    pack_columns,
    pack_rows,
    panel_width,
    transpose,
)
from .cpu_rows import add_products, add_weighted_rows
from .cpu_small_product import small_product_kernel
from .cpu_vectors import load, store
from .memory import workspace

_INNER = 256  # terms at a time: a panel of them stays in the first-level cache,
_COLUMNS = 1024  # and a block of panels of so many columns in the second,
_GROUPS = 8  # packed at once where left lies in columns: of one alone, 48 bytes of each line would be read at a time
_LOW_ROWS = 160  # up to which a right matrix in rows is read where it lies, as packing it takes longest
_ROWS = 528  # and rows at a time; of these
_PACKED = 1 << 18  # elements are packed at a time, which stay in the second-level cache
_WORTH_GROUPS = 192  # terms up to which even then groups are better, as they write the result's rows from left to right
_TURNED_ROWS = 240  # rows of the transposed result at a time, beside all of the packed left matrix
_FEW_ROWS = 64  # up to which packing the right matrix takes longer than transposing the result
_FEW = 1 << 18  # elements of a left matrix that, packed as a whole, leaves room for more in the second-level cache
_PASSING = (2, 12)  # rows up to which a right matrix in rows, or in columns, passes by as it lies: no tile, which would
_PASSING_LINES, _PASSING_TERMS = 8, 512  # compute rows in vain. So much of columns stays in the cache for all rows.
_SMALL = 4_000_000  # multiply-adds up to which nothing needs packing that can be read as it lies,
_NEAR_ENOUGH = 1 << 12  # elements of a right matrix up to which even tiles of few rows are worth it,
_QUICKLY_TURNED = 1 << 16  # and up to which turning one is no matter
_NEAR = 2048  # bytes between rows; further ones, of which nearly each is on a page of its own, are read in place
_FAR_TERMS = 32  # so many at a time, from left to right: the processor knows so many pages at once
_ALIASES = 4096  # bytes; rows that lie a multiple of this apart meet in the same lines of the first-level cache


@intrinsic
def _finish_panel_row(typing_context, result, start, bias, first_bias, adds, clips):
    """As many elements as a panel is wide: what `_finish_rows` does to them."""

    def generate(context, builder, signature, arguments):
        result, start, bias, first_bias, adds, clips = arguments
        lanes = REGISTER_BYTES * 8 // signature.args[0].dtype.bitwidth
        vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes)
        zero = ir.Constant(vector, None)
        for part in range(0, PANEL_BYTES // REGISTER_BYTES * lanes, lanes):
            place = builder.add(start, start.type(part))
            total = cgutils.alloca_once_value(builder, load(builder, vector, result, place))
            with builder.if_then(adds):
                addend = load(builder, vector, bias, builder.add(first_bias, start.type(part)))
                builder.store(builder.fadd(builder.load(total), addend), total)
            value = builder.load(total)
            clipped = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
            store(builder, builder.select(clips, clipped, value), result, place)
        return context.get_dummy_value()

    return types.void(result, types.intp, bias, types.intp, types.boolean, types.boolean), generate


@serial_kernel
def _multiply_part(
    left, left_start, left_pitch, left_step, rows, right, right_start, right_pitch, right_by_columns, inner, columns,
    bias, first_bias, clips, result, result_start, result_pitch, packed, piece, last_panel,
):  # fmt: skip
    """result [rows, columns] = left x right + bias for a task's rows and columns.

    The one side is packed into the second-level cache as a whole; of the other one a piece is packed when its turn
    comes, and stays in the first-level cache while it meets all of the first.
    """
    width = PANEL_BYTES // result.itemsize
    panels = (columns + width - 1) // width
    # Copying takes longer than what it saves where what is copied is read only a few times.
    limit = 2 * TALL if right_pitch * right.itemsize > _NEAR else TALL + LOW
    few_rows = rows <= limit and left_step == 1 and not right_by_columns
    few_columns = left_step == 1 and panels <= 4 and left_pitch * left.itemsize % _ALIASES != 0
    in_place = not right_by_columns and rows <= _LOW_ROWS and 2 * right_pitch * right.itemsize % _ALIASES != 0
    if few_rows or few_columns:
        high = _block_of(rows, _ROWS, TALL)
        for row in range(0, rows, high):
            _multiply_in_place(
                left, left_start + row * left_pitch, left_pitch, min(high, rows - row), right, right_start, right_pitch,
                right_by_columns, inner, columns, result, result_start + row * result_pitch, result_pitch, not few_rows,
                packed, last_panel,
            )  # fmt: skip
        _finish_rows(result, result_start, result_pitch, rows, columns, bias, first_bias, clips)
    elif rows > _LOW_ROWS or (
        inner * panels * width <= _PACKED and columns <= 2 * rows and not (in_place and inner > _WORTH_GROUPS)
    ):
        _multiply_by_groups(
            left, left_start, left_pitch, left_step, rows, right, right_start, right_pitch, right_by_columns, inner,
            columns, bias, first_bias, clips, result, result_start, result_pitch, packed, piece, last_panel,
        )  # fmt: skip
    else:
        _multiply_by_panels(
            left, left_start, left_pitch, left_step, rows, right, right_start, right_pitch, right_by_columns, in_place,
            inner, columns, bias, first_bias, clips, result, result_start, result_pitch, packed, piece, last_panel,
        )  # fmt: skip


@serial_kernel
def _multiply_in_place(
    left, left_start, left_pitch, rows, right, right_start, right_pitch, right_by_columns, inner, columns,
    result, result_start, result_pitch, packs_right, packed, last_panel,
):  # fmt: skip
    """Rows of left are read where they lie, and so are right's, but for the last columns, or where it is packed."""
    width = PANEL_BYTES // result.itemsize
    whole, rest = columns // width, columns % width
    is_far = not right_by_columns and not packs_right and right_pitch * right.itemsize > _NEAR
    terms = _block_of(inner, _FAR_TERMS if is_far else _INNER, 8)
    places, last_start = np.arange(rows) * left_pitch, result_start + whole * width
    for k in range(0, inner, terms):
        now = min(terms, inner - k)
        if right_by_columns:
            pack_columns(right, right_start + k, right_pitch, now, columns, packed, 0)
        elif packs_right or rest:
            first = 0 if packs_right else whole * width
            pack_rows(right, right_start + k * right_pitch + first, right_pitch, now, columns - first, packed, 0)
        if rest:
            _copy_columns(result, last_start, result_pitch, last_panel, 0, width, rows, rest)
        for is_last in range(2 if rest else 1):
            panels, place, step, row_step = packed, whole * now * width * is_last, now * width, width
            if not packs_right:
                panels, place, step, row_step = (
                    (packed, 0, 0, width) if is_last else (right, right_start + k * right_pitch, width, right_pitch)
                )
            multiply_panels(
                left, left_start + k, places, 0, rows, panels, place, step, row_step, now, 1 if is_last else whole,
                last_panel if is_last else result, 0 if is_last else result_start, width if is_last else result_pitch,
                k > 0,
            )  # fmt: skip
        if rest:
            _copy_columns(last_panel, 0, width, result, last_start, result_pitch, rows, rest)


@serial_kernel
def _multiply_by_groups(
    left, left_start, left_pitch, left_step, rows, right, right_start, right_pitch, right_by_columns, inner, columns,
    bias, first_bias, clips, result, result_start, result_pitch, packed, piece, last_panel,
):  # fmt: skip
    """A block of right is packed, which stays in the second-level cache; group by group of left, packed when its turn
    comes, meets all of its panels. Of columns of left, several groups are packed at once."""
    width = PANEL_BYTES // result.itemsize
    terms, across = _block_of(inner, _INNER, 8), _block_of(columns, _COLUMNS, width)
    high = TALL if left_step == 1 else _GROUPS * TALL
    for column in range(0, columns, across):
        wide = min(across, columns - column)
        whole, rest = wide // width, wide % width
        for k in range(0, inner, terms):
            now = min(terms, inner - k)
            if right_by_columns:
                pack_columns(right, right_start + column * right_pitch + k, right_pitch, now, wide, packed, 0)
            else:
                pack_rows(right, right_start + k * right_pitch + column, right_pitch, now, wide, packed, 0)
            for row in range(0, rows, TALL):
                count, to = min(TALL, rows - row), result_start + row * result_pitch + column
                start = left_start + row * left_pitch + k * left_step
                if row % high == 0:
                    pack_groups(left, start, left_pitch, left_step, min(high, rows - row), now, piece)
                group, ahead = piece[row % high * now :], start + high * left_pitch
                ahead_step, ahead_part = (left_pitch, width) if left_step == 1 else (left_step, now // 8 * left_step)
                if rest and k > 0:
                    _copy_columns(result, to + whole * width, result_pitch, last_panel, 0, width, count, rest)
                for is_last in range(2 if rest else 1):
                    multiply_groups_ahead(
                        group, count, packed, whole * width * now * is_last, now * width, width, now,
                        1 if is_last else whole, last_panel if is_last else result, 0 if is_last else to,
                        width if is_last else result_pitch, k > 0, left, ahead, ahead_step, ahead_part, 8,
                    )  # fmt: skip
                if rest:
                    _copy_columns(last_panel, 0, width, result, to + whole * width, result_pitch, count, rest)
                if k + terms >= inner:
                    _finish_rows(result, to, result_pitch, count, wide, bias, first_bias + column, clips)


@serial_kernel
def _multiply_by_panels(
    left, left_start, left_pitch, left_step, rows, right, right_start, right_pitch, right_by_columns, in_place,
    inner, columns, bias, first_bias, clips, result, result_start, result_pitch, packed, piece, last_panel,
):  # fmt: skip
    """Panel by panel of right, packed or `in_place`, which meets all groups of left: of a block of it, if there are too
    many."""
    width = PANEL_BYTES // result.itemsize
    high, terms = _block_of(rows, _ROWS, TALL), _block_of(inner, _INNER, 8)
    deep = max(_PACKED // (high * terms), 1) * terms
    step, panel_step = (1, width * right_pitch) if right_by_columns else (right_pitch, width)
    for first_term in range(0, inner, deep):
        last_term = min(first_term + deep, inner)
        for row in range(0, rows, high):
            count = min(high, rows - row)
            for k in range(first_term, last_term, terms):
                block = packed[(k - first_term) * high :]
                start = left_start + row * left_pitch + k * left_step
                pack_groups(left, start, left_pitch, left_step, count, min(terms, last_term - k), block)
            for column in range(0, columns, width):
                wide, to = min(width, columns - column), result_start + row * result_pitch + column
                is_whole = wide == width
                target, target_to, pitch = (result, to, result_pitch) if is_whole else (last_panel, 0, width)
                if not is_whole and first_term > 0:
                    _copy_columns(result, to, result_pitch, last_panel, 0, width, count, wide)
                start = right_start + column // width * panel_step
                next_start = start + panel_step + first_term * step
                for k in range(first_term, last_term, terms):
                    now, place = min(terms, last_term - k), start + k * step
                    ahead = place + terms * step if k + terms < last_term else next_start
                    panel, at, row_step = (right, place, right_pitch) if in_place and is_whole else (piece, 0, width)
                    if right_by_columns:
                        pack_columns(right, place, right_pitch, now, wide, piece, 0)
                    elif not (in_place and is_whole):
                        pack_rows(right, place, right_pitch, now, wide, piece, 0)
                    multiply_groups_ahead(
                        packed[(k - first_term) * high :], count, panel, at, 0, row_step, now, 1, target, target_to,
                        pitch, k > 0, right, ahead, right_pitch,
                        width if right_by_columns else now // 8 * right_pitch, 8,
                    )  # fmt: skip
                if not is_whole:
                    _copy_columns(last_panel, 0, width, result, to, result_pitch, count, wide)
                if last_term == inner:
                    _finish_rows(result, to, result_pitch, count, wide, bias, first_bias + column, clips)


@serial_kernel
def _block_of(count, most, multiple):
    """How many at a time: at most `most`, or few more, in blocks of about one length."""
    blocks = (count + most - 1) // most
    return ((count + blocks - 1) // blocks + multiple - 1) // multiple * multiple


@serial_kernel
def _copy_columns(source, start, pitch, target, to, target_pitch, rows, columns):
    """A block of some columns."""
    elements, target_elements = memory(source), memory(target)
    for row in range(rows):
        for column in range(columns):
            target_elements[to + row * target_pitch + column] = elements[start + row * pitch + column]


@serial_kernel
def _finish_rows(result, start, pitch, rows, columns, bias, first_bias, clips):
    """Adds the bias, if there is one, to each of the rows, and `clips` them at 0; what is not a number stays so."""
    y, line, zero, adds = memory(result), memory(bias), result.dtype.type(0), len(bias) > 0
    whole = columns - columns % (PANEL_BYTES // result.itemsize)
    for row in range(rows if adds or clips else 0):
        to = start + row * pitch
        for i in range(0, whole, PANEL_BYTES // result.itemsize):
            _finish_panel_row(y, to + i, line, first_bias + i, adds, clips)
        for i in range(whole, columns):
            total = y[to + i] + line[first_bias + i] if adds else y[to + i]
            y[to + i] = zero if clips and total < zero else total


@kernel
def matmul_kernel(
    left, left_size, left_pitch, left_step, right, right_size, right_pitch, right_by_columns, bias, clips, result,
    result_size, result_pitch, batch, rows, inner, columns, row_parts, column_parts, piece_size, last_size, scratch,
):  # fmt: skip
    """result [batch, rows, columns] = left x right + bias; an empty bias is none.

    Where elements stand in flat memory: (item, row, k) of left at item * left_size + row * left_pitch + k * left_step;
    (item, k, column) of right at item * right_size + k * right_pitch + column or, by columns, column * right_pitch + k;
    (item, row, column) of result at item * result_size + row * result_pitch + column. A task is a part of rows and of
    columns.

    Args:
        scratch: a row a worker: a packed piece of a side, piece_size elements; the result's last panel, last_size
            elements; and a packed side. Each begins at a cache line.
    """
    workers, width = len(scratch), PANEL_BYTES // result.itemsize
    panel_count = (columns + width - 1) // width
    for worker in prange(workers):
        piece, last_panel = scratch[worker][:piece_size], scratch[worker][piece_size:][:last_size]
        packed = scratch[worker][piece_size + last_size :]
        for task in range(worker, batch * row_parts * column_parts, workers):
            item, part = task // (row_parts * column_parts), task % (row_parts * column_parts)
            row_part, column_part = part // column_parts, part % column_parts
            # Parts of the rows end with a lower tile rather than being a tile longer than others.
            low, high = rows * row_part // row_parts // LOW * LOW, rows
            if row_part + 1 < row_parts:
                high = rows * (row_part + 1) // row_parts // LOW * LOW
            first = panel_count * column_part // column_parts * width
            last = min(panel_count * (column_part + 1) // column_parts * width, columns)
            _multiply_part(
                left, item * left_size + low * left_pitch, left_pitch, left_step, high - low, right,
                item * right_size + first * (right_pitch if right_by_columns else 1), right_pitch, right_by_columns,
                inner, last - first, bias, first, clips, result, item * result_size + low * result_pitch + first,
                result_pitch, packed, piece, last_panel,
            )  # fmt: skip


@kernel
def turned_matmul_kernel(
    left, left_pitch, right, right_pitch, bias, clips, result, result_pitch, rows, inner, columns, parts, scratch
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
    pitch, block = padded + lanes, _block_of(inner, _INNER, 8)  # the pitch is no power of two
    for worker in prange(workers):
        panels, sums = scratch[worker][: padded * inner], scratch[worker][padded * inner :]
        pack_columns(left, 0, left_pitch, inner, rows, panels, 0)
        for part in range(worker, parts, workers):
            low, high = columns * part // parts, columns * (part + 1) // parts
            for column in range(low, high, _TURNED_ROWS):
                count = min(_TURNED_ROWS, high - column)
                places = np.arange(count) * right_pitch
                for k in range(0, inner, block):
                    multiply_panels(
                        right, column * right_pitch + k, places, 0, count, panels, k * width, inner * width, width,
                        min(block, inner - k), padded // width, sums, 0, pitch, k > 0,
                    )  # fmt: skip
                transpose(sums, 0, pitch, count, rows, result, column, result_pitch)
                if clips or len(bias):
                    _finish_rows(result, column, result_pitch, rows, count, bias, column, clips)


@kernel
def few_rows_matmul_kernel(
    left, left_pitch, right, right_pitch, right_by_columns, bias, clips, result, result_pitch, rows, inner, columns,
    parts,
):  # fmt: skip
    """result [rows, columns] = left x right + bias for so few rows of left that reading right takes longest: it passes
    by once, as it lies. A task is a part of the columns."""
    starts = np.arange(rows) * left_pitch
    for part in prange(parts):
        low, high = columns * part // parts, columns * (part + 1) // parts
        if right_by_columns:
            for row in range(rows):
                result[row * result_pitch + low : row * result_pitch + high] = 0
            for column in range(low, high, _PASSING_LINES):
                count, start = min(_PASSING_LINES, high - column), column * right_pitch
                for k in range(0, inner, _PASSING_TERMS):
                    terms = min(_PASSING_TERMS, inner - k)
                    add_products(
                        right, start + k, right_pitch, count, terms, left[k:], starts, rows, result, column,
                        result_pitch,
                    )  # fmt: skip
        else:
            add_weighted_rows(
                right, low, right_pitch, inner, high - low, left, 0, left_pitch, rows, result, low, result_pitch, False
            )
        _finish_rows(result, low, result_pitch, rows, high - low, bias, low, clips)


class _Lines(NamedTuple):
    """Where elements of a stack of matrices stand in flat memory: item * size + row * pitch + column * step."""

    flat: Callable  # the array as one line
    size: int
    pitch: int
    step: int


class _Plan(NamedTuple):
    """How matrices of some shapes and strides are multiplied: the kernel, and what it is called with."""

    kernel: Callable
    flat: tuple[Callable, Callable, Callable]
    left: tuple[int, ...]
    right: tuple[int, ...]
    result: tuple[int, ...]
    scratch: tuple[int, ...]  # its shape, or nothing where none is needed


def matmul(left, right, out, bias=None, clips=False):
    """out = left x right (+ bias), or 0 where that is below and `clips`.

    Args:
        left: [rows, inner] or [batch, rows, inner].
        right: [inner, columns] or [batch, inner, columns]. A matrix without batch serves all; where neither its rows
            nor its columns are contiguous, it is copied.
        out: [rows, columns] or [batch, rows, columns], rows contiguous.
        bias: [columns], or None.
    """
    multiply_adds = left.shape[-1] * out.size
    if multiply_adds == 0:
        out[...] = 0 if bias is None else np.maximum(bias, 0) if clips else bias
        return out
    plan = _plan(
        left.shape, left.strides, right.shape, right.strides, out.shape, out.strides, out.itemsize,
        threads_for(multiply_adds),
    )  # fmt: skip
    bias = _NO_BIAS[out.dtype.char] if bias is None else np.ascontiguousarray(bias)
    a, b, c = plan.flat
    scratch = (workspace("matmul", plan.scratch, out.dtype),) if plan.scratch else ()
    plan.kernel(a(left), *plan.left, b(right), *plan.right, bias, clips, c(out), *plan.result, *scratch)
    return out


_NO_BIAS = {char: np.empty(0, char) for char in "fd"}


@lru_cache(maxsize=4096)
def _plan(left_shape, left_strides, right_shape, right_strides, out_shape, out_strides, itemsize, threads) -> _Plan:
    (rows, inner), columns = left_shape[-2:], out_shape[-1]
    batch, width = out_shape[0] if len(out_shape) == 3 else 1, panel_width(itemsize)
    a, b = _lines(left_shape, left_strides, itemsize), _lines(right_shape, right_strides, itemsize)
    c = _lines(out_shape, out_strides, itemsize)
    by_columns = b.step != 1
    flat, b_pitch = (a.flat, b.flat, c.flat), b.step if by_columns else b.pitch
    if batch == 1 and _is_small(rows, inner, columns, by_columns):
        result = c.pitch, rows, inner, columns
        return _Plan(small_product_kernel, flat, (a.pitch, a.step), (b_pitch, by_columns), result, ())
    if batch == 1 and a.step == 1 and rows <= _PASSING[by_columns]:
        run = few_rows_matmul_kernel if threads > 1 else few_rows_matmul_kernel.serial
        return _Plan(run, flat, (a.pitch,), (b_pitch, by_columns), (c.pitch, rows, inner, columns, threads), ())
    if batch == 1 and by_columns and a.step == 1 and rows <= _FEW_ROWS and rows * inner <= _FEW and 2 * rows <= columns:
        workers = min(threads, -(-columns // TALL))
        run = turned_matmul_kernel if workers > 1 else turned_matmul_kernel.serial
        padded = -(-rows // width) * width
        size = padded * inner + min(columns, _TURNED_ROWS) * (padded + width)
        return _Plan(run, flat, (a.pitch,), (b_pitch,), (c.pitch, rows, inner, columns, workers), (workers, size))
    row_parts, column_parts = (1, 1) if batch >= 4 * threads else shares(threads, rows, columns, width)
    workers = min(threads, batch * row_parts * column_parts)
    # For any part of the rows: a block of 481 is shorter than one of 480. Packed is a panel or a group, and a vector.
    wide = -(-TALL // width) * width
    piece_size, last_size = (
        (min(inner, _INNER) + 8) * max(wide, _GROUPS * TALL),
        -(-min(rows, _ROWS) // TALL) * TALL * width,
    )
    packed = min(_PACKED, (max(rows, columns) + wide) * (inner + 8))
    size = piece_size + last_size + -(-packed // width) * width + width
    run = matmul_kernel if workers > 1 else matmul_kernel.serial
    result = c.size, c.pitch, batch, rows, inner, columns, row_parts, column_parts, piece_size, last_size
    return _Plan(run, flat, a[1:], (b.size, b_pitch, by_columns), result, (workers, size))


def _is_small(rows, inner, columns, by_columns) -> bool:
    """Whether tiles of matrices as they lie, but for a right one by columns, are what takes least time."""
    if rows * inner * columns > _SMALL:
        return False
    elements = inner * columns
    if elements <= _NEAR_ENOUGH:
        return True
    if by_columns:
        return rows > _FEW_ROWS or (rows >= MIDDLE and elements <= _QUICKLY_TURNED)
    return rows >= LOW


def _lines(shape, strides, itemsize) -> _Lines:
    rows, columns = shape[-2:]
    size = strides[0] // itemsize if len(shape) == 3 else 0
    if _is_dense(shape, strides, itemsize):
        return _Lines(_in_rows, size, columns, 1)
    if _is_dense((*shape[:-2], columns, rows), (*strides[:-2], strides[-1], strides[-2]), itemsize):
        return _Lines(_in_columns, size, 1, rows)
    pitch, step = (stride // itemsize for stride in strides[-2:])
    if min(strides) < 0 or 1 not in (pitch, step):
        return _Lines(_copied, rows * columns if len(shape) == 3 else 0, columns, 1)
    return _Lines(_spread, size, pitch, step)


def _is_dense(shape, strides, itemsize) -> bool:
    """Whether elements follow one another in C's order."""
    expected = itemsize
    for length, stride in zip(reversed(shape), reversed(strides)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _in_rows(x):
    return x.ravel()


def _in_columns(x):
    return x.ravel("K")  # as it lies, which is quicker than turning it back


def _copied(x):
    return np.ascontiguousarray(x).reshape(-1)


def _spread(x):
    """Memory from the first element to the last one, whatever lies between."""
    length = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.strides)) // x.itemsize
    return np.lib.stride_tricks.as_strided(x, (length,), (x.itemsize,))
