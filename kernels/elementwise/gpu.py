"""Elementwise functions on CuPy arrays: one kernel a function, compiled with its formula, over operands of any strides;
gradients of stretched operands are computed and summed in one pass, in a fixed order."""

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, copy_into, zeros
from ..launch import ceil_div, empty, launch
from .broadcasting import broadcast_shape, shape_of
from .gpu_broadcasting import broadcast, broadcast_sum

_BOOL = np.dtype(bool)
_BLOCK = 1024


def _unary(function, gradient=None, state="x"):
    """Forward and backward of a function of one array; `state` names what the derivative is computed from: x or y.

    Without a `gradient` the derivative is 0.
    """

    def forward(x, *, out=None):
        y = broadcast(function, (x, None, None), x.shape, x.dtype, out)
        return y, x if state == "x" else y

    def backward(saved, grad_y, needs):
        if not needs[0]:
            return (None,)
        if gradient is None:
            return (zeros(grad_y),)
        return (broadcast(gradient, (grad_y, saved, None), grad_y.shape, grad_y.dtype),)

    return forward, backward


negative_forward, negative_backward = _unary("negative", "negative")
abs_forward, abs_backward = _unary("abs", "abs_grad")
sign_forward, sign_backward = _unary("sign")
square_forward, square_backward = _unary("square", "square_grad")
floor_forward, floor_backward = _unary("floor")
ceil_forward, ceil_backward = _unary("ceil")
round_forward, round_backward = _unary("round")
exp_forward, exp_backward = _unary("exp", "multiply", "y")
expm1_forward, expm1_backward = _unary("expm1", "expm1_grad")
log_forward, log_backward = _unary("log", "divide")
log1p_forward, log1p_backward = _unary("log1p", "log1p_grad")
sqrt_forward, sqrt_backward = _unary("sqrt", "sqrt_grad", "y")
rsqrt_forward, rsqrt_backward = _unary("rsqrt", "rsqrt_grad", "y")
reciprocal_forward, reciprocal_backward = _unary("reciprocal", "reciprocal_grad", "y")
erf_forward, erf_backward = _unary("erf", "erf_grad")
sin_forward, sin_backward = _unary("sin", "sin_grad")
cos_forward, cos_backward = _unary("cos", "cos_grad")


