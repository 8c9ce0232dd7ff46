"""Recurrent layers on NumPy arrays: one kernel walks through time, and one product makes the gradients of a weight at
the end.

With lengths, only time steps that exist are stored and multiplied: what stands in a padded place, NaN too, has no
effect.
"""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from ..cpu_matmul import matmul
from ..memory import empty, zeros
from .cpu_gru import gru_forward_kernel, gru_grad_gates_kernel
from .cpu_lstm import lstm_forward_kernel, lstm_grad_gates_kernel
from .cpu_product import no_weight, pack, product_scratch
from .cpu_time import rnn_forward_kernel, rnn_grad_sums_kernel

_ROWS_PER_BLOCK = 64  # states and sums of so many sequences fit into the second-level cache
_ROWS_OF_INPUTS = 128  # multiplied at a time, so that their weight comes from memory once for several steps


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

    def at_places(self, size, dtype):
        """Room for [T * N, size] of which only what exists is written: zero elsewhere."""
        return (empty if self.valid is None else zeros)((self.places.size, size), dtype)

    def by_time(self, x):
        """[T * N, size] as [T, N, size]."""
        return x.reshape(*self.places.shape, x.shape[1])

    def sums(self, packed):
        """Room for the products of a packed weight with the inputs of a step or more."""
        return product_scratch(self.blocks, max(self.block_rows, _ROWS_OF_INPUTS), packed)

    def products(self, packed):
        """Room for the products of a packed weight with the states of one step."""
        return product_scratch(self.blocks, self.block_rows, packed)


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


def _grad_output_rows(grad_output, size, dtype):
    return empty((0, size), dtype) if grad_output is None else np.ascontiguousarray(grad_output).reshape(-1, size)


def _product_of_rows(left, right):
    """left^T right: the gradient of a weight from all its rows."""
    return matmul(left.T, right, empty((left.shape[1], right.shape[1]), left.dtype))


