"""How GPU kernels walk an axis: x is seen as [outer, n, inner], and a line is the n elements of one (outer, inner).

A program takes a tile of neighbouring lines. Where a line's elements lie side by side (inner = 1) the tile is
[LINES, ITEMS] and AXIS, the axis to reduce, is 1; otherwise neighbouring lines lie side by side and the tile is
[ITEMS, LINES] with AXIS 0: either way the last axis of the tile runs along memory. A line that is too long for a tile
is cut into chunks of ITEMS elements, a program each, whose partial results another kernel joins in a fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from .gpu_arrays import contiguous, copy_into
from .launch import ceil_div, launch
from .tuning import Choice

_TILE_BYTES = 65536  # of a tile that holds whole lines: 32 float32 values a thread of 512
_CHUNK_BYTES = 16384  # of a tile where lines are cut: enough programs for few long lines
_COALESCED = 32  # neighbouring lines that a warp reads together


@triton.jit
def line_tile(tile, chunk, lines, n, inner, LINES: tl.constexpr, ITEMS: tl.constexpr, AXIS: tl.constexpr):
    """Line and item numbers (of shapes that broadcast to the tile), offsets in x, and what is inside of x."""
    line = tile.to(tl.int64) * LINES + tl.arange(0, LINES)  # 64 bits: an array may pass 2**31 elements
    start = chunk.to(tl.int64) * ITEMS
    item = tl.arange(0, ITEMS)  # within the chunk, in 32 bits: fewer registers
    if AXIS == 1:
        line, item = line[:, None], item[None, :]
    else:
        line, item = line[None, :], item[:, None]
    left = tl.minimum(n - start, ITEMS).to(tl.int32)
    offset = (line // inner) * n * inner + line % inner + start * inner + item.to(tl.int64) * inner
    return line, start + item, offset, (line < lines) & (item < left)


@triton.jit
def block_of_row(columns, BLOCK: tl.constexpr):
    """This program's row and its columns there, in 64 bits. The blocks of a row are neighbours in a grid of one axis: a
    second axis would end at 65,535."""
    blocks = tl.cdiv(columns, BLOCK)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return (tl.program_id(0) // blocks).to(tl.int64), column


@triton.jit
def partial_sums_kernel(
    partials, totals, lines, outer, chunks, ACCUMULATOR: tl.constexpr, LINES: tl.constexpr, ITEMS: tl.constexpr
):
    """totals[line] = sum of partials [outer, lines, chunks] over outer and chunks, in float64 and in a fixed order."""
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)[None, :]
    total = tl.zeros((1, LINES), ACCUMULATOR)
    for start in range(0, outer * chunks, ITEMS):
        part = start + tl.arange(0, ITEMS)[:, None]
        offset = ((part // chunks).to(tl.int64) * lines + line) * chunks + part % chunks
        inside = (line < lines) & (part < outer * chunks)
        total += tl.sum(tl.load(partials + offset, mask=inside, other=0).to(ACCUMULATOR), axis=0, keep_dims=True)
    tl.store(totals + line, total.to(totals.dtype.element_ty), mask=line < lines)


class Tiling(NamedTuple):
    """How a grid covers the lines of [outer, n, inner]."""

    lines: int
    n: int
    inner: int
    chunks: int
    tile_lines: int
    tile_items: int
    warps: int

    @property
    def grid(self) -> tuple[int]:
        return (ceil_div(self.lines, self.tile_lines) * self.chunks,)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Kernel arguments: lines, n, inner."""
        return self.lines, self.n, self.inner

    @property
    def constants(self) -> dict[str, int]:
        return {
            "LINES": self.tile_lines,
            "ITEMS": self.tile_items,
            "AXIS": 1 if self.inner == 1 else 0,
            "num_warps": self.warps,
        }


def tile_lines(choice: Choice, like, outer: int, n: int, inner: int, dtype=None, cut: bool = False) -> Tiling:
    """The tiling for kernels that compute in float32, or in 8 bytes for dtypes of 8 bytes.

    Lines stay whole where a tile can hold them (chunks = 1), unless `cut` asks for the smaller tiles of kernels that do
    not care where a line ends.

    Args:
        choice: the kernel's, from `line_choice`.
        like: an array of the call; its dtype counts unless another is given.
    """
    dtype = like.dtype if dtype is None else np.dtype(dtype)
    width, items, warps = choice.pick(like, outer * inner, n, inner == 1, cut, dtype=dtype).values()
    return Tiling(outer * inner, n, inner, max(ceil_div(n, items), 1), width, items, warps)


def line_choice(name: str) -> Choice:
    """Lines and items of a kernel's tile, and its warps; the sizes are the number of lines, their length, whether a
    line's elements lie side by side, and whether the kernel does not care where a line ends."""
    return Choice(name, ("LINES", "ITEMS", "num_warps"), _line_candidates, _default_lines)


def _default_lines(architecture, dtype, lines, n, side_by_side, cut):
    return _tile_of(dtype, lines, n, side_by_side, cut, 2048, _CHUNK_BYTES, 2048)


def _line_candidates(dtype, lines, n, side_by_side, cut):
    return [
        _tile_of(dtype, lines, n, side_by_side, cut, elements, chunk_bytes, warp_bytes)
        for elements in (1024, 2048, 4096)
        for chunk_bytes in (_CHUNK_BYTES // 2, _CHUNK_BYTES, 2 * _CHUNK_BYTES)
        for warp_bytes in (1024, 2048, 4096, 8192)
    ]


def _tile_of(dtype, lines, n, side_by_side, cut, elements, chunk_bytes, warp_bytes):
    """A tile of so many elements where lines are short and so many bytes where they are cut, and a warp for so many
    bytes of it."""
    itemsize = 8 if dtype.itemsize == 8 else 4
    least = min(1 if side_by_side else _COALESCED, lines)
    items = n
    if items * least * itemsize > (chunk_bytes if cut else _TILE_BYTES):
        items = chunk_bytes // itemsize // least
    width = min(max(least, elements // items), lines)
    return width, items, min(max(width * items * itemsize // warp_bytes, 1), 16)


def accumulator(dtype):
    """What kernels compute in: float64 for float64, float32 for all narrower types."""
    return tl.float64 if np.dtype(dtype) == np.float64 else tl.float32


def state_dtype(dtype):
    """What statistics and partial results are kept in: float32 for half types."""
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def sum_partials(partials, totals, outer: int = 1) -> None:
    """totals [lines] = sum of partials [outer, lines, chunks] over outer and chunks."""
    lines = totals.size
    chunks = partials.size // max(outer * lines, 1)
    items = min(triton.next_power_of_2(max(outer * chunks, 1)), 32)
    width = 1024 // items
    launch(
        partial_sums_kernel,
        (ceil_div(lines, width),),
        partials, totals, lines, outer, chunks,
        ACCUMULATOR=tl.float64, LINES=width, ITEMS=items, num_warps=4,
    )  # fmt: skip


def lines_of(x, axis: int):
    """A contiguous x with the (outer, n, inner) that its axis makes of it."""
    outer = inner = 1
    for size in x.shape[:axis]:
        outer *= size
    for size in x.shape[axis + 1 :]:
        inner *= size
    return contiguous(x), (outer, x.shape[axis], inner)


def deliver(y, out):
    """y, in the caller's array where there is one."""
    if out is None:
        return y
    copy_into(out, y)
    return out
