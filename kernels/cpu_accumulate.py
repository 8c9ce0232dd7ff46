"""What `accumulate.py` has NumPy do, as calls of kernels, for steps that are replayed without Python in between.

A function of the same name takes the same arguments, and where the original returns a new array, that, and gives the
call that does it again with the same bits; None for arrays in whose type or order of memory no kernel does.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import serial_kernel
from .cpu_replay import KernelCall
from .elementwise.broadcasting import broadcast_to, merged

_TYPES = frozenset("fdlqBb?")  # of which kernels copy elements


@serial_kernel
def copy_kernel(target, source):
    """target = source for vectors of bytes."""
    for i in range(target.size):
        target[i] = source[i]


@serial_kernel
def copy_blocks_kernel(target, source):
    """target = source for arrays of three axes."""
    for i in range(target.shape[0]):
        for k in range(target.shape[1]):
            for m in range(target.shape[2]):
                target[i, k, m] = source[i, k, m]


@serial_kernel
def fill_kernel(target, value):
    """target = value for a vector and a number."""
    for i in range(target.size):
        target[i] = value


@serial_kernel
def fill_blocks_kernel(target, value):
    """target = value for an array of three axes and a number."""
    for i in range(target.shape[0]):
        for k in range(target.shape[1]):
            for m in range(target.shape[2]):
                target[i, k, m] = value


@serial_kernel
def add_kernel(a, b, total):
    """total = a + b for vectors; total may be a."""
    for i in range(total.size):
        total[i] = a[i] + b[i]


@serial_kernel
def add_blocks_kernel(target, addend):
    """target += addend for arrays of three axes."""
    for i in range(target.shape[0]):
        for k in range(target.shape[1]):
            for m in range(target.shape[2]):
                target[i, k, m] += addend[i, k, m]


@serial_kernel
def sum_rows_kernel(x, total):
    """total = the sum of x's rows, one after another."""
    for c in range(total.size):
        total[c] = x[0, c]
    for r in range(1, x.shape[0]):
        for c in range(total.size):
            total[c] += x[r, c]


@serial_kernel
def divide_kernel(x, divisor, quotient):
    """quotient = x / divisor for vectors and a number; quotient may be x."""
    for i in range(quotient.size):
        quotient[i] = x[i] / divisor


def clear(array) -> None:
    """array[...] = 0, of a C-contiguous one."""
    fill_kernel(_bytes(array), np.uint8(0))


def add(a, b, total) -> KernelCall | None:
    return KernelCall(add_kernel, (_flat(a), _flat(b), _flat(total))) if _alike(a, b, total) else None


def add_into(target, gradient) -> KernelCall | None:
    if _alike(target, gradient) or target.dtype != gradient.dtype:
        return add(target, gradient, target)
    blocks = _blocks(target, broadcast_to(gradient, target.shape))
    return None if blocks is None else KernelCall(add_blocks_kernel, blocks)


def count(counter) -> KernelCall | None:
    return add(counter, np.ones_like(counter), counter)


def copy_into(target, gradient) -> KernelCall | None:
    if _alike(target, gradient):
        return KernelCall(copy_kernel, (_bytes(target), _bytes(gradient)))
    if target.dtype != gradient.dtype:
        return None
    blocks = _blocks(target, broadcast_to(gradient, target.shape))
    return None if blocks is None else KernelCall(copy_blocks_kernel, blocks)


def fill(target, value: float) -> KernelCall | None:
    if _alike(target):
        return KernelCall(fill_kernel, (_flat(target), target.dtype.type(value)))
    blocks = _blocks(target)
    return None if blocks is None else KernelCall(fill_blocks_kernel, (*blocks, target.dtype.type(value)))


def sum_rows(x, total) -> KernelCall | None:
    # NumPy adds a single column, and columns that are contiguous, in pairs.
    in_order = x.shape[0] > 0 and x.shape[1] > 1 and x.strides[1] == x.itemsize <= x.strides[0]
    return KernelCall(sum_rows_kernel, (x, total)) if in_order and x.dtype.char in "fd" else None


def divide(x, divisor: float, quotient) -> KernelCall | None:
    alike = _alike(x, quotient) and x.dtype.char in "fd"
    return KernelCall(divide_kernel, (_flat(x), x.dtype.type(divisor), _flat(quotient))) if alike else None


def _alike(*arrays) -> bool:
    """Whether the arrays hold elements of one type that a kernel knows in one order, without gaps."""
    first = arrays[0]
    same = all(x.shape == first.shape and x.dtype == first.dtype and x.flags.c_contiguous for x in arrays)
    return same and first.dtype.char in _TYPES


def _blocks(*arrays) -> tuple | None:
    """Arrays of one shape as arrays of three axes in the same memory; None where they have more than come down to that,
    or no elements."""
    first = arrays[0]
    if first.size == 0 or first.dtype.char not in _TYPES:
        return None
    sizes, strides = merged(first.shape, *(x.strides for x in arrays))
    missing = 3 - len(sizes)
    if missing < 0:
        return None
    shape = (1,) * missing + tuple(sizes)
    return tuple(
        np.lib.stride_tricks.as_strided(x, shape, (0,) * missing + tuple(steps)) for x, steps in zip(arrays, strides)
    )


def _flat(x):
    return x.reshape(-1)


def _bytes(x):
    return _flat(x).view(np.uint8)
