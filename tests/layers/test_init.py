"""Initial weights: the spread that each paper asks for, repeatable by a seed, refused where they make no sense."""

import math

import numpy as np
import pytest

import ranvier as rv

SHAPE = (200, 30, 3, 3)
FAN_IN, FAN_OUT = 30 * 9, 200 * 9


def filled(function, shape=SHAPE, **arguments):
    rv.seed(0)
    return function(rv.Parameter(np.full(shape, np.nan, np.float32)), **arguments).numpy()


@pytest.mark.parametrize(
    ("function", "arguments", "deviation"),
    [
        (rv.init.xavier_uniform_, {}, math.sqrt(2 / (FAN_IN + FAN_OUT))),
        (rv.init.xavier_normal_, {"gain": 2.0}, 2 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
        (rv.init.kaiming_uniform_, {"nonlinearity": "relu"}, math.sqrt(2 / FAN_IN)),
        (rv.init.kaiming_normal_, {"nonlinearity": "relu", "mode": "fan_out"}, math.sqrt(2 / FAN_OUT)),
        (rv.init.kaiming_normal_, {"a": math.sqrt(5)}, math.sqrt(2 / 6 / FAN_IN)),
        (rv.init.normal_, {"std": 0.3}, 0.3),
        (rv.init.uniform_, {"a": -1.0, "b": 1.0}, 1 / math.sqrt(3)),
        (rv.init.trunc_normal_, {"std": 0.5, "a": -0.5, "b": 0.5}, 0.5 * 0.53956),
    ],
)
def test_the_spread_is_what_the_paper_asks_for(function, arguments, deviation):
    values = filled(function, **arguments)
    assert abs(values.std() / deviation - 1) < 0.01
    assert abs(values.mean()) < 0.02 * deviation
    np.testing.assert_array_equal(values, filled(function, **arguments))


def test_uniform_bounds_and_truncation_hold():
    assert np.abs(filled(rv.init.uniform_, a=-0.2, b=0.2)).max() <= 0.2
    bound = math.sqrt(6 / (FAN_IN + FAN_OUT))
    assert np.abs(filled(rv.init.xavier_uniform_)).max() <= bound * (1 + 1e-6)
    assert np.abs(filled(rv.init.trunc_normal_, a=-0.7, b=0.7)).max() <= 0.7


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 2, 3)])
def test_orthogonal_rows_or_columns(shape):
    matrix = filled(rv.init.orthogonal_, shape, gain=2.0).reshape(shape[0], -1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


def test_plain_patterns():
    np.testing.assert_array_equal(filled(rv.init.eye_, (2, 3)), np.eye(2, 3))
    assert (filled(rv.init.zeros_) == 0).all()
    assert (filled(rv.init.ones_) == 1).all()
    assert (filled(rv.init.constant_, val=0.5) == 0.5).all()
    sparse = filled(rv.init.sparse_, (50, 20), sparsity=0.3)
    assert ((sparse == 0).sum(axis=0) == 15).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_passes_channels_on(groups):
    weight = rv.init.dirac_(rv.Parameter(np.empty((4, 4 // groups, 3, 3), np.float32)), groups)
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32)
    y = rv.functional.conv2d(rv.tensor(x), weight, padding=1, groups=groups)
    np.testing.assert_array_equal(y.numpy(), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: filled(rv.init.xavier_uniform_, (3,)), "init: expected a weight of at least two axes"),
        (lambda: filled(rv.init.kaiming_normal_, mode="fan"), "kaiming: expected mode"),
        (lambda: rv.init.calculate_gain("step"), "calculate_gain: expected one of"),
        (lambda: filled(rv.init.eye_, (3,)), "eye_: expected a matrix"),
        (lambda: filled(rv.init.orthogonal_, (3,)), "orthogonal_: expected at least two axes"),
        (lambda: filled(rv.init.sparse_, sparsity=0.1), "sparse_: expected a matrix"),
        (lambda: filled(rv.init.trunc_normal_, a=1.0, b=0.0), "trunc_normal_: expected a < b"),
        (lambda: rv.seed(-1), "seed: expected an integer of 0 or more"),
        (lambda: rv.seed(True), "seed: expected an integer of 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
