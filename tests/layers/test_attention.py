"""Attention layers: randomness, refusals, and what PyTorch does not compare with."""

import numpy as np
import pytest

import ranvier as rv


@pytest.fixture
def x():
    return rv.Tensor(np.random.default_rng(3).standard_normal((5, 2, 12)).astype(np.float32))


def test_dropout_is_for_training_only_and_follows_the_seed(x):
    layer = rv.TransformerEncoderLayer(12, 3, 16, dropout=0.5)
    rv.seed(1)
    first, second = layer(x).numpy(), layer(x).numpy()
    rv.seed(1)
    np.testing.assert_array_equal(layer(x).numpy(), first)
    assert (first != second).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())


def test_weights_add_up_to_one_and_agree_with_the_tiled_way(x):
    layer = rv.MultiheadAttention(12, 3)
    output, weights = layer(x, x, x)
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(layer(x, x, x, need_weights=False)[0].numpy(), output.numpy(), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_a_transformer_gets_a_gradient(x):
    encoder = rv.TransformerEncoder(rv.TransformerEncoderLayer(12, 3, 16), 2)
    decoder = rv.TransformerDecoder(rv.TransformerDecoderLayer(12, 3, 16), 2)
    first, second = (dict(layer.named_parameters()) for layer in encoder.layers)
    assert all(first[name] is not second[name] for name in first)
    rv.functional.sum(rv.functional.square(decoder(x, encoder(x)))).backward()
    for layer in (encoder, decoder):
        for name, parameter in layer.named_parameters():
            assert np.isfinite(parameter.grad.numpy()).all(), name


def test_bad_arguments_are_refused(x):
    layer = rv.MultiheadAttention(12, 3)
    with pytest.raises(ValueError, match=r"expected embed_dim as a multiple of num_heads, got 12 and 5"):
        rv.MultiheadAttention(12, 5)
    with pytest.raises(ValueError, match=r"expected attn_mask where is_causal says that it is causal, got None"):
        layer(x, x, x, is_causal=True)
    with pytest.raises(ValueError, match=r"expected attn_mask of shape \(5, 5\) or \(6, 5, 5\), got \(4, 5\)"):
        layer(x, x, x, attn_mask=rv.Tensor(np.zeros((4, 5), bool)))
    with pytest.raises(ValueError, match=r"expected key_padding_mask of shape \(2, 5\), got \(5, 2\)"):
        layer(x, x, x, key_padding_mask=rv.Tensor(np.zeros((5, 2), bool)))
    with pytest.raises(ValueError, match=r"expected query of 12 features"):
        layer(rv.Tensor(np.zeros((5, 2, 9), np.float32)), x, x)
    with pytest.raises(ValueError, match=r"expected activation as 'relu', 'gelu' or a function, got 'swish'"):
        rv.TransformerEncoderLayer(12, 3, activation="swish")


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_chooses_as_often_as_the_probabilities_say(hard):
    probabilities = np.array([0.1, 0.2, 0.7])
    logits = rv.Tensor(np.tile(np.log(probabilities), (20000, 1)), requires_grad=True)
    rv.seed(4)
    y = rv.functional.gumbel_softmax(logits, tau=0.5, hard=hard)
    np.testing.assert_allclose(y.numpy().sum(1), 1)
    chosen = y.numpy().argmax(1)
    np.testing.assert_allclose(np.bincount(chosen) / len(chosen), probabilities, atol=0.015)
    if hard:
        np.testing.assert_allclose(np.sort(y.numpy(), axis=1), [[0, 0, 1]] * len(chosen), atol=1e-12)
    y.backward(np.random.default_rng(0).standard_normal(y.shape))
    assert (logits.grad.numpy() != 0).all()


def test_softmax_in_another_type():
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    y = rv.functional.log_softmax(rv.Tensor(x), 1, dtype=np.float64)
    assert y.dtype == np.float64
    np.testing.assert_allclose(np.exp(y.numpy()).sum(1), 1, rtol=1e-12)
