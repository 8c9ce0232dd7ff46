"""What gradient clipping asks of a gradient buffer: its norm, the buffer scaled, the buffer clipped."""

from __future__ import annotations

import math

import numpy as np

from ..check import HALF_TYPES, check_float, check_number
from ..device import cast
from ..operation import Cost, Operation, Refused, Sample


def _check_gradient_norm(gradient, *, norm_type=2.0):
    """gradient: a floating-point array of any shape; norm_type: greater than 0, or infinity."""
    check_float("gradient_norm", "gradient", gradient)
    check_number("gradient_norm", "norm_type", norm_type, 0, open_low=True)


gradient_norm = Operation(
    "gradient_norm",
    __package__,
    check=_check_gradient_norm,
    cost=lambda gradient, **_: Cost(2 * gradient.size, (gradient.size + 1) * gradient.dtype.itemsize),
    vary=lambda pick: Sample(
        "varied", {"gradient": (pick(0, 9), pick(0, 9))}, {"norm_type": pick.of((1.0, 2.0, 2.5, math.inf))}
    ),
    differentiable=False,
    samples=[
        Sample("euclidean", {"gradient": (1237,)}),
        Sample("many_chunks", {"gradient": (100_003,)}),
        Sample("one_norm", {"gradient": (1237,)}, {"norm_type": 1.0}),
        Sample("maximum", {"gradient": (1237,)}, {"norm_type": math.inf}),
        Sample("three_norm", {"gradient": (13, 7)}, {"norm_type": 3}),
        Sample("nothing", {"gradient": (0,)}),
        Sample("nothing_maximum", {"gradient": (0,)}, {"norm_type": math.inf}),
        Sample("ten_million", {"gradient": (10_000_000,)}, large=True),
    ],
    refused=[
        Refused("integers", {"gradient": np.zeros(3, int)}, TypeError, "gradient of type float16"),
        Refused("zero", {"gradient": np.zeros(3)}, ValueError, r"norm_type in \(0, inf\]", {"norm_type": 0}),
        Refused("nan", {"gradient": np.zeros(3)}, ValueError, r"norm_type in .*got nan", {"norm_type": math.nan}),
    ],
)


def _check_gradient_scale(gradient, *, factor):
    """gradient: a floating-point array of any shape; factor: a number, NaN too (the mark of a step that failed)."""
    check_float("gradient_scale", "gradient", gradient)
    if factor == factor:
        check_number("gradient_scale", "factor", factor)


def _check_gradient_clip(gradient, *, low, high):
    """gradient: a floating-point array of any shape; low <= high. NaN stays NaN."""
    check_float("gradient_clip", "gradient", gradient)
    check_number("gradient_clip", "low", low)
    check_number("gradient_clip", "high", high, low)


def _one_pass_cost(gradient, **_):
    return Cost(gradient.size, 2 * gradient.size * gradient.dtype.itemsize)


gradient_scale = Operation(
    "gradient_scale",
    __package__,
    check=_check_gradient_scale,
    cost=_one_pass_cost,
    differentiable=False,
    samples=[
        Sample("half", {"gradient": (1237,)}, {"factor": 0.5}),
        Sample("nan", {"gradient": (3,)}, {"factor": math.nan}),
        Sample("matrix", {"gradient": (5, 7)}, {"factor": -3}),
        Sample("nothing", {"gradient": (0,)}, {"factor": 1.0}),
        Sample("ten_million", {"gradient": (10_000_000,)}, {"factor": 0.5}, large=True),
    ],
    refused=[
        Refused("integers", {"gradient": np.zeros(3, int)}, TypeError, "gradient of type float16", {"factor": 1.0}),
        Refused("factor", {"gradient": np.zeros(3)}, TypeError, "factor as a real number", {"factor": None}),
    ],
)

gradient_clip = Operation(
    "gradient_clip",
    __package__,
    check=_check_gradient_clip,
    cost=_one_pass_cost,
    differentiable=False,
    samples=[
        Sample("half", {"gradient": (1237,)}, {"low": -0.5, "high": 0.5}),
        Sample("one_sided", {"gradient": (5, 7)}, {"low": -math.inf, "high": 0.1}),
        Sample("nothing", {"gradient": (0,)}, {"low": -1, "high": 1}),
        Sample("ten_million", {"gradient": (10_000_000,)}, {"low": -0.5, "high": 0.5}, large=True),
    ],
    refused=[
        Refused(
            "integers", {"gradient": np.zeros(3, int)}, TypeError, "gradient of type float16", {"low": 0, "high": 1}
        ),
        Refused("order", {"gradient": np.zeros(3)}, ValueError, r"high in \[1, inf\], got 0", {"low": 1, "high": 0}),
        Refused("nan", {"gradient": np.zeros(3)}, ValueError, "low in .*got nan", {"low": math.nan, "high": 0}),
    ],
)


def total_norm(gradients, norm_type: float = 2.0) -> float:
    """The norm of several gradient arrays taken as one vector; half-precision ones are measured in float32, whose
    range their norm may need."""
    wide = (cast(g, np.float32) if g.dtype in HALF_TYPES else g for g in gradients)
    norms = [float(gradient_norm.forward(g, norm_type=norm_type)[0]) for g in wide]
    return float(np.linalg.norm(norms, norm_type)) if norms else 0.0
