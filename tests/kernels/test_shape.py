"""Copies that are large enough for all threads move the same elements as NumPy's."""

import numpy as np
import pytest

from ranvier.kernels import shape
from ranvier.kernels.shape.cpu_copies import WORTH_THREADS

RNG = np.random.default_rng(0)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool"])


def numbers(size, dtype):
    return RNG.integers(0, 2 if dtype == "bool" else 100, size).astype(dtype)


@DTYPES
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_large_arrays_are_concatenated(axis, dtype):
    sizes = [[3, 301, 67], [3, 301, 67], [3, 301, 67]]
    for part, size in zip(sizes, (400, 0, 513)):
        part[axis] = size
    arrays = [numbers(size, dtype) for size in sizes]
    arrays[0] = np.asfortranarray(arrays[0])
    y, _ = shape.concatenate.forward(*arrays, axis=axis)
    assert y.nbytes >= min(WORTH_THREADS, y.size)
    np.testing.assert_array_equal(y, np.concatenate(arrays, axis))


@DTYPES
def test_many_rows_are_taken_by_index(dtype):
    x, rows = numbers((2, 50, 333), dtype), RNG.integers(-50, 50, 2000)
    y, _ = shape.advanced_index.forward(x, rows, axis=1)
    assert y.nbytes >= WORTH_THREADS
    np.testing.assert_array_equal(y, x[:, rows])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("widths", [((1, 2), (3, 0)), ((-1, 4), (2, -3)), ((0, 0), (-2, -3)), ((-5, 2), (-4, 9))])
def test_planes_get_a_border_or_lose_one(widths, contiguous, dtype):
    x = RNG.standard_normal((2, 3, 7, 5) if contiguous else (2, 3, 5, 7)).astype(dtype)
    x = x if contiguous else x.swapaxes(2, 3)
    widths = ((0, 0), (0, 0), *widths)
    y, saved = shape.pad.forward(x, widths=widths, value=2.5)
    room = np.pad(x, [(max(a, 0), max(b, 0)) for a, b in widths], constant_values=2.5)
    kept = tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, room.shape))
    np.testing.assert_array_equal(y, room[kept])
    (grad_x,) = shape.pad.backward(saved, y, (True,))
    inside = np.zeros(x.shape, dtype)
    rows, columns = (slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths[2:], x.shape[2:]))
    inside[:, :, rows, columns] = x[:, :, rows, columns]
    np.testing.assert_array_equal(grad_x, inside)
