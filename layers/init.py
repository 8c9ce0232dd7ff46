"""Initial weights, by PyTorch's names. Each function fills a parameter in place and returns it.

Values are drawn on the host from the generator that `rv.seed` sets, so that a seed gives the same network on the CPU
and on a GPU.
"""

from __future__ import annotations

import math

import numpy as np

from ..kernels import accumulate
from ..kernels import device as devices
from .random import generator
from .tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def fan_in_and_out(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight [out, in, *kernel].

    Raises:
        ValueError: fewer than two axes.
    """
    if len(shape) < 2:
        raise ValueError(f"init: expected a weight of at least two axes [out, in, ...], got shape {shape}")
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights grow so that a signal keeps its variance through `nonlinearity`.

    Args:
        nonlinearity: 'linear', 'conv1d' ... 'conv3d', 'sigmoid', 'tanh', 'relu', 'leaky_relu' or 'selu'.
        param: the negative slope of leaky_relu, 0.01 by default.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    gains |= {f"conv{transposed}{n}d": 1.0 for n in (1, 2, 3) for transposed in ("", "_transpose")}
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: expected one of {', '.join(gains)}, leaky_relu, got {nonlinearity!r}")
    return gains[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Values drawn evenly from [a, b)."""
    return _fill(tensor, generator().uniform(a, b, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normally distributed values."""
    return _fill(tensor, generator().normal(mean, std, tensor.shape))


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normally distributed values; what falls outside [a, b] is drawn again."""
    if not a < b or b < mean - 8 * std or a > mean + 8 * std:
        raise ValueError(f"trunc_normal_: expected a < b around the mean, got a={a}, b={b}, mean={mean}, std={std}")
    values = generator().normal(mean, std, tensor.shape)
    while (outside := (values < a) | (values > b)).any():
        values[outside] = generator().normal(mean, std, int(outside.sum()))
    return _fill(tensor, values)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """The value `val` everywhere."""
    return _fill(tensor, np.full(tensor.shape, val))


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix; a rectangular one keeps as many inputs as it can."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a matrix, got shape {tensor.shape}")
    return _fill(tensor, np.eye(*tensor.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight [out, in, *kernel] that passes its input channels on."""
    if tensor.ndim not in (3, 4, 5) or tensor.shape[0] % groups:
        raise ValueError(
            f"dirac_: expected [out, in, *kernel] with out divisible by {groups}, got shape {tensor.shape}"
        )
    values = np.zeros(tensor.shape)
    centre = tuple(size // 2 for size in tensor.shape[2:])
    per_group = tensor.shape[0] // groups
    for group in range(groups):
        for channel in range(min(per_group, tensor.shape[1])):
            values[(group * per_group + channel, channel, *centre)] = 1
    return _fill(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot & Bengio 2010: even values of variance 2 gain^2 / (fan_in + fan_out)."""
    bound = gain * math.sqrt(6 / sum(fan_in_and_out(tensor.shape)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot & Bengio 2010: normal values of variance 2 gain^2 / (fan_in + fan_out)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fan_in_and_out(tensor.shape))))


def kaiming_uniform_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """He et al. 2015: even values of variance gain^2 / fan. `a` is the negative slope for leaky_relu."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """He et al. 2015: normal values of variance gain^2 / fan. `a` is the negative slope for leaky_relu."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Saxe et al. 2014: rows (or columns, whichever are fewer) orthonormal, times gain."""
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected at least two axes, got shape {tensor.shape}")
    flat = generator().standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(flat)
    q *= np.sign(np.diag(r))  # without this Q would not be evenly distributed
    return _fill(tensor, gain * (q.T if rows < columns else q).reshape(tensor.shape))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01) -> Tensor:
    """Martens 2010: normal values, and in each column the fraction `sparsity` of them set to zero."""
    if tensor.ndim != 2 or not 0 <= sparsity <= 1:
        raise ValueError(f"sparse_: expected a matrix and sparsity in [0, 1], got shape {tensor.shape} and {sparsity}")
    values = generator().normal(0.0, std, tensor.shape)
    zeros = math.ceil(sparsity * tensor.shape[0])
    for column in range(tensor.shape[1]):
        values[generator().permutation(tensor.shape[0])[:zeros], column] = 0
    return _fill(tensor, values)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    fan = fan_in_and_out(tensor.shape)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _fill(tensor: Tensor, values: np.ndarray) -> Tensor:
    accumulate.copy_into(tensor.array, devices.to_device(values.astype(tensor.dtype), tensor.device))
    return tensor
