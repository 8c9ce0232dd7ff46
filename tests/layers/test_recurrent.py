"""Recurrent layers and functions: what they refuse, how they start, dropout between layers, forms of `lengths`."""

import math

import numpy as np
import pytest

import ranvier as rv
from ranvier.layers import functional as F

LAYERS = [rv.RNN, rv.LSTM, rv.GRU]
CELLS = [rv.RNNCell, rv.LSTMCell, rv.GRUCell]


@pytest.fixture(autouse=True)
def _seed():
    rv.seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def sequence(rng, *shape, dtype=np.float32):
    return rv.Tensor(rng.standard_normal(shape).astype(dtype))


@pytest.mark.parametrize("layer", LAYERS + CELLS)
def test_initial_values_fill_the_interval(layer):
    made = layer(7, 25)
    for parameter in made.parameters():
        values = parameter.numpy()
        assert np.abs(values).max() <= 0.2
        assert np.abs(values).max() > 0.18
        assert values.dtype == np.float32
    assert {p.dtype for p in layer(7, 25, dtype=np.float64).parameters()} == {np.dtype(np.float64)}
    assert "bias_ih" not in "".join(dict(layer(7, 25, bias=False).named_parameters()))


def test_names_and_shapes():
    layer = rv.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    assert len(shapes) == 20
    assert shapes["weight_ih_l0"] == (20, 3)
    assert shapes["weight_hh_l0_reverse"] == (20, 2)
    assert shapes["weight_hr_l1"] == (2, 5)
    assert shapes["weight_ih_l1_reverse"] == (20, 4)
    assert shapes["bias_hh_l1"] == (20,)
    assert repr(layer) == "LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)"
    assert repr(rv.RNN(3, 5, nonlinearity="relu")) == "RNN(3, 5, nonlinearity='relu')"
    assert repr(rv.GRUCell(3, 5, bias=False)) == "GRUCell(3, 5, bias=False)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dropout": 1.5, "num_layers": 2}, ValueError, r"dropout in \[0, 1\], got 1.5"),
        ({"dropout": math.nan, "num_layers": 2}, ValueError, r"dropout in \[0, 1\], got nan"),
        ({"dropout": "much"}, TypeError, "dropout as a number"),
        ({"num_layers": 0}, ValueError, "num_layers of 1 or more"),
        ({"num_layers": 1.0}, TypeError, "num_layers as an integer"),
        ({"hidden_size": 0}, ValueError, "hidden_size of 1 or more"),
        ({"input_size": -1}, ValueError, "input_size of 1 or more"),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_bad_constructions_are_refused(layer, arguments, error, message):
    with pytest.raises(error, match=f"^{layer.__name__}: expected {message}"):
        layer(**({"input_size": 3, "hidden_size": 5} | arguments))


def test_projection_and_nonlinearity_are_checked():
    for size in (5, 6, -1):
        with pytest.raises(ValueError, match=f"LSTM: expected proj_size in 0..hidden_size - 1 = 4, got {size}"):
            rv.LSTM(3, 5, proj_size=size)
    for layer in (rv.RNN, rv.RNNCell):
        with pytest.raises(ValueError, match=f"{layer.__name__}: expected nonlinearity as one of 'tanh', 'relu'"):
            layer(3, 5, nonlinearity="gelu")


def test_dropout_without_a_second_layer_warns():
    with pytest.warns(UserWarning, match="GRU: dropout acts between layers"):
        rv.GRU(3, 5, dropout=0.5)


