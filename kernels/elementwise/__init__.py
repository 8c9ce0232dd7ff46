"""Functions of array elements: arithmetic with NumPy's broadcasting, exp and its kin, comparison and choice.

    y = f(x)        grad_x = grad_y f'(x)
    z = f(x, y)     grad_x = sum of grad_z df/dx over the axes that broadcasting stretched, and likewise grad_y

Two operands are arrays of one type, or an array and a Python number; the tape's functions convert mixed types before.
Integer and bool arrays are taken where the function makes sense on them, and have no gradient. `maximum` and `minimum`
share the gradient of a tie evenly. `reference.py` is the definition, `cpu.py` and `gpu.py` are the kernels.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import (
    FLOAT_TYPES,
    FLOATS,
    INTEGERS,
    check_array,
    check_number,
    check_same_dtype,
    refuse_type,
    refuse_value,
)
from ..operation import Cost, Drawn, Integers, Normal, Operation, Refused, Sample, Uniform
from .broadcasting import broadcast_shape, shape_of

_BOOL = np.dtype(bool)
_ANY = FLOATS | INTEGERS | {_BOOL}
_NUMBERS = FLOATS | INTEGERS
_NAMES = {
    _ANY: "a floating-point, integer or bool type",
    _NUMBERS: "a floating-point or integer type",
    FLOATS: f"type {', '.join(FLOAT_TYPES)}",
}


def _is_number(x) -> bool:
    return type(x) in (int, float, bool)


def _check_type(operation, argument, x, accepted) -> None:
    check_array(operation, argument, x)
    if x.dtype not in accepted:
        refuse_type(operation, argument, f"of {_NAMES[accepted]}", x.dtype)


def _check_operands(operation, accepted, **operands) -> None:
    """The operands are arrays of one accepted type, at least one of them, and numbers that fit that type."""
    arrays = [(name, x) for name, x in operands.items() if not _is_number(x)]
    if not arrays:
        refuse_type(operation, " or ".join(operands), "as an array", "numbers alone")
    first, array = arrays[0]
    _check_type(operation, first, array, accepted)
    for name, x in operands.items():
        if _is_number(x):
            _check_fits(operation, name, x, array.dtype)
        else:
            check_same_dtype(operation, first, array, name, x)


def _check_fits(operation, argument, number, dtype) -> None:
    if dtype in FLOATS:
        return
    if type(number) is float or (dtype == _BOOL and type(number) is int):
        refuse_type(operation, argument, f"as a number of the array's type {dtype}", number)
    if dtype != _BOOL and not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max:
        refuse_value(operation, argument, f"in the range of {dtype}", number)


def _check_broadcast(operation, **operands) -> None:
    try:
        broadcast_shape(*operands.values())
    except ValueError:
        *before, last = operands
        shapes = " and ".join(str(shape_of(operands[name])) for name in before)
        refuse_value(operation, last, f"of a shape that broadcasts with {shapes}", shape_of(operands[last]))


def _cost(flops):
    """The cost of a function of `flops` operations an element: every operand read once, the result written once."""

    def cost(*operands, **_):
        size = math.prod(broadcast_shape(*operands))
        arrays = [x for x in operands if not _is_number(x)]
        item = max(x.dtype.itemsize for x in arrays)
        return Cost(flops=flops * size, bytes=sum(x.size * x.dtype.itemsize for x in arrays) + size * item)

    return cost


# ---- one operand


def _vary_shape(pick):
    return tuple(pick(0, 7) for _ in range(pick(0, 4)))


def _unary(name, accepted, domain=Normal, *, differentiable=True):
    """Declares a function of one array whose arguments are drawn from `domain`."""

    def check(x):
        """x: an array of any shape and an accepted type."""
        _check_type(name, "x", x, accepted)

    samples = [
        Sample("features", {"x": domain((8, 3, 7, 5))}),
        Sample("vector", {"x": domain((4097,))}),
        Sample("scalar", {"x": domain(())}),
        Sample("empty", {"x": domain((0, 3))}),
        Sample("activations", {"x": domain((32, 64, 56, 56))}, large=True),
    ]
    if accepted is not FLOATS:
        samples.insert(1, Sample("integers", {"x": Integers((3, 5), -4, 5)}))
    unfit = np.array(["text"]) if accepted is _ANY else np.array([True])
    return Operation(
        name,
        __name__,
        check=check,
        cost=_cost(1),
        samples=samples,
        refused=[
            Refused("type", {"x": unfit}, TypeError, f"expected x of {_NAMES[accepted]}, got {unfit.dtype}"),
            Refused("number", {"x": 2.0}, TypeError, "expected x as a NumPy or CuPy array, got float"),
        ],
        vary=lambda pick: Sample("varied", {"x": domain(_vary_shape(pick))}),
        differentiable=differentiable,
    )


def _positive(shape):
    return Uniform(shape, 0.1, 4.0)


negative = _unary("negative", _NUMBERS)
abs = _unary("abs", _NUMBERS)
sign = _unary("sign", _NUMBERS)
square = _unary("square", _NUMBERS)
floor = _unary("floor", FLOATS)
ceil = _unary("ceil", FLOATS)
round = _unary("round", FLOATS)
exp = _unary("exp", FLOATS)
expm1 = _unary("expm1", FLOATS)
log = _unary("log", FLOATS, _positive)
log1p = _unary("log1p", FLOATS, _positive)
sqrt = _unary("sqrt", FLOATS, _positive)
rsqrt = _unary("rsqrt", FLOATS, _positive)
reciprocal = _unary("reciprocal", FLOATS, _positive)
erf = _unary("erf", FLOATS)
sin = _unary("sin", FLOATS)
cos = _unary("cos", FLOATS)
isnan = _unary("isnan", _NUMBERS, differentiable=False)
isinf = _unary("isinf", _NUMBERS, differentiable=False)
isfinite = _unary("isfinite", _NUMBERS, differentiable=False)
logical_not = _unary("logical_not", _ANY, differentiable=False)


def _check_clip(x, *, min=None, max=None):
    """x: array of floating-point or integer type; min, max: bounds, numbers of x's kind, or None for no bound."""
    _check_type("clip", "x", x, _NUMBERS)
    if min is None and max is None:
        refuse_value("clip", "min or max", "as a number", "None for both")
    for argument, bound in (("min", min), ("max", max)):
        if bound is not None:
            check_number("clip", argument, bound)
            _check_fits("clip", argument, bound, x.dtype)


