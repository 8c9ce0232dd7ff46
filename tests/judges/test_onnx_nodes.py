"""ONNX's backend tests, which every runtime of ONNX has to pass: single operators, their expansions into simpler ones,
and models that PyTorch exported. What is left out stands in onnx_nodes.py with the reason, and is counted here.
"""

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra `judges` brings ONNX")

import onnx_nodes

pytestmark = pytest.mark.judge

ALL = [(case, onnx_nodes.model_of(case)) for case in onnx_nodes.cases()]
REASONS = [onnx_nodes.left_out(case, model) for case, model in ALL]
RUN = [
    pytest.param(case, model, id=case.name.removeprefix("test_"))
    for (case, model), reason in zip(ALL, REASONS)
    if reason is None
]

# ONNX's own runner allows bfloat16 two units in the last place, whatever a case says; float16 has the same here.
HALVES = {"bfloat16": 2**-6, "float16": 2**-9}

# Of ONNX 1.23; None counts the cases that run.
RECORDED = {
    None: 1344,
    "floats of 8 bits and fewer, integers of 4 bits and fewer": 148,
    "bits of integers": 53,
    "text, trees, tables and pictures in files": 52,
    "ONNX's own compositions, whose expansions run": 52,
    "scatter, top-k, unique, einsum, determinant: not offered": 47,
    "quantised arithmetic": 45,
    "unsigned integers but uint8": 44,
    "sampling at computed places, boxes": 39,
    "sequences and optional values: Python's own": 38,
    "control flow: Python's own": 32,
    "spectra and windows of signals": 19,
    "trigonometry but sin and cos, hyperbolic functions but tanh": 18,
    "attention's scores, which never exist as a whole": 15,
    "attention with capped scores": 11,
    "random numbers of another generator": 10,
    "resizing by another rule of places": 10,
    "dilated average and power pools": 7,
    "nearest resizing whose ties go down (PyTorch's go up)": 7,
    "GRU that resets before the product (PyTorch's, and cuDNN's, reset after it)": 6,
    "remainders with the dividend's sign (fmod)": 4,
    "the largest of no elements, which PyTorch refuses": 4,
    "antialiasing that repeats the border (PyTorch's and Pillow's cuts it)": 4,
    "Adam that corrects its bias after adding epsilon": 2,
    "the largest of bools, which is any()": 2,
    "aligned corners of a fractional size": 2,
    "cubic resizing with another coefficient or border": 2,
    "gradients as nodes: the tape is their place": 2,
    "fold of volumes": 1,
    "LSTM with peepholes": 1,
    "pools of integers": 1,
    "one-hot of what is no class, which PyTorch refuses": 1,
    "PyTorch's rule for one pixel, before it was mended": 1,
}


@pytest.mark.parametrize(("case", "model"), RUN)
def test_case(case, model):
    for inputs, expected in onnx_nodes.data_sets(case):
        outputs = onnx_nodes.run_model(model, inputs)
        assert len(outputs) == len(expected)
        for mine, theirs in zip(outputs, expected):
            assert mine.shape == theirs.shape
            assert mine.dtype == theirs.dtype
            rtol = max(case.rtol, HALVES.get(mine.dtype.name, 0.0))
            if mine.dtype.name in HALVES:
                mine, theirs = mine.astype(np.float32), theirs.astype(np.float32)
            np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=case.atol)


@pytest.mark.skipif(not onnx.__version__.startswith("1.23."), reason="the numbers are those of ONNX 1.23")
def test_nothing_drops_out():
    assert Counter(REASONS) == RECORDED


def test_every_exception_is_needed():
    """No operator, condition or case is named as left out that no model has."""
    found = Counter(REASONS)
    named = {*onnx_nodes.NOT_OFFERED, *onnx_nodes.CASES.values()}
    named |= {reason for conditions in onnx_nodes.CONDITIONS.values() for _, reason in conditions}
    assert not named - found.keys()
    assert not onnx_nodes.CASES.keys() - {case.name.removeprefix("test_") for case, _ in ALL}
