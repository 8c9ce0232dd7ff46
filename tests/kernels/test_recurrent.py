"""What recurrent operations promise beyond agreeing with the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.kernels import recurrent
from ranvier.kernels.recurrent.cpu_product import multiply_rows, pack, product_scratch

KINDS = {"rnn": 1, "lstm": 4, "gru": 3}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def weights(rng, gates, size, features, dtype=np.float32):
    shapes = (gates * size, features), (gates * size, size), (gates * size,), (gates * size,)
    return [rng.uniform(-0.4, 0.4, shape).astype(dtype) for shape in shapes]


@given(
    st.integers(0, 21),
    st.sampled_from([1, 2, 7, 16, 40, 319, 320, 321, 700]),
    st.integers(1, 80),
    st.sampled_from(["f4", "f8"]),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_product_with_a_packed_weight(rows, inner, columns, dtype, seed):
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((rows + 2, inner)).astype(dtype)
    matrix = rng.standard_normal((inner, columns)).astype(dtype)
    packed = pack(matrix)
    product = product_scratch(1, rows + 3, packed)[0]
    product.fill(7)
    picked = rng.permutation(rows + 2)[:rows]
    multiply_rows(left.reshape(-1), picked * inner, rows, packed, product, 1, False)
    tolerance = 1e-4 if dtype == "f4" else 1e-12
    np.testing.assert_allclose(product[1 : rows + 1, :columns], left[picked] @ matrix, atol=tolerance, rtol=tolerance)
    assert (product[1 : rows + 1, columns:] == 0).all()
    others = np.delete(product, np.s_[1 : rows + 1], axis=0)
    assert (others == 7).all(), "rows that were not asked for were written"
    multiply_rows(left.reshape(-1), picked * inner, rows, packed, product, 1, True)
    expected = 2 * (left[picked] @ matrix)
    np.testing.assert_allclose(product[1 : rows + 1, :columns], expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("kind", "gates"), KINDS.items())
def test_what_stands_past_the_end_has_no_effect(kind, gates, rng):
    operation = getattr(recurrent, kind)
    lengths = np.array([2, 5, 3])
    clean = rng.standard_normal((5, 3, 4)).astype(np.float32)
    dirty = clean.copy()
    for n, length in enumerate(lengths):
        clean[length:, n], dirty[length:, n] = 0, np.nan
    parameters = [*weights(rng, gates, 6, 4), *[None] * (3 if kind == "lstm" else 1), lengths]
    results = []
    for x in (clean, dirty):
        outputs, saved = operation.forward(x, *parameters)
        grads = operation.backward(saved, tuple(np.ones_like(o) for o in outputs), (True,) * 5 + (False,) * 4)
        results.append([*outputs, *(g for g in grads if g is not None)])
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)
    for n, length in enumerate(lengths):
        assert (results[0][0][length:, n] == 0).all()
        assert (results[1][len(outputs)][length:, n] == 0).all(), "gradient past the end"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("kind", "gates"), KINDS.items())
def test_a_batch_is_its_sequences(kind, gates, reverse, rng):
    """Each sequence of a batch gives what it gives alone, whatever stands beside it."""
    operation = getattr(recurrent, kind)
    lengths = np.array([4, 7, 1, 6, 7, 3, 2, 5, 7, 1, 4])
    x = rng.standard_normal((7, len(lengths), 5)).astype(np.float32)
    parameters = weights(rng, gates, 13, 5)
    none = [None] * (3 if kind == "lstm" else 1)
    (output, h_n, *_), _ = operation.forward(x, *parameters, *none, lengths, reverse=reverse)
    for n, length in enumerate(lengths):
        (alone, h_alone, *_), _ = operation.forward(x[:length, n : n + 1].copy(), *parameters, reverse=reverse)
        np.testing.assert_allclose(output[:length, n], alone[:, 0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(h_n[n], h_alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "gates"), KINDS.items())
def test_many_steps_and_blocks(kind, gates, rng):
    """More sequences than one block holds, and gradients that reach the first of many steps."""
    operation = getattr(recurrent, kind)
    x = rng.standard_normal((30, 150, 3))
    lengths = rng.integers(1, 31, 150)
    parameters = [*weights(rng, gates, 5, 3, np.float64), *[None] * (3 if kind == "lstm" else 1), lengths]
    results = []
    for implementation in ("cpu", "reference"):
        outputs, saved = operation.forward(x, *parameters, implementation=implementation)
        seeds = tuple(np.cos(np.arange(o.size)).reshape(o.shape) for o in outputs)
        grads = operation.backward(saved, seeds, (True,) * 5 + (False,) * (len(parameters) - 4), implementation)
        results.append([*outputs, *(g for g in grads if g is not None)])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kind", "gates"), KINDS.items())
def test_outputs_without_a_gradient(kind, gates, rng):
    """None for an output counts as zeros, and backward can run again on what forward saved."""
    operation = getattr(recurrent, kind)
    x = rng.standard_normal((4, 3, 2))
    outputs, saved = operation.forward(x, *weights(rng, gates, 5, 2, np.float64))
    needs = (True,) * 5
    whole = tuple(rng.standard_normal(o.shape) for o in outputs)
    parts = [
        operation.backward(saved, tuple(g if i == index else None for i, g in enumerate(whole)), needs)
        for index in range(len(whole))
    ]
    for together, *apart in zip(operation.backward(saved, whole, needs), *parts):
        np.testing.assert_allclose(together, sum(apart), rtol=1e-9, atol=1e-12)


def test_relu_lets_nan_through(rng):
    x = np.full((1, 1, 1), np.nan, np.float32)
    (output, _), _ = recurrent.rnn.forward(
        x, np.ones((1, 1), "f4"), np.ones((1, 1), "f4"), nonlinearity="relu", implementation="cpu"
    )
    assert np.isnan(output).all()
