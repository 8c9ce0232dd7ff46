"""Products by persistent programs: about one for each multiprocessor, which walks over its share of the tiles.

While a program finishes one tile it already fetches operands of its next one. Two forms, for large matrices:

- `product_persistent_kernel` reads through pointers, with any strides;
- `product_mapped_kernel` reads and writes through tensor maps (TMA, sm_90 and later): one thread asks for a whole tile,
  and what lies beyond a matrix is filled with zeros, or not written, without masks. `tensor_maps` has the rules.

Every tile is made by one program, its sum in the order of k, so the result does not depend on how many programs there
are. `gpu_product.py` chooses among these and the kernel with a program a tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from ..launch import ceil_div, launch, multiprocessors_of
from .gpu_tiles import activate, add_bias, place_of_tile

_MAP_BYTES = 16  # addresses and strides of a tensor map are multiples of it
_MAP_REACH = 2**40  # bytes that a stride of it stays below


@triton.jit
def product_persistent_kernel(
    a, b, c, bias, state,
    m, n, k, matrices, batch_size,
    a_start, a_batch_0, a_batch_1, a_row, a_column,
    b_start, b_batch_0, b_batch_1, b_row, b_column,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """c = activation(a b + bias) and state = a b + bias, of matrices [batch_0, batch_1, m, k] and [.., k, n] with any
    strides. A program makes every tile whose number is its own plus a multiple of how many programs there are."""
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    finished = tl.program_id(0)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n * matrices, tl.num_programs(0), flatten=True):
        batch, tile_m, tile_n = place_of_tile(tile, tiles_m, tiles_n, GROUP_M)
        batch_0, batch_1 = (batch // batch_size).to(tl.int64), (batch % batch_size).to(tl.int64)
        left = a + (a_start + batch_0 * a_batch_0 + batch_1 * a_batch_1)
        right = b + (b_start + batch_0 * b_batch_0 + batch_1 * b_batch_1)
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACCUMULATOR)
        for step in range(tl.cdiv(k, BLOCK_K)):
            # The two loops become one; the compiler knows which addresses are neighbours if they are made at each step.
            row = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)  # 64 bits: m * n may pass 2**31
            column = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
            inner = tl.cast(step, tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
            a_at = left + row[:, None] * a_row + inner[None, :] * a_column
            b_at = right + inner[:, None] * b_row + column[None, :] * b_column
            a_values = tl.load(a_at, mask=(row[:, None] < m) & (inner[None, :] < k), other=0.0)
            b_values = tl.load(b_at, mask=(inner[:, None] < k) & (column[None, :] < n), other=0.0)
            total = tl.dot(a_values, b_values, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
        # Found anew, not taken from above: the next tile's operands are fetched before this one is finished.
        batch, tile_m, tile_n = place_of_tile(finished, tiles_m, tiles_n, GROUP_M)
        finished += tl.num_programs(0)
        row = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        column = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        inside = (row[:, None] < m) & (column[None, :] < n)
        offset = (batch.to(tl.int64) * m + row[:, None]) * n + column[None, :]
        total = add_bias(total, bias, column, n)
        if state is not None:
            tl.store(state + offset, total.to(state.dtype.element_ty), mask=inside)
        tl.store(c + offset, activate(total, ACTIVATION).to(c.dtype.element_ty), mask=inside)


@triton.jit
def product_mapped_kernel(
    a, b, c, bias, state,
    m, n, k, matrices,
    a_matrices, a_batch, a_line,
    b_matrices, b_batch, b_line,
    A_TRANSPOSED: tl.constexpr, B_TRANSPOSED: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """c = activation(a b + bias) and state = a b + bias, of `matrices` products [m, k] [k, n] through tensor maps.

    a lies in memory as [a_matrices, m, k], or [.., k, m] if it is transposed, with steps (a_batch, a_line, 1); so does
    b. An operand of one matrix serves all. Programs walk as in `product_persistent_kernel`; each writes its own maps
    into its scratch memory first.
    """
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    if A_TRANSPOSED:
        left = tl.make_tensor_descriptor(a, [a_matrices, k, m], [a_batch, a_line, 1], [1, BLOCK_K, BLOCK_M])
    else:
        left = tl.make_tensor_descriptor(a, [a_matrices, m, k], [a_batch, a_line, 1], [1, BLOCK_M, BLOCK_K])
    if B_TRANSPOSED:
        right = tl.make_tensor_descriptor(b, [b_matrices, n, k], [b_batch, b_line, 1], [1, BLOCK_N, BLOCK_K])
    else:
        right = tl.make_tensor_descriptor(b, [b_matrices, k, n], [b_batch, b_line, 1], [1, BLOCK_K, BLOCK_N])
    size = tl.cast(m, tl.int64) * n
    result = tl.make_tensor_descriptor(c, [matrices, m, n], [size, n, 1], [1, BLOCK_M, BLOCK_N])
    if state is not None:
        before = tl.make_tensor_descriptor(state, [matrices, m, n], [size, n, 1], [1, BLOCK_M, BLOCK_N])
    finished = tl.program_id(0)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n * matrices, tl.num_programs(0), flatten=True):
        batch, tile_m, tile_n = place_of_tile(tile, tiles_m, tiles_n, GROUP_M)
        row, column = tile_m * BLOCK_M, tile_n * BLOCK_N
        a_at, b_at = min(batch, a_matrices - 1), min(batch, b_matrices - 1)
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACCUMULATOR)
        for step in range(tl.cdiv(k, BLOCK_K)):
            inner = step * BLOCK_K
            if A_TRANSPOSED:
                a_values = left.load([a_at, inner, row]).reshape(BLOCK_K, BLOCK_M).T
            else:
                a_values = left.load([a_at, row, inner]).reshape(BLOCK_M, BLOCK_K)
            if B_TRANSPOSED:
                b_values = right.load([b_at, column, inner]).reshape(BLOCK_N, BLOCK_K).T
            else:
                b_values = right.load([b_at, inner, column]).reshape(BLOCK_K, BLOCK_N)
            total = tl.dot(a_values, b_values, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
        # Found anew, not taken from above: the next tile's operands are fetched before this one is finished.
        batch, tile_m, tile_n = place_of_tile(finished, tiles_m, tiles_n, GROUP_M)
        finished += tl.num_programs(0)
        row, column = tile_m * BLOCK_M, tile_n * BLOCK_N
        total = add_bias(total, bias, column + tl.arange(0, BLOCK_N), n)
        if state is not None:
            before.store([batch, row, column], total.to(state.dtype.element_ty).reshape(1, BLOCK_M, BLOCK_N))
        made = activate(total, ACTIVATION).to(c.dtype.element_ty)
        result.store([batch, row, column], made.reshape(1, BLOCK_M, BLOCK_N))


class TensorMap(NamedTuple):
    """How an operand's matrices lie in memory, for a tensor map.

    Attributes:
        matrices: how many there are; one serves all products.
        batch: elements from one matrix to the next.
        line: elements from one line of a matrix to the next; elements of a line are neighbours.
        transposed: whether lines are the matrix's columns.
    """

    matrices: int
    batch: int
    line: int
    transposed: bool


def tensor_map(x, matrices: int, rows: int, columns: int, batch: int, row: int, column: int) -> TensorMap | None:
    """A map of x's matrices [rows, columns] with steps (batch, row, column) in elements, None where there can be none.

    What a map asks for: x at a multiple of 16 bytes; one axis whose elements are neighbours; steps along the others
    that are multiples of 16 bytes, above 0 and below 2**40 bytes; axes shorter than 2**31.
    """
    transposed = column != 1
    line, size = (column if transposed else row), x.itemsize
    if (row if transposed else column) != 1 or _address_of(x) % _MAP_BYTES:
        return None
    if batch == 0:
        matrices, batch = 1, line
    steps = (line * size, batch * size)
    if any(step <= 0 or step % _MAP_BYTES or step >= _MAP_REACH for step in steps):
        return None
    return TensorMap(matrices, batch, line, transposed) if max(rows, columns, matrices) < 2**31 else None


def _address_of(x) -> int:
    return x.ctypes.data if type(x) is np.ndarray else x.data.ptr


def launch_persistent(a, b, c, bias, state, sizes, a_steps, b_steps, **constants) -> None:
    """One launch of `product_persistent_kernel`; `sizes` are m, n, k, matrices and of those the last axis."""
    launch(
        product_persistent_kernel, _programs(c, *sizes[:2], sizes[3], constants),
        a, b, c, bias, state, *sizes, *a_steps, *b_steps, **constants,
    )  # fmt: skip


def launch_mapped(a, b, c, bias, state, sizes, a_map: TensorMap, b_map: TensorMap, **constants) -> None:
    """One launch of `product_mapped_kernel`; `sizes` are m, n, k, matrices."""
    launch(
        product_mapped_kernel, _programs(c, *sizes[:2], sizes[3], constants),
        a, b, c, bias, state, *sizes, *a_map[:3], *b_map[:3],
        A_TRANSPOSED=a_map.transposed, B_TRANSPOSED=b_map.transposed, **constants,
    )  # fmt: skip


def _programs(c, m: int, n: int, matrices: int, constants) -> tuple[int]:
    """The grid: a program a multiprocessor, and no more than there are tiles."""
    return (min(tiles_of(m, n, matrices, constants), multiprocessors_of(c)),)


def tiles_of(m: int, n: int, matrices: int, constants) -> int:
    """How many tiles `matrices` results [m, n] have."""
    return ceil_div(m, constants["BLOCK_M"]) * ceil_div(n, constants["BLOCK_N"]) * matrices
