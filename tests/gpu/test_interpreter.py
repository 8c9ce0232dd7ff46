"""Starts the interpreted tests in processes of their own: Triton reads TRITON_INTERPRET once, when kernels are made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="GPU kernels are interpreted by Triton: `pip install ranvier[gpu-proof]`")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_interpreted_kernels_agree():
    files = [str(path) for path in Path(__file__).parent.glob("test_interpreted*.py")]
    # The interpreter runs on one thread: a process a core, and no threads inside.
    command = [sys.executable, "-m", "pytest", "-n", str(os.cpu_count()), "-p", "no:cacheprovider", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(result.stdout.splitlines()[-1] if result.stdout else result.stderr)
    assert result.returncode == 0, result.stdout[-6000:]
