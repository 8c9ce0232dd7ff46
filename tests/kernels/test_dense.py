"""Dense layers' activations where numbers are extreme."""

import numpy as np
import pytest

from ranvier.kernels.activation import gelu, mish, silu
from ranvier.kernels.dense import dense


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_derivative_of_gelu_makes_no_subnormal_numbers(dtype):
    # A product with subnormal numbers takes a hundred times as long.
    z = np.linspace(-45, 45, 9001, dtype=dtype)[:, None]
    _, saved = dense.forward(z, np.ones((1, 1), dtype), activation="gelu")
    grads = [dense.backward(saved, np.ones_like(z), (True, False, False))[0]]
    grads += gelu.backward(gelu.forward(z)[1], np.ones_like(z), (True,))
    for grad in grads:
        assert not ((grad != 0) & (np.abs(grad) < np.finfo(dtype).tiny)).any()
        assert (grad[z < -15] == 0).all()
        assert (grad[z > 15] == 1).all()
        assert (grad[np.abs(z) < 5] != 0).all()


@pytest.mark.parametrize(("operation", "attributes"), [(gelu, {"approximate": "tanh"}), (silu, {}), (mish, {})])
def test_smooth_activations_make_no_subnormal_numbers(operation, attributes):
    x = np.linspace(-130, 45, 17501, dtype=np.float32)
    y, saved = operation.forward(x, **attributes)
    for result in (y, *operation.backward(saved, np.ones_like(x), (True,))):
        assert not ((result != 0) & (np.abs(result) < np.finfo(np.float32).tiny)).any()
        assert (result[x < -100] == 0).all()
        assert (result[(x > -5) & (x < -2)] != 0).all()


def test_not_a_number_comes_through_every_activation():
    x = np.array([[np.nan, 1.0]], np.float32)
    for activation in (None, "relu", "sigmoid", "tanh", "gelu"):
        y, saved = dense.forward(x, np.eye(2, dtype=np.float32), activation=activation)
        assert np.isnan(y[0, 0]), activation
        if activation not in (None, "relu"):
            assert np.isnan(dense.backward(saved, np.ones_like(y), (True, False, False))[0][0, 0]), activation
