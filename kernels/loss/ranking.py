"""Losses that compare scores and distances with a margin m:

hinge_embedding_loss    x where t = 1, max(0, m - x) where t = -1
margin_ranking_loss     max(0, m - t (x1 - x2)), t = 1 if x1 shall be the greater, -1 if x2
cosine_embedding_loss   1 - cos(x1, x2) where t = 1, max(0, cos(x1, x2) - m) where t = -1
triplet_margin_loss     max(0, m + D(anchor, positive) - D(anchor, negative)) with D(a, b) = |a - b + eps|_p over the
                        last axis; swap: the lesser of D(anchor, negative) and D(positive, negative)
                        (Balntas et al., Learning shallow convolutional feature descriptors with triplet losses, 2016)
multi_margin_loss       w_y / C sum_{c != y} max(0, m - x_y + x_c)^p, y the label
multilabel_margin_loss  1 / C sum_{y in labels} sum_{c not in labels} max(0, 1 - (x_y - x_c))
"""

from __future__ import annotations

import math

import numpy as np

from ..check import (
    INTEGERS,
    check_array,
    check_choice,
    check_float,
    check_index_range,
    check_integer,
    check_number,
    check_same_dtype,
    check_shape,
    refuse_type,
    refuse_value,
)
from ..operation import Cost, Integers, Operation, Refused, Sample, Uniform, Values
from .classification import check_class_scores, classes_of
from .common import REDUCTIONS, all_elements, check_flag, check_reduction, check_values, elementwise_cost, vary_shape

_ZEROS, _ONES = np.zeros((2, 3)), np.ones((2, 3))
_INFINITE = {"margin": math.inf}


def _check_margin(operation, margin):
    check_number(operation, "margin", margin, -math.inf, math.inf, open_low=True, open_high=True)


def _check_signs(operation, input, target, shape, layout):
    """target holds 1 and -1 alone, as integers or in input's type."""
    check_array(operation, "target", target)
    if target.dtype != input.dtype and target.dtype not in INTEGERS:
        refuse_type(operation, "target", f"of input's type {input.dtype} or of an integer type", target.dtype)
    check_shape(operation, "target", target, shape, layout)
    check_values(operation, "target", "of 1 and -1 alone", target, -1, 1, ends=True)


def _check_hinge_embedding_loss(input, target, *, margin=1.0, reduction="mean"):
    """input: distances; target: 1 and -1, of input's shape, in its type or as integers."""
    check_float("hinge_embedding_loss", "input", input)
    _check_signs("hinge_embedding_loss", input, target, input.shape, "input's")
    _check_margin("hinge_embedding_loss", margin)
    check_reduction("hinge_embedding_loss", reduction)


def _signs(shape, seed=0):
    return Values(np.random.default_rng(seed).choice([-1.0, 1.0], shape))


def _vary_hinge_embedding(pick):
    shape = vary_shape(pick)
    attributes = {"margin": pick.of((0.0, 1.0, 2.5)), "reduction": pick.of(REDUCTIONS)}
    return Sample("varied", {"input": shape, "target": _signs(shape, pick(0, 99))}, attributes)


hinge_embedding_loss = Operation(
    "hinge_embedding_loss",
    __package__,
    check=_check_hinge_embedding_loss,
    cost=elementwise_cost(2),
    reduction_length=all_elements,
    vary=_vary_hinge_embedding,
    samples=[
        Sample("mean", {"input": (32, 10), "target": _signs((32, 10))}),
        Sample("each", {"input": (7,), "target": Values(_signs((7,)).values.astype(int))}, {"reduction": "none"}),
        Sample("sum", {"input": (5, 3), "target": _signs((5, 3))}, {"reduction": "sum", "margin": 2.0}),
        Sample("nothing", {"input": (0, 3), "target": _signs((0, 3))}, {"reduction": "sum"}),
        Sample("pairs", {"input": (65536,), "target": Values(np.ones(65536))}, large=True),
    ],
    refused=[
        Refused("zero", {"input": _ZEROS, "target": _ZEROS}, ValueError, "target of 1 and -1 alone, got 0"),
        Refused("mixed", {"input": _ZEROS, "target": _ONES.astype("f4")}, TypeError, "target of input's type float64"),
        Refused("shapes", {"input": _ZEROS, "target": np.ones(3)}, ValueError, r"target of shape \(2, 3\)"),
        Refused("margin", {"input": _ZEROS, "target": _ONES}, ValueError, "margin in", _INFINITE),
    ],
)


