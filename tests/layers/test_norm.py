"""Normalisation layers: state, modes and refusals."""

import numpy as np
import pytest

import ranvier as rv
from ranvier import layers
from ranvier.layers import Tensor, functional

SHAPES = {"BatchNorm1d": (6, 3, 4), "BatchNorm2d": (4, 3, 5, 2), "BatchNorm3d": (2, 3, 4, 2, 3)}


def _tensor(shape, seed=0, **arguments):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), **arguments)


@pytest.mark.parametrize("name", SHAPES)
def test_training_brings_channels_to_mean_zero_and_variance_one(name):
    y = getattr(layers, name)(3)(_tensor(SHAPES[name])).numpy()
    axes = (0, *range(2, y.ndim))
    np.testing.assert_allclose(y.mean(axis=axes), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(axis=axes), 1, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_an_activation_is_fused_and_shown(name, training):
    plain, fused = (getattr(layers, name)(3, activation=activation) for activation in (None, "relu"))
    state = {"weight": np.array([0.5, -1, 2], np.float32), "bias": np.array([0.1, 0.2, -0.3], np.float32)}
    for layer in (plain, fused):
        layer.train(training).load_state_dict(layer.state_dict() | state)
    x, other = (_tensor(SHAPES[name], requires_grad=True) for _ in range(2))
    y, expected = fused(x), functional.relu(plain(other))
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    for output in (y, expected):
        output.backward(grad)
    pairs = [(y, expected), (x.grad, other.grad), (fused.running_var, plain.running_var)]
    for a, b in [*pairs, *((getattr(fused, p).grad, getattr(plain, p).grad) for p in ("weight", "bias"))]:
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert "activation='relu'" in repr(fused)
    assert "activation" not in repr(plain)


def test_momentum_none_averages_over_all_batches():
    layer, batches = layers.BatchNorm1d(3, momentum=None), [_tensor((8, 3), seed) for seed in range(4)]
    for batch in batches:
        layer(batch)
    assert int(layer.num_batches_tracked) == 4
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean([b.numpy().mean(0) for b in batches], 0), rtol=1e-5)
    np.testing.assert_allclose(
        layer.running_var.numpy(), np.mean([b.numpy().var(0, ddof=1) for b in batches], 0), rtol=1e-5
    )


def test_running_statistics_are_updated_in_place_and_off_the_tape():
    layer = layers.BatchNorm2d(3)
    array = layer.running_mean.numpy()
    layer(_tensor((4, 3, 5, 2)))
    assert layer.running_mean.array is array
    assert array.any()
    assert not layer.running_mean.requires_grad
    layer.reset_running_stats()
    assert not array.any()
    assert int(layer.num_batches_tracked) == 0


def test_evaluation_leaves_running_statistics_alone():
    layer = layers.BatchNorm1d(3).eval()
    y = layer(x := _tensor((8, 3)))
    assert int(layer.num_batches_tracked) == 0
    np.testing.assert_allclose(y.numpy(), x.numpy() / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_state_has_the_names_and_types_of_checkpoints():
    state = layers.BatchNorm2d(3).state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert state["num_batches_tracked"].dtype == np.int64
    assert state["num_batches_tracked"].shape == ()
    assert list(layers.InstanceNorm2d(3).state_dict()) == []
    assert list(layers.LayerNorm((3, 4), bias=False).state_dict()) == ["weight"]
    assert list(layers.RMSNorm(3).state_dict()) == ["weight"]
    assert list(layers.GroupNorm(3, 6, affine=False).state_dict()) == []
    assert layers.BatchNorm1d(3, dtype=np.float64).running_var.dtype == np.float64


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1)])
def test_training_with_one_value_a_channel_is_refused(shape):
    layer = layers.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than 1 value per channel when training, got shape"):
        layer(_tensor(shape))
    assert int(layer.num_batches_tracked) == 0
    layer.eval()(_tensor(shape))


def test_empty_batches_leave_running_statistics_alone():
    layer = layers.BatchNorm1d(3)
    y = layer(x := _tensor((0, 3), requires_grad=True))
    assert y.shape == (0, 3)
    y.backward(np.zeros((0, 3), np.float32))
    assert x.grad.shape == (0, 3)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), 0)
    np.testing.assert_array_equal(layer.running_var.numpy(), 1)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (layers.BatchNorm1d(3), (4, 3, 2, 2), "BatchNorm1d: expected input with 2 or 3 axes"),
        (layers.BatchNorm2d(3), (4, 3, 2), "BatchNorm2d: expected input with 4 axes"),
        (layers.BatchNorm3d(3), (4, 3, 2, 2), "BatchNorm3d: expected input with 5 axes"),
        (layers.BatchNorm1d(3), (4, 5), r"batch_norm: expected weight of shape \(5,\)"),
        (layers.InstanceNorm1d(3), (3,), "InstanceNorm1d: expected input with 2 or 3 axes"),
        (layers.InstanceNorm2d(3, affine=True), (4, 5, 2, 2), "InstanceNorm2d: expected input of 3 channels"),
        (layers.InstanceNorm1d(3), (4, 3, 1), "instance_norm: expected input with more than 1 spatial element"),
        (layers.GroupNorm(2, 4), (4, 6), r"group_norm: expected weight of shape \(6,\)"),
        (layers.LayerNorm(4), (3, 5), r"layer_norm: expected x as \[\.\.\., 4\]"),
        (layers.LocalResponseNorm(3), (3, 5), "local_response_norm: expected input as"),
    ],
)
def test_wrong_inputs_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(_tensor(shape))


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="GroupNorm: expected num_channels as a multiple of num_groups=3, got 4"):
        layers.GroupNorm(3, 4)


def test_inference_without_statistics_is_refused():
    with pytest.raises(ValueError, match="batch_norm: expected running_mean and running_var"):
        functional.batch_norm(_tensor((4, 3)), None, None)
    with pytest.raises(ValueError, match="instance_norm: expected running_mean and running_var"):
        functional.instance_norm(_tensor((4, 3, 2)), use_input_stats=False)


def test_channels_that_nobody_asked_for_warn():
    with pytest.warns(UserWarning, match="input has 5 channels, not num_features=3"):
        layers.InstanceNorm1d(3)(_tensor((2, 5, 4)))


def test_reprs():
    assert repr(layers.LayerNorm(3)) == "LayerNorm((3,), eps=1e-05, elementwise_affine=True)"
    assert repr(layers.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05, affine=True)"
    assert repr(layers.BatchNorm1d(4)) == (
        "BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    )


def test_read_only_statistics_are_used():
    x, mean, variance = rv.randn(4, 3, 5, 5), np.arange(3, dtype="f4"), np.ones(3, "f4")
    expected = rv.functional.batch_norm(x, rv.tensor(mean), rv.tensor(variance)).numpy()
    mean.flags.writeable = variance.flags.writeable = False
    actual = rv.functional.batch_norm(x, rv.Tensor(mean), rv.Tensor(variance)).numpy()
    np.testing.assert_array_equal(actual, expected)
