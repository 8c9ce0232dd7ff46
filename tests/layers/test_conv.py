"""Convolutional layers and functions: what they accept, what they refuse."""

import numpy as np
import pytest

import ranvier as rv
from ranvier import functional as F


def ones(*shape):
    return rv.Tensor(np.ones(shape, np.float32))


def test_same_keeps_the_size_and_pads_one_more_after():
    y = F.conv1d(rv.Tensor(np.arange(1.0, 5.0).reshape(1, 1, 4)), rv.Tensor(np.ones((1, 1, 2))), padding="same")
    np.testing.assert_array_equal(y.numpy(), [[[3, 5, 7, 4]]])


def test_numbers_stand_for_every_axis():
    x, weight = ones(1, 2, 6, 7), ones(3, 2, 2, 2)
    expected = F.conv2d(x, weight, stride=(2, 2), padding=(1, 1), dilation=(2, 2))
    for stride, padding, dilation in ((2, 1, 2), ([2], [1], [2]), (np.int64(2), np.int32(1), (np.int64(2), 2))):
        np.testing.assert_array_equal(F.conv2d(x, weight, None, stride, padding, dilation).numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"padding": "same", "stride": 2}, ValueError, "conv2d: expected stride 1 with padding 'same'"),
        ({"padding": "full"}, ValueError, "conv2d: expected padding as 'same', 'valid'"),
        ({"padding": 1.5}, TypeError, "conv2d: expected padding as an integer or 2 of them, got 1.5"),
        ({"padding": -1}, ValueError, "conv2d: expected padding's pairs"),
        ({"stride": (1, 2, 3)}, ValueError, "conv2d: expected stride as an integer or 2 of them"),
        ({"stride": 0}, ValueError, "conv2d: expected stride as 2 integers of at least 1"),
        ({"dilation": None}, TypeError, "conv2d: expected dilation as an integer"),
        ({"dilation": 3}, ValueError, "conv2d: expected at least one output position"),
        ({"groups": 2}, ValueError, "conv2d: expected x of 4 channels"),
    ],
)
def test_functions_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        F.conv2d(ones(1, 2, 5, 5), ones(4, 2, 3, 3), **arguments)


@pytest.mark.parametrize("weight", [(3, 2), (3,), (3, 2, 3), (3, 2, 3, 3, 3)])
@pytest.mark.parametrize("padding", ["same", 1])
def test_weights_of_another_rank_are_refused(weight, padding):
    with pytest.raises(ValueError, match=r"conv2d: expected weight as \[out"):
        F.conv2d(ones(1, 2, 5, 5), ones(*weight), padding=padding)


def test_transposed_functions_refuse_too_much_output_padding():
    with pytest.raises(ValueError, match="conv_transpose2d: expected output_padding below stride"):
        F.conv_transpose2d(ones(1, 2, 5, 5), ones(2, 4, 3, 3), stride=2, output_padding=2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 3, "groups": 2}, ValueError, "Conv2d: expected in_channels divisible by groups 2"),
        ({"out_channels": 5, "groups": 2}, ValueError, "Conv2d: expected out_channels divisible by groups 2"),
        ({"groups": 0}, ValueError, "Conv2d: expected groups of 1 or more"),
        ({"in_channels": 0}, ValueError, "Conv2d: expected in_channels of 1 or more"),
        ({"padding_mode": "wrap"}, ValueError, "Conv2d: expected padding_mode as one of zeros, reflect"),
        ({"padding": "full"}, ValueError, "Conv2d: expected padding as"),
        ({"padding": "same", "stride": (1, 2)}, ValueError, "Conv2d: expected stride 1 with padding 'same'"),
        ({"kernel_size": 0}, ValueError, "Conv2d: expected kernel_size and stride of at least 1"),
        ({"kernel_size": (1, 2, 3)}, ValueError, "Conv2d: expected kernel_size as an integer or 2"),
    ],
)
def test_layers_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        rv.Conv2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, **arguments})