clip = Operation(
    "clip",
    __name__,
    check=_check_clip,
    cost=_cost(2),
    samples=[
        Sample("both", {"x": (8, 3, 7)}, {"min": -0.5, "max": 0.7}),
        Sample("below", {"x": (33,)}, {"min": 0.1}),
        Sample("above", {"x": ()}, {"max": 0.1}),
        Sample("integers", {"x": Integers((9,), -5, 6)}, {"min": -2, "max": 3}),
        Sample("empty", {"x": (0, 2)}, {"min": 0.0, "max": 1.0}),
        Sample("activations", {"x": (32, 64, 56, 56)}, {"min": 0.0, "max": 6.0}, large=True),
    ],
    refused=[
        Refused("no_bound", {"x": np.zeros(3)}, ValueError, "min or max as a number"),
        Refused("nan", {"x": np.zeros(3)}, ValueError, r"min in \[-inf, inf\], got nan", {"min": math.nan}),
        Refused("text", {"x": np.zeros(3)}, TypeError, "max as a real number, got str", {"max": "1"}),
        Refused("fraction", {"x": np.zeros(3, int)}, TypeError, "max as a number of the array's type", {"max": 0.5}),
    ],
    vary=lambda pick: Sample("varied", {"x": Normal(_vary_shape(pick))}, {"min": -0.3, "max": pick.of((None, 0.4))}),
)


