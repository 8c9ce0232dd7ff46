"""What is measured: an operation, shapes for its inputs, its attributes and a type.

The shapes are those that the operation declares for timing (`large=True` in its samples), or the user's:

    --shape x=32x64x56x56 weight=64x64x3x3 --attribute stride=2,2 padding=((1,1),(1,1))
    --shape input=256x1000 target=256:1000          # integers below 1000
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np

from ..kernels.operation import Drawn, Integers, Normal, Operation, Sample, Uniform, Values, all_operations

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
_SEED = 20260101


@dataclass(frozen=True)
class Case:
    """One call of one operation, not yet in memory."""

    operation: Operation
    sample: Sample
    dtype: str

    @property
    def name(self) -> str:
        return self.sample.name

    @property
    def attributes(self) -> dict:
        """All attributes, those that the sample leaves at their defaults too."""
        defaults = {n: v for n, v in self.operation.attributes.items() if v is not inspect.Parameter.empty}
        return defaults | self.sample.attributes

    @property
    def family(self) -> str:
        return family_of(self.operation)

    def build(self) -> list:
        """The inputs as NumPy arrays, None and numbers; the same values at every call."""
        return self.sample.build(np.random.default_rng(_SEED), DTYPES[self.dtype])

    def describe(self, inputs: Sequence) -> str:
        """The shapes as people write them: 'x 32x64x56x56, weight 64x64x3x3; stride (2, 2)'."""
        names = self.operation.input_names(len(inputs))
        shapes = [f"{name} {shape_text(x)}" for name, x in zip(names, inputs) if x is not None]
        changed = [
            f"{name} {value!r}"
            for name, value in self.sample.attributes.items()
            if name != "seed" and repr(value) != repr(self.operation.attributes.get(name))
        ]
        return "; ".join(filter(None, [", ".join(shapes), ", ".join(changed)]))


def shape_text(x) -> str:
    """'32x64' for an array, 'scalar' for one without axes, the number itself for a number."""
    if not hasattr(x, "shape"):
        return repr(x)
    return "x".join(map(str, x.shape)) or "scalar"


def select(words: Sequence[str]) -> list[Operation]:
    """The operations that the words name: operations, families, or 'all'. A name that is both, such as softmax, is the
    operation; with a slash, `softmax/`, it is the folder.

    Raises:
        ValueError: a word names nothing; the message has close matches and all families.
    """
    operations = list(all_operations())
    by_name = {operation.name: operation for operation in operations}
    families: dict[str, list[Operation]] = {}
    for operation in operations:
        families.setdefault(family_of(operation), []).append(operation)
    chosen: dict[str, Operation] = {}
    for word in words:
        if word == "all":
            found = operations
        elif word in by_name:
            found = [by_name[word]]
        elif word.removesuffix("/") in families:
            found = families[word.removesuffix("/")]
        else:
            close = difflib.get_close_matches(word, [*by_name, *families], n=4)
            near = f"did you mean {', '.join(close)}? " if close else ""
            raise ValueError(
                f"profile: expected an operation, a family or 'all', got {word!r}; {near}"
                f"Families: {', '.join(sorted(families))}. Operations: {', '.join(sorted(by_name))}"
            )
        chosen |= {operation.name: operation for operation in found}
    return list(chosen.values())


def ambiguous(words: Sequence[str]) -> list[str]:
    """Those of the words that name an operation and a family."""
    operations = list(all_operations())
    both = {operation.name for operation in operations} & {family_of(operation) for operation in operations}
    return [word for word in words if word in both]


def family_of(operation: Operation) -> str:
    """The name of the operation's folder."""
    return operation.family.rpartition(".")[2]


def declared_cases(operation: Operation, dtype: str, names: Sequence[str] = ()) -> list[Case]:
    """The operation's samples for timing, or those named.

    Raises:
        ValueError: there is no sample of that name.
    """
    if names:
        known = {sample.name: sample for sample in operation.samples}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"{operation.name}: expected a case among {', '.join(known)}, got {unknown[0]!r}; "
                "`--shape` takes shapes of your own"
            )
        return [Case(operation, known[name], dtype) for name in names]
    return [Case(operation, sample, dtype) for sample in operation.samples if sample.large]


def with_attributes(case: Case, attributes: dict) -> Case:
    """The case with some attributes changed."""
    if not attributes:
        return case
    _refuse_unknown(case.operation, "attribute", attributes, case.operation.attributes)
    return replace(case, sample=replace(case.sample, attributes=case.sample.attributes | attributes))


def case_of_shapes(operation: Operation, shapes: dict[str, str], attributes: dict, dtype: str) -> Case:
    """The user's shapes. What kind of values an input holds is taken from the operation's own samples.

    Raises:
        ValueError: a name or a shape is wrong, or something is left out that the operation needs; the message lists
            what it takes.
    """
    if operation.variadic:
        *fixed, last = operation.inputs
        unknown = [n for n in shapes if n not in fixed and not re.fullmatch(rf"{re.escape(last)}\[\d+\]", n)]
        if unknown:
            raise _refused(
                operation, f"inputs {', '.join([*fixed, f'{last}[0]', f'{last}[1]'])}, ..., got {unknown[0]!r}"
            )
        inputs = {name: _builder(operation, name, text) for name, text in shapes.items()}
    else:
        _refuse_unknown(operation, "input", shapes, operation.inputs)
        inputs = {}
        for name, default in _defaults(operation).items():
            if name in shapes:
                inputs[name] = _builder(operation, name, shapes[name])
            elif default is inspect.Parameter.empty:
                raise _refused(operation, f"--shape for its input {name!r} too, got {', '.join(shapes)}")
            else:
                inputs[name] = default
    _refuse_unknown(operation, "attribute", attributes, operation.attributes)
    required = [n for n, value in operation.attributes.items() if value is inspect.Parameter.empty]
    if missing := [name for name in required if name not in attributes]:
        raise _refused(operation, f"--attribute for {', '.join(missing)} too, got {', '.join(attributes) or 'none'}")
    return Case(operation, Sample("--shape", inputs, attributes), dtype)


