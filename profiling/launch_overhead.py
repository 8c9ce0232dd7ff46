"""What one kernel launch costs the host, in microseconds: `python -m ranvier.profiling.launch_overhead`.

A network of small layers is bound by this and not by the GPU. Three ways to the same launch are timed:

    prepared    the compiled form is at hand, arguments are addresses and numbers
    bound       `launch(kernel, grid, *arrays, ...)`, which finds the compiled form by the arguments' types
    with empty  bound, and the output allocated for it, as a layer's forward pass does
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable

_LAUNCHES = 200  # between two waits: fewer than a stream's queue holds, so that the host never waits for room in it


def measure(repeats: int = 200) -> dict[str, float]:
    """Microseconds a launch of a kernel with three arrays and a size, the best of `repeats` rounds."""
    import cupy
    import numpy as np

    from ..kernels.gpu_arrays import sum_of_two_kernel
    from ..kernels.launch import TritonKernel, empty, launch

    a, b, total = (cupy.asarray(np.zeros(1024, np.float32)) for _ in range(3))
    prepared = TritonKernel(sum_of_two_kernel).prepare(a, b, total, 1024, BLOCK=1024)
    addresses = a.data.ptr, b.data.ptr, total.data.ptr
    ways = {
        "prepared": lambda: prepared(1, 1, 1, *addresses, 1024),
        "bound": lambda: launch(sum_of_two_kernel, (1,), a, b, total, 1024, BLOCK=1024),
        "with empty": lambda: launch(sum_of_two_kernel, (1,), a, b, empty(a), 1024, BLOCK=1024),
    }
    return {name: _best(way, repeats, cupy.cuda.get_current_stream().synchronize) for name, way in ways.items()}


def _best(way: Callable[[], None], repeats: int, wait: Callable[[], None]) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(_LAUNCHES):
            way()
        seconds.append(time.perf_counter() - started)
        wait()
    return min(seconds) / _LAUNCHES * 1e6


def _has_gpu() -> bool:
    import cupy

    return cupy.cuda.is_available()


def main() -> None:
    """Prints the figures, or what is missing to take them."""
    from .devices import describe

    if importlib.util.find_spec("cupy") is None or not _has_gpu():
        sys.exit("launch_overhead: expected a GPU and CuPy, got none; `ranvier devices` says what is missing")
    print(next(line for line in describe().splitlines() if line.startswith("GPU")))
    for name, microseconds in measure().items():
        print(f"{name:10} {microseconds:6.2f} us a launch")


if __name__ == "__main__":
    main()
