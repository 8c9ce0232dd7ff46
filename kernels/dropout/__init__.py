"""Dropout: units set to a fixed value at random, and the others rescaled so that the mean (or more) stays.

    dropout:               y = m x / (1 - p)                       m drawn for every element
    channel_dropout:       the same                                m drawn for every channel
    alpha_dropout:         y = a (m x + (1 - m) alpha') + b        m drawn for every element
    feature_alpha_dropout: the same                                m drawn for every channel

m is 1 with probability 1 - p, else 0. alpha' = -1.758... is what SELU tends to for large negative arguments; a and b
keep mean 0 and variance 1:

    a = 1 / sqrt((1 - p) (1 + p alpha'^2))        b = -a p alpha'

m of element (or channel) i in C order is 1 where `philox.uniform(seed, i) >= p`. So p = 0 and p = 1 are exact, the mask
is the same on every device. A backward pass on the GPU draws it again, one on the CPU finds it in a bit an element:

    grad_x = m grad_y / (1 - p)        and for the alpha forms        grad_x = a m grad_y

Sources: N. Srivastava et al., "Dropout", JMLR 2014; J. Tompson et al., "Efficient object localization using
convolutional networks", 2015 (channels); G. Klambauer et al., "Self-normalizing neural networks", 2017 (alpha).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..check import check_float, check_number, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample

# -scale * alpha of SELU: the value that SELU tends to for large negative arguments.
SELU_FLOOR = -1.7580993408473766


class Affine(NamedTuple):
    """What becomes of x: `scale * x + shift` where it is kept, `dropped` where it is not."""

    scale: float
    shift: float
    dropped: float


def plain_affine(p: float) -> Affine:
    """Rescaling that keeps the mean."""
    return Affine(1 / (1 - p) if p < 1 else 0.0, 0.0, 0.0)


def alpha_affine(p: float) -> Affine:
    """Rescaling that keeps mean 0 and variance 1; at p = 1, where no scale does, all is 0."""
    if p == 1:
        return Affine(0.0, 0.0, 0.0)
    a = 1 / math.sqrt((1 - p) * (1 + p * SELU_FLOOR**2))
    b = -a * p * SELU_FLOOR
    return Affine(a, b, a * SELU_FLOOR + b)


def _check_seed(operation, seed):
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        refuse_type(operation, "seed", "as an integer", type(seed).__qualname__)
    if not 0 <= seed < 2**63:
        refuse_value(operation, "seed", "in [0, 2^63)", seed)


def _check_by_element(operation):
    def check(x, *, p, seed):
        """x: any shape; p in [0, 1]; seed: integer in [0, 2^63)."""
        check_float(operation, "x", x)
        check_number(operation, "p", p, 0, 1)
        _check_seed(operation, seed)

    return check


def _check_by_channel(operation):
    def check(x, *, p, seed, mask_axes=2):
        """x: [N, C, ...]; p in [0, 1]; seed: integer in [0, 2^63). The first `mask_axes` axes count the channels: 2, or
        1 for an x without a batch axis."""
        check_float(operation, "x", x)
        check_number(operation, "p", p, 0, 1)
        _check_seed(operation, seed)
        if mask_axes not in (1, 2):
            refuse_value(operation, "mask_axes", "as 1 or 2", mask_axes)
        if x.ndim < mask_axes:
            refuse_value(operation, "x", f"with at least {mask_axes} axes", f"shape {x.shape}")

    return check


def _cost(x, *, p, seed, mask_axes=None):
    return Cost(flops=x.size, bytes=2 * x.size * x.dtype.itemsize)


def _sample(name, shape, p=0.5, seed=0x1234_5678_9ABC_DEF0, *, large=False, **attributes):
    return Sample(name, {"x": shape}, {"p": p, "seed": seed, **attributes}, large)


def _refused(*cases):
    common = [
        Refused("integers", {"x": np.zeros(3, int)}, TypeError, "expected x of type", {"p": 0.5, "seed": 1}),
        Refused("rate", {"x": np.zeros((3, 3))}, ValueError, r"p in \[0, 1\], got 1.5", {"p": 1.5, "seed": 1}),
        Refused("nan", {"x": np.zeros((3, 3))}, ValueError, r"p in \[0, 1\], got nan", {"p": math.nan, "seed": 1}),
        Refused("seed", {"x": np.zeros((3, 3))}, ValueError, r"seed in \[0, 2\^63\), got -1", {"p": 0.5, "seed": -1}),
        Refused(
            "seed_type", {"x": np.zeros((3, 3))}, TypeError, "seed as an integer, got float", {"p": 0.5, "seed": 1.0}
        ),
    ]
    return [*common, *cases]


def _by_element(name):
    return Operation(
        name,
        __name__,
        check=_check_by_element(name),
        cost=_cost,
        vary=lambda pick: _sample(
            "varied", tuple(pick(0, 9) for _ in range(pick(1, 4))), pick(0, 4) / 4, pick(0, 2**63 - 1)
        ),
        samples=[
            _sample("hidden", (32, 128)),
            _sample("attention", (2, 3, 17, 17), 0.1, 1),
            _sample("one", (1,)),
            _sample("no_rows", (0, 7)),
            _sample("keep_all", (5, 33), 0.0),
            _sample("drop_all", (5, 33), 1.0),
            _sample("transformer", (8, 512, 768), 0.1, large=True),
        ],
        refused=_refused(),
    )


def _by_channel(name):
    flat = Refused(
        "no_channels",
        {"x": np.zeros(3)},
        ValueError,
        r"x with at least 2 axes, got shape \(3,\)",
        {"p": 0.5, "seed": 1},
    )
    axes = Refused(
        "mask_axes",
        {"x": np.zeros((3, 3))},
        ValueError,
        "mask_axes as 1 or 2, got 3",
        {"p": 0.5, "seed": 1, "mask_axes": 3},
    )
    return Operation(
        name,
        __name__,
        check=_check_by_channel(name),
        cost=_cost,
        vary=lambda pick: _sample(
            "varied",
            tuple(pick(0, 6) for _ in range(pick(2, 5))),
            pick(0, 4) / 4,
            pick(0, 2**63 - 1),
            mask_axes=pick(1, 2),
        ),
        samples=[
            _sample("images", (8, 16, 5, 7)),
            _sample("sequence", (3, 9, 33), 0.2, 1),
            _sample("volumes", (2, 5, 3, 4, 5), 0.25, 2**63 - 1),
            _sample("no_batch", (16, 5, 7), mask_axes=1),
            _sample("no_rows", (0, 4, 3, 3)),
            _sample("empty_channels", (2, 4, 0)),
            _sample("keep_all", (3, 4, 5), 0.0),
            _sample("drop_all", (3, 4, 5), 1.0),
            _sample("feature_maps", (32, 256, 28, 28), 0.1, large=True),
        ],
        refused=_refused(flat, axes),
    )


dropout = _by_element("dropout")
alpha_dropout = _by_element("alpha_dropout")
channel_dropout = _by_channel("channel_dropout")
feature_alpha_dropout = _by_channel("feature_alpha_dropout")
