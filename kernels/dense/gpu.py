"""Dense products on CuPy arrays: one tiled tensor-core product for every transposition, bias and activation in its
epilogue; the activation's derivative and the bias gradient as passes of their own."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import empty, launch

_IDENTITY, _RELU, _SIGMOID, _TANH, _GELU = (tl.constexpr(code) for code in range(5))
_CODES = {None: 0, "relu": 1, "sigmoid": 2, "tanh": 3, "gelu": 4}


@triton.jit
def product_forward_kernel(
    a, b, c, bias, state,
    m, n, k,
    a_batch, a_row, a_column, b_batch, b_row, b_column, c_batch, c_row,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """c = activation(a b + bias); `state` gets a b + bias where the backward needs it (GELU).

    A program makes one BLOCK_M x BLOCK_N tile of c. Programs walk GROUP_M rows of tiles before they move a column on,
    so that the tiles of b which they share stay in the L2 cache.
    """
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    group = program // (GROUP_M * tiles_n)
    rows_of_group = min(tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + (program % (GROUP_M * tiles_n)) % rows_of_group
    tile_n = (program % (GROUP_M * tiles_n)) // rows_of_group
    batch = tl.program_id(1).to(tl.int64)

    row = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)  # 64 bits: m * n may pass 2**31
    column = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    inner = tl.arange(0, BLOCK_K)
    a_tile = a + batch * a_batch + row[:, None] * a_row + inner[None, :] * a_column
    b_tile = b + batch * b_batch + inner[:, None] * b_row + column[None, :] * b_column
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACCUMULATOR)
    for start in range(0, k, BLOCK_K):
        left = tl.load(a_tile, mask=(row[:, None] < m) & (inner[None, :] < k - start), other=0.0)
        right = tl.load(b_tile, mask=(inner[:, None] < k - start) & (column[None, :] < n), other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
        a_tile += BLOCK_K * a_column
        b_tile += BLOCK_K * b_row
    inside = (row[:, None] < m) & (column[None, :] < n)
    if bias is not None:
        total += tl.load(bias + column, mask=column < n, other=0.0).to(ACCUMULATOR)[None, :]
    offset = batch * c_batch + row[:, None] * c_row + column[None, :]
    if state is not None:
        tl.store(state + offset, total.to(state.dtype.element_ty), mask=inside)
    if ACTIVATION == _RELU:
        total = tl.where(total > 0, total, tl.where(total == total, 0.0, total))
    elif ACTIVATION == _SIGMOID:
        total = 1 / (1 + tl.exp(-total))
    elif ACTIVATION == _TANH:
        total = 2 / (1 + tl.exp(-2 * total)) - 1
    elif ACTIVATION == _GELU:
        total = 0.5 * total * (1 + tl.erf(total * 0.7071067811865476))
    tl.store(c + offset, total.to(c.dtype.element_ty), mask=inside)


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


def product(a, b, c, bias=None, state=None, activation: int = 0) -> None:
    """c = activation(a b + bias) for a [batch, m, k] and b [batch, k, n] of any strides, c [batch, m, n] contiguous."""
    (batch, m, k), n = a.shape, b.shape[-1]
    double = a.dtype == np.float64
    block_m, block_n = (32, 32) if double else (64 if m > 32 else 32, 64 if n > 32 else 32)
    launch(
        product_forward_kernel,
        (triton.cdiv(m, block_m) * triton.cdiv(n, block_n), batch),
        a, b, c, bias, state,
        m, n, k,
        *_strides(a), *_strides(b), *_strides(c)[:2],
        ACTIVATION=activation,
        # Three TF32 products a float32 product: float32's digits at tensor-core speed.
        PRECISION="tf32x3" if a.dtype == np.float32 else "ieee",
        ACCUMULATOR=tl.float64 if double else tl.float32,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=32, GROUP_M=8,
        num_warps=4, num_stages=2 if double else 3,
    )  # fmt: skip


def column_sum(x):
    """The sum of x [rows, columns] over its rows."""
    total = empty(x, (x.shape[1],))
    launch(
        column_sum_kernel,
        (triton.cdiv(x.shape[1], 32),),
        x, total, *x.shape,
        BLOCK_ROWS=64, BLOCK_COLUMNS=32, ACCUMULATOR=tl.float64 if x.dtype == np.float64 else tl.float32,
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


def _strides(x) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(stride // x.itemsize for stride in x.strides)
