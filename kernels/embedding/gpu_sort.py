"""Which positions looked up which row, on the device and in the same order in every run: a stable radix sort.

The gradient of a table adds up, for each row, what its positions received. Atomic additions would do so in another
order every time; positions sorted by row make each row's a stretch that one program walks from first to last.
"""

import numpy as np
import triton
import triton.language as tl

from ..launch import ceil_div, empty, launch

_BITS = 4
_BLOCK = 512


@triton.jit
def _digits(keys, offset, size, shift, RADIX: tl.constexpr):
    """[BLOCK, RADIX]: 1 where a key's digit is the column, 0 in all columns past the end."""
    inside = offset < size
    digit = (tl.load(keys + offset, mask=inside, other=0).to(tl.int64) >> shift) & (RADIX - 1)
    return ((digit[:, None] == tl.arange(0, RADIX)[None, :]) & inside[:, None]).to(tl.int32), digit, inside


@triton.jit
def sort_counts_kernel(keys, counts, size, shift, RADIX: tl.constexpr, BLOCK: tl.constexpr):
    """counts[digit, block] = how many keys of a block have the digit."""
    block = tl.program_id(0)
    hits, _, _ = _digits(keys, block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK), size, shift, RADIX)
    tl.store(counts + tl.arange(0, RADIX) * tl.num_programs(0) + block, tl.sum(hits, axis=0).to(tl.int64))


@triton.jit
def sort_starts_kernel(counts, size, BLOCK: tl.constexpr):
    """counts = the sums of all counts before each: where a digit's keys of a block go. One program walks them."""
    before = tl.zeros((1,), tl.int64)
    for start in range(0, size, BLOCK):
        offset = start + tl.arange(0, BLOCK)
        count = tl.load(counts + offset, mask=offset < size, other=0)
        tl.store(counts + offset, before + tl.cumsum(count, axis=0) - count, mask=offset < size)
        before += tl.sum(count, axis=0)


@triton.jit
def sort_order_kernel(
    keys, order, starts, sorted_keys, sorted_order, size, shift, RADIX: tl.constexpr, BLOCK: tl.constexpr
):
    """Keys, and the positions they came from (at first their own), to their places by one digit; ties stay in order."""
    block = tl.program_id(0)
    offset = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    hits, digit, inside = _digits(keys, offset, size, shift, RADIX)
    rank = tl.sum(hits * (tl.cumsum(hits, axis=0) - hits), axis=1)
    place = tl.load(starts + digit * tl.num_programs(0) + block, mask=inside, other=0) + rank
    position = offset
    if order is not None:
        position = tl.load(order + offset, mask=inside, other=0)
    tl.store(sorted_keys + place, tl.load(keys + offset, mask=inside, other=0).to(tl.int64), mask=inside)
    tl.store(sorted_order + place, position, mask=inside)


@triton.jit
def row_starts_kernel(sorted_keys, starts, size, rows, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """starts[r] = how many sorted keys are less than r, for r = 0, ..., rows: each lane halves its interval."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    low, high = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int64) + size
    for _ in range(STEPS):
        searching = low < high
        middle = (low + high) // 2
        less = tl.load(sorted_keys + middle, mask=searching, other=0) < row
        low = tl.where(searching & less, middle + 1, low)
        high = tl.where(searching & (less == 0), middle, high)
    tl.store(starts + row, low, mask=row <= rows)


def positions_by_row(indices, rows: int):
    """(order, starts): row r of `rows` was looked up by positions order[starts[r]], ..., order[starts[r + 1] - 1] of
    the flat indices, ascending."""
    size, radix = indices.size, 2**_BITS
    blocks = ceil_div(size, _BLOCK)
    counts = empty(indices, (radix * blocks,), np.int64)
    keys, order = indices, None
    # A table of one row needs a pass too: it is what makes the order.
    for shift in range(0, max((rows - 1).bit_length(), 1), _BITS):
        sorted_keys, sorted_order = empty(indices, (size,), np.int64), empty(indices, (size,), np.int64)
        constants = {"RADIX": radix, "BLOCK": _BLOCK}
        launch(sort_counts_kernel, (blocks,), keys, counts, size, shift, **constants)
        launch(sort_starts_kernel, (1,), counts, counts.size, BLOCK=1024)
        launch(sort_order_kernel, (blocks,), keys, order, counts, sorted_keys, sorted_order, size, shift, **constants)
        keys, order = sorted_keys, sorted_order
    return order, how_many_below(keys, rows)


def how_many_below(sorted_keys, limit: int):
    """[limit + 1]: how many of ascending keys are less than 0, 1, ..., limit."""
    below, size = empty(sorted_keys, (limit + 1,), np.int64), sorted_keys.size
    steps = size.bit_length()
    launch(row_starts_kernel, (ceil_div(limit + 1, 1024),), sorted_keys, below, size, limit, STEPS=steps, BLOCK=1024)
    return below
