"""NVIDIA's compute-sanitizer around a run of GPU kernels: where it is found, how it is called, what it has found.

It is part of the CUDA toolkit and a wheel of its own, `pip install nvidia-cuda-sanitizer-api`. Its memcheck sees
accesses outside of what was allocated, its racecheck threads of a block that meet in shared memory without a barrier.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

NAME = "compute-sanitizer"
MISSING = (
    f"no {NAME}, neither on PATH, nor in CUDA_HOME, nor as a wheel: `pip install nvidia-cuda-sanitizer-api` brings it"
)
_SUMMARIES = {
    "memcheck": re.compile(r"^=+ ERROR SUMMARY: (\d+) errors?", re.MULTILINE),
    "racecheck": re.compile(r"^=+ RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?", re.MULTILINE),
}
_PLACES = {
    "memcheck": re.compile(r"^=+     at (\w+)", re.MULTILINE),
    "racecheck": re.compile(r"^=+ Error: Race reported between \w+ access at (\w+)", re.MULTILINE),
}


class Report(NamedTuple):
    """What a tool has found: how many errors, and in which kernels."""

    errors: int
    kernels: tuple[str, ...]


def find() -> Path | None:
    """The program; None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for packages in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(Path(packages).glob("cu*"), reverse=True)
    places = [shutil.which(NAME), *(shutil.which(NAME, path=folder / "bin") for folder in folders)]
    return next((Path(place) for place in places if place), None)


def command(program: Path, tool: str, arguments: Sequence[str]) -> list[str]:
    """What runs `python arguments...` under a tool. Errors that the driver reports are CuPy's to handle."""
    report = ["--report-api-errors", "no"] if tool == "memcheck" else []
    options = ["--tool", tool, *report, "--show-backtrace", "device", "--target-processes", "application-only"]
    return [str(program), *options, sys.executable, *arguments]


def read(tool: str, output: str) -> Report:
    """What stands in a tool's output.

    Raises:
        ValueError: the tool did not come to its end, so nothing is known; the message has the output's last lines.
    """
    summary = _SUMMARIES[tool].search(output)
    # A program that ends before it reaches the GPU counts as an error of the tool's, not of a kernel's.
    if summary is None or "before first instrumented API call" in output or "Device not supported" in output:
        end = "\n".join(output.splitlines()[-12:])
        raise ValueError(f"{tool}: expected a summary of a run on a GPU, got:\n{end}")
    return Report(int(summary[1]), tuple(dict.fromkeys(_PLACES[tool].findall(output))))
