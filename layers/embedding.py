"""Embedding layers."""

from __future__ import annotations

import numpy as np

from ..kernels.check import check_size, refuse_value
from . import functional, init
from .layer import Layer
from .tensor import Parameter, Tensor

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Layer):
    """A table of rows, and what its two look-ups share."""

    def __init__(
        self, num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, dtype
    ):
        super().__init__()
        name = type(self).__name__
        check_size(name, "num_embeddings", num_embeddings)
        check_size(name, "embedding_dim", embedding_dim)
        if sparse:
            refuse_value(name, "sparse", "as False (gradients are dense)", sparse)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                refuse_value(name, "padding_idx", f"in [{-num_embeddings}, {num_embeddings})", padding_idx)
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.max_norm, self.norm_type, self.scale_grad_by_freq = max_norm, norm_type, scale_grad_by_freq
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values again: standard normal ones, and zeros in the padding row."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(Tensor(self.weight.array[self.padding_idx]))

    @classmethod
    def from_pretrained(cls, embeddings, freeze: bool = True, **arguments):
        """A layer whose table is `embeddings`, held and not copied.

        Args:
            embeddings: tensor or array [num_embeddings, embedding_dim].
            freeze: whether the table is kept from training.
            arguments: the constructor's further arguments, by name.
        """
        array = embeddings.array if isinstance(embeddings, Tensor) else embeddings
        if array.ndim != 2:
            refuse_value(cls.__name__, "embeddings", "as [num_embeddings, embedding_dim]", f"shape {array.shape}")
        # Built with no columns, so that no values are drawn that nobody uses.
        layer = cls(array.shape[0], 0, dtype=array.dtype, **arguments)
        layer.embedding_dim = array.shape[1]
        layer.weight = Parameter(array, requires_grad=not freeze)
        return layer

    def _repr_options(self) -> str:
        text = "" if self.max_norm is None else f", max_norm={self.max_norm}"
        text += "" if self.norm_type == 2 else f", norm_type={self.norm_type}"
        text += ", scale_grad_by_freq=True" if self.scale_grad_by_freq else ""
        return text


class Embedding(_Table):
    """The rows of a table that indices name.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of a row.
        padding_idx: a row that starts as zeros and is not trained; negative ones count from the end.
        max_norm: rows that are named and longer than this are shortened to it, in the table.
        norm_type: the p of the p-norm for max_norm.
        scale_grad_by_freq: divide a row's gradient by how often the batch names it.
        sparse: False; gradients are dense.
        dtype: type of the table.

    Shapes:
        input: integers of any shape -> [*input.shape, embedding_dim]. weight: [num_embeddings, embedding_dim].
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        dtype=np.float32,
    ):
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, dtype
        )

    def forward(self, input):
        return functional.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq
        )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{self._repr_options()}"


class EmbeddingBag(_Table):
    """Sums, means or maxima over bags of a table's rows.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of a row.
        max_norm: rows that are named and longer than this are shortened to it, in the table.
        norm_type: the p of the p-norm for max_norm.
        scale_grad_by_freq: divide a row's gradient by how often the batch names it; not for maxima.
        mode: 'sum', 'mean' or 'max'.
        sparse: False; gradients are dense.
        include_last_offset: whether offsets end where the last bag does.
        padding_idx: a row that starts as zeros, is not trained and is left out of bags; negative ones count from the
            end.
        dtype: type of the table.

    Shapes:
        input: integers [bags, n], or [total] with offsets [bags] -> [bags, embedding_dim].
        per_sample_weights (mode 'sum'): as input. weight: [num_embeddings, embedding_dim].
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        dtype=np.float32,
    ):
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, dtype
        )
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(self, input, offsets=None, per_sample_weights=None):
        return functional.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{self._repr_options()}, mode={self.mode!r}{padding}"
