"""The recurrent layers' kernels for whole sequences in Triton's interpreter, their programs taking turns: against the
reference, and each way in which programs could fail to wait for one another is noticed.

    TRITON_INTERPRET=1 pytest tests/gpu/test_interpreted_resident.py
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
import triton
import triton.language as tl
from agreement import agree
from parity import DTYPES

from ranvier.kernels import launch, memory, recurrent
from ranvier.kernels.recurrent import gpu, gpu_resident_backward, gpu_resident_forward, reference

interpreter.install()
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
LENGTHS = np.array([3, 4, 1, 2, 4])
UNITS = 4  # a program's


def tiles(layer, block_n=2, block_k=8, shares=2):
    """Forward and backward."""
    common = {"RESIDENT": 1, "BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": shares}
    return common | {"COLUMNS": UNITS * (1 if layer == "rnn" else 4)}, common | {"BLOCK_UNITS": UNITS}


@pytest.fixture
def resident(monkeypatch):
    """Every sequence is walked in one launch, with such tiles; the grids that were launched."""
    monkeypatch.setattr(memory, "poison", True)
    grids = []

    def begin(layer, **sizes):
        forward, backward = tiles(layer, **sizes)
        monkeypatch.setattr(gpu_resident_forward, "WALK", SimpleNamespace(pick=lambda *asked: forward))
        monkeypatch.setattr(gpu_resident_backward, "WALK_BACK", SimpleNamespace(pick=lambda *asked: backward))
        return grids

    def interpret(kernel, grid, arguments, constants):
        if constants.get("launch_cooperative_grid"):
            grids.append(grid)
        interpreter.interpret(kernel, grid, arguments, constants)

    monkeypatch.setattr(launch, "interpreter", interpret)
    return begin


def inputs_of(layer, rng, dtype=np.float32, hidden=7, steps=4, batch=5, bias=True, states=True):
    gates = GATES[layer] * hidden
    shapes = [(steps, batch, 3), (gates, 3), (gates, hidden), *[(gates,)] * 2]
    shapes += [(batch, hidden)] * (2 if layer == "lstm" else 1)
    inputs = [(rng.standard_normal(shape) / 2).astype(dtype) for shape in shapes]
    return [*inputs[:3], *(inputs[3:5] if bias else (None, None)), *(x if states else None for x in inputs[5:])]


def with_lengths(layer, inputs, lengths):
    return [*inputs, *[None] * (layer == "lstm"), lengths]


# A whole tile of units, one more than a tile, one less than two; sums of one chunk, of some, of a part of one; and half
# a tile of sequences, two and a half, two.
@pytest.mark.parametrize(("hidden", "batch", "block_k", "shares"), [(4, 1, 4, 2), (5, 5, 4, 2), (7, 4, 16, 4)])
@pytest.mark.parametrize("layer", GATES)
def test_sizes_at_the_edges_of_tiles(layer, hidden, batch, block_k, shares, resident):
    grids, rng = resident(layer, block_k=block_k, shares=shares), np.random.default_rng(0)
    inputs = inputs_of(layer, rng, hidden=hidden, steps=3, batch=batch)
    agree(getattr(recurrent, layer), inputs, {}, rng, "float32", "gpu")
    assert grids == [(triton.cdiv(hidden, UNITS), triton.cdiv(batch, 2))] * 2


@pytest.mark.parametrize(
    ("dtype", "reverse", "lengths"),
    [("float16", False, LENGTHS), ("bfloat16", True, LENGTHS), ("float32", True, LENGTHS), ("float32", True, None)],
)
@pytest.mark.parametrize("layer", GATES)
def test_directions_and_lengths_in_every_type(layer, reverse, lengths, dtype, resident):
    grids, rng = resident(layer), np.random.default_rng(0)
    inputs = with_lengths(layer, inputs_of(layer, rng, DTYPES[dtype]), lengths)
    agree(getattr(recurrent, layer), inputs, {"reverse": reverse}, rng, dtype, "gpu")
    assert grids == [(2, 3)] * 2


@pytest.mark.parametrize("layer", GATES)
def test_without_bias_and_initial_state(layer, resident):
    grids, rng = resident(layer, block_n=8), np.random.default_rng(0)
    inputs = inputs_of(layer, rng, bias=False, states=False)
    attributes = {"nonlinearity": "relu"} if layer == "rnn" else {}
    agree(getattr(recurrent, layer), inputs, attributes, rng, "float32", "gpu")
    assert grids == [(2, 1)] * 2


@pytest.mark.parametrize("layer", GATES)
def test_what_stands_past_a_sequence_s_end_has_no_effect(layer, resident):
    grids, rng, past = resident(layer, block_n=8), np.random.default_rng(0), np.arange(4)[:, None] >= LENGTHS
    inputs = with_lengths(layer, inputs_of(layer, rng), LENGTHS)
    exact, exact_saved = getattr(reference, f"{layer}_forward")(*inputs)
    inputs[0] = np.where(past[:, :, None], np.float32(np.nan), inputs[0])
    actual, saved = getattr(gpu, f"{layer}_forward")(*inputs)
    for one, other in zip(actual, exact):
        np.testing.assert_allclose(one, other, atol=1e-5)
    grads = [rng.standard_normal(x.shape).astype(np.float32) for x in exact]
    needs = [x is not None and x.dtype == np.float32 for x in inputs]
    exact_grads = getattr(reference, f"{layer}_backward")(exact_saved, tuple(grads), needs)
    grads[0] = np.where(past[:, :, None], np.float32(np.nan), grads[0])
    for one, other in zip(getattr(gpu, f"{layer}_backward")(saved, tuple(grads), needs), exact_grads):
        assert one is other is None or np.abs(one - other).max() < 1e-5
    assert len(grids) == 2


def walked(seed, monkeypatch, backward=False):
    """An LSTM's outputs, or its gradients, its programs taking turns as drawn from a seed; and what is right."""
    monkeypatch.setattr(interpreter.Turns, "seed", seed)
    inputs = inputs_of("lstm", np.random.default_rng(1))
    exact, exact_saved = reference.lstm_forward(*inputs)
    actual, saved = gpu.lstm_forward(*inputs)
    if backward:
        exact = reference.lstm_backward(exact_saved, exact, (True,) * 7)
        actual = gpu.lstm_backward(saved, actual, (True,) * 7)
    return actual, exact


