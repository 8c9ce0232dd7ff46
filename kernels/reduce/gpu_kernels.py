"""Kernels of the reductions: lines (see `gpu_lines`) reduced, the place of an extremum, running sums and products, and
their gradients."""

import triton
import triton.language as tl

from ..gpu_lines import line_tile

# What is reduced, and how: the first six by sums.
_PLAIN, _SQUARE, _ABSOLUTE, _POWER, _DEVIATION, _EQUAL, _ABSOLUTE_EQUAL = (tl.constexpr(code) for code in range(7))
_PRODUCT, _LARGEST, _SMALLEST, _LARGEST_ABSOLUTE, _ANY, _ALL = (tl.constexpr(code) for code in range(7, 13))
# What becomes of the result.
_AS_IT_IS, _SCALED, _SCALED_ROOT, _POWER_ROOT = (tl.constexpr(code) for code in range(4))
# Gradients.
_OF_VARIANCE, _OF_DEVIATION, _OF_NORM, _OF_NORM_1, _OF_NORM_2, _OF_NORM_INFINITE, _OF_EXTREMUM, _OF_CHOICE = (
    tl.constexpr(code) for code in range(8)
)


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _largest(value, inside, AXIS: tl.constexpr):
    """The largest element inside; NaN, if there is one."""
    if value.dtype.is_floating():
        best = tl.max(tl.where(inside, value, float("-inf")), axis=AXIS, keep_dims=True)
        unordered = tl.max((inside & (value != value)).to(tl.int32), axis=AXIS, keep_dims=True)
        best = tl.where(unordered > 0, float("nan"), best)
    else:
        least = tl.full(value.shape, -9223372036854775808, tl.int64)
        best = tl.max(tl.where(inside, value, least), axis=AXIS, keep_dims=True)
    return best


@triton.jit
def _smallest(value, inside, AXIS: tl.constexpr):
    """The smallest element inside; NaN, if there is one."""
    if value.dtype.is_floating():
        best = -_largest(-value, inside, AXIS)
    else:
        most = tl.full(value.shape, 9223372036854775807, tl.int64)
        best = tl.min(tl.where(inside, value, most), axis=AXIS, keep_dims=True)
    return best


