"""Triton kernels on CuPy arrays, with no framework between: compiled by `triton.compile` for the device's architecture,
loaded and launched by CuPy on its arrays' device and CuPy's current stream there. Numba-CUDA kernels go the same way
(`launch_numba.py`).

    launch(softmax_forward_kernel, (rows,), x, y, columns, BLOCK=1024, num_warps=4)

Arguments' types select a compiled form, and constants another one: an integer 1 or None becomes a constant and drops
out, unless the argument is annotated. How a form is called is in `compiled.py`.
"""

from __future__ import annotations

import functools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import cubin_cache
from .compiled import Compiled, Loaded, OutOfResources
from .device import out_of_memory
from .memory import empty as _empty_on_host
from .memory import supplier

# Where launches go instead of a device: tests put Triton's interpreter here and hand NumPy arrays to GPU kernels.
interpreter: Callable[[Any, tuple, tuple, dict], None] | None = None

_TYPES = {
    "bool": "u1", "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64",
    **{f"{sign}int{bits}": f"{sign or 'i'}{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")},
}  # fmt: skip
_ONE = "==1"
_ALIGNED = [["tt.divisibility", 16]]
_HELPERS = {f"{__package__}.{name}" for name in ("accumulate", "gpu_arrays")}  # they ask for memory in others' names
_pointer_types: dict[int, str] = {}  # by dtype.num
_kernels: dict[int, Kernel] = {}  # by id: a kernel's own hash is its source's, and slow


def launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Runs a kernel over a grid of one to three axes; an empty grid runs nothing.

    Args:
        kernel: the decorated function, `@triton.jit` or `@NumbaKernel` (`launch_numba.py`).
        grid: programs along each axis.
        arguments: arrays and numbers for the parameters that are not `tl.constexpr`, in order.
        constants: the `tl.constexpr` parameters by name, and compile options such as `num_warps`, `num_stages`.
    """
    if 0 in grid:
        return
    if interpreter is not None:
        interpreter(kernel, grid, arguments, constants)
        return
    _known(kernel)(grid, *arguments, **constants)


class Launch(NamedTuple):
    """What `launch` takes, for `launch_steps`: without the kernel's last argument."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple
    constants: dict[str, Any]


def launch_steps(steps: Iterable[int], *launches: Launch) -> None:
    """Runs kernels for one step after the other: at each step all launches in their order, each with the step as its
    kernel's last argument. All else is bound once, which is most of the time that the host takes for a launch.

    Args:
        steps: integers that int32 holds.
        launches: on arrays of one device; the kernels do not specialise on their last argument
            (`@triton.jit(do_not_specialize=["step"])`).
    """
    launches = [each for each in launches if 0 not in each.grid]
    if interpreter is not None:
        for step in steps:
            for kernel, grid, arguments, constants in launches:
                interpreter(kernel, grid, (*arguments, step), constants)
    elif launches:
        import cupy

        with cupy.cuda.Device(_device_of(launches[0].arguments)):
            bound = [_known(kernel).bound(grid, *rest, **named) for kernel, grid, rest, named in launches]
            for step in steps:
                for run in bound:
                    run(step)


def programs_at_once(kernel, *arguments, **constants) -> int:
    """How many programs of a kernel, in the form for such arguments and constants, their device holds at once: the
    largest grid whose programs may wait for one another. They are launched with `launch_cooperative_grid=True`.

    0 where one of them has not the room, or where the device launches nothing cooperatively; no limit where launches go
    to an interpreter.
    """
    if interpreter is not None:
        return sys.maxsize
    import cupy

    with cupy.cuda.Device(_device_of(arguments)):
        try:
            return _known(kernel).prepare(*arguments, **constants).programs_at_once
        except OutOfResources:
            return 0


