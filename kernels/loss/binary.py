"""Losses of probabilities and of yes-or-no targets, element by element; x is the input, t the target:

binary_cross_entropy              -w (t log x + (1 - t) log(1 - x)), both logarithms at least -100
binary_cross_entropy_with_logits  w ((1 - t) x + (1 + (pos_weight - 1) t) log(1 + exp(-x)))
kl_div                            t (log t - x), or exp(t) (t - x) for log_target=True
soft_margin_loss                  log(1 + exp(-t x)), t = 1 or -1
multilabel_soft_margin_loss       binary_cross_entropy_with_logits, averaged over the last axis first
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_same_dtype, check_shape, refuse_value
from ..operation import Normal, Operation, Refused, Sample, Uniform
from .common import (
    REDUCTIONS,
    all_elements,
    check_flag,
    check_pair,
    check_unit_interval,
    check_weight,
    elementwise_cost,
    vary_shape,
)
from .regression import pair_refused, pair_samples, vary_pair

_ZEROS = np.zeros((2, 3))


def _probability(shape):
    return Uniform(shape, 0.05, 0.95)


def _check_binary_cross_entropy(input, target, weight=None, *, reduction="mean"):
    """input, target: probabilities in [0, 1], arrays of one type and shape; weight: broadcasts to them, or None."""
    check_pair("binary_cross_entropy", input, target, reduction)
    check_weight("binary_cross_entropy", "weight", weight, input)
    check_unit_interval("binary_cross_entropy", "input", input)
    check_unit_interval("binary_cross_entropy", "target", target)


def _weighted_sample(name, shape, weight_shapes, input=Normal, large=False, **attributes):
    inputs = {"input": input(shape), "target": _probability(shape)}
    for argument, weight_shape in weight_shapes.items():
        inputs[argument] = None if weight_shape is None else Uniform(weight_shape, 0.5, 2.0)
    return Sample(name, inputs, attributes, large)


def _vary_weighted(*arguments, input=Normal):
    def vary(pick):
        shape = vary_shape(pick)
        weights = {}
        for argument in arguments:
            part = tuple(1 if pick(0, 2) == 0 else size for size in shape)[pick(0, len(shape)) :]
            weights[argument] = pick.of([None, shape, part])
        return _weighted_sample("varied", shape, weights, input, reduction=pick.of(REDUCTIONS))

    return vary


binary_cross_entropy = Operation(
    "binary_cross_entropy",
    __package__,
    check=_check_binary_cross_entropy,
    cost=elementwise_cost(7),
    reduction_length=all_elements,
    vary=_vary_weighted("weight", input=_probability),
    samples=[
        *pair_samples((256, 784), input=_probability, target=_probability),
        _weighted_sample("weight", (6, 5), {"weight": (6, 5)}, _probability),
        _weighted_sample("class_weight", (6, 5), {"weight": (5,)}, _probability, reduction="none"),
    ],
    refused=[
        *pair_refused(),
        Refused("above_one", {"input": _ZEROS + 1.5, "target": _ZEROS}, ValueError, r"input in \[0, 1\], got 1.5"),
        Refused("nan", {"input": _ZEROS + math.nan, "target": _ZEROS}, ValueError, r"input in \[0, 1\], got nan"),
        Refused("target", {"input": _ZEROS, "target": _ZEROS - 1}, ValueError, r"target in \[0, 1\], got -1"),
        Refused(
            "weight",
            {"input": _ZEROS, "target": _ZEROS, "weight": np.ones(2)},
            ValueError,
            r"weight that broadcasts to input's shape \(2, 3\), got \(2,\)",
        ),
    ],
)


def _check_binary_cross_entropy_with_logits(input, target, weight=None, pos_weight=None, *, reduction="mean"):
    """input: logits, target: arrays of one type and shape; weight, pos_weight: broadcast to them, or None."""
    check_pair("binary_cross_entropy_with_logits", input, target, reduction)
    check_weight("binary_cross_entropy_with_logits", "weight", weight, input)
    check_weight("binary_cross_entropy_with_logits", "pos_weight", pos_weight, input)


binary_cross_entropy_with_logits = Operation(
    "binary_cross_entropy_with_logits",
    __package__,
    check=_check_binary_cross_entropy_with_logits,
    cost=elementwise_cost(8),
    reduction_length=all_elements,
    vary=_vary_weighted("weight", "pos_weight"),
    samples=[
        *pair_samples((256, 784), target=_probability),
        _weighted_sample("weight", (6, 5), {"weight": (6, 1)}),
        _weighted_sample("pos_weight", (6, 5), {"weight": None, "pos_weight": (5,)}, reduction="none"),
        _weighted_sample("both", (6, 5), {"weight": (6, 5), "pos_weight": ()}, reduction="sum"),
    ],
    refused=[
        *pair_refused(),
        Refused(
            "pos_weight",
            {"input": _ZEROS, "target": _ZEROS, "weight": None, "pos_weight": np.ones((4, 2, 3))},
            ValueError,
            r"pos_weight that broadcasts to input's shape \(2, 3\)",
        ),
    ],
)


def _check_kl_div(input, target, *, log_target=False, reduction="mean"):
    """input: log-probabilities, target: probabilities, or their logarithms (log_target); one type and shape."""
    check_pair("kl_div", input, target, reduction, (*REDUCTIONS, "batchmean"))
    check_flag("kl_div", "log_target", log_target)


kl_div = Operation(
    "kl_div",
    __package__,
    check=_check_kl_div,
    cost=elementwise_cost(4),
    reduction_length=all_elements,
    vary=vary_pair(target=_probability, reductions=(*REDUCTIONS, "batchmean"), log_target=(True, False)),
    samples=[
        *pair_samples((512, 4096), target=_probability),
        Sample("batchmean", {"input": (8, 8), "target": _probability((8, 8))}, {"reduction": "batchmean"}),
        Sample("log_target", {"input": (8, 8), "target": (8, 8)}, {"reduction": "batchmean", "log_target": True}),
        Sample("log_target_mean", {"input": (8, 8), "target": (8, 8)}, {"log_target": True}),
    ],
    refused=[
        *pair_refused(),
        Refused("flag", {"input": _ZEROS, "target": _ZEROS}, TypeError, "log_target as True", {"log_target": None}),
    ],
)


def _check_soft_margin_loss(input, target, *, reduction="mean"):
    """input, target: floating-point arrays of one type and one shape."""
    check_pair("soft_margin_loss", input, target, reduction)


soft_margin_loss = Operation(
    "soft_margin_loss",
    __package__,
    check=_check_soft_margin_loss,
    cost=elementwise_cost(6),
    reduction_length=all_elements,
    vary=vary_pair(),
    samples=pair_samples(),
    refused=pair_refused(),
)


def _check_multilabel_soft_margin_loss(input, target, weight=None, *, reduction="mean"):
    """input: logits [..., C], target: of the same type and shape; weight: [C] or None."""
    check_pair("multilabel_soft_margin_loss", input, target, reduction)
    check_same_dtype("multilabel_soft_margin_loss", "input", input, "weight", weight)
    if input.ndim == 0:
        refuse_value("multilabel_soft_margin_loss", "input", "as [..., C]", f"shape {input.shape}")
    if weight is not None:
        check_shape("multilabel_soft_margin_loss", "weight", weight, input.shape[-1:], "[C]")


def _vary_multilabel_soft_margin(pick):
    shape = (*vary_shape(pick, 2), pick(1, 9))
    weight = pick.of([None, shape[-1:]])
    return _weighted_sample("varied", shape, {"weight": weight}, reduction=pick.of(REDUCTIONS))


multilabel_soft_margin_loss = Operation(
    "multilabel_soft_margin_loss",
    __package__,
    check=_check_multilabel_soft_margin_loss,
    cost=elementwise_cost(8),
    reduction_length=all_elements,
    vary=_vary_multilabel_soft_margin,
    samples=[
        _weighted_sample("mean", (32, 10), {"weight": None}),
        _weighted_sample("weight", (6, 5), {"weight": (5,)}),
        _weighted_sample("each", (2, 6, 5), {"weight": (5,)}, reduction="none"),
        _weighted_sample("sum", (6, 5), {"weight": None}, reduction="sum"),
        _weighted_sample("one_row", (5,), {"weight": None}, reduction="none"),
        _weighted_sample("nothing", (0, 5), {"weight": None}, reduction="sum"),
        _weighted_sample("tags", (256, 1000), {"weight": None}, large=True),
    ],
    refused=[
        *pair_refused(),
        Refused("scalar", {"input": np.zeros(()), "target": np.zeros(())}, ValueError, r"input as \[\.\.\., C\]"),
        Refused(
            "weight",
            {"input": _ZEROS, "target": _ZEROS, "weight": np.ones(2)},
            ValueError,
            r"weight of shape \(3,\) \(\[C\]\)",
        ),
    ],
)
