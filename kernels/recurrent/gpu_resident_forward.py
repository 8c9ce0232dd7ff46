"""A recurrent layer's whole sequence in one Triton kernel: the recurrent weight stays on the chip over all time steps
(`gpu_resident.py` says how programs share the work).

States lie in two buffers [2, N, H]: a step reads one, the whole state of its sequences, and writes the other, so one
wait a step is enough: behind it, nobody reads any more what will be written.

One product makes all gates, BLOCK_N x (LINES * BLOCK_UNITS); its sum goes over the units of the state in chunks of
BLOCK_K.
"""

import triton
import triton.language as tl

from ..gpu_arrays import copy_into, fill
from ..launch import ceil_div, empty
from ..tuning import Choice
from .gpu_resident import ROOM, arrive, bytes_held, launch_at_once, own_counter, own_part, wait_for, worthwhile
from .gpu_time import (
    gru_gates,
    length_of,
    lines_of_columns,
    load_bias,
    load_gru_gates,
    load_in,
    load_lstm_gates,
    lstm_gates,
    place_and_row,
    rnn_state,
    split_gates,
    store_as,
    store_gru_gates,
    store_lstm_gates,
)


@triton.jit
def buffers(states, step, elements):
    """The buffer that a step reads, and the one that it writes."""
    return states + (step % 2) * elements, states + ((step + 1) % 2) * elements


@triton.jit
def load_chunks(weight, first, size, GATES: tl.constexpr, LINES: tl.constexpr, BLOCK_UNITS: tl.constexpr,
                BLOCK_K: tl.constexpr, CHUNKS: tl.constexpr):  # fmt: skip
    """The lines of the units from `first` on, W_hh[gate * size + unit, :], as columns of CHUNKS tiles."""
    line, inside = lines_of_columns(first, size, GATES, LINES, BLOCK_UNITS)
    chunks = ()
    for chunk in tl.static_range(CHUNKS):
        inner = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
        tile = weight + line[None, :] * size + inner[:, None]
        chunks += (tl.load(tile, mask=(inner < size)[:, None] & inside[None, :], other=0.0),)
    return chunks


@triton.jit
def load_part(state, sequence, inside, size, first, BLOCK_K: tl.constexpr):
    """BLOCK_K units of the sequences' states, from `first` on; what other programs have stored."""
    unit = (first + tl.arange(0, BLOCK_K))[None, :]
    return tl.load(state + sequence * size + unit, mask=inside & (unit < size), other=0.0, cache_modifier=".cg")


