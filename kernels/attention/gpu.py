"""Attention on CuPy arrays in the flash form (Dao et al. 2022): no [L, S] matrix exists; the backward passes make the
weights again from the logarithm of each row's sum. One pass writes grad_query, one grad_key and grad_value, one the
mask's gradient: each element is one program's, summed in a fixed order. The kernels are in `gpu_kernels.py`."""

import math
from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl

from ..dense.gpu_product import sum_parts
from ..elementwise.broadcasting import broadcast_to
from ..gpu_arrays import contiguous, strides
from ..launch import ceil_div, empty, launch
from ..precision import input_precision
from ..tuning import Choice, has_room
from .gpu_kernels import (
    attention_forward_kernel,
    attention_grad_key_value_kernel,
    attention_grad_mask_kernel,
    attention_grad_query_kernel,
    attention_row_dots_kernel,
)

_NO_MASK, _BOOL_MASK, _ADDED_MASK = range(3)
_PROGRAMS = 512  # as many keep every multiprocessor of a large device busy


class _Call(NamedTuple):
    """A call in four axes: [batch, heads, rows, features]."""

    query: Any
    key: Any
    value: Any
    mask: Any  # [1 or batch, 1 or heads, 1 or L, 1 or S], bool as uint8; None for none
    mask_kind: int
    shapes: tuple  # of query, key, value, attn_mask or None, as they were given
    scale: float
    is_causal: bool
    dropout_p: float
    seed: int

    @property
    def key_heads(self):
        return self.key.shape[0] * self.key.shape[1]

    @property
    def accumulator(self):
        return np.dtype(np.float64 if self.query.dtype == np.float64 else np.float32)

    def geometry(self, *others):
        """Sizes, then strides of query, key, value, mask and others, as every kernel takes them behind its arrays."""
        (_, heads, length, _), keys = self.query.shape, self.key.shape[2]
        steps = [step for x in (self.query, self.key, self.value) for step in strides(x)[:3]]
        if self.mask is None:
            steps += (0,) * 4
        else:
            steps += [0 if size == 1 else step for size, step in zip(self.mask.shape, strides(self.mask))]
        steps += [step for x in others for step in strides(x)[:3]]
        return heads, heads // max(self.key.shape[1], 1), length, keys, *steps

    def numbers(self):
        factor = 0.0 if self.dropout_p == 1 else 1 / (1 - self.dropout_p)
        # Draws are float32, and so is what they are held against.
        return self.scale, float(np.float32(self.dropout_p)), factor, self.seed

    def constants(self, choice):
        features, value_features = self.query.shape[3], self.value.shape[3]
        plain = self.mask_kind == _NO_MASK and self.dropout_p == 0
        return {
            "FEATURES": features,
            "VALUE_FEATURES": value_features,
            "MASK": self.mask_kind,
            "CAUSAL": self.is_causal,
            "DROPOUT": self.dropout_p > 0,
            "PRECISION": input_precision(self.query.dtype),
            "ACCUMULATOR": tl.float64 if self.query.dtype == np.float64 else tl.float32,
            **choice.pick(self.query, self.query.shape[2], self.key.shape[2], max(features, value_features), plain),
        }


def _default(architecture, dtype, length, keys, features, plain):
    """Tiles that keep all in registers; a mask, the dropout's draws or wide heads take the room of half a tile."""
    if dtype.itemsize == 8:
        # Without tensor cores for float64, which the smaller architectures lack, sums live in registers.
        return (32, 32, 32, 4, 2) if has_room(architecture) else (16, 16, 16, 4, 1)
    if dtype.itemsize == 4:
        # What two stages hold of heads wider than 64 is 120 KB.
        return 32, 32, 64, 8, 2 if has_room(architecture) or features <= 64 else 1
    warps = 8 if features > 64 else 4
    if features <= 128:
        return 64, 64 if plain else 32, 128, warps, 2
    return 64 if has_room(architecture) else 32, 32, 128, warps, 2