def _pitch(size, dtype):
    """A pitch for rows that a product reads side by side: an odd number of cache lines, or they would meet in the same
    lines of the first-level cache."""
    line = 64 // np.dtype(dtype).itemsize
    lines = -(-size // line)
    return (lines + 1 - lines % 2) * line


def _weight_gradients(needs, grad_sums, x_rows, before):
    """Gradients of weight_ih, weight_hh, bias_ih and bias_hh where the gates add what both weights make."""
    grad_bias = grad_sums.sum(axis=0) if needs[3] or needs[4] else None
    return (
        _product_of_rows(grad_sums, x_rows) if needs[1] else None,
        _product_of_rows(grad_sums, before) if needs[2] else None,
        grad_bias,
        grad_bias.copy() if needs[3] and needs[4] else grad_bias,
    )


def _inputs_backward(walk, weight_ih, needed):
    """W_ih packed, room for its products and for the gradient of x; all of them empty where that is not needed."""
    dtype = weight_ih.dtype
    packed = pack(weight_ih) if needed else no_weight(dtype)
    grad_x = walk.at_places(weight_ih.shape[1], dtype) if needed else empty((0, 0), dtype)
    return packed, walk.products(packed), grad_x


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
    h_n, output = _state(h0, batch, size, x.dtype), walk.at_places(size, x.dtype)
    packed_ih, packed = pack(weight_ih.T), pack(weight_hh.T)
    rnn_forward_kernel(
        x_rows,
        packed_ih,
        _bias(size, x.dtype, bias_ih, bias_hh),
        packed,
        relu,
        *walk.tables,
        walk.scratch(size, x.dtype),
        walk.sums(packed),
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
    packed_ih, input_products, grad_x = _inputs_backward(walk, weight_ih, needs[0])
    rnn_grad_sums_kernel(
        packed_ih,
        packed,
        relu,
        *walk.tables,
        output,
        _state(h0, batch, size, dtype),
        _grad_output_rows(grad_output, size, dtype),
        grad_h,
        walk.scratch(size, dtype),
        walk.scratch(_pitch(size, dtype), dtype),
        walk.products(packed),
        input_products,
        grad_sums,
        before,
        grad_x,
    )
    weights = _weight_gradients(needs, grad_sums, x_rows, before)
    return _for(needs, walk.by_time(grad_x) if needs[0] else None, *weights, grad_h, None)[:length]


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
    gates, cells = (empty((x_rows.shape[0], columns), x.dtype) for columns in (4 * size, size))
    hidden = empty(cells.shape if weight_hr is not None else (0, size), x.dtype)
    output = walk.at_places(state_size, x.dtype)
    packed_ih, packed = pack(weight_ih.T), pack(weight_hh.T)
    packed_projection = no_weight(x.dtype) if weight_hr is None else pack(weight_hr.T)
    lstm_forward_kernel(
        x_rows,
        packed_ih,
        _bias(4 * size, x.dtype, bias_ih, bias_hh),
        packed,
        packed_projection,
        *walk.tables,
        walk.scratch(state_size, x.dtype),
        walk.scratch(size, x.dtype, 2),
        walk.sums(packed),
        walk.products(packed_projection),
        gates,
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
    packed, packed_projection = pack(weight_hh), no_weight(dtype) if weight_hr is None else pack(weight_hr)
    packed_ih, input_products, grad_x = _inputs_backward(walk, weight_ih, needs[0])
    lstm_grad_gates_kernel(
        gates,
        cells,
        packed_ih,
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
        walk.scratch(_pitch(4 * size, dtype), dtype),
        walk.products(packed),
        input_products,
        walk.products(packed_projection),
        grad_gates,
        grad_projected,
        before,
        grad_x,
    )
    weights = _weight_gradients(needs, grad_gates, x_rows, before)
    grad_weight_hr = _product_of_rows(grad_projected, hidden) if needs[7] else None
    return _for(needs, walk.by_time(grad_x) if needs[0] else None, *weights, grad_h, grad_c, grad_weight_hr, None)[
        :length
    ]


def gru_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, reverse=False):
    (steps, batch, _), size = x.shape, weight_hh.shape[1]
    walk = _plan(steps, batch, lengths, reverse)
    x_rows = walk.gather(x)
    gates, hidden_new = (empty((x_rows.shape[0], columns), x.dtype) for columns in (3 * size, size))
    h_n, output = _state(h0, batch, size, x.dtype), walk.at_places(size, x.dtype)
    # b_hh's part for n is reset together with W_n h; the rest adds to b_ih.
    bias, bias_new = _bias(3 * size, x.dtype, bias_ih), zeros(size, x.dtype)
    if bias_hh is not None:
        bias[: 2 * size] += bias_hh[: 2 * size]
        bias_new[...] = bias_hh[2 * size :]
    packed_ih, packed = pack(weight_ih.T), pack(weight_hh.T)
    gru_forward_kernel(
        x_rows,
        packed_ih,
        bias,
        bias_new,
        packed,
        *walk.tables,
        walk.scratch(size, x.dtype),
        walk.sums(packed),
        walk.products(packed),
        gates,
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
    packed_ih, input_products, grad_x = _inputs_backward(walk, weight_ih, needs[0])
    gru_grad_gates_kernel(
        gates,
        hidden_new,
        packed_ih,
        packed,
        *walk.tables,
        output,
        _state(h0, batch, size, dtype),
        _grad_output_rows(grad_output, size, dtype),
        grad_h,
        walk.scratch(size, dtype),
        walk.scratch(_pitch(3 * size, dtype), dtype),
        walk.products(packed),
        input_products,
        grad_gates,
        grad_hidden_new,
        before,
        grad_x,
    )
    weights = _gru_weight_gradients(needs, grad_gates, grad_hidden_new, x_rows, before)
    return _for(needs, walk.by_time(grad_x) if needs[0] else None, *weights, grad_h, None)[:length]


def _gru_weight_gradients(needs, grad_gates, grad_hidden_new, x_rows, before):
    """Gradients of weight_ih, weight_hh, bias_ih and bias_hh: what W_n h makes has a gradient of its own."""
    split = 2 * before.shape[1]
    grad_weight_ih = grad_weight_hh = grad_bias_ih = grad_bias_hh = None
    if needs[1]:
        grad_weight_ih = _product_of_rows(grad_gates, x_rows)
    if needs[2]:
        grad_weight_hh = empty((grad_gates.shape[1], before.shape[1]), before.dtype)
        matmul(grad_gates[:, :split].T, before, grad_weight_hh[:split])
        matmul(grad_hidden_new.T, before, grad_weight_hh[split:])
    if needs[3] or needs[4]:
        grad_bias_ih = grad_gates.sum(axis=0)
    if needs[4]:
        grad_bias_hh = np.concatenate([grad_bias_ih[:split], grad_hidden_new.sum(axis=0)])
    return grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh


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
