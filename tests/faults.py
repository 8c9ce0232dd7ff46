"""Two kernels with a fault each, on purpose: what looks for faults must find these."""

import triton
import triton.language as tl
from numba import cuda, float32

from ranvier.kernels.launch_numba import NumbaKernel

THREADS = 256


@triton.jit
def read_past_the_end_kernel(x, y, BLOCK: tl.constexpr):
    """y = x, of BLOCK elements whether there are as many or not."""
    index = tl.arange(0, BLOCK)
    tl.store(y + index, tl.load(x + index))


@NumbaKernel
def read_without_a_barrier_kernel(x, y):
    """y = x backwards: each thread reads from shared memory what a thread of another warp writes there."""
    shared = cuda.shared.array(THREADS, float32)
    thread = cuda.threadIdx.x
    shared[thread] = x[thread]
    y[thread] = shared[THREADS - 1 - thread]
