"""Reductions by the kernels that large arrays get, at odd sizes and along every axis."""

import numba
import numpy as np
import pytest
from agreement import agree

from ranvier.kernels import memory
from ranvier.kernels.operation import Operation, all_operations
from ranvier.kernels.reduce import cpu, cpu_scan

list(all_operations())


@pytest.fixture(autouse=True)
def _everything_is_worth_threads(monkeypatch):
    monkeypatch.setattr(cpu, "_WORTH_THREADS", 1)
    monkeypatch.setattr(cpu_scan, "_WORTH_THREADS", 1)
    monkeypatch.setattr(memory, "poison", True)


def values(shape, seed=0, dtype=np.float32):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1,), 0), ((37,), 0), ((3, 37), 1), ((4, 5), 1), ((11, 70), 1), ((9, 3), 0), ((2, 7, 513), 1), ((3, 2, 5), 0)],
)
@pytest.mark.parametrize("name", ["cumsum", "max", "min"])
def test_along_any_axis_agrees_with_the_reference(name, shape, axis, dtype):
    agree(Operation.registry[name], [values(shape, dtype=dtype)], {"axis": axis}, np.random.default_rng(1), dtype)


@pytest.mark.parametrize("name", ["var", "std", "sum", "amax", "amin"])
@pytest.mark.parametrize("axis", [(0,), (1,), (2,), (3,), (0, 2, 3), (2, 3), (0, 1), (1, 3), (0, 2), (0, 1, 2, 3)])
def test_over_any_axes_agrees_with_the_reference(name, axis):
    quarters = np.rint(4 * values((3, 5, 2, 7))) / 4  # extrema meet equals
    agree(Operation.registry[name], [quarters], {"axis": axis}, np.random.default_rng(1), "float32")


def test_running_sums_do_not_lose_digits_on_the_way():
    x = np.full((5, 100_000), 0.1, np.float32)
    y, _ = Operation.registry["cumsum"].forward(x, axis=1)
    exact = np.cumsum(x.astype(np.float64), 1)
    assert np.abs(y / exact - 1).max() < 1e-7


@pytest.mark.parametrize("axis", [0, 1])
def test_running_sums_write_to_any_out_and_take_any_layout(axis):
    operation, x = Operation.registry["cumsum"], values((9, 14))
    expected, _ = operation.forward(x, axis=axis)
    for out in (np.empty((9, 14), np.float32), np.empty((9, 28), np.float32)[:, ::2], np.empty((14, 9), np.float32).T):
        assert operation.forward(np.asfortranarray(x), axis=axis, out=out)[0] is out
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_running_sums_of_integers_stay_integers():
    x = np.arange(35, dtype=np.int32).reshape(5, 7)
    y, _ = Operation.registry["cumsum"].forward(x, axis=1)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, np.cumsum(x, 1))


def test_nan_and_infinity_stay_in_running_sums():
    x = np.ones((5, 6), np.float32)
    x[1, 2], x[2, 3], x[3, 4] = np.nan, np.inf, -np.inf
    for axis in (0, 1):
        y, _ = Operation.registry["cumsum"].forward(x, axis=axis)
        np.testing.assert_array_equal(y, np.cumsum(x, axis))


@pytest.mark.parametrize(("name", "axis"), [("cumsum", 0), ("cumsum", 1), ("max", 1), ("var", (1,)), ("var", (0,))])
def test_number_of_threads_does_not_change_a_bit(name, axis):
    operation, x, before, results = Operation.registry[name], values((131, 77)), numba.get_num_threads(), []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            y, saved = operation.forward(x, axis=axis)
            grad = (values(y[0].shape, 1), None) if isinstance(y, tuple) else values(y.shape, 1)
            results.append([np.asarray(y[0] if isinstance(y, tuple) else y), *operation.backward(saved, grad, (True,))])
    finally:
        numba.set_num_threads(before)
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
