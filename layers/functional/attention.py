"""Scaled dot-product attention, and attention of several heads with learned projections."""

import math

from ...kernels import attention as kernels
from ...kernels.check import check_number, refuse_value
from ..random import next_philox_seed
from ..tensor import apply
from .dense import linear, matmul
from .dropout import dropout
from .elementwise import add, masked_fill, mul
from .promotion import cast
from .reduce import mean
from .shape import cat, chunk, expand, pad, permute, reshape, split, squeeze, transpose, unsqueeze
from .softmax import softmax

__all__ = ["multi_head_attention_forward", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """softmax(scale query key^T + mask) value, without ever holding the whole matrix of weights.

    Args:
        query: [..., heads, L, E].
        key: [..., heads, S, E].
        value: [..., heads, S, Ev].
        attn_mask: bool (True: may look) or of query's type (added to the scores), broadcastable to
            [..., heads, L, S].
        dropout_p: probability with which a weight is dropped; 0 when not training.
        is_causal: query i sees keys 0..i only, on top of attn_mask. (PyTorch takes only one of the two.)
        scale: None means 1 / sqrt(E).
        enable_gqa: key and value may have fewer heads, each for as many neighbouring query heads.

    Returns:
        [..., heads, L, Ev]; zeros where a query sees no key.
    """
    check_number("scaled_dot_product_attention", "dropout_p", dropout_p, 0, 1)
    return apply(
        kernels.scaled_dot_product_attention,
        query,
        key,
        value,
        attn_mask,
        is_causal=is_causal,
        scale=scale,
        dropout_p=dropout_p,
        seed=next_philox_seed() if dropout_p else 0,
        enable_gqa=enable_gqa,
    )


def multi_head_attention_forward(
    query,
    key,
    value,
    embed_dim_to_check,
    num_heads,
    in_proj_weight,
    in_proj_bias,
    bias_k,
    bias_v,
    add_zero_attn,
    dropout_p,
    out_proj_weight,
    out_proj_bias,
    training=True,
    key_padding_mask=None,
    need_weights=True,
    attn_mask=None,
    use_separate_proj_weight=False,
    q_proj_weight=None,
    k_proj_weight=None,
    v_proj_weight=None,
    average_attn_weights=True,
    is_causal=False,
):
    """Multi-head attention (Vaswani et al. 2017): project, attend in each head, join the heads, project.

    Args:
        query: [L, N, E], or [L, E].
        key: [S, N, kdim], or [S, kdim].
        value: [S, N, vdim], or [S, vdim].
        embed_dim_to_check: E.
        in_proj_weight: [3 E, E], the projections of query, key and value one above the other. With
            use_separate_proj_weight: None, and q_proj_weight [E, E], k_proj_weight [E, kdim], v_proj_weight [E, vdim].
        in_proj_bias: [3 E] or None.
        bias_k, bias_v: [1, 1, E], one more key and value, or None.
        add_zero_attn: one more key and value of zeros.
        dropout_p: of the weights, in training.
        key_padding_mask: [N, S] or [S]; bool (True: hide the key) or added to the scores.
        need_weights: return the weights as well, for which their whole matrix is computed.
        attn_mask: [L, S] or [N num_heads, L, S]; bool (True: may not look) or added to the scores.
        average_attn_weights: return the heads' mean.
        is_causal: attn_mask is the causal mask; it may then go unread.

    Returns:
        output [L, N, E] or [L, E], and weights [N, L, S], [N, num_heads, L, S] (without N as the input), or None.
    """
    name = "multi_head_attention_forward"
    if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
        shapes = f"shapes {query.shape}, {key.shape} and {value.shape}"
        refuse_value(name, "query, key and value", "as [L, N, E] or [L, E]", shapes)
    if query.shape[-1] != embed_dim_to_check or embed_dim_to_check % num_heads:
        expected = f"of {embed_dim_to_check} features, a multiple of num_heads ({num_heads})"
        refuse_value(name, "query", expected, f"shape {query.shape}")
    if is_causal and attn_mask is None:
        refuse_value(name, "attn_mask", "where is_causal says that it is causal", None)
    batched = query.ndim == 3
    same = query is key and key is value
    query, key, value = (transpose(x, 0, 1) if batched else unsqueeze(x, 0) for x in (query, key, value))

    if use_separate_proj_weight:
        weights = q_proj_weight, k_proj_weight, v_proj_weight
        q, k, v = _projected((query, key, value), weights, in_proj_bias)
    elif same:
        q, k, v = chunk(linear(query, in_proj_weight, in_proj_bias), 3, -1)
    else:
        q, k, v = _projected((query, key, value), split(in_proj_weight, embed_dim_to_check), in_proj_bias)

    more_keys = 0
    if bias_k is not None:
        k, v = (cat([x, expand(bias, x.shape[0], 1, x.shape[2])], 1) for x, bias in ((k, bias_k), (v, bias_v)))
        more_keys += 1
    if add_zero_attn:
        k, v = pad(k, (0, 0, 0, 1)), pad(v, (0, 0, 0, 1))
        more_keys += 1

    q, k, v = (_in_heads(x, num_heads) for x in (q, k, v))
    causal = is_causal and key_padding_mask is None and not need_weights and more_keys == 0
    mask = None if causal else _merged_mask(name, q, k, key_padding_mask, attn_mask, more_keys)
    dropout_p = dropout_p if training else 0.0
    weights = None
    if need_weights:
        scores = mul(matmul(q, transpose(k, -2, -1)), 1 / math.sqrt(q.shape[-1]))
        weights = dropout(softmax(scores if mask is None else add(scores, mask), -1), dropout_p)
        heads = matmul(weights, v)
    else:
        heads = scaled_dot_product_attention(q, k, v, mask, dropout_p, causal)
    output = linear(_joined(heads), out_proj_weight, out_proj_bias)
    if weights is not None and average_attn_weights:
        weights = mean(weights, 1)
    if batched:
        return transpose(output, 0, 1), weights
    return squeeze(output, 0), None if weights is None else squeeze(weights, 0)


def _projected(inputs, weights, bias):
    biases = (None,) * 3 if bias is None else chunk(bias, 3)
    return [linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases)]


