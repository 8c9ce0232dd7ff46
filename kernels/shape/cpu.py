"""Moving elements of NumPy arrays: copies of whole blocks are NumPy's; gradients that meet are added by a kernel in
which every thread owns a range of targets."""

import math

import numpy as np
from numba import prange

from ..accumulate import copy_into, fill
from ..cpu_jit import kernel
from ..memory import empty, zeros
from .cpu_copies import WORTH_THREADS, concatenate, pad_planes, take_rows

_OWNERS = 8  # ranges of target rows; fixed, so that the machine's number of threads changes nothing
_ADDITIONS_WORTH_THREADS = 1 << 14  # fewer are there before another thread has woken up


@kernel
def scatter_add_rows_kernel(source, rows, target):
    """target[rows[k]] += source[k], in the order of k for every target.

    Each range of target rows has one owner, which reads all of `rows` and adds what falls into its range.
    """
    share = (target.shape[0] + _OWNERS - 1) // _OWNERS
    for owner in prange(_OWNERS):
        first, last = owner * share, (owner + 1) * share
        for k in range(rows.size):
            row = rows[k]
            if first <= row < last:
                for c in range(target.shape[1]):
                    target[row, c] += source[k, c]


def _scatter_add(grad, rows, shape, row_size):
    """Zeros of `shape`, seen as rows of `row_size` elements, plus grad's rows where `rows` says."""
    grad_x = zeros(shape, grad.dtype)
    if grad.size:
        many = grad.size + _OWNERS * rows.size > _ADDITIONS_WORTH_THREADS  # every owner looks at every row
        run = scatter_add_rows_kernel if many else scatter_add_rows_kernel.serial
        run(np.ascontiguousarray(grad).reshape(rows.size, row_size), rows.ravel(), grad_x.reshape(-1, row_size))
    return grad_x


def concatenate_forward(*arrays, axis, out=None):
    if out is None:
        shape = list(arrays[0].shape)
        shape[axis] = sum(x.shape[axis] for x in arrays)
        out = empty(tuple(shape), arrays[0].dtype)
    if out.nbytes < WORTH_THREADS or not out.flags.c_contiguous:
        for part, x in zip(_parts(out, [x.shape[axis] for x in arrays], axis), arrays):
            copy_into(part, x)
    else:
        concatenate(arrays, axis, out)
    return out, ([x.shape[axis] for x in arrays], axis)


def concatenate_backward(saved, grad, needs):
    if not any(needs):
        return (None,) * len(needs)
    sizes, axis = saved
    return tuple(part if needed else None for part, needed in zip(_parts(grad, sizes, axis), needs))


def split_forward(x, *, sizes, axis):
    return tuple(_parts(x, sizes, axis)), (x.shape, sizes, axis)


def split_backward(saved, grads, needs):
    if not needs[0]:
        return (None,)
    shape, sizes, axis = saved
    grad_x = empty(shape, next(grad.dtype for grad in grads if grad is not None))
    for target, grad in zip(_parts(grad_x, sizes, axis), grads):
        if grad is None:
            fill(target, 0)
        else:
            copy_into(target, grad)
    return (grad_x,)


def _parts(x, sizes, axis):
    """Views of x, one after another along the axis."""
    parts, start = [], 0
    for size in sizes:
        parts.append(x[(slice(None),) * axis + (slice(start, start + size),)])
        start += size
    return parts


def scatter_slice_forward(x, *, shape, index, out=None):
    if out is None:
        out = zeros(shape, x.dtype)
    else:
        fill(out, 0)
    if isinstance(target := out[index], np.ndarray):
        copy_into(target, x)
    else:  # NumPy gives a single element as a number
        out[index] = x
    return out, index


def scatter_slice_backward(index, grad, needs):
    return (np.asarray(grad[index]) if needs[0] else None,)


def advanced_index_forward(x, *indices, axis):
    """x as [outer, rows, row_size]: the indices name rows, and with them whole blocks of memory are copied."""
    sizes = x.shape[axis : axis + len(indices)]
    rows = np.zeros((), np.int64)
    for index, size in zip(indices, sizes):
        rows = rows * size + np.where(index < 0, index + np.int64(size), index)
    count = math.prod(sizes)
    outer, row_size = math.prod(x.shape[:axis]), math.prod(x.shape[axis + len(indices) :])
    if outer != 1:
        rows = rows.reshape(1, -1) + np.arange(outer).reshape(-1, 1) * count
    flat = np.ascontiguousarray(x).reshape(outer * count, row_size)
    index_shape = np.broadcast_shapes(*(index.shape for index in indices))
    y = empty((rows.size, row_size), x.dtype)
    if y.nbytes >= WORTH_THREADS:
        take_rows(flat, rows.reshape(-1), y)
    elif y.size:
        np.take(flat, rows.ravel(), axis=0, out=y, mode="clip")  # "raise" would go through a buffer
    y = y.reshape((*x.shape[:axis], *index_shape, *x.shape[axis + len(indices) :]))
    return y, (x.shape, rows, row_size)


