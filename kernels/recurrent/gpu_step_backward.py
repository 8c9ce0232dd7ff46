"""Back through one time step of a recurrent layer in one Triton kernel: the product with the recurrent weight, the
derivatives of all gates, the states and the lengths' mask. It walks those sequences that `gpu_resident.py` leaves out,
and the cells.

A program has BLOCK_UNITS units of BLOCK_N sequences. The gradient of a step's new state is that of the next step's sums
times W_hh, and what the outputs add. Gradients of sums are kept as rows for the gradients of the weights, which are one
product each at the end: a launch reads the rows of the step behind it, whole, and writes its part of its own step's.
So no launch reads what it writes, and the order of the launches on their stream keeps the steps apart.
"""

import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import Launch, ceil_div
from ..tuning import Choice
from .gpu_step_forward import PROGRAMS, arithmetic
from .gpu_time import (
    cell_before,
    grad_from_outputs,
    gru_grad_sums,
    length_of,
    load_gru_gates,
    load_in,
    load_lstm_gates,
    lstm_grad_sums,
    own_tile,
    place_and_row,
    rnn_grad_sum,
    state_before,
    store_as,
    store_gru_gates,
    store_lstm_gates,
)


@triton.jit
def multiply_rows(rows, terms, inside, weight, lines, unit, size, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
                  BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """The sequences' rows [BLOCK_N, lines], to which pointers [BLOCK_N, 1] are given, times the weight's columns
    [lines, size] of the program's units. 0 for sequences that are not inside [BLOCK_N, 1], and where terms = 0."""
    total = tl.zeros((BLOCK_N, BLOCK_UNITS), dtype=ACCUMULATOR)
    for start in range(0, terms, BLOCK_K):
        line = start + tl.arange(0, BLOCK_K)
        left = tl.load(rows + line[None, :], mask=inside & (line < lines)[None, :], other=0.0)
        columns = weight + line.to(tl.int64)[:, None] * size + unit
        right = tl.load(columns, mask=(line < lines)[:, None] & (unit < size), other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    return tl.where(inside, total, 0.0)


@triton.jit
def grad_of_state(grad_sums, weight, grad_h_n, grad_output, lengths, length, element, sequence, unit, place, present,
                  inside, batch, size, lines, steps, step, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
                  ACCUMULATOR: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr,
                  BLOCK_K: tl.constexpr):  # fmt: skip
    """The gradient of a step's new state, 0 past the end: from the step behind it, and from the outputs."""
    _, behind = place_and_row(sequence, length, lengths, step + 1, batch, REVERSE)
    terms = tl.where(step + 1 < steps, lines, 0)
    total = multiply_rows(
        grad_sums + behind * lines, terms, present & (step + 1 < length), weight, lines, unit, size,
        PRECISION, ACCUMULATOR, BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    return total + grad_from_outputs(
        ACCUMULATOR, grad_h_n, grad_output, element, unit, place, length, inside, step, size
    )


@triton.jit(do_not_specialize=["steps", "step"])
def rnn_grad_sums_kernel(
    weight, grad_h_n, grad_output, output, h0, grad_sums, before, lengths, batch, size, lines, steps, step,
    RELU: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of a step's sums, and the state that it started from, both as rows [T * N, H]."""
    sequence, unit, present, inside, _ = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    grad = grad_of_state(
        grad_sums, weight, grad_h_n, grad_output, lengths, length, element, sequence, unit, place, present, inside,
        batch, size, lines, steps, step, REVERSE, PRECISION, ACCUMULATOR, BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    state = load_in(ACCUMULATOR, output, place * size + unit, inside & (step < length))
    store_as(grad_sums, row * size + unit, rnn_grad_sum(grad, state, RELU), inside)
    state = state_before(
        ACCUMULATOR, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
    )
    store_as(before, row * size + unit, state, inside)


@triton.jit(do_not_specialize=["steps", "step"])
def lstm_grad_projected_kernel(
    weight, grad_gates, grad_h_n, grad_output, output, h0, grad_projected, before,
    lengths, batch, size, lines, steps, step,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of h' = W_hr m, and the state that the step started from, both as rows [T * N, size]. weight: W_hh
    [lines, size]; grad_gates: rows [T * N, lines] of the step behind."""
    sequence, unit, present, inside, _ = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    grad = grad_of_state(
        grad_gates, weight, grad_h_n, grad_output, lengths, length, element, sequence, unit, place, present, inside,
        batch, size, lines, steps, step, REVERSE, PRECISION, ACCUMULATOR, BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    store_as(grad_projected, row * size + unit, grad, inside)
    state = state_before(
        ACCUMULATOR, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
    )
    store_as(before, row * size + unit, state, inside)


@triton.jit(do_not_specialize=["steps", "step"])
def lstm_grad_gates_kernel(
    weight, gates, cells, c0, grad_c, grad_projected, grad_h_n, grad_output, output, h0, grad_gates, before,
    lengths, batch, size, lines, steps, step,
    PROJECTED: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of a step's four sums as rows [T * N, 4H], and c's in place: grad_c [N, H] is that of the new c,
    then that of the old.

    m's gradient is that of the state, and weight W_hh [4H, H], unless it is PROJECTED: then it is this step's rows of
    grad_projected [T * N, lines] times W_hr [lines, H], behind `lstm_grad_projected_kernel`.
    """
    sequence, unit, present, inside, _ = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    if PROJECTED:
        grad_m = multiply_rows(
            grad_projected + row * lines, lines, present & (step < length), weight, lines, unit, size,
            PRECISION, ACCUMULATOR, BLOCK_N, BLOCK_UNITS, BLOCK_K,
        )  # fmt: skip
    else:
        grad_m = grad_of_state(
            grad_gates, weight, grad_h_n, grad_output, lengths, length, element, sequence, unit, place, present, inside,
            batch, size, lines, steps, step, REVERSE, PRECISION, ACCUMULATOR, BLOCK_N, BLOCK_UNITS, BLOCK_K,
        )  # fmt: skip
        state = state_before(
            ACCUMULATOR, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
        )
        store_as(before, row * size + unit, state, inside)
    active = inside & (step < length)
    i, f, g, o = load_lstm_gates(ACCUMULATOR, gates, row, unit, active, size)
    cell = load_in(ACCUMULATOR, cells, row * size + unit, active)
    c = cell_before(
        ACCUMULATOR, cells, c0, lengths, length, element, sequence, unit, active, step, batch, size, REVERSE
    )
    grad_i, grad_f, grad_g, grad_o, grad = lstm_grad_sums(
        grad_m, load_in(ACCUMULATOR, grad_c, element, active), i, f, g, o, cell, c
    )
    store_lstm_gates(grad_gates, row, unit, inside, size, grad_i, grad_f, grad_g, grad_o)
    tl.store(grad_c + element, grad, mask=active)


@triton.jit(do_not_specialize=["steps", "step"])
def gru_grad_gates_kernel(
    weight, gates, hidden_new, grad_gates, kept, grad_h_n, grad_output, output, h0, grad_sums, before,
    lengths, batch, size, lines, steps, step,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients of W_ih x (grad_gates) and of W_hh h (grad_sums) at a step, as rows [T * N, 3H]; kept: [N, H], what
    the state hands on by z, in place."""
    sequence, unit, present, inside, _ = own_tile(batch, size, BLOCK_N, BLOCK_UNITS)
    length, element = length_of(sequence, present, lengths, steps), sequence * size + unit
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    grad = grad_of_state(
        grad_sums, weight, grad_h_n, grad_output, lengths, length, element, sequence, unit, place, present, inside,
        batch, size, lines, steps, step, REVERSE, PRECISION, ACCUMULATOR, BLOCK_N, BLOCK_UNITS, BLOCK_K,
    )  # fmt: skip
    grad += load_in(ACCUMULATOR, kept, element, inside & (step + 1 < length))
    state = state_before(
        ACCUMULATOR, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
    )
    active = inside & (step < length)
    r, z, n = load_gru_gates(ACCUMULATOR, gates, row, unit, active, size)
    from_h = load_in(ACCUMULATOR, hidden_new, row * size + unit, active)
    grad_r, grad_z, grad_n, grad_from_h, grad_kept = gru_grad_sums(grad, r, z, n, from_h, state)
    store_as(before, row * size + unit, state, inside)
    store_gru_gates(grad_gates, row, unit, inside, size, grad_r, grad_z, grad_n)
    store_gru_gates(grad_sums, row, unit, inside, size, grad_r, grad_z, grad_from_h)
    tl.store(kept + element, grad_kept, mask=active)


def _default(architecture, dtype, batch, size, lines, aligned):
    """Sums are long here, and narrow tiles are what makes enough programs of a small batch. A thread has 16 numbers of
    a tile at most: behind the product it wants the gates, cells and gradients of each."""
    if dtype.itemsize == 8:
        return 32, 32, 32, 4, 2
    sequences = 16 if batch <= 16 else 32 if batch <= 32 else 64
    units = 32 if ceil_div(batch, sequences) * ceil_div(size, 32) >= PROGRAMS else 16
    if dtype.itemsize == 4:
        return sequences, units, 16 if architecture < 90 else 32, 4, 3
    if not aligned:
        return sequences, units, 32, 4, 3
    if ceil_div(batch, 64) * ceil_div(size, 64) >= PROGRAMS:
        return 64, 64, 64, 8, 3
    return sequences, units, 128 if sequences <= 32 else 64, 4, 4


def _candidates(dtype, batch, size, lines, aligned):
    every = {
        2: [
            (16, 16, 128, 4, 4), (16, 16, 256, 4, 3), (16, 32, 128, 4, 4), (16, 64, 64, 4, 4), (32, 16, 128, 4, 4),
            (32, 32, 128, 4, 4), (32, 64, 64, 4, 4), (64, 16, 128, 4, 3), (64, 16, 64, 4, 4), (64, 32, 64, 4, 4),
            (64, 32, 128, 8, 3), (64, 64, 64, 8, 3), (64, 64, 64, 8, 4), (128, 32, 64, 8, 3),
        ],
        4: [
            (16, 16, 64, 4, 4), (16, 32, 32, 4, 4), (32, 16, 32, 4, 4), (32, 32, 32, 4, 4), (32, 64, 32, 4, 3),
            (64, 16, 32, 4, 3), (64, 32, 32, 4, 3), (64, 32, 32, 8, 3), (64, 64, 16, 8, 3), (64, 64, 32, 8, 3),
        ],
        8: [(16, 16, 32, 4, 2), (16, 32, 32, 4, 2), (32, 16, 32, 4, 2), (32, 32, 16, 4, 3), (32, 32, 32, 4, 3)],
    }[dtype.itemsize]  # fmt: skip
    fitting = [tile for tile in every if tile[0] <= max(batch, 16) and tile[1] <= max(size, 16)]
    return [tile for tile in fitting if aligned or tile[2] <= 64]


STEP_BACK = Choice(
    "recurrent.step_back", ("BLOCK_N", "BLOCK_UNITS", "BLOCK_K", "num_warps", "num_stages"), _candidates, _default
)


def backward_step(kernel, walk, weight, *arguments, **constants) -> Launch:
    """A launch of one of the kernels above, which wants only the step any more.

    Args:
        walk: steps, batch, lengths and direction (`gpu.py`).
        weight: the kernel's, [lines, size].
        arguments: the kernel's, between the weight and the lengths.
        constants: the kernel's own.
    """
    lines, size = weight.shape
    tile = STEP_BACK.pick(weight, walk.batch, size, lines, lines % 16 == 0 and size % 16 == 0)
    constants |= tile | {"REVERSE": walk.reverse} | arithmetic(weight.dtype)
    grid = (ceil_div(walk.batch, tile["BLOCK_N"]) * ceil_div(size, tile["BLOCK_UNITS"]),)
    numbers = walk.lengths, walk.batch, size, lines, walk.steps
    return Launch(kernel, grid, (contiguous(weight), *arguments, *numbers), constants)
