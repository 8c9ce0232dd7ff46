"""Reductions over axes: sums and what is made of them, extrema and their places, running sums and products.

    sum     y = sum x                       grad_x = grad_y
    mean    y = sum x / n                   grad_x = grad_y / n
    prod    y = product of x                grad_x = grad_y times the product of all the others
    var     y = sum (x - mean)^2 / (n - c)  grad_x = grad_y 2 (x - mean) / (n - c)
    norm    y = (sum |x|^p)^(1/p)           grad_x = grad_y sign(x) (|x| / y)^(p - 1)
    amax    y = max x                       grad_x = grad_y, shared evenly by all that equal y
    max     likewise along one axis         grad_x = grad_y at the first that equals y, whose index is an output too
    cumsum  y_i = x_0 + ... + x_i           grad_x_i = grad_y_i + ... + grad_y_n

`axis` is a sorted tuple of axes in [0, rank); with `keepdims` they stay as axes of size 1. float32 sums are added in
blocks whose partial sums meet in float64, so the error does not grow with the length, and the order of summation
depends on the shape alone. `reference.py` is the definition, `cpu.py` and `gpu.py` are the kernels.
"""

from __future__ import annotations

import builtins
import math

import numpy as np

from ..check import FLOAT_TYPES, FLOATS, INTEGERS, check_array, check_number, refuse_type, refuse_value
from ..operation import Cost, Integers, Normal, Operation, Refused, Sample, Uniform, Values

_BOOL = np.dtype(bool)
_NUMBERS = FLOATS | INTEGERS
_ANY = _NUMBERS | {_BOOL}
_NAMES = {
    FLOATS: f"type {', '.join(FLOAT_TYPES)}",
    _NUMBERS: "a floating-point or integer type",
    _ANY: "a floating-point, integer or bool type",
}


def _check_type(operation, x, accepted) -> None:
    check_array(operation, "x", x)
    if x.dtype not in accepted:
        refuse_type(operation, "x", f"of {_NAMES[accepted]}", x.dtype)


def _check_axes(operation, x, axis, keepdims) -> None:
    before = -1
    for a in axis if type(axis) is tuple else (None,):
        if type(a) is not int:
            refuse_type(operation, "axis", "as a tuple of integers", repr(axis))
        if not before < a < x.ndim:
            refuse_value(operation, "axis", f"as different axes in [0, {x.ndim}) in rising order", axis)
        before = a
    if type(keepdims) is not bool:
        refuse_type(operation, "keepdims", "as a bool", repr(keepdims))


def _check_one_axis(operation, x, axis) -> None:
    if type(axis) is not int:
        refuse_type(operation, "axis", "as an integer", repr(axis))
    if not 0 <= axis < x.ndim:
        refuse_value(operation, "axis", f"in [0, {x.ndim})", axis)


def _check_not_empty(operation, x, axes) -> None:
    if builtins.any(x.shape[a] == 0 for a in axes):
        refuse_value(operation, "x", f"with at least one element along {axes}", f"shape {x.shape}")


def _cost(flops):
    """`flops` operations an element; reads x, writes what is left of it."""

    def cost(x, *, axis, **_):
        axes = axis if type(axis) is tuple else (axis,)
        left = x.size // builtins.max(math.prod(x.shape[a] for a in axes), 1)
        return Cost(flops=flops * x.size, bytes=(x.size + left) * x.dtype.itemsize)

    return cost


def _length(x, *, axis, **_):
    axes = axis if type(axis) is tuple else (axis,)
    return builtins.max(math.prod(x.shape[a] for a in axes), 1)


def _axis_cases(accepted):
    """Refusals that every reduction over a tuple of axes shares."""
    unfit = np.array(["text"]) if accepted is _ANY else np.array([True])
    return [
        Refused("type", {"x": unfit}, TypeError, f"x of {_NAMES[accepted]}, got {unfit.dtype}", {"axis": (0,)}),
        Refused("axis", {"x": np.zeros((2, 3))}, ValueError, r"axis as different axes in \[0, 2\)", {"axis": (2,)}),
        Refused("twice", {"x": np.zeros((2, 3))}, ValueError, "axis as different axes", {"axis": (1, 1)}),
        Refused("list", {"x": np.zeros((2, 3))}, TypeError, "axis as a tuple of integers", {"axis": [0]}),
    ]