def _check_margin_ranking_loss(input1, input2, target, *, margin=0.0, reduction="mean"):
    """input1, input2: scores of one type and shape; target: of their shape, in their type or integers, or a number."""
    check_float("margin_ranking_loss", "input1", input1)
    check_same_dtype("margin_ranking_loss", "input1", input1, "input2", input2)
    if input2 is None:
        refuse_type("margin_ranking_loss", "input2", "as a NumPy or CuPy array", "None")
    check_shape("margin_ranking_loss", "input2", input2, input1.shape, "input1's")
    if type(target) in (int, float):
        check_number("margin_ranking_loss", "target", target)
    else:
        check_array("margin_ranking_loss", "target", target)
        if target.dtype != input1.dtype and target.dtype not in INTEGERS:
            refuse_type(
                "margin_ranking_loss", "target", f"of input1's type {input1.dtype} or of an integer type", target.dtype
            )
        check_shape("margin_ranking_loss", "target", target, input1.shape, "input1's")
    _check_margin("margin_ranking_loss", margin)
    check_reduction("margin_ranking_loss", reduction)


def _ranking_sample(name, shape, target, large=False, **attributes):
    return Sample(name, {"input1": shape, "input2": shape, "target": target}, attributes, large)


def _vary_margin_ranking(pick):
    shape = vary_shape(pick)
    target = pick.of([_signs(shape, pick(0, 99)), Integers(shape, -1, 2), 1, -1.0])
    return _ranking_sample("varied", shape, target, margin=pick.of((0.1, 1.0)), reduction=pick.of(REDUCTIONS))


margin_ranking_loss = Operation(
    "margin_ranking_loss",
    __package__,
    check=_check_margin_ranking_loss,
    cost=elementwise_cost(4),
    reduction_length=all_elements,
    vary=_vary_margin_ranking,
    samples=[
        _ranking_sample("mean", (32, 10), _signs((32, 10)), margin=0.5),
        _ranking_sample("each", (7,), Integers((7,), -1, 2), margin=0.5, reduction="none"),
        _ranking_sample("one_order", (5, 3), 1, reduction="sum"),
        _ranking_sample("nothing", (0, 3), 1, reduction="sum"),
        _ranking_sample("pairs", (65536,), Values(np.ones(65536)), large=True),
    ],
    refused=[
        Refused("mixed", {"input1": _ZEROS, "input2": _ZEROS.astype("f4"), "target": 1}, TypeError, "input2 of input1"),
        Refused("none", {"input1": _ZEROS, "input2": None, "target": 1}, TypeError, "input2 as a NumPy or CuPy"),
        Refused("shapes", {"input1": _ZEROS, "input2": np.zeros(3), "target": 1}, ValueError, "input2 of shape"),
        Refused("target", {"input1": _ZEROS, "input2": _ZEROS, "target": np.ones(3)}, ValueError, "target of shape"),
        Refused("flags", {"input1": _ZEROS, "input2": _ZEROS, "target": _ONES > 0}, TypeError, "target of input1's"),
        Refused("margin", {"input1": _ZEROS, "input2": _ZEROS, "target": 1}, ValueError, "margin in", _INFINITE),
    ],
)


