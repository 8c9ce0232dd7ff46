"""Recurrent layers against onnxruntime. ONNX's own cases have constant weights, which a wrong order of gates passes:
here all is random.
"""

import itertools

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra `judges` brings ONNX")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `judges` brings onnxruntime")

import onnx
import onnx_nodes
from onnx import TensorProto, helper

pytestmark = pytest.mark.judge

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "RNN_relu": 1}
# (time steps, batch, input size, hidden size)
SIZES = {"small": (5, 3, 4, 6), "one": (1, 1, 1, 1), "wide": (9, 2, 17, 33)}
# What a model has besides weights: biases, initial states, lengths.
EXTRAS = {"weights": "", "biases": "b", "states": "bs", "lengths": "bsl", "lengths_alone": "l"}


def model_and_inputs(kind, direction, size, extras, rng):
    """A model of one recurrent node, and all its inputs by name."""
    steps, batch, features, hidden = SIZES[size]
    ways, gates = (2 if direction == "bidirectional" else 1), GATES[kind]
    attributes = {"hidden_size": hidden, "direction": direction}
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    if kind == "RNN_relu":
        attributes["activations"] = ["Relu"] * ways

    def draw(*shape):
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(hidden))

    arrays = {
        "X": rng.standard_normal((steps, batch, features)).astype(np.float32),
        "W": draw(ways, gates * hidden, features),
        "R": draw(ways, gates * hidden, hidden),
        "B": draw(ways, 2 * gates * hidden) if "b" in extras else None,
        "sequence_lens": rng.integers(1, steps + 1, batch).astype(np.int32) if "l" in extras else None,
        "initial_h": draw(ways, batch, hidden) if "s" in extras else None,
    }
    if kind == "LSTM":
        arrays["initial_c"] = draw(ways, batch, hidden) if "s" in extras else None
    outputs = {"Y": 4, "Y_h": 3} | ({"Y_c": 3} if kind == "LSTM" else {})  # with their ranks
    names = [name if array is not None else "" for name, array in arrays.items()]
    arrays = {name: array for name, array in arrays.items() if array is not None}
    graph = helper.make_graph(
        [helper.make_node(kind.partition("_")[0], names, list(outputs), **attributes)],
        "recurrent",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), arrays


CASES = list(itertools.product(GATES, ("forward", "reverse", "bidirectional"), SIZES, EXTRAS))


@pytest.mark.parametrize(("kind", "direction", "size", "extras"), CASES)
def test_recurrent(kind, direction, size, extras):
    rng = np.random.default_rng(CASES.index((kind, direction, size, extras)))
    model, arrays = model_and_inputs(kind, direction, size, EXTRAS[extras], rng)
    onnx.checker.check_model(model)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, arrays
    )
    outputs = onnx_nodes.run_model(model, list(arrays.values()))
    assert len(outputs) == len(expected)
    for mine, theirs in zip(outputs, expected):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
