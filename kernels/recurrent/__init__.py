"""Recurrent layers: one layer and one direction over whole sequences, and their single steps (cells).

    rnn:   h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu
    lstm:  i, f, o = sigmoid(...), g = tanh(...) of the parts i, f, g, o of W_ih x + b_ih + W_hh h + b_hh
           c' = f c + i g        h' = o tanh(c'), or W_hr (o tanh(c')) with a projection
    gru:   r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
           n = tanh(W_in x + b_in + r (W_hn h + b_hn))       h' = (1 - z) n + z h        gate order r, z, n

Sequences are laid out [T, N, ...] and start from h0 (and c0), or from zero. `lengths` [N] says how many time steps each
sequence has, in any order: outputs past a sequence's end are zero, final states are those at its own end, and what
stands past the end is never read. With `reverse`, each sequence is read from its own end to its beginning, and the
output of a time step stands where its input stands.

Sources: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, 1997; F. Gers et al., Learning to Forget, 2000;
H. Sak et al., Long Short-Term Memory Recurrent Neural Network Architectures, 2014 (projection); K. Cho et al., Learning
Phrase Representations using RNN Encoder-Decoder, 2014, with the reset gate behind the product, as cuDNN has it.

`reference.py` is the definition, `cpu.py` runs it on NumPy arrays; its loops over time are in `cpu_time.py` (which says
how they walk), `cpu_lstm.py` and `cpu_gru.py`, the small matrix products inside them in `cpu_product.py`. A few
sequences have loops of their own in `cpu_few.py`; a single step of a batch is in `cpu_step.py`.

`gpu.py` runs it on CuPy arrays: a whole sequence in one launch each way (`gpu_resident.py`), or a launch a step
(`gpu_step_forward.py`, `gpu_step_backward.py`); what both share is in `gpu_time.py`.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import (
    check_array,
    check_choice,
    check_float,
    check_index_range,
    check_rank,
    check_same_dtype,
    check_shape,
    refuse_type,
    refuse_value,
)
from ..operation import Cost, Operation, Refused, Sample, Uniform, Values

NONLINEARITIES = ("tanh", "relu")


def _check_weights(name, gates, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr=None):
    """Shapes and types of what is common to all; returns the sizes of the state and of the gates."""
    tensors = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    check_float(name, "x", x)
    for argument in ("weight_ih", "weight_hh"):
        if tensors[argument] is None:
            refuse_type(name, argument, "as an array", None)
    for argument, value in (tensors | {"weight_hr": weight_hr}).items():
        check_same_dtype(name, "x", x, argument, value)
    rows = "hidden_size" if gates == 1 else f"{gates} * hidden_size"
    check_rank(name, "weight_hh", weight_hh, 2, f"[{rows}, state_size]")
    size, remainder = divmod(weight_hh.shape[0], gates)
    if remainder or size == 0:
        refuse_value(
            name, "weight_hh", f"as [{rows}, state_size], hidden_size of 1 or more", f"shape {weight_hh.shape}"
        )
    if weight_hr is None:
        check_shape(name, "weight_hh", weight_hh, (gates * size, size), f"[{rows}, hidden_size]")
    else:
        state_size = weight_hh.shape[1]
        check_shape(name, "weight_hr", weight_hr, (state_size, size), "[proj_size, hidden_size]")
        if not 0 < state_size < size:
            refuse_value(name, "proj_size (weight_hr's rows)", f"in 1..hidden_size - 1 = {size - 1}", state_size)
    check_rank(name, "weight_ih", weight_ih, 2, f"[{rows}, input_size]")
    check_shape(name, "weight_ih", weight_ih, (gates * size, weight_ih.shape[1]), f"[{rows}, input_size]")
    if x.shape[-1] != weight_ih.shape[1]:
        refuse_value(name, "x", f"with {weight_ih.shape[1]} features (weight_ih is {weight_ih.shape})", x.shape)
    for argument in ("bias_ih", "bias_hh"):
        if tensors[argument] is not None:
            check_shape(name, argument, tensors[argument], (gates * size,), f"[{rows}]")
    return weight_hh.shape[1], size


def _check_state(name, argument, x, state, size, layout):
    check_same_dtype(name, "x", x, argument, state)
    if state is not None:
        check_shape(name, argument, state, (x.shape[-2], size), layout)


def _check_sequences(name, x, lengths):
    check_float(name, "x", x)
    check_rank(name, "x", x, 3, "[T, N, input_size]")
    if x.shape[0] == 0:
        refuse_value(name, "x", "with one time step or more", f"shape {x.shape}")
    if lengths is not None:
        check_array(name, "lengths", lengths)
        if lengths.dtype != np.int64:
            refuse_type(name, "lengths", "of type int64", lengths.dtype)
        check_shape(name, "lengths", lengths, (x.shape[1],), "[N], one length a sequence")
        check_index_range(name, "lengths", lengths, 1, x.shape[0] + 1)


def _check_rnn(
    x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, nonlinearity="tanh", reverse=False
):
    """x: [T, N, I], weight_ih: [H, I], weight_hh: [H, H], biases: [H] or None, h0: [N, H] or None for zeros, all of one
    type; lengths: int64 [N] in 1..T, or None for T. Gives output [T, N, H] and h_n [N, H]."""
    _check_sequences("rnn", x, lengths)
    check_choice("rnn", "nonlinearity", nonlinearity, NONLINEARITIES)
    size, _ = _check_weights("rnn", 1, x, weight_ih, weight_hh, bias_ih, bias_hh)
    _check_state("rnn", "h0", x, h0, size, "[N, hidden_size]")


def _check_lstm(
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
    """x: [T, N, I], weight_ih: [4H, I], weight_hh: [4H, P], biases: [4H] or None, h0: [N, P] and c0: [N, H], or None
    for zeros, all of one type; lengths: int64 [N] in 1..T, or None for T. weight_hr: [P, H], P < H, projects the state;
    without it P = H. Gives output [T, N, P], h_n [N, P] and c_n [N, H]."""
    _check_sequences("lstm", x, lengths)
    state_size, size = _check_weights("lstm", 4, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    _check_state("lstm", "h0", x, h0, state_size, "[N, proj_size or hidden_size]")
    _check_state("lstm", "c0", x, c0, size, "[N, hidden_size]")


def _check_gru(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, *, reverse=False):
    """x: [T, N, I], weight_ih: [3H, I], weight_hh: [3H, H], biases: [3H] or None, h0: [N, H] or None for zeros, all of
    one type; lengths: int64 [N] in 1..T, or None for T. Gives output [T, N, H] and h_n [N, H]."""
    _check_sequences("gru", x, lengths)
    size, _ = _check_weights("gru", 3, x, weight_ih, weight_hh, bias_ih, bias_hh)
    _check_state("gru", "h0", x, h0, size, "[N, hidden_size]")


def _check_step(name, x):
    check_float(name, "x", x)
    check_rank(name, "x", x, 2, "[N, input_size]")


def _check_rnn_cell(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, *, nonlinearity="tanh"):
    """One step of rnn: x: [N, I], the rest as there. Gives h' [N, H]."""
    _check_step("rnn_cell", x)
    check_choice("rnn_cell", "nonlinearity", nonlinearity, NONLINEARITIES)
    size, _ = _check_weights("rnn_cell", 1, x, weight_ih, weight_hh, bias_ih, bias_hh)
    _check_state("rnn_cell", "h0", x, h0, size, "[N, hidden_size]")