def parse_shapes(words: Sequence[str]) -> dict[str, str]:
    """['x=32x64', 'weight=8x64'] as a dict, the shapes still text."""
    return dict(_split(word, "--shape", "x=32x64x56x56") for word in words)


def parse_attributes(words: Sequence[str]) -> dict:
    """['stride=2,2', 'activation=relu'] -> {'stride': (2, 2), 'activation': 'relu'}: Python values, else text."""
    attributes = {}
    for word in words:
        name, text = _split(word, "--attribute", "stride=2,2")
        try:
            attributes[name] = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
        except (ValueError, SyntaxError):
            attributes[name] = text
    return attributes


def _split(word: str, option: str, example: str) -> tuple[str, str]:
    name, sign, value = word.partition("=")
    if not (name and sign and value):
        raise ValueError(f"{option}: expected NAME=VALUE such as {example}, got {word!r}")
    return name, value


def _defaults(operation: Operation) -> dict:
    parameters = inspect.signature(operation.check).parameters
    return {name: parameters[name].default for name in operation.inputs}


def _builder(operation: Operation, name: str, text: str):
    """A builder of the shape in `text`, with the kind of values that the operation's own samples have there."""
    found = re.fullmatch(r"((?:\d+(?:x\d+)*)|scalar)(?::(\d+))?", text)
    if not found:
        raise _refused(operation, f"{name} as a shape such as 32x64, or 256:1000 for integers below 1000, got {text!r}")
    shape = () if found[1] == "scalar" else tuple(map(int, found[1].split("x")))
    if found[2]:
        return Integers(shape, 0, int(found[2]))
    key = re.sub(r"\[\d+\]", "[0]", name)
    samples = sorted(operation.samples, key=lambda sample: not sample.large)
    model = next((s.inputs[key] for s in samples if s.inputs.get(key) is not None), None)
    if isinstance(model, (Integers, Uniform)):
        return replace(model, shape=shape)
    if isinstance(model, (Values, Drawn)):
        values = model.build(np.random.default_rng(_SEED), np.float64)
        return Drawn(lambda rng: np.resize(values, shape))
    return Normal(shape)


def _refuse_unknown(operation: Operation, what: str, given, known) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=2)
            near = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise _refused(operation, f"an {what} among {', '.join(known) or 'none'}, got {name!r}{near}")


def _refused(operation: Operation, expected: str) -> ValueError:
    example = next((s for s in operation.samples if s.large), operation.samples[0])
    shapes = [f"{n}={'x'.join(map(str, s))}" for n, v in example.inputs.items() if (s := _shape_of(v)) is not None]
    attributes = [f"{n}={str(v).replace(' ', '')}" for n, v in example.attributes.items()]
    usage = f"--shape {' '.join(shapes)}" + (f" --attribute {' '.join(attributes)}" if attributes else "")
    return ValueError(f"{operation.name}: expected {expected}; for example {usage}")


def _shape_of(value) -> tuple[int, ...] | None:
    """The shape of a sample's input, None where it is no array or not known before it is drawn."""
    if isinstance(value, tuple):
        return value
    return np.shape(value.values) if isinstance(value, Values) else getattr(value, "shape", None)


# ---- memory


def stand_ins(case: Case) -> list:
    """Arrays of the inputs' shapes and types that take no memory: for checks and costs of what may be too large."""
    dtype, arrays = DTYPES[case.dtype], []
    for value in case.sample.inputs.values():
        shape = _shape_of(value)
        if isinstance(value, (tuple, Normal, Uniform)):
            arrays.append(np.broadcast_to(np.ones((), dtype), shape))
        elif isinstance(value, Integers):
            arrays.append(np.broadcast_to(np.array(value.low), shape))
        else:
            arrays.append(value.build(np.random.default_rng(_SEED), dtype) if hasattr(value, "build") else value)
    return arrays


def check_fits(case: Case, device: str, variants: int, backward: bool) -> None:
    """Refuses a case before anything of its size is allocated: shapes that the operation refuses, or that do not fit.

    Raises:
        ValueError, TypeError: the operation's own refusal.
        ValueError: more bytes than the device has left; the message has both.
    """
    inputs = stand_ins(case)
    input_bytes = sum(x.nbytes for x in inputs if hasattr(x, "nbytes"))
    available = available_bytes(device)
    if input_bytes <= available:
        # Only now: a check of values goes through all of them.
        case.operation.check(*inputs, **case.sample.attributes)
        moved = case.operation.cost(*inputs, **case.sample.attributes).bytes
    else:
        moved = input_bytes
    # Inputs once; each variant's output, and with a backward pass what it saved and its gradients.
    needed = input_bytes + (moved if not backward else 3 * moved) * variants
    if needed > available:
        raise ValueError(
            f"{case.operation.name} {case.name}: expected a case that fits in the {_gibibytes(available)} of memory "
            f"left on {device}, got one of about {_gibibytes(needed)} for {variants} variants; choose a smaller --shape"
        )


def available_bytes(device: str) -> int:
    """What can still be allocated on a device without swapping."""
    if device != "cpu":
        import cupy

        with cupy.cuda.Device(int(device.partition(":")[2] or 0)):
            free, _ = cupy.cuda.runtime.memGetInfo()
            return free + cupy.get_default_memory_pool().free_bytes()
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if math.isfinite(count) else "?"
