"""Reductions of NumPy arrays: floating-point sums by a blocked kernel, extrema and products by NumPy."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import prange

from ..accumulate import divide
from ..cpu_jit import kernel
from ..cpu_sums import line_deviations, line_magnitude, line_product, line_sum
from ..elementwise.broadcasting import broadcast_to, merged
from ..memory import empty, zeros
from .cpu_scan import running_sums

_PLAIN, _SQUARE, _ABSOLUTE, _POWER, _DEVIATION = range(5)
_WORTH_THREADS = 1 << 15  # elements; fewer are added before another thread has woken up
_PRODUCTS_WORTH_THREADS = 1 << 12  # elements of cumprod, in which each waits for the one before
_LONG = 4096  # elements of a row that one block adds
_ROWS, _COLUMNS = 256, 2048  # where whole rows are added: those of a block, and how much of each stays in the cache


# In the place of what sums of so many axes are centred on, where nothing is.
_NOTHING = {
    axes: {np.dtype(kind): np.empty((0,) * (axes - 1), kind) for kind in (np.float32, np.float64)} for axes in (2, 3)
}

_quiet = np.errstate(all="ignore")


@kernel
def row_sums_kernel(x, code, centre, power, divisor, partial):
    """partial[o, b] = sum of f(x[o, k]) over the k of block b, by the divisor; f is x, x^2, |x|, |x|^power or
    (x - centre[o])^2."""
    rows, blocks = partial.shape
    power, divisor = x.dtype.type(power), x.dtype.type(divisor)
    for job in prange(rows * blocks):
        o, b = job // blocks, job % blocks
        # A slice, indexed from 0: an index that starts elsewhere could be negative, and would be gathered one by one.
        line = x[o, b * _LONG : (b + 1) * _LONG]
        total = x.dtype.type(0)
        if code == _PLAIN:
            total = line_sum(line)
        elif code == _SQUARE:
            total = line_product(line, line)
        elif code == _ABSOLUTE:
            total = line_magnitude(line)
        elif code == _POWER:
            for k in range(len(line)):
                total += abs(line[k]) ** power
        elif code == _DEVIATION:
            _, total = line_deviations(line, centre[o])
        partial[o, b] = total / divisor


@kernel
def column_sums_kernel(x, code, centre, power, divisor, partial):
    """partial[o, b, i] = sum of f(x[o, k, i]) over the k of block b, by the divisor; f as above, with centre[o, i].

    Walks whole rows, a strip of columns at a time, so that memory is read in order and the sums stay in the cache.
    """
    power, divisor = x.dtype.type(power), x.dtype.type(divisor)
    outer, blocks, columns = partial.shape
    strips = (columns + _COLUMNS - 1) // _COLUMNS
    for job in prange(outer * blocks * strips):
        o, rest = job // (blocks * strips), job % (blocks * strips)
        b, strip = rest // strips, rest % strips
        first, last = strip * _COLUMNS, min((strip + 1) * _COLUMNS, columns)
        totals = partial[o, b, first:last]
        totals[:] = 0
        for k in range(b * _ROWS, min((b + 1) * _ROWS, x.shape[1])):
            line = x[o, k, first:last]
            if code == _PLAIN:
                for i in range(len(line)):
                    totals[i] += line[i]
            elif code == _SQUARE:
                for i in range(len(line)):
                    totals[i] += line[i] * line[i]
            elif code == _ABSOLUTE:
                for i in range(len(line)):
                    totals[i] += abs(line[i])
            elif code == _POWER:
                for i in range(len(line)):
                    totals[i] += abs(line[i]) ** power
            elif code == _DEVIATION:
                middle = centre[o, first:last]
                for i in range(len(line)):
                    totals[i] += (line[i] - middle[i]) * (line[i] - middle[i])
        if divisor != 1:
            for i in range(len(totals)):
                totals[i] /= divisor


@kernel
def cumprod_grad_kernel(x, grad_y, grad_x):
    """grad_x[o, k, i] = (product of x before k) s_k with s_k = grad_y[k] + x[k + 1] s_{k + 1}, along axis 1."""
    for o in prange(x.shape[0]):
        for i in range(x.shape[2]):
            before = x.dtype.type(1)
            for k in range(x.shape[1]):
                grad_x[o, k, i] = before
                before *= x[o, k, i]
            after = x.dtype.type(0)
            for k in range(x.shape[1] - 1, -1, -1):
                after += grad_y[o, k, i]
                grad_x[o, k, i] *= after
                after *= x[o, k, i]


@kernel
def choice_kernel(x, place, y):
    """y[o, i] = x[o, place[o, i], i]."""
    for o in prange(x.shape[0]):
        for i in range(x.shape[2]):
            y[o, i] = x[o, place[o, i], i]


@kernel
def choice_grad_kernel(grad_y, place, grad_x):
    """grad_x[o, k, i] = grad_y[o, i] where k is place[o, i], else 0."""
    for o in prange(grad_x.shape[0]):
        grad_x[o] = 0
        for i in range(grad_x.shape[2]):
            grad_x[o, place[o, i], i] = grad_y[o, i]


@kernel
def row_extremum_grad_kernel(x, y, grad_y, grad_x):
    """grad_x[o, k] = the share of grad_y[o], where x[o, k] is y[o], that falls to each such k; else 0."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for o in prange(x.shape[0]):
        line, to, extremum, count = x[o], grad_x[o], y[o], 0
        for k in range(len(line)):
            count += line[k] == extremum
        share = grad_y[o] / x.dtype.type(count)
        for k in range(len(line)):
            to[k] = share * (one if line[k] == extremum else zero)


