"""Margin losses of pairs, triplets and classes on NumPy arrays: a row for each loss, each row one thread's work."""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_sums import line_magnitude, line_product
from ..memory import empty, zeros
from .cpu_reduce import reduce_losses, scales_of

_WORTH_THREADS = 1 << 12  # elements; the losses of fewer are there before another thread has woken up


def _run(loss_kernel, x):
    """The kernel, on the calling thread where x is small."""
    return loss_kernel if x.size > _WORTH_THREADS else loss_kernel.serial


def _rows(x):
    """[..., D] as [rows, D], sharing memory where x is contiguous."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


@kernel
def cosine_embedding_kernel(a, b, target, margin, losses, cosines, squares):
    """losses, cosines: [N]; squares: [2, N], the squared lengths of the rows of a and b."""
    tiny, one, zero = a.dtype.type(1e-12), a.dtype.type(1), a.dtype.type(0)
    for r in prange(a.shape[0]):
        product = line_product(a[r], b[r])
        square_a, square_b = tiny + line_product(a[r], a[r]), tiny + line_product(b[r], b[r])
        # Two roots: the product of two squares would overflow.
        cosine = product / (np.sqrt(square_a) * np.sqrt(square_b))
        cosines[r], squares[0, r], squares[1, r] = cosine, square_a, square_b
        if target[r] == one:
            losses[r] = one - cosine
        else:
            losses[r] = zero if cosine < margin else cosine - margin


@kernel
def cosine_embedding_grad_kernel(a, b, target, margin, cosines, square_a, square_b, scales, grad_a):
    """grad_a = scale * slope * (b / (|a| |b|) - cosine a / |a|^2). With a and b exchanged it gives grad_b."""
    for r in prange(a.shape[0]):
        slope = scales[r] if scales.size > 1 else scales[0]
        if target[r] == a.dtype.type(1):
            slope = -slope
        elif cosines[r] < margin:
            slope = a.dtype.type(0)
        across = slope / (np.sqrt(square_a[r]) * np.sqrt(square_b[r]))
        along = slope * cosines[r] / square_a[r]
        for c in range(a.shape[1]):
            grad_a[r, c] = across * b[r, c] - along * a[r, c]


def cosine_embedding_loss_forward(input1, input2, target, *, margin=0.0, reduction="mean"):
    a, b = _rows(input1), _rows(input2)
    signs = np.ascontiguousarray(target, dtype=a.dtype).reshape(-1)
    margin = a.dtype.type(margin)
    losses, cosines, squares = (empty(shape, a.dtype) for shape in (len(a), len(a), (2, len(a))))
    _run(cosine_embedding_kernel, a)(a, b, signs, margin, losses, cosines, squares)
    output, factor = reduce_losses(losses, reduction, len(a), target.shape)
    return output, (a, b, signs, margin, cosines, squares, factor, reduction, input1.shape)


def cosine_embedding_loss_backward(saved, grad_output, needs):
    a, b, signs, margin, cosines, squares, factor, reduction, shape = saved
    scales = scales_of(grad_output, factor, reduction, signs.shape, a.dtype)
    grads = [None, None, None]
    for index, (x, y) in enumerate([(a, b), (b, a)]):
        if needs[index]:
            grad = empty(x.shape, x.dtype)
            run, lengths = _run(cosine_embedding_grad_kernel, x), (squares[index], squares[1 - index])
            run(x, y, signs, margin, cosines, *lengths, scales, grad)
            grads[index] = grad.reshape(shape)
    return tuple(grads)


@serial_kernel
def row_distance(a, b, p, eps):
    """|a - b + eps|_p."""
    apart = a - b + eps
    if p == 1:
        return line_magnitude(apart)
    if p == 2:
        return np.sqrt(line_product(apart, apart))
    total = a.dtype.type(0)
    if p == np.inf:
        for d in apart:
            total = total if abs(d) <= total else abs(d)
        return total
    for d in apart:
        total += abs(d) ** p
    return total ** (a.dtype.type(1) / p)


@serial_kernel
def row_distance_grad(a, b, distance, p, eps, scale, grad):
    """grad = scale times the derivative of row_distance by a: sign(d) (|d| / distance)^(p - 1), d = a - b + eps."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for c in range(a.size):
        grad[c] = a[c] - b[c] + eps
    if p == 1:
        for c in range(a.size):
            grad[c] = scale if grad[c] > zero else (-scale if grad[c] < zero else zero)
    elif p == 2:
        whole = zero if distance == zero else scale / distance
        for c in range(a.size):
            grad[c] *= whole
    elif p == np.inf:
        # The greatest is sought again among the stored differences: computed anew, its last bit could be another one.
        greatest, count = zero, zero
        for c in range(a.size):
            greatest = max(greatest, abs(grad[c]))
        for c in range(a.size):
            count += one if abs(grad[c]) == greatest else zero
        for c in range(a.size):
            share = scale / count if abs(grad[c]) == greatest else zero
            grad[c] = share if grad[c] > zero else (-share if grad[c] < zero else zero)
    else:
        for c in range(a.size):
            power = zero if grad[c] == zero else (abs(grad[c]) / distance) ** (p - one) * scale
            grad[c] = power if grad[c] > zero else -power


