"""The machine that measurements come from: its device, its memory caches, its threads."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from . import devices


def device_record(device: str) -> dict:
    """What a record says of the device: name, cores or compute capability, threads of each library that computes."""
    if device == "cpu":
        caches = " ".join(f"{level} {size >> 10} KiB" for level, size in sorted(cache_bytes().items()))
        return {"name": devices.processor(), "cores": core_count(), "caches": caches, "threads": threads()}
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(device_index(device))
    return {
        "name": properties["name"].decode(),
        "architecture": f"sm_{properties['major']}{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "threads": {},
    }


def device_index(device: str) -> int:
    """1 for 'cuda:1', 0 for 'cuda'."""
    return int(device.partition(":")[2] or 0)


def threads() -> dict[str, int]:
    """The threads of each library in this process that computes on the CPU; PyTorch's once it is loaded."""
    import numba

    found = {"numba": numba.get_num_threads(), "blas": blas_threads()}
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].get_num_threads()
    return found


def blas_threads() -> int:
    """What OpenBLAS reads from the environment when it is loaded, else a thread a core."""
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return min(int(os.environ[name]), core_count())
    return core_count()


def core_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cache_bytes() -> dict[str, int]:
    """{"L1": bytes, "L2": ...} of the first core's data caches; empty where the system does not say."""
    found = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (folder / "type").read_text().strip() != "Instruction":
            number, unit = re.fullmatch(r"(\d+)([KMG]?)", (folder / "size").read_text().strip()).groups()
            scale = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[unit]
            found[f"L{(folder / 'level').read_text().strip()}"] = int(number) * scale
    return found


def last_cache_bytes(device: str) -> int:
    """The size of the cache before main memory; 0 where the system does not say."""
    if device == "cpu":
        return max(cache_bytes().values(), default=0)
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(device_index(device)).get("l2CacheSize", 0)
