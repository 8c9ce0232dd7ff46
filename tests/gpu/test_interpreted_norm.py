"""Normalisation of rows that no tile can hold, in channels-last memory, far from zero, and without some gradients."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree, output_gradients, run
from parity import DTYPES, assert_close

from ranvier.kernels import norm as family

interpreter.install()
LONG = [
    ("layer_norm", (3, 20_001), {"normalized_shape": (20_001,), "eps": 1e-5}),
    ("rms_norm", (2, 20_001), {"normalized_shape": (20_001,), "eps": 1e-5}),
    ("group_norm", (2, 4, 93, 111), {"groups": 2, "eps": 1e-5}),
    ("instance_norm", (1, 2, 131, 137), {"eps": 1e-5}),
    ("batch_norm", (2, 2, 131, 137), {"eps": 1e-5}),
    ("batch_norm", (1_300, 5), {"eps": 1e-5}),
    ("batch_norm", (2, 2, 131, 137), {"eps": 1e-5, "activation": "relu"}),
    ("batch_norm", (1_300, 5), {"eps": 1e-5, "activation": "relu"}),
    ("layer_norm", (1_300, 5), {"normalized_shape": (5,), "eps": 1e-5}),
]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("name", "shape", "attributes"), LONG)
def test_rows_that_are_cut_agree_with_reference(name, shape, attributes, dtype):
    rng = np.random.default_rng(0)
    affine = attributes.get("normalized_shape", (shape[1],))
    shapes = [shape, affine, affine][: 2 if name == "rms_norm" else 3]
    inputs = [rng.standard_normal(s).astype(DTYPES[dtype]) for s in shapes]
    agree(getattr(family, name), inputs, attributes, rng, dtype, "gpu")


@pytest.mark.parametrize("shape", [(3, 5, 4, 7), (2, 40, 9), (700, 3, 2)])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_channels_last_memory_is_kept(shape, inference, activation):
    rng = np.random.default_rng(0)
    x, weight, bias, mean = (rng.standard_normal(s).astype(np.float32) for s in (shape, *[(shape[1],)] * 3))
    operation = family.batch_norm_inference if inference else family.batch_norm
    inputs = [x, mean, mean**2 + 1, weight, bias] if inference else [x, weight, bias]

    def channels_last(array):
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) if array.ndim > 1 else array

    attributes = {"eps": 1e-5, "activation": activation}
    agree(operation, inputs, attributes, rng, "float32", "gpu", arrange=channels_last)
    output = operation.forward(channels_last(x), *inputs[1:], eps=1e-5, implementation="gpu")[0]
    y = output if inference else output[0]
    assert np.moveaxis(y, 1, -1).flags.c_contiguous


@pytest.mark.parametrize("length", [1_000, 20_000])
@pytest.mark.parametrize("name", ["layer_norm", "instance_norm", "group_norm", "batch_norm"])
def test_the_variance_is_exact_far_from_zero(name, length):
    x = (1_000 + np.random.default_rng(0).standard_normal((2, 1, length))).astype(np.float32)
    attributes = {"layer_norm": {"normalized_shape": (length,)}, "group_norm": {"groups": 1}}.get(name, {})
    outputs, exact = (
        run(getattr(family, name), [x.astype(dtype)], {**attributes, "eps": 1e-5}, implementation=implementation)[0]
        for dtype, implementation in ((np.float32, "gpu"), (np.float64, "reference"))
    )
    np.testing.assert_allclose(outputs[0], exact[0], atol=2e-4)
    for moment, value in zip(outputs[1:], exact[1:]):
        np.testing.assert_allclose(moment, value, rtol=1e-5)


@pytest.mark.parametrize("present", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 2, 17_000)])
def test_gradients_may_reach_some_outputs_only(name, shape, present):
    rng, operation = np.random.default_rng(0), getattr(family, name)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in (shape, (shape[1],), (shape[1],))]
    outputs, _ = run(operation, inputs, {"eps": 1e-5}, implementation="reference")
    grads = tuple(g if p else None for g, p in zip(output_gradients(outputs, rng, np.float32), present))
    actual, exact = (
        run(operation, inputs, {"eps": 1e-5}, grads, implementation)[1] for implementation in ("gpu", "reference")
    )
    for a, e in zip(actual, exact):
        assert_close(a, e, "float32", shape[0] * shape[2])


def test_running_average_in_place_and_into_a_view():
    rng = np.random.default_rng(0)
    running, value = rng.standard_normal(40), rng.standard_normal((3, 40))
    expected, _ = family.running_average.forward(running, value, factor=0.1, scale=1.1, implementation="reference")
    view = np.zeros(80)[::2]
    for out in (running.copy(), view):
        before = running if out is view else out
        result, _ = family.running_average.forward(before, value, factor=0.1, scale=1.1, out=out, implementation="gpu")
        assert result is out
        np.testing.assert_allclose(out, expected, rtol=1e-14)
