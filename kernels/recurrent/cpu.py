"""Recurrent layers on NumPy arrays: one kernel walks through time, and one product makes the gradients of a weight at
the end. Sequences are shared among threads, or where there are few of them, the units of each step.

With lengths, only time steps that exist are stored and multiplied: what stands in a padded place, NaN too, has no
effect.
"""

import numpy as np
from numba import get_num_threads

from ..accumulate import copy_into
from ..cpu_matmul import matmul
from ..destinations import gradient
from ..memory import empty, zeros
from .cpu_few import GRU, LSTM, RELU, TANH, few_backward_kernel, few_forward_kernel
from .cpu_gru import gru_forward_kernel, gru_grad_gates_kernel
from .cpu_lstm import lstm_forward_kernel, lstm_grad_gates_kernel
from .cpu_product import no_weight, pack
from .cpu_share import CHUNK, board_size
from .cpu_step import (
    gru_step_backward,
    gru_step_forward,
    lstm_step_backward,
    lstm_step_forward,
    rnn_step_backward,
    rnn_step_forward,
)
from .cpu_time import rnn_forward_kernel, rnn_grad_sums_kernel
from .cpu_walk import bias_gradient, bias_sum, gru_bias_sums, initial_state, plan, weight_gradient, weight_gradients

_FEW = 4  # sequences, up to which threads share the steps of all
_WORTH_SHARING = 1 << 16  # multiply-adds of a step; to agree about fewer takes longer than to compute them


def _grad_output_rows(grad_output, size, dtype):
    return empty((0, size), dtype) if grad_output is None else np.ascontiguousarray(grad_output).reshape(-1, size)


