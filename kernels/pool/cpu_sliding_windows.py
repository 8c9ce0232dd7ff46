"""Sliding windows, as the kernels of `cpu_sliding` are told of them, and tables that follow from their form."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from ..cpu_jit import serial_kernel
from .geometry import pooled_shape, three

_SLACK = 64  # more elements than a vector has


@dataclass(frozen=True, eq=False)
class Sliding:
    """Sliding windows over an array: one object for each shape and form, so that what follows from it is found by it.

    A tuple has an entry for each of depth, height and width.
    """

    planes: int
    shape: tuple[int, int, int]
    counts: tuple[int, int, int]
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    output: tuple[int, ...]  # the shape of what is pooled: the array's leading axes, and the counts of its others

    @cached_property
    def numbers(self) -> np.ndarray:
        """What kernels are told of them, as `windows_of` takes it up: as one array, which is handed over in a tenth of
        the time of so many numbers."""
        sides = self.shape, self.counts, self.kernel_size, self.stride, self.padding, self.dilation
        return np.array([self.planes, *itertools.chain.from_iterable(sides)], np.int64)

    @cached_property
    def places(self) -> int:
        """How many places a window has."""
        return math.prod(self.kernel_size)


class _Windows(NamedTuple):
    """The same within a kernel."""

    planes: int
    shape: tuple[int, int, int]
    counts: tuple[int, int, int]
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]


@serial_kernel
def windows_of(numbers):
    n = numbers
    return _Windows(
        n[0], (n[1], n[2], n[3]), (n[4], n[5], n[6]), (n[7], n[8], n[9]), (n[10], n[11], n[12]), (n[13], n[14], n[15]),
        (n[16], n[17], n[18]),
    )  # fmt: skip


def sliding(x, kernel_size, stride, padding, dilation, ceil_mode) -> Sliding:
    """The windows over x, [..., *spatial]."""
    return _sliding_over(x.shape, kernel_size, stride, padding, dilation, ceil_mode)


@lru_cache(maxsize=4096)
def _sliding_over(shape, kernel_size, stride, padding, dilation, ceil_mode) -> Sliding:
    rank = len(kernel_size)
    leading, spatial = shape[:-rank], shape[-rank:]
    counts = pooled_shape(spatial, kernel_size, stride, padding, dilation, ceil_mode)
    sizes = three(spatial, 1), three(counts, 1), three(kernel_size, 1), three(stride, 1), three(padding, 0)
    return Sliding(math.prod(leading), *sizes, three(dilation, 1), (*leading, *counts))


@lru_cache(maxsize=256)
def first_codes(count, stride, padding, dilation):
    """[windows and some] uint8, the first place of each window of an axis that lies in the input."""
    start = np.arange(count) * stride - padding
    return np.append(np.maximum(-start + dilation - 1, 0) // dilation, np.zeros(_SLACK)).astype(np.uint8)


@lru_cache(maxsize=256)
def places_in_plane(shape, kernel_size, dilation):
    """Where a window's places lie in the flattened plane, seen from its first, in C order."""
    d, h, w = np.indices(kernel_size) * np.reshape(dilation, (3, 1, 1, 1))
    return ((d * shape[1] + h) * shape[2] + w).reshape(-1)


@lru_cache(maxsize=256)
def _readers(size, count, kernel_size, stride, padding, dilation):
    """[size, places]: the window of an axis that has a position at a place, -1 if none has."""
    start = np.arange(size)[:, None] + padding - np.arange(kernel_size) * dilation
    return np.where((start >= 0) & (start % stride == 0) & (start < count * stride), start // stride, -1)


@lru_cache(maxsize=256)
def _phases(kernel_size, stride, dilation):
    """[places, 2]: the phase of each of a window's places across, and how many steps it lies from the start."""
    place = np.arange(kernel_size) * dilation
    return np.stack([place % stride, place // stride], axis=1)


@lru_cache(maxsize=256)
def places_in_lines(kernel_size, stride, dilation, pitch):
    """[places]: where the windows' places across begin in a line that is taken apart into phases of length `pitch`."""
    return _phases(kernel_size, stride, dilation) @ (pitch, 1)


@lru_cache(maxsize=256)
def places_in_slots(slots, kernel_size, stride, dilation, pitch):
    """[slots * places]: the same for lines of several rows behind each other."""
    return (np.arange(slots)[:, None] * stride * pitch + places_in_lines(kernel_size, stride, dilation, pitch)).ravel()


@lru_cache(maxsize=256)
def places_by_phase(kernel_size, stride, margin):
    """[places]: what an average's gradient reads at a window's places, in the order of their phases; [stride + 1]:
    where in it each phase begins."""
    phases = _phases(kernel_size, stride, 1)
    order = np.argsort(phases[:, 0], kind="stable")
    return margin - phases[order, 1], np.searchsorted(phases[order, 0], np.arange(stride + 1))


def axis_readers(windows, axis):
    sides = windows.shape, windows.counts, windows.kernel_size, windows.stride, windows.padding, windows.dilation
    return _readers(*(sizes[axis] for sizes in sides))
