"""Elementwise functions on CuPy arrays of any strides: `broadcast` gives f(a, b, c) over the operands' common shape,
`broadcast_sum` its sum over the axes that one operand does not have, which is that operand's gradient.

An operand is an array, a Python number (at most one) or None. Nothing is copied: an axis that an operand is stretched
along has stride 0.
"""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import copy_into
from ..launch import ceil_div, empty, launch
from .broadcasting import merged, shape_of
from .gpu_functions import apply

_BLOCK = 1024
_ENOUGH_PROGRAMS = 1024  # several for each multiprocessor of the largest device


@triton.jit
def _load(pointer, offset, inside):
    """Values to compute with: half types in float32, bools as 0 and 1, the others as they are; 1 where outside."""
    value = tl.load(pointer + offset, mask=inside, other=1)
    if value.dtype == tl.float16 or value.dtype == tl.bfloat16:
        value = value.to(tl.float32)
    elif value.dtype == tl.int1:
        value = value.to(tl.int32)
    return value


@triton.jit
def _store(pointer, offset, value, inside):
    if pointer.dtype.element_ty == tl.int1 and value.dtype != tl.int1:
        value = value != 0
    tl.store(pointer + offset, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _number(real, whole, like):
    """The operand that is a number, as a tile of the type of another."""
    if like.dtype.is_floating():
        value = (tl.zeros(like.shape, tl.float64) + real).to(like.dtype)
    else:
        value = (tl.zeros(like.shape, tl.int64) + whole).to(like.dtype)
    return value


@triton.jit
def _evaluate(FUNCTION: tl.constexpr, NUMBER: tl.constexpr, a, b, c, a_at, b_at, c_at, inside, real, whole):
    """f of the operands' values at these offsets; the operand whose place is NUMBER is the number."""
    x, y, z = None, None, None
    if a is not None:
        x = _load(a, a_at, inside)
    if b is not None:
        y = _load(b, b_at, inside)
    if c is not None:
        z = _load(c, c_at, inside)
    if NUMBER == 0:
        x = _number(real, whole, y)
    elif NUMBER == 1:
        y = _number(real, whole, z if FUNCTION == "where" else x)
    elif NUMBER == 2:
        z = _number(real, whole, y if FUNCTION == "where" else x)
    return apply(FUNCTION, x, y, z)


@triton.jit
def flat_kernel(
    a, b, c, result, size, real: tl.float64, whole: tl.int64,
    FUNCTION: tl.constexpr, NUMBER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """result = f(a, b, c) for contiguous operands of one shape: a block of neighbours a program."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    value = _evaluate(FUNCTION, NUMBER, a, b, c, offset, offset, offset, inside, real, whole)
    _store(result, offset, value, inside)


@triton.jit
def _row_offset(row, size_1, size_2, size_3, step_0, step_1, step_2, step_3, RANK: tl.constexpr):
    """Where a row starts: its index along each of the axes in front of the last, times the axis's stride."""
    offset = tl.zeros(row.shape, tl.int64)
    if RANK > 4:
        offset += (row % size_3) * step_3
        row = row // size_3
    if RANK > 3:
        offset += (row % size_2) * step_2
        row = row // size_2
    if RANK > 2:
        offset += (row % size_1) * step_1
        row = row // size_1
    if RANK > 1:
        offset += row * step_0
    return offset


_TILE_NUMBERS = ["size_1", "size_2", "size_3"] + [f"{operand}_{axis}" for operand in "abc" for axis in range(5)]


@triton.jit(do_not_specialize=_TILE_NUMBERS)  # or each pattern of strides would be a form of its own
def tile_kernel(
    a, b, c, result, rows: tl.int64, columns: tl.int64, real: tl.float64, whole: tl.int64,
    size_1: tl.int64, size_2: tl.int64, size_3: tl.int64,
    a_0: tl.int64, a_1: tl.int64, a_2: tl.int64, a_3: tl.int64, a_4: tl.int64,
    b_0: tl.int64, b_1: tl.int64, b_2: tl.int64, b_3: tl.int64, b_4: tl.int64,
    c_0: tl.int64, c_1: tl.int64, c_2: tl.int64, c_3: tl.int64, c_4: tl.int64,
    FUNCTION: tl.constexpr, NUMBER: tl.constexpr, RANK: tl.constexpr, WIDE: tl.constexpr,
    A_INNER: tl.constexpr, B_INNER: tl.constexpr, C_INNER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """result [rows, columns] = f(a, b, c): a tile a program, over up to four axes that make the rows and a last one.

    Only rows are taken apart by divisions, so that they cost little; strides of 0 and 1 along the last axis are
    compiled in (INNER), so that a tile's row is read in wide loads or once.
    """
    blocks = tl.cdiv(columns, BLOCK_COLUMNS)
    row = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (row < rows) & (column < columns)
    part = row if WIDE else row.to(tl.int32)
    if not WIDE:
        size_1, size_2, size_3 = size_1.to(tl.int32), size_2.to(tl.int32), size_3.to(tl.int32)
    a_at = _row_offset(part, size_1, size_2, size_3, a_0, a_1, a_2, a_3, RANK) + column * (
        a_4 if A_INNER is None else A_INNER
    )
    b_at = _row_offset(part, size_1, size_2, size_3, b_0, b_1, b_2, b_3, RANK) + column * (
        b_4 if B_INNER is None else B_INNER
    )
    c_at = _row_offset(part, size_1, size_2, size_3, c_0, c_1, c_2, c_3, RANK) + column * (
        c_4 if C_INNER is None else C_INNER
    )
    value = _evaluate(FUNCTION, NUMBER, a, b, c, a_at, b_at, c_at, inside, real, whole)
    _store(result, row * columns + column, value, inside)


_SUM_NUMBERS = ["chunk", "kept_1", "kept_2", "summed_1", "summed_2"] + [
    f"{operand}_{side}{axis}" for operand in "abc" for side in "ks" for axis in range(3)
]


@triton.jit
def _offset(index, size_1, size_2, step_0, step_1, step_2, RANK: tl.constexpr):
    """Where an index of up to three axes lies."""
    offset = tl.zeros(index.shape, tl.int64)
    if RANK > 2:
        offset += (index % size_2) * step_2
        index = index // size_2
    if RANK > 1:
        offset += (index % size_1) * step_1
        index = index // size_1
    return offset + index * step_0


@triton.jit(do_not_specialize=_SUM_NUMBERS)
def sum_kernel(
    a, b, c, total, kept: tl.int64, summed: tl.int64, chunk: tl.int64, real: tl.float64, whole: tl.int64,
    kept_1: tl.int64, kept_2: tl.int64, summed_1: tl.int64, summed_2: tl.int64,
    a_k0: tl.int64, a_k1: tl.int64, a_k2: tl.int64, a_s0: tl.int64, a_s1: tl.int64, a_s2: tl.int64,
    b_k0: tl.int64, b_k1: tl.int64, b_k2: tl.int64, b_s0: tl.int64, b_s1: tl.int64, b_s2: tl.int64,
    c_k0: tl.int64, c_k1: tl.int64, c_k2: tl.int64, c_s0: tl.int64, c_s1: tl.int64, c_s2: tl.int64,
    FUNCTION: tl.constexpr, NUMBER: tl.constexpr, WIDE: tl.constexpr, KEPT_RANK: tl.constexpr,
    SUMMED_RANK: tl.constexpr, KEPT_LAST: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_KEPT: tl.constexpr, BLOCK_SUMMED: tl.constexpr,
):  # fmt: skip
    """total [parts, kept] = sums of f(a, b, c) over each part's `chunk` of the summed axes, in a fixed order.

    A program owns some kept elements of one part and walks along the part. The tile's last side is the one whose
    elements are neighbours in memory: the kept ones if KEPT_LAST, else the summed ones.
    """
    index_kept = tl.program_id(0).to(tl.int64) * BLOCK_KEPT + tl.arange(0, BLOCK_KEPT)
    index_kept = index_kept[None, :] if KEPT_LAST else index_kept[:, None]
    index_summed = tl.arange(0, BLOCK_SUMMED).to(tl.int64)
    index_summed = index_summed[:, None] if KEPT_LAST else index_summed[None, :]
    start = tl.program_id(1).to(tl.int64) * chunk
    stop = tl.minimum(start + chunk, summed)
    if not WIDE:
        kept_1, kept_2 = kept_1.to(tl.int32), kept_2.to(tl.int32)
        summed_1, summed_2 = summed_1.to(tl.int32), summed_2.to(tl.int32)
    index = index_kept if WIDE else index_kept.to(tl.int32)
    a_base = _offset(index, kept_1, kept_2, a_k0, a_k1, a_k2, KEPT_RANK)
    b_base = _offset(index, kept_1, kept_2, b_k0, b_k1, b_k2, KEPT_RANK)
    c_base = _offset(index, kept_1, kept_2, c_k0, c_k1, c_k2, KEPT_RANK)
    if KEPT_LAST:
        partial = tl.zeros((BLOCK_SUMMED, BLOCK_KEPT), ACCUMULATOR)
    else:
        partial = tl.zeros((BLOCK_KEPT, BLOCK_SUMMED), ACCUMULATOR)
    for first in range(start, stop, BLOCK_SUMMED):
        along = first + index_summed
        inside = (index_kept < kept) & (along < stop)
        place = along if WIDE else along.to(tl.int32)
        a_at = a_base + _offset(place, summed_1, summed_2, a_s0, a_s1, a_s2, SUMMED_RANK)
        b_at = b_base + _offset(place, summed_1, summed_2, b_s0, b_s1, b_s2, SUMMED_RANK)
        c_at = c_base + _offset(place, summed_1, summed_2, c_s0, c_s1, c_s2, SUMMED_RANK)
        value = _evaluate(FUNCTION, NUMBER, a, b, c, a_at, b_at, c_at, inside, real, whole)
        partial += tl.where(inside, value.to(ACCUMULATOR), tl.zeros_like(partial))
    result = tl.sum(partial, axis=0 if KEPT_LAST else 1)
    at = tl.program_id(0).to(tl.int64) * BLOCK_KEPT + tl.arange(0, BLOCK_KEPT)
    total += tl.program_id(1).to(tl.int64) * kept
    tl.store(total + at, result.to(total.dtype.element_ty), mask=at < kept)


def broadcast(function, operands, shape, dtype, out=None):
    """f of the operands over their common shape, as a new C-contiguous array or in `out`."""
    like = next(x for x in operands if hasattr(x, "dtype"))
    direct = out is not None and out.flags.c_contiguous
    result = out if direct else empty(like, shape, dtype)
    if result.size:
        _write(function, operands, result)
    if out is None or direct:
        return result
    copy_into(out, result)
    return out


def _write(function, operands, result):
    shape = result.shape
    arrays, number, real, whole = _separate(operands)
    if all(x is None or (x.shape == shape and x.flags.c_contiguous) for x in arrays):
        grid = (ceil_div(result.size, _BLOCK),)
        constants = {"FUNCTION": function, "NUMBER": number, "BLOCK": _BLOCK}
        launch(flat_kernel, grid, *arrays, result, result.size, real, whole, **constants)
        return
    sizes, steps = merged(shape, *(_stretched(x, shape) for x in (*arrays, result)))
    if len(sizes) > 5:
        # More axes than the kernel has, and none to merge: one launch for each index of the first.
        for index in range(shape[0]):
            _write(function, [_part(x, index, len(shape)) for x in operands], result[index])
        return
    sizes = [1] * (5 - len(sizes)) + sizes
    rank = max(1, sum(size > 1 for size in sizes))
    # Rows of fewer axes than four keep theirs in front: the kernel takes the axes RANK - 1, ..., 1 apart.
    row_sizes, columns = sizes[5 - rank : 4], sizes[4]
    rows = math.prod(row_sizes)
    row_sizes += [1] * (4 - len(row_sizes))
    sides = []
    for side in steps[:3]:
        side = [0] * (5 - len(side)) + side
        front = side[5 - rank : 4]
        sides.append([*front, *[0] * (4 - len(front)), side[4]])
    wide_tile = 16 if columns <= 16 else 128 if columns <= 128 else _BLOCK
    inner = {f"{name}_INNER": side[4] if side[4] in (0, 1) else None for name, side in zip("ABC", sides)}
    launch(
        tile_kernel, (ceil_div(rows, _BLOCK // wide_tile) * ceil_div(columns, wide_tile),),
        *arrays, result, rows, columns, real, whole, *row_sizes[1:], *(step for side in sides for step in side),
        FUNCTION=function, NUMBER=number, RANK=rank, WIDE=rows >= 2**31 - _BLOCK, **inner,
        BLOCK_ROWS=_BLOCK // wide_tile, BLOCK_COLUMNS=wide_tile,
    )  # fmt: skip


def broadcast_sum(function, operands, shape, target_shape, dtype):
    """f of the operands, whose common shape is `shape`, summed over the axes that `target_shape` lacks or has as 1."""
    like = next(x for x in operands if hasattr(x, "dtype"))
    if shape == target_shape:
        return broadcast(function, operands, shape, dtype)
    total = empty(like, target_shape, dtype)
    if total.size == 0:
        return total
    arrays, number, real, whole = _separate(operands)
    sizes, steps = merged(shape, *(_stretched(x, shape) for x in (*arrays, total)))
    kept_axes = [axis for axis, step in enumerate(steps[3]) if step]
    summed_axes = [axis for axis, step in enumerate(steps[3]) if not step]
    if len(kept_axes) > 3 or len(summed_axes) > 3:
        return _sum_by_steps(function, operands, shape, total)
    kept, summed = (math.prod(sizes[axis] for axis in axes) for axes in (kept_axes, summed_axes))
    kept_last = bool(kept_axes) and (not summed_axes or kept_axes[-1] > summed_axes[-1])
    block_kept, block_summed = (64, 16) if kept_last else (1, _BLOCK) if summed >= 512 else (16, 64)
    grid_kept = ceil_div(kept, block_kept)
    parts = min(max(1, _ENOUGH_PROGRAMS // grid_kept), max(1, summed // (4 * block_summed)))
    chunk = ceil_div(ceil_div(summed, parts), block_summed) * block_summed
    parts = max(1, ceil_div(summed, chunk)) if chunk else 1
    accumulator = np.float64 if dtype == np.float64 else np.float32
    partial = total if parts == 1 else empty(like, (parts, kept), accumulator)
    launch(
        sum_kernel, (grid_kept, parts), *arrays, partial, kept, summed, chunk, real, whole,
        *_three(kept_axes, sizes, 1)[1:], *_three(summed_axes, sizes, 1)[1:],
        *(step for side in steps[:3] for axes in (kept_axes, summed_axes) for step in _three(axes, side, 0)),
        FUNCTION=function, NUMBER=number, WIDE=max(kept, summed) >= 2**31 - _BLOCK,
        KEPT_RANK=len(kept_axes), SUMMED_RANK=len(summed_axes), KEPT_LAST=kept_last,
        ACCUMULATOR=tl.float64 if dtype == np.float64 else tl.float32, BLOCK_KEPT=block_kept, BLOCK_SUMMED=block_summed,
    )  # fmt: skip
    if parts == 1:
        return total
    return broadcast_sum("first", (partial, None, None), (parts, kept), (kept,), dtype).reshape(target_shape)


def _sum_by_steps(function, operands, shape, total):
    """The same with more axes than the kernel has: f for every element first, then one axis's sum after another."""
    wide = np.float64 if total.dtype == np.float64 else np.float32
    value = broadcast(function, operands, shape, wide)
    target = (1,) * (len(shape) - total.ndim) + total.shape
    stretched = [axis for axis, size in enumerate(target) if size != shape[axis]]
    for axis in stretched:
        before, after = value.shape, (*value.shape[:axis], 1, *value.shape[axis + 1 :])
        value = broadcast_sum(
            "first", (value, None, None), before, after, total.dtype if axis == stretched[-1] else wide
        )
    return value.reshape(total.shape)


def _separate(operands):
    """The operands with None for the number; the number's place, or -1; the number as a real and as a whole one."""
    arrays, place, real, whole = list(operands), -1, 0.0, 0
    for index, x in enumerate(operands):
        if x is not None and not hasattr(x, "dtype"):
            arrays[index], place, real = None, index, float(x)
            # Integer arrays take no number that they cannot hold; floating-point ones may, and look only at the real.
            whole = int(x) if type(x) is not float and -(2**63) <= x < 2**63 else 0
    return arrays, place, real, whole


def _stretched(x, shape) -> tuple[int, ...]:
    """The strides, in elements, with which an operand walks the common shape; 0 along axes that it lacks."""
    if x is None:
        return (0,) * len(shape)
    own = (0 if size == 1 else stride // x.itemsize for size, stride in zip(x.shape, x.strides))
    return (*(0,) * (len(shape) - x.ndim), *own)


def _part(x, index, rank):
    """What an operand contributes at an index of the common shape's first axis."""
    if len(shape_of(x)) < rank:
        return x
    return x[index if x.shape[0] > 1 else 0]


def _three(axes, values, missing):
    """The values at up to three axes, filled up to three behind."""
    return [values[axis] for axis in axes] + [missing] * (3 - len(axes))