def _check_vectors(operation, first, second, argument, name):
    """second has the type and the shape of first."""
    check_same_dtype(operation, name, first, argument, second)
    if second is None:
        refuse_type(operation, argument, "as a NumPy or CuPy array", "None")
    check_shape(operation, argument, second, first.shape, f"{name}'s")


def _check_cosine_embedding_loss(input1, input2, target, *, margin=0.0, reduction="mean"):
    """input1, input2: [N, D] or [D], one type; target: 1 and -1, [N] or []; -1 <= margin <= 1."""
    check_float("cosine_embedding_loss", "input1", input1)
    _check_vectors("cosine_embedding_loss", input1, input2, "input2", "input1")
    if input1.ndim not in (1, 2):
        refuse_value("cosine_embedding_loss", "input1", "as [N, D] or [D]", f"shape {input1.shape}")
    _check_signs("cosine_embedding_loss", input1, target, input1.shape[:-1], "one for each row")
    check_number("cosine_embedding_loss", "margin", margin, -1, 1)
    check_reduction("cosine_embedding_loss", reduction)


def _cosine_sample(name, shape, large=False, seed=0, **attributes):
    return Sample(name, {"input1": shape, "input2": shape, "target": _signs(shape[:-1], seed)}, attributes, large)


def _vary_cosine(pick):
    shape = (pick(0, 9), pick(1, 40)) if pick(0, 3) else (pick(1, 40),)
    margin, reduction = pick.of((0.0, 0.1, -0.5)), pick.of(REDUCTIONS)
    return _cosine_sample("varied", shape, seed=pick(0, 99), margin=margin, reduction=reduction)


def _cost_rows(input, *others, reduction="mean", **attributes):
    arrays = [x for x in (input, *others) if getattr(x, "ndim", 0)]
    return Cost(flops=2 * len(arrays) * input.size, bytes=sum(x.nbytes for x in arrays) + input.dtype.itemsize)


cosine_embedding_loss = Operation(
    "cosine_embedding_loss",
    __package__,
    check=_check_cosine_embedding_loss,
    cost=_cost_rows,
    reduction_length=all_elements,
    vary=_vary_cosine,
    samples=[
        _cosine_sample("mean", (32, 10)),
        _cosine_sample("each", (7, 33), margin=-0.2, reduction="none"),
        _cosine_sample("one_row", (5,), reduction="sum"),
        _cosine_sample("no_rows", (0, 5), reduction="sum"),
        _cosine_sample("sentences", (1024, 768), True),
    ],
    refused=[
        Refused("axes", {"input1": np.zeros(()), "input2": np.zeros(()), "target": 1}, ValueError, "input1 as"),
        Refused("none", {"input1": _ZEROS, "input2": None, "target": np.ones(2)}, TypeError, "input2 as a NumPy"),
        Refused("shapes", {"input1": _ZEROS, "input2": np.zeros(3), "target": np.ones(2)}, ValueError, "input2 of"),
        Refused(
            "signs", {"input1": _ZEROS, "input2": _ZEROS, "target": np.array([1, 0])}, ValueError, "target of 1 and -1"
        ),
        Refused(
            "margin",
            {"input1": _ZEROS, "input2": _ZEROS, "target": np.ones(2)},
            ValueError,
            r"margin in \[-1, 1\], got 2",
            {"margin": 2},
        ),
    ],
)


def _check_triplet_margin_loss(
    anchor, positive, negative, *, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"
):
    """anchor, positive, negative: [..., D] of one type and shape; margin > 0, p > 0 (inf: the greatest), eps >= 0."""
    check_float("triplet_margin_loss", "anchor", anchor)
    _check_vectors("triplet_margin_loss", anchor, positive, "positive", "anchor")
    _check_vectors("triplet_margin_loss", anchor, negative, "negative", "anchor")
    if anchor.ndim == 0:
        refuse_value("triplet_margin_loss", "anchor", "as [..., D]", f"shape {anchor.shape}")
    check_number("triplet_margin_loss", "margin", margin, 0, math.inf, open_low=True, open_high=True)
    check_number("triplet_margin_loss", "p", p, 0, math.inf, open_low=True)
    check_number("triplet_margin_loss", "eps", eps, 0, math.inf, open_high=True)
    check_flag("triplet_margin_loss", "swap", swap)
    check_reduction("triplet_margin_loss", reduction)


