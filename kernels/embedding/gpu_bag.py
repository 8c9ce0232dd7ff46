"""Bags of embeddings on CuPy arrays: a program makes some columns of one bag, or of one row's gradient, and walks the
positions in order, so that sums are the same bits in every run."""

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..gpu_lines import block_of_row
from ..launch import ceil_div, empty, launch
from .gpu_sort import how_many_below, positions_by_row

_POSITIONS = 8  # that a program takes at once
_NOWHERE = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def _load_wide(array, offset, inside, like):
    """Elements in the type of `like`, in which all is computed; 0 outside."""
    return tl.load(array + offset, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def embedding_bag_kernel(
    indices, offsets, factors, weight, y, counts, winner, total, bags, length, columns, padding,
    MEAN: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y[b] = sum of factors[k] * weight[indices[k]] over the positions k of bag b, or, where there is a winner, the
    maximum, and winner[b] the positions it comes from, -1 where there is none; counts[b]: positions, padding left out.

    Bags begin at `offsets`, or have `length` positions each. Of positions p, p + BLOCK, ... a lane keeps its own.
    """
    bag, column = block_of_row(columns, BLOCK_C)
    if offsets is not None:
        start = tl.load(offsets + bag).to(tl.int64)
        stop = tl.load(offsets + bag + 1, mask=bag + 1 < bags, other=total).to(tl.int64)
    else:
        start, stop = bag * length, bag * length + length
    result = tl.zeros((BLOCK, BLOCK_C), WIDE)
    place = tl.full((BLOCK, BLOCK_C), _NOWHERE, tl.int64)
    count = tl.zeros((BLOCK,), tl.int64)
    for first in range(start, stop, BLOCK):
        position = first + tl.arange(0, BLOCK)
        row = tl.load(indices + position, mask=position < stop, other=0).to(tl.int64)
        kept = (position < stop) & (row != padding)
        count += kept.to(tl.int64)
        inside = kept[:, None] & (column < columns)[None, :]
        value = _load_wide(weight, row[:, None] * columns + column[None, :], inside, result)
        if winner is not None:
            # As a search for the first of the largest: the first NaN, if there is one, is larger than all.
            better = (place == _NOWHERE) | (value > result) | ((value != value) & (result == result))
            result = tl.where(inside & better, value, result)
            place = tl.where(inside & better, position[:, None], place)
        elif factors is not None:
            result += _load_wide(factors, position, kept, result)[:, None] * value
        else:
            result += value
    number = tl.sum(count, axis=0)
    if counts is not None:
        tl.store(counts + bag, number)
    target = bag * columns + column
    if winner is not None:
        there = place != _NOWHERE
        highest = tl.max(tl.where(there & (result == result), result, float("-inf")), axis=0)
        nan = tl.max((there & (result != result)).to(tl.int32), axis=0) != 0
        best = there & tl.where(nan[None, :], result != result, result == highest[None, :])
        position = tl.min(tl.where(best, place, _NOWHERE), axis=0)
        final = tl.where(nan, float("nan"), tl.where(position == _NOWHERE, 0.0, highest))
        tl.store(winner + target, tl.where(position == _NOWHERE, -1, position), mask=column < columns)
    else:
        final = tl.sum(result, axis=0)
        if MEAN:
            final = final / tl.maximum(number, 1).to(WIDE)
    tl.store(y + target, final.to(y.dtype.element_ty), mask=column < columns)


@triton.jit
def _bag_of(begun, position, inside, length):
    """The bag of a position; begun[k + 1] says how many begin at position k or before."""
    if begun is not None:
        bag = tl.load(begun + position + 1, mask=inside, other=1) - 1
    else:
        bag = position // length
    return bag


@triton.jit
def embedding_bag_grad_weight_kernel(
    order, starts, begun, factors, counts, winner, grad_y, grad_weight, length, columns, padding,
    BY_FREQUENCY: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad_weight[r] = sum of factors[k] * grad_y[bag of k] over the positions k that looked up row r: by the bag's
    count for a mean, divided by their number if asked; where there is a winner, only where it is k.

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
        bag = _bag_of(begun, position, place < stop, length)
        inside = (place < stop)[:, None] & (column < columns)[None, :]
        offset = bag[:, None] * columns + column[None, :]
        value = _load_wide(grad_y, offset, inside, total)
        if factors is not None:
            value = value * _load_wide(factors, position, place < stop, total)[:, None]
        if counts is not None:
            value = value / tl.load(counts + bag, mask=place < stop, other=1).to(WIDE)[:, None]
        if winner is not None:
            value = tl.where(tl.load(winner + offset, mask=inside, other=-1) == position[:, None], value, 0.0)
        total += value
    gradient = tl.sum(total, axis=0)
    if BY_FREQUENCY:
        gradient = gradient / tl.maximum(number, 1).to(WIDE)
    tl.store(grad_weight + row * columns + column, gradient.to(grad_weight.dtype.element_ty), mask=column < columns)


@triton.jit
def embedding_bag_grad_factors_kernel(
    indices, begun, grad_y, weight, grad_factors, total, length, columns, padding,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad_factors[k] = grad_y[bag of k] . weight[indices[k]], 0 for padding. A program has BLOCK positions."""
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(indices + position, mask=position < total, other=0).to(tl.int64)
    kept = (position < total) & (row != padding)
    bag = _bag_of(begun, position, kept, length)
    products = tl.zeros((BLOCK, BLOCK_C), WIDE)
    for first in range(0, columns, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        inside = kept[:, None] & (column < columns)[None, :]
        slope = _load_wide(grad_y, bag[:, None] * columns + column[None, :], inside, products)
        products += slope * _load_wide(weight, row[:, None] * columns + column[None, :], inside, products)
    gradient = tl.sum(products, axis=1)
    tl.store(grad_factors + position, gradient.to(grad_factors.dtype.element_ty), mask=position < total)


def embedding_bag_forward(
    indices,
    weight,
    offsets=None,
    per_sample_weights=None,
    *,
    mode="mean",
    padding_idx=None,
    scale_grad_by_freq=False,
    include_last_offset=False,
):
    flat, weight = contiguous(indices).reshape(indices.size), contiguous(weight)
    factors = None if per_sample_weights is None else contiguous(per_sample_weights)
    if offsets is None:
        bags, length = indices.shape
    else:
        # The last offset, where it is given, is what the end is without it: the number of indices.
        bags, length = offsets.size - bool(include_last_offset), 0
        offsets = contiguous(offsets)[:bags]
    columns, padding = weight.shape[1], -1 if padding_idx is None else int(padding_idx)
    y = empty(weight, (bags, columns))
    counts = empty(weight, (bags,), np.int64) if mode == "mean" else None
    winner = empty(weight, y.shape, np.int64) if mode == "max" else None
    launch(
        embedding_bag_kernel, (bags * ceil_div(columns, _columns(columns)),),
        flat, offsets, factors, weight, y, counts, winner, flat.size, bags, length, columns, padding,
        MEAN=mode == "mean", WIDE=_wide(weight), BLOCK=_POSITIONS, BLOCK_C=_columns(columns),
    )  # fmt: skip
    return y, (flat, indices.shape, weight, offsets, factors, counts, winner, length, padding, scale_grad_by_freq)


def embedding_bag_backward(saved, grad_y, needs):
    flat, shape, weight, offsets, factors, counts, winner, length, padding, scale_grad_by_freq = saved
    grad_y = contiguous(grad_y)
    columns, wide = weight.shape[1], _wide(weight)
    begun = None if offsets is None else how_many_below(offsets, flat.size)
    grad_weight = grad_factors = None
    if needs[1]:
        grad_weight = empty(weight)
        order, starts = positions_by_row(flat, len(weight))
        launch(
            embedding_bag_grad_weight_kernel, (len(weight) * ceil_div(columns, _columns(columns)),),
            order, starts, begun, factors, counts, winner, grad_y, grad_weight, length, columns, padding,
            BY_FREQUENCY=bool(scale_grad_by_freq), WIDE=wide, BLOCK=_POSITIONS, BLOCK_C=_columns(columns),
        )  # fmt: skip
    if needs[3] and factors is not None:
        grad_factors = empty(weight, shape)
        launch(
            embedding_bag_grad_factors_kernel, (ceil_div(flat.size, _POSITIONS),),
            flat, begun, grad_y, weight, grad_factors, flat.size, length, columns, padding,
            WIDE=wide, BLOCK=_POSITIONS, BLOCK_C=_columns(columns),
        )  # fmt: skip
    return None, grad_weight, None, grad_factors


def _columns(columns: int) -> int:
    """How many columns a program has."""
    return min(triton.next_power_of_2(max(columns, 1)), 128)


def _wide(x):
    """The type that is computed in."""
    return tl.float64 if x.dtype == np.float64 else tl.float32