def error_of(seed, monkeypatch, backward=False):
    """The largest of `walked`."""
    pairs = zip(*walked(seed, monkeypatch, backward))
    return max(np.abs(np.where(np.isnan(one), np.inf, one) - other).max() for one, other in pairs)


def test_the_order_in_which_programs_take_turns_changes_no_bit(resident, monkeypatch):
    resident("lstm")
    (first, exact), (second, _) = (walked(seed, monkeypatch, backward=True) for seed in range(2))
    for one, other, right in zip(first, second, exact):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, right, atol=1e-5)


@triton.jit
def no_wait(counter, arrivals):
    tl.atomic_add(counter, 0, sem="acquire", scope="gpu")


@triton.jit
def wait_for_one_less(counter, arrivals):
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < arrivals - 1:
        pass


@triton.jit
def wait_for_one_more(counter, arrivals):
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < arrivals + 1:
        pass


@pytest.mark.parametrize("broken", [no_wait, wait_for_one_less])
@pytest.mark.parametrize("walk", [gpu_resident_forward, gpu_resident_backward])
def test_a_wait_that_is_too_short_is_noticed(walk, broken, resident, monkeypatch):
    resident("lstm")
    monkeypatch.setattr(walk, "wait_for", broken)
    assert all(error_of(seed, monkeypatch, walk is gpu_resident_backward) > 1e-3 for seed in range(2))


@pytest.mark.parametrize("walk", [gpu_resident_forward, gpu_resident_backward])
def test_a_wait_that_never_ends_is_noticed(walk, resident, monkeypatch):
    resident("lstm")
    monkeypatch.setattr(walk, "wait_for", wait_for_one_more)
    with pytest.raises(Exception, match="programs wait for one another"):
        error_of(0, monkeypatch, backward=True)


@triton.jit
def one_buffer(states, step, elements):
    return states, states


def test_a_buffer_that_is_written_while_it_is_read_is_noticed(resident, monkeypatch):
    resident("lstm")
    monkeypatch.setattr(gpu_resident_forward, "buffers", one_buffer)
    assert any(error_of(seed, monkeypatch) > 1e-3 for seed in range(4))
