"""`ranvier tune` on a real GPU: candidates agree with what is shipped, and what is found is what then runs. Skips where
there is none, and says so."""

import json

import numpy as np
import pytest

cupy = pytest.importorskip("cupy", reason="no CuPy: `pip install ranvier[cuda13]`")
if not cupy.cuda.is_available():
    pytest.skip("no GPU on this machine", allow_module_level=True)
pytest.importorskip("triton", reason="GPU kernels come with Triton: `pip install ranvier[cuda13]`")

import standin

if standin.installed():
    pytest.skip("no kernel runs on the stand-in GPU", allow_module_level=True)

import ranvier.__main__ as command
from ranvier.kernels import tuning
from ranvier.kernels.launch import architecture_of


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation", ["matmul", "conv2d", "scaled_dot_product_attention", "softmax", "layer_norm", "sum", "lstm"]
)
def test_candidates_agree_and_the_fastest_is_kept(operation, device, tmp_path, monkeypatch, capsys):
    assert device == "cuda", "run with --device cuda"
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path))
    try:
        assert command.main(["tune", operation, "--quick", "--seconds", "0.02"]) == 0, capsys.readouterr().out
        entries = json.loads(tuning.path_of(tuning.name_of(0), architecture_of(0)).read_text())["entries"]
        assert entries
        for entry in entries:
            assert 0 < entry["seconds"] <= entry["shipped_seconds"]
            choice = tuning.Choice.registry[entry["kernel"]]
            like = cupy.empty(1, np.dtype(entry["dtype"]))
            assert choice.pick(like, *entry["bucket"]) == entry["configuration"]
    finally:
        tuning.forget()
