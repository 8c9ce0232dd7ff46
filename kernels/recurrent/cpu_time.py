"""The loops over time, one kernel a kind of layer and direction of the chain rule.

Each thread walks whole sequences: block b takes the sequences order[b], order[b + blocks], ... and keeps their state in
scratch of its own, so no thread ever waits for another. `order` has the longest sequence first; those that still run
at a step are therefore the first `active` of a block, and the others' state stands still. Step s of sequence n reads
and writes row rows[s, n] of the arrays [S, *] that hold one row a time step that exists (S is the sum of the lengths),
and row places[s, n] of the arrays [T * N, *] that callers see. Which way a layer reads is in these two tables.

Every gate is a loop of its own over few arrays: LLVM proves at run time that they do not overlap, and gives up
vectorising where the pairs become many.
"""

from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import sigmoid, tanh
from .cpu_product import multiply_rows


@serial_kernel
def _still_running(members, lengths, step, active):
    """How many of the block's first `active` sequences have a step `step`."""
    while active > 0 and lengths[members[active - 1]] <= step:
        active -= 1
    return active


@serial_kernel
def _running_again(members, lengths, step, active):
    """How many of the block's sequences have a step `step`; at least the first `active` do."""
    while active < len(members) and lengths[members[active]] > step:
        active += 1
    return active


@serial_kernel
def _copy(source, target):
    for j in range(target.shape[0]):
        target[j] = source[j]


@serial_kernel
def _add(source, target):
    for j in range(target.shape[0]):
        target[j] += source[j]


@serial_kernel
def _add_three(a, b, total):
    for j in range(total.shape[0]):
        total[j] += a[j] + b[j]


@serial_kernel
def _sigmoid_in_place(x):
    for j in range(x.shape[0]):
        x[j] = sigmoid(x[j])


@serial_kernel
def _tanh_in_place(x):
    for j in range(x.shape[0]):
        x[j] = tanh(x[j])


@kernel
def rnn_forward_kernel(sums, bias, packed, relu, order, lengths, rows, places, h, products, output, h_n):
    """h' = tanh or relu of (sums + W h + bias).

    Args:
        sums: [S, H], W_ih x.
        packed: W_hh^T, packed.
        h: [blocks, rows, H], scratch; products: the same, columns filled up.
        output: [T * N, H], written at places; h_n: [N, H], the initial state, then the final one.
    """
    for block in prange(h.shape[0]):
        members = order[block :: h.shape[0]]
        active = len(members)
        for i in range(active):
            _copy(h_n[members[i]], h[block, i])
        for step in range(lengths[members[0]]):
            active = _still_running(members, lengths, step, active)
            multiply_rows(h[block], active, packed, products[block])
            for i in range(active):
                state = h[block, i]
                _copy(bias, state)
                _add_three(sums[rows[step, members[i]]], products[block, i], state)
                if relu:
                    for j in range(state.shape[0]):
                        state[j] = state[j] if not state[j] <= 0 else state.dtype.type(0)
                else:
                    _tanh_in_place(state)
                _copy(state, output[places[step, members[i]]])
        for i in range(len(members)):
            _copy(h[block, i], h_n[members[i]])


