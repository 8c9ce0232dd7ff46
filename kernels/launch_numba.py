"""Numba-CUDA kernels on CuPy arrays, for what Triton's tiles do not fit: one thread's work written down, blocks with
barriers. Compiled to a cubin ahead of the launch, kept on the disk, loaded and launched by CuPy as Triton's are.

    @NumbaKernel
    def scale_kernel(x, y, size, factor):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            y[i] = factor * x[i]

    launch(scale_kernel, (blocks,), x, y, x.size, 0.5, num_warps=4)

An array arrives as a pointer: it has one axis, no size, and no index is checked. Ints and floats arrive with 64 bits.
A block has 32 * num_warps threads; `shared_bytes` is what `cuda.shared.array(0, type)` finds. A kernel may call
`@cuda.jit(device=True, inline="always")` functions of its own module: of its own, because the module's text is what
tells compiled forms apart on the disk; inline, because others would be compiled for the device that is current.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np

from .compiled import Compiled
from .launch import Kernel, pointer_kind, pointer_type

if find_spec("numba_cuda") is None:
    raise ModuleNotFoundError(
        "kernels for GPUs: expected numba-cuda, got none: `pip install ranvier[cuda13]` (or [cuda12]) brings it"
    )
_NUMBA_TYPES = {
    "fp16": "float16", "fp32": "float32", "fp64": "float64",
    **{f"{sign}{bits}": f"{'u' if sign == 'u' else ''}int{bits}" for bits in (8, 16, 32, 64) for sign in "iu"},
}  # fmt: skip


class NumbaKernel(Kernel):
    """A function of arrays and numbers that each thread of a grid runs; the decorator of such a function."""

    def __init__(self, function):
        super().__init__()
        functools.update_wrapper(self, function)
        self.function = function
        self.parameters = tuple(inspect.signature(function).parameters)

    def bind(self, arguments) -> tuple[list, list]:
        """The arguments' types, in the words of Triton's, and the values that a launch passes."""
        if len(arguments) != len(self.parameters):
            names = ", ".join(self.parameters)
            raise TypeError(
                f"{self.__name__}: expected {len(self.parameters)} arguments ({names}), got {len(arguments)}"
            )
        signature, values = [], []
        for name, argument in zip(self.parameters, arguments):
            kind = type(argument)
            if kind is int or kind is float:
                signature.append("i64" if kind is int else "fp64")
                values.append(argument)
            elif hasattr(argument, "dtype"):
                signature.append(pointer_kind(argument))
                values.append(argument.data.ptr)
            else:
                raise TypeError(f"{self.__name__}: expected {name} as an array, an int or a float, got {kind.__name__}")
        return signature, values

    def key(self, signature: tuple, architecture: int, *, num_warps: int = 4, shared_bytes: int = 0) -> str:
        """A hash of the module's text, arguments' types, the block, the architecture and the compilers' versions."""
        from cuda.bindings import nvjitlink

        parts = [version("numba"), version("numba-cuda"), nvjitlink.version(), architecture, self.__name__]
        parts += [inspect.getsource(sys.modules[self.__module__]), _words(signature), num_warps, shared_bytes]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _build(self, signature: tuple, architecture: int, constants: dict):
        from cuda.core import Linker, LinkerOptions, ObjectCode
        from numba import cuda, types

        _load_compiler()
        passed = [_numba_type(types, word, self.__name__) for word in _words(signature)]
        metadata = _metadata(self.__name__, **constants)
        ptx, _ = cuda.compile(
            self.function, types.void(*passed), cc=divmod(architecture, 10), device=False, abi="numba",
            abi_info={"abi_name": self.__name__}, launch_bounds=32 * metadata.num_warps,
        )  # fmt: skip
        linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=f"sm_{architecture}"))
        return SimpleNamespace(metadata=metadata, asm={"ptx": ptx, "cubin": bytes(linker.link("cubin").code)})

    def _compiled(self, result, signature: tuple, constants: dict) -> Compiled:
        return Compiled(result, _words(signature), scratch_pointers=0, compiler=f"Numba-CUDA {version('numba-cuda')}")


@functools.cache
def _load_compiler() -> None:
    """Imports what numba-cuda would import when it first compiles. Up to 0.30 it takes `numpy.row_stack` there, another
    name of vstack that NumPy 2.5 has no longer; so it has it meanwhile."""
    missing = not hasattr(np, "row_stack")
    if missing:
        np.row_stack = np.vstack  # noqa: NPY201
    try:
        importlib.import_module("numba.cuda.cudaimpl")
    finally:
        if missing:
            del np.row_stack  # noqa: NPY201


def _words(signature: tuple) -> list[str]:
    """ "*fp32", "i64", ...: a form's types without numbers that only this process knows."""
    return [pointer_type(kind) if type(kind) is int else kind for kind in signature]


def _numba_type(types, word: str, kernel: str):
    """Numba's type for a word of a signature."""
    name = _NUMBA_TYPES.get(word.removeprefix("*"))
    if name is None:
        raise TypeError(
            f"{kernel}: expected arrays of {', '.join(_NUMBA_TYPES.values())}, got one of {word[1:]}; cast it"
        )
    return types.CPointer(getattr(types, name)) if word[0] == "*" else getattr(types, name)


def _metadata(name: str, num_warps: int = 4, shared_bytes: int = 0) -> SimpleNamespace:
    """What a launch must know of the cubin, in the words of Triton's."""
    return SimpleNamespace(
        name=name, num_warps=num_warps, num_ctas=1, shared=shared_bytes, global_scratch_size=0,
        launch_cooperative_grid=False, launch_pdl=False,
    )  # fmt: skip
