"""Triton kernels that resize planes; `gpu.py` launches them.

A resized axis is a table of taps, made on the device: for each output position a few input positions (int32, -1 where
there are fewer) and their weights. Its transpose, for each input position the outputs that read it, is a table of the
same form, so the same kernel carries values forward and gradients backward.
"""

import triton
import triton.language as tl

from ..pool.gpu_kernels import windows_above

# In an order that the kernels compare by.
POSITION, NEAREST, NEAREST_EXACT, LINEAR, CUBIC = (tl.constexpr(code) for code in range(5))
LINEAR_FILTER, CUBIC_FILTER, LANCZOS_FILTER = (tl.constexpr(code) for code in range(5, 8))
_PI = tl.constexpr(3.141592653589793)


@triton.jit
def _triangle(x):
    return tl.maximum(1 - tl.abs(x), 0.0)


@triton.jit
def _cubic(x, A: tl.constexpr):
    """Keys' cubic convolution kernel."""
    x = tl.abs(x)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return tl.where(x <= 1, near, tl.where(x < 2, far, 0.0))


@triton.jit
def _sine_of_turn(x):
    """sin(pi x) for small x, by its series around the nearest integer: the library's keeps a table on the stack."""
    nearest = tl.floor(x + 0.5)
    angle = (x - nearest) * _PI
    series = tl.full(x.shape, 1.0, x.dtype)
    for number in tl.static_range(11, 0, -1):  # up to the 23rd power: within rounding for |angle| <= pi / 2
        series = 1 - angle * angle / (2 * number * (2 * number + 1)) * series
    odd = nearest - 2 * tl.floor(nearest / 2)
    return angle * series * (1 - 2 * odd)


@triton.jit
def _lanczos(x):
    safe = tl.where(x == 0, 1.0, x)
    windowed = 3 * _sine_of_turn(safe) * _sine_of_turn(safe / 3) / (safe * safe * _PI * _PI)
    return tl.where(x == 0, 1.0, tl.where(tl.abs(x) < 3, windowed, 0.0))


@triton.jit
def _filter(x, MODE: tl.constexpr):
    if MODE == LINEAR_FILTER:
        weight = _triangle(x)
    elif MODE == CUBIC_FILTER:
        weight = _cubic(x, -0.5)
    else:
        weight = _lanczos(x)
    return weight


