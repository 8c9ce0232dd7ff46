"""Optimizer steps in place, and what no sample holds: NaN, infinity and values whose squares overflow."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter

from ranvier.kernels import optimizer
from ranvier.kernels.operation import all_operations

interpreter.install()
STEPS = [
    pytest.param(operation, sample, id=f"{operation.name}-{sample.name}")
    for operation in all_operations()
    if operation.family == optimizer.__name__ and not operation.name.startswith("gradient_norm")
    for sample in operation.samples
    if not sample.large
]


@pytest.mark.parametrize(("operation", "sample"), STEPS)
def test_a_step_into_its_own_arrays_is_the_step_into_new_ones(operation, sample):
    arrays = sample.build(np.random.default_rng(0), np.float32)
    expected, _ = operation.forward(*arrays, implementation="gpu", **sample.attributes)
    changed = [array for i, array in enumerate(arrays) if array is not None and (i != 1 or len(arrays) == 1)]
    out = changed[0] if len(changed) == 1 else tuple(changed)
    result, _ = operation.forward(*arrays, implementation="gpu", out=out, **sample.attributes)
    assert result is out or all(a is b for a, b in zip(result, out))
    for actual, value in zip(changed, expected if isinstance(expected, tuple) else [expected]):
        np.testing.assert_array_equal(actual, value)


@pytest.mark.parametrize(("operation", "sample"), STEPS)
def test_nan_reaches_every_array_as_on_the_cpu(operation, sample):
    arrays = sample.build(np.random.default_rng(0), np.float32)
    for index, array in enumerate(arrays):
        if array.size:
            array.flat[index % array.size] = np.nan
    outputs = [operation.forward(*arrays, implementation=side, **sample.attributes)[0] for side in ("cpu", "gpu")]
    on_cpu, on_gpu = (output if isinstance(output, tuple) else (output,) for output in outputs)
    for expected, actual in zip(on_cpu, on_gpu):
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))


@pytest.mark.parametrize("out", [np.zeros((4, 3), "f4").T, np.zeros(3, "f4"), np.zeros((3, 4)), (None, None)])
def test_out_that_cannot_hold_the_result_is_refused(out):
    with pytest.raises((TypeError, ValueError), match=r"^gradient_scale: expected out as"):
        optimizer.gradient_scale.forward(np.ones((3, 4), "f4"), factor=2.0, implementation="gpu", out=out)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 2.5, np.inf])
def test_the_norm_of_nan_and_infinity(norm_type, dtype):
    for bad, expected in ([np.nan], np.nan), ([-np.inf], np.inf), ([np.inf, np.nan], np.nan):
        gradient = np.array([1.0, *bad, -2.0], dtype)
        norm, _ = optimizer.gradient_norm.forward(gradient, norm_type=norm_type, implementation="gpu")
        np.testing.assert_array_equal(norm, np.asarray(expected, dtype))


def test_squares_that_overflow_float32_do_not_overflow_the_norm():
    norm, _ = optimizer.gradient_norm.forward(np.array([3e25, 4e25], "f4"), implementation="gpu")
    np.testing.assert_allclose(norm, 5e25, rtol=1e-6)


@pytest.mark.parametrize("implementation", ["cpu", "gpu"])
def test_a_norm_that_is_not_a_number_leaves_zeros(implementation):
    """They may lie between the gradients of a flat buffer, where nothing would wash a NaN out again."""
    gradient = np.array([1.0, 0.0, -2.0, 0.0], "f4")
    limit = optimizer.gradient_limit.forward
    limit(gradient, np.asarray(np.nan, "f4"), max_norm=1.0, out=gradient, implementation=implementation)
    np.testing.assert_array_equal(gradient, np.array([np.nan, 0, np.nan, 0], "f4"))


def test_gradients_that_are_short_enough_are_not_touched():
    gradient = np.array([1.0, np.inf, np.nan, -0.0], "f4")
    before = gradient.tobytes()
    limit = optimizer.gradient_limit.forward
    limit(gradient, np.asarray(2.0, "f4"), max_norm=2.1, out=gradient, implementation="gpu")
    assert gradient.tobytes() == before
