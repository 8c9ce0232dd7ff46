"""Embeddings, as a textbook writes them. Every other implementation is held against these, in float64."""

import itertools

import numpy as np

from . import bag_bounds, count_classes


def _scatter_add(weight, indices, contributions, padding_idx, scale_grad_by_freq):
    """The gradient of a table from one contribution per index."""
    grad = np.zeros_like(weight)
    for index, contribution in zip(indices, contributions):
        if index != padding_idx:
            grad[index] += contribution / (np.sum(indices == index) if scale_grad_by_freq else 1)
    return grad


def embedding_forward(indices, weight, *, padding_idx=None, scale_grad_by_freq=False):
    return weight[indices], (indices, weight, padding_idx, scale_grad_by_freq)


def embedding_backward(saved, grad_y, needs):
    indices, weight, padding_idx, scale_grad_by_freq = saved
    rows = grad_y.reshape(indices.size, weight.shape[1])
    return None, _scatter_add(weight, indices.ravel(), rows, padding_idx, scale_grad_by_freq) if needs[1] else None


def embedding_bag_forward(
    indices,
    weight,
    offsets=None,
    per_sample_weights=None,
    *,
    mode="mean",
    padding_idx=None,
    scale_grad_by_freq=False,
    include_last_offset=False,
):
    bounds = bag_bounds(indices, offsets, include_last_offset)
    flat = indices.ravel()
    factors = np.ones(indices.size) if per_sample_weights is None else per_sample_weights.ravel()
    y = np.zeros((len(bounds) - 1, weight.shape[1]), weight.dtype)
    for bag, (start, stop) in enumerate(itertools.pairwise(bounds)):
        rows = [factors[k] * weight[flat[k]] for k in range(start, stop) if flat[k] != padding_idx]
        if rows:
            y[bag] = {"sum": np.sum, "mean": np.mean, "max": np.max}[mode](rows, axis=0)
    return y, (indices, weight, bounds, per_sample_weights, factors, mode, padding_idx, scale_grad_by_freq)


def embedding_bag_backward(saved, grad_y, needs):
    indices, weight, bounds, per_sample_weights, factors, mode, padding_idx, scale_grad_by_freq = saved
    flat = indices.ravel()
    contributions, grad_factors = np.zeros((indices.size, weight.shape[1])), np.zeros(indices.size)
    for bag, (start, stop) in enumerate(itertools.pairwise(bounds)):
        members = [k for k in range(start, stop) if flat[k] != padding_idx]
        for k in members:
            grad_factors[k] = grad_y[bag] @ weight[flat[k]]
            contributions[k] = factors[k] * grad_y[bag] / (len(members) if mode == "mean" else 1)
        if mode == "max" and members:
            winners = np.argmax([weight[flat[k]] for k in members], axis=0)
            for place, k in enumerate(members):
                contributions[k] *= winners == place
    grad_weight = _scatter_add(weight, flat, contributions, padding_idx, scale_grad_by_freq) if needs[1] else None
    needs_factors = needs[3] and per_sample_weights is not None
    return None, grad_weight, None, grad_factors.reshape(indices.shape) if needs_factors else None


def embedding_renorm_forward(weight, indices, *, max_norm, norm_type=2.0, out=None):
    result = weight.copy()
    for row in np.unique(indices):
        norm = np.linalg.norm(weight[row], norm_type)
        if norm > max_norm:
            result[row] = weight[row] * (max_norm / (norm + 1e-7))
    if out is not None:
        out[...] = result
        result = out
    return result, None


def one_hot_forward(indices, *, num_classes=-1):
    classes = np.arange(count_classes(indices, num_classes))
    return (indices[..., None] == classes).astype(np.int64), None
