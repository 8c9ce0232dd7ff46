"""Dropout on CuPy arrays: one pass that draws the mask and writes the result, forward and backward alike."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, copy_into
from ..launch import ceil_div, empty, launch
from . import Affine, alpha_affine, plain_affine

_BLOCK = 1024


@triton.jit(do_not_specialize=["seed"])  # a new seed every step must not mean a new form
def dropout_kernel(
    x, y, rows, length, seed: tl.int64, p: tl.float32, scale: tl.float64, shift: tl.float64, dropped: tl.float64,
    BY_ROW: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """y = scale * x + shift where Philox draws at least p, else `dropped`; x, y [rows, length], a tile a program.

    BY_ROW draws one number for each row, otherwise each element has its own, by its index in C order.
    """
    blocks = tl.cdiv(length, BLOCK_COLUMNS)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = (program % blocks).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (row < rows) & (column < length)
    offset = row * length + column
    value = tl.load(x + offset, mask=inside, other=0.0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    kept = tl.rand(seed, row if BY_ROW else offset) >= p
    # Numbers arrive in float64, for arrays of it, and are rounded here for the others.
    wide = tl.zeros(value.shape, tl.float64)
    scaled = (wide + scale).to(value.dtype) * value + (wide + shift).to(value.dtype)
    result = tl.where(kept, scaled, (wide + dropped).to(value.dtype))
    tl.store(y + offset, result.to(y.dtype.element_ty), mask=inside)


def _run(x, affine, p, seed, mask_axes, out):
    """The kernel on x of any shape; `mask_axes` None draws for every element."""
    target = out if out is not None and out.flags.c_contiguous else empty(x)
    if mask_axes is None:
        rows, length = 1, x.size
    else:
        rows, length = math.prod(x.shape[:mask_axes]), math.prod(x.shape[mask_axes:])
    columns = 16 if length <= 16 else 128 if length <= 128 else _BLOCK
    launch(
        dropout_kernel,
        (ceil_div(rows, _BLOCK // columns) * ceil_div(length, columns),),
        contiguous(x), target, rows, length, int(seed), float(np.float32(p)), *map(float, affine),
        BY_ROW=mask_axes is not None, BLOCK_ROWS=_BLOCK // columns, BLOCK_COLUMNS=columns,
    )  # fmt: skip
    if out is not None and target is not out:
        copy_into(out, target)
        target = out
    return target, (affine.scale, p, seed, mask_axes)


def dropout_forward(x, *, p, seed, out=None):
    return _run(x, plain_affine(p), p, seed, None, out)


def alpha_dropout_forward(x, *, p, seed, out=None):
    return _run(x, alpha_affine(p), p, seed, None, out)


def channel_dropout_forward(x, *, p, seed, mask_axes=2, out=None):
    return _run(x, plain_affine(p), p, seed, mask_axes, out)


def feature_alpha_dropout_forward(x, *, p, seed, mask_axes=2, out=None):
    return _run(x, alpha_affine(p), p, seed, mask_axes, out)


def dropout_backward(saved, grad_y, needs):
    scale, p, seed, mask_axes = saved
    return (_run(grad_y, Affine(scale, 0.0, 0.0), p, seed, mask_axes, None)[0] if needs[0] else None,)


alpha_dropout_backward = channel_dropout_backward = feature_alpha_dropout_backward = dropout_backward