@pytest.mark.parametrize(
    ("x", "arguments", "error", "message"),
    [
        ((4, 2, 7), {}, ValueError, "x with 3 features"),
        ((4, 2, 3, 1), {}, ValueError, r"input as \[T, N, features\]"),
        ((0, 2, 3), {}, ValueError, "x with one time step or more"),
        ((4, 2, 3), {"lengths": [4, 5]}, ValueError, r"lengths in \[1, 5\), got 5"),
        ((4, 2, 3), {"lengths": [0, 4]}, ValueError, r"lengths in \[1, 5\), got 0"),
        ((4, 2, 3), {"lengths": [4]}, ValueError, r"lengths of shape \(2,\)"),
        ((4, 2, 3), {"lengths": [4.0, 2.0]}, TypeError, "lengths of type int64"),
        ((4, 3), {"lengths": [4]}, ValueError, "lengths as None for a single sequence"),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_bad_sequences_are_refused(layer, x, arguments, error, message, rng):
    with pytest.raises(error, match=f"expected {message}"):
        layer(3, 5)(sequence(rng, *x), **arguments)


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        ((4, 2, 3), (1, 2, 5), r"h_0 of shape \(2, 2, 5\)"),
        ((4, 2, 3), (2, 3, 5), r"h0 of shape \(2, 5\)"),
        ((4, 2, 3), (2, 2, 4), r"h0 of shape \(2, 5\)"),
        ((4, 2, 3), (2, 5), r"h_0 as \[num_layers \* directions, N, size\]"),
        ((4, 3), (2, 1, 5), r"h_0 as \[num_layers \* directions, size\]"),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_bad_states_are_refused(layer, x, shape, message, rng):
    state = sequence(rng, *shape)
    with pytest.raises(ValueError, match=f"expected {message}"):
        layer(3, 5, bidirectional=True)(sequence(rng, *x), (state, state) if layer is rv.LSTM else state)


def test_other_bad_calls_are_refused(rng):
    x, h = sequence(rng, 4, 2, 3), sequence(rng, 1, 2, 5)
    with pytest.raises(TypeError, match=r"lstm: expected hx as a pair \(h, c\), got Tensor"):
        rv.LSTM(3, 5)(x, h)
    with pytest.raises(TypeError, match="h0 of x's type float32"):
        rv.GRU(3, 5)(x, sequence(rng, 1, 2, 5, dtype=np.float64))
    with pytest.raises(ValueError, match=r"lstm_cell: expected hx as \[hidden_size\]"):
        rv.LSTMCell(3, 5)(sequence(rng, 3), (sequence(rng, 1, 5), sequence(rng, 5)))
    with pytest.raises(ValueError, match=r"gru_cell: expected input as \[N, input_size\]"):
        rv.GRUCell(3, 5)(x)
    with pytest.raises(ValueError, match="gru: expected params as 4 or 5 tensors for each of 2 runs, got 7"):
        F.gru(x, None, [h] * 7, True, 2, 0.0, False, False, False)


@pytest.mark.parametrize("layer", LAYERS)
def test_lengths_come_as_list_array_or_tensor(layer, rng):
    made, x = layer(3, 5), sequence(rng, 6, 3, 3)
    forms = [[2, 6, 1], (2, 6, 1), np.array([2, 6, 1]), np.array([2, 6, 1], np.int32), rv.Tensor(np.array([2, 6, 1]))]
    outputs = [made(x, lengths=form)[0].numpy() for form in forms]
    for output in outputs:
        np.testing.assert_array_equal(output, outputs[0])
        assert (output[2:, 0] == 0).all()
        assert (output[:, 1] != 0).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_no_sequences(layer, rng):
    made = layer(3, 5, num_layers=2, bidirectional=True)
    x = rv.Tensor(np.zeros((4, 0, 3), np.float32), requires_grad=True)
    output, _ = made(x)
    assert output.shape == (4, 0, 10)
    output.backward(np.zeros((4, 0, 10), np.float32))
    assert x.grad.shape == x.shape
    assert all((p.grad.numpy() == 0).all() for p in made.parameters())


@pytest.mark.parametrize("layer", LAYERS)
def test_dropout_between_layers(layer, rng):
    x = sequence(rng, 5, 4, 3)
    made = layer(3, 6, num_layers=2, dropout=0.5)
    rv.seed(1)
    first, second = made(x)[0].numpy(), made(x)[0].numpy()
    assert not np.array_equal(first, second), "one mask for two calls"
    rv.seed(1)
    np.testing.assert_array_equal(made(x)[0].numpy(), first)
    made.eval()
    plain = layer(3, 6, num_layers=2)
    plain.load_state_dict(made.state_dict())
    np.testing.assert_array_equal(made(x)[0].numpy(), plain(x)[0].numpy())
    # With everything dropped, the second layer sees zeros in whatever way the input changes.
    made = layer(3, 6, num_layers=2, dropout=1.0)
    np.testing.assert_array_equal(made(x)[0].numpy(), made(sequence(rng, 5, 4, 3))[0].numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("layer", LAYERS)
def test_types_go_through(layer, dtype, rng):
    made = layer(3, 5, bidirectional=True, dtype=dtype)
    output, state = made(sequence(rng, 4, 2, 3, dtype=dtype), lengths=[4, 2])
    finals = state if isinstance(state, tuple) else (state,)
    assert {tensor.dtype for tensor in (output, *finals)} == {np.dtype(dtype)}
    output.backward(np.ones(output.shape, dtype))
    assert all(p.grad.dtype == dtype for p in made.parameters())


@pytest.mark.parametrize(("layer", "cell"), list(zip(LAYERS, CELLS)))
def test_a_layer_is_its_cell_step_by_step(layer, cell, rng):
    whole, step = layer(3, 5), cell(3, 5)
    step.load_state_dict({name.removesuffix("_l0"): value for name, value in whole.state_dict().items()})
    x = rng.standard_normal((6, 2, 3)).astype(np.float32)
    output, final = whole(rv.Tensor(x))
    state = None
    for t in range(6):
        state = step(rv.Tensor(x[t]), state)
        h = state[0] if isinstance(state, tuple) else state
        np.testing.assert_allclose(h.numpy(), output.numpy()[t], rtol=1e-5, atol=1e-6)
    if isinstance(state, tuple):
        np.testing.assert_allclose(state[1].numpy(), final[1].numpy()[0], rtol=1e-5, atol=1e-6)