@triton.jit
def taps_kernel(
    index, weight, last, size, count, taps, step: "fp64",  # noqa: F821
    ALIGN_CORNERS: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_TAPS: tl.constexpr,
):  # fmt: skip
    """index, weight [count, taps] = what each output position reads of an axis of `size`; last [count] = the largest
    index. In float64; `taps.py` has the rules."""
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = o < count
    position = o.to(tl.float64)
    if MODE == POSITION:
        first = (o.to(tl.int64) * size // count).to(tl.int32)
        highest = first
    elif MODE <= NEAREST_EXACT:
        # In float32: its rounding decides which of two neighbours is taken.
        source = position.to(tl.float32)
        if MODE == NEAREST_EXACT:
            source += 0.5
        source = tl.floor(source * tl.full((BLOCK,), step, tl.float32))
        first = tl.minimum(source.to(tl.int32), size - 1)
        highest = first
    elif MODE <= CUBIC:
        source = position * step if ALIGN_CORNERS else (position + 0.5) * step - 0.5
        if MODE == LINEAR:
            source = tl.maximum(source, 0.0)
        floor = tl.floor(source)
        first = floor.to(tl.int32)
        if MODE == LINEAR:
            first = tl.minimum(first, size - 1)
        fraction = source - first.to(tl.float64)
        highest = tl.minimum(tl.maximum(first + (1 if MODE == LINEAR else 2), 0), size - 1)
    else:
        stretch = tl.maximum(tl.full((BLOCK,), step, tl.float64), 1.0)
        support = stretch * (1.0 if MODE == LINEAR_FILTER else (2.0 if MODE == CUBIC_FILTER else 3.0))
        center = (position + 0.5) * step
        first = tl.maximum((center - support + 0.5).to(tl.int32), 0)
        highest = tl.minimum((center + support + 0.5).to(tl.int32), size) - 1
        # Filters are normalised to a sum of 1.
        total = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, taps, BLOCK_TAPS):
            tap = first[:, None] + start + tl.arange(0, BLOCK_TAPS)[None, :]
            value = _filter((tap.to(tl.float64) + 0.5 - center[:, None]) / stretch[:, None], MODE)
            total += tl.sum(tl.where(tap <= highest[:, None], value, 0.0), axis=1)
    tl.store(last + o, highest, mask=inside)

    for start in range(0, taps, BLOCK_TAPS):
        number = start + tl.arange(0, BLOCK_TAPS)[None, :]
        tap = first[:, None] + number
        value = tl.full((BLOCK, BLOCK_TAPS), 1.0, tl.float64)
        if MODE == LINEAR:
            near = tl.minimum(fraction, 1.0)[:, None]
            value = tl.where(number == 0, 1 - near, near)
            tap = tl.minimum(tap, size - 1)
        elif MODE == CUBIC:
            value = _cubic(fraction[:, None] - (number - 1).to(tl.float64), -0.75)
            tap = tl.minimum(tl.maximum(tap - 1, 0), size - 1)
        elif MODE >= LINEAR_FILTER:
            value = _filter((tap.to(tl.float64) + 0.5 - center[:, None]) / stretch[:, None], MODE)
            value = tl.where(tap <= highest[:, None], value / total[:, None], 0.0)
            tap = tl.where(tap <= highest[:, None], tap, -1)
        place = o.to(tl.int64)[:, None] * taps + number
        written = inside[:, None] & (number < taps)
        tl.store(index + place, tap, mask=written)
        tl.store(weight + place, value.to(weight.dtype.element_ty), mask=written)


