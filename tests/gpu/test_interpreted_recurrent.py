"""The recurrent layers' GPU kernels in Triton's interpreter: more than one block, padding that is never read, and
gradients of some outputs only."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.kernels import recurrent
from ranvier.kernels.recurrent import gpu, reference

interpreter.install()
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
LENGTHS = np.array([3, 5, 1, 2])


def inputs_of(layer, rng, steps=5, hidden=6, state=6):
    gates = GATES[layer] * hidden
    shapes = [(steps, 4, 3), (gates, 3), (gates, state), (gates,), (gates,), (4, state)]
    if layer == "lstm":
        shapes += [(4, hidden)]
    inputs = [rng.standard_normal(shape) / 2 for shape in shapes]
    if layer == "lstm":
        inputs.append(None if state == hidden else rng.standard_normal((state, hidden)))
    return inputs


@given(data=st.data())
@settings(max_examples=5, deadline=None)
@pytest.mark.parametrize("layer", GATES)
def test_random_shapes(layer, data):
    class Pick:
        def __call__(self, low, high):
            return data.draw(st.integers(low, high))

        def of(self, values):
            return data.draw(st.sampled_from(values))

    operation, rng = getattr(recurrent, layer), np.random.default_rng(0)
    sample = operation.vary(Pick())
    agree(operation, sample.build(rng, np.float64), sample.attributes, rng, "float64", implementation="gpu")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layer", [*GATES, "lstm_projection"])
def test_what_stands_past_a_sequence_s_end_has_no_effect(layer, reverse):
    rng = np.random.default_rng(0)
    layer, state = layer.partition("_")[0], 2 if "_" in layer else 6
    inputs = inputs_of(layer, rng, state=state)
    past = np.arange(5)[:, None] >= LENGTHS
    (exact, *exact_states), exact_saved = getattr(reference, f"{layer}_forward")(*inputs, LENGTHS, reverse=reverse)
    inputs[0] = np.where(past[:, :, None], np.nan, inputs[0])
    (output, *states), saved = getattr(gpu, f"{layer}_forward")(*inputs, LENGTHS, reverse=reverse)
    for actual, expected in zip((output, *states), (exact, *exact_states)):
        np.testing.assert_allclose(actual, expected, atol=1e-12)
    grads = [rng.standard_normal(x.shape) for x in (output, *states)]
    needs = (True,) * len(inputs)
    exact_grads = getattr(reference, f"{layer}_backward")(exact_saved, tuple(grads), (*needs, False))
    grads[0] = np.where(past[:, :, None], np.nan, grads[0])
    for actual, expected in zip(getattr(gpu, f"{layer}_backward")(saved, tuple(grads), needs), exact_grads):
        assert (actual is None) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(actual, expected, atol=1e-10)


@pytest.mark.parametrize("reached", range(3))
@pytest.mark.parametrize("layer", GATES)
def test_gradients_that_reach_one_output_only(layer, reached):
    rng = np.random.default_rng(0)
    inputs, lengths = inputs_of(layer, rng), LENGTHS if reached else None
    outputs, saved = getattr(gpu, f"{layer}_forward")(*inputs, lengths)
    if reached >= len(outputs):
        pytest.skip(f"{layer} has {len(outputs)} outputs")
    _, exact_saved = getattr(reference, f"{layer}_forward")(*inputs, lengths)
    grads = tuple(rng.standard_normal(x.shape) if i == reached else None for i, x in enumerate(outputs))
    needs = (False, True, True, False, True, True, layer == "lstm")[: len(inputs)]
    exact = getattr(reference, f"{layer}_backward")(exact_saved, grads, needs)
    for actual, expected in zip(getattr(gpu, f"{layer}_backward")(saved, grads, needs), exact):
        assert (actual is None) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(actual, expected, atol=1e-10)
