"""Devices by name: 'cpu' for NumPy arrays, 'cuda' or 'cuda:1' for CuPy arrays; arrays moved, copied and cast on either.
CuPy is imported only when asked for."""

from __future__ import annotations

import importlib.util

import numpy as np

from . import memory


class OutOfMemory(MemoryError):
    """The GPU has less memory left than an operation asks for."""


def device_of(array) -> str:
    """'cpu' or 'cuda:<index>': where an array lies."""
    return "cpu" if type(array) is np.ndarray else f"cuda:{array.device.id}"


def device_and_dtype(device, dtype) -> tuple:
    """Both, where a type stands alone in the place of the device, as in `x.to(np.float64)`."""
    if dtype is not None or device is None or (isinstance(device, str) and device.partition(":")[0] in ("cpu", "cuda")):
        return device, dtype
    try:
        return None, np.dtype(device)
    except TypeError:
        raise ValueError(f"to: expected device as 'cpu', 'cuda' or 'cuda:<index>', or a type, got {device!r}") from None


def to_device(array, device: str):
    """The array on `device`: itself if it lies there already, else a copy.

    Raises:
        ValueError: the device's name is none, or there is no such GPU.
        ModuleNotFoundError: a GPU is asked for and CuPy is not installed.
        OutOfMemory: the GPU has not that much memory left.
    """
    index = _parse(device)
    if index is None:
        return array if type(array) is np.ndarray else _gpu_arrays().contiguous(array).get()
    cupy = _cupy(device, index)
    if type(array) is not np.ndarray and array.device.id == index:
        return array
    with cupy.cuda.Device(index):
        try:
            # CuPy would fill an array of no axis with a kernel that it compiles first.
            return cupy.asarray(array.reshape(1)).reshape(()) if array.ndim == 0 else cupy.asarray(array)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise out_of_memory("to_device", f"{array.dtype} {array.shape}", array.nbytes, index) from error


def cast(array, dtype):
    """The array as `dtype`: itself if it has that type, else a new one."""
    if array.dtype == dtype:
        return array
    return array.astype(dtype) if type(array) is np.ndarray else _gpu_arrays().cast(array, dtype)


def copied(array, dtype=None):
    """A C-contiguous copy in memory of its own, as `dtype` if one is given."""
    dtype = array.dtype if dtype is None else dtype
    if type(array) is np.ndarray:
        with memory.supplied_by(None):  # a captured step's plan knows nothing of it: it may outlive the step
            copy = memory.empty(array.shape, dtype)
        np.copyto(copy, array, casting="unsafe")
        return copy
    gpu_arrays = _gpu_arrays()
    target = gpu_arrays.empty(array, dtype=dtype)
    gpu_arrays.copy_into(target, array)
    return target


def reshaped(array, shape: tuple[int, ...]):
    """The elements in another shape, of which one size may be -1: a view where strides allow it, else a copy.

    Raises:
        ValueError: a shape of another number of elements.
    """
    if type(array) is np.ndarray or array.flags.c_contiguous:
        return array.reshape(shape)
    view = array.view()
    try:
        view.shape = shape
    except AttributeError:  # CuPy's word for strides that do not allow it; it would copy with a kernel that it compiles
        return _gpu_arrays().contiguous(array).reshape(shape)
    return view


def nonzero(array) -> tuple:
    """An array of indices for each axis: where the elements are that are not 0, rows first.

    How many there are decides what memory is needed, so the host waits for a GPU to count them.
    """
    if type(array) is np.ndarray:
        return array.nonzero()
    from .shape import gpu_nonzero

    return gpu_nonzero.nonzero(array)


def out_of_memory(asking: str, purpose: str, size: int, device: int) -> OutOfMemory:
    """The error that names who asked for `size` bytes of a device's memory, what for, and what there is."""
    import cupy

    with cupy.cuda.Device(device):
        free, total = cupy.cuda.runtime.memGetInfo()
    return OutOfMemory(
        f"{asking}: expected {size:,} bytes of GPU memory for {purpose}, "
        f"got {free:,} free of {total:,} on cuda:{device}"
    )


def _parse(device: str) -> int | None:
    """None for the CPU, the GPU's index otherwise."""
    if device == "cpu":
        return None
    kind, _, index = str(device).partition(":")
    if kind == "cuda" and (index == "" or index.isdecimal()):
        return int(index or 0)
    raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")


def _gpu_arrays():
    from . import gpu_arrays  # not before the first GPU array: machines without one have no Triton

    return gpu_arrays


def _cupy(device: str, index: int):
    if importlib.util.find_spec("cupy") is None:
        raise ModuleNotFoundError(
            f"device {device!r}: CuPy is not installed; `pip install ranvier[cuda13]` (or [cuda12]) brings it"
        )
    import cupy

    count = cupy.cuda.runtime.getDeviceCount() if cupy.cuda.is_available() else 0
    if index >= count:
        raise ValueError(f"device: expected one of this machine's {count} GPUs, got {device!r}; see `ranvier devices`")
    return cupy
