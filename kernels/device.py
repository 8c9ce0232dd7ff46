"""Devices by name: 'cpu' for NumPy arrays, 'cuda' or 'cuda:1' for CuPy arrays. CuPy is imported only when asked for."""

from __future__ import annotations

import importlib.util

import numpy as np


def device_of(array) -> str:
    """'cpu' or 'cuda:<index>': where an array lies."""
    return "cpu" if type(array) is np.ndarray else f"cuda:{array.device.id}"


def to_device(array, device: str):
    """The array on `device`: itself if it lies there already, else a copy.

    Raises:
        ValueError: the device's name is none, or there is no such GPU.
        ModuleNotFoundError: a GPU is asked for and CuPy is not installed.
    """
    index = _parse(device)
    if index is None:
        return array if type(array) is np.ndarray else array.get()
    cupy = _cupy(device, index)
    if type(array) is not np.ndarray and array.device.id == index:
        return array
    with cupy.cuda.Device(index):
        return cupy.asarray(array)


def _parse(device: str) -> int | None:
    """None for the CPU, the GPU's index otherwise."""
    if device == "cpu":
        return None
    kind, _, index = str(device).partition(":")
    if kind == "cuda" and (index == "" or index.isdecimal()):
        return int(index or 0)
    raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")


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
