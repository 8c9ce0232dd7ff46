"""The ways to compute a case that are timed against each other: Ranvier's implementations, and what peers call it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels.device import to_device
from .cases import DTYPES, Case

# What a training step takes as given: no variant computes a gradient for it.
_GIVEN = {"target", "pos_weight", "mean", "variance", "attn_mask"}
# All outputs get a gradient; elsewhere the first alone does, as statistics, indices and final states rarely do.
_ALL_OUTPUTS = {"split"}
_OPTIMIZER_OUTPUTS_APART = {"gradient_norm", "gradient_scale", "gradient_limit", "gradient_clip"}


class NoPeer(Exception):
    """A peer has no call for this operation with these attributes."""


@dataclass(frozen=True)
class Variant:
    """One way to compute a case.

    Args:
        name: "ranvier", "pytorch", ...
        configuration: what it runs with.
        forward: computes the outputs, as a training step does: with what a backward pass needs.
        backward: takes the gradients of the outputs as NumPy arrays and gives a function that computes the gradients of
            the inputs that `needed` names, in order; None for a peer without one.
        fetch: one of its arrays as a NumPy array.
        timed: what is timed in place of `forward`, where calls can go without allocating.
    """

    name: str
    configuration: str
    forward: Callable[[], tuple]
    backward: Callable[[tuple], Callable[[], tuple]] | None
    fetch: Callable[[object], np.ndarray]
    timed: Callable[[], object] | None = None


def needed(case: Case, inputs: Sequence) -> tuple[bool, ...]:
    """Which inputs get a gradient: floating-point arrays that a training step learns or passes on."""
    given = _GIVEN | ({"weight"} if case.family == "loss" else set())
    names = case.operation.input_names(len(inputs))
    return tuple(
        hasattr(x, "dtype") and x.dtype in DTYPES.values() and name not in given for name, x in zip(names, inputs)
    )


def differentiated(case: Case, outputs: Sequence) -> tuple[int, ...]:
    """Which outputs get a gradient."""
    return tuple(range(len(outputs))) if case.operation.name in _ALL_OUTPUTS else (0,)


def ranvier_variant(case: Case, inputs: Sequence, device: str, implementation: str | None, copies: int = 1) -> Variant:
    """Ranvier's own implementation: the device's, or another by its name.

    Args:
        inputs: NumPy arrays, None and numbers.
        copies: sets of inputs that timed calls use in turn, so that none is in the cache.
    """
    import numba

    operation, attributes = case.operation, case.sample.attributes
    needs = needed(case, inputs)
    sets = [[to_device(x.copy(), device) if hasattr(x, "dtype") else x for x in inputs] for _ in range(copies)]

    def forward_of(arrays, **out):
        return operation.forward(*arrays, implementation=implementation, **attributes, **out)

    def backward(grads: tuple):
        calls = []
        for arrays in sets:
            output, saved = forward_of(arrays)
            on_device = tuple(None if g is None else to_device(g, device) for g in grads)
            grad = on_device if isinstance(output, tuple) else on_device[0]
            calls.append(_backward_call(operation, saved, grad, needs, implementation))
        return rotating(calls)

    timed = rotating([lambda arrays=arrays: forward_of(arrays) for arrays in sets])
    if case.family == "optimizer" and operation.name != "gradient_norm":
        timed = rotating([_in_place(case, arrays, forward_of) for arrays in sets])
    return Variant(
        name="ranvier" if implementation is None else f"ranvier {implementation}",
        configuration=f"{numba.get_num_threads()} threads" if device == "cpu" else device,
        forward=lambda: as_tuple(forward_of(sets[0])[0]),
        backward=backward if operation.differentiable else None,
        fetch=lambda array: to_device(array, "cpu"),
        timed=timed,
    )


def rotating(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """A function that calls the next of them each time."""
    if len(calls) == 1:
        return calls[0]
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def launched(call: Callable[[], object]) -> str:
    """The GPU kernels that a call launches, in order, each with its constants and compile options (tiles, warps,
    stages); the call runs as ever."""
    from ..kernels import launch

    seen = []

    def note(kernel, grid, arguments, constants):
        launch.interpreter = before
        try:
            launch.launch(kernel, grid, *arguments, **constants)
        finally:
            launch.interpreter = note
        options = " ".join(f"{name}={value}" for name, value in constants.items())
        seen.append(f"{kernel.__name__} {options}".strip())

    before, launch.interpreter = launch.interpreter, note
    try:
        call()
    finally:
        launch.interpreter = before
    return ", ".join(dict.fromkeys(seen))


def as_tuple(output) -> tuple:
    """One output or several, as a tuple."""
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def _backward_call(operation, saved, grad, needs, implementation):
    def call():
        grads = operation.backward(saved, grad, needs, implementation=implementation)
        return tuple(g for g, need in zip(grads, needs) if need)

    return call


def _in_place(case: Case, arrays: Sequence, forward_of) -> Callable[[], object]:
    """The step as an optimizer makes it, on arrays of its own that it changes."""
    names = case.operation.input_names(len(arrays))
    if case.operation.name in _OPTIMIZER_OUTPUTS_APART:
        out = forward_of(arrays)[0]  # apart: a gradient scaled again and again would end in denormal numbers
        return lambda: forward_of(arrays, out=out)
    own = [x.copy() if hasattr(x, "dtype") else x for x in arrays]
    out = tuple(x for name, x in zip(names, own) if name != "gradient" and x is not None)
    return lambda: forward_of(own, out=out if len(out) > 1 else out[0])
