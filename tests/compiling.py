"""Compiles GPU kernels for three architectures on a machine that has none of them."""

from __future__ import annotations

import numpy as np
import triton

from ranvier.kernels import launch, tuning
from ranvier.kernels.compiled import Compiled
from ranvier.profiling.launches import Array, launches_of, launches_of_sample
from ranvier.profiling.occupancy import ARCHITECTURES as LIMITS

ARCHITECTURES = (80, 90, 100)
# Bytes a thread. Versions of Triton allocate registers differently: with an older one a kernel may lack some.
SPILLED = 0 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9) else 48


def compile_kernel(kernel, arguments, architecture: int, **constants) -> Compiled:
    """The form of a kernel that a launch with these arguments would use; a dtype's name stands for an array."""
    arguments = [Array(argument) if isinstance(argument, str) else argument for argument in arguments]
    known = launch.kernel_of(kernel)
    signature, _ = known.bind(arguments)
    return known.compile(tuple(signature), architecture, **constants)


def assert_fits(kernel, arguments, architecture: int, **constants) -> None:
    """Compiled, the kernel keeps everything in registers and in the shared memory that the architecture has."""
    assert_compiled_fits(compile_kernel(kernel, arguments, architecture, **constants), architecture)


def assert_compiled_fits(compiled: Compiled, architecture: int) -> None:
    """The same of a kernel that is compiled."""
    assert compiled.info.registers <= 255
    assert compiled.info.stack_bytes <= SPILLED, f"{compiled.name} spills {compiled.info.stack_bytes} bytes"
    assert compiled.shared_bytes <= LIMITS[architecture].block_shared_bytes


def record_launches(call) -> list[tuple]:
    """(kernel, arguments, constants) of every launch that `call()` makes on NumPy arrays; no kernel runs."""
    return [made[:3] for made in launches_of(call)]


def assert_launches_fit(call, architecture: int) -> set[str]:
    """Every kernel that `call()` launches fits, in the form in which it is launched. Returns the kernels' names."""
    with tuning.assuming(architecture):
        launches = launches_of(call)
    return _assert_fit(launches, architecture)


def assert_sample_fits(operation, name: str, dtype: str, architecture: int) -> None:
    """Every kernel that the named sample of an operation launches, forward and backward, fits."""
    sample = next(sample for sample in operation.samples if sample.name == name)
    with tuning.assuming(architecture):
        launches = launches_of_sample(operation, sample, np.dtype(dtype))
    assert _assert_fit(launches, architecture)


def _assert_fit(launches, architecture: int) -> set[str]:
    for kernel, arguments, constants, _ in launches:
        assert_fits(kernel, arguments, architecture, **constants)
    return {made.kernel.__name__ for made in launches}
