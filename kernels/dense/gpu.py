"""Dense products on CuPy arrays: one tiled tensor-core product (`gpu_product.py`) for every transposition, bias and
activation in its epilogue.

Backward, the activation's derivative is in the products' prologue, and the bias gradient comes with the gradient of the
weight, where that repeats little work (`GRADIENTS`): every tile of grad_y is differentiated anew for each column of
tiles. Elsewhere both are passes of their own, and large products then go through tensor maps."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import ceil_div, empty, launch
from ..tuning import Choice
from .gpu_product import gradient_product, product
from .gpu_tiles import differentiate

_CODES = {None: 0, "relu": 1, "sigmoid": 2, "tanh": 3, "gelu": 4}


@triton.jit
def dense_grad_sum_kernel(grad_y, state, grad_z, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """grad_z = grad_y * activation'(z), from the activation's result (`state` = y) or for GELU its argument (z)."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0)
    value = tl.load(state + offset, mask=inside, other=0.0)
    gradient = differentiate(gradient, value, ACTIVATION)
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


# in_features up to which an element of grad_y meets two tiles at most, and elements that are differentiated in the time
# that the launch of another kernel takes.
_FEW_COLUMNS, _FEW_ELEMENTS = 128, 2**20

GRADIENTS = Choice(
    "dense.gradients",
    ("FUSED",),
    candidates=lambda dtype, rows, columns, inner: [(0,), (1,)],
    default=lambda architecture, dtype, rows, columns, inner: (
        # Not in float64, where registers would spill.
        int(dtype.itemsize < 8 and (inner <= _FEW_COLUMNS or rows * columns * ceil_div(inner, 64) <= _FEW_ELEMENTS)),
    ),
)


def column_sum(x, total=None):
    """The sum of x [rows, columns] over its rows, contiguous: into `total` if it is given."""
    total, tile = empty(x, (x.shape[1],)) if total is None else total, COLUMN_SUM.pick(x, *x.shape)
    launch(
        column_sum_kernel,
        (ceil_div(x.shape[1], tile["BLOCK_COLUMNS"]),),
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
    state = None if activation is None else y_rows[0] if z is None else z[0]
    return y, (x.shape, rows[0], weight, state, code)


def dense_backward(saved, grad_y, needs):
    x_shape, rows, weight, state, code = saved
    grad_y = contiguous(grad_y).reshape(rows.shape[0], weight.shape[0])
    grad_x, grad_weight = (empty(like) if needed else None for like, needed in zip((rows, weight), needs))
    grad_bias = empty(weight, weight.shape[:1]) if needs[2] else None
    fused = GRADIENTS.pick(weight, rows.shape[0], *weight.shape)["FUSED"] and rows.size and weight.size
    backward = _backward_in_products if fused else _backward_in_passes
    backward(grad_y, state, code, rows, weight, grad_x, grad_weight, grad_bias)
    return None if grad_x is None else grad_x.reshape(x_shape), grad_weight, grad_bias


def _backward_in_products(grad_y, state, code, rows, weight, grad_x, grad_weight, grad_bias) -> None:
    """What of the gradients is wanted: each product differentiates what it reads of grad_y."""
    state = state if code else None
    if grad_x is not None:
        gradient_product(grad_y, state, code, weight, grad_x)
    if grad_weight is not None:
        gradient_product(grad_y.T, None if state is None else state.T, code, rows, grad_weight, grad_bias)
    elif grad_bias is not None:
        column_sum(_differentiated(grad_y, state, code) if code else grad_y, grad_bias)


def _backward_in_passes(grad_y, state, code, rows, weight, grad_x, grad_weight, grad_bias) -> None:
    """What of the gradients is wanted: grad_y is differentiated once."""
    grad_z = _differentiated(grad_y, state, code) if code else grad_y
    if grad_x is not None:
        product(grad_z[None], weight[None], grad_x[None])
    if grad_weight is not None:
        product(grad_z.T[None], rows[None], grad_weight[None])
    if grad_bias is not None:
        column_sum(grad_z, grad_bias)


def _differentiated(grad_y, state, code):
    """grad_y * activation'(z)."""
    grad_z, grid = empty(grad_y), (ceil_div(grad_y.size, 1024),)
    launch(dense_grad_sum_kernel, grid, grad_y, state, grad_z, grad_z.size, ACTIVATION=code, BLOCK=1024)
    return grad_z


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
