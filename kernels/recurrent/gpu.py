"""Recurrent layers on CuPy arrays: one product multiplies the inputs of all time steps; the steps are then one kernel
for the whole sequence where the recurrent weight fits on the chip (`gpu_resident.py`), else one kernel each, its
product with it included (`gpu_step_forward.py`; one more for an LSTM's projection). The backward pass walks back the
same way (`gpu_step_backward.py`); one product over all steps makes the gradient of each weight at the end. What places
and rows are says `gpu_time.py`.

Nothing here reads the lengths: the host walks T steps, and a sequence that has ended stands still.
"""

from typing import Any, NamedTuple

import numpy as np

from ..dense.gpu import column_sum
from ..dense.gpu_product import product
from ..gpu_arrays import add, cast, contiguous, copy_into, zeros
from ..launch import ceil_div, empty, launch, launch_steps
from .gpu_resident_backward import (
    gru_resident_grad_kernel,
    lstm_resident_grad_kernel,
    rnn_resident_grad_kernel,
    walk_back_at_once,
)
from .gpu_resident_forward import gru_resident_kernel, lstm_resident_kernel, rnn_resident_kernel, walk_at_once
from .gpu_step_backward import (
    backward_step,
    gru_grad_gates_kernel,
    lstm_grad_gates_kernel,
    lstm_grad_projected_kernel,
    rnn_grad_sums_kernel,
)
from .gpu_step_forward import (
    forward_step,
    gru_step_kernel,
    lstm_project_kernel,
    lstm_step_kernel,
    rnn_step_kernel,
)
from .gpu_time import reorder_kernel

_MOST_INPUTS = 9  # of a layer: an LSTM's


class _Walk(NamedTuple):
    """How a batch of sequences is walked."""

    steps: int
    batch: int
    lengths: Any  # contiguous int64 [N], or None
    reverse: bool

    def rows(self, x):
        """x [T, N, size], in places, as rows [T * N, size]."""
        x = contiguous(x)
        flat = x.reshape(self.steps * self.batch, x.shape[2])
        return flat if self.lengths is None else self._reordered(flat, True)

    def places(self, rows):
        """Rows as [T, N, size], in places."""
        rows = rows if self.lengths is None else self._reordered(rows, False)
        return rows.reshape(self.steps, self.batch, rows.shape[1])

    def _reordered(self, source, to_rows):
        target = empty(source)
        launch(
            reorder_kernel, (ceil_div(source.size, 1024),),
            source, target, self.lengths, self.steps, self.batch, source.shape[1], source.size,
            REVERSE=self.reverse, TO_ROWS=to_rows, BLOCK=1024,
        )  # fmt: skip
        return target

    def first(self, rows):
        """The rows of the first step, [N, size]."""
        start = (self.steps - 1) * self.batch if self.lengths is None and self.reverse else 0
        return rows[start : start + self.batch]

    def forward(self, *launches) -> None:
        launch_steps(range(self.steps), *launches)

    def back(self, *launches) -> None:
        launch_steps(range(self.steps - 1, -1, -1), *launches)


class _Inputs(NamedTuple):
    """What every kind of layer needs again in its backward pass."""

    walk: _Walk
    x_rows: Any
    weight_ih: Any
    weight_hh: Any
    h0: Any
    output: Any  # [T * N, state], in places

    def grad_start(self, grad_sums, dtype):
        """What h0 gets through the first step's sums, [N, state]: the rows of the gradient of W_hh h, times W_hh."""
        grad_h0 = empty(self.x_rows, (self.walk.batch, self.weight_hh.shape[1]), dtype)
        product(self.walk.first(grad_sums), self.weight_hh, grad_h0)
        return grad_h0


def _begin(x, weight_ih, bias_ih, lengths, reverse):
    """The walk, x as rows, and W_ih x + b_ih of all steps as rows."""
    walk = _Walk(*x.shape[:2], None if lengths is None else contiguous(lengths), reverse)
    x_rows = walk.rows(x)
    gates = empty(x, (x_rows.shape[0], weight_ih.shape[0]), _accumulator(x))
    product(x_rows, weight_ih.T, gates, _bias(bias_ih))
    return walk, x_rows, gates


def _accumulator(x):
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


def _bias(bias):
    return None if bias is None else contiguous(bias)


