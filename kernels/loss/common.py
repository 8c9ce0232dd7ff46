"""What the declarations of all losses share: their checks, costs and samples."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..check import check_choice, check_float, check_same_dtype, check_shape, refuse_type, refuse_value
from ..operation import Cost

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(operation: str, reduction, choices: tuple = REDUCTIONS) -> None:
    """reduction is one of the choices."""
    check_choice(operation, "reduction", reduction, choices)


def check_flag(operation: str, argument: str, value) -> None:
    """value is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        refuse_type(operation, argument, "as True or False", type(value).__qualname__)


def check_pair(operation: str, input, target, reduction, choices: tuple = REDUCTIONS) -> None:
    """input and target are floating-point arrays of one type and one shape: nothing is broadcast silently."""
    check_float(operation, "input", input)
    check_same_dtype(operation, "input", input, "target", target)
    if target is None:
        refuse_type(operation, "target", "as a NumPy or CuPy array", "None")
    check_shape(operation, "target", target, input.shape, "input's")
    check_reduction(operation, reduction, choices)


def check_weight(operation: str, argument: str, weight, input) -> None:
    """weight, where there is one, has input's type and broadcasts to input's shape without stretching it."""
    check_same_dtype(operation, "input", input, argument, weight)
    if weight is None:
        return
    fits = weight.ndim <= input.ndim and all(w in (1, n) for w, n in zip(weight.shape[::-1], input.shape[::-1]))
    if not fits:
        refuse_value(operation, argument, f"that broadcasts to input's shape {input.shape}", weight.shape)


def check_values(operation, argument, expectation, x, low, high=math.inf, *, ends=False, nan=False) -> None:
    """Every value of x lies in [low, high], or with `ends` is one of the two, or with `nan` is NaN.

    Reads the whole array, on the GPU too (one small kernel that the host waits for).
    """
    if type(x) is np.ndarray:
        strange = _first_outside(x, low, high, ends, nan)
    else:
        from .gpu_check import first_outside  # not before the first GPU array: machines without one have no Triton

        strange = first_outside(x, low, high, ends=ends, nan=nan)
    if strange is not None:
        refuse_value(operation, argument, expectation, strange)


def _first_outside(x, low, high, ends, nan):
    if x.dtype.char in "fd" and not _any_outside()(x, low, high, ends, nan):
        return None
    right = (x == low) | (x == high) if ends else (x >= low) & (x <= high)
    if nan:
        right |= x != x
    return None if right.all() else x[~right].ravel()[0].item()


@functools.cache
def _any_outside():
    from .cpu_check import any_outside  # not before the first values: `import ranvier` goes without Numba

    return any_outside


def check_unit_interval(operation: str, argument: str, x) -> None:
    """Every value lies in [0, 1]; NaN does not."""
    check_values(operation, argument, "in [0, 1]", x, 0, 1)


def elementwise_cost(operations: int):
    """The cost of a loss that does so many operations an element."""

    def cost(input, *others, reduction="mean", **attributes):
        read = sum(getattr(x, "size", 0) for x in (input, *others))
        written = input.size if reduction == "none" else 1
        return Cost(flops=operations * input.size, bytes=(read + written) * input.dtype.itemsize)

    return cost


def all_elements(input, *others, **attributes) -> int:
    """How many terms the sum over all elements has."""
    return max(input.size, 1)


def vary_shape(pick, most_axes: int = 3) -> tuple[int, ...]:
    """A random shape, of no axes and of empty axes too."""
    return tuple(pick(0, 9) for _ in range(pick(0, most_axes)))
