"""What tasks of `cpu_frames.py` read and sum: worked out once a shape, and kept."""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from .plan import residues
from .shape import Sizes

_FRAME_BYTES = 1 << 19  # with the sums, in a core's second-level cache
_POSITIONS = 256  # of images that are smaller, several are one task


class _Axis(NamedTuple):
    """One axis: unit u of a sum reads, for an offset, the source at u * step + start + offset - before.

    Attributes:
        units: of the sums' longest; unit u of a sum is result position u * every + its first.
        span: positions of the source that one unit reads, from its first on.
        sums: (units, first, start, taps, offsets) of each, taps by ascending offset.
    """

    units: int
    every: int
    step: int
    before: int
    span: int
    sums: list


def _axis_of_sum(size, kernel, out, stride, padding, dilation) -> _Axis:
    taps = range(kernel)
    return _Axis(
        out, 1, stride, padding, (kernel - 1) * dilation + 1, [(out, 0, 0, taps, [t * dilation for t in taps])]
    )


def _axis_of_gradient(size, kernel, out, stride, padding, dilation) -> _Axis:
    axes = residues(size, kernel, out, stride, padding, dilation)
    before = max((axis.padding for axis in axes), default=0)
    sums = [(axis.count, axis.first, before - axis.padding, axis.taps[::-1], axis.offsets[::-1]) for axis in axes]
    span = max((start + offsets[-1] + 1 for _, _, start, _, offsets in sums), default=1)
    return _Axis(-(-size // stride), stride, 1, before, span, sums)


class Plan(NamedTuple):
    """What a task reads and sums; numbers for kernels.

    Attributes:
        sums: for each its units (3), its first result position (3), where its left rows begin and how many they are,
            where its runs begin and how many they are.
        runs: for each where in the frame it begins, in how many terms of the packed weight before, and its terms.
        order: the taps as the packed weight has them.
        left_rows: where in the frames each unit of each sum reads, image by image.
        frame: positions along each axis.
        before, step, every, units: of the axes.
        images, rows: of a task; rows are units.
    """

    sums: np.ndarray
    runs: np.ndarray
    order: np.ndarray
    left_rows: np.ndarray
    frame: Sizes
    before: Sizes
    step: Sizes
    every: Sizes
    units: Sizes
    images: int
    rows: int

    def tasks(self, batch: int) -> int:
        """In how many parts a batch is computed."""
        return -(-batch // self.images) * self.units[0] * -(-self.units[1] // self.rows)


def _runs(offsets):
    """Offsets as stretches of those that follow each other: (first, how many)."""
    runs = []
    for offset in offsets:
        if runs and offset == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([offset, 1])
    return runs


@lru_cache(maxsize=256)
def plan_of(shape, gradient: bool, itemsize: int, tasks: int) -> Plan:
    """The plan of correlate, or of its gradient with respect to x; in at least so many tasks, if it can be helped."""
    make, sizes = (_axis_of_gradient, shape[4:]) if gradient else (_axis_of_sum, shape[4:])
    axes = [make(*axis) for axis in zip(*sizes)]
    channels = (shape.out_channels if gradient else shape.in_channels) // shape.groups
    units, frame_width = [axis.units for axis in axes], (axes[2].units - 1) * axes[2].step + axes[2].span
    row_bytes = channels * itemsize * axes[0].span * frame_width
    rows, parts = units[1], shape.batch * units[0]
    if parts < tasks:
        rows = -(-rows // -(-tasks // max(1, parts)))
    rows = max(1, min(rows, (_FRAME_BYTES // row_bytes - axes[1].span) // axes[1].step + 1))
    rows = -(-units[1] // -(-units[1] // rows))  # tasks of about one size
    images = 1
    if rows == units[1]:
        frame_bytes = row_bytes * ((rows - 1) * axes[1].step + axes[1].span)
        positions = rows * units[2]
        images = max(1, min(-(-_POSITIONS // positions), parts // tasks, _FRAME_BYTES // frame_bytes))
    frame = (axes[0].span, (rows - 1) * axes[1].step + axes[1].span, frame_width)
    height, width = frame[1:]
    sums, runs, order, left_rows, terms = [], [], [], [], 0
    for choice in product(*(axis.sums for axis in axes)):
        counts, firsts, starts, taps, offsets = zip(*choice)
        first_run = len(runs)
        for (d, tap_d), (h, tap_h) in product(zip(offsets[0], taps[0]), zip(offsets[1], taps[1])):
            order += [(tap_d * shape.kernel[1] + tap_h) * shape.kernel[2] + tap_w for tap_w in taps[2]]
            for offset, count in _runs(offsets[2]):
                runs.append((((d * height + h) * width + offset) * channels, terms, count * channels))
                terms += count * channels
        image, row, place = np.ogrid[:images, : min(rows, counts[1]), : counts[2]]
        row, place = starts[1] + row * axes[1].step, starts[2] + place * axes[2].step
        places = ((image * frame[0] + starts[0]) * height + row) * width + place
        sums.append((*counts, *firsts, sum(map(len, left_rows)), places.size, first_run, len(runs) - first_run))
        left_rows.append(places.ravel() * channels)
    return Plan(
        np.array(sums, np.int64).reshape(-1, 10),
        np.array(runs, np.int64).reshape(-1, 3),
        np.array(order, np.int64),
        np.concatenate([*left_rows, np.empty(0, np.int64)]).astype(np.int64),
        frame,
        *(tuple(sizes) for sizes in zip(*((axis.before, axis.step, axis.every, axis.units) for axis in axes))),
        images,
        rows,
    )
