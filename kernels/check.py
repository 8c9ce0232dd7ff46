"""The questions that every operation's check asks, and the one form of their answers:

<operation>: expected <argument> <expectation>, got <actual>
"""

from __future__ import annotations

import functools
import math
from typing import NoReturn

import ml_dtypes
import numpy as np

FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")
HALF_TYPES = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})
FLOATS = HALF_TYPES | {np.dtype(np.float32), np.dtype(np.float64)}
_REALS = (int, float, np.integer, np.floating)
INTEGERS = frozenset(np.dtype(t) for t in (np.int8, np.int16, np.int32, np.int64, np.uint8))


def refuse_value(operation: str, argument: str, expectation: str, actual: object) -> NoReturn:
    raise ValueError(f"{operation}: expected {argument} {expectation}, got {actual}")


def refuse_type(operation: str, argument: str, expectation: str, actual: object) -> NoReturn:
    raise TypeError(f"{operation}: expected {argument} {expectation}, got {actual}")


def check_array(operation: str, argument: str, x) -> None:
    """x is a NumPy or CuPy array."""
    if type(x) is not np.ndarray and type(x).__module__.partition(".")[0] != "cupy":
        refuse_type(operation, argument, "as a NumPy or CuPy array", type(x).__qualname__)


def check_float(operation: str, argument: str, x) -> None:
    """x is an array of float16, bfloat16, float32 or float64."""
    if type(x) is not np.ndarray:
        check_array(operation, argument, x)
    if x.dtype not in FLOATS:
        refuse_type(operation, argument, f"of type {', '.join(FLOAT_TYPES)}", f"{x.dtype}; .float() converts tensors")


def check_integer(operation: str, argument: str, x) -> None:
    """x is an array of int8, int16, int32, int64 or uint8."""
    check_array(operation, argument, x)
    if x.dtype not in INTEGERS:
        refuse_type(operation, argument, "of an integer type", x.dtype)


def check_same_dtype(operation: str, first: str, x, argument: str, y) -> None:
    """y, where it is not None, is an array of x's dtype."""
    if y is None:
        return
    if type(y) is not np.ndarray:
        check_array(operation, argument, y)
    if y.dtype != x.dtype:
        hint = "; .to(dtype) converts tensors and layers" if {x.dtype, y.dtype} <= FLOATS else ""
        refuse_type(operation, argument, f"of {first}'s type {x.dtype}", f"{y.dtype}{hint}")


def check_rank(operation: str, argument: str, x, ranks: int | tuple[int, ...], layout: str) -> None:
    """x has one of the ranks; `layout` names its axes for the message, such as '[N, C, H, W]'."""
    if x.ndim != ranks if type(ranks) is int else x.ndim not in ranks:
        refuse_value(operation, argument, f"as {layout}", f"shape {x.shape}")


def check_shape(operation: str, argument: str, x, shape: tuple[int, ...], layout: str) -> None:
    """x has exactly this shape; `layout` says in words where it comes from."""
    if x.shape != shape:
        refuse_value(operation, argument, f"of shape {shape} ({layout})", x.shape)


def check_number(
    operation: str,
    argument: str,
    value,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """value is a real number in [low, high], or past an open end; NaN is refused."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, _REALS)):
        refuse_type(operation, argument, "as a real number", type(value).__qualname__)
    inside = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not inside:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        refuse_value(operation, argument, f"in {interval}", value)


def check_size(operation: str, argument: str, value, low: int = 0) -> None:
    """value is an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        refuse_type(operation, argument, "as an integer", type(value).__qualname__)
    if value < low:
        refuse_value(operation, argument, f"of {low} or more", value)


def check_choice(operation: str, argument: str, value, choices: tuple) -> None:
    """value is one of the choices."""
    if value not in choices:
        refuse_value(operation, argument, f"as one of {', '.join(map(repr, choices))}", repr(value))


def check_index_range(operation: str, argument: str, indices, low: int, high: int, ignored: int | None = None) -> None:
    """Every index lies in low..high - 1 or equals `ignored`: no kernel may touch memory with one that does not.

    Reads the whole array, on the GPU too (one small kernel that the host waits for).
    """
    if type(indices) is np.ndarray and _in_range()(indices.ravel(), low, high - 1, ignored is not None, ignored or 0):
        return
    found = _extent(indices, ignored)
    if found is not None and not (low <= found[0] and found[1] < high):
        allowed = f"in [{low}, {high})" + (f" or {ignored}" if ignored is not None else "")
        refuse_value(operation, argument, allowed, found[0] if found[0] < low else found[1])


@functools.cache
def _in_range():
    from .cpu_indices import all_in_range  # not before the first indices: `import ranvier` goes without Numba

    return all_in_range


def _extent(indices, ignored: int | None) -> tuple[int, int] | None:
    """The smallest and largest index that is not `ignored`; None if there is none."""
    if type(indices) is not np.ndarray:
        from .gpu_arrays import extent  # not before the first GPU array: machines without one have no Triton

        return extent(indices, ignored)
    if ignored is not None:
        indices = indices[indices != ignored]
    return (int(indices.min()), int(indices.max())) if indices.size else None
