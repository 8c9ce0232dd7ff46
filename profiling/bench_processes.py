"""Rows that need fresh processes: how long a start takes, and how much memory training takes at its peak.

The programs that are started are what a user would write, in a few lines, with nothing of the bench in them.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import bench_models
from .bench_libraries import PYTORCH, RANVIER, library
from .timing import measure

_RANVIER_STEP = """
import numpy as np
import ranvier as rv
model = rv.Sequential(rv.Linear(64, 128, activation="relu"), rv.Linear(128, 10))
optimizer = rv.optim.Adam(model.parameters())
x, labels = rv.tensor(np.ones((32, 64), np.float32)), rv.tensor(np.arange(32) % 10)
loss = rv.functional.cross_entropy(model(x), labels)
loss.backward()
optimizer.step()
"""
_PYTORCH_STEP = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters(), fused=True)
x, labels = torch.ones(32, 64), torch.arange(32) % 10
loss = torch.nn.functional.cross_entropy(model(x), labels)
loss.backward()
optimizer.step()
"""
_MEMORY = """
import {package}
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024
before = resident()
from ranvier.profiling.bench_processes import report_peak
report_peak({model!r}, {variant!r}, resident() - before)
"""
_STEPS = 3


@dataclass(frozen=True)
class StartCase:
    """A program run from its first line to its end, by the clock on the wall, the interpreter's own start included.

    Args:
        case: "import", ...
        programs: Python source, by variant.
        after_installation: run once, with Numba's cache empty, so that every kernel in it is compiled.
    """

    group: ClassVar[str] = "start"
    family: ClassVar[str] = "start"
    subject: ClassVar[str] = "start"
    direction: ClassVar[str] = "step"

    case: str
    programs: dict[str, str]
    after_installation: bool = False

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return f"start/{self.case}"

    @property
    def expected(self) -> float:
        """Seconds that measuring it may take: a guess for the progress bar."""
        return 12.0 if self.after_installation else 20.0

    def measure(self, seconds: float, threads: int | None) -> dict[str, np.ndarray]:
        """Seconds from start to end, by variant."""
        if self.after_installation:
            return {variant: np.array([_first_run(source, threads)]) for variant, source in self.programs.items()}
        runs = {variant: functools.partial(_run, source, threads) for variant, source in self.programs.items()}
        return measure(runs, seconds=seconds)


@dataclass(frozen=True)
class MemoryCase:
    """The most memory that a process held while it trained a network for a few steps.

    Args:
        model: the network.
    """

    group: ClassVar[str] = "peak memory"
    family: ClassVar[str] = "memory"
    subject: ClassVar[str] = "memory"
    expected: ClassVar[float] = 5.0

    model: bench_models.ModelCase

    @property
    def case(self) -> str:
        """The network's name: "lenet/large"."""
        return self.model.name

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return f"memory/{self.case}"

    def measure(self, threads: int | None) -> dict[str, int]:
        """Bytes resident at the peak, by variant."""
        return {variant: _peak(self.model.name, variant, threads) for variant in (RANVIER, *self.model.variants)}


def report_peak(model: str, variant: str, own: int) -> None:
    """Trains a network in this process and prints the most memory that it held.

    Args:
        model, variant: what to train, in which library.
        own: bytes that importing the bench took, which are not the library's.
    """
    case = next(case for case in bench_models.CASES if case.name == model)
    training = case.training(library(variant))
    for _ in range(_STEPS):
        training.step()
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(peak - own)


def environment(threads: int | None, **more: str) -> dict[str, str]:
    """The environment of a process that is measured: libraries read their number of threads from it as they load.

    Args:
        threads: of every library; None leaves each its own default.
        more: further variables.
    """
    # As a user's Python does, it may keep its bytecode.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return variables | more | ({} if threads is None else dict.fromkeys(names, str(threads)))


def _peak(model: str, variant: str, threads: int | None) -> int:
    package = "ranvier" if variant == RANVIER else "torch"
    output = _run(_MEMORY.format(package=package, model=model, variant=variant), threads)
    return int(output.splitlines()[-1])


def _run(program: str, threads: int | None, **variables: str) -> str:
    """Runs a Python program; returns what it printed."""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(threads, **variables))
    if ran.returncode:
        raise ChildProcessError(f"bench: expected a program to run, got {ran.stderr.strip()[-200:]!r}")
    return ran.stdout


def _first_run(program: str, threads: int | None) -> float:
    """Seconds of a program's first run, when no kernel has been compiled yet."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        _run(program, threads, NUMBA_CACHE_DIR=folder)
        return time.perf_counter() - started


_PEAKS_ARE_KNOWN = sys.platform == "linux"  # from /proc, which starts anew with each program

CASES = [
    StartCase("import", {RANVIER: "import ranvier", PYTORCH: "import torch"}),
    StartCase("first_step", {RANVIER: _RANVIER_STEP, PYTORCH: _PYTORCH_STEP}),
    StartCase("after_installation", {RANVIER: _RANVIER_STEP, PYTORCH: _PYTORCH_STEP}, after_installation=True),
    *(MemoryCase(model) for model in bench_models.CASES if model.case == "large" and _PEAKS_ARE_KNOWN),
]
