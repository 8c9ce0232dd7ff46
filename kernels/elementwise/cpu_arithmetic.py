"""Arithmetic of two operands on NumPy arrays, with its gradients: one pass over memory, shared among the threads.

Broadcasting is brought down to three axes [outer, middle, inner] along which an operand is either walked or repeated;
axes that all operands walk together count as one. Along the inner axis one operand is always walked, the other one is a
vector too or a number. What does not come down to that, and what is so small that a second thread would wake up too
late, is NumPy's.

The sums of gradients over the axes that an operand was repeated along are part of the pass. Their order depends on the
shapes alone.
"""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_sums import line_sum
from ..memory import empty
from ..reduce.cpu import float_sum
from .broadcasting import broadcast_shape, broadcast_to, merged, stretched_axes, sum_to_shape
from .memory_order import axes_by_memory, flat, unflat

ADD, MULTIPLY, MAXIMUM, MINIMUM, SUBTRACT, DIVIDE, _SUBTRACT_FROM, _DIVIDE_INTO = range(8)
REVERSED = {SUBTRACT: _SUBTRACT_FROM, DIVIDE: _DIVIDE_INTO}

_WORTH_THREADS = 1 << 16  # elements; NumPy has combined fewer before another thread has woken up
_BLOCK = 8192  # elements that a thread takes at a time
_PIECE = 2048  # elements whose gradients wait in the first-level cache to be added
_ROWS = 128  # rows that are added to each other before other threads' sums come in


@serial_kernel
def combine(x, y, code, z):
    """z = f(x, y) for vectors."""
    if code == ADD:
        for i in range(len(z)):
            z[i] = x[i] + y[i]
    elif code == MULTIPLY:
        for i in range(len(z)):
            z[i] = x[i] * y[i]
    elif code == MAXIMUM:
        for i in range(len(z)):
            z[i] = x[i] if (x[i] > y[i]) | (x[i] != x[i]) else y[i]
    elif code == MINIMUM:
        for i in range(len(z)):
            z[i] = x[i] if (x[i] < y[i]) | (x[i] != x[i]) else y[i]
    elif code == SUBTRACT:
        for i in range(len(z)):
            z[i] = x[i] - y[i]
    elif code == DIVIDE:
        for i in range(len(z)):
            z[i] = x[i] / y[i]


@serial_kernel
def combine_with_number(x, y, code, z):
    """z = f(x, y) for vectors x and z and a number y; two codes have them change places."""
    if code == ADD:
        for i in range(len(z)):
            z[i] = x[i] + y
    elif code == MULTIPLY:
        for i in range(len(z)):
            z[i] = x[i] * y
    elif code == MAXIMUM:
        for i in range(len(z)):
            z[i] = x[i] if (x[i] > y) | (x[i] != x[i]) else y
    elif code == MINIMUM:
        for i in range(len(z)):
            z[i] = x[i] if (x[i] < y) | (x[i] != x[i]) else y
    elif code == SUBTRACT:
        for i in range(len(z)):
            z[i] = x[i] - y
    elif code == DIVIDE:
        for i in range(len(z)):
            z[i] = x[i] / y
    elif code == _SUBTRACT_FROM:
        for i in range(len(z)):
            z[i] = y - x[i]
    elif code == _DIVIDE_INTO:
        for i in range(len(z)):
            z[i] = y / x[i]


