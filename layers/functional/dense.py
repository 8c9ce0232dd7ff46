"""Affine maps and matrix products."""

from ...kernels import dense as kernels
from ..tensor import apply

__all__ = ["bmm", "linear", "matmul"]


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
