"""The dense layer."""

from __future__ import annotations

import math

import numpy as np

from ..kernels.check import check_choice, check_size
from ..kernels.dense import ACTIVATIONS
from . import functional, init
from .layer import Layer
from .tensor import Parameter

__all__ = ["Bilinear", "Dense", "Linear"]


class Dense(Layer):
    """y = activation(x W^T + b). `Linear` is its alias.

    Args:
        in_features: size of the input's last axis.
        out_features: size of the output's last axis.
        bias: whether b is there.
        activation: None, 'relu', 'sigmoid', 'tanh' or 'gelu', fused into the product.
        dtype: type of the parameters.

    Shapes:
        input: [..., in_features] -> y: [..., out_features]. weight: [out_features, in_features], bias: [out_features];
        both start evenly distributed in +-1 / sqrt(in_features), as PyTorch's.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str | None = None, dtype=np.float32
    ):
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            check_size(type(self).__name__, name, size)
        check_choice(type(self).__name__, "activation", activation, ACTIVATIONS)
        self.in_features, self.out_features, self.activation = in_features, out_features, activation
        self.weight = Parameter(np.empty((out_features, in_features), dtype))
        self.register_parameter("bias", Parameter(np.empty(out_features, dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values again."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input):
        return functional.linear(input, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        text = f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


Linear = Dense


class Bilinear(Layer):
    """y_o = x1^T W_o x2 + b_o.

    Args:
        in1_features, in2_features: sizes of the inputs' last axes.
        out_features: size of the output's last axis.
        bias: whether b is there.
        dtype: type of the parameters.

    Shapes:
        x1: [..., in1_features], x2: [..., in2_features] -> y: [..., out_features].
        weight: [out_features, in1_features, in2_features], bias: [out_features]; both start evenly distributed in
        +-1 / sqrt(in1_features), as PyTorch's.
    """

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, dtype=np.float32):
        super().__init__()
        sizes = {"in1_features": in1_features, "in2_features": in2_features, "out_features": out_features}
        for name, size in sizes.items():
            check_size("Bilinear", name, size)
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = Parameter(np.empty((out_features, in1_features, in2_features), dtype))
        self.register_parameter("bias", Parameter(np.empty(out_features, dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values again."""
        bound = 1 / math.sqrt(self.in1_features) if self.in1_features else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x1, x2):
        return functional.bilinear(x1, x2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in1_features}, {self.in2_features}, {self.out_features}, bias={self.bias is not None}"
