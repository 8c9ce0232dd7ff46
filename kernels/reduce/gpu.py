"""Reductions of CuPy arrays; the kernels are in `gpu_kernels`.

A run of neighbouring axes is reduced in one pass over x, by lines; the last run comes first. Lines too long for a tile
are reduced by chunks, then the chunks' results. Sums of chunks are added in float64.
"""

import math

import numpy as np
import triton.language as tl

from ..elementwise.broadcasting import broadcast_to
from ..gpu_arrays import cast, contiguous
from ..gpu_lines import accumulator, deliver, line_choice, lines_of, state_dtype, tile_lines
from ..launch import empty, launch
from .gpu_kernels import (
    choice_kernel,
    cumprod_grad_x_kernel,
    prod_grad_x_kernel,
    reduce_grad_x_kernel,
    reduce_kernel,
    scan_kernel,
    scan_total_kernel,
)

FORWARD, GRAD_X, SCAN = (line_choice(f"reduce.{name}") for name in ("forward", "grad_x", "scan"))
_PLAIN, _SQUARE, _ABSOLUTE, _POWER, _DEVIATION, _EQUAL, _ABSOLUTE_EQUAL = range(7)
_PRODUCT, _LARGEST, _SMALLEST, _LARGEST_ABSOLUTE, _ANY, _ALL = range(7, 13)
_AS_IT_IS, _SCALED, _SCALED_ROOT, _POWER_ROOT = range(4)
_OF_VARIANCE, _OF_DEVIATION, _OF_NORM, _OF_NORM_1, _OF_NORM_2, _OF_NORM_INFINITE, _OF_EXTREMUM, _OF_CHOICE = range(8)


def _number(dtype):
    """What kernels compute in."""
    return accumulator(dtype) if _is_float(dtype) else tl.int64


def _state(dtype):
    """What intermediate results are kept in."""
    return state_dtype(dtype) if _is_float(dtype) else np.dtype(np.int64)


def _is_float(dtype):
    return np.dtype(dtype).kind not in "iub"


def _count(shape, axis):
    return math.prod(shape[a] for a in axis)


def _kept_shape(shape, axis):
    return tuple(1 if a in axis else n for a, n in enumerate(shape))


def _finish(y, shape, axis, keepdims):
    """A result with its reduced axes of size 1, with or without them."""
    return y.reshape(_kept_shape(shape, axis) if keepdims else [n for a, n in enumerate(shape) if a not in axis])


def _last_run(shape, axes):
    """The last run of neighbouring axes, taken off the list: ((outer, n, inner), the shape it leaves)."""
    if not axes:
        return (math.prod(shape), 1, 1), shape  # nothing to reduce: every element is a line
    last = first = axes.pop()
    while axes and axes[-1] == first - 1:
        first = axes.pop()
    lines = math.prod(shape[:first]), math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :])
    return lines, (*shape[:first], *[1] * (last + 1 - first), *shape[last + 1 :])


def _reduce(x, axis, code, dtype, centre=None, finish=_AS_IT_IS, factor=1.0, p=1.0):
    """x reduced over the axes, which stay as axes of size 1, as `dtype`; centre has such a shape too."""
    x, shape, axes = contiguous(x), x.shape, list(axis)
    state = np.dtype(np.uint8) if code in (_ANY, _ALL) else _state(x.dtype)
    while True:
        lines, shape = _last_run(shape, axes)
        if centre is not None:
            centre = contiguous(broadcast_to(centre, shape))
        y = empty(x, shape, state if axes else dtype)
        _reduce_lines(x, lines, code, y, state, centre, _AS_IT_IS if axes else finish, factor, p)
        if not axes:
            return y
        x, centre = y, None
        code = {_LARGEST_ABSOLUTE: _LARGEST}.get(code, code) if code >= _PRODUCT else _PLAIN


