"""In which memory order convolutions read images and weights on a GPU, and the copy that puts channels last.

Tensor cores are fed in pieces of 16 bytes that are copied asynchronously into shared memory. Neighbours in a
channels-last image are the channels of one position, which every tap wants together. Of an NCHW image a tap wants
neighbours that start anywhere, so they come one by one, in half precision even through registers. Where products read
such an image often enough (`CHANNELS_LAST`), it is first copied into channels-last scratch. There, and in the weight
that goes with it, zeros fill a group's channels up to a multiple of 16, so that no mask cuts a piece of 16 bytes.

The scratch is no part of what a backward pass finds saved: it is made again from x, which is kept anyhow, in a fraction
of the time of the products that read it; kept, it would double what every layer holds between the passes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl

from ..gpu_arrays import contiguous, merged
from ..launch import ceil_div, empty, launch
from ..tuning import Choice

PIECE = 16  # elements, which compiled forms know sizes and strides to be multiples of
_FEW_CHANNELS = 16  # the least that tl.dot sums over
_TILE = 64  # positions and channels that are turned round at once
_READERS = 64  # features of a product's tile, about: so many share what it reads


class Image(NamedTuple):
    """An array [N, C, *spatial] as kernels walk it.

    Attributes:
        array: of any strides.
        strides: along [N, C, D, H, W], in elements; anything where there is no such axis.
        group: channels of a group in memory: behind those that the convolution knows of there may be zeros.
    """

    array: object
    strides: tuple[int, ...]
    group: int


@triton.jit
def conv_channels_last_kernel(
    source, state, target, groups, channels, padded, cells, source_n, source_c, source_cell,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """target [n, cells, groups, padded] = source [n, groups * channels, cells], with zeros behind a group's channels.

    With `state`, the result of a ReLU laid out like source, target is 0 where that is not above 0. A program turns a
    tile of BLOCK_C channels at BLOCK_P cells round, so that threads walk both sides in rows.
    """
    tiles_c, tiles_p = tl.cdiv(padded, BLOCK_C), tl.cdiv(cells, BLOCK_P)
    program = tl.program_id(0)
    channel = (program % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    program = program // tiles_c
    cell = (program % tiles_p) * BLOCK_P + tl.arange(0, BLOCK_P)
    program = program // tiles_p
    group, image = (program % groups).to(tl.int64), (program // groups).to(tl.int64)
    inside = (cell < cells)[None, :]
    offset = image * source_n + (group * channels + channel)[:, None] * source_c
    offset += cell.to(tl.int64)[None, :] * source_cell
    mask = (channel < channels)[:, None] & inside
    value = tl.load(source + offset, mask=mask, other=0.0)
    if state is not None:
        value = tl.where(tl.load(state + offset, mask=mask, other=0.0) > 0, value, 0.0)
    place = ((image * cells + cell)[None, :] * groups + group) * padded + channel[:, None]
    tl.store(target + place, value, mask=(channel < padded)[:, None] & inside)


def is_copied(image: Image, shape, sizes, reads: int) -> bool:
    """Whether products that read each element so often shall have the image, of positions `sizes`, from a copy."""
    if reads == 0 or image.array.size == 0 or shape.is_depthwise or has_few_channels(image.group, shape.taps):
        return False
    if cell_step(image.strides, sizes) is None or is_wide(image, shape.batch, sizes):
        return False
    if shape.is_pointwise and shape.out_size % PIECE == 0:
        return False  # read along positions
    return bool(CHANNELS_LAST.pick(image.array, image.array.size, reads)["COPIED"])


def channels_last(image: Image, shape, sizes, state=None) -> Image:
    """A channels-last copy of an image whose positions, `sizes`, are a row in memory.

    `state` is the result of a ReLU with the image's strides: elements count as 0 where it is not above 0.
    """
    steps = image.strides[0], image.strides[1], cell_step(image.strides, sizes)
    copy = _turned(image.array, steps, shape.batch, shape.groups, image.group, math.prod(sizes), state)
    padded = copy.shape[-1]
    return Image(copy, dense_strides(shape.groups * padded, sizes, channels_last=True), padded)


def reads_of_input(shape) -> int:
    """How often a product reads each element of a convolution's input: for every tap, where strides leave positions
    out for fewer, and every tile of output channels."""
    tiles = ceil_div(shape.out_channels // shape.groups, _READERS)
    return ceil_div(shape.taps * shape.out_size * tiles, shape.in_size)


def reads_of_output(shape) -> int:
    """How often a product reads each element of a convolution's output, or of its gradient."""
    return shape.taps * ceil_div(shape.in_channels // shape.groups, _READERS)


def arranged(weight, shape, channels, spread, *, lanes_apart):
    """The weight, and its strides along groups, features, channels and taps as `gpu_products` names them.

    A block of channels at one tap is read in a row where the channels lie side by side: a small copy, or none for a
    channels-last weight. Lanes over channels and taps together take the weight as it is. Of the `channels`, those that
    the weight does not have are 0.
    """
    of_weight, taps = (shape.out_channels // shape.groups if spread else weight.shape[1]), shape.taps
    inputs = weight.shape[1]
    if lanes_apart and of_weight == channels:
        size, step = shape.out_channels // shape.groups * inputs * taps, inputs * taps
        return contiguous(weight), (size, taps, step, 1) if spread else (size, step, taps, 1)
    features = inputs if spread else shape.out_channels // shape.groups
    padded = ceil_div(channels, PIECE) * PIECE
    strides = features * taps * padded, taps * padded, 1, padded
    in_a_row = weight.transpose(0, *range(2, weight.ndim), 1)
    if not spread and of_weight == padded and in_a_row.flags.c_contiguous:
        return in_a_row, strides
    weight = contiguous(weight)
    if spread:
        # A group's output channels, for each of its input channels and taps.
        steps = of_weight * inputs * taps, inputs * taps, 1
        return _turned(weight, steps, shape.groups, 1, of_weight, inputs * taps), strides
    return _turned(weight, (inputs * taps, taps, 1), weight.shape[0], 1, inputs, taps), strides


def has_few_channels(channels, taps) -> bool:
    """Whether products sum over channels and taps together, not over channels at one tap."""
    return taps > 1 and channels < _FEW_CHANNELS


def is_wide(image: Image, batch, sizes) -> bool:
    """Whether the channels of a group at one position are read in pieces of 16 bytes."""
    steps = [step for size, step in zip((batch, 2, *sizes), image.strides) if size > 1]
    return image.group % PIECE == 0 and steps.pop(batch > 1) == 1 and all(step % PIECE == 0 for step in steps)


def cell_step(strides, sizes) -> int | None:
    """What neighbours are apart among the positions of an image, counted through; None where it is not always the
    same."""
    lengths, (steps,) = merged(sizes, strides[2:])
    return None if len(lengths) > 1 else steps[0] if steps else 1


def dense_strides(channels, sizes, channels_last) -> tuple[int, ...]:
    """The strides of an array along [N, C, D, H, W] that has no gaps, channels first or last in memory."""
    volume, (_, height, width) = math.prod(sizes), sizes
    column, channel = (channels, 1) if channels_last else (1, volume)
    return channels * volume, channel, height * width * column, width * column, column


def _turned(source, steps, batch, groups, channels, cells, state=None):
    """Scratch [batch, cells, groups, channels filled up with zeros to 16s]; `steps` are those of source along
    [batch, groups * channels, cells]."""
    padded = ceil_div(channels, PIECE) * PIECE
    target = empty(source, (batch, cells, groups, padded))
    block_c, block_p = (min(_TILE, max(PIECE, triton.next_power_of_2(size))) for size in (padded, cells))
    tiles = batch * groups * ceil_div(padded, block_c) * ceil_div(cells, block_p)
    launch(
        conv_channels_last_kernel, (tiles,),
        source, state, target, groups, channels, padded, cells, *steps, BLOCK_C=block_c, BLOCK_P=block_p, num_warps=4,
    )  # fmt: skip
    return target


# Whether images that are not channels-last are copied, by their size and how often a product reads each element. Such
# reads take a place a warp and element in the first-level cache's pipe, of which a multiprocessor has 32 a clock; in
# pieces of 16 bytes an eighth (float32: a quarter) of that. The copy moves every byte twice, at about 14 a clock and
# multiprocessor on an H100. In half precision that is even at ten reads, without what products wait for elements that
# no asynchronous copy brings; in float32, which asynchronous copies of 4 bytes bring beside the longer products, at
# more than twenty. A float64 product takes so long that it reads as it likes.
CHANNELS_LAST = Choice(
    "conv.channels_last",
    ("COPIED",),
    candidates=lambda dtype, elements, reads: [(0,), (1,)],
    default=lambda architecture, dtype, elements, reads: (int(reads >= {2: 9, 4: 17, 8: math.inf}[dtype.itemsize]),),
)
