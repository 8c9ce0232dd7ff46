"""Where kernels on NumPy arrays get their outputs and scratch: one door for every allocation on the CPU. `empty` of
`launch.py` is the door on GPUs, and asks the same supplier.

    with supplied_by(take): ...    this thread's arrays come from `take`: a captured step's plan, say
    empty_cache()                  memory that is kept for the next arrays goes back to the system
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading

import numpy as np

from . import memory_pool

_LARGE = 1 << 15  # bytes
_FEW = _LARGE // 8  # elements: of no type are so many large
_BYTE = np.dtype(np.uint8)

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


def empty_cache() -> int:
    """Gives memory back that was kept when its arrays were gone: to the system, or to the GPU, CuPy's memory pool's.

    Not needed for Ranvier's own sake, which takes up kept memory before it asks for more. Other processes may want it.

    Returns:
        How many bytes of the CPU's memory were given back.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and cupy.cuda.is_available():
        cupy.get_default_memory_pool().free_all_blocks()
    return memory_pool.release()


def fresh(shape, dtype, gpu: None = None) -> np.ndarray:
    """For `supplied_by`: an array of NumPy's own, which tracemalloc sees come and go."""
    return np.empty(shape, dtype)


def empty(shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """A C-contiguous array with unspecified contents, as np.empty.

    What is not small begins at a cache line, or every vector that a kernel stores would touch two (a product's tiles
    took up to half as long again), and lies in memory that is kept.
    """
    take = _supplier.take
    size = math.prod(shape) if type(shape) is tuple else shape
    if take is not None:
        array = take(shape, dtype)
    elif size <= _FEW or size * (dtype := np.dtype(dtype)).itemsize <= _LARGE:
        array = np.empty(shape, dtype)
    else:
        array = memory_pool.take(shape, dtype)
    if poison:
        array.fill(np.nan if array.dtype.kind == "f" else array.dtype.type(-1) if array.dtype.kind == "i" else 1)
    return array


def zeros(shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """A C-contiguous array of zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


@functools.lru_cache(maxsize=256)
def constant(count: int, dtype, value: float) -> np.ndarray:
    """A vector of one value, such as a weight that is not there. Not to be written to: others get the same one."""
    return np.full(count, value, dtype)


class _Workspaces(threading.local):
    def __init__(self):
        self.kept: dict[str, tuple] = {}  # by name: the memory, and the shape, type and array that it last was


_workspaces = _Workspaces()
_NEVER = None, None, None, None


def workspace(name: str, shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """Scratch for the length of one kernel call, with unspecified contents: the calling thread keeps its memory and
    hands it out again for the next call under this name, so that no page of it is asked for twice."""
    kept, last_shape, last_dtype, array = _workspaces.kept.get(name, _NEVER)
    if last_shape != shape or last_dtype is not dtype:
        wanted = (math.prod(shape) if type(shape) is tuple else shape) * np.dtype(dtype).itemsize
        if kept is None or kept.size < wanted:
            kept = memory_pool.take(max(wanted, _LARGE + 1), _BYTE)
        array = np.ndarray(shape, dtype, kept)
        _workspaces.kept[name] = kept, shape, dtype, array
    if poison and array.dtype.kind == "f":
        array.fill(np.nan)
    return array
