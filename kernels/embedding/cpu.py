"""Embeddings on NumPy arrays. The gradient of a table is shared among threads by rows: each thread reads all indices,
and adds what belongs to its own rows, in order. So no two threads write to one row, and no sum depends on their number.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_lines import memory, sum_of_few_lines
from ..cpu_sums import line_product
from ..cpu_threads import thread_count
from ..destinations import gradient
from ..memory import empty
from . import bag_bounds, count_classes

_WORTH_THREADS = 1 << 14  # elements of the rows; fewer are read before another thread has woken up


@kernel
def embedding_kernel(indices, weight, y):
    """y[i] = weight[indices[i]]. indices: [n], y: [n, columns]."""
    columns = weight.shape[1]
    for i in prange(indices.size):
        sum_of_few_lines(memory(weight), (indices[i] * columns,), (1,), memory(y), i * columns, columns)


@kernel
def embedding_bag_kernel(indices, bounds, factors, weight, maximum, y, winner):
    """y[b] = sum of factors[k] * weight[indices[k]] over the positions k of bag b, leaving out factors of 0.

    Where `maximum`, the largest instead, and winner[b] the positions it comes from, -1 where there is none.
    """
    for b in prange(bounds.size - 1):
        for c in range(weight.shape[1]):
            y[b, c] = weight.dtype.type(0)
        if maximum:
            for c in range(weight.shape[1]):
                winner[b, c] = -1
        for k in range(bounds[b], bounds[b + 1]):
            row, factor = indices[k], factors[k]
            if factor == 0:
                continue
            if maximum:
                for c in range(weight.shape[1]):
                    if winner[b, c] < 0 or weight[row, c] > y[b, c]:
                        y[b, c], winner[b, c] = weight[row, c], k
            else:
                for c in range(weight.shape[1]):
                    y[b, c] += factor * weight[row, c]


@kernel
def embedding_grad_weight_kernel(indices, sources, factors, grad_y, maximum, winner, threads, grad_weight):
    """grad_weight[r] = sum of factors[k] * grad_y[sources[k]] over the positions k with indices[k] = r. Without
    sources, each position is its own; without factors, they are 1.

    Where `maximum`, a position gets only the columns in which it is the winner of its source. A row belongs to thread
    r % threads: neighbours, which often are the frequent ones, to different threads.
    """
    zero, one = grad_y.dtype.type(0), grad_y.dtype.type(1)
    for thread in prange(threads):
        for row in range(thread, grad_weight.shape[0], threads):
            for c in range(grad_weight.shape[1]):
                grad_weight[row, c] = zero
        for k in range(indices.size):
            row = indices[k]
            source = sources[k] if sources.size else k
            factor = factors[k] if factors.size else one
            if factor == 0 or row % threads != thread:
                continue
            if maximum:
                for c in range(grad_weight.shape[1]):
                    grad_weight[row, c] += grad_y[source, c] if winner[source, c] == k else zero
            else:
                for c in range(grad_weight.shape[1]):
                    grad_weight[row, c] += factor * grad_y[source, c]


@kernel
def embedding_bag_grad_factors_kernel(indices, sources, factors, grad_y, weight, grad_factors):
    """grad_factors[k] = grad_y[sources[k]] . weight[indices[k]], 0 where the factor is left out."""
    for k in prange(indices.size):
        total = weight.dtype.type(0)
        if factors[k]:
            total = line_product(grad_y[sources[k]], weight[indices[k]])
        grad_factors[k] = total


def embedding_forward(indices, weight, *, padding_idx=None, scale_grad_by_freq=False, out=None):
    flat = _flat(indices)
    shape = (*indices.shape, weight.shape[1])
    y = out if out is not None and out.flags.c_contiguous else empty(shape, weight.dtype)
    run = embedding_kernel if y.size > _WORTH_THREADS else embedding_kernel.serial
    run(flat, np.ascontiguousarray(weight), y.reshape(flat.size, weight.shape[1]))
    if out is not None and y is not out:
        out[...] = y
        y = out
    return y, (flat, weight.shape, padding_idx, scale_grad_by_freq)


def embedding_backward(saved, grad_y, needs):
    if not needs[1]:
        return None, None
    flat, shape, padding_idx, scale_grad_by_freq = saved
    grad_y = np.ascontiguousarray(grad_y).reshape(flat.size, shape[1])
    factors = empty(0, grad_y.dtype)
    if padding_idx is not None or scale_grad_by_freq:
        factors = _kept(flat, padding_idx, grad_y.dtype)
    if scale_grad_by_freq:
        factors = _by_frequency(factors, flat, shape[0])
    return None, _grad_weight(flat, empty(0, np.int64), factors, grad_y, None, shape)


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
    flat, bounds = _flat(indices), np.ascontiguousarray(bag_bounds(indices, offsets, include_last_offset))
    weight = np.ascontiguousarray(weight)
    kept = _kept(flat, padding_idx, weight.dtype)
    sources = np.repeat(np.arange(bounds.size - 1), np.diff(bounds))
    factors = kept
    if per_sample_weights is not None:
        factors = kept * per_sample_weights.reshape(-1)
    elif mode == "mean":
        factors = kept / np.maximum(np.bincount(sources, kept, bounds.size - 1), 1).astype(kept.dtype)[sources]
    y = empty((bounds.size - 1, weight.shape[1]), weight.dtype)
    winner = empty(y.shape if mode == "max" else (0, 0), np.int64)
    run = embedding_bag_kernel if _are_many(flat, weight) else embedding_bag_kernel.serial
    run(flat, bounds, factors, weight, mode == "max", y, winner)
    winner = winner if mode == "max" else None
    return y, (indices.shape, flat, sources, weight, kept, factors, winner, scale_grad_by_freq, per_sample_weights)


def embedding_bag_backward(saved, grad_y, needs):
    shape, flat, sources, weight, kept, factors, winner, scale_grad_by_freq, per_sample_weights = saved
    grad_y = np.ascontiguousarray(grad_y)
    grad_weight = grad_factors = None
    if needs[1]:
        if scale_grad_by_freq:
            factors = _by_frequency(factors, flat, weight.shape[0])
        grad_weight = _grad_weight(flat, sources, factors, grad_y, winner, weight.shape)
    if needs[3] and per_sample_weights is not None:
        grad_factors = empty(shape, weight.dtype)
        run = embedding_bag_grad_factors_kernel
        run = run if _are_many(flat, weight) else run.serial
        run(flat, sources, kept, grad_y, weight, grad_factors.reshape(-1))
    return None, grad_weight, None, grad_factors


def embedding_renorm_forward(weight, indices, *, max_norm, norm_type=2.0, out=None):
    rows = np.unique(indices)
    values = weight[rows]
    norms = np.linalg.norm(values, norm_type, axis=1)
    large = norms > max_norm
    if out is None:
        out = empty(weight.shape, weight.dtype)
    if out is not weight:
        np.copyto(out, weight)
    scale = (max_norm / (norms[large] + 1e-7)).astype(weight.dtype)
    out[rows[large]] = values[large] * scale[:, None]
    return out, None


def one_hot_forward(indices, *, num_classes=-1):
    result = np.zeros((*indices.shape, count_classes(indices, num_classes)), np.int64)
    np.put_along_axis(result, indices[..., None].astype(np.int64), 1, axis=-1)
    return result, None


def _flat(indices):
    return np.ascontiguousarray(indices, np.int64).reshape(-1)


def _are_many(flat, weight):
    """Whether the rows at so many positions are worth all threads."""
    return flat.size * weight.shape[1] > _WORTH_THREADS


def _kept(flat, padding_idx, dtype):
    """1 for each position, 0 for padding."""
    return np.ones(flat.size, dtype) if padding_idx is None else (flat != padding_idx).astype(dtype)


def _by_frequency(factors, flat, rows):
    """The factors divided by how often their index occurs."""
    return factors / np.bincount(flat, minlength=rows)[flat].astype(factors.dtype)


def _grad_weight(flat, sources, factors, grad_y, winner, shape):
    grad_weight = gradient(1, shape, grad_y.dtype)
    maximum = winner is not None
    winner = winner if maximum else np.zeros((0, 0), np.int64)
    many = grad_weight.size > _WORTH_THREADS or _are_many(flat, grad_weight)
    run = embedding_grad_weight_kernel if many else embedding_grad_weight_kernel.serial
    run(flat, sources, factors, grad_y, maximum, winner, thread_count() if many else 1, grad_weight)
    return grad_weight