def _triplet_sample(name, shape, large=False, **attributes):
    return Sample(name, {"anchor": shape, "positive": shape, "negative": shape}, attributes, large)


def _vary_triplet(pick):
    shape = (*vary_shape(pick, 2), pick(1, 20))
    p, swap = pick.of((1, 2, 3.5, math.inf)), pick.of((True, False))
    return _triplet_sample("varied", shape, margin=pick.of((0.5, 2)), p=p, swap=swap, reduction=pick.of(REDUCTIONS))


triplet_margin_loss = Operation(
    "triplet_margin_loss",
    __package__,
    check=_check_triplet_margin_loss,
    by_form=True,
    cost=_cost_rows,
    reduction_length=all_elements,
    vary=_vary_triplet,
    samples=[
        _triplet_sample("mean", (32, 10)),
        _triplet_sample("swapped", (3, 7, 9), swap=True, reduction="none"),
        _triplet_sample("city_block", (9, 5), p=1, reduction="sum"),
        _triplet_sample("cubes", (9, 5), p=3.0, swap=True),
        _triplet_sample("greatest", (9, 5), p=math.inf),
        _triplet_sample("one_row", (5,)),
        _triplet_sample("no_rows", (0, 5), reduction="sum"),
        _triplet_sample("faces", (1024, 512), True),
    ],
    refused=[
        Refused("none", {"anchor": _ZEROS, "positive": None, "negative": _ZEROS}, TypeError, "positive as a NumPy"),
        Refused(
            "shapes", {"anchor": _ZEROS, "positive": _ZEROS, "negative": np.zeros(3)}, ValueError, "negative of shape"
        ),
        *[
            Refused(name, {"anchor": _ZEROS, "positive": _ZEROS, "negative": _ZEROS}, error, message, attributes)
            for name, error, message, attributes in [
                ("margin", ValueError, r"margin in \(0, inf\), got 0", {"margin": 0}),
                ("p", ValueError, r"p in \(0, inf\], got 0", {"p": 0}),
                ("eps", ValueError, r"eps in \[0, inf\), got -1", {"eps": -1}),
                ("swap", TypeError, "swap as True or False", {"swap": None}),
            ]
        ],
    ],
)


def _check_multi_margin_loss(input, target, weight=None, *, p=1, margin=1.0, reduction="mean"):
    """input: scores [N, C] or [C]; target: labels [N] or [], in [0, C); weight: [C] or None; p: 1 or 2."""
    check_class_scores("multi_margin_loss", input, weight)
    if input.ndim > 2:
        refuse_value("multi_margin_loss", "input", "as [N, C] or [C]", f"shape {input.shape}")
    check_integer("multi_margin_loss", "target", target)
    check_shape("multi_margin_loss", "target", target, input.shape[:-1], "one for each row")
    check_index_range("multi_margin_loss", "target", target, 0, classes_of(input))
    check_choice("multi_margin_loss", "p", p, (1, 2))
    _check_margin("multi_margin_loss", margin)
    check_reduction("multi_margin_loss", reduction)


def _multi_margin_sample(name, shape, weighted=False, large=False, **attributes):
    weight = Uniform(shape[-1:], 0.5, 2.0) if weighted else None
    return Sample(
        name, {"input": shape, "target": Integers(shape[:-1], 0, shape[-1]), "weight": weight}, attributes, large
    )


def _vary_multi_margin(pick):
    shape = (pick(0, 9), pick(1, 20)) if pick(0, 3) else (pick(1, 20),)
    attributes = {"p": pick.of((1, 2)), "margin": pick.of((0.5, 1)), "reduction": pick.of(REDUCTIONS)}
    return _multi_margin_sample("varied", shape, pick.of((True, False)), **attributes)


