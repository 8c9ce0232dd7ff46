"""Which forms of which GPU kernels an operation launches, found on a machine without a GPU.

An operation's GPU passes run on NumPy arrays while every launch is written down instead of done. No kernel runs, so
what the arrays hold afterwards means nothing; types, shapes, addresses and constants are those of a real call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..kernels import launch
from ..kernels.operation import Operation, Sample

_ALIGNED = 16  # bytes, or a number's divisor: what Triton compiles forms of their own for


class Array:
    """Stands in for a CuPy array where only its type and address are asked for."""

    def __init__(self, dtype: str, address: int = 4096):
        self.dtype, self.data = np.dtype(dtype), _Memory(address)


class _Memory(NamedTuple):
    ptr: int
    device_id: int | None = None


class Launch(NamedTuple):
    """One launch: the kernel, its arguments with `Array` for arrays, its constants and options, its grid."""

    kernel: Any
    arguments: tuple
    constants: dict[str, Any]
    grid: tuple[int, ...]


def launches_of(call: Callable[[], object]) -> list[Launch]:
    """Every launch that `call()` makes on NumPy arrays."""
    launches = []

    def record(kernel, grid, arguments, constants):
        stand_ins = tuple(Array(a.dtype.name, _address(a)) if isinstance(a, np.ndarray) else a for a in arguments)
        launches.append(Launch(kernel, stand_ins, constants, tuple(grid)))

    before, launch.interpreter = launch.interpreter, record
    try:
        call()
    finally:
        launch.interpreter = before
    return launches


def _address(array: np.ndarray) -> int:
    """Where the array would lie on a GPU, whose memory pool hands out blocks at multiples of 512."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return 4096 + array.ctypes.data - whole.ctypes.data


def launches_of_sample(operation: Operation, sample: Sample, dtype: np.dtype) -> list[Launch]:
    """Every launch that the forward and backward pass of a sample makes."""
    inputs = zero_inputs(sample, dtype)
    needs = tuple(isinstance(x, np.ndarray) and x.dtype == dtype for x in inputs)
    return launches_of(lambda: [run() for run in gpu_passes(operation, sample, inputs, needs)])


def zero_inputs(sample: Sample, dtype: np.dtype) -> list:
    """The sample's inputs, with zeros for normal values."""
    return sample.build(_Zeros(np.random.PCG64(0)), dtype)


def gpu_passes(operation: Operation, sample: Sample, inputs: list, needs: tuple[bool, ...]) -> list[Callable[[], None]]:
    """Functions that make the GPU's forward pass and then, where there is one, its backward pass, for `launches_of`."""
    made = []

    def forward():
        made.append(operation.forward(*inputs, implementation="gpu", **sample.attributes))

    def backward():
        output, saved = made.pop()
        # No kernel runs, so the outputs serve as their own gradients.
        operation.backward(saved, output, needs, implementation="gpu")

    return [forward, backward] if operation.differentiable else [forward]


class _Zeros(np.random.Generator):
    """Draws zeros for normal values, which is most of the time that building large samples takes."""

    def standard_normal(self, size=None, dtype=np.float64, out=None):
        return np.zeros(() if size is None else size, dtype)


@dataclass(frozen=True)
class Form:
    """One form of a kernel: what its compiler is given, and where it was met.

    Attributes:
        kernel: the `@triton.jit` or `@NumbaKernel` function.
        arguments: a word an argument: "*float32:16" (a pointer, aligned to 16 bytes), "i32", "i64:16" (a number that 16
            divides), "fp32", "1", "None" (these two are compiled in); of Numba's, "i64" and "fp64".
        constants: `tl.constexpr` parameters and compile options.
        dtype: of the samples in which it was met.
        sample: the one whose launch has the most programs.
        programs: of that launch.
        operations: the names of all operations that launch it.
    """

    kernel: Any
    arguments: tuple[str, ...]
    constants: dict[str, Any]
    dtype: str = ""
    sample: str = ""
    programs: int = 0
    operations: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.kernel.__name__

    @property
    def key(self) -> tuple:
        """Equal for equal forms, and good for a file."""
        return (f"{self.kernel.__module__}.{self.name}", self.arguments, tuple(to_text(self.constants).items()))

    def compile_arguments(self) -> tuple[launch.Kernel, tuple]:
        """The kernel and the signature that it is compiled with."""
        known = launch.kernel_of(self.kernel)
        signature, _ = known.bind([_stand_in(word) for word in self.arguments])
        return known, tuple(signature)


