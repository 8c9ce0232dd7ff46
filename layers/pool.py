"""Pooling layers. They hold no parameters; arguments and shapes are those of the functions of the same name."""

from __future__ import annotations

from . import functional
from .layer import Layer

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


class _MaxPool(Layer):
    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def _arguments(self):
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Largest value under each window of [N, C, L] or [C, L]; see `MaxPool2d`."""

    def forward(self, input):
        return functional.max_pool1d(input, *self._arguments())


class MaxPool2d(_MaxPool):
    """Largest value under each window of [N, C, H, W] or [C, H, W].

    Args:
        kernel_size: positions under a window; one integer, or one an axis, as all sizes here.
        stride: step between windows; None for kernel_size.
        padding: positions of minus infinity around the plane, at most half of kernel_size.
        dilation: step between the positions under a window.
        return_indices: whether `forward` returns also int64 positions in the flattened plane, for `MaxUnpool2d`.
        ceil_mode: whether a last window may reach past the padded input.
    """

    def forward(self, input):
        return functional.max_pool2d(input, *self._arguments())


class MaxPool3d(_MaxPool):
    """Largest value under each window of [N, C, D, H, W] or [C, D, H, W]; see `MaxPool2d`."""

    def forward(self, input):
        return functional.max_pool3d(input, *self._arguments())


class _MaxUnpool(Layer):
    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding

    def _arguments(self):
        return self.kernel_size, self.stride, self.padding

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Values of [N, C, L] or [C, L] back to where `MaxPool1d` found them; see `MaxUnpool2d`."""

    def forward(self, input, indices, output_size=None):
        return functional.max_unpool1d(input, indices, *self._arguments(), output_size)


class MaxUnpool2d(_MaxUnpool):
    """Values of [N, C, H, W] or [C, H, W] back to where `MaxPool2d` found them, zeros elsewhere.

    Args:
        kernel_size, stride, padding: the pool's.

    `forward(input, indices, output_size=None)` takes the pool's two outputs, and the shape of the pool's input where
    several shapes pool to one.
    """

    def forward(self, input, indices, output_size=None):
        return functional.max_unpool2d(input, indices, *self._arguments(), output_size)


class MaxUnpool3d(_MaxUnpool):
    """Values of [N, C, D, H, W] or [C, D, H, W] back to where `MaxPool3d` found them; see `MaxUnpool2d`."""

    def forward(self, input, indices, output_size=None):
        return functional.max_unpool3d(input, indices, *self._arguments(), output_size)


class _AvgPool(Layer):
    def __init__(
        self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def _arguments(self):
        sizes = self.kernel_size, self.stride, self.padding
        return *sizes, self.ceil_mode, self.count_include_pad, self.divisor_override

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """Mean under each window of [N, C, L] or [C, L]; see `AvgPool2d`, but for divisor_override, which it has not."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)

    def forward(self, input):
        return functional.avg_pool1d(input, *self._arguments()[:-1])


class AvgPool2d(_AvgPool):
    """Mean under each window of [N, C, H, W] or [C, H, W].

    Args:
        kernel_size: positions under a window; one integer, or one an axis, as all sizes here.
        stride: step between windows; None for kernel_size.
        padding: zeros around the plane, at most half of kernel_size.
        ceil_mode: whether a last window may reach past the padded input; what lies there does not count.
        count_include_pad: whether padding counts as positions.
        divisor_override: what to divide the sums by instead of the number of positions.
    """

    def forward(self, input):
        return functional.avg_pool2d(input, *self._arguments())


class AvgPool3d(_AvgPool):
    """Mean under each window of [N, C, D, H, W] or [C, D, H, W]; see `AvgPool2d`."""

    def forward(self, input):
        return functional.avg_pool3d(input, *self._arguments())


class _LPPool(Layer):
    def __init__(self, norm_type, kernel_size, stride=None, ceil_mode=False):
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def _arguments(self):
        return self.norm_type, self.kernel_size, self.stride, self.ceil_mode

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """Power average under each window of [N, C, L] or [C, L]; see `LPPool2d`."""

    def forward(self, input):
        return functional.lp_pool1d(input, *self._arguments())


class LPPool2d(_LPPool):
    """(sum of x^norm_type)^(1/norm_type) under each window of [N, C, H, W] or [C, H, W].

    Args:
        norm_type: the power; infinity takes the largest magnitude, minus infinity the smallest.
        kernel_size: positions under a window; one integer, or one an axis, as all sizes here.
        stride: step between windows; None for kernel_size.
        ceil_mode: whether a last window may reach past the input; it counts as if it were full of its mean.
    """

    def forward(self, input):
        return functional.lp_pool2d(input, *self._arguments())


class LPPool3d(_LPPool):
    """Power average under each window of [N, C, D, H, W] or [C, D, H, W]; see `LPPool2d`."""

    def forward(self, input):
        return functional.lp_pool3d(input, *self._arguments())


class _AdaptiveAvgPool(Layer):
    def __init__(self, output_size):
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Mean under each of output_size windows of [N, C, L] or [C, L]; see `AdaptiveAvgPool2d`."""

    def forward(self, input):
        return functional.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Mean under each window of [N, C, H, W] or [C, H, W], with windows that share the plane evenly.

    Args:
        output_size: how many windows on each axis, one integer or one an axis; None for the input's own size.
    """

    def forward(self, input):
        return functional.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Mean under each window of [N, C, D, H, W] or [C, D, H, W]; see `AdaptiveAvgPool2d`."""

    def forward(self, input):
        return functional.adaptive_avg_pool3d(input, self.output_size)


class _AdaptiveMaxPool(Layer):
    def __init__(self, output_size, return_indices=False):
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Largest value under each of output_size windows of [N, C, L] or [C, L]; see `AdaptiveMaxPool2d`."""

    def forward(self, input):
        return functional.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Largest value under each window of [N, C, H, W] or [C, H, W], with windows that share the plane evenly.

    Args:
        output_size: how many windows on each axis, one integer or one an axis; None for the input's own size.
        return_indices: whether `forward` returns also int64 positions in the flattened plane.
    """

    def forward(self, input):
        return functional.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Largest value under each window of [N, C, D, H, W] or [C, D, H, W]; see `AdaptiveMaxPool2d`."""

    def forward(self, input):
        return functional.adaptive_max_pool3d(input, self.output_size, self.return_indices)
