"""Embeddings: rows of a table by index."""

from ...kernels import embedding as kernels
from ...kernels.check import refuse_value
from ..tensor import Tensor, apply

__all__ = ["embedding", "embedding_bag", "one_hot"]


def embedding(input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    """The rows of `weight` that `input` names.

    Args:
        input: integers of any shape.
        weight: [num_embeddings, embedding_dim].
        padding_idx: a row that gets no gradient; negative ones count from the end.
        max_norm: rows that are named and longer than this are first shortened to it, in `weight` itself.
        norm_type: the p of the p-norm for max_norm.
        scale_grad_by_freq: divide a row's gradient by how often it is named.
        sparse: False; gradients are dense.

    Returns:
        [*input.shape, embedding_dim].

    Raises:
        ValueError: an index that is no row.
    """
    padding_idx = _prepare("embedding", input, weight, padding_idx, max_norm, norm_type, sparse)
    return apply(kernels.embedding, input, weight, padding_idx=padding_idx, scale_grad_by_freq=scale_grad_by_freq)


def embedding_bag(
    input,
    weight,
    offsets=None,
    max_norm=None,
    norm_type=2,
    scale_grad_by_freq=False,
    mode="mean",
    sparse=False,
    per_sample_weights=None,
    include_last_offset=False,
    padding_idx=None,
):
    """Sums, means or maxima over bags of rows of `weight`; an empty bag gives zeros.

    Args:
        input: integers [bags, n], or [total] with offsets.
        weight: [num_embeddings, embedding_dim].
        offsets: [bags], where in a flat input each bag begins.
        max_norm: rows that are named and longer than this are first shortened to it, in `weight` itself.
        norm_type: the p of the p-norm for max_norm.
        scale_grad_by_freq: divide a row's gradient by how often it is named; not for maxima.
        mode: 'sum', 'mean' or 'max'.
        sparse: False; gradients are dense.
        per_sample_weights: factors of input's shape, for sums.
        include_last_offset: whether offsets is [bags + 1] and ends where the last bag does.
        padding_idx: a row that bags leave out and that gets no gradient; negative ones count from the end.

    Returns:
        [bags, embedding_dim].

    Raises:
        ValueError: an index that is no row; offsets that are not in order.
    """
    padding_idx = _prepare("embedding_bag", input, weight, padding_idx, max_norm, norm_type, sparse)
    return apply(
        kernels.embedding_bag,
        input,
        weight,
        offsets,
        per_sample_weights,
        mode=mode,
        padding_idx=padding_idx,
        scale_grad_by_freq=scale_grad_by_freq,
        include_last_offset=include_last_offset and input.ndim == 1,
    )


def one_hot(tensor, num_classes=-1):
    """1 at each index along a new last axis, 0 elsewhere.

    Args:
        tensor: integers of any shape, 0 or more.
        num_classes: size of the new axis; -1 is the largest index + 1.

    Returns:
        int64 [*tensor.shape, num_classes].
    """
    return apply(kernels.one_hot, tensor, num_classes=num_classes)


def _prepare(name, input, weight, padding_idx, max_norm, norm_type, sparse):
    """Shortens rows where max_norm asks for it; returns padding_idx counted from the start."""
    if sparse:
        refuse_value(name, "sparse", "as False (gradients are dense)", sparse)
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            refuse_value(name, "padding_idx", f"in [{-rows}, {rows})", padding_idx)
        padding_idx %= rows
    if max_norm is not None:
        table, indices = (x.array if isinstance(x, Tensor) else x for x in (weight, input))
        kernels.embedding_renorm.forward(table, indices, max_norm=max_norm, norm_type=norm_type, out=table)
    return padding_idx
