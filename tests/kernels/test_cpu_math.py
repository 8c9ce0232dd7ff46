"""The vectorised functions against SciPy-free float64 NumPy: units in the last place over their whole domains."""

import math

import numpy as np
import pytest
from numba import njit

from ranvier.kernels import cpu_math
from ranvier.kernels.cpu_jit import _OPTIONS

_erf = np.vectorize(math.erf, otypes=[np.float64])
FUNCTIONS = {
    "exp": (np.exp, -87.0, 88.72),
    "log": (np.log, 1e-6, 1e4),
    "tanh": (np.tanh, -12.0, 12.0),
    "expm1": (np.expm1, -20.0, 20.0),
    "log1p": (np.log1p, -0.99, 100.0),
    "erf": (_erf, -5.0, 5.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -80.0, 80.0),
    "softplus": (lambda x: np.logaddexp(x, 0), -86.0, 100.0),
}


def compiled(name):
    function = getattr(cpu_math, name)

    @njit(**_OPTIONS)
    def each(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    def call(x):
        y = np.empty_like(x)
        each(x, y)
        return y

    return call


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_right_to_six_units_in_the_last_place(name):
    exact_function, low, high = FUNCTIONS[name]
    wide = np.linspace(low, high, 200_001)
    near_zero = np.linspace(max(low, -0.01), 0.01, 20_001) if low < 0 else np.geomspace(low, 1, 20_001)
    x = np.concatenate([wide, near_zero]).astype(np.float32)
    exact = exact_function(x.astype(np.float64))
    units = np.abs(compiled(name)(x) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert units.max() < 6, f"{units.max():.2f} units at {x[units.argmax()]!r}"


def test_decay_is_exp_below_zero_and_ends_before_it_is_subnormal():
    decay, x = compiled("decay"), np.linspace(-86.5, 1e-3, 200_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(decay(x) - exact) / np.spacing(exact.astype(np.float32))) < 6
    ends = np.array([0.0, -86.6, -3e38, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(decay(ends), np.array([1.0, 0.0, 0.0, 0.0, np.nan], np.float32))


@pytest.mark.parametrize(
    ("name", "sign", "largest"),
    [("log", 1, 1e-37), ("log1p", 1, 1.0), ("log1p", -1, 0.9), ("expm1", 1, 1.0), ("expm1", -1, 1.0)],
)
def test_the_smallest_arguments_keep_their_digits(name, sign, largest):
    x = (sign * np.geomspace(1e-44 if name == "log" else 1e-37, largest, 50_001)).astype(np.float32)
    exact = FUNCTIONS[name][0](x.astype(np.float64))
    units = np.abs(compiled(name)(x) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert units.max() < 2, f"{units.max():.2f} units at {x[units.argmax()]!r}"


@pytest.mark.parametrize(
    ("name", "low", "high"), [("exp", -103.0, -87.0), ("log", 1e30, 3.4e38), ("log1p", 1e30, 3.4e38)]
)
def test_the_ends_of_the_range_are_reached_gradually(name, low, high):
    x = np.linspace(low, high, 10_001).astype(np.float32)
    exact = FUNCTIONS[name][0](x.astype(np.float64))
    np.testing.assert_allclose(compiled(name)(x), exact, rtol=3e-7, atol=2 * np.finfo(np.float32).smallest_subnormal)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_of_the_line(name, dtype):
    exact_function = FUNCTIONS[name][0]
    x = np.array([0.0, np.inf, -np.inf, np.nan, 100.0, -100.0, 3e38, -3e38, -1.0], dtype)
    with np.errstate(all="ignore"):
        exact = exact_function(x.astype(np.float64))
        if name == "sigmoid":
            exact[2] = 0.0
        exact = exact.astype(dtype)
    np.testing.assert_allclose(compiled(name)(x), exact, rtol=1e-6, atol=1e-36)
