"""Local response normalisation: values divided by a power of the sum of squares of neighbouring channels.

    y = x / (k + alpha / size * sum of x^2 over `size` neighbouring channels)^beta

Source: A. Krizhevsky et al., "ImageNet classification with deep CNNs", 2012, section 3.3.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_float, check_number, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample


def check_positive_integer(operation, argument, value):
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        refuse_type(operation, argument, "as an integer", type(value).__qualname__)
    if value < 1:
        refuse_value(operation, argument, "of at least 1", value)


def _check_local_response_norm(x, *, size, alpha, beta, k):
    """x: [N, C, ...]; size: number of channels in the sum, of which size // 2 come before the channel itself. Where the
    base of the power is negative, y is NaN."""
    check_float("local_response_norm", "x", x)
    if x.ndim < 2:
        refuse_value("local_response_norm", "x", "as [N, C, ...]", f"shape {x.shape}")
    check_positive_integer("local_response_norm", "size", size)
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        check_number("local_response_norm", name, value, open_low=True, open_high=True)


def _response_sample(name, shape, size=5, alpha=1e-1, beta=0.75, k=2.0, *, large=False):
    return Sample(name, {"x": shape}, {"size": size, "alpha": alpha, "beta": beta, "k": k}, large)


def _response_refused(name, error, message, **attributes):
    good = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
    return Refused(name, {"x": np.zeros((2, 3, 4))}, error, message, {**good, **attributes})


local_response_norm = Operation(
    "local_response_norm",
    __package__,
    check=_check_local_response_norm,
    by_form=True,
    # Per element: `size` squares and sums, a scaled sum, a power (counted as one) and a product.
    cost=lambda x, *, size, **_: Cost(flops=(2 * size + 4) * x.size, bytes=2 * x.size * x.dtype.itemsize),
    reduction_length=lambda x, *, size, **_: size,
    vary=lambda pick: _response_sample(
        "varied",
        (pick(0, 3), pick(0, 8), *(pick(0, 5) for _ in range(pick(0, 2)))),
        pick(1, 9),
        pick(0, 10) / 4,
        pick(-4, 8) / 4,
        pick(1, 4),
    ),
    samples=[
        _response_sample("images", (3, 9, 5, 7)),
        _response_sample("even_window", (2, 7, 11), 4, 1.0, 0.5, 1.0),
        _response_sample("window_past_both_ends", (2, 3, 5), 9),
        _response_sample("one_channel", (2, 1, 5), 3),
        _response_sample("no_rows", (0, 4, 3, 3)),
        _response_sample("no_pixels", (2, 4, 0)),
        _response_sample("alexnet", (16, 96, 27, 27), 5, 1e-4, large=True),
    ],
    refused=[
        Refused(
            "integers",
            {"x": np.zeros((2, 3, 4), int)},
            TypeError,
            "expected x of type",
            {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0},
        ),
        Refused(
            "vector",
            {"x": np.zeros(4)},
            ValueError,
            r"x as \[N, C, \.\.\.\]",
            {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0},
        ),
        _response_refused("size", ValueError, "size of at least 1, got 0", size=0),
        _response_refused("size_type", TypeError, "size as an integer, got float", size=5.0),
        _response_refused("alpha", ValueError, "alpha in .*, got nan", alpha=math.nan),
        _response_refused("beta", TypeError, "beta as a real number, got str", beta="0.75"),
        _response_refused("k", ValueError, "k in .*, got inf", k=math.inf),
    ],
)
