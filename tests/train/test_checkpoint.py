"""Saving and loading: every tree comes back; nothing half-written is ever taken for whole."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ranvier as rv
from ranvier.train import checkpoint

TREES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**130), 2**130),
        st.floats(allow_nan=False),
        st.text(max_size=5),
        hnp.arrays(st.sampled_from(["f4", "i8", "?"]), hnp.array_shapes(min_dims=0, min_side=0, max_side=3)),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a == b


@given(tree=st.dictionaries(st.text(max_size=4), TREES, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_tree_comes_back(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save_checkpoint(folder, tree)
    assert same(checkpoint.load_checkpoint(folder), tree)


def test_arrays_of_any_layout_and_half_types_come_back(tmp_path):
    arrays = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "strided": np.arange(10)[::3],
        "bfloat16": np.ones(3, ml_dtypes.bfloat16),
        "scalar": np.array(2.5),
    }
    rv.save(tmp_path / "a.safetensors", arrays)
    for name, array in rv.load(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype
        assert array.shape == arrays[name].shape


def test_a_layer_comes_back(tmp_path):
    first, second = rv.Dense(3, 4), rv.Dense(3, 4)
    rv.save(tmp_path / "dense.safetensors", first)
    second.load_state_dict(rv.load(tmp_path / "dense.safetensors"))
    np.testing.assert_array_equal(first.weight.numpy(), second.weight.numpy())


@pytest.mark.parametrize("moment", ["arrays", "state"])
def test_a_crash_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch, moment):
    checkpoint.save_checkpoint(tmp_path, {"a": np.zeros(3), "n": 1})
    replace = os.replace

    def crash(source, target):
        if (moment == "state") == str(target).endswith("state.json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint(tmp_path, {"a": np.ones(3), "n": 2})
    monkeypatch.undo()
    assert same(checkpoint.load_checkpoint(tmp_path), {"a": np.zeros(3), "n": 1})
    checkpoint.save_checkpoint(tmp_path, {"a": np.ones(3), "n": 3})
    assert same(checkpoint.load_checkpoint(tmp_path), {"a": np.ones(3), "n": 3})
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="load_checkpoint: expected a checkpoint"):
        checkpoint.load_checkpoint(tmp_path)
    checkpoint.save_checkpoint(tmp_path, {"a": np.zeros(3)})
    arrays = next(tmp_path.glob("*.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"load: expected .* as a whole safetensors file"):
        checkpoint.load_checkpoint(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="load_checkpoint: expected format 1"):
        checkpoint.load_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array([object()])], ids=["object", "key", "array"])
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(TypeError, match="save_checkpoint: "):
        checkpoint.save_checkpoint(tmp_path / "new", {"x": value})
    assert not list((tmp_path / "new").glob("*"))
