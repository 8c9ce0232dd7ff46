"""How compute-sanitizer is found, called and read, and that the faults it is to see are in what is compiled: no GPU."""

import os
import re
import sys
from pathlib import Path

import pytest
import sanitizer

MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at read_past_the_end_kernel+0x90
=========     by thread (104,0,0) in block (0,0,0)
=========     Address 0x710fdca00fa0 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x710fdca00000 of size 4,000 bytes
========= Invalid __global__ read of size 4 bytes
=========     at read_past_the_end_kernel+0x90
=========     by thread (105,0,0) in block (0,0,0)
========= ERROR SUMMARY: 2 errors
"""
RACECHECK = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at sumKernel(int *, int *)+0x90 in /home/cuda/block_error.cu:41
=========     and Read access at sumKernel(int *, int *)+0x100 in /home/cuda/block_error.cu:51 [508 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
# What it prints on a machine without a GPU.
NO_GPU = """========= COMPUTE-SANITIZER
========= Error: process didn't terminate successfully
========= Error: Target application terminated before first instrumented API call
========= ERROR SUMMARY: 1 error
"""


@pytest.mark.parametrize(
    ("tool", "output", "expected"),
    [
        ("memcheck", MEMCHECK, (2, ("read_past_the_end_kernel",))),
        ("memcheck", "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n", (0, ())),
        ("racecheck", RACECHECK, (1, ("sumKernel",))),
        ("racecheck", "========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n", (0, ())),
    ],
)
def test_what_was_found_is_read(tool, output, expected):
    assert sanitizer.read(tool, output) == expected


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("output", ["", "Traceback: no such file", NO_GPU])
def test_a_run_that_did_not_come_to_its_end_proves_nothing(tool, output):
    with pytest.raises(ValueError, match="expected a summary of a run on a GPU"):
        sanitizer.read(tool, output)


@pytest.mark.parametrize("variable", ["PATH", "CUDA_HOME", None])
def test_it_is_found_on_the_path_in_the_toolkit_or_in_a_wheel(variable, tmp_path, monkeypatch):
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert sanitizer.find() is None
    folder = tmp_path / "nvidia" / "cu13" / "bin"
    folder.mkdir(parents=True)
    program = folder / "compute-sanitizer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    if variable:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setenv(variable, str(folder if variable == "PATH" else folder.parent))
    assert sanitizer.find() == program


def test_the_program_runs_under_the_tool():
    command = sanitizer.command(Path("/cuda/bin/compute-sanitizer"), "racecheck", ["tests/sanitized.py", "race"])
    assert command[:3] == ["/cuda/bin/compute-sanitizer", "--tool", "racecheck"]
    assert command[-3:] == [sys.executable, "tests/sanitized.py", "race"]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled with TRITON_INTERPRET=1")
def test_the_faults_are_in_the_compiled_kernels():
    pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
    pytest.importorskip("numba_cuda", reason="`pip install ranvier[gpu-proof]`")
    from compiling import compile_kernel
    from faults import THREADS, read_past_the_end_kernel, read_without_a_barrier_kernel

    read = compile_kernel(read_past_the_end_kernel, ["float32", "float32"], 90, BLOCK=1024).ptx
    assert "ld.global" in read
    assert "@%p" not in read, "no lane is masked"
    race = compile_kernel(read_without_a_barrier_kernel, ["float32", "float32"], 90, num_warps=THREADS // 32).ptx
    assert "st.shared" in race
    assert "ld.shared" in race
    assert not re.search(r"\bbar(rier)?\.", race)
