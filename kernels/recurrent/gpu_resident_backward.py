"""Back through a recurrent layer's whole sequence in one Triton kernel: the recurrent weight stays on the chip over all
time steps (`gpu_resident.py` says how programs share the work).

The gradient of a state is that of the next step's sums times W_hh, all of whose lines a program needs, in the columns
of its own units. Gradients of sums are kept as rows in any case, for the gradients of the weights, which are one
product each at the end. So the rows are what programs hand to one another: at each step they read the whole rows of the
step behind it and store their own part of this one's. No row is written twice, and one wait a step is enough.

The product's sum is long, 4H for an LSTM, and its tile is small, so its warps share the sum: chunk by chunk each of
them multiplies BLOCK_K lines of its own, and at the end the SHARES are added up, in the same order every time.
"""

import triton
import triton.language as tl

from ..launch import ceil_div
from ..tuning import Choice
from .gpu_resident import ROOM, arrive, bytes_held, launch_at_once, own_counter, own_part, wait_for, worthwhile
from .gpu_time import (
    cell_before,
    grad_from_outputs,
    gru_grad_sums,
    length_of,
    load_gru_gates,
    load_in,
    load_lstm_gates,
    lstm_grad_sums,
    place_and_row,
    rnn_grad_sum,
    state_before,
    store_as,
    store_gru_gates,
    store_lstm_gates,
)


@triton.jit
def line_of(chunk, SHARES: tl.constexpr, BLOCK_K: tl.constexpr):
    """The lines of the weight that each share has of a chunk, [SHARES, BLOCK_K]."""
    return (tl.arange(0, SHARES)[:, None] + chunk * SHARES) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]


@triton.jit
def load_columns(weight, lines, size, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
                 CHUNKS: tl.constexpr):  # fmt: skip
    """W_hh [lines, size] in the columns of the program's units, as CHUNKS tiles [SHARES, BLOCK_K, BLOCK_UNITS]."""
    unit = (tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS))[None, None, :]
    chunks = ()
    for chunk in tl.static_range(CHUNKS):
        line = line_of(chunk, SHARES, BLOCK_K)[:, :, None]
        inside = (line < lines) & (unit < size)
        chunks += (tl.load(weight + line.to(tl.int64) * size + unit, mask=inside, other=0.0),)
    return chunks


@triton.jit
def load_rows(rows, row, inside, lines, chunk, SHARES: tl.constexpr, BLOCK_K: tl.constexpr):
    """A chunk of the sequences' rows, [SHARES, BLOCK_N, BLOCK_K]; other programs have stored them, so not from the L1
    cache."""
    line = line_of(chunk, SHARES, BLOCK_K)[:, None, :]
    inside = inside[None, :, :] & (line < lines)
    return tl.load(rows + row[None, :, :] * lines + line, mask=inside, other=0.0, cache_modifier=".cg")