@kernel
def triplet_margin_kernel(anchor, positive, negative, margin, p, eps, swap, losses, distances):
    """losses: [N]; distances: [3, N], anchor-positive, anchor-negative, positive-negative (if swap, else infinite)."""
    for r in prange(anchor.shape[0]):
        near = row_distance(anchor[r], positive[r], p, eps)
        far = row_distance(anchor[r], negative[r], p, eps)
        other = row_distance(positive[r], negative[r], p, eps) if swap else anchor.dtype.type(np.inf)
        distances[0, r], distances[1, r], distances[2, r] = near, far, other
        inside = margin + near - (other if other < far else far)
        losses[r] = anchor.dtype.type(0) if inside < 0 else inside


@kernel
def triplet_margin_grad_kernel(
    anchor, positive, negative, margin, p, eps, distances, scales, grad_anchor, grad_positive, grad_negative
):
    """grad_anchor, grad_positive, grad_negative: [N, D]."""
    for r in prange(anchor.shape[0]):
        near, far, other = distances[0, r], distances[1, r], distances[2, r]
        swapped = other < far
        scale = scales[r] if scales.size > 1 else scales[0]
        if margin + near - (other if swapped else far) < 0:
            scale = anchor.dtype.type(0)
        # The distance to the negative first; then what the distance to the positive adds.
        if swapped:
            row_distance_grad(positive[r], negative[r], other, p, eps, scale, grad_negative[r])
        else:
            row_distance_grad(anchor[r], negative[r], far, p, eps, scale, grad_negative[r])
        row_distance_grad(anchor[r], positive[r], near, p, eps, scale, grad_anchor[r])
        for c in range(anchor.shape[1]):
            grad_positive[r, c] = -grad_anchor[r, c] - (grad_negative[r, c] if swapped else anchor.dtype.type(0))
            grad_anchor[r, c] -= anchor.dtype.type(0) if swapped else grad_negative[r, c]


def triplet_margin_loss_forward(
    anchor, positive, negative, *, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"
):
    rows = [_rows(x) for x in (anchor, positive, negative)]
    dtype = anchor.dtype
    margin, p, eps = dtype.type(margin), dtype.type(p), dtype.type(eps)
    losses, distances = empty(len(rows[0]), dtype), empty((3, len(rows[0])), dtype)
    _run(triplet_margin_kernel, anchor)(*rows, margin, p, eps, bool(swap), losses, distances)
    output, factor = reduce_losses(losses, reduction, len(losses), anchor.shape[:-1])
    return output, (rows, margin, p, eps, distances, factor, reduction, anchor.shape)