def test_transposed_layers_refuse():
    with pytest.raises(ValueError, match="ConvTranspose1d: expected padding_mode as one of zeros, got 'reflect'"):
        rv.ConvTranspose1d(2, 2, 3, padding_mode="reflect")
    with pytest.raises(TypeError, match="ConvTranspose1d: expected padding as integers"):
        rv.ConvTranspose1d(2, 2, 3, padding="same")
    layer = rv.ConvTranspose1d(2, 2, 3, stride=2)
    for size in ((10,), (13,), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match="ConvTranspose1d: expected output_size"):
            layer(ones(1, 2, 5), output_size=size)
    assert layer(ones(1, 2, 5), output_size=(12,)).shape == (1, 2, 12)


@pytest.mark.parametrize("transposed", [False, True])
def test_activation_is_fused_and_shown(transposed):
    layer = (rv.ConvTranspose2d if transposed else rv.Conv2d)(2, 4, 3, activation="relu")
    assert "activation='relu'" in repr(layer)
    y = layer(rv.Tensor(np.random.default_rng(0).standard_normal((1, 2, 6, 6)).astype(np.float32))).numpy()
    assert y.min() == 0
    assert y.max() > 0


@pytest.mark.parametrize(("layer", "shape"), [(rv.Conv2d, (2, 4, 4, 4)), (rv.ConvTranspose2d, (2, 4, 8, 8))])
def test_a_residual_is_added_before_the_activation(layer, shape):
    rv.seed(0)
    plain, fused = layer(3, 4, 3), layer(3, 4, 3, activation="relu")
    fused.load_state_dict(plain.state_dict())
    rng = np.random.default_rng(0)
    x, residual, grad = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 6, 6), shape, shape))
    results = []
    for make in (lambda x, r: F.relu(plain(x) + r), lambda x, r: fused(x, residual=r)):
        inputs = [rv.Tensor(a, requires_grad=True) for a in (x, residual)]
        y = make(*inputs)
        y.backward(grad)
        results.append([y.numpy(), *(tensor.grad.numpy() for tensor in inputs)])
    for apart, together in zip(*results):
        np.testing.assert_array_equal(together, apart)
    for wrong in (residual[:1], residual[..., :1]):
        with pytest.raises(ValueError, match=r"conv.*2d: expected residual of shape \(2, 4, "):
            fused(rv.Tensor(x), residual=rv.Tensor(wrong))
    with pytest.raises(TypeError, match=r"conv.*2d: expected residual of x's type float32, got float64"):
        fused(rv.Tensor(x), residual=rv.Tensor(residual.astype(np.float64)))


def test_same_seed_same_weights():
    rv.seed(3)
    first = rv.Conv2d(3, 4, 3)
    rv.seed(3)
    second = rv.Conv2d(3, 4, 3, dtype=np.float64)
    np.testing.assert_array_equal(first.weight.numpy(), second.weight.numpy().astype(np.float32))
    assert second.bias.dtype == np.float64
    assert np.abs(first.bias.numpy()).max() <= 1 / np.sqrt(27)


def test_a_step_of_gradient_descent_lowers_the_error():
    rv.seed(0)
    layer = rv.Conv2d(1, 2, 3, padding=1)
    rng = np.random.default_rng(0)
    x, target = (rng.standard_normal(s).astype(np.float32) for s in ((2, 1, 6, 6), (2, 2, 6, 6)))
    errors = []
    for _ in range(20):
        y = layer(rv.Tensor(x))
        errors.append(float(((y.numpy() - target) ** 2).mean()))
        for parameter in layer.parameters():
            parameter.grad = None
        y.backward((y.numpy() - target) / 72)
        for parameter in layer.parameters():
            parameter.array -= parameter.grad.array
    assert errors[-1] < 0.95 * errors[0]
