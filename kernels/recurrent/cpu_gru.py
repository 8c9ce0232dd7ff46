"""GRU on the CPU: its gates, and its loops over time (`cpu_time.py` says how they walk)."""

from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import sigmoid, tanh
from .cpu_product import multiply_rows, row_starts
from .cpu_time import add, add_two, copy, multiply_inputs, running_again, still_running


@serial_kernel
def gru_gates(gate, h_new, h):
    """r, z = sigmoid of their sums in gate [3H] and n = tanh(its input's sum there + r h_new), in place; h_new [H]:
    W_n h + bias; h = (1 - z) n + z h [H]."""
    size, one = h.shape[0], h.dtype.type(1)
    gate_r, gate_z, gate_n = gate[:size], gate[size:], gate[2 * size :]
    for j in range(2 * size):
        gate[j] = sigmoid(gate[j])
    for j in range(size):
        gate_n[j] = tanh(gate_n[j] + gate_r[j] * h_new[j])
    for j in range(size):
        h[j] = (one - gate_z[j]) * gate_n[j] + gate_z[j] * h[j]


@serial_kernel
def gru_grad_gates(gate, h_new, h, dh, grad_gate):
    """The gradient of W_ih x, to grad_gate [3H], from that of h'; dh becomes what the gates hand on to h."""
    size, one = h_new.shape[0], h_new.dtype.type(1)
    gate_r, gate_z, gate_n = gate[:size], gate[size:], gate[2 * size :]
    grad_r, grad_z, grad_n = grad_gate[:size], grad_gate[size:], grad_gate[2 * size :]
    for j in range(size):
        grad_n[j] = dh[j] * (one - gate_z[j]) * (one - gate_n[j] * gate_n[j])
    for j in range(size):
        grad_r[j] = grad_n[j] * h_new[j] * gate_r[j] * (one - gate_r[j])
    for j in range(size):
        grad_z[j] = dh[j] * (h[j] - gate_n[j]) * gate_z[j] * (one - gate_z[j])
    for j in range(size):
        dh[j] *= gate_z[j]


@kernel
def gru_forward_kernel(
    x, packed_ih, bias, bias_new, packed, order, lengths, rows, places, h, sums, products, gates, output, hidden_new,
    h_n,
):  # fmt: skip
    """r, z = sigmoid of (W_ih x + W_hh h + bias); n = tanh(W_in x + bias + r (W_n h + bias_new)); h' = (1 - z) n + z h.

    Args:
        x: [S, I].
        packed_ih, packed: W_ih^T and W_hh^T, packed.
        bias: [3H], b_ih, and for r and z b_hh too; bias_new: [H], b_hh's part for n.
        h: [blocks, rows, H]; sums: [blocks, at least rows, 3H filled up]; products: [blocks, rows, 3H filled up].
        gates: [S, 3H], r, z, n; output: [T * N, H], written at places; hidden_new: [S, H], W_n h + bias_new.
        h_n: [N, H], the initial state, then the final one.
    """
    size = h.shape[2]
    for block in prange(h.shape[0]):
        members = order[block :: h.shape[0]]
        starts = row_starts(h.shape[1], h.shape[2])
        active, first, ahead = len(members), 0, 0
        for i in range(active):
            copy(h_n[members[i]], h[block, i])
        for step in range(lengths[members[0]]):
            active = still_running(members, lengths, step, active)
            if step == ahead:
                ahead = multiply_inputs(x, rows, members, lengths, step, active, packed_ih, sums[block])
                first = 0
            multiply_rows(h[block].reshape(-1), starts, active, packed, products[block], 0, False)
            for i in range(active):
                row, product = rows[step, members[i]], products[block, i]
                add_two(sums[block, first + i], bias, gates[row])
                add(product, gates[row][: 2 * size])
                add_two(product[2 * size :], bias_new, hidden_new[row])
                gru_gates(gates[row], hidden_new[row], h[block, i])
                copy(h[block, i], output[places[step, members[i]]])
            first += active
        for i in range(len(members)):
            copy(h[block, i], h_n[members[i]])


@kernel
def gru_grad_gates_kernel(
    gates, hidden_new, before, packed, order, lengths, rows, places, grad_output, grad_h, gate_scratch, products,
    grad_gates, grad_hidden_new,
):  # fmt: skip
    """Gradients of the sums before the gates, and of h0.

    Args:
        gates, hidden_new: what the forward pass left; before: [S, H], the state that each step started from.
        packed: W_hh, packed.
        grad_output: [T * N, H], or no rows for none.
        grad_h: [N, H], the gradient of h_n, then that of h0.
        gate_scratch: [blocks, rows, at least 3H]; products: [blocks, rows, H filled up], the state's gradient.
        grad_gates: [S, 3H], of W_ih x, and for r and z of W_hh h; grad_hidden_new: [S, H], of W_n h.
    """
    size = hidden_new.shape[1]
    for block in prange(products.shape[0]):
        members = order[block :: products.shape[0]]
        grad_state, grad_sums = products[block], gate_scratch[block]
        starts = row_starts(grad_sums.shape[0], grad_sums.shape[1])
        for i in range(len(members)):
            copy(grad_h[members[i]], grad_state[i][:size])
        active = 0
        for step in range(lengths[members[0]] - 1, -1, -1):
            active = running_again(members, lengths, step, active)
            for i in range(active):
                n = members[i]
                row, dh = rows[step, n], grad_state[i][:size]
                if grad_output.shape[0] > 0:
                    add(grad_output[places[step, n]], dh)
                gru_grad_gates(gates[row], hidden_new[row], before[row], dh, grad_sums[i])
                copy(grad_sums[i], grad_gates[row])
                grad_n, gate_r = grad_sums[i][2 * size : 3 * size], gates[row]
                for j in range(size):
                    grad_n[j] *= gate_r[j]
                copy(grad_n, grad_hidden_new[row])
            # What the gates hand on stands there already.
            multiply_rows(grad_sums.reshape(-1), starts, active, packed, grad_state, 0, True)
        for i in range(len(members)):
            copy(grad_state[i], grad_h[members[i]])
