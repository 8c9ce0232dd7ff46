"""The recurrent layers' GPU kernels in Triton's interpreter: more than one block, padding that is never read, and
gradients of some outputs only."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import DTYPES

from ranvier.kernels import launch, memory, recurrent
from ranvier.kernels.recurrent import gpu, gpu_step_backward, gpu_step_forward, reference

interpreter.install()
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
LENGTHS = np.array([3, 5, 1, 2])


def inputs_of(layer, rng, steps=5, hidden=6, state=6, batch=4):
    gates = GATES[layer] * hidden
    shapes = [(steps, batch, 3), (gates, 3), (gates, state), (gates,), (gates,), (batch, state)]
    if layer == "lstm":
        shapes += [(batch, hidden)]
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


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 2 sequences and 4 units, whose sums go on by 4 terms; what launches there are."""
    common, launches = {"BLOCK_N": 2, "BLOCK_K": 4}, []

    def pick(like, batch, size, lines, aligned):
        return common | {"COLUMNS": 4 * lines}

    def interpret(kernel, grid, arguments, constants):
        launches.append((kernel.__name__, grid))
        interpreter.interpret(kernel, grid, arguments, constants)

    monkeypatch.setattr(memory, "poison", True)
    monkeypatch.setattr(gpu_step_forward, "STEP", SimpleNamespace(pick=pick))
    back = SimpleNamespace(pick=lambda *asked: common | {"BLOCK_UNITS": 4})
    monkeypatch.setattr(gpu_step_backward, "STEP_BACK", back)
    monkeypatch.setattr(launch, "interpreter", interpret)
    return launches


# A whole tile of units, one more than a tile, one less than two; half a tile of sequences, two and a half, two.
@pytest.mark.parametrize(
    ("hidden", "batch", "dtype", "lengths", "reverse", "given"),
    [
        (4, 1, "float64", None, True, True),
        (5, 5, "float16", [2, 3, 1, 3, 2], False, True),
        (7, 4, "bfloat16", [3, 1, 2, 2], True, False),
        (5, 5, "float32", None, False, False),
    ],
)
@pytest.mark.parametrize("layer", [*GATES, "lstm_projection"])
def test_sizes_at_the_edges_of_tiles(layer, hidden, batch, dtype, lengths, reverse, given, small_tiles):
    rng, (layer, _, projection) = np.random.default_rng(0), layer.partition("_")
    state = 3 if projection else hidden
    inputs = [x if x is None else x.astype(DTYPES[dtype]) for x in inputs_of(layer, rng, 3, hidden, state, batch)]
    if not given:  # neither biases nor states to start from
        inputs[3:7] = [None] * len(inputs[3:7])
    inputs.append(None if lengths is None else np.array(lengths))
    agree(getattr(recurrent, layer), inputs, {"reverse": reverse}, rng, dtype, "gpu")
    grid, of_state = ((-(-batch // 2) * -(-size // 4),) for size in (hidden, state))
    forward = [(f"{layer}_step_kernel", grid), *[("lstm_project_kernel", of_state)] * bool(projection)]
    back = [("rnn_grad_sums_kernel" if layer == "rnn" else f"{layer}_grad_gates_kernel", grid)]
    back = [*[("lstm_grad_projected_kernel", of_state)] * bool(projection), *back]
    names = {name for name, _ in forward + back}
    assert [made for made in small_tiles if made[0] in names] == forward * 3 + back * 3


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
