"""Products of matrices with any strides on CuPy arrays: tiles on tensor cores; leading axes that broadcast, or are
summed over, without a copy; long sums split among programs and added in a fixed order.

Which programs make the tiles is chosen with their size (`PRODUCT`, field SCHEDULE; `gpu_persistent.py`):

- 0: a program a tile;
- 1: persistent programs, where k alone is summed over, k is not 0, and the sum is not split;
- 2: persistent programs that read and write through tensor maps, where moreover the leading axes merge into one, no
  axis is shorter than 64, the device is sm_90 or later, and a, b, c and state lie in memory as `tensor_map` says.

Products to which these rules do not give the chosen schedule are made by schedule 0, with the same tiles. float32 is
multiplied as `precision.py` says, by default as three TF32 products; half types are added in float32.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import merged, strides
from ..launch import ceil_div, empty, launch
from ..precision import input_precision
from ..tuning import Choice, architecture_for, has_room
from .gpu_persistent import TensorMap, launch_mapped, launch_persistent, tensor_map, tiles_of
from .gpu_tiles import activate, add_bias, differentiate, place_of_tile

# Two for each multiprocessor of a large device; a constant, so that a sum is split alike whatever the device.
_PROGRAMS = 264
_LEAST_MAPPED = 64  # of m, n and k, for tensor maps: below, there is no time to be won back that making them takes
_A_PROGRAM_A_TILE, _PERSISTENT, _MAPPED = range(3)  # schedules
_WIDEST_STEP = 32  # of k, where a's tile is differentiated, which it is in registers
_LEAST_STEPS = 8  # of a part of a split sum: below that, adding the parts costs more than is won


@triton.jit
def product_forward_kernel(
    a, b, c, bias, state, a_state, row_sums,
    m, n, k, sums, batch_size, parts,
    a_start, a_batch_0, a_batch_1, a_sum, a_row, a_column,
    b_start, b_batch_0, b_batch_1, b_sum, b_row, b_column,
    c_part,
    ACTIVATION: tl.constexpr, SUMMED: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    DERIVATIVE: tl.constexpr = 0,
):  # fmt: skip
    """c = activation(a b + bias); `state` gets a b + bias where the backward needs it (GELU).

    a is [batch_0, batch_1, sums, m, k], b [batch_0, batch_1, sums, k, n] with any strides, c [batch_0, batch_1, m, n];
    `sums` is summed over like k. A program makes one BLOCK_M x BLOCK_N tile of one matrix, over one of `parts`
    stretches of the sum; c then has a leading axis for the parts.

    With `a_state`, a stands for differentiate(a, a_state, DERIVATIVE). With `row_sums` [parts, m], of one matrix, the
    sums of a's rows go there, from those programs that make the first column of tiles.
    """
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    batch, tile_m, tile_n = place_of_tile(tl.program_id(0), tiles_m, tiles_n, GROUP_M)
    part = tl.program_id(1)
    batch_0, batch_1 = (batch // batch_size).to(tl.int64), (batch % batch_size).to(tl.int64)

    row = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)  # 64 bits: m * n may pass 2**31
    column = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    inner = tl.arange(0, BLOCK_K)
    a_tile = a + (a_start + batch_0 * a_batch_0 + batch_1 * a_batch_1)
    b_tile = b + (b_start + batch_0 * b_batch_0 + batch_1 * b_batch_1)
    a_offset = row[:, None] * a_row + inner.to(tl.int64)[None, :] * a_column
    a_tile += a_offset
    b_tile += inner.to(tl.int64)[:, None] * b_row + column[None, :] * b_column
    steps_of_one = tl.cdiv(k, BLOCK_K)
    steps_of_part = tl.cdiv(steps_of_one * sums, parts)
    first = part * steps_of_part
    last = min(first + steps_of_part, steps_of_one * sums)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACCUMULATOR)
    if row_sums is not None:
        a_total = tl.zeros((BLOCK_M, BLOCK_K), dtype=ACCUMULATOR)
    for step in range(first, last):
        if SUMMED:
            outer = (step // steps_of_one).to(tl.int64)
            start = (step % steps_of_one).to(tl.int64) * BLOCK_K
            left, right = a_tile + (outer * a_sum + start * a_column), b_tile + (outer * b_sum + start * b_row)
        else:
            start = tl.cast(step, tl.int64) * BLOCK_K
            left, right = a_tile + start * a_column, b_tile + start * b_row
        within = inner < k - start
        a_mask = (row[:, None] < m) & within[None, :]
        a_values = tl.load(left, mask=a_mask, other=0.0)
        if a_state is not None:
            a_state_values = tl.load(a_state + a_offset + start * a_column, mask=a_mask, other=0.0)
            a_values = differentiate(a_values, a_state_values, DERIVATIVE).to(a.dtype.element_ty)
        b_values = tl.load(right, mask=within[:, None] & (column[None, :] < n), other=0.0)
        if row_sums is not None:
            a_total += a_values.to(ACCUMULATOR)
        total = tl.dot(a_values, b_values, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    inside = (row[:, None] < m) & (column[None, :] < n)
    if row_sums is not None:
        sum_of_row = tl.sum(a_total, axis=1).to(row_sums.dtype.element_ty)
        tl.store(row_sums + part * m + row, sum_of_row, mask=row < tl.where(tile_n == 0, m, 0))
    total = add_bias(total, bias, column, n)
    offset = part.to(tl.int64) * c_part + (batch.to(tl.int64) * m + row[:, None]) * n + column[None, :]
    if state is not None:
        tl.store(state + offset, total.to(state.dtype.element_ty), mask=inside)
    tl.store(c + offset, activate(total, ACTIVATION).to(c.dtype.element_ty), mask=inside)


@triton.jit
def sum_of_parts_kernel(partials, c, bias, state, size, columns, parts, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """c = activation(the sum of partials [parts, size] over the parts + bias), parts in their order; bias repeats."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    total = tl.zeros((BLOCK,), dtype=partials.dtype.element_ty)
    for part in range(parts):
        total += tl.load(partials + tl.cast(part, tl.int64) * size + index, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + index % columns, mask=inside, other=0.0).to(total.dtype)
    if state is not None:
        tl.store(state + index, total.to(state.dtype.element_ty), mask=inside)
    tl.store(c + index, activate(total, ACTIVATION).to(c.dtype.element_ty), mask=inside)


