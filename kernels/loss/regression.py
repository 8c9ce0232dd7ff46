"""Regression losses, element by element; x is the input, t the target, d = x - t:

mse_loss           d^2
l1_loss            |d|
smooth_l1_loss     d^2 / (2 beta) where |d| < beta, else |d| - beta / 2
huber_loss         d^2 / 2 where |d| < delta, else delta (|d| - delta / 2)
poisson_nll_loss   exp(x) - t x, or x - t log(x + eps) for log_input=False; full: + t log t - t + log(2 pi t) / 2
                   where t > 1 (Stirling's approximation of log t!)
gaussian_nll_loss  (log v + d^2 / v) / 2 with v = max(var, eps); full: + log(2 pi) / 2
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_number, check_same_dtype, refuse_type, refuse_value
from ..operation import Normal, Operation, Refused, Sample, Uniform
from .common import REDUCTIONS, all_elements, check_flag, check_pair, check_values, elementwise_cost, vary_shape

_ZEROS = np.zeros((2, 3))


def pair_refused(**attributes) -> list[Refused]:
    """Bad calls of a loss of an input and a target."""
    return [
        Refused("integers", {"input": _ZEROS.astype(int), "target": _ZEROS}, TypeError, "input of type", attributes),
        Refused("mixed", {"input": _ZEROS, "target": _ZEROS.astype("f4")}, TypeError, "target of input's", attributes),
        Refused("no_target", {"input": _ZEROS, "target": None}, TypeError, "target as a NumPy", attributes),
        Refused(
            "shapes",
            {"input": _ZEROS, "target": np.zeros((2, 1))},
            ValueError,
            r"target of shape \(2, 3\) \(input's\), got \(2, 1\)",
            attributes,
        ),
        Refused(
            "reduction",
            {"input": _ZEROS, "target": _ZEROS},
            ValueError,
            "reduction as one of 'none', 'mean'",
            {**attributes, "reduction": "average"},
        ),
    ]


def pair_samples(large: tuple[int, ...] = (64, 3, 224, 224), *, input=Normal, target=Normal, **attributes):
    """An image-sized loss for timing, every reduction, and the edges."""

    def sample(name, shape, reduction, is_large=False):
        inputs = {"input": input(shape), "target": target(shape)}
        return Sample(name, inputs, {**attributes, "reduction": reduction}, is_large)

    return [
        sample("mean", (32, 10), "mean"),
        sample("sum", (5, 3, 7), "sum"),
        sample("each", (4, 9), "none"),
        sample("blocks", (3001,), "mean"),
        sample("scalar", (), "mean"),
        sample("nothing", (0, 4), "sum"),
        sample("images", large, "mean", True),
    ]


def vary_pair(input=Normal, target=Normal, reductions=REDUCTIONS, **choices):
    """Random shapes, reductions and attributes of a loss of an input and a target."""

    def vary(pick):
        shape = vary_shape(pick)
        attributes = {name: pick.of(values) for name, values in choices.items()}
        inputs = {"input": input(shape), "target": target(shape)}
        return Sample("varied", inputs, {**attributes, "reduction": pick.of(reductions)})

    return vary


def _check_mse_loss(input, target, *, reduction="mean"):
    """input, target: floating-point arrays of one type and one shape."""
    check_pair("mse_loss", input, target, reduction)


mse_loss = Operation(
    "mse_loss",
    __package__,
    check=_check_mse_loss,
    cost=elementwise_cost(3),
    reduction_length=all_elements,
    vary=vary_pair(),
    samples=pair_samples(),
    refused=pair_refused(),
)


def _check_l1_loss(input, target, *, reduction="mean"):
    """input, target: floating-point arrays of one type and one shape."""
    check_pair("l1_loss", input, target, reduction)


l1_loss = Operation(
    "l1_loss",
    __package__,
    check=_check_l1_loss,
    cost=elementwise_cost(3),
    reduction_length=all_elements,
    vary=vary_pair(),
    samples=pair_samples(),
    refused=pair_refused(),
)


def _check_smooth_l1_loss(input, target, *, beta=1.0, reduction="mean"):
    """input, target: floating-point arrays of one type and one shape; beta >= 0, where 0 makes it l1_loss."""
    check_pair("smooth_l1_loss", input, target, reduction)
    check_number("smooth_l1_loss", "beta", beta, 0, math.inf, open_high=True)


smooth_l1_loss = Operation(
    "smooth_l1_loss",
    __package__,
    check=_check_smooth_l1_loss,
    cost=elementwise_cost(5),
    reduction_length=all_elements,
    vary=vary_pair(beta=(0, 0.5, 1.0, 3.0)),
    samples=[
        *pair_samples(beta=1.0),
        Sample("narrow", {"input": (8, 8), "target": (8, 8)}, {"beta": 0.25}),
        Sample("beta_0", {"input": (8, 8), "target": (8, 8)}, {"beta": 0.0}),
    ],
    refused=[
        *pair_refused(),
        Refused("beta", {"input": _ZEROS, "target": _ZEROS}, ValueError, r"beta in \[0, inf\), got -1", {"beta": -1.0}),
        Refused("nan", {"input": _ZEROS, "target": _ZEROS}, ValueError, "beta in .*nan", {"beta": math.nan}),
    ],
)


def _check_huber_loss(input, target, *, delta=1.0, reduction="mean"):
    """input, target: floating-point arrays of one type and one shape; delta > 0."""
    check_pair("huber_loss", input, target, reduction)
    check_number("huber_loss", "delta", delta, 0, math.inf, open_low=True, open_high=True)


huber_loss = Operation(
    "huber_loss",
    __package__,
    check=_check_huber_loss,
    cost=elementwise_cost(5),
    reduction_length=all_elements,
    vary=vary_pair(delta=(0.5, 1.0, 3.0)),
    samples=[
        *pair_samples(delta=1.0),
        Sample("narrow", {"input": (8, 8), "target": (8, 8)}, {"delta": 0.25}),
    ],
    refused=[
        *pair_refused(),
        Refused("delta", {"input": _ZEROS, "target": _ZEROS}, ValueError, r"delta in \(0, inf\), got 0", {"delta": 0}),
    ],
)


def _check_poisson_nll_loss(input, target, *, log_input=True, full=False, eps=1e-8, reduction="mean"):
    """input: log of the rate (log_input) or the rate, target: counts; arrays of one type and shape; eps > 0."""
    check_pair("poisson_nll_loss", input, target, reduction)
    check_flag("poisson_nll_loss", "log_input", log_input)
    check_flag("poisson_nll_loss", "full", full)
    check_number("poisson_nll_loss", "eps", eps, 0, math.inf, open_low=True, open_high=True)


def _rate(shape):
    return Uniform(shape, 0.5, 4.0)


def _count(shape):
    return Uniform(shape, 0.1, 9.0)


poisson_nll_loss = Operation(
    "poisson_nll_loss",
    __package__,
    check=_check_poisson_nll_loss,
    cost=elementwise_cost(10),
    reduction_length=all_elements,
    vary=vary_pair(_rate, _count, log_input=(True, False), full=(True, False)),
    samples=[
        *pair_samples(target=_count),
        Sample("rate", {"input": _rate((9, 7)), "target": _count((9, 7))}, {"log_input": False}),
        Sample("full", {"input": _rate((9, 7)), "target": _count((9, 7))}, {"full": True}),
        Sample(
            "rate_full",
            {"input": _rate((9, 7)), "target": _count((9, 7))},
            {"full": True, "log_input": False, "eps": 1e-3},
        ),
    ],
    refused=[
        *pair_refused(),
        Refused("eps", {"input": _ZEROS, "target": _ZEROS}, ValueError, r"eps in \(0, inf\)", {"eps": 0.0}),
        Refused("flag", {"input": _ZEROS, "target": _ZEROS}, TypeError, "full as True or False", {"full": 1}),
    ],
)


def _check_gaussian_nll_loss(input, target, var, *, full=False, eps=1e-6, reduction="mean"):
    """input, target: one type and shape; eps > 0.

    var, nowhere negative: an array of input's shape, of input's shape with one axis of 1 instead or without its last
    axis, or one number for all.
    """
    check_pair("gaussian_nll_loss", input, target, reduction)
    check_flag("gaussian_nll_loss", "full", full)
    check_number("gaussian_nll_loss", "eps", eps, 0, math.inf, open_low=True, open_high=True)
    if isinstance(var, (int, float)):
        check_number("gaussian_nll_loss", "var", var, 0, math.inf)
        return
    check_same_dtype("gaussian_nll_loss", "input", input, "var", var)
    if var is None:
        refuse_type("gaussian_nll_loss", "var", "as an array or a number", "None")
    stretched = [v for v, n in zip(var.shape, input.shape) if v != n] if var.ndim == input.ndim else None
    if stretched not in ([], [1]) and var.shape != input.shape[:-1]:
        shapes = f"{input.shape}, {input.shape[:-1]} or {input.shape} with one axis of 1"
        refuse_value("gaussian_nll_loss", "var", f"of shape {shapes}", var.shape)
    check_values("gaussian_nll_loss", "var", "nowhere negative", var, 0, nan=True)


def _gaussian_sample(name, shape, var_shape, **attributes):
    var = Uniform(var_shape, 0.3, 2.0)
    return Sample(name, {"input": shape, "target": shape, "var": var}, attributes, name == "images")


def _vary_gaussian(pick):
    shape = (*vary_shape(pick, 2), pick(1, 9))
    var_shape = pick.of([shape, (*shape[:-1], 1), shape[:-1]])
    return _gaussian_sample("varied", shape, var_shape, full=pick.of((True, False)), reduction=pick.of(REDUCTIONS))


gaussian_nll_loss = Operation(
    "gaussian_nll_loss",
    __package__,
    check=_check_gaussian_nll_loss,
    cost=elementwise_cost(8),
    reduction_length=all_elements,
    vary=_vary_gaussian,
    samples=[
        _gaussian_sample("mean", (32, 10), (32, 10)),
        _gaussian_sample("one_variance_a_row", (8, 5), (8, 1), reduction="none", full=True),
        _gaussian_sample("variance_without_axis", (8, 5), (8,), reduction="sum"),
        _gaussian_sample("nothing", (0, 5), (0, 5), reduction="sum"),
        Sample("one_variance", {"input": (8, 5), "target": (8, 5), "var": 0.7}, {"full": True}),
        _gaussian_sample("images", (64, 3, 224, 224), (64, 3, 224, 224)),
    ],
    refused=[
        Refused(
            "negative",
            {"input": _ZEROS, "target": _ZEROS, "var": _ZEROS - 1},
            ValueError,
            "var nowhere negative, got -1",
        ),
        Refused(
            "var",
            {"input": _ZEROS, "target": _ZEROS, "var": np.ones(3)},
            ValueError,
            r"var of shape \(2, 3\), \(2,\) or",
        ),
        Refused("number", {"input": _ZEROS, "target": _ZEROS, "var": -0.5}, ValueError, r"var in \[0, inf\]"),
        Refused(
            "shapes",
            {"input": _ZEROS, "target": np.zeros((2, 1)), "var": _ZEROS},
            ValueError,
            r"target of shape \(2, 3\)",
        ),
        Refused(
            "eps",
            {"input": _ZEROS, "target": _ZEROS, "var": _ZEROS},
            ValueError,
            r"eps in \(0, inf\)",
            {"eps": -1e-6},
        ),
    ],
)