def _candidates(dtype, length, keys, features, plain):
    return {
        2: [
            (128, 128, 128, 8, 2), (128, 64, 128, 8, 2), (128, 64, 128, 4, 3), (128, 64, 64, 4, 3),
            (128, 32, 128, 4, 3), (64, 128, 128, 8, 2), (64, 128, 64, 4, 2), (64, 64, 128, 8, 2),
            (64, 64, 128, 4, 3), (64, 64, 64, 4, 2), (64, 64, 64, 4, 3), (64, 32, 128, 8, 2),
            (64, 32, 128, 4, 3), (64, 32, 64, 4, 3), (32, 64, 128, 4, 2), (32, 32, 128, 4, 2),
            (64, 64, 128, 8, 1), (32, 64, 64, 4, 3),
        ],
        4: [
            (64, 64, 64, 8, 1), (64, 32, 64, 8, 2), (64, 32, 64, 8, 1), (32, 64, 64, 8, 1), (32, 32, 64, 8, 2),
            (32, 32, 64, 8, 1), (32, 32, 64, 4, 1), (32, 32, 32, 4, 2), (64, 32, 32, 8, 2), (32, 16, 64, 4, 2),
            (16, 32, 64, 4, 2),
        ],
        8: [(32, 32, 32, 4, 2), (32, 32, 32, 4, 1), (32, 16, 32, 4, 2), (16, 32, 32, 4, 2), (16, 16, 16, 4, 1)],
    }[dtype.itemsize]  # fmt: skip


def _choice(name):
    """Rows, keys and features that a program has at a time, and how they are pipelined."""
    fields = "BLOCK_M", "BLOCK_N", "CHUNK", "num_warps", "num_stages"
    return Choice(name, fields, _candidates, _default, along={"BLOCK_M": 0, "BLOCK_N": 1, "CHUNK": 2})


FORWARD = _choice("attention.forward")
GRAD_QUERY = _choice("attention.grad_query")
GRAD_KEY_VALUE = _choice("attention.grad_key_value")
GRAD_MASK = _choice("attention.grad_mask")


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
    mask, mask_kind = _mask_of(attn_mask, query)
    call = _Call(
        query=_four_axes(query),
        key=_four_axes(key),
        value=_four_axes(value),
        mask=mask,
        mask_kind=mask_kind,
        shapes=(query.shape, key.shape, value.shape, None if attn_mask is None else attn_mask.shape),
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else float(scale),
        is_causal=is_causal,
        dropout_p=float(dropout_p),
        seed=int(seed),
    )
    batch, heads, length, _ = call.query.shape
    output = empty(query, (*query.shape[:-1], value.shape[-1])) if out is None else out
    log_sums = empty(query, (batch, heads, length), call.accumulator)
    constants = call.constants(FORWARD)
    launch(
        attention_forward_kernel,
        (batch * heads * _tiles(value.shape[-1], constants["CHUNK"]) * ceil_div(length, constants["BLOCK_M"]),),
        call.query, call.key, call.value, call.mask, output, log_sums, *call.geometry(), *call.numbers(),
        **constants,
    )  # fmt: skip
    return output, (call, output, log_sums)


def scaled_dot_product_attention_backward(saved, grad_output, needs):
    call, output, log_sums = saved
    grad_output = _four_axes(grad_output)
    row_dots = _row_dots(call, output, grad_output)
    arrays = call.query, call.key, call.value, call.mask, grad_output, log_sums, row_dots
    grad_query = grad_key = grad_value = grad_mask = None
    if needs[0]:
        grad_query = _grad_query(call, arrays).reshape(call.shapes[0])
    if needs[1] or needs[2]:
        grad_key, grad_value = _grad_key_value(call, arrays, needs)
    if len(needs) > 3 and needs[3] and call.mask_kind == _ADDED_MASK:
        grad_mask = _grad_mask(call, arrays)
    return (grad_query, grad_key, grad_value, grad_mask)[: len(needs)]


def _row_dots(call, output, grad_output):
    (batch, heads, length, _), features = call.query.shape, call.value.shape[3]
    rows = batch * heads * length
    row_dots = empty(output, (rows,), call.accumulator)
    launch(
        attention_row_dots_kernel,
        (ceil_div(rows, 32),),
        output, grad_output, row_dots, rows, heads, length, *strides(grad_output)[:3],
        VALUE_FEATURES=features, ACCUMULATOR=tl.float64 if output.dtype == np.float64 else tl.float32,
        BLOCK_M=32, CHUNK=min(128, max(16, triton.next_power_of_2(features))),
    )  # fmt: skip
    return row_dots


def _grad_query(call, arrays):
    batch, heads, length, features = call.query.shape
    grad_query, constants = empty(call.query), call.constants(GRAD_QUERY)
    launch(
        attention_grad_query_kernel,
        (batch * heads * _tiles(features, constants["CHUNK"]) * ceil_div(length, constants["BLOCK_M"]),),
        *arrays, grad_query, *call.geometry(arrays[4]), *call.numbers(), **constants,
    )  # fmt: skip
    return grad_query


