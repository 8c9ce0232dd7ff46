"""Affine maps and matrix products."""

from ...kernels import dense as kernels
from ..tensor import apply
from .elementwise import add
from .shape import permute, reshape, unsqueeze

__all__ = ["bilinear", "bmm", "linear", "matmul"]


def linear(input, weight, bias=None, activation=None):
    """activation(input @ weight.T + bias), in one operation.

    Args:
        input: [..., in_features].
        weight: [out_features, in_features].
        bias: [out_features] or None.
        activation: None, 'relu', 'sigmoid', 'tanh' or 'gelu', applied while the result is at hand. (PyTorch has no such
            argument.)

    Returns:
        [..., out_features].
    """
    return apply(kernels.dense, input, weight, bias, activation=activation)


def matmul(input, other):
    """Matrix product over the last two axes, with broadcasting over the others, as NumPy's and PyTorch's matmul.

    Args:
        input: [..., m, k], or [k].
        other: [..., k, n], or [k].
    """
    return apply(kernels.matmul, input, other)


def bmm(input, mat2):
    """Batched matrix product: [b, m, k] and [b, k, n] give [b, m, n].

    Raises:
        ValueError: not two stacks of matrices of the same number.
    """
    if input.ndim != 3 or mat2.ndim != 3 or input.shape[0] != mat2.shape[0]:
        raise ValueError(f"bmm: expected [b, m, k] and [b, k, n], got shapes {input.shape} and {mat2.shape}")
    return apply(kernels.matmul, input, mat2)


def bilinear(input1, input2, weight, bias=None):
    """y[..., o] = input1[..., :] weight[o] input2[..., :] + bias[o].

    Args:
        input1: [..., in1_features].
        input2: [..., in2_features], with input1's leading axes.
        weight: [out_features, in1_features, in2_features].
        bias: [out_features] or None.
    """
    if weight.ndim != 3:
        raise ValueError(f"bilinear: expected weight as [out, in1, in2], got shape {weight.shape}")
    outputs, first, second = weight.shape
    leading = input1.shape[:-1]
    if input1.shape != (*leading, first) or input2.shape != (*leading, second):
        raise ValueError(
            f"bilinear: expected inputs as [..., {first}] and [..., {second}] (weight is {weight.shape}), "
            f"got shapes {input1.shape} and {input2.shape}"
        )
    # One product for input1 with all of weight, then one small product a row with input2.
    flat = reshape(permute(weight, (0, 2, 1)), (outputs * second, first))
    rows = reshape(linear(input1, flat), (*leading, outputs, second))
    y = reshape(matmul(rows, unsqueeze(input2, -1)), (*leading, outputs))
    return y if bias is None else add(y, bias)