class _Walk(NamedTuple):
    """A product as loops: sizes, and the steps of both sides along them, in elements.

    Attributes:
        m, n: the sizes of a tile's axes.
        batch: the other axes of the result, at least two.
        inner: the axes that are summed over, at least two, k last.
        a_batch, a_row, a_inner, b_batch, b_inner, b_column: the steps.
    """

    m: int
    n: int
    batch: list[int]
    inner: list[int]
    a_batch: list[int]
    a_row: int
    a_inner: list[int]
    b_batch: list[int]
    b_inner: list[int]
    b_column: int

    @property
    def matrices(self) -> int:
        """Of the result, which one launch makes."""
        return self.batch[-2] * self.batch[-1]


def product(a, b, c, bias=None, state=None, activation: int = 0, summed: tuple[int, ...] = ()) -> None:
    """c = activation(a b + bias), over the last two axes; leading axes broadcast, those in `summed` are summed over.

    Args:
        a, b: [..., m, k] and [..., k, n] of any strides.
        c: the result, C-contiguous, without the axes in `summed`; axes of size 1 are as good as none.
        bias: [n], contiguous.
        state: gets a b + bias, C-contiguous like c.
        activation: its code.
        summed: axes among the leading ones that a and b have together.
    """
    if c.size == 0:
        return
    walk = _walk_of(a, b, summed)
    maps = _maps_of(walk, a, b, c, state)
    split, schedule, constants = _plan(walk, a, maps is not None)
    parts = split * math.prod(walk.inner[:-2])
    if parts > 1:
        partials = empty(c, (parts, c.size), _wide(a))
        _launch_all(walk, a, b, partials, None, None, split, _A_PROGRAM_A_TILE, ACTIVATION=0, **constants)
        sum_parts(partials, c, parts, bias, state, walk.n, activation)
    elif schedule == _MAPPED and maps is not None:
        sizes = walk.m, walk.n, walk.inner[-1], walk.matrices
        launch_mapped(a, b, c, bias, state, sizes, *maps, ACTIVATION=activation, **constants)
    else:
        _launch_all(walk, a, b, c, bias, state, 1, schedule, ACTIVATION=activation, **constants)


