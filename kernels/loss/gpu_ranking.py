"""Margin losses of pairs, triplets and classes on CuPy arrays: a program for each row, which it walks in blocks."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..gpu_lines import block_of_row
from ..launch import ceil_div, empty, launch
from .gpu_reduce import Reduction, as_wide, load_scale, load_wide, wide_type

_SIZES, _SQUARES, _LARGEST, _POWERS = (tl.constexpr(code) for code in range(4))


@triton.jit
def _store_loss(losses, partial, row, loss):
    if losses is not None:
        tl.store(losses + row, loss.to(losses.dtype.element_ty))
    else:
        tl.store(partial + row, loss.to(tl.float64))


@triton.jit
def cosine_embedding_kernel(
    a, b, target, losses, partial, statistics, rows, columns, margin: tl.float64,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """statistics: [3, rows], the cosine and the squared lengths of the rows of a and b."""
    row = tl.program_id(0).to(tl.int64)
    product, square_a, square_b = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        left = load_wide(a, row * columns + column, column < columns)
        right = load_wide(b, row * columns + column, column < columns)
        product += left * right
        square_a += left * left
        square_b += right * right
    length_a = tl.sum(square_a, axis=0) + tl.full((), 1e-12, WIDE)
    length_b = tl.sum(square_b, axis=0) + tl.full((), 1e-12, WIDE)
    # Two roots: the product of two squares would overflow.
    cosine = tl.sum(product, axis=0) / (tl.sqrt(length_a) * tl.sqrt(length_b))
    tl.store(statistics + row, cosine)
    tl.store(statistics + rows + row, length_a)
    tl.store(statistics + 2 * rows + row, length_b)
    above = cosine - as_wide(margin, cosine)
    loss = tl.where(tl.load(target + row) == 1, 1.0 - cosine, tl.where(above < 0, 0.0, above))
    _store_loss(losses, partial, row, loss)


@triton.jit
def cosine_embedding_grad_kernel(
    a, b, target, statistics, grad_output, factor, grad_a, grad_b, rows, columns, margin: tl.float64,
    EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_a = scale * slope * (b / (|a| |b|) - cosine a / |a|^2), and grad_b with a and b exchanged."""
    row, column = block_of_row(columns, BLOCK)
    cosine = tl.load(statistics + row)
    square_a, square_b = tl.load(statistics + rows + row), tl.load(statistics + 2 * rows + row)
    below = cosine < as_wide(margin, cosine)
    slope = tl.where(tl.load(target + row) == 1, -1.0, tl.where(below, 0.0, 1.0))
    slope = slope * load_scale(grad_output, factor, row, row < rows, EACH)
    across = slope / (tl.sqrt(square_a) * tl.sqrt(square_b))
    inside = column < columns
    left, right = load_wide(a, row * columns + column, inside), load_wide(b, row * columns + column, inside)
    if grad_a is not None:
        gradient = across * right - slope * cosine / square_a * left
        tl.store(grad_a + row * columns + column, gradient.to(grad_a.dtype.element_ty), mask=inside)
    if grad_b is not None:
        gradient = across * left - slope * cosine / square_b * right
        tl.store(grad_b + row * columns + column, gradient.to(grad_b.dtype.element_ty), mask=inside)


@triton.jit
def _difference(a, b, offset, inside, eps):
    """a - b + eps of a block, 0 past its end."""
    d = load_wide(a, offset, inside) - load_wide(b, offset, inside)
    return tl.where(inside, d + as_wide(eps, d), 0.0)


@triton.jit
def _raised(size, exponent):
    """size^exponent for size >= 0, 0 for 0."""
    something = size != 0
    return tl.where(something, tl.exp(exponent * tl.log(tl.where(something, size, 1.0))), 0.0)


