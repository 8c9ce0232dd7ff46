"""Elementwise functions on NumPy arrays: plain arithmetic is one NumPy pass over memory, transcendental functions are
Numba kernels that vectorise and run on all threads."""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import NORMALS, erf, exp, expm1, log, log1p, normal_log, normal_place, wide_vectors
from ..memory import empty, zeros
from .broadcasting import broadcast_shape, broadcast_to, shape_of, sum_to_shape
from .cpu_arithmetic import (
    ADD,
    DIVIDE,
    MAXIMUM,
    MINIMUM,
    MULTIPLY,
    REVERSED,
    SUBTRACT,
    both_gradients,
    combine,
    combine_with_number,
    combined,
    summed_to_shape,
    worth_threads,
)
from .memory_order import deliver, flat, unflat, with_result

_EXP, _EXPM1, _LOG, _LOG1P, _SQRT, _RSQRT, _RECIPROCAL, _ERF, _SQUARE, _ABS, _NEGATIVE = range(11)
_BLOCK = 4096  # elements a thread takes at a time: two arrays of it stay in the first-level cache

# Division by zero, logarithms of negative numbers and overflow give infinities and NaNs, and no warning.
_quiet = np.errstate(all="ignore")


@serial_kernel
def unary(x, code, y):
    """y = f(x) for vectors, f chosen by `code`."""
    wide_vectors()
    one = x.dtype.type(1)
    if code == _EXP:
        for i in range(len(x)):
            y[i] = exp(x[i])
    elif code == _EXPM1:
        for i in range(len(x)):
            y[i] = expm1(x[i])
    elif code == _LOG:
        last = np.uint32(0)
        for i in range(len(x)):
            y[i] = normal_log(x[i])
            last = max(last, normal_place(x[i]))
        if last >= NORMALS:  # seldom, so that not every number is asked
            for i in range(len(x)):
                y[i] = log(x[i])
    elif code == _LOG1P:
        for i in range(len(x)):
            y[i] = log1p(x[i])
    elif code == _SQRT:
        for i in range(len(x)):
            y[i] = np.sqrt(x[i])
    elif code == _RSQRT:
        for i in range(len(x)):
            y[i] = one / np.sqrt(x[i])
    elif code == _RECIPROCAL:
        for i in range(len(x)):
            y[i] = one / x[i]
    elif code == _ERF:
        for i in range(len(x)):
            y[i] = erf(x[i])
    elif code == _SQUARE:
        for i in range(len(x)):
            y[i] = x[i] * x[i]
    elif code == _ABS:
        for i in range(len(x)):
            y[i] = abs(x[i])
    elif code == _NEGATIVE:
        for i in range(len(x)):
            y[i] = -x[i]


