"""Dropout functions and layers: modes, shapes, seeds and refusals."""

import numpy as np
import pytest

from ranvier import layers
from ranvier.layers import Tensor, functional

LAYERS = [
    layers.Dropout,
    layers.Dropout1d,
    layers.Dropout2d,
    layers.Dropout3d,
    layers.AlphaDropout,
    layers.FeatureAlphaDropout,
]
SHAPES = {layers.Dropout1d: (4, 6, 5), layers.Dropout3d: (2, 6, 3, 4, 5)}


def _input(layer, requires_grad=False):
    shape = SHAPES.get(layer, (4, 6, 5, 3))
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32), requires_grad)


@pytest.mark.parametrize("layer", LAYERS)
def test_evaluation_and_rate_zero_return_the_input(layer):
    x = _input(layer)
    assert layer(0.5).eval()(x) is x
    assert layer(0.0)(x) is x


@pytest.mark.parametrize("layer", LAYERS)
def test_rate_one_gives_zeros_and_a_zero_gradient(layer):
    x = _input(layer, requires_grad=True)
    y = layer(1.0)(x)
    assert not y.numpy().any()
    y.backward(np.ones_like(x.numpy()))
    assert not x.grad.numpy().any()


@pytest.mark.parametrize("layer", LAYERS)
def test_seed_repeats_masks_and_each_call_draws_another(layer):
    x = _input(layer)
    results = []
    for _ in range(2):
        layers.seed(3)
        module = layer(0.5)
        results.append((module(x).numpy(), module(x).numpy()))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0][0] != results[0][1]).any()


@pytest.mark.parametrize(("function", "spatial"), [("dropout1d", 1), ("dropout2d", 2), ("dropout3d", 3)])
@pytest.mark.parametrize("batch", [(), (64,)])
def test_whole_channels_go(function, spatial, batch):
    x = Tensor(np.ones((*batch, 16, 3, 4, 5)[: len(batch) + 1 + spatial], np.float32))
    y = getattr(functional, function)(x, 0.5).numpy()
    channels = y.reshape(*batch, 16, -1)
    assert set(np.unique(y)) <= {0.0, 2.0}
    assert (channels == channels[..., :1]).all()
    if batch:
        assert 0 < (channels[..., 0] == 0).mean() < 1


@pytest.mark.parametrize(("function", "shape"), [("dropout1d", (3,)), ("dropout2d", (3, 3)), ("dropout3d", (1,) * 6)])
def test_wrong_ranks_are_refused(function, shape):
    with pytest.raises(ValueError, match=f"{function}: expected input with"):
        getattr(functional, function)(Tensor(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_rates_outside_zero_to_one_are_refused(layer, p):
    with pytest.raises(ValueError, match=rf"{layer.__name__}: expected p in \[0, 1\]"):
        layer(p)


def test_repr_shows_the_rate():
    assert repr(layers.Dropout(0.25)) == "Dropout(p=0.25)"
