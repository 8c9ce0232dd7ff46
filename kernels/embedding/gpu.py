"""Embeddings on CuPy arrays; bags of them are in `gpu_bag.py`. The gradient of a table is a sum a row, over the row's
positions in order: the same bits in every run."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, copy_into, zeros
from ..gpu_lines import block_of_row
from ..launch import ceil_div, empty, launch
from . import count_classes
from .gpu_bag import embedding_bag_backward, embedding_bag_forward
from .gpu_sort import positions_by_row

__all__ = [
    "embedding_backward",
    "embedding_bag_backward",
    "embedding_bag_forward",
    "embedding_forward",
    "embedding_renorm_forward",
    "one_hot_forward",
]

_SUM, _SIZES, _LARGEST, _POWERS = (tl.constexpr(code) for code in range(4))


@triton.jit
def embedding_kernel(indices, weight, y, count, columns, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr):
    """y[i] = weight[indices[i]]. A program copies BLOCK_C columns of BLOCK rows."""
    rows, column = block_of_row(columns, BLOCK_C)
    position = rows * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(indices + position, mask=position < count, other=0).to(tl.int64)
    inside = (position < count)[:, None] & (column < columns)[None, :]
    value = tl.load(weight + row[:, None] * columns + column[None, :], mask=inside)
    tl.store(y + position[:, None] * columns + column[None, :], value, mask=inside)


@triton.jit
def embedding_grad_weight_kernel(
    order, starts, grad_y, grad_weight, columns, padding,
    BY_FREQUENCY: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad_weight[r] = sum of grad_y[i] over the positions i that looked up row r, divided by their number if asked.

    A program makes BLOCK_C columns of a row and walks its positions BLOCK at a time.
    """
    row, column = block_of_row(columns, BLOCK_C)
    start, stop = tl.load(starts + row), tl.load(starts + row + 1)
    number = stop - start
    if row == padding:
        stop = start
    total = tl.zeros((BLOCK, BLOCK_C), WIDE)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        position = tl.load(order + place, mask=place < stop, other=0)
        inside = (place < stop)[:, None] & (column < columns)[None, :]
        total += tl.load(grad_y + position[:, None] * columns + column[None, :], mask=inside, other=0.0).to(WIDE)
    gradient = tl.sum(total, axis=0)
    if BY_FREQUENCY:
        gradient = gradient / tl.maximum(number, 1).to(WIDE)
    tl.store(grad_weight + row * columns + column, gradient.to(grad_weight.dtype.element_ty), mask=column < columns)


@triton.jit
def rows_used_kernel(indices, used, count, BLOCK: tl.constexpr):
    """used[r] = 1 for each row that occurs among the indices."""
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < count
    row = tl.load(indices + position, mask=inside, other=0).to(tl.int64)
    tl.store(used + row, tl.full((BLOCK,), 1, tl.int8), mask=inside)


