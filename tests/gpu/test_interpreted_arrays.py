"""Copies, casts, fills and extents of GPU arrays, in Triton's interpreter."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import DTYPES

from ranvier.kernels import gpu_arrays

interpreter.install()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_view_of_any_strides_is_copied_whole(data):
    rank = data.draw(st.integers(1, 7))
    base = np.arange(4**rank, dtype=np.float32).reshape((4,) * rank)
    slices = [st.sampled_from([slice(None), slice(1, 4, 2), slice(None, None, -1), slice(2, 3), slice(0, 0)])] * rank
    view = base[tuple(data.draw(s) for s in slices)].transpose(data.draw(st.permutations(range(rank))))
    copied = gpu_arrays.contiguous(view)
    assert copied.flags.c_contiguous
    np.testing.assert_array_equal(copied, view)
    target = np.zeros_like(base)[tuple(slice(0, n) for n in view.shape)]
    gpu_arrays.copy_into(target, view)
    np.testing.assert_array_equal(target, view)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_casts_round_as_numpy_does(source, target):
    x = (np.random.default_rng(0).standard_normal(2_000) * 10).astype(DTYPES[source])
    np.testing.assert_array_equal(gpu_arrays.cast(x, DTYPES[target]), x.astype(DTYPES[target]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_and_sum(dtype):
    a, b = (np.random.default_rng(s).standard_normal((33, 41)).astype(DTYPES[dtype]) for s in (0, 1))
    np.testing.assert_array_equal(gpu_arrays.add(a, b), a + b)
    assert (gpu_arrays.zeros(a) == 0).all()
    c = a.copy()
    gpu_arrays.add(c, b.T.copy().T, out=c)
    np.testing.assert_array_equal(c, a + b)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_extent(dtype):
    x = np.random.default_rng(0).integers(3, 90, (70, 60)).astype(dtype)
    assert gpu_arrays.extent(x) == (int(x.min()), int(x.max()))
    assert gpu_arrays.extent(x, ignored=int(x.min())) == (int(np.unique(x)[1]), int(x.max()))
    assert gpu_arrays.extent(x[:0]) is None
    assert gpu_arrays.extent(np.full(5, 7, dtype), ignored=7) is None


def test_a_counter_counts_past_32_bits():
    counter = np.array(2**31 - 1)
    gpu_arrays.count(counter)
    assert counter == 2**31
