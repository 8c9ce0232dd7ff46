"""Attention's GPU kernels in Triton's interpreter: several tiles, chunks of features, masks of any leading axes."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from parity import DTYPES

from ranvier.kernels import memory
from ranvier.kernels.attention import gpu, scaled_dot_product_attention

interpreter.install()
CASES = {
    "tiles": ((2,), (150, 170), (8, 8), None, {}),
    "causal_tiles": ((2,), (150, 130), (8, 8), None, {"is_causal": True}),
    "dropped_tiles": ((1, 2), (70, 90), (8, 8), (70, 1), {"dropout_p": 0.3, "seed": 2**40 + 1, "is_causal": True}),
    "chunks": ((1,), (9, 11), (300, 5), (9, 11), {}),
    "value_chunks": ((2,), (9, 11), (5, 300), None, {"is_causal": True}),
    "scalar_mask": ((2, 2), (40, 50), (4, 4), (1, 1), {}),
    "row_mask_over_many_heads": ((9, 8), (3, 5), (4, 4), (1, 5), {}),
    "five_axes": ((2, 3, 2), (5, 6), (4, 4), (2, 3, 1, 5, 6), {"dropout_p": 0.2}),
    "five_axes_one_mask": ((2, 3, 2), (5, 6), (4, 4), (2, 1, 6), {}),
    "five_axes_mixed_mask": ((2, 3, 2), (5, 6), (4, 4), (3, 2, 1, 6), {}),
    "six_axes_mixed_mask": ((2, 3, 2, 2), (5, 6), (4, 4), (2, 1, 2, 1, 5, 1), {"is_causal": True}),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_tiles_chunks_and_masks_of_many_axes(case, dtype, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    heads, (length, keys), (features, value_features), mask, attributes = CASES[case]
    rng = np.random.default_rng(0)
    shapes = [(*heads, length, features), (*heads, keys, features), (*heads, keys, value_features)]
    inputs = [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in (*shapes, *([mask] if mask else []))]
    agree(scaled_dot_product_attention, inputs, attributes, rng, dtype, implementation="gpu")


def test_rows_with_nothing_to_look_at_give_zero():
    x = np.random.default_rng(0).standard_normal((5, 8))
    mask = np.ones((5, 5), bool)
    mask[2] = False
    output, saved = gpu.scaled_dot_product_attention_forward(x, x.copy(), x.copy(), mask)
    assert (output[2] == 0).all()
    grads = gpu.scaled_dot_product_attention_backward(saved, np.ones_like(output), (True, True, True, True))
    assert all(np.isfinite(grad).all() for grad in grads[:3])
    assert (grads[0][2] == 0).all()
    assert grads[3] is None


def test_only_what_is_needed_is_computed_and_bits_repeat():
    rng = np.random.default_rng(0)
    q, k, v, mask = (rng.standard_normal(shape, np.float32) for shape in ((4, 40, 8), (4, 50, 8), (4, 50, 8), (40, 1)))
    output, saved = gpu.scaled_dot_product_attention_forward(q, k, v, mask, dropout_p=0.2, seed=3)
    grad = rng.standard_normal(output.shape, np.float32)
    whole = gpu.scaled_dot_product_attention_backward(saved, grad, (True,) * 4)
    for needed in range(4):
        needs = tuple(i == needed for i in range(4))
        grads = gpu.scaled_dot_product_attention_backward(saved, grad, needs)
        assert tuple(g is not None for g in grads) == needs
        np.testing.assert_array_equal(grads[needed], whole[needed])
