"""Loops over time for a few sequences, where no thread could have sequences of its own: all share every step.

A chunk of units has its rows of every gate in W_hh as it lies, one after the other, forward and backward: a thread
keeps its chunks' rows in its own second-level cache, and nothing is packed. The gradient of the state is summed over
all rows, so each chunk makes a partial sum, [H] a sequence, and the next step adds those of all chunks in their order.

`order`, `lengths`, `rows` and `places` are those of `cpu_time.py`, `board` is what `cpu_share.py` needs. One kernel has
all kinds of layers, as it takes long to compile and little of it differs. In scratch, the parts of a gate or of its
gradient that belong to a chunk stand side by side.
"""

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import tanh
from ..cpu_rows import add_products, add_weighted_rows
from .cpu_gru import gru_gates, gru_grad_gates
from .cpu_lstm import lstm_gates, lstm_grad_gates
from .cpu_share import CHUNK, end_step, next_chunk
from .cpu_time import add, copy, running_again, still_running

RELU, TANH, GRU, LSTM = range(4)


@serial_kernel
def _gate_count(kind):
    return 4 if kind == LSTM else 3 if kind == GRU else 1


@serial_kernel
def _saved_count(kind):
    """Gates that the forward pass leaves to the backward pass."""
    return _gate_count(kind) if kind >= GRU else 0


@serial_kernel
def _row_starts(table, step, order, active, pitch):
    """Where the rows table[step, n] of the sequences that run begin in flat memory."""
    starts = np.empty(active, np.intp)
    for i in range(active):
        starts[i] = table[step, order[i]] * pitch
    return starts


@serial_kernel
def _forward_chunk(
    chunk, step, active, kind, x, weight_ih, weight, order, rows, places, h0, bias_new, scratch, gates, extra, output,
    c_n,
):  # fmt: skip
    """One step of a chunk's units."""
    size = output.shape[1]
    low = chunk * CHUNK
    units, sums, pitch = min(CHUNK, size - low), scratch.reshape(-1), scratch.shape[1]
    for i in range(active):
        row = gates[rows[step, order[i]]]
        for gate in range(_gate_count(kind)):
            copy(row[gate * size + low :], scratch[i, gate * units : (gate + 1) * units])
        if kind == GRU:
            copy(bias_new[low:], scratch[i, 3 * units : 4 * units])
    features = x.shape[1]
    if weight_ih.shape[0] > 0:
        starts = _row_starts(rows, step, order, active, features)
        for gate in range(_gate_count(kind)):
            first, place = (gate * size + low) * features, gate * units
            add_products(weight_ih, first, features, units, features, x.reshape(-1), starts, active, sums, place, pitch)
    if step > 0:
        starts, states = _row_starts(places, step - 1, order, active, size), output.reshape(-1)
    else:
        starts, states = order[:active] * size, h0.reshape(-1)
    for gate in range(_gate_count(kind)):
        place = 3 * units if kind == GRU and gate == 2 else gate * units
        add_products(weight, (gate * size + low) * size, size, units, size, states, starts, active, sums, place, pitch)
    for i in range(active):
        n = order[i]
        row, parts, h = rows[step, n], scratch[i], output[places[step, n]][low : low + units]
        if kind == LSTM:
            c = c_n[n, low : low + units]
            lstm_gates(parts[: 4 * units], c, h)
            copy(c, extra[row][low : low + units])
        elif kind == GRU:
            copy(states[starts[i] + low :], h)
            gru_gates(parts[: 3 * units], parts[3 * units : 4 * units], h)
            copy(parts[3 * units :], extra[row][low : low + units])
        elif kind == TANH:
            for j in range(units):
                h[j] = tanh(parts[j])
        else:
            for j in range(units):
                h[j] = parts[j] if not parts[j] <= 0 else h.dtype.type(0)
        for gate in range(_saved_count(kind)):
            copy(parts[gate * units :], gates[row][gate * size + low : gate * size + low + units])


@serial_kernel
def _forward_worker(
    worker, workers, board, kind, x, weight_ih, weight, order, lengths, rows, places, h0, bias_new, scratch, gates,
    extra, output, c_n,
):  # fmt: skip
    active = len(order)
    for step in range(lengths[order[0]]):
        active, ended = still_running(order, lengths, step, active), 0
        chunk, position = next_chunk(board, step, worker, workers, 0)
        while chunk >= 0:
            _forward_chunk(
                chunk, step, active, kind, x, weight_ih, weight, order, rows, places, h0, bias_new, scratch, gates,
                extra, output, c_n,
            )  # fmt: skip
            ended += 1
            chunk, position = next_chunk(board, step, worker, workers, position)
        end_step(board, step, ended)


@kernel
def few_forward_kernel(
    board, kind, x, weight_ih, weight, order, lengths, rows, places, h0, bias_new, scratch, gates, extra, output, c_n
):
    """What `rnn_forward_kernel`, `lstm_forward_kernel` and `gru_forward_kernel` compute, without projection.

    Args:
        kind: RELU, TANH, GRU or LSTM.
        x: [S, I]; weight_ih: W_ih, flat, or empty where gates have its product already; weight: W_hh, flat.
        h0: [N, H]; bias_new: [H], b_hh's part for n of a GRU.
        scratch: [workers, N, 4 CHUNK].
        gates: [S, gates * H], bias and perhaps W_ih x, then the gates of an LSTM or GRU.
        extra: [S, H], c' of an LSTM, W_n h + bias_new of a GRU; output: [T * N, H], written at places.
        c_n: [N, H], an LSTM's initial c, then its final one.
    """
    workers = scratch.shape[0]
    for worker in prange(workers):
        _forward_worker(
            worker, workers, board, kind, x, weight_ih, weight, order, lengths, rows, places, h0, bias_new,
            scratch[worker], gates, extra, output, c_n,
        )  # fmt: skip


