"""Attention in many small tiles gives what it gives in one, and rows that see nothing give nothing."""

import numpy as np
import pytest

from ranvier.kernels import attention
from ranvier.kernels.attention import cpu

OPERATION = attention.scaled_dot_product_attention


@pytest.fixture
def arrays():
    rng = np.random.default_rng(11)
    shapes = (2, 4, 13, 8), (2, 2, 17, 8), (2, 2, 17, 5), (4, 13, 17)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("tile_scores", [20, 100, 700])
def test_small_tiles(arrays, is_causal, tile_scores, monkeypatch):
    attributes = {"is_causal": is_causal, "enable_gqa": True, "dropout_p": 0.2, "seed": 3}
    expected, saved = OPERATION.forward(*arrays, **attributes)
    grad = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    expected_grads = OPERATION.backward(saved, grad, (True,) * 4)
    monkeypatch.setattr(cpu, "_TILE_SCORES", tile_scores)
    monkeypatch.setattr(cpu, "_CAUSAL_ROWS", 4)
    output, saved = OPERATION.forward(*arrays, **attributes)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    for actual, exact in zip(OPERATION.backward(saved, grad, (True,) * 4), expected_grads):
        np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("as_numbers", [False, True])
@pytest.mark.parametrize("implementation", ["cpu", "reference"])
def test_a_row_that_sees_nothing_gives_zeros_and_gets_no_gradient(arrays, as_numbers, implementation):
    query, key, value = arrays[0][:, :2], *arrays[1:3]
    mask = np.ones((13, 17), bool)
    mask[[0, 5]] = False
    if as_numbers:
        mask = np.where(mask, 0, -np.inf).astype(np.float32)
    output, saved = OPERATION.forward(query, key, value, mask, implementation=implementation)
    grads = OPERATION.backward(saved, np.ones_like(output), (True, True, True, False), implementation=implementation)
    assert (output[:, :, [0, 5]] == 0).all()
    assert (output[:, :, 1] != 0).any()
    assert (grads[0][:, :, [0, 5]] == 0).all()
    assert all(np.isfinite(g).all() for g in grads[:3])


def test_dropout_drops_what_the_seed_says_and_keeps_the_mean(arrays):
    query, key, value = arrays[0][:, :2], arrays[1], np.ones((2, 2, 17, 5), np.float32)
    outputs = [OPERATION.forward(query, key, value, dropout_p=0.5, seed=seed)[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert (outputs[0] != outputs[2]).any()
    many = [OPERATION.forward(query, key, value, dropout_p=0.5, seed=seed)[0] for seed in range(200)]
    np.testing.assert_allclose(np.mean(many), 1, atol=0.02)
    assert (OPERATION.forward(query, key, value, dropout_p=1.0)[0] == 0).all()