def _reduce_lines(x, lines, code, y, state, centre, finish, factor, p, joined=False) -> None:
    """Writes y, one value for each line of x seen as (outer, n, inner); `joined`: x holds results of chunks."""
    number = tl.float64 if joined and code == _PLAIN and _is_float(state) else _number(x.dtype)
    tiling = tile_lines(FORWARD, x, *lines, x.dtype if number == tl.float32 else np.float64, cut=True)
    whole = tiling.chunks == 1
    target = y if whole else empty(x, (tiling.lines, tiling.chunks), state)
    launch(
        reduce_kernel, tiling.grid, x, centre, target, *tiling.sizes, tiling.chunks, float(factor),
        CODE=code, FINISH=finish if whole else _AS_IT_IS, P=float(p), ACCUMULATOR=number, **tiling.constants,
    )  # fmt: skip
    if not whole:
        code = {_LARGEST_ABSOLUTE: _LARGEST}.get(code, code) if code >= _PRODUCT else _PLAIN
        _reduce_lines(target, (tiling.lines, tiling.chunks, 1), code, y, state, None, finish, factor, p, joined=True)


def _grad_x(x, y, count, grad_y, shape, axis, code, factor=1.0, p=1.0):
    """The gradient of the shape from y, count and grad_y, which have the reduced axes as axes of size 1."""
    lines, left = _last_run(shape, list(axis))
    y, count, grad_y = (None if a is None else contiguous(broadcast_to(a, left)) for a in (y, count, grad_y))
    grad_x = empty(grad_y, shape)
    tiling = tile_lines(GRAD_X, grad_y, *lines, cut=True)
    launch(
        reduce_grad_x_kernel, tiling.grid, x, y, count, grad_y, grad_x, *tiling.sizes, tiling.chunks, float(factor),
        CODE=code, P=float(p), ACCUMULATOR=accumulator(grad_y.dtype), **tiling.constants,
    )  # fmt: skip
    return grad_x


def _kept(y, shape, axis):
    """A contiguous y with the reduced axes as axes of size 1."""
    return contiguous(y).reshape(_kept_shape(shape, axis))


def sum_forward(x, *, axis, keepdims=False):
    dtype = x.dtype if _is_float(x.dtype) else np.dtype(np.uint64 if x.dtype.kind == "u" else np.int64)
    return _finish(_reduce(x, axis, _PLAIN, dtype), x.shape, axis, keepdims), (x.shape, axis)


def sum_backward(saved, grad_y, needs):
    shape, axis = saved
    return (broadcast_to(_kept(grad_y, shape, axis), shape) if needs[0] else None,)


def mean_forward(x, *, axis, keepdims=False):
    y = _reduce(x, axis, _PLAIN, x.dtype, finish=_SCALED, factor=1 / _count(x.shape, axis))
    return _finish(y, x.shape, axis, keepdims), (x.shape, axis)


def mean_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    shape, axis = saved
    share = _reduce(_kept(grad_y, shape, axis), (), _PLAIN, grad_y.dtype, None, _SCALED, 1 / _count(shape, axis))
    return (broadcast_to(share, shape),)


def var_forward(x, *, axis, keepdims=False, correction=1.0):
    y, saved = _spread(x, axis, correction, x.dtype, _SCALED)
    return _finish(y, x.shape, axis, keepdims), saved


def var_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, mean, _, axis, count = saved
    grad_y = _kept(grad_y, x.shape, axis)
    return (_grad_x(x, mean, None, grad_y, x.shape, axis, _OF_VARIANCE, 2 / count),)


def std_forward(x, *, axis, keepdims=False, correction=1.0):
    y, saved = _spread(x, axis, correction, state_dtype(x.dtype), _SCALED_ROOT)
    return _finish(cast(y, x.dtype), x.shape, axis, keepdims), saved


def std_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, mean, y, axis, count = saved
    grad_y = _kept(grad_y, x.shape, axis)
    return (_grad_x(x, mean, y, grad_y, x.shape, axis, _OF_DEVIATION, 2 / count),)


