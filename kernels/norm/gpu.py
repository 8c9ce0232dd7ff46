"""Normalisation on CuPy arrays; the kernels are in `gpu_kernels` and `gpu_response`.

layer_norm, rms_norm, group_norm and instance_norm normalise rows: in one pass where a tile holds a row, otherwise by
moments of chunks, which are joined. batch_norm joins the moments of planes [N * C, S], or of columns [R, C] where
channels lie side by side. Every sum over programs goes through partial sums that one program adds in order.
"""

import math
from typing import NamedTuple

import triton.language as tl

from ..gpu_arrays import cast, contiguous, zeros
from ..gpu_lines import Tiling, accumulator, deliver, line_choice, state_dtype, sum_partials, tile_lines
from ..launch import ceil_div, empty, launch
from .gpu_kernels import (
    inference_grad_statistics_kernel,
    norm_grad_sums_kernel,
    norm_grad_x_kernel,
    norm_join_kernel,
    norm_moments_kernel,
    norm_write_kernel,
    rows_norm_forward_kernel,
    rows_norm_grad_x_kernel,
    running_average_kernel,
)
from .gpu_response import local_response_norm_backward, local_response_norm_forward

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference_backward",
    "batch_norm_inference_forward",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm_backward",
    "instance_norm_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "local_response_norm_backward",
    "local_response_norm_forward",
    "rms_norm_backward",
    "rms_norm_forward",
    "running_average_forward",
]


FORWARD, GRAD_X, GRAD_SUMS = (line_choice(f"norm.{name}") for name in ("forward", "grad_x", "grad_sums"))


class _Rows(NamedTuple):
    """x seen as rows [count, length] with a mean and variance each; row r and item i have the weight
    r % groups * members + i // spatial, where members * spatial = length."""

    count: int
    length: int
    groups: int
    members: int
    spatial: int
    centred: bool

    @property
    def channel(self) -> tuple[int, int, int]:
        """Kernel arguments."""
        return self.groups, self.members, self.spatial

    @property
    def by_channel(self) -> dict:
        """Kernel constants."""
        return {"BY_LINE": self.members == 1, "INDEX": tl.int32 if self.length < 2**31 else tl.int64}


class _SavedRows(NamedTuple):
    """What the backward of a normalisation of rows needs; affine_shape is that of weight and bias."""

    x: object
    weight: object
    mean: object
    variance: object
    eps: float
    rows: _Rows
    affine_shape: tuple[int, ...]


def layer_norm_forward(x, weight=None, bias=None, *, normalized_shape, eps):
    return _rows_forward(x, weight, bias, _trailing(x, normalized_shape, True), eps, normalized_shape)


def layer_norm_backward(saved, grad_y, needs):
    return _rows_backward(saved, grad_y, None, None, needs)


def rms_norm_forward(x, weight=None, *, normalized_shape, eps):
    return _rows_forward(x, weight, None, _trailing(x, normalized_shape, False), eps, normalized_shape)


def rms_norm_backward(saved, grad_y, needs):
    return _rows_backward(saved, grad_y, None, None, (*needs, False))[:2]


def instance_norm_forward(x, weight=None, bias=None, *, eps):
    spatial = math.prod(x.shape[2:])
    rows = _Rows(math.prod(x.shape[:2]), spatial, x.shape[1], 1, spatial, True)
    y, saved = _rows_forward(x, weight, bias, rows, eps, (x.shape[1],))
    statistics = (cast(moment, x.dtype).reshape(x.shape[:2]) for moment in (saved.mean, saved.variance))
    return (y, *statistics), saved


def instance_norm_backward(saved, grads, needs):
    return _rows_backward(saved, *grads, needs)


def group_norm_forward(x, weight=None, bias=None, *, groups, eps):
    members, spatial = x.shape[1] // groups, math.prod(x.shape[2:])
    rows = _Rows(x.shape[0] * groups, members * spatial, groups, members, spatial, True)
    return _rows_forward(x, weight, bias, rows, eps, (x.shape[1],))


def group_norm_backward(saved, grad_y, needs):
    return _rows_backward(saved, grad_y, None, None, needs)


def _trailing(x, normalized_shape, centred):
    length = math.prod(normalized_shape)
    return _Rows(math.prod(x.shape[: x.ndim - len(normalized_shape)]), length, 1, length, 1, centred)


