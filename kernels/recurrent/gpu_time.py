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
def state_before(KIND: tl.constexpr, output, h0, lengths, element, sequence, unit, inside, step, steps, batch, size,
                 REVERSE: tl.constexpr):  # fmt: skip
    """The state that a step started from: the output of the step before, or h0 (None for zeros)."""
    place, _, length = locate(sequence, inside, lengths, step - 1, steps, batch, REVERSE)
    active = inside & (step < length)
    now = tl.zeros_like(sequence) + step
    value = load_in(KIND, output, place * size + unit, active & (now > 0))
    if h0 is not None:
        value += load_in(KIND, h0, element, active & (now == 0))
    return value


@triton.jit
def grad_of_state(KIND: tl.constexpr, grad_h_n, later, kept, grad_output, element, unit, place, length, inside, step,
                  size):  # fmt: skip
    """The gradient of a step's new state, 0 past the end: from the steps behind it (`later`, a product with W_hh, and
    `kept`, what the state itself carried), or from h_n at a sequence's last step, and from the output."""
    active = inside & (step < length)
    behind = active & (step + 1 < length)
    grad = load_in(KIND, later, element, behind)
    if kept is not None:
        grad += load_in(KIND, kept, element, behind)
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


@triton.jit(do_not_specialize=["step"])
def rnn_step_kernel(
    gates, sums, h, output, lengths, step, steps, batch, size,
    RELU: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """h' = tanh or relu of (gates + sums): W_ih x + b_ih of all steps, and W_hh h + b_hh of this one."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    total = tl.load(gates + row * size + unit, mask=active, other=0.0)
    total += tl.load(sums + element, mask=active, other=0.0)
    state = rnn_state(total, RELU)
    store_as(h, element, state, active)
    store_as(output, place * size + unit, tl.where(active, state, 0.0), inside)


@triton.jit(do_not_specialize=["step"])
def rnn_grad_sums_kernel(
    output, h0, later, grad_h_n, grad_output, lengths, grad_sums, before, step, steps, batch, size,
    RELU: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a step's sums, and the state that it started from, both as rows."""
    KIND: tl.constexpr = later.dtype.element_ty
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    grad = grad_of_state(KIND, grad_h_n, later, None, grad_output, element, unit, place, length, inside, step, size)
    state = load_in(KIND, output, place * size + unit, inside & (step < length))
    grad = tl.where(state > 0, grad, 0.0) if RELU else grad * (1 - state * state)
    store_as(grad_sums, row * size + unit, grad, inside)
    state = state_before(KIND, output, h0, lengths, element, sequence, unit, inside, step, steps, batch, size, REVERSE)
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
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    gate, part = gates + row * 4 * size + unit, sums + sequence * 4 * size + unit
    i = tl.load(gate, mask=active, other=0.0) + tl.load(part, mask=active, other=0.0)
    f = tl.load(gate + size, mask=active, other=0.0) + tl.load(part + size, mask=active, other=0.0)
    g = tl.load(gate + 2 * size, mask=active, other=0.0) + tl.load(part + 2 * size, mask=active, other=0.0)
    o = tl.load(gate + 3 * size, mask=active, other=0.0) + tl.load(part + 3 * size, mask=active, other=0.0)
    i, f, g, o, cell, m = lstm_gates(i, f, g, o, tl.load(c + element, mask=active, other=0.0))
    m = tl.where(active, m, 0.0)
    tl.store(gate, i, mask=active)
    tl.store(gate + size, f, mask=active)
    tl.store(gate + 2 * size, g, mask=active)
    tl.store(gate + 3 * size, o, mask=active)
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
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, _, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    state = tl.load(projected + element, mask=active, other=0.0)
    store_as(h, element, state, active)
    store_as(output, place * size + unit, state, inside)


@triton.jit(do_not_specialize=["step"])
def lstm_grad_projected_kernel(
    output, h0, later, grad_h_n, grad_output, lengths, grad_projected, before, step, steps, batch, size,
    REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of h' = W_hr m, and the state that the step started from, both as rows."""
    KIND: tl.constexpr = later.dtype.element_ty
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    grad = grad_of_state(KIND, grad_h_n, later, None, grad_output, element, unit, place, length, inside, step, size)
    store_as(grad_projected, row * size + unit, grad, inside)
    state = state_before(KIND, output, h0, lengths, element, sequence, unit, inside, step, steps, batch, size, REVERSE)
    store_as(before, row * size + unit, state, inside)


@triton.jit(do_not_specialize=["step"])
def lstm_grad_gates_kernel(
    gates, cells, c0, output, h0, grad_hidden, later, grad_h_n, grad_output, grad_c, lengths, grad_gates, before,
    step, steps, batch, size,
    PROJECTED: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a step's four sums as rows [T * N, 4H], and c's in place: grad_c [N, H] is that of the new c,
    then that of the old. m's gradient is `grad_hidden` [N, H] where it is PROJECTED, else that of the state."""
    KIND: tl.constexpr = later.dtype.element_ty
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    if PROJECTED:
        grad_m = load_in(KIND, grad_hidden, element, active)
    else:
        grad_m = grad_of_state(
            KIND, grad_h_n, later, None, grad_output, element, unit, place, length, inside, step, size
        )
        state = state_before(
            KIND, output, h0, lengths, element, sequence, unit, inside, step, steps, batch, size, REVERSE
        )
        store_as(before, row * size + unit, state, inside)
    gate = row * 4 * size + unit
    i, f = load_in(KIND, gates, gate, active), load_in(KIND, gates, gate + size, active)
    g, o = load_in(KIND, gates, gate + 2 * size, active), load_in(KIND, gates, gate + 3 * size, active)
    tanh_c = tanh(load_in(KIND, cells, row * size + unit, active))
    _, row_before, _ = locate(sequence, inside, lengths, step - 1, steps, batch, REVERSE)
    now = tl.zeros_like(sequence) + step
    c_before = load_in(KIND, cells, row_before * size + unit, active & (now > 0))
    if c0 is not None:
        c_before += load_in(KIND, c0, element, active & (now == 0))
    grad_cell = load_in(KIND, grad_c, element, active) + grad_m * o * (1 - tanh_c * tanh_c)
    store_as(grad_gates, gate, grad_cell * g * i * (1 - i), inside)
    store_as(grad_gates, gate + size, grad_cell * c_before * f * (1 - f), inside)
    store_as(grad_gates, gate + 2 * size, grad_cell * i * (1 - g * g), inside)
    store_as(grad_gates, gate + 3 * size, grad_m * tanh_c * o * (1 - o), inside)
    tl.store(grad_c + element, grad_cell * f, mask=active)


@triton.jit(do_not_specialize=["step"])
def gru_step_kernel(
    gates, sums, hidden_new, h, output, lengths, step, steps, batch, size,
    REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """r, z = sigmoid of (gates + sums); n = tanh(gates + r sums); h' = (1 - z) n + z h.

    gates: [T * N, 3H] rows, W_ih x + b_ih, then r, z, n. sums: [N, 3H], W_hh h + b_hh, whose part for n goes to
    hidden_new as rows.
    """
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    gate, part = gates + row * 3 * size + unit, sums + sequence * 3 * size + unit
    r = tl.load(gate, mask=active, other=0.0) + tl.load(part, mask=active, other=0.0)
    z = tl.load(gate + size, mask=active, other=0.0) + tl.load(part + size, mask=active, other=0.0)
    from_h = tl.load(part + 2 * size, mask=active, other=0.0)
    before = tl.load(h + element, mask=active, other=0.0).to(from_h.dtype)
    r, z, n, state = gru_gates(r, z, tl.load(gate + 2 * size, mask=active, other=0.0), from_h, before)
    tl.store(gate, r, mask=active)
    tl.store(gate + size, z, mask=active)
    tl.store(gate + 2 * size, n, mask=active)
    tl.store(hidden_new + row * size + unit, from_h, mask=active)
    store_as(h, element, state, active)
    store_as(output, place * size + unit, tl.where(active, state, 0.0), inside)


@triton.jit(do_not_specialize=["step"])
def gru_grad_gates_kernel(
    gates, hidden_new, output, h0, later, kept, grad_h_n, grad_output, lengths, grad_gates, grad_sums, before,
    step, steps, batch, size,
    REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of W_ih x (grad_gates) and of W_hh h (grad_sums) at a step, as rows [T * N, 3H]; kept: [N, H], what
    the state hands on by z, in place."""
    KIND: tl.constexpr = later.dtype.element_ty
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < tl.cast(batch, tl.int64) * size
    sequence, unit = element // size, element % size
    place, row, length = locate(sequence, inside, lengths, step, steps, batch, REVERSE)
    active = inside & (step < length)
    grad = grad_of_state(KIND, grad_h_n, later, kept, grad_output, element, unit, place, length, inside, step, size)
    state = state_before(KIND, output, h0, lengths, element, sequence, unit, inside, step, steps, batch, size, REVERSE)
    gate = row * 3 * size + unit
    r, z = load_in(KIND, gates, gate, active), load_in(KIND, gates, gate + size, active)
    n, from_h = load_in(KIND, gates, gate + 2 * size, active), load_in(KIND, hidden_new, row * size + unit, active)
    grad_n = grad * (1 - z) * (1 - n * n)
    grad_r = grad_n * from_h * r * (1 - r)
    grad_z = grad * (state - n) * z * (1 - z)
    store_as(before, row * size + unit, state, inside)
    store_as(grad_gates, gate, grad_r, inside)
    store_as(grad_gates, gate + size, grad_z, inside)
    store_as(grad_gates, gate + 2 * size, grad_n, inside)
    store_as(grad_sums, gate, grad_r, inside)
    store_as(grad_sums, gate + size, grad_z, inside)
    store_as(grad_sums, gate + 2 * size, grad_n * r, inside)
    tl.store(kept + element, grad * z, mask=active)