def _check_lstm_cell(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, c0=None):
    """One step of lstm without projection: x: [N, I], the rest as there. Gives h' and c' [N, H]."""
    _check_step("lstm_cell", x)
    size, _ = _check_weights("lstm_cell", 4, x, weight_ih, weight_hh, bias_ih, bias_hh)
    _check_state("lstm_cell", "h0", x, h0, size, "[N, hidden_size]")
    _check_state("lstm_cell", "c0", x, c0, size, "[N, hidden_size]")


def _check_gru_cell(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None):
    """One step of gru: x: [N, I], the rest as there. Gives h' [N, H]."""
    _check_step("gru_cell", x)
    size, _ = _check_weights("gru_cell", 3, x, weight_ih, weight_hh, bias_ih, bias_hh)
    _check_state("gru_cell", "h0", x, h0, size, "[N, hidden_size]")


def _cost(x, weight_ih, weight_hh, *others, state_sizes, weight_hr=None, lengths=None):
    """The products of every time step that exists; inputs once, output and final states (of `state_sizes`) once."""
    steps, batch = (1, *x.shape[:1]) if x.ndim == 2 else x.shape[:2]
    present = steps * batch if lengths is None else int(lengths.sum())
    weights = weight_ih.size + weight_hh.size + (0 if weight_hr is None else weight_hr.size)
    written = (steps * batch * weight_hh.shape[1] if x.ndim == 3 else 0) + batch * sum(state_sizes)
    read = x.size + weights + sum(other.size for other in others if other is not None)
    return Cost(flops=2 * present * weights, bytes=(read + written) * x.dtype.itemsize)


