"""What the loops over time share, and those of the plain layer; `cpu_lstm.py` and `cpu_gru.py` have the others: one
kernel a kind of layer and direction of the chain rule.

Each thread walks whole sequences: block b takes the sequences order[b], order[b + blocks], ... and keeps their state in
scratch of its own, so no thread ever waits for another. `order` has the longest sequence first; those that still run
at a step are therefore the first `active` of a block, and the others' state stands still. Step s of sequence n reads
and writes row rows[s, n] of the arrays [S, *] that hold one row a time step that exists (S is the sum of the lengths),
and row places[s, n] of the arrays [T * N, *] that callers see. Which way a layer reads is in these two tables.

A block multiplies the inputs of as many steps at a time as `sums` has room for; each step adds its state's product to
them there. The sums of all steps would go to memory and come back.

Every gate is a loop of its own over few arrays: LLVM proves at run time that they do not overlap, and gives up
vectorising where the pairs become many.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import tanh
from .cpu_product import multiply_rows, row_starts


@serial_kernel
def still_running(members, lengths, step, active):
    """How many of the block's first `active` sequences have a step `step`."""
    while active > 0 and lengths[members[active - 1]] <= step:
        active -= 1
    return active


@serial_kernel
def running_again(members, lengths, step, active):
    """How many of the block's sequences have a step `step`; at least the first `active` do."""
    while active < len(members) and lengths[members[active]] > step:
        active += 1
    return active


@serial_kernel
def copy(source, target):
    for j in range(target.shape[0]):
        target[j] = source[j]


@serial_kernel
def add(source, target):
    for j in range(target.shape[0]):
        target[j] += source[j]


@serial_kernel
def add_two(a, b, total):
    """total = a + b."""
    for j in range(total.shape[0]):
        total[j] = a[j] + b[j]


@serial_kernel
def multiply_inputs(x, rows, members, lengths, step, active, packed, sums):
    """sums = W_ih x for the block's sequences at `step` and at those steps after it that there is room for: one row a
    sequence that still runs, step after step. Returns the first step that found no room."""
    starts, count = np.empty(sums.shape[0], np.intp), 0
    while step < lengths[members[0]] and count + active <= sums.shape[0]:
        for i in range(active):
            starts[count + i] = rows[step, members[i]] * x.shape[1]
        count += active
        step += 1
        active = still_running(members, lengths, step, active)
    multiply_rows(x.reshape(-1), starts, count, packed, sums, 0, False)
    return step


@kernel
def rnn_forward_kernel(
    x, packed_ih, bias, packed, relu, order, lengths, rows, places, h, sums, output, h_n
):  # fmt: skip
    """h' = tanh or relu of (W_ih x + W_hh h + bias).

    Args:
        x: [S, I].
        packed_ih, packed: W_ih^T and W_hh^T, packed.
        h: [blocks, rows, H], scratch; sums: [blocks, at least rows, H filled up], scratch.
        output: [T * N, H], written at places; h_n: [N, H], the initial state, then the final one.
    """
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
            multiply_rows(h[block].reshape(-1), starts, active, packed, sums[block], first, True)
            for i in range(active):
                state = h[block, i]
                add_two(sums[block, first + i], bias, state)
                if relu:
                    for j in range(state.shape[0]):
                        state[j] = state[j] if not state[j] <= 0 else state.dtype.type(0)
                else:
                    for j in range(state.shape[0]):
                        state[j] = tanh(state[j])
                copy(state, output[places[step, members[i]]])
            first += active
        for i in range(len(members)):
            copy(h[block, i], h_n[members[i]])


@kernel
def rnn_grad_sums_kernel(packed, relu, order, lengths, rows, places, output, grad_output, grad_h, products, grad_sums):
    """Gradients of the sums before the nonlinearity, and of h0.

    Args:
        packed: W_hh, packed.
        grad_output: [T * N, H], or no rows for none.
        grad_h: [N, H], the gradient of h_n, then that of h0.
        products: [blocks, rows, H filled up], the state's gradient.
        grad_sums: [S, at least H].
    """
    size = grad_h.shape[1]
    for block in prange(products.shape[0]):
        members = order[block :: products.shape[0]]
        grad_state, starts = products[block], np.empty(len(members), np.intp)
        for i in range(len(members)):
            copy(grad_h[members[i]], grad_state[i][:size])
        active = 0
        for step in range(lengths[members[0]] - 1, -1, -1):
            active = running_again(members, lengths, step, active)
            for i in range(active):
                row, place = rows[step, members[i]], places[step, members[i]]
                grad, h = grad_sums[row][:size], output[place]
                starts[i] = row * grad_sums.shape[1]
                if grad_output.shape[0] > 0:
                    add_two(grad_state[i], grad_output[place], grad)
                else:
                    copy(grad_state[i], grad)
                if relu:
                    for j in range(size):
                        grad[j] = grad[j] if h[j] > 0 else grad.dtype.type(0)
                else:
                    for j in range(size):
                        grad[j] *= grad.dtype.type(1) - h[j] * h[j]
            multiply_rows(grad_sums.reshape(-1), starts, active, packed, grad_state, 0, False)
        for i in range(len(members)):
            copy(grad_state[i], grad_h[members[i]])
