"""Indices in NumPy arrays, looked at before a kernel touches memory with them."""

import numpy as np

from .cpu_jit import serial_kernel


@serial_kernel
def all_in_range(indices, low, last, skips, ignored):
    """Whether every index, a vector of integers, lies in low..last, or where it `skips` some equals `ignored`."""
    outside = False
    for i in range(indices.size):
        index = np.int64(indices[i])
        outside |= ((index < low) | (index > last)) & ((not skips) | (index != ignored))
    return not outside


@serial_kernel
def require_in_range(indices, low, last, skips, ignored):
    """Raises ValueError unless `all_in_range`."""
    if not all_in_range(indices, low, last, skips, ignored):
        raise ValueError("an index out of range")
