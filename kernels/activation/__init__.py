"""Activations: one function for every element, and the three that need more than the element itself.

From one element to one element, by the formulas in `reference.py`:

    sigmoid tanh relu relu6 leaky_relu elu celu selu gelu silu mish softplus softsign hardtanh hardsigmoid hardswish
    logsigmoid softshrink hardshrink tanhshrink threshold

With a learned slope a channel (`prelu`), with one half gating the other (`glu`), with random slopes (`rrelu`).

What the backward pass needs is saved once: the output where it says enough (sigmoid, tanh, relu, relu6, hardtanh), or
else the input. NaN comes out as NaN.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_choice, check_float, check_number, check_same_dtype, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample, Uniform

GELU_APPROXIMATIONS = ("none", "tanh")


def _cost(x, *others, **attributes):
    """One operation an element: what counts is that the array is read once and written once."""
    return Cost(flops=x.size, bytes=2 * x.size * x.dtype.itemsize)


def _samples(reach=30.0, /, **attributes):
    """The shapes that every activation is tested with, `attributes` other than the defaults in the first.

    One holds values as far as +-reach: a gradient computed from an output has no digits left where that is all but 1.
    """
    return [
        Sample("features", {"x": (4, 33)}, attributes),
        Sample("images", {"x": (2, 3, 5, 7)}),
        Sample("wide_range", {"x": Uniform((1001,), -reach, reach)}),
        Sample("one", {"x": (1,)}),
        Sample("scalar", {"x": ()}),
        Sample("empty", {"x": (0, 3)}),
        Sample("two_blocks", {"x": (2, 9001)}),
        Sample("resnet_block", {"x": (32, 64, 56, 56)}, large=True),
    ]


def _vary(pick):
    return Sample("varied", {"x": tuple(pick(0, 9) for _ in range(pick(0, 4)))})


def _declare(name, check, refused=(), samples=()):
    """An activation of one array; `refused` lists (attributes, message)."""
    return Operation(
        name,
        __name__,
        check=check,
        cost=_cost,
        vary=_vary,
        samples=samples,
        refused=[
            Refused(
                "integers", {"x": np.zeros(3, int)}, TypeError, "expected x of type", refused[0][0] if refused else {}
            ),
            *(
                Refused(f"attribute{index}", {"x": np.zeros(3)}, ValueError, message, attributes)
                for index, (attributes, message) in enumerate(refused)
            ),
        ],
    )


def _plain(name, reach=30.0):
    """An activation with no attribute."""

    def check(x):
        check_float(name, "x", x)

    check.__doc__ = f"x: the array that {name} is applied to; any shape, floating point."
    return _declare(name, check, samples=_samples(reach))


def _finite(operation, argument, value):
    check_number(operation, argument, value, open_low=True, open_high=True)


def _positive(operation, argument, value):
    check_number(operation, argument, value, 0.0, open_low=True, open_high=True)


sigmoid, tanh, relu, relu6 = _plain("sigmoid", 8.0), _plain("tanh", 4.0), _plain("relu"), _plain("relu6")
selu, silu, mish, softsign = _plain("selu"), _plain("silu"), _plain("mish"), _plain("softsign")
hardsigmoid, hardswish = _plain("hardsigmoid"), _plain("hardswish")
logsigmoid, tanhshrink = _plain("logsigmoid"), _plain("tanhshrink")


def _check_leaky_relu(x, *, negative_slope=0.01):
    """x: any shape; negative_slope: the factor for negative values, finite."""
    check_float("leaky_relu", "x", x)
    _finite("leaky_relu", "negative_slope", negative_slope)


leaky_relu = _declare(
    "leaky_relu",
    _check_leaky_relu,
    [({"negative_slope": math.nan}, r"negative_slope in \(-inf, inf\), got nan")],
    _samples(negative_slope=0.2),
)


def _check_elu(x, *, alpha=1.0):
    """x: any shape; alpha: the value at minus infinity is -alpha; finite."""
    check_float("elu", "x", x)
    _finite("elu", "alpha", alpha)


elu = _declare("elu", _check_elu, [({"alpha": math.inf}, r"alpha in \(-inf, inf\), got inf")], _samples(alpha=0.7))


def _check_celu(x, *, alpha=1.0):
    """x: any shape; alpha: the value at minus infinity is -alpha; above 0."""
    check_float("celu", "x", x)
    _positive("celu", "alpha", alpha)


celu = _declare("celu", _check_celu, [({"alpha": 0.0}, r"alpha in \(0, inf\), got 0")], _samples(alpha=1.5))


def _check_gelu(x, *, approximate="none"):
    """x: any shape; approximate: 'none' for the error function, 'tanh' for its approximation."""
    check_float("gelu", "x", x)
    check_choice("gelu", "approximate", approximate, GELU_APPROXIMATIONS)


gelu = _declare(
    "gelu",
    _check_gelu,
    [({"approximate": "fast"}, "approximate as one of 'none', 'tanh', got 'fast'")],
    [*_samples(), Sample("approximate", {"x": (5, 13)}, {"approximate": "tanh"})],
)


def _check_softplus(x, *, beta=1.0, threshold=20.0):
    """x: any shape; beta: sharpness, above 0; threshold: where beta x passes it, the result is x."""
    check_float("softplus", "x", x)
    _positive("softplus", "beta", beta)
    check_number("softplus", "threshold", threshold)


softplus = _declare(
    "softplus",
    _check_softplus,
    [({"beta": 0}, r"beta in \(0, inf\), got 0"), ({"threshold": math.nan}, "threshold in .*, got nan")],
    _samples(beta=2.0, threshold=15.0),
)


def _check_hardtanh(x, *, min_val=-1.0, max_val=1.0):
    """x: any shape; min_val, max_val: the bounds of the result, min_val not above max_val."""
    check_float("hardtanh", "x", x)
    check_number("hardtanh", "max_val", max_val)
    check_number("hardtanh", "min_val", min_val, high=max_val)


hardtanh = _declare(
    "hardtanh",
    _check_hardtanh,
    [({"min_val": 2.0, "max_val": 1.0}, r"min_val in \[-inf, 1\], got 2")],
    _samples(min_val=-0.5, max_val=1.5),
)


def _check_softshrink(x, *, lambd=0.5):
    """x: any shape; lambd: how far values move towards 0; at least 0."""
    check_float("softshrink", "x", x)
    check_number("softshrink", "lambd", lambd, 0.0, open_high=True)


softshrink = _declare(
    "softshrink", _check_softshrink, [({"lambd": -0.5}, r"lambd in \[0, inf\), got -0.5")], _samples(lambd=0.3)
)


def _check_hardshrink(x, *, lambd=0.5):
    """x: any shape; lambd: values in [-lambd, lambd] become 0; at least 0."""
    check_float("hardshrink", "x", x)
    check_number("hardshrink", "lambd", lambd, 0.0)


hardshrink = _declare(
    "hardshrink", _check_hardshrink, [({"lambd": -0.5}, r"lambd in \[0, inf\], got -0.5")], _samples(lambd=0.3)
)


def _check_threshold(x, *, threshold=0.0, value=0.0):
    """x: any shape; what is not above threshold becomes value, a finite number."""
    check_float("threshold", "x", x)
    check_number("threshold", "threshold", threshold)
    _finite("threshold", "value", value)


threshold = _declare(
    "threshold",
    _check_threshold,
    [({"threshold": math.nan}, "threshold in .*, got nan")],
    _samples(threshold=0.1, value=-2.0),
)


def _check_rrelu(x, *, lower=1 / 8, upper=1 / 3, seed=0):
    """x: any shape; each value not above 0 is multiplied by a slope drawn evenly from [lower, upper).

    The slope of an element is Philox's number for its index in C order under `seed`, a 63-bit integer.
    """
    check_float("rrelu", "x", x)
    _finite("rrelu", "upper", upper)
    check_number("rrelu", "lower", lower, high=upper, open_low=True)
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        refuse_type("rrelu", "seed", "as an integer", type(seed).__qualname__)
    check_number("rrelu", "seed", seed, 0, 2**63 - 1)


rrelu = _declare(
    "rrelu",
    _check_rrelu,
    [({"lower": 0.5, "upper": 0.25}, r"lower in \(-inf, 0.25\], got 0.5"), ({"seed": -1}, "seed in .*, got -1")],
    _samples(lower=0.1, upper=0.4, seed=2**62 + 12345),
)


def _check_prelu(x, weight):
    """x: [N, C, ...] or [N]; weight: [C], or [1] for one slope for all, of x's type."""
    check_float("prelu", "x", x)
    check_same_dtype("prelu", "x", x, "weight", weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        refuse_value("prelu", "weight", f"of shape (1,) or ({channels},) (x is {x.shape})", weight.shape)


def _prelu_sample(name, shape, channels, *, large=False):
    return Sample(name, {"x": shape, "weight": (channels,)}, large=large)


def _vary_prelu(pick):
    shape = tuple(pick(0, 7) for _ in range(pick(1, 4)))
    return _prelu_sample("varied", shape, pick.of((1, shape[1] if len(shape) > 1 else 1)))


prelu = Operation(
    "prelu",
    __name__,
    check=_check_prelu,
    cost=_cost,
    reduction_length=lambda x, weight: max(1, x.size // max(1, weight.size)),
    vary=_vary_prelu,
    samples=[
        _prelu_sample("channels", (3, 4, 5, 7), 4),
        _prelu_sample("shared", (3, 4, 5), 1),
        _prelu_sample("features", (6, 33), 33),
        _prelu_sample("vector", (9,), 1),
        _prelu_sample("one_channel", (4, 1, 3), 1),
        _prelu_sample("empty", (0, 4, 3), 4),
        Sample("scalars", {"x": (), "weight": ()}),
        _prelu_sample("resnet_block", (32, 64, 56, 56), 64, large=True),
    ],
    refused=[
        Refused("integers", {"x": np.zeros(3, int), "weight": np.zeros(1)}, TypeError, "expected x of type"),
        Refused("mixed", {"x": np.zeros(3), "weight": np.zeros(1, "f4")}, TypeError, "weight of x's type"),
        Refused(
            "channels", {"x": np.zeros((2, 4)), "weight": np.zeros(3)}, ValueError, r"shape \(1,\) or \(4,\).*\(3,\)"
        ),
        Refused("matrix", {"x": np.zeros((2, 4)), "weight": np.zeros((1, 1))}, ValueError, r"weight of shape \(1,\)"),
    ],
)


def _check_glu(x, *, axis=-1):
    """x: at least one axis; axis: the one that is cut into halves a, b for a sigmoid(b); of even size."""
    check_float("glu", "x", x)
    if x.ndim == 0:
        refuse_value("glu", "x", "of at least one axis", "a scalar")
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        refuse_type("glu", "axis", "as an integer", type(axis).__qualname__)
    check_number("glu", "axis", axis, -x.ndim, x.ndim - 1)
    if x.shape[axis] % 2:
        refuse_value("glu", "x", f"with axis {axis} of even size", f"shape {x.shape}")


def _vary_glu(pick):
    shape = [pick(0, 7) for _ in range(pick(1, 4))]
    axis = pick(0, len(shape) - 1)
    shape[axis] *= 2
    return Sample("varied", {"x": tuple(shape)}, {"axis": pick.of((axis, axis - len(shape)))})


glu = Operation(
    "glu",
    __name__,
    check=_check_glu,
    cost=lambda x, **_: Cost(flops=x.size, bytes=(x.size + x.size // 2) * x.dtype.itemsize),
    vary=_vary_glu,
    samples=[
        Sample("features", {"x": (5, 34)}),
        Sample("channels", {"x": (2, 6, 3, 5)}, {"axis": 1}),
        Sample("first_axis", {"x": (4, 9)}, {"axis": 0}),
        Sample("empty", {"x": (0, 4)}),
        Sample("no_channels", {"x": (3, 0)}),
        Sample("wavenet", {"x": (16, 256, 8000)}, {"axis": 1}, large=True),
    ],
    refused=[
        Refused("integers", {"x": np.zeros(4, int)}, TypeError, "expected x of type"),
        Refused("scalar", {"x": np.zeros(())}, ValueError, "x of at least one axis"),
        Refused("odd", {"x": np.zeros((2, 3))}, ValueError, r"axis -1 of even size, got shape \(2, 3\)"),
        Refused("axis", {"x": np.zeros((2, 4))}, ValueError, r"axis in \[-2, 1\], got 2", {"axis": 2}),
        Refused("axis_type", {"x": np.zeros((2, 4))}, TypeError, "axis as an integer", {"axis": 0.0}),
    ],
)
