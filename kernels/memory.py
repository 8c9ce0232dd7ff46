"""Where kernels on NumPy arrays get their outputs and scratch: one door for every allocation on the CPU."""

from __future__ import annotations

import numpy as np

# Tests set this, so that an element that no kernel wrote shows up as NaN (or -1 as far as integers have no NaN).
poison = False


def empty(shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """A C-contiguous array with unspecified contents."""
    array = np.empty(shape, dtype)
    if poison:
        array.fill(np.nan if array.dtype.kind == "f" else array.dtype.type(-1) if array.dtype.kind == "i" else 1)
    return array


def zeros(shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """A C-contiguous array of zeros."""
    return np.zeros(shape, dtype)
