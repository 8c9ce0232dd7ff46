"""What all optimizers share: parameter groups, flat buffers, the step, and the state that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..kernels import accumulate
from ..kernels.check import FLOATS, HALF_TYPES
from ..kernels.device import cast, to_device
from ..kernels.operation import Operation
from ..layers.tensor import Parameter, Tensor, enable_grad
from .flat import FlatParameters


class Run(NamedTuple):
    """What the operation is called with for the neighbours in a buffer that are stepped at once: the arrays that it
    reads, and those that it writes to."""

    group: dict
    buffer: FlatParameters
    arrays: list
    out: Any


class Optimizer:
    """Steps parameters along their gradients.

    A subclass names the kernel that does it (`operation`) and says in `_state` which state arrays a group's options
    ask for, by the names of the operation's inputs, with their initial values; in `_attributes` what to call it with;
    and in `_counters` and `_advance` what a parameter counts.

    Parameters without a gradient, and frozen ones, are left as they are.

    Args:
        params: parameters, or (name, parameter) pairs as `named_parameters()` gives them, or a list of groups: dicts
            with the key 'params' and options of their own.
        defaults: options of groups that do not set them.

    Attributes:
        param_groups: one dict a group: 'params' and the options, such as 'lr', which may be changed at any time.
        defaults: the options of groups that do not set them.

    Raises:
        TypeError, ValueError: an option is out of range, or a parameter is no floating-point leaf or given twice.
    """

    operation: ClassVar[Operation]

    def __init__(self, params: Iterable, defaults: dict):
        self.defaults = defaults
        self.param_groups: list[dict] = []
        self._buffers: list[list[FlatParameters]] = []
        if isinstance(params, (Tensor, dict)) or not isinstance(params, Iterable):
            hint = "; .parameters() gives a layer's" if hasattr(params, "parameters") else ""
            raise TypeError(
                f"{self._name}: expected params as parameters or a list of groups, got {type(params).__name__}{hint}"
            )
        params = list(params)
        if not params:
            raise ValueError(f"{self._name}: expected one or more parameters, got none")
        for group in params if isinstance(params[0], dict) else [{"params": params}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict) -> None:
        """Adds parameters with options of their own.

        Args:
            param_group: 'params' (parameters, or (name, parameter) pairs) and any options.
        """
        group = self._checked_group(param_group)
        self.param_groups.append(group)
        self._buffers.append(_pack(group["params"], [self._counters() for _ in group["params"]]))

    def step(self, closure: Callable | None = None):
        """Steps every parameter that has a gradient: one kernel call a group and type if all have one.

        Args:
            closure: computes the loss again and its gradients, and returns it.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._repack()
        for group, buffers in zip(self.param_groups, self._buffers):
            for buffer in buffers:
                for first, last in list(buffer.runs()):
                    self._step_run(group, buffer, first, last)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the parameters' gradients (`set_to_none=False`: sets them to zero)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none:
                    parameter.grad = None
                elif parameter.grad is not None:
                    accumulate.fill(parameter.grad.array, 0)

    def gradient_buffers(self) -> list:
        """The flat buffers that hold the gradients, one per group, type and device: what data-parallel training sums
        over processes. Elements of parameters without a gradient are unspecified."""
        self._repack()
        return [buffer.gradient for buffers in self._buffers for buffer in buffers]

    def whole_runs(self) -> list[Run] | None:
        """For captured steps: a run for each buffer, if the next step is one call for each, on these arrays, with
        `next_numbers`; else None."""
        buffers = [(group, buffer) for group, members in zip(self.param_groups, self._buffers) for buffer in members]
        if not all(buffer.is_whole() and buffer.array.dtype not in HALF_TYPES for _, buffer in buffers):
            return None
        return [self._run(group, buffer, 0, len(buffer.parameters) - 1) for group, buffer in buffers]

    def stands_on(self, runs: list[Run]) -> bool:
        """Whether the next step is still these calls."""
        buffers = [buffer for members in self._buffers for buffer in members]
        return len(buffers) == len(runs) and all(
            run.buffer is buffer and buffer.is_whole() for run, buffer in zip(runs, buffers)
        )

    def next_numbers(self, group: dict, buffer: FlatParameters, first: int) -> tuple[dict, dict]:
        """What a run that begins with a buffer's parameter `first` counts in its next step, and the operation's keyword
        arguments for that."""
        counters = self._advance(group, buffer.counters[first])
        return counters, self._attributes(group, counters)

    def state_dict(self) -> dict:
        """The optimizer's state: plain numbers and arrays (the optimizer's own, not copies).

        Returns:
            {'state': {index of the parameter, as a string: {name: array or number}},
             'param_groups': [{option: value, 'params': indices of the parameters}]}.
        """
        state, groups, count = {}, [], 0
        for group, buffers in zip(self.param_groups, self._buffers):
            indices = {id(p): count + index for index, p in enumerate(group["params"])}
            for buffer in buffers:
                for parameter, entry in zip(buffer.parameters, self._entries(buffer)):
                    if entry:
                        state[indices[id(parameter)]] = entry
            groups.append(group | {"params": list(indices.values())})
            count += len(indices)
        return {"state": {str(index): state[index] for index in sorted(state)}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up a state that `state_dict` gave, also after JSON and safetensors. Values are copied.

        Raises:
            ValueError: groups, parameters or shapes do not fit; then nothing has been changed.
        """
        groups = state_dict["param_groups"]
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"{self._name}: expected a state of groups of {own} parameters, got {sizes}")
        parameters = [p for group in self.param_groups for p in group["params"]]
        numbers = [index for group in groups for index in group["params"]]
        entries = {int(index): entry for index, entry in state_dict["state"].items()}
        entries = [self._checked_entry(p, entries.get(number, {})) for p, number in zip(parameters, numbers)]
        options = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        options = [self._like_defaults(own | new) for own, new in zip(self.param_groups, options)]
        for group in options:
            self._check_options(group)
        for own, new in zip(self.param_groups, options):
            own.update(new)
        by_parameter = {id(p): entry for p, entry in zip(parameters, entries)}
        for index, group in enumerate(self.param_groups):
            self._buffers[index] = self._filled(group, by_parameter)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            options = ", ".join(f"{k}={v}" for k, v in group.items() if k not in ("params", "param_names"))
            lines.append(f"  group {index}: {len(group['params'])} parameters, {options}")
        return "\n".join([*lines, ")"])

    # ---- what a subclass says

    def _state(self, group: dict) -> dict[str, float]:
        """Name and initial value of each state array."""
        return {}

    def _attributes(self, group: dict, counters: dict) -> dict:
        """The operation's keyword arguments in the step that `counters` count."""
        return {name: group[name] for name in self.operation.attributes if name in group}

    def _counters(self) -> dict:
        """What a parameter counts, before its first step."""
        return {"step": 0}

    def _advance(self, group: dict, counters: dict) -> dict:
        """What it counts in the next step."""
        return {"step": counters["step"] + 1}

    # ---- how it is done

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _step_run(self, group: dict, buffer: FlatParameters, first: int, last: int) -> None:
        counters, attributes = self.next_numbers(group, buffer, first)
        run = self._run(group, buffer, first, last)
        self.operation.forward(*run.arrays, **attributes, out=run.out)
        buffer.count(counters, first, last)

    def _run(self, group: dict, buffer: FlatParameters, first: int, last: int) -> Run:
        state = {name: buffer.state_buffer(name, initial) for name, initial in self._state(group).items()}
        arrays = [buffer.array, buffer.gradient, *map(state.get, self.operation.inputs[2:])]
        if last - first + 1 < len(buffer.parameters):
            arrays = [None if whole is None else buffer.stretch(whole, first, last) for whole in arrays]
        parameter, _, *states = arrays
        changed = (parameter, *[x for x in states if x is not None])
        return Run(group, buffer, arrays, changed if len(changed) > 1 else parameter)

    def _repack(self) -> None:
        """Brings parameters whose arrays were replaced back into flat buffers, with their state."""
        for index, buffers in enumerate(self._buffers):
            if all(buffer.fits() for buffer in buffers):
                for buffer in buffers:
                    buffer.reclaim()
            else:
                entries = {id(p): e for b in buffers for p, e in zip(b.parameters, self._entries(b))}
                self._buffers[index] = self._filled(self.param_groups[index], entries)

    def _entries(self, buffer: FlatParameters) -> list[dict]:
        """The state of each parameter of a buffer: counters and arrays by name, nothing before its first step."""
        views = {name: buffer.state_views(name) for name in buffer.state}
        return [
            dict(counters) | {name: views[name][index] for name in views} if counters != self._counters() else {}
            for index, counters in enumerate(buffer.counters)
        ]

    def _filled(self, group: dict, entries: dict[int, dict]) -> list[FlatParameters]:
        """New buffers for a group's parameters, with the state that `entries` has for each by its id."""
        fresh = self._counters()
        counters = [{k: entries[id(p)].get(k, v) for k, v in fresh.items()} for p in group["params"]]
        buffers = _pack(group["params"], counters)
        initial = self._state(group)
        for buffer in buffers:
            for index, parameter in enumerate(buffer.parameters):
                for name, value in entries[id(parameter)].items():
                    if name not in fresh:
                        buffer.state_buffer(name, initial.get(name, 0.0))
                        view = buffer.state_views(name)[index]
                        value = value if hasattr(value, "astype") else np.asarray(value)
                        accumulate.copy_into(view, to_device(cast(value, view.dtype), parameter.device))
        return buffers

    def _checked_entry(self, parameter: Parameter, entry: dict) -> dict:
        """A parameter's saved state with counters as plain numbers, or ValueError."""
        checked = {}
        fresh = self._counters()
        for name, value in entry.items():
            if name in fresh:
                checked[name] = type(fresh[name])(value)
            elif name not in self.operation.inputs[2:]:
                known = ", ".join([*fresh, *self.operation.inputs[2:]])
                raise ValueError(f"{self._name}: expected state of the names {known}, got {name!r}")
            elif value is not None:
                value = value.array if isinstance(value, Tensor) else value
                if tuple(value.shape) != parameter.shape:
                    raise ValueError(
                        f"{self._name}: expected state {name!r} of shape {parameter.shape}, got {tuple(value.shape)}"
                    )
                checked[name] = value
        return {"step": 1} | checked if checked else {}  # PyTorch's SGD keeps momentum without a count

    def _checked_group(self, param_group: dict) -> dict:
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f"{self._name}: expected a group as a dict with the key 'params', got {param_group!r}")
        members = param_group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        known = [*self.defaults, "params", "param_names", "name", "initial_lr"]
        if unknown := [name for name in param_group if name not in known]:
            raise ValueError(f"{self._name}: expected a group with keys of {', '.join(known)}, got {unknown[0]!r}")
        group = dict(param_group) | {"params": members}
        if members and isinstance(members[0], tuple):
            group["param_names"] = [name for name, _ in members]
            group["params"] = [parameter for _, parameter in members]
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        for parameter in group["params"]:
            self._check_parameter(parameter, taken)
            taken.add(id(parameter))
        group = self._like_defaults(self.defaults | group)
        self._check_options(group)
        return group

    def _check_parameter(self, parameter, taken: set[int]) -> None:
        if not isinstance(parameter, Tensor):
            raise TypeError(f"{self._name}: expected parameters as tensors, got {type(parameter).__name__}")
        if parameter.dtype not in FLOATS:
            raise TypeError(f"{self._name}: expected parameters of a floating-point type, got {parameter.dtype}")
        if not parameter.is_leaf:
            raise ValueError(f"{self._name}: expected parameters as leaves, got the result of a recorded operation")
        if id(parameter) in taken:
            raise ValueError(f"{self._name}: expected each parameter once, got one of shape {parameter.shape} twice")

    def _check_options(self, group: dict) -> None:
        """Asks the operation itself, with empty arrays."""
        empty = np.empty(0, np.float32)
        state = self._state(group)
        arrays = [empty if name in state else None for name in self.operation.inputs[2:]]
        attributes = self._attributes(group, self._advance(group, self._counters()))
        self.operation.check(empty, empty, *arrays, **attributes)

    def _like_defaults(self, group: dict) -> dict:
        """JSON has no tuples: pairs such as `betas` become tuples again."""
        return {
            k: tuple(v) if isinstance(self.defaults.get(k), tuple) and isinstance(v, list) else v
            for k, v in group.items()
        }


def _pack(parameters: list[Parameter], counters: list[dict]) -> list[FlatParameters]:
    """Flat buffers for parameters, one a type and device."""
    kinds: dict[tuple, list[int]] = {}
    for index, parameter in enumerate(parameters):
        kinds.setdefault((parameter.dtype, parameter.device), []).append(index)
    return [
        FlatParameters([parameters[i] for i in members], [counters[i] for i in members]) for members in kinds.values()
    ]
