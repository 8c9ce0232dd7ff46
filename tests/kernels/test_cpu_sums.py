"""The sums over one line against float64, at every length around the vectors' edges; their order against its words."""

import numpy as np
import pytest

from ranvier.kernels import cpu_sums
from ranvier.kernels.cpu_jit import serial_kernel

LENGTHS = (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 4097)


@serial_kernel
def all_sums(x, y, centre):
    return (
        cpu_sums.line_sum(x),
        cpu_sums.line_product(x, y),
        cpu_sums.line_magnitude(x),
        *cpu_sums.line_deviations(x, centre),
        *cpu_sums.line_weighted_deviations(y, x, centre),
        *cpu_sums.line_scaled_deviations(y, x, x, centre),
    )


@serial_kernel
def wide_sums(x):
    return cpu_sums.wide_magnitude(x), cpu_sums.wide_squares(x)


@serial_kernel
def one_sum(x):
    return cpu_sums.line_sum(x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", LENGTHS)
def test_sums_are_those_of_the_elements(length, dtype):
    rng = np.random.default_rng(length)
    # A part of an array: what lies behind the line must not be added.
    x, y = rng.standard_normal((2, length + 100)).astype(dtype)[:, 3 : 3 + length]
    centre = x.dtype.type(0.3)
    wide_x, wide_y, c = x.astype("f8"), y.astype("f8"), float(centre)
    terms = [
        wide_x, wide_x * wide_y, abs(wide_x), wide_x - c, (wide_x - c) ** 2, wide_y, wide_y * (wide_x - c),
        wide_y * wide_x, wide_y * wide_x * (wide_x - c),
    ]  # fmt: skip
    epsilon = np.finfo(dtype).eps
    for got, term in zip(all_sums(x, y, centre), terms):
        assert abs(got - term.sum()) <= 8 * epsilon * (abs(term).sum() + 1e-30)
    for got, term in zip(wide_sums(x), (abs(wide_x), wide_x**2)):
        assert type(got) is float
        assert abs(got - term.sum()) <= 8 * np.finfo("f8").eps * (term.sum() + 1e-300)


@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 16), ("float64", 8)])
def test_order_of_summation_is_the_one_that_is_written_down(dtype, lanes):
    x = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    vectors = np.zeros((4, lanes), dtype)
    for i, value in enumerate(x):
        vectors[i // lanes % 4, i % lanes] += value
    (line,) = ((vectors[0] + vectors[1]) + (vectors[2] + vectors[3]),)
    while len(line) > 1:
        line = line[: len(line) // 2] + line[len(line) // 2 :]
    assert one_sum(x) == line[0]


def test_what_is_not_finite_stays_so():
    x = np.ones(100, "f")
    x[97] = np.nan
    assert np.isnan(one_sum(x))
    x[97] = np.inf
    assert one_sum(x) == np.inf
