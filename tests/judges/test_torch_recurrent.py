"""Recurrent layers, cells and functions against PyTorch, from its own weights: outputs, final states, all gradients."""

import itertools

import numpy as np
import pytest

import ranvier as rv
from ranvier.layers import functional as F

torch = pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
pytestmark = pytest.mark.judge

KINDS = {
    "rnn_tanh": (torch.nn.RNN, rv.RNN, {}),
    "rnn_relu": (torch.nn.RNN, rv.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, rv.LSTM, {}),
    "lstm_projected": (torch.nn.LSTM, rv.LSTM, {"proj_size": 4}),
    "gru": (torch.nn.GRU, rv.GRU, {}),
}
CELLS = {
    "rnn_tanh": (torch.nn.RNNCell, rv.RNNCell, {}),
    "rnn_relu": (torch.nn.RNNCell, rv.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTMCell, rv.LSTMCell, {}),
    "gru": (torch.nn.GRUCell, rv.GRUCell, {}),
}
TOLERANCE = {"float64": {"rtol": 1e-9, "atol": 1e-11}, "float32": {"rtol": 1e-4, "atol": 2e-5}}
STEPS, BATCH, INPUT, HIDDEN = 7, 5, 3, 6
LENGTHS = [3, 7, 1, 7, 4]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def pair(theirs, ours, dtype, *sizes, **arguments):
    """The same layer twice, ours with PyTorch's weights."""
    torch.manual_seed(3)
    their_layer = theirs(*sizes, dtype=getattr(torch, dtype), **arguments)
    our_layer = ours(*sizes, dtype=np.dtype(dtype), **arguments)
    our_layer.load_state_dict({name: value.numpy() for name, value in their_layer.state_dict().items()})
    return their_layer, our_layer


def flat(result):
    """(output, state) or (h, c) or h as a flat list of tensors."""
    return [tensor for part in result for tensor in flat(part)] if isinstance(result, tuple) else [result]


def leaves(arrays):
    """Each array as a leaf of both libraries; None stays None."""
    return [None if a is None else torch.tensor(a, requires_grad=True) for a in arrays], [
        None if a is None else rv.Tensor(a.copy(), requires_grad=True) for a in arrays
    ]


def as_state(tensors):
    return None if tensors[0] is None else tensors[0] if len(tensors) == 1 else tuple(tensors)


def assert_same(their_results, our_results, their_leaves, our_leaves, their_layer, our_layer, rng, dtype):
    """Results, and what each result alone hands back to every leaf and parameter."""
    assert len(their_results) == len(our_results)
    for theirs, ours in zip(their_results, our_results):
        np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), **TOLERANCE[dtype])
    for theirs, ours in zip(their_results, our_results):
        grad = rng.standard_normal(ours.shape).astype(dtype)
        theirs.backward(torch.from_numpy(grad), retain_graph=True)
        ours.backward(grad, retain_graph=True)
    for theirs, ours in zip(their_leaves, our_leaves):
        if ours is not None:
            np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), **TOLERANCE[dtype])
    their_parameters = dict(their_layer.named_parameters())
    our_parameters = dict(our_layer.named_parameters())
    assert list(our_parameters) == list(their_parameters)
    for name, parameter in our_parameters.items():
        np.testing.assert_allclose(
            parameter.grad.numpy(), their_parameters[name].grad.numpy(), err_msg=name, **TOLERANCE[dtype]
        )


def run_torch(layer, x, state, lengths, batch_first, steps):
    if lengths is None:
        return layer(x, state)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=False)
    output, state = layer(packed, state)
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first, total_length=steps)
    return output, state