def _cost_simple(x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, lengths=None, **_):
    return _cost(x, weight_ih, weight_hh, bias_ih, bias_hh, h0, state_sizes=weight_hh.shape[1:], lengths=lengths)


def _cost_lstm(
    x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, c0=None, weight_hr=None, lengths=None, **_
):
    sizes = (weight_hh.shape[1], weight_hh.shape[0] // 4)
    others = (bias_ih, bias_hh, h0, c0)
    return _cost(x, weight_ih, weight_hh, *others, state_sizes=sizes, weight_hr=weight_hr, lengths=lengths)


def _longest_sum(x, weight_ih, *others, **_):
    """A gradient of a weight sums over all time steps, and an error in the first goes through all others."""
    return max(x.size // max(x.shape[-1], 1), *weight_ih.shape)


def _inputs(name, lead, input_size, hidden, bias, state, proj_size=0):
    """Builders of everything but lengths. Weights are as small as initial ones, so that long products stay tame."""
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[name.partition("_")[0]]
    bound = 1 / math.sqrt(hidden)
    out = proj_size or hidden

    def weight(*shape):
        return Uniform(shape, -bound, bound)

    inputs = {
        "x": (*lead, input_size),
        "weight_ih": weight(gates * hidden, input_size),
        "weight_hh": weight(gates * hidden, out),
        "bias_ih": weight(gates * hidden) if bias else None,
        "bias_hh": weight(gates * hidden) if bias else None,
        "h0": (lead[-1], out) if state else None,
    }
    if gates == 4:
        inputs["c0"] = (lead[-1], hidden) if state else None
    if name == "lstm":
        inputs["weight_hr"] = weight(proj_size, hidden) if proj_size else None
    return inputs


def _sample(
    name,
    title,
    lead,
    input_size,
    hidden,
    *,
    bias=True,
    state=True,
    lengths=None,
    proj_size=0,
    large=False,
    **attributes,
):
    inputs = _inputs(name, lead, input_size, hidden, bias, state, proj_size)
    if len(lead) == 2:
        inputs["lengths"] = None if lengths is None else Values(np.array(lengths, np.int64))
    return Sample(title, inputs, attributes, large)


def _vary(name, **choices):
    def vary(pick):
        steps, batch, hidden = pick(1, 9), pick(0, 11), pick(1, 20)
        proj_size = pick(0, hidden - 1) if name == "lstm" and pick(0, 1) else 0
        lengths = [pick(1, steps) for _ in range(batch)] if pick(0, 1) else None
        attributes = {attribute: pick.of(values) for attribute, values in choices.items()}
        flags = {"bias": pick.of((True, False)), "state": pick.of((True, False)), "reverse": pick.of((True, False))}
        size = pick(1, 10)
        return _sample(
            name, "varied", (steps, batch), size, hidden, lengths=lengths, proj_size=proj_size, **flags, **attributes
        )

    return vary


def _vary_cell(name, **choices):
    def vary(pick):
        flags = {"bias": pick.of((True, False)), "state": pick.of((True, False))}
        attributes = {attribute: pick.of(values) for attribute, values in choices.items()}
        return _sample(name, "varied", (pick(0, 20),), pick(1, 20), pick(1, 40), **flags, **attributes)

    return vary


def _samples(name, *own):
    """What every kind of layer has to get through."""
    return [
        _sample(name, "characters", (9, 5), 6, 16),
        _sample(name, "odd_sizes", (7, 13), 5, 19, bias=False),
        _sample(name, "wide", (3, 17), 9, 67, state=False),
        _sample(name, "lengths", (8, 6), 4, 11, lengths=[3, 8, 1, 8, 5, 2]),
        _sample(name, "lengths_below_t", (6, 3), 4, 5, lengths=[3, 1, 4], state=False),
        _sample(name, "reverse", (6, 5), 4, 8, reverse=True),
        _sample(name, "reverse_lengths", (7, 5), 3, 9, lengths=[7, 2, 4, 1, 6], reverse=True),
        _sample(name, "one_step", (1, 4), 3, 5),
        _sample(name, "one_of_each", (1, 1), 1, 1),
        _sample(name, "no_sequences", (4, 0), 3, 5),
        *own,
        _sample(name, "speech", (100, 64), 256, 256, state=False, large=True),
        _sample(name, "language", (50, 32), 128, 128, state=False, large=True),
        _sample(name, "generation", (64, 1), 512, 512, large=True),
    ]


def _cell_samples(name, *own):
    return [
        _sample(name, "batch", (5,), 6, 16),
        _sample(name, "odd_sizes", (13,), 5, 19, bias=False),
        _sample(name, "from_zero", (9,), 7, 3, state=False),
        _sample(name, "one_of_each", (1,), 1, 1),
        _sample(name, "no_sequences", (0,), 3, 5),
        *own,
        _sample(name, "decoder", (64,), 512, 512, large=True),
    ]


def _refused(name):
    """Calls that every kind of layer and cell refuses: T, N, I, H = 4, 2, 3, 5."""
    cell = name.endswith("_cell")
    good = _inputs(name, (2,) if cell else (4, 2), 3, 5, True, True)
    rng = np.random.default_rng(0)
    zeros = {key: np.zeros(v) if isinstance(v, tuple) else v and v.build(rng, np.float64) for key, v in good.items()}
    rows = zeros["weight_hh"].shape[0]

    def case(title, error, message, **changed):
        attributes = {key: changed.pop(key) for key in list(changed) if key in ("nonlinearity",)}
        return Refused(title, zeros | changed, error, message, attributes)

    cases = [
        case("integers", TypeError, "expected x of type", x=np.zeros(zeros["x"].shape, int)),
        case("mixed", TypeError, "weight_hh of x's type float64", weight_hh=np.zeros((rows, 5), "f4")),
        case("mixed_state", TypeError, "h0 of x's type float64", h0=np.zeros((2, 5), "f4")),
        case("no_weight", TypeError, "expected weight_ih as an array", weight_ih=None),
        case("rank", ValueError, r"x as \[(T, )?N, input_size\]", x=np.zeros(3)),
        case("features", ValueError, "x with 3 features", x=np.zeros((*zeros["x"].shape[:-1], 4))),
        case("input_rows", ValueError, rf"weight_ih of shape \({rows}, 3\)", weight_ih=np.zeros((rows + 1, 3))),
        case("not_square", ValueError, rf"weight_hh of shape \({rows}, 5\)", weight_hh=np.zeros((rows, 4))),
        case("no_units", ValueError, "hidden_size of 1 or more", weight_hh=np.zeros((0, 0))),
        case("bias", ValueError, rf"bias_hh of shape \({rows},\)", bias_hh=np.zeros(rows + 1)),
        case("state", ValueError, r"h0 of shape \(2, 5\)", h0=np.zeros((3, 5))),
    ]
    if name.startswith("rnn"):
        cases.append(case("nonlinearity", ValueError, "nonlinearity as one of 'tanh', 'relu'", nonlinearity="gelu"))
    else:
        cases.append(case("gates", ValueError, "weight_hh as", weight_hh=np.zeros((rows + 1, 5))))
    if name.startswith("lstm"):
        cases.append(case("cell_state", ValueError, r"c0 of shape \(2, 5\)", c0=np.zeros((2, 4))))
    if not cell:
        cases += [
            case("no_steps", ValueError, "x with one time step or more", x=np.zeros((0, 2, 3))),
            case("lengths_type", TypeError, "lengths of type int64", lengths=np.ones(2)),
            case("lengths_count", ValueError, r"lengths of shape \(2,\)", lengths=np.ones(3, np.int64)),
            case("length_zero", ValueError, r"lengths in \[1, 5\), got 0", lengths=np.array([4, 0])),
            case("length_past_end", ValueError, r"lengths in \[1, 5\), got 5", lengths=np.array([5, 1])),
        ]
    if name == "lstm":
        wide = {"weight_hh": np.zeros((20, 5)), "weight_hr": np.zeros((5, 5))}
        cases += [
            case("proj_size", ValueError, r"proj_size .* in 1\.\.hidden_size - 1 = 4, got 5", **wide),
            case("projection", ValueError, r"weight_hr of shape \(5, 5\)", weight_hr=np.zeros((4, 5))),
        ]
    return cases


rnn = Operation(
    "rnn",
    __name__,
    check=_check_rnn,
    cost=_cost_simple,
    reduction_length=_longest_sum,
    vary=_vary("rnn", nonlinearity=NONLINEARITIES),
    samples=_samples("rnn", _sample("rnn", "relu", (6, 5), 4, 8, lengths=[2, 6, 4, 5, 3], nonlinearity="relu")),
    refused=_refused("rnn"),
)

lstm = Operation(
    "lstm",
    __name__,
    check=_check_lstm,
    cost=_cost_lstm,
    reduction_length=_longest_sum,
    vary=_vary("lstm"),
    samples=_samples(
        "lstm",
        _sample("lstm", "projection", (6, 5), 4, 18, proj_size=7),
        _sample("lstm", "projection_lengths", (6, 4), 3, 9, proj_size=1, lengths=[2, 6, 1, 4], reverse=True),
        _sample("lstm", "projection_large", (50, 32), 128, 512, proj_size=128, large=True),
    ),
    refused=_refused("lstm"),
)

gru = Operation(
    "gru",
    __name__,
    check=_check_gru,
    cost=_cost_simple,
    reduction_length=_longest_sum,
    vary=_vary("gru"),
    samples=_samples("gru"),
    refused=_refused("gru"),
)

rnn_cell = Operation(
    "rnn_cell",
    __name__,
    check=_check_rnn_cell,
    by_form=True,
    cost=_cost_simple,
    reduction_length=_longest_sum,
    vary=_vary_cell("rnn_cell", nonlinearity=NONLINEARITIES),
    samples=_cell_samples("rnn_cell", _sample("rnn_cell", "relu", (6,), 4, 8, nonlinearity="relu")),
    refused=_refused("rnn_cell"),
)

lstm_cell = Operation(
    "lstm_cell",
    __name__,
    check=_check_lstm_cell,
    by_form=True,
    cost=_cost_lstm,
    reduction_length=_longest_sum,
    vary=_vary_cell("lstm_cell"),
    samples=_cell_samples("lstm_cell"),
    refused=_refused("lstm_cell"),
)

gru_cell = Operation(
    "gru_cell",
    __name__,
    check=_check_gru_cell,
    by_form=True,
    cost=_cost_simple,
    reduction_length=_longest_sum,
    vary=_vary_cell("gru_cell"),
    samples=_cell_samples("gru_cell"),
    refused=_refused("gru_cell"),
)
