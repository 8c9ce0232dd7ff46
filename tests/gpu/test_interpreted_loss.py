"""Losses beyond their samples: varied calls, rows longer than a tile, infinite logits, and means of nothing."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity import DTYPES

from ranvier.kernels import loss
from ranvier.kernels.loss.gpu_check import first_outside
from ranvier.kernels.operation import all_operations

interpreter.install()
LOSSES = [o for o in all_operations() if o.family == loss.__name__]


@pytest.mark.parametrize("operation", LOSSES, ids=repr)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_varied_calls_agree_with_reference(operation, data):
    def pick(low, high):
        return data.draw(st.integers(low, high))

    pick.of = lambda choices: data.draw(st.sampled_from(list(choices)))
    sample = operation.vary(pick)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    agree(operation, sample.build(rng, np.float32), sample.attributes, rng, "float32", implementation="gpu")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(2, 9001), (3, 40, 150), (300, 3)])
def test_cross_entropy_over_several_tiles(shape, smoothing):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:])).astype(np.int32)
    inputs = [rng.standard_normal(shape).astype("f4") * 9, labels, rng.random(shape[1]).astype("f4")]
    agree(loss.cross_entropy, inputs, {"label_smoothing": smoothing}, rng, "float32", implementation="gpu")
    probabilities = [inputs[0], rng.random(shape).astype("f4"), None]
    agree(loss.cross_entropy, probabilities, {"label_smoothing": smoothing}, rng, "float32", implementation="gpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 9001), (3, 40, 150)])
@pytest.mark.parametrize("by_label", [True, False])
def test_the_gradient_of_cross_entropy_may_go_over_the_logits(shape, dtype, by_label):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(DTYPES[dtype])
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    target = labels if by_label else rng.random(shape).astype(x.dtype)
    weight = rng.random(shape[1]).astype(x.dtype)
    results = []
    for inplace in (False, True):
        logits, needs = x.copy(), (True, not by_label, False)
        attributes = {"label_smoothing": 0.1, "inplace": inplace, "implementation": "gpu"}
        output, saved = loss.cross_entropy.forward(logits, target, weight, **attributes)
        grads = loss.cross_entropy.backward(saved, np.full((), 3, x.dtype), needs, "gpu")
        assert (grads[0] is logits) is inplace
        results.append((output, *grads[:2]))
    for usual, in_place in zip(*results):
        np.testing.assert_array_equal(usual, in_place)


def test_infinite_logits_and_ignored_rows_of_nan():
    logits = np.array([[-np.inf] * 4 + [1, 2.0], [np.nan] * 6, [-np.inf, 3, 0, 0, 0, 0]], "f4")
    labels = np.array([5, 255, 1], np.uint8)
    for operation in (loss.cross_entropy, loss.nll_loss):
        results = []
        for side in ("cpu", "gpu"):
            output, saved = operation.forward(logits, labels, None, ignore_index=255, implementation=side)
            results.append((output, operation.backward(saved, np.ones((), "f4"), (True, False, False), side)[0]))
        for on_cpu, on_gpu in zip(*results):
            np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-6)
        assert np.isfinite(results[1][1]).all()


@pytest.mark.parametrize("operation", [loss.cross_entropy, loss.nll_loss], ids=repr)
def test_the_mean_of_nothing_is_nan_and_its_gradient_0(operation):
    logits = np.ones((3, 2), "f4")
    output, saved = operation.forward(logits, np.full(3, -100), None, implementation="gpu")
    assert np.isnan(output)
    (grad, *_) = operation.backward(saved, np.ones((), "f4"), (True, False, False), "gpu")
    np.testing.assert_array_equal(grad, np.zeros((3, 2)))


@pytest.mark.parametrize("integer", [np.int8, np.int16, np.int64])
def test_multilabel_margins_of_many_and_of_repeated_labels(integer):
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((5, 127)).astype("f4"), rng.integers(0, 127, (5, 127)).astype(integer)
    labels[0, 0] = labels[1, 1] = labels[2, 20] = labels[3, 90] = -1  # and the last row is full
    labels[2, 3:9] = labels[2, 0]
    agree(loss.multilabel_margin_loss, [x, labels], {"reduction": "none"}, rng, "float32", implementation="gpu")
    x, labels = rng.standard_normal((2, 300)), np.full((2, 300), -1)
    labels[:, :3] = [[299, 128, 0], [5, 5, 5]]
    agree(loss.multilabel_margin_loss, [x, labels], {}, rng, "float64", implementation="gpu")


@pytest.mark.parametrize("dtype", ["i8", "i4", "f2", "f4", "f8", "u1"])
def test_the_first_strange_value_is_found(dtype):
    x = np.ones((300, 10), dtype)
    assert first_outside(x[:0], 0, 1) is None
    assert first_outside(x, 0, 1) is None
    assert first_outside(x, -1, 1, ends=True) is None
    x[200, 3], x[299, 9] = 0, 7
    assert first_outside(x, 0, 1) == 7
    assert first_outside(x, -1, 1, ends=True) == 0
    assert first_outside(x[::-1], 0) is None
    if np.dtype(dtype).kind == "f":
        x[100, 0] = np.nan
        assert np.isnan(first_outside(x, 0, 1))
        assert first_outside(x, 0, 1, nan=True) == 7
