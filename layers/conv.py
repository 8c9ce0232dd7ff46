"""Convolutional layers and their transposes."""

from __future__ import annotations

import math

import numpy as np

from ..kernels.check import check_size
from . import functional, init
from .functional.conv import per_axis
from .layer import Layer
from .tensor import Parameter

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Layer):
    """What all convolutional layers hold."""

    rank: int

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
        bias,
        padding_mode,
        activation,
        dtype,
    ):
        super().__init__()
        name = type(self).__name__
        for argument, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            check_size(name, argument, value, 1)
        for argument, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value % groups:
                raise ValueError(f"{name}: expected {argument} divisible by groups {groups}, got {value}")
        modes = ("zeros",) if transposed else _PADDING_MODES
        if padding_mode not in modes:
            raise ValueError(f"{name}: expected padding_mode as one of {', '.join(modes)}, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, self.rank)
        self.stride = per_axis(name, "stride", stride, self.rank)
        self.dilation = per_axis(name, "dilation", dilation, self.rank)
        self.output_padding = per_axis(name, "output_padding", output_padding, self.rank)
        self.padding_mode, self.activation, self.transposed = padding_mode, activation, transposed
        self.padding = padding if isinstance(padding, str) else per_axis(name, "padding", padding, self.rank)
        if min(self.kernel_size) < 1 or min(self.stride) < 1:
            raise ValueError(
                f"{name}: expected kernel_size and stride of at least 1, got {self.kernel_size} and {self.stride}"
            )
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{name}: expected padding as 'same', 'valid' or integers, got {padding!r}")
        if padding == "same" and max(self.stride) > 1:
            raise ValueError(f"{name}: expected stride 1 with padding 'same', got {self.stride}")
        channels = (in_channels, out_channels // groups) if transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(np.empty((*channels, *self.kernel_size), dtype))
        self.register_parameter("bias", Parameter(np.empty(out_channels, dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values again."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fan_in_and_out(self.weight.shape)[0])
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ones, zeros = (1,) * self.rank, (0,) * self.rank
        for name, default in (
            ("padding", zeros),
            ("dilation", ones),
            ("output_padding", zeros),
            ("groups", 1),
        ):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        text += ", bias=False" if self.bias is None else ""
        text += f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else ""
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


class _Conv(_Convolution):
    """A convolution of `rank` axes, as its function computes it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        activation: str | None = None,
        dtype=np.float32,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            False,
            0,
            groups,
            bias,
            padding_mode,
            activation,
            dtype,
        )
        # As pad() wants it: (before, after) pairs, the last axis first.
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
            pairs = [(total // 2, total - total // 2) for total in totals]
        else:
            pairs = [(size, size) for size in ((0,) * self.rank if padding == "valid" else self.padding)]
        self._reversed_padding_repeated_twice = tuple(size for pair in reversed(pairs) for size in pair)

    def forward(self, input, residual=None):
        """
        Args:
            input: the input.
            residual: of the output's shape, added to it before the activation; or None.
        """
        padding = self.padding
        if self.padding_mode != "zeros":
            input = functional.pad(input, self._reversed_padding_repeated_twice, self.padding_mode)
            padding = 0
        return self._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            self.activation,
            residual,
        )


class Conv1d(_Conv):
    """A convolution over one axis. See Conv2d.

    Shapes:
        input: [N, in_channels, L] or [in_channels, L]. weight: [out_channels, in_channels / groups, kernel].
    """

    rank = 1
    _function = staticmethod(functional.conv1d)


class Conv2d(_Conv):
    """A convolution over images.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number, or one per axis.
        stride: distance between output positions, one number or one per axis.
        padding: positions added on both sides of each axis, one number or one per axis; 'valid' for none; 'same' for an
            output of the input's size (stride 1 only).
        dilation: distance between kernel positions, one number or one per axis.
        groups: channels are split into that many convolutions side by side; in_channels of them is depthwise.
        bias: whether there is one.
        padding_mode: what the padding holds: 'zeros', 'reflect', 'replicate' or 'circular'.
        activation: None or 'relu', fused into the convolution. (PyTorch has no such argument.)
        dtype: type of the parameters.

    Shapes:
        input: [N, in_channels, H, W] or [in_channels, H, W] -> y: [N, out_channels, OH, OW], with
        OH = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1.
        weight: [out_channels, in_channels / groups, kernel height, kernel width], bias: [out_channels]; both start
        evenly distributed in +-1 / sqrt(in_channels / groups * kernel height * kernel width), as PyTorch's.
    """

    rank = 2
    _function = staticmethod(functional.conv2d)


class Conv3d(_Conv):
    """A convolution over volumes. See Conv2d.

    Shapes:
        input: [N, in_channels, D, H, W] or [in_channels, D, H, W].
        weight: [out_channels, in_channels / groups, *kernel].
    """

    rank = 3
    _function = staticmethod(functional.conv3d)


class _ConvTranspose(_Convolution):
    """A transposed convolution of `rank` axes, as its function computes it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        activation: str | None = None,
        dtype=np.float32,
    ):
        if isinstance(padding, str):
            raise TypeError(f"{type(self).__name__}: expected padding as integers, got {padding!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            True,
            output_padding,
            groups,
            bias,
            padding_mode,
            activation,
            dtype,
        )

    def forward(self, input, output_size=None, residual=None):
        """
        Args:
            input: the input.
            output_size: the spatial sizes wanted, or the whole shape; it takes the place of `output_padding`.
            residual: of the output's shape, added to it before the activation; or None.

        Raises:
            ValueError: a size that no output_padding below the stride gives.
        """
        extra = self.output_padding if output_size is None else self._output_padding(input, tuple(output_size))
        return self._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            extra,
            self.groups,
            self.dilation,
            self.activation,
            residual,
        )

    def _output_padding(self, input, output_size):
        if len(output_size) == input.ndim:
            output_size = output_size[input.ndim - self.rank :]
        if len(output_size) != self.rank:
            raise ValueError(
                f"{type(self).__name__}: expected output_size of {self.rank} or {input.ndim} sizes, got {output_size}"
            )
        smallest = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(
                input.shape[input.ndim - self.rank :], self.stride, self.padding, self.dilation, self.kernel_size
            )
        ]
        extra = tuple(wanted - least for wanted, least in zip(output_size, smallest))
        if not all(0 <= e < s for e, s in zip(extra, self.stride)):
            raise ValueError(
                f"{type(self).__name__}: expected output_size from {tuple(smallest)} and less than stride "
                f"{self.stride} above, got {output_size}"
            )
        return extra


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over one axis. See ConvTranspose2d.

    Shapes:
        input: [N, in_channels, L] or [in_channels, L]. weight: [in_channels, out_channels / groups, kernel].
    """

    rank = 1
    _function = staticmethod(functional.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over images: the gradient of Conv2d, used to enlarge.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number, or one per axis.
        stride: distance between the places of neighbouring inputs in the output, one number or one per axis.
        padding: positions cut off on both sides of each axis of the output, one number or one per axis.
        output_padding: positions added after each axis of the output, below stride or dilation.
        groups: channels are split into that many convolutions side by side.
        bias: whether there is one.
        dilation: distance between kernel positions, one number or one per axis.
        padding_mode: 'zeros', the only one there is.
        activation: None or 'relu', fused into the convolution. (PyTorch has no such argument.)
        dtype: type of the parameters.

    Shapes:
        input: [N, in_channels, H, W] or [in_channels, H, W] -> y: [N, out_channels, OH, OW], with
        OH = (H - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.
        weight: [in_channels, out_channels / groups, kernel height, kernel width], bias: [out_channels]; both start
        evenly distributed in +-1 / sqrt(out_channels / groups * kernel height * kernel width), as PyTorch's.
    """

    rank = 2
    _function = staticmethod(functional.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution over volumes. See ConvTranspose2d.

    Shapes:
        input: [N, in_channels, D, H, W] or [in_channels, D, H, W].
        weight: [in_channels, out_channels / groups, *kernel].
    """

    rank = 3
    _function = staticmethod(functional.conv_transpose3d)
