"""Planes in another size or another order.

    interpolate                        values between the positions of a plane, over one to three spatial axes
    unfold, fold                       sliding windows as columns ("im2col"), and overlapping columns summed to a plane
    pixel_shuffle, pixel_unshuffle     channels to positions and back: [C r^2, H, W] <-> [C, H r, W r]
    channel_shuffle                    channels of several groups interleaved

Interpolation is linear and separable: y = A_d A_h A_w x with one matrix an axis, whose rows hold the weights of one
output position. Its gradient is the same with the matrices transposed; fold is the transpose of unfold.

`reference.py` is the definition, `cpu.py` and `gpu.py` are the kernels, `taps.py` has the weights of every mode.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_choice, check_float, check_number, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample
from ..pool.geometry import check_axes, check_planes, pooled_shape
from .taps import axis_taps

MODES = ("nearest", "nearest-exact", "linear", "cubic", "lanczos")


def _check_interpolate(x, *, size, mode, align_corners=False, scales=None, antialias=False):
    """x: [N, C, *spatial] or [C, *spatial]; size: the spatial shape of the output, a tuple of positive integers.

    scales, where given, holds a positive number (or None) an axis: output positions an input position. It places the
    output positions, and size says how many of them there are: at most as many as cover the input. antialias is for
    linear, cubic and (always) lanczos. Without it an axis that keeps its size (linear, nearest) or doubles it (nearest)
    goes by position, whatever its scale.
    """
    check_planes("interpolate", "x", x, size, "size")
    check_axes("interpolate", "size", size, len(size), 1)
    check_choice("interpolate", "mode", mode, MODES)
    for argument, value in (("align_corners", align_corners), ("antialias", antialias)):
        if not isinstance(value, bool):
            refuse_type("interpolate", argument, "as True or False", repr(value))
    if mode.startswith("nearest") and (align_corners or antialias):
        argument = "align_corners" if align_corners else "antialias"
        refuse_value("interpolate", argument, f"as False for mode {mode!r}", True)
    if mode == "lanczos" and align_corners:
        refuse_value("interpolate", "align_corners", "as False for mode 'lanczos'", True)
    if mode == "lanczos" and not antialias:
        refuse_value("interpolate", "antialias", "as True for mode 'lanczos'", False)
    if scales is not None:
        if type(scales) is not tuple or len(scales) != len(size):
            refuse_value("interpolate", "scales", f"as a tuple of {len(size)} numbers", repr(scales))
        for length, count, scale in zip(x.shape[-len(size) :], size, scales):
            if scale is not None:
                check_number("interpolate", "scales", scale, 0, math.inf, open_low=True, open_high=True)
                if count > length * scale:
                    refuse_value("interpolate", "size", f"of at most {length} * {scale} for that scale", count)


def _taps(x, size, mode, align_corners, scales, antialias):
    """How many input positions an output position reads."""
    axes = zip(x.shape[-len(size) :], size, scales or (None,) * len(size))
    return math.prod(
        axis_taps(length, count, mode, align_corners, scale, antialias)[0].shape[1] for length, count, scale in axes
    )


def _cost_interpolate(x, *, size, mode, align_corners=False, scales=None, antialias=False):
    outputs = math.prod(x.shape[: -len(size)]) * math.prod(size)
    taps = _taps(x, size, mode, align_corners, scales, antialias)
    return Cost(flops=outputs * (2 * taps - 1 if taps > 1 else 0), bytes=(x.size + outputs) * x.dtype.itemsize)


def _interpolate_length(x, *, size, mode, align_corners=False, scales=None, antialias=False):
    taps = _taps(x, size, mode, align_corners, scales, antialias)
    return taps * math.prod(-(-count // length) + 1 for count, length in zip(size, x.shape[-len(size) :]))


def _vary_interpolate(pick):
    spatial = tuple(pick(1, 8) for _ in range(pick(1, 3)))
    leading = tuple(pick(0, 3) for _ in range(pick(1, 2)))
    attributes = {"size": tuple(pick(1, 12) for _ in spatial), "mode": pick.of(MODES)}
    if pick.of((False, True)):
        scales = tuple(max(pick(2, 25) / 10, 1 / length) for length in spatial)
        size = tuple(max(1, int(length * scale)) for length, scale in zip(spatial, scales))
        attributes |= {"scales": scales, "size": size}
    if not attributes["mode"].startswith("nearest"):
        attributes["antialias"] = attributes["mode"] == "lanczos" or pick.of((False, True))
        attributes["align_corners"] = attributes["mode"] != "lanczos" and pick.of((False, True))
    return Sample("varied", {"x": (*leading, *spatial)}, attributes)


def _interpolate_refused(name, error, message, x=(1, 2, 4, 4), **changed):
    x = np.zeros(x) if isinstance(x, tuple) else x
    return Refused(name, {"x": x}, error, message, {"size": (8, 8), "mode": "linear"} | changed)


interpolate = Operation(
    "interpolate",
    __name__,
    check=_check_interpolate,
    by_form=True,
    cost=_cost_interpolate,
    reduction_length=_interpolate_length,
    vary=_vary_interpolate,
    samples=[
        Sample("bilinear_up", {"x": (2, 3, 5, 7)}, {"size": (10, 14), "mode": "linear"}),
        Sample("corners", {"x": (2, 3, 5, 7)}, {"size": (9, 4), "mode": "linear", "align_corners": True}),
        Sample("nearest_up", {"x": (2, 3, 4, 5)}, {"size": (8, 10), "mode": "nearest"}),
        Sample("nearest_scaled", {"x": (2, 3, 9)}, {"size": (5,), "mode": "nearest", "scales": (0.6,)}),
        Sample("nearest_exact", {"x": (2, 3, 9, 7)}, {"size": (4, 5), "mode": "nearest-exact"}),
        Sample("cubic", {"x": (2, 2, 5, 6)}, {"size": (8, 11), "mode": "cubic"}),
        Sample("cubic_corners", {"x": (2, 2, 5, 6)}, {"size": (8, 3), "mode": "cubic", "align_corners": True}),
        Sample("linear_sequence", {"x": (2, 3, 7)}, {"size": (16,), "mode": "linear", "scales": (2.3,)}),
        Sample("trilinear", {"x": (1, 2, 3, 4, 5)}, {"size": (5, 7, 6), "mode": "linear"}),
        Sample("antialiased", {"x": (1, 2, 11, 13)}, {"size": (4, 5), "mode": "linear", "antialias": True}),
        Sample("antialiased_cubic", {"x": (1, 2, 11, 13)}, {"size": (4, 17), "mode": "cubic", "antialias": True}),
        Sample("lanczos", {"x": (1, 2, 11, 13)}, {"size": (4, 17), "mode": "lanczos", "antialias": True}),
        Sample("unbatched", {"x": (2, 3, 4)}, {"size": (6, 2), "mode": "linear"}),
        Sample("one_position", {"x": (1, 1, 1, 1)}, {"size": (3, 3), "mode": "cubic"}),
        Sample("no_batch", {"x": (0, 3, 4, 4)}, {"size": (8, 8), "mode": "linear"}),
        Sample("decoder_doubling", {"x": (16, 64, 56, 56)}, {"size": (112, 112), "mode": "linear"}, large=True),
        Sample("generator_doubling", {"x": (64, 128, 16, 16)}, {"size": (32, 32), "mode": "nearest"}, large=True),
    ],
    refused=[
        _interpolate_refused("integers", TypeError, "x of type", np.zeros((1, 1, 4, 4), int)),
        _interpolate_refused("rank", ValueError, r"x as \[N, C, H, W\]", (4, 4)),
        _interpolate_refused("empty_plane", ValueError, "no empty spatial axis", (1, 1, 4, 0)),
        _interpolate_refused("size_number", TypeError, "size as a tuple", size=8),
        _interpolate_refused("size_zero", ValueError, "size as 2 integers of at least 1", size=(8, 0)),
        _interpolate_refused("mode", ValueError, "mode as one of 'nearest'", mode="quadratic"),
        _interpolate_refused("corners", ValueError, "align_corners as False", mode="nearest", align_corners=True),
        _interpolate_refused("nearest_alias", ValueError, "antialias as False", mode="nearest", antialias=True),
        _interpolate_refused(
            "lanczos_corners", ValueError, "align_corners as False", mode="lanczos", align_corners=True, antialias=True
        ),
        _interpolate_refused("plain_lanczos", ValueError, "antialias as True", mode="lanczos"),
        _interpolate_refused("flag", TypeError, "align_corners as True or False", align_corners=None),
        _interpolate_refused("scales_short", ValueError, "scales as a tuple of 2 numbers", scales=(2.0,)),
        _interpolate_refused("scales_apart", ValueError, r"size of at most 4 \* 1.9", scales=(2.0, 1.9)),
        _interpolate_refused("scale_zero", ValueError, "scales in", scales=(2.0, 0.0)),
        _interpolate_refused("scale_nan", ValueError, "scales in", scales=(math.nan, 1.0)),
    ],
)


# ---- windows as columns, and back


def _check_window(operation, shape, kernel_size, dilation, padding, stride):
    """The window is well formed and fits into the padded plane; returns how many there are."""
    for argument, value, low in (
        ("kernel_size", kernel_size, 1),
        ("dilation", dilation, 1),
        ("padding", padding, 0),
        ("stride", stride, 1),
    ):
        check_axes(operation, argument, value, 2, low)
    counts = pooled_shape(shape, kernel_size, stride, padding, dilation, False)
    if min(counts) < 1:
        refuse_value(
            operation,
            "kernel_size",
            f"to fit into the plane {shape} padded with {padding}",
            f"{kernel_size} with dilation {dilation}",
        )
    return math.prod(counts)


def _check_unfold(x, *, kernel_size, dilation, padding, stride):
    """x: [N, C, H, W] or [C, H, W]; all sizes are tuples of two integers."""
    check_float("unfold", "x", x)
    if x.ndim not in (3, 4):
        refuse_value("unfold", "x", "as [N, C, H, W] or [C, H, W]", f"shape {x.shape}")
    _check_window("unfold", x.shape[-2:], kernel_size, dilation, padding, stride)


def _cost_unfold(x, *, kernel_size, dilation, padding, stride):
    counts = pooled_shape(x.shape[-2:], kernel_size, stride, padding, dilation, False)
    outputs = math.prod(x.shape[:-2]) * math.prod(kernel_size) * math.prod(counts)
    return Cost(flops=0, bytes=(x.size + outputs) * x.dtype.itemsize)


def _window(kernel_size, dilation=(1, 1), padding=(0, 0), stride=(1, 1), **others):
    return {"kernel_size": kernel_size, "dilation": dilation, "padding": padding, "stride": stride, **others}


def _vary_window(pick):
    """Random windows and a plane that they fit into."""
    kernel, dilation, padding, stride = [tuple(pick(low, 3) for _ in range(2)) for low in (1, 1, 0, 1)]
    shape = tuple(max(1, d * (k - 1) + 1 - 2 * p) + pick(0, 5) for k, d, p in zip(kernel, dilation, padding))
    return shape, _window(kernel, dilation, padding, stride)


def _vary_unfold(pick):
    shape, attributes = _vary_window(pick)
    leading = tuple(pick(0, 3) for _ in range(pick(1, 2)))
    return Sample("varied", {"x": (*leading, *shape)}, attributes)


def _unfold_refused(name, error, message, x=(1, 2, 4, 4), **changed):
    return Refused(name, {"x": np.zeros(x)}, error, message, _window((2, 2)) | changed)


unfold = Operation(
    "unfold",
    __name__,
    check=_check_unfold,
    by_form=True,
    cost=_cost_unfold,
    reduction_length=lambda x, *, kernel_size, **_: math.prod(kernel_size),
    vary=_vary_unfold,
    samples=[
        Sample("same_size", {"x": (2, 3, 5, 6)}, _window((3, 3), padding=(1, 1))),
        Sample("patches", {"x": (2, 3, 8, 8)}, _window((4, 4), stride=(4, 4))),
        Sample("dilated", {"x": (2, 2, 9, 7)}, _window((3, 2), (2, 3), (2, 1), (1, 2))),
        Sample("padding_only", {"x": (1, 1, 2, 2)}, _window((1, 1), padding=(2, 3), stride=(2, 2))),
        Sample("unbatched", {"x": (3, 5, 4)}, _window((2, 3))),
        Sample("one_position", {"x": (1, 1, 1, 1)}, _window((1, 1))),
        Sample("no_batch", {"x": (0, 3, 4, 4)}, _window((2, 2))),
        Sample("resnet_block", {"x": (8, 64, 56, 56)}, _window((3, 3), padding=(1, 1)), large=True),
    ],
    refused=[
        Refused("integers", {"x": np.zeros((1, 1, 4, 4), int)}, TypeError, "x of type", _window((2, 2))),
        _unfold_refused("rank", ValueError, r"x as \[N, C, H, W\] or \[C, H, W\]", (4, 4)),
        _unfold_refused("kernel_too_large", ValueError, "kernel_size to fit into the plane", kernel_size=(5, 2)),
        _unfold_refused("kernel_number", TypeError, "kernel_size as 2 integers", kernel_size=2),
        _unfold_refused("stride_zero", ValueError, "stride as 2 integers of at least 1", stride=(0, 1)),
        _unfold_refused("dilation_zero", ValueError, "dilation as 2 integers of at least 1", dilation=(1, 0)),
        _unfold_refused("padding_negative", ValueError, "padding as 2 integers of at least 0", padding=(-1, 0)),
    ],
)


def _check_fold(x, *, output_size, kernel_size, dilation, padding, stride):
    """x: [N, C * kernel area, windows] or [C * kernel area, windows]; all sizes are tuples of two integers."""
    check_float("fold", "x", x)
    check_axes("fold", "output_size", output_size, 2, 1)
    windows = _check_window("fold", output_size, kernel_size, dilation, padding, stride)
    if x.ndim not in (2, 3):
        refuse_value("fold", "x", "as [N, C * kernel area, windows] or [C * kernel area, windows]", f"shape {x.shape}")
    area = math.prod(kernel_size)
    if x.shape[-2] % area:
        refuse_value("fold", "x", f"with a multiple of the kernel's {area} positions as rows", f"shape {x.shape}")
    if x.shape[-1] != windows:
        refuse_value("fold", "x", f"with {windows} windows, as many as fit into {output_size}", f"shape {x.shape}")


def _cost_fold(x, *, output_size, kernel_size, dilation, padding, stride):
    outputs = math.prod(x.shape[:-1]) // math.prod(kernel_size) * math.prod(output_size)
    return Cost(flops=x.size, bytes=(x.size + outputs) * x.dtype.itemsize)


def _fold_sample(name, leading, channels, output_size, kernel_size, *window, large=False):
    attributes = _window(kernel_size, *window, output_size=output_size)
    counts = pooled_shape(
        output_size, kernel_size, attributes["stride"], attributes["padding"], attributes["dilation"], False
    )
    return Sample(name, {"x": (*leading, channels * math.prod(kernel_size), math.prod(counts))}, attributes, large)


def _vary_fold(pick):
    shape, window = _vary_window(pick)
    return _fold_sample("varied", (pick(0, 3),) if pick(0, 1) else (), pick(1, 3), shape, *window.values())


def _fold_refused(name, error, message, x=(1, 8, 9), **changed):
    return Refused(name, {"x": np.zeros(x)}, error, message, _window((2, 2), output_size=(4, 4)) | changed)


fold = Operation(
    "fold",
    __name__,
    check=_check_fold,
    by_form=True,
    cost=_cost_fold,
    reduction_length=lambda x, *, kernel_size, **_: math.prod(kernel_size),
    vary=_vary_fold,
    samples=[
        _fold_sample("same_size", (2,), 3, (5, 6), (3, 3), (1, 1), (1, 1)),
        _fold_sample("patches", (2,), 3, (8, 8), (4, 4), (1, 1), (0, 0), (4, 4)),
        _fold_sample("dilated", (2,), 2, (9, 7), (3, 2), (2, 3), (2, 1), (1, 2)),
        _fold_sample("unbatched", (), 3, (5, 4), (2, 3)),
        _fold_sample("one_position", (1,), 1, (1, 1), (1, 1)),
        _fold_sample("no_batch", (0,), 3, (4, 4), (2, 2)),
        _fold_sample("resnet_block", (8,), 64, (56, 56), (3, 3), (1, 1), (1, 1), large=True),
    ],
    refused=[
        Refused(
            "integers", {"x": np.zeros((1, 8, 9), int)}, TypeError, "x of type", _window((2, 2), output_size=(4, 4))
        ),
        _fold_refused("rank", ValueError, "x as .N, C . kernel area, windows.", (1, 8, 9, 1)),
        _fold_refused("rows", ValueError, "a multiple of the kernel's 4 positions", (1, 7, 9)),
        _fold_refused("windows", ValueError, "x with 9 windows", (1, 8, 10)),
        _fold_refused("output_zero", ValueError, "output_size as 2 integers of at least 1", output_size=(4, 0)),
        _fold_refused("kernel_too_large", ValueError, "kernel_size to fit", kernel_size=(5, 2)),
        _fold_refused("stride_zero", ValueError, "stride as 2 integers of at least 1", stride=(0, 1)),
    ],
)


# ---- rearranged channels


def _check_factor(operation, argument, value):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        refuse_type(operation, argument, "as a positive integer", repr(value))
    if value < 1:
        refuse_value(operation, argument, "as a positive integer", value)


def _cost_copy(x, **_):
    return Cost(flops=0, bytes=2 * x.size * x.dtype.itemsize)


def _check_images(operation, x):
    check_float(operation, "x", x)
    if x.ndim < 3:
        refuse_value(operation, "x", "as [..., C, H, W]", f"shape {x.shape}")


def _check_pixel_shuffle(x, *, upscale_factor):
    """x: [..., C * upscale_factor^2, H, W] -> [..., C, H * upscale_factor, W * upscale_factor]."""
    _check_images("pixel_shuffle", x)
    _check_factor("pixel_shuffle", "upscale_factor", upscale_factor)
    if x.shape[-3] % upscale_factor**2:
        expectation = f"with a multiple of upscale_factor^2 = {upscale_factor**2} channels"
        refuse_value("pixel_shuffle", "x", expectation, f"shape {x.shape}")


def _vary_pixel_shuffle(pick):
    r, leading = pick(1, 3), tuple(pick(0, 2) for _ in range(pick(0, 2)))
    return Sample("varied", {"x": (*leading, pick(0, 2) * r * r, pick(0, 4), pick(1, 4))}, {"upscale_factor": r})


pixel_shuffle = Operation(
    "pixel_shuffle",
    __name__,
    check=_check_pixel_shuffle,
    cost=_cost_copy,
    vary=_vary_pixel_shuffle,
    samples=[
        Sample("doubling", {"x": (2, 8, 3, 4)}, {"upscale_factor": 2}),
        Sample("tripling", {"x": (9, 2, 3)}, {"upscale_factor": 3}),
        Sample("identity", {"x": (1, 1, 1, 1)}, {"upscale_factor": 1}),
        Sample("no_batch", {"x": (0, 4, 2, 2)}, {"upscale_factor": 2}),
        Sample("super_resolution", {"x": (16, 256, 64, 64)}, {"upscale_factor": 2}, large=True),
    ],
    refused=[
        Refused("rank", {"x": np.zeros((4, 4))}, ValueError, r"x as \[\.\.\., C, H, W\]", {"upscale_factor": 2}),
        Refused("channels", {"x": np.zeros((6, 2, 2))}, ValueError, "multiple of upscale", {"upscale_factor": 2}),
        Refused("zero", {"x": np.zeros((4, 2, 2))}, ValueError, "upscale_factor as a pos", {"upscale_factor": 0}),
        Refused("pair", {"x": np.zeros((4, 2, 2))}, TypeError, "upscale_factor as a pos", {"upscale_factor": (2, 2)}),
    ],
)


def _check_pixel_unshuffle(x, *, downscale_factor):
    """x: [..., C, H * downscale_factor, W * downscale_factor] -> [..., C * downscale_factor^2, H, W]."""
    _check_images("pixel_unshuffle", x)
    _check_factor("pixel_unshuffle", "downscale_factor", downscale_factor)
    if x.shape[-2] % downscale_factor or x.shape[-1] % downscale_factor:
        expectation = f"with a height and width that downscale_factor {downscale_factor} divides"
        refuse_value("pixel_unshuffle", "x", expectation, f"shape {x.shape}")


def _vary_pixel_unshuffle(pick):
    r, leading = pick(1, 3), tuple(pick(0, 2) for _ in range(pick(0, 2)))
    return Sample("varied", {"x": (*leading, pick(0, 3), pick(0, 3) * r, pick(1, 3) * r)}, {"downscale_factor": r})


pixel_unshuffle = Operation(
    "pixel_unshuffle",
    __name__,
    check=_check_pixel_unshuffle,
    cost=_cost_copy,
    vary=_vary_pixel_unshuffle,
    samples=[
        Sample("halving", {"x": (2, 2, 6, 4)}, {"downscale_factor": 2}),
        Sample("thirds", {"x": (2, 3, 6)}, {"downscale_factor": 3}),
        Sample("no_batch", {"x": (0, 4, 2, 2)}, {"downscale_factor": 2}),
        Sample("space_to_depth", {"x": (16, 64, 128, 128)}, {"downscale_factor": 2}, large=True),
    ],
    refused=[
        Refused("rank", {"x": np.zeros((4, 4))}, ValueError, r"x as \[\.\.\., C, H, W\]", {"downscale_factor": 2}),
        Refused("odd", {"x": np.zeros((1, 4, 3))}, ValueError, "height and width that", {"downscale_factor": 2}),
        Refused("zero", {"x": np.zeros((4, 2, 2))}, ValueError, "downscale_factor as a", {"downscale_factor": 0}),
    ],
)


def _check_channel_shuffle(x, *, groups):
    """x: [N, C, *spatial] with at least one spatial axis and a multiple of groups as channels."""
    check_float("channel_shuffle", "x", x)
    if x.ndim < 3:
        refuse_value("channel_shuffle", "x", "as [N, C, *spatial]", f"shape {x.shape}")
    _check_factor("channel_shuffle", "groups", groups)
    if x.shape[1] % groups:
        refuse_value("channel_shuffle", "x", f"with a multiple of groups = {groups} channels", f"shape {x.shape}")


channel_shuffle = Operation(
    "channel_shuffle",
    __name__,
    check=_check_channel_shuffle,
    cost=_cost_copy,
    vary=lambda pick: Sample(
        "varied", {"x": (pick(0, 2), pick(0, 3) * (g := pick(1, 4)), pick(0, 3), pick(1, 3))}, {"groups": g}
    ),
    samples=[
        Sample("three_groups", {"x": (2, 6, 3, 4)}, {"groups": 3}),
        Sample("sequence", {"x": (2, 8, 5)}, {"groups": 2}),
        Sample("no_batch", {"x": (0, 4, 2, 2)}, {"groups": 2}),
        Sample("shufflenet", {"x": (32, 116, 28, 28)}, {"groups": 2}, large=True),
    ],
    refused=[
        Refused("rank", {"x": np.zeros((4, 4))}, ValueError, r"x as \[N, C, \*spatial\]", {"groups": 2}),
        Refused("channels", {"x": np.zeros((1, 5, 2))}, ValueError, "a multiple of groups = 2", {"groups": 2}),
        Refused("zero", {"x": np.zeros((1, 4, 2))}, ValueError, "groups as a positive integer", {"groups": 0}),
    ],
)
