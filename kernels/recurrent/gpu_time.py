"""What every walk over time needs in Triton, whether it is one launch a step (`gpu_step_forward.py`,
`gpu_step_backward.py`) or one for the whole sequence (`gpu_resident.py`): where a step's values lie, and the formulas.

Rows of [T, N] come in two orders:

    places   time after time: x, the output and their gradients, as users have them
    rows     what is kept between the passes: places, where there are no lengths; with lengths, step after step in the
             order in which each sequence is walked, because in reverse it begins at its own end

Steps past a sequence's end leave its state alone, and write zeros. Sums and cells are float32 for half types.

Where one product makes all gates, the lines of a program's units are its columns, the gates of one unit side by side:
LINES a unit, 4 for LSTM and GRU (whose fourth is zeros) and 1 for RNN.
"""

import triton
import triton.language as tl

from ..gpu_math import sigmoid, tanh


@triton.jit
def own_tile(batch, size, BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr):
    """Of a grid of one axis: a program's sequences [BLOCK_N, 1] and units [1, BLOCK_UNITS], which of them there are,
    and the first unit. Programs of the same units are neighbours: they read the same part of the weight."""
    tiles = tl.cdiv(batch, BLOCK_N)
    first = tl.program_id(0) // tiles * BLOCK_UNITS
    sequence = ((tl.program_id(0) % tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    unit = (first + tl.arange(0, BLOCK_UNITS))[None, :]
    present = sequence < batch
    return sequence, unit, present, present & (unit < size), first


@triton.jit
def length_of(sequence, inside, lengths, steps):
    """How many steps each sequence has."""
    if lengths is None:
        length = tl.zeros_like(sequence) + steps
    else:
        length = tl.load(lengths + sequence, mask=inside, other=0)
    return length


@triton.jit
def place_and_row(sequence, length, lengths, step, batch, REVERSE: tl.constexpr):
    """A step's place and row for each sequence."""
    time = tl.zeros_like(sequence) + step
    row = time * batch + sequence
    if REVERSE:
        time = tl.where(time < length, length - 1 - time, time)
    place = time * batch + sequence
    if lengths is None:
        row = place
    return place, row


@triton.jit
def locate(sequence, inside, lengths, step, steps, batch, REVERSE: tl.constexpr):
    """A step's place and row for each sequence, and how many steps the sequence has."""
    length = length_of(sequence, inside, lengths, steps)
    place, row = place_and_row(sequence, length, lengths, step, batch, REVERSE)
    return place, row, length


@triton.jit
def load_in(KIND: tl.constexpr, pointer, offset, inside):
    return tl.load(pointer + offset, mask=inside, other=0.0).to(KIND)


@triton.jit
def store_as(pointer, offset, value, inside):
    tl.store(pointer + offset, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def lines_of_columns(first, size, GATES: tl.constexpr, LINES: tl.constexpr, BLOCK_UNITS: tl.constexpr):
    """The line of W_hh that each column stands for, gate * size + unit, with units from `first` on; and which columns
    stand for one."""
    column = tl.arange(0, LINES * BLOCK_UNITS)
    unit, gate = first + column // LINES, column % LINES
    return tl.where(gate < GATES, gate, 0).to(tl.int64) * size + unit, (unit < size) & (gate < GATES)


@triton.jit
def split_gates(total, BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr):
    """The four gates' columns of a product, [BLOCK_N, BLOCK_UNITS] each."""
    even, odd = tl.split(tl.reshape(total, (BLOCK_N, BLOCK_UNITS, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def load_bias(KIND: tl.constexpr, bias, gate, unit, size):
    """A gate's part of b_hh for units [1, BLOCK_UNITS]; zeros for None."""
    if bias is None:
        value = tl.zeros(unit.shape, dtype=KIND)
    else:
        value = load_in(KIND, bias, gate * size + unit, unit < size)
    return value


@triton.jit
def load_lstm_gates(KIND: tl.constexpr, gates, row, unit, inside, size):
    """The parts i, f, g, o of rows [T * N, 4H]."""
    gate = row * 4 * size + unit
    i, f = load_in(KIND, gates, gate, inside), load_in(KIND, gates, gate + size, inside)
    return i, f, load_in(KIND, gates, gate + 2 * size, inside), load_in(KIND, gates, gate + 3 * size, inside)


@triton.jit
def store_lstm_gates(gates, row, unit, inside, size, i, f, g, o):
    gate = row * 4 * size + unit
    store_as(gates, gate, i, inside)
    store_as(gates, gate + size, f, inside)
    store_as(gates, gate + 2 * size, g, inside)
    store_as(gates, gate + 3 * size, o, inside)


@triton.jit
def load_gru_gates(KIND: tl.constexpr, gates, row, unit, inside, size):
    """The parts r, z, n of rows [T * N, 3H]."""
    gate = row * 3 * size + unit
    r, z = load_in(KIND, gates, gate, inside), load_in(KIND, gates, gate + size, inside)
    return r, z, load_in(KIND, gates, gate + 2 * size, inside)


@triton.jit
def store_gru_gates(gates, row, unit, inside, size, r, z, n):
    gate = row * 3 * size + unit
    store_as(gates, gate, r, inside)
    store_as(gates, gate + size, z, inside)
    store_as(gates, gate + 2 * size, n, inside)


@triton.jit
def rnn_state(total, RELU: tl.constexpr):
    """tanh or relu of a step's sum; NaN stays NaN."""
    return tl.where(total <= 0, 0.0 * total, total) if RELU else tanh(total)


@triton.jit
def lstm_gates(i, f, g, o, c):
    """From a step's four sums and the cell: i, f, o = sigmoid, g = tanh; c' = f c + i g; m = o tanh(c')."""
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    cell = f * c + i * g
    return i, f, g, o, cell, o * tanh(cell)


@triton.jit
def gru_gates(r, z, n, from_h, h):
    """From the sums of r and z, the two parts of n's, and the state: r, z = sigmoid; n = tanh(n + r from_h); h'."""
    r, z = sigmoid(r), sigmoid(z)
    n = tanh(n + r * from_h)
    return r, z, n, (1 - z) * n + z * h


@triton.jit
def rnn_grad_sum(grad, state, RELU: tl.constexpr):
    """The gradient of a step's sum from that of its new state, and that state."""
    return tl.where(state > 0, grad, 0.0) if RELU else grad * (1 - state * state)


@triton.jit
def lstm_grad_sums(grad_m, grad_c, i, f, g, o, cell, c_before):
    """From the gradients of m and of the new cell: those of a step's four sums, and of the old cell."""
    tanh_c = tanh(cell)
    grad_cell = grad_c + grad_m * o * (1 - tanh_c * tanh_c)
    grad_i, grad_f = grad_cell * g * i * (1 - i), grad_cell * c_before * f * (1 - f)
    return grad_i, grad_f, grad_cell * i * (1 - g * g), grad_m * tanh_c * o * (1 - o), grad_cell * f


@triton.jit
def gru_grad_sums(grad, r, z, n, from_h, state):
    """From the gradient of a step's new state: those of the sums of r, z and n, of n's part from the old state, and
    what the old state gets by z."""
    grad_n = grad * (1 - z) * (1 - n * n)
    return grad_n * from_h * r * (1 - r), grad * (state - n) * z * (1 - z), grad_n, grad_n * r, grad * z


@triton.jit
def state_before(KIND: tl.constexpr, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size,
                 REVERSE: tl.constexpr):  # fmt: skip
    """The state that a step started from: the output of the step before, or h0 (None for zeros)."""
    place, _ = place_and_row(sequence, length, lengths, step - 1, batch, REVERSE)
    now = tl.zeros_like(sequence) + step
    active = inside & (now - 1 < length)
    value = load_in(KIND, output, place * size + unit, active & (now > 0))
    if h0 is not None:
        value += load_in(KIND, h0, element, active & (now == 0))
    return value


@triton.jit
def cell_before(KIND: tl.constexpr, cells, c0, lengths, length, element, sequence, unit, active, step, batch, size,
                REVERSE: tl.constexpr):  # fmt: skip
    """The cell that a step started from: the row of the step before, or c0 (None for zeros)."""
    _, row = place_and_row(sequence, length, lengths, step - 1, batch, REVERSE)
    now = tl.zeros_like(sequence) + step
    value = load_in(KIND, cells, row * size + unit, active & (now > 0))
    if c0 is not None:
        value += load_in(KIND, c0, element, active & (now == 0))
    return value


@triton.jit
def grad_from_outputs(KIND: tl.constexpr, grad_h_n, grad_output, element, unit, place, length, inside, step, size):
    """What a step's new state gets from the output, and at a sequence's last step from h_n; 0 past the end."""
    active = inside & (step < length)
    grad = tl.zeros(active.shape, KIND)
    if grad_h_n is not None:
        grad += load_in(KIND, grad_h_n, element, active & (step + 1 == length))
    if grad_output is not None:
        grad += load_in(KIND, grad_output, place * size + unit, active)
    return grad


@triton.jit
def reorder_kernel(
    source, target, lengths, steps, batch, size, total,
    REVERSE: tl.constexpr, TO_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """target = source from places to rows, or back; zero past a sequence's end, whatever stands there."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < total
    unit, line = index % size, index // size
    step, sequence = line // batch, line % batch
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    origin, goal = (place, row) if TO_ROWS else (row, place)
    value = tl.load(source + origin * size + unit, mask=inside & (step < length), other=0.0)
    tl.store(target + goal * size + unit, value, mask=inside)