@triton.jit
def embedding_renorm_kernel(
    weight, used, renormed, columns, max_norm: tl.float64, power: tl.float64,
    CODE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """renormed[r] = weight[r], scaled down where r is used and its norm is too large. May write into weight.

    A program walks a row twice, first for its norm.
    """
    row = tl.program_id(0).to(tl.int64)
    limit, exponent = tl.full((), max_norm, WIDE), tl.full((), power, WIDE)
    total = tl.zeros((BLOCK,), WIDE)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        value = tl.abs(tl.load(weight + row * columns + column, mask=column < columns, other=0.0).to(WIDE))
        if CODE == _SUM:
            total += value * value
        elif CODE == _SIZES:
            total += value
        elif CODE == _LARGEST:
            total = tl.where((value > total) | (value != value), value, total)
        else:
            total += tl.where(value == 0, 0.0, tl.exp(exponent * tl.log(tl.where(value == 0, 1.0, value))))
    if CODE == _LARGEST:
        norm = tl.max(total, axis=0)
    else:
        norm = tl.sum(total, axis=0)
    if CODE == _SUM:
        norm = tl.sqrt(norm)
    elif CODE == _POWERS:
        norm = tl.where(norm == 0, 0.0, tl.exp(tl.log(tl.where(norm == 0, 1.0, norm)) / exponent))
    large = (tl.load(used + row) != 0) & (norm > limit)
    scale = tl.where(large, limit / (norm + tl.full((), 1e-7, WIDE)), 1.0)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        value = tl.load(weight + row * columns + column, mask=column < columns, other=0.0).to(WIDE) * scale
        tl.store(renormed + row * columns + column, value.to(renormed.dtype.element_ty), mask=column < columns)


@triton.jit
def one_hot_kernel(indices, y, size, classes, BLOCK: tl.constexpr):
    """y[i, c] = 1 where c is the index, 0 elsewhere. A program takes BLOCK neighbours in memory."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(indices + offset // classes, mask=offset < size, other=0).to(tl.int64)
    tl.store(y + offset, (index == offset % classes).to(tl.int64), mask=offset < size)


def embedding_forward(indices, weight, *, padding_idx=None, scale_grad_by_freq=False, out=None):
    indices, weight = contiguous(indices), contiguous(weight)
    columns = weight.shape[1]
    shape = (*indices.shape, columns)
    y = out if out is not None and out.flags.c_contiguous else empty(weight, shape)
    blocks = _blocks(columns, 1024)
    launch(
        embedding_kernel, (ceil_div(indices.size, blocks["BLOCK"]) * ceil_div(columns, blocks["BLOCK_C"]),),
        indices, weight, y, indices.size, columns, **blocks,
    )  # fmt: skip
    if out is not None and y is not out:
        copy_into(out, y)
        y = out
    return y, (indices, weight.shape, padding_idx, scale_grad_by_freq)


def embedding_backward(saved, grad_y, needs):
    if not needs[1]:
        return None, None
    indices, (rows, columns), padding_idx, scale_grad_by_freq = saved
    grad_weight = empty(grad_y, (rows, columns))
    order, starts = positions_by_row(indices.reshape(indices.size), rows)
    block_c = _blocks(columns, 128)["BLOCK_C"]
    launch(
        embedding_grad_weight_kernel, (rows * ceil_div(columns, block_c),),
        order, starts, contiguous(grad_y), grad_weight, columns, -1 if padding_idx is None else int(padding_idx),
        BY_FREQUENCY=bool(scale_grad_by_freq), WIDE=_wide(grad_y), BLOCK=8, BLOCK_C=block_c,
    )  # fmt: skip
    return None, grad_weight


def embedding_renorm_forward(weight, indices, *, max_norm, norm_type=2.0, out=None):
    table, indices, power = contiguous(weight), contiguous(indices), float(norm_type)
    rows, columns = table.shape
    renormed = out if out is not None and out.flags.c_contiguous else empty(table)
    used = zeros(table, (rows,), np.int8)
    launch(rows_used_kernel, (ceil_div(indices.size, 1024),), indices, used, indices.size, BLOCK=1024)
    launch(
        embedding_renorm_kernel, (rows,), table, used, renormed, columns, float(max_norm), power,
        CODE={2.0: 0, 1.0: 1, math.inf: 2}.get(power, 3), WIDE=_wide(table), BLOCK=_blocks(columns, 1024)["BLOCK_C"],
    )  # fmt: skip
    if out is not None and renormed is not out:
        copy_into(out, renormed)
        renormed = out
    return renormed, None


def one_hot_forward(indices, *, num_classes=-1):
    classes = int(count_classes(indices, num_classes))
    y = empty(indices, (*indices.shape, classes), np.int64)
    launch(one_hot_kernel, (ceil_div(y.size, 1024),), contiguous(indices), y, y.size, classes, BLOCK=1024)
    return y, None


def _blocks(columns, most) -> dict:
    """A tile of about 1024 elements with at most `most` columns."""
    block_c = min(triton.next_power_of_2(max(columns, 1)), most)
    return {"BLOCK": max(1024 // block_c, 1), "BLOCK_C": block_c}


def _wide(x):
    """The type that is computed in."""
    return tl.float64 if x.dtype == np.float64 else tl.float32
