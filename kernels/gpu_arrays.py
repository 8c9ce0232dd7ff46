"""What every GPU family needs of arrays beside its mathematics: copies, casts, fills, sums of two, extents.

CuPy would compile such things with NVRTC when first called, which takes seconds and cannot be captured in a graph;
these are Triton kernels like the rest.
"""

from __future__ import annotations

import math

import numpy as np
import triton
import triton.language as tl

from .elementwise.broadcasting import broadcast_to, merged
from .launch import ceil_div, empty, launch

_BLOCK = 1024


@triton.jit
def copy_kernel(
    source, target, size,
    size_1, size_2, size_3, size_4,
    source_0, source_1, source_2, source_3, source_4,
    target_0, target_1, target_2, target_3, target_4,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """target = source, element by element of an index space of five axes; strides in elements, any sign.

    A program takes BLOCK neighbours of the last axis first, so that at least one side is read or written in a row.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    last = index % size_4
    rest = index // size_4
    from_offset, to_offset = last * source_4, last * target_4
    last = rest % size_3
    rest = rest // size_3
    from_offset, to_offset = from_offset + last * source_3, to_offset + last * target_3
    last = rest % size_2
    rest = rest // size_2
    from_offset, to_offset = from_offset + last * source_2, to_offset + last * target_2
    last = rest % size_1
    rest = rest // size_1
    from_offset, to_offset = from_offset + last * source_1, to_offset + last * target_1
    from_offset, to_offset = from_offset + rest * source_0, to_offset + rest * target_0
    value = tl.load(source + from_offset, mask=inside)
    tl.store(target + to_offset, value.to(target.dtype.element_ty), mask=inside)


@triton.jit
def fill_kernel(target, value, size, BLOCK: tl.constexpr):
    """target = value."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    filled = tl.zeros((BLOCK,), tl.float32) + value
    tl.store(target + index, filled.to(target.dtype.element_ty), mask=index < size)


@triton.jit
def sum_of_two_kernel(a, b, target, size, BLOCK: tl.constexpr):
    """target = a + b, in float32 for half types."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    left, right = tl.load(a + index, mask=inside), tl.load(b + index, mask=inside)
    if left.dtype == tl.float16 or left.dtype == tl.bfloat16:
        left, right = left.to(tl.float32), right.to(tl.float32)
    tl.store(target + index, (left + right).to(target.dtype.element_ty), mask=inside)


@triton.jit
def count_kernel(counter):
    """counter += 1, of one element."""
    tl.store(counter, tl.load(counter) + 1)


@triton.jit
def extent_kernel(x, smallest, largest, size, ignored, IGNORE: tl.constexpr, BLOCK: tl.constexpr):
    """The smallest and largest integer of each of the grid's stretches of x, without those equal to `ignored`."""
    low = tl.full((BLOCK,), 0x7FFFFFFFFFFFFFFF, tl.int64)
    high = tl.full((BLOCK,), -0x7FFFFFFFFFFFFFFF, tl.int64)
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, step):
        index = start + tl.arange(0, BLOCK)
        value = tl.load(x + index, mask=index < size, other=0).to(tl.int64)
        counts = index < size
        if IGNORE:
            counts = counts & (value != ignored)
        low = tl.where(counts, tl.minimum(low, value), low)
        high = tl.where(counts, tl.maximum(high, value), high)
    tl.store(smallest + tl.program_id(0), tl.min(low, axis=0))
    tl.store(largest + tl.program_id(0), tl.max(high, axis=0))


def contiguous(x):
    """x itself if it is C-contiguous, else a C-contiguous copy."""
    if x.flags.c_contiguous:
        return x
    target = empty(x)
    copy_into(target, x)
    return target


def cast(x, dtype):
    """x as `dtype`: itself if it has that type, else a C-contiguous copy."""
    if x.dtype == dtype:
        return x
    target = empty(x, dtype=dtype)
    copy_into(target, x)
    return target


def copy_into(target, source) -> None:
    """target[...] = source, for arrays of one shape, of any strides and types."""
    shape, steps = merged(target.shape, strides(source), strides(target))
    if len(shape) > 5:
        # More axes than the kernel has, and none to merge: one copy for each index of the first.
        for index in range(target.shape[0]):
            copy_into(target[index], source[index])
        return
    missing = 5 - len(shape)
    sizes = [1] * missing + shape
    source_strides, target_strides = ([0] * missing + list(side) for side in steps)
    size = math.prod(sizes)
    launch(
        copy_kernel, (ceil_div(size, _BLOCK),), source, target, size, *sizes[1:], *source_strides, *target_strides,
        BLOCK=_BLOCK,
    )  # fmt: skip


def fill(x, value: float) -> None:
    """x[...] = value, for a value that float32 holds."""
    if not x.flags.c_contiguous:
        one = empty(x, (1,) * x.ndim)
        fill(one, value)
        copy_into(x, broadcast_to(one, x.shape))
        return
    launch(fill_kernel, (ceil_div(x.size, _BLOCK),), x, float(value), x.size, BLOCK=_BLOCK)


def zeros(like, shape=None, dtype=None):
    """A C-contiguous array of zeros on the device of `like`, by default of its shape and dtype."""
    x = empty(like, shape, dtype)
    fill(x, 0.0)
    return x


def add(a, b, out=None):
    """a + b for arrays of one shape and type; `out` may be one of them if it is C-contiguous."""
    out = empty(a) if out is None else out
    a, b = contiguous(a), contiguous(b)
    launch(sum_of_two_kernel, (ceil_div(out.size, _BLOCK),), a, b, out, out.size, BLOCK=_BLOCK)
    return out


def count(counter) -> None:
    """counter += 1, of one element."""
    launch(count_kernel, (1,), counter)


def extent(indices, ignored: int | None = None) -> tuple[int, int] | None:
    """The smallest and largest of an integer array, without those equal to `ignored`; None if none is left. The host
    waits for it."""
    programs = min(ceil_div(indices.size, _BLOCK), 256)
    if programs == 0:
        return None
    bounds = empty(indices, (2, programs), np.int64)
    launch(
        extent_kernel, (programs,), contiguous(indices), bounds[0], bounds[1], indices.size, ignored or 0,
        IGNORE=ignored is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    on_host = fetched(bounds)
    low, high = int(on_host[0].min()), int(on_host[1].max())
    return None if low > high else (low, high)


def fetched(x) -> np.ndarray:
    """The values on the host, which waits for them."""
    return x if type(x) is np.ndarray else x.get()


def strides(x) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(stride // x.itemsize for stride in x.strides)