def _spread(x, axis, correction, dtype, finish):
    """The variance, or its root, as `dtype`, and what the backward needs: first the mean, then squared distances."""
    x, count = contiguous(x), _count(x.shape, axis)
    mean = _reduce(x, axis, _PLAIN, state_dtype(x.dtype), finish=_SCALED, factor=1 / count)
    y = _reduce(x, axis, _DEVIATION, dtype, mean, finish, 1 / (count - correction))
    return y, (x, mean, y, axis, count - correction)


def norm_forward(x, *, axis, keepdims=False, p=2.0):
    x, state = contiguous(x), state_dtype(x.dtype)
    if p == math.inf:
        y = _reduce(x, axis, _LARGEST_ABSOLUTE, state)
    elif p == 2:
        y = _reduce(x, axis, _SQUARE, state, finish=_SCALED_ROOT)
    elif p == 1:
        y = _reduce(x, axis, _ABSOLUTE, state)
    else:
        y = _reduce(x, axis, _POWER, state, finish=_POWER_ROOT, p=p)
    return _finish(cast(y, x.dtype), x.shape, axis, keepdims), (x, y, axis, p)


def norm_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, y, axis, p = saved
    grad_y, count = _kept(grad_y, x.shape, axis), None
    if p == math.inf:
        count = _reduce(x, axis, _ABSOLUTE_EQUAL, y.dtype, y)
    code = {1: _OF_NORM_1, 2: _OF_NORM_2, math.inf: _OF_NORM_INFINITE}.get(p, _OF_NORM)
    return (_grad_x(x, y, count, grad_y, x.shape, axis, code, p=1.0 if p == math.inf else p),)


def _extremum(code):
    def forward(x, *, axis, keepdims=False):
        x = contiguous(x)
        y = _reduce(x, axis, code, x.dtype)
        return _finish(y, x.shape, axis, keepdims), (x, y, axis)

    def backward(saved, grad_y, needs):
        if not needs[0]:
            return (None,)
        x, y, axis = saved
        count = _reduce(x, axis, _EQUAL, state_dtype(x.dtype), y)
        return (_grad_x(x, y, count, _kept(grad_y, x.shape, axis), x.shape, axis, _OF_EXTREMUM),)

    return forward, backward


amax_forward, amax_backward = _extremum(_LARGEST)
amin_forward, amin_backward = _extremum(_SMALLEST)


def prod_forward(x, *, axis, keepdims=False):
    dtype = x.dtype if _is_float(x.dtype) else np.dtype(np.uint64 if x.dtype.kind == "u" else np.int64)
    x = contiguous(x)
    return _finish(_reduce(x, axis, _PRODUCT, dtype), x.shape, axis, keepdims), (x, axis)


def prod_backward(saved, grad_y, needs):
    """The product of the others is that of the elements before and that of those after: zeros need no exception."""
    if not needs[0]:
        return (None,)
    x, axis = saved
    kept = [a for a in range(x.ndim) if a not in axis]
    order = (*kept, *axis)
    rows = contiguous(x.transpose(order))
    lines, state = (math.prod(x.shape[a] for a in kept), _count(x.shape, axis), 1), state_dtype(x.dtype)
    before, after = (empty(x, rows.shape, state) for _ in range(2))
    _scan(rows, lines, before, product=True, exclusive=True)
    _scan(rows, lines, after, product=True, exclusive=True, backwards=True)
    grad_x, tiling = empty(rows), tile_lines(GRAD_X, x, *lines, cut=True)
    launch(
        prod_grad_x_kernel, tiling.grid, before, after, contiguous(grad_y), grad_x, *tiling.sizes, tiling.chunks,
        ACCUMULATOR=accumulator(x.dtype), **tiling.constants,
    )  # fmt: skip
    return (grad_x.transpose([order.index(a) for a in range(x.ndim)]),)


def _test(code):
    def forward(x, *, axis, keepdims=False):
        x = contiguous(x)
        x = x.view(np.uint8) if x.dtype == bool else x
        y = _reduce(x, axis, code, np.dtype(np.uint8)).view(bool)
        return _finish(y, x.shape, axis, keepdims), None

    return forward


all_forward = _test(_ALL)
any_forward = _test(_ANY)


