"""One time step of a recurrent layer in one Triton kernel: the product with the recurrent weight, all gates, the states
and the lengths' mask. It walks those sequences that `gpu_resident.py` leaves out, and the cells.

A program has BLOCK_UNITS units of BLOCK_N sequences. The states that a step starts from are the output of the step
before, or h0: no launch reads what it writes, and nothing but the order of the launches on their stream keeps one step
behind the other. In a captured step that order is the graph's.
"""

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import Launch, ceil_div
from ..precision import input_precision
from ..tuning import Choice, has_room
from .gpu_time import (
    cell_before,
    gru_gates,
    length_of,
    lines_of_columns,
    load_bias,
    load_gru_gates,
    load_in,
    load_lstm_gates,
    lstm_gates,
    own_tile,
    place_and_row,
    rnn_state,
    split_gates,
    store_as,
    store_gru_gates,
    store_lstm_gates,
)

PROGRAMS = 132  # what a large device runs at once: large tiles only where there are as many


@triton.jit
def states_before(output, h0, lengths, length, sequence, step, batch, size, REVERSE: tl.constexpr):
    """Where the states lie that a step starts from, pointers [BLOCK_N, 1], and how many of their units are there: none
    where the first step starts from zeros."""
    place, _ = place_and_row(sequence, length, lengths, step - 1, batch, REVERSE)
    if h0 is None:
        states, units = output + place * size, tl.where(step > 0, size, 0)
    else:
        states, units = tl.where(step > 0, output + place * size, h0 + sequence * size), size
    return states, units


