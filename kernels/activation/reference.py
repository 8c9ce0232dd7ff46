"""Activations, as a textbook writes them. Every other implementation is held against these, in float64.

Forward gives the value and saves the derivative; backward multiplies by it.

Sources: ELU: Clevert et al. 2016; CELU: Barron 2017; SELU: Klambauer et al. 2017; GELU: Hendrycks & Gimpel 2016; SiLU:
Elfwing et al. 2018; Mish: Misra 2019; hardswish: Howard et al. 2019; PReLU: He et al. 2015; RReLU: Xu et al. 2015; GLU:
Dauphin et al. 2017.
"""

import math

import numpy as np

from .. import philox

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    # With every digit on both sides: nothing is taken from a number that is nearly as large.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


def _times_derivative(saved, grad_y, needs):
    return (grad_y * saved if needs[0] else None,)


def sigmoid_forward(x):
    return _sigmoid(x), _sigmoid(x) * _sigmoid(-x)


def tanh_forward(x):
    y = np.asarray(np.tanh(x))
    return y, 1 - y * y


def relu_forward(x):
    return threshold_forward(x)


def relu6_forward(x):
    return hardtanh_forward(x, min_val=0, max_val=6)


def leaky_relu_forward(x, *, negative_slope=0.01):
    slope = np.where(x > 0, 1.0, negative_slope)
    return x * slope, slope


def elu_forward(x, *, alpha=1.0):
    below = np.minimum(x, 0)
    return np.where(x > 0, x, alpha * np.expm1(below)), np.where(x > 0, 1.0, alpha * np.exp(below))


def celu_forward(x, *, alpha=1.0):
    below = np.minimum(x, 0) / alpha
    return np.where(x > 0, x, alpha * np.expm1(below)), np.where(x > 0, 1.0, np.exp(below))


def selu_forward(x):
    y, derivative = elu_forward(x, alpha=SELU_ALPHA)
    return SELU_SCALE * y, SELU_SCALE * derivative


def gelu_forward(x, *, approximate="none"):
    if approximate == "tanh":
        scale = math.sqrt(2 / math.pi)
        t = np.tanh(scale * (x + 0.044715 * x**3))
        inner = scale * (1 + 3 * 0.044715 * x**2)
        return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner
    phi = 0.5 * (1 + _erf(x / math.sqrt(2)))
    return x * phi, phi + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def silu_forward(x):
    s = _sigmoid(x)
    return x * s, s + x * s * _sigmoid(-x)


def mish_forward(x):
    t = np.tanh(np.logaddexp(0, x))
    return x * t, t + x * (1 - t * t) * _sigmoid(x)


def softplus_forward(x, *, beta=1.0, threshold=20.0):
    linear = beta * x > threshold
    return np.where(linear, x, np.logaddexp(0, beta * x) / beta), np.where(linear, 1.0, _sigmoid(beta * x))


def softsign_forward(x):
    return x / (1 + np.abs(x)), 1 / (1 + np.abs(x)) ** 2


def hardtanh_forward(x, *, min_val=-1.0, max_val=1.0):
    inside = (x > min_val) & (x < max_val)
    return np.asarray(np.clip(x, min_val, max_val)), inside.astype(x.dtype)


def hardsigmoid_forward(x):
    inside = (x > -3) & (x < 3)
    return np.asarray(np.clip(x + 3, 0, 6)) / 6, inside / 6.0


def hardswish_forward(x):
    y, derivative = hardsigmoid_forward(x)
    return x * y, y + x * derivative


def logsigmoid_forward(x):
    return np.asarray(-np.logaddexp(0, -x)), _sigmoid(-x)


def softshrink_forward(x, *, lambd=0.5):
    outside = np.abs(x) > lambd
    return np.where(outside, x - lambd * np.sign(x), 0.0 * x), outside.astype(x.dtype)


def hardshrink_forward(x, *, lambd=0.5):
    outside = ~(np.abs(x) <= lambd)
    return np.where(outside, x, 0.0), outside.astype(x.dtype)


def tanhshrink_forward(x):
    t = np.tanh(x)
    return x - t, t * t


def threshold_forward(x, *, threshold=0.0, value=0.0):
    below = x <= threshold
    return np.where(below, value, x), (~below).astype(x.dtype)


def rrelu_forward(x, *, lower=1 / 8, upper=1 / 3, seed=0):
    draw = philox.uniform(seed, np.arange(x.size).reshape(x.shape))
    slope = np.where(x > 0, 1.0, lower + (upper - lower) * draw.astype(x.dtype))
    return x * slope, slope


sigmoid_backward = tanh_backward = relu_backward = relu6_backward = leaky_relu_backward = _times_derivative
elu_backward = celu_backward = selu_backward = gelu_backward = silu_backward = mish_backward = _times_derivative
softplus_backward = softsign_backward = hardtanh_backward = hardsigmoid_backward = _times_derivative
hardswish_backward = logsigmoid_backward = softshrink_backward = hardshrink_backward = _times_derivative
tanhshrink_backward = threshold_backward = rrelu_backward = _times_derivative


def prelu_forward(x, weight):
    slope = weight.reshape(-1, *[1] * (x.ndim - 2)) if x.ndim > 1 else weight.reshape([1] * x.ndim)
    return np.where(x > 0, x, x * slope), (x, slope, weight.shape)


def prelu_backward(saved, grad_y, needs):
    x, slope, weight_shape = saved
    grad_x = np.where(x > 0, grad_y, grad_y * slope) if needs[0] else None
    grad_weight = None
    if needs[1]:
        products = np.where(x > 0, 0.0, grad_y * x)
        shared = math.prod(weight_shape) == 1
        kept = () if shared else (1,)
        grad_weight = products.sum(axis=tuple(axis for axis in range(x.ndim) if axis not in kept)).reshape(weight_shape)
    return grad_x, grad_weight


def glu_forward(x, *, axis=-1):
    a, b = np.split(x, 2, axis=axis)
    return a * _sigmoid(b), (a, _sigmoid(b), axis)


def glu_backward(saved, grad_y, needs):
    a, s, axis = saved
    return (np.concatenate([grad_y * s, grad_y * a * s * (1 - s)], axis=axis) if needs[0] else None,)