def gradient_product(gradient, state, derivative: int, b, c, row_sums=None) -> None:
    """c = g b and row_sums = the sums of g's rows, with g = gradient * activation'(z), which is nowhere stored.

    Args:
        gradient, state: [m, k] of the same strides, any: grad_y and what `differentiate` wants; `state` may be None,
            then g is the gradient itself.
        derivative: the activation's code.
        b, c: [k, n] of any strides, and [m, n], C-contiguous.
        row_sums: [m], contiguous.
    """
    walk = _walk_of(gradient, b, ())
    split, _, constants = _plan(walk, gradient, False, _WIDEST_STEP)
    constants |= {"ACTIVATION": 0} | ({"DERIVATIVE": derivative} if state is not None else {})
    if split == 1:
        _launch_all(walk, gradient, b, c, None, None, 1, _A_PROGRAM_A_TILE, state, row_sums, **constants)
        return
    partials, partial_sums = empty(c, (split, c.size), _wide(c)), None
    if row_sums is not None:
        partial_sums = empty(c, (split, walk.m), _wide(c))
    _launch_all(walk, gradient, b, partials, None, None, split, _A_PROGRAM_A_TILE, state, partial_sums, **constants)
    sum_parts(partials, c, split)
    if row_sums is not None:
        sum_parts(partial_sums, row_sums, split)


def _plan(walk: _Walk, a, mapped: bool, widest_step: int | None = None) -> tuple[int, int, dict]:
    """Into how many parts the sum is split, the schedule, and the constants that all schedules have."""
    constants = dict(PRODUCT.pick(a, walk.m, walk.n, math.prod(walk.inner), math.prod(walk.batch), mapped))
    schedule = constants.pop("SCHEDULE")
    constants["BLOCK_K"] = min(constants["BLOCK_K"], widest_step or constants["BLOCK_K"])
    tiles = tiles_of(walk.m, walk.n, walk.matrices, constants)
    split = parts_of(tiles, walk.inner[-2] * ceil_div(walk.inner[-1], constants["BLOCK_K"]))
    constants["PRECISION"] = input_precision(a.dtype)
    constants["ACCUMULATOR"] = tl.float64 if a.dtype == np.float64 else tl.float32
    return split, schedule, constants


def _wide(x) -> type:
    """What x's products are added in."""
    return np.float64 if x.dtype == np.float64 else np.float32


def _walk_of(a, b, summed: tuple[int, ...]) -> _Walk:
    """The fewest axes: neighbours that a and b walk as one; and rows of one matrix, where b is the same for all."""
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    kept = [axis for axis in range(len(leading)) if axis not in summed]
    (m, k), n = a.shape[-2:], b.shape[-1]
    *a_leading, a_row, a_column = _broadcast_strides(a, len(leading))
    *b_leading, b_row, b_column = _broadcast_strides(b, len(leading))
    batch, (a_batch, b_batch) = merged(*([side[i] for i in kept] for side in (leading, a_leading, b_leading)))
    inner, (a_inner, b_inner) = merged(
        [*(leading[i] for i in summed), k],
        [*(a_leading[i] for i in summed), a_column],
        [*(b_leading[i] for i in summed), b_row],
    )
    while batch and b_batch[-1] == 0 and (m == 1 or a_batch[-1] == m * a_row):
        a_row = a_batch.pop() if m == 1 else a_row
        m *= batch.pop()
        del a_batch[len(batch) :], b_batch[len(batch) :]
    batch, a_batch, b_batch = _at_least_two(batch, a_batch, b_batch)
    inner, a_inner, b_inner = _at_least_two(inner, a_inner, b_inner)
    if 0 in inner:
        inner = [1, 0]  # nothing to sum: c is what the epilogue makes of 0
    return _Walk(m, n, batch, inner, a_batch, a_row, a_inner, b_batch, b_inner, b_column)


