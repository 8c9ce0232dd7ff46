"""Recurrent layers on NumPy arrays: one product has the inputs of all time steps, another makes the gradients of the
weights at the end; between the two, one kernel walks through time.

With lengths, only time steps that exist are stored and multiplied: what stands in a padded place, NaN too, has no
effect.
"""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from ..cpu_matmul import matmul
from ..memory import empty, zeros
from .cpu_product import pack, product_scratch
from .cpu_time import (
    gru_forward_kernel,
    gru_grad_gates_kernel,
    lstm_forward_kernel,
    lstm_grad_gates_kernel,
    rnn_forward_kernel,
    rnn_grad_sums_kernel,
)

_ROWS_PER_BLOCK = 64  # states and sums of so many sequences fit into the second-level cache


class _Walk(NamedTuple):
    """How the kernels walk through a batch of sequences; cpu_time.py says what the four tables mean."""

    order: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    valid: np.ndarray | None  # [T * N], which places exist; None if all do
    blocks: int
    block_rows: int

    @property
    def tables(self):
        return self.order, self.lengths, self.rows, self.places

    def scratch(self, size, dtype, *leading):
        return empty((*leading, self.blocks, self.block_rows, size), dtype)

    def gather(self, x):
        """[T, N, size] -> the rows that exist, [S, size]."""
        x = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        return x if self.valid is None else x[self.valid]

    def scatter(self, rows):
        """The rows that exist -> [T, N, size], zero elsewhere."""
        shape = (*self.places.shape, rows.shape[1])
        if self.valid is None:
            return rows.reshape(shape)
        x = zeros((self.valid.size, rows.shape[1]), rows.dtype)
        x[self.valid] = rows
        return x.reshape(shape)