@kernel
def rnn_grad_sums_kernel(
    packed, relu, order, lengths, rows, places, output, h0, grad_output, grad_h, scratch, products, grad_sums, before
):
    """Gradients of the sums before the nonlinearity, and the state that each step started from.

    Args:
        packed: W_hh, packed.
        grad_output: [T * N, H], or no rows for none.
        grad_h: [N, H], the gradient of h_n, then that of h0.
        scratch: [2, blocks, rows, H].
        grad_sums, before: [S, H], written.
    """
    for block in prange(products.shape[0]):
        members = order[block :: products.shape[0]]
        grad_state, grad_sum = scratch[0, block], scratch[1, block]
        for i in range(len(members)):
            _copy(grad_h[members[i]], grad_state[i])
        active = 0
        for step in range(lengths[members[0]] - 1, -1, -1):
            active = _running_again(members, lengths, step, active)
            for i in range(active):
                n = members[i]
                row, place = rows[step, n], places[step, n]
                grad, h = grad_sum[i], output[place]
                _copy(grad_state[i], grad)
                if grad_output.shape[0] > 0:
                    _add(grad_output[place], grad)
                if relu:
                    for j in range(grad.shape[0]):
                        grad[j] = grad[j] if h[j] > 0 else grad.dtype.type(0)
                else:
                    for j in range(grad.shape[0]):
                        grad[j] *= grad.dtype.type(1) - h[j] * h[j]
                _copy(grad, grad_sums[row])
                _copy(output[places[step - 1, n]] if step > 0 else h0[n], before[row])
            multiply_rows(grad_sum, active, packed, products[block])
            for i in range(active):
                _copy(products[block, i], grad_state[i])
        for i in range(len(members)):
            _copy(grad_state[i], grad_h[members[i]])


@kernel
def lstm_forward_kernel(
    gates,
    bias,
    packed,
    packed_projection,
    order,
    lengths,
    rows,
    places,
    h,
    scratch,
    products,
    projections,
    output,
    cells,
    hidden,
    h_n,
    c_n,
):
    """i, f, o = sigmoid, g = tanh of (gates + W h + bias); c' = f c + i g; m = o tanh(c'); h' = m or W_hr m.

    Args:
        gates: [S, 4H], W_ih x, then i, f, g, o.
        packed, packed_projection: W_hh^T and W_hr^T, packed; the latter without panels where there is no projection.
        h: [blocks, rows, P]; scratch: [2, blocks, rows, H], for c and m.
        output: [T * N, P], written at places; cells: [S, H], c'; hidden: [S, H], m, where there is a projection.
        h_n, c_n: [N, P] and [N, H], the initial state, then the final one.
    """
    size = cells.shape[1]
    projected = packed_projection.shape[0] > 0
    for block in prange(h.shape[0]):
        members = order[block :: h.shape[0]]
        c, m = scratch[0, block], scratch[1, block]
        active = len(members)
        for i in range(active):
            _copy(h_n[members[i]], h[block, i])
            _copy(c_n[members[i]], c[i])
        for step in range(lengths[members[0]]):
            active = _still_running(members, lengths, step, active)
            multiply_rows(h[block], active, packed, products[block])
            for i in range(active):
                row = rows[step, members[i]]
                gate, state = gates[row], c[i]
                _add_three(products[block, i], bias, gate)
                _sigmoid_in_place(gate[: 2 * size])
                _tanh_in_place(gate[2 * size : 3 * size])
                _sigmoid_in_place(gate[3 * size :])
                gate_i, gate_f, gate_g, gate_o = gate[:size], gate[size:], gate[2 * size :], gate[3 * size :]
                for j in range(size):
                    state[j] = gate_f[j] * state[j] + gate_i[j] * gate_g[j]
                _copy(state, cells[row])
                hidden_state = m[i]
                for j in range(size):
                    hidden_state[j] = gate_o[j] * tanh(state[j])
                if projected:
                    _copy(hidden_state, hidden[row])
            if projected:
                multiply_rows(m, active, packed_projection, projections[block])
            for i in range(active):
                _copy(projections[block, i] if projected else m[i], h[block, i])
                _copy(h[block, i], output[places[step, members[i]]])
        for i in range(len(members)):
            _copy(h[block, i], h_n[members[i]])
            _copy(c[i], c_n[members[i]])