@triton.jit
def multiply(state, sequence, inside, chunks, size, BLOCK_N: tl.constexpr, COLUMNS: tl.constexpr,
             BLOCK_K: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The sequences' states [BLOCK_N, size] times the chunks. States are read past the L1 cache, which may hold their
    buffer as it was two steps ago; half types before the first product, so that the L2 cache is waited for once, and
    float32 chunk by chunk, because more would not fit into the registers."""
    AT_ONCE: tl.constexpr = state.dtype.element_ty.primitive_bitwidth <= 16
    parts = ()
    if AT_ONCE:
        for chunk in tl.static_range(CHUNKS):
            parts += (load_part(state, sequence, inside, size, chunk * BLOCK_K, BLOCK_K),)
    total = tl.zeros((BLOCK_N, COLUMNS), dtype=tl.float32)
    for chunk in tl.static_range(CHUNKS):
        if AT_ONCE:
            part = parts[chunk]
        else:
            part = load_part(state, sequence, inside, size, chunk * BLOCK_K, BLOCK_K)
        total = tl.dot(part, chunks[chunk], total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["steps"])
def rnn_resident_kernel(
    counters, weight, gates, bias, states, output, lengths, steps, batch, size,
    RELU: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """h' = tanh or relu of (gates + W_hh h + b_hh) for every step; gates: [T * N, H] rows, W_ih x + b_ih."""
    sequence, unit, present, inside = own_part(batch, size, BLOCK_N, BLOCK_UNITS)
    counter, programs = own_counter(counters)
    chunks = load_chunks(weight, tl.program_id(0) * BLOCK_UNITS, size, 1, 1, BLOCK_UNITS, BLOCK_K, CHUNKS)
    b = load_bias(tl.float32, bias, 0, unit, size)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    h = load_in(tl.float32, states, element, inside)
    for step in range(steps):
        place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
        active = inside & (step < length)
        total = tl.load(gates + row * size + unit, mask=active, other=0.0) + b
        now, then = buffers(states, step, batch * size)
        wait_for(counter, step * programs)
        total += multiply(now, sequence, present, chunks, size, BLOCK_N, BLOCK_UNITS, BLOCK_K, CHUNKS, PRECISION)
        state = rnn_state(total, RELU)
        h = tl.where(active, state.to(states.dtype.element_ty).to(tl.float32), h)
        store_as(then, element, h, inside)
        arrive(counter)
        store_as(output, place * size + unit, tl.where(active, h, 0.0), inside)


@triton.jit(do_not_specialize=["steps"])
def lstm_resident_kernel(
    counters, weight, gates, bias, states, c0, c_n, cells, output, lengths, steps, batch, size,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Every step of `lstm_step_kernel` without a projection. gates: [T * N, 4H] rows, W_ih x + b_ih, then i, f, g, o.
    c0: [N, H] or None for zeros. cells: c' as rows. c_n: [N, H], the last one."""
    sequence, unit, present, inside = own_part(batch, size, BLOCK_N, BLOCK_UNITS)
    counter, programs = own_counter(counters)
    chunks = load_chunks(weight, tl.program_id(0) * BLOCK_UNITS, size, 4, 4, BLOCK_UNITS, BLOCK_K, CHUNKS)
    b_i, b_f = load_bias(tl.float32, bias, 0, unit, size), load_bias(tl.float32, bias, 1, unit, size)
    b_g, b_o = load_bias(tl.float32, bias, 2, unit, size), load_bias(tl.float32, bias, 3, unit, size)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    h, cell = load_in(tl.float32, states, element, inside), tl.zeros(inside.shape, tl.float32)
    if c0 is not None:
        cell = load_in(tl.float32, c0, element, inside)
    for step in range(steps):
        place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
        active = inside & (step < length)
        i, f, g, o = load_lstm_gates(tl.float32, gates, row, unit, active, size)
        i, f, g, o = i + b_i, f + b_f, g + b_g, o + b_o
        now, then = buffers(states, step, batch * size)
        wait_for(counter, step * programs)
        sums = multiply(now, sequence, present, chunks, size, BLOCK_N, 4 * BLOCK_UNITS, BLOCK_K, CHUNKS, PRECISION)
        sum_i, sum_f, sum_g, sum_o = split_gates(sums, BLOCK_N, BLOCK_UNITS)
        i, f, g, o, new_cell, m = lstm_gates(i + sum_i, f + sum_f, g + sum_g, o + sum_o, cell)
        cell = tl.where(active, new_cell, cell)
        h = tl.where(active, m.to(states.dtype.element_ty).to(tl.float32), h)
        store_as(then, element, h, inside)
        arrive(counter)
        store_as(output, place * size + unit, tl.where(active, h, 0.0), inside)
        store_lstm_gates(gates, row, unit, active, size, i, f, g, o)
        tl.store(cells + row * size + unit, cell, mask=active)
    store_as(c_n, element, cell, inside)


@triton.jit(do_not_specialize=["steps"])
def gru_resident_kernel(
    counters, weight, gates, bias, states, hidden_new, output, lengths, steps, batch, size,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Every step of `gru_step_kernel`. gates: [T * N, 3H] rows, W_ih x + b_ih, then r, z, n. hidden_new: W_hn h + b_hn
    as rows."""
    sequence, unit, present, inside = own_part(batch, size, BLOCK_N, BLOCK_UNITS)
    counter, programs = own_counter(counters)
    chunks = load_chunks(weight, tl.program_id(0) * BLOCK_UNITS, size, 3, 4, BLOCK_UNITS, BLOCK_K, CHUNKS)
    b_r, b_z = load_bias(tl.float32, bias, 0, unit, size), load_bias(tl.float32, bias, 1, unit, size)
    b_n = load_bias(tl.float32, bias, 2, unit, size)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    h = load_in(tl.float32, states, element, inside)
    for step in range(steps):
        place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
        active = inside & (step < length)
        r, z, n = load_gru_gates(tl.float32, gates, row, unit, active, size)
        r, z = r + b_r, z + b_z
        now, then = buffers(states, step, batch * size)
        wait_for(counter, step * programs)
        sums = multiply(now, sequence, present, chunks, size, BLOCK_N, 4 * BLOCK_UNITS, BLOCK_K, CHUNKS, PRECISION)
        sum_r, sum_z, from_h, _ = split_gates(sums, BLOCK_N, BLOCK_UNITS)
        from_h += b_n
        r, z, n, state = gru_gates(r + sum_r, z + sum_z, n, from_h, h)
        h = tl.where(active, state.to(states.dtype.element_ty).to(tl.float32), h)
        store_as(then, element, h, inside)
        arrive(counter)
        store_as(output, place * size + unit, tl.where(active, h, 0.0), inside)
        store_gru_gates(gates, row, unit, active, size, r, z, n)
        tl.store(hidden_new + row * size + unit, from_h, mask=active)


def _default(architecture, dtype, steps, batch, size, gates, aligned):
    half = dtype.itemsize == 2
    if half and (batch > 16 or size > 512):
        tile = (32 if size <= 512 else 16, 64, 128, 8)
    else:
        tile = (16, 32, 128, 4) if half else (16, 32, 64, 8 if size > 256 else 4)
    return (int(worthwhile(architecture, dtype, steps, batch, size, aligned)), *tile)


def _candidates(dtype, steps, batch, size, gates, aligned):
    """Single steps, and whole sequences where a slice of the weight can fit."""
    if dtype.itemsize == 8:
        return []
    tiles = {
        2: [(16, 32, 128, 4), (16, 64, 128, 8), (16, 64, 256, 8), (32, 32, 128, 4), (32, 64, 128, 8), (64, 32, 128, 4)],
        4: [(16, 32, 64, 4), (16, 32, 32, 4), (16, 64, 64, 8), (32, 32, 32, 4)],
    }[dtype.itemsize]
    fitting = [tile for tile in tiles if size * (tile[1] * bytes_held(dtype) + tile[0] * dtype.itemsize) <= ROOM]
    return [(0, *tiles[0]), *((1, *tile) for tile in fitting if tile[0] <= max(batch, 16))]


WALK = Choice("recurrent.walk", ("RESIDENT", "BLOCK_N", "COLUMNS", "BLOCK_K", "num_warps"), _candidates, _default)


def walk_at_once(kernel, walk, gates, weight_hh, bias_hh, h0, kept, output, **constants):
    """Walks the whole sequence in one launch, if it is one of those that are walked so.

    Args:
        kernel: one of the three above.
        walk: steps, batch, lengths and direction (`gpu.py`).
        gates: [T * N, gates * H], float32.
        weight_hh, bias_hh, h0: the layer's; the last two may be None.
        kept: the arrays between `states` and `output`.
        output: [T, N, H].
        constants: the kernel's own.

    Returns:
        The final state [N, H]; None where nothing was done.
    """
    size = weight_hh.shape[1]
    tile = dict(WALK.pick(output, walk.steps, walk.batch, size, gates.shape[1] // size, size % 16 == 0))
    if not tile.pop("RESIDENT"):
        return None
    block_units = tile.pop("COLUMNS") // (1 if gates.shape[1] == size else 4)
    grid = ceil_div(size, block_units), ceil_div(walk.batch, tile["BLOCK_N"])
    states = empty(output, (2, walk.batch, size))
    if h0 is None:
        fill(states[0], 0)
    else:
        copy_into(states[0], h0)
    constants |= tile | {
        "REVERSE": walk.reverse, "BLOCK_UNITS": block_units, "CHUNKS": ceil_div(size, tile["BLOCK_K"]),
    }  # fmt: skip
    arguments = gates, bias_hh, states, *kept, output, walk.lengths, walk.steps, walk.batch, size
    return states[walk.steps % 2] if launch_at_once(kernel, grid, weight_hh, *arguments, **constants) else None
