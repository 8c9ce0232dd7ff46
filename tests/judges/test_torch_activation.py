"""Activations and softmax against PyTorch: outputs, gradients, extreme values, layers and their parameters."""

import math

import numpy as np
import pytest

import ranvier as rv

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
pytestmark = pytest.mark.judge

# (name of the function, its arguments)
FUNCTIONS = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("rrelu", {"lower": 0.1, "upper": 0.3, "training": False}),
    ("elu", {}),
    ("elu", {"alpha": 0.6}),
    ("celu", {}),
    ("celu", {"alpha": 2.0}),
    ("selu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("mish", {}),
    ("softplus", {}),
    ("softplus", {"beta": 3.0, "threshold": 5.0}),
    ("softsign", {}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("hardtanh", {}),
    ("hardtanh", {"min_val": -0.3, "max_val": 2.0}),
    ("hardsigmoid", {}),
    ("hardswish", {}),
    ("logsigmoid", {}),
    ("softshrink", {}),
    ("softshrink", {"lambd": 0.2}),
    ("hardshrink", {}),
    ("hardshrink", {"lambd": 0.2}),
    ("tanhshrink", {}),
    ("threshold", {"threshold": 0.2, "value": -3.0}),
    ("glu", {}),
    ("glu", {"dim": 1}),
    ("softmax", {"dim": -1}),
    ("softmax", {"dim": 1}),
    ("softmin", {"dim": 0}),
    ("log_softmax", {"dim": -1}),
    ("log_softmax", {"dim": 1}),
]
IDS = [f"{name}-{'-'.join(map(str, arguments.values()))}" for name, arguments in FUNCTIONS]

LAYERS = [
    ("ReLU", {}),
    ("ReLU6", {}),
    ("LeakyReLU", {"negative_slope": 0.2}),
    ("PReLU", {}),
    ("PReLU", {"num_parameters": 4, "init": 0.1}),
    ("ELU", {"alpha": 0.5}),
    ("CELU", {"alpha": 0.5}),
    ("SELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("SiLU", {}),
    ("Mish", {}),
    ("Softplus", {"beta": 2.0, "threshold": 4.0}),
    ("Softsign", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 0.7}),
    ("Hardsigmoid", {}),
    ("Hardswish", {}),
    ("LogSigmoid", {}),
    ("Softshrink", {"lambd": 0.1}),
    ("Hardshrink", {"lambd": 0.1}),
    ("Tanhshrink", {}),
    ("Threshold", {"threshold": 0.1, "value": 9.0}),
    ("GLU", {"dim": 1}),
    ("Softmax", {"dim": 1}),
    ("LogSoftmax", {"dim": -1}),
    ("Softmin", {"dim": 1}),
    ("Softmax2d", {}),
]
LAYER_IDS = [f"{name}-{'-'.join(map(str, arguments.values()))}" for name, arguments in LAYERS]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def both_ways(ours, theirs, x, rng, tolerance):
    """Outputs and input gradients of two functions of one array."""
    a, b = rv.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ours(a), theirs(b)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=tolerance, atol=tolerance)
    grad = rng.standard_normal(z.shape).astype(x.dtype)
    y.backward(grad)
    z.backward(torch.tensor(grad))
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize(("name", "arguments"), FUNCTIONS, ids=IDS)
def test_function_and_gradient(name, arguments, dtype, tolerance, rng):
    x = (4 * rng.standard_normal((3, 4, 5, 6))).astype(dtype)
    ours, theirs = getattr(rv.functional, name), getattr(torch.nn.functional, name)
    if name == "hardsigmoid":
        tolerance = max(tolerance, 1e-7)  # PyTorch's gradient holds 1/6 in float32
    both_ways(lambda t: ours(t, **arguments), lambda t: theirs(t, **arguments), x, rng, tolerance)


