"""The check of a loss's values on NumPy arrays: one pass over them, instead of one for each bound."""

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_math import wide_vectors

_BLOCK = 1 << 15  # elements that a thread looks at at a time


@kernel
def values_outside_kernel(x, low, high, ends, nan, outside):
    """outside[b] = whether one of the values of block b lies outside [low, high], or if `ends` is neither of the two;
    NaN does, unless `nan`. x: flat."""
    wide_vectors()
    low, high = x.dtype.type(low), x.dtype.type(high)
    for block in prange(outside.size):
        values, strange = x[block * _BLOCK : (block + 1) * _BLOCK], False
        if ends:
            for i in range(values.size):
                right = (values[i] == low) | (values[i] == high) | (nan & (values[i] != values[i]))
                strange |= not right
        else:
            for i in range(values.size):
                right = (values[i] >= low) & (values[i] <= high) | (nan & (values[i] != values[i]))
                strange |= not right
        outside[block] = strange


def any_outside(x, low, high, ends, nan) -> bool:
    """Whether a value of a float32 or float64 array lies outside [low, high], or if `ends` is neither of the two; NaN
    does, unless `nan`."""
    outside = np.empty(-(-x.size // _BLOCK), np.bool_)
    run = values_outside_kernel if x.size > _BLOCK else values_outside_kernel.serial
    run(x.ravel("K"), float(low), float(high), ends, nan, outside)
    return np.count_nonzero(outside) > 0
