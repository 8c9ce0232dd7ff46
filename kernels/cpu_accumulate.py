"""What `accumulate.py` has NumPy do, as calls of kernels, for steps that are replayed without Python in between."""

from __future__ import annotations

import numpy as np

from .cpu_jit import serial_kernel
from .cpu_replay import KernelCall


@serial_kernel
def copy_kernel(target, source):
    """target = source for vectors of bytes."""
    for i in range(target.size):
        target[i] = source[i]


@serial_kernel
def add_kernel(a, b, total):
    """total = a + b for vectors; total may be a."""
    for i in range(total.size):
        total[i] = a[i] + b[i]


@serial_kernel
def fill_kernel(target, value):
    """target = value for a vector and a number."""
    for i in range(target.size):
        target[i] = value


def clear(array) -> None:
    """array[...] = 0, of a C-contiguous one."""
    fill_kernel(_bytes(array), np.uint8(0))


def add(a, b, total) -> KernelCall | None:
    return KernelCall(add_kernel, (_flat(a), _flat(b), _flat(total))) if _alike(a, b, total) else None


def add_into(target, gradient) -> KernelCall | None:
    return add(target, gradient, target)


def count(counter) -> KernelCall | None:
    return add(counter, np.ones_like(counter), counter)


def copy_into(target, gradient) -> KernelCall | None:
    return KernelCall(copy_kernel, (_bytes(target), _bytes(gradient))) if _alike(target, gradient) else None


def fill(target, value: float) -> KernelCall | None:
    return KernelCall(fill_kernel, (_flat(target), target.dtype.type(value))) if _alike(target) else None


def _alike(*arrays) -> bool:
    """Whether the arrays hold elements of one type that a kernel knows in one order, without gaps."""
    first = arrays[0]
    same = all(x.shape == first.shape and x.dtype == first.dtype and x.flags.c_contiguous for x in arrays)
    return same and first.dtype.char in "fdlq"


def _flat(x):
    return x.reshape(-1)


def _bytes(x):
    return _flat(x).view(np.uint8)