def _vary_axes(pick, domain=Normal, least=0, **attributes):
    shape = tuple(pick(least, 6) for _ in range(pick(1, 4)))
    axis = tuple(a for a in range(len(shape)) if pick(0, 1))
    return Sample("varied", {"x": domain(shape)}, {"axis": axis, "keepdims": pick.of((False, True)), **attributes})


def _shapes(domain=Normal, **attributes):
    """Shapes that every reduction over a tuple of axes is tried with."""
    return [
        Sample("channels", {"x": domain((4, 3, 5, 7))}, {"axis": (0, 2, 3), **attributes}),
        Sample("last", {"x": domain((5, 33))}, {"axis": (1,), "keepdims": True, **attributes}),
        Sample("first", {"x": domain((33, 5))}, {"axis": (0,), **attributes}),
        Sample("middle", {"x": domain((3, 9, 4))}, {"axis": (1,), **attributes}),
        Sample("all", {"x": domain((3, 1, 11))}, {"axis": (0, 1, 2), **attributes}),
        Sample("none", {"x": domain((3, 4))}, {"axis": (), **attributes}),
        Sample("one", {"x": domain((1, 1))}, {"axis": (0,), **attributes}),
        Sample("scalar", {"x": domain(())}, {"axis": (), "keepdims": True, **attributes}),
        Sample("no_rows", {"x": domain((0, 4))}, {"axis": (1,), **attributes}),
    ]


def _reduction(name, accepted, flops=1, domain=Normal, *, empty=True, differentiable=True, extra=()):
    """Declares a reduction over a tuple of axes; `empty`: whether nothing at all has a value."""

    def check(x, *, axis, keepdims=False):
        """x: an array of an accepted type; axis: axes in rising order; keepdims: leave them as axes of size 1."""
        _check_type(name, x, accepted)
        _check_axes(name, x, axis, keepdims)
        if not empty:
            _check_not_empty(name, x, axis)

    samples = _shapes(domain)
    refused = _axis_cases(accepted)
    if empty:
        samples.append(Sample("nothing", {"x": domain((0, 4))}, {"axis": (0,)}))
    else:
        refused.append(
            Refused("nothing", {"x": np.zeros((0, 4))}, ValueError, "x with at least one element", {"axis": (0,)})
        )
    if accepted is not FLOATS:
        samples.append(Sample("integers", {"x": Integers((4, 3), -4, 5)}, {"axis": (1,)}))
    return Operation(
        name,
        __name__,
        check=check,
        cost=_cost(flops),
        samples=[
            *samples,
            *extra,
            Sample("activations", {"x": domain((32, 256, 56, 56))}, {"axis": (0, 2, 3)}, large=True),
            Sample("logits", {"x": domain((16384, 4096))}, {"axis": (1,)}, large=True),
        ],
        refused=refused,
        reduction_length=_length,
        vary=lambda pick: _vary_axes(pick, domain, 0 if empty else 1),
        differentiable=differentiable,
    )


def _near_one(shape):
    """Values whose logarithms are 0 on average, so that products of a hundred thousand neither overflow nor vanish."""
    return Uniform(shape, 0.95, 1.05085)


sum = _reduction(
    "sum",
    _NUMBERS,
    extra=[Sample("many_rows", {"x": (1030, 3)}, {"axis": (0,)}), Sample("long", {"x": (40000,)}, {"axis": (0,)})],
)
mean = _reduction("mean", FLOATS, empty=False, extra=[Sample("wide", {"x": (130, 1100)}, {"axis": (0,)}, large=False)])
prod = _reduction(
    "prod",
    _NUMBERS,
    domain=_near_one,
    extra=[
        Sample("zeros", {"x": Values([[1.5, 0.0, 2.0], [0.0, 3.0, 0.0], [1.0, 2.0, -1.0]])}, {"axis": (1,)}),
    ],
)
amax = _reduction("amax", _NUMBERS, empty=False)
amin = _reduction("amin", _NUMBERS, empty=False)
all = _reduction("all", _ANY, differentiable=False)
any = _reduction("any", _ANY, differentiable=False)


