"""Recurrent layers over whole sequences, stacked and in both directions, and single steps.

PyTorch has these as `torch.lstm`, `torch.gru`, `torch.rnn_tanh`, ... with the same arguments; `lengths` is added, in
place of packed sequences.
"""

import numpy as np

from ...kernels import device as devices
from ...kernels import recurrent as kernels
from ...kernels.check import check_number, check_rank, check_shape, refuse_value
from ..tensor import Tensor, apply
from .dropout import dropout as drop
from .shape import cat, squeeze, stack, transpose, unbind, unsqueeze

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn_relu", "rnn_relu_cell", "rnn_tanh", "rnn_tanh_cell"]


def lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths=None):
    """Long short-term memory, gates in the order i, f, g, o.

    Args:
        input: [T, N, input_size], or [N, T, input_size] where batch_first; [T, input_size] for a single sequence.
        hx: (h_0, c_0), each [num_layers * directions, N, size] (without N for a single sequence), or None for zeros.
        params: for each layer, for each direction: weight_ih, weight_hh, bias_ih and bias_hh where has_biases, and
            weight_hr where there is a projection, in one flat sequence. Layers after the first take the outputs of both
            directions.
        dropout: probability with which outputs are dropped between layers, where `train`.
        lengths: integers [N] (array, tensor or list), the time steps of each sequence, in any order; None for all T.

    Returns:
        output (laid out as input, with directions * size features, zero past a sequence's end), h_n and c_n (laid out
        as hx, each sequence's state at its own end).

    Raises:
        ValueError, TypeError: shapes or types that do not fit, lengths outside 1..T, dropout outside [0, 1].
    """
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first
    return _recurrent("lstm", kernels.lstm, input, _pair("lstm", hx), params, options, lengths)


def gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths=None):
    """Gated recurrent units, gates in the order r, z, n; arguments as for `lstm`, with hx = h_0 or None.

    Returns:
        output and h_n.
    """
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first
    return _recurrent("gru", kernels.gru, input, (hx,), params, options, lengths)


def rnn_tanh(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths=None):
    """A plain recurrent layer with tanh; arguments as for `lstm`, with hx = h_0 or None.

    Returns:
        output and h_n.
    """
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first
    return _recurrent("rnn_tanh", kernels.rnn, input, (hx,), params, options, lengths, nonlinearity="tanh")


def rnn_relu(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths=None):
    """A plain recurrent layer with ReLU; arguments as for `lstm`, with hx = h_0 or None.

    Returns:
        output and h_n.
    """
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first
    return _recurrent("rnn_relu", kernels.rnn, input, (hx,), params, options, lengths, nonlinearity="relu")


def lstm_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step of long short-term memory.

    Args:
        input: [N, input_size], or [input_size].
        hx: (h, c), each [N, hidden_size], or [hidden_size]; None for zeros.
        w_ih, w_hh: [4 * hidden_size, input_size] and [4 * hidden_size, hidden_size]; b_ih, b_hh: [4 * hidden_size].

    Returns:
        The next (h, c).
    """
    return _step("lstm_cell", kernels.lstm_cell, input, _pair("lstm_cell", hx), (w_ih, w_hh, b_ih, b_hh))


def gru_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step of gated recurrent units; arguments as for `lstm_cell` with 3 gates and hx = h or None. Gives h'."""
    return _step("gru_cell", kernels.gru_cell, input, (hx,), (w_ih, w_hh, b_ih, b_hh))


def rnn_tanh_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step of rnn_tanh; arguments as for `lstm_cell` with weights of 1 gate and hx = h or None. Gives h'."""
    return _step("rnn_tanh_cell", kernels.rnn_cell, input, (hx,), (w_ih, w_hh, b_ih, b_hh), nonlinearity="tanh")


def rnn_relu_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step of rnn_relu; arguments as for `lstm_cell` with weights of 1 gate and hx = h or None. Gives h'."""
    return _step("rnn_relu_cell", kernels.rnn_cell, input, (hx,), (w_ih, w_hh, b_ih, b_hh), nonlinearity="relu")


