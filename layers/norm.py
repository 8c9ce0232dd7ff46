"""Normalisation layers."""

from __future__ import annotations

import warnings

import numpy as np

from ..kernels.accumulate import count
from ..kernels.check import check_size, refuse_value
from . import functional, init
from .layer import Layer
from .tensor import Parameter, Tensor

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
]


class _AffineLayer(Layer):
    """A factor `weight` that starts as one and a shift `bias` that starts as zero, each there or not."""

    def _make_affine(self, shape: tuple[int, ...], weight: bool, bias: bool, dtype) -> None:
        self.register_parameter("weight", Parameter(np.empty(shape, dtype)) if weight else None)
        self.register_parameter("bias", Parameter(np.empty(shape, dtype)) if bias else None)

    def reset_parameters(self) -> None:
        """Puts back the initial values."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _ChannelNorm(_AffineLayer):
    """What batch and instance normalisation share: channels, running statistics, and which ranks they take."""

    ranks: tuple[int, ...] = ()

    def __init__(self, num_features, eps, momentum, affine, track_running_stats, dtype, bias):
        super().__init__()
        check_size(type(self).__name__, "num_features", num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._make_affine((num_features,), affine, affine and bias, dtype)
        tracked = track_running_stats
        self.register_buffer("running_mean", Tensor(np.empty(num_features, dtype)) if tracked else None)
        self.register_buffer("running_var", Tensor(np.empty(num_features, dtype)) if tracked else None)
        self.register_buffer("num_batches_tracked", Tensor(np.empty((), np.int64)) if tracked else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forgets the running statistics: mean 0, variance 1, no batches."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Puts back the initial values, of the running statistics too."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_rank(self, input) -> None:
        if input.ndim not in self.ranks:
            refuse_value(
                type(self).__name__, "input", f"with {' or '.join(map(str, self.ranks))} axes", f"shape {input.shape}"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_ChannelNorm):
    """Batch normalisation: each channel brought to mean 0 and variance 1, then scaled and shifted.

    In training the mean and variance are the batch's; in evaluation the running ones, if they are tracked.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: how far the running statistics move at each batch; None keeps the mean over all batches.
        affine: whether `weight` is there, and `bias`.
        track_running_stats: whether running statistics are kept.
        dtype: type of parameters and running statistics.
        bias: whether `bias` is there, where `affine`.
        activation: None or 'relu', fused into the normalisation. (PyTorch has no such argument.)

    Shapes:
        weight, bias, running_mean, running_var: [C]; num_batches_tracked: [] of int64. running_var follows the unbiased
        variance.

    Raises:
        ValueError: training with one value per channel.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype=np.float32,
        *,
        bias: bool = True,
        activation: str | None = None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)
        self.activation = activation

    def forward(self, input):
        self._check_rank(input)
        track = self.training and self.track_running_stats
        use_running = track or not self.training
        factor = self.momentum
        if factor is None:
            factor = 1 / (1 + float(self.num_batches_tracked)) if track else 0.0
        y = functional.batch_norm(
            input,
            self.running_mean if use_running else None,
            self.running_var if use_running else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            factor,
            self.eps,
            self.activation,
        )
        if track:
            count(self.num_batches_tracked.array)
        return y

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


class BatchNorm1d(_BatchNorm):
    __doc__ = f"{_BatchNorm.__doc__}\n    Input: [N, C] or [N, C, L]."
    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = f"{_BatchNorm.__doc__}\n    Input: [N, C, H, W]."
    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = f"{_BatchNorm.__doc__}\n    Input: [N, C, D, H, W]."
    ranks = (5,)


