"""Functions of elements, with PyTorch's names and its rules for mixed types.

Operands may be tensors, arrays and Python numbers. Their shapes broadcast; types meet as promotion.py says. A function
whose results have fractions takes integers as float32.
"""

import numpy as np

from ...kernels import elementwise as kernels
from ...kernels.check import FLOATS
from ..tensor import apply
from .promotion import cast, promoted

__all__ = [
    "abs",
    "absolute",
    "add",
    "ceil",
    "clamp",
    "clip",
    "cos",
    "div",
    "divide",
    "eq",
    "erf",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "ge",
    "gt",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "lerp",
    "log",
    "log10",
    "log1p",
    "log2",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "masked_fill",
    "maximum",
    "minimum",
    "mul",
    "multiply",
    "ne",
    "neg",
    "negative",
    "pow",
    "reciprocal",
    "remainder",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sqrt",
    "square",
    "sub",
    "subtract",
    "where",
]


def _unary(operation, document, *, fractions=True, keep_integers=False):
    def function(input):
        (input,) = promoted(operation.name, input, at_least=1.0 if fractions else None)
        if keep_integers and input.dtype not in FLOATS:
            return input
        return apply(operation, input)

    function.__name__ = function.__qualname__ = operation.name
    function.__doc__ = f"{document}\n\nArgs:\n    input: any shape."
    return function


exp = _unary(kernels.exp, "e to the power of every element.")
expm1 = _unary(kernels.expm1, "exp(input) - 1, exact near 0.")
log = _unary(kernels.log, "Natural logarithm; -inf at 0 and NaN below.")
log1p = _unary(kernels.log1p, "log(1 + input), exact near 0.")
sqrt = _unary(kernels.sqrt, "Square root; NaN below 0.")
rsqrt = _unary(kernels.rsqrt, "1 / sqrt(input).")
reciprocal = _unary(kernels.reciprocal, "1 / input.")
erf = _unary(kernels.erf, "The error function.")
sin = _unary(kernels.sin, "Sine of an angle in radians.")
cos = _unary(kernels.cos, "Cosine of an angle in radians.")
abs = _unary(kernels.abs, "Absolute value; its gradient at 0 is 0.", fractions=False)
neg = _unary(kernels.negative, "-input.", fractions=False)
sign = _unary(kernels.sign, "-1, 0 or 1; its gradient is 0.", fractions=False)
square = _unary(kernels.square, "input * input.", fractions=False)
floor = _unary(kernels.floor, "The next integer below; its gradient is 0.", fractions=False, keep_integers=True)
ceil = _unary(kernels.ceil, "The next integer above; its gradient is 0.", fractions=False, keep_integers=True)
round = _unary(
    kernels.round, "The nearest integer, the even one of two; its gradient is 0.", fractions=False, keep_integers=True
)
isnan = _unary(kernels.isnan, "Where elements are NaN: a bool tensor.", fractions=False)
isinf = _unary(kernels.isinf, "Where elements are infinite: a bool tensor.", fractions=False)
isfinite = _unary(kernels.isfinite, "Where elements are neither infinite nor NaN: a bool tensor.", fractions=False)
logical_not = _unary(kernels.logical_not, "Where elements are 0 or False: a bool tensor.", fractions=False)
absolute, negative = abs, neg


def log2(input):
    """Logarithm to base 2."""
    return log(input) * (1 / np.log(2).item())


def log10(input):
    """Logarithm to base 10."""
    return log(input) * (1 / np.log(10).item())


def _binary(operation, document, *, fractions=False):
    def function(input, other):
        input, other = promoted(operation.name, input, other, at_least=1.0 if fractions else None)
        return apply(operation, input, other)

    function.__name__ = function.__qualname__ = operation.name
    function.__doc__ = f"{document}\n\nArgs:\n    input, other: shapes that broadcast."
    return function


mul = _binary(kernels.multiply, "input * other.")
remainder = _binary(kernels.remainder, "input - other * floor(input / other): the sign is other's.")
floor_divide = _binary(kernels.floor_divide, "floor(input / other); off the tape.")
maximum = _binary(kernels.maximum, "The larger of two elements; the gradient of a tie is shared evenly.")
minimum = _binary(kernels.minimum, "The smaller of two elements; the gradient of a tie is shared evenly.")
pow = _binary(kernels.power, "input to the power of other.")
eq = _binary(kernels.equal, "Where elements are equal: a bool tensor.")
ne = _binary(kernels.not_equal, "Where elements differ: a bool tensor.")
lt = _binary(kernels.less, "Where input < other: a bool tensor.")
le = _binary(kernels.less_equal, "Where input <= other: a bool tensor.")
gt = _binary(kernels.greater, "Where input > other: a bool tensor.")
ge = _binary(kernels.greater_equal, "Where input >= other: a bool tensor.")
logical_and = _binary(kernels.logical_and, "Where both elements are set: a bool tensor.")
logical_or = _binary(kernels.logical_or, "Where one element or both are set: a bool tensor.")
logical_xor = _binary(kernels.logical_xor, "Where exactly one element is set: a bool tensor.")
multiply = mul


def add(input, other, *, alpha=1):
    """input + alpha * other."""
    input, other = promoted("add", input, other if _is_one(alpha) else mul(other, alpha))
    return apply(kernels.add, input, other)


def sub(input, other, *, alpha=1):
    """input - alpha * other."""
    input, other = promoted("subtract", input, other if _is_one(alpha) else mul(other, alpha))
    return apply(kernels.subtract, input, other)


subtract = sub


def _is_one(alpha) -> bool:
    return type(alpha) is int and alpha == 1


def div(input, other, *, rounding_mode=None):
    """input / other.

    Args:
        input, other: shapes that broadcast.
        rounding_mode: None; 'floor' to round down, off the tape.
    """
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode is not None:
        raise ValueError(f"divide: expected rounding_mode as None or 'floor', got {rounding_mode!r}")
    input, other = promoted("divide", input, other, at_least=1.0)
    return apply(kernels.divide, input, other)


divide = div


def clamp(input, min=None, max=None):
    """input, but at least `min` and at most `max`; the gradient is 0 where a bound holds.

    Args:
        input: any shape.
        min, max: numbers, tensors that broadcast with input, or None for no bound.
    """
    min, max = (x.item() if isinstance(x, np.generic) else x for x in (min, max))
    if not any(hasattr(bound, "dtype") for bound in (min, max)):
        (input, *_) = promoted("clip", input, *(bound for bound in (min, max) if bound is not None))
        return apply(kernels.clip, input, min=min, max=max)
    if min is not None:
        input = maximum(input, min)
    return input if max is None else minimum(input, max)


clip = clamp


def where(condition, input, other):
    """input where the condition holds, other elsewhere.

    Args:
        condition: bool.
        input, other: shapes that broadcast with the condition's; at least one is a tensor or an array.
    """
    input, other = promoted("where", input, other)
    return apply(kernels.where, condition, input, other)


def masked_fill(input, mask, value):
    """input, but `value` (a number or a scalar tensor) where the mask holds."""
    if hasattr(value, "dtype"):
        value = cast(value, input.dtype)
    return where(mask, value, input)


def lerp(input, end, weight):
    """input + weight * (end - input)."""
    return add(input, mul(weight, sub(end, input)))
