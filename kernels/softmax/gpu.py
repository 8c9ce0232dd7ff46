"""Softmax on CuPy arrays: a tile holds whole lines from load to store; lines that no tile can hold are cut into chunks,
whose largest elements and sums are joined before the result is written."""

import triton
import triton.language as tl

from ..gpu_arrays import cast, contiguous
from ..gpu_lines import accumulator, deliver, line_choice, line_tile, lines_of, state_dtype, sum_partials, tile_lines
from ..launch import empty, launch

FORWARD, GRAD_X = line_choice("softmax.forward"), line_choice("softmax.grad_x")

_SOFTMAX, _LOG_SOFTMAX, _LOGSUMEXP = (tl.constexpr(code) for code in range(3))


@triton.jit
def _finite_or_zero(peak):
    """The peak to subtract where infinities shall come out of exp and log by themselves."""
    return tl.where(tl.abs(peak) == float("inf"), 0.0, peak)


@triton.jit
def softmax_forward_kernel(
    x, y, lines, n, inner,
    CODE: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y of whole lines, for logsumexp one value a line.

    Elements past a line's end are -inf: they neither raise the largest nor add to the sum.
    """
    tile = tl.program_id(0)
    line, _, offset, inside = line_tile(tile, tile * 0, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(x + offset, mask=inside, other=float("-inf")).to(ACCUMULATOR)
    peak = tl.max(value, axis=AXIS, keep_dims=True)
    if CODE == _LOGSUMEXP:
        peak = _finite_or_zero(peak)
    value -= peak
    exponential = tl.exp(value)
    total = tl.sum(exponential, axis=AXIS, keep_dims=True)
    if CODE == _SOFTMAX:
        tl.store(y + offset, (exponential / total).to(y.dtype.element_ty), mask=inside)
    elif CODE == _LOG_SOFTMAX:
        tl.store(y + offset, (value - tl.log(total)).to(y.dtype.element_ty), mask=inside)
    else:
        tl.store(y + line, (peak + tl.log(total)).to(y.dtype.element_ty), mask=line < lines)


@triton.jit
def softmax_chunk_kernel(
    x, peaks, totals, lines, n, inner, chunks,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """For each chunk of a line its largest element and the sum of e^(x - largest). peaks, totals: [lines, chunks]."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(x + offset, mask=inside, other=float("-inf")).to(ACCUMULATOR)
    peak = tl.max(value, axis=AXIS, keep_dims=True)
    total = tl.sum(tl.exp(value - _finite_or_zero(peak)), axis=AXIS, keep_dims=True)
    place = line * chunks + program % chunks
    tl.store(peaks + place, peak, mask=line < lines)
    tl.store(totals + place, total, mask=line < lines)


@triton.jit
def softmax_join_kernel(
    peaks, totals, peak_of_line, total_of_line, chunks, CODE: tl.constexpr, ACCUMULATOR: tl.constexpr,
    ITEMS: tl.constexpr,
):  # fmt: skip
    """A line's largest element and sum from those of its chunks, a program a line; for logsumexp the result itself."""
    line = tl.program_id(0).to(tl.int64)
    item = tl.arange(0, ITEMS)
    largest = tl.full((ITEMS,), float("-inf"), ACCUMULATOR)
    for start in range(0, chunks, ITEMS):
        value = tl.load(peaks + line * chunks + start + item, mask=start + item < chunks, other=float("-inf"))
        largest = tl.maximum(largest, value)
    peak = tl.max(largest, axis=0)
    centre = _finite_or_zero(peak)
    sums = tl.zeros((ITEMS,), ACCUMULATOR)
    for start in range(0, chunks, ITEMS):
        inside = start + item < chunks
        value = tl.load(peaks + line * chunks + start + item, mask=inside, other=0.0)
        total = tl.load(totals + line * chunks + start + item, mask=inside, other=0.0)
        # A chunk of nothing but -inf adds nothing, whatever e^(its stand-in - centre) is.
        sums += tl.where(total == 0, 0.0, total * tl.exp(_finite_or_zero(value) - centre))
    total = tl.sum(sums, axis=0)
    if CODE == _LOGSUMEXP:
        tl.store(peak_of_line + line, centre + tl.log(total))
    else:
        tl.store(peak_of_line + line, peak)
        tl.store(total_of_line + line, tl.where(tl.abs(peak) == float("inf"), float("nan"), total))


@triton.jit
def softmax_write_kernel(
    x, peak_of_line, total_of_line, y, lines, n, inner, chunks,
    CODE: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """y of one chunk of each line, from the whole line's largest element and sum."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    value -= tl.load(peak_of_line + line, mask=line < lines, other=0.0)
    total = tl.load(total_of_line + line, mask=line < lines, other=1.0)
    if CODE == _SOFTMAX:
        value = tl.exp(value) / total
    else:
        value -= tl.log(total)
    tl.store(y + offset, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def softmax_grad_x_kernel(
    grad_y, y, grad_x, lines, n, inner,
    CODE: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x = y (grad_y - sum of grad_y y), for log_softmax grad_y - e^y (sum of grad_y), of whole lines."""
    tile = tl.program_id(0)
    _, _, offset, inside = line_tile(tile, tile * 0, lines, n, inner, LINES, ITEMS, AXIS)
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    value = tl.load(y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    if CODE == _SOFTMAX:
        result = value * (gradient - tl.sum(gradient * value, axis=AXIS, keep_dims=True))
    else:
        result = gradient - tl.exp(value) * tl.sum(gradient, axis=AXIS, keep_dims=True)
    tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def softmax_grad_sum_kernel(
    grad_y, y, sums, lines, n, inner, chunks,
    CODE: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """For each chunk of a line the sum of grad_y y, for log_softmax of grad_y. sums: [lines, chunks]."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    if CODE == _SOFTMAX:
        gradient *= tl.load(y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    tl.store(sums + line * chunks + program % chunks, tl.sum(gradient, axis=AXIS, keep_dims=True), mask=line < lines)


@triton.jit
def softmax_grad_x_of_chunk_kernel(
    grad_y, y, total_of_line, grad_x, lines, n, inner, chunks,
    CODE: tl.constexpr, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x of one chunk of each line, from the whole line's sum."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    value = tl.load(y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    total = tl.load(total_of_line + line, mask=line < lines, other=0.0)
    gradient = tl.load(grad_y + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    result = value * (gradient - total) if CODE == _SOFTMAX else gradient - tl.exp(value) * total
    tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def logsumexp_grad_x_kernel(
    grad_y, x, y, grad_x, lines, n, inner, chunks,
    ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """grad_x = grad_y e^(x - y), with one grad_y and y a line."""
    program = tl.program_id(0)
    line, _, offset, inside = line_tile(program // chunks, program % chunks, lines, n, inner, LINES, ITEMS, AXIS)
    gradient = tl.load(grad_y + line, mask=line < lines, other=0.0).to(ACCUMULATOR)
    result = tl.load(y + line, mask=line < lines, other=0.0)
    value = tl.load(x + offset, mask=inside, other=0.0).to(ACCUMULATOR)
    tl.store(grad_x + offset, (gradient * tl.exp(value - result)).to(grad_x.dtype.element_ty), mask=inside)


def _run_forward(x, shape, code, y) -> None:
    """Writes y for x seen as `shape` = (outer, n, inner)."""
    tiling = tile_lines(FORWARD, x, *shape)
    number = {"ACCUMULATOR": accumulator(x.dtype)}
    if tiling.chunks == 1:
        launch(softmax_forward_kernel, tiling.grid, x, y, *tiling.sizes, CODE=code, **number, **tiling.constants)
        return
    chunks, state = tiling.chunks, state_dtype(x.dtype)
    peaks, totals = empty(x, (tiling.lines, chunks), state), empty(x, (tiling.lines, chunks), state)
    launch(softmax_chunk_kernel, tiling.grid, x, peaks, totals, *tiling.sizes, chunks, **number, **tiling.constants)
    logsumexp = code == _LOGSUMEXP.value
    peak = y if logsumexp else empty(x, (tiling.lines,), state)
    total = None if logsumexp else empty(x, (tiling.lines,), state)
    items = min(triton.next_power_of_2(chunks), 1024)
    launch(softmax_join_kernel, (tiling.lines,), peaks, totals, peak, total, chunks, CODE=code, ITEMS=items, **number)
    if not logsumexp:
        launch(
            softmax_write_kernel, tiling.grid, x, peak, total, y, *tiling.sizes, chunks,
            CODE=code, **number, **tiling.constants,
        )  # fmt: skip


def _forward(x, axis, code, out):
    x, shape = lines_of(x, axis % x.ndim)
    y = empty(x)
    _run_forward(x, shape, code, y)
    return deliver(y, out), (y, shape, code)


def _backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    y, shape, code = saved
    grad_y, grad_x, tiling = contiguous(grad_y), empty(y), tile_lines(GRAD_X, y, *shape)
    constants = {"CODE": code, "ACCUMULATOR": accumulator(y.dtype), **tiling.constants}
    if tiling.chunks == 1:
        launch(softmax_grad_x_kernel, tiling.grid, grad_y, y, grad_x, *tiling.sizes, **constants)
        return (grad_x,)
    sizes = *tiling.sizes, tiling.chunks
    sums = empty(y, (tiling.lines, tiling.chunks), state_dtype(y.dtype))
    total = empty(y, (tiling.lines,), sums.dtype)
    launch(softmax_grad_sum_kernel, tiling.grid, grad_y, y, sums, *sizes, **constants)
    sum_partials(sums, total)
    launch(softmax_grad_x_of_chunk_kernel, tiling.grid, grad_y, y, total, grad_x, *sizes, **constants)
    return (grad_x,)


def softmax_forward(x, *, axis=-1, out=None):
    return _forward(x, axis, _SOFTMAX.value, out)


def log_softmax_forward(x, *, axis=-1, out=None):
    return _forward(x, axis, _LOG_SOFTMAX.value, out)


softmax_backward = log_softmax_backward = _backward


def logsumexp_forward(x, *, axis=-1, keepdims=False, out=None):
    axis %= x.ndim
    x, shape = lines_of(x, axis)
    y = empty(x, (*x.shape[:axis], *[1] * keepdims, *x.shape[axis + 1 :]), state_dtype(x.dtype))
    _run_forward(x, shape, _LOGSUMEXP.value, y)
    return deliver(cast(y, x.dtype), out), (x, y, shape)


def logsumexp_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, y, shape = saved
    grad_x, tiling = empty(x), tile_lines(GRAD_X, x, *shape, cut=True)
    launch(
        logsumexp_grad_x_kernel, tiling.grid, contiguous(grad_y), x, y, grad_x, *tiling.sizes, tiling.chunks,
        ACCUMULATOR=accumulator(x.dtype), **tiling.constants,
    )  # fmt: skip
    return (grad_x,)