def triplet_margin_loss_backward(saved, grad_output, needs):
    rows, margin, p, eps, distances, factor, reduction, shape = saved
    scales = scales_of(grad_output, factor, reduction, distances.shape[1:], distances.dtype)
    grads = [empty(x.shape, x.dtype) for x in rows]
    _run(triplet_margin_grad_kernel, rows[0])(*rows, margin, p, eps, distances, scales, *grads)
    return tuple(grad.reshape(shape) if need else None for grad, need in zip(grads, needs))


@kernel
def multi_margin_kernel(x, labels, weight, squared, margin, losses):
    """losses: [N]."""
    zero = x.dtype.type(0)
    for r in prange(x.shape[0]):
        label = labels[r]
        offset, total = margin - x[r, label], zero
        for c in range(x.shape[1]):
            inside = zero if offset + x[r, c] < zero else offset + x[r, c]
            inside = zero if c == label else inside
            total += inside * inside if squared else inside
        losses[r] = total * weight[label] / x.dtype.type(x.shape[1])


@kernel
def multi_margin_grad_kernel(x, labels, weight, squared, margin, scales, grad):
    """grad: [N, C]."""
    zero, two = x.dtype.type(0), x.dtype.type(2)
    for r in prange(x.shape[0]):
        label = labels[r]
        scale = (scales[r] if scales.size > 1 else scales[0]) * weight[label] / x.dtype.type(x.shape[1])
        offset, total = margin - x[r, label], zero
        for c in range(x.shape[1]):
            inside = offset + x[r, c]
            slope = (two * inside if squared else x.dtype.type(1)) * scale
            slope = slope if inside > zero and c != label else zero
            grad[r, c] = slope
            total += slope
        grad[r, label] = -total


def multi_margin_loss_forward(input, target, weight=None, *, p=1, margin=1.0, reduction="mean"):
    x = _rows(input)
    labels = np.ascontiguousarray(target, dtype=np.int64).reshape(-1)
    weight = np.ones(x.shape[1], x.dtype) if weight is None else np.ascontiguousarray(weight)
    call = (x, labels, weight, p == 2, x.dtype.type(margin))
    losses = empty(len(x), x.dtype)
    _run(multi_margin_kernel, x)(*call, losses)
    output, factor = reduce_losses(losses, reduction, len(x), target.shape)
    return output, (call, factor, reduction, input.shape)


def multi_margin_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None, None
    call, factor, reduction, shape = saved
    x, labels = call[:2]
    grad = empty(x.shape, x.dtype)
    scales = scales_of(grad_output, factor, reduction, labels.shape, x.dtype)
    _run(multi_margin_grad_kernel, x)(*call, scales, grad)
    return grad.reshape(shape), None, None


@kernel
def multilabel_margin_kernel(x, labels, losses, slopes):
    """losses: [N]; slopes: [N, C], zero at first, the losses' derivatives by x."""
    rows, classes = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    share = one / x.dtype.type(classes)
    for r in prange(rows):
        named = np.zeros(classes, np.bool_)
        count = 0
        while count < classes and labels[r, count] >= 0:
            named[labels[r, count]] = True
            count += 1
        total = zero
        for k in range(count):
            label = labels[r, k]
            offset, hits = one - x[r, label], zero
            for c in range(classes):
                inside = offset + x[r, c]
                if not named[c] and inside > zero:
                    total += inside
                    slopes[r, c] += share
                    hits += share
            slopes[r, label] -= hits
        losses[r] = total * share


def multilabel_margin_loss_forward(input, target, *, reduction="mean"):
    x, labels = _rows(input), _rows(np.asarray(target, dtype=np.int64))
    losses, slopes = empty(len(x), x.dtype), zeros(x.shape, x.dtype)
    _run(multilabel_margin_kernel, x)(x, labels, losses, slopes)
    output, factor = reduce_losses(losses, reduction, len(x), input.shape[:-1])
    return output, (slopes, factor, reduction, input.shape)


def multilabel_margin_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None
    slopes, factor, reduction, shape = saved
    scales = scales_of(grad_output, factor, reduction, slopes.shape[:1], slopes.dtype)
    return np.multiply(slopes, scales[:, None], out=empty(slopes.shape, slopes.dtype)).reshape(shape), None
