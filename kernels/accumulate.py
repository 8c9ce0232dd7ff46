"""Sums of gradients, for the tape: out of place for what others may hold, in place for what a parameter owns; counters;
and what passes on the CPU leave to NumPy: behind these names a captured step finds it (`cpu_accumulate.py`)."""

from __future__ import annotations

import numpy as np

from .memory import empty


def add(a, b):
    """a + b in a new array. Both have one shape and one dtype."""
    if type(a) is np.ndarray:
        return np.add(a, b, out=empty(a.shape, a.dtype))
    return _gpu().add(a, b)


def add_into(target, gradient) -> None:
    """target += gradient, for a C-contiguous target. On the CPU the gradient may be stretched."""
    if type(target) is np.ndarray:
        np.add(target, gradient, out=target)
    else:
        _gpu().add(target, gradient, out=target)


def count(counter) -> None:
    """counter += 1, of one element."""
    if type(counter) is np.ndarray:
        np.add(counter, 1, out=counter)
    else:
        _gpu().count(counter)


def copy_into(target, gradient) -> None:
    """target[...] = gradient."""
    if type(target) is np.ndarray:
        np.copyto(target, gradient)
    else:
        _gpu().copy_into(target, gradient)


def empty_like(array, shape: tuple[int, ...] | None = None):
    """A C-contiguous array with unspecified contents, of the type, device and, by default, shape of `array`."""
    if type(array) is np.ndarray:
        return empty(array.shape if shape is None else shape, array.dtype)
    return _gpu().empty(array, shape)


def fill(target, value: float) -> None:
    """target[...] = value."""
    if type(target) is np.ndarray:
        target.fill(value)
    else:
        _gpu().fill(target, value)


def contiguous(x):
    """x, or where it is not C-contiguous, a copy that is. On the CPU."""
    if x.flags.c_contiguous:
        return x
    copy = empty(x.shape, x.dtype)
    copy_into(copy, x)
    return copy


def sum_rows(x):
    """The sum of a matrix's rows in a new array. On the CPU."""
    return np.sum(x, axis=0, out=empty(x.shape[1], x.dtype))


def divide(x, divisor: float, quotient=None):
    """x / divisor, in a new array or in `quotient`, which may be x. On the CPU."""
    return np.divide(x, x.dtype.type(divisor), out=empty(x.shape, x.dtype) if quotient is None else quotient)


def _gpu():
    # Imported when the first GPU array comes: machines without one have no Triton.
    from . import gpu_arrays

    return gpu_arrays
