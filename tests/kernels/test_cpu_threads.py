"""What `prange` does in a kernel: every index once, whatever the number of threads, and no failure unseen."""

import numba
import numpy as np
import pytest
from numba import prange

from ranvier.kernels.cpu_jit import kernel


@kernel
def count_kernel(counts, step):
    for i in prange((len(counts) + step - 1) // step):
        for place in range(i * step, min(len(counts), (i + 1) * step)):
            if counts[place] < 0:
                raise ValueError("a count is never negative")
            counts[place] += place


@kernel
def two_loops_kernel(x):
    for i in prange(len(x)):
        x[i] = 1
    for i in prange(len(x)):
        x[i] += x[0]


@pytest.fixture(params=range(1, numba.config.NUMBA_NUM_THREADS + 1))
def threads(request):
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("step", [1, 7])
def test_every_index_is_visited_once(threads, length, step):
    counts = np.zeros(length)
    count_kernel(counts, step)
    np.testing.assert_array_equal(counts, np.arange(length))


def test_a_failure_in_a_thread_is_raised(threads):
    counts = np.zeros(100)
    counts[-1] = -1
    with pytest.raises(RuntimeError, match="count_kernel: a thread has failed"):
        count_kernel(counts, 1)


def test_a_second_loop_is_refused():
    # Its threads would not wait for the first loop's.
    with pytest.raises(ValueError, match="two_loops_kernel: expected one prange loop in a kernel, got 2"):
        two_loops_kernel(np.zeros(3))