def _pitch(size, dtype):
    """A pitch for rows that a product reads side by side: an odd number of cache lines, or they would meet in the same
    lines of the first-level cache."""
    line = 64 // np.dtype(dtype).itemsize
    lines = -(-size // line)
    return (lines + 1 - lines % 2) * line


def _grad_inputs(walk, grad_sums, weight_ih):
    """The gradient of x, [T, N, I], from that of W_ih x, [S, at least its columns]: one product at the end leaves the
    caches to W_hh while the kernels walk."""
    grad_sums, size = grad_sums[:, : weight_ih.shape[0]], weight_ih.shape[1]
    grad_x = walk.at_places(size, weight_ih.dtype)
    if walk.valid is None:
        matmul(grad_sums, weight_ih, grad_x)
    else:
        grad_x[walk.valid] = matmul(grad_sums, weight_ih, empty((len(grad_sums), size), weight_ih.dtype))
    return walk.by_time(grad_x)


def _is_few(batch, weight_hr=None):
    return 0 < batch <= _FEW and weight_hr is None


def _share(kernel, batch, weight, scratch):
    """How to run a kernel of cpu_few.py, its board, and its scratch of so many elements a sequence."""
    workers = get_num_threads() if batch * weight.size > _WORTH_SHARING else 1
    board = zeros(board_size(_chunks(weight.shape[1])), np.int64)
    return kernel if workers > 1 else kernel.serial, board, empty((workers, batch, scratch), weight.dtype)


def _chunks(size):
    return -(-size // CHUNK)


def _flat(weight):
    return np.ascontiguousarray(weight).reshape(-1)


def _few_forward(kind, walk, x_rows, weight_ih, weight_hh, h0, bias, bias_new, gates, extra, output, c_n):
    """Walks through time on few sequences; what cpu_few.py says is written. Returns h_n."""
    batch, size, dtype = len(walk.order), weight_hh.shape[1], output.dtype
    if len(x_rows) > _FEW:
        matmul(x_rows, weight_ih.T, gates, bias)
        inputs = empty(0, dtype)
    else:  # as little as a step's states: multiplied beside them
        gates[...] = bias
        inputs = _flat(weight_ih)
    run, board, scratch = _share(few_forward_kernel, batch, weight_hh, 4 * CHUNK)
    run(
        board,
        kind,
        x_rows,
        inputs,
        _flat(weight_hh),
        *walk.tables,
        initial_state(h0, batch, size, dtype),
        bias_new,
        scratch,
        gates,
        extra,
        output,
        c_n,
    )
    return output[walk.places[walk.lengths - 1, np.arange(batch)]]


def _few_backward(
    kind, walk, weight_hh, gates, extra, output, before, c0, grad_output, grad_h, grad_c, grad_gates, grad_hidden_new
):
    """Walks back through time on few sequences; what cpu_few.py says is written."""
    batch, size, dtype = len(walk.order), weight_hh.shape[1], output.dtype
    run, board, scratch = _share(few_backward_kernel, batch, weight_hh, 8 * CHUNK)
    run(
        board,
        kind,
        _flat(weight_hh),
        *walk.tables,
        gates,
        extra,
        output,
        before,
        c0,
        grad_output,
        grad_h,
        grad_c,
        empty((2, _chunks(size), batch, size), dtype),
        scratch,
        grad_gates,
        grad_hidden_new,
    )


def _for(needs, *grads):
    """The gradients that were asked for."""
    return tuple(grad if need else None for grad, need in zip(grads, needs))


def _pad(needs, length):
    return (*needs, *(False,) * (length - len(needs)))


def rnn_forward(
    x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, nonlinearity="tanh", reverse=False
):
    (steps, batch, _), size = x.shape, weight_hh.shape[1]
    walk = plan(steps, batch, lengths, reverse)
    x_rows, relu = walk.gather(x), nonlinearity == "relu"
    bias, states = bias_sum(size, x.dtype, bias_ih, bias_hh), walk.states(size, x.dtype, h0)
    output = walk.output(states)
    if _is_few(batch):
        sums, none = empty((x_rows.shape[0], size), x.dtype), empty((0, size), x.dtype)
        kind = RELU if relu else TANH
        h_n = _few_forward(
            kind, walk, x_rows, weight_ih, weight_hh, h0, bias, empty(0, x.dtype), sums, none, output, none
        )
    else:
        h_n, packed_ih, packed = initial_state(h0, batch, size, x.dtype), pack(weight_ih.T), pack(weight_hh.T)
        rnn_forward_kernel(
            x_rows,
            packed_ih,
            bias,
            packed,
            relu,
            *walk.tables,
            walk.scratch(size, x.dtype),
            walk.sums(packed),
            output,
            h_n,
        )
    return (output.reshape(steps, batch, size), h_n), (walk, x_rows, weight_ih, weight_hh, relu, states)


def rnn_backward(saved, grads, needs):
    walk, x_rows, weight_ih, weight_hh, relu, states = saved
    (grad_output, grad_h_n), length, needs = grads, len(needs), _pad(needs, 7)
    size, batch, dtype = weight_hh.shape[1], len(walk.order), states.dtype
    output, before = walk.output(states), walk.before(states)
    grad_sums = empty((x_rows.shape[0], _pitch(size, dtype)), dtype)
    grad_h, grad_output = initial_state(grad_h_n, batch, size, dtype), _grad_output_rows(grad_output, size, dtype)
    if _is_few(batch):
        none, kind = empty((0, size), dtype), RELU if relu else TANH
        _few_backward(
            kind, walk, weight_hh, none, none, output, before, none, grad_output, grad_h, none, grad_sums, none
        )
    else:
        packed = pack(weight_hh)
        rnn_grad_sums_kernel(
            packed,
            relu,
            *walk.tables,
            output,
            grad_output,
            grad_h,
            walk.products(packed),
            grad_sums,
        )
    grad_x = _grad_inputs(walk, grad_sums, weight_ih) if needs[0] else None
    weights = weight_gradients(needs, grad_sums, size, x_rows, before)
    return _for(needs, grad_x, *weights, grad_h, None)[:length]


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
    walk = plan(steps, batch, lengths, reverse)
    x_rows = walk.gather(x)
    bias, c_n = bias_sum(4 * size, x.dtype, bias_ih, bias_hh), initial_state(c0, batch, size, x.dtype)
    gates, cells = (empty((x_rows.shape[0], columns), x.dtype) for columns in (4 * size, size))
    hidden = empty(cells.shape if weight_hr is not None else (0, size), x.dtype)
    states = walk.states(state_size, x.dtype, h0)
    output = walk.output(states)
    if _is_few(batch, weight_hr):
        h_n = _few_forward(
            LSTM, walk, x_rows, weight_ih, weight_hh, h0, bias, empty(0, x.dtype), gates, cells, output, c_n
        )
    else:
        h_n, packed_ih, packed = initial_state(h0, batch, state_size, x.dtype), pack(weight_ih.T), pack(weight_hh.T)
        packed_projection = no_weight(x.dtype) if weight_hr is None else pack(weight_hr.T)
        lstm_forward_kernel(
            x_rows,
            packed_ih,
            bias,
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
    saved = (walk, x_rows, weight_ih, weight_hh, weight_hr, c0, gates, cells, hidden, states)
    return (output.reshape(steps, batch, state_size), h_n, c_n), saved


def lstm_backward(saved, grads, needs):
    walk, x_rows, weight_ih, weight_hh, weight_hr, c0, gates, cells, hidden, states = saved
    (grad_output, grad_h_n, grad_c_n), length, needs = grads, len(needs), _pad(needs, 9)
    (steps, size), state_size, batch, dtype = cells.shape, weight_hh.shape[1], len(walk.order), cells.dtype
    before, grad_gates = walk.before(states), empty((steps, _pitch(4 * size, dtype)), dtype)
    grad_projected = empty((steps if weight_hr is not None else 0, state_size), dtype)
    grad_h, grad_c = initial_state(grad_h_n, batch, state_size, dtype), initial_state(grad_c_n, batch, size, dtype)
    c0, grad_output = initial_state(c0, batch, size, dtype), _grad_output_rows(grad_output, state_size, dtype)
    if _is_few(batch, weight_hr):
        _few_backward(
            LSTM, walk, weight_hh, gates, cells, walk.output(states), before, c0, grad_output, grad_h, grad_c,
            grad_gates, empty((0, size), dtype),
        )  # fmt: skip
    else:
        packed, packed_projection = pack(weight_hh), no_weight(dtype) if weight_hr is None else pack(weight_hr)
        lstm_grad_gates_kernel(
            gates,
            cells,
            packed,
            packed_projection,
            *walk.tables,
            c0,
            grad_output,
            grad_h,
            grad_c,
            walk.scratch(size, dtype),
            walk.products(packed),
            walk.products(packed_projection),
            grad_gates,
            grad_projected,
        )
    grad_x = _grad_inputs(walk, grad_gates, weight_ih) if needs[0] else None
    weights = weight_gradients(needs, grad_gates, 4 * size, x_rows, before)
    grad_weight_hr = weight_gradient(7, grad_projected, hidden) if needs[7] else None
    return _for(needs, grad_x, *weights, grad_h, grad_c, grad_weight_hr, None)[:length]


def gru_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, reverse=False):
    (steps, batch, _), size = x.shape, weight_hh.shape[1]
    walk = plan(steps, batch, lengths, reverse)
    x_rows = walk.gather(x)
    gates, hidden_new = (empty((x_rows.shape[0], columns), x.dtype) for columns in (3 * size, size))
    states = walk.states(size, x.dtype, h0)
    output = walk.output(states)
    bias, bias_new = gru_bias_sums(size, x.dtype, bias_ih, bias_hh)
    if _is_few(batch):
        no_cells = empty((0, size), x.dtype)
        h_n = _few_forward(
            GRU, walk, x_rows, weight_ih, weight_hh, h0, bias, bias_new, gates, hidden_new, output, no_cells
        )
    else:
        h_n, packed_ih, packed = initial_state(h0, batch, size, x.dtype), pack(weight_ih.T), pack(weight_hh.T)
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
    saved = (walk, x_rows, weight_ih, weight_hh, gates, hidden_new, states)
    return (output.reshape(steps, batch, size), h_n), saved


def gru_backward(saved, grads, needs):
    walk, x_rows, weight_ih, weight_hh, gates, hidden_new, states = saved
    (grad_output, grad_h_n), length, needs = grads, len(needs), _pad(needs, 7)
    size, batch, dtype, before = weight_hh.shape[1], len(walk.order), states.dtype, walk.before(states)
    grad_gates, grad_hidden_new = empty(gates.shape, dtype), empty(hidden_new.shape, dtype)
    grad_h, grad_output = initial_state(grad_h_n, batch, size, dtype), _grad_output_rows(grad_output, size, dtype)
    if _is_few(batch):
        none = empty((0, size), dtype)
        _few_backward(
            GRU, walk, weight_hh, gates, hidden_new, walk.output(states), before, none, grad_output, grad_h, none,
            grad_gates, grad_hidden_new,
        )  # fmt: skip
    else:
        packed = pack(weight_hh)
        gru_grad_gates_kernel(
            gates,
            hidden_new,
            before,
            packed,
            *walk.tables,
            grad_output,
            grad_h,
            walk.scratch(_pitch(3 * size, dtype), dtype),
            walk.products(packed),
            grad_gates,
            grad_hidden_new,
        )
    grad_x = _grad_inputs(walk, grad_gates, weight_ih) if needs[0] else None
    weights = _gru_weight_gradients(needs, grad_gates, grad_hidden_new, x_rows, before)
    return _for(needs, grad_x, *weights, grad_h, None)[:length]


def _gru_weight_gradients(needs, grad_gates, grad_hidden_new, x_rows, before):
    """Gradients of weight_ih, weight_hh, bias_ih and bias_hh: what W_n h makes has a gradient of its own."""
    split = 2 * before.shape[1]
    grad_weight_ih = grad_weight_hh = grad_bias_ih = grad_bias_hh = None
    if needs[1]:
        grad_weight_ih = weight_gradient(1, grad_gates, x_rows)
    if needs[2]:
        grad_weight_hh = gradient(2, (grad_gates.shape[1], before.shape[1]), before.dtype)
        matmul(grad_gates[:, :split].T, before, grad_weight_hh[:split])
        matmul(grad_hidden_new.T, before, grad_weight_hh[split:])
    if needs[3] or needs[4]:
        grad_bias_ih = bias_gradient(grad_gates, 3 * before.shape[1])
    if needs[4]:
        grad_bias_hh = empty(grad_bias_ih.shape, before.dtype)
        copy_into(grad_bias_hh[:split], grad_bias_ih[:split])
        copy_into(grad_bias_hh[split:], bias_gradient(grad_hidden_new, before.shape[1]))
    return grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh


# A cell is one step of its layer: for a few sequences, the layer itself.


def _cell_forward(layer, cell, x, weights, states, **attributes):
    """The states after one step, and what backward needs."""
    if _is_few(len(x)):
        (_, *after), saved = layer(x[None], *weights, *states, **attributes)
    else:
        after, saved = cell(x, *weights, *states, **attributes)
    return tuple(after), (len(x), saved)


def _cell_backward(layer, cell, saved, grads, needs):
    batch, saved = saved
    if not _is_few(batch):
        return cell(saved, grads, _pad(needs, 7))[: len(needs)]
    grad_x, *others = layer(saved, (None, *grads), needs)
    return (None if grad_x is None else grad_x[0], *others)


def rnn_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, *, nonlinearity="tanh"):
    weights = weight_ih, weight_hh, bias_ih, bias_hh
    (h,), saved = _cell_forward(rnn_forward, rnn_step_forward, x, weights, (h0,), nonlinearity=nonlinearity)
    return h, saved


def rnn_cell_backward(saved, grad_h, needs):
    return _cell_backward(rnn_backward, rnn_step_backward, saved, (grad_h,), needs)


def lstm_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, c0=None):
    return _cell_forward(lstm_forward, lstm_step_forward, x, (weight_ih, weight_hh, bias_ih, bias_hh), (h0, c0))


def lstm_cell_backward(saved, grads, needs):
    return _cell_backward(lstm_backward, lstm_step_backward, saved, grads, needs)


def gru_cell_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None):
    weights = weight_ih, weight_hh, bias_ih, bias_hh
    (h,), saved = _cell_forward(gru_forward, gru_step_forward, x, weights, (h0,))
    return h, saved


def gru_cell_backward(saved, grad_h, needs):
    return _cell_backward(gru_backward, gru_step_backward, saved, (grad_h,), needs)
