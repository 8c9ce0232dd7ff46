"""Tensors from numbers, lists and arrays, and back to arrays."""

import numpy as np
import pytest

import ranvier as rv


def test_tensor_copies_and_keeps_array_types():
    array = np.arange(4.0)
    x = rv.tensor(array)
    assert x.dtype == np.float64
    assert not np.shares_memory(x.array, array)
    assert rv.tensor([1, 2]).dtype == np.int64
    assert rv.tensor([1.0, 2]).dtype == np.float32
    assert rv.tensor([[True]]).dtype == np.bool_
    assert rv.tensor([]).dtype == np.float32
    assert rv.tensor(2.5).shape == ()
    assert rv.tensor([np.float64(1)]).dtype == np.float64
    assert rv.tensor([rv.tensor(1.0), rv.tensor(2.0)]).dtype == np.float32
    assert rv.tensor(np.ones((2, 3), order="F")).array.flags.c_contiguous
    assert rv.tensor([1.0], requires_grad=True).requires_grad
    assert np.shares_memory(rv.from_numpy(array).array, array)


def test_tensor_and_clone_lie_in_memory_where_vectors_touch_one_cache_line():
    odd = np.arange(3 * 10_007, dtype=np.float64)[1:]
    for copy in (rv.tensor(odd, dtype="float32"), rv.from_numpy(odd).clone()):
        assert copy.array.ctypes.data % 64 == 0
        np.testing.assert_array_equal(copy.array, odd)


@pytest.mark.parametrize("junk", ["text", ["a"], object(), None, [None], 1j, np.array(["x"]), {"a": 1}, 2**70])
def test_tensor_refuses_what_is_no_number(junk):
    with pytest.raises(TypeError, match=r"^tensor: expected"):
        rv.tensor(junk)


def test_tensor_refuses_ragged_lists_and_unknown_types():
    with pytest.raises(ValueError, match=r"^tensor: expected nested lists of equal lengths"):
        rv.tensor([[1], [1, 2]])
    with pytest.raises(TypeError, match="dtype='int64' converts"):
        rv.tensor(np.zeros(2, np.uint32))
    assert rv.tensor(np.zeros(2, np.uint32), dtype="int64").dtype == np.int64
    with pytest.raises(TypeError, match="expected dtype as"):
        rv.zeros(2, dtype="complex64")
    with pytest.raises(ValueError, match="sizes of 0 or more"):
        rv.zeros(-1)


def test_factories():
    assert rv.zeros(2, 3).shape == rv.ones((2, 3)).shape == rv.empty(2, 3).shape == (2, 3)
    np.testing.assert_array_equal(rv.arange(1, 7, 2).array, [1, 3, 5])
    assert rv.arange(3).dtype == np.int64
    assert rv.arange(0.5, 2).dtype == np.float32
    np.testing.assert_allclose(rv.linspace(0, 1, 3).array, [0, 0.5, 1])
    np.testing.assert_array_equal(rv.eye(2, 3).array, np.eye(2, 3))
    assert rv.full((2,), 7).dtype == np.int64
    x = rv.zeros(2, dtype=np.float64)
    assert rv.ones_like(x).dtype == np.float64
    rv.seed(5)
    first = [rv.rand(2).array, rv.randn(2).array, rv.randint(0, 9, (2,)).array, rv.randperm(5).array]
    rv.seed(5)
    again = [rv.rand(2).array, rv.randn(2).array, rv.randint(0, 9, (2,)).array, rv.randperm(5).array]
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)


def test_numpy_copies_a_tensor_where_it_is_asked_to():
    x = rv.zeros(3)
    copied, shared = np.array(x), np.asarray(x)
    x.array[0] = 1
    assert copied[0] == 0
    assert shared is x.array
    assert np.asarray(x, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.array(x, np.float64, copy=False)