def _in_heads(x, num_heads):
    """[N, L, E] -> [N, heads, L, E / heads]."""
    batch, length, features = x.shape
    return permute(reshape(x, batch, length, num_heads, features // num_heads), 0, 2, 1, 3)


def _joined(x):
    """[N, heads, L, D] -> [N, L, heads D]."""
    batch, heads, length, features = x.shape
    return reshape(permute(x, 0, 2, 1, 3), batch, length, heads * features)


def _merged_mask(name, q, k, key_padding_mask, attn_mask, more_keys):
    """Both masks as numbers to add to the scores [N, heads, L, S], where keys that were added are always seen."""
    (batch, heads, length, _), keys = q.shape, k.shape[2] - more_keys
    merged = None
    if attn_mask is not None:
        if attn_mask.shape not in ((length, keys), (batch * heads, length, keys)):
            expected = f"of shape {(length, keys)} or {(batch * heads, length, keys)}"
            refuse_value(name, "attn_mask", expected, attn_mask.shape)
        merged = _additive(attn_mask, q.dtype)
        merged = reshape(merged, *((1, 1) if attn_mask.ndim == 2 else (batch, heads)), length, keys)
    if key_padding_mask is not None:
        if key_padding_mask.shape not in ((batch, keys), (keys,) if batch == 1 else (batch, keys)):
            refuse_value(name, "key_padding_mask", f"of shape {(batch, keys)}", key_padding_mask.shape)
        padding = reshape(_additive(key_padding_mask, q.dtype), batch, 1, 1, keys)
        merged = padding if merged is None else add(merged, padding)
    return pad(merged, (0, more_keys)) if merged is not None and more_keys else merged


def _additive(mask, dtype):
    """A mask in which True hides, as numbers to add; a mask of numbers as it is."""
    return masked_fill(cast(mask, dtype), mask, -math.inf) if mask.dtype == bool else mask
