"""Activations on NumPy arrays: a pair of kernels for each that goes element by element, told apart by a code.

The kernels of a code are made when they are first asked for. The code is a constant in them, so that Numba compiles one
plain formula, in a tenth of the time that all take together. A block is what a thread takes at a time: small enough for
its cache, large enough to hide the loop's start.
"""

import math
from functools import cache

import numpy as np
from numba import prange

from ..cpu_jit import kernel
from ..cpu_math import erf, exp, expm1, sigmoid, softplus, tanh, wide_vectors
from ..cpu_philox import uniform
from ..cpu_sums import line_sum
from ..elementwise.memory_order import deliver, flat, unflat, with_result
from ..memory import empty, zeros
from .reference import SELU_ALPHA, SELU_SCALE

_BLOCK = 8192
_WORTH_THREADS = 1 << 12  # elements of prelu and glu; fewer are there before another thread has woken up
_NO_DENSITY = 80.0  # e^-x from here on counts as 0: products with what is left of it, near to subnormal, are slow

# fmt: off
(_SIGMOID, _TANH, _RELU, _THRESHOLD, _CLAMP, _LEAKY_RELU, _ELU, _GELU, _GELU_TANH, _SILU, _MISH, _SOFTPLUS,
 _SOFTSIGN, _HARDSIGMOID, _HARDSWISH, _LOGSIGMOID, _SOFTSHRINK, _HARDSHRINK, _TANHSHRINK) = range(19)
# fmt: on
_SAVE_OUTPUT = frozenset((_SIGMOID, _TANH, _RELU, _CLAMP))


