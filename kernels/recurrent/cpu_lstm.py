"""LSTM on the CPU: its gates, and its loops over time (`cpu_time.py` says how they walk)."""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import sigmoid, tanh
from .cpu_product import multiply_rows, row_starts
from .cpu_time import add, add_two, copy, multiply_inputs, running_again, still_running


@serial_kernel
def lstm_gates(gate, c, m):
    """i, f, o = sigmoid, g = tanh of the sums in gate [4H], in place; c = f c + i g [H]; m = o tanh(c) [H]."""
    size = c.shape[0]
    for j in range(2 * size):
        gate[j] = sigmoid(gate[j])
    gate_i, gate_f, gate_g, gate_o = gate[:size], gate[size:], gate[2 * size :], gate[3 * size :]
    for j in range(size):
        gate_g[j] = tanh(gate_g[j])
    for j in range(size):
        gate_o[j] = sigmoid(gate_o[j])
    for j in range(size):
        c[j] = gate_f[j] * c[j] + gate_i[j] * gate_g[j]
    for j in range(size):
        m[j] = gate_o[j] * tanh(c[j])


@serial_kernel
def lstm_grad_gates(gate, c, c_before, dm, dc, grad_gate):
    """The gradient of the sums, to grad_gate [4H], from those of m and c'; dc becomes that of c."""
    size, one = c.shape[0], c.dtype.type(1)
    gate_i, gate_f, gate_g, gate_o = gate[:size], gate[size:], gate[2 * size :], gate[3 * size :]
    grad_i, grad_f = grad_gate[:size], grad_gate[size:]
    grad_g, grad_o = grad_gate[2 * size :], grad_gate[3 * size :]
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


@kernel
def lstm_forward_kernel(
    x, packed_ih, bias, packed, packed_projection, order, lengths, rows, places, h, scratch, sums, projections,
    gates, output, cells, hidden, h_n, c_n,
):  # fmt: skip
    """i, f, o = sigmoid, g = tanh of (W_ih x + W_hh h + bias); c' = f c + i g; m = o tanh(c'); h' = m or W_hr m.

    Args:
        x: [S, I].
        packed_ih, packed, packed_projection: W_ih^T, W_hh^T and W_hr^T, packed; the last without panels where there is
            no projection.
        h: [blocks, rows, P]; scratch: [2, blocks, rows, H], for c and m; sums: [blocks, at least rows, 4H filled up].
        gates: [S, 4H], i, f, g, o; output: [T * N, P], written at places; cells: [S, H], c'; hidden: [S, H], m, where
            there is a projection.
        h_n, c_n: [N, P] and [N, H], the initial state, then the final one.
    """
    projected = packed_projection.shape[0] > 0
    for block in prange(h.shape[0]):
        members = order[block :: h.shape[0]]
        c, m = scratch[0, block], scratch[1, block]
        starts, projection_starts = row_starts(h.shape[1], h.shape[2]), row_starts(m.shape[0], m.shape[1])
        active, first, ahead = len(members), 0, 0
        for i in range(active):
            copy(h_n[members[i]], h[block, i])
            copy(c_n[members[i]], c[i])
        for step in range(lengths[members[0]]):
            active = still_running(members, lengths, step, active)
            if step == ahead:
                ahead = multiply_inputs(x, rows, members, lengths, step, active, packed_ih, sums[block])
                first = 0
            multiply_rows(h[block].reshape(-1), starts, active, packed, sums[block], first, True)
            for i in range(active):
                row = rows[step, members[i]]
                add_two(sums[block, first + i], bias, gates[row])
                lstm_gates(gates[row], c[i], m[i] if projected else h[block, i])
                copy(c[i], cells[row])
                if projected:
                    copy(m[i], hidden[row])
            if projected:
                multiply_rows(m.reshape(-1), projection_starts, active, packed_projection, projections[block], 0, False)
            for i in range(active):
                if projected:
                    copy(projections[block, i], h[block, i])
                copy(h[block, i], output[places[step, members[i]]])
            first += active
        for i in range(len(members)):
            copy(h[block, i], h_n[members[i]])
            copy(c[i], c_n[members[i]])


@kernel
def lstm_grad_gates_kernel(
    gates, cells, packed, packed_projection, order, lengths, rows, places, c0, grad_output, grad_h, grad_c,
    cell_scratch, products, projections, grad_gates, grad_projected,
):  # fmt: skip
    """Gradients of the sums before the gates, of h0 and c0.

    Args:
        gates, cells: what the forward pass left.
        packed, packed_projection: W_hh and W_hr, packed; the latter without panels where there is no projection.
        grad_output: [T * N, P], or no rows for none.
        grad_h, grad_c: [N, P] and [N, H], the gradients of h_n and c_n, then those of h0 and c0.
        cell_scratch: [blocks, rows, H]; products: [blocks, rows, P filled up], the state's gradient.
        grad_gates: [S, at least 4H]; grad_projected: [S, P], of h', where there is a projection.
    """
    state_size = grad_h.shape[1]
    projected = packed_projection.shape[0] > 0
    for block in prange(products.shape[0]):
        members = order[block :: products.shape[0]]
        grad_state, grad_cell, grad_sums = products[block], cell_scratch[block], grad_gates.reshape(-1)
        grad_hidden = projections[block] if projected else grad_state
        starts = np.empty(len(members), np.intp)
        state_starts = row_starts(grad_state.shape[0], grad_state.shape[1])
        for i in range(len(members)):
            copy(grad_h[members[i]], grad_state[i][:state_size])
            copy(grad_c[members[i]], grad_cell[i])
        active = 0
        for step in range(lengths[members[0]] - 1, -1, -1):
            active = running_again(members, lengths, step, active)
            for i in range(active):
                n = members[i]
                if grad_output.shape[0] > 0:
                    add(grad_output[places[step, n]], grad_state[i][:state_size])
                if projected:
                    copy(grad_state[i], grad_projected[rows[step, n]])
            if projected:
                multiply_rows(grad_state.reshape(-1), state_starts, active, packed_projection, grad_hidden, 0, False)
            for i in range(active):
                n = members[i]
                row = rows[step, n]
                lstm_grad_gates(
                    gates[row], cells[row], cells[rows[step - 1, n]] if step > 0 else c0[n], grad_hidden[i],
                    grad_cell[i], grad_gates[row],
                )  # fmt: skip
                starts[i] = row * grad_gates.shape[1]
            multiply_rows(grad_sums, starts, active, packed, grad_state, 0, False)
        for i in range(len(members)):
            copy(grad_state[i], grad_h[members[i]])
            copy(grad_cell[i], grad_c[members[i]])