@triton.jit
def sum_of_shares(total, BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, SHARES: tl.constexpr):
    """[SHARES, BLOCK_N, BLOCK_UNITS] without its first axis: pairs are added until one is left. That brings all shares
    of a value to one thread, where `tl.sum` would leave every value with every warp."""
    total = tl.permute(total, (1, 2, 0))
    for _ in tl.static_range(SHARES.bit_length() - 2):
        left, right = tl.split(tl.reshape(total, (BLOCK_N, BLOCK_UNITS, total.shape[2] // 2, 2)))
        total = left + right
    left, right = tl.split(total)
    return left + right


@triton.jit
def multiply_rows(rows, row, inside, chunks, lines, BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr,
                  BLOCK_K: tl.constexpr, SHARES: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The sequences' rows times the weight's columns, [BLOCK_N, BLOCK_UNITS]; 0 for those that are not inside."""
    total = tl.zeros((SHARES, BLOCK_N, BLOCK_UNITS), dtype=tl.float32)
    for chunk in tl.static_range(len(chunks)):
        part = load_rows(rows, row, inside, lines, chunk, SHARES, BLOCK_K)
        total = tl.dot(part, chunks[chunk], total, input_precision=PRECISION)
    return tl.where(inside, sum_of_shares(total, BLOCK_N, BLOCK_UNITS, SHARES), 0.0)


@triton.jit(do_not_specialize=["steps"])
def rnn_resident_grad_kernel(
    counters, weight, grad_h_n, grad_output, output, h0, grad_sums, before, lengths, steps, batch, size,
    RELU: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Every step of `rnn_grad_sums_kernel`, from the last one on."""
    sequence, unit, present, inside = own_part(batch, size, BLOCK_N, BLOCK_UNITS)
    counter, programs = own_counter(counters)
    chunks = load_columns(weight, size, size, BLOCK_UNITS, BLOCK_K, SHARES, CHUNKS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    for done in range(steps):
        step = steps - 1 - done
        place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
        _, behind = place_and_row(sequence, length, lengths, step + 1, batch, REVERSE)
        grad = grad_from_outputs(tl.float32, grad_h_n, grad_output, element, unit, place, length, inside, step, size)
        new = load_in(tl.float32, output, place * size + unit, inside & (step < length))
        old = state_before(
            tl.float32, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
        )
        wait_for(counter, done * programs)
        from_behind = multiply_rows(
            grad_sums, behind, present & (step + 1 < length), chunks, size,
            BLOCK_N, BLOCK_UNITS, BLOCK_K, SHARES, PRECISION,
        )  # fmt: skip
        store_as(grad_sums, row * size + unit, rnn_grad_sum(from_behind + grad, new, RELU), inside)
        arrive(counter)
        store_as(before, row * size + unit, old, inside)


@triton.jit(do_not_specialize=["steps"])
def lstm_resident_grad_kernel(
    counters, weight, gates, cells, c0, grad_c, grad_h_n, grad_output, output, h0, grad_gates, before,
    lengths, steps, batch, size,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Every step of `lstm_grad_gates_kernel` without a projection, from the last one on; grad_c: [N, H], in place."""
    sequence, unit, present, inside = own_part(batch, size, BLOCK_N, BLOCK_UNITS)
    counter, programs = own_counter(counters)
    chunks = load_columns(weight, 4 * size, size, BLOCK_UNITS, BLOCK_K, SHARES, CHUNKS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    grad_cell = tl.load(grad_c + element, mask=inside, other=0.0)
    for done in range(steps):
        step = steps - 1 - done
        place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
        _, behind = place_and_row(sequence, length, lengths, step + 1, batch, REVERSE)
        active = inside & (step < length)
        grad = grad_from_outputs(tl.float32, grad_h_n, grad_output, element, unit, place, length, inside, step, size)
        i, f, g, o = load_lstm_gates(tl.float32, gates, row, unit, active, size)
        cell = tl.load(cells + row * size + unit, mask=active, other=0.0)
        c = cell_before(
            tl.float32, cells, c0, lengths, length, element, sequence, unit, active, step, batch, size, REVERSE
        )
        h = state_before(
            tl.float32, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
        )
        wait_for(counter, done * programs)
        from_behind = multiply_rows(
            grad_gates, behind, present & (step + 1 < length), chunks, 4 * size,
            BLOCK_N, BLOCK_UNITS, BLOCK_K, SHARES, PRECISION,
        )  # fmt: skip
        own = tl.where(active, grad_cell, 0.0)
        grad_i, grad_f, grad_g, grad_o, handed_on = lstm_grad_sums(from_behind + grad, own, i, f, g, o, cell, c)
        store_lstm_gates(grad_gates, row, unit, inside, size, grad_i, grad_f, grad_g, grad_o)
        arrive(counter)
        grad_cell = tl.where(active, handed_on, grad_cell)
        store_as(before, row * size + unit, h, inside)
    tl.store(grad_c + element, grad_cell, mask=inside)


@triton.jit(do_not_specialize=["steps"])
def gru_resident_grad_kernel(
    counters, weight, gates, hidden_new, grad_gates, kept, grad_h_n, grad_output, output, h0,
    grad_sums, before, lengths, steps, batch, size,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Every step of `gru_grad_gates_kernel`, from the last one on; kept: [N, H], what the first step hands on by z."""
    sequence, unit, present, inside = own_part(batch, size, BLOCK_N, BLOCK_UNITS)
    counter, programs = own_counter(counters)
    chunks = load_columns(weight, 3 * size, size, BLOCK_UNITS, BLOCK_K, SHARES, CHUNKS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    by_z = tl.zeros((BLOCK_N, BLOCK_UNITS), dtype=tl.float32)
    for done in range(steps):
        step = steps - 1 - done
        place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
        _, behind = place_and_row(sequence, length, lengths, step + 1, batch, REVERSE)
        active = inside & (step < length)
        grad = grad_from_outputs(tl.float32, grad_h_n, grad_output, element, unit, place, length, inside, step, size)
        r, z, n = load_gru_gates(tl.float32, gates, row, unit, active, size)
        from_h = tl.load(hidden_new + row * size + unit, mask=active, other=0.0)
        h = state_before(
            tl.float32, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
        )
        wait_for(counter, done * programs)
        from_behind = multiply_rows(
            grad_sums, behind, present & (step + 1 < length), chunks, 3 * size,
            BLOCK_N, BLOCK_UNITS, BLOCK_K, SHARES, PRECISION,
        )  # fmt: skip
        grad_r, grad_z, grad_n, grad_from_h, by_z = gru_grad_sums(from_behind + by_z + grad, r, z, n, from_h, h)
        store_gru_gates(grad_sums, row, unit, inside, size, grad_r, grad_z, grad_from_h)
        arrive(counter)
        store_gru_gates(grad_gates, row, unit, inside, size, grad_r, grad_z, grad_n)
        store_as(before, row * size + unit, h, inside)
    tl.store(kept + element, by_z, mask=inside)


def _default(architecture, dtype, steps, batch, size, gates, aligned):
    """Chunks are as wide as registers allow, because for each the L2 cache is waited for once."""
    resident = int(worthwhile(architecture, dtype, steps, batch, size, aligned))
    if dtype.itemsize != 2:
        return (resident, 16, 8, 64 if size > 128 else 32, 8)
    if size > 512:
        return (resident, 16, 16, 128, 8)
    return (resident, 32, 16, 64 if size > 256 else 32, 8) if batch > 16 else (resident, 16, 8, 128, 4)


def _candidates(dtype, steps, batch, size, gates, aligned):
    """Single steps, and whole sequences where a slice of the weight can fit."""
    if dtype.itemsize == 8:
        return []
    tiles = {
        2: [(16, 8, 128, 4), (16, 16, 128, 4), (16, 16, 128, 8), (32, 8, 64, 4), (32, 16, 32, 8), (32, 16, 64, 8)],
        4: [(16, 8, 32, 4), (16, 8, 64, 8), (16, 8, 32, 8), (16, 16, 32, 4), (16, 16, 32, 8), (32, 8, 32, 8)],
    }[dtype.itemsize]
    fitting = [
        (block_n, block_units, block_k, shares)
        for block_n, block_units, block_k, shares in tiles
        if gates * size * block_units * bytes_held(dtype) + block_n * block_k * shares * dtype.itemsize <= ROOM
    ]
    return [(0, *tiles[0]), *((1, *tile) for tile in fitting if tile[0] <= max(batch, 16))]


WALK_BACK = Choice(
    "recurrent.walk_back", ("RESIDENT", "BLOCK_N", "BLOCK_UNITS", "BLOCK_K", "num_warps"), _candidates, _default
)


def walk_back_at_once(kernel, walk, weight_hh, *arguments, **constants) -> bool:
    """Walks back through the whole sequence in one launch, if it is one of those that are walked so; says whether.

    Args:
        kernel: one of the three above.
        walk: steps, batch, lengths and direction (`gpu.py`).
        weight_hh: the layer's, [gates * H, H].
        arguments: the kernel's, between the weight and the lengths.
        constants: the kernel's own.
    """
    lines, size = weight_hh.shape
    tile = dict(WALK_BACK.pick(weight_hh, walk.steps, walk.batch, size, lines // size, size % 16 == 0))
    if not tile.pop("RESIDENT"):
        return False
    grid = ceil_div(size, tile["BLOCK_UNITS"]), ceil_div(walk.batch, tile["BLOCK_N"])
    shares = tile["num_warps"]
    constants |= tile | {
        "REVERSE": walk.reverse, "SHARES": shares, "CHUNKS": ceil_div(lines, shares * tile["BLOCK_K"]),
    }  # fmt: skip
    return launch_at_once(kernel, grid, weight_hh, *arguments, walk.lengths, walk.steps, walk.batch, size, **constants)
