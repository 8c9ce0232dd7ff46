"""What embeddings promise beyond derivatives: padding, frequencies, renormalisation, order of sums, refusals."""

import itertools

import numba
import numpy as np
import pytest
from parity import assert_close

from ranvier.kernels import embedding, memory
from ranvier.kernels.operation import Operation


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch):
    monkeypatch.setattr(memory, "poison", True)


def _both(name, inputs, attributes, seed=0):
    """Output and gradients of the CPU kernels (float32) and of the reference (float64)."""
    operation, results = Operation.registry[name], []
    for implementation, dtype in [("cpu", np.float32), ("reference", np.float64)]:
        arrays = [x.astype(dtype) if x is not None and x.dtype.kind == "f" else x for x in inputs]
        y, saved = operation.forward(*arrays, implementation=implementation, **attributes)
        grad = np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32).astype(dtype)
        needs = tuple(x is not None and x.dtype.kind == "f" for x in arrays)
        results.append([y, *operation.backward(saved, grad, needs, implementation=implementation)])
    return results


def _agree(name, inputs, attributes):
    actual, exact = _both(name, inputs, attributes)
    for a, e in zip(actual, exact, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert_close(a, e, "float32", inputs[0].size)
    return actual


@pytest.mark.parametrize("padding_idx", [None, 0, 3])
@pytest.mark.parametrize("scale_grad_by_freq", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_embedding_gradient_leaves_padding_out_and_scales(padding_idx, scale_grad_by_freq, dtype):
    rng = np.random.default_rng(0)
    indices, weight = rng.integers(0, 6, (9, 5)).astype(dtype), rng.standard_normal((7, 19)).astype(np.float32)
    attributes = {"padding_idx": padding_idx, "scale_grad_by_freq": scale_grad_by_freq}
    _, _, grad = _agree("embedding", [indices, weight], attributes)
    assert not grad[6].any()  # no position looked it up
    if padding_idx is not None:
        assert not grad[padding_idx].any()


@pytest.mark.parametrize(
    ("mode", "weighted", "scale_grad_by_freq"),
    [m for m in itertools.product(["sum", "mean", "max"], [False, True], [False, True]) if m[0] == "sum" or not m[1]][
        :-1
    ],
)
def test_bags_leave_padding_out(mode, weighted, scale_grad_by_freq):
    rng = np.random.default_rng(1)
    indices, weight = rng.integers(0, 4, 30), rng.standard_normal((4, 9)).astype(np.float32)
    weights = rng.standard_normal(30).astype(np.float32) if weighted else None
    attributes = {"mode": mode, "padding_idx": 2, "scale_grad_by_freq": scale_grad_by_freq}
    _, _, grad, *_ = _agree("embedding_bag", [indices, weight, np.array([0, 0, 7, 7, 20]), weights], attributes)
    assert not grad[2].any()


def test_equal_maxima_give_the_gradient_to_the_first():
    weight = np.ones((2, 3), np.float32)
    _, saved = embedding.embedding_bag.forward(np.array([[1, 0, 1]]), weight, mode="max")
    _, grad, *_ = embedding.embedding_bag.backward(saved, weight[:1], (False, True, False, False))
    np.testing.assert_array_equal(grad, [[0, 0, 0], [1, 1, 1]])


def test_bags_of_negative_rows_keep_their_maximum():
    weight = -np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    y, _ = embedding.embedding_bag.forward(np.array([[2, 1]]), weight, mode="max")
    np.testing.assert_array_equal(y, [[-3, -4]])


@pytest.mark.parametrize("name", ["embedding", "embedding_bag"])
def test_number_of_threads_does_not_change_a_bit(name):
    rng = np.random.default_rng(2)
    inputs = [rng.integers(0, 5, (40, 30)), rng.standard_normal((5, 33)).astype(np.float32)]
    before, results = numba.get_num_threads(), []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            y, saved = Operation.registry[name].forward(*inputs)
            grads = Operation.registry[name].backward(
                saved, y, (False, True, False, False)[: 2 + 2 * (name[-1] == "g")]
            )
            results.append((y, grads[1]))
    finally:
        numba.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_renorm_touches_only_long_rows_that_were_named():
    weight = np.array([[3.0, 4.0], [30.0, 40.0], [0.3, 0.4], [6.0, 8.0]])
    before = weight.copy()
    result, _ = embedding.embedding_renorm.forward(weight, np.array([[0, 2], [0, 3]]), max_norm=5.0, out=weight)
    assert result is weight
    np.testing.assert_array_equal(weight[:3], before[:3])
    np.testing.assert_allclose(weight[3], [3, 4], rtol=1e-6)


@pytest.mark.parametrize("index", [-1, 5, 2**62, -(2**63)])
@pytest.mark.parametrize("name", ["embedding", "embedding_bag"])
def test_indices_out_of_range_raise_before_any_access(name, index):
    with pytest.raises(ValueError, match=rf"^{name}: expected indices in \[0, 5\), got {index}$"):
        Operation.registry[name].forward(np.array([[0, index]]), np.zeros((5, 3), np.float32))


def test_half_precision_tables_are_renormed_in_place():
    weight = np.array([[3.0, 4.0], [6.0, 8.0]], np.float16)
    embedding.embedding_renorm.forward(weight, np.array([1]), max_norm=5.0, out=weight)
    np.testing.assert_allclose(weight.astype(np.float64), [[3, 4], [3, 4]], rtol=1e-3)
