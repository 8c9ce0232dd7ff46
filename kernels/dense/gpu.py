"""Dense products on CuPy arrays: one tiled tensor-core product (`gpu_product.py`) for every transposition, bias and
activation in its epilogue; the activation's derivative and the bias gradient as passes of their own."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import empty, launch
from ..tuning import Choice
from .gpu_product import product

_RELU, _SIGMOID, _TANH, _GELU = (tl.constexpr(code) for code in range(1, 5))
_CODES = {None: 0, "relu": 1, "sigmoid": 2, "tanh": 3, "gelu": 4}


@triton.jit
def dense_grad_sum_kernel(grad_y, state, grad_z, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """grad_z = grad_y * activation'(z), from the activation's result (`state` = y) or for GELU its argument (z)."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0)
    value = tl.load(state + offset, mask=inside, other=0.0)
    if gradient.dtype != tl.float64:
        gradient, value = gradient.to(tl.float32), value.to(tl.float32)
    if ACTIVATION == _RELU:
        gradient = tl.where(value > 0, gradient, 0.0)
    elif ACTIVATION == _SIGMOID:
        gradient *= value * (1 - value)
    elif ACTIVATION == _TANH:
        gradient *= 1 - value * value
    else:
        density = 0.3989422804014327 * tl.exp(-0.5 * value * value)
        gradient *= 0.5 * (1 + tl.erf(value * 0.7071067811865476)) + value * density
    tl.store(grad_z + offset, gradient.to(grad_z.dtype.element_ty), mask=inside)


@triton.jit
def column_sum_kernel(
    x, total, rows, columns, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ACCUMULATOR: tl.constexpr
):
    """total[c] = sum over r of x[r, c]: a program owns some columns and walks down all rows, in a fixed order."""
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    row = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    partial = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=ACCUMULATOR)
    for start in range(0, rows, BLOCK_ROWS):
        inside = (start + row[:, None] < rows) & (column[None, :] < columns)
        partial += tl.load(x + (start + row)[:, None] * columns + column[None, :], mask=inside, other=0.0).to(
            ACCUMULATOR
        )
    tl.store(total + column, tl.sum(partial, axis=0).to(total.dtype.element_ty), mask=column < columns)


COLUMN_SUM = Choice(
    "dense.column_sum",
    ("BLOCK_ROWS", "BLOCK_COLUMNS", "num_warps"),
    candidates=lambda dtype, rows, columns: [
        (128, 32, 4), (128, 32, 8), (64, 64, 4), (64, 32, 8), (64, 32, 4), (256, 16, 8), (128, 16, 4), (256, 8, 4),
    ],
    default=lambda architecture, dtype, rows, columns: (64, 32, 4),
)  # fmt: skip


def column_sum(x):
    """The sum of x [rows, columns] over its rows."""
    total, tile = empty(x, (x.shape[1],)), COLUMN_SUM.pick(x, *x.shape)
    launch(
        column_sum_kernel,
        (triton.cdiv(x.shape[1], tile["BLOCK_COLUMNS"]),),
        x, total, *x.shape,
        ACCUMULATOR=tl.float64 if x.dtype == np.float64 else tl.float32, **tile,
    )  # fmt: skip
    return total


def dense_forward(x, weight, bias=None, *, activation=None, out=None):
    y = empty(x, (*x.shape[:-1], weight.shape[0])) if out is None else out
    rows, code = contiguous(x).reshape(1, math.prod(x.shape[:-1]), x.shape[-1]), _CODES[activation]
    y_rows = y.reshape(1, rows.shape[1], weight.shape[0])
    z = empty(y_rows) if activation == "gelu" else None
    product(rows, weight.T[None], y_rows, None if bias is None else contiguous(bias), z, code)
    return y, (x.shape, rows[0], weight, y_rows[0] if z is None else z[0], code)


def dense_backward(saved, grad_y, needs):
    x_shape, rows, weight, state, code = saved
    grad_z = contiguous(grad_y).reshape(rows.shape[0], weight.shape[0])
    if code:
        grad_y_rows, grad_z = grad_z, empty(grad_z)
        grid = (triton.cdiv(grad_z.size, 1024),)
        launch(dense_grad_sum_kernel, grid, grad_y_rows, state, grad_z, grad_z.size, ACTIVATION=code, BLOCK=1024)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = empty(rows)
        product(grad_z[None], weight[None], grad_x[None])
        grad_x = grad_x.reshape(x_shape)
    if needs[1]:
        grad_weight = empty(weight)
        product(grad_z.T[None], rows[None], grad_weight[None])
    if needs[2]:
        grad_bias = column_sum(grad_z)
    return grad_x, grad_weight, grad_bias


def matmul_forward(a, b, *, out=None):
    rows, columns = _matrices(a, b)
    leading = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    shape = leading + (() if a.ndim == 1 else a.shape[-2:-1]) + (() if b.ndim == 1 else b.shape[-1:])
    c = empty(a, shape) if out is None else out
    if c.shape != shape or c.dtype != a.dtype or not c.flags.c_contiguous:
        raise ValueError(
            f"matmul: expected out as a contiguous array of shape {shape} and type {a.dtype}, "
            f"got shape {c.shape} and type {c.dtype}"
        )
    product(rows, columns, c)
    return c, (a, b)


def matmul_backward(saved, grad_c, needs):
    a, b = saved
    rows, columns = _matrices(a, b)
    if a.ndim == 1:
        grad_c = grad_c[..., None] if b.ndim == 1 else grad_c[..., None, :]
    if b.ndim == 1:
        grad_c = grad_c[..., None]
    grad_a = grad_b = None
    if needs[0]:
        grad_a = empty(a)
        product(grad_c, columns.swapaxes(-1, -2), grad_a, summed=_stretched(rows, grad_c))
    if needs[1]:
        grad_b = empty(b)
        product(rows.swapaxes(-1, -2), grad_c, grad_b, summed=_stretched(columns, grad_c))
    return grad_a, grad_b


def _matrices(a, b):
    """A vector as the row (a) or the column (b) that it stands for."""
    return a[None, :] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b


def _stretched(x, stretched) -> tuple[int, ...]:
    """The leading axes along which one x stands for all, or for none."""
    missing, leading = stretched.ndim - x.ndim, stretched.shape[:-2]
    return tuple(
        axis for axis, size in enumerate(leading) if axis < missing or (x.shape[axis - missing] == 1 and size != 1)
    )
