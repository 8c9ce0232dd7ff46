"""Operators and methods of Tensor: PyTorch's names for the functions in `functional`. Importing this installs them.

They stand apart from tensor.py because the tape imports no operation.
"""

from __future__ import annotations

import numpy as np

from ..kernels import accumulate
from ..kernels import device as devices
from ..kernels.check import FLOATS, check_choice, refuse_value
from . import functional as F
from .tensor import Parameter, Tensor, is_grad_enabled, record

__all__ = []

# Methods whose first argument is the tensor: the function itself is the method.
_METHODS = """
    abs absolute add all amax amin any argmax argmin argwhere bmm broadcast_to ceil chunk clamp clip cos count_nonzero
    cumprod cumsum div divide eq erf exp expand expm1 flatten flip floor floor_divide gather ge gt index_select isfinite
    isinf isnan le lerp log log10 log1p log2 log_softmax logical_and logical_not logical_or logical_xor logsumexp lt
    masked_fill masked_select matmul max maximum mean min minimum movedim mul multiply narrow ne neg negative norm
    permute pow prod ravel reciprocal relu remainder repeat repeat_interleave reshape roll round rsqrt select sigmoid
    sign sin softmax split sqrt square squeeze std sub subtract sum swapaxes take_along_dim tanh tile transpose tril
    triu unbind unflatten unsqueeze var
"""

# The axes from the slowest in memory to the fastest.
_ORDERS = {"contiguous_format": None, "channels_last": (0, 2, 3, 1), "channels_last_3d": (0, 2, 3, 4, 1)}


def _operator(function):
    """`a + b`, which lets Python ask b where b is nothing that tensors calculate with."""

    def method(self, other):
        return function(self, other) if _is_operand(other) else NotImplemented

    return method


def _reflected(function):
    def method(self, other):
        return function(other, self) if _is_operand(other) else NotImplemented

    return method


def _is_operand(x) -> bool:
    return isinstance(x, (Tensor, bool, int, float, np.generic, np.ndarray)) or hasattr(x, "dtype")


def _changing(function, symbol):
    """`p += x`: a new tensor for the name on the left, but a parameter, or a leaf under `no_grad()` that requires a
    gradient, changes itself, or a step such as `p -= rate * p.grad` in a loop would change nothing."""

    def method(self, other):
        if not _is_operand(other):
            return NotImplemented
        if not self.is_leaf or not (isinstance(self, Parameter) or (self.requires_grad and not is_grad_enabled())):
            return function(self, other)
        if self.requires_grad and is_grad_enabled():
            raise RuntimeError(
                f"{symbol}=: expected a parameter to be changed under no_grad(), or while it requires no gradient"
            )
        changed = function(self, other).array
        if changed.shape != self.shape:
            raise ValueError(f"{symbol}=: expected an operand that broadcasts to {self.shape}, got shape {other.shape}")
        accumulate.copy_into(self.array, devices.cast(changed, self.dtype))
        return self

    return method


def _set_item(self, index, value):
    raise TypeError(
        "item assignment: tensors are not written to in parts; where(), masked_fill(), cat() and stack() make new "
        "ones, and x.array[...] = value writes to memory, past the tape"
    )


def _bitwise(logical, symbol):
    """`mask & mask` for bools; integers have no bits here."""

    def method(self, other):
        if not _is_operand(other):
            return NotImplemented
        for x in (self, other):
            if not isinstance(x, (bool, np.bool_)) and getattr(x, "dtype", None) != np.bool_:
                raise TypeError(f"{symbol}: expected bool tensors, got {getattr(x, 'dtype', type(x).__qualname__)}")
        return logical(self, other)

    return method


def _invert(self):
    if self.dtype != np.bool_:
        raise TypeError(f"~: expected a bool tensor, got {self.dtype}")
    return F.logical_not(self)


def _iterate(self):
    if self.ndim == 0:
        raise TypeError("iter: expected a tensor of at least one axis, got a scalar")
    return iter(F.unbind(self))


def _view_as(self, other):
    """This tensor's elements in the other's shape."""
    return F.reshape(self, other.shape)


def _expand_as(self, other):
    """This tensor stretched to the other's shape."""
    return F.expand(self, other.shape)


def _where(self, condition, other):
    """This tensor where the condition holds, other elsewhere."""
    return F.where(condition, self, other)


def _t(self):
    """A matrix transposed; vectors and scalars as they are."""
    if self.ndim > 2:
        raise ValueError(f"t: expected a tensor of up to 2 axes, got shape {self.shape}; .mT exchanges the last two")
    return _transposed(self)


def _transposed(self):
    """The axes in reverse order."""
    return F.permute(self, tuple(reversed(range(self.ndim))))


def _matrix_transposed(self):
    """The last two axes exchanged."""
    return F.transpose(self, -2, -1)


def _to(self, device=None, dtype=None, memory_format=None):
    """This tensor on a device, of a type, in an order in memory, or all of these; itself if it is so already. The
    gradient goes back the same way.

    Args:
        device: 'cpu', 'cuda' or 'cuda:<index>'; a type may stand here alone, as in `x.to(np.float64)`; a tensor
            stands for its device and type.
        dtype: a NumPy type, or its name.
        memory_format: what `contiguous` takes.
    """
    if isinstance(device, Tensor):
        device, dtype = device.device, device.dtype
    device, dtype = devices.device_and_dtype(device, dtype)
    array = self.array if device is None else devices.to_device(self.array, device)
    array = array if dtype is None else devices.cast(array, np.dtype(dtype))
    if array is not self.array:
        self = record("to", _to_backward, (self.device, self.dtype), (self,), array)
    return self if memory_format is None else _in_format("to", self, memory_format)