@kernel
def unary_kernel(x, code, y):
    """y = f(x) over flat arrays, block by block."""
    for block in prange((x.size + _BLOCK - 1) // _BLOCK):
        first, last = block * _BLOCK, (block + 1) * _BLOCK
        unary(x[first:last], code, y[first:last])


@serial_kernel
def unary_grad(grad_y, state, code, grad_x):
    """grad_x = grad_y * f'(x) for vectors; `state` is x or y, whichever gives the derivative more cheaply."""
    wide_vectors()
    zero, one, half = state.dtype.type(0), state.dtype.type(1), state.dtype.type(0.5)
    if code == _EXP:
        for i in range(len(state)):
            grad_x[i] = grad_y[i] * state[i]
    elif code == _EXPM1:
        for i in range(len(state)):
            grad_x[i] = grad_y[i] * (state[i] + one)
    elif code == _LOG:
        for i in range(len(state)):
            grad_x[i] = grad_y[i] / state[i]
    elif code == _LOG1P:
        for i in range(len(state)):
            grad_x[i] = grad_y[i] / (one + state[i])
    elif code == _SQRT:
        for i in range(len(state)):
            grad_x[i] = grad_y[i] * half / state[i]
    elif code == _RSQRT:
        for i in range(len(state)):
            grad_x[i] = -half * grad_y[i] * state[i] * state[i] * state[i]
    elif code == _RECIPROCAL:
        for i in range(len(state)):
            grad_x[i] = -grad_y[i] * state[i] * state[i]
    elif code == _ERF:
        scale = state.dtype.type(2 / math.sqrt(math.pi))
        for i in range(len(state)):
            grad_x[i] = grad_y[i] * scale * exp(-state[i] * state[i])
    elif code == _SQUARE:
        for i in range(len(state)):
            grad_x[i] = grad_y[i] * (state[i] + state[i])
    elif code == _ABS:
        for i in range(len(state)):
            sign = one if state[i] > zero else zero * state[i]
            grad_x[i] = grad_y[i] * (-one if state[i] < zero else sign)
    elif code == _NEGATIVE:
        for i in range(len(state)):
            grad_x[i] = -grad_y[i]


@kernel
def unary_grad_kernel(grad_y, state, code, grad_x):
    """grad_x = grad_y * f'(x) over flat arrays, block by block."""
    for block in prange((state.size + _BLOCK - 1) // _BLOCK):
        first, last = block * _BLOCK, (block + 1) * _BLOCK
        unary_grad(grad_y[first:last], state[first:last], code, grad_x[first:last])


def _compiled(code, state):
    """Forward and backward by the kernels above; `state` names what the derivative is computed from, 'x' or 'y'."""

    def forward(x, *, out=None):
        vector, order, y, result = with_result(x)
        (unary_kernel if vector.size > _BLOCK else unary)(vector, code, result)
        saved = (vector if state == "x" else result), order
        return y if out is None else deliver(y, out), saved

    def backward(saved, grad_y, needs):
        if not needs[0]:
            return (None,)
        vector, order = saved
        grad_x = empty(vector.size, vector.dtype)
        run = unary_grad_kernel if grad_x.size > _BLOCK else unary_grad
        run(flat(grad_y, order), vector, code, grad_x)
        return (unflat(grad_x, grad_y.shape, order),)

    return forward, backward


exp_forward, exp_backward = _compiled(_EXP, "y")
expm1_forward, expm1_backward = _compiled(_EXPM1, "y")
log_forward, log_backward = _compiled(_LOG, "x")
log1p_forward, log1p_backward = _compiled(_LOG1P, "x")
sqrt_forward, sqrt_backward = _compiled(_SQRT, "y")
rsqrt_forward, rsqrt_backward = _compiled(_RSQRT, "y")
reciprocal_forward, reciprocal_backward = _compiled(_RECIPROCAL, "y")
erf_forward, erf_backward = _compiled(_ERF, "x")


def _elementwise(ufunc, operands, out=None, dtype=None):
    """ufunc(*operands) in one pass, with the operands' dtype or the one given."""
    if out is None:
        first, last = operands[0], operands[-1]
        shape = shape_of(first) if shape_of(first) == shape_of(last) else broadcast_shape(first, last)
        if dtype is None:
            dtype = first.dtype if type(first) is np.ndarray else last.dtype
        out = empty(shape, dtype)
    return ufunc(*operands, out=out)


def _unary(ufunc, grad):
    """Forward by a NumPy function, backward by grad(x, grad_y)."""

    @_quiet
    def forward(x, *, out=None):
        return _elementwise(ufunc, (x,), out), x

    @_quiet
    def backward(saved, grad_y, needs):
        return (grad(saved, grad_y) if needs[0] else None,)

    return forward, backward


def _times(factor, grad_y):
    """factor * grad_y, written over the factor, a new array."""
    return np.multiply(factor, grad_y, out=factor)


def _no_slope(x, grad_y):
    return broadcast_to(np.zeros((), grad_y.dtype), grad_y.shape)


sign_forward, sign_backward = _unary(np.sign, _no_slope)
floor_forward, floor_backward = _unary(np.floor, _no_slope)
ceil_forward, ceil_backward = _unary(np.ceil, _no_slope)
round_forward, round_backward = _unary(np.rint, _no_slope)
sin_forward, sin_backward = _unary(np.sin, lambda x, grad_y: _times(_elementwise(np.cos, (x,)), grad_y))
cos_forward, cos_backward = _unary(
    np.cos, lambda x, grad_y: _times(np.negative(s := _elementwise(np.sin, (x,)), out=s), grad_y)
)


def _floats_compiled(code, ufunc):
    """The same for what takes integers too, which are NumPy's and have no gradient."""
    forward_floats, backward = _compiled(code, "x")

    def forward(x, *, out=None):
        return forward_floats(x, out=out) if x.dtype.kind == "f" else (_elementwise(ufunc, (x,), out), None)

    return forward, backward


negative_forward, negative_backward = _floats_compiled(_NEGATIVE, np.negative)
abs_forward, abs_backward = _floats_compiled(_ABS, np.abs)
square_forward, square_backward = _floats_compiled(_SQUARE, np.square)


def clip_forward(x, *, min=None, max=None, out=None):
    y = empty(x.shape, x.dtype) if out is None else out
    if min is None or max is None:
        ufunc, bound = (np.minimum, max) if min is None else (np.maximum, min)
        return ufunc(x, bound, out=y), (x, min, max)
    return np.clip(x, min, max, out=y), (x, min, max)


def clip_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    x, low, high = saved
    inside = x >= (-np.inf if low is None else low)
    if high is not None:
        inside &= x <= high
    return (_masked(grad_y, inside),)


def _masked(grad, mask):
    """grad where mask is set, 0 elsewhere, also where grad is not finite."""
    kept = zeros(grad.shape, grad.dtype)
    np.copyto(kept, grad, where=mask)
    return kept


def _to_shape(grad, operand):
    return summed_to_shape(grad, shape_of(operand))


_quiet_elementwise = _quiet(_elementwise)


def _few_combined(code, x, y):
    """f(x, y) of a floating-point array in C order and one like it or a number; None for others. A kernel's call takes
    half the time of NumPy's with its warnings turned off."""
    if type(x) is not np.ndarray:
        x, y, code = y, x, REVERSED.get(code, code)
    if x.dtype.kind != "f" or not x.flags.c_contiguous:
        return None
    if type(y) is not np.ndarray:
        z = empty(x.shape, x.dtype)
        combine_with_number(x.ravel(), x.dtype.type(y), code, z.ravel())
        return z
    if x.shape != y.shape or not y.flags.c_contiguous:
        return None
    z = empty(x.shape, x.dtype)
    combine(x.ravel(), y.ravel(), code, z.ravel())
    return z


def _binary(ufunc, grad_x, grad_y, code=None):
    """Forward by a NumPy function; backward by grad_x(grad, x, y) and grad_y(grad, x, y), summed to the shapes. Arrays
    of floating-point numbers forward by the kernels of that code, if there are some and the shapes are theirs."""

    def forward(x, y, *, out=None):
        if code is not None:
            if worth_threads(x, y):
                z = combined(code, x, y, out)
            else:
                z = _few_combined(code, x, y) if out is None else None
            if z is not None:
                return z, (x, y)
        return _quiet_elementwise(ufunc, (x, y), out), (x, y)

    @_quiet
    def backward(saved, grad, needs):
        x, y = saved
        return (
            _to_shape(grad_x(grad, x, y), x) if needs[0] else None,
            _to_shape(grad_y(grad, x, y), y) if needs[1] else None,
        )

    return forward, backward


def _fused(code, passes):
    """The passes of `_binary`, with the gradients of large arrays by one kernel."""
    forward, backward_by_numpy = passes

    @_quiet
    def backward(saved, grad, needs):
        if not worth_threads(grad, grad):
            return backward_by_numpy(saved, grad, needs)
        x, y = saved
        if needs == (True, False) and code in (MULTIPLY, DIVIDE) and shape_of(x) == grad.shape:
            grad_x = combined(code, grad, y)
            if grad_x is not None:
                return grad_x, None
        both = both_gradients(code, x, y, grad)
        if both is None:
            return backward_by_numpy(saved, grad, needs)
        return tuple(operand_grad if need else None for operand_grad, need in zip(both, needs))

    return forward, backward


def _pass_on(grad, x, y):
    return grad


def _divide_grad_y(grad, x, y):
    """-grad x / y^2"""
    slope = _elementwise(np.divide, (x, y))
    np.divide(slope, y, out=slope)
    np.negative(slope, out=slope)
    return np.multiply(slope, grad, out=slope)


def _remainder_grad_y(grad, x, y):
    """-grad floor(x / y)"""
    slope = _elementwise(np.floor_divide, (x, y))
    np.negative(slope, out=slope)
    return np.multiply(slope, grad, out=slope)


_POWERS = {1: np.positive, 2: np.square, 0.5: np.sqrt, -1: np.reciprocal}


def _power(x, y, out):
    """x^y, with the exponents that matter most as products and roots."""
    if type(y) in (int, float) and y in _POWERS and out.dtype.kind == "f":
        return _POWERS[y](x, out=out)
    return np.power(x, y, out=out)


def _power_grad_x(grad, x, y):
    """grad y x^(y - 1), and 0 where y is 0"""
    if type(y) in (int, float):
        if y == 0:
            return broadcast_to(np.zeros((), grad.dtype), grad.shape)
        slope = _power(x, y - 1, empty(x.shape, x.dtype))
        np.multiply(slope, y, out=slope)
    else:
        slope = _elementwise(np.power, (x, y - 1))
        np.multiply(slope, y, out=slope)
        np.copyto(slope, 0, where=y == 0)
    return np.multiply(slope, grad, out=slope)


def _power_grad_y(grad, x, y):
    """grad x^y log(x), and 0 where x is 0 and y is not negative"""
    slope = _elementwise(np.power, (x, y))
    np.multiply(slope, np.log(x), out=slope)
    np.copyto(slope, 0, where=np.equal(x, 0) & np.greater_equal(y, 0))
    return np.multiply(slope, grad, out=slope)


def _share(larger):
    """The gradient of an operand that comes out where larger(x, y); where the operands tie, each gets one half."""

    def grad_operand(grad, x, y):
        share = _elementwise(np.multiply, (grad, larger(x, y)))
        np.multiply(grad, 0.5, out=share, where=np.equal(x, y))
        return share

    return grad_operand


add_forward, add_backward = _binary(np.add, _pass_on, _pass_on, ADD)
subtract_forward, _ = _binary(np.subtract, _pass_on, _pass_on, SUBTRACT)


def subtract_backward(saved, grad, needs):
    x, y = saved
    grad_y = negative_forward(_to_shape(grad, y))[0] if needs[1] else None
    return _to_shape(grad, x) if needs[0] else None, grad_y


multiply_forward, multiply_backward = _fused(
    MULTIPLY,
    _binary(
        np.multiply,
        lambda grad, x, y: _elementwise(np.multiply, (grad, y)),
        lambda grad, x, y: _elementwise(np.multiply, (grad, x)),
        MULTIPLY,
    ),
)
divide_forward, divide_backward = _fused(
    DIVIDE, _binary(np.divide, lambda grad, x, y: _elementwise(np.divide, (grad, y)), _divide_grad_y, DIVIDE)
)
power_forward, power_backward = _binary(_power, _power_grad_x, _power_grad_y)
remainder_forward, remainder_backward = _binary(np.remainder, _pass_on, _remainder_grad_y)
maximum_forward, maximum_backward = _fused(MAXIMUM, _binary(np.maximum, _share(np.greater), _share(np.less), MAXIMUM))
minimum_forward, minimum_backward = _fused(MINIMUM, _binary(np.minimum, _share(np.less), _share(np.greater), MINIMUM))


def where_forward(condition, x, y, *, out=None):
    dtype = (x if hasattr(x, "dtype") else y).dtype
    out = empty(broadcast_shape(condition, x, y), dtype) if out is None else out
    np.copyto(out, y)
    np.copyto(out, x, where=condition)
    return out, (condition, shape_of(x), shape_of(y))


def where_backward(saved, grad, needs):
    condition, x_shape, y_shape = saved
    grad_x = grad_y = None
    if needs[1]:
        grad_x = sum_to_shape(_masked(grad, condition), x_shape)
    if needs[2]:
        grad_y = sum_to_shape(_masked(grad, ~condition), y_shape)
    return None, grad_x, grad_y


def _plain(ufunc, dtype=None):
    """A function without a derivative."""

    @_quiet
    def forward(*operands, out=None):
        return _elementwise(ufunc, operands, out, dtype), None

    return forward


floor_divide_forward = _plain(np.floor_divide)
equal_forward = _plain(np.equal, bool)
not_equal_forward = _plain(np.not_equal, bool)
less_forward = _plain(np.less, bool)
less_equal_forward = _plain(np.less_equal, bool)
greater_forward = _plain(np.greater, bool)
greater_equal_forward = _plain(np.greater_equal, bool)
logical_and_forward = _plain(np.logical_and, bool)
logical_or_forward = _plain(np.logical_or, bool)
logical_xor_forward = _plain(np.logical_xor, bool)
logical_not_forward = _plain(np.logical_not, bool)
isnan_forward = _plain(np.isnan, bool)
isinf_forward = _plain(np.isinf, bool)
isfinite_forward = _plain(np.isfinite, bool)
