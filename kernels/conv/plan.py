"""How the sums of a convolution are laid out on the CPU: worked out once a shape, and kept.

Both directions are the same kind of sum. Axis by axis, result position o reads, for each tap, the source at

    (o + offset) * step + phase - padding

and outside the source it reads zero. A convolution has its stride as `step`; tap t has offset and phase from dividing
t * dilation by it. The gradient of x (and the transposed convolution) falls apart into stride x stride x stride such
sums of step 1, one for each residue of x's positions, each with the taps that reach it.

The source of a sum is first copied into a frame, phase by phase and with the zeros around it. There every tap of every
channel is a mere shift: the result position at frame position f reads frame[table[channel, tap] + f]. Where there is
nothing to pad and no step, the source itself is the frame.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from ..cpu_product import panel_width
from .shape import ConvShape, Sizes

# Frames, gathered columns and sums share a core's second-level cache; a panel of INNER terms fits into the first.
_FRAME_BYTES, _GATHERED_BYTES, _SUM_BYTES = 1 << 20, 1 << 19, 1 << 18
INNER = 320  # terms of a sum that are gathered at a time
_IMAGE_POSITIONS = 1024  # of images that are smaller, several are one task


class Axis(NamedTuple):
    """One axis of a sum: its result positions, where they lie in the whole result, and what their taps read."""

    count: int
    first: int
    every: int
    step: int
    padding: int
    taps: tuple[int, ...]
    offsets: tuple[int, ...]
    phases: tuple[int, ...]


class Sum(NamedTuple):
    """A sum over channels and taps; numbers for kernels.

    Attributes:
        taps: the taps that it has, by their number.
        table: [channels of a group * taps] of a convolution, [taps * channels of a group] of a gradient: where the
            frame holds what result position 0 reads.
        source: positions of the source along each axis.
        count, first, every: the result positions, of which index i lies at first + i * every of the whole result.
        step, padding: how the source is read.
        phases: for each axis which phases the frame holds.
        frame: positions of a phase along each axis; copied anew for each task, or the source itself.
        origin: where in the source result position 0 with offset 0 lies, if there is no copy.
        copies: whether the frame is a copy.
        images: of a task.
        rows: result rows (positions along the second axis) of a task.
        columns: result positions that are summed at a time.
    """

    taps: np.ndarray
    table: np.ndarray
    source: Sizes
    count: Sizes
    first: Sizes
    every: Sizes
    step: Sizes
    padding: Sizes
    phases: tuple[np.ndarray, np.ndarray, np.ndarray]
    frame: Sizes
    origin: int
    copies: bool
    images: int
    rows: int
    columns: int

    @property
    def frame_size(self) -> int:
        """Elements of a frame's channel, all phases."""
        return math.prod(self.frame) * math.prod(len(phases) for phases in self.phases)

    def tasks(self, batch: int) -> int:
        """In how many parts a batch is computed."""
        return -(-batch // self.images) * self.count[0] * -(-self.count[1] // self.rows)


@lru_cache(maxsize=256)
def forward_sum(shape: ConvShape, itemsize: int, threads: int) -> Sum:
    """The sum that a convolution is."""
    axes = [
        Axis(
            count=out,
            first=0,
            every=1,
            step=stride,
            padding=padding,
            taps=tuple(range(kernel)),
            offsets=tuple(t * dilation // stride for t in range(kernel)),
            phases=tuple(t * dilation % stride for t in range(kernel)),
        )
        for kernel, out, stride, padding, dilation in zip(*shape[5:])
    ]
    return _sum(shape, axes, shape.input, shape.in_channels, shape.out_channels, True, itemsize, threads)


@lru_cache(maxsize=256)
def gradient_sums(shape: ConvShape, itemsize: int, threads: int) -> tuple[Sum, ...]:
    """The sums that the gradient of x is; positions of x in none of them have the gradient zero."""
    choices = [residues(*sizes) for sizes in zip(*shape[4:])]
    return tuple(
        _sum(shape, axes, shape.output, shape.out_channels, shape.in_channels, False, itemsize, threads)
        for axes in product(*choices)
    )


def covers_everything(shape: ConvShape) -> bool:
    """Whether every position of x is in one of the gradient's sums."""
    return all(
        len({t * dilation % stride for t in range(kernel)}) == stride
        for kernel, stride, dilation in zip(shape.kernel, shape.stride, shape.dilation)
    )


def residues(size, kernel, out, stride, padding, dilation) -> list[Axis]:
    """The gradient's sums along an axis, for each residue of x's positions that taps reach."""
    axes = []
    for residue in range(stride):
        taps = tuple(t for t in range(kernel) if t * dilation % stride == residue)
        low, high = -((residue - padding) // stride), (padding + size - 1 - residue) // stride
        if taps and low <= high:
            back = [t * dilation // stride for t in taps]
            axes.append(
                Axis(
                    count=high - low + 1,
                    first=low * stride + residue - padding,
                    every=stride,
                    step=1,
                    padding=max(back) - low,
                    taps=taps,
                    offsets=tuple(max(back) - b for b in back),
                    phases=(0,) * len(taps),
                )
            )
    return axes


def _sum(shape, axes, source, channels, results, channels_first, itemsize, threads) -> Sum:
    group_channels = channels // shape.groups
    count, reach = [axis.count for axis in axes], [max(axis.offsets) + 1 for axis in axes]
    phases = [sorted(set(axis.phases)) for axis in axes]
    copies = any(
        axis.step > 1 or axis.padding > 0 or axis.count + span - 1 - axis.padding > size
        for axis, span, size in zip(axes, reach, source)
    )
    images, rows = _images_and_rows(shape.batch, count, reach, phases, channels, itemsize, threads, copies)
    frame = (reach[0], rows + reach[1] - 1, count[2] + reach[2] - 1) if copies else source
    _, height, width = frame
    phase_size = frame[0] * height * width
    shifts = []
    for taps in product(*(zip(axis.offsets, axis.phases) for axis in axes)):
        place = 0
        for (_, phase), held in zip(taps, phases):
            place = place * len(held) + held.index(phase)
        (d, _), (h, _), (w, _) = taps
        shifts.append(place * phase_size + (d * height + h) * width + w)
    size = phase_size * len(phases[0]) * len(phases[1]) * len(phases[2])
    by_channel = np.arange(group_channels)[:, None] * size + np.array(shifts)
    inner = min(by_channel.size, INNER)
    columns = min(
        _GATHERED_BYTES // (inner * itemsize), _SUM_BYTES // (results // shape.groups * itemsize), 192,
        images * rows * count[2],
    )  # fmt: skip
    width = panel_width(itemsize)
    origin = 0
    for axis, extent in zip(axes, source):
        origin = origin * extent - axis.padding
    return Sum(
        taps=np.array(
            [(d * shape.kernel[1] + h) * shape.kernel[2] + w for d, h, w in product(*(a.taps for a in axes))]
        ),
        table=np.ascontiguousarray(by_channel if channels_first else by_channel.T).ravel(),
        source=tuple(source),
        count=tuple(count),
        first=tuple(axis.first for axis in axes),
        every=tuple(axis.every for axis in axes),
        step=tuple(axis.step for axis in axes),
        padding=tuple(axis.padding for axis in axes),
        phases=tuple(np.array(held) for held in phases),
        frame=tuple(frame),
        origin=origin,
        copies=copies,
        images=images,
        rows=rows,
        columns=max(1, -(-columns // width)) * width,
    )


def _images_and_rows(batch, count, reach, phases, channels, itemsize, threads, copies) -> tuple[int, int]:
    """What a task is: some images where they are small, else some rows of one; as much as frames in the cache can hold,
    but no thread without a task if it can be helped."""
    tasks = 4 * threads
    row_bytes = channels * len(phases[0]) * len(phases[1]) * len(phases[2]) * reach[0] * (count[2] + reach[2] - 1)
    row_bytes *= itemsize
    rows = count[1]
    if batch * count[0] < tasks:
        rows = -(-rows // -(-tasks // (batch * count[0])))
    if copies:
        rows = max(1, min(rows, _FRAME_BYTES // row_bytes - reach[1] + 1))
    if rows < count[1]:
        return 1, rows
    positions = count[1] * count[2]
    images = max(1, min(_IMAGE_POSITIONS // positions, batch * count[0] // tasks))
    if copies:
        images = max(1, min(images, _FRAME_BYTES // (row_bytes * (rows + reach[1] - 1))))
    return images, rows
