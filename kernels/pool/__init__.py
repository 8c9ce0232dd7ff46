"""Pooling over one to three spatial axes: a window slides over each plane and leaves one value where it stops.

    max_pool, adaptive_max_pool    y = largest value under the window, and where it lies in the flattened plane
    avg_pool, adaptive_avg_pool    y = sum under the window / its size
    lp_pool                        y = (sum of x^p under the window)^(1/p)
    max_unpool                     values back to where a max pool found them, zeros elsewhere

Sliding windows start at o * stride - padding and hold kernel_size positions at distance dilation; adaptive windows
start at floor(o * size / count) and end before ceil((o + 1) * size / count). Positions in the padding hold no value.
Every gradient goes back to the positions that its window read: all of it to the largest value, an equal share to each
averaged one, and x^(p-1) y^(1-p) of it in a power average.

Inputs are [N, C, *spatial] or [C, *spatial]; the length of kernel_size (or output_size) says how many axes are spatial.
`reference.py` is the definition, `cpu.py` and `gpu.py` are the kernels, `geometry.py` is where the windows lie.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_index_range, check_integer, check_number, check_shape, refuse_type, refuse_value
from ..operation import Cost, Drawn, Operation, Refused, Sample, Values
from .geometry import adaptive_windows, check_axes, check_planes, check_windows, pooled_shape


def _sliding(kernel_size, stride=None, padding=None, dilation=None, **others):
    """The attributes of a sliding window, all spelled out."""
    rank = len(kernel_size)
    attributes = {"kernel_size": kernel_size, "stride": stride or kernel_size, "padding": padding or (0,) * rank}
    return attributes | ({"dilation": dilation} if dilation else {}) | others


def _vary_sliding(pick, dilated):
    """A random shape and random windows that fit it."""
    rank = pick(1, 3)
    kernel = tuple(pick(1, 4) for _ in range(rank))
    padding = tuple(pick(0, size // 2) for size in kernel)
    dilation = tuple(pick(1, 3) if dilated else 1 for _ in range(rank))
    reach = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding)]
    spatial = tuple(pick(max(r, d), 10) for r, d in zip(reach, dilation))
    leading = tuple(pick(0, 3) for _ in range(pick(1, 2)))
    stride = tuple(pick(1, 4) for _ in range(rank))
    attributes = _sliding(kernel, stride, padding, dilation if dilated else None, ceil_mode=pick.of((False, True)))
    return (*leading, *spatial), attributes


def _vary_adaptive(pick):
    spatial = tuple(pick(1, 9) for _ in range(pick(1, 3)))
    leading = tuple(pick(0, 3) for _ in range(pick(1, 2)))
    return {"x": (*leading, *spatial)}, {"output_size": tuple(pick(1, 9) for _ in spatial)}


def _cost(x, outputs, window, index_bytes=0):
    """One operation a value under a window; input read once, output (and indices) written once."""
    bytes = (x.size + outputs) * x.dtype.itemsize + outputs * index_bytes
    return Cost(flops=outputs * window, bytes=bytes)


def _sliding_outputs(x, kernel_size, stride, padding, dilation, ceil_mode):
    rank = len(kernel_size)
    shape = pooled_shape(x.shape[-rank:], kernel_size, stride, padding, dilation, ceil_mode)
    return math.prod(x.shape[:-rank]) * math.prod(shape)


def _adaptive_window(x, output_size):
    """The largest number of positions under an adaptive window."""
    windows = [adaptive_windows(*axis) for axis in zip(x.shape[-len(output_size) :], output_size)]
    return math.prod(int((stop - start).max()) for start, stop in windows)


def _cost_adaptive(x, *, output_size, return_indices=False):
    outputs = math.prod(x.shape[: -len(output_size)]) * math.prod(output_size)
    return _cost(x, outputs, _adaptive_window(x, output_size), 8 if return_indices else 0)


def _adaptive_length(x, *, output_size, **_):
    """Terms of a window's sum, or windows over one position where there are more outputs than inputs."""
    shape = x.shape[-len(output_size) :]
    return max(_adaptive_window(x, output_size), math.prod(-(-o // s) + 1 for o, s in zip(output_size, shape)))


def _window_length(*arrays, kernel_size, **_):
    return math.prod(kernel_size)


def _check_flag(operation, argument, value):
    if not isinstance(value, bool):
        refuse_type(operation, argument, "as True or False", repr(value))


# ---- maximum


def _check_max_pool(x, *, kernel_size, stride, padding, dilation, ceil_mode=False, return_indices=False):
    """x: [N, C, *spatial] or [C, *spatial]; sizes are tuples with an integer an axis, padding at most kernel_size / 2.

    With return_indices the output is (y, indices), int64 positions in the flattened spatial plane.
    """
    check_windows("max_pool", x, kernel_size, stride, padding, dilation, ceil_mode)
    _check_flag("max_pool", "return_indices", return_indices)


def _cost_max_pool(x, *, kernel_size, stride, padding, dilation, ceil_mode=False, return_indices=False):
    outputs = _sliding_outputs(x, kernel_size, stride, padding, dilation, ceil_mode)
    return _cost(x, outputs, math.prod(kernel_size), 8 if return_indices else 0)


def _max_sample(name, shape, kernel_size, stride=None, padding=None, dilation=None, *, large=False, **others):
    dilation = dilation or (1,) * len(kernel_size)
    return Sample(name, {"x": shape}, _sliding(kernel_size, stride, padding, dilation, **others), large)


def _vary_max_pool(pick):
    shape, attributes = _vary_sliding(pick, dilated=True)
    return Sample("varied", {"x": shape}, attributes | {"return_indices": pick.of((False, True))})


def _max_refused(name, error, message, x=(2, 3, 6, 6), **changed):
    attributes = _sliding((2, 2), dilation=(1, 1)) | changed
    return Refused(name, {"x": np.zeros(x) if isinstance(x, tuple) else x}, error, message, attributes)


max_pool = Operation(
    "max_pool",
    __name__,
    check=_check_max_pool,
    by_form=True,
    cost=_cost_max_pool,
    reduction_length=_window_length,
    vary=_vary_max_pool,
    samples=[
        _max_sample("halving", (2, 3, 8, 8), (2, 2), return_indices=True),
        _max_sample("resnet_stem", (2, 3, 15, 15), (3, 3), (2, 2), (1, 1)),
        _max_sample("same_size", (1, 2, 7, 33), (3, 3), (1, 1), (1, 1), return_indices=True),
        _max_sample("dilated_ceil", (2, 2, 11, 9), (3, 2), (2, 3), (1, 1), (2, 3), ceil_mode=True),
        _max_sample("sequence", (2, 3, 17), (3,), (2,), (1,), return_indices=True),
        _max_sample("volume", (1, 2, 5, 6, 7), (2, 3, 2), (2, 1, 2), (1, 1, 0), return_indices=True),
        _max_sample("unbatched", (3, 6, 5), (2, 3), return_indices=True),
        _max_sample("one_position", (1, 1, 1, 1), (1, 1)),
        _max_sample("no_batch", (0, 3, 4, 4), (2, 2), return_indices=True),
        _max_sample("gaps", (2, 2, 9, 9), (1, 2), (4, 5)),
        _max_sample("vgg_halving", (32, 64, 56, 56), (2, 2), large=True),
        _max_sample("resnet50_stem", (32, 64, 112, 112), (3, 3), (2, 2), (1, 1), large=True),
    ],
    refused=[
        _max_refused("integers", TypeError, "x of type", np.zeros((1, 1, 4, 4), int)),
        _max_refused("vector", ValueError, r"x as \[N, C, H, W\] or \[C, H, W\], got shape \(6,\)", (6,)),
        _max_refused("empty_plane", ValueError, r"no empty spatial axis, got shape \(2, 3, 0, 6\)", (2, 3, 0, 6)),
        _max_refused("number_for_kernel", TypeError, "kernel_size as a tuple", kernel_size=2),
        _max_refused("four_axes", ValueError, "kernel_size of one to three axes", kernel_size=(2, 2, 2, 2)),
        _max_refused("kernel_zero", ValueError, "kernel_size as 2 integers of at least 1", kernel_size=(0, 2)),
        _max_refused("kernel_fraction", TypeError, "kernel_size as 2 integers", kernel_size=(2.0, 2)),
        _max_refused("kernel_too_large", ValueError, r"kernel_size to fit into the input \(6, 6\)", kernel_size=(7, 2)),
        _max_refused("stride_zero", ValueError, r"stride as 2 integers of at least 1, got \(1, 0\)", stride=(1, 0)),
        _max_refused("stride_short", ValueError, "stride as 2 integers", stride=(1,)),
        _max_refused("padding_negative", ValueError, "padding as 2 integers of at least 0", padding=(0, -1)),
        _max_refused("padding_large", ValueError, "padding of at most half of kernel_size", padding=(0, 2)),
        _max_refused("dilation_zero", ValueError, "dilation as 2 integers of at least 1", dilation=(0, 1)),
        _max_refused("dilation_large", ValueError, "dilation .*reaches over", dilation=(6, 1)),
        _max_refused("ceil_mode", TypeError, "ceil_mode as True or False", ceil_mode=1),
        _max_refused("return_indices", TypeError, "return_indices as True or False", return_indices=None),
        _max_refused("stepped_over", ValueError, "every window touches", (1, 1, 1, 4), padding=(1, 0), dilation=(2, 1)),
    ],
)


def _check_adaptive(operation, x, output_size):
    check_planes(operation, "x", x, output_size, "output_size")
    check_axes(operation, "output_size", output_size, len(output_size), 1)


def _check_adaptive_max_pool(x, *, output_size, return_indices=False):
    """x: [N, C, *spatial] or [C, *spatial]; output_size: a tuple with a positive integer an axis.

    With return_indices the output is (y, indices), int64 positions in the flattened spatial plane.
    """
    _check_adaptive("adaptive_max_pool", x, output_size)
    _check_flag("adaptive_max_pool", "return_indices", return_indices)


def _vary_adaptive_max_pool(pick):
    inputs, attributes = _vary_adaptive(pick)
    return Sample("varied", inputs, attributes | {"return_indices": pick.of((False, True))})


def _adaptive_refused():
    x = {"x": np.zeros((2, 3, 6, 6))}
    return [
        Refused("integers", {"x": np.zeros((1, 4), int)}, TypeError, "x of type", {"output_size": (2,)}),
        Refused("rank", {"x": np.zeros((2, 6))}, ValueError, r"x as \[N, C, H, W\]", {"output_size": (2, 2)}),
        Refused("empty_plane", {"x": np.zeros((2, 0))}, ValueError, "no empty spatial axis", {"output_size": (2,)}),
        Refused("no_axes", x, ValueError, "output_size of one to three axes", {"output_size": ()}),
        Refused("number", x, TypeError, "output_size as a tuple", {"output_size": 2}),
        Refused("nothing_out", x, ValueError, "output_size as 2 integers of at least 1", {"output_size": (0, 2)}),
        Refused("left_open", x, TypeError, "output_size as 2 integers", {"output_size": (None, 2)}),
    ]


_ADAPTIVE_SAMPLES = [
    Sample("uneven", {"x": (2, 3, 7, 10)}, {"output_size": (3, 4)}),
    Sample("global", {"x": (2, 5, 7, 7)}, {"output_size": (1, 1)}),
    Sample("more_out_than_in", {"x": (2, 2, 3, 4)}, {"output_size": (5, 9)}),
    Sample("sequence", {"x": (2, 3, 17)}, {"output_size": (5,)}),
    Sample("volume", {"x": (1, 2, 5, 6, 7)}, {"output_size": (2, 1, 3)}),
    Sample("unbatched", {"x": (3, 6, 5)}, {"output_size": (6, 2)}),
    Sample("one_position", {"x": (1, 1, 1)}, {"output_size": (1,)}),
    Sample("no_batch", {"x": (0, 3, 4, 4)}, {"output_size": (2, 2)}),
    Sample("no_batch_global", {"x": (0, 3, 4, 4)}, {"output_size": (1, 1)}),
    Sample("resnet50_head", {"x": (32, 2048, 7, 7)}, {"output_size": (1, 1)}, large=True),
    Sample("vgg_head", {"x": (32, 512, 14, 14)}, {"output_size": (7, 7)}, large=True),
]

adaptive_max_pool = Operation(
    "adaptive_max_pool",
    __name__,
    check=_check_adaptive_max_pool,
    by_form=True,
    cost=_cost_adaptive,
    reduction_length=_adaptive_length,
    vary=_vary_adaptive_max_pool,
    samples=[
        *_ADAPTIVE_SAMPLES,
        Sample("indices", {"x": (2, 3, 7, 10)}, {"output_size": (3, 4), "return_indices": True}),
    ],
    refused=[
        *_adaptive_refused(),
        Refused(
            "flag", {"x": np.zeros((1, 4))}, TypeError, "return_indices", {"output_size": (2,), "return_indices": 1}
        ),
    ],
)


# ---- average


def _check_avg_pool(x, *, kernel_size, stride, padding, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """x: [N, C, *spatial] or [C, *spatial]; sizes are tuples with an integer an axis, padding at most kernel_size / 2.

    The sum is divided by the positions under the window: padding counts where count_include_pad is True (what reaches
    past it with ceil_mode does not); a divisor_override, an integer other than 0, replaces that number.
    """
    ones = (1,) * len(kernel_size) if type(kernel_size) is tuple else None
    check_windows("avg_pool", x, kernel_size, stride, padding, ones, ceil_mode)
    _check_flag("avg_pool", "count_include_pad", count_include_pad)
    if divisor_override is not None:
        if isinstance(divisor_override, bool) or not isinstance(divisor_override, (int, np.integer)):
            refuse_type("avg_pool", "divisor_override", "as an integer or None", repr(divisor_override))
        if divisor_override == 0:
            refuse_value("avg_pool", "divisor_override", "other than zero", divisor_override)


def _cost_avg_pool(x, *, kernel_size, stride, padding, ceil_mode=False, **_):
    ones = (1,) * len(kernel_size)
    return _cost(x, _sliding_outputs(x, kernel_size, stride, padding, ones, ceil_mode), math.prod(kernel_size))


def _avg_sample(name, shape, kernel_size, stride=None, padding=None, *, large=False, **others):
    return Sample(name, {"x": shape}, _sliding(kernel_size, stride, padding, **others), large)


def _vary_avg_pool(pick):
    shape, attributes = _vary_sliding(pick, dilated=False)
    count_include_pad, divisor = pick.of((True, False)), pick.of((None, None, 3, -2))
    return Sample(
        "varied", {"x": shape}, attributes | {"count_include_pad": count_include_pad, "divisor_override": divisor}
    )


def _avg_refused(name, error, message, x=(2, 3, 6, 6), **changed):
    x = np.zeros(x) if isinstance(x, tuple) else x
    return Refused(name, {"x": x}, error, message, _sliding((2, 2)) | changed)


avg_pool = Operation(
    "avg_pool",
    __name__,
    check=_check_avg_pool,
    by_form=True,
    cost=_cost_avg_pool,
    reduction_length=_window_length,
    vary=_vary_avg_pool,
    samples=[
        _avg_sample("halving", (2, 3, 8, 8), (2, 2)),
        _avg_sample("inception", (2, 3, 9, 9), (3, 3), (1, 1), (1, 1), count_include_pad=False),
        _avg_sample("past_the_padding", (2, 3, 8, 10), (3, 4), (2, 3), (1, 2), ceil_mode=True),
        _avg_sample("overridden", (2, 3, 8, 7), (3, 2), (2, 2), (1, 1), divisor_override=5),
        _avg_sample("sequence", (2, 3, 17), (4,), (3,), (2,)),
        _avg_sample("volume", (1, 2, 5, 6, 7), (2, 3, 2), (2, 1, 2), (1, 1, 0), ceil_mode=True),
        _avg_sample("unbatched", (3, 6, 5), (2, 3)),
        _avg_sample("one_position", (1, 1, 1, 1), (1, 1)),
        _avg_sample("no_batch", (0, 3, 4, 4), (2, 2)),
        _avg_sample("gaps", (2, 2, 9, 9), (1, 2), (4, 5)),
        _avg_sample("inception_branch", (32, 64, 56, 56), (3, 3), (1, 1), (1, 1), large=True),
    ],
    refused=[
        _avg_refused("integers", TypeError, "x of type", np.zeros((1, 1, 4, 4), int)),
        _avg_refused("rank", ValueError, r"x as \[N, C, H, W\]", (6, 6)),
        _avg_refused("number_for_kernel", TypeError, "kernel_size as a tuple", kernel_size=2),
        _avg_refused("stride_zero", ValueError, "stride as 2 integers of at least 1", stride=(0, 1)),
        _avg_refused("padding_large", ValueError, "padding of at most half of kernel_size", padding=(2, 0)),
        _avg_refused("kernel_too_large", ValueError, "kernel_size to fit into the input", kernel_size=(7, 7)),
        _avg_refused("count_include_pad", TypeError, "count_include_pad as True or False", count_include_pad=0),
        _avg_refused("divisor_zero", ValueError, "divisor_override other than zero", divisor_override=0),
        _avg_refused("divisor_fraction", TypeError, "divisor_override as an integer", divisor_override=1.5),
    ],
)


def _check_adaptive_avg_pool(x, *, output_size):
    """x: [N, C, *spatial] or [C, *spatial]; output_size: a tuple with a positive integer an axis."""
    _check_adaptive("adaptive_avg_pool", x, output_size)


adaptive_avg_pool = Operation(
    "adaptive_avg_pool",
    __name__,
    check=_check_adaptive_avg_pool,
    by_form=True,
    cost=_cost_adaptive,
    reduction_length=_adaptive_length,
    vary=lambda pick: Sample("varied", *_vary_adaptive(pick)),
    samples=_ADAPTIVE_SAMPLES,
    refused=_adaptive_refused(),
)


# ---- power average


def _check_lp_pool(x, *, norm_type, kernel_size, stride, ceil_mode=False):
    """x: [N, C, *spatial] or [C, *spatial]; norm_type: any number but 0, infinities taking the extreme magnitude."""
    zeros, ones = [(value,) * len(kernel_size) if type(kernel_size) is tuple else None for value in (0, 1)]
    check_windows("lp_pool", x, kernel_size, stride, zeros, ones, ceil_mode)
    check_number("lp_pool", "norm_type", norm_type)
    if norm_type == 0:
        refuse_value("lp_pool", "norm_type", "other than zero", norm_type)


def _cost_lp_pool(x, *, norm_type, kernel_size, stride, ceil_mode=False):
    zeros, ones = (0,) * len(kernel_size), (1,) * len(kernel_size)
    return _cost(x, _sliding_outputs(x, kernel_size, stride, zeros, ones, ceil_mode), 2 * math.prod(kernel_size))


def _lp_sample(name, shape, norm_type, kernel_size, stride=None, *, large=False, **others):
    attributes = {"norm_type": norm_type, "kernel_size": kernel_size, "stride": stride or kernel_size, **others}
    return Sample(name, {"x": shape}, attributes, large)


def _vary_lp_pool(pick):
    shape, attributes = _vary_sliding(pick, dilated=False)
    kernel_size = attributes["kernel_size"]
    spatial = tuple(max(size, k) for size, k in zip(shape[-len(kernel_size) :], kernel_size))
    norm_type = pick.of((2, 4, 1, math.inf, -math.inf))
    shape = (*shape[: -len(kernel_size)], *spatial)
    return _lp_sample("varied", shape, norm_type, kernel_size, attributes["stride"], ceil_mode=attributes["ceil_mode"])


def _lp_refused(name, error, message, x=(2, 3, 6, 6), **changed):
    attributes = {"norm_type": 2, "kernel_size": (2, 2), "stride": (2, 2)} | changed
    return Refused(name, {"x": np.zeros(x)}, error, message, attributes)


lp_pool = Operation(
    "lp_pool",
    __name__,
    check=_check_lp_pool,
    by_form=True,
    cost=_cost_lp_pool,
    reduction_length=_window_length,
    vary=_vary_lp_pool,
    samples=[
        _lp_sample("euclidean", (2, 3, 8, 8), 2, (2, 2)),
        _lp_sample("sum", (2, 3, 9), 1, (3,), (2,)),
        _lp_sample("fourth", (2, 2, 7, 9), 4, (3, 2), (2, 3), ceil_mode=True),
        _lp_sample("largest", (2, 2, 7, 9), math.inf, (3, 2), (2, 2)),
        _lp_sample("smallest", (2, 2, 7, 9), -math.inf, (3, 2), (2, 2)),
        _lp_sample("volume", (1, 2, 4, 5, 6), 2.0, (2, 2, 3)),
        _lp_sample("no_batch", (0, 3, 4, 4), 2, (2, 2)),
        _lp_sample("vgg_halving", (32, 64, 56, 56), 2, (2, 2), large=True),
    ],
    refused=[
        _lp_refused("rank", ValueError, r"x as \[N, C, H, W\]", (6, 6)),
        _lp_refused("kernel_too_large", ValueError, "kernel_size to fit into the input", kernel_size=(7, 7)),
        _lp_refused("stride_zero", ValueError, "stride as 2 integers of at least 1", stride=(0, 1)),
        _lp_refused("norm_zero", ValueError, "norm_type other than zero", norm_type=0),
        _lp_refused("norm_nan", ValueError, "norm_type in", norm_type=math.nan),
        _lp_refused("norm_word", TypeError, "norm_type as a real number", norm_type="two"),
    ],
)


# ---- unpooling


def _check_max_unpool(x, indices, *, output_size):
    """x: [N, C, *spatial] or [C, *spatial]; indices: integers of x's shape, positions in a plane of output_size."""
    check_planes("max_unpool", "x", x, output_size, "output_size")
    check_axes("max_unpool", "output_size", output_size, len(output_size), 1)
    check_integer("max_unpool", "indices", indices)
    check_shape("max_unpool", "indices", indices, x.shape, "x's shape")
    check_index_range("max_unpool", "indices", indices, 0, math.prod(output_size))


def _cost_max_unpool(x, indices, *, output_size):
    outputs = math.prod(x.shape[: -len(output_size)]) * math.prod(output_size)
    bytes = (x.size + outputs) * x.dtype.itemsize + indices.size * indices.dtype.itemsize
    return Cost(flops=0, bytes=bytes)


def _unpool_sample(name, shape, output_size):
    """Distinct indices in each plane, as a max pool without overlap yields them."""
    rank = len(output_size)
    rng = np.random.default_rng(0)
    count, planes = math.prod(shape[-rank:]), math.prod(shape[:-rank])
    drawn = [rng.permutation(math.prod(output_size))[:count] for _ in range(planes)]
    indices = np.array(drawn, np.int64).reshape(shape)
    return Sample(name, {"x": shape, "indices": Values(indices)}, {"output_size": output_size})


def _draw_segnet_indices(rng):
    """Where a max pool of 2 x 2 windows found its values in planes of 112 x 112."""
    row = 2 * np.arange(56)[:, None] + rng.integers(0, 2, (16, 64, 56, 56))
    column = 2 * np.arange(56) + rng.integers(0, 2, (16, 64, 56, 56))
    return 112 * row + column


def _vary_max_unpool(pick):
    spatial = tuple(pick(1, 4) for _ in range(pick(1, 3)))
    leading = tuple(pick(0, 3) for _ in range(pick(1, 2)))
    return _unpool_sample("varied", (*leading, *spatial), tuple(size + pick(0, 4) for size in spatial))


def _unpool_refused(name, error, message, x=(1, 2, 2, 2), indices=None, output_size=(4, 4)):
    indices = np.zeros(x, int) if indices is None else indices
    return Refused(name, {"x": np.zeros(x), "indices": indices}, error, message, {"output_size": output_size})


max_unpool = Operation(
    "max_unpool",
    __name__,
    check=_check_max_unpool,
    cost=_cost_max_unpool,
    vary=_vary_max_unpool,
    samples=[
        _unpool_sample("doubling", (2, 3, 4, 4), (8, 8)),
        _unpool_sample("sequence", (2, 3, 5), (11,)),
        _unpool_sample("volume", (2, 2, 2, 3, 2), (4, 6, 5)),
        _unpool_sample("unbatched", (3, 2, 2), (5, 4)),
        _unpool_sample("one_position", (1, 1, 1), (1,)),
        _unpool_sample("no_batch", (0, 3, 2, 2), (4, 4)),
        Sample(
            "segnet_doubling",
            {"x": (16, 64, 56, 56), "indices": Drawn(_draw_segnet_indices)},
            {"output_size": (112, 112)},
            large=True,
        ),
    ],
    refused=[
        _unpool_refused("rank", ValueError, r"x as \[N, C, H, W\]", (2, 2)),
        _unpool_refused("float_indices", TypeError, "indices of an integer type", indices=np.zeros((1, 2, 2, 2))),
        _unpool_refused("shape", ValueError, "indices of shape", indices=np.zeros((1, 2, 2, 1), int)),
        _unpool_refused("too_large", ValueError, r"indices in \[0, 16\), got 16", indices=np.full((1, 2, 2, 2), 16)),
        _unpool_refused("negative", ValueError, r"indices in \[0, 16\), got -1", indices=np.full((1, 2, 2, 2), -1)),
        _unpool_refused("output_zero", ValueError, "output_size as 2 integers of at least 1", output_size=(0, 4)),
        _unpool_refused("output_number", TypeError, "output_size as a tuple", output_size=4),
    ],
)