def _pair(name, hx):
    """The two states of an LSTM."""
    if hx is None:
        return None, None
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise TypeError(f"{name}: expected hx as a pair (h, c), got {type(hx).__name__}")
    return tuple(hx)


def _recurrent(name, operation, input, states, params, options, lengths, **attributes):
    """Runs `operation` for each layer and direction; `states` are h_0 or (h_0, c_0), each of them or None."""
    has_biases, num_layers, dropout, train, bidirectional, batch_first = options
    check_number(name, "dropout", dropout, 0, 1)
    check_rank(name, "input", input, (2, 3), "[N, T, features]" if batch_first else "[T, N, features]")
    directions = 2 if bidirectional else 1
    weights = _weights_of_runs(name, params, has_biases, num_layers * directions)
    single = input.ndim == 2
    if single and lengths is not None:
        refuse_value(name, "lengths", "as None for a single sequence", lengths)
    x = unsqueeze(input, 1) if single else transpose(input, 0, 1) if batch_first else input
    states = [_states_of_runs(name, "hc"[index], state, len(weights), single) for index, state in enumerate(states)]
    lengths = _lengths(lengths)
    finals = []
    for layer in range(num_layers):
        if layer and dropout and train:
            x = drop(x, dropout)
        outputs = []
        for direction in range(directions):
            run = layer * directions + direction
            w_ih, w_hh, b_ih, b_hh, *projection = weights[run]
            start = [None if state is None else state[run] for state in states]
            if len(states) == 2:
                start.append(projection[0] if projection else None)
            output, *final = apply(
                operation, x, w_ih, w_hh, b_ih, b_hh, *start, lengths, reverse=direction == 1, **attributes
            )
            outputs.append(output)
            finals.append(final)
        x = cat(outputs, -1) if bidirectional else output
    final_states = [stack(kind, 0) for kind in zip(*finals)]
    if single:
        return squeeze(x, 1), *(squeeze(state, 1) for state in final_states)
    return transpose(x, 0, 1) if batch_first else x, *final_states


def _weights_of_runs(name, params, has_biases, runs):
    """The flat sequence of parameters as (weight_ih, weight_hh, bias_ih, bias_hh[, weight_hr]) a run."""
    params = list(params)
    least = 4 if has_biases else 2
    count, remainder = divmod(len(params), runs) if runs > 0 else (0, 0)
    if remainder or count not in (least, least + 1):
        refuse_value(name, "params", f"as {least} or {least + 1} tensors for each of {runs} runs", f"{len(params)}")
    groups = [params[start : start + count] for start in range(0, len(params), count)]
    return groups if has_biases else [[*group[:2], None, None, *group[2:]] for group in groups]


def _states_of_runs(name, letter, state, runs, single):
    """[runs, N, size] as one [N, size] a run."""
    if state is None:
        return None
    layout = "[num_layers * directions, size]" if single else "[num_layers * directions, N, size]"
    check_rank(name, f"{letter}_0", state, 2 if single else 3, layout)
    check_shape(name, f"{letter}_0", state, (runs, *state.shape[1:]), layout)
    return unbind(unsqueeze(state, 1) if single else state, 0)


def _lengths(lengths):
    if lengths is None:
        return None
    array = lengths.array if isinstance(lengths, Tensor) else lengths
    array = np.asarray(array) if isinstance(array, (list, tuple)) else array
    return devices.cast(array, np.dtype(np.int64)) if array.dtype.kind in "iu" else array


def _step(name, operation, input, states, weights, **attributes):
    check_rank(name, "input", input, (1, 2), "[N, input_size] or [input_size]")
    if input.ndim == 2:
        return apply(operation, input, *weights, *states, **attributes)
    for state in states:
        if state is not None:
            check_rank(name, "hx", state, 1, "[hidden_size]")
    states = [None if state is None else unsqueeze(state, 0) for state in states]
    result = apply(operation, unsqueeze(input, 0), *weights, *states, **attributes)
    return tuple(squeeze(state, 0) for state in result) if isinstance(result, tuple) else squeeze(result, 0)
