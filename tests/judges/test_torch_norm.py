"""Normalisation against PyTorch: outputs, gradients, running statistics, state and refusals."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranvier import layers
from ranvier.layers import Tensor, functional

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
pytestmark = pytest.mark.judge

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
DTYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32 - 1)
FEW = st.integers(1, 5)


def _shapes(least_spatial, most_spatial, channels=FEW):
    # At least two values an instance: the derivative at variance 0 is all rounding.
    spatial = st.integers(least_spatial, most_spatial)
    return st.tuples(st.integers(2, 4), channels, spatial).flatmap(
        lambda t: st.tuples(*[st.integers(2, 5)] * t[2]).map(lambda s: (t[0], t[1], *s))
    )


def _close(ours, theirs, dtype, what=""):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    scale = max(float(np.abs(theirs).max(initial=0)), 1.0)
    tolerance = 2e-4 if dtype == np.float32 else 1e-11
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=what)


def _compare(function, their_function, arrays, dtype, seed):
    """Outputs and gradients of both functions of the arrays, None passed on."""
    ours = [a if a is None else Tensor(a.copy(), requires_grad=True) for a in arrays]
    theirs = [a if a is None else torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    y, their_y = function(*ours), their_function(*theirs)
    _close(y.array, their_y, dtype, "output")
    grad = np.random.default_rng(seed).standard_normal(y.shape).astype(dtype)
    y.backward(grad)
    their_y.backward(torch.from_numpy(grad))
    for index, (mine, other) in enumerate(zip(ours, theirs)):
        if mine is not None:
            _close(mine.grad.array, other.grad, dtype, f"gradient {index}")


def _affine(rng, shape, dtype, weight, bias):
    return [rng.standard_normal(shape).astype(dtype) if there else None for there in (weight, bias)]


@EXAMPLES
@given(
    _shapes(0, 3), DTYPES, SEEDS, st.booleans(), st.booleans(), st.booleans(), st.floats(0, 1),
    st.sampled_from([None, "relu"]),
)  # fmt: skip
def test_batch_norm(shape, dtype, seed, weight, bias, training, momentum, activation):
    rng = np.random.default_rng(seed)
    x, affine = rng.standard_normal(shape).astype(dtype), _affine(rng, shape[1], dtype, weight, bias)
    statistics = [rng.standard_normal(shape[1]).astype(dtype), rng.uniform(0.5, 2, shape[1]).astype(dtype)]
    ours, theirs = [Tensor(s.copy()) for s in statistics], [torch.from_numpy(s.copy()) for s in statistics]
    _compare(
        lambda x, w, b: functional.batch_norm(x, *ours, w, b, training, momentum, 1e-3, activation),
        lambda x, w, b: {None: lambda y: y, "relu": torch.relu}[activation](
            torch.nn.functional.batch_norm(x, *theirs, w, b, training, momentum, 1e-3)
        ),
        [x, *affine],
        dtype,
        seed,
    )
    for mine, other in zip(ours, theirs):
        _close(mine.array, other, dtype, "running statistics")


@EXAMPLES
@given(_shapes(1, 3), DTYPES, SEEDS, st.booleans(), st.booleans(), st.booleans(), st.floats(0, 1))
def test_instance_norm(shape, dtype, seed, affine, use_input_stats, running, momentum):
    rng = np.random.default_rng(seed)
    x, parameters = rng.standard_normal(shape).astype(dtype), _affine(rng, shape[1], dtype, affine, affine)
    statistics = [rng.standard_normal(shape[1]).astype(dtype), rng.uniform(0.5, 2, shape[1]).astype(dtype)]
    ours, theirs = [Tensor(s.copy()) for s in statistics], [torch.from_numpy(s.copy()) for s in statistics]
    if use_input_stats and not running:
        ours = theirs = [None, None]
    _compare(
        lambda x, w, b: functional.instance_norm(x, *ours, w, b, use_input_stats, momentum, 1e-3),
        lambda x, w, b: torch.nn.functional.instance_norm(x, *theirs, w, b, use_input_stats, momentum, 1e-3),
        [x, *parameters],
        dtype,
        seed,
    )
    for mine, other in zip(ours, theirs):
        if mine is not None:
            _close(mine.array, other, dtype, "running statistics")


@EXAMPLES
@given(_shapes(0, 3, st.sampled_from([4, 8, 12])), DTYPES, SEEDS, st.booleans(), st.booleans(), st.sampled_from([1, 2]))
def test_group_norm(shape, dtype, seed, weight, bias, groups):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(dtype)
    _compare(
        lambda x, w, b: functional.group_norm(x, groups, w, b, 1e-3),
        lambda x, w, b: torch.nn.functional.group_norm(x, groups, w, b, 1e-3),
        # PyTorch 2.13 cannot go backward through a bias without a weight.
        [x, *_affine(rng, shape[1], dtype, weight, weight and bias)],
        dtype,
        seed,
    )


@EXAMPLES
@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.lists(st.integers(3, 7), min_size=1, max_size=2),
    DTYPES,
    SEEDS,
    st.booleans(),
    st.booleans(),
)
def test_layer_norm_and_rms_norm(rows, shape, dtype, seed, weight, bias):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*rows, *shape)).astype(dtype)
    parameters = _affine(rng, shape, dtype, weight, bias)
    _compare(
        lambda x, w, b: functional.layer_norm(x, shape, w, b, 1e-3),
        lambda x, w, b: torch.nn.functional.layer_norm(x, shape, w, b, 1e-3),
        [x, *parameters],
        dtype,
        seed,
    )
    _compare(
        lambda x, w: functional.rms_norm(x, shape, w),
        lambda x, w: torch.nn.functional.rms_norm(x, shape, w),
        [x, parameters[0]],
        dtype,
        seed,
    )


@EXAMPLES
@given(_shapes(1, 3, st.integers(1, 8)), DTYPES, SEEDS, st.integers(1, 7), st.floats(0, 2), st.floats(-1, 2))
def test_local_response_norm(shape, dtype, seed, size, alpha, beta):
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    _compare(
        lambda x: functional.local_response_norm(x, size, alpha, beta, 1.5),
        lambda x: torch.nn.functional.local_response_norm(x, size, alpha, beta, 1.5),
        [x],
        dtype,
        seed,
    )


LAYERS = [
    ("BatchNorm1d", (3,), {}, (6, 3)),
    ("BatchNorm1d", (3,), {"momentum": None}, (6, 3, 4)),
    ("BatchNorm1d", (3,), {"bias": False}, (6, 3, 4)),
    ("BatchNorm2d", (3,), {"affine": False, "momentum": 0.3}, (4, 3, 5, 2)),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 5, 2)),
    ("BatchNorm3d", (3,), {"eps": 1e-3}, (2, 3, 4, 2, 3)),
    ("InstanceNorm1d", (3,), {}, (4, 3, 6)),
    ("InstanceNorm1d", (3,), {"affine": True}, (3, 6)),
    ("InstanceNorm2d", (3,), {"track_running_stats": True}, (4, 3, 5, 2)),
    ("InstanceNorm2d", (3,), {"track_running_stats": True, "momentum": None}, (3, 5, 2)),
    ("InstanceNorm3d", (3,), {"affine": True, "track_running_stats": True}, (2, 3, 4, 2, 3)),
    ("GroupNorm", (2, 4), {}, (3, 4, 5)),
    ("GroupNorm", (4, 4), {"affine": False}, (3, 4, 5, 2)),
    ("LayerNorm", (6,), {}, (3, 4, 6)),
    ("LayerNorm", ((4, 6),), {"elementwise_affine": False}, (3, 4, 6)),
    ("LayerNorm", ([4, 6],), {"bias": False}, (3, 4, 6)),
    ("RMSNorm", (6,), {}, (3, 4, 6)),
    ("RMSNorm", ((4, 6),), {"eps": 0.1, "elementwise_affine": False}, (3, 4, 6)),
    ("LocalResponseNorm", (3,), {"alpha": 0.5}, (3, 4, 6)),
]


@pytest.mark.parametrize(("name", "positional", "keywords", "shape"), LAYERS)
def test_layers_train_and_evaluate_alike(name, positional, keywords, shape):
    layer, theirs = getattr(layers, name)(*positional, **keywords), getattr(torch.nn, name)(*positional, **keywords)
    state, their_state = layer.state_dict(), theirs.state_dict()
    assert list(state) == list(their_state)
    for key, value in state.items():
        _close(value.array, their_state[key], np.float32, key)
    rng = np.random.default_rng(0)
    for mine, other in zip(layer.parameters(), theirs.parameters(), strict=True):
        mine.array[...] = rng.standard_normal(mine.shape)
        other.data.copy_(torch.from_numpy(mine.array))
    for training in (True, True, False):
        layer.train(training)
        theirs.train(training)
        layer.zero_grad()
        theirs.zero_grad()
        x = rng.standard_normal(shape).astype(np.float32)
        _compare(layer, theirs, [x], np.float32, 1)
        for mine, other in zip(layer.parameters(), theirs.parameters(), strict=True):
            _close(mine.grad.array, other.grad, np.float32, "parameter's gradient")
        for key, value in layer.state_dict().items():
            _close(value.array, theirs.state_dict()[key], np.float32, key)


def test_gradients_of_given_statistics():
    """Those that PyTorch leaves out: held against the formula, which PyTorch differentiates."""
    rng = np.random.default_rng(0)
    x, mean, weight = (rng.standard_normal(shape) for shape in ((4, 3, 5), 3, 3))
    variance = rng.uniform(0.5, 2, 3)

    def formula(x, mean, variance, weight):
        mean, variance, weight = (v[None, :, None] for v in (mean, variance, weight))
        return (x - mean) / torch.sqrt(variance + 1e-3) * weight

    def function(x, mean, variance, weight):
        return functional.batch_norm(x, mean, variance, weight, eps=1e-3)

    _compare(function, formula, [x, mean, variance, weight], np.float64, 0)