@kernel
def column_extremum_grad_kernel(x, y, grad_y, grad_x):
    """The same for x [outer, n, inner] and y [outer, inner], a strip of columns at a time, whose counts stay in the
    cache."""
    outer, n, inner = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    strips = (inner + _COLUMNS - 1) // _COLUMNS
    for job in prange(outer * strips):
        o, first = job // strips, job % strips * _COLUMNS
        last = min(first + _COLUMNS, inner)
        extrema, shares = y[o, first:last], np.zeros(last - first, x.dtype)
        for k in range(n):
            line = x[o, k, first:last]
            for i in range(len(line)):
                shares[i] += one if line[i] == extrema[i] else zero
        for i in range(len(shares)):
            shares[i] = grad_y[o, first + i] / shares[i]
        for k in range(n):
            line, to = x[o, k, first:last], grad_x[o, k, first:last]
            for i in range(len(line)):
                to[i] = shares[i] * (one if line[i] == extrema[i] else zero)


@kernel
def deviation_grad_kernel(x, mean, share, sizes, steps, grad_x):
    """grad_x = (x - mean) * share. x and grad_x, flat: [outer, middle, inner]; mean and share, flat: the steps say how
    far they go on along each axis."""
    outer, middle, inner = sizes
    for row in prange(outer * middle):
        first, at = row * inner, row // middle * steps[0] + row % middle * steps[1]
        line, to = x[first : first + inner], grad_x[first : first + inner]
        if steps[2] == 0:
            centre, factor = mean[at], share[at]
            for i in range(inner):
                to[i] = (line[i] - centre) * factor
        else:
            centres, factors = mean[at : at + inner], share[at : at + inner]
            for i in range(inner):
                to[i] = (line[i] - centres[i]) * factors[i]


def float_sum(x, axis, code=_PLAIN, centre=None, power=1.0):
    """The sum of f(x) over the axes, which stay as axes of size 1. A run of neighbouring axes is one pass over x; the
    last run comes first and applies f."""
    if not x.flags.c_contiguous:
        x = np.ascontiguousarray(x)
    axes = list(axis)
    if not axes and code != _PLAIN:  # nothing to add up, but f to apply: an axis of size 1 behind the others
        return _sum_of_run(x.reshape(*x.shape, 1), (x.ndim,), False, code, centre, power)
    while axes:
        last = first = axes.pop()
        while axes and axes[-1] == first - 1:
            first = axes.pop()
        x = _sum_of_run(x, tuple(range(first, last + 1)), True, code, centre, power)
        code, centre = _PLAIN, None
    return x


