"""What an operation is: one declaration that dispatch, tests, benchmarks, tuning and documentation all read.

    relu = Operation("relu", __name__, check=_check, cost=_cost, samples=[...], refused=[...])
    y, saved = relu.forward(x)                        # picks cpu.py or gpu.py by the type of x
    (grad_x,) = relu.backward(saved, grad_y, (True,))

The declaration stands in a family's `__init__.py`; the implementations are functions `<name>_forward` and
`<name>_backward` in the modules `reference`, `cpu` and `gpu` beside it:

    <name>_forward(*inputs, **attributes) -> (output, saved)
    <name>_backward(saved, grad_output, needs) -> one gradient per input, None where `needs` is False

An input is an array, or None where the declaration has a default None, or a Python number where the operation says
so. Attributes are keyword-only. An output is one array or a tuple of arrays; for a tuple, `grad_output` is a tuple
too, with None for outputs that no gradient reached.
"""

from __future__ import annotations

import importlib
import inspect
import marshal
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy import ndarray

from .check import FLOAT_TYPES, HALF_TYPES

_NUMBERS = frozenset((float, int, bool))
_PLAIN = _NUMBERS | {str}
_MOST_FORMS = 4096  # of an operation's calls that are remembered


class Cost(NamedTuple):
    """The least work of a forward pass: floating-point operations, and bytes moved if each input is read once and
    each output written once."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Normal:
    """An input of standard normal values."""

    shape: tuple[int, ...]

    def build(self, rng: np.random.Generator, dtype) -> np.ndarray:
        return rng.standard_normal(self.shape).astype(dtype)


@dataclass(frozen=True)
class Uniform:
    """An input of values drawn evenly from [low, high)."""

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0

    def build(self, rng: np.random.Generator, dtype) -> np.ndarray:
        return rng.uniform(self.low, self.high, self.shape).astype(dtype)


@dataclass(frozen=True)
class Integers:
    """An input of int64 values drawn from low, ..., high - 1: labels, indices, lengths. It has no gradient."""

    shape: tuple[int, ...]
    low: int
    high: int

    def build(self, rng: np.random.Generator, dtype) -> np.ndarray:
        return rng.integers(self.low, self.high, self.shape)


@dataclass(frozen=True)
class Values:
    """An input with the values given. Floating-point values take the dtype under test, others keep their own."""

    values: Any

    def build(self, rng: np.random.Generator, dtype) -> np.ndarray:
        array = np.array(self.values)
        return array.astype(dtype) if array.dtype.kind == "f" else array


@dataclass(frozen=True)
class Drawn:
    """An input that `draw(rng)` makes, when it is asked for and not before: declaring a sample costs nothing.

    Floating-point values take the dtype under test, others keep their own.
    """

    draw: Callable[[np.random.Generator], np.ndarray]

    def build(self, rng: np.random.Generator, dtype) -> np.ndarray:
        return Values(self.draw(rng)).build(rng, dtype)


@dataclass(frozen=True)
class Sample:
    """A named, realistic call.

    Args:
        name: what it is taken from, or the edge that it walks.
        inputs: a builder (Normal, Uniform, Integers, Values, Drawn), None or a number per input; a bare shape means
            Normal.
        attributes: the keyword arguments.
        large: timed but not tested, because the plain reference would take too long.
    """

    name: str
    inputs: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    large: bool = False

    def build(self, rng: np.random.Generator, dtype) -> list:
        """The inputs, in the order of the declaration."""
        arrays = []
        for value in self.inputs.values():
            if isinstance(value, tuple):
                value = Normal(value)
            arrays.append(value.build(rng, dtype) if hasattr(value, "build") else value)
        return arrays


@dataclass(frozen=True)
class Refused:
    """A call that must be refused, and a pattern that the message must match after the operation's name."""

    name: str
    inputs: dict[str, Any]
    error: type[Exception]
    message: str
    attributes: dict[str, Any] = field(default_factory=dict)


class _SavedInFloat32(NamedTuple):
    """What a half-precision call on the CPU saved: its float32 state, and each input's own dtype for its gradient."""

    saved: Any
    dtypes: tuple