@cache
def _forward_kernel(code):
    """The kernel of one activation: its formula alone is compiled."""

    @kernel
    def activation_forward_kernel(argument, p, q, r, result):
        """result = f(argument) for vectors; what the parameters p, q, r of f mean goes by the code."""
        wide_vectors()
        kind = argument.dtype.type
        zero, one, half, p, q, r = kind(0), kind(1), kind(0.5), kind(p), kind(q), kind(r)
        for block in prange((argument.size + _BLOCK - 1) // _BLOCK):
            part = slice(block * _BLOCK, min(block * _BLOCK + _BLOCK, argument.size))
            x, y = argument[part], result[part]
            if code == _SIGMOID:
                for i in range(x.size):
                    y[i] = sigmoid(x[i])
            elif code == _TANH:
                for i in range(x.size):
                    y[i] = tanh(x[i])
            elif code == _RELU:
                for i in range(x.size):
                    y[i] = zero if x[i] <= zero else x[i]
            elif code == _THRESHOLD:
                for i in range(x.size):
                    y[i] = q if x[i] <= p else x[i]
            elif code == _CLAMP:
                for i in range(x.size):
                    above = p if x[i] < p else x[i]
                    y[i] = q if above > q else above
            elif code == _LEAKY_RELU:
                for i in range(x.size):
                    y[i] = x[i] if x[i] > zero else x[i] * p
            elif code == _ELU:
                for i in range(x.size):
                    y[i] = p * expm1(x[i] * r) if x[i] <= zero else q * x[i]
            elif code == _GELU:
                root = kind(math.sqrt(0.5))
                for i in range(x.size):
                    y[i] = half * x[i] * (one + erf(x[i] * root))
            elif code == _GELU_TANH:
                # (1 + tanh u) / 2 = sigmoid(2 u), which keeps its digits where tanh u is all but -1.
                scale, cubic = kind(2 * math.sqrt(2 / math.pi)), kind(0.044715)
                for i in range(x.size):
                    y[i] = x[i] * sigmoid(scale * (x[i] + cubic * x[i] * x[i] * x[i]))
            elif code == _SILU:
                for i in range(x.size):
                    y[i] = x[i] * sigmoid(x[i])
            elif code == _MISH:
                # With e = exp(x), tanh(log(1 + e)) = n / (n + 2), n = e (e + 2); beyond 20 it is 1, and e stays finite.
                limit = kind(-_NO_DENSITY)
                for i in range(x.size):
                    bounded = kind(20) if x[i] > kind(20) else x[i]
                    e = exp(bounded if bounded > limit else limit)
                    e = e if bounded > limit else zero
                    n = e * (e + kind(2))
                    y[i] = x[i] * (n / (n + kind(2)))
            elif code == _SOFTPLUS:
                for i in range(x.size):
                    z = x[i] * p
                    y[i] = x[i] if z > q else softplus(z) / p
            elif code == _SOFTSIGN:
                for i in range(x.size):
                    y[i] = x[i] / (one + abs(x[i]))
            elif code == _HARDSIGMOID:
                for i in range(x.size):
                    rising = zero if x[i] <= -kind(3) else (x[i] + kind(3)) / kind(6)
                    y[i] = one if x[i] >= kind(3) else rising
            elif code == _HARDSWISH:
                for i in range(x.size):
                    rising = zero if x[i] <= -kind(3) else (x[i] + kind(3)) / kind(6)
                    y[i] = x[i] * (one if x[i] >= kind(3) else rising)
            elif code == _LOGSIGMOID:
                for i in range(x.size):
                    y[i] = -softplus(-x[i])
            elif code == _SOFTSHRINK:
                for i in range(x.size):
                    below = x[i] + p if x[i] < -p else zero * x[i]
                    y[i] = x[i] - p if x[i] > p else below
            elif code == _HARDSHRINK:
                for i in range(x.size):
                    y[i] = zero if abs(x[i]) <= p else x[i]
            elif code == _TANHSHRINK:
                for i in range(x.size):
                    y[i] = x[i] - tanh(x[i])

    return activation_forward_kernel


@cache
def _grad_input_kernel(code):
    """The kernel of one activation's derivative."""

    @kernel
    def activation_grad_input_kernel(grad_result, kept, p, q, r, grad_argument):
        """grad_argument = grad_result f'(x) for vectors; kept is f(x) for the codes in _SAVE_OUTPUT, else x."""
        wide_vectors()
        kind = kept.dtype.type
        zero, one, half, p, q, r = kind(0), kind(1), kind(0.5), kind(p), kind(q), kind(r)
        for block in prange((kept.size + _BLOCK - 1) // _BLOCK):
            part = slice(block * _BLOCK, min(block * _BLOCK + _BLOCK, kept.size))
            grad_y, state, grad_x = grad_result[part], kept[part], grad_argument[part]
            if code == _SIGMOID:
                for i in range(state.size):
                    grad_x[i] = grad_y[i] * (state[i] * (one - state[i]))
            elif code == _TANH:
                for i in range(state.size):
                    grad_x[i] = grad_y[i] * (one - state[i] * state[i])
            elif code == _RELU:
                for i in range(state.size):
                    grad_x[i] = zero if state[i] <= zero else grad_y[i]
            elif code == _THRESHOLD:
                for i in range(state.size):
                    grad_x[i] = zero if state[i] <= p else grad_y[i]
            elif code == _CLAMP:
                for i in range(state.size):
                    grad_x[i] = zero if (state[i] <= p) | (state[i] >= q) else grad_y[i]
            elif code == _LEAKY_RELU:
                for i in range(state.size):
                    grad_x[i] = grad_y[i] if state[i] > zero else grad_y[i] * p
            elif code == _ELU:
                slope = p * r
                for i in range(state.size):
                    grad_x[i] = grad_y[i] * (q if state[i] > zero else slope * exp(state[i] * r))
            elif code == _GELU:
                root, density = kind(math.sqrt(0.5)), kind(1 / math.sqrt(2 * math.pi))
                limit = kind(_NO_DENSITY)
                for i in range(state.size):
                    x, exponent = state[i], half * state[i] * state[i]
                    bell = exp(-exponent if exponent < limit else -limit)
                    bell = bell if exponent < limit else zero
                    grad_x[i] = grad_y[i] * (half * (one + erf(x * root)) + x * density * bell)
            elif code == _GELU_TANH:
                scale, cubic = kind(2 * math.sqrt(2 / math.pi)), kind(0.044715)
                for i in range(state.size):
                    x = state[i]
                    s = sigmoid(scale * (x + cubic * x * x * x))
                    rise = scale * (one + kind(3) * cubic * x * x)
                    grad_x[i] = grad_y[i] * (s + x * (s * (one - s) * rise))
            elif code == _SILU:
                for i in range(state.size):
                    s = sigmoid(state[i])
                    grad_x[i] = grad_y[i] * (s * (one + state[i] * (one - s)))
            elif code == _MISH:
                limit = kind(-_NO_DENSITY)
                for i in range(state.size):
                    x = kind(20) if state[i] > kind(20) else state[i]
                    e = exp(x if x > limit else limit)
                    e = e if x > limit else zero
                    n = e * (e + kind(2))
                    t = n / (n + kind(2))
                    grad_x[i] = grad_y[i] * (t + x * ((one - t * t) * (e / (one + e))))
            elif code == _SOFTPLUS:
                for i in range(state.size):
                    z = state[i] * p
                    grad_x[i] = grad_y[i] * (one if z > q else sigmoid(z))
            elif code == _SOFTSIGN:
                for i in range(state.size):
                    root = one + abs(state[i])
                    grad_x[i] = grad_y[i] / (root * root)
            elif code == _HARDSIGMOID:
                for i in range(state.size):
                    grad_x[i] = grad_y[i] / kind(6) if abs(state[i]) < kind(3) else zero
            elif code == _HARDSWISH:
                for i in range(state.size):
                    x = state[i]
                    rising = grad_y[i] if x >= kind(3) else grad_y[i] * (x / kind(3) + half)
                    grad_x[i] = zero if x <= -kind(3) else rising
            elif code == _LOGSIGMOID:
                for i in range(state.size):
                    grad_x[i] = grad_y[i] * sigmoid(-state[i])
            elif code in (_SOFTSHRINK, _HARDSHRINK):
                for i in range(state.size):
                    grad_x[i] = zero if abs(state[i]) <= p else grad_y[i]
            elif code == _TANHSHRINK:
                for i in range(state.size):
                    t = tanh(state[i])
                    grad_x[i] = grad_y[i] * (t * t)

    return activation_grad_input_kernel


def _forward(code, x, out, p=0.0, q=0.0, r=0.0):
    vector, order, y, result = with_result(x)
    # One block is not worth waking the other threads for.
    run = _forward_kernel(code)
    (run.serial if vector.size <= _BLOCK else run)(vector, p, q, r, result)
    saved = result if code in _SAVE_OUTPUT else vector, order, code, p, q, r
    return y if out is None else deliver(y, out), saved


def _backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    state, order, code, p, q, r = saved
    result = empty(state.size, state.dtype)
    run = _grad_input_kernel(code)
    (run.serial if state.size <= _BLOCK else run)(flat(grad_y, order), state, p, q, r, result)
    return (unflat(result, grad_y.shape, order),)


def sigmoid_forward(x, *, out=None):
    return _forward(_SIGMOID, x, out)


def tanh_forward(x, *, out=None):
    return _forward(_TANH, x, out)


def relu_forward(x, *, out=None):
    return _forward(_RELU, x, out)


def relu6_forward(x, *, out=None):
    return _forward(_CLAMP, x, out, 0.0, 6.0)


def leaky_relu_forward(x, *, negative_slope=0.01, out=None):
    return _forward(_LEAKY_RELU, x, out, negative_slope)


def elu_forward(x, *, alpha=1.0, out=None):
    return _forward(_ELU, x, out, alpha, 1.0, 1.0)


def celu_forward(x, *, alpha=1.0, out=None):
    return _forward(_ELU, x, out, alpha, 1.0, 1 / alpha)


def selu_forward(x, *, out=None):
    return _forward(_ELU, x, out, SELU_ALPHA * SELU_SCALE, SELU_SCALE, 1.0)


def gelu_forward(x, *, approximate="none", out=None):
    return _forward(_GELU_TANH if approximate == "tanh" else _GELU, x, out)


def silu_forward(x, *, out=None):
    return _forward(_SILU, x, out)


def mish_forward(x, *, out=None):
    return _forward(_MISH, x, out)


def softplus_forward(x, *, beta=1.0, threshold=20.0, out=None):
    return _forward(_SOFTPLUS, x, out, beta, threshold)


def softsign_forward(x, *, out=None):
    return _forward(_SOFTSIGN, x, out)


def hardtanh_forward(x, *, min_val=-1.0, max_val=1.0, out=None):
    return _forward(_CLAMP, x, out, min_val, max_val)


def hardsigmoid_forward(x, *, out=None):
    return _forward(_HARDSIGMOID, x, out)


def hardswish_forward(x, *, out=None):
    return _forward(_HARDSWISH, x, out)


def logsigmoid_forward(x, *, out=None):
    return _forward(_LOGSIGMOID, x, out)


def softshrink_forward(x, *, lambd=0.5, out=None):
    return _forward(_SOFTSHRINK, x, out, lambd)


def hardshrink_forward(x, *, lambd=0.5, out=None):
    return _forward(_HARDSHRINK, x, out, lambd)


def tanhshrink_forward(x, *, out=None):
    return _forward(_TANHSHRINK, x, out)


def threshold_forward(x, *, threshold=0.0, value=0.0, out=None):
    return _forward(_THRESHOLD, x, out, threshold, value)


sigmoid_backward = tanh_backward = relu_backward = relu6_backward = leaky_relu_backward = _backward
elu_backward = celu_backward = selu_backward = gelu_backward = silu_backward = mish_backward = _backward
softplus_backward = softsign_backward = hardtanh_backward = hardsigmoid_backward = _backward
hardswish_backward = logsigmoid_backward = softshrink_backward = hardshrink_backward = _backward
tanhshrink_backward = threshold_backward = _backward


@kernel
def rrelu_forward_kernel(x, lower, width, seed, y):
    """y = x, or x times the slope that Philox gives for the element's index."""
    for i in prange(x.size):
        slope = x.dtype.type(lower) + x.dtype.type(width) * x.dtype.type(uniform(seed, i))
        y[i] = x[i] if x[i] > 0 else x[i] * slope


@kernel
def rrelu_grad_input_kernel(grad_y, x, lower, width, seed, grad_x):
    """grad_x = grad_y, or grad_y times the same slope, drawn again."""
    for i in prange(x.size):
        slope = x.dtype.type(lower) + x.dtype.type(width) * x.dtype.type(uniform(seed, i))
        grad_x[i] = grad_y[i] if x[i] > 0 else grad_y[i] * slope


def rrelu_forward(x, *, lower=1 / 8, upper=1 / 3, seed=0, out=None):
    vector = np.ascontiguousarray(x).reshape(-1)
    result = empty(vector.size, x.dtype)
    numbers = float(lower), float(upper - lower), int(seed)
    rrelu_forward_kernel(vector, *numbers, result)
    return deliver(result.reshape(x.shape), out), (vector, x.shape, numbers)


def rrelu_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    vector, shape, numbers = saved
    grad_x = empty(vector.size, vector.dtype)
    rrelu_grad_input_kernel(np.ascontiguousarray(grad_y).reshape(-1), vector, *numbers, grad_x)
    return (grad_x.reshape(shape),)


def _run(activation_kernel, x):
    """The kernel, on the calling thread where x is small."""
    return activation_kernel if x.size > _WORTH_THREADS else activation_kernel.serial


@kernel
def prelu_forward_kernel(x, weight, y):
    """y [rows, length] = x, or x times its row's slope; rows go through the channels in turn."""
    for row in prange(x.shape[0]):
        slope = weight[row % weight.size]
        for i in range(x.shape[1]):
            y[row, i] = x[row, i] if x[row, i] > 0 else x[row, i] * slope


@kernel
def prelu_grad_kernel(grad_y, x, weight, grad_x, grad_slope):
    """grad_x [rows, length], and each row's share of its slope's gradient, grad_slope [rows]."""
    for row in prange(x.shape[0]):
        slope = weight[row % weight.size]
        terms = np.empty(x.shape[1], x.dtype)
        for i in range(x.shape[1]):
            positive = x[row, i] > 0
            grad_x[row, i] = grad_y[row, i] if positive else grad_y[row, i] * slope
            terms[i] = x.dtype.type(0) if positive else grad_y[row, i] * x[row, i]
        grad_slope[row] = line_sum(terms)


def _channel_rows(x, channels):
    """x [N, C, ...] as [N * C, the rest]; with one slope for all, as [N, the rest]."""
    rows = x.shape[0] * channels if x.ndim > 1 else min(x.size, 1)
    return np.ascontiguousarray(x).reshape(rows, x.size // rows if rows else 0)


def prelu_forward(x, weight, *, out=None):
    rows = _channel_rows(x, weight.size)
    y = empty(rows.shape, x.dtype)
    slopes = np.ascontiguousarray(weight).reshape(-1)
    if y.size:
        _run(prelu_forward_kernel, rows)(rows, slopes, y)
    return deliver(y.reshape(x.shape), out), (rows, slopes, x.shape, weight.shape)


def prelu_backward(saved, grad_y, needs):
    rows, slopes, x_shape, weight_shape = saved
    grad_x = empty(rows.shape, rows.dtype)
    grad_slope = zeros((rows.shape[0] // max(slopes.size, 1), slopes.size), rows.dtype)
    if rows.size:
        grad_rows = np.ascontiguousarray(grad_y).reshape(rows.shape)
        _run(prelu_grad_kernel, rows)(grad_rows, rows, slopes, grad_x, grad_slope.reshape(-1))
    grad_weight = grad_slope.sum(axis=0).reshape(weight_shape) if needs[1] else None
    return grad_x.reshape(x_shape) if needs[0] else None, grad_weight


@kernel
def glu_forward_kernel(x, y):
    """y [rows, length] = a sigmoid(b), from x [rows, 2, length] with a and b side by side."""
    for row in prange(x.shape[0]):
        for i in range(x.shape[2]):
            y[row, i] = x[row, 0, i] * sigmoid(x[row, 1, i])


@kernel
def glu_grad_input_kernel(grad_y, x, grad_x):
    """grad_x [rows, 2, length] from grad_y [rows, length]: the gate is computed again, not kept."""
    for row in prange(x.shape[0]):
        for i in range(x.shape[2]):
            gate = sigmoid(x[row, 1, i])
            grad_x[row, 0, i] = grad_y[row, i] * gate
            grad_x[row, 1, i] = grad_y[row, i] * x[row, 0, i] * (gate * (x.dtype.type(1) - gate))


def glu_forward(x, *, axis=-1, out=None):
    axis %= x.ndim
    half = x.shape[axis] // 2
    shape = (*x.shape[:axis], half, *x.shape[axis + 1 :])
    length = half * math.prod(x.shape[axis + 1 :])
    halves = np.ascontiguousarray(x).reshape(math.prod(x.shape[:axis]), 2, length)
    y = empty(shape, x.dtype)
    _run(glu_forward_kernel, halves)(halves, y.reshape(halves.shape[0], length))
    return deliver(y, out), (halves, x.shape)


def glu_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    halves, shape = saved
    grad_x = empty(halves.shape, halves.dtype)
    grad_rows = np.ascontiguousarray(grad_y).reshape(halves.shape[0], halves.shape[2])
    _run(glu_grad_input_kernel, halves)(grad_rows, halves, grad_x)
    return (grad_x.reshape(shape),)
