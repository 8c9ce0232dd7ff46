"""Convolutions in Triton's interpreter: channels-last memory, sums split in parts, geometries of every kind."""

import os
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import DTYPES

from ranvier.kernels import conv, memory
from ranvier.kernels.conv import gpu_depthwise, gpu_layout, gpu_products
from ranvier.kernels.dense import gpu_product
from ranvier.kernels.operation import Operation

interpreter.install()
NAMES = [f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)]


def channels_last(x):
    """The same values with the second axis last in memory; a weight's and an unbatched image's stay as they are."""
    if not isinstance(x, np.ndarray) or x.ndim < 3:
        return x
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_samples_in_channels_last_memory_with_split_sums(name, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    monkeypatch.setattr(gpu_product, "_LEAST_STEPS", 1)
    operation = Operation.registry[name]
    for sample in operation.samples[: 1 if name.endswith("3d") else None]:
        if not sample.large:
            rng = np.random.default_rng(0)
            inputs = sample.build(rng, np.dtype(np.float32))
            agree(operation, inputs, sample.attributes, rng, "float32", "gpu", arrange=channels_last)


@contextmanager
def copies_everywhere():
    """Within the block all images that a copy can put channels last are copied, those of few channels too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_layout, "_FEW_CHANNELS", 0)
        patch.setattr(gpu_layout, "CHANNELS_LAST", SimpleNamespace(pick=lambda *_: {"COPIED": 1}))
        yield


@pytest.mark.parametrize("around", [nullcontext, copies_everywhere])
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_geometries_vary(name, around, data):
    class Pick:
        def __call__(self, low, high):
            return data.draw(st.integers(low, high))

        def of(self, sequence):
            return data.draw(st.sampled_from(list(sequence)))

    operation = Operation.registry[name]
    sample, rng = operation.vary(Pick()), np.random.default_rng(0)
    with around():
        agree(operation, sample.build(rng, np.dtype(np.float64)), sample.attributes, rng, "float64", "gpu")


WIDER = {
    "channels_at_a_tap": ((2, 20, 6, 5), (18, 20, 3, 3), {"padding": ((1, 1), (1, 1))}),
    "strided": ((2, 20, 7, 9), (17, 20, 3, 3), {"stride": (2, 2), "padding": ((1, 1), (0, 1))}),
    "strided_and_dilated": ((1, 16, 13, 14), (16, 16, 3, 4), {"stride": (4, 6), "dilation": (2, 4)}),
    "pointwise": ((2, 20, 4, 8), (17, 20, 1, 1), {}),
    "depthwise": ((2, 20, 7, 9), (40, 1, 3, 2), {"groups": 20, "stride": (2, 3), "padding": ((1, 1), (0, 1))}),
    "patches": ((1, 3, 8, 8), (20, 3, 4, 4), {"stride": (4, 4)}),
    "grouped": ((2, 36, 5, 5), (34, 18, 3, 2), {"groups": 2, "stride": (1, 2)}),
    "several_tiles": ((3, 33, 11, 9), (70, 33, 2, 2), {"activation": "relu"}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("name", WIDER)
def test_many_channels(name, arrange, dtype):
    x, weight, attributes = WIDER[name]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in (x, weight, weight[:1])]
    agree(conv.conv2d, inputs, attributes, rng, dtype, "gpu", arrange)


@pytest.mark.parametrize(
    ("name", "dtype", "parts", "arrange"),
    [
        ("channels_at_a_tap", "float32", 3, channels_last),
        ("strided", "float64", 2, np.ascontiguousarray),
        ("patches", "float32", 5, np.ascontiguousarray),  # more than the sum has steps: a part without any is zeros
        ("grouped", "bfloat16", 2, channels_last),
    ],
)
def test_sums_in_parts_agree_and_have_the_same_bits_each_time(name, dtype, parts, arrange, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    monkeypatch.setattr(gpu_products, "parts_of", lambda tiles, steps: parts)
    x, weight, attributes = WIDER[name]
    rng, attributes = np.random.default_rng(0), attributes | {"activation": "relu"}
    inputs = [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in (x, weight, weight[:1])]
    first, _ = conv.conv2d.forward(*map(arrange, inputs), **attributes, implementation="gpu")
    again, _ = conv.conv2d.forward(*map(arrange, inputs), **attributes, implementation="gpu")
    np.testing.assert_array_equal(first, again)
    inputs.append(rng.standard_normal(first.shape).astype(DTYPES[dtype]))
    agree(conv.conv2d, inputs, attributes, rng, dtype, "gpu", arrange)


VIEWS = {
    "images_in_a_row": lambda x: np.stack([x, x], 1)[:, 0],
    "every_second_channel": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "parts_of_rows": lambda x: np.concatenate([x, x], -1)[..., : x.shape[-1]],
    "positions_backwards": lambda x: x[..., ::-1, ::-1].copy()[..., ::-1, ::-1],
    "rows_and_columns_changed_places": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["grouped", "pointwise"])
def test_views_are_read_as_they_are_or_copied(name, view, monkeypatch):
    monkeypatch.setattr(memory, "poison", True)
    x, weight, attributes = WIDER[name]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in (x, weight, weight[:1])]
    with copies_everywhere():
        agree(
            conv.conv2d, inputs, attributes | {"activation": "relu"}, rng, "float32", "gpu",
            lambda x: VIEWS[view](x) if isinstance(x, np.ndarray) and x.ndim == 4 else x,
        )  # fmt: skip


def test_positions_are_counted_in_64_bits_where_there_are_many(monkeypatch):
    monkeypatch.setattr(gpu_products, "WIDE", 0)
    monkeypatch.setattr(gpu_depthwise, "WIDE", 0)
    rng = np.random.default_rng(0)
    for name in ("strided", "channels_at_a_tap", "pointwise", "patches", "depthwise"):
        x, weight, attributes = WIDER[name]
        inputs = [rng.standard_normal(shape).astype(np.float32) for shape in (x, weight, weight[:1])]
        agree(conv.conv2d, inputs, attributes, rng, "float32", "gpu")


@pytest.mark.parametrize("groups", [1, 20])
def test_channels_last_stays_channels_last(groups):
    rng = np.random.default_rng(0)
    x = channels_last(rng.standard_normal((2, 20, 5, 6), np.float32))
    weight = rng.standard_normal((20, 20 // groups, 3, 3), np.float32)
    y, saved = conv.conv2d.forward(x, weight, activation="relu", groups=groups, implementation="gpu")
    grad_x, _, _ = conv.conv2d.backward(saved, y + 1, (True, False, False), implementation="gpu")
    for result in (y, grad_x):
        assert result.transpose(0, 2, 3, 1).flags.c_contiguous


def test_results_go_where_they_are_wanted():
    x, weight = np.ones((2, 3, 4, 4), np.float32), np.ones((5, 3, 2, 2), np.float32)
    out = np.zeros((2, 3, 3, 5), np.float32).transpose(0, 3, 1, 2)
    for residual, sums in ((None, 12), (np.arange(90, dtype=np.float32).reshape(2, 5, 3, 3), 12)):
        assert conv.conv2d.forward(x, weight, None, residual, out=out, implementation="gpu")[0] is out
        assert (out == (sums if residual is None else sums + residual)).all()
    with pytest.raises(ValueError, match=r"conv2d: expected out of shape \(2, 5, 3, 3\)"):
        conv.conv2d.forward(x, weight, out=out[:1], implementation="gpu")
