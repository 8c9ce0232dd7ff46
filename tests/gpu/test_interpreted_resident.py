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
from ranvier.kernels.recurrent import gpu, gpu_resident, reference

interpreter.install()
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
LENGTHS = np.array([3, 6, 1, 2, 5])
UNITS = 4  # a program's


def tile(layer, block_n=2, block_k=4):
    return {"RESIDENT": 1, "BLOCK_N": block_n, "COLUMNS": UNITS * (1 if layer == "rnn" else 4), "BLOCK_K": block_k,
            "num_warps": 4}  # fmt: skip


@pytest.fixture
def resident(monkeypatch):
    """Every sequence is walked in one launch, with such tiles; the grids that were launched."""
    monkeypatch.setattr(memory, "poison", True)
    grids = []

    def begin(layer, **sizes):
        monkeypatch.setattr(gpu_resident, "WALK", SimpleNamespace(pick=lambda *asked: tile(layer, **sizes)))
        return grids

    def interpret(kernel, grid, arguments, constants):
        if constants.get("launch_cooperative_grid"):
            grids.append(grid)
        interpreter.interpret(kernel, grid, arguments, constants)

    monkeypatch.setattr(launch, "interpreter", interpret)
    return begin


def inputs_of(layer, rng, dtype=np.float32, hidden=11, steps=6, bias=True, states=True):
    gates = GATES[layer] * hidden
    shapes = [
        (steps, 5, 3),
        (gates, 3),
        (gates, hidden),
        *[(gates,)] * 2,
        *[(5, hidden)] * (2 if layer == "lstm" else 1),
    ]
    inputs = [(rng.standard_normal(shape) / 2).astype(dtype) for shape in shapes]
    return [*inputs[:3], *(inputs[3:5] if bias else (None, None)), *(x if states else None for x in inputs[5:])]


def with_lengths(layer, inputs, lengths):
    return [*inputs, *[None] * (layer == "lstm"), lengths]


# A whole tile of units, one more than a tile, one less than two; and sums of one chunk, of two, of a part of one.
@pytest.mark.parametrize(("hidden", "block_k"), [(4, 4), (5, 4), (7, 16)])
@pytest.mark.parametrize("layer", GATES)
def test_sizes_at_the_edges_of_tiles(layer, hidden, block_k, resident):
    grids, rng = resident(layer, block_k=block_k), np.random.default_rng(0)
    operation = getattr(recurrent, layer)
    agree(operation, inputs_of(layer, rng, hidden=hidden, steps=3), {}, rng, "float32", "gpu")
    assert grids == [(triton.cdiv(hidden, UNITS), 3)]


@pytest.mark.parametrize(
    ("dtype", "reverse", "lengths"),
    [("float16", False, LENGTHS), ("bfloat16", True, LENGTHS), ("float32", True, LENGTHS), ("float32", True, None)],
)
@pytest.mark.parametrize("layer", GATES)
def test_directions_and_lengths_in_every_type(layer, reverse, lengths, dtype, resident):
    grids, rng = resident(layer), np.random.default_rng(0)
    inputs = with_lengths(layer, inputs_of(layer, rng, DTYPES[dtype]), lengths)
    agree(getattr(recurrent, layer), inputs, {"reverse": reverse}, rng, dtype, "gpu")
    assert grids == [(3, 3)]


@pytest.mark.parametrize("layer", GATES)
def test_without_bias_and_initial_state(layer, resident):
    grids, rng = resident(layer, block_n=8), np.random.default_rng(0)
    inputs = inputs_of(layer, rng, bias=False, states=False)
    attributes = {"nonlinearity": "relu"} if layer == "rnn" else {}
    agree(getattr(recurrent, layer), inputs, attributes, rng, "float32", "gpu")
    assert grids == [(3, 1)]


@pytest.mark.parametrize("layer", GATES)
def test_what_stands_past_a_sequence_s_end_has_no_effect(layer, resident):
    grids, inputs = resident(layer), with_lengths(layer, inputs_of(layer, np.random.default_rng(0)), LENGTHS)
    exact, _ = getattr(reference, f"{layer}_forward")(*inputs)
    inputs[0] = np.where((np.arange(6)[:, None] >= LENGTHS)[:, :, None], np.float32(np.nan), inputs[0])
    actual, _ = getattr(gpu, f"{layer}_forward")(*inputs)
    for one, other in zip(actual, exact):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert grids


def error_of(seed, monkeypatch):
    """The largest error of an LSTM's output, its programs taking turns as drawn from a seed."""
    monkeypatch.setattr(interpreter.Turns, "seed", seed)
    inputs = inputs_of("lstm", np.random.default_rng(1))
    exact, _ = reference.lstm_forward(*inputs)
    actual, _ = gpu.lstm_forward(*inputs)
    return np.abs(np.where(np.isnan(actual[0]), np.inf, actual[0]) - exact[0]).max()


def test_programs_may_take_turns_in_any_order(resident, monkeypatch):
    resident("lstm")
    assert max(error_of(seed, monkeypatch) for seed in range(2)) < 1e-6


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
def test_a_wait_that_is_too_short_is_noticed(broken, resident, monkeypatch):
    resident("lstm")
    monkeypatch.setattr(gpu_resident, "wait_for", broken)
    assert all(error_of(seed, monkeypatch) > 1e-3 for seed in range(2))


def test_a_wait_that_never_ends_is_noticed(resident, monkeypatch):
    resident("lstm")
    monkeypatch.setattr(gpu_resident, "wait_for", wait_for_one_more)
    with pytest.raises(Exception, match="programs wait for one another"):
        error_of(0, monkeypatch)


@triton.jit
def one_buffer(states, step, elements):
    return states, states


def test_a_buffer_that_is_written_while_it_is_read_is_noticed(resident, monkeypatch):
    resident("lstm")
    monkeypatch.setattr(gpu_resident, "buffers", one_buffer)
    assert any(error_of(seed, monkeypatch) > 1e-3 for seed in range(4))
