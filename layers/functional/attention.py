"""Scaled dot-product attention, and attention of several heads with learned projections."""

from ...kernels import attention as kernels
from ...kernels.check import check_number
from ..random import next_philox_seed
from ..tensor import apply

__all__ = ["scaled_dot_product_attention"]


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