def ceil_div(size: int, block: int) -> int:
    """How many blocks hold so many elements. `triton.cdiv` gives the same and takes microseconds on the host."""
    return -(-size // block)


def empty(like, shape: tuple[int, ...] | None = None, dtype=None):
    """A C-contiguous array with unspecified contents on the device of `like`, by default of its shape and dtype.

    Raises:
        OutOfMemory: the GPU has not that much memory left.
    """
    shape, dtype = like.shape if shape is None else shape, like.dtype if dtype is None else dtype
    if type(like) is np.ndarray:
        return _empty_on_host(shape, dtype)
    import cupy

    try:
        if (take := supplier()) is not None:
            return take(shape, dtype, like.data.device_id)
        if like.data.device_id == cupy.cuda.get_device_id():
            return cupy.empty(shape, dtype)
        with like.device:
            return cupy.empty(shape, dtype)
    except cupy.cuda.memory.OutOfMemoryError as error:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise out_of_memory(_calling_pass(), f"{np.dtype(dtype)} {tuple(shape)}", size, like.data.device_id) from error


class Kernel(ABC):
    """A kernel with all its compiled forms: one for each combination of argument types, constants and device."""

    def __init__(self):
        self._loaded: dict[tuple, Loaded] = {}

    @abstractmethod
    def bind(self, arguments) -> tuple[list, list]:
        """The types that a form is compiled for, and the values that a launch passes."""

    @abstractmethod
    def key(self, signature: tuple, architecture: int, **constants) -> str:
        """A hash of all that a compiled form depends on."""

    @abstractmethod
    def _build(self, signature: tuple, architecture: int, constants: dict):
        """What the compiler makes: an object with `metadata` and `asm`, as `triton.compile` gives it."""

    @abstractmethod
    def _compiled(self, result, signature: tuple, constants: dict) -> Compiled:
        """What was built, or read from the disk, with what the kind of kernel knows of its parameters."""

    def __call__(self, grid: tuple[int, ...], *arguments, **constants) -> None:
        import cupy

        device = _device_of(arguments)
        if device is not None and device != cupy.cuda.get_device_id():
            with cupy.cuda.Device(device):
                return self(grid, *arguments, **constants)
        loaded, values = self._find(cupy.cuda.get_device_id(), arguments, constants)
        rows = grid[1] if len(grid) > 1 else 1
        loaded(grid[0], rows, grid[2] if len(grid) > 2 else 1, *values)

    def prepare(self, *arguments, **constants) -> Loaded:
        """The compiled form for such arguments, to be called as `loaded(grid_x, grid_y, grid_z, *values)` where values
        are addresses and numbers, without those that were 1 or None: the shortest way to a launch. Their device must
        be the current one, here and at each call."""
        import cupy

        return self._find(cupy.cuda.get_device_id(), arguments, constants)[0]

    def bound(self, grid: tuple[int, ...], *arguments, **constants) -> Callable[[int], None]:
        """A launch that wants only the kernel's last argument any more, an integer that the kernel does not specialise
        on. Device as for `prepare`."""
        import cupy

        loaded, (*values, _) = self._find(cupy.cuda.get_device_id(), (*arguments, 0), constants)
        return functools.partial(loaded, *(*grid, 1, 1)[:3], *values)

    def _find(self, device: int, arguments, constants) -> tuple[Loaded, list]:
        signature, values = self.bind(arguments)
        # Types too: 1, 1.0 and True are equal, but compile to different code.
        key = (device, *signature, *constants.items(), *map(type, constants.values()))
        loaded = self._loaded.get(key)
        if loaded is None:
            compiled = self.obtain(tuple(signature), architecture_of(device), **constants)
            loaded = self._loaded[key] = Loaded(compiled, device)
        return loaded, values

    def obtain(self, signature: tuple, architecture: int, **constants) -> Compiled:
        """The kernel for an architecture (80, 90, ...), from the disk if it has been compiled before."""
        key = self.key(signature, architecture, **constants)
        result = cubin_cache.read(key)
        if result is None:
            result = self._build(signature, architecture, constants)
            cubin_cache.write(key, result)
        return self._compiled(result, signature, constants)

    def compile(self, signature: tuple, architecture: int, **constants) -> Compiled:
        """The kernel for an architecture, by the compiler; needs no GPU."""
        return self._compiled(self._build(signature, architecture, constants), signature, constants)


class TritonKernel(Kernel):
    """A `@triton.jit` function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.runtime = [p for p in function.params if not p.is_constexpr]
        self.constexpr = {p.name: p.default if p.has_default else None for p in function.params if p.is_constexpr}
        self._specialise = tuple(
            (not p.do_not_specialize, not p.do_not_specialize_on_alignment, p.annotation_type or None)
            for p in self.runtime
        )

    def bind(self, arguments) -> tuple[list, list]:
        """The arguments' types by Triton's rules of specialisation, and the values that a launch passes."""
        if len(arguments) != len(self._specialise):
            names = ", ".join(p.name for p in self.runtime)
            raise TypeError(
                f"{self.function.__name__}: expected {len(self.runtime)} arguments ({names}), got {len(arguments)}"
            )
        signature, values = [], []
        for argument, (specialise, align, annotation) in zip(arguments, self._specialise):
            kind = type(argument)
            if kind is int:
                if argument == 1 and specialise and not annotation:
                    signature.append(_ONE)
                    continue
                typed = annotation or ("i32" if -(2**31) <= argument < 2**31 else "i64")
                signature.append(typed + "D" if specialise and align and argument % 16 == 0 else typed)
            elif kind is float:
                signature.append(annotation or "fp32")
            elif argument is None:
                signature.append(None)
                continue
            elif kind is bool:
                signature.append("u1")
            else:
                number = pointer_kind(argument)
                argument = argument.data.ptr
                # An unaligned view selects a form of its own: vectorised copies need 16 bytes.
                signature.append(number + (1 if specialise and align and argument % 16 == 0 else 0))
            values.append(argument)
        return signature, values

    def key(self, signature: tuple, architecture: int, **constants) -> str:
        """A hash of all that the compiled form depends on: source, types, constants, architecture, Triton's version."""
        parts, options, _ = self._described(signature, constants)
        return cubin_cache.key_of(self.function, *parts, options, architecture)

    def _build(self, signature: tuple, architecture: int, constants: dict):
        (types, fixed, attributes), options, _ = self._described(signature, constants)
        source = ASTSource(self.function, types, constexprs=fixed, attrs=attributes)
        return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)

    def _compiled(self, result, signature: tuple, constants: dict) -> Compiled:
        *_, passed = self._described(signature, constants)
        return Compiled(result, passed, scratch_pointers=2, compiler=f"Triton {triton.__version__}")

    def _described(self, signature: tuple, constants: dict) -> tuple[tuple[dict, dict, dict], dict, list[str]]:
        """What the compiler wants to know: types by name, constants and attributes by position; its options; and the
        types of those parameters that a launch passes."""
        types, fixed, attributes, passed = {}, {}, {}, []
        values = self.constexpr | {name: v for name, v in constants.items() if name in self.constexpr}
        rest = iter(signature)
        for position, parameter in enumerate(self.function.params):
            name = parameter.name
            if parameter.is_constexpr:
                types[name], fixed[(position,)] = "constexpr", values[name]
                continue
            kind = next(rest)
            if kind is None or kind is _ONE:
                types[name], fixed[(position,)] = "constexpr", None if kind is None else 1
                continue
            typed, aligned = (pointer_type(kind), kind & 1) if type(kind) is int else _split_aligned(kind)
            if aligned:
                attributes[(position,)] = _ALIGNED
            types[name] = typed
            passed.append(typed)
        # Fusion into multiply-adds is set explicitly, because its default changes between versions of Triton.
        options = {"enable_fp_fusion": True} | {k: v for k, v in constants.items() if k not in self.constexpr}
        return (types, fixed, attributes), options, passed


