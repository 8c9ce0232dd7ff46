"""Attention on NumPy arrays: what a call's arrays look like to the kernels of `cpu_blocks.py`.

Queries, keys, values and their gradients are read and written where they lie: heads that are side by side in each
position's features, as layers have them, cost no copy, and the output and the gradients come in their inputs' layouts.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from ..cpu_jit import threads_for
from ..elementwise.broadcasting import sum_to_shape
from ..memory import constant, empty, workspace, zeros
from .cpu_blocks import (
    attention_backward_kernel,
    attention_forward_kernel,
    backward_scratch_size,
    forward_scratch_size,
)

_ROWS = 96  # of queries in a block: whole tall tiles of the product,
_SCORES = 1 << 17  # and with all their scores a part of the second-level cache
_TASKS = 8  # a backward pass of fewer heads shares out their rows; a fixed number, or bits would depend on threads
_MASK_PARTS = 4  # sums of a mask's gradient, each over its own tasks; fixed for the same reason


class _Call(NamedTuple):
    """What a call is, apart from its arrays."""

    shapes: tuple  # of query, key, value, attn_mask or None
    mask: np.ndarray  # [masks, 1 or L, S], added to the scores; [1, 1, 0] for none
    mask_index: np.ndarray  # which mask each query head takes
    mask_trains: bool
    groups: int  # query heads that share a key head
    scale: float
    is_causal: bool
    dropout_p: float
    seed: int

    @property
    def sizes(self):
        """L, S, E, Ev, groups."""
        query, key, value, _ = self.shapes
        return query[-2], key[-2], query[-1], value[-1], self.groups

    @property
    def numbers(self):
        return self.scale, self.is_causal, self.dropout_p, self.seed

    @property
    def key_heads(self):
        return math.prod(self.shapes[1][:-2])

    @property
    def multiply_adds(self):
        """Of the forward pass: query times key, and weights times value."""
        return math.prod(self.shapes[0][:-1]) * self.shapes[1][-2] * (self.shapes[0][-1] + self.shapes[2][-1])


def scaled_dot_product_attention_forward(
    query,
    key,
    value,
    attn_mask=None,
    *,
    is_causal=False,
    scale=None,
    dropout_p=0.0,
    seed=0,
    enable_gqa=False,
    out=None,
):
    keys = key.shape[-2]
    mask, mask_index = _mask_of(attn_mask, query, keys)
    call = _Call(
        shapes=(query.shape, key.shape, value.shape, None if attn_mask is None else attn_mask.shape),
        mask=mask,
        mask_index=mask_index,
        mask_trains=attn_mask is not None and attn_mask.dtype != bool,
        groups=query.shape[-3] // key.shape[-3] if enable_gqa and query.ndim > 2 else 1,
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else float(scale),
        is_causal=is_causal,
        dropout_p=float(dropout_p),
        seed=int(seed),
    )
    output = _empty_like((*query.shape[:-1], value.shape[-1]), query)
    log_sums = empty((math.prod(query.shape[:-2]), query.shape[-2]), query.dtype)
    q, k, v, o = (_rows(x) for x in (query, key, value, output))
    if log_sums.size and keys:
        _attend(call, q, k, v, o, log_sums)
    else:
        output[...] = 0
    if out is not None:
        out[...] = output
    return output if out is None else out, (call, query, key, value, log_sums, (q, k, v, o))


def _attend(call, q, k, v, o, log_sums):
    length, keys, features, value_features, _ = call.sizes
    block_rows = min(_ROWS, max(12, _SCORES // keys // 12 * 12))
    threads = threads_for(call.multiply_adds)
    heads, blocks = call.key_heads, -(-length // block_rows) * call.groups
    parts = 1 if heads % threads == 0 else min(blocks, -(-4 * threads // heads))
    workers = min(threads, heads * parts)
    scratch_size = forward_scratch_size(log_sums.itemsize, keys, features, value_features, block_rows)
    run = attention_forward_kernel if workers > 1 else attention_forward_kernel.serial
    run(
        q, k, v, call.mask, call.mask_index, o, log_sums, (*call.sizes, block_rows, parts), call.numbers,
        workspace("attention", (workers, scratch_size), log_sums.dtype),
    )  # fmt: skip


def scaled_dot_product_attention_backward(saved, grad_output, needs):
    call, query, key, value, log_sums, _ = saved
    needs_mask = len(needs) > 3 and needs[3] and call.mask_trains
    if log_sums.size == 0 or key.shape[-2] == 0:
        grads = [zeros(x.shape, x.dtype) if need else None for x, need in zip((query, key, value), needs)]
        grad_mask = zeros((1, *call.mask.shape), query.dtype)
    else:
        grads, grad_mask = _differentiate(call, saved, grad_output, (*needs[:3], needs_mask))
    if len(needs) > 3:
        grads.append(_grad_mask(grad_mask.sum(axis=0), call) if needs_mask else None)
    return tuple(grads)


def _differentiate(call, saved, grad_output, needs):
    """The gradients of query, key, value, and a part of the mask's for each of the workers."""
    _, query, key, value, log_sums, (q, k, v, o) = saved
    length, keys, features, value_features, _ = call.sizes
    heads, dtype = call.key_heads, query.dtype
    block_rows = min(_ROWS, -(-length // 4) * 4)
    parts = 1 if heads >= _TASKS else min(-(-length // block_rows) * call.groups, -(-_TASKS // heads))
    workers = _MASK_PARTS if needs[3] else min(threads_for(2.5 * call.multiply_adds), heads * parts)
    # A head that is one task writes where its gradients belong; parts of a head are summed.
    grad_query = _empty_like(query.shape, query) if needs[0] else None
    grad_key, grad_value = (
        (_empty_like(x.shape, x) if parts == 1 else empty((heads, parts, *x.shape[-2:]), dtype)) if need else None
        for x, need in zip((key, value), needs[1:3])
    )
    grad_mask = zeros((workers, *call.mask.shape) if needs[3] else (1, 1, 1, 0), dtype)
    nothing = empty(0, dtype), q[1], 0
    grads = (nothing if grad is None else _rows(grad) for grad in (grad_query, grad_key, grad_value))
    scratch_size = backward_scratch_size(dtype.itemsize, keys, features, value_features, block_rows)
    run = attention_backward_kernel if workers > 1 else attention_backward_kernel.serial
    run(
        q, k, v, call.mask, call.mask_index, o, log_sums, _rows(grad_output), *grads, grad_mask,
        (*call.sizes, block_rows, parts), call.numbers, workspace("attention", (workers, scratch_size), dtype),
    )  # fmt: skip
    if parts > 1:
        grad_key, grad_value = (
            None if grad is None else grad.sum(axis=1).reshape(x.shape)
            for grad, x in ((grad_key, key), (grad_value, value))
        )
    return [grad_query, grad_key, grad_value], grad_mask


def _rows(x):
    """(flat array, starts, pitch): row i of head h of [..., rows, features] begins at starts[h] + i * pitch."""
    if x.flags.c_contiguous:
        return x.ravel(), _starts_in(x.shape), x.shape[-1]
    if x.strides[-1] != x.itemsize or min(x.strides) < 0 or x.size == 0:
        return _rows(np.ascontiguousarray(x))
    starts, length = _heads_in(x.shape, x.strides, x.itemsize)
    flat = np.lib.stride_tricks.as_strided(x, (length,), (x.itemsize,))
    return flat, starts, x.strides[-2] // x.itemsize


@functools.lru_cache(maxsize=256)
def _starts_in(shape):
    """Where each head begins in C order; to be read only."""
    return np.arange(math.prod(shape[:-2])) * (shape[-2] * shape[-1])


@functools.lru_cache(maxsize=256)
def _heads_in(shape, strides, itemsize):
    """Where each head begins, and how many elements lie between the first and the last; to be read only."""
    starts = np.zeros((), np.int64)
    for size, stride in zip(shape[:-2], strides):
        starts = np.add.outer(starts, np.arange(size) * (stride // itemsize))
    return starts.reshape(-1), 1 + sum((n - 1) * stride for n, stride in zip(shape, strides)) // itemsize


def _empty_like(shape, like):
    """An array with its features contiguous and its other axes in memory in the order in which they are in `like`."""
    if like.flags.c_contiguous:
        return empty(shape, like.dtype)
    order, back = _leading_axes(like.strides)
    return empty(tuple([shape[axis] for axis in order]), like.dtype).transpose(back)


@functools.lru_cache(maxsize=256)
def _leading_axes(strides):
    """The axes with the features last and the others by falling stride, and where each of them is then."""
    order = (*sorted(range(len(strides) - 1), key=lambda axis: -strides[axis]), len(strides) - 1)
    return order, tuple(sorted(range(len(order)), key=order.__getitem__))


def _mask_of(attn_mask, query, all_keys):
    """The mask as numbers to add, [masks, 1 or L, all keys], and which of them each query head takes."""
    leading, heads = query.shape[:-2], math.prod(query.shape[:-2])
    if attn_mask is None:
        return empty((1, 1, 0), query.dtype), constant(heads, np.int64, 0)
    if attn_mask.dtype == bool:
        attn_mask = np.where(attn_mask, query.dtype.type(0), query.dtype.type(-np.inf))
    mask = attn_mask.reshape((1,) * (query.ndim - attn_mask.ndim) + attn_mask.shape)
    masks = math.prod(mask.shape[:-2])
    index = np.broadcast_to(np.arange(masks).reshape(mask.shape[:-2]), leading).reshape(-1)
    mask = np.broadcast_to(mask, (*mask.shape[:-1], all_keys))
    return np.ascontiguousarray(mask).reshape(masks, mask.shape[-2], all_keys), np.ascontiguousarray(index)


def _grad_mask(grad_mask, call):
    """The gradient of the mask as it was given: one column again where it was stretched over the keys."""
    shape = call.shapes[3]
    full = (*shape[:-1], grad_mask.shape[-1]) if shape else grad_mask.shape[-1:]
    return sum_to_shape(grad_mask.reshape(full), shape)
