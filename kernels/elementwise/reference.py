"""Element by element, as a textbook writes it. Every other implementation is held against these, in float64."""

import math

import numpy as np

from .broadcasting import shape_of, sum_to_shape

# ---- functions of one array: the value, and the derivative from the argument x and the value y


def _unary(function, derivative):
    def forward(x):
        y = np.asarray(function(x))
        return y, (x, y)

    def backward(saved, grad_y, needs):
        return (grad_y * derivative(*saved) if needs[0] else None,)

    return forward, backward


def _zero(x, y):
    return np.zeros_like(x)


_erf = np.vectorize(math.erf, otypes=[np.float64])

negative_forward, negative_backward = _unary(np.negative, lambda x, y: -np.ones_like(x))
abs_forward, abs_backward = _unary(np.abs, lambda x, y: np.sign(x))
sign_forward, sign_backward = _unary(np.sign, _zero)
square_forward, square_backward = _unary(np.square, lambda x, y: 2 * x)
floor_forward, floor_backward = _unary(np.floor, _zero)
ceil_forward, ceil_backward = _unary(np.ceil, _zero)
round_forward, round_backward = _unary(np.round, _zero)
exp_forward, exp_backward = _unary(np.exp, lambda x, y: y)
expm1_forward, expm1_backward = _unary(np.expm1, lambda x, y: np.exp(x))
log_forward, log_backward = _unary(np.log, lambda x, y: 1 / x)
log1p_forward, log1p_backward = _unary(np.log1p, lambda x, y: 1 / (1 + x))
sqrt_forward, sqrt_backward = _unary(np.sqrt, lambda x, y: 0.5 / y)
rsqrt_forward, rsqrt_backward = _unary(lambda x: x**-0.5, lambda x, y: -0.5 * x**-1.5)
reciprocal_forward, reciprocal_backward = _unary(lambda x: 1 / x, lambda x, y: -1 / x**2)
erf_forward, erf_backward = _unary(_erf, lambda x, y: 2 / np.sqrt(np.pi) * np.exp(-(x**2)))
sin_forward, sin_backward = _unary(np.sin, lambda x, y: np.cos(x))
cos_forward, cos_backward = _unary(np.cos, lambda x, y: -np.sin(x))


def clip_forward(x, *, min=None, max=None):
    return np.asarray(np.clip(x, min, max)), (x, min, max)


def clip_backward(saved, grad_y, needs):
    x, low, high = saved
    inside = (x >= (-np.inf if low is None else low)) & (x <= (np.inf if high is None else high))
    return (np.where(inside, grad_y, 0) if needs[0] else None,)


# ---- functions of two operands: the value, and the derivatives by x and by y from (x, y)


def _binary(function, by_x, by_y):
    def forward(x, y):
        return np.asarray(function(x, y)), (x, y)

    def backward(saved, grad, needs):
        x, y = saved
        return (
            sum_to_shape(grad * by_x(x, y), shape_of(x)) if needs[0] else None,
            sum_to_shape(grad * by_y(x, y), shape_of(y)) if needs[1] else None,
        )

    return forward, backward


def _one(x, y):
    return 1.0


def _power_by_base(x, y):
    return np.where(np.equal(y, 0), 0, y * np.power(x, np.where(np.equal(y, 0), 1, y - 1)))


def _power_by_exponent(x, y):
    zero = np.equal(x, 0) & np.greater_equal(y, 0)
    return np.where(zero, 0, np.power(x, y) * np.log(np.where(zero, 1, x)))


def _share_of_larger(x, y):
    """1 where x > y, and one half where they tie."""
    return np.where(np.equal(x, y), 0.5, np.greater(x, y))


add_forward, add_backward = _binary(np.add, _one, _one)
subtract_forward, subtract_backward = _binary(np.subtract, _one, lambda x, y: -1.0)
multiply_forward, multiply_backward = _binary(np.multiply, lambda x, y: y, lambda x, y: x)
divide_forward, divide_backward = _binary(np.divide, lambda x, y: 1 / y, lambda x, y: -x / (y * y))
power_forward, power_backward = _binary(np.power, _power_by_base, _power_by_exponent)
remainder_forward, remainder_backward = _binary(np.remainder, _one, lambda x, y: -np.floor(x / y))
maximum_forward, maximum_backward = _binary(np.maximum, _share_of_larger, lambda x, y: _share_of_larger(y, x))
minimum_forward, minimum_backward = _binary(np.minimum, lambda x, y: _share_of_larger(y, x), _share_of_larger)


def where_forward(condition, x, y):
    return np.where(condition, x, y), (condition, shape_of(x), shape_of(y))


def where_backward(saved, grad, needs):
    condition, x_shape, y_shape = saved
    return (
        None,
        sum_to_shape(np.where(condition, grad, 0), x_shape) if needs[1] else None,
        sum_to_shape(np.where(condition, 0, grad), y_shape) if needs[2] else None,
    )


# ---- without a derivative


def _plain(function):
    def forward(*operands):
        return np.asarray(function(*operands)), None

    return forward


floor_divide_forward = _plain(np.floor_divide)
equal_forward = _plain(np.equal)
not_equal_forward = _plain(np.not_equal)
less_forward = _plain(np.less)
less_equal_forward = _plain(np.less_equal)
greater_forward = _plain(np.greater)
greater_equal_forward = _plain(np.greater_equal)
logical_and_forward = _plain(np.logical_and)
logical_or_forward = _plain(np.logical_or)
logical_xor_forward = _plain(np.logical_xor)
logical_not_forward = _plain(np.logical_not)
isnan_forward = _plain(np.isnan)
isinf_forward = _plain(np.isinf)
isfinite_forward = _plain(np.isfinite)