def _state(given, like, batch, size, dtype):
    """A copy of the initial state, or of a final state's gradient, for a kernel to write on."""
    if given is None:
        return zeros(like, (batch, size), dtype)
    state = empty(like, (batch, size), dtype)
    copy_into(state, given)
    return state


def _given(*arrays):
    return tuple(None if array is None else contiguous(array) for array in arrays)


def _product_of_rows(left, right):
    """left^T right: the gradient of a weight from all its rows."""
    total = empty(left, (left.shape[1], right.shape[1]))
    product(left.T, right, total)
    return total


def _gradients_over_time(inputs, grad_gates, grad_sums, before, needed):
    """Gradients of x, weight_ih, weight_hh, bias_ih and bias_hh, from the rows of all steps: the gradients of
    W_ih x + b_ih (grad_gates) and of W_hh h + b_hh (grad_sums), and the states that the steps started from."""
    grad_x = None
    if needed[0]:
        grad_rows = empty(inputs.x_rows)
        product(grad_gates, inputs.weight_ih, grad_rows)
        grad_x = inputs.walk.places(grad_rows)
    return (
        grad_x,
        _product_of_rows(grad_gates, inputs.x_rows) if needed[1] else None,
        _product_of_rows(grad_sums, before) if needed[2] else None,
        column_sum(grad_gates) if needed[3] else None,
        column_sum(grad_sums) if needed[4] else None,
    )


def _for(needs, *grads):
    """The gradients that were asked for, one for each input that was given."""
    return tuple(grad if need else None for grad, need in zip(grads, needs))


def _of_all_inputs(needs):
    """False for the inputs that were not given, which are the last ones."""
    return (*needs, *(False,) * (_MOST_INPUTS - len(needs)))


def rnn_forward(
    x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, nonlinearity="tanh", reverse=False
):
    walk, x_rows, gates = _begin(x, weight_ih, bias_ih, lengths, reverse)
    size, relu, bias_hh = weight_hh.shape[1], nonlinearity == "relu", _bias(bias_hh)
    output = empty(x, (*x.shape[:2], size))
    h = walk_at_once(rnn_resident_kernel, walk, gates, weight_hh, bias_hh, h0, (), output, RELU=relu)
    inputs = _Inputs(walk, x_rows, weight_ih, weight_hh, *_given(h0), output)
    if h is None:
        h = empty(x, (walk.batch, size))
        taken = gates, bias_hh, inputs.h0, output, h
        walk.forward(forward_step(rnn_step_kernel, walk, 1, weight_hh, *taken, RELU=relu))
    return (output, h), (inputs, relu)


