"""Arrays for kernels begin where vectors do, and lie in memory that is used again and never twice at once."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ranvier as rv
from ranvier.kernels import memory_pool
from ranvier.kernels.memory import empty, zeros

LARGE = 100_000  # bytes


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(), 0, 5, (3, 0), (7, 9), 40_000, (123, 457), (2, 3, 20_001)])
def test_what_is_not_small_begins_at_a_cache_line(shape, dtype):
    arrays = [empty(shape, dtype) for _ in range(5)]
    for array in arrays:
        assert array.shape == np.empty(shape, np.bool_).shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array.fill(1)
        if array.nbytes >= 1 << 15:
            assert array.ctypes.data % 64 == 0


@given(st.lists(st.tuples(st.integers(30_000, 300_000), st.integers(0, 5)), max_size=40))
def test_arrays_that_are_alive_never_share_memory(wishes):
    alive = {}
    for number, (size, dropped) in enumerate(wishes):
        array = empty(size, np.uint8)
        array.fill(number)
        alive[number] = array[size // 3 :][::-1]  # a view of a view keeps the memory as the array itself would
        del array
        alive.pop(number - dropped - 1, None)
    for number, array in alive.items():
        assert (array == number).all()


def test_memory_is_taken_again_once_the_last_view_is_gone():
    array = empty(LARGE, np.uint8)
    address, view = array.ctypes.data, memoryview(array[5:])
    del array
    other = empty(LARGE, np.uint8)
    assert other.ctypes.data != address
    del view
    assert empty(LARGE, np.uint8).ctypes.data == address


def test_an_owner_of_memory_is_an_array_like_others():
    array = empty(1 << 16, np.uint8)  # as large as its piece of memory
    array.fill(3)
    owner = array.base
    part, copy, total = owner[10:20], owner.copy(), owner + 1
    assert (copy == 3).all()
    assert (total == 4).all()
    del owner, part, copy, total
    other = empty(1 << 16, np.uint8)
    assert not np.shares_memory(array, other)


def test_a_system_without_large_pages_gives_others(monkeypatch):
    class Small(memory_pool.mmap.mmap):
        def madvise(self, option):
            raise OSError(22, "Invalid argument")

    rv.empty_cache()
    monkeypatch.setattr(memory_pool.mmap, "mmap", Small)
    assert empty(5 << 20, np.uint8).nbytes == 5 << 20


def test_used_memory_is_handed_out_as_zeros():
    empty(LARGE, np.uint8).fill(7)
    assert not zeros(LARGE, np.uint8).any()


def test_empty_cache_gives_back_what_no_array_needs():
    alive, gone = empty(LARGE, np.uint8), empty(5 * LARGE, np.uint8)
    alive.fill(3)
    del gone
    assert rv.empty_cache() >= 5 * LARGE
    assert memory_pool.free_bytes() == 0
    assert (alive == 3).all()


def test_no_more_is_kept_than_was_alive_at_once():
    rv.empty_cache()
    gc.collect()
    for size in range(1 << 20, 64 << 20, 1 << 20):
        empty(size, np.uint8)
    assert memory_pool.free_bytes() <= max(memory_pool._account.peak, 64 << 20) * 5 / 4 + memory_pool._SLACK


def test_threads_take_and_drop_arrays_at_once():
    faults = []

    def work(number):
        for round_ in range(300):
            array = empty(LARGE + round_ % 7 * 10_000, np.uint8)
            array.fill(number)
            if not (array == number).all():
                faults.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_memory_that_the_system_does_not_have_is_an_error():
    with pytest.raises(MemoryError, match=r"memory: expected [\d,]+ bytes more, .* got [\d,]+ bytes in use"):
        empty(1 << 60, np.uint8)
    assert empty(LARGE, np.uint8).size == LARGE


def test_a_training_step_asks_the_system_for_no_memory_once_it_has_run(monkeypatch):
    rv.seed(0)
    model = rv.Sequential(rv.Conv2d(3, 16, 3, padding=1), rv.ReLU(), rv.MaxPool2d(2), rv.Conv2d(16, 16, 3, padding=1))
    optimizer = rv.optim.Adam(model.parameters())
    x, target = rv.ones(4, 3, 64, 64), rv.zeros(4, 16, 32, 32)

    def step():
        loss = rv.functional.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    asked, ask = [], memory_pool._ask
    monkeypatch.setattr(memory_pool, "_ask", lambda size: asked.append(size) or ask(size))
    tracemalloc.start()  # sees what NumPy asks for itself
    for _ in range(3):
        step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert asked == []
    assert peak < 100_000
