"""Moving elements of CuPy arrays: blocks are copied as views; indexing, padding and triangles have kernels of their own
(`gpu_kernels.py`). Gradients that meet are added by their target, in a fixed order."""

import math

import numpy as np
import triton.language as tl

from ..gpu_arrays import contiguous, copy_into, fill, zeros
from ..launch import ceil_div, empty, launch
from .gpu_kernels import (
    CIRCULAR,
    CONSTANT,
    REFLECT,
    REPLICATE,
    extents_kernel,
    index_rows_kernel,
    pad_grad_x_kernel,
    pad_kernel,
    take_grad_x_kernel,
    take_kernel,
    take_rows_grad_x_kernel,
    triangle_kernel,
)

_BLOCK = 1024
_MODES = {"constant": CONSTANT, "reflect": REFLECT, "replicate": REPLICATE, "circular": CIRCULAR}


def _grid(size, block=_BLOCK):
    return (ceil_div(size, block),)


def _index_type(*sizes):
    """32 bits as far as they reach: 64-bit divisions are slow."""
    return tl.int32 if max(sizes) < 2**31 - 2 * _BLOCK else tl.int64


def _compute_type(dtype):
    return tl.float64 if dtype == np.float64 else tl.float32


# ---- joining and cutting


def concatenate_forward(*arrays, axis, out=None):
    sizes = [x.shape[axis] for x in arrays]
    if out is None:
        shape = arrays[0].shape
        out = empty(arrays[0], (*shape[:axis], sum(sizes), *shape[axis + 1 :]))
    for target, x in zip(_parts(out, sizes, axis), arrays):
        copy_into(target, x)
    return out, (sizes, axis)


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
    given = next(grad for grad in grads if grad is not None)
    grad_x = zeros(given, shape) if any(grad is None for grad in grads) else empty(given, shape)
    for target, grad in zip(_parts(grad_x, sizes, axis), grads):
        if grad is not None:
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
    computed = out if out is not None and out.flags.c_contiguous else empty(x, shape)
    fill(computed, 0.0)
    copy_into(_view(computed, index), x)
    if out is not None and out is not computed:
        copy_into(out, computed)
    return computed if out is None else out, index


def scatter_slice_backward(index, grad, needs):
    return (_view(grad, index) if needs[0] else None,)


def _view(x, index):
    """x[index] as an array even where all axes are indexed."""
    return x[index if Ellipsis in index else (*index, Ellipsis)]


# ---- indexing with arrays


def advanced_index_forward(x, *indices, axis):
    x, sizes = contiguous(x), x.shape[axis : axis + len(indices)]
    index_shape = np.broadcast_shapes(*(index.shape for index in indices))
    rows = empty(x, index_shape, np.dtype(np.int64))
    for number, (index, size) in enumerate(zip(indices, sizes)):
        _append_rows(rows, index.reshape((1,) * (rows.ndim - index.ndim) + index.shape), size, number == 0)
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + len(indices) :])
    y = empty(x, (*x.shape[:axis], *index_shape, *x.shape[axis + len(indices) :]))
    layout = outer, math.prod(sizes), rows.size, inner
    _take(x, rows, y, layout, (0, 1, 0))
    return y, (x.shape, rows, layout)