@triton.jit
def multiply_states(states, units, active, weight, size, inner, first, GATES: tl.constexpr, LINES: tl.constexpr,
                    PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr, BLOCK_N: tl.constexpr,
                    BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """The states [BLOCK_N, inner] of the active sequences times the weight's lines [GATES * size, inner] of the units
    from `first` on: [BLOCK_N, LINES * BLOCK_UNITS]."""
    line, is_line = lines_of_columns(first, size, GATES, LINES, BLOCK_UNITS)
    lines = weight + (line * inner)[:, None]
    total = tl.zeros((BLOCK_N, LINES * BLOCK_UNITS), dtype=ACCUMULATOR)
    for start in range(0, units, BLOCK_K):
        term = start + tl.arange(0, BLOCK_K)
        left = tl.load(states + term[None, :], mask=active & (term < inner)[None, :], other=0.0)
        right = tl.load(lines + term[None, :], mask=is_line[:, None] & (term < inner)[None, :], other=0.0)
        total = tl.dot(left, right.T, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    return total


@triton.jit
def store_state(output, h_n, state, place, element, unit, size, step, length, inside):
    """A step's new state, to the output (0 past a sequence's end), and the last one to h_n."""
    store_as(output, place * size + unit, tl.where(step < length, state, 0.0), inside)
    store_as(h_n, element, state, inside & (step + 1 == length))


@triton.jit(do_not_specialize=["steps", "step"])
def rnn_step_kernel(
    weight, gates, bias, h0, output, h_n, lengths, batch, size, inner, steps, step,
    RELU: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h' = tanh or relu of (gates + W_hh h + b_hh). gates: [T * N, H] rows, W_ih x + b_ih. weight: [H, H]."""
    sequence, unit, present, inside, first = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    states, units = states_before(output, h0, lengths, length, sequence, step, batch, size, REVERSE)
    total = multiply_states(
        states, units, present & (step < length), weight, size, inner, first, 1, 1, PRECISION, ACCUMULATOR,
        BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    total += load_in(ACCUMULATOR, gates, row * size + unit, inside & (step < length))
    total += load_bias(ACCUMULATOR, bias, 0, unit, size)
    store_state(output, h_n, rnn_state(total, RELU), place, element, unit, size, step, length, inside)


@triton.jit(do_not_specialize=["steps", "step"])
def lstm_step_kernel(
    weight, gates, bias, h0, c0, cells, hidden, output, h_n, c_n, lengths, batch, size, inner, steps, step,
    PROJECTED: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """i, f, o = sigmoid, g = tanh of (gates + W_hh h + b_hh); c' = f c + i g; m = o tanh(c').

    gates: [T * N, 4H] rows, W_ih x + b_ih, then i, f, g, o. weight: [4H, inner]. c0: [N, H]. cells: c' as rows, and the
    last one goes to c_n. m goes to `hidden` as rows where it is PROJECTED, to `inner` numbers a state; else it is h'.
    """
    sequence, unit, present, inside, first = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    states, units = states_before(output, h0, lengths, length, sequence, step, batch, inner, REVERSE)
    sums = multiply_states(
        states, units, present & (step < length), weight, size, inner, first, 4, 4, PRECISION, ACCUMULATOR,
        BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    sum_i, sum_f, sum_g, sum_o = split_gates(sums, BLOCK_N, BLOCK_UNITS)
    active = inside & (step < length)
    i, f, g, o = load_lstm_gates(ACCUMULATOR, gates, row, unit, active, size)
    b_i, b_f = load_bias(ACCUMULATOR, bias, 0, unit, size), load_bias(ACCUMULATOR, bias, 1, unit, size)
    b_g, b_o = load_bias(ACCUMULATOR, bias, 2, unit, size), load_bias(ACCUMULATOR, bias, 3, unit, size)
    c = cell_before(
        ACCUMULATOR, cells, c0, lengths, length, element, sequence, unit, active, step, batch, size, REVERSE
    )
    i, f, g, o, cell, m = lstm_gates(i + sum_i + b_i, f + sum_f + b_f, g + sum_g + b_g, o + sum_o + b_o, c)
    store_lstm_gates(gates, row, unit, active, size, i, f, g, o)
    tl.store(cells + row * size + unit, cell, mask=active)
    store_as(c_n, element, cell, inside & (step + 1 == length))
    if PROJECTED:
        store_as(hidden, row * size + unit, tl.where(active, m, 0.0), inside)
    else:
        store_state(output, h_n, m, place, element, unit, size, step, length, inside)


@triton.jit(do_not_specialize=["steps", "step"])
def lstm_project_kernel(
    weight, hidden, output, h_n, lengths, batch, size, inner, steps, step,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h' = W_hr m, behind `lstm_step_kernel`. weight: W_hr [size, inner]. hidden: m as rows [T * N, inner]."""
    sequence, unit, present, inside, first = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    state = multiply_states(
        hidden + row * inner, inner, present & (step < length), weight, size, inner, first, 1, 1,
        PRECISION, ACCUMULATOR, BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    store_state(output, h_n, state, place, element, unit, size, step, length, inside)


@triton.jit(do_not_specialize=["steps", "step"])
def gru_step_kernel(
    weight, gates, bias, h0, hidden_new, output, h_n, lengths, batch, size, inner, steps, step,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """r, z = sigmoid of (gates + W_hh h + b_hh); n = tanh(gates + r (W_hn h + b_hn)); h' = (1 - z) n + z h.

    gates: [T * N, 3H] rows, W_ih x + b_ih, then r, z, n. weight: [3H, H]. hidden_new: W_hn h + b_hn as rows.
    """
    sequence, unit, present, inside, first = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    states, units = states_before(output, h0, lengths, length, sequence, step, batch, size, REVERSE)
    sums = multiply_states(
        states, units, present & (step < length), weight, size, inner, first, 3, 4, PRECISION, ACCUMULATOR,
        BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    sum_r, sum_z, from_h, _ = split_gates(sums, BLOCK_N, BLOCK_UNITS)
    active = inside & (step < length)
    r, z, n = load_gru_gates(ACCUMULATOR, gates, row, unit, active, size)
    b_r, b_z = load_bias(ACCUMULATOR, bias, 0, unit, size), load_bias(ACCUMULATOR, bias, 1, unit, size)
    from_h += load_bias(ACCUMULATOR, bias, 2, unit, size)
    h = load_in(ACCUMULATOR, states, unit, active & (unit < units))
    r, z, n, state = gru_gates(r + sum_r + b_r, z + sum_z + b_z, n, from_h, h)
    store_gru_gates(gates, row, unit, active, size, r, z, n)
    tl.store(hidden_new + row * size + unit, from_h, mask=active)
    store_state(output, h_n, state, place, element, unit, size, step, length, inside)


def _default(architecture, dtype, batch, size, lines, aligned):
    if dtype.itemsize == 8:
        return 32, 32, 32, 4, 2
    if dtype.itemsize == 4:
        # Not 32 sequences: all forms would not fit into the registers that they get. As for `dense`: before sm_90, 32
        # terms want more registers than three blocks have each.
        return 16 if batch <= 16 else 64, 64, 16 if architecture < 90 else 32, 4, 3
    sequences = 16 if batch <= 16 else 32 if batch <= 32 else 64
    if not aligned:
        return sequences, 64, 32, 4, 3  # numbers of 2 bytes are not copied past the registers
    if ceil_div(batch, 128) * ceil_div(size * lines, 128) >= PROGRAMS:
        return 128, 128, 64 if has_room(architecture) else 32, 8, 3
    return sequences, 64, 128 if sequences <= 32 and has_room(architecture) else 64, 4, 4


def _candidates(dtype, batch, size, lines, aligned):
    every = {
        2: [
            (16, 32, 64, 4, 4), (16, 32, 128, 4, 4), (16, 64, 64, 4, 4), (16, 64, 128, 4, 4), (16, 128, 64, 4, 4),
            (32, 32, 128, 4, 4), (32, 64, 64, 4, 4), (32, 128, 64, 4, 4), (64, 32, 128, 4, 4), (64, 64, 64, 4, 4),
            (64, 64, 64, 8, 4), (64, 128, 64, 4, 3), (64, 128, 64, 8, 4), (128, 64, 64, 4, 3), (128, 64, 64, 8, 4),
            (128, 128, 32, 8, 4), (128, 128, 64, 8, 3),
        ],
        4: [
            (16, 32, 32, 4, 4), (16, 64, 32, 4, 4), (16, 64, 64, 4, 3), (32, 32, 32, 4, 4), (32, 64, 32, 4, 3),
            (32, 128, 32, 8, 3), (64, 32, 32, 4, 3), (64, 64, 32, 4, 3), (64, 64, 32, 8, 3), (64, 128, 16, 8, 3),
            (128, 64, 16, 8, 3), (128, 64, 32, 8, 3),
        ],
        8: [(16, 32, 32, 4, 2), (32, 32, 16, 4, 3), (32, 32, 32, 4, 3), (32, 64, 16, 4, 2), (64, 32, 16, 4, 2)],
    }[dtype.itemsize]  # fmt: skip
    fitting = [tile for tile in every if tile[0] <= max(batch, 16) and tile[1] <= max(size * lines, 32)]
    return [tile for tile in fitting if aligned or tile[2] <= 64]


STEP = Choice("recurrent.step", ("BLOCK_N", "COLUMNS", "BLOCK_K", "num_warps", "num_stages"), _candidates, _default)


def forward_step(kernel, walk, gates, weight, *arguments, **constants) -> Launch:
    """A launch of one of the kernels above, which wants only the step any more.

    Args:
        walk: steps, batch, lengths and direction (`gpu.py`).
        gates: how many lines of the weight a unit has.
        weight: the kernel's, [gates * size, inner].
        arguments: the kernel's, between the weight and the lengths.
        constants: the kernel's own.
    """
    size, lines = weight.shape[0] // gates, 1 if gates == 1 else 4
    tile = dict(STEP.pick(weight, walk.batch, size, lines, weight.shape[1] % 16 == 0))
    block_units = tile.pop("COLUMNS") // lines
    constants |= tile | {"BLOCK_UNITS": block_units, "REVERSE": walk.reverse} | arithmetic(weight.dtype)
    grid = (ceil_div(walk.batch, tile["BLOCK_N"]) * ceil_div(size, block_units),)
    numbers = walk.lengths, walk.batch, size, weight.shape[1], walk.steps
    return Launch(kernel, grid, (contiguous(weight), *arguments, *numbers), constants)


def arithmetic(dtype) -> dict:
    """How values of this type are multiplied, and what their products are added in."""
    accumulator = tl.float64 if dtype == np.float64 else tl.float32
    return {"PRECISION": input_precision(dtype), "ACCUMULATOR": accumulator}