def _rows_forward(x, weight, bias, rows, eps, affine_shape):
    x, weight, bias = contiguous(x), _flat(weight), _flat(bias)
    y, mean, variance = empty(x), _state(x, rows.count), _state(x, rows.count)
    tiling, count = tile_lines(FORWARD, x, rows.count, rows.length, 1), max(rows.length, 1)
    constants = {"EPS": float(eps), **rows.by_channel, "ACCUMULATOR": accumulator(x.dtype), **tiling.constants}
    if tiling.chunks == 1:
        launch(
            rows_norm_forward_kernel, tiling.grid, x, weight, bias, y, mean, variance,
            rows.count, rows.length, count, *rows.channel, CENTRED=rows.centred, **constants,
        )  # fmt: skip
    else:
        _moments(x, tiling, rows.centred, mean, variance, 1)
        launch(
            norm_write_kernel, tiling.grid, x, mean, variance, weight, bias, y,
            *tiling.sizes, tiling.chunks, rows.count, *rows.channel, RELU=False, **constants,
        )  # fmt: skip
    return y, _SavedRows(x, weight, mean, variance, float(eps), rows, affine_shape)


def _rows_backward(saved, grad_y, grad_mean, grad_variance, needs):
    x, rows = saved.x, saved.rows
    grad_y = zeros(x) if grad_y is None else contiguous(grad_y)
    grad_x = _rows_grad_x(saved, grad_y, _flat(grad_mean), _flat(grad_variance)) if needs[0] else None
    if not (needs[1] or needs[2]):
        return grad_x, None, None
    channels = rows.groups * rows.members
    batch = x.size // max(channels * rows.spatial, 1)
    by_item = rows.groups == 1 and rows.spatial == 1
    if by_item:  # columns through rows that have a mean each
        tiling, outer = tile_lines(GRAD_SUMS, x, 1, batch, channels, cut=True), 1
    else:  # planes, `members` of which share a mean
        tiling, outer = tile_lines(GRAD_SUMS, x, batch * channels, rows.spatial, 1), batch
    moments = saved.mean, saved.variance, saved.eps
    sums = _grad_sums(x, grad_y, None, *moments, rows, tiling, owners=rows.members, by_item=by_item)
    grad_bias, grad_weight = _totals(sums, channels, outer)
    return grad_x, *_parameter_grads(grad_weight, grad_bias, x.dtype, saved.affine_shape, needs[1:])


def _rows_grad_x(saved, grad_y, grad_mean, grad_variance):
    x, weight, mean, variance, eps, rows, _ = saved
    grad_x, tiling, count = empty(x), tile_lines(GRAD_X, x, rows.count, rows.length, 1), max(rows.length, 1)
    constants = {
        "EPS": eps, "CENTRED": rows.centred, **rows.by_channel, "ACCUMULATOR": accumulator(x.dtype), **tiling.constants
    }  # fmt: skip
    if tiling.chunks == 1:
        launch(
            rows_norm_grad_x_kernel, tiling.grid, x, grad_y, weight, mean, variance, grad_mean, grad_variance, grad_x,
            rows.count, rows.length, count, *rows.channel, **constants,
        )  # fmt: skip
        return grad_x
    totals = _totals(_grad_sums(x, grad_y, weight, mean, variance, eps, rows, tiling), rows.count)
    launch(
        norm_grad_x_kernel, tiling.grid,
        x, grad_y, weight, None, mean, variance, *totals, grad_mean, grad_variance, grad_x,
        *tiling.sizes, tiling.chunks, count, rows.count, *rows.channel, RELU=False, WEIGHTED=True, **constants,
    )  # fmt: skip
    return grad_x


class _SavedChannels(NamedTuple):
    """What batch normalisation keeps: x of `shape` [N, C, ...], or its columns [N * S, C]."""

    x: object
    shape: tuple[int, ...]
    as_columns: bool
    weight: object
    bias: object
    mean: object
    variance: object
    eps: float
    relu: bool
    given: bool


def batch_norm_forward(x, weight=None, bias=None, *, eps, activation=None):
    y, saved = _channels_forward(x, weight, bias, eps, activation)
    return (y, cast(saved.mean, x.dtype), cast(saved.variance, x.dtype)), saved