def _append_rows(rows, index, size, first):
    """rows = rows * size + index for an index that broadcasts to them, of as many axes."""
    if rows.ndim > 5:
        for number in range(rows.shape[0]):
            _append_rows(rows[number], index[number if index.shape[0] > 1 else 0], size, first)
        return
    missing = 5 - rows.ndim
    strides = [0 if n == 1 else step // index.itemsize for n, step in zip(index.shape, index.strides)]
    launch(
        index_rows_kernel, _grid(rows.size),
        index, rows, rows.size, size, *((1,) * missing + rows.shape)[1:], *([0] * missing + strides),
        FIRST=first, BLOCK=_BLOCK,
    )  # fmt: skip


def _take(x, index, y, layout, index_strides):
    _, size, count, inner = layout
    launch(
        take_kernel, _grid(y.size),
        x, index, y, y.size, size, count, inner, *index_strides, INDEX=_index_type(x.size, y.size), BLOCK=_BLOCK,
    )  # fmt: skip


def advanced_index_backward(saved, grad, needs):
    shape, rows, (outer, size, count, inner) = saved
    rest = (None,) * (len(needs) - 1)
    if not needs[0]:
        return None, *rest
    grad, grad_x = contiguous(grad), empty(grad, shape)
    first, last = _extents(rows, 1, size, count, 1)
    if inner < 32:
        layout = outer, size, count, inner
        _take_backward(grad, rows, first, last, grad_x, layout, (0, 1, 0), (0, 1, 0))
        return grad_x, *rest
    block = 64 if inner <= 64 else 128
    launch(
        take_rows_grad_x_kernel, (outer * size * ceil_div(inner, block),),
        grad, rows, first, last, grad_x, size, count, inner,
        COMPUTE=_compute_type(grad.dtype), SCAN=4096 // block, BLOCK=block,
    )  # fmt: skip
    return grad_x, *rest


def _extents(index, outer, size, count, inner):
    """For each target the first and the last number of an index that names it; last < first where there is none."""
    # Both bounds are powers of two, which `fill` can write.
    dtype, past = (np.dtype(np.int32), 2**30) if count < 2**30 else (np.dtype(np.int64), 2**62)
    first, last = empty(index, (outer * size * inner,), dtype), empty(index, (outer * size * inner,), dtype)
    fill(first, past)
    fill(last, -1)
    launch(
        extents_kernel, _grid(index.size),
        index, first, last, index.size, size, count, inner,
        INDEX=_index_type(first.size, index.size), BLOCK=_BLOCK,
    )  # fmt: skip
    return first, last


def _take_backward(grad, index, first, last, grad_x, layout, index_strides, extent_strides):
    _, size, count, inner = layout
    launch(
        take_grad_x_kernel, _grid(grad_x.size, 128),
        grad, index, first, last, grad_x, grad_x.size, size, count, inner, *index_strides, *extent_strides,
        COMPUTE=_compute_type(grad.dtype), INDEX=_index_type(grad.size, grad_x.size, 2**30 + count),
        BLOCK=128, SCAN=8,
    )  # fmt: skip


def _gather_layout(shape, index_shape, axis):
    """x as [outer, size, inner], index as [outer, count, inner]."""
    return math.prod(index_shape[:axis]), shape[axis], index_shape[axis], math.prod(index_shape[axis + 1 :])


def _gathered_part(shape, index_shape, axis):
    """What of x the index reaches: its first elements on all axes but `axis`."""
    return tuple(slice(n if k == axis else m) for k, (n, m) in enumerate(zip(shape, index_shape)))


def gather_forward(x, index, *, axis):
    index, part = contiguous(index), contiguous(x[_gathered_part(x.shape, index.shape, axis)])
    y = empty(x, index.shape)
    _, _, count, inner = layout = _gather_layout(x.shape, index.shape, axis)
    _take(part, index, y, layout, (count * inner, inner, 1))
    return y, (x.shape, index, axis)


def gather_backward(saved, grad, needs):
    if not needs[0]:
        return None, None
    shape, index, axis = saved
    grad, part = contiguous(grad), _gathered_part(shape, index.shape, axis)
    outer, size, count, inner = layout = _gather_layout(shape, index.shape, axis)
    grad_part = empty(grad, tuple(n if k == axis else m for k, (n, m) in enumerate(zip(shape, index.shape))))
    first, last = _extents(index, outer, size, count, inner)
    _take_backward(grad, index, first, last, grad_part, layout, (count * inner, inner, 1), (size * inner, inner, 1))
    if grad_part.shape == shape:
        return grad_part, None
    grad_x = zeros(grad, shape)
    copy_into(grad_x[part], grad_part)
    return grad_x, None


# ---- padding, shifting, triangles


def _stages(shape, widths):
    """The padding in steps that the kernels can take: each (outer, three axes), an axis being (size, before, after).

    Neighbouring axes without padding count as one; hardly any call has more than three axes then, and a second step.
    """
    axes = [(1, 0, 0)] * 3 + [(size, before, after) for size, (before, after) in zip(shape, widths)]
    stages = []
    while True:
        axes = _merged(axes)
        if stages and len(axes) <= 3 and not any(before or after for _, before, after in axes):
            return stages
        axes = [(1, 0, 0)] * (3 - len(axes)) + axes
        outer, last = axes[:-3], axes[-3:]
        stages.append((math.prod(size for size, _, _ in outer), last))
        # What has been padded is of the padded size from now on, and needs nothing more.
        axes = [*outer, (math.prod(sum(axis) for axis in last), 0, 0)]


def _merged(axes):
    merged = []
    for size, before, after in axes:
        if merged and not (before or after or any(merged[-1][1:])):
            merged[-1] = (merged[-1][0] * size, 0, 0)
        else:
            merged.append((size, before, after))
    return merged


def _padded(x, stages, mode, value=0.0):
    """x, C-contiguous, with its border, in one dimension."""
    floating = x.dtype.kind == "f" or x.dtype.name == "bfloat16"
    for outer, axes in stages:
        sizes, before, _ = zip(*axes)
        padded = tuple(sum(axis) for axis in axes)
        y = empty(x, (outer * math.prod(padded),))
        launch(
            pad_kernel, _grid(y.size),
            x, y, y.size, float(value) if floating else 0.0, 0 if floating else int(value),
            *sizes, *padded, *before,
            MODE=mode.value, FLOATING=floating, INDEX=_index_type(x.size, y.size), BLOCK=_BLOCK,
        )  # fmt: skip
        x = y
    return x


def pad_forward(x, *, widths, mode="constant", value=0.0, out=None):
    stages = _stages(x.shape, widths)
    y_shape = tuple(n + before + after for n, (before, after) in zip(x.shape, widths))
    if x.dtype == bool:
        moved = _padded(contiguous(x).view(np.uint8), stages, _MODES[mode], bool(value)).view(bool)
    else:
        moved = _padded(contiguous(x), stages, _MODES[mode], value)
    y = moved.reshape(y_shape)
    if out is not None:
        copy_into(out, y)
    return y if out is None else out, (x.shape, stages, mode)


def pad_backward(saved, grad, needs):
    if not needs[0]:
        return (None,)
    shape, stages, mode = saved
    dtype, grad = grad.dtype, contiguous(grad)
    for left, (outer, axes) in zip(reversed(range(len(stages))), reversed(stages)):
        sizes, before, after = zip(*axes)
        padded = tuple(sum(axis) for axis in axes)
        # Between two steps sums stay in the type that they were made in.
        kept = dtype if left == 0 or dtype == np.float64 else np.dtype(np.float32)
        grad_x = empty(grad, (outer * math.prod(sizes),), kept)
        launch(
            pad_grad_x_kernel, _grid(grad_x.size),
            grad, grad_x, grad_x.size, *sizes, *padded, *before, *after, *(_readers(mode, *axis) for axis in axes),
            MODE=_MODES[mode].value, COMPUTE=_compute_type(dtype), INDEX=_index_type(grad.size, grad_x.size),
            BLOCK=_BLOCK,
        )  # fmt: skip
        grad = grad_x
    return (grad.reshape(shape),)


def _readers(mode, size, before, after):
    """How many positions of the padded axis may read one position."""
    if mode == "constant" or not (before or after):
        return 1
    return 1 + before + after if mode == "replicate" else 3


def _rolled(x, shifts, axes):
    """What leaves at one end enters at the other: a circular border that is as wide as what is cropped."""
    widths = [0] * x.ndim
    for shift, axis in zip(shifts, axes):
        widths[axis] += shift
    widths = [shift % max(size, 1) for shift, size in zip(widths, x.shape)]
    stages = _stages(x.shape, tuple((shift, -shift) for shift in widths))
    return _padded(contiguous(x), stages, CIRCULAR).reshape(x.shape)


def roll_forward(x, *, shifts, axes):
    return _rolled(x, shifts, axes), (shifts, axes)


def roll_backward(saved, grad, needs):
    shifts, axes = saved
    return (_rolled(grad, tuple(-shift for shift in shifts), axes) if needs[0] else None,)


def _triangle(x, diagonal, upper):
    x, y = contiguous(x), empty(x)
    launch(triangle_kernel, _grid(x.size), x, y, x.size, *x.shape[-2:], diagonal, UPPER=upper, BLOCK=_BLOCK)
    return y


def triangle_forward(x, *, diagonal=0, upper=False):
    return _triangle(x, diagonal, upper), (diagonal, upper)


def triangle_backward(saved, grad, needs):
    return (_triangle(grad, *saved) if needs[0] else None,)
