"""Activations, and the random one."""

from ...kernels import activation as kernels
from .. import random
from ..tensor import apply

__all__ = [
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "rrelu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "sigmoid",
    "tanh",
    "hardtanh",
    "hardsigmoid",
    "hardswish",
    "logsigmoid",
    "softshrink",
    "hardshrink",
    "tanhshrink",
    "threshold",
    "glu",
]


def relu(input):
    """max(0, x) for every element."""
    return apply(kernels.relu, input)


def relu6(input):
    """min(max(0, x), 6) for every element."""
    return apply(kernels.relu6, input)


def leaky_relu(input, negative_slope=0.01):
    """x above 0, negative_slope x elsewhere."""
    return apply(kernels.leaky_relu, input, negative_slope=negative_slope)


def prelu(input, weight):
    """x above 0, weight x elsewhere, with a learned weight a channel.

    Args:
        input: [N, C, ...] or [N].
        weight: [C], or [1] for one slope for all.
    """
    return apply(kernels.prelu, input, weight)


def rrelu(input, lower=1 / 8, upper=1 / 3, training=False):
    """x above 0; elsewhere x times a slope, drawn for each element from [lower, upper) in training, else their mean."""
    if training:
        return apply(kernels.rrelu, input, lower=lower, upper=upper, seed=random.next_philox_seed())
    return leaky_relu(input, (lower + upper) / 2)


def elu(input, alpha=1.0):
    """x above 0, alpha (e^x - 1) elsewhere."""
    return apply(kernels.elu, input, alpha=alpha)


def celu(input, alpha=1.0):
    """x above 0, alpha (e^(x / alpha) - 1) elsewhere."""
    return apply(kernels.celu, input, alpha=alpha)


def selu(input):
    """The scaled ELU of self-normalising networks: its constants keep mean 0 and variance 1."""
    return apply(kernels.selu, input)


def gelu(input, approximate="none"):
    """x times the normal distribution function at x; approximate='tanh' computes it by the tanh formula."""
    return apply(kernels.gelu, input, approximate=approximate)


def silu(input):
    """x sigmoid(x), also known as swish."""
    return apply(kernels.silu, input)


def mish(input):
    """x tanh(softplus(x))."""
    return apply(kernels.mish, input)


def softplus(input, beta=1.0, threshold=20.0):
    """log(1 + e^(beta x)) / beta; x itself where beta x is above threshold."""
    return apply(kernels.softplus, input, beta=beta, threshold=threshold)


def softsign(input):
    """x / (1 + |x|)."""
    return apply(kernels.softsign, input)


def sigmoid(input):
    """1 / (1 + e^-x)."""
    return apply(kernels.sigmoid, input)


def tanh(input):
    """The hyperbolic tangent."""
    return apply(kernels.tanh, input)


def hardtanh(input, min_val=-1.0, max_val=1.0):
    """x, held within [min_val, max_val]."""
    return apply(kernels.hardtanh, input, min_val=min_val, max_val=max_val)


def hardsigmoid(input):
    """(x + 3) / 6, held within [0, 1]."""
    return apply(kernels.hardsigmoid, input)


def hardswish(input):
    """x hardsigmoid(x)."""
    return apply(kernels.hardswish, input)


def logsigmoid(input):
    """log(sigmoid(x)), exact also where sigmoid(x) would round to 0."""
    return apply(kernels.logsigmoid, input)


def softshrink(input, lambd=0.5):
    """x moved towards 0 by lambd, and 0 within [-lambd, lambd]."""
    return apply(kernels.softshrink, input, lambd=lambd)


def hardshrink(input, lambd=0.5):
    """x, but 0 within [-lambd, lambd]."""
    return apply(kernels.hardshrink, input, lambd=lambd)


def tanhshrink(input):
    """x - tanh(x)."""
    return apply(kernels.tanhshrink, input)


def threshold(input, threshold, value):
    """x above threshold, value elsewhere."""
    return apply(kernels.threshold, input, threshold=threshold, value=value)


def glu(input, dim=-1):
    """The first half of axis dim times the sigmoid of its second half."""
    return apply(kernels.glu, input, axis=dim)
