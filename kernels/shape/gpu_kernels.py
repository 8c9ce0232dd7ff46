"""Triton kernels that move elements; `gpu.py` launches them.

Where several elements meet in a gradient, each target collects its own in a fixed order.
"""

import triton
import triton.language as tl

CONSTANT, REFLECT, REPLICATE, CIRCULAR = (tl.constexpr(code) for code in range(4))


# ---- indexing with arrays. x is [outer, size, inner], y [outer, count, inner]; an index array has a stride for each of
# y's axes, so that one of y's shape and one that all outer and inner share are read alike.


@triton.jit
def index_rows_kernel(
    index, rows, total, size,
    size_1, size_2, size_3, size_4, stride_0, stride_1, stride_2, stride_3, stride_4,
    FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rows = rows * size + index, where a negative index counts from the end of an axis of `size`; the index is read
    with its own strides over the five axes of rows."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    last, rest = offset % size_4, offset // size_4
    place = last * stride_4
    last, rest = rest % size_3, rest // size_3
    place += last * stride_3
    last, rest = rest % size_2, rest // size_2
    place += last * stride_2
    last, rest = rest % size_1, rest // size_1
    place += last * stride_1 + rest * stride_0
    row = tl.load(index + place, mask=inside, other=0).to(tl.int64)
    row = tl.where(row < 0, row + size, row)
    if not FIRST:
        row += tl.load(rows + offset, mask=inside, other=0) * size
    tl.store(rows + offset, row, mask=inside)


@triton.jit
def take_kernel(
    x, index, y, total, size, count, inner, index_outer, index_count, index_inner,
    INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[o, k, c] = x[o, index[o, k, c], c]."""
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    c, rest = offset % inner, offset // inner
    k, o = rest % count, rest // count
    row = tl.load(index + o * index_outer + k * index_count + c * index_inner, mask=inside, other=0).to(INDEX)
    tl.store(y + offset, tl.load(x + (o * size + row) * inner + c, mask=inside), mask=inside)


@triton.jit
def extents_kernel(index, first, last, total, size, count, inner, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """first, last[o, index[o, k, c], c] = the smallest and the largest such k.

    Integer minima and maxima are the same in every order, so these atomics are deterministic.
    """
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    c, rest = offset % inner, offset // inner
    k, o = rest % count, rest // count
    place = (o * size + tl.load(index + offset, mask=inside, other=0).to(INDEX)) * inner + c
    number = k.to(first.dtype.element_ty)
    tl.atomic_min(first + place, number, mask=inside)
    tl.atomic_max(last + place, number, mask=inside)


@triton.jit
def take_grad_x_kernel(
    grad_y, index, first, last, grad_x, total, size, count, inner, index_outer, index_count, index_inner,
    extent_outer, extent_size, extent_inner,
    COMPUTE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """grad_x[o, r, c] = sum of grad_y[o, k, c] over the k with index[o, k, c] = r, looked for from first to last.

    A tile is BLOCK targets by SCAN values of k, each target's from its own first on: where none is met twice the loop
    runs once.
    """
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    c, rest = offset % inner, offset // inner
    r, o = rest % size, rest // size
    extent = o * extent_outer + r * extent_size + c * extent_inner
    low = tl.load(first + extent, mask=inside, other=0).to(INDEX)
    high = tl.load(last + extent, mask=inside, other=-1).to(INDEX)
    index_start = index + o * index_outer + c * index_inner
    partial = tl.zeros((BLOCK, SCAN), COMPUTE)
    for start in range(0, tl.maximum(tl.max(high - low, axis=0) + 1, 0), SCAN):
        k = low[:, None] + start + tl.arange(0, SCAN)[None, :]
        valid = k <= high[:, None]
        row = tl.load(index_start[:, None] + k * index_count, mask=valid, other=-1).to(INDEX)
        met = valid & (row == r[:, None])
        place = (o[:, None] * count + k) * inner + c[:, None]
        partial += tl.load(grad_y + place, mask=met, other=0.0).to(COMPUTE)
    tl.store(grad_x + offset, tl.sum(partial, axis=1).to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def take_rows_grad_x_kernel(
    grad_y, rows, first, last, grad_x, size, count, inner,
    COMPUTE: tl.constexpr, SCAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x[o, r] = sum of grad_y[o, k] over the k with rows[k] = r: take_grad_x_kernel for long rows.

    A program owns BLOCK columns of one target row. It compares SCAN numbers at once, and reads gradients only where one
    of them is its row.
    """
    program, tiles = tl.program_id(0).to(tl.int64), tl.cdiv(inner, BLOCK)
    r, o = program // tiles % size, program // tiles // size
    column = program % tiles * BLOCK + tl.arange(0, BLOCK)
    low, high = tl.load(first + r).to(tl.int64), tl.load(last + r).to(tl.int64)
    total = tl.zeros((BLOCK,), COMPUTE)
    for start in range(low, high + 1, SCAN):
        k = start + tl.arange(0, SCAN)
        met = (k <= high) & (tl.load(rows + k, mask=k <= high, other=-1) == r)
        if tl.sum(met.to(tl.int32), axis=0) > 0:
            place = (o * count + k[:, None]) * inner + column[None, :]
            tile = tl.load(grad_y + place, mask=met[:, None] & (column[None, :] < inner), other=0.0)
            total += tl.sum(tile.to(COMPUTE), axis=0)
    place = (o * size + r) * inner + column
    tl.store(grad_x + place, total.to(grad_x.dtype.element_ty), mask=column < inner)


# ---- padding three axes of [outer, a, b, c]


@triton.jit
def _source(position, size, before, MODE: tl.constexpr):
    """What a position of a padded axis is read from; outside of the axis for a border of a constant."""
    place = position - before
    if MODE == REFLECT:
        place = size - 1 - tl.abs(size - 1 - tl.abs(place))
    elif MODE == REPLICATE:
        place = tl.minimum(tl.maximum(place, 0), size - 1)
    elif MODE == CIRCULAR:
        place = tl.where(place < 0, place + size, tl.where(place >= size, place - size, place))
    return place


@triton.jit
def _reader(position, number, size, before, after, MODE: tl.constexpr):
    """The position of a padded axis that is the `number`-th to read a position; outside of the padded axis, as -1,
    where there are fewer."""
    place = position + before
    if MODE == REFLECT:
        left = tl.where((position >= 1) & (position <= before), before - position, -1)
        mirrored = size - 1 - position
        right = tl.where((mirrored >= 1) & (mirrored <= after), before + size - 1 + mirrored, -1)
        place = tl.where(number == 0, place, tl.where(number == 1, left, right))
    elif MODE == REPLICATE:
        left = tl.where(position == 0, before - number, -1)
        right = tl.where(position == size - 1, size - 1 + number, -1)  # numbers past `before` are of this side
        place = tl.where(number == 0, place, tl.where(number <= before, left, right))
    elif MODE == CIRCULAR:
        place = tl.where(number == 0, place, tl.where(number == 1, place - size, place + size))
    return place


@triton.jit
def pad_kernel(
    x, y, total, value: "fp64", whole: "i64",  # noqa: F821
    size_a, size_b, size_c, padded_a, padded_b, padded_c, before_a, before_b, before_c,
    MODE: tl.constexpr, FLOATING: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = x with a border: a constant (`value` for floating-point types, `whole` for others), or what lies inside."""
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    c, rest = offset % padded_c, offset // padded_c
    b, rest = rest % padded_b, rest // padded_b
    a, outer = rest % padded_a, rest // padded_a
    a, b, c = _source(a, size_a, before_a, MODE), _source(b, size_b, before_b, MODE), _source(c, size_c, before_c, MODE)
    kept = (a >= 0) & (a < size_a) & (b >= 0) & (b < size_b) & (c >= 0) & (c < size_c)
    place = ((outer * size_a + a) * size_b + b) * size_c + c
    moved = tl.load(x + place, mask=inside & kept, other=0)
    if MODE == CONSTANT:
        if FLOATING:
            border = tl.full((BLOCK,), value, tl.float64)
        else:
            border = tl.full((BLOCK,), whole, tl.int64)
        moved = tl.where(kept, moved, border.to(y.dtype.element_ty))
    tl.store(y + offset, moved, mask=inside)


@triton.jit
def pad_grad_x_kernel(
    grad_y, grad_x, total,
    size_a, size_b, size_c, padded_a, padded_b, padded_c, before_a, before_b, before_c, after_a, after_b, after_c,
    readers_a, readers_b, readers_c,
    MODE: tl.constexpr, COMPUTE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x = sum of grad_y over the padded positions that were read from each position."""
    offset = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    c, rest = offset % size_c, offset // size_c
    b, rest = rest % size_b, rest // size_b
    a, outer = rest % size_a, rest // size_a
    gradient = tl.zeros((BLOCK,), COMPUTE)
    for number_a in range(readers_a):
        row_a = _reader(a, number_a, size_a, before_a, after_a, MODE)
        for number_b in range(readers_b):
            row_b = _reader(b, number_b, size_b, before_b, after_b, MODE)
            for number_c in range(readers_c):
                column = _reader(c, number_c, size_c, before_c, after_c, MODE)
                valid = (row_a >= 0) & (row_a < padded_a) & (row_b >= 0) & (row_b < padded_b)
                valid = inside & valid & (column >= 0) & (column < padded_c)
                place = ((outer * padded_a + row_a) * padded_b + row_b) * padded_c + column
                gradient += tl.load(grad_y + place, mask=valid, other=0.0).to(COMPUTE)
    tl.store(grad_x + offset, gradient.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def triangle_kernel(x, y, total, rows, columns, diagonal, UPPER: tl.constexpr, BLOCK: tl.constexpr):
    """y = x on and above (UPPER), or on and below, a diagonal of each matrix, 0 elsewhere."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < total
    above = offset % columns - offset // columns % rows
    if UPPER:
        kept = above >= diagonal
    else:
        kept = above <= diagonal
    tl.store(y + offset, tl.load(x + offset, mask=inside & kept, other=0), mask=inside)