@kernel
def binary_kernel(x, y, code, sizes, x_steps, y_steps, z):
    """z [outer, middle, inner] = f(x, y). All arrays flat; the steps say how far x and y go on along each axis, along
    the inner one 1 for x, and 1 or 0 for y."""
    outer, middle, inner = sizes
    rows, pieces, height = outer * middle, (inner + _BLOCK - 1) // _BLOCK, max(1, _BLOCK // inner)
    for job in prange((rows + height - 1) // height * pieces):
        first_row, start = job // pieces * height, job % pieces * _BLOCK
        count = min(_BLOCK, inner - start)
        for row in range(first_row, min(first_row + height, rows)):
            o, m = row // middle, row % middle
            x_at = o * x_steps[0] + m * x_steps[1] + start
            y_at = o * y_steps[0] + m * y_steps[1] + start * y_steps[2]
            z_at = row * inner + start
            if y_steps[2] == 0:
                combine_with_number(x[x_at : x_at + count], y[y_at], code, z[z_at : z_at + count])
            else:
                combine(x[x_at : x_at + count], y[y_at : y_at + count], code, z[z_at : z_at + count])


@serial_kernel
def gradients(grad, x, y, code, grad_x, grad_y):
    """grad_x = grad df/dx and grad_y = grad df/dy for vectors. Those that tie for a maximum get one half each."""
    zero, half = grad.dtype.type(0), grad.dtype.type(0.5)
    if code == MULTIPLY:
        for i in range(len(grad)):
            grad_x[i] = grad[i] * y[i]
            grad_y[i] = grad[i] * x[i]
    elif code == DIVIDE:
        for i in range(len(grad)):
            grad_x[i] = grad[i] / y[i]
            grad_y[i] = -grad[i] * (x[i] / y[i] / y[i])
    elif code == MAXIMUM:
        for i in range(len(grad)):
            tie = half * grad[i] if x[i] == y[i] else zero * grad[i]
            grad_x[i] = grad[i] if x[i] > y[i] else tie
            grad_y[i] = grad[i] if x[i] < y[i] else tie
    elif code == MINIMUM:
        for i in range(len(grad)):
            tie = half * grad[i] if x[i] == y[i] else zero * grad[i]
            grad_x[i] = grad[i] if x[i] < y[i] else tie
            grad_y[i] = grad[i] if x[i] > y[i] else tie


@kernel
def pair_grad_kernel(grad, x, y, code, grad_x, grad_y):
    """Both gradients of operands of one shape; all arrays flat."""
    for block in prange((grad.size + _PIECE - 1) // _PIECE):
        first, last = block * _PIECE, (block + 1) * _PIECE
        gradients(grad[first:last], x[first:last], y[first:last], code, grad_x[first:last], grad_y[first:last])


@kernel
def row_grad_kernel(grad, full, repeated, code, swapped, middle, grad_full, partial):
    """Gradients where each row of `full` [rows, inner] met one number, row by row through `repeated` [middle].

    partial [rows, pieces]: what each piece of a row adds to its number's gradient. swapped: `repeated` stands first.
    """
    rows, pieces = partial.shape
    inner = full.size // rows
    height = max(1, _BLOCK // inner)
    for job in prange((rows + height - 1) // height * pieces):
        first_row, start = job // pieces * height, job % pieces * _PIECE
        count = min(_PIECE, inner - start)
        numbers, shares = np.empty(count, full.dtype), np.empty(count, full.dtype)
        for row in range(first_row, min(first_row + height, rows)):
            numbers[:] = repeated[row % middle]
            first, last = row * inner + start, row * inner + start + count
            if swapped:
                gradients(grad[first:last], numbers, full[first:last], code, shares, grad_full[first:last])
            else:
                gradients(grad[first:last], full[first:last], numbers, code, grad_full[first:last], shares)
            partial[row, job % pieces] = line_sum(shares)


@kernel
def column_grad_kernel(grad, full, repeated, code, swapped, middle, grad_full, partial):
    """Gradients where all rows of `full` [outer, middle, inner] met the same vector, `repeated` [outer, inner].

    partial [outer, blocks, inner]: what each block of rows adds to the vector's gradient. swapped: as above. Walks
    whole rows, a strip at a time, so that memory is read in order and the sums stay in the cache.
    """
    outer, blocks, inner = partial.shape
    strips = (inner + _PIECE - 1) // _PIECE
    for job in prange(outer * blocks * strips):
        o, block, start = job // (blocks * strips), job // strips % blocks, job % strips * _PIECE
        count = min(_PIECE, inner - start)
        vector, totals = (
            repeated[o * inner + start : o * inner + start + count],
            partial[o, block, start : start + count],
        )
        shares = np.empty(count, full.dtype)
        totals[:] = 0
        for row in range(o * middle + block * _ROWS, o * middle + min((block + 1) * _ROWS, middle)):
            first, last = row * inner + start, row * inner + start + count
            if swapped:
                gradients(grad[first:last], vector, full[first:last], code, shares, grad_full[first:last])
            else:
                gradients(grad[first:last], full[first:last], vector, code, grad_full[first:last], shares)
            for i in range(count):
                totals[i] += shares[i]


def worth_threads(x, y) -> bool:
    """Whether operands, arrays of one type or one of them a number, are floating-point and one has many elements."""
    if type(x) is np.ndarray and x.size >= _WORTH_THREADS:
        return x.dtype.kind == "f"
    return type(y) is np.ndarray and y.size >= _WORTH_THREADS and y.dtype.kind == "f"


def combined(code, x, y, out=None):
    """f(x, y) in `out`, or in an array laid out like an operand; None where the axes do not come down to three."""
    x, y = _as_arrays(x, y)
    shape = broadcast_shape(x, y)
    if 0 in shape:
        return None
    order = axes_by_memory(next((array for array in (out, x, y) if array is not None and array.shape == shape), x))
    x_flat, x_steps = _walked(_once(x), shape, order)
    y_flat, y_steps = _walked(_once(y), shape, order)
    sizes, (x_steps, y_steps) = merged(_in_order(shape, order), x_steps, y_steps)
    if x_steps[-1] == 0:
        x_flat, y_flat, x_steps, y_steps, code = y_flat, x_flat, y_steps, x_steps, REVERSED.get(code, code)
    z = empty(math.prod(shape), x.dtype) if out is None else flat(out, order)
    if len(sizes) > 3 or x_steps[-1] != 1 or y_steps[-1] > 1 or not (out is None or np.may_share_memory(z, out)):
        return None
    missing = 3 - len(sizes)
    binary_kernel(
        x_flat, y_flat, code,
        (1,) * missing + tuple(sizes), (0,) * missing + tuple(x_steps), (0,) * missing + tuple(y_steps), z,
    )  # fmt: skip
    return unflat(z, shape, order) if out is None else out


def both_gradients(code, x, y, grad):
    """(grad_x, grad_y) in one pass; None where the axes do not come down to three, or both operands are stretched."""
    x, y = _as_arrays(x, y)
    shape, swapped = grad.shape, x.shape != grad.shape
    full, repeated = (y, x) if swapped else (x, y)
    if full.shape != shape:
        return None
    order = axes_by_memory(full)
    repeated_flat, steps = _walked(repeated, shape, order)
    sizes, (steps,) = merged(_in_order(shape, order), steps)
    full_flat, grad_flat = flat(full, order), flat(grad, order)
    grad_full = empty(full.size, full.dtype)
    if repeated.shape == shape:
        grad_repeated = empty(full.size, full.dtype)
        pair_grad_kernel(grad_flat, full_flat, flat(repeated, order), code, grad_full, grad_repeated)
        return unflat(grad_full, shape, order), unflat(grad_repeated, shape, order)
    if steps in ([0], [1, 0], [0, 1, 0]):
        middle, inner = math.prod(sizes[-2:-1]), sizes[-1]
        partial = empty((full.size // inner, -(-inner // _PIECE)), full.dtype)
        row_grad_kernel(grad_flat, full_flat, repeated_flat, code, swapped, middle, grad_full, partial)
        grad_repeated = partial.reshape(-1, middle, partial.shape[1]).sum((0, 2), dtype=np.float64)
    elif steps in ([0, 1], [sizes[-1], 0, 1]):
        middle, inner = sizes[-2:]
        partial = empty((full.size // (middle * inner), -(-middle // _ROWS), inner), full.dtype)
        column_grad_kernel(grad_flat, full_flat, repeated_flat, code, swapped, middle, grad_full, partial)
        grad_repeated = partial.sum(1, dtype=np.float64)
    else:
        return None
    grad_repeated = unflat(grad_repeated.astype(full.dtype).reshape(-1), repeated.shape, axes_by_memory(repeated))
    grads = unflat(grad_full, shape, order), grad_repeated
    return grads[::-1] if swapped else grads


def summed_to_shape(grad, shape):
    """grad summed over the axes along which broadcasting stretched an operand of this shape; as a view if there are
    none."""
    if grad.shape == shape:
        return grad
    if grad.size < _WORTH_THREADS or grad.dtype.kind != "f":
        return sum_to_shape(grad, shape)
    return float_sum(grad, stretched_axes(grad.shape, shape)).reshape(shape)


def _as_arrays(x, y):
    """The operands, a number as an array without axes."""
    if type(x) is not np.ndarray:
        x = np.full((), x, y.dtype)
    elif type(y) is not np.ndarray:
        y = np.full((), y, x.dtype)
    return x, y


def _once(x):
    """x without the axes along which its memory is repeated: they count 1, and broadcast again."""
    if 0 not in x.strides:
        return x
    return x[tuple(slice(0, 1) if step == 0 else slice(None) for step in x.strides)]


def _walked(x, shape, order):
    """x's elements as they lie in memory, and how far to go on in them along each axis of `shape` in that order."""
    vector = flat(x, own_order := axes_by_memory(x))
    if own_order is not None:
        x = unflat(vector, x.shape, own_order)
    steps = broadcast_to(x, shape).strides
    return vector, [step // x.itemsize for step in _in_order(steps, order)]


def _in_order(values, order):
    return values if order is None else [values[axis] for axis in order]
