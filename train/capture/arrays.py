"""What a captured step asks of arrays and their memory: NumPy's on the CPU, CuPy's on a GPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import numpy as np

from ...kernels import accumulate, memory
from ...kernels.device import out_of_memory


def is_array(x) -> bool:
    """Whether it is an array, of either kind."""
    return isinstance(x, np.ndarray) or _on_gpu(x)


def gpu_of(array) -> int | None:
    """The index of the GPU that an array lies on; None on the CPU."""
    return array.data.device_id if _on_gpu(array) else None


def on(gpu: int | None) -> contextlib.AbstractContextManager:
    """Within it, that GPU is CuPy's current one."""
    if gpu is None:
        return contextlib.nullcontext()
    import cupy

    return cupy.cuda.Device(gpu)


def owner_of(array):
    """What owns the memory that an array looks at: a NumPy array, or CuPy's object for a piece of a GPU's memory."""
    if _on_gpu(array):
        return array.data.mem
    while True:
        base = array.base
        if base is not None and not isinstance(base, np.ndarray):
            base = getattr(base, "base", None)  # what NumPy's stride tricks put in between
        if not isinstance(base, np.ndarray):
            return array
        array = base


def address_of(array) -> int:
    """Where an array's first element lies."""
    return array.data.ptr if _on_gpu(array) else array.ctypes.data


def copy_of(array):
    """A copy whose axes lie in the same order.

    Raises:
        OutOfMemory: the GPU has not that much memory left.
    """
    if not _on_gpu(array):
        return np.array(array)
    import cupy

    with cupy.cuda.Device(gpu_of(array)), _asking(f"a copy of an argument, {array.dtype} {array.shape}", array.nbytes):
        target = cupy.empty_like(array)
    accumulate.copy_into(target, array)
    return target


def watched(shape, dtype, gpu: int | None):
    """A new array whose owner can be referred to weakly. Where a GPU is full, the error is CuPy's, which
    `kernels.launch.empty` turns into one that names the pass that asked for memory."""
    if gpu is None:
        with memory.supplied_by(None):
            return memory.empty(shape, dtype)
    import cupy

    with cupy.cuda.Device(gpu):
        plain = cupy.empty(shape, dtype)
        owned = _watched_memory()(plain.data.ptr, plain.nbytes, plain.data.mem, gpu)
        return cupy.ndarray(plain.shape, plain.dtype, cupy.cuda.MemoryPointer(owned, 0))


def piece_of(size: int, gpu: int | None):
    """A new array of bytes for a part of a step's plan.

    Raises:
        OutOfMemory: the GPU has not that much memory left.
    """
    with on(gpu), contextlib.nullcontext() if gpu is None else _asking("arrays of the step", size):
        return watched(size, np.uint8, gpu)


def part_of(piece, start: int, shape: tuple[int, ...], dtype: np.dtype):
    """An array in a piece of memory, an array of bytes, from byte `start` on."""
    if _on_gpu(piece):
        import cupy

        return cupy.ndarray(shape, dtype, piece.data + start)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return piece[start : start + count].view(dtype).reshape(shape)


@contextlib.contextmanager
def _asking(purpose: str, size: int) -> Iterator[None]:
    """Within it the capture itself asks CuPy's current device for memory; a full one is the library's error."""
    import cupy

    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise out_of_memory("capture", purpose, size, cupy.cuda.get_device_id()) from error


def _on_gpu(x) -> bool:
    return type(x).__module__.partition(".")[0] == "cupy"


@functools.cache
def _watched_memory() -> type:
    import cupy

    class WatchedMemory(cupy.cuda.memory.UnownedMemory):
        """A piece of memory that another object owns. CuPy's own cannot be referred to weakly."""

    return WatchedMemory
