"""Activation layers, with torch.nn's names and arguments (`inplace` is not offered: no operation changes its input)."""

from __future__ import annotations

import numpy as np

from . import functional, init
from .layer import Layer
from .tensor import Parameter

__all__ = [
    "ReLU",
    "ReLU6",
    "LeakyReLU",
    "PReLU",
    "RReLU",
    "ELU",
    "CELU",
    "SELU",
    "GELU",
    "SiLU",
    "Mish",
    "Softplus",
    "Softsign",
    "Sigmoid",
    "Tanh",
    "Hardtanh",
    "Hardsigmoid",
    "Hardswish",
    "LogSigmoid",
    "Softshrink",
    "Hardshrink",
    "Tanhshrink",
    "Threshold",
    "GLU",
]


class ReLU(Layer):
    """max(0, x)."""

    def forward(self, input):
        return functional.relu(input)


class ReLU6(Layer):
    """min(max(0, x), 6)."""

    def forward(self, input):
        return functional.relu6(input)


class LeakyReLU(Layer):
    """x above 0, negative_slope x elsewhere."""

    def __init__(self, negative_slope: float = 0.01):
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input):
        return functional.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Layer):
    """x above 0, weight x elsewhere, with learned slopes.

    Args:
        num_parameters: 1 slope for all, or one for each channel.
        init: the slopes' first value.
        dtype: type of the parameters.

    Shapes:
        input: [N, C, ...] -> y: the same. weight: [num_parameters].
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype=np.float32):
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(np.empty(num_parameters, dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the initial values again."""
        init.constant_(self.weight, self.init)

    def forward(self, input):
        return functional.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class RReLU(Layer):
    """x above 0; elsewhere x times a slope: drawn for each element from [lower, upper) in training, else their mean."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3):
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, input):
        return functional.rrelu(input, self.lower, self.upper, self.training)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"


class ELU(Layer):
    """x above 0, alpha (e^x - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0):
        super().__init__()
        self.alpha = alpha

    def forward(self, input):
        return functional.elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class CELU(Layer):
    """x above 0, alpha (e^(x / alpha) - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0):
        super().__init__()
        self.alpha = alpha

    def forward(self, input):
        return functional.celu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class SELU(Layer):
    """The scaled ELU of self-normalising networks."""

    def forward(self, input):
        return functional.selu(input)


class GELU(Layer):
    """x times the normal distribution function at x; approximate: 'none' or 'tanh'."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input):
        return functional.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Layer):
    """x sigmoid(x)."""

    def forward(self, input):
        return functional.silu(input)


class Mish(Layer):
    """x tanh(softplus(x))."""

    def forward(self, input):
        return functional.mish(input)


class Softplus(Layer):
    """log(1 + e^(beta x)) / beta; x itself where beta x is above threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input):
        return functional.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softsign(Layer):
    """x / (1 + |x|)."""

    def forward(self, input):
        return functional.softsign(input)


class Sigmoid(Layer):
    """1 / (1 + e^-x)."""

    def forward(self, input):
        return functional.sigmoid(input)


class Tanh(Layer):
    """The hyperbolic tangent."""

    def forward(self, input):
        return functional.tanh(input)


class Hardtanh(Layer):
    """x, held within [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        super().__init__()
        self.min_val, self.max_val = min_val, max_val

    def forward(self, input):
        return functional.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Hardsigmoid(Layer):
    """(x + 3) / 6, held within [0, 1]."""

    def forward(self, input):
        return functional.hardsigmoid(input)


class Hardswish(Layer):
    """x hardsigmoid(x)."""

    def forward(self, input):
        return functional.hardswish(input)


class LogSigmoid(Layer):
    """log(sigmoid(x))."""

    def forward(self, input):
        return functional.logsigmoid(input)


class Softshrink(Layer):
    """x moved towards 0 by lambd, and 0 within [-lambd, lambd]."""

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input):
        return functional.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Hardshrink(Layer):
    """x, but 0 within [-lambd, lambd]."""

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input):
        return functional.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Tanhshrink(Layer):
    """x - tanh(x)."""

    def forward(self, input):
        return functional.tanhshrink(input)


class Threshold(Layer):
    """x above threshold, value elsewhere."""

    def __init__(self, threshold: float, value: float):
        super().__init__()
        self.threshold, self.value = threshold, value

    def forward(self, input):
        return functional.threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class GLU(Layer):
    """The first half of axis dim times the sigmoid of its second half."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return functional.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