# ---- two operands


def _vary_pair(pick):
    """Two shapes that broadcast: axes left out in front, or shrunk to 1."""
    shape = _vary_shape(pick)
    shrunk = [tuple(1 if pick(0, 3) == 0 else size for size in shape) for _ in range(2)]
    return shrunk[0], shrunk[1][pick(0, len(shape)) :]


def _binary(name, accepted, domain=Normal, integers=(-4, 5), number=1.5, *, differentiable=True):
    """Declares a function of two operands whose arguments are drawn from `domain`, or from a range of `integers`."""

    def check(x, y):
        """x, y: arrays of one accepted type, or one of them a number; their shapes broadcast."""
        # The usual calls are answered at once: arrays of one type, or one with a fraction.
        if type(x) is np.ndarray and (dtype := x.dtype) in accepted:
            if type(y) is np.ndarray:
                if y.dtype is dtype:
                    if x.shape != y.shape:
                        _check_broadcast(name, x=x, y=y)
                    return
            elif type(y) is float and dtype in FLOATS:
                return
        _check_operands(name, accepted, x=x, y=y)
        _check_broadcast(name, x=x, y=y)

    samples = [
        Sample("same_shape", {"x": domain((8, 3, 7, 5)), "y": domain((8, 3, 7, 5))}),
        Sample("channels", {"x": domain((4, 3, 5, 2)), "y": domain((3, 1, 1))}),
        Sample("both_stretch", {"x": domain((4, 1, 5)), "y": domain((3, 1))}),
        Sample("number_right", {"x": domain((5, 3)), "y": number}),
        Sample("number_left", {"x": number, "y": domain((5, 3))}),
        Sample("scalars", {"x": domain(()), "y": domain(())}),
        Sample("scalar_array", {"x": domain((7, 3)), "y": domain(())}),
        Sample("empty", {"x": domain((0, 3)), "y": domain((3,))}),
        Sample("activations", {"x": domain((32, 64, 56, 56)), "y": domain((32, 64, 56, 56))}, large=True),
    ]
    if accepted is not FLOATS:
        samples.append(Sample("integers", {"x": Integers((5, 3), *integers), "y": Integers((3,), 1, 4)}))
    unfit = np.array([True]) if _BOOL not in accepted else np.array(["text"])
    refused = [
        Refused("numbers", {"x": 1.0, "y": 2.0}, TypeError, "x or y as an array, got numbers alone"),
        Refused("mixed", {"x": np.zeros(3), "y": np.zeros(3, "f4")}, TypeError, "y of x's type float64, got float32"),
        Refused(
            "shapes",
            {"x": np.zeros((2, 3)), "y": np.zeros((2, 4))},
            ValueError,
            r"y of a shape that broadcasts with \(2, 3\), got \(2, 4\)",
        ),
        Refused("type", {"x": unfit, "y": 1.0}, TypeError, f"x of {_NAMES[accepted]}, got {unfit.dtype}"),
    ]
    if accepted is not FLOATS:
        refused.append(Refused("fraction", {"x": np.zeros(3, int), "y": 0.5}, TypeError, "y as a number of the array"))
        refused.append(Refused("range", {"x": np.zeros(3, "i1"), "y": 300}, ValueError, "y in the range of int8, got"))

    def vary(pick):
        x, y = _vary_pair(pick)
        return Sample("varied", {"x": domain(x), "y": domain(y)})

    return Operation(
        name,
        __name__,
        check=check,
        cost=_cost(1),
        samples=samples,
        refused=refused,
        reduction_length=lambda x, y: max(math.prod(broadcast_shape(x, y)), 1),
        vary=vary,
        differentiable=differentiable,
    )


def _whole(shape):
    """Few different values, so that comparisons find ties."""
    return Drawn(lambda rng: rng.integers(-1, 2, shape).astype(float))


