"""Where kernels on NumPy arrays get their outputs and scratch: one door for every allocation on the CPU. `empty` of
`launch.py` is the door on GPUs, and asks the same supplier."""

from __future__ import annotations

import contextlib
import math
import threading

import numpy as np

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_WORTH_ALIGNING = 1 << 15  # bytes
_FEW = _WORTH_ALIGNING // 8  # elements: of no type are so many worth aligning

# Tests set this, so that an element that no kernel wrote shows up as NaN (or -1 as far as integers have no NaN).
poison = False


class _Supplier(threading.local):
    take = None


_supplier = _Supplier()


@contextlib.contextmanager
def supplied_by(take):
    """Within it, this thread's arrays come from `take(shape, dtype, gpu)`, where gpu is a GPU's index, left out on the
    CPU; from NumPy and CuPy where `take` is None."""
    before, _supplier.take = _supplier.take, take
    try:
        yield
    finally:
        _supplier.take = before


def supplier():
    """What this thread's arrays come from, as `supplied_by` has it."""
    return _supplier.take


def _empty(shape, dtype):
    """As np.empty; what is not small begins at a cache line, or every vector that a kernel stores would touch two: a
    product's tiles took up to half as long again."""
    size = math.prod(shape) if type(shape) is tuple else shape
    if size <= _FEW or size * (dtype := np.dtype(dtype)).itemsize <= _WORTH_ALIGNING:
        return np.empty(shape, dtype)
    array = np.empty(size + _ALIGNMENT // dtype.itemsize, dtype)
    start = -array.__array_interface__["data"][0] % _ALIGNMENT // dtype.itemsize
    return array[start : start + size].reshape(shape)


def empty(shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """A C-contiguous array with unspecified contents."""
    take = _supplier.take
    array = _empty(shape, dtype) if take is None else take(shape, dtype)
    if poison:
        array.fill(np.nan if array.dtype.kind == "f" else array.dtype.type(-1) if array.dtype.kind == "i" else 1)
    return array


def zeros(shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """A C-contiguous array of zeros."""
    take = _supplier.take
    if take is None:
        return np.zeros(shape, dtype)
    array = take(shape, dtype)
    array.fill(0)
    return array


class _Workspaces(threading.local):
    def __init__(self):
        self.bytes: dict[str, np.ndarray] = {}


_workspaces = _Workspaces()


def workspace(name: str, shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """Scratch for the length of one kernel call, with unspecified contents: the calling thread keeps its memory and
    hands it out again for the next call under this name, so that no page of it is asked for twice."""
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    wanted = size * np.dtype(dtype).itemsize
    kept = _workspaces.bytes.get(name)
    if kept is None or kept.size < wanted:
        kept = _workspaces.bytes[name] = _empty(max(wanted, _WORTH_ALIGNING), np.uint8)
    array = kept[:wanted].view(dtype).reshape(shape)
    if poison and array.dtype.kind == "f":
        array.fill(np.nan)
    return array