@pytest.mark.parametrize(("name", "arguments"), FUNCTIONS, ids=IDS)
def test_extreme_values(name, arguments):
    if "softm" in name or name == "glu":
        rows = [[1e4, -1e4, 0.0, 1.0], [-math.inf, 0.0, 1.0, 2.0], [-math.inf] * 4, [math.nan, 0.0, 1.0, 2.0]]
        x = np.array([rows, [[math.inf, 0.0, 1.0, 2.0], [1e4] * 4, [-1e4] * 4, [1e-30] * 4]], np.float32)
    else:
        x = np.array([math.nan, math.inf, -math.inf, 1e4, -1e4, 88.0, -88.0, 20.5, 1e-30, -1e-30, 0.0], np.float32)
    y = getattr(rv.functional, name)(rv.Tensor(x), **arguments).numpy()
    expected = getattr(torch.nn.functional, name)(torch.tensor(x), **arguments).numpy()
    if name == "gelu":
        # PyTorch's vector library gives NaN for gelu(inf); the limit is inf.
        expected[1] = np.where(np.isnan(expected[1]), np.inf, expected[1])
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=1e-30)


@pytest.mark.parametrize("name", ["elu", "celu", "selu", "hardswish", "gelu", "silu", "mish", "softplus", "tanh"])
def test_gradient_at_nan_is_nan(name):
    # As the references have it. PyTorch's vector kernels give NaN next to a negative value, and 1 among NaNs alone.
    x = rv.Tensor(np.full(16, math.nan, np.float32), requires_grad=True)
    getattr(rv.functional, name)(x).backward(rv.Tensor(np.ones(16, np.float32)))
    assert np.isnan(x.grad.numpy()).all()


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1, (0, 2), (-1, 0, 1)])
def test_logsumexp(dim, keepdim, rng):
    x = 10 * rng.standard_normal((4, 5, 6))
    both_ways(
        lambda t: rv.functional.logsumexp(t, dim, keepdim), lambda t: torch.logsumexp(t, dim, keepdim), x, rng, 1e-13
    )


@pytest.mark.parametrize("dim", [(), (1, -1)])
def test_logsumexp_wants_each_axis_once(dim):
    with pytest.raises(ValueError, match=r"^logsumexp: expected one axis or more as dim, each once"):
        rv.functional.logsumexp(rv.ones(2, 3), dim)


def test_logsumexp_of_infinities():
    rows = [[-math.inf, -math.inf], [math.inf, 1.0], [math.inf, -math.inf], [math.nan, math.inf], [1e4, 1e4]]
    x = np.array(rows, np.float32)
    for dim in (0, 1):
        y = rv.functional.logsumexp(rv.Tensor(x), dim).numpy()
        np.testing.assert_allclose(y, torch.logsumexp(torch.tensor(x), dim).numpy(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (5, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("shared", [True, False])
def test_prelu(shape, shared, rng):
    x = rng.standard_normal(shape)
    weight = rng.standard_normal(1 if shared or len(shape) == 1 else shape[1])
    a, w = rv.Tensor(x, requires_grad=True), rv.Tensor(weight, requires_grad=True)
    b, v = torch.tensor(x, requires_grad=True), torch.tensor(weight, requires_grad=True)
    y, z = rv.functional.prelu(a, w), torch.nn.functional.prelu(b, v)
    grad = rng.standard_normal(shape)
    y.backward(grad)
    z.backward(torch.tensor(grad))
    for ours, theirs in ((y, z.detach()), (a.grad, b.grad), (w.grad, v.grad)):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "arguments"), LAYERS, ids=LAYER_IDS)
def test_layer_has_the_same_arguments_and_parameters(name, arguments, rng):
    ours, theirs = getattr(rv, name)(**arguments), getattr(torch.nn, name)(**arguments)
    state = theirs.state_dict()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: tuple(value.shape) for key, value in state.items()
    }
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key].numpy())
    x = (2 * rng.standard_normal((2, 4, 3, 5))).astype(np.float32)
    both_ways(ours, theirs, x, rng, 3e-6)
    positional = getattr(rv, name)(*arguments.values())
    np.testing.assert_array_equal(positional(rv.Tensor(x)).numpy(), ours(rv.Tensor(x)).numpy())


def test_softmax_without_dim_takes_the_axis_that_pytorch_takes(rng):
    for shape in [(3,), (3, 4), (2, 3, 4), (2, 3, 4, 5)]:
        x = rng.standard_normal(shape)
        with pytest.warns(UserWarning, match="dim was left out"):
            y = rv.functional.softmax(rv.Tensor(x))
        with pytest.warns(UserWarning, match="Implicit dimension"):
            z = torch.nn.functional.softmax(torch.tensor(x))
        np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=1e-12)
