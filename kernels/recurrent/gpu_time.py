"""One time step of the recurrent layers in one Triton kernel: all gates, the states and the lengths' mask.

A program has BLOCK neighbours of a state's [N, size] values. Rows of [T, N] come in two orders:

    places   time after time: x, the output and their gradients, as users have them
    rows     what is kept between the passes: places, where there are no lengths; with lengths, step after step in the
             order in which each sequence is walked, because in reverse it begins at its own end

Steps past a sequence's end leave its state alone, and write zeros. Sums and cells are float32 for half types.
"""

import triton
import triton.language as tl

from ..gpu_math import sigmoid, tanh


@triton.jit
def own_values(batch, size, BLOCK: tl.constexpr):
    """A program's values of a state [N, size]: which they are, which of them there are, their sequences and units."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return element, element < tl.cast(batch, tl.int64) * size, element // size, element % size


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
def grad_of_state(KIND: tl.constexpr, later, kept, grad_h_n, grad_output, element, unit, place, length, inside, step,
                  size):  # fmt: skip
    """The gradient of a step's new state, 0 past the end: from the steps behind it (`later`, a product with W_hh, and
    `kept`, what the state itself carried), and from the outputs."""
    behind = inside & (step + 1 < length)
    grad = load_in(KIND, later, element, behind)
    if kept is not None:
        grad += load_in(KIND, kept, element, behind)
    return grad + grad_from_outputs(KIND, grad_h_n, grad_output, element, unit, place, length, inside, step, size)


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


@triton.jit(do_not_specialize=["step"])
def rnn_step_kernel(
    gates, sums, h, output, lengths, step, steps, batch, size,
    RELU: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """h' = tanh or relu of (gates + sums): W_ih x + b_ih of all steps, and W_hh h + b_hh of this one."""
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    total = tl.load(gates + row * size + unit, mask=active, other=0.0)
    total += tl.load(sums + element, mask=active, other=0.0)
    state = rnn_state(total, RELU)
    store_as(h, element, state, active)
    store_as(output, place * size + unit, tl.where(active, state, 0.0), inside)


