"""Embedding layers: initial values, frozen tables, refusals."""

import numpy as np
import pytest

from ranvier import layers
from ranvier.layers import Tensor, functional

INDICES = np.array([[1, 2, 4], [4, 3, 2]])


def test_table_starts_normal_with_a_zero_padding_row():
    layer = layers.Embedding(400, 50, padding_idx=-1)
    assert layer.padding_idx == 399
    assert not layer.weight.numpy()[399].any()
    values = layer.weight.numpy()[:399]
    assert abs(values.mean()) < 4 / np.sqrt(values.size)
    assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size)
    assert values.dtype == np.float32


@pytest.mark.parametrize("kind", [layers.Embedding, layers.EmbeddingBag])
def test_from_pretrained_holds_the_table_frozen_or_not(kind):
    table = np.arange(15, dtype=np.float64).reshape(5, 3)
    frozen, free = kind.from_pretrained(table), kind.from_pretrained(Tensor(table), freeze=False, padding_idx=1)
    assert frozen.weight.array is table
    assert not frozen.weight.requires_grad
    assert free.weight.requires_grad
    assert (free.num_embeddings, free.embedding_dim, free.padding_idx) == (5, 3, 1)
    assert not frozen(INDICES).requires_grad
    y = free(INDICES)
    y.backward(np.ones(y.shape))
    assert not free.weight.grad.numpy()[1].any()
    with pytest.raises(ValueError, match=rf"{kind.__name__}: expected embeddings as \[num_embeddings"):
        kind.from_pretrained(np.zeros(3))


def test_max_norm_shortens_rows_in_the_table():
    layer = layers.Embedding(6, 4, max_norm=0.5)
    before = layer.weight.numpy().copy()
    y = layer(INDICES)
    norms = np.linalg.norm(layer.weight.numpy(), axis=1)
    assert (norms[1:5] <= 0.5).all()
    np.testing.assert_array_equal(layer.weight.numpy()[[0, 5]], before[[0, 5]])
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[INDICES])


def test_one_hot():
    y = functional.one_hot(Tensor(np.array([[0, 2], [1, 1]])))
    np.testing.assert_array_equal(y.numpy(), np.eye(3, dtype=np.int64)[[[0, 2], [1, 1]]])
    assert y.dtype == np.int64
    assert functional.one_hot(Tensor(np.array([1])), 5).shape == (1, 5)


@pytest.mark.parametrize("kind", [layers.Embedding, layers.EmbeddingBag])
def test_what_is_not_there_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: expected sparse as False"):
        kind(5, 3, sparse=True)
    with pytest.raises(ValueError, match=rf"{kind.__name__}: expected padding_idx in \[-5, 5\), got 5"):
        kind(5, 3, padding_idx=5)
    with pytest.raises(ValueError, match=r"expected indices in \[0, 4\), got 4"):
        kind(4, 3)(INDICES)
    with pytest.raises(ValueError, match=r"expected padding_idx in \[-4, 4\), got -5"):
        functional.embedding(INDICES, Tensor(np.zeros((4, 3))), padding_idx=-5)


def test_reprs():
    assert repr(layers.Embedding(5, 3, padding_idx=1, max_norm=2.0)) == "Embedding(5, 3, padding_idx=1, max_norm=2.0)"
    assert repr(layers.EmbeddingBag(5, 3, mode="sum")) == "EmbeddingBag(5, 3, mode='sum')"
