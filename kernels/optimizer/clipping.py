"""What gradient clipping asks of a gradient buffer: its norm, the buffer scaled, the buffer clipped."""

from __future__ import annotations

import math

import numpy as np

from ..accumulate import copy_into, empty_like
from ..check import HALF_TYPES, check_float, check_number, check_shape
from ..device import cast
from ..memory import empty
from ..operation import Cost, Operation, Refused, Sample, Uniform


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


def _check_gradient_limit(gradient, norm, *, max_norm):
    """gradient: a floating-point array of any shape; norm: one of no axes; max_norm: 0 or more."""
    check_float("gradient_limit", "gradient", gradient)
    check_float("gradient_limit", "norm", norm)
    check_shape("gradient_limit", "norm", norm, (), "that of a number")
    check_number("gradient_limit", "max_norm", max_norm, 0)


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

gradient_limit = Operation(
    "gradient_limit",
    __package__,
    check=_check_gradient_limit,
    cost=lambda gradient, norm, **_: Cost(gradient.size, 2 * gradient.nbytes + norm.nbytes),
    differentiable=False,
    samples=[
        Sample("scaled", {"gradient": (1237,), "norm": Uniform((), 2, 3)}, {"max_norm": 1.0}),
        Sample("short_enough", {"gradient": (5, 7), "norm": Uniform((), 2, 3)}, {"max_norm": 4}),
        Sample("to_nothing", {"gradient": (40,), "norm": Uniform((), 2, 3)}, {"max_norm": 0.0}),
        Sample("nothing", {"gradient": (0,), "norm": Uniform((), 2, 3)}, {"max_norm": 1.0}),
        Sample("ten_million", {"gradient": (10_000_000,), "norm": Uniform((), 2, 3)}, {"max_norm": 1.0}, large=True),
    ],
    refused=[
        Refused(
            "integers", {"gradient": np.zeros(3, int), "norm": np.ones(())}, TypeError, "gradient of type float16",
            {"max_norm": 1.0},
        ),
        Refused(
            "norms", {"gradient": np.zeros(3), "norm": np.ones(1)}, ValueError, r"norm of shape \(\)", {"max_norm": 1.0}
        ),
        Refused(
            "negative", {"gradient": np.zeros(3), "norm": np.ones(())}, ValueError, r"max_norm in \[0, inf",
            {"max_norm": -1.0},
        ),
    ],
)  # fmt: skip

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
    norms = [float(norm) for norm in _norms(gradients, norm_type)]
    return float(np.linalg.norm(norms, norm_type)) if norms else 0.0


def total_norm_on_device(gradients, norm_type: float = 2.0):
    """The same of one or more arrays on one device, as an array of no axes there: float64 where a gradient is, else
    float32. Nothing waits for it."""
    norms = list(_norms(gradients, norm_type))
    if len(norms) == 1:
        return norms[0]
    widest = max(norms, key=lambda norm: norm.itemsize)
    together = empty_like(widest, (len(norms),))
    for index, norm in enumerate(norms):
        copy_into(together[index : index + 1].reshape(()), norm)
    return gradient_norm.forward(together, norm_type=norm_type)[0]


def _norms(gradients, norm_type: float):
    return (gradient_norm.forward(_wide(g), norm_type=norm_type)[0] for g in gradients)


def _wide(gradient):
    """A half-precision array in float32."""
    if gradient.dtype not in HALF_TYPES:
        return gradient
    if type(gradient) is not np.ndarray:
        return cast(gradient, np.float32)
    wide = empty(gradient.shape, np.float32)
    copy_into(wide, gradient)  # by a name behind which a captured step finds it
    return wide