def _known(kernel) -> Kernel:
    known = _kernels.get(id(kernel))
    if known is None:
        known = _kernels[id(kernel)] = kernel_of(kernel)
    return known


def kernel_of(kernel) -> Kernel:
    """What compiles and launches a decorated function."""
    return kernel if isinstance(kernel, Kernel) else TritonKernel(kernel)


def pointer_kind(array) -> int:
    """An array's type as a number, even, which binding finds faster than a word; `pointer_type` is the word."""
    number = array.dtype.num
    if number not in _pointer_types:
        _pointer_types[number] = "*" + _TYPES[array.dtype.name]
    return number * 2


def pointer_type(kind: int) -> str:
    """ "*fp32" and the like: the word for what `pointer_kind` gave, or that plus 1."""
    return _pointer_types[kind >> 1]


def _calling_pass() -> str:
    """For messages: the innermost function that is a pass of an operation (`<name>_forward`, `<name>_backward`), else
    the innermost that is no helper of others."""
    frame, asking = sys._getframe(2), None
    while frame is not None:
        name = frame.f_code.co_name
        if name.endswith(("_forward", "_backward")):
            return name
        if asking is None and not name.startswith(("_", "<")) and frame.f_globals.get("__name__") not in _HELPERS:
            asking = name
        frame = frame.f_back
    return asking or "empty"


def architecture_of(device: int) -> int:
    """80 for compute capability 8.0, 90 for 9.0, ..."""
    from cupy.cuda import runtime

    return runtime.deviceGetAttribute(75, device) * 10 + runtime.deviceGetAttribute(76, device)


def multiprocessors_of(array) -> int:
    """How many multiprocessors the device of an array has; where launches go to an interpreter, those of an H100."""
    if interpreter is not None:
        return 132
    from cupy.cuda import runtime

    return runtime.deviceGetAttribute(16, array.data.device_id)  # cudaDevAttrMultiProcessorCount


def _device_of(arguments) -> int | None:
    """Where the first array lies, and with it the rest; None if there is none."""
    for argument in arguments:
        if hasattr(argument, "dtype"):
            return argument.data.device_id
    return None


def _split_aligned(kind: str) -> tuple[str, bool]:
    return kind.removesuffix("D"), kind.endswith("D")
