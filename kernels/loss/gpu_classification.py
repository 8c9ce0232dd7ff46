"""Cross-entropy and negative log-likelihood on CuPy arrays.

Cross-entropy never forms the log-probabilities: forward reads the logits and keeps the log-sum-exp of each position,
backward reads them again and writes (m p - q) * scale. Logits are a batch of planes of positions and classes, one of
which has stride 1: rows [N, C] are one plane of N positions, images [N, C, S] are N planes. A tile is BLOCK_P positions
of a plane by BLOCK_C classes; the compiler lets neighbouring threads walk whichever of the two has stride 1.
"""

import math

import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..gpu_lines import block_of_row
from ..launch import ceil_div, empty, launch
from .gpu_reduce import Reduction, as_wide, load_scale, load_wide, wide_type

_TILE = 2048  # elements of a tile
_MOST_POSITIONS = 128
_BLOCK = 1024


@triton.jit
def _place(tile, positions, BLOCK_P: tl.constexpr):
    """A tile's plane, its positions there, which of them there are, and their numbers among those of all."""
    tiles = tl.cdiv(positions, BLOCK_P)
    plane = (tile // tiles).to(tl.int64)
    position = (tile % tiles).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    return plane, position, position < positions, plane * positions + position


@triton.jit
def _load_labels(labels, offset, inside, ignored):
    """Labels, and where they count."""
    label = tl.load(labels + offset, mask=inside, other=0).to(tl.int64)
    counted = inside & (label != ignored)
    return tl.where(counted, label, 0), counted


@triton.jit
def _load_label_weight(weight, label, counted, like):
    """The label's class weight, 0 where it does not count."""
    if weight is not None:
        own = load_wide(weight, label, counted)
    else:
        own = counted.to(like.dtype)
    return own


@triton.jit
def _load_coefficients(targets, weight, offset, inside, column, column_inside, keep, share, BY_LABEL: tl.constexpr):
    """The coefficients before -log p of a tile, without the label's own part."""
    if BY_LABEL:
        q = tl.where(inside, share, 0.0)
    else:
        q = tl.where(inside, keep * load_wide(targets, offset, inside) + share, 0.0)
    if weight is not None:
        q = q * load_wide(weight, column, column_inside)[None, :]
    return q


@triton.jit
def cross_entropy_kernel(
    x, labels, targets, weight, losses, partial, weights, log_sums, masses,
    positions, classes, plane_stride, position_stride, class_stride,
    ignored: tl.int64, keep: tl.float64, share: tl.float64,
    BY_LABEL: tl.constexpr, SPREAD: tl.constexpr, WIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """losses, or partial and weights: their sums; log_sums = log sum_c exp(x_c), masses = the sum of coefficients.

    keep is 1 - label_smoothing, share is label_smoothing / classes.

    The first walk over the classes keeps a running maximum and the sum of exponentials relative to it. A second one is
    needed where more than the label's class has a coefficient (SPREAD).
    """
    plane, position, inside, number = _place(tl.program_id(0), positions, BLOCK_P)
    start = plane * plane_stride + position * position_stride
    highest, total = tl.full((BLOCK_P,), float("-inf"), WIDE), tl.zeros((BLOCK_P,), WIDE)
    for first in range(0, classes, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        there = inside[:, None] & (column < classes)[None, :]
        value = load_wide(x, start[:, None] + column.to(tl.int64)[None, :] * class_stride, there)
        value = tl.where((column < classes)[None, :], value, float("-inf"))
        raised = tl.maximum(highest, tl.max(value, axis=1))
        # Where all is -inf so far, subtracting it would make NaN of what is 0.
        base = tl.where(raised == float("-inf"), 0.0, raised)
        total = total * tl.exp(highest - base) + tl.sum(tl.exp(value - base[:, None]), axis=1)
        highest = raised
    log_sum = tl.where(highest == float("-inf"), float("-inf"), highest + tl.log(tl.where(total == 0, 1.0, total)))
    tl.store(log_sums + number, log_sum, mask=inside)

    keep, share = as_wide(keep, total), as_wide(share, total)
    loss, mass = tl.zeros((BLOCK_P,), WIDE), tl.zeros((BLOCK_P,), WIDE)
    if SPREAD:
        for first in range(0, classes, BLOCK_C):
            column = first + tl.arange(0, BLOCK_C)
            there = inside[:, None] & (column < classes)[None, :]
            offset = start[:, None] + column.to(tl.int64)[None, :] * class_stride
            value = load_wide(x, offset, there)
            q = _load_coefficients(targets, weight, offset, there, column, column < classes, keep, share, BY_LABEL)
            loss += tl.sum(tl.where(there, q * (log_sum[:, None] - value), 0.0), axis=1)
            mass += tl.sum(q, axis=1)
    if BY_LABEL:
        label, counted = _load_labels(labels, number, inside, ignored)
        own = _load_label_weight(weight, label, counted, total)
        value = load_wide(x, start + label * class_stride, counted)
        loss = tl.where(counted, loss + keep * own * (log_sum - value), 0.0)
        mass = mass + keep * own
        if weights is not None:
            tl.store(weights + tl.program_id(0), tl.sum(own.to(tl.float64), axis=0))
    if masses is not None:
        tl.store(masses + number, mass, mask=inside)
    if losses is not None:
        tl.store(losses + number, loss.to(losses.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0).to(tl.float64), axis=0))


@triton.jit
def cross_entropy_grad_kernel(
    x, labels, targets, weight, log_sums, masses, grad_output, factor, grad_x, grad_targets,
    positions, classes, plane_stride, position_stride, class_stride,
    ignored: tl.int64, keep: tl.float64, share: tl.float64,
    BY_LABEL: tl.constexpr, EACH: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad_x = (m p - q) * scale and, for probabilities, grad_targets = keep w (-log p) * scale.

    A program writes one tile.
    """
    tile, column = block_of_row(classes, BLOCK_C)
    plane, position, inside, number = _place(tile, positions, BLOCK_P)
    there = inside[:, None] & (column < classes)[None, :]
    start = plane * plane_stride + position * position_stride
    offset = start[:, None] + column.to(tl.int64)[None, :] * class_stride
    log_sum = tl.load(log_sums + number, mask=inside, other=0.0)
    exponent = load_wide(x, offset, there) - log_sum[:, None]
    keep, share = as_wide(keep, log_sum), as_wide(share, log_sum)
    scale = tl.zeros_like(log_sum) + load_scale(grad_output, factor, number, inside, EACH)
    if grad_x is not None:
        q = _load_coefficients(targets, weight, offset, there, column, column < classes, keep, share, BY_LABEL)
        counted = inside
        if BY_LABEL:
            label, counted = _load_labels(labels, number, inside, ignored)
            mass = keep * _load_label_weight(weight, label, counted, log_sum)
            q += tl.where(column.to(tl.int64)[None, :] == label[:, None], mass[:, None], 0.0)
        if masses is not None:
            mass = tl.load(masses + number, mask=inside, other=0.0)
        gradient = (tl.exp(exponent) * mass[:, None] - q) * scale[:, None]
        gradient = tl.where(counted[:, None], gradient, 0.0)
        tl.store(grad_x + offset, gradient.to(grad_x.dtype.element_ty), mask=there)
    if grad_targets is not None:
        gradient = -exponent * (keep * scale)[:, None]
        if weight is not None:
            gradient *= load_wide(weight, column, column < classes)[None, :]
        tl.store(grad_targets + offset, gradient.to(grad_targets.dtype.element_ty), mask=there)


@triton.jit
def nll_loss_kernel(
    x, labels, weight, losses, partial, weights, count,
    positions, plane_stride, position_stride, class_stride, ignored: tl.int64,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """losses = -w_y x_y, or partial and weights: their sums. A program takes BLOCK positions of all planes."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    label, counted = _load_labels(labels, number, inside, ignored)
    own = _load_label_weight(weight, label, counted, tl.zeros((BLOCK,), WIDE))
    start = number // positions * plane_stride + number % positions * position_stride
    # 0 where a label is ignored: the weight 0 there must not meet an infinite log-probability.
    loss = -own * load_wide(x, start + label * class_stride, counted)
    if losses is not None:
        tl.store(losses + number, loss.to(losses.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + tl.program_id(0), tl.sum(loss.to(tl.float64), axis=0))
        if weights is not None:
            tl.store(weights + tl.program_id(0), tl.sum(own.to(tl.float64), axis=0))


@triton.jit
def nll_loss_grad_x_kernel(
    labels, weight, grad_output, factor, grad_x,
    positions, classes, plane_stride, position_stride, class_stride, ignored: tl.int64,
    EACH: tl.constexpr, WIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad_x = -w_y * scale at the label, 0 elsewhere. A program writes one tile."""
    tile, column = block_of_row(classes, BLOCK_C)
    plane, position, inside, number = _place(tile, positions, BLOCK_P)
    label, counted = _load_labels(labels, number, inside, ignored)
    own = _load_label_weight(weight, label, counted, tl.zeros((BLOCK_P,), WIDE))
    gradient = tl.where(counted, -own * load_scale(grad_output, factor, number, inside, EACH), 0.0)
    gradient = tl.where(column.to(tl.int64)[None, :] == label[:, None], gradient[:, None], 0.0)
    start = plane * plane_stride + position * position_stride
    offset = start[:, None] + column.to(tl.int64)[None, :] * class_stride
    there = inside[:, None] & (column < classes)[None, :]
    tl.store(grad_x + offset, gradient.to(grad_x.dtype.element_ty), mask=there)


class _Planes:
    """How logits [C] or [N, C, d1, ...] are laid out, and the tiles that cover them."""

    def __init__(self, shape):
        batch, classes, rest = (1, shape[0], 1) if len(shape) == 1 else (shape[0], shape[1], math.prod(shape[2:]))
        self.count, self.classes = batch * rest, classes
        if rest == 1:
            planes, self.positions, strides = 1, batch, (0, classes, 1)
            self.block_c = min(triton.next_power_of_2(classes), _TILE)
            self.block_p = min(triton.next_power_of_2(max(batch, 1)), _MOST_POSITIONS, _TILE // self.block_c)
        else:
            planes, self.positions, strides = batch, rest, (classes * rest, 1, rest)
            self.block_p = min(triton.next_power_of_2(max(rest, 1)), _MOST_POSITIONS)
            self.block_c = min(triton.next_power_of_2(classes), _TILE // self.block_p)
        self.tiles = planes * ceil_div(self.positions, self.block_p)
        self.layout = (self.positions, classes, *strides)
        self.output_shape = () if len(shape) == 1 else (shape[0], *shape[2:])

    @property
    def blocks(self) -> dict:
        return {"BLOCK_P": self.block_p, "BLOCK_C": self.block_c, "num_warps": 4}

    @property
    def grid(self) -> tuple[int]:
        """A program a tile, those of the same positions side by side."""
        return (self.tiles * ceil_div(self.classes, self.block_c),)


def cross_entropy_forward(
    input, target, weight=None, *, ignore_index=-100, label_smoothing=0.0, reduction="mean", inplace=False
):
    planes, by_label = _Planes(input.shape), target.dtype != input.dtype
    x, target = contiguous(input), contiguous(target)
    weight = None if weight is None else contiguous(weight)
    (dtype, wide), smoothing = wide_type(x), float(label_smoothing)
    shares = 1 - smoothing, smoothing / planes.classes
    reduced = Reduction(x, planes.output_shape, reduction, planes.tiles, planes.count, weighted=by_label)
    spread = not by_label or smoothing > 0
    log_sums = empty(x, (planes.count,), dtype)
    masses = empty(x, (planes.count,), dtype) if spread else None
    labels, targets = (target, None) if by_label else (None, target)
    launch(
        cross_entropy_kernel, (planes.tiles,),
        x, labels, targets, weight, reduced.losses, reduced.partial, reduced.weights, log_sums, masses,
        *planes.layout, int(ignore_index), *shares,
        BY_LABEL=by_label, SPREAD=spread, WIDE=wide, **planes.blocks,
    )  # fmt: skip
    arrays = x, labels, targets, weight, log_sums, masses
    return reduced.output(x), (arrays, int(ignore_index), shares, planes, reduced, inplace)


def cross_entropy_backward(saved, grad_output, needs):
    arrays, ignored, shares, planes, reduced, inplace = saved
    x, labels = arrays[:2]
    by_label = labels is not None
    grad_input = None
    if needs[0]:
        # A program reads of x only the tile that it writes, and before that.
        grad_input = x if inplace else empty(x)
    grad_target = empty(x) if needs[1] and not by_label else None
    *scale, each = reduced.scale(grad_output)
    if grad_input is not None or grad_target is not None:
        launch(
            cross_entropy_grad_kernel, planes.grid,
            *arrays, *scale, grad_input, grad_target, *planes.layout, ignored, *shares,
            BY_LABEL=by_label, EACH=each, **planes.blocks,
        )  # fmt: skip
    return grad_input, grad_target, None


def nll_loss_forward(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    planes, x, labels = _Planes(input.shape), contiguous(input), contiguous(target)
    weight, ignored = None if weight is None else contiguous(weight), int(ignore_index)
    programs = ceil_div(planes.count, _BLOCK)
    reduced = Reduction(x, planes.output_shape, reduction, programs, weighted=True)
    positions, _, *strides = planes.layout
    launch(
        nll_loss_kernel, (programs,),
        x, labels, weight, reduced.losses, reduced.partial, reduced.weights, planes.count,
        positions, *strides, ignored,
        WIDE=wide_type(x)[1], BLOCK=_BLOCK,
    )  # fmt: skip
    return reduced.output(x), (input.shape, labels, weight, ignored, planes, reduced)


def nll_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None, None
    shape, labels, weight, ignored, planes, reduced = saved
    grad = empty(grad_output, shape)
    *scale, each = reduced.scale(grad_output)
    launch(
        nll_loss_grad_x_kernel, planes.grid,
        labels, weight, *scale, grad, *planes.layout, ignored,
        EACH=each, WIDE=wide_type(grad)[1], **planes.blocks,
    )  # fmt: skip
    return grad, None, None
