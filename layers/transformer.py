"""Transformer encoder and decoder (Vaswani et al. 2017), with PyTorch's arguments and parameter names."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from . import functional, init
from .attention import MultiheadAttention
from .container import LayerList
from .dense import Dense
from .dropout import Dropout
from .layer import Layer
from .norm import LayerNorm

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

_ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu}


def _attending(attention, memory, mask, padding, is_causal):
    """A function from queries to what the attention gives; memory None: they attend to themselves."""

    def attend(x):
        seen = x if memory is None else memory
        return attention(x, seen, seen, padding, need_weights=False, attn_mask=mask, is_causal=is_causal)[0]

    return attend


class _Block(Layer):
    """What encoder and decoder layers share: attention and a feed-forward network, each with a residual.

    `attentions` names the attentions; parameters are made in PyTorch's order, on which its optimizers' states depend.
    """

    attentions = ("self_attn",)

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype=np.float32,
    ):
        super().__init__()
        if isinstance(activation, str) and activation not in _ACTIVATIONS:
            raise ValueError(
                f"{type(self).__name__}: expected activation as 'relu', 'gelu' or a function, got {activation!r}"
            )
        self.norm_first = norm_first
        self.activation = _ACTIVATIONS[activation] if isinstance(activation, str) else activation
        for name in self.attentions:
            attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
            setattr(self, name, attention)
        self.linear1 = Dense(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Dense(dim_feedforward, d_model, bias, dtype=dtype)
        branches = range(1, len(self.attentions) + 2)
        for number in branches:
            setattr(self, f"norm{number}", LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
        for number in branches:
            setattr(self, f"dropout{number}", Dropout(dropout))

    def _residual(self, x, norm, dropout, branch):
        """x + branch(norm(x)) or norm(x + branch(x))."""
        if self.norm_first:
            return functional.add(x, dropout(branch(norm(x))))
        return norm(functional.add(x, dropout(branch(x))))

    def _feed_forward(self, x):
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Block):
    """Self-attention, then a feed-forward network, each with a residual, dropout and layer normalisation.

    Args:
        d_model: features of input and output.
        nhead: heads of the attention.
        dim_feedforward: features inside the feed-forward network.
        dropout: probability.
        activation: 'relu', 'gelu' or a function.
        layer_norm_eps: the normalisations' epsilon.
        batch_first: inputs are [N, L, E] instead of [L, N, E].
        norm_first: normalise before attention and feed-forward network instead of after.
        bias: whether projections and normalisations add one.
        dtype: type of the parameters.
    """

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal: bool = False):
        attend = _attending(self.self_attn, None, src_mask, src_key_padding_mask, is_causal)
        x = self._residual(src, self.norm1, self.dropout1, attend)
        return self._residual(x, self.norm2, self.dropout2, self._feed_forward)


class TransformerEncoder(Layer):
    """num_layers copies of an encoder layer, one after the other, and a last normalisation if there is one."""

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Layer | None = None):
        super().__init__()
        self.layers = LayerList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(self, src, mask=None, src_key_padding_mask=None, is_causal: bool = False):
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoderLayer(_Block):
    """Self-attention, attention to the encoder's output, then a feed-forward network, each with a residual, dropout and
    layer normalisation.

    Args: those of TransformerEncoderLayer.
    """

    attentions = ("self_attn", "multihead_attn")

    def forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ):
        attend = _attending(self.self_attn, None, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        x = self._residual(tgt, self.norm1, self.dropout1, attend)
        attend = _attending(self.multihead_attn, memory, memory_mask, memory_key_padding_mask, memory_is_causal)
        x = self._residual(x, self.norm2, self.dropout2, attend)
        return self._residual(x, self.norm3, self.dropout3, self._feed_forward)


class TransformerDecoder(Layer):
    """num_layers copies of a decoder layer, one after the other, and a last normalisation if there is one."""

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Layer | None = None):
        super().__init__()
        self.layers = LayerList(copy.deepcopy(decoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ):
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, tgt_is_causal, memory_is_causal)
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Layer):
    """Encoder and decoder: `forward(src, tgt)` gives the decoder's output for tgt while it attends to the encoded src.

    Args:
        d_model: features of inputs and output.
        nhead: heads of each attention.
        num_encoder_layers, num_decoder_layers: how many layers each has; both end with a normalisation.
        dim_feedforward, dropout, activation: as TransformerEncoderLayer's.
        custom_encoder, custom_decoder: layers to use instead.
        layer_norm_eps, batch_first, norm_first, bias, dtype: as TransformerEncoderLayer's.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable = "relu",
        custom_encoder: Layer | None = None,
        custom_decoder: Layer | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype=np.float32,
    ):
        super().__init__()
        block = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

        def norm():
            return LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*block, bias, dtype), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*block, bias, dtype), num_decoder_layers, norm()
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src,
        tgt,
        src_mask=None,
        tgt_mask=None,
        memory_mask=None,
        src_key_padding_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ):
        for name, sequence in (("src", src), ("tgt", tgt)):
            if sequence.shape[-1] != self.d_model:
                raise ValueError(f"Transformer: expected {name} of {self.d_model} features, got shape {sequence.shape}")
        memory = self.encoder(src, src_mask, src_key_padding_mask, bool(src_is_causal))
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        return self.decoder(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)