multi_margin_loss = Operation(
    "multi_margin_loss",
    __package__,
    check=_check_multi_margin_loss,
    cost=_cost_rows,
    reduction_length=all_elements,
    vary=_vary_multi_margin,
    samples=[
        _multi_margin_sample("mean", (32, 10)),
        _multi_margin_sample("squared", (9, 7), True, p=2, margin=0.7),
        _multi_margin_sample("each", (9, 7), True, reduction="none"),
        _multi_margin_sample("one_row", (7,), reduction="sum"),
        _multi_margin_sample("no_rows", (0, 7), reduction="sum"),
        _multi_margin_sample("imagenet", (256, 1000), large=True),
    ],
    refused=[
        Refused("label", {"input": _ZEROS, "target": np.array([0, 3])}, ValueError, r"target in \[0, 3\), got 3"),
        Refused(
            "axes", {"input": np.zeros((2, 3, 4)), "target": np.zeros(2, int)}, ValueError, r"input as \[N, C\] or"
        ),
        Refused("rows", {"input": _ZEROS, "target": np.array([0])}, ValueError, r"target of shape \(2,\)"),
        Refused("p", {"input": _ZEROS, "target": np.array([0, 1])}, ValueError, "p as one of 1, 2, got 3", {"p": 3}),
    ],
)


def _check_multilabel_margin_loss(input, target, *, reduction="mean"):
    """input: scores [N, C] or [C]; target: integers of its shape, each row labels in [0, C) up to the first -1."""
    check_class_scores("multilabel_margin_loss", input, None)
    if input.ndim > 2:
        refuse_value("multilabel_margin_loss", "input", "as [N, C] or [C]", f"shape {input.shape}")
    check_integer("multilabel_margin_loss", "target", target)
    check_shape("multilabel_margin_loss", "target", target, input.shape, "input's")
    check_index_range("multilabel_margin_loss", "target", target, 0, classes_of(input), -1)
    check_reduction("multilabel_margin_loss", reduction)


def _multilabel_margin_sample(name, shape, large=False, seed=0, **attributes):
    """Rows of different labels, each ended by a -1 at some place."""
    rng = np.random.default_rng(seed)
    labels = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    labels[rng.random(shape) < 2 / shape[-1]] = -1
    return Sample(name, {"input": shape, "target": Values(labels)}, attributes, large)


def _vary_multilabel_margin(pick):
    shape = (pick(0, 9), pick(1, 20)) if pick(0, 3) else (pick(1, 20),)
    return _multilabel_margin_sample("varied", shape, seed=pick(0, 99), reduction=pick.of(REDUCTIONS))


multilabel_margin_loss = Operation(
    "multilabel_margin_loss",
    __package__,
    check=_check_multilabel_margin_loss,
    cost=_cost_rows,
    reduction_length=lambda input, *_, **__: max(input.size * input.shape[-1], 1),
    vary=_vary_multilabel_margin,
    samples=[
        _multilabel_margin_sample("mean", (16, 10)),
        _multilabel_margin_sample("each", (9, 7), reduction="none"),
        _multilabel_margin_sample("one_row", (7,), reduction="sum"),
        _multilabel_margin_sample("no_rows", (0, 7), reduction="sum"),
        _multilabel_margin_sample("tags", (256, 100), True),
    ],
    refused=[
        Refused(
            "label", {"input": _ZEROS, "target": _ONES.astype(int) * 3}, ValueError, r"target in \[0, 3\) or -1, got 3"
        ),
        Refused("shapes", {"input": _ZEROS, "target": np.zeros(2, int)}, ValueError, r"target of shape \(2, 3\)"),
        Refused("floats", {"input": _ZEROS, "target": _ONES}, TypeError, "target of an integer type"),
    ],
)