@triton.jit(do_not_specialize=["step"])
def rnn_grad_sums_kernel(
    later, grad_h_n, grad_output, output, h0, lengths, grad_sums, before, step, steps, batch, size,
    RELU: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a step's sums, and the state that it started from, both as rows."""
    KIND: tl.constexpr = later.dtype.element_ty
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    grad = grad_of_state(KIND, later, None, grad_h_n, grad_output, element, unit, place, length, inside, step, size)
    state = load_in(KIND, output, place * size + unit, inside & (step < length))
    store_as(grad_sums, row * size + unit, rnn_grad_sum(grad, state, RELU), inside)
    state = state_before(KIND, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE)
    store_as(before, row * size + unit, state, inside)


@triton.jit(do_not_specialize=["step"])
def lstm_step_kernel(
    gates, sums, c, cells, hidden, h, output, lengths, step, steps, batch, size,
    PROJECTED: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """i, f, o = sigmoid, g = tanh of (gates + sums); c' = f c + i g; m = o tanh(c').

    gates: [T * N, 4H] rows, W_ih x + b_ih, then i, f, g, o. sums: [N, 4H], W_hh h + b_hh. c: [N, H], in place.
    cells: c' as rows. m goes to `hidden` as rows where it is PROJECTED, else it is h', to h and to the output.
    """
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    KIND: tl.constexpr = gates.dtype.element_ty
    i, f, g, o = load_lstm_gates(KIND, gates, row, unit, active, size)
    sum_i, sum_f, sum_g, sum_o = load_lstm_gates(KIND, sums, sequence, unit, active, size)
    cell = tl.load(c + element, mask=active, other=0.0)
    i, f, g, o, cell, m = lstm_gates(i + sum_i, f + sum_f, g + sum_g, o + sum_o, cell)
    m = tl.where(active, m, 0.0)
    store_lstm_gates(gates, row, unit, active, size, i, f, g, o)
    tl.store(c + element, cell, mask=active)
    tl.store(cells + row * size + unit, cell, mask=active)
    if PROJECTED:
        store_as(hidden, row * size + unit, m, inside)
    else:
        store_as(h, element, m, active)
        store_as(output, place * size + unit, m, inside)


@triton.jit(do_not_specialize=["step"])
def lstm_project_kernel(
    projected, h, output, lengths, step, steps, batch, size, REVERSE: tl.constexpr, BLOCK: tl.constexpr
):
    """h' = W_hr m, to the state and to the output, of the sequences that have this step."""
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, _, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    state = tl.load(projected + element, mask=active, other=0.0)
    store_as(h, element, state, active)
    store_as(output, place * size + unit, state, inside)


@triton.jit(do_not_specialize=["step"])
def lstm_grad_projected_kernel(
    later, grad_h_n, grad_output, output, h0, lengths, grad_projected, before, step, steps, batch, size,
    REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of h' = W_hr m, and the state that the step started from, both as rows."""
    KIND: tl.constexpr = later.dtype.element_ty
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    grad = grad_of_state(KIND, later, None, grad_h_n, grad_output, element, unit, place, length, inside, step, size)
    store_as(grad_projected, row * size + unit, grad, inside)
    state = state_before(KIND, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE)
    store_as(before, row * size + unit, state, inside)


@triton.jit(do_not_specialize=["step"])
def lstm_grad_gates_kernel(
    gates, cells, c0, grad_c, grad_hidden, later, grad_h_n, grad_output, output, h0, lengths, grad_gates, before,
    step, steps, batch, size,
    PROJECTED: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a step's four sums as rows [T * N, 4H], and c's in place: grad_c [N, H] is that of the new c,
    then that of the old. m's gradient is `grad_hidden` [N, H] where it is PROJECTED, else that of the state."""
    KIND: tl.constexpr = later.dtype.element_ty
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    if PROJECTED:
        grad_m = load_in(KIND, grad_hidden, element, active)
    else:
        grad_m = grad_of_state(
            KIND, later, None, grad_h_n, grad_output, element, unit, place, length, inside, step, size
        )
        state = state_before(
            KIND, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE
        )
        store_as(before, row * size + unit, state, inside)
    i, f, g, o = load_lstm_gates(KIND, gates, row, unit, active, size)
    cell = load_in(KIND, cells, row * size + unit, active)
    c = cell_before(KIND, cells, c0, lengths, length, element, sequence, unit, active, step, batch, size, REVERSE)
    grad_i, grad_f, grad_g, grad_o, grad = lstm_grad_sums(
        grad_m, load_in(KIND, grad_c, element, active), i, f, g, o, cell, c
    )
    store_lstm_gates(grad_gates, row, unit, inside, size, grad_i, grad_f, grad_g, grad_o)
    tl.store(grad_c + element, grad, mask=active)


@triton.jit(do_not_specialize=["step"])
def gru_step_kernel(
    gates, sums, hidden_new, h, output, lengths, step, steps, batch, size,
    REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """r, z = sigmoid of (gates + sums); n = tanh(gates + r sums); h' = (1 - z) n + z h.

    gates: [T * N, 3H] rows, W_ih x + b_ih, then r, z, n. sums: [N, 3H], W_hh h + b_hh, whose part for n goes to
    hidden_new as rows.
    """
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    KIND: tl.constexpr = gates.dtype.element_ty
    r, z, n = load_gru_gates(KIND, gates, row, unit, active, size)
    sum_r, sum_z, from_h = load_gru_gates(KIND, sums, sequence, unit, active, size)
    r, z, n, state = gru_gates(r + sum_r, z + sum_z, n, from_h, load_in(KIND, h, element, active))
    store_gru_gates(gates, row, unit, active, size, r, z, n)
    tl.store(hidden_new + row * size + unit, from_h, mask=active)
    store_as(h, element, state, active)
    store_as(output, place * size + unit, tl.where(active, state, 0.0), inside)


@triton.jit(do_not_specialize=["step"])
def gru_grad_gates_kernel(
    gates, hidden_new, grad_gates, kept, later, grad_h_n, grad_output, output, h0, lengths, grad_sums, before,
    step, steps, batch, size,
    REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of W_ih x (grad_gates) and of W_hh h (grad_sums) at a step, as rows [T * N, 3H]; kept: [N, H], what
    the state hands on by z, in place."""
    KIND: tl.constexpr = later.dtype.element_ty
    element, inside, sequence, unit = own_values(batch, size, BLOCK)
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    grad = grad_of_state(KIND, later, kept, grad_h_n, grad_output, element, unit, place, length, inside, step, size)
    state = state_before(KIND, output, h0, lengths, length, element, sequence, unit, inside, step, batch, size, REVERSE)
    r, z, n = load_gru_gates(KIND, gates, row, unit, active, size)
    from_h = load_in(KIND, hidden_new, row * size + unit, active)
    grad_r, grad_z, grad_n, grad_from_h, grad_kept = gru_grad_sums(grad, r, z, n, from_h, state)
    store_as(before, row * size + unit, state, inside)
    store_gru_gates(grad_gates, row, unit, inside, size, grad_r, grad_z, grad_n)
    store_gru_gates(grad_sums, row, unit, inside, size, grad_r, grad_z, grad_from_h)
    tl.store(kept + element, grad_kept, mask=active)
