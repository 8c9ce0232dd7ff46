"""Layers that bring planes to another size or order. They hold no parameters."""

from __future__ import annotations

from . import functional
from .layer import Layer

__all__ = [
    "ChannelShuffle",
    "Fold",
    "PixelShuffle",
    "PixelUnshuffle",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
]


class Upsample(Layer):
    """Resizes every plane of [N, C, *spatial], to a size or by a factor.

    Args:
        size: the output's spatial shape, or one integer for all axes.
        scale_factor: output size / input size, one number or one an axis. Either this or size is given.
        mode: 'nearest', 'linear', 'bilinear', 'bicubic', 'trilinear' and the others of `functional.interpolate`.
        align_corners: whether first and last positions of input and output coincide, rather than their outer edges.
        recompute_scale_factor: place the output by the rounded size instead of by scale_factor.
    """

    def __init__(self, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None):
        super().__init__()
        self.size, self.mode, self.align_corners = size, mode, align_corners
        self.scale_factor = tuple(scale_factor) if isinstance(scale_factor, list) else scale_factor
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input):
        return functional.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        extent = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{extent}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Resizes [N, C, H, W], each pixel taking the nearest one's value.

    Args:
        size: height and width of the output.
        scale_factor: output size / input size. Either this or size is given.
    """

    def __init__(self, size=None, scale_factor=None):
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Resizes [N, C, H, W] bilinearly, with the corner pixels of input and output at the same place.

    Args:
        size: height and width of the output.
        scale_factor: output size / input size. Either this or size is given.
    """

    def __init__(self, size=None, scale_factor=None):
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)


class PixelShuffle(Layer):
    """[..., C * r^2, H, W] -> [..., C, H * r, W * r] with r = upscale_factor."""

    def __init__(self, upscale_factor):
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input):
        return functional.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Layer):
    """[..., C, H * r, W * r] -> [..., C * r^2, H, W] with r = downscale_factor."""

    def __init__(self, downscale_factor):
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input):
        return functional.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Layer):
    """[N, C, *spatial] with the channels of `groups` groups interleaved."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, input):
        return functional.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class _Windows(Layer):
    def __init__(self, kernel_size, dilation, padding, stride):
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def _arguments(self):
        return self.kernel_size, self.dilation, self.padding, self.stride

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Unfold(_Windows):
    """Every sliding window of [N, C, H, W] or [C, H, W] as a column: [..., C * kernel area, windows].

    Args:
        kernel_size: height and width of a window; one integer, or one an axis, as all sizes here.
        dilation: step between the positions under a window.
        padding: zeros around the plane.
        stride: step between windows.
    """

    def __init__(self, kernel_size, dilation=1, padding=0, stride=1):
        super().__init__(kernel_size, dilation, padding, stride)

    def forward(self, input):
        return functional.unfold(input, *self._arguments())


class Fold(_Windows):
    """Columns [N, C * kernel area, windows] back to [N, C, *output_size], values from overlapping windows summed.

    Args:
        output_size: height and width of the output.
        kernel_size, dilation, padding, stride: as in `Unfold`.
    """

    def __init__(self, output_size, kernel_size, dilation=1, padding=0, stride=1):
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, input):
        return functional.fold(input, self.output_size, *self._arguments())

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"
