"""Multi-head attention as a layer."""

from __future__ import annotations

import numpy as np

from . import functional, init
from .dense import Dense
from .layer import Layer
from .tensor import Parameter

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Layer):
    """Attention in several heads, between learned projections (Vaswani et al. 2017, section 3.2.2).

    Args:
        embed_dim: E, features of query and output.
        num_heads: heads, of embed_dim / num_heads features each.
        dropout: probability with which a weight is dropped in training.
        bias: whether the projections add one.
        add_bias_kv: learn one more key and value.
        add_zero_attn: add one more key and value of zeros.
        kdim, vdim: features of key and value; None means embed_dim.
        batch_first: inputs are [N, L, E] instead of [L, N, E].
        dtype: type of the parameters.

    Shapes:
        query: [L, N, E], key: [S, N, kdim], value: [S, N, vdim] (without N: no batch) -> output: [L, N, E] and the
        weights, [N, L, S], or [N, num_heads, L, S] where they are not averaged, or None.
        in_proj_weight: [3 E, E], or q_proj_weight: [E, E], k_proj_weight: [E, kdim], v_proj_weight: [E, vdim];
        in_proj_bias: [3 E], bias_k, bias_v: [1, 1, E], out_proj.weight: [E, E], out_proj.bias: [E].
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        dtype=np.float32,
    ):
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: expected embed_dim as a multiple of num_heads, got {embed_dim} and {num_heads}"
            )
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim

        def parameter(name, *shape, wanted=True):
            self.register_parameter(name, Parameter(np.empty(shape, dtype)) if wanted else None)

        separate = not self._qkv_same_embed_dim
        parameter("q_proj_weight", embed_dim, embed_dim, wanted=separate)
        parameter("k_proj_weight", embed_dim, self.kdim, wanted=separate)
        parameter("v_proj_weight", embed_dim, self.vdim, wanted=separate)
        parameter("in_proj_weight", 3 * embed_dim, embed_dim, wanted=not separate)
        parameter("in_proj_bias", 3 * embed_dim, wanted=bias)
        self.out_proj = Dense(embed_dim, embed_dim, bias, dtype=dtype)
        parameter("bias_k", 1, 1, embed_dim, wanted=add_bias_kv)
        parameter("bias_v", 1, 1, embed_dim, wanted=add_bias_kv)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values again."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        self.out_proj.reset_parameters()
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        need_weights: bool = True,
        attn_mask=None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ):
        swap = self.batch_first and query.ndim == 3
        if swap:
            same = query is key and key is value
            query = functional.transpose(query, 0, 1)
            key, value = (query, query) if same else (functional.transpose(x, 0, 1) for x in (key, value))
        output, weights = functional.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return functional.transpose(output, 0, 1) if swap else output, weights

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}"
