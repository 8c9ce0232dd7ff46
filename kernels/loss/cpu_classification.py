"""Cross-entropy and negative log-likelihood on NumPy arrays.

Cross-entropy never forms the log-probabilities: forward reads the logits and writes the log-sum-exp of each position,
backward reads them again and writes (m p - q) * scale in one pass. Logits [N, C] are walked row by row, vectors along
the classes; logits [N, C, d1, ...] as planes [N, C, S], a tile of positions at a time, vectors along the positions.
"""

import functools
import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_lines import largest_of_line, memory
from ..cpu_math import exp, log
from ..cpu_sums import line_product, line_sum
from ..memory import empty, zeros
from ..softmax.cpu import exp_line
from .cpu_reduce import reduce_losses, scales_of

_ROWS = 8  # rows that one thread takes at a time
_WORTH_THREADS = 1 << 13  # elements
_TILE = 256  # positions of a plane that one thread takes at a time
_TERMS = 4096  # exponentials of a row that are computed, and then added, at a time: they stay in the nearest cache


_NO_LABELS = {axes: np.zeros((0,) * (axes - 1), np.int64) for axes in (2, 3)}  # beside scores of so many axes


@serial_kernel
def row_log_sum(x, row, terms):
    """log sum_c exp(x_c) of a row of x, [N, C]. terms: scratch for as many elements as are added at a time."""
    classes = x.shape[1]
    highest = largest_of_line(memory(x), row * classes, classes)
    total = x.dtype.type(0)
    for start in range(0, classes, terms.size):
        count = min(terms.size, classes - start)
        exp_line(memory(x), row * classes + start, count, highest, memory(terms), 0)
        total += line_sum(terms[:count])
    return highest + log(total)