@triton.jit
def taps_transposed_kernel(
    index, weight, last, readers_index, readers_weight, total, count, taps, readers, halvings,
    FILTER: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """readers_index, readers_weight [size, readers] = the output positions that read each input position, and with
    what weight.

    Output positions in their order read input positions in their order: the first reader is found by halving. A filter
    reads neighbours once each, other modes read a position at the border several times.
    """
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    position = (offset // readers).to(tl.int32)
    low, high = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32) + count
    for _ in range(halvings):
        middle = (low + high) // 2
        searching = low < high
        before = tl.load(last + middle, mask=searching, other=0) < position
        low = tl.where(searching & before, middle + 1, low)
        high = tl.where(searching & (before == 0), middle, high)
    reader = low + (offset % readers).to(tl.int32)
    known = inside & (reader < count)
    row = reader.to(tl.int64) * taps
    if FILTER:
        tap = position - tl.load(index + row, mask=known, other=0)
        known = known & (tap >= 0) & (tap < taps)
        known = known & (tl.load(index + row + tap, mask=known, other=-1) == position)
        value = tl.load(weight + row + tap, mask=known, other=0.0)
    else:
        value, found = tl.zeros((BLOCK,), COMPUTE), tl.zeros((BLOCK,), tl.int32)
        for tap in range(taps):
            same = tl.load(index + row + tap, mask=known, other=-1) == position
            value += tl.load(weight + row + tap, mask=known & same, other=0.0)
            found += same.to(tl.int32)
        known = known & (found > 0)
    tl.store(readers_index + offset, tl.where(known, reader, -1), mask=inside)
    tl.store(readers_weight + offset, value, mask=inside)


@triton.jit
def interpolate_kernel(
    x, y, outputs, index_d, weight_d, index_h, weight_h, index_w, weight_w, taps_d, taps_h, taps_w,
    size_d, size_h, size_w, count_d, count_h, count_w,
    COMPUTE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = weighted sum of x over the taps of all three axes; an axis without a table stays as it is.

    With transposed tables, x is the gradient of the output and y that of the input.
    """
    output = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = output < outputs
    j, rest = output % count_w, output // count_w
    i, rest = rest % count_h, rest // count_h
    o, plane = rest % count_d, rest // count_d
    total = tl.zeros((BLOCK,), COMPUTE)
    for tap_d in range(taps_d):
        d, depth_weight = o, tl.full((BLOCK,), 1.0, COMPUTE)
        if index_d is not None:
            d = tl.load(index_d + o * taps_d + tap_d, mask=inside, other=-1).to(INDEX)
            depth_weight = tl.load(weight_d + o * taps_d + tap_d, mask=inside, other=0.0)
        for tap_h in range(taps_h):
            h, row_weight = i, depth_weight
            if index_h is not None:
                h = tl.load(index_h + i * taps_h + tap_h, mask=inside, other=-1).to(INDEX)
                row_weight = depth_weight * tl.load(weight_h + i * taps_h + tap_h, mask=inside, other=0.0)
            row, row_valid = ((plane * size_d + d) * size_h + h) * size_w, inside & (d >= 0) & (h >= 0)
            for tap_w in range(taps_w):
                w, value_weight = j, row_weight
                if index_w is not None:
                    w = tl.load(index_w + j * taps_w + tap_w, mask=inside, other=-1).to(INDEX)
                    value_weight = row_weight * tl.load(weight_w + j * taps_w + tap_w, mask=inside, other=0.0)
                value = tl.load(x + row + w, mask=row_valid & (w >= 0), other=0.0).to(COMPUTE)
                total += value_weight * value
    tl.store(y + output, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def unfold_kernel(
    x, columns, total, size_h, size_w, count_h, count_w, kernel_h, kernel_w, dilation_h, dilation_w,
    padding_h, padding_w, stride_h, stride_w, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """columns[p, i, j, a, b] = x[p, a * stride - padding + i * dilation, the same of b and j], 0 outside the plane."""
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    b, rest = offset % count_w, offset // count_w
    a, rest = rest % count_h, rest // count_h
    j, rest = rest % kernel_w, rest // kernel_w
    i, plane = rest % kernel_h, rest // kernel_h
    h, w = a * stride_h - padding_h + i * dilation_h, b * stride_w - padding_w + j * dilation_w
    valid = inside & (h >= 0) & (h < size_h) & (w >= 0) & (w < size_w)
    tl.store(columns + offset, tl.load(x + (plane * size_h + h) * size_w + w, mask=valid, other=0.0), mask=inside)


@triton.jit
def fold_kernel(
    columns, y, total, above_h, above_w, size_h, size_w, count_h, count_w, kernel_h, kernel_w, dilation_h, dilation_w,
    padding_h, padding_w, stride_h, stride_w, COMPUTE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = sum of all columns that unfold_kernel would take from each place, window after window.

    At most above_h * above_w windows lie above a place; a dilated one may step over it.
    """
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    w, rest = offset % size_w, offset // size_w
    h, plane = rest % size_h, rest // size_h
    first_h, last_h = windows_above(h, size_h, count_h, kernel_h, stride_h, padding_h, dilation_h, False)
    first_w, last_w = windows_above(w, size_w, count_w, kernel_w, stride_w, padding_w, dilation_w, False)
    start, gathered = plane * kernel_h * kernel_w, tl.zeros((BLOCK,), COMPUTE)
    for number_h in range(above_h):
        a = first_h + number_h
        reach_h = h + padding_h - a * stride_h
        valid_h = inside & (a <= last_h) & (reach_h % dilation_h == 0)
        row = start + reach_h // dilation_h * kernel_w
        for number_w in range(above_w):
            b = first_w + number_w
            reach_w = w + padding_w - b * stride_w
            valid = valid_h & (b <= last_w) & (reach_w % dilation_w == 0)
            place = ((row + reach_w // dilation_w) * count_h + a) * count_w + b
            gathered += tl.load(columns + place, mask=valid, other=0.0).to(COMPUTE)
    tl.store(y + offset, gathered.to(y.dtype.element_ty), mask=inside)
