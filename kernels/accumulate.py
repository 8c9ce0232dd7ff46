"""Sums of gradients, for the tape: out of place for what others may hold, in place for what a parameter owns."""

from __future__ import annotations

import numpy as np

from .memory import empty


def add(a, b):
    """a + b in a new array. Both have one shape and one dtype."""
    return np.add(a, b, out=empty(a.shape, a.dtype))


def add_into(target, gradient) -> None:
    """target += gradient."""
    np.add(target, gradient, out=target)


def copy_into(target, gradient) -> None:
    """target[...] = gradient."""
    np.copyto(target, gradient)
