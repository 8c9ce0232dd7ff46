"""Attention, as a textbook writes it, with the whole matrix of weights. The CPU and GPU are held against this."""

import math

import numpy as np

from .. import philox
from ..elementwise.broadcasting import sum_to_shape


def scaled_dot_product_attention_forward(
    query, key, value, attn_mask=None, *, is_causal=False, scale=None, dropout_p=0.0, seed=0, enable_gqa=False
):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    group = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    keys, values = (np.repeat(x, group, axis=-3) if group > 1 else x for x in (key, value))
    scores = scale * (query @ keys.swapaxes(-1, -2))
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool else scores + attn_mask
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(largest == -np.inf, 0, largest))
    total = e.sum(axis=-1, keepdims=True)
    weights = e / np.where(total == 0, 1, total)
    kept = philox.uniform(seed, np.arange(weights.size).reshape(weights.shape)) >= np.float32(dropout_p)
    factors = kept / (1 - dropout_p) if dropout_p < 1 else np.zeros_like(weights)
    return (weights * factors) @ values, (query, key, keys, values, attn_mask, weights, factors, scale, group)


def scaled_dot_product_attention_backward(saved, grad_output, needs):
    query, key, keys, values, attn_mask, weights, factors, scale, group = saved
    grad_weights = factors * (grad_output @ values.swapaxes(-1, -2))
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(axis=-1, keepdims=True))

    def over_group(grad):
        if group == 1:
            return grad
        return grad.reshape(*key.shape[:-2], group, *grad.shape[-2:]).sum(axis=-3)

    grad_query = scale * grad_scores @ keys if needs[0] else None
    grad_key = over_group(scale * grad_scores.swapaxes(-1, -2) @ query) if needs[1] else None
    grad_value = over_group((weights * factors).swapaxes(-1, -2) @ grad_output) if needs[2] else None
    if len(needs) < 4 or attn_mask is None:
        return (grad_query, grad_key, grad_value, None)[: len(needs)]
    trained = needs[3] and attn_mask.dtype != bool
    return grad_query, grad_key, grad_value, sum_to_shape(grad_scores, attn_mask.shape) if trained else None
