"""Reductions of lines that no tile can hold, of infinities and NaN, and of integers, in Triton's interpreter."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree, run
from parity import DTYPES

from ranvier.kernels import reduce as family

interpreter.install()
AXES = ["sum", "mean", "amax", "amin", "var", "std", "norm"]
ONE_AXIS = ["max", "min", "argmax", "argmin"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 9_001), (1,)), ((700, 3), (0,)), ((2, 5_000, 2, 3), (1, 3))])
@pytest.mark.parametrize("name", AXES)
def test_lines_that_are_cut_agree_with_reference(name, shape, axis, dtype):
    rng = np.random.default_rng(0)
    # Of whole numbers, halves say which are largest as well as doubles do.
    x = rng.integers(-60, 60, shape) if name in ("amax", "amin") else rng.standard_normal(shape)
    agree(getattr(family, name), [x.astype(DTYPES[dtype])], {"axis": axis}, rng, dtype, "gpu")


@pytest.mark.parametrize("p", [1.0, 3.0, np.inf])
def test_norms_of_long_lines(p):
    rng = np.random.default_rng(0)
    agree(family.norm, [rng.standard_normal((2, 9_001))], {"axis": (1,), "p": p}, rng, "float64", "gpu")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 9_001), 1), ((700, 3), 0)])
@pytest.mark.parametrize("name", ["prod", "cumprod", "cumsum"])
def test_running_sums_and_products_carry_over_chunks(name, shape, axis, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) if name == "cumsum" else np.exp(rng.standard_normal(shape) * 1e-2)
    axis = (axis,) if name == "prod" else axis
    inputs, attributes, operation = [x.astype(DTYPES[dtype])], {"axis": axis}, getattr(family, name)
    grad = (np.asarray(operation.forward(*inputs, **attributes)[0]),)
    actual, exact = (run(operation, inputs, attributes, grad, implementation) for implementation in ("gpu", "cpu"))
    for a, e in zip((*actual[0], *actual[1]), (*exact[0], *exact[1])):
        np.testing.assert_allclose(a, e, rtol=1e-3 if dtype == "float32" else 1e-10, atol=1e-3)


@pytest.mark.parametrize("shape", [(4, 9), (4, 9_001)])
@pytest.mark.parametrize("name", ONE_AXIS)
def test_places_of_ties_infinities_and_nan(name, shape):
    x = np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)
    x[1, [3, 5]] = np.nan
    x[2] = -np.inf
    x[3, [2, 7]] = np.inf, -np.inf
    for array in (x, np.nan_to_num(x).astype(np.int64), np.full(shape, -(2**63))):
        outputs = (run(getattr(family, name), [array], {"axis": 1}, implementation=i)[0] for i in ("gpu", "cpu"))
        for actual, expected in zip(*outputs):
            np.testing.assert_array_equal(actual, expected)
            assert actual.dtype == expected.dtype


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "bool", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["sum", "prod", "amax", "amin", "any", "all", "cumsum", "cumprod"])
def test_types_are_those_of_the_cpu(name, dtype):
    if dtype == "bool" and name not in ("any", "all"):
        pytest.skip("only any and all take bools")
    operation, axis = getattr(family, name), 1 if name.startswith("cum") else (1,)
    x = np.random.default_rng(0).integers(0, 3, (20, 4)).astype(np.dtype(dtype))
    actual, expected = (operation.forward(x, axis=axis, implementation=i)[0] for i in ("gpu", "cpu"))
    if dtype != "bfloat16":
        assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["amax", "amin", "sum", "prod", "any", "all", "norm"])
def test_nan_and_infinity_come_out_as_on_the_cpu(name):
    x = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    x[0, 3], x[1, 3], x[2, 3] = np.nan, np.inf, -np.inf
    x[3] = 0
    actual, expected = (getattr(family, name).forward(x, axis=(1,), implementation=i)[0] for i in ("gpu", "cpu"))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