def _check_var(x, *, axis, keepdims=False, correction=1.0):
    """x: floating-point array; axis, keepdims as for sum; correction: taken from the number of elements to divide by,
    1 for an unbiased estimate; it must be less than that number."""
    _check_type("var", x, FLOATS)
    _check_axes("var", x, axis, keepdims)
    _check_not_empty("var", x, axis)
    check_number("var", "correction", correction, 0.0, float(math.prod(x.shape[a] for a in axis)), open_high=True)


def _check_std(x, *, axis, keepdims=False, correction=1.0):
    """As var."""
    _check_type("std", x, FLOATS)
    _check_axes("std", x, axis, keepdims)
    _check_not_empty("std", x, axis)
    check_number("std", "correction", correction, 0.0, float(math.prod(x.shape[a] for a in axis)), open_high=True)


def _spread(name, check):
    return Operation(
        name,
        __name__,
        check=check,
        cost=_cost(4),
        samples=[
            Sample("channels", {"x": (4, 3, 5, 7)}, {"axis": (0, 2, 3)}),
            Sample("last", {"x": (5, 33)}, {"axis": (1,), "keepdims": True}),
            Sample("population", {"x": (33, 5)}, {"axis": (0,), "correction": 0.0}),
            Sample("far_from_zero", {"x": Uniform((7, 65), 30.0, 31.0)}, {"axis": (1,)}),
            Sample("all", {"x": (3, 11)}, {"axis": (0, 1)}),
            Sample("no_rows", {"x": (0, 4)}, {"axis": (1,)}),
            Sample("activations", {"x": (32, 256, 56, 56)}, {"axis": (0, 2, 3)}, large=True),
        ],
        refused=[
            *_axis_cases(FLOATS),
            Refused("one", {"x": np.zeros((1, 4))}, ValueError, r"correction in \[0, 1\), got 1.0", {"axis": (0,)}),
            Refused(
                "nan",
                {"x": np.zeros((3, 4))},
                ValueError,
                r"correction in \[0, 3\), got nan",
                {"axis": (0,), "correction": math.nan},
            ),
            Refused("nothing", {"x": np.zeros((0, 4))}, ValueError, "x with at least one", {"axis": (0,)}),
        ],
        reduction_length=_length,
        vary=lambda pick: _vary_axes(pick, least=2, correction=pick.of((0.0, 0.5))),
    )


var = _spread("var", _check_var)
std = _spread("std", _check_std)


def _check_norm(x, *, axis, keepdims=False, p=2.0):
    """x: floating-point array; axis, keepdims as for sum; p: order of the norm, above 0 or infinite."""
    _check_type("norm", x, FLOATS)
    _check_axes("norm", x, axis, keepdims)
    check_number("norm", "p", p, 0.0, open_low=True)
    if p == math.inf:
        _check_not_empty("norm", x, axis)


norm = Operation(
    "norm",
    __name__,
    check=_check_norm,
    cost=_cost(2),
    samples=[
        *_shapes(),
        Sample("one_norm", {"x": (5, 9)}, {"axis": (1,), "p": 1.0}),
        Sample("three", {"x": (5, 9)}, {"axis": (0,), "p": 3.0}),
        Sample("half", {"x": Uniform((5, 9), 0.5, 2.0)}, {"axis": (1,), "p": 0.5}),
        Sample("infinite", {"x": (5, 9)}, {"axis": (1,), "p": math.inf, "keepdims": True}),
        Sample("nothing", {"x": (0, 9)}, {"axis": (0,)}),
        Sample("parameters", {"x": (25_000_000,)}, {"axis": (0,)}, large=True),
    ],
    refused=[
        *_axis_cases(FLOATS),
        Refused("order", {"x": np.zeros(3)}, ValueError, r"p in \(0, inf\], got -1", {"axis": (0,), "p": -1}),
        Refused("nan", {"x": np.zeros(3)}, ValueError, r"p in \(0, inf\], got nan", {"axis": (0,), "p": math.nan}),
        Refused("text", {"x": np.zeros(3)}, TypeError, "p as a real number", {"axis": (0,), "p": "fro"}),
    ],
    reduction_length=_length,
    vary=lambda pick: _vary_axes(pick, p=pick.of((1.0, 2.0, 3.0))),
)


