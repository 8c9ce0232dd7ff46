"""Tensors from data and from shapes."""

from __future__ import annotations

import operator

import numpy as np

from ..kernels import device as devices
from ..kernels.check import FLOATS, INTEGERS
from .random import generator
from .tensor import Tensor

__all__ = [
    "arange",
    "empty",
    "eye",
    "from_numpy",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "tensor",
    "zeros",
    "zeros_like",
]

_TYPES = FLOATS | INTEGERS | {np.dtype(bool)}


def tensor(data, requires_grad: bool = False, device: str | None = None, dtype=None) -> Tensor:
    """A tensor with a copy of the data.

    Args:
        data: a number, nested lists of numbers, a NumPy or CuPy array, or a tensor. Python's floats become float32,
            its integers int64; arrays keep their type.
        requires_grad: whether `backward` shall compute a gradient for it.
        device: 'cpu', 'cuda' or 'cuda:<index>'; where the data lies if None.
        dtype: another type.

    Raises:
        TypeError: data that is no array of numbers: text, objects, complex numbers.
        ValueError: lists of different lengths.
    """
    array = data.array if isinstance(data, Tensor) else data
    if type(array) is not np.ndarray and type(array).__module__.partition(".")[0] != "cupy":
        array = _from_python(array)
    if array.dtype not in _TYPES and not (dtype is not None and array.dtype.kind in "ui"):
        raise TypeError(
            f"tensor: expected data of a floating-point, integer or bool type, got {array.dtype}{_hint(array.dtype)}"
        )
    array = devices.copied(array, None if dtype is None else _dtype("tensor", dtype))
    return _placed(array, device, requires_grad)


def _hint(dtype) -> str:
    return "; dtype='int64' converts" if dtype.kind == "u" else ""


def _from_python(data) -> np.ndarray:
    """Numbers and nested sequences as an array of PyTorch's default types."""
    data, python = _unwrapped(data)
    try:
        array = np.array(data)
    except ValueError as error:
        raise ValueError(f"tensor: expected nested lists of equal lengths, got {error}") from None
    if array.dtype.kind not in "fiubV":
        raise TypeError(f"tensor: expected numbers, got {type(data).__qualname__} of {array.dtype}")
    if array.size == 0 and array.dtype == np.float64 and python:
        return array.astype(np.float32)
    if python and array.dtype.kind == "f":
        return array.astype(np.float32)
    return array.astype(np.int64) if python and array.dtype.kind in "iu" else array


def _unwrapped(data):
    """Sequences with their tensors as arrays, and whether all that is inside are Python's own numbers."""
    if isinstance(data, (list, tuple)):
        items = [_unwrapped(item) for item in data]
        return [item for item, _ in items], all(python for _, python in items)
    if isinstance(data, Tensor):
        return data.numpy(), False
    return data, isinstance(data, (bool, int, float)) and not isinstance(data, np.generic)


def _dtype(name: str, dtype) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in _TYPES:
        raise TypeError(f"{name}: expected dtype as a floating-point, integer or bool type, got {dtype}")
    return dtype


def _placed(array, device, requires_grad) -> Tensor:
    return Tensor(array if device is None else devices.to_device(array, device), requires_grad)


def _shape(name: str, size) -> tuple[int, ...]:
    """(2, 3) from f(2, 3) or f((2, 3))."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = size[0]
    try:
        shape = tuple(operator.index(n) for n in size)
    except TypeError:
        raise TypeError(f"{name}: expected sizes as integers, got {size!r}") from None
    if any(n < 0 for n in shape):
        raise ValueError(f"{name}: expected sizes of 0 or more, got {shape}")
    return shape


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory."""
    if type(array) is not np.ndarray or array.dtype not in _TYPES:
        raise TypeError(f"from_numpy: expected a NumPy array of numbers, got {type(array).__qualname__}")
    return Tensor(array)


