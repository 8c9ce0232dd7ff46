"""Activations and softmax as layers: what has no counterpart in PyTorch to compare with, and what must not change."""

import numpy as np
import pytest

import ranvier as rv
from ranvier.kernels import activation


@pytest.fixture
def x():
    return np.random.default_rng(3).standard_normal((50, 40)).astype(np.float32)


def test_rrelu_draws_slopes_in_training_and_the_same_ones_backward(x):
    layer = rv.RReLU(0.2, 0.4)
    rv.seed(5)
    a = rv.Tensor(x, requires_grad=True)
    y = layer(a)
    y.backward(np.ones_like(x))
    slope = y.numpy()[x < 0] / x[x < 0]
    assert slope.min() >= 0.2 - 1e-6
    assert slope.max() <= 0.4 + 1e-6
    assert 0.29 < slope.mean() < 0.31
    assert len(np.unique(slope.round(4))) > 500
    np.testing.assert_allclose(a.grad.numpy()[x < 0], slope, rtol=1e-6)
    np.testing.assert_array_equal(a.grad.numpy()[x > 0], 1)
    second = layer(a).numpy()
    assert (second != y.numpy()).any()
    rv.seed(5)
    np.testing.assert_array_equal(layer(a).numpy(), y.numpy())


def test_rrelu_has_one_slope_in_evaluation(x):
    y = rv.RReLU(0.2, 0.4).eval()(rv.Tensor(x)).numpy()
    np.testing.assert_allclose(y, np.where(x > 0, x, x * np.float32(0.3)), rtol=1e-6)


@pytest.mark.parametrize("name", ["relu", "gelu", "softplus"])
def test_channels_last_memory_stays_channels_last(name):
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    a = rv.Tensor(x, requires_grad=True)
    y = getattr(rv.functional, name)(a)
    assert y.numpy().strides == x.strides
    np.testing.assert_array_equal(y.numpy(), getattr(rv.functional, name)(rv.Tensor(x.copy("C"))).numpy())
    y.backward(np.ones_like(x))
    b = rv.Tensor(x.copy("C"), requires_grad=True)
    getattr(rv.functional, name)(b).backward(np.ones(x.shape, np.float32))
    np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


def test_out_is_written_to(x):
    for out in (np.empty_like(x), np.empty((40, 50), np.float32).T):
        y, _ = activation.silu.forward(x, out=out)
        assert y is out
        np.testing.assert_array_equal(out, activation.silu.forward(x)[0])


def test_many_threads_give_what_one_gives():
    x = np.random.default_rng(1).standard_normal(100_003).astype(np.float32)
    y, _ = activation.mish.forward(x)
    parts = [activation.mish.forward(part)[0] for part in np.array_split(x, 50)]
    np.testing.assert_array_equal(y, np.concatenate(parts))


def test_softmax_survives_large_rows_and_adds_up_to_one():
    x = np.random.default_rng(2).uniform(-1e4, 1e4, (7, 1003)).astype(np.float32)
    for dim in (0, 1):
        y = rv.functional.softmax(rv.Tensor(x), dim).numpy()
        np.testing.assert_allclose(y.sum(axis=dim), 1, rtol=1e-5)


def test_softmax2d_wants_images():
    with pytest.raises(ValueError, match=r"^Softmax2d: expected input as \[N, C, H, W\]"):
        rv.Softmax2d()(rv.Tensor(np.zeros((2, 3))))


def test_layers_say_what_they_are():
    assert repr(rv.LeakyReLU(0.2)) == "LeakyReLU(negative_slope=0.2)"
    assert repr(rv.Softmax(dim=1)) == "Softmax(dim=1)"
    assert repr(rv.ReLU()) == "ReLU()"