def form_of(made: Launch, **met) -> Form:
    """The form that a launch uses."""
    signature, _ = launch.kernel_of(made.kernel).bind(made.arguments)
    words = []
    for argument, kind in zip(made.arguments, signature):
        if isinstance(argument, Array):
            words.append(f"*{argument.dtype.name}{':16' if kind & 1 else ''}")
        else:
            words.append({None: "None", "==1": "1"}.get(kind) or kind.replace("D", ":16"))
    return Form(made.kernel, tuple(words), made.constants, programs=prod(made.grid), **met)


def read_form(kernel: str, arguments: list[str], constants: dict[str, Any]) -> Form:
    """The form that a file names: `kernel` with its module."""
    module, _, name = kernel.rpartition(".")
    return Form(getattr(import_module(module), name), tuple(arguments), from_text(constants))


def _stand_in(word: str):
    kind, _, aligned = word.partition(":")
    if kind.startswith("*"):
        return Array(kind[1:], 4096 if aligned else 4097)
    if kind in ("1", "None"):
        return {"1": 1, "None": None}[kind]
    if kind in ("fp32", "fp64"):
        return 0.5
    if kind == "u1":
        return True
    # Numbers that take the type they are written with: 64 bits where they need them.
    return (2**40 if kind == "i64" else 0) + (16 if aligned else 3)


def to_text(constants: dict[str, Any]) -> dict[str, Any]:
    """Constants as JSON can hold them, by name: Triton's types as "tl.float32"."""
    import triton.language as tl

    return {
        name: f"tl.{_type_names()[value]}" if isinstance(value, tl.dtype) else getattr(value, "value", value)
        for name, value in sorted(constants.items())
    }


def from_text(constants: dict[str, Any]) -> dict[str, Any]:
    """What `to_text` was given."""
    import triton.language as tl

    return {
        name: getattr(tl, value[3:]) if isinstance(value, str) and value.startswith("tl.") else value
        for name, value in constants.items()
    }


def _type_names() -> dict:
    import triton.language as tl

    names = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "int1")
    return {getattr(tl, name): name for name in names}


def forms_of(operation: Operation, dtype: str, every: bool = False) -> list[Form]:
    """The forms that an operation launches in a dtype, forward and backward, the widest launches first.

    Args:
        operation: one that has GPU kernels.
        dtype: of the samples.
        every: all forms that any sample launches. Otherwise those of the shapes that the operation declares for timing,
            one for each kernel and set of constants, the one with the widest launch; and of kernels that only other
            samples launch, the form of their widest launch.
    """
    found: dict[tuple, Form] = {}
    timed: set[tuple] = set()
    for sample in operation.samples:
        for made in launches_of_sample(operation, sample, np.dtype(dtype)):
            form = form_of(made, dtype=dtype, sample=sample.name, operations=(operation.name,))
            if sample.large:
                timed.add(form.key)
            if form.key not in found or found[form.key].programs < form.programs:
                found[form.key] = form
    widest = sorted(found.values(), key=lambda form: -form.programs)
    if every:
        return widest
    kernels_timed = {form.key[0] for form in widest if form.key in timed}
    chosen: dict[tuple, Form] = {}
    for form in widest:
        if form.key in timed:
            chosen.setdefault((form.key[0], form.key[2]), form)
        elif form.key[0] not in kernels_timed:
            chosen.setdefault((form.key[0],), form)
    return list(chosen.values())


def has_gpu_kernels(operation: Operation) -> bool:
    """Whether the operation has GPU passes; raises ModuleNotFoundError where Triton is missing."""
    module = import_module(f"{operation.family}.gpu")
    return hasattr(module, f"{operation.name}_forward")