@triton.jit
def clip_kernel(
    source, x, result, size,
    low_real: tl.float64, high_real: tl.float64, low_whole: tl.int64, high_whole: tl.int64,
    LOW: tl.constexpr, HIGH: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """result = x kept between the bounds that there are; as GRADIENT, source where x lies between them, else 0."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    value = tl.load(x + offset, mask=inside, other=0)
    if value.dtype.is_floating():
        if value.dtype != tl.float64:
            value = value.to(tl.float32)
        low = (tl.zeros((BLOCK,), tl.float64) + low_real).to(value.dtype)
        high = (tl.zeros((BLOCK,), tl.float64) + high_real).to(value.dtype)
    else:
        low = (tl.zeros((BLOCK,), tl.int64) + low_whole).to(value.dtype)
        high = (tl.zeros((BLOCK,), tl.int64) + high_whole).to(value.dtype)
    if GRADIENT:
        kept = value == value
        if LOW:
            kept = kept & (value >= low)
        if HIGH:
            kept = kept & (value <= high)
        gradient = tl.load(source + offset, mask=inside & kept, other=0.0)
        tl.store(result + offset, gradient, mask=inside)
    else:
        if LOW:
            value = tl.where(value < low, low, value)
        if HIGH:
            value = tl.where(value > high, high, value)
        tl.store(result + offset, value.to(result.dtype.element_ty), mask=inside)


def _clip(source, x, low, high, gradient):
    result = empty(x)
    bounds = low or 0, high or 0
    whole = (0, 0) if x.dtype.kind not in "iu" else (int(bound) for bound in bounds)
    launch(
        clip_kernel, (ceil_div(x.size, _BLOCK),), source, x, result, x.size, *map(float, bounds), *whole,
        LOW=low is not None, HIGH=high is not None, GRADIENT=gradient, BLOCK=_BLOCK,
    )  # fmt: skip
    return result


def clip_forward(x, *, min=None, max=None, out=None):
    x = contiguous(x)
    y = _clip(None, x, min, max, False)
    if out is not None:
        copy_into(out, y)
        y = out
    return y, (x, min, max)


def clip_backward(saved, grad_y, needs):
    x, low, high = saved
    return (_clip(contiguous(grad_y), x, low, high, True) if needs[0] else None,)


def _binary(function, grad_x, grad_y):
    """Forward and backward of a function of two operands; a gradient that is None passes grad on."""

    def forward(x, y, *, out=None):
        return broadcast(function, (x, y, None), broadcast_shape(x, y), _type_of(x, y), out), (x, y)

    def backward(saved, grad, needs):
        return tuple(
            _gradient(gradient, grad, *saved, operand) if needed else None
            for gradient, operand, needed in zip((grad_x, grad_y), saved, needs)
        )

    return forward, backward


def _type_of(*operands):
    return next(x.dtype for x in operands if hasattr(x, "dtype"))


# A gradient -> the operands that it does not ask for, which are then not read.
_UNREAD = {
    "first": (True, True), "negative": (True, True), "multiply": (False, True), "multiply_grad_x": (True, False),
    "divide_grad_x": (True, False),
}  # fmt: skip


def _gradient(function, grad, x, y, operand):
    """function(grad, x, y), summed to the operand's shape."""
    target = shape_of(operand)
    if function == "first" and grad.shape == target:
        return grad
    if function.endswith("_swapped"):
        function, x, y = function.removesuffix("_swapped"), y, x
    skip_x, skip_y = _UNREAD.get(function, (False, False))
    operands = grad, None if skip_x else x, None if skip_y else y
    return broadcast_sum(function, operands, grad.shape, target, grad.dtype)


add_forward, add_backward = _binary("add", "first", "first")
subtract_forward, subtract_backward = _binary("subtract", "first", "negative")
multiply_forward, multiply_backward = _binary("multiply", "multiply_grad_x", "multiply")
divide_forward, divide_backward = _binary("divide", "divide_grad_x", "divide_grad_y")
_power_forward, _power_backward = _binary("power", "power_grad_x", "power_grad_y")
remainder_forward, remainder_backward = _binary("remainder", "first", "remainder_grad_y")
maximum_forward, maximum_backward = _binary("maximum", "grad_of_larger", "grad_of_larger_swapped")
minimum_forward, minimum_backward = _binary("minimum", "grad_of_smaller", "grad_of_smaller_swapped")

_POWERS = {1: "first", 2: "square", 0.5: "sqrt", -1: "reciprocal"}


def power_forward(x, y, *, out=None):
    """x^y, with the exponents that matter most as products and roots."""
    if type(y) in (int, float) and y in _POWERS and x.dtype.kind not in "iu":
        return broadcast(_POWERS[y], (x, None, None), x.shape, x.dtype, out), (x, y)
    return _power_forward(x, y, out=out)


def power_backward(saved, grad, needs):
    x, y = saved
    if type(y) in (int, float) and y == 2:
        return (broadcast("square_grad", (grad, x, None), grad.shape, grad.dtype) if needs[0] else None), None
    return _power_backward(saved, grad, needs)


def where_forward(condition, x, y, *, out=None):
    shape = broadcast_shape(condition, x, y)
    y_out = broadcast("where", (condition, x, y), shape, _type_of(x, y), out)
    return y_out, (condition, shape_of(x), shape_of(y))


def where_backward(saved, grad, needs):
    condition, x_shape, y_shape = saved
    return (
        None,
        broadcast_sum("where", (condition, grad, 0.0), grad.shape, x_shape, grad.dtype) if needs[1] else None,
        broadcast_sum("where", (condition, 0.0, grad), grad.shape, y_shape, grad.dtype) if needs[2] else None,
    )


def _plain(function, dtype=None):
    """A function without a derivative."""

    def forward(*operands, out=None):
        padded = (*operands, *(None,) * (3 - len(operands)))
        result_type = _type_of(*operands) if dtype is None else dtype
        return broadcast(function, padded, broadcast_shape(*operands), result_type, out), None

    return forward


floor_divide_forward = _plain("floor_divide")
equal_forward = _plain("equal", _BOOL)
not_equal_forward = _plain("not_equal", _BOOL)
less_forward = _plain("less", _BOOL)
less_equal_forward = _plain("less_equal", _BOOL)
greater_forward = _plain("greater", _BOOL)
greater_equal_forward = _plain("greater_equal", _BOOL)
logical_and_forward = _plain("logical_and", _BOOL)
logical_or_forward = _plain("logical_or", _BOOL)
logical_xor_forward = _plain("logical_xor", _BOOL)
logical_not_forward = _plain("logical_not", _BOOL)
isnan_forward = _plain("isnan", _BOOL)
isinf_forward = _plain("isinf", _BOOL)
isfinite_forward = _plain("isfinite", _BOOL)