class _InstanceNorm(_ChannelNorm):
    """Instance normalisation: each channel of each instance brought to mean 0 and variance 1.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: how far the running statistics move at each batch.
        affine: whether `weight` and `bias` are there, which then scale and shift each channel.
        track_running_stats: whether running statistics are kept, which evaluation then uses.
        dtype: type of parameters and running statistics.
        bias: whether `bias` is there, where `affine`.

    Shapes:
        weight, bias, running_mean, running_var: [C]; num_batches_tracked: [] of int64.

    Raises:
        ValueError: one spatial element only.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype=np.float32,
        *,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias)

    def forward(self, input):
        self._check_rank(input)
        without_batch = input.ndim == min(self.ranks)
        channels = input.shape[0 if without_batch else 1]
        if channels != self.num_features:
            if self.affine or self.track_running_stats:
                refuse_value(type(self).__name__, "input", f"of {self.num_features} channels", f"shape {input.shape}")
            warnings.warn(
                f"{type(self).__name__}: input has {channels} channels, not num_features={self.num_features}, which "
                "affine=False leaves unused",
                stacklevel=3,
            )
        y = functional.instance_norm(
            functional.unsqueeze(input, 0) if without_batch else input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return functional.squeeze(y, 0) if without_batch else y


class InstanceNorm1d(_InstanceNorm):
    __doc__ = f"{_InstanceNorm.__doc__}\n    Input: [N, C, L] or [C, L]."
    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = f"{_InstanceNorm.__doc__}\n    Input: [N, C, H, W] or [C, H, W]."
    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    __doc__ = f"{_InstanceNorm.__doc__}\n    Input: [N, C, D, H, W] or [C, D, H, W]."
    ranks = (4, 5)


class GroupNorm(_AffineLayer):
    """Each group of neighbouring channels of each sample brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        num_groups: into how many groups the channels are split.
        num_channels: C, a multiple of num_groups.
        eps: added to the variance.
        affine: whether `weight` and `bias` are there.
        dtype: type of the parameters.
        bias: whether `bias` is there, where `affine`.

    Shapes:
        input: [N, C, ...] -> the same. weight, bias: [C].
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype=np.float32,
        *,
        bias: bool = True,
    ):
        super().__init__()
        check_size("GroupNorm", "num_groups", num_groups, 1)
        check_size("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            refuse_value("GroupNorm", "num_channels", f"as a multiple of num_groups={num_groups}", num_channels)
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self._make_affine((num_channels,), affine, affine and bias, dtype)
        self.reset_parameters()

    def forward(self, input):
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LayerNorm(_AffineLayer):
    """The values over the trailing axes brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        normalized_shape: sizes of the trailing axes; an integer stands for one.
        eps: added to the variance.
        elementwise_affine: whether `weight` is there, and `bias`.
        bias: whether `bias` is there, where `elementwise_affine`.
        dtype: type of the parameters.

    Shapes:
        input: [..., *normalized_shape] -> the same. weight, bias: normalized_shape.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype=np.float32,
    ):
        super().__init__()
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._make_affine(self.normalized_shape, elementwise_affine, elementwise_affine and bias, dtype)
        self.reset_parameters()

    def forward(self, input):
        return functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Layer):
    """The values over the trailing axes divided by their root mean square, then scaled.

    Args:
        normalized_shape: sizes of the trailing axes; an integer stands for one.
        eps: added to the mean square; None is the spacing of floating-point numbers at 1.
        elementwise_affine: whether `weight` is there.
        dtype: type of the parameter.

    Shapes:
        input: [..., *normalized_shape] -> the same. weight: normalized_shape.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype=np.float32,
    ):
        super().__init__()
        self.normalized_shape = _as_shape(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        weight = Parameter(np.empty(self.normalized_shape, dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Puts back the initial values."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input):
        return functional.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(Layer):
    """Each value divided by (k + alpha * mean of the squares over neighbouring channels)^beta.

    Args:
        size: how many channels the mean goes over; those past the first and the last channel count as zeros.
        alpha: factor of the mean.
        beta: exponent.
        k: constant that is added to the mean.

    Shapes:
        input: [N, C, ...] -> the same.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input):
        return functional.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _as_shape(normalized_shape) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)
