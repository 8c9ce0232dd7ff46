"""What runs under the sanitizer: `python tests/sanitized.py training`, or `out_of_bounds` or `race`: faults.

CuPy's memory pool would hide accesses to what lies beside an array, so each array is allocated for itself.
"""

import functools
import sys

import cupy
import numpy as np
from training_steps import FAMILIES, OPTIMIZERS, losses_of, optimized

from ranvier.kernels.launch import launch


def training():
    """A step of a network of each family, and of each optimizer."""
    for build in [*FAMILIES, *(functools.partial(optimized, name) for name in OPTIMIZERS)]:
        losses_of(build, "cuda", 1)


def out_of_bounds():
    from faults import read_past_the_end_kernel

    launch(
        read_past_the_end_kernel, (1,), cupy.asarray(np.ones(1000, "f")), cupy.asarray(np.ones(1024, "f")), BLOCK=1024
    )


def race():
    from faults import THREADS, read_without_a_barrier_kernel

    x, y = (cupy.asarray(np.ones(THREADS, "f")) for _ in range(2))
    launch(read_without_a_barrier_kernel, (1,), x, y, num_warps=THREADS // 32)


if __name__ == "__main__":
    cupy.cuda.set_allocator(None)
    {"training": training, "out_of_bounds": out_of_bounds, "race": race}[sys.argv[1]]()
    cupy.cuda.Device().synchronize()