def rnn_backward(saved, grads, needs):
    inputs, relu = saved
    walk, size, needed = inputs.walk, inputs.weight_hh.shape[1], _of_all_inputs(needs)
    grad_sums, before = (empty(inputs.x_rows, (walk.steps * walk.batch, size)) for _ in range(2))
    taken = *_given(grads[1], grads[0]), inputs.output, inputs.h0, grad_sums, before
    if not walk_back_at_once(rnn_resident_grad_kernel, walk, inputs.weight_hh, *taken, RELU=relu):
        walk.back(backward_step(rnn_grad_sums_kernel, walk, inputs.weight_hh, *taken, RELU=relu))
    over_time = _gradients_over_time(inputs, grad_sums, grad_sums, before, needed)
    grad_h0 = inputs.grad_start(grad_sums, before.dtype) if needed[5] else None
    return _for(needs, *over_time, grad_h0, None)


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
    walk, x_rows, gates = _begin(x, weight_ih, bias_ih, lengths, reverse)
    (state_size, size), bias_hh = (weight_hh.shape[1], weight_hh.shape[0] // 4), _bias(bias_hh)
    output, cells = empty(x, (*x.shape[:2], state_size)), empty(x, (x_rows.shape[0], size), gates.dtype)
    c, hidden, h, (h0, c0) = empty(x, (walk.batch, size)), None, None, _given(h0, c0)
    if weight_hr is None:
        h = walk_at_once(lstm_resident_kernel, walk, gates, weight_hh, bias_hh, h0, (c0, c, cells), output)
    else:
        hidden = empty(x, cells.shape)
    if h is None:
        h = empty(x, (walk.batch, state_size))
        taken = gates, bias_hh, h0, c0, cells, hidden, output, h, c
        step = forward_step(lstm_step_kernel, walk, 4, weight_hh, *taken, PROJECTED=weight_hr is not None)
        if weight_hr is None:
            walk.forward(step)
        else:
            walk.forward(step, forward_step(lstm_project_kernel, walk, 1, weight_hr, hidden, output, h))
    inputs = _Inputs(walk, x_rows, weight_ih, weight_hh, h0, output)
    return (output, h, c), (inputs, weight_hr, c0, gates, cells, hidden)


def lstm_backward(saved, grads, needs):
    inputs, weight_hr, c0, gates, cells, hidden = saved
    walk, state_size, size, needed = inputs.walk, inputs.weight_hh.shape[1], cells.shape[1], _of_all_inputs(needs)
    like, rows = inputs.x_rows, cells.shape[0]
    grad_gates, before = empty(like, gates.shape), empty(like, (rows, state_size))
    grad_c, grad_projected = _state(grads[2], like, walk.batch, size, cells.dtype), None
    own, outputs = (gates, cells, c0, grad_c), (*_given(grads[1], grads[0]), inputs.output, inputs.h0)
    if weight_hr is not None:
        grad_projected = empty(before)
        taken = grad_gates, *outputs, grad_projected, before
        of_state = backward_step(lstm_grad_projected_kernel, walk, inputs.weight_hh, *taken)
        taken = *own, grad_projected, *outputs, grad_gates, before
        walk.back(of_state, backward_step(lstm_grad_gates_kernel, walk, weight_hr, *taken, PROJECTED=True))
    elif not walk_back_at_once(lstm_resident_grad_kernel, walk, inputs.weight_hh, *own, *outputs, grad_gates, before):
        taken = *own, None, *outputs, grad_gates, before
        walk.back(backward_step(lstm_grad_gates_kernel, walk, inputs.weight_hh, *taken, PROJECTED=False))
    over_time = _gradients_over_time(inputs, grad_gates, grad_gates, before, needed)
    grad_weight_hr = _product_of_rows(grad_projected, hidden) if needed[7] and weight_hr is not None else None
    grad_h0 = inputs.grad_start(grad_gates, before.dtype) if needed[5] else None
    return _for(needs, *over_time, grad_h0, cast(grad_c, before.dtype), grad_weight_hr, None)


def gru_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, reverse=False):
    walk, x_rows, gates = _begin(x, weight_ih, bias_ih, lengths, reverse)
    size, bias_hh = weight_hh.shape[1], _bias(bias_hh)
    output, hidden_new = empty(x, (*x.shape[:2], size)), empty(x, (x_rows.shape[0], size), gates.dtype)
    h = walk_at_once(gru_resident_kernel, walk, gates, weight_hh, bias_hh, h0, (hidden_new,), output)
    inputs = _Inputs(walk, x_rows, weight_ih, weight_hh, *_given(h0), output)
    if h is None:
        h = empty(x, (walk.batch, size))
        taken = gates, bias_hh, inputs.h0, hidden_new, output, h
        walk.forward(forward_step(gru_step_kernel, walk, 3, weight_hh, *taken))
    return (output, h), (inputs, gates, hidden_new)


def gru_backward(saved, grads, needs):
    inputs, gates, hidden_new = saved
    walk, size, needed = inputs.walk, inputs.weight_hh.shape[1], _of_all_inputs(needs)
    like = inputs.x_rows
    grad_gates, grad_sums, before = empty(like, gates.shape), empty(like, gates.shape), empty(like, hidden_new.shape)
    kept, outputs = empty(like, (walk.batch, size), gates.dtype), _given(grads[1], grads[0])
    taken = gates, hidden_new, grad_gates, kept, *outputs, inputs.output, inputs.h0, grad_sums, before
    if not walk_back_at_once(gru_resident_grad_kernel, walk, inputs.weight_hh, *taken):
        walk.back(backward_step(gru_grad_gates_kernel, walk, inputs.weight_hh, *taken))
    over_time = _gradients_over_time(inputs, grad_gates, grad_sums, before, needed)
    grad_h0 = None
    if needed[5]:
        grad_h0 = cast(add(inputs.grad_start(grad_sums, kept.dtype), kept, out=kept), before.dtype)
    return _for(needs, *over_time, grad_h0, None)


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
