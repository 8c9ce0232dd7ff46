"""What this machine can do at best, measured: memory bandwidth by a copy, arithmetic by products of matrices, and what
a call costs that has nothing to do.

No datasheet is read. Results are kept for each device, number of threads and version of the libraries that were
measured, below the user's cache directory; `--remeasure` takes them again. Other work on the machine lowers them: take
them on a quiet one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..kernels.cache import cache_directory
from ..kernels.device import to_device
from ..train.checkpoint import write_atomically
from .cases import DTYPES, available_bytes
from .gpu_timing import clock_for
from .machine import last_cache_bytes, threads
from .timing import HostClock, measure

_MATRIX = {"cpu": 2048, "gpu": 8192}  # rows and columns: past what a cache holds of one product's operands
_DTYPES = {"cpu": ("float32", "float64"), "gpu": ("float16", "bfloat16", "float32", "float64")}
_SMALLEST_COPY = 64 << 20
_LARGEST_COPY = 1 << 30
_SECONDS = 1.0


def ceilings(
    device: str,
    machine: dict,
    versions: dict,
    *,
    remeasure: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict:
    """{"copy": bytes/s read and written, "matmul": {dtype: flop/s}, "launch": s, "measured": when}.

    Args:
        device: 'cpu', 'cuda' or 'cuda:<index>'.
        machine, versions: what the run's record says of them; ceilings are kept for each of their values.
        remeasure: measure even if they are known.
        progress: called with what is being measured.
    """
    path = cache_directory() / "ceilings" / f"{_key(device, machine, versions)}.json"
    if path.is_file() and not remeasure:
        return json.loads(path.read_text())["ceilings"]
    result = _measure(device, progress or (lambda what: None))
    content = {"device": device, "machine": machine, "versions": versions, "ceilings": result}
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda temporary: Path(temporary).write_text(text))
    return result


def _key(device: str, machine: dict, versions: dict) -> str:
    used = {name: versions.get(name) for name in ("ranvier", "numpy", "numba", "cupy-cuda12x", "cupy-cuda13x")}
    counts = {name: machine["threads"].get(name) for name in ("numba", "blas")}
    text = json.dumps([device, machine["name"], counts, used], sort_keys=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", machine["name"]).strip("-")
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _measure(device: str, progress: Callable[[str], None]) -> dict:
    kind = "cpu" if device == "cpu" else "gpu"
    clock = clock_for(device)
    progress("ceilings: copying")
    result = {"copy": copy_bandwidth(device, clock), "matmul": {}}
    for dtype in _DTYPES[kind]:
        progress(f"ceilings: products in {dtype}")
        result["matmul"][dtype] = matmul_rate(device, dtype, clock, _MATRIX[kind])
    progress("ceilings: a call")
    result["launch"] = call_cost(device, clock)
    return result | {"measured": datetime.now(UTC).isoformat(timespec="seconds")}


def copy_bandwidth(device: str, clock, size: int | None = None) -> float:
    """Bytes a second, read and written, of a copy between arrays that no cache holds; on the CPU by all threads.

    Args:
        size: of each array in bytes; by default the last cache's and no more than a gibibyte or an eighth of what is
            left of the memory.
    """
    if size is None:
        room = available_bytes(device) // 8
        size = min(max(_SMALLEST_COPY, last_cache_bytes(device)), _LARGEST_COPY, room)
    if device == "cpu":
        copy = _threaded_copy(size)
    else:
        import cupy

        source, target = cupy.empty(size, np.uint8), cupy.empty(size, np.uint8)

        def copy():
            target.data.copy_from_device_async(source.data, size)

    return 2 * size / float(np.quantile(measure({"copy": copy}, seconds=_SECONDS, clock=clock)["copy"], 0.1))


def _threaded_copy(size: int) -> Callable[[], None]:
    count = threads()["numba"]
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    parts = list(zip(np.array_split(source, count), np.array_split(target, count)))
    if count == 1:
        return lambda: np.copyto(target, source)
    pool = ThreadPoolExecutor(count)  # NumPy copies without the interpreter's lock

    def copy():
        wait([pool.submit(np.copyto, to, part) for part, to in parts])

    return copy


def matmul_rate(device: str, dtype: str, clock, size: int) -> float:
    """Floating-point operations a second of the product of two square matrices: NumPy's BLAS, or CuPy's cuBLAS."""
    rng = np.random.default_rng(0)
    a, b = (to_device(rng.standard_normal((size, size), np.float32).astype(DTYPES[dtype]), device) for _ in range(2))
    if device == "cpu":
        out = np.empty_like(a)

        def product():
            np.matmul(a, b, out=out)
    else:
        import cupy

        out = cupy.empty_like(a)

        def product():
            cupy.matmul(a, b, out=out)

    samples = measure({"product": product}, seconds=_SECONDS, clock=clock)["product"]
    return 2 * size**3 / float(np.quantile(samples, 0.1))


def call_cost(device: str, clock) -> float:
    """Seconds that an operation takes on one element: checks, dispatch and launch, and hardly any work."""
    from ..kernels.activation import relu

    x = to_device(np.ones(1, np.float32), device)
    return float(np.median(measure({"call": lambda: relu.forward(x)}, seconds=_SECONDS / 4, clock=HostClock())["call"]))