def full(size, fill_value, *, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one value; float32 for a float, int64 for an integer, bool for a bool."""
    if dtype is None:
        dtype = {bool: bool, int: np.int64}.get(type(fill_value), np.float32)
    return _placed(np.full(_shape("full", (size,)), fill_value, _dtype("full", dtype)), device, requires_grad)


def zeros(*size, dtype=np.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros; `size` is a tuple, or the sizes one by one."""
    return full(_shape("zeros", size), 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(*size, dtype=np.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones; `size` is a tuple, or the sizes one by one."""
    return full(_shape("ones", size), 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty(*size, dtype=np.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of any values; `size` is a tuple, or the sizes one by one."""
    return _placed(np.empty(_shape("empty", size), _dtype("empty", dtype)), device, requires_grad)


def full_like(input, fill_value, *, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one value with input's shape, and its type and device where none is given."""
    dtype, device = dtype or input.dtype, device or input.device
    return full(input.shape, fill_value, dtype=dtype, device=device, requires_grad=requires_grad)


def zeros_like(input, *, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros with input's shape, and its type and device where none is given."""
    return full_like(input, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones_like(input, *, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones with input's shape, and its type and device where none is given."""
    return full_like(input, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(start, end=None, step=1, *, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """start, start + step, ... below end; `arange(end)` starts at 0. Integers give int64, floats float32."""
    start, end = (0, start) if end is None else (start, end)
    if step == 0:
        raise ValueError("arange: expected a step other than 0, got 0")
    if dtype is None:
        dtype = np.int64 if all(type(x) is int for x in (start, end, step)) else np.float32
    return _placed(np.arange(start, end, step).astype(_dtype("arange", dtype)), device, requires_grad)


def linspace(
    start, end, steps: int, *, dtype=np.float32, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """`steps` values at equal distances from start to end, both included."""
    (steps,) = _shape("linspace", (steps,))
    return _placed(np.linspace(start, end, steps).astype(_dtype("linspace", dtype)), device, requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype=np.float32, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """The identity matrix [n, m]; m is n by default."""
    n, m = _shape("eye", (n, n if m is None else m))
    return _placed(np.eye(n, m, dtype=_dtype("eye", dtype)), device, requires_grad)


def rand(*size, dtype=np.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Values drawn evenly from [0, 1), from the generator that `rv.seed` sets."""
    return _placed(generator().random(_shape("rand", size)).astype(_dtype("rand", dtype)), device, requires_grad)


def randn(*size, dtype=np.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Normally distributed values, from the generator that `rv.seed` sets."""
    values = generator().standard_normal(_shape("randn", size))
    return _placed(values.astype(_dtype("randn", dtype)), device, requires_grad)


def rand_like(input, *, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """`rand` with input's shape, and its type and device where none is given."""
    dtype, device = dtype or input.dtype, device or input.device
    return rand(input.shape, dtype=dtype, device=device, requires_grad=requires_grad)


def randn_like(input, *, dtype=None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """`randn` with input's shape, and its type and device where none is given."""
    dtype, device = dtype or input.dtype, device or input.device
    return randn(input.shape, dtype=dtype, device=device, requires_grad=requires_grad)


def randint(low: int, high, size=None, *, dtype=np.int64, device: str | None = None) -> Tensor:
    """Integers drawn evenly from low, ..., high - 1, from the generator that `rv.seed` sets; `randint(high, size)`
    starts at 0."""
    low, high, size = (0, low, high) if size is None else (low, high, size)
    if high <= low:
        raise ValueError(f"randint: expected high above low, got {high} and {low}")
    values = generator().integers(low, high, _shape("randint", (size,)))
    return _placed(values.astype(_dtype("randint", dtype)), device, False)


def randperm(n: int, *, device: str | None = None) -> Tensor:
    """0, ..., n - 1 in random order (int64), from the generator that `rv.seed` sets."""
    (n,) = _shape("randperm", (n,))
    return _placed(generator().permutation(n).astype(np.int64), device, False)
