"""The base of all layers: a tree of parameters, buffers and sub-layers, with PyTorch's names for what it can do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ..kernels import accumulate
from ..kernels import device as devices
from ..kernels.check import FLOATS
from .tensor import Parameter, Tensor


class Unmatched(NamedTuple):
    """The names that `load_state_dict` found on one side only."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Layer:
    """Holds parameters and says in `forward` what becomes of an input.

    Subclasses call `super().__init__()`, assign `Parameter`s, other layers and buffers as attributes, and define
    `forward`. Assigning is registering: the attribute's name is its name in `state_dict`.

    Attributes:
        training: True after `train()`, False after `eval()`; dropout and batch normalisation ask.
    """

    def __init__(self, *arguments, **named):
        if arguments or named:
            given = ", ".join([*map(repr, arguments), *(f"{name}={value!r}" for name, value in named.items())])
            raise TypeError(
                f"{type(self).__name__}: expected no such arguments, got {given}"
                + ("; no operation changes its input: leave inplace out" if given in ("True", "inplace=True") else "")
            )
        self.__dict__["_parameters"] = OrderedDict()
        self.__dict__["_buffers"] = OrderedDict()
        self.__dict__["_layers"] = OrderedDict()
        self.__dict__["_transient"] = set()
        self.training = True

    def forward(self, *inputs, **arguments):
        """What the layer computes."""
        raise TypeError(f"{type(self).__name__}: expected a subclass that defines forward()")

    def __call__(self, *inputs, **arguments):
        return self.forward(*inputs, **arguments)

    # ---- registration

    def __setattr__(self, name, value):
        if "_parameters" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}: expected super().__init__() before an attribute is assigned")
        if isinstance(value, Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Layer):
            self._forget(name)
            self._layers[name] = value
        elif name in self._buffers:
            self._buffers[name] = self.__dict__[name] = value
        elif name in self._parameters:
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}.{name}: expected a Parameter or None, got {type(value).__name__}"
                )
            self._parameters[name] = self.__dict__[name] = None
        elif name in self._layers and value is None:
            self._layers[name] = None
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name):
        # Asked for layers alone: parameters and buffers, of which a step reads many, stand in `__dict__`, too.
        layers = self.__dict__.get("_layers", ())
        if name in layers:
            return layers[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name):
        if not self._forget(name):
            object.__delattr__(self, name)

    def _forget(self, name: str) -> bool:
        members = self.__dict__, self._parameters, self._buffers, self._layers
        return bool([held.pop(name) for held in members if name in held])

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Registers a parameter, or None for one that this layer goes without (`bias=False`)."""
        self._forget(name)
        self._parameters[name] = self.__dict__[name] = parameter

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Registers a tensor that is state but not trained, such as a running mean.

        Args:
            name: its attribute name.
            tensor: its value, or None.
            persistent: whether it belongs to `state_dict`.
        """
        self._forget(name)
        self._buffers[name] = self.__dict__[name] = tensor
        (self._transient.discard if persistent else self._transient.add)(name)

    # ---- the tree

    def children(self) -> Iterator[Layer]:
        """The layers directly inside this one."""
        return (layer for _, layer in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        """The layers directly inside this one, with their names."""
        return ((name, layer) for name, layer in self._layers.items() if layer is not None)

    def modules(self) -> Iterator[Layer]:
        """This layer and all layers inside it, each once."""
        return (layer for _, layer in self.named_modules())

    def named_modules(self, prefix: str = "", _seen: set | None = None) -> Iterator[tuple[str, Layer]]:
        """This layer and all layers inside it, each once, with dotted names."""
        seen = set() if _seen is None else _seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, layer in self.named_children():
            yield from layer.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Parameters with dotted names, each once also where layers share it."""
        seen = set()
        for name, parameter in self._named("_parameters", prefix, recurse):
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Buffers with dotted names."""
        return ((name, b) for name, b in self._named("_buffers", prefix, recurse) if b is not None)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def apply(self, function: Callable[[Layer], None]) -> Layer:
        """Calls `function` on every layer inside, then on this one; returns this one."""
        for layer in self.children():
            layer.apply(function)
        function(self)
        return self

    def _named(self, kind: str, prefix: str, recurse: bool):
        for path, layer in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name, member in getattr(layer, kind).items():
                yield f"{path}.{name}" if path else name, member

    # ---- modes

    def train(self, mode: bool = True) -> Layer:
        """Sets training mode (`mode=False`: evaluation) for this layer and all inside; returns it."""
        for layer in self.modules():
            layer.training = mode
        return self

    def eval(self) -> Layer:
        """Sets evaluation mode for this layer and all inside; returns it."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Layer:
        """Freezes (False) or thaws all parameters; returns the layer."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all parameters' gradients (`set_to_none=False`: sets them to zero)."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                accumulate.fill(parameter.grad.array, 0)

    def to(self, device: str | None = None, dtype=None) -> Layer:
        """Moves parameters and buffers in place; returns the layer.

        Args:
            device: 'cpu', 'cuda' or 'cuda:<index>'; a type may stand here alone, as in `layer.to(np.float64)`; None
                leaves them where they are.
            dtype: a floating-point type; integer buffers keep theirs.
        """
        device, dtype = devices.device_and_dtype(device, dtype)
        if dtype is not None and np.dtype(dtype) not in FLOATS:
            raise TypeError(f"to: expected dtype as a floating-point type, got {np.dtype(dtype)}")
        for tensor in [*self.parameters(), *self.buffers()]:
            array = tensor.array if device is None else devices.to_device(tensor.array, device)
            if dtype is not None and array.dtype in FLOATS:
                array = devices.cast(array, np.dtype(dtype))
            if array is not tensor.array:
                tensor.array, tensor.grad, tensor.grad_buffer = array, None, None
        return self

    def cpu(self) -> Layer:
        """Moves parameters and buffers to the CPU; returns the layer."""
        return self.to("cpu")

    def cuda(self, device: str = "cuda") -> Layer:
        """Moves parameters and buffers to a GPU, 'cuda' or 'cuda:<index>'; returns the layer."""
        return self.to(device)

    def half(self) -> Layer:
        """Makes floating-point parameters and buffers float16; returns the layer."""
        return self.to(dtype="float16")

    def bfloat16(self) -> Layer:
        """Makes floating-point parameters and buffers bfloat16; returns the layer."""
        return self.to(dtype="bfloat16")

    def float(self) -> Layer:
        """Makes floating-point parameters and buffers float32; returns the layer."""
        return self.to(dtype="float32")

    def double(self) -> Layer:
        """Makes floating-point parameters and buffers float64; returns the layer."""
        return self.to(dtype="float64")

    # ---- state

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name, off the tape; the arrays are the layer's, not copies."""
        state = {}
        for path, layer in _all_paths(self):
            dot = f"{path}." if path else ""
            for name, member in layer._parameters.items():
                if member is not None:
                    state[dot + name] = member.detach()
            for name, member in layer._buffers.items():
                if member is not None and name not in layer._transient:
                    state[dot + name] = member.detach()
        return state

    def load_state_dict(self, state_dict: dict, strict: bool = True) -> Unmatched:
        """Copies values into the parameters and buffers, in place.

        Args:
            state_dict: arrays or tensors (anything that NumPy can read) by dotted name.
            strict: raise on names that are missing or not known.

        Returns:
            (missing_keys, unexpected_keys): names that the state lacks, and names that the layer lacks.

        Raises:
            ValueError: names or shapes do not fit; then nothing has been changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"load_state_dict: expected state_dict as arrays by name, got {type(state_dict).__name__}; "
                "rv.load(path) reads a file"
            )
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        unknown = [name for name in state_dict if name not in own]
        if strict and (missing or unknown):
            raise ValueError(
                f"load_state_dict: expected exactly {type(self).__name__}'s {len(own)} entries; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
            )
        values = {name: _host_array(state_dict[name]) for name in own if name in state_dict}
        for name, value in values.items():
            if value.shape != own[name].shape:
                raise ValueError(f"load_state_dict: expected {name} of shape {own[name].shape}, got {value.shape}")
        for name, value in values.items():
            target = own[name].array
            accumulate.copy_into(target, devices.to_device(value.astype(target.dtype), own[name].device))
        return Unmatched(missing, unknown)

    def extra_repr(self) -> str:
        """What stands between the brackets of the layer's repr."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): " + repr(layer).replace("\n", "\n  ") for name, layer in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _all_paths(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Like named_modules, but a shared layer under each of its names, as a checkpoint needs."""
    yield prefix, layer
    for name, child in layer.named_children():
        yield from _all_paths(child, f"{prefix}.{name}" if prefix else name)


def _host_array(value) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.numpy()
    return devices.to_device(value, "cpu") if type(value).__module__.partition(".")[0] == "cupy" else np.asarray(value)