def _plan(steps, batch, lengths, reverse):
    if lengths is None or (lengths == steps).all():
        lengths, order, valid = np.full(batch, steps), np.arange(batch), None
        rows = np.arange(steps * batch).reshape(steps, batch)
        places = rows = np.ascontiguousarray(rows[::-1]) if reverse else rows
    else:
        lengths = np.ascontiguousarray(lengths)
        order = np.argsort(-lengths, kind="stable")
        times = np.arange(steps)[:, None]
        valid = (times < lengths).ravel()
        if reverse:
            times = np.maximum(lengths - 1 - times, 0)
        places = times * batch + np.arange(batch)
        rows = (np.cumsum(valid) - 1)[places]
    # A multiple of the number of threads, so that none has one block more than the others.
    threads = get_num_threads()
    blocks = min(batch, threads * -(-batch // (threads * _ROWS_PER_BLOCK)))
    return _Walk(order, lengths, rows, places, valid, blocks, -(-batch // blocks) if blocks else 0)


def _input_sums(x_rows, weight_ih):
    """W_ih x for all time steps."""
    return matmul(x_rows, weight_ih.T, empty((x_rows.shape[0], weight_ih.shape[0]), x_rows.dtype))


def _bias(size, dtype, *biases):
    total = zeros(size, dtype)
    for bias in biases:
        if bias is not None:
            total += bias
    return total


def _state(given, batch, size, dtype):
    """A copy of the initial state, or of a final state's gradient, for a kernel to write on."""
    state = zeros((batch, size), dtype)
    if given is not None:
        state[...] = given
    return state


def _output(walk, size, dtype):
    """Room for the output [T * N, size]: zero where a padded place keeps its zeros."""
    return (empty if walk.valid is None else zeros)((walk.places.size, size), dtype)


def _grad_output_rows(grad_output, size, dtype):
    return empty((0, size), dtype) if grad_output is None else np.ascontiguousarray(grad_output).reshape(-1, size)


def _product_of_rows(left, right):
    """left^T right: the gradient of a weight from all its rows."""
    return matmul(left.T, right, empty((left.shape[1], right.shape[1]), left.dtype))


def _sum_of_rows(rows):
    """A gradient of a bias."""
    ones = np.ones((1, rows.shape[0]), rows.dtype)
    return matmul(ones, rows, empty((1, rows.shape[1]), rows.dtype))[0]


def _input_gradients(walk, x_rows, weight_ih, grad_sums, needs):
    """Gradients of x, weight_ih and bias_ih."""
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        rows = matmul(grad_sums, weight_ih, empty((grad_sums.shape[0], weight_ih.shape[1]), grad_sums.dtype))
        grad_x = walk.scatter(rows)
    if needs[1]:
        grad_weight = _product_of_rows(grad_sums, x_rows)
    if needs[3]:
        grad_bias = _sum_of_rows(grad_sums)
    return grad_x, grad_weight, grad_bias


def _for(needs, *grads):
    """The gradients that were asked for."""
    return tuple(grad if need else None for grad, need in zip(grads, needs))


def _pad(needs, length):
    return (*needs, *(False,) * (length - len(needs)))


def rnn_forward(
    x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, nonlinearity="tanh", reverse=False
):
    (steps, batch, _), size = x.shape, weight_hh.shape[1]
    walk = _plan(steps, batch, lengths, reverse)
    x_rows, relu = walk.gather(x), nonlinearity == "relu"
    h_n, output = _state(h0, batch, size, x.dtype), _output(walk, size, x.dtype)
    packed = pack(weight_hh.T)
    rnn_forward_kernel(
        _input_sums(x_rows, weight_ih),
        _bias(size, x.dtype, bias_ih, bias_hh),
        packed,
        relu,
        *walk.tables,
        walk.scratch(size, x.dtype),
        product_scratch(walk.blocks, walk.block_rows, packed),
        output,
        h_n,
    )
    return (output.reshape(steps, batch, size), h_n), (walk, x_rows, weight_ih, weight_hh, h0, relu, output)


def rnn_backward(saved, grads, needs):
    walk, x_rows, weight_ih, weight_hh, h0, relu, output = saved
    (grad_output, grad_h_n), length, needs = grads, len(needs), _pad(needs, 7)
    size, batch, dtype = weight_hh.shape[1], len(walk.order), output.dtype
    grad_sums, before = (empty((x_rows.shape[0], size), dtype) for _ in range(2))
    grad_h, packed = _state(grad_h_n, batch, size, dtype), pack(weight_hh)
    rnn_grad_sums_kernel(
        packed,
        relu,
        *walk.tables,
        output,
        _state(h0, batch, size, dtype),
        _grad_output_rows(grad_output, size, dtype),
        grad_h,
        walk.scratch(size, dtype, 2),
        product_scratch(walk.blocks, walk.block_rows, packed),
        grad_sums,
        before,
    )
    grad_x, grad_weight_ih, grad_bias_ih = _input_gradients(walk, x_rows, weight_ih, grad_sums, needs)
    grad_weight_hh = _product_of_rows(grad_sums, before) if needs[2] else None
    grad_bias_hh = _sum_of_rows(grad_sums) if needs[4] else None
    return _for(needs, grad_x, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh, grad_h, None)[:length]


def lstm_forward(
    x,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    h0=None,
    c0=None,
    weight_hr=None,
    lengths=None,
    *,
    reverse=False,
):
    (steps, batch, _), (size, state_size) = x.shape, (weight_hh.shape[0] // 4, weight_hh.shape[1])
    walk = _plan(steps, batch, lengths, reverse)
    x_rows = walk.gather(x)
    h_n, c_n = _state(h0, batch, state_size, x.dtype), _state(c0, batch, size, x.dtype)
    gates, cells = _input_sums(x_rows, weight_ih), empty((x_rows.shape[0], size), x.dtype)
    hidden = empty(cells.shape if weight_hr is not None else (0, size), x.dtype)
    output = _output(walk, state_size, x.dtype)
    packed, packed_projection = pack(weight_hh.T), _pack_projection(None if weight_hr is None else weight_hr.T, x.dtype)
    lstm_forward_kernel(
        gates,
        _bias(4 * size, x.dtype, bias_ih, bias_hh),
        packed,
        packed_projection,
        *walk.tables,
        walk.scratch(state_size, x.dtype),
        walk.scratch(size, x.dtype, 2),
        product_scratch(walk.blocks, walk.block_rows, packed),
        product_scratch(walk.blocks, walk.block_rows, packed_projection),
        output,
        cells,
        hidden,
        h_n,
        c_n,
    )
    saved = (walk, x_rows, weight_ih, weight_hh, weight_hr, h0, c0, gates, cells, hidden, output)
    return (output.reshape(steps, batch, state_size), h_n, c_n), saved


def lstm_backward(saved, grads, needs):
    walk, x_rows, weight_ih, weight_hh, weight_hr, h0, c0, gates, cells, hidden, output = saved
    (grad_output, grad_h_n, grad_c_n), length, needs = grads, len(needs), _pad(needs, 9)
    (steps, size), state_size, batch, dtype = cells.shape, weight_hh.shape[1], len(walk.order), cells.dtype
    grad_gates, before = empty(gates.shape, dtype), empty((steps, state_size), dtype)
    grad_projected = empty((steps if weight_hr is not None else 0, state_size), dtype)
    grad_h, grad_c = _state(grad_h_n, batch, state_size, dtype), _state(grad_c_n, batch, size, dtype)
    packed, packed_projection = pack(weight_hh), _pack_projection(weight_hr, dtype)
    lstm_grad_gates_kernel(
        gates,
        cells,
        packed,
        packed_projection,
        *walk.tables,
        output,
        _state(h0, batch, state_size, dtype),
        _state(c0, batch, size, dtype),
        _grad_output_rows(grad_output, state_size, dtype),
        grad_h,
        grad_c,
        walk.scratch(state_size, dtype),
        walk.scratch(size, dtype, 2),
        walk.scratch(4 * size, dtype),
        product_scratch(walk.blocks, walk.block_rows, packed),
        product_scratch(walk.blocks, walk.block_rows, packed_projection),
        grad_gates,
        grad_projected,
        before,
    )
    grad_x, grad_weight_ih, grad_bias_ih = _input_gradients(walk, x_rows, weight_ih, grad_gates, needs)
    grad_weight_hh = _product_of_rows(grad_gates, before) if needs[2] else None
    grad_bias_hh = _sum_of_rows(grad_gates) if needs[4] else None
    grad_weight_hr = _product_of_rows(grad_projected, hidden) if needs[7] else None
    weights = grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh
    return _for(needs, grad_x, *weights, grad_h, grad_c, grad_weight_hr, None)[:length]


def _pack_projection(weight, dtype):
    return empty((0, 0, 0), dtype) if weight is None else pack(weight)


def gru_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, reverse=False):
    (steps, batch, _), size = x.shape, weight_hh.shape[1]
    walk = _plan(steps, batch, lengths, reverse)
    x_rows = walk.gather(x)
    gates, hidden_new = _input_sums(x_rows, weight_ih), empty((x_rows.shape[0], size), x.dtype)
    h_n, output = _state(h0, batch, size, x.dtype), _output(walk, size, x.dtype)
    # b_hh's part for n is reset together with W_n h; the rest adds to b_ih.
    bias, bias_new = _bias(3 * size, x.dtype, bias_ih), zeros(size, x.dtype)
    if bias_hh is not None:
        bias[: 2 * size] += bias_hh[: 2 * size]
        bias_new[...] = bias_hh[2 * size :]
    packed = pack(weight_hh.T)
    gru_forward_kernel(
        gates,
        bias,
        bias_new,
        packed,
        *walk.tables,
        walk.scratch(size, x.dtype),
        product_scratch(walk.blocks, walk.block_rows, packed),
        output,
        hidden_new,
        h_n,
    )
    saved = (walk, x_rows, weight_ih, weight_hh, h0, gates, hidden_new, output)
    return (output.reshape(steps, batch, size), h_n), saved


def gru_backward(saved, grads, needs):
    walk, x_rows, weight_ih, weight_hh, h0, gates, hidden_new, output = saved
    (grad_output, grad_h_n), length, needs = grads, len(needs), _pad(needs, 7)
    size, batch, dtype = weight_hh.shape[1], len(walk.order), output.dtype
    grad_gates = empty(gates.shape, dtype)
    grad_hidden_new, before = empty(hidden_new.shape, dtype), empty(hidden_new.shape, dtype)
    grad_h, packed = _state(grad_h_n, batch, size, dtype), pack(weight_hh)
    gru_grad_gates_kernel(
        gates,
        hidden_new,
        packed,
        *walk.tables,
        output,
        _state(h0, batch, size, dtype),
        _grad_output_rows(grad_output, size, dtype),
        grad_h,
        walk.scratch(size, dtype),
        walk.scratch(3 * size, dtype),
        product_scratch(walk.blocks, walk.block_rows, packed),
        grad_gates,
        grad_hidden_new,
        before,
    )
    grad_x, grad_weight_ih, grad_bias_ih = _input_gradients(walk, x_rows, weight_ih, grad_gates, needs)
    grad_weight_hh = grad_bias_hh = None
    shared = grad_gates[:, : 2 * size]
    if needs[2]:
        grad_weight_hh = empty(weight_hh.shape, dtype)
        matmul(shared.T, before, grad_weight_hh[: 2 * size])
        matmul(grad_hidden_new.T, before, grad_weight_hh[2 * size :])
    if needs[4]:
        grad_bias_hh = np.concatenate([_sum_of_rows(shared), _sum_of_rows(grad_hidden_new)])
    return _for(needs, grad_x, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh, grad_h, None)[:length]


# A cell is one step of its layer.


def rnn_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, *, nonlinearity="tanh"):
    (_, h), saved = rnn_forward(x[None], weight_ih, weight_hh, bias_ih, bias_hh, h0, nonlinearity=nonlinearity)
    return h, saved


def rnn_cell_backward(saved, grad_h, needs):
    return _first_step(rnn_backward(saved, (None, grad_h), needs))


def lstm_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, c0=None):
    (_, h, c), saved = lstm_forward(x[None], weight_ih, weight_hh, bias_ih, bias_hh, h0, c0)
    return (h, c), saved


def lstm_cell_backward(saved, grads, needs):
    return _first_step(lstm_backward(saved, (None, *grads), needs))


def gru_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None):
    (_, h), saved = gru_forward(x[None], weight_ih, weight_hh, bias_ih, bias_hh, h0)
    return h, saved


def gru_cell_backward(saved, grad_h, needs):
    return _first_step(gru_backward(saved, (None, grad_h), needs))


def _first_step(grads):
    """Gradients of a sequence of one step as those of a cell: x without its axis of time."""
    return (None if grads[0] is None else grads[0][0], *grads[1:])
