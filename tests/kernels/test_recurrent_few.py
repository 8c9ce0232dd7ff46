"""A few sequences, whose steps threads share, and single steps: the paths of batches that are not walked in blocks."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.kernels import recurrent
from ranvier.kernels.cpu_rows import add_products, add_weighted_rows
from ranvier.kernels.recurrent import cpu
from ranvier.kernels.recurrent.cpu_few import LSTM, few_forward_kernel
from ranvier.kernels.recurrent.cpu_share import CHUNK, board_size, end_step, next_chunk

KINDS = {"rnn": 1, "lstm": 4, "gru": 3}
TOLERANCE = {np.float32: 3e-5, np.float64: 1e-11}


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def call(rng, kind, steps, batch, size, features, dtype, lengths):
    """Arguments of a layer with all its states."""
    gates, bound = KINDS[kind], 1 / np.sqrt(size)
    shapes = (gates * size, features), (gates * size, size), (gates * size,), (gates * size,)
    states = [(batch, size)] * (2 if kind == "lstm" else 1)
    draw = [rng.standard_normal((steps, batch, features)), *(rng.uniform(-bound, bound, shape) for shape in shapes)]
    arrays = [array.astype(dtype) for array in (*draw, *(rng.standard_normal(shape) for shape in states))]
    return [*arrays, *([None] if kind == "lstm" else []), lengths]


def both_ways(kind, arguments, implementation="cpu", **attributes):
    """Outputs and gradients of a layer or cell."""
    operation = getattr(recurrent, kind)
    outputs, saved = operation.forward(*arguments, implementation=implementation, **attributes)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    seeds = tuple(np.cos(np.arange(o.size)).reshape(o.shape).astype(o.dtype) for o in outputs)
    needs = tuple(isinstance(argument, np.ndarray) and argument.dtype.kind == "f" for argument in arguments)
    grads = operation.backward(saved, seeds if len(seeds) > 1 else seeds[0], needs, implementation)
    return [*outputs, *(grad for grad in grads if grad is not None)]


def in_float64(arguments):
    return [a.astype(float) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arguments]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 8, 31, 32, 33, 67])
@pytest.mark.parametrize("kind", KINDS)
def test_few_sequences_agree_with_the_reference(kind, size, dtype, rng):
    """Chunks with and without a rest, batches up to and past the number that counts as few, one step and many."""
    for batch, steps, reverse in ((1, 6, False), (1, 1, True), (3, 5, True), (4, 7, False), (5, 4, False)):
        lengths = None if batch == 1 else rng.integers(1, steps + 1, batch)
        arguments = call(rng, kind, steps, batch, size, 5, dtype, lengths)
        results = both_ways(kind, arguments, reverse=reverse)
        exact = both_ways(kind, in_float64(arguments), "reference", reverse=reverse)
        for actual, expected in zip(results, exact, strict=True):
            scale = max(1, np.abs(expected).max(initial=0))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("batch", [1, 4, 5, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind, batch, rng):
    arguments = call(rng, kind, 9, batch, 130, 7, np.float32, None if batch == 1 else rng.integers(1, 10, batch))
    threads = numba.get_num_threads()
    results = []
    try:
        for count in range(1, threads + 1):
            numba.set_num_threads(count)
            results += [both_ways(kind, arguments) for _ in range(3)]
    finally:
        numba.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("relu", [False, True])
def test_few_sequences_of_a_plain_layer(relu, rng):
    arguments = call(rng, "rnn", 6, 2, 40, 3, np.float64, np.array([6, 2]))
    nonlinearity = "relu" if relu else "tanh"
    results = (both_ways("rnn", arguments, name, nonlinearity=nonlinearity) for name in ("cpu", "reference"))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [6, 70])
@pytest.mark.parametrize("batch", [1, 4, 5, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_one_step_of_its_layer(kind, batch, size, rng):
    """Whichever of the two computes it, and from which batch on."""
    x, *others = call(rng, kind, 1, batch, size, 9, np.float64, None)
    states = 2 if kind == "lstm" else 1
    cell = both_ways(f"{kind}_cell", (x[0], *others[: 4 + states]))
    (output, *after), saved = getattr(recurrent, kind).forward(x, *others)
    seeds = tuple(np.cos(np.arange(o.size)).reshape(o.shape) for o in after)
    needs = (True,) * (5 + states)
    grad_x, *grads = getattr(recurrent, kind).backward(saved, (None, *seeds), needs)
    for a, b in zip(cell, (*after, grad_x[0], *grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(output[0], after[0])


def test_workers_that_come_too_late_find_nothing_to_do(rng):
    """All chunks go to a worker that is alone, its own first and each once; then nobody waits for anybody."""
    chunks, workers = 7, 3
    board = np.zeros(board_size(chunks), np.int64)
    for step in range(4):
        taken, position = [], 0
        while True:
            chunk, position = next_chunk(board, step, 1, workers, position)
            if chunk < 0:
                break
            taken.append(chunk)
        assert sorted(taken) == list(range(chunks))
        assert taken[:2] == ([2, 3] if step % 2 == 0 else [3, 2])
        end_step(board, step, chunks)
        for late in (0, 2):
            assert next_chunk(board, step, late, workers, 0)[0] == -1
            end_step(board, step, 0)
    assert next_chunk(board, 2, 0, workers, 0)[0] == -1, "a step that is over was begun again"


def test_workers_one_after_the_other(rng):
    """Where no two workers run at once, the first does what all have to do."""
    steps, size = 5, 3 * CHUNK + 1
    arguments = call(rng, "lstm", steps, 1, size, 4, np.float32, None)
    expected = both_ways("lstm", arguments)
    x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, *_ = arguments
    walk = cpu.plan(steps, 1, None, False)
    gates = (bias_ih + bias_hh + np.zeros((steps, 1), np.float32)).astype(np.float32)
    cells, output, c = (np.empty((n, size), np.float32) for n in (steps, steps, 1))
    c[...] = c0
    few_forward_kernel.serial(
        np.zeros(board_size(4), np.int64), LSTM, x.reshape(steps, 4), weight_ih.reshape(-1), weight_hh.reshape(-1),
        *walk.tables, h0, np.empty(0, np.float32), np.empty((3, 1, 4 * CHUNK), np.float32), gates, cells, output, c,
    )  # fmt: skip
    np.testing.assert_allclose(output, expected[0][:, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(c, expected[2], rtol=0, atol=1e-6)


@given(st.integers(0, 35), st.sampled_from([1, 7, 8, 15, 16, 17, 67]), st.integers(1, 4), st.sampled_from(["f4", "f8"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_products_with_a_weight_as_it_lies(rows, inner, count, dtype):
    rng, first = np.random.default_rng(rows * inner), 2 * (inner + 3) + 1
    weight = rng.standard_normal((rows + 3, inner + 3)).astype(dtype)
    vectors, factors = (rng.standard_normal(shape).astype(dtype) for shape in ((count + 1, inner), (count, rows + 2)))
    sums, tolerance = np.ones((count + 1, rows + 2), dtype), 1e-4 if dtype == "f4" else 1e-12
    starts, flat = np.arange(1, count + 1) * inner, weight.reshape(-1)
    picked, pitch = weight[2 : 2 + rows, 1 : inner + 1], inner + 3
    add_products(flat, first, pitch, rows, inner, vectors.reshape(-1), starts, count, sums.reshape(-1), 1, rows + 2)
    np.testing.assert_allclose(sums[:count, 1:-1], 1 + vectors[1:] @ picked.T, rtol=0, atol=tolerance)
    sums[:count, 1:-1] = 1
    assert (sums == 1).all(), "sums that were not asked for were written"
    if rows:
        result, flat_factors = np.full((count, inner + 2), np.nan, dtype), factors.reshape(-1)
        for times in (1, 2):
            add_weighted_rows(
                flat, first, pitch, rows, inner, flat_factors, 1, rows + 2, count, result.reshape(-1), 1, inner + 2,
                times == 2,
            )  # fmt: skip
            exact = times * (factors[:, 1:-1] @ picked)
            np.testing.assert_allclose(result[:, 1:-1], exact, rtol=0, atol=tolerance)
        assert np.isnan(result[:, [0, -1]]).all(), "results that were not asked for were written"
