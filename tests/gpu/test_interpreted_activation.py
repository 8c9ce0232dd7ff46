"""GPU activations and dropout against the CPU's where the reference's samples do not go: NaN, infinities, far values,
ties, memory order, `out`, and the same random masks."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter

from ranvier.kernels import activation, dropout

interpreter.install()
POINTWISE = [
    "sigmoid", "tanh", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus",
    "softsign", "hardtanh", "hardsigmoid", "hardswish", "logsigmoid", "softshrink", "hardshrink", "tanhshrink",
    "threshold", "rrelu",
]  # fmt: skip
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 3.0, -3.0, 6.0, 1e-7, -1e-7, 60.0, -60.0, 20.5]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values_come_out_as_on_the_cpu(name, dtype):
    operation, x = getattr(activation, name), np.array(SPECIAL, dtype)
    results = {}
    for implementation in ("cpu", "gpu"):
        y, saved = operation.forward(x, implementation=implementation)
        results[implementation] = y, operation.backward(saved, np.ones_like(x), (True,), implementation)[0]
    for on_cpu, on_gpu in zip(results["cpu"], results["gpu"]):
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=40 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_channels_last_stays_channels_last(name):
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    y, saved = getattr(activation, name).forward(x, implementation="gpu")
    (grad_x,) = getattr(activation, name).backward(saved, np.ones_like(y), (True,), "gpu")
    assert y.strides == grad_x.strides == x.strides


@pytest.mark.parametrize("operation", [activation.silu, activation.rrelu, activation.glu, dropout.dropout])
def test_results_go_where_they_are_wanted(operation):
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    attributes = {"p": 0.3, "seed": 5} if operation is dropout.dropout else {}
    expected, _ = operation.forward(x, implementation="gpu", **attributes)
    for out in (np.empty(expected.shape, np.float32), np.empty((6, 16), np.float32)[:, : 2 * expected.shape[1] : 2]):
        y, _ = operation.forward(x, implementation="gpu", out=out, **attributes)
        assert y is out
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "channel_dropout", "feature_alpha_dropout"])
@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**40 + 3, 2**63 - 1])
def test_masks_are_the_cpus_bit_for_bit(name, seed):
    operation, x = getattr(dropout, name), np.ones((37, 9, 33), np.float32)
    masks = []
    for implementation in ("cpu", "gpu"):
        y, saved = operation.forward(x, p=0.37, seed=seed, implementation=implementation)
        (grad_x,) = operation.backward(saved, x, (True,), implementation)
        masks.append((y > 0, grad_x != 0))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert 0.3 < 1 - masks[1][0].mean() < 0.44
    np.testing.assert_array_equal(*masks[1])


def test_slopes_are_the_cpus_bit_for_bit():
    x = np.full((50, 41), -1.0, np.float32)
    slopes = [activation.rrelu.forward(x, seed=2**50, implementation=i)[0] for i in ("cpu", "gpu")]
    np.testing.assert_allclose(*slopes, rtol=2e-7)
    assert len(np.unique(slopes[1])) > 2000