def batch_norm_backward(saved, grads, needs):
    return _channels_backward(saved, *grads, needs)[0]


def batch_norm_inference_forward(x, mean, variance, weight=None, bias=None, *, eps, activation=None):
    return _channels_forward(x, weight, bias, eps, activation, contiguous(mean), contiguous(variance))


def batch_norm_inference_backward(saved, grad_y, needs):
    affine = any(needs[1:])
    (grad_x, grad_weight, grad_bias), totals = _channels_backward(saved, grad_y, None, None, (needs[0], affine, affine))
    grad_mean = grad_variance = None
    if needs[1] or needs[2]:
        grad_mean, grad_variance = empty(saved.mean), empty(saved.mean)
        launch(
            inference_grad_statistics_kernel, (ceil_div(saved.mean.size, 128),),
            *totals, saved.weight, saved.variance, grad_mean, grad_variance, saved.mean.size,
            EPS=saved.eps, ACCUMULATOR=accumulator(saved.mean.dtype), BLOCK=128,
        )  # fmt: skip
    grads = grad_mean, grad_variance, grad_weight, grad_bias
    return grad_x, *(grad if needed else None for grad, needed in zip(grads, needs[1:]))


def _channels_forward(x, weight, bias, eps, activation, mean=None, variance=None):
    """Batch normalisation; a mean and variance that are given are used, else they are computed."""
    shape, given, as_columns = x.shape, mean is not None, _lies_as_columns(x)
    x = _rows_of_channels(x) if as_columns else contiguous(x)
    weight, bias, channels, relu = _flat(weight), _flat(bias), shape[1], activation == "relu"
    tiling, outer = _channel_tiling(FORWARD, x, shape, as_columns)
    if not given:
        mean, variance = _state(x, channels), _state(x, channels)
        _moments(x, tiling, True, mean, variance, outer)
    y = empty(x)
    launch(
        norm_write_kernel, tiling.grid, x, mean, variance, weight, bias, y,
        *tiling.sizes, tiling.chunks, channels, channels, 1, 1,
        EPS=float(eps), RELU=relu, BY_LINE=True, INDEX=tl.int32, ACCUMULATOR=accumulator(x.dtype), **tiling.constants,
    )  # fmt: skip
    y = _from_rows(y, shape) if as_columns else y
    return y, _SavedChannels(x, shape, as_columns, weight, bias, mean, variance, float(eps), relu, given)


