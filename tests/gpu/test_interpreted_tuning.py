"""Whatever `ranvier tune` may choose computes the same: candidates run by Triton's interpreter, against the reference.

TRITON_INTERPRET=1 pytest tests/gpu/test_interpreted_tuning.py
"""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from parity import DTYPES

from ranvier.kernels import memory, tuning
from ranvier.profiling import cases

interpreter.install()
# Small calls that ask every choice; sizes that no tile divides.
CALLS = {
    "matmul": ({"a": (70, 45), "b": (45, 131)}, {}),
    "dense": ({"x": (37, 20), "weight": (70, 20), "bias": (70,)}, {"activation": "gelu"}),
    "conv2d": (
        {"x": (2, 17, 9, 7), "weight": (35, 17, 3, 3), "bias": (35,)},
        {"stride": (2, 1), "padding": ((1, 1), (1, 1))},
    ),
    "conv1d": ({"x": (2, 6, 40), "weight": (12, 1, 3), "bias": (12,)}, {"groups": 6, "padding": ((2, 2),)}),
    "scaled_dot_product_attention": (
        {"query": (2, 2, 40, 20), "key": (2, 2, 70, 20), "value": (2, 2, 70, 20), "attn_mask": (40, 70)}, {}
    ),
    "log_softmax": ({"x": (9, 300)}, {}),
    "softmax": ({"x": (2, 70, 5)}, {"axis": 1}),
    "layer_norm": ({"x": (9, 300), "weight": (300,), "bias": (300,)}, {"normalized_shape": (300,), "eps": 1e-5}),
    "batch_norm": ({"x": (3, 5, 70), "weight": (5,), "bias": (5,)}, {"eps": 1e-5}),
    "local_response_norm": ({"x": (2, 9, 30)}, {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}),
    "var": ({"x": (9, 300)}, {"axis": (1,)}),
    "cumsum": ({"x": (9, 300)}, {"axis": 1}),
    "lstm": ({"x": (2, 3, 5), "weight_ih": (28, 5), "weight_hh": (28, 7), "bias_ih": (28,), "bias_hh": (28,)}, {}),
}  # fmt: skip


def draw(shapes, rng, dtype):
    return [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in shapes.values()]


def questions_of(operation, inputs, attributes):
    tuning.forget()
    output, saved = operation.forward(*inputs, **attributes, implementation="gpu")
    grads = tuple(y.copy() for y in output) if isinstance(output, tuple) else output.copy()
    operation.backward(saved, grads, (True,) * len(inputs), implementation="gpu")
    return tuning.asked()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_candidates_agree_with_the_reference(name, dtype, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    shapes, attributes = CALLS[name]
    (operation,), rng = cases.select([name]), np.random.default_rng(0)
    inputs = draw(shapes, rng, dtype)
    tried = 0
    for question in questions_of(operation, inputs, attributes):
        choice = tuning.Choice.registry[question.kernel]
        for configuration in choice.configurations(90, np.dtype(question.dtype), question.bucket)[1::3]:
            with tuning.trying(question, configuration):
                agree(operation, inputs, attributes, np.random.default_rng(1), dtype, implementation="gpu")
            tried += 1
    assert tried


def test_every_choice_is_tried():
    asked = set()
    for name, (shapes, attributes) in CALLS.items():
        (operation,) = cases.select([name])
        inputs = draw(shapes, np.random.default_rng(0), "float32")
        asked |= {question.kernel for question in questions_of(operation, inputs, attributes)}
    assert asked == set(tuning.Choice.registry)
