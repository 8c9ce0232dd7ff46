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


def record_launches(call) -> list[tuple]:
    """(kernel, arguments, constants) of every launch that `call()` makes on NumPy arrays; no kernel runs."""
    launches = []

    def record(kernel, _grid, arguments, constants):
        stand_ins = tuple(Array(a.dtype.name) if isinstance(a, np.ndarray) else a for a in arguments)
        launches.append((kernel, stand_ins, constants))

    before, launch.interpreter = launch.interpreter, record
    try:
        call()
    finally:
        launch.interpreter = before
    return launches


def assert_launches_fit(call, architecture: int) -> set[str]:
    """Every kernel that `call()` launches fits, in the form in which it is launched. Returns the kernels' names."""
    launches = record_launches(call)
    for kernel, arguments, constants in launches:
        assert_fits(kernel, arguments, architecture, **constants)
    return {kernel.__name__ for kernel, _, _ in launches}


def assert_sample_fits(operation, name: str, dtype: str, architecture: int) -> None:
    """Every kernel that the named sample of an operation launches, forward and backward, fits."""
    sample = next(sample for sample in operation.samples if sample.name == name)
    inputs = sample.build(np.random.default_rng(0), np.dtype(dtype))
    needs = tuple(isinstance(x, np.ndarray) and x.dtype == np.dtype(dtype) for x in inputs)

    def call():
        output, saved = operation.forward(*inputs, implementation="gpu", **sample.attributes)
        # No kernel runs, so the outputs serve as their own gradients.
        operation.backward(saved, output, needs, implementation="gpu")

    assert assert_launches_fit(call, architecture)
