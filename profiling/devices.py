"""What this machine can compute on: processors, GPUs, and the packages that reach them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path


def describe() -> str:
    """A report for people: what works, what is missing, and how to get it."""
    lines = [
        f"CPU      {processor()}: {os.cpu_count()} cores, NumPy arrays, Numba kernels and BLAS: ready",
        f"         threads: Numba {_numba_threads()}, BLAS {_blas()}",
        *(f"GPU      {line}" for line in _gpus()),
        "",
    ]
    for package, distributions, purpose in (
        ("numpy", ("numpy",), "arrays on the CPU"),
        ("numba", ("numba",), "kernels on the CPU"),
        ("cupy", ("cupy-cuda13x", "cupy-cuda12x", "cupy"), "arrays on the GPU"),
        ("triton", ("triton",), "kernels on the GPU"),
        ("numba_cuda", ("numba-cuda",), "kernels on the GPU that Triton's blocks do not fit"),
    ):
        version = next(filter(None, map(_version, distributions)), None)
        if version is None:
            lines.append(
                f"{package:10} missing     {purpose}; `pip install ranvier[cuda13]` (CUDA 12: [cuda12]) brings it"
            )
        else:
            lines.append(f"{package:10} {version:11} {purpose}")
    return "\n".join(lines)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _numba_threads() -> str:
    import numba

    return f"{numba.get_num_threads()} of {numba.config.NUMBA_NUM_THREADS} (NUMBA_NUM_THREADS)"


def _blas() -> str:
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    limit = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or "all cores"
    return f"{blas['name']} {blas['version']}, {limit} (OPENBLAS_NUM_THREADS)"


def _gpus() -> list[str]:
    if importlib.util.find_spec("cupy") is None:
        return ["none usable: CuPy is not installed"]
    import cupy

    if not cupy.cuda.is_available():
        return ["none found by CuPy: no NVIDIA driver or no device (`nvidia-smi` shows which)"]
    runtime = cupy.cuda.runtime
    lines = []
    for index in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(index)
        driver, major, minor = runtime.driverGetVersion(), properties["major"], properties["minor"]
        memory = properties["totalGlobalMem"] / 2**30
        lines.append(
            f"cuda:{index} {properties['name'].decode()}, sm_{major}{minor}, {memory:.0f} GiB, "
            f"driver for CUDA {driver // 1000}.{driver % 1000 // 10}"
        )
    return lines
