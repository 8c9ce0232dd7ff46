"""Lines inside CPU kernels: weighted sums, and phases taken apart and joined, at every length around the vectors'."""

import numpy as np
import pytest

from ranvier.kernels import cpu_lines
from ranvier.kernels.cpu_jit import serial_kernel
from ranvier.kernels.cpu_lines import memory


@serial_kernel
def weighted_sum_line(source, offsets, first, weights, count, target, to, length):
    cpu_lines.weighted_sum_line(
        memory(source), memory(offsets), first, memory(weights), count, memory(target), to, length
    )


@serial_kernel
def split_line(source, start, count, step, first, target, to, pitch):
    cpu_lines.split_line(memory(source), start, count, step, first, memory(target), to, pitch)


@serial_kernel
def join_line(source, start, pitch, step, first, target, to, count):
    cpu_lines.join_line(memory(source), start, pitch, step, first, memory(target), to, count)


DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_weighted_sum_is_exact_on_small_integers_and_writes_nothing_else(count, dtype):
    rng = np.random.default_rng(0)
    source = rng.integers(-9, 9, 400).astype(dtype)
    offsets, weights = rng.integers(0, 300, count + 2), rng.integers(-3, 3, count + 2).astype(dtype)
    for length in range(70):
        target = np.full(100, np.nan, dtype)
        weighted_sum_line(source, offsets, 2, weights, count, target, 7, length)
        expected = sum(w * source[o : o + length] for o, w in zip(offsets[2:], weights[2:]))
        np.testing.assert_array_equal(target[7 : 7 + length], expected)
        assert np.isnan(target).sum() == target.size - length


@DTYPES
def test_a_single_line_with_weight_1_is_copied_to_the_bit(dtype):
    source = np.array([-0.0, 0.0, np.nan, np.inf, -np.inf] * 10, dtype)
    target = np.ones_like(source)
    weighted_sum_line(source, np.zeros(1, np.int64), 0, np.ones(1, dtype), 1, target, 0, source.size)
    np.testing.assert_array_equal(target, source)
    np.testing.assert_array_equal(np.signbit(target), np.signbit(source))


@DTYPES
@pytest.mark.parametrize("first", [0, 1, 2, 5])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_phases_hold_every_element_in_its_place(step, first, dtype):
    source = np.arange(300).astype(dtype)
    for count in range(150):
        phases = np.full((step, 200), np.nan, dtype)
        split_line(source, 11, count, step, first, phases.reshape(-1), 0, 200)
        place = np.arange(count) + first
        np.testing.assert_array_equal(phases[place % step, place // step], source[11 : 11 + count])
        assert np.isnan(phases).sum() == phases.size - count
        joined = np.full(170, np.nan, dtype)
        join_line(phases.reshape(-1), 0, 200, step, first, joined, 5, count)
        np.testing.assert_array_equal(joined[5 : 5 + count], source[11 : 11 + count])
        assert np.isnan(joined).sum() == joined.size - count