class Operation:
    """A forward and a backward pass with one implementation a device.

    Args:
        name: the operation's name; the field's own term.
        family: the declaring package (`__name__`).
        check: takes what `forward` takes and raises TypeError or ValueError for what the operation cannot do; returns
            nothing. Its positional parameters name the inputs, its keyword-only parameters the attributes.
        cost: takes what `forward` takes -> Cost of the forward pass.
        samples, refused: what tests and benchmarks run.
        dtypes: floating-point types that the inputs may have. On the CPU, float16 and bfloat16 are computed in
            float32 and stored in half.
        reduction_length: takes what `forward` takes -> how many terms the longest sum in it or its backward adds;
            tests scale their tolerance with it.
        vary: `vary(pick) -> Sample` with `pick(low, high)` an integer in low..high inclusive and `pick.of(sequence)`
            one element: random shapes and attributes for property-based tests.
        differentiable: False for operations that have no backward pass.
        by_form: the check looks at nothing of an input but its type, shape and dtype. A call on the CPU like one that
            has passed, with the same attributes, is then not checked again.
    """

    registry: ClassVar[dict[str, Operation]] = {}

    def __init__(
        self,
        name: str,
        family: str,
        *,
        check: Callable[..., None],
        cost: Callable[..., Cost],
        samples: Sequence[Sample],
        refused: Sequence[Refused],
        dtypes: Sequence[str] = FLOAT_TYPES,
        reduction_length: Callable[..., int] | None = None,
        vary: Callable[..., Sample] | None = None,
        differentiable: bool = True,
        by_form: bool = False,
    ):
        if name in Operation.registry:
            raise ValueError(f"operation {name!r} is declared twice")
        self.name, self.family = name, family
        self.check, self.cost, self.samples, self.refused = check, cost, samples, refused
        self.dtypes, self.reduction_length, self.vary = tuple(dtypes), reduction_length, vary
        self.differentiable, self.by_form = differentiable, by_form
        parameters = inspect.signature(check).parameters.values()
        self.inputs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.attributes = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self._passes: dict[str, tuple[Callable, Callable | None]] = {}
        self._passed: set[tuple] = set()  # forms of calls on the CPU, as `_form_of` has them
        Operation.registry[name] = self

    def input_names(self, count: int) -> tuple[str, ...]:
        """The names of the first `count` inputs; those of a `*arrays` are arrays[0], arrays[1], ..."""
        if not self.variadic:
            return self.inputs[:count]
        *fixed, last = self.inputs
        return (*fixed, *(f"{last}[{i}]" for i in range(count - len(fixed))))[:count]

    def forward(self, *inputs, implementation: str | None = None, **attributes) -> tuple[Any, Any]:
        """Checks the call and runs it on the inputs' device.

        Returns (output, saved); `saved` is what `backward` needs. An `out=` attribute names the array(s) to write to.
        """
        form = None
        if self.by_form and implementation is None and "out" not in attributes:
            form = _form_of(inputs, attributes)
            if form in self._passed:
                return self._passes["cpu"][0](*inputs, **attributes)
        arrays, out = inputs, attributes.pop("out", None) if attributes else None
        self.check(*inputs, **attributes)
        if out is not None:
            attributes["out"] = out
            arrays = (*inputs, *out) if type(out) is tuple else (*inputs, out)
        # The usual call is answered at once: arrays on the CPU, none of them of the few types that have two bytes.
        usual = False
        for x in arrays:
            if type(x) is ndarray and x.itemsize != 2:
                usual = implementation is None
            elif x is not None and type(x) not in _NUMBERS:
                usual = False
                break
        if usual:
            run = (self._passes.get("cpu") or self.passes("cpu"))[0]
            if form is not None and _are_plain(attributes.values()):
                if len(self._passed) >= _MOST_FORMS:
                    self._passed.clear()
                self._passed.add(form)
            return run(*inputs, **attributes)
        if implementation is None or out is not None:
            found = implementation_for(self.name, arrays)
            implementation = implementation or found
        forward = self.passes(implementation)[0]
        if implementation == "cpu" and any(getattr(x, "dtype", None) in HALF_TYPES for x in inputs):
            return self._forward_in_float32(forward, inputs, attributes)
        return forward(*inputs, **attributes)

    def backward(self, saved, grad_output, needs: tuple[bool, ...], implementation: str | None = None) -> tuple:
        """The gradients of the inputs for which `needs` is True, None for the others: one for each of `needs`, which
        may stop short of inputs that were left out or need none."""
        if len(needs) < len(self.inputs):
            missing = (False,) * (len(self.inputs) - len(needs))
            return self.backward(saved, grad_output, (*needs, *missing), implementation)[: len(needs)]
        if implementation is None:
            if type(grad_output) is ndarray:
                implementation = "cpu"
            else:
                grads = grad_output if type(grad_output) is tuple else (grad_output,)
                implementation = implementation_for(self.name, grads)
        backward = (self._passes.get(implementation) or self.passes(implementation))[1]
        if type(saved) is _SavedInFloat32:
            grads = backward(saved.saved, _cast(grad_output, HALF_TYPES, np.float32), needs)
            return tuple(g if g is None else g.astype(dtype) for g, dtype in zip(grads, saved.dtypes))
        return backward(saved, grad_output, needs)

    def passes(self, implementation: str) -> tuple[Callable, Callable | None]:
        """The (forward, backward) functions of an implementation: 'reference', 'cpu' or 'gpu'."""
        try:
            return self._passes[implementation]
        except KeyError:
            # Imported when first asked for: a machine without a GPU never imports Triton, and import stays fast.
            module = importlib.import_module(f"{self.family}.{implementation}")
            backward = getattr(module, f"{self.name}_backward") if self.differentiable else None
            self._passes[implementation] = getattr(module, f"{self.name}_forward"), backward
            return self._passes[implementation]

    def _forward_in_float32(self, forward, inputs, attributes):
        out = attributes.pop("out", None)
        half = next(x.dtype for x in inputs if getattr(x, "dtype", None) in HALF_TYPES)
        dtypes = tuple(getattr(x, "dtype", None) for x in inputs)
        output, saved = forward(*_cast(inputs, HALF_TYPES, np.float32), **attributes)
        output = _cast(output, {np.dtype(np.float32)}, half)
        if out is not None:
            for target, value in zip(out, output) if isinstance(out, tuple) else [(out, output)]:
                target[...] = value
            output = out
        return output, _SavedInFloat32(saved, dtypes)

    def __repr__(self):
        return f"<operation {self.name}>"