def _total(x, axis, keepdims, divisor=1.0, code=_PLAIN, centre=None):
    """The sum of f(x) over axes, which stay or not, by the divisor."""
    if _run_of(x.shape, axis, keepdims) is not None:
        return _sum_of_run(np.ascontiguousarray(x), axis, keepdims, code, centre, 1.0, divisor)
    total = float_sum(x, axis, code, centre).reshape(_shape_left(x.shape, axis, keepdims))
    return total if divisor == 1 else divide(total, divisor)


class _Run(NamedTuple):
    """Neighbouring axes to add up: what is before them, of them and behind them, in blocks.

    Attributes:
        lines: the shape of x for the kernel, [outer, n], or [outer, n, inner] where something is behind the axes.
        partial: that of the sums of the blocks, [outer, blocks] or [outer, blocks, inner].
        left: that of the sum.
    """

    kernel: Callable
    lines: tuple[int, ...]
    partial: tuple[int, ...]
    left: tuple[int, ...]


@functools.lru_cache(maxsize=4096)
def _run_of(shape, axis, keepdims) -> _Run | None:
    """None where the axes are no neighbours, or there is none."""
    sizes, left = _sizes(shape, axis), _shape_left(shape, axis, keepdims)
    if sizes is None:
        return None
    outer, n, inner = sizes
    if inner == 1:
        return _Run(row_sums_kernel, (outer, n), (outer, max(-(-n // _LONG), 1)), left)
    return _Run(column_sums_kernel, sizes, (outer, max(-(-n // _ROWS), 1), inner), left)


def _sizes(shape, axis):
    """The sizes before, of and behind the axes where these are neighbours, else None."""
    if not axis or axis[-1] - axis[0] != len(axis) - 1:
        return None
    return math.prod(shape[: axis[0]]), math.prod(shape[axis[0] : axis[-1] + 1]), math.prod(shape[axis[-1] + 1 :])


def _sum_of_run(x, axis, keepdims, code, centre, power, divisor=1.0):
    """The sum of f(x) over neighbouring axes of a contiguous x, by the divisor; centre: what is left of x, or less that
    broadcasts to it, or None."""
    sums_kernel, lines, partial, left = _run_of(x.shape, axis, keepdims)
    one_block = partial[1] == 1
    total = empty(left if one_block else partial, x.dtype)
    if centre is None:
        middle = _NOTHING[len(partial)][x.dtype]
    else:
        if centre.size != math.prod(left):
            centre = broadcast_to(centre, left)
        middle = np.ascontiguousarray(centre).reshape(partial[:1] + partial[2:])
    run = sums_kernel if x.size > _WORTH_THREADS else sums_kernel.serial
    run(x.reshape(lines), code, middle, power, divisor if one_block else 1.0, total.reshape(partial))
    if one_block:
        return total
    total = total.sum(1, dtype=np.float64).astype(x.dtype).reshape(left)
    return total if divisor == 1 else divide(total, divisor)


@functools.lru_cache(maxsize=4096)
def _count(shape, axis):
    return math.prod(shape[a] for a in axis)


@functools.lru_cache(maxsize=4096)
def _shape_left(shape, axis, keepdims):
    """The shape without the axes, or with them of size 1."""
    return tuple(1 if a in axis else n for a, n in enumerate(shape) if keepdims or a not in axis)


def _kept(y, shape, axis):
    """y with the reduced axes as axes of size 1."""
    return y.reshape(_shape_left(shape, axis, True))


def _finish(y, shape, axis, keepdims):
    """A result with its reduced axes of size 1, with or without them."""
    y = np.asarray(y)  # NumPy's arithmetic turns an array without axes into a scalar
    return y if keepdims else y.reshape(_shape_left(shape, axis, False))


def sum_forward(x, *, axis, keepdims=False):
    if x.dtype.kind != "f":
        return np.asarray(np.sum(x, axis=axis, keepdims=keepdims)), (x.shape, axis)
    return _total(x, axis, keepdims) if axis else x.copy(), (x.shape, axis)


def sum_backward(saved, grad_y, needs):
    shape, axis = saved
    return (broadcast_to(_kept(grad_y, shape, axis), shape) if needs[0] else None,)


def mean_forward(x, *, axis, keepdims=False):
    count = _count(x.shape, axis)
    return _total(x, axis, keepdims, float(count)) if axis else divide(x, count), (x.shape, axis)


def mean_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    shape, axis = saved
    return (broadcast_to(divide(_kept(grad_y, shape, axis), _count(shape, axis)), shape),)


def var_forward(x, *, axis, keepdims=False, correction=1.0):
    count = _count(x.shape, axis)
    mean = _total(x, axis, True, float(count))
    y = _total(x, axis, keepdims, float(count - correction), _DEVIATION, mean)
    return y, (x, mean, axis, count - correction)


def var_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, mean, axis, count = saved
    grad_x = empty(x.shape, x.dtype)
    share = np.asarray(_kept(grad_y, x.shape, axis) * x.dtype.type(2 / count))
    steps = [stride // x.itemsize for stride in broadcast_to(np.ascontiguousarray(mean), x.shape).strides]
    sizes, (steps,) = merged(x.shape, steps)
    missing = 3 - len(sizes)
    if x.size < _WORTH_THREADS or missing < 0:
        np.subtract(x, mean, out=grad_x)
        return (np.multiply(grad_x, share, out=grad_x),)
    flat = (np.ascontiguousarray(array).reshape(-1) for array in (x, mean, share))
    deviation_grad_kernel(*flat, (1,) * missing + tuple(sizes), (0,) * missing + tuple(steps), grad_x.reshape(-1))
    return (grad_x,)


def std_forward(x, *, axis, keepdims=False, correction=1.0):
    y, saved = var_forward(x, axis=axis, keepdims=keepdims, correction=correction)
    y = np.asarray(np.sqrt(y))
    return y, (y, saved)


def std_backward(saved, grad_y, needs):
    y, of_variance = saved
    return var_backward(of_variance, _ratio(grad_y, 2 * y), needs)


def _ratio(a, b):
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=zeros(np.broadcast_shapes(a.shape, b.shape), a.dtype), where=b != 0)


def norm_forward(x, *, axis, keepdims=False, p=2.0):
    if p == math.inf:
        y = np.abs(x).max(axis=axis, keepdims=True)
    elif p == 2:
        y = np.sqrt(float_sum(x, axis, _SQUARE))
    elif p == 1:
        y = float_sum(x, axis, _ABSOLUTE)
    else:
        y = float_sum(x, axis, _POWER, power=p) ** x.dtype.type(1 / p)
    y = np.asarray(y)
    return _finish(y, x.shape, axis, keepdims), (x, y, axis, p)


@_quiet
def norm_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, y, axis, p = saved
    grad_y = _kept(grad_y, x.shape, axis)
    grad_x = empty(x.shape, x.dtype)
    if p == 2:
        return (np.multiply(x, _ratio(grad_y, y), out=grad_x),)
    np.sign(x, out=grad_x)
    if p == math.inf:
        chosen = np.abs(x) == y
        grad_x *= chosen
        return (np.multiply(grad_x, grad_y / chosen.sum(axis=axis, keepdims=True, dtype=x.dtype), out=grad_x),)
    if p != 1:
        grad_x *= np.abs(_ratio(x, y)) ** x.dtype.type(p - 1)
        grad_x[x == 0] = 0  # where p < 1 the power is infinite
    return (np.multiply(grad_x, grad_y, out=grad_x),)


def _by_numpy(function, gradient):
    """Forward by a NumPy reduction; backward by gradient(x, y, grad_y, axis) with the reduced axes kept."""

    @_quiet
    def forward(x, *, axis, keepdims=False):
        y = np.asarray(function(x, axis=axis, keepdims=True))
        return _finish(y, x.shape, axis, keepdims), (x, y, axis)

    @_quiet
    def backward(saved, grad_y, needs):
        x, y, axis = saved
        return (gradient(x, y, _kept(grad_y, x.shape, axis), axis) if needs[0] else None,)

    return forward, backward


def _shared(x, y, grad_y, axis):
    """grad_y where x equals y, divided by how many do."""
    sizes = _sizes(x.shape, axis)
    if sizes is not None and x.dtype.kind == "f" and x.size > _WORTH_THREADS:
        outer, n, inner = sizes
        x, y, grad_y = (np.ascontiguousarray(array) for array in (x, y, grad_y))
        grad_x = empty(x.shape, x.dtype)
        if inner == 1:
            lines = (array.reshape(outer) for array in (y, grad_y))
            row_extremum_grad_kernel(x.reshape(outer, n), *lines, grad_x.reshape(outer, n))
        else:
            lines = (array.reshape(outer, inner) for array in (y, grad_y))
            column_extremum_grad_kernel(x.reshape(sizes), *lines, grad_x.reshape(sizes))
        return grad_x
    chosen = x == y
    share = grad_y / chosen.sum(axis=axis, keepdims=True, dtype=grad_y.dtype)
    return np.multiply(chosen, share, out=empty(x.shape, x.dtype))


def _product_of_others(x, y, grad_y, axis):
    """grad_y times the product of what comes before an element and of what comes after it; zeros need no exception."""
    last = tuple(range(x.ndim - len(axis), x.ndim))
    moved = np.moveaxis(x, axis, last)
    rows = moved.reshape(*moved.shape[: x.ndim - len(axis)], _count(x.shape, axis))
    others = np.ones_like(rows)
    np.cumprod(rows[..., :-1], -1, out=others[..., 1:])
    others[..., :-1] *= np.cumprod(rows[..., :0:-1], -1)[..., ::-1]
    return np.multiply(np.moveaxis(others.reshape(moved.shape), last, axis), grad_y, out=empty(x.shape, x.dtype))


prod_forward, prod_backward = _by_numpy(np.prod, _product_of_others)
amax_forward, amax_backward = _by_numpy(np.max, _shared)
amin_forward, amin_backward = _by_numpy(np.min, _shared)


def _choice(place_of):
    def forward(x, *, axis, keepdims=False):
        sizes, shape = _sizes(x.shape, (axis,)), _shape_left(x.shape, (axis,), keepdims)
        place, y = place_of(x, axis=axis, keepdims=True), empty(shape, x.dtype)
        run, left = choice_kernel if x.size > _WORTH_THREADS else choice_kernel.serial, (sizes[0], sizes[2])
        run(np.ascontiguousarray(x).reshape(sizes), place.reshape(left), y.reshape(left))
        return (y, place.reshape(shape)), (x.shape, place, axis)

    def backward(saved, grads, needs):
        if not needs[0] or grads[0] is None:
            return (None,)
        shape, place, axis = saved
        grad_x = empty(shape, grads[0].dtype)
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        grad_y, place = (np.ascontiguousarray(array).reshape(outer, inner) for array in (grads[0], place))
        run = choice_grad_kernel if grad_x.size > _WORTH_THREADS else choice_grad_kernel.serial
        run(grad_y, place, grad_x.reshape(outer, shape[axis], inner))
        return (grad_x,)

    return forward, backward


max_forward, max_backward = _choice(np.argmax)
min_forward, min_backward = _choice(np.argmin)


def _plain(function):
    """A reduction without a derivative."""

    def forward(x, *, axis, keepdims=False):
        return np.asarray(function(x, axis=axis, keepdims=keepdims)), None

    return forward


argmax_forward = _plain(np.argmax)
argmin_forward = _plain(np.argmin)
all_forward = _plain(np.all)
any_forward = _plain(np.any)


def cumsum_forward(x, *, axis, out=None):
    return running_sums(x, axis, out=out), axis


def cumsum_backward(axis, grad_y, needs):
    return (running_sums(grad_y, axis, reverse=True) if needs[0] else None,)


@_quiet
def cumprod_forward(x, *, axis, out=None):
    return np.cumprod(x, axis, out=empty(x.shape, x.dtype) if out is None else out), (x, axis)


def cumprod_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, axis = saved
    middle = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    grad_x = empty(x.shape, x.dtype)
    run = cumprod_grad_kernel if x.size > _PRODUCTS_WORTH_THREADS else cumprod_grad_kernel.serial
    run(np.ascontiguousarray(x).reshape(middle), np.ascontiguousarray(grad_y).reshape(middle), grad_x.reshape(middle))
    return (grad_x,)