# ---- along one axis


def _one_axis_cases(accepted):
    unfit = np.array([True])
    return [
        Refused("type", {"x": unfit}, TypeError, f"x of {_NAMES[accepted]}, got bool", {"axis": 0}),
        Refused("axis", {"x": np.zeros((2, 3))}, ValueError, r"axis in \[0, 2\), got 2", {"axis": 2}),
        Refused("tuple", {"x": np.zeros((2, 3))}, TypeError, "axis as an integer", {"axis": (0,)}),
    ]


def _vary_one_axis(pick, least=1, domain=Normal):
    shape = tuple(pick(least, 6) for _ in range(pick(1, 4)))
    return Sample("varied", {"x": domain(shape)}, {"axis": pick(0, len(shape) - 1)})


def _choice(name, *, differentiable):
    """Declares a reduction along one axis that chooses an element."""

    def check(x, *, axis, keepdims=False):
        """x: floating-point or integer array with at least one element along axis; keepdims: leave the axis as size 1.
        Of equal elements the first is chosen; NaN comes before all."""
        _check_type(name, x, _NUMBERS)
        _check_one_axis(name, x, axis)
        _check_not_empty(name, x, (axis,))
        if type(keepdims) is not bool:
            refuse_type(name, "keepdims", "as a bool", repr(keepdims))

    return Operation(
        name,
        __name__,
        check=check,
        cost=_cost(1),
        samples=[
            Sample("classes", {"x": (9, 10)}, {"axis": 1}),
            Sample("middle", {"x": (3, 5, 4)}, {"axis": 1, "keepdims": True}),
            Sample("first", {"x": (5, 4)}, {"axis": 0}),
            Sample("vector", {"x": (5,)}, {"axis": 0}),
            Sample("no_rows", {"x": (0, 4)}, {"axis": 1}),
            Sample("integers", {"x": Integers((4, 9), 0, 3)}, {"axis": 1}),
            Sample("logits", {"x": (4096, 1000)}, {"axis": 1}, large=True),
        ],
        refused=[
            *_one_axis_cases(_NUMBERS),
            Refused("nothing", {"x": np.zeros((4, 0))}, ValueError, "x with at least one element", {"axis": 1}),
            Refused("keepdims", {"x": np.zeros(3)}, TypeError, "keepdims as a bool", {"axis": 0, "keepdims": 1}),
        ],
        vary=_vary_one_axis,
        differentiable=differentiable,
    )


max = _choice("max", differentiable=True)
min = _choice("min", differentiable=True)
argmax = _choice("argmax", differentiable=False)
argmin = _choice("argmin", differentiable=False)


def _running(name, domain=Normal, extra=()):
    def check(x, *, axis):
        """x: floating-point or integer array; axis: the axis to go along."""
        _check_type(name, x, _NUMBERS)
        _check_one_axis(name, x, axis)

    return Operation(
        name,
        __name__,
        check=check,
        cost=lambda x, *, axis: Cost(flops=x.size, bytes=2 * x.size * x.dtype.itemsize),
        samples=[
            Sample("last", {"x": domain((5, 33))}, {"axis": 1}),
            Sample("first", {"x": domain((9, 3))}, {"axis": 0}),
            Sample("empty", {"x": domain((0, 3))}, {"axis": 0}),
            Sample("integers", {"x": Integers((4, 3), -3, 4)}, {"axis": 1}),
            *extra,
            Sample("long_rows", {"x": domain((512, 4096))}, {"axis": 1}, large=True),
        ],
        refused=_one_axis_cases(_NUMBERS),
        reduction_length=_length,
        vary=lambda pick: _vary_one_axis(pick, domain=domain),
    )


cumsum = _running("cumsum")
cumprod = _running(
    "cumprod",
    _near_one,
    [Sample("zeros", {"x": Values([[1.5, 0.0, 2.0, 0.5], [2.0, 3.0, 0.0, 0.0], [0.0, 2.0, 0.0, 2.0]])}, {"axis": 1})],
)