def _form_of(inputs: tuple, attributes: dict) -> tuple | None:
    """What decides whether a call with these inputs passes a check `by_form`; None where more does than is looked at.

    Attributes stand as the bytes of their values, which tell 1 from 1.0 and True as their hashes do not.
    """
    form = []
    for x in inputs:
        if type(x) is ndarray:
            form.append(x.shape)
            form.append(x.dtype)
        elif x is None:
            form.append(None)
        else:
            return None
    if attributes:
        try:
            form.append(marshal.dumps(attributes, 2))
        except ValueError:  # of a kind that has no such bytes
            return None
    return tuple(form)


def _are_plain(values) -> bool:
    """Whether all are Python's own numbers, names and None, or tuples of such: no others are of the same bytes."""
    return all(_are_plain(x) if type(x) is tuple else x is None or type(x) in _PLAIN for x in values)


def _cast(arrays, dtypes, target):
    """Arrays whose dtype is in `dtypes` as `target`; one array or a tuple of them, None and numbers untouched."""
    if type(arrays) is tuple:
        return tuple(_cast(array, dtypes, target) for array in arrays)
    return arrays.astype(target) if getattr(arrays, "dtype", None) in dtypes else arrays


def implementation_for(operation: str, inputs) -> str:
    """'cpu' for NumPy arrays, 'gpu' for CuPy arrays; None and numbers go along. Raises TypeError on anything else, and
    on arrays of several devices."""
    found = gpu = None
    for x in inputs:
        kind = type(x)
        if kind is np.ndarray:
            device = "cpu"
        elif x is None or kind in _NUMBERS:
            continue
        elif kind.__module__.partition(".")[0] == "cupy":
            device = "gpu"
            index = x.data.device_id
            if gpu is None:
                gpu = index
            elif index != gpu:
                raise TypeError(
                    f"{operation}: expected arrays of one device, got arrays on cuda:{gpu} and cuda:{index}; "
                    "`.to(device)` moves tensors and layers"
                )
        else:
            raise TypeError(f"{operation}: expected NumPy or CuPy arrays, got {kind.__module__}.{kind.__qualname__}")
        if found is None:
            found = device
        elif found != device:
            raise TypeError(
                f"{operation}: expected arrays of one device, got NumPy (CPU) and CuPy (GPU) arrays together"
            )
    if found is None:
        raise TypeError(f"{operation}: expected at least one NumPy or CuPy array, got none")
    return found


def all_operations() -> Iterator[Operation]:
    """Every declared operation of the library, by name."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            importlib.import_module(f"{__package__}.{module.name}")
    return iter(sorted(Operation.registry.values(), key=lambda operation: operation.name))
