"""Attention on NumPy arrays, tile by tile: a product makes scores, a kernel weights of them while they are at hand.

A tile is some query rows of one head against all keys that they see, or several small heads at once, so that its
scores stay in the cache. Query heads that share a key head are stacked as more rows of that head: [heads, rows, E]
with rows = group * L, and position = row % L.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import exp, log
from ..cpu_matmul import matmul
from ..cpu_philox import fill_uniform
from ..elementwise.broadcasting import sum_to_shape
from ..memory import empty, zeros
from ..softmax.cpu import row_max

_TILE_SCORES = 1 << 18
_CAUSAL_ROWS = 128  # fewer rows a tile leave out more keys that no row sees


@serial_kernel
def finish_scores(line, scale, mask, mask_line):
    """line = scale line + mask's line, if there is a mask."""
    if mask.size:
        for i in range(line.size):
            line[i] = line[i] * scale + mask_line[i]
    else:
        for i in range(line.size):
            line[i] *= scale


@serial_kernel
def drop(line, factor, dropout_p, seed, first):
    """line times the dropout's factors; its elements are numbers first, first + 1, ... of the mask."""
    draws = np.empty(line.size, np.float32)
    fill_uniform(seed, first, draws)
    for i in range(line.size):
        line[i] = line[i] * factor if draws[i] >= np.float32(dropout_p) else line.dtype.type(0)