def _maps_of(walk: _Walk, a, b, c, state) -> tuple[TensorMap, TensorMap] | None:
    """Tensor maps of a and b where a product can be made through maps altogether (schedule 2), else None."""
    m, n, k, matrices = walk.m, walk.n, walk.inner[-1], walk.matrices
    if min(m, n, k) < _LEAST_MAPPED or a.itemsize > 4 or architecture_for(a) < 90:
        return None
    if len(walk.batch) > 2 or len(walk.inner) > 2 or walk.batch[0] != 1 or walk.inner[0] != 1:
        return None
    for written in (c, state):
        if written is not None and tensor_map(written, matrices, m, n, m * n, n, 1) is None:
            return None
    a_map = tensor_map(a, matrices, m, k, walk.a_batch[-1], walk.a_row, walk.a_inner[-1])
    b_map = tensor_map(b, matrices, k, n, walk.b_batch[-1], walk.b_inner[-1], walk.b_column)
    return None if a_map is None or b_map is None else (a_map, b_map)


def _launch_all(
    walk: _Walk, a, b, c, bias, state, split: int, schedule: int, a_state=None, row_sums=None, **constants
) -> None:  # fmt: skip
    """c = activation(a b + bias), a program a tile or persistent; with more than one part, c is [parts, ...].

    The kernels have two leading axes, and one summed besides k; more than that, which do not merge, are launches.
    """
    m, n, batch, inner = walk.m, walk.n, walk.batch, walk.inner
    size = math.prod(batch) * m * n
    flat, states = c.reshape(-1), None if state is None else state.reshape(-1)
    for i, (a_start, b_start) in enumerate(_starts(batch[:-2], walk.a_batch, walk.b_batch)):
        first = i * walk.matrices * m * n
        state = None if states is None else states[first:]
        if schedule == _PERSISTENT and inner[-2] == 1 and inner[-1] > 0:
            launch_persistent(
                a, b, flat[first:], bias, state, (m, n, inner[-1], walk.matrices, batch[-1]),
                (a_start, *walk.a_batch[-2:], walk.a_row, walk.a_inner[-1]),
                (b_start, *walk.b_batch[-2:], walk.b_inner[-1], walk.b_column),
                **constants,
            )  # fmt: skip
            continue
        tiles = tiles_of(m, n, walk.matrices, constants)
        for j, (a_inner_start, b_inner_start) in enumerate(_starts(inner[:-2], walk.a_inner, walk.b_inner)):
            launch(
                product_forward_kernel,
                (tiles, split),
                a, b, flat[j * split * size + first :], bias, state, a_state, row_sums,
                m, n, inner[-1], inner[-2], batch[-1], split,
                a_start + a_inner_start, *walk.a_batch[-2:], walk.a_inner[-2], walk.a_row, walk.a_inner[-1],
                b_start + b_inner_start, *walk.b_batch[-2:], walk.b_inner[-2], walk.b_inner[-1], walk.b_column,
                size,
                SUMMED=inner[-2] > 1,
                **constants,
            )  # fmt: skip


def sum_parts(partials, c, parts: int, bias=None, state=None, columns: int = 1, activation: int = 0) -> None:
    """c = activation(partials summed over their `parts` + bias), where bias [columns] belongs to c's last axis."""
    grid = (ceil_div(c.size, 512),)
    launch(
        sum_of_parts_kernel, grid, partials, c, bias, state, c.size, columns, parts, ACTIVATION=activation, BLOCK=512
    )