@triton.jit
def reduce_kernel(
    x, centre, y, lines, n, inner, chunks, factor: "fp64",  # noqa: F821 (Triton's name of the type)
    CODE: tl.constexpr, FINISH: tl.constexpr, P: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y [lines, chunks]: each chunk of a line, reduced. centre: a value a line where CODE needs one."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(x + offset, mask=inside, other=0).to(ACCUMULATOR)
    if centre is not None:
        middle = tl.load(centre + line, mask=line < lines, other=0).to(ACCUMULATOR)
    if CODE == _LARGEST:
        result = _largest(value, inside, AXIS)
    elif CODE == _SMALLEST:
        result = _smallest(value, inside, AXIS)
    elif CODE == _ANY:
        result = tl.max((inside & (value != 0)).to(tl.int32), axis=AXIS, keep_dims=True)
    elif CODE == _ALL:
        result = 1 - tl.max((inside & (value == 0)).to(tl.int32), axis=AXIS, keep_dims=True)
    elif CODE == _LARGEST_ABSOLUTE:
        result = _largest(tl.abs(value), inside, AXIS)
    elif CODE == _PRODUCT:
        result = tl.reduce(tl.where(inside, value, 1), AXIS, _multiply, keep_dims=True)
    else:
        if CODE == _SQUARE:
            value *= value
        elif CODE == _ABSOLUTE:
            value = tl.abs(value)
        elif CODE == _POWER:
            value = tl.exp(P * tl.log(tl.abs(value)))
        elif CODE == _DEVIATION:
            value = (value - middle) * (value - middle)
        elif CODE == _EQUAL:
            value = (value == middle).to(ACCUMULATOR)
        elif CODE == _ABSOLUTE_EQUAL:
            value = (tl.abs(value) == middle).to(ACCUMULATOR)
        result = tl.sum(tl.where(inside, value, 0), axis=AXIS, keep_dims=True)
    if FINISH == _SCALED:
        result *= tl.full((1, 1), factor, ACCUMULATOR)
    elif FINISH == _SCALED_ROOT:
        result = tl.sqrt(result * tl.full((1, 1), factor, ACCUMULATOR))
    elif FINISH == _POWER_ROOT:
        result = tl.exp(tl.log(result) / P)
    tl.store(y + line * chunks + program % chunks, result.to(y.dtype.element_ty), mask=line < lines)


@triton.jit
def choice_kernel(
    x, places, y, chosen, lines, n, inner, chunks,
    LARGEST: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y, chosen [lines, chunks]: a chunk's extremum and its first place, which `places` names if the elements are
    extrema of chunks themselves. NaN comes before all."""
    program = tl.program_id(0)
    line, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(x + offset, mask=inside, other=0).to(ACCUMULATOR)
    best = _largest(value, inside, AXIS) if LARGEST else _smallest(value, inside, AXIS)
    equal = inside & ((value == best) | ((value != value) & (best != best)))
    place = item + tl.zeros(value.shape, tl.int64)
    if places is not None:
        place = tl.load(places + offset, mask=inside, other=0)
    first = tl.min(tl.where(equal, place, 9223372036854775807), axis=AXIS, keep_dims=True)
    target = line * chunks + program % chunks
    if y is not None:
        tl.store(y + target, best.to(y.dtype.element_ty), mask=line < lines)
    tl.store(chosen + target, first, mask=line < lines)


@triton.jit
def reduce_grad_x_kernel(
    x, y, count, grad_y, grad_x, lines, n, inner, chunks, factor: "fp64",  # noqa: F821
    CODE: tl.constexpr, P: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x from x and one y (result, mean or place), count (or standard deviation) and grad_y a line."""
    program = tl.program_id(0)
    line, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    known = line < lines
    gradient = tl.load(grad_y + line, mask=known, other=0).to(ACCUMULATOR)
    result = tl.load(y + line, mask=known, other=0)
    if CODE == _OF_CHOICE:
        value = tl.where(item == result, gradient, 0.0)
    else:
        result = result.to(ACCUMULATOR)
        value = tl.load(x + offset, mask=inside, other=0).to(ACCUMULATOR)
        # 1, -1, and 0 or NaN themselves.
        sign = tl.where(value > 0, 1.0, tl.where(value < 0, -1.0, value))
        if CODE == _OF_VARIANCE:
            value = (value - result) * gradient * tl.full((1, 1), factor, ACCUMULATOR)
        elif CODE == _OF_DEVIATION:
            deviation = tl.load(count + line, mask=known, other=0).to(ACCUMULATOR)
            share = tl.where(deviation == 0, 0.0, gradient / (2 * deviation))
            value = (value - result) * share * tl.full((1, 1), factor, ACCUMULATOR)
        elif CODE == _OF_NORM_2:
            value *= tl.where(result == 0, 0.0, gradient / result)
        elif CODE == _OF_NORM_1:
            value = sign * gradient
        elif CODE == _OF_NORM:
            ratio = tl.abs(tl.where(result == 0, 0.0, value / result))
            power = tl.exp((P - 1) * tl.log(ratio))
            value = tl.where(value == 0, 0.0, sign * power) * gradient
        else:
            share = gradient / tl.load(count + line, mask=known, other=1).to(ACCUMULATOR)
            if CODE == _OF_NORM_INFINITE:
                value = sign * (tl.abs(value) == result).to(ACCUMULATOR) * share
            else:
                value = (value == result).to(ACCUMULATOR) * share
    tl.store(grad_x + offset, value.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def scan_total_kernel(
    x, totals, lines, n, inner, chunks, PRODUCT: tl.constexpr, REVERSED: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """totals [lines, chunks]: a chunk's sum or product; REVERSED, the first chunk is the one at the line's end."""
    program = tl.program_id(0)
    line, item, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    if REVERSED:
        offset += (n - 1 - 2 * item) * inner
    value = tl.load(x + offset, mask=inside, other=1 if PRODUCT else 0).to(ACCUMULATOR)
    if PRODUCT:
        total = tl.reduce(value, AXIS, _multiply, keep_dims=True)
    else:
        total = tl.sum(value, axis=AXIS, keep_dims=True)
    tl.store(totals + line * chunks + program % chunks, total, mask=line < lines)


@triton.jit
def scan_kernel(
    x, before, y, lines, n, inner, chunks,
    PRODUCT: tl.constexpr, EXCLUSIVE: tl.constexpr, REVERSED: tl.constexpr,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y: sums or products of the elements up to each (EXCLUSIVE: to the one before it), REVERSED from the line's end.

    before [lines, chunks]: that of all earlier chunks, None if there is one chunk.
    """
    program = tl.program_id(0)
    chunk = program % chunks
    line, item, offset, inside = line_tile(program // chunks, chunk, lines, n, inner, LINES, ITEMS, AXIS)
    step = inner
    if REVERSED:
        offset += (n - 1 - 2 * item) * inner
        step = -inner
    if EXCLUSIVE:
        readable = inside & (item > chunk.to(tl.int64) * ITEMS)
        value = tl.load(x + offset - step, mask=readable, other=1 if PRODUCT else 0).to(ACCUMULATOR)
    else:
        value = tl.load(x + offset, mask=inside, other=1 if PRODUCT else 0).to(ACCUMULATOR)
    value = tl.cumprod(value, axis=AXIS) if PRODUCT else tl.cumsum(value, axis=AXIS)
    if before is not None:
        carried = tl.load(before + line * chunks + chunk, mask=line < lines, other=0)
        value = value * carried if PRODUCT else value + carried
    tl.store(y + offset, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def prod_grad_x_kernel(
    before, after, grad_y, grad_x, lines, n, inner, chunks,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x = grad_y (product of the elements before) (product of the elements after), with one grad_y a line."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(before + offset, mask=inside, other=0) * tl.load(after + offset, mask=inside, other=0)
    value *= tl.load(grad_y + line, mask=line < lines, other=0).to(ACCUMULATOR)
    tl.store(grad_x + offset, value.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def _follow(factor_1, term_1, factor_2, term_2):
    """One step of s -> term + factor s after another."""
    return factor_1 * factor_2, term_2 + factor_2 * term_1


@triton.jit
def cumprod_grad_x_kernel(
    x, before, grad_y, grad_x, lines, n, inner,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x_k = (product of x before k) s_k with s_k = grad_y_k + x_{k + 1} s_{k + 1}.

    A program walks its lines from their ends, a chunk of ITEMS at a time, and hands the last s on to the next chunk.
    """
    tile = tl.program_id(0)
    carried = tl.zeros((LINES, 1) if AXIS == 1 else (1, LINES), ACCUMULATOR)
    for chunk in range(tl.cdiv(n, ITEMS)):
        _, item, offset, inside = line_tile(tile, tile * 0 + chunk, lines, n, inner, LINES, ITEMS, AXIS)
        offset += (n - 1 - 2 * item) * inner
        first, last = item == chunk * ITEMS, item == chunk * ITEMS + ITEMS - 1
        factor = tl.load(x + offset + inner, mask=inside & (item > 0), other=0).to(ACCUMULATOR)
        term = tl.load(grad_y + offset, mask=inside, other=0).to(ACCUMULATOR)
        term += tl.where(first, factor * carried, 0.0)
        _, sums = tl.associative_scan((factor, term), AXIS, _follow)
        carried = tl.sum(tl.where(last, sums, 0.0), axis=AXIS, keep_dims=True)
        value = tl.load(before + offset, mask=inside, other=0) * sums
        tl.store(grad_x + offset, value.to(grad_x.dtype.element_ty), mask=inside)