@kernel
def lstm_grad_gates_kernel(
    gates,
    cells,
    packed,
    packed_projection,
    order,
    lengths,
    rows,
    places,
    output,
    h0,
    c0,
    grad_output,
    grad_h,
    grad_c,
    state_scratch,
    cell_scratch,
    gate_scratch,
    products,
    projections,
    grad_gates,
    grad_projected,
    before,
):
    """Gradients of the sums before the gates, and the state that each step started from.

    Args:
        gates, cells: what the forward pass left.
        packed, packed_projection: W_hh and W_hr, packed; the latter without panels where there is no projection.
        grad_output: [T * N, P], or no rows for none.
        grad_h, grad_c: [N, P] and [N, H], the gradients of h_n and c_n, then those of h0 and c0.
        state_scratch: [blocks, rows, P]; cell_scratch: [2, blocks, rows, H]; gate_scratch: [blocks, rows, 4H].
        grad_gates: [S, 4H]; grad_projected: [S, P], of h', where there is a projection; before: [S, P].
    """
    size = cells.shape[1]
    one = cells.dtype.type(1)
    projected = packed_projection.shape[0] > 0
    for block in prange(products.shape[0]):
        members = order[block :: products.shape[0]]
        grad_state, grad_cell, grad_hidden = state_scratch[block], cell_scratch[0, block], cell_scratch[1, block]
        for i in range(len(members)):
            _copy(grad_h[members[i]], grad_state[i])
            _copy(grad_c[members[i]], grad_cell[i])
        active = 0
        for step in range(lengths[members[0]] - 1, -1, -1):
            active = _running_again(members, lengths, step, active)
            for i in range(active):
                n = members[i]
                if grad_output.shape[0] > 0:
                    _add(grad_output[places[step, n]], grad_state[i])
                if projected:
                    _copy(grad_state[i], grad_projected[rows[step, n]])
                _copy(output[places[step - 1, n]] if step > 0 else h0[n], before[rows[step, n]])
            if projected:
                multiply_rows(grad_state, active, packed_projection, projections[block])
            for i in range(active):
                n = members[i]
                row = rows[step, n]
                gate, grad_gate = gates[row], gate_scratch[block, i]
                gate_i, gate_f, gate_g, gate_o = gate[:size], gate[size:], gate[2 * size :], gate[3 * size :]
                grad_i, grad_f = grad_gate[:size], grad_gate[size:]
                grad_g, grad_o = grad_gate[2 * size :], grad_gate[3 * size :]
                c = cells[row]
                c_before = cells[rows[step - 1, n]] if step > 0 else c0[n]
                dc, dm = grad_cell[i], grad_hidden[i]
                _copy(projections[block, i] if projected else grad_state[i], dm)
                for j in range(size):
                    grad_o[j] = tanh(c[j])
                for j in range(size):
                    dc[j] += dm[j] * gate_o[j] * (one - grad_o[j] * grad_o[j])
                for j in range(size):
                    grad_o[j] *= dm[j] * gate_o[j] * (one - gate_o[j])
                for j in range(size):
                    grad_i[j] = dc[j] * gate_g[j] * gate_i[j] * (one - gate_i[j])
                for j in range(size):
                    grad_f[j] = dc[j] * c_before[j] * gate_f[j] * (one - gate_f[j])
                for j in range(size):
                    grad_g[j] = dc[j] * gate_i[j] * (one - gate_g[j] * gate_g[j])
                for j in range(size):
                    dc[j] *= gate_f[j]
                _copy(grad_gate, grad_gates[row])
            multiply_rows(gate_scratch[block], active, packed, products[block])
            for i in range(active):
                _copy(products[block, i], grad_state[i])
        for i in range(len(members)):
            _copy(grad_state[i], grad_h[members[i]])
            _copy(grad_cell[i], grad_c[members[i]])