def parts_of(tiles: int, steps: int) -> int:
    """Into how many parts a sum of so many steps is split, where so many tiles are made."""
    return max(1, min(_PROGRAMS // tiles, steps // _LEAST_STEPS))


def _default(architecture, dtype, m, n, k, matrices, mapped):
    if dtype.itemsize == 8:
        return 32, 32, 32, 8, 4, 2, _A_PROGRAM_A_TILE
    if dtype.itemsize == 2 and ceil_div(m, 128) * ceil_div(n, 128) * matrices >= _PROGRAMS // 2:
        # 96 KB of shared memory, or half of that where two blocks would not fit otherwise; persistent programs are
        # alone on their multiprocessor and take more. Tiles of 128 x 256 spill in GELU's epilogue: they are for those
        # to whom a device recommends them.
        inner, stages = (64, 4 if mapped else 3) if has_room(architecture) else (32, 3)
        return 128, 128, inner, 8, 8, stages, _MAPPED if mapped else _A_PROGRAM_A_TILE
    # Before sm_90 the operands of 32 terms in float32 do not fit into the registers that three blocks have each.
    inner = 16 if dtype.itemsize == 4 and architecture < 90 else 32
    return 64 if m > 32 else 32, 64 if n > 32 else 32, inner, 8, 4, 3, _A_PROGRAM_A_TILE


def _candidates(dtype, m, n, k, matrices, mapped):
    """Tiles no larger than c, and larger ones only where a sum is long enough to fill their pipeline."""
    every = {
        2: [
            (128, 256, 64, 8, 8, 3), (256, 128, 64, 8, 8, 3), (128, 128, 64, 8, 8, 4), (128, 128, 64, 8, 8, 3),
            (128, 128, 64, 8, 4, 3), (128, 128, 32, 8, 8, 4), (128, 128, 32, 8, 8, 3), (128, 128, 32, 8, 4, 4),
            (128, 64, 64, 8, 4, 3), (64, 128, 64, 8, 4, 3), (128, 64, 32, 8, 4, 4), (64, 128, 32, 8, 4, 4),
            (64, 64, 64, 8, 4, 4), (64, 64, 32, 8, 4, 5), (64, 64, 32, 8, 4, 3), (64, 32, 64, 8, 4, 4),
            (32, 64, 64, 8, 4, 4), (32, 128, 64, 8, 4, 4), (32, 32, 64, 8, 2, 4), (32, 32, 128, 8, 4, 3),
        ],
        4: [
            (128, 128, 32, 8, 8, 2), (128, 128, 16, 8, 8, 3), (128, 64, 32, 8, 8, 3), (64, 128, 32, 8, 8, 3),
            (128, 64, 16, 8, 4, 3), (64, 128, 16, 8, 4, 3), (64, 64, 32, 8, 8, 3), (64, 64, 32, 8, 4, 4),
            (64, 64, 32, 8, 4, 3), (64, 64, 16, 8, 4, 4), (64, 32, 32, 8, 4, 3), (32, 64, 32, 8, 4, 3),
            (32, 32, 32, 8, 4, 3), (32, 32, 64, 8, 4, 3), (32, 32, 32, 8, 2, 4),
        ],
        8: [
            (64, 64, 16, 8, 8, 2), (64, 64, 32, 8, 8, 2), (64, 32, 32, 8, 4, 2), (32, 64, 32, 8, 4, 2),
            (32, 32, 32, 8, 4, 3), (32, 32, 32, 8, 4, 2), (32, 32, 16, 8, 4, 3),
        ],
    }[dtype.itemsize]  # fmt: skip
    fitting = [tile for tile in every if tile[0] <= max(m, 32) and tile[1] <= max(n, 32) and tile[2] <= max(k, 32)]
    # Persistent programs, one a multiprocessor, need tiles that fill it.
    large = [tile for tile in fitting if tile[0] * tile[1] >= 128 * 128 and dtype.itemsize <= 4]
    schedules = (_PERSISTENT, _MAPPED) if mapped else (_PERSISTENT,)
    return [
        *((*tile, _A_PROGRAM_A_TILE) for tile in fitting),
        *((*tile, schedule) for schedule in schedules for tile in large),
    ]


PRODUCT = Choice(
    "dense.product",
    ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "num_warps", "num_stages", "SCHEDULE"),
    _candidates,
    _default,
)


def _broadcast_strides(x, leading: int) -> list[int]:
    """x's strides with so many leading axes: 0 along axes that it lacks, or has one element of."""
    missing = leading + 2 - x.ndim
    return [0] * missing + [0 if size == 1 else stride for size, stride in zip(x.shape, strides(x))]


def _at_least_two(sizes, *sides):
    missing = max(0, 2 - len(sizes))
    return [1] * missing + sizes, *([0] * missing + side for side in sides)


def _starts(sizes, *sides):
    """Where each side's elements start, for every index of axes of these sizes."""
    for index in itertools.product(*map(range, sizes)):
        yield tuple(sum(i * stride for i, stride in zip(index, side)) for side in sides)