add = _binary("add", _ANY)
subtract = _binary("subtract", _NUMBERS)
multiply = _binary("multiply", _ANY)
divide = _binary("divide", FLOATS, _positive)
power = _binary("power", _NUMBERS, _positive)
remainder = _binary("remainder", _NUMBERS, lambda shape: Uniform(shape, 1.0, 1.9), number=0.7)
maximum = _binary("maximum", _ANY)
minimum = _binary("minimum", _ANY)
floor_divide = _binary("floor_divide", _NUMBERS, lambda shape: Uniform(shape, 1.0, 9.0), differentiable=False)
equal = _binary("equal", _ANY, _whole, number=1.0, differentiable=False)
not_equal = _binary("not_equal", _ANY, _whole, number=1.0, differentiable=False)
less = _binary("less", _ANY, _whole, number=0.0, differentiable=False)
less_equal = _binary("less_equal", _ANY, _whole, number=0.0, differentiable=False)
greater = _binary("greater", _ANY, _whole, number=0.0, differentiable=False)
greater_equal = _binary("greater_equal", _ANY, _whole, number=0.0, differentiable=False)
logical_and = _binary("logical_and", _ANY, _whole, number=0.0, differentiable=False)
logical_or = _binary("logical_or", _ANY, _whole, number=0.0, differentiable=False)
logical_xor = _binary("logical_xor", _ANY, _whole, number=1.0, differentiable=False)


def _check_where(condition, x, y):
    """condition: bool array; x, y: arrays of one type, or one of them a number; the three shapes broadcast."""
    check_array("where", "condition", condition)
    if condition.dtype != _BOOL:
        refuse_type("where", "condition", "of type bool", condition.dtype)
    _check_operands("where", _ANY, x=x, y=y)
    _check_broadcast("where", condition=condition, x=x, y=y)


def _mask(shape):
    return Drawn(lambda rng: rng.random(shape) < 0.5)


def _vary_where(pick):
    x, y = _vary_pair(pick)
    return Sample("varied", {"condition": _mask(np.broadcast_shapes(x, y)), "x": Normal(x), "y": Normal(y)})


where = Operation(
    "where",
    __name__,
    check=_check_where,
    by_form=True,
    cost=_cost(0),
    samples=[
        Sample("mask", {"condition": _mask((4, 7, 5)), "x": (4, 7, 5), "y": (4, 7, 5)}),
        Sample("fill", {"condition": _mask((7, 5)), "x": (4, 7, 5), "y": 0.0}),
        Sample("number_first", {"condition": _mask((7, 5)), "x": -1.0, "y": (5,)}),
        Sample("integers", {"condition": _mask((5,)), "x": Integers((5,), 0, 9), "y": Integers((), 0, 9)}),
        Sample("empty", {"condition": _mask((0, 5)), "x": (5,), "y": ()}),
        Sample("activations", {"condition": _mask((32, 64, 56, 56)), "x": (32, 64, 56, 56), "y": 0.0}, large=True),
    ],
    refused=[
        Refused("condition", {"condition": np.ones(3), "x": np.ones(3), "y": 0.0}, TypeError, "condition of type bool"),
        Refused(
            "mixed",
            {"condition": np.ones(3, bool), "x": np.ones(3), "y": np.ones(3, "f4")},
            TypeError,
            "y of x's type float64",
        ),
        Refused(
            "shapes",
            {"condition": np.ones(3, bool), "x": np.ones(4), "y": 0.0},
            ValueError,
            r"y of a shape that broadcasts with \(3,\) and \(4,\)",
        ),
        Refused(
            "numbers", {"condition": np.ones(3, bool), "x": 1.0, "y": 0.0}, TypeError, "x or y as an array, got numbers"
        ),
    ],
    reduction_length=lambda condition, x, y: max(math.prod(broadcast_shape(condition, x, y)), 1),
    vary=_vary_where,
)