def _grad_key_value(call, arrays, needs):
    grad_key = empty(call.key, call.shapes[1]) if needs[1] else None
    grad_value = empty(call.value, call.shapes[2]) if needs[2] else None
    constants = call.constants(GRAD_KEY_VALUE)
    written = max(x.shape[-1] for x in (grad_key, grad_value) if x is not None)
    chunks = _tiles(written, constants["CHUNK"])
    launch(
        attention_grad_key_value_kernel,
        (call.key_heads * chunks * ceil_div(call.key.shape[2], constants["BLOCK_N"]),),
        *arrays, grad_key, grad_value, *call.geometry(arrays[4]), *call.numbers(),
        **constants, CHUNKS=chunks,
    )  # fmt: skip
    return grad_key, grad_value


def _grad_mask(call, arrays):
    (batch, heads, length, _), keys, shape = call.query.shape, call.key.shape[2], call.mask.shape
    constants = call.constants(GRAD_MASK)
    row_tiles, column_tiles = ceil_div(length, constants["BLOCK_M"]), ceil_div(keys, constants["BLOCK_N"])
    rows_own, rows_walked = (1, row_tiles) if shape[2] == 1 else (row_tiles, 1)
    columns_own, columns_walked = (1, column_tiles) if shape[3] == 1 else (column_tiles, 1)
    walked = batch // max(shape[0], 1), heads // max(shape[1], 1), rows_walked, columns_walked
    steps, size, given = math.prod(walked), math.prod(shape), call.shapes[3]
    programs = shape[0] * shape[1] * rows_own * columns_own
    splits = max(1, min(steps, ceil_div(_PROGRAMS, max(programs, 1))))
    copied = size != math.prod(given)
    grad_mask = empty(call.query, shape, call.accumulator if copied else None)
    partial = grad_mask if splits == 1 else empty(call.query, (splits, *shape), call.accumulator)
    launch(
        attention_grad_mask_kernel,
        (programs * splits,),
        *arrays, partial, *call.geometry(arrays[4]), *shape[1:], size, rows_own, columns_own,
        *walked, steps, ceil_div(steps, splits), *call.numbers(),
        **constants, ROWS_STRETCHED=shape[2] == 1, COLUMNS_STRETCHED=shape[3] == 1,
    )  # fmt: skip
    if splits > 1:
        sum_parts(partial, grad_mask, splits)
    return _sum_of_copies(call, grad_mask) if copied else grad_mask.reshape(given)


def _sum_of_copies(call, grad_mask):
    """The gradient of a mask that was copied along some of its leading axes: summed along them."""
    given, rank = call.shapes[3], len(call.shapes[0])
    padded = (1,) * (rank - len(given)) + given
    whole = grad_mask.reshape(*call.shapes[0][:-3], *padded[-3:])
    copied = [axis for axis in range(rank) if padded[axis] != whole.shape[axis]]
    kept = [axis for axis in range(rank) if axis not in copied]
    total = empty(call.query, given)
    sum_parts(contiguous(whole.transpose(*copied, *kept)), total, math.prod(whole.shape[axis] for axis in copied))
    return total


def _four_axes(x):
    """x [..., heads, rows, features] as [batch, heads, rows, features] with neighbouring features."""
    if x.shape[-1] > 1 and x.strides[-1] != x.itemsize:
        x = contiguous(x)
    if x.ndim > 4:
        return contiguous(x).reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
    return x[(None,) * (4 - x.ndim)]


def _mask_of(mask, query):
    """The mask in four axes, each whole or of size 1, and its kind. It is copied only where its leading axes are partly
    stretched and partly not, beyond a batch and heads."""
    if mask is None:
        return None, _NO_MASK
    kind = _ADDED_MASK
    if mask.dtype == bool:
        mask, kind = mask.view(np.uint8), _BOOL_MASK
    mask = mask[(None,) * (max(query.ndim, 4) - mask.ndim)]
    if mask.ndim > 4:
        leading, whole = mask.shape[:-3], query.shape[:-3]
        if leading != whole and math.prod(leading) != 1:
            mask = broadcast_to(mask, (*whole, *mask.shape[-3:]))
        mask = contiguous(mask).reshape(math.prod(mask.shape[:-3]), *mask.shape[-3:])
    return mask, kind


def _tiles(size, block) -> int:
    """How many tiles cover `size`; one for nothing, because a program must still write the rows' sums."""
    return max(1, ceil_div(size, block))
