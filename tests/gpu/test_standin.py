"""Starts the tests that run on a stand-in GPU in a process of their own: it goes under CuPy before CuPy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import standin

if reason := standin.missing():
    pytest.skip(reason, allow_module_level=True)

STANDIN = Path(standin.__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(1200)  # without Triton's own cache every kernel of the library is compiled
@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("test_launched*.py")), ids=lambda path: path.stem)
def test_launches_in_a_process_of_their_own(file):
    command = [sys.executable, str(STANDIN), "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_the_launch_overhead_is_printed(tmp_path):
    command = [sys.executable, str(STANDIN), "ranvier.profiling.launch_overhead"]
    environment = os.environ | {"RANVIER_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert "stand-in" in lines[0]
    figures = {line[:10].strip(): float(line.split()[-4]) for line in lines[1:]}
    # A tenfold slip is what this catches; the figures themselves depend on who else uses the machine.
    assert 0 < figures["prepared"] < 20
    assert figures["prepared"] < figures["bound"] < 60


STEP = """
import sys
sys.path.insert(0, {tests!r})
import standin
standin.install()
import numpy as np
from training_steps import dense
training = dense("cuda")
with standin.recorded() as launches:
    training.model.hidden(training.batch(np.random.default_rng(0))[0]).sum().backward()
print([(seen.name, seen.grid, seen.stream) for seen in launches])
"""


def test_launches_are_the_same_with_torch_imported_first(tmp_path):
    pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")
    environment = os.environ | {"RANVIER_CACHE_DIR": str(tmp_path)}
    step = STEP.format(tests=str(STANDIN.parent))
    without, beside = (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for code in (step, f"import torch\n{step}\nassert 'torch' in sys.modules")
    )
    assert "product" in without
    assert beside == without
