"""Losses of one label among C classes; x is the input, w the class weights, y a position's label, p = softmax(x):

    cross_entropy  labels:         (1 - s) w_y (-log p_y) + s / C sum_c w_c (-log p_c), s = label_smoothing
                   probabilities:  sum_c w_c ((1 - s) t_c + s / C) (-log p_c)
    nll_loss       -w_y x_y, x holding log-probabilities

A position whose label is ignore_index has loss and gradient 0. reduction='mean' divides by the sum of w_y over the
positions that count, or by the number of positions where the targets are probabilities.

Gradient of cross_entropy: with m the sum of the coefficients before the -log p_c, and q_c these coefficients,
grad_x_c = m p_c - q_c. Saved is only log sum_c exp(x_c) of each position. With `inplace`, backward writes grad_x over
x, and can be called once.
"""

from __future__ import annotations

import numpy as np

from ..check import (
    check_float,
    check_index_range,
    check_integer,
    check_number,
    check_same_dtype,
    check_shape,
    refuse_type,
    refuse_value,
)
from ..operation import Cost, Integers, Operation, Refused, Sample, Uniform
from .common import REDUCTIONS, check_flag, check_reduction

_LOGITS, _LABELS = np.zeros((2, 3)), np.array([0, 2])


def _check_ignored(operation, ignore_index):
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):
        refuse_type(operation, "ignore_index", "as an integer", type(ignore_index).__qualname__)


def check_class_scores(operation, input, weight) -> None:
    """input: floating-point [C] or [N, C, ...] with C > 0; weight: [C] of the same type, or None."""
    check_float(operation, "input", input)
    check_same_dtype(operation, "input", input, "weight", weight)
    if input.ndim == 0 or classes_of(input) == 0:
        refuse_value(operation, "input", "as [C] or [N, C, ...] with at least one class", f"shape {input.shape}")
    if weight is not None:
        check_shape(operation, "weight", weight, (classes_of(input),), "one for each class")


def check_labels(operation, input, target, ignore_index) -> None:
    """target: integers of input's shape without the axis of classes, in [0, C) or ignore_index."""
    check_integer(operation, "target", target)
    check_shape(operation, "target", target, () if input.ndim == 1 else _positions(input), "no classes")
    check_index_range(operation, "target", target, 0, classes_of(input), ignore_index)


def classes_of(input) -> int:
    return input.shape[0 if input.ndim == 1 else 1]


def _positions(input) -> tuple[int, ...]:
    return (input.shape[0], *input.shape[2:])


def _check_cross_entropy(
    input, target, weight=None, *, ignore_index=-100, label_smoothing=0.0, reduction="mean", inplace=False
):
    """input: logits [C] or [N, C, d1, ...]; weight: [C] or None; label_smoothing in [0, 1]; inplace: True or False.

    target: labels, integers [] or [N, d1, ...] in [0, C) or ignore_index; or probabilities of input's shape and type,
    for which there is no ignore_index (it must be negative).
    """
    check_class_scores("cross_entropy", input, weight)
    check_reduction("cross_entropy", reduction)
    check_number("cross_entropy", "label_smoothing", label_smoothing, 0, 1)
    check_flag("cross_entropy", "inplace", inplace)
    _check_ignored("cross_entropy", ignore_index)
    if getattr(target, "dtype", None) == input.dtype:
        check_shape("cross_entropy", "target", target, input.shape, "input's, for probabilities; labels are integers")
        if ignore_index >= 0:
            refuse_value("cross_entropy", "ignore_index", "negative where target holds probabilities", ignore_index)
    else:
        check_labels("cross_entropy", input, target, ignore_index)


def _cost_cross_entropy(input, target, weight=None, *, reduction="mean", **_):
    written = input.size // classes_of(input) if reduction == "none" else 1
    return Cost(flops=5 * input.size, bytes=(input.size + written) * input.dtype.itemsize + target.nbytes)


def _label_sample(name, shape, weighted=False, large=False, **attributes):
    classes = shape[0 if len(shape) == 1 else 1]
    inputs = {
        "input": shape,
        "target": Integers((shape[0], *shape[2:]) if len(shape) > 1 else (), 0, classes),
        "weight": Uniform((classes,), 0.5, 2.0) if weighted else None,
    }
    return Sample(name, inputs, attributes, large)


def _probability_sample(name, shape, weighted=False, **attributes):
    inputs = _label_sample(name, shape, weighted).inputs
    return Sample(name, {**inputs, "target": Uniform(shape, 0.05, 0.95)}, attributes)


def _vary_scores(pick):
    spatial = tuple(pick(1, 5) for _ in range(pick(0, 2)))
    return pick.of([(pick(0, 6), pick(1, 40), *spatial), (pick(1, 40),)])


def _vary_cross_entropy(pick):
    shape, smoothing = _vary_scores(pick), pick.of((0.0, 0.1, 1))
    weighted, reduction = pick.of((True, False)), pick.of(REDUCTIONS)
    if pick.of((True, False)):
        return _probability_sample("varied", shape, weighted, label_smoothing=smoothing, reduction=reduction)
    return _label_sample(
        "varied", shape, weighted, label_smoothing=smoothing, ignore_index=pick(-1, 2), reduction=reduction
    )