def compare(kind, rng, dtype, *, layers, bidirectional, batch_first, lengths, states, bias, steps=STEPS, batch=BATCH):
    theirs, ours, own = KINDS[kind]
    options = {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    their_layer, our_layer = pair(theirs, ours, dtype, INPUT, HIDDEN, **options, **own)
    runs, out = layers * (1 + bidirectional), own.get("proj_size", HIDDEN)
    shapes = [(batch, steps, INPUT) if batch_first else (steps, batch, INPUT), (runs, batch, out)]
    shapes += [(runs, batch, HIDDEN)] if kind.startswith("lstm") else []
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    arrays = arrays if states else [arrays[0], *(None for _ in arrays[1:])]
    their_leaves, our_leaves = leaves(arrays)
    their_result = run_torch(their_layer, their_leaves[0], as_state(their_leaves[1:]), lengths, batch_first, steps)
    our_result = our_layer(our_leaves[0], as_state(our_leaves[1:]), lengths)
    assert_same(flat(their_result), flat(our_result), their_leaves, our_leaves, their_layer, our_layer, rng, dtype)


@pytest.mark.parametrize(
    ("layers", "bidirectional", "batch_first", "lengths", "states", "bias"),
    list(itertools.product((1, 2), (False, True), (False, True), (None, LENGTHS), (False, True), (True, False))),
)
@pytest.mark.parametrize("kind", KINDS)
def test_layer_is_torchs(kind, layers, bidirectional, batch_first, lengths, states, bias, rng):
    options = {"layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    compare(kind, rng, "float64", **options, lengths=lengths, states=states, bias=bias)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_is_torchs_in_float32(kind, rng):
    options = {"layers": 3, "bidirectional": True, "batch_first": True, "states": True, "bias": True}
    compare(kind, rng, "float32", **options, lengths=[9, 1, 12, 4], steps=12, batch=4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_lengths_below_the_padded_length(kind, rng):
    options = {"layers": 2, "bidirectional": True, "batch_first": False, "states": False, "bias": True}
    compare(kind, rng, "float64", **options, lengths=[2, 4, 3, 1, 4])


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_and_one_sequence(kind, rng):
    options = {"layers": 2, "bidirectional": True, "batch_first": False, "states": True, "bias": True}
    compare(kind, rng, "float64", **options, lengths=None, steps=1, batch=1)


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_sequence_needs_no_batch(kind, batch_first, states, rng):
    theirs, ours, own = KINDS[kind]
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    their_layer, our_layer = pair(theirs, ours, "float64", INPUT, HIDDEN, **options, **own)
    shapes = [(STEPS, INPUT), (4, own.get("proj_size", HIDDEN)), *([(4, HIDDEN)] if kind.startswith("lstm") else [])]
    arrays = [rng.standard_normal(shape) if states or shape is shapes[0] else None for shape in shapes]
    their_leaves, our_leaves = leaves(arrays)
    their_result = their_layer(their_leaves[0], as_state(their_leaves[1:]))
    our_result = our_layer(our_leaves[0], as_state(our_leaves[1:]))
    results = flat(their_result), flat(our_result)
    assert_same(*results, their_leaves, our_leaves, their_layer, our_layer, rng, "float64")


@pytest.mark.parametrize(("batch", "states", "bias"), [(5, True, True), (5, False, False), (None, True, True)])
@pytest.mark.parametrize("kind", CELLS)
def test_cell_is_torchs(kind, batch, states, bias, rng):
    theirs, ours, own = CELLS[kind]
    their_layer, our_layer = pair(theirs, ours, "float64", INPUT, HIDDEN, bias=bias, **own)
    lead = () if batch is None else (batch,)
    shapes = [(*lead, INPUT), *[(*lead, HIDDEN)] * (2 if kind == "lstm" else 1)]
    arrays = [rng.standard_normal(shape) if states or i == 0 else None for i, shape in enumerate(shapes)]
    their_leaves, our_leaves = leaves(arrays)
    their_result = their_layer(their_leaves[0], as_state(their_leaves[1:]))
    our_result = our_layer(our_leaves[0], as_state(our_leaves[1:]))
    results = flat(their_result), flat(our_result)
    assert_same(*results, their_leaves, our_leaves, their_layer, our_layer, rng, "float64")


@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_function_is_torchs(name, rng):
    """The functional form takes torch's arguments in torch's order."""
    gates = {"gru": 3, "lstm": 4}.get(name, 1)
    shapes = [(gates * HIDDEN, INPUT), (gates * HIDDEN, HIDDEN), (gates * HIDDEN,), (gates * HIDDEN,)]
    params = [rng.standard_normal(shape) for shape in shapes]
    x, h, c = (rng.standard_normal(shape) for shape in ((STEPS, BATCH, INPUT), *[(1, BATCH, HIDDEN)] * 2))
    options = True, 1, 0.0, False, False, False

    def call(function, wrap):
        hx = (wrap(h), wrap(c)) if name == "lstm" else wrap(h)
        return function(wrap(x), hx, [wrap(p) for p in params], *options)

    for theirs, ours in zip(call(getattr(torch, name), torch.from_numpy), call(getattr(F, name), rv.Tensor)):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), **TOLERANCE["float64"])
