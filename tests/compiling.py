"""Compiles GPU kernels for three architectures on a machine that has none of them."""

from __future__ import annotations

import ml_dtypes  # noqa: F401  (registers bfloat16's name)
import numpy as np

from ranvier.kernels import launch

ARCHITECTURES = (80, 90, 100)


class Array:
    """Stands in for an aligned CuPy array where only its type and address are asked for."""

    def __init__(self, dtype: str, address: int = 4096):
        self.dtype, self.data = np.dtype(dtype), type("Memory", (), {"ptr": address})


def compile_kernel(kernel, arguments, architecture: int, **constants) -> launch.Compiled:
    """The form of a kernel that a launch with these arguments would use; a dtype's name stands for an array."""
    arguments = [Array(argument) if isinstance(argument, str) else argument for argument in arguments]
    known = launch.TritonKernel(kernel)
    signature, _ = known.bind(arguments)
    return known.compile(tuple(signature), architecture, **constants)


def assert_fits(kernel, arguments, architecture: int, **constants) -> None:
    """Compiled, the kernel keeps everything in registers and in the shared memory that every architecture has."""
    compiled = compile_kernel(kernel, arguments, architecture, **constants)
    assert compiled.info.registers <= 255
    assert compiled.info.stack_bytes == 0, f"{compiled.name} spills {compiled.info.stack_bytes} bytes"
    assert compiled.shared_bytes <= 163 * 1024  # what a block can have on sm_80, the smallest of the three
