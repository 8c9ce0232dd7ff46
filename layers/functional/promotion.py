"""Mixed types, as PyTorch promotes them, so that kernels see operands of one type.

bool < integer < floating-point. Among operands of the highest kind, arrays of one axis or more decide, then scalars
(arrays of no axis), then Python numbers; a number therefore never widens an array of its own kind.
"""

import numpy as np

from ...kernels import device as devices
from ...kernels.check import FLOATS, HALF_TYPES
from ..tensor import Tensor, record

__all__ = []

_DEFAULTS = (np.dtype(bool), np.dtype(np.int64), np.dtype(np.float32))
_NUMBERS = {bool: 0, int: 1, float: 2}


def _kind(dtype) -> int:
    return 2 if dtype in FLOATS else 0 if dtype.kind == "b" else 1


def _wider(a, b):
    if a == b:
        return a
    # float16 and bfloat16 meet in float32; NumPy knows no bfloat16 and asks for its kind's rule otherwise.
    if a in HALF_TYPES and b in HALF_TYPES:
        return np.dtype(np.float32)
    if a in HALF_TYPES or b in HALF_TYPES:
        return b if a in HALF_TYPES else a
    return np.promote_types(a, b)


def common_dtype(*operands):
    """The type in which operands of mixed types meet."""
    best = {}
    for x in operands:
        if type(x) in _NUMBERS:
            rank, dtype = 0, _DEFAULTS[_NUMBERS[type(x)]]
        else:
            rank, dtype = (2 if x.ndim else 1), x.dtype
        key = (_kind(dtype), rank)
        best[key] = _wider(best[key], dtype) if key in best else dtype
    kind = max(kind for kind, _ in best)
    return best[max(key for key in best if key[0] == kind)]


def cast(input, dtype):
    """input as `dtype`; its gradient goes back in input's own type."""
    dtype = np.dtype(dtype)
    if input.dtype == dtype:
        return input
    if not isinstance(input, Tensor):
        return devices.cast(input, dtype)
    return record("cast", _cast_backward, input.dtype, (input,), devices.cast(input.array, dtype))


def _cast_backward(dtype, grad, needs):
    return (devices.cast(grad, dtype),)


def promoted(operation: str, *operands, at_least=None):
    """The operands, arrays among them in their common type and NumPy's scalars as Python numbers.

    Args:
        operation: whose name an error begins with.
        operands: tensors, arrays, numbers.
        at_least: a number that takes part in the choice of the type, such as 1.0 where a result has fractions.
    """
    if _are_of_one_float_type(operands):
        return operands
    operands = [x.item() if isinstance(x, np.generic) else x for x in operands]
    for x in operands:
        if type(x) not in _NUMBERS and not hasattr(x, "dtype"):
            raise TypeError(f"{operation}: expected tensors, arrays or numbers, got {type(x).__qualname__}")
    first = operands[0]
    if at_least is None and all(hasattr(x, "dtype") and x.dtype == first.dtype for x in operands):
        return operands
    dtype = common_dtype(*operands) if at_least is None else common_dtype(*operands, at_least)
    return [cast(x, dtype) if hasattr(x, "dtype") else x for x in operands]


def _are_of_one_float_type(operands: tuple) -> bool:
    """Whether they are tensors and NumPy arrays of one floating-point type, and numbers beside them: the usual ones,
    which stay as they are."""
    dtype = None
    for x in operands:
        if type(x) in _NUMBERS:
            continue
        array = x.array if isinstance(x, Tensor) else x
        if type(array) is not np.ndarray or (dtype is not None and array.dtype != dtype):
            return False
        dtype = array.dtype
    return dtype in FLOATS
