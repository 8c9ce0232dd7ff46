"""What samples of pooling and moving do not reach, in Triton's interpreter: ties, NaN, indices that meet, many axes."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter

from ranvier.kernels import pool, shape
from ranvier.kernels.shape.gpu_nonzero import nonzero

interpreter.install()


def both(operation, x, *indices, **attributes):
    """(output, gradient of x) by the reference and by the GPU's kernels."""
    results = []
    for implementation in ("reference", "gpu"):
        output, saved = operation.forward(x, *indices, implementation=implementation, **attributes)
        first = output[0] if isinstance(output, tuple) else output
        gradient = np.random.default_rng(1).standard_normal(first.shape)
        grads = (gradient, None) if isinstance(output, tuple) else gradient
        needs = (True,) + (False,) * len(indices)
        results.append((output, operation.backward(saved, grads, needs, implementation=implementation)[0]))
    return results


@pytest.mark.parametrize(
    ("operation", "attributes"),
    [
        (pool.max_pool, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 2)}),
        (pool.adaptive_max_pool, {"output_size": (1, 1)}),
    ],
    ids=["sliding", "global"],
)
def test_ties_nan_and_infinities_are_chosen_as_in_the_reference(operation, attributes):
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (4, 3, 7, 9)).astype(float)
    x[rng.random(x.shape) < 0.02] = np.nan
    x[rng.random(x.shape) < 0.2] = -np.inf
    ((values, indices), grad_x), ((gpu_values, gpu_indices), gpu_grad_x) = both(
        operation, x, return_indices=True, **attributes
    )
    np.testing.assert_array_equal(gpu_values, values)
    np.testing.assert_array_equal(gpu_indices, indices)
    np.testing.assert_allclose(gpu_grad_x, grad_x, rtol=1e-12, atol=1e-12)


def test_the_last_of_values_unpooled_to_one_place_stays():
    x, indices = np.arange(8.0).reshape(1, 1, 8), np.array([[[3, 3, 1, 0, 3, 5, 1, 1]]])
    y, _ = pool.max_unpool.forward(x, indices, output_size=(9,), implementation="gpu")
    np.testing.assert_array_equal(y, [[[3, 7, 0, 4, 0, 5, 0, 0, 0]]])


@pytest.mark.parametrize("inner", [1, 40, 300])
def test_gradients_of_rows_taken_often_add_up(inner):
    rng = np.random.default_rng(0)
    x, rows = rng.standard_normal((2, 7, inner)), rng.integers(-7, 7, (200,))
    (y, grad_x), (gpu_y, gpu_grad_x) = both(shape.advanced_index, x, rows, axis=1)
    np.testing.assert_array_equal(gpu_y, y)
    np.testing.assert_allclose(gpu_grad_x, grad_x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", shape.PAD_MODES)
def test_more_padded_axes_than_the_kernel_has(mode):
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 2, 3))
    widths = ((1, 1), (2, 0), (0, 1), (1, 0), (2, 2))
    (y, grad_x), (gpu_y, gpu_grad_x) = both(shape.pad, x, widths=widths, mode=mode, value=0.1)
    np.testing.assert_array_equal(gpu_y, y)
    np.testing.assert_allclose(gpu_grad_x, grad_x, rtol=1e-12, atol=1e-12)


def test_constants_keep_all_digits():
    y, _ = shape.pad.forward(np.array([1, 2]), widths=((1, 0),), value=2**53 + 1, implementation="gpu")
    np.testing.assert_array_equal(y, [2**53 + 1, 1, 2])
    y, _ = shape.pad.forward(np.zeros(2, bool), widths=((1, 0),), value=3, implementation="gpu")
    np.testing.assert_array_equal(y, [True, False, False])


@pytest.mark.parametrize("dtype", [np.bool_, np.float16, np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(1,), (0, 3), (2500,), (40, 60), (5, 1, 33, 7), (2, 1, 3, 2, 2, 2)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_positions_of_what_is_not_zero_are_numpys(shape, dtype, share):
    rng = np.random.default_rng(0)
    x = (rng.random(shape) < share).astype(dtype)
    for array in (x, np.asfortranarray(x), x[..., ::-1]):
        positions = nonzero(array)
        assert len(positions) == x.ndim
        for found, expected in zip(positions, array.nonzero()):
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, expected)


def test_nan_is_not_zero_and_minus_zero_is():
    (found,) = nonzero(np.array([np.nan, -0.0, 0.0, np.inf, -1e-40], np.float32))
    np.testing.assert_array_equal(found, [0, 3, 4])