def _longest_sum(input, *others, **attributes) -> int:
    return max(input.size, 1)


_SHARED_REFUSALS = [
    Refused("integers", {"input": _LOGITS.astype(int), "target": _LABELS}, TypeError, "input of type"),
    Refused("too_high", {"input": _LOGITS, "target": _LABELS + 1}, ValueError, r"target in \[0, 3\) or -100, got 3"),
    Refused("too_low", {"input": _LOGITS, "target": _LABELS - 1}, ValueError, r"target in \[0, 3\) or -100, got -1"),
    Refused("batch", {"input": _LOGITS, "target": np.array([0])}, ValueError, r"target of shape \(2,\)"),
    Refused("classes", {"input": np.zeros((2, 0)), "target": _LABELS}, ValueError, "with at least one class"),
    Refused(
        "weight",
        {"input": _LOGITS, "target": _LABELS, "weight": np.ones(2)},
        ValueError,
        r"weight of shape \(3,\) \(one for each class\)",
    ),
    Refused(
        "ignored", {"input": _LOGITS, "target": _LABELS}, TypeError, "ignore_index as an integer", {"ignore_index": 0.5}
    ),
    Refused("reduction", {"input": _LOGITS, "target": _LABELS}, ValueError, "reduction as", {"reduction": "all"}),
]

cross_entropy = Operation(
    "cross_entropy",
    __package__,
    check=_check_cross_entropy,
    cost=_cost_cross_entropy,
    reduction_length=_longest_sum,
    vary=_vary_cross_entropy,
    samples=[
        _label_sample("digits", (32, 10)),
        _label_sample("weights", (17, 33), True),
        _label_sample("ignored", (24, 5), True, ignore_index=2),
        _label_sample("smoothed", (9, 100), True, label_smoothing=0.1, ignore_index=0),
        _label_sample("each", (9, 7), reduction="none", label_smoothing=0.2),
        _label_sample("sum", (9, 7), reduction="sum"),
        _label_sample("one_row", (7,)),
        _label_sample("image", (2, 21, 9, 17), True),
        _label_sample("image_smoothed", (2, 3, 300), True, label_smoothing=0.1, reduction="none", ignore_index=1),
        _probability_sample("probabilities", (16, 10)),
        _probability_sample("probabilities_smoothed", (4, 6, 9), True, label_smoothing=0.1, reduction="sum"),
        _probability_sample("probabilities_each", (4, 6, 9), True, reduction="none"),
        _label_sample("no_rows", (0, 5), reduction="sum"),
        _label_sample("one_class", (4, 1)),
        _label_sample("imagenet", (256, 1000), large=True),
        _label_sample("language_model", (512, 50257), large=True),
        _label_sample("segmentation", (8, 21, 256, 256), large=True),
    ],
    refused=[
        *_SHARED_REFUSALS,
        Refused(
            "probabilities",
            {"input": _LOGITS, "target": np.zeros(2)},
            ValueError,
            r"target of shape \(2, 3\) \(input's, for prob",
        ),
        Refused("mixed", {"input": _LOGITS, "target": np.zeros((2, 3), "f4")}, TypeError, "target of an integer type"),
        Refused(
            "ignored_probabilities",
            {"input": _LOGITS, "target": _LOGITS},
            ValueError,
            "ignore_index negative where",
            {"ignore_index": 1},
        ),
        Refused(
            "smoothing",
            {"input": _LOGITS, "target": _LABELS},
            ValueError,
            r"label_smoothing in \[0, 1\], got 1.5",
            {"label_smoothing": 1.5},
        ),
        Refused(
            "inplace", {"input": _LOGITS, "target": _LABELS}, TypeError, "inplace as True or False", {"inplace": 1}
        ),
    ],
)


def _check_nll_loss(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """input: log-probabilities [C] or [N, C, d1, ...]; target: integers [] or [N, d1, ...]; weight: [C] or None."""
    check_class_scores("nll_loss", input, weight)
    check_reduction("nll_loss", reduction)
    _check_ignored("nll_loss", ignore_index)
    check_labels("nll_loss", input, target, ignore_index)


def _cost_nll(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    return Cost(flops=2 * target.size, bytes=2 * target.size * input.dtype.itemsize + target.nbytes)


def _vary_nll(pick):
    return _label_sample(
        "varied", _vary_scores(pick), pick.of((True, False)), ignore_index=pick(-1, 2), reduction=pick.of(REDUCTIONS)
    )


nll_loss = Operation(
    "nll_loss",
    __package__,
    check=_check_nll_loss,
    cost=_cost_nll,
    reduction_length=_longest_sum,
    vary=_vary_nll,
    samples=[
        _label_sample("digits", (32, 10)),
        _label_sample("weights", (17, 33), True),
        _label_sample("ignored", (24, 5), True, ignore_index=2),
        _label_sample("image", (2, 21, 9, 17), True, reduction="none"),
        _label_sample("one_row", (7,)),
        _label_sample("no_rows", (0, 5), reduction="sum"),
        _label_sample("imagenet", (256, 1000), large=True),
    ],
    refused=_SHARED_REFUSALS,
)
