"""Where elements of CuPy arrays are not 0: how many each stretch has, where each stretch's positions go, and they go
there, in order. Nothing is added atomically, so the same array gives the same positions."""

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, fetched
from ..launch import ceil_div, empty, launch

_BLOCK = 1024


@triton.jit
def nonzero_counts_kernel(x, counts, size, BLOCK: tl.constexpr):
    """counts[block] = how many elements of a stretch of x are not 0."""
    block = tl.program_id(0).to(tl.int64)
    index = block * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(x + index, mask=index < size, other=0) != 0
    tl.store(counts + block, tl.sum(found.to(tl.int32), axis=0).to(tl.int64))


@triton.jit
def nonzero_starts_kernel(counts, starts, blocks, BLOCK: tl.constexpr):
    """starts[b] = the sum of all counts before b, for b = 0, ..., blocks. One program walks them."""
    before = tl.zeros((1,), tl.int64)
    for start in range(0, blocks + 1, BLOCK):
        index = start + tl.arange(0, BLOCK)
        count = tl.load(counts + index, mask=index < blocks, other=0)
        tl.store(starts + index, before + tl.cumsum(count, axis=0) - count, mask=index <= blocks)
        before += tl.sum(count, axis=0)


@triton.jit
def nonzero_places_kernel(x, starts, places, size, BLOCK: tl.constexpr):
    """places = the places in x, as it lies in memory, of what is not 0, in order."""
    block = tl.program_id(0).to(tl.int64)
    index = block * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(x + index, mask=index < size, other=0) != 0
    rank = tl.cumsum(found.to(tl.int32), axis=0) - 1
    tl.store(places + tl.load(starts + block) + rank, index, mask=found)


@triton.jit
def coordinate_kernel(places, coordinates, count, inner, size, BLOCK: tl.constexpr):
    """coordinates = the places' indices along an axis of `size` with `inner` elements between neighbours."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(places + index, mask=index < count, other=0)
    tl.store(coordinates + index, place // inner % size, mask=index < count)


def nonzero(x) -> tuple:
    """As `numpy.nonzero`: an int64 array for each axis of x, the indices of elements that are not 0, rows first. The
    host waits for their number."""
    x, blocks = contiguous(x), ceil_div(x.size, _BLOCK)
    if x.size == 0:
        return tuple(empty(x, (0,), np.int64) for _ in x.shape)
    counts, starts = empty(x, (blocks,), np.int64), empty(x, (blocks + 1,), np.int64)
    launch(nonzero_counts_kernel, (blocks,), x, counts, x.size, BLOCK=_BLOCK)
    launch(nonzero_starts_kernel, (1,), counts, starts, blocks, BLOCK=_BLOCK)
    count = int(fetched(starts[blocks:])[0])
    places = empty(x, (count,), np.int64)
    if count:  # else there is nothing to write, and an empty array may have no address
        launch(nonzero_places_kernel, (blocks,), x, starts, places, x.size, BLOCK=_BLOCK)
    coordinates, inner = [], x.size
    for size in x.shape:
        inner //= size
        along = empty(x, (count,), np.int64)
        launch(coordinate_kernel, (ceil_div(count, _BLOCK),), places, along, count, inner, size, BLOCK=_BLOCK)
        coordinates.append(along)
    return tuple(coordinates)
