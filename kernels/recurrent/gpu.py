"""Recurrent layers on CuPy arrays: one product multiplies the inputs of all time steps; the steps are then one kernel
for the whole sequence where the recurrent weight fits on the chip (`gpu_resident.py`), else each is one product with it
and one kernel for all that follows (`gpu_time.py`, which also says what places and rows are). The backward pass walks
back the same way; one product over all steps makes the gradient of each weight at the end.

Nothing here reads the lengths: the host walks T steps, and a sequence that has ended stands still.
"""

from typing import Any, NamedTuple

import numpy as np

from ..dense.gpu import column_sum
from ..dense.gpu_product import product
from ..gpu_arrays import add, cast, contiguous, copy_into, zeros
from ..launch import ceil_div, empty, launch
from ..tuning import Choice
from .gpu_resident_backward import (
    gru_resident_grad_kernel,
    lstm_resident_grad_kernel,
    rnn_resident_grad_kernel,
    walk_back_at_once,
)
from .gpu_resident_forward import gru_resident_kernel, lstm_resident_kernel, rnn_resident_kernel, walk_at_once
from .gpu_time import (
    gru_grad_gates_kernel,
    gru_step_kernel,
    lstm_grad_gates_kernel,
    lstm_grad_projected_kernel,
    lstm_project_kernel,
    lstm_step_kernel,
    reorder_kernel,
    rnn_grad_sums_kernel,
    rnn_step_kernel,
)

# A program has so many neighbours of a state's [N, size] values.
STEP = Choice(
    "recurrent.step",
    ("BLOCK", "num_warps"),
    candidates=lambda dtype, values: [(128, 2), (128, 4), (256, 2), (256, 4), (256, 8), (512, 4), (512, 8), (1024, 8)],
    default=lambda architecture, dtype, values: (256, 4),
)


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

    def at(self, rows, step):
        """The rows of one step, [N, size]."""
        if self.lengths is None and self.reverse:
            step = self.steps - 1 - step
        return rows[step * self.batch : (step + 1) * self.batch]

    def run(self, kernel, arguments, step, size, **constants):
        """A kernel over the [N, size] values of a state at one step."""
        values = self.batch * size
        tile = STEP.pick(arguments[0], values)
        launch(
            kernel, (ceil_div(values, tile["BLOCK"]),), *arguments, step, self.steps, self.batch, size,
            **constants, REVERSE=self.reverse, **tile,
        )  # fmt: skip


class _Inputs(NamedTuple):
    """What every kind of layer needs again in its backward pass."""

    walk: _Walk
    x_rows: Any
    weight_ih: Any
    weight_hh: Any
    h0: Any
    output: Any  # [T * N, state], in places

    def carry_back(self, grad_sums, step, grad_h):
        """grad_h [N, state] from a step's rows of the gradient of W_hh h; nothing behind the last step."""
        if step < self.walk.steps:
            product(self.walk.at(grad_sums, step), self.weight_hh, grad_h)
        return grad_h


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
    if h is None:
        h, sums = _state(h0, x, walk.batch, size, x.dtype), empty(x, (walk.batch, size), gates.dtype)
        for step in range(walk.steps):
            product(h, weight_hh.T, sums, bias_hh)
            walk.run(rnn_step_kernel, (gates, sums, h, output, walk.lengths), step, size, RELU=relu)
    return (output, h), (_Inputs(walk, x_rows, weight_ih, weight_hh, *_given(h0), output), relu)


def rnn_backward(saved, grads, needs):
    inputs, relu = saved
    walk, size, needed = inputs.walk, inputs.weight_hh.shape[1], _of_all_inputs(needs)
    grad_sums, before = (empty(inputs.x_rows, (walk.steps * walk.batch, size)) for _ in range(2))
    grad_h = empty(inputs.x_rows, (walk.batch, size), _accumulator(inputs.x_rows))
    common = *_given(grads[1], grads[0]), inputs.output, inputs.h0, walk.lengths, grad_sums, before
    if not walk_back_at_once(rnn_resident_grad_kernel, walk, inputs.weight_hh, *common, RELU=relu):
        for step in reversed(range(walk.steps)):
            inputs.carry_back(grad_sums, step + 1, grad_h)
            walk.run(rnn_grad_sums_kernel, (grad_h, *common), step, size, RELU=relu)
    over_time = _gradients_over_time(inputs, grad_sums, grad_sums, before, needed)
    grad_h0 = cast(inputs.carry_back(grad_sums, 0, grad_h), before.dtype) if needed[5] else None
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
    c, cells = _state(c0, x, walk.batch, size, gates.dtype), empty(x, (x_rows.shape[0], size), gates.dtype)
    output, hidden, h = empty(x, (*x.shape[:2], state_size)), None, None
    if weight_hr is None:
        h = walk_at_once(lstm_resident_kernel, walk, gates, weight_hh, bias_hh, h0, (c, cells), output)
    else:
        hidden, projected = empty(x, cells.shape), empty(x, (walk.batch, state_size), gates.dtype)
    if h is None:
        h, sums = _state(h0, x, walk.batch, state_size, x.dtype), empty(x, (walk.batch, 4 * size), gates.dtype)
        taken = gates, sums, c, cells, hidden, h, output, walk.lengths
        for step in range(walk.steps):
            product(h, weight_hh.T, sums, bias_hh)
            walk.run(lstm_step_kernel, taken, step, size, PROJECTED=weight_hr is not None)
            if weight_hr is not None:
                product(walk.at(hidden, step), weight_hr.T, projected)
                walk.run(lstm_project_kernel, (projected, h, output, walk.lengths), step, state_size)
    h0, c0 = _given(h0, c0)
    inputs = _Inputs(walk, x_rows, weight_ih, weight_hh, h0, output)
    return (output, h, cast(c, x.dtype)), (inputs, weight_hr, c0, gates, cells, hidden)