def _to_backward(saved, grad, needs):
    device, dtype = saved
    return (devices.cast(devices.to_device(grad, device), dtype),)


def _as(dtype):
    def method(self):
        return _to(self, dtype=dtype)

    method.__doc__ = f"This tensor as {dtype}."
    return method


def _type(self, dtype):
    """This tensor as `dtype`."""
    return _to(self, dtype=dtype)


def _type_as(self, other):
    """This tensor in the other's type."""
    return _to(self, dtype=other.dtype)


def _cpu(self):
    """This tensor on the CPU."""
    return _to(self, "cpu")


def _cuda(self, device=None):
    """This tensor on a GPU: 'cuda' or 'cuda:<index>'."""
    return _to(self, device or "cuda")


def _clone(self):
    """A copy, on the tape."""
    return record("clone", lambda saved, grad, needs: (grad,), None, (self,), devices.copied(self.array))


def _contiguous(self, memory_format="contiguous_format"):
    """This tensor if its memory is in that order, else a copy that is, on the tape. The axes stay where they are.

    Convolutions, normalisations and activations on a GPU leave their results in the order that they are given, and
    convolutions of half types read channels-last images fastest. Elsewhere results may be contiguous again.

    Args:
        memory_format: 'contiguous_format', neighbours in memory are neighbours on the last axis; 'channels_last' for
            [N, C, H, W] and 'channels_last_3d' for [N, C, D, H, W]: they are the channels of a position.
    """
    return _in_format("contiguous", self, memory_format)


def _in_format(name, self, memory_format):
    check_choice(name, "memory_format", memory_format, tuple(_ORDERS))
    order = _ORDERS[memory_format]
    if order is None:
        return self if self.array.flags.c_contiguous else _clone(self)
    if self.ndim != len(order):
        refuse_value(name, "a tensor", f"of {len(order)} axes for memory_format={memory_format!r}", self.shape)
    in_a_row = self.array.transpose(order)
    if in_a_row.flags.c_contiguous:
        return self
    copy = devices.copied(in_a_row).transpose(np.argsort(order).tolist())
    return record(name, lambda saved, grad, needs: (grad,), None, (self,), copy)


def _dim(self) -> int:
    """The number of axes."""
    return self.ndim


def _numel(self) -> int:
    """The number of elements."""
    return self.size


def _tolist(self):
    """The values as nested lists of Python numbers."""
    return self.array.tolist()


def _is_floating_point(self) -> bool:
    """Whether the type is a floating-point type."""
    return self.dtype in FLOATS


def _index(self) -> int:
    if self.size != 1 or self.dtype in FLOATS or self.dtype == np.bool_:
        raise TypeError(f"index: expected one integer, got {self.dtype} of shape {self.shape}")
    return int(self.array.item())


def _install() -> None:
    for name in _METHODS.split():
        setattr(Tensor, name, getattr(F, name))
    for symbol, function in {
        "add": F.add,
        "sub": F.sub,
        "mul": F.mul,
        "truediv": F.div,
        "floordiv": F.floor_divide,
        "mod": F.remainder,
        "pow": F.pow,
        "matmul": F.matmul,
    }.items():
        setattr(Tensor, f"__{symbol}__", _operator(function))
        setattr(Tensor, f"__r{symbol}__", _reflected(function))
    for symbol, sign, function in (
        ("add", "+", F.add),
        ("sub", "-", F.sub),
        ("mul", "*", F.mul),
        ("truediv", "/", F.div),
    ):
        setattr(Tensor, f"__i{symbol}__", _changing(function, sign))
    for symbol in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__{symbol}__", _operator(getattr(F, symbol)))
    for symbol, sign in (("and", "&"), ("or", "|"), ("xor", "^")):
        method = _bitwise(getattr(F, f"logical_{symbol}"), sign)
        setattr(Tensor, f"__{symbol}__", method)
        setattr(Tensor, f"__r{symbol}__", method)
    Tensor.__neg__, Tensor.__pos__, Tensor.__abs__, Tensor.__invert__ = F.neg, lambda self: self, F.abs, _invert
    Tensor.__getitem__, Tensor.__setitem__, Tensor.__iter__, Tensor.__index__ = F.getitem, _set_item, _iterate, _index
    Tensor.T, Tensor.mT = property(_transposed), property(_matrix_transposed)
    Tensor.view, Tensor.view_as, Tensor.reshape_as, Tensor.expand_as = F.reshape, _view_as, _view_as, _expand_as
    Tensor.to, Tensor.type, Tensor.type_as, Tensor.cpu, Tensor.cuda = _to, _type, _type_as, _cpu, _cuda
    Tensor.clone, Tensor.contiguous, Tensor.t, Tensor.where = _clone, _contiguous, _t, _where
    Tensor.dim, Tensor.numel, Tensor.tolist = _dim, _numel, _tolist
    Tensor.is_floating_point, Tensor.nonzero = _is_floating_point, F.argwhere
    for name, dtype in {
        "half": "float16",
        "bfloat16": "bfloat16",
        "float": "float32",
        "double": "float64",
        "int": "int32",
        "long": "int64",
        "bool": "bool",
    }.items():
        setattr(Tensor, name, _as(dtype))


_install()