def _channels_backward(saved, grad_y, grad_mean, grad_variance, needs):
    """(grad_x, grad_weight, grad_bias), and the channels' sums of grad_y and of grad_y x^ if something needs them."""
    x, shape, as_columns, weight, bias, mean, variance, eps, relu, given = saved
    if grad_y is None:
        grad_y = zeros(x)
    else:
        grad_y = _rows_of_channels(grad_y) if as_columns else contiguous(grad_y)
    (tiling, outer), channels = _channel_tiling(GRAD_X, x, shape, as_columns), shape[1]
    totals, grad_x = (None, None), None
    if needs[1] or needs[2] or not given:
        rows = _Rows(channels, 0, channels, 1, 1, True)
        rectifier = (weight, bias) if relu else None
        sums = _grad_sums(x, grad_y, None, mean, variance, eps, rows, tiling, rectifier=rectifier)
        totals = _totals(sums, channels, outer)
    if needs[0]:
        grad_x, sums = empty(x), (None, None) if given else totals
        launch(
            norm_grad_x_kernel, tiling.grid, x, grad_y, weight, bias if relu else None, mean, variance, *sums,
            _flat(grad_mean), _flat(grad_variance), grad_x,
            *tiling.sizes, tiling.chunks, max(x.size // max(channels, 1), 1), channels, channels, 1, 1,
            EPS=eps, RELU=relu, CENTRED=True, WEIGHTED=False, BY_LINE=True, INDEX=tl.int32,
            ACCUMULATOR=accumulator(x.dtype), **tiling.constants,
        )  # fmt: skip
        grad_x = _from_rows(grad_x, shape) if as_columns else grad_x
    grads = _parameter_grads(totals[1], totals[0], x.dtype, (channels,), needs[1:])
    return (grad_x, *grads), totals


def _channel_tiling(choice, x, shape, as_columns) -> tuple[Tiling, int]:
    """Lines of one channel each, and how many of them in turn make up a channel."""
    if as_columns:
        return tile_lines(choice, x, 1, x.shape[0], shape[1], cut=True), 1
    return tile_lines(choice, x, math.prod(shape[:2]), math.prod(shape[2:]), 1), shape[0]


def _lies_as_columns(x) -> bool:
    """Whether neighbours in memory are of neighbouring channels: [N, C], [N, C, 1, 1], or channels-last memory."""
    if math.prod(x.shape[2:]) == 1:
        return True
    return not x.flags.c_contiguous and _channels_last(x).flags.c_contiguous


def _channels_last(x):
    return x.transpose(0, *range(2, x.ndim), 1)


def _rows_of_channels(x):
    """[N, C, ...] as contiguous [N * ..., C], sharing memory where x lies like that."""
    return contiguous(_channels_last(x)).reshape(x.size // max(x.shape[1], 1), x.shape[1])


def _from_rows(rows, shape):
    """[N * ..., C] as [N, C, ...] in channels-last memory, without a copy."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).transpose(0, len(shape) - 1, *range(1, len(shape) - 1))


def _moments(x, tiling, centred, mean, variance, outer) -> None:
    """Writes mean and variance [lines / outer] of x's lines, `outer` of which, in turn, make up one."""
    parts = tiling.lines, tiling.chunks
    means, squares = _state(x, parts) if centred else None, _state(x, parts)
    launch(
        norm_moments_kernel, tiling.grid, x, means, squares, *tiling.sizes, tiling.chunks,
        CENTRED=centred, ACCUMULATOR=accumulator(x.dtype), **tiling.constants,
    )  # fmt: skip
    launch(
        norm_join_kernel, (ceil_div(mean.size, 32),), means, squares, mean, variance,
        mean.size, outer, tiling.n, tiling.chunks, max(outer * tiling.n, 1),
        CHUNK=tiling.tile_items, CENTRED=centred, ACCUMULATOR=tl.float64, LINES=32, ITEMS=32,
    )  # fmt: skip


def _grad_sums(x, grad_y, weight, mean, variance, eps, rows, tiling, owners=1, by_item=False, rectifier=None):
    """The chunks' sums of grad_y and of grad_y x^, [lines, chunks] each; see `norm_grad_sums_kernel`.

    rectifier: the weight and bias of what a rectifier got, where there is one.
    """
    sums, products = (_state(x, (tiling.lines, tiling.chunks)) for _ in range(2))
    statistics = tiling.lines if owners > 1 else rows.count
    launch(
        norm_grad_sums_kernel, tiling.grid, x, grad_y, weight, *(rectifier or (None, None)), mean, variance,
        sums, products, *tiling.sizes, tiling.chunks, statistics, owners, *rows.channel,
        EPS=eps, RELU=rectifier is not None, BY_ITEM=by_item, **rows.by_channel, ACCUMULATOR=accumulator(x.dtype),
        **tiling.constants,
    )  # fmt: skip
    return sums, products


def _totals(sums, lines, outer=1):
    """Both sums over all their parts, [lines] each."""
    totals = tuple(empty(part, (lines,)) for part in sums)
    for part, total in zip(sums, totals):
        sum_partials(part, total, outer)
    return totals


def _parameter_grads(grad_weight, grad_bias, dtype, shape, needs):
    grads = zip((grad_weight, grad_bias), needs)
    return tuple(cast(grad, dtype).reshape(shape) if needed else None for grad, needed in grads)


def _state(x, shape):
    """Scratch, or statistics, in what x is computed in."""
    return empty(x, shape if type(shape) is tuple else (shape,), state_dtype(x.dtype))


def _flat(parameter):
    return None if parameter is None else contiguous(parameter).reshape(-1)


def running_average_forward(running, value, *, factor, scale=1.0, out=None):
    result = empty(running) if out is None or not out.flags.c_contiguous else out
    rows = value.shape[0] if value.ndim == 2 else 1
    launch(
        running_average_kernel, (ceil_div(running.size, 128),),
        contiguous(running), contiguous(value), result, running.size, rows, float(factor), float(scale) / rows,
        LINES=128, ITEMS=8,
    )  # fmt: skip
    return (result, None) if out is None or result is out else (deliver(result, out), None)
