"""Where a resized axis takes its values from: for each output position a few input positions and their weights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Width of each filter in input positions.
_FILTER_WIDTH = {"linear": 2, "cubic": 4, "lanczos": 6}


@lru_cache(maxsize=256)
def axis_taps(size: int, count: int, mode: str, align_corners: bool, scale: float | None, antialias: bool):
    """The taps of an axis of `size` positions resized to `count`.

    Args:
        mode: 'nearest', 'nearest-exact', 'linear', 'cubic' or 'lanczos'.
        align_corners: the first and last positions of input and output coincide, rather than their outer edges.
        scale: output positions an input position; None for count / size.
        antialias: the filter widens with the step between output positions, so that every input position counts.

    Returns:
        (index, weight), int64 and float64 [count, taps]; an index of -1 ends a list of taps early.
    """
    o = np.arange(count)
    if mode in ("nearest", "nearest-exact"):
        return _nearest_taps(o, size, scale, mode == "nearest-exact")
    if mode == "linear" and count == size and not antialias:
        return o[:, None], np.ones((count, 1))  # whatever the scale says, as in PyTorch
    if align_corners:
        step = (size - 1) / (count - 1) if count > 1 else 0.0
    else:
        step = size / count if scale is None else 1 / scale
    if antialias:
        return _antialiased_taps(o, size, step, mode)
    source = step * o if align_corners else step * (o + 0.5) - 0.5
    if mode == "linear":
        source = np.maximum(source, 0.0)
        first = np.minimum(np.floor(source).astype(np.int64), size - 1)
        t = np.minimum(source - first, 1.0)
        return np.stack([first, np.minimum(first + 1, size - 1)], axis=1), np.stack([1 - t, t], axis=1)
    first = np.floor(source).astype(np.int64)
    offsets = np.arange(-1, 3)
    index = np.clip(first[:, None] + offsets, 0, size - 1)
    return index, _cubic((source - first)[:, None] - offsets, -0.75)


def reading_outputs(size: int, count: int, *options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The taps the other way round: which outputs read each input position, in order, and with what weight.

    Returns (starts, outputs, weights), int64 [size + 1], int64 and float64: position k is read by the outputs
    starts[k]..starts[k + 1] - 1 of the list.
    """
    index, weight = axis_taps(size, count, *options)
    used = index >= 0
    output = np.broadcast_to(np.arange(count)[:, None], index.shape)[used]
    pairs, place = np.unique(index[used] * count + output, return_inverse=True)
    starts = np.searchsorted(pairs, np.arange(size + 1) * count)
    return starts, pairs % count, np.bincount(place, weight[used])


def doubled_taps(size: int, count: int, mode: str, align_corners: bool, scale: float | None, antialias: bool):
    """The taps of an axis that doubles, where all even outputs have the same weights, and all odd ones.

    Returns weights [2, taps] such that output 2 q + p is the sum over t of weights[p, t] times input q + p + t - taps /
    2, where places beyond either end stand for the last one; None if the axis is not like that.
    """
    if count != 2 * size or align_corners or antialias or scale not in (None, 2.0):
        return None
    # Any two neighbours far from the ends show the rule: outputs 8 and 9 of 8 positions that become 16.
    return axis_taps(8, 16, mode, align_corners, scale, antialias)[1][8:10]


def _nearest_taps(o, size, scale, exact):
    if not exact and o.size in (size, 2 * size):
        # PyTorch's rule for its first nearest mode: these two sizes go by position, whatever the scale says.
        return (o * size // o.size)[:, None], np.ones((o.size, 1))
    # In float32, as PyTorch computes it: its rounding decides which of two neighbours is taken.
    step = np.float32(size) / np.float32(o.size) if scale is None else np.float32(1 / scale)
    source = np.floor((o.astype(np.float32) + np.float32(0.5 if exact else 0.0)) * step)
    return np.minimum(source.astype(np.int64), size - 1)[:, None], np.ones((o.size, 1))


def _antialiased_taps(o, size, step, mode):
    stretch = max(step, 1.0)
    support = _FILTER_WIDTH[mode] / 2 * stretch
    center = step * (o + 0.5)
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((center + support + 0.5).astype(np.int64), size)
    # At least three taps, so that lists of one or two never end early.
    index = first[:, None] + np.arange(max(int((stop - first).max()), 3))
    weight = _FILTERS[mode]((index + 0.5 - center[:, None]) / stretch)
    weight[index >= stop[:, None]] = 0
    return np.where(index < stop[:, None], index, -1), weight / weight.sum(axis=1, keepdims=True)


def _triangle(x):
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x, a):
    """Keys' cubic convolution kernel (IEEE Transactions on Acoustics, Speech and Signal Processing 29, 1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _lanczos(x):
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_FILTERS = {"linear": _triangle, "cubic": lambda x: _cubic(x, -0.5), "lanczos": _lanczos}
