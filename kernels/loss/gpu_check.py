"""What a loss refuses among a target's values, found on the device; the host waits for it."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, fetched
from ..launch import ceil_div, empty, launch


@triton.jit
def first_outside_kernel(x, first, size, low, high, ENDS: tl.constexpr, NAN: tl.constexpr, BLOCK: tl.constexpr):
    """first[i] = the first place in stretch i of x whose value is not in [low, high], or with ENDS neither of the two,
    and with NAN not NaN; `size` if there is none."""
    found = tl.zeros((BLOCK,), tl.int64) + size
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, step):
        offset = start + tl.arange(0, BLOCK)
        value = tl.load(x + offset, mask=offset < size, other=0)
        if value.dtype.is_floating() and value.dtype != tl.float64:
            value = value.to(tl.float32)
        if ENDS:
            right = (value == low) | (value == high)
        else:
            right = (value >= low) & (value <= high)
        if NAN:
            right = right | (value != value)
        found = tl.where((offset < size) & (right == 0), tl.minimum(found, offset), found)
    tl.store(first + tl.program_id(0), tl.min(found, axis=0))


def first_outside(x, low: float, high: float = math.inf, *, ends: bool = False, nan: bool = False):
    """The first value of x that is not in [low, high], or with `ends` neither low nor high, and with `nan` not NaN.

    None if there is none.
    """
    programs = min(ceil_div(x.size, 1024), 256)
    if programs == 0:
        return None
    x, first = contiguous(x), empty(x, (programs,), np.int64)
    launch(
        first_outside_kernel, (programs,), x, first, x.size, float(low), float(high), ENDS=ends, NAN=nan, BLOCK=1024
    )  # fmt: skip
    place = int(fetched(first).min())
    return None if place == x.size else x.reshape(x.size)[place].item()
