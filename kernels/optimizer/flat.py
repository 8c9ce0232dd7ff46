"""Many arrays in one buffer, so that one kernel call steps them all and one message sends them all.

Each array starts on a 64-byte boundary, of the buffer and of memory, so that kernels on a single one find it aligned.
The gaps hold zeros and stay zeros under every step and every finite scaling, so that a kernel may run across them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import memory_pool
from ..accumulate import copy_into, empty_like, fill

_ALIGNMENT = 64


def pack(arrays: Sequence) -> tuple[np.ndarray, list[np.ndarray]]:
    """Copies one or more arrays of one type and device into a new flat buffer -> (the buffer, its view per array)."""
    buffer = _zeros(_spans(arrays)[-1][1], arrays[0])
    views = views_of(buffer, arrays)
    for view, array in zip(views, arrays):
        copy_into(view, array)
    return buffer, views


def views_of(buffer, arrays: Sequence) -> list[np.ndarray]:
    """A view of the buffer in the place and shape of each array that `pack` would put there."""
    return [buffer[start:stop].reshape(array.shape) for (start, stop), array in zip(_spans(arrays), arrays)]


def filled_like(buffer, value: float):
    """A buffer of the same size, type and device with `value` everywhere."""
    other = _zeros(buffer.size, buffer)
    if value:
        fill(other, value)
    return other


def stretch(buffer, views: Sequence, first: int, last: int):
    """The part of a buffer that views first, ..., last cover, as one flat array."""
    if first == 0 and last == len(views) - 1:
        return buffer
    spans = _spans(views)
    return buffer[spans[first][0] : spans[last][1]]


def joined(views: Sequence) -> list[np.ndarray]:
    """The stretches of their buffers that views cover, as few flat arrays as they make: one where the views are all
    that `pack` put there."""
    by_buffer: dict[int, list] = {}
    for view in views:
        if view.size:
            by_buffer.setdefault(id(view.base), []).append(view)
    return [part for members in by_buffer.values() for part in _joined_in_one(members)]


def _joined_in_one(views: Sequence) -> list[np.ndarray]:
    buffer, unit = views[0].base, views[0].itemsize
    origin = _address(buffer)
    spans = []
    for start, size in sorted(((_address(view) - origin) // unit, view.size) for view in views):
        if spans and start <= _aligned(spans[-1][1], unit):
            spans[-1][1] = start + size
        else:
            spans.append([start, start + size])
    return [buffer[start:stop] for start, stop in spans]


def _spans(arrays: Sequence) -> list[tuple[int, int]]:
    """(start, stop) of each array in elements of the buffer."""
    spans, stop = [], 0
    for array in arrays:
        start = _aligned(stop, array.itemsize)
        stop = start + array.size
        spans.append((start, stop))
    return spans


def _aligned(position: int, itemsize: int) -> int:
    """The first 64-byte boundary at or after a position, in elements."""
    unit = _ALIGNMENT // itemsize
    return -(-position // unit) * unit


def _zeros(size: int, like):
    if type(like) is np.ndarray:
        # From a page's start on: NumPy's own begin 16 bytes behind a cache line, and every vector would touch two.
        buffer = memory_pool.take(size, like.dtype)
        buffer.fill(0)
        return buffer
    buffer = empty_like(like, (size,))
    with buffer.device:
        buffer.data.memset_async(0, buffer.nbytes)
    return buffer


def _address(array) -> int:
    return array.__array_interface__["data"][0] if type(array) is np.ndarray else array.data.ptr
