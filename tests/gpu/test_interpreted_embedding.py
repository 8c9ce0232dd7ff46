"""The sort behind an embedding's gradient, varied lookups, and tables written in place."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranvier.kernels import embedding
from ranvier.kernels.embedding.gpu_sort import positions_by_row

interpreter.install()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize(("size", "rows"), [(0, 3), (1, 1), (700, 1), (513, 16), (3000, 17), (1500, 200)])
def test_positions_by_row_are_those_of_a_stable_sort(size, rows, dtype):
    indices = np.random.default_rng(size).integers(0, rows, size).astype(dtype)
    order, starts = positions_by_row(indices, rows)
    np.testing.assert_array_equal(order, np.argsort(indices, kind="stable"))
    np.testing.assert_array_equal(starts, np.searchsorted(np.sort(indices), np.arange(rows + 1)))


def test_positions_by_row_of_a_large_table():
    indices = np.random.default_rng(0).integers(0, 70_000, 300)
    order, starts = positions_by_row(indices, 70_000)
    np.testing.assert_array_equal(order, np.argsort(indices, kind="stable"))
    np.testing.assert_array_equal(starts, np.searchsorted(np.sort(indices), np.arange(70_001)))


@pytest.mark.parametrize("operation", [embedding.embedding, embedding.embedding_bag], ids=str)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_varied_lookups_agree_with_reference(operation, data):
    def pick(low, high):
        return data.draw(st.integers(low, high))

    pick.of = lambda choices: data.draw(st.sampled_from(list(choices)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    sample = operation.vary(pick)
    agree(operation, sample.build(rng, np.float32), sample.attributes, rng, "float32", implementation="gpu")


def test_a_table_is_renormed_in_place_and_a_lookup_goes_where_it_is_told():
    rng = np.random.default_rng(0)
    table, indices = rng.standard_normal((9, 1500)).astype("f4"), np.array([3, 3, 8, 0, 3])
    expected, _ = embedding.embedding_renorm.forward(table, indices, max_norm=2.0, implementation="cpu")
    result, _ = embedding.embedding_renorm.forward(table, indices, max_norm=2.0, out=table, implementation="gpu")
    assert result is table
    np.testing.assert_allclose(table, expected, rtol=1e-6)
    out = np.empty((1500, 5), "f4").T
    result, _ = embedding.embedding.forward(indices, table, out=out, implementation="gpu")
    assert result is out
    np.testing.assert_array_equal(out, table[indices])


@pytest.mark.parametrize("mode", embedding.MODES)
@pytest.mark.parametrize("integer", [np.uint8, np.int32])
def test_bags_longer_and_wider_than_a_tile(mode, integer):
    rng = np.random.default_rng(0)
    indices, offsets = rng.integers(0, 9, 60).astype(integer), np.array([0, 0, 33, 33, 50, 60], integer)
    weights = rng.standard_normal(60).astype("f4") if mode == "sum" else None
    inputs = [indices, rng.standard_normal((9, 200)).astype("f4"), offsets, weights]
    attributes = {"mode": mode, "padding_idx": 4, "include_last_offset": True}
    agree(embedding.embedding_bag, inputs, attributes, rng, "float32", implementation="gpu")
    inputs = [indices.reshape(4, 15), inputs[1], None, None if weights is None else weights.reshape(4, 15)]
    attributes = {"mode": mode, "scale_grad_by_freq": mode != "max"}
    agree(embedding.embedding_bag, inputs, attributes, rng, "float32", implementation="gpu")


def test_a_maximum_is_the_first_of_equals_and_a_nan_if_there_is_one():
    table = np.array([[1, 5], [3, 5], [3, np.nan], [-np.inf, -np.inf]], "f4")
    # More positions than a program takes at once, and the NaN not among its first.
    indices = np.array([[0] + [1] * 8 + [2, 2, 1], [1, 0, 0, 1] * 3, [3] * 12])
    y, saved = embedding.embedding_bag.forward(indices, table, mode="max", implementation="gpu")
    np.testing.assert_array_equal(y, np.array([[3, np.nan], [3, 5], [-np.inf, -np.inf]], "f4"))
    needs = (False, True, False, False)
    _, grad, *_ = embedding.embedding_bag.backward(saved, np.array([[1, 2], [4, 8], [16, 32]], "f4"), needs, "gpu")
    np.testing.assert_array_equal(grad, np.array([[0, 0], [5, 8], [0, 2], [16, 32]]))