@triton.jit
def _distance(a, b, start, columns, p, eps, NORM: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """|a - b + eps|_p of a row."""
    total = tl.zeros((BLOCK,), WIDE)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        size = tl.abs(_difference(a, b, start + column, column < columns, eps))
        if NORM == _SIZES:
            total += size
        elif NORM == _SQUARES:
            total += size * size
        elif NORM == _LARGEST:
            total = tl.where(size <= total, total, size)
        else:
            total += _raised(size, as_wide(p, size))
    if NORM == _LARGEST:
        distance = tl.max(total, axis=0)
    else:
        distance = tl.sum(total, axis=0)
    if NORM == _SQUARES:
        distance = tl.sqrt(distance)
    elif NORM == _POWERS:
        distance = _raised(distance, 1.0 / as_wide(p, distance))
    return distance


@triton.jit
def _count_largest(a, b, start, columns, distance, eps, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """How many components of a row are as large as its maximum distance."""
    count = tl.zeros((BLOCK,), WIDE)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        size = tl.abs(_difference(a, b, start + column, column < columns, eps))
        count += ((size == distance) & (column < columns)).to(WIDE)
    return tl.maximum(tl.sum(count, axis=0), 1.0)


@triton.jit
def _distance_grad(d, distance, count, p, NORM: tl.constexpr):
    """The derivative of a distance by its first point: sign(d) (|d| / distance)^(p - 1)."""
    size = tl.abs(d)
    if NORM == _SIZES:
        slope = tl.zeros_like(size) + 1.0
    elif NORM == _SQUARES:
        slope = size / tl.where(distance == 0, 1.0, distance)
    elif NORM == _LARGEST:
        slope = tl.where(size == distance, 1.0 / count, 0.0)
    else:
        slope = _raised(size / tl.where(distance == 0, 1.0, distance), as_wide(p, size) - 1.0)
    return tl.where(d > 0, slope, tl.where(d < 0, -slope, d - d))


@triton.jit
def triplet_margin_kernel(
    anchor, positive, negative, losses, partial, distances, rows, columns,
    margin: tl.float64, p: tl.float64, eps: tl.float64,
    NORM: tl.constexpr, SWAP: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """distances: [3, rows], anchor-positive, anchor-negative, positive-negative (if SWAP, else infinite)."""
    row = tl.program_id(0).to(tl.int64)
    start = row * columns
    near = _distance(anchor, positive, start, columns, p, eps, NORM, WIDE, BLOCK)
    far = _distance(anchor, negative, start, columns, p, eps, NORM, WIDE, BLOCK)
    other = tl.full((), float("inf"), WIDE)
    if SWAP:
        other = _distance(positive, negative, start, columns, p, eps, NORM, WIDE, BLOCK)
    tl.store(distances + row, near)
    tl.store(distances + rows + row, far)
    tl.store(distances + 2 * rows + row, other)
    inside = as_wide(margin, near) + near - tl.where(other < far, other, far)
    _store_loss(losses, partial, row, tl.where(inside < 0, 0.0, inside))


@triton.jit
def triplet_margin_grad_kernel(
    anchor, positive, negative, distances, grad_output, factor, grad_anchor, grad_positive, grad_negative,
    rows, columns, margin: tl.float64, p: tl.float64, eps: tl.float64,
    NORM: tl.constexpr, SWAP: tl.constexpr, EACH: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the distance to the positive and the one to the negative (with SWAP, the lesser of two) give each point."""
    row = tl.program_id(0).to(tl.int64)
    start = row * columns
    near, far = tl.load(distances + row), tl.load(distances + rows + row)
    other = tl.load(distances + 2 * rows + row)
    swapped = other < far
    inside = as_wide(margin, near) + near - tl.where(swapped, other, far)
    scale = tl.where(inside < 0, 0.0, load_scale(grad_output, factor, row, row < rows, EACH))
    near_count, far_count, other_count = near, near, near
    if NORM == _LARGEST:
        near_count = _count_largest(anchor, positive, start, columns, near, eps, WIDE, BLOCK)
        far_count = _count_largest(anchor, negative, start, columns, far, eps, WIDE, BLOCK)
        if SWAP:
            other_count = _count_largest(positive, negative, start, columns, other, eps, WIDE, BLOCK)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        there = column < columns
        towards = _distance_grad(_difference(anchor, positive, start + column, there, eps), near, near_count, p, NORM)
        away = _distance_grad(_difference(anchor, negative, start + column, there, eps), far, far_count, p, NORM)
        from_anchor, from_positive = away, away - away
        if SWAP:
            apart = _difference(positive, negative, start + column, there, eps)
            apart = _distance_grad(apart, other, other_count, p, NORM)
            from_anchor, from_positive = tl.where(swapped, 0.0, away), tl.where(swapped, apart, 0.0)
        if grad_anchor is not None:
            gradient = scale * (towards - from_anchor)
            tl.store(grad_anchor + start + column, gradient.to(grad_anchor.dtype.element_ty), mask=there)
        if grad_positive is not None:
            gradient = -scale * (towards + from_positive)
            tl.store(grad_positive + start + column, gradient.to(grad_positive.dtype.element_ty), mask=there)
        if grad_negative is not None:
            gradient = scale * (from_anchor + from_positive)
            tl.store(grad_negative + start + column, gradient.to(grad_negative.dtype.element_ty), mask=there)


@triton.jit
def _load_margins(x, start, label, columns, first, margin, BLOCK: tl.constexpr):
    """margin - x_y + x_c of a block of classes, 0 at the label and past the end, and the classes."""
    column = first + tl.arange(0, BLOCK)
    value = load_wide(x, start + column, column < columns)
    own = load_wide(x, start + label, label >= 0)
    there = (column < columns) & (column != label)
    return tl.where(there, as_wide(margin, value) - own + value, 0.0), column


@triton.jit
def multi_margin_kernel(
    x, labels, weight, losses, partial, columns, margin: tl.float64,
    SQUARED: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """loss = w_y / C sum_{c != y} max(0, margin - x_y + x_c)^p."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row).to(tl.int64)
    total = tl.zeros((BLOCK,), WIDE)
    for first in range(0, columns, BLOCK):
        inside, _ = _load_margins(x, row * columns, label, columns, first, margin, BLOCK)
        inside = tl.where(inside < 0, 0.0, inside)
        if SQUARED:
            inside = inside * inside
        total += inside
    loss = tl.sum(total, axis=0) / columns
    if weight is not None:
        loss = loss * load_wide(weight, label, label >= 0)
    _store_loss(losses, partial, row, loss)


@triton.jit
def multi_margin_grad_x_kernel(
    x, labels, weight, grad_output, factor, grad_x, columns, margin: tl.float64,
    SQUARED: tl.constexpr, EACH: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The slope of each class whose margin is hurt; the label gets minus their sum, which a first walk makes."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row).to(tl.int64)
    scale = load_scale(grad_output, factor, row, row >= 0, EACH) / columns
    if weight is not None:
        scale = scale * load_wide(weight, label, label >= 0)
    total = tl.zeros((BLOCK,), WIDE)
    for first in range(0, columns, BLOCK):
        inside, _ = _load_margins(x, row * columns, label, columns, first, margin, BLOCK)
        if SQUARED:
            total += tl.where(inside > 0, 2.0 * inside, 0.0)
        else:
            total += tl.where(inside > 0, 1.0, 0.0)
    whole = tl.sum(total, axis=0)
    for first in range(0, columns, BLOCK):
        inside, column = _load_margins(x, row * columns, label, columns, first, margin, BLOCK)
        if SQUARED:
            slope = tl.where(inside > 0, 2.0 * inside, 0.0)
        else:
            slope = tl.where(inside > 0, 1.0, 0.0)
        gradient = tl.where(column == label, -whole, slope) * scale
        tl.store(grad_x + row * columns + column, gradient.to(grad_x.dtype.element_ty), mask=column < columns)


@triton.jit
def multilabel_names_kernel(labels, counts, named, columns, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr):
    """counts[row] = how many labels stand before the row's first -1; named[row, c] = whether class c is among them."""
    row, column = block_of_row(columns, BLOCK_C)
    ends = tl.zeros((BLOCK,), tl.int64) + columns
    for first in range(0, columns, BLOCK):
        place = first + tl.arange(0, BLOCK)
        label = tl.load(labels + row * columns + place, mask=place < columns, other=0).to(tl.int64)
        ends = tl.where(label < 0, tl.minimum(ends, place), ends)
    count = tl.min(ends, axis=0)
    found = tl.zeros((BLOCK, BLOCK_C), tl.int32)
    for first in range(0, count, BLOCK):
        place = first + tl.arange(0, BLOCK)
        label = tl.load(labels + row * columns + place, mask=place < count, other=-1).to(tl.int64)
        found = found | (label[:, None] == column[None, :]).to(tl.int32)
    tl.store(named + row * columns + column, tl.max(found, axis=0).to(tl.int8), mask=column < columns)
    tl.store(counts + row, count)


@triton.jit
def _load_named_scores(x, labels, start, first, count, BLOCK: tl.constexpr):
    """A block of the row's labels, their scores, and which of them there are."""
    place = first + tl.arange(0, BLOCK)
    inside = place < count
    label = tl.load(labels + start + place, mask=inside, other=-1).to(tl.int64)
    return label, load_wide(x, start + label, inside), inside


@triton.jit
def multilabel_margin_kernel(
    x, labels, counts, named, losses, partial, hits, columns,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """loss = 1 / C sum over labels y and classes c that are none of max(0, 1 - x_y + x_c); hits[row, k] = how many
    classes come too near the row's k-th label."""
    row = tl.program_id(0).to(tl.int64)
    start, count = row * columns, tl.load(counts + row)
    total = tl.zeros((BLOCK, BLOCK_C), WIDE)
    for first in range(0, count, BLOCK):
        _, own, there = _load_named_scores(x, labels, start, first, count, BLOCK)
        near = tl.zeros((BLOCK, BLOCK_C), tl.int32)
        for first_column in range(0, columns, BLOCK_C):
            column = first_column + tl.arange(0, BLOCK_C)
            other = tl.load(named + start + column, mask=column < columns, other=1) == 0
            value = load_wide(x, start + column, column < columns)
            inside = 1.0 - own[:, None] + value[None, :]
            hurt = there[:, None] & other[None, :] & (inside > 0)
            total += tl.where(hurt, inside, 0.0)
            near += hurt.to(tl.int32)
        place = first + tl.arange(0, BLOCK)
        tl.store(hits + start + place, tl.sum(near, axis=1), mask=there)
    _store_loss(losses, partial, row, tl.sum(tl.sum(total, axis=1), axis=0) / columns)


@triton.jit
def multilabel_margin_grad_kernel(
    x, labels, counts, hits, grad_output, factor, grad_x, columns,
    EACH: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A label's class gets minus its hits, for each time it is named; another class, how many labels it comes too near.

    A program makes BLOCK_C classes of a row and walks the row's labels.
    """
    row, column = block_of_row(columns, BLOCK_C)
    start, count = row * columns, tl.load(counts + row)
    scale = load_scale(grad_output, factor, row, row >= 0, EACH) / columns
    value = load_wide(x, start + column, column < columns)
    pulled, pushed = tl.zeros((BLOCK, BLOCK_C), tl.int32), tl.zeros((BLOCK, BLOCK_C), tl.int32)
    named = tl.zeros((BLOCK, BLOCK_C), tl.int32)
    for first in range(0, count, BLOCK):
        label, own, there = _load_named_scores(x, labels, start, first, count, BLOCK)
        hit = tl.load(hits + start + first + tl.arange(0, BLOCK), mask=there, other=0)
        same = there[:, None] & (label[:, None] == column[None, :])
        named = named | same.to(tl.int32)
        pulled += tl.where(same, hit[:, None], 0)
        pushed += (there[:, None] & (1.0 - own[:, None] + value[None, :] > 0)).to(tl.int32)
    is_named = tl.max(named, axis=0) != 0
    slope = tl.where(is_named, -tl.sum(pulled, axis=0), tl.sum(pushed, axis=0)).to(WIDE)
    tl.store(grad_x + start + column, (slope * scale).to(grad_x.dtype.element_ty), mask=column < columns)


def _block(columns) -> dict:
    return {"BLOCK": min(triton.next_power_of_2(max(columns, 1)), 1024)}


def cosine_embedding_loss_forward(input1, input2, target, *, margin=0.0, reduction="mean"):
    a, b, signs = contiguous(input1), contiguous(input2), contiguous(target)
    rows, columns = signs.size, a.shape[-1]
    dtype, wide = wide_type(a)
    reduced = Reduction(a, target.shape, reduction, rows, rows)
    statistics = empty(a, (3, rows), dtype)
    launch(
        cosine_embedding_kernel, (rows,),
        a, b, signs, reduced.losses, reduced.partial, statistics, rows, columns, float(margin),
        WIDE=wide, **_block(columns),
    )  # fmt: skip
    return reduced.output(a), (a, b, signs, statistics, float(margin), reduced)


def cosine_embedding_loss_backward(saved, grad_output, needs):
    a, b, signs, statistics, margin, reduced = saved
    grads = [empty(a) if need else None for need in needs[:2]]
    rows, columns = signs.size, a.shape[-1]
    *scale, each = reduced.scale(grad_output)
    block = _block(columns)
    launch(
        cosine_embedding_grad_kernel, (rows * ceil_div(columns, block["BLOCK"]),),
        a, b, signs, statistics, *scale, *grads, rows, columns, margin, EACH=each, **block,
    )  # fmt: skip
    return *grads, None


def triplet_margin_loss_forward(
    anchor, positive, negative, *, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"
):
    points = [contiguous(x) for x in (anchor, positive, negative)]
    rows, columns = math.prod(anchor.shape[:-1]), anchor.shape[-1]
    dtype, wide = wide_type(anchor)
    numbers = float(margin), float(p), float(eps)
    constants = {"NORM": {1: 0, 2: 1, math.inf: 2}.get(p, 3), "SWAP": bool(swap), "WIDE": wide, **_block(columns)}
    reduced = Reduction(anchor, anchor.shape[:-1], reduction, rows, rows)
    distances = empty(anchor, (3, rows), dtype)
    launch(
        triplet_margin_kernel, (rows,),
        *points, reduced.losses, reduced.partial, distances, rows, columns, *numbers, **constants,
    )  # fmt: skip
    return reduced.output(anchor), (points, distances, numbers, constants, reduced)


def triplet_margin_loss_backward(saved, grad_output, needs):
    points, distances, numbers, constants, reduced = saved
    grads = tuple(empty(x) if need else None for x, need in zip(points, needs))
    *scale, each = reduced.scale(grad_output)
    rows, columns = distances.shape[1], points[0].shape[-1]
    launch(
        triplet_margin_grad_kernel, (rows,),
        *points, distances, *scale, *grads, rows, columns, *numbers, EACH=each, **constants,
    )  # fmt: skip
    return grads


def multi_margin_loss_forward(input, target, weight=None, *, p=1, margin=1.0, reduction="mean"):
    x, labels = contiguous(input), contiguous(target)
    weight = None if weight is None else contiguous(weight)
    columns = x.shape[-1]
    constants = {"SQUARED": p == 2, "WIDE": wide_type(x)[1], **_block(columns)}
    reduced = Reduction(x, target.shape, reduction, labels.size, labels.size)
    launch(
        multi_margin_kernel, (labels.size,),
        x, labels, weight, reduced.losses, reduced.partial, columns, float(margin), **constants,
    )  # fmt: skip
    return reduced.output(x), (x, labels, weight, float(margin), constants, reduced)


def multi_margin_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None, None
    x, labels, weight, margin, constants, reduced = saved
    grad = empty(x)
    *scale, each = reduced.scale(grad_output)
    launch(
        multi_margin_grad_x_kernel, (labels.size,),
        x, labels, weight, *scale, grad, x.shape[-1], margin, EACH=each, **constants,
    )  # fmt: skip
    return grad, None, None


def multilabel_margin_loss_forward(input, target, *, reduction="mean"):
    x, labels = contiguous(input), contiguous(target)
    columns, rows = x.shape[-1], math.prod(x.shape[:-1])
    blocks = {"BLOCK": 8, "BLOCK_C": min(triton.next_power_of_2(columns), 128)}
    counts, named, hits = empty(x, (rows,), np.int64), empty(x, dtype=np.int8), empty(x, dtype=np.int32)
    launch(
        multilabel_names_kernel, (rows * ceil_div(columns, blocks["BLOCK_C"]),), labels, counts, named, columns,
        **blocks,
    )  # fmt: skip
    reduced = Reduction(x, x.shape[:-1], reduction, rows, rows)
    constants = {"WIDE": wide_type(x)[1], **blocks}
    launch(
        multilabel_margin_kernel, (rows,), x, labels, counts, named, reduced.losses, reduced.partial, hits, columns,
        **constants,
    )  # fmt: skip
    return reduced.output(x), (x, labels, counts, hits, constants, reduced)


def multilabel_margin_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None
    x, labels, counts, hits, constants, reduced = saved
    grad, columns = empty(x), x.shape[-1]
    *scale, each = reduced.scale(grad_output)
    launch(
        multilabel_margin_grad_kernel, (len(counts) * ceil_div(columns, constants["BLOCK_C"]),),
        x, labels, counts, hits, *scale, grad, columns, EACH=each, **constants,
    )  # fmt: skip
    return grad, None
