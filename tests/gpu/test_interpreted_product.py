"""Matrix products in Triton's interpreter: broadcasting of any kind, strides of any sign, split sums."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.kernels import memory
from ranvier.kernels.dense import dense, gpu_product, matmul

interpreter.install()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_leading_axes_broadcast_in_every_way(data):
    leading = data.draw(st.lists(st.integers(0, 3), max_size=5))
    shapes = [
        [1 if data.draw(st.booleans()) else size for size in leading[data.draw(st.integers(0, len(leading))) :]]
        for _ in range(2)
    ]
    m, k, n = (data.draw(st.integers(0, 5)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a, b = (rng.standard_normal(shape) for shape in ((*shapes[0], m, k), (*shapes[1], k, n)))
    swap, flip = data.draw(st.booleans()), data.draw(st.booleans())
    agree(
        matmul, [a, b], {}, rng, "float64", "gpu",
        arrange=lambda x: _arranged(x, swap, flip),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shapes", [((3, 1000), (1000, 5)), ((4, 300, 3), (4, 3, 5)), ((300, 2, 3), (3, 4))])
def test_long_sums_are_split(shapes, dtype, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    monkeypatch.setattr(gpu_product, "_LEAST_STEPS", 2)
    rng = np.random.default_rng(0)
    agree(matmul, [rng.standard_normal(shape).astype(dtype) for shape in shapes], {}, rng, np.dtype(dtype).name, "gpu")


@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
def test_the_epilogue_follows_the_last_part(activation, monkeypatch):
    monkeypatch.setattr(gpu_product, "_LEAST_STEPS", 1)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((5, 100), (7, 100), (7,))]
    agree(dense, inputs, {"activation": activation}, rng, "float32", "gpu")


def test_results_go_where_they_are_wanted():
    a, b, c = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32), np.empty((2, 3, 5), np.float32)
    assert matmul.forward(a, b, out=c, implementation="gpu")[0] is c
    assert (c == 4).all()
    with pytest.raises(ValueError, match="matmul: expected out as a contiguous array of shape"):
        matmul.forward(a, b, out=c.transpose(0, 2, 1), implementation="gpu")


def _arranged(x, swap: bool, flip: bool):
    """The same values in memory with the last axes swapped, or backwards."""
    if swap:
        x = np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1] if flip else x