@serial_kernel
def _add_partial_sums(kind, partial, i, low, dh):
    """The gradient of the state before a step: what the weights hand on, and for a GRU what stands in dh already."""
    for chunk in range(partial.shape[0]):
        if chunk == 0 and kind != GRU:
            copy(partial[chunk, i, low:], dh)
        else:
            add(partial[chunk, i, low:], dh)


@serial_kernel
def _backward_chunk(
    chunk, step, active, kind, weight, order, lengths, rows, places, gates, extra, output, before, c0, grad_output,
    grad_h, grad_c, before_partial, partial, scratch, grad_gates, grad_hidden_new,
):  # fmt: skip
    """One step of a chunk's units; at step -1 no more than the gradient of h0."""
    size = output.shape[1]
    low = chunk * CHUNK
    units = min(CHUNK, size - low)
    high = low + units
    for i in range(active):
        n = order[i]
        dh = grad_h[n, low:high]
        if step < lengths[n] - 1:
            _add_partial_sums(kind, before_partial, i, low, dh)
        if step < 0:
            continue
        row, place = rows[step, n], places[step, n]
        if grad_output.shape[0] > 0:
            add(grad_output[place, low:], dh)
        h = before[row, low:high]
        gate, grad = scratch[i, 4 * units : 8 * units], scratch[i, : 4 * units]
        for part in range(_saved_count(kind)):
            copy(gates[row, part * size + low :], gate[part * units : (part + 1) * units])
        if kind == LSTM:
            c_before = (extra[rows[step - 1, n]] if step > 0 else c0[n])[low:high]
            lstm_grad_gates(gate, extra[row, low:high], c_before, dh, grad_c[n, low:high], grad)
        elif kind == GRU:
            gru_grad_gates(gate, extra[row, low:high], h, dh, grad)
        else:
            state = output[place, low:high]
            if kind == TANH:
                for j in range(units):
                    grad[j] = dh[j] * (h.dtype.type(1) - state[j] * state[j])
            else:
                for j in range(units):
                    grad[j] = dh[j] if state[j] > 0 else h.dtype.type(0)
        for part in range(_gate_count(kind)):
            copy(grad[part * units :], grad_gates[row, part * size + low : part * size + high])
        if kind == GRU:
            grad_n = grad[2 * units :]
            for j in range(units):
                grad_n[j] *= gate[j]
            copy(grad_n, grad_hidden_new[row, low:high])
    for part in range(_gate_count(kind) if step >= 0 else 0):
        add_weighted_rows(
            weight, (part * size + low) * size, size, units, size, scratch.reshape(-1), part * units, scratch.shape[1],
            active, partial.reshape(-1), chunk * partial.shape[1] * size, size, part > 0,
        )  # fmt: skip


@serial_kernel
def _backward_worker(
    worker, workers, board, kind, weight, order, lengths, rows, places, gates, extra, output, before, c0, grad_output,
    grad_h, grad_c, partial, scratch, grad_gates, grad_hidden_new,
):  # fmt: skip
    active, steps = 0, lengths[order[0]]
    for turn in range(steps + 1):
        step = steps - 1 - turn
        active, ended = running_again(order, lengths, step, active), 0
        chunk, position = next_chunk(board, turn, worker, workers, 0)
        while chunk >= 0:
            _backward_chunk(
                chunk, step, active, kind, weight, order, lengths, rows, places, gates, extra, output, before, c0,
                grad_output, grad_h, grad_c, partial[turn % 2], partial[(turn + 1) % 2], scratch, grad_gates,
                grad_hidden_new,
            )  # fmt: skip
            ended += 1
            chunk, position = next_chunk(board, turn, worker, workers, position)
        end_step(board, turn, ended)


@kernel
def few_backward_kernel(
    board, kind, weight, order, lengths, rows, places, gates, extra, output, before, c0, grad_output, grad_h, grad_c,
    partial, scratch, grad_gates, grad_hidden_new,
):  # fmt: skip
    """What `rnn_grad_sums_kernel`, `lstm_grad_gates_kernel` and `gru_grad_gates_kernel` compute, but for grad_x.

    Args:
        kind: RELU, TANH, GRU or LSTM.
        weight: W_hh, flat.
        gates, extra, output: what the forward pass left; before: [S, H], the state that each step started from.
        c0: [N, H]; grad_output: [T * N, H], or no rows for none.
        grad_h, grad_c: [N, H], the gradients of h_n and c_n, then those of h0 and c0.
        partial: [2, chunks, N, H], scratch; scratch: [workers, N, 8 CHUNK].
        grad_gates: [S, at least gates * H]; grad_hidden_new: [S, H], for a GRU.
    """
    workers = scratch.shape[0]
    for worker in prange(workers):
        _backward_worker(
            worker, workers, board, kind, weight, order, lengths, rows, places, gates, extra, output, before, c0,
            grad_output, grad_h, grad_c, partial, scratch[worker], grad_gates, grad_hidden_new,
        )  # fmt: skip