@kernel
def gru_forward_kernel(
    gates, bias, bias_new, packed, order, lengths, rows, places, h, products, output, hidden_new, h_n
):
    """r, z = sigmoid of (gates + W h + bias); n = tanh(gates + bias + r (W_n h + bias_new)); h' = (1 - z) n + z h.

    Args:
        gates: [S, 3H], W_ih x, then r, z, n.
        bias: [3H], b_ih, and for r and z b_hh too; bias_new: [H], b_hh's part for n.
        packed: W_hh^T, packed.
        h: [blocks, rows, H], scratch; products: [blocks, rows, 3H], columns filled up.
        output: [T * N, H], written at places; hidden_new: [S, H], W_n h + bias_new.
        h_n: [N, H], the initial state, then the final one.
    """
    size = h.shape[2]
    one = h.dtype.type(1)
    for block in prange(h.shape[0]):
        members = order[block :: h.shape[0]]
        active = len(members)
        for i in range(active):
            _copy(h_n[members[i]], h[block, i])
        for step in range(lengths[members[0]]):
            active = _still_running(members, lengths, step, active)
            multiply_rows(h[block], active, packed, products[block])
            for i in range(active):
                row = rows[step, members[i]]
                gate, product, state, h_new = gates[row], products[block, i], h[block, i], hidden_new[row]
                gate_r, gate_z, gate_n = gate[:size], gate[size : 2 * size], gate[2 * size :]
                _add_three(product, bias, gate[: 2 * size])
                _sigmoid_in_place(gate[: 2 * size])
                _copy(bias_new, h_new)
                _add(product[2 * size :], h_new)
                bias_n = bias[2 * size :]
                for j in range(size):
                    gate_n[j] = tanh(gate_n[j] + bias_n[j] + gate_r[j] * h_new[j])
                for j in range(size):
                    state[j] = (one - gate_z[j]) * gate_n[j] + gate_z[j] * state[j]
                _copy(state, output[places[step, members[i]]])
        for i in range(len(members)):
            _copy(h[block, i], h_n[members[i]])


@kernel
def gru_grad_gates_kernel(
    gates,
    hidden_new,
    packed,
    order,
    lengths,
    rows,
    places,
    output,
    h0,
    grad_output,
    grad_h,
    state_scratch,
    gate_scratch,
    products,
    grad_gates,
    grad_hidden_new,
    before,
):
    """Gradients of the sums before the gates, and the state that each step started from.

    Args:
        gates, hidden_new: what the forward pass left.
        packed: W_hh, packed.
        grad_output: [T * N, H], or no rows for none.
        grad_h: [N, H], the gradient of h_n, then that of h0.
        state_scratch: [blocks, rows, H]; gate_scratch: [blocks, rows, 3H].
        grad_gates: [S, 3H], of W_ih x, and for r and z of W_hh h; grad_hidden_new: [S, H], of W_n h; before: [S, H].
    """
    size = hidden_new.shape[1]
    one = gates.dtype.type(1)
    for block in prange(products.shape[0]):
        members = order[block :: products.shape[0]]
        grad_state = state_scratch[block]
        for i in range(len(members)):
            _copy(grad_h[members[i]], grad_state[i])
        active = 0
        for step in range(lengths[members[0]] - 1, -1, -1):
            active = _running_again(members, lengths, step, active)
            for i in range(active):
                n = members[i]
                row, place = rows[step, n], places[step, n]
                gate, h_new, dh, grad_gate = gates[row], hidden_new[row], grad_state[i], gate_scratch[block, i]
                gate_r, gate_z, gate_n = gate[:size], gate[size:], gate[2 * size :]
                grad_r, grad_z, grad_n = grad_gate[:size], grad_gate[size:], grad_gate[2 * size :]
                h = before[row]
                _copy(output[places[step - 1, n]] if step > 0 else h0[n], h)
                if grad_output.shape[0] > 0:
                    _add(grad_output[place], dh)
                for j in range(size):
                    grad_n[j] = dh[j] * (one - gate_z[j]) * (one - gate_n[j] * gate_n[j])
                for j in range(size):
                    grad_r[j] = grad_n[j] * h_new[j] * gate_r[j] * (one - gate_r[j])
                for j in range(size):
                    grad_z[j] = dh[j] * (h[j] - gate_n[j]) * gate_z[j] * (one - gate_z[j])
                for j in range(size):
                    dh[j] *= gate_z[j]
                _copy(grad_gate, grad_gates[row])
                for j in range(size):
                    grad_n[j] *= gate_r[j]
                _copy(grad_n, grad_hidden_new[row])
            multiply_rows(gate_scratch[block], active, packed, products[block])
            for i in range(active):
                _add(products[block, i], grad_state[i])
        for i in range(len(members)):
            _copy(grad_state[i], grad_h[members[i]])