def lstm_backward(saved, grads, needs):
    inputs, weight_hr, c0, gates, cells, hidden = saved
    walk, state_size, size, needed = inputs.walk, inputs.weight_hh.shape[1], cells.shape[1], _of_all_inputs(needs)
    like, rows = inputs.x_rows, cells.shape[0]
    grad_gates, before = empty(like, gates.shape), empty(like, (rows, state_size))
    grad_h = empty(like, (walk.batch, state_size), cells.dtype)
    grad_c = _state(grads[2], like, walk.batch, size, cells.dtype)
    own, outputs = (gates, cells, c0, grad_c), (*_given(grads[1], grads[0]), inputs.output, inputs.h0, walk.lengths)
    grad_projected = grad_hidden = None
    if projected := weight_hr is not None:
        grad_projected, grad_hidden = empty(before), empty(grad_c)
    taken = *own, *outputs, grad_gates, before
    if projected or not walk_back_at_once(lstm_resident_grad_kernel, walk, inputs.weight_hh, *taken):
        state_taken = grad_h, *outputs, grad_projected, before
        taken = *own, grad_hidden, grad_h, *outputs, grad_gates, before
        for step in reversed(range(walk.steps)):
            inputs.carry_back(grad_gates, step + 1, grad_h)
            if projected:
                walk.run(lstm_grad_projected_kernel, state_taken, step, state_size)
                product(walk.at(grad_projected, step), weight_hr, grad_hidden)
            walk.run(lstm_grad_gates_kernel, taken, step, size, PROJECTED=projected)
    over_time = _gradients_over_time(inputs, grad_gates, grad_gates, before, needed)
    grad_weight_hr = _product_of_rows(grad_projected, hidden) if needed[7] and projected else None
    grad_h0 = cast(inputs.carry_back(grad_gates, 0, grad_h), before.dtype) if needed[5] else None
    return _for(needs, *over_time, grad_h0, cast(grad_c, before.dtype), grad_weight_hr, None)


def gru_forward(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, reverse=False):
    walk, x_rows, gates = _begin(x, weight_ih, bias_ih, lengths, reverse)
    size, bias_hh = weight_hh.shape[1], _bias(bias_hh)
    output, hidden_new = empty(x, (*x.shape[:2], size)), empty(x, (x_rows.shape[0], size), gates.dtype)
    h = walk_at_once(gru_resident_kernel, walk, gates, weight_hh, bias_hh, h0, (hidden_new,), output)
    if h is None:
        h, sums = _state(h0, x, walk.batch, size, x.dtype), empty(x, (walk.batch, 3 * size), gates.dtype)
        for step in range(walk.steps):
            product(h, weight_hh.T, sums, bias_hh)
            walk.run(gru_step_kernel, (gates, sums, hidden_new, h, output, walk.lengths), step, size)
    inputs = _Inputs(walk, x_rows, weight_ih, weight_hh, *_given(h0), output)
    return (output, h), (inputs, gates, hidden_new)


def gru_backward(saved, grads, needs):
    inputs, gates, hidden_new = saved
    walk, size, needed = inputs.walk, inputs.weight_hh.shape[1], _of_all_inputs(needs)
    like = inputs.x_rows
    grad_gates, grad_sums, before = empty(like, gates.shape), empty(like, gates.shape), empty(like, hidden_new.shape)
    grad_h, kept = (empty(like, (walk.batch, size), gates.dtype) for _ in range(2))
    own = gates, hidden_new, grad_gates, kept
    common = *_given(grads[1], grads[0]), inputs.output, inputs.h0, walk.lengths, grad_sums, before
    if not walk_back_at_once(gru_resident_grad_kernel, walk, inputs.weight_hh, *own, *common):
        for step in reversed(range(walk.steps)):
            inputs.carry_back(grad_sums, step + 1, grad_h)
            walk.run(gru_grad_gates_kernel, (*own, grad_h, *common), step, size)
    over_time = _gradients_over_time(inputs, grad_gates, grad_sums, before, needed)
    grad_h0 = None
    if needed[5]:
        grad_h0 = cast(add(inputs.carry_back(grad_sums, 0, grad_h), kept, out=grad_h), before.dtype)
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