@kernel
def attention_weights_kernel(
    scores, first_head, first_row, length, all_keys, mask, mask_index, scale, is_causal, dropout_p, seed, log_sums
):
    """Makes weights of the products in scores [heads, rows, keys], in place, and writes each row's log_sums."""
    kind = scores.dtype.type
    heads, rows, keys = scores.shape
    factor = kind(0) if dropout_p == 1 else kind(1 / (1 - dropout_p))
    for job in prange(heads * rows):
        head, row = first_head + job // rows, first_row + job % rows
        group, position = row // length, row % length
        seen = min(keys, position + 1) if is_causal else keys
        line = scores[job // rows, job % rows, :seen]
        hidden = scores[job // rows, job % rows, seen:]
        hidden[:] = 0
        index = mask_index[head * (log_sums.shape[1] // length) + group]
        finish_scores(line, kind(scale), mask, mask[index, position % mask.shape[1]])
        peak = row_max(line)
        if peak == -np.inf:
            peak = kind(0)
        total = kind(0)
        for i in range(seen):
            line[i] = exp(line[i] - peak)
            total += line[i]
        if total == 0:
            log_sums[head, row] = np.inf  # so that the backward's e^(score - log sum) is 0 as well
        else:
            log_sums[head, row] = peak + log(total)
            inverse = kind(1) / total
            for i in range(seen):
                line[i] *= inverse
        if dropout_p > 0:
            drop(line, factor, dropout_p, seed, (head * log_sums.shape[1] + row) * all_keys)


@kernel
def attention_grad_scores_kernel(
    scores,
    grad_weights,
    first_head,
    first_row,
    length,
    all_keys,
    mask,
    mask_index,
    scale,
    is_causal,
    dropout_p,
    seed,
    log_sums,
    row_dots,
):
    """From the products in scores and grad_weights [heads, rows, keys], both in place: the weights as they met the
    values, and the gradient of the scores. row_dots: each row's sum of grad_output times output."""
    kind = scores.dtype.type
    heads, rows, keys = scores.shape
    factor = kind(0) if dropout_p == 1 else kind(1 / (1 - dropout_p))
    for job in prange(heads * rows):
        head, row = first_head + job // rows, first_row + job % rows
        group, position = row // length, row % length
        seen = min(keys, position + 1) if is_causal else keys
        line, grad = scores[job // rows, job % rows, :seen], grad_weights[job // rows, job % rows, :seen]
        hidden, grad_hidden = scores[job // rows, job % rows, seen:], grad_weights[job // rows, job % rows, seen:]
        hidden[:] = 0
        grad_hidden[:] = 0
        index = mask_index[head * (log_sums.shape[1] // length) + group]
        finish_scores(line, kind(scale), mask, mask[index, position % mask.shape[1]])
        log_sum, dot = log_sums[head, row], row_dots[head, row]
        first = (head * log_sums.shape[1] + row) * all_keys
        if dropout_p > 0:
            drop(grad, factor, dropout_p, seed, first)
        for i in range(seen):
            weight = exp(line[i] - log_sum)
            line[i] = weight
            grad[i] = weight * (grad[i] - dot)
        if dropout_p > 0:
            drop(line, factor, dropout_p, seed, first)


@serial_kernel
def attention_grad_mask_kernel(grad_scores, first_head, first_row, length, groups, mask_index, grad_mask):
    """Adds grad_scores [heads, rows, keys] to grad_mask [masks, 1 or L, all keys], one row after the other."""
    for h in range(grad_scores.shape[0]):
        for r in range(grad_scores.shape[1]):
            group, position = (first_row + r) // length, (first_row + r) % length
            index = mask_index[(first_head + h) * groups + group]
            target = grad_mask[index, position % grad_mask.shape[1]]
            line = grad_scores[h, r]
            for i in range(line.size):
                target[i] += line[i]


class _Call(NamedTuple):
    """What a call is, apart from its arrays of [heads, rows, features]."""

    shapes: tuple  # of query, key, value, attn_mask or None
    length: int
    groups: int
    mask: np.ndarray  # [masks, 1 or L, all keys], added to the scores; [1, 1, 0] for none
    mask_index: np.ndarray  # which mask each query head takes
    mask_trains: bool
    scale: float
    is_causal: bool
    dropout_p: float
    seed: int

    def numbers(self):
        """What both kernels take between the scores' place and their last arrays."""
        return self.mask, self.mask_index, self.scale, self.is_causal, self.dropout_p, self.seed


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
    length, all_keys = query.shape[-2], key.shape[-2]
    heads = math.prod(key.shape[:-2])
    groups = query.shape[-3] // key.shape[-3] if enable_gqa and query.ndim > 2 else 1
    mask, mask_index = _mask_of(attn_mask, query, all_keys)
    call = _Call(
        shapes=(query.shape, key.shape, value.shape, None if attn_mask is None else attn_mask.shape),
        length=length,
        groups=groups,
        mask=mask,
        mask_index=mask_index,
        mask_trains=attn_mask is not None and attn_mask.dtype != bool,
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else float(scale),
        is_causal=is_causal,
        dropout_p=float(dropout_p),
        seed=int(seed),
    )
    q = np.ascontiguousarray(query).reshape(heads, groups * length, query.shape[-1])
    k = np.ascontiguousarray(key).reshape(heads, all_keys, key.shape[-1])
    v = np.ascontiguousarray(value).reshape(heads, all_keys, value.shape[-1])
    o = empty((*q.shape[:2], v.shape[2]), q.dtype)
    log_sums = empty(q.shape[:2], q.dtype)
    scratch = empty(_scratch_size(call, heads, q.shape[1], all_keys), q.dtype)
    for h, r, keys in _tiles(call, heads, q.shape[1], all_keys):
        scores = _of_shape(scratch, h, r, keys)
        matmul(q[h, r], k[h, :keys].transpose(0, 2, 1), scores)
        attention_weights_kernel(scores, h.start, r.start, length, all_keys, *call.numbers(), log_sums)
        matmul(scores, v[h, :keys], o[h, r])
    output = o.reshape(*query.shape[:-1], value.shape[-1])
    if out is not None:
        out[...] = output
        output = out
    return output, (call, q, k, v, o, log_sums)


def _product(left, right):
    return matmul(left, right, empty((*left.shape[:-1], right.shape[-1]), left.dtype))


def scaled_dot_product_attention_backward(saved, grad_output, needs):
    call, q, k, v, o, log_sums = saved
    (heads, rows, _), all_keys = q.shape, k.shape[1]
    needs_mask = len(needs) > 3 and needs[3] and call.mask_trains
    grad_o = np.ascontiguousarray(grad_output).reshape(o.shape)
    grad_q = empty(q.shape, q.dtype) if needs[0] else None
    grad_k = zeros(k.shape, k.dtype) if needs[1] else None
    grad_v = zeros(v.shape, v.dtype) if needs[2] else None
    grad_mask = zeros(call.mask.shape, q.dtype) if needs_mask else None
    row_dots = np.einsum("hrf,hrf->hr", grad_o, o)
    size = _scratch_size(call, heads, rows, all_keys)
    scratch, grad_scratch = empty(size, q.dtype), empty(size, q.dtype)
    for h, r, keys in _tiles(call, heads, rows, all_keys):
        weights, grad_scores = _of_shape(scratch, h, r, keys), _of_shape(grad_scratch, h, r, keys)
        matmul(q[h, r], k[h, :keys].transpose(0, 2, 1), weights)
        matmul(grad_o[h, r], v[h, :keys].transpose(0, 2, 1), grad_scores)
        place = h.start, r.start, call.length
        attention_grad_scores_kernel(weights, grad_scores, *place, all_keys, *call.numbers(), log_sums, row_dots)
        if needs_mask:
            attention_grad_mask_kernel(grad_scores, *place, call.groups, call.mask_index, grad_mask)
        if needs[2]:
            grad_v[h, :keys] += _product(weights.transpose(0, 2, 1), grad_o[h, r])
        if needs[0] or needs[1]:
            grad_scores *= q.dtype.type(call.scale)
        if needs[0]:
            matmul(grad_scores, k[h, :keys], grad_q[h, r])
        if needs[1]:
            grad_k[h, :keys] += _product(grad_scores.transpose(0, 2, 1), q[h, r])
    grads = [g if g is None else g.reshape(shape) for g, shape in zip((grad_q, grad_k, grad_v), call.shapes)]
    if len(needs) > 3:
        grads.append(_grad_mask(grad_mask, call) if needs_mask else None)
    return tuple(grads)


def _tiles(call, heads, rows, all_keys):
    """(slice of heads, slice of rows, number of keys that they see), in the order in which they are worked off."""
    tile_heads, tile_rows = _tile_shape(call, rows, all_keys)
    for h in range(0, heads, tile_heads):
        for r in range(0, rows, tile_rows):
            stop = min(r + tile_rows, rows)
            keys = all_keys
            if call.is_causal and r // call.length == (stop - 1) // call.length:
                keys = min(all_keys, (stop - 1) % call.length + 1)
            yield slice(h, min(h + tile_heads, heads)), slice(r, stop), keys


def _tile_shape(call, rows, all_keys):
    """How many heads and how many rows of each make a tile."""
    tile_rows = max(1, min(rows, _TILE_SCORES // max(all_keys, 1)))
    if call.is_causal:
        tile_rows = min(tile_rows, _CAUSAL_ROWS)
    if tile_rows < rows:
        return 1, tile_rows
    return max(1, _TILE_SCORES // max(tile_rows * all_keys, 1)), tile_rows


def _scratch_size(call, heads, rows, all_keys):
    tile_heads, tile_rows = _tile_shape(call, rows, all_keys)
    return min(tile_heads, heads) * tile_rows * all_keys


def _of_shape(scratch, h, r, keys):
    """The beginning of the scratch as a contiguous [heads, rows, keys]."""
    shape = h.stop - h.start, r.stop - r.start, keys
    return scratch[: math.prod(shape)].reshape(shape)


def _mask_of(attn_mask, query, all_keys):
    """The mask as numbers to add, [masks, 1 or L, all keys], and which of them each query head takes."""
    leading, heads = query.shape[:-2], math.prod(query.shape[:-2])
    if attn_mask is None:
        return empty((1, 1, 0), query.dtype), np.zeros(heads, np.int64)
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