@kernel
def cross_entropy_rows_kernel(x, labels, targets, by_label, weight, ignored, smoothing, losses, log_sums):
    """x: [N, C]. labels: [N] or targets: [N, C], as by_label says. losses, log_sums: [N]."""
    rows, classes = x.shape
    keep, share = x.dtype.type(1 - smoothing), x.dtype.type(smoothing / classes)
    for chunk in prange((rows + _ROWS - 1) // _ROWS):
        scratch = np.empty(min(classes, _TERMS), x.dtype)
        for r in range(chunk * _ROWS, min(rows, (chunk + 1) * _ROWS)):
            loss, log_sum = x.dtype.type(0), x.dtype.type(0)
            if not by_label:
                log_sum = row_log_sum(x, r, scratch)
                terms = np.empty(classes, x.dtype)
                for c in range(classes):
                    terms[c] = weight[c] * (keep * targets[r, c] + share) * (log_sum - x[r, c])
                loss = line_sum(terms)
            elif labels[r] != ignored:
                log_sum = row_log_sum(x, r, scratch)
                if share > 0:
                    terms = np.empty(classes, x.dtype)
                    for c in range(classes):
                        terms[c] = weight[c] * (log_sum - x[r, c])
                    loss = line_sum(terms)
                label = labels[r]
                loss = loss * share + keep * weight[label] * (log_sum - x[r, label])
            losses[r] = loss
            log_sums[r] = log_sum


@kernel
def cross_entropy_rows_grad_kernel(
    x, labels, targets, by_label, weight, weight_sum, ignored, smoothing, log_sums, scales, grad_x
):
    """grad_x: [N, C] = (m p - q) * scale; scales: [N], or one for all."""
    rows, classes = x.shape
    keep, share = x.dtype.type(1 - smoothing), x.dtype.type(smoothing / classes)
    for r in prange(rows):
        scale = scales[r] if scales.size > 1 else scales[0]
        log_sum = log_sums[r]
        if not by_label:
            mass = keep * line_product(weight, targets[r]) + share * weight_sum
            for c in range(classes):
                q = weight[c] * (keep * targets[r, c] + share)
                grad_x[r, c] = (exp(x[r, c] - log_sum) * mass - q) * scale
        elif labels[r] == ignored:
            for c in range(classes):
                grad_x[r, c] = 0
        else:
            label = labels[r]
            own = keep * weight[label]
            mass = (own + share * weight_sum) * scale
            spread = share * scale
            for c in range(classes):
                grad_x[r, c] = exp(x[r, c] - log_sum) * mass - weight[c] * spread
            grad_x[r, label] -= own * scale


@kernel
def cross_entropy_planes_kernel(x, labels, targets, by_label, weight, ignored, smoothing, losses, log_sums):
    """x: [N, C, S]. labels: [N, S] or targets: [N, C, S], as by_label says. losses, log_sums: [N, S]."""
    batch, classes, positions = x.shape
    keep, share = x.dtype.type(1 - smoothing), x.dtype.type(smoothing / classes)
    tiles = (positions + _TILE - 1) // _TILE
    for tile in prange(batch * tiles):
        n, start = tile // tiles, tile % tiles * _TILE
        size = min(_TILE, positions - start)
        highest, total, loss = np.empty(size, x.dtype), np.zeros(size, x.dtype), np.zeros(size, x.dtype)
        for i in range(size):
            highest[i] = x[n, 0, start + i]
        for c in range(1, classes):
            for i in range(size):
                value = x[n, c, start + i]
                highest[i] = value if value > highest[i] else highest[i]
        for c in range(classes):
            for i in range(size):
                total[i] += exp(x[n, c, start + i] - highest[i])
        for i in range(size):
            total[i] = highest[i] + log(total[i])
            log_sums[n, start + i] = total[i]
        if not by_label:
            for c in range(classes):
                for i in range(size):
                    q = weight[c] * (keep * targets[n, c, start + i] + share)
                    loss[i] += q * (total[i] - x[n, c, start + i])
        elif share > 0:
            for c in range(classes):
                for i in range(size):
                    loss[i] += share * weight[c] * (total[i] - x[n, c, start + i])
        if by_label:
            for i in range(size):
                label = labels[n, start + i]
                if label == ignored:
                    loss[i] = 0
                else:
                    loss[i] += keep * weight[label] * (total[i] - x[n, label, start + i])
        for i in range(size):
            losses[n, start + i] = loss[i]


@kernel
def cross_entropy_planes_grad_kernel(
    x, labels, targets, by_label, weight, weight_sum, ignored, smoothing, log_sums, scales, grad_x
):
    """grad_x: [N, C, S] = (m p - q) * scale; scales: [N, S], or one for all."""
    batch, classes, positions = x.shape
    keep, share = x.dtype.type(1 - smoothing), x.dtype.type(smoothing / classes)
    tiles = (positions + _TILE - 1) // _TILE
    for tile in prange(batch * tiles):
        n, start = tile // tiles, tile % tiles * _TILE
        size = min(_TILE, positions - start)
        scale, mass = np.empty(size, x.dtype), np.zeros(size, x.dtype)
        for i in range(size):
            scale[i] = scales[n, start + i] if scales.size > 1 else scales[0, 0]
        if by_label:
            for i in range(size):
                label = labels[n, start + i]
                if label == ignored:
                    scale[i] = 0
                else:
                    mass[i] = keep * weight[label] + share * weight_sum
        else:
            for c in range(classes):
                for i in range(size):
                    mass[i] += weight[c] * (keep * targets[n, c, start + i] + share)
        for c in range(classes):
            for i in range(size):
                q = weight[c] * share
                if not by_label:
                    q += weight[c] * keep * targets[n, c, start + i]
                grad_x[n, c, start + i] = (exp(x[n, c, start + i] - log_sums[n, start + i]) * mass[i] - q) * scale[i]
        if by_label:
            for i in range(size):
                label = labels[n, start + i]
                if label == ignored:
                    for c in range(classes):
                        grad_x[n, c, start + i] = 0
                else:
                    grad_x[n, label, start + i] -= keep * weight[label] * scale[i]


@serial_kernel
def counted_weight(labels, ignored, weight, weighted):
    """The sum of the class weights of the labels that count, in a vector; where not `weighted`, their number."""
    total = 0.0
    if weighted:
        for i in range(labels.size):
            if labels[i] != ignored:
                total += weight[labels[i]]
    else:
        count = 0
        for i in range(labels.size):
            count += labels[i] != ignored
        total += count
    return total


@functools.lru_cache(maxsize=16)
def _ones(classes, dtype):
    """The class weights where there are none. Not to be written to."""
    return np.ones(classes, dtype)


def _scores(x):
    """[C], [N, C] and [N, C, d1, ...] as [N, C] where a row has one position, else as planes [N, C, S]; shares memory
    where x is contiguous."""
    x = np.ascontiguousarray(x)
    if x.ndim == 2:
        return x
    if x.ndim == 1:
        return x.reshape(1, -1)
    positions = math.prod(x.shape[2:])
    return x.reshape(x.shape[:2] if positions == 1 else (*x.shape[:2], positions))


def _positions(x, scores, dtype):
    """An array of one value a position as [N], or beside planes [N, S]."""
    x = np.ascontiguousarray(x, dtype=dtype)
    shape = scores.shape[:1] + scores.shape[2:]
    return x if x.shape == shape else x.reshape(shape)


def _output_shape(input):
    return () if input.ndim == 1 else (input.shape[0], *input.shape[2:])


def _run_for(x, by_rows, by_planes):
    """The kernel for scores: by planes, or by rows, on the calling thread where they are few."""
    if x.ndim == 3:
        return by_planes
    return by_rows if x.size >= _WORTH_THREADS else by_rows.serial


def cross_entropy_forward(input, target, weight=None, *, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, by_label = _scores(input), target.dtype != input.dtype
    labels = _positions(target, x, np.int64) if by_label else _NO_LABELS[x.ndim]
    targets = x[:0] if by_label else _scores(target)
    class_weight = _ones(x.shape[1], x.dtype) if weight is None else np.ascontiguousarray(weight)
    shape = x.shape[:1] + x.shape[2:]
    losses, log_sums = empty(shape, x.dtype), empty(shape, x.dtype)
    smoothing = float(label_smoothing)
    run = _run_for(x, cross_entropy_rows_kernel, cross_entropy_planes_kernel)
    run(x, labels, targets, by_label, class_weight, ignore_index, smoothing, losses, log_sums)
    divisor = losses.size
    if by_label and reduction == "mean":
        divisor = counted_weight(labels.ravel(), ignore_index, class_weight, weight is not None)
    output, factor = reduce_losses(losses, reduction, divisor, _output_shape(input))
    state = (x, labels, targets, by_label, class_weight, ignore_index, smoothing, log_sums)
    return output, (state, factor, reduction, input.shape)


def cross_entropy_backward(saved, grad_output, needs):
    (x, labels, targets, by_label, weight, ignored, smoothing, log_sums), factor, reduction, shape = saved
    scales = scales_of(grad_output, factor, reduction, log_sums.shape, x.dtype)
    grad_input = grad_target = None
    if needs[0]:
        grad_input = empty(x.shape, x.dtype)
        # Labels without smoothing take nothing of the other classes' weights.
        weight_sum = x.dtype.type(0) if by_label and smoothing == 0 else weight.sum()
        run = _run_for(x, cross_entropy_rows_grad_kernel, cross_entropy_planes_grad_kernel)
        run(x, labels, targets, by_label, weight, weight_sum, ignored, smoothing, log_sums, scales, grad_input)
        grad_input = grad_input.reshape(shape)
    if needs[1] and not by_label:
        of_class = weight.reshape(-1, *[1] * (x.ndim - 2))
        grad_target = (log_sums[:, None] - x) * of_class * (scales[:, None] * x.dtype.type(1 - smoothing))
        grad_target = grad_target.reshape(shape)
    return grad_input, grad_target, None


def nll_loss_forward(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    x = _scores(input)
    labels = _positions(target, x, np.int64)
    counted = labels != ignore_index
    labels = np.where(counted, labels, 0)
    class_weight = _ones(x.shape[1], x.dtype) if weight is None else weight
    weights = np.where(counted, class_weight[labels], x.dtype.type(0))
    chosen = labels[:, None]
    # The weight 0 of an ignored label must not meet an infinite log-probability.
    log_probabilities = np.where(counted, np.take_along_axis(x, chosen, axis=1)[:, 0], x.dtype.type(0))
    with np.errstate(invalid="ignore"):
        losses = -weights * log_probabilities
    output, factor = reduce_losses(losses, reduction, float(weights.sum(dtype=np.float64)), _output_shape(input))
    return output, (x, chosen, weights, factor, reduction, input.shape)


def nll_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None, None
    x, chosen, weights, factor, reduction, shape = saved
    grad = zeros(x.shape, x.dtype)
    scales = scales_of(grad_output, factor, reduction, weights.shape, x.dtype)
    np.put_along_axis(grad, chosen, (-weights * scales)[:, None], axis=1)
    return grad.reshape(shape), None, None