def advanced_index_backward(saved, grad, needs):
    shape, rows, row_size = saved
    grad_x = _scatter_add(grad, rows, shape, row_size) if needs[0] else None
    return (grad_x,) + (None,) * (len(needs) - 1)


def gather_forward(x, index, *, axis):
    within = x[tuple(slice(None) if k == axis else slice(n) for k, n in enumerate(index.shape))]
    return np.take_along_axis(within, index, axis), (x.shape, index, axis)


def gather_backward(saved, grad, needs):
    if not needs[0]:
        return None, None
    shape, index, axis = saved
    # The place of every gathered element in x's memory, axis by axis.
    rows, stride = zeros(index.shape, np.int64), 1
    for k in reversed(range(index.ndim)):
        place = index if k == axis else np.arange(index.shape[k]).reshape(-1, *[1] * (index.ndim - 1 - k))
        rows += place * np.int64(stride)
        stride *= shape[k]
    return _scatter_add(grad, rows, shape, 1), None


def pad_forward(x, *, widths, mode="constant", value=0.0, out=None):
    y = empty(tuple(n + before + after for n, (before, after) in zip(x.shape, widths)), x.dtype) if out is None else out
    if mode == "constant":
        if _around_planes(x, widths) and y.flags.c_contiguous:
            pad_planes(x, widths, value, y)
            return y, (x.shape, widths, mode)
        y.fill(value)
    y[_inner(y.shape, widths)] = x[_kept(x.shape, widths)]
    if mode != "constant":
        # Axis by axis: the border reads what lies inside on this axis, corners included as earlier axes left them.
        for axis, (before, after) in enumerate(widths):
            for border, source in _borders(y.shape[axis], before, after, mode):
                y[_along(axis, border)] = y[_along(axis, source)]
    return y, (x.shape, widths, mode)


def pad_backward(saved, grad, needs):
    if not needs[0]:
        return (None,)
    shape, widths, mode = saved
    if mode == "constant":
        if _around_planes(grad, widths):
            grad_x = empty(shape, grad.dtype)
            pad_planes(grad, [(-before, -after) for before, after in widths], 0, grad_x)
            return (grad_x,)
        grad_x = zeros(shape, grad.dtype)
        grad_x[_kept(shape, widths)] = grad[_inner(grad.shape, widths)]
        return (grad_x,)
    grad = grad.copy()
    for axis, (before, after) in reversed(list(enumerate(widths))):
        for border, source in _borders(grad.shape[axis], before, after, mode):
            returned = grad[_along(axis, border)]
            grad[_along(axis, source)] += returned.sum(axis, keepdims=True) if mode == "replicate" else returned
    return (grad[_inner(grad.shape, widths)],)


def _around_planes(x, widths):
    """Whether only the last two axes of floating-point planes have a border."""
    return x.ndim >= 2 and x.dtype.kind == "f" and not any(map(any, widths[:-2]))


def _along(axis, part):
    return (slice(None),) * axis + (part,)


def _inner(padded_shape, widths):
    """Where x lies in the padded array."""
    return tuple(slice(max(before, 0), n - max(after, 0)) for n, (before, after) in zip(padded_shape, widths))


def _kept(shape, widths):
    """What of x lies in the padded array: all but what negative widths crop."""
    return tuple(slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(shape, widths))


def _borders(padded, before, after, mode):
    """Pairs (border, the place that it is read from) along one axis of `padded` positions."""
    first, last = before, padded - after - 1  # of x within the padded axis
    if mode == "reflect":
        left, right = _reversed(first + 1, first + 1 + before), _reversed(last - after, last)
    elif mode == "replicate":
        left, right = slice(first, first + 1), slice(last, last + 1)
    else:
        left, right = slice(last + 1 - before, last + 1), slice(first, first + after)
    borders = [(slice(0, before), left)] if before else []
    return borders + ([(slice(last + 1, padded), right)] if after else [])


def _reversed(start, stop):
    """The positions stop - 1, ..., start."""
    return slice(stop - 1, start - 1 if start else None, -1)


def roll_forward(x, *, shifts, axes):
    return np.roll(x, shifts, axes), (shifts, axes)


def roll_backward(saved, grad, needs):
    shifts, axes = saved
    return (np.roll(grad, tuple(-shift for shift in shifts), axes) if needs[0] else None,)


def triangle_forward(x, *, diagonal=0, upper=False):
    half = np.triu if upper else np.tril
    return half(x, diagonal), (half, diagonal)


def triangle_backward(saved, grad, needs):
    half, diagonal = saved
    return (half(grad, diagonal) if needs[0] else None,)
