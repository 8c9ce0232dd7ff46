"""Planes in another size or order: interpolation, unfold and fold, pixel and channel shuffles."""

from __future__ import annotations

import math

from ...kernels import resize as kernels
from ..tensor import apply
from . import pool
from .pool import per_axis

__all__ = [
    "channel_shuffle",
    "fold",
    "interpolate",
    "pixel_shuffle",
    "pixel_unshuffle",
    "unfold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]

# PyTorch's mode -> the number of spatial axes that it is for (None: any), and the kernels' mode.
_MODES = {
    "nearest": (None, "nearest"),
    "nearest-exact": (None, "nearest-exact"),
    "area": (None, None),
    "linear": (1, "linear"),
    "bilinear": (2, "linear"),
    "bicubic": (2, "cubic"),
    "trilinear": (3, "linear"),
    "lanczos": (2, "lanczos"),
}
_AREA_POOLS = {1: pool.adaptive_avg_pool1d, 2: pool.adaptive_avg_pool2d, 3: pool.adaptive_avg_pool3d}


def interpolate(
    input,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
):
    """Resizes every plane to `size`, or by `scale_factor`; exactly one of the two is given.

    Args:
        input: [N, C, L], [N, C, H, W] or [N, C, D, H, W].
        size: the output's spatial shape, or one integer for all axes.
        scale_factor: output size / input size, one number or one an axis; the size is rounded down.
        mode: 'nearest', 'nearest-exact' or 'area' (adaptive average pooling); 'linear', 'bilinear' or 'trilinear', as
            there are spatial axes; for images also 'bicubic' and 'lanczos'.
        align_corners: whether first and last positions of input and output coincide, rather than their outer edges;
            not for nearest and area. None means False.
        recompute_scale_factor: place the output by the rounded size instead of by scale_factor.
        antialias: widen the filter when an image shrinks, so that every pixel counts; for 'bilinear' and 'bicubic',
            and required for 'lanczos'.

    Returns:
        [N, C, *size].
    """
    rank = input.ndim - 2
    if rank not in (1, 2, 3):
        raise ValueError(f"interpolate: expected input as [N, C, *spatial] of 3 to 5 axes, got shape {input.shape}")
    if mode not in _MODES:
        raise ValueError(f"interpolate: expected mode as one of {', '.join(map(repr, _MODES))}, got {mode!r}")
    mode_rank, kernel_mode = _MODES[mode]
    if mode_rank not in (None, rank):
        raise ValueError(
            f"interpolate: expected input of {mode_rank + 2} axes for mode {mode!r}, got shape {input.shape}"
        )
    if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
        raise ValueError(f"interpolate: expected align_corners as None for mode {mode!r}, got {align_corners}")
    if antialias and mode not in ("bilinear", "bicubic", "lanczos"):
        raise ValueError(f"interpolate: expected antialias as False for mode {mode!r}, got {antialias}")
    if recompute_scale_factor and size is not None:
        raise ValueError(f"interpolate: expected recompute_scale_factor only without size, got size={size}")
    size, scales = _size_and_scales(input.shape[2:], size, scale_factor, recompute_scale_factor or mode == "area")
    if mode == "area":
        return _AREA_POOLS[rank](input, size)
    return apply(
        kernels.interpolate,
        input,
        size=size,
        mode=kernel_mode,
        align_corners=bool(align_corners),
        scales=scales,
        antialias=antialias,
    )


def _size_and_scales(shape, size, scale_factor, recompute):
    """The output's spatial shape, and the scales that place its positions where these do not follow from it."""
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"interpolate: expected either size or scale_factor, got size={size} and scale_factor={scale_factor}"
        )
    if size is not None:
        if isinstance(size, (tuple, list)) and len(size) != len(shape):
            raise ValueError(f"interpolate: expected size as one value or {len(shape)}, got {size}")
        return per_axis("interpolate", "size", size, len(shape)), None
    if isinstance(scale_factor, (tuple, list)) and len(scale_factor) != len(shape):
        raise ValueError(f"interpolate: expected scale_factor as one value or {len(shape)}, got {scale_factor}")
    scales = per_axis("interpolate", "scale_factor", scale_factor, len(shape))
    for scale in scales:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"interpolate: expected scale_factor as numbers, got {scale_factor!r}")
        if not 0 < scale < math.inf:
            raise ValueError(f"interpolate: expected scale_factor in (0, inf), got {scale_factor}")
    size = tuple(int(length * scale) for length, scale in zip(shape, scales))
    return size, None if recompute else scales


def upsample(input, size=None, scale_factor=None, mode="nearest", align_corners=None):
    """`interpolate` under its earlier name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input, size=None, scale_factor=None):
    """`interpolate` with mode 'nearest', under its earlier name."""
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(input, size=None, scale_factor=None):
    """`interpolate` with mode 'bilinear' and aligned corners, under its earlier name."""
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    """Every sliding window of an image as a column ("im2col").

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size: height and width of a window.
        dilation: step between the positions under a window.
        padding: zeros around the plane.
        stride: step between windows.

    Returns:
        [..., C * kernel area, windows].
    """
    return apply(kernels.unfold, input, **_window("unfold", kernel_size, dilation, padding, stride))


def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Columns back to an image, values from overlapping windows summed: the transpose of `unfold`.

    Args:
        input: [N, C * kernel area, windows] or [C * kernel area, windows].
        output_size: height and width of the image.
        kernel_size, dilation, padding, stride: as in `unfold`.

    Returns:
        [..., C, *output_size].
    """
    window = _window("fold", kernel_size, dilation, padding, stride)
    return apply(kernels.fold, input, output_size=per_axis("fold", "output_size", output_size, 2), **window)


def _window(operation, kernel_size, dilation, padding, stride):
    sizes = {"kernel_size": kernel_size, "dilation": dilation, "padding": padding, "stride": stride}
    return {argument: per_axis(operation, argument, value, 2) for argument, value in sizes.items()}


def pixel_shuffle(input, upscale_factor):
    """[..., C * r^2, H, W] -> [..., C, H * r, W * r] with r = upscale_factor: groups of channels become pixels.

    Source: Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network, 2016.
    """
    return apply(kernels.pixel_shuffle, input, upscale_factor=upscale_factor)


def pixel_unshuffle(input, downscale_factor):
    """[..., C, H * r, W * r] -> [..., C * r^2, H, W] with r = downscale_factor: `pixel_shuffle` undone."""
    return apply(kernels.pixel_unshuffle, input, downscale_factor=downscale_factor)


def channel_shuffle(input, groups):
    """[N, C, *spatial] with the channels of `groups` groups interleaved: channel c of every group, then channel c + 1.

    Source: Zhang et al., ShuffleNet, 2017.
    """
    return apply(kernels.channel_shuffle, input, groups=groups)