def _choose(x, axis, largest, with_values):
    """The extremum, or None, and its first place along the axis, which stays with size 1."""
    x, lines = lines_of(x, axis)
    shape, values, places = _kept_shape(x.shape, (axis,)), x, None
    while True:
        tiling = tile_lines(FORWARD, x, *lines, np.int64, cut=True)
        left = shape if tiling.chunks == 1 else (tiling.lines, tiling.chunks)
        y = empty(x, left) if with_values or tiling.chunks > 1 else None
        chosen = empty(x, left, np.int64)
        launch(
            choice_kernel, tiling.grid, values, places, y, chosen, *tiling.sizes, tiling.chunks,
            LARGEST=largest, ACCUMULATOR=_number(x.dtype), **tiling.constants,
        )  # fmt: skip
        if tiling.chunks == 1:
            return y, chosen
        values, places, lines = y, chosen, (tiling.lines, tiling.chunks, 1)


def _choice(largest):
    def forward(x, *, axis, keepdims=False):
        y, place = _choose(x, axis, largest, True)
        outputs = tuple(_finish(z, x.shape, (axis,), keepdims) for z in (y, place))
        return outputs, (x.shape, place, axis)

    def backward(saved, grads, needs):
        if not needs[0] or grads[0] is None:
            return (None,)
        shape, place, axis = saved
        return (_grad_x(None, place, None, _kept(grads[0], shape, (axis,)), shape, (axis,), _OF_CHOICE),)

    return forward, backward


max_forward, max_backward = _choice(True)
min_forward, min_backward = _choice(False)


def argmax_forward(x, *, axis, keepdims=False):
    return _finish(_choose(x, axis, True, False)[1], x.shape, (axis,), keepdims), None


def argmin_forward(x, *, axis, keepdims=False):
    return _finish(_choose(x, axis, False, False)[1], x.shape, (axis,), keepdims), None


def _scan(x, lines, y, product, exclusive=False, backwards=False) -> None:
    """Writes the running sums or products along the lines of a contiguous x seen as (outer, n, inner)."""
    tiling = tile_lines(SCAN, x, *lines, x.dtype if _is_float(x.dtype) else np.int64, cut=True)
    constants = {"PRODUCT": product, "REVERSED": backwards, "ACCUMULATOR": _number(x.dtype), **tiling.constants}
    before = None
    if tiling.chunks > 1:
        parts = tiling.lines, tiling.chunks
        totals, before = empty(x, parts, _state(x.dtype)), empty(x, parts, _state(x.dtype))
        launch(scan_total_kernel, tiling.grid, x, totals, *tiling.sizes, tiling.chunks, **constants)
        _scan(totals, (*parts, 1), before, product, exclusive=True)
    launch(scan_kernel, tiling.grid, x, before, y, *tiling.sizes, tiling.chunks, EXCLUSIVE=exclusive, **constants)


def cumsum_forward(x, *, axis, out=None):
    x, lines = lines_of(x, axis)
    y = empty(x)
    _scan(x, lines, y, product=False)
    return deliver(y, out), axis


def cumsum_backward(axis, grad_y, needs):
    if not needs[0]:
        return (None,)
    grad_y, lines = lines_of(grad_y, axis)
    grad_x = empty(grad_y)
    _scan(grad_y, lines, grad_x, product=False, backwards=True)
    return (grad_x,)


def cumprod_forward(x, *, axis, out=None):
    x, lines = lines_of(x, axis)
    y = empty(x)
    _scan(x, lines, y, product=True)
    return deliver(y, out), (x, lines)


def cumprod_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, lines = saved
    grad_x, before = empty(x), empty(x, dtype=state_dtype(x.dtype))
    _scan(x, lines, before, product=True, exclusive=True)
    tiling = tile_lines(GRAD_X, x, *lines, cut=True)._replace(chunks=1)
    launch(
        cumprod_grad_x_kernel, tiling.grid, x, before, contiguous(grad_y), grad_x, *tiling.sizes,
        ACCUMULATOR=accumulator(x.dtype), **tiling.constants,
    )  # fmt: skip
    return (grad_x,)
