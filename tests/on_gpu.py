"""All that needs a GPU, part by part, each with a time limit of its own: `make gpu`, `make gpu PARTS="parity tune"`.

First what is right: operations against the reference, layers against PyTorch, training runs against the CPU's, faults
that compute-sanitizer finds. Then how fast it is. A part that takes longer than its limit is ended, because a kernel
that waits for what never comes would hold the GPU for ever; the others go on. What came of each part is kept in
`profiling/results/gpu-proof.json`, with the device and the versions, beside the measurements that the parts wrote.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "profiling" / "results"
GRACE = 20  # seconds from the request to end, which keeps what was measured, until the end
_VERSIONS_OF = ("numpy", "numba", "numba-cuda", "triton", "cupy-cuda13x", "cupy-cuda12x", "torch")
_OPERATIONS, _DEVICE = "tests/kernels/test_operations.py", "tests/gpu/test_device.py"
# Recurrent layers whose programs wait for one another have a part of their own: elsewhere they go step by step.
_RECURRENT = "lstm or gru or rnn or recurrent or speech"
_TIMED = (
    "matmul", "dense", "conv2d", "scaled_dot_product_attention", "lstm", "gru", "batch_norm", "layer_norm", "softmax",
    "cross_entropy", "max_pool", "embedding", "sum", "gelu", "add", "adam",
)  # fmt: skip


class Part(NamedTuple):
    """Something to run: what it is for, arguments for Python, seconds that it may take, a package that it needs."""

    what: str
    arguments: list[str]
    limit: int
    package: str | None = None


def _tests(what: str, limit: int, *arguments: str, processes: int = 1, seconds: int = 120, package=None) -> Part:
    """A part that is a run of pytest on the GPU. A test that hangs ends its process, not the part."""
    command = ["-m", "pytest", "--device", "cuda", "-rs", "--timeout", str(seconds), "--timeout-method", "thread"]
    if processes > 1 and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(processes)]
    return Part(what, [*command, *arguments], limit, package)


def _timings(what: str, limit: int, file: str, *arguments: str) -> Part:
    command = ["-m", "ranvier", "profile", *_TIMED, "--device", "cuda", "--seconds", "0.1"]
    return Part(what, [*command, "--output", f"profiling/results/{file}", *arguments], limit, "torch")


def parts() -> dict[str, Part]:
    """All parts in their order, by name."""
    cores = min(os.cpu_count() or 1, 16)
    steps, whole = ("--single-steps", "-k"), ("-k", f"({_RECURRENT}) and not varied")
    return {
        "training": _tests("a training run of each family against the CPU's", 420, _DEVICE, "--single-steps"),
        "digits": Part("the recipe of `make train`", ["-m", "ranvier", "train", "digits", "--device", "cuda"], 300),
        "parity": _tests(
            "operations against the reference", 560, _OPERATIONS, *steps, "not varied", processes=cores
        ),
        "resident": _tests(
            "recurrent layers in one launch a sequence", 300, _OPERATIONS, _DEVICE, *whole, seconds=60
        ),
        "layers": _tests("the layers' own tests", 560, "tests/layers", "--single-steps", processes=cores),
        "memcheck": _tests(
            "memory accesses, by compute-sanitizer", 560, "tests/gpu/test_device_sanitizer.py", "-k", "memcheck",
            seconds=560,
        ),
        "racecheck": _tests(
            "races, by compute-sanitizer", 560, "tests/gpu/test_device_sanitizer.py", "-k", "racecheck", seconds=560
        ),
        "modules": _tests(
            "layers against PyTorch's own samples", 560, "tests/judges/test_torch_modules.py", *steps, "float32",
            processes=cores, package="expecttest",
        ),
        "judges": _tests(
            "optimizers against PyTorch's, recurrent layers and nodes against ONNX's", 560,
            *(f"tests/judges/test_{name}.py" for name in ("torch_optim", "onnx_recurrent", "onnx_nodes")),
            "--single-steps", processes=cores, package="onnx",
        ),
        "tune": _tests("tiles that were searched", 560, "tests/gpu/test_device_tune.py", seconds=300),
        "overhead": Part("what a launch costs the host", ["-m", "ranvier.profiling.launch_overhead"], 120),
        "timings": _timings(
            "kernels beside PyTorch on CUDA, float32", 560, "gpu-float32.jsonl", "--peers", "pytorch"
        ),
        "timings-half": _timings(
            "the same in bfloat16", 560, "gpu-bfloat16.jsonl", "--peers", "pytorch", "--dtype", "bfloat16"
        ),
        "steps": Part(
            "training steps beside PyTorch on CUDA",
            ["-m", "ranvier.profiling.gpu_steps", "--output", "profiling/results/gpu-steps.jsonl"], 560, "torch",
        ),
        "varied": _tests(
            "operations of random shapes", 1800, _OPERATIONS, *steps, "varied", processes=cores, seconds=600
        ),
    }  # fmt: skip


LEFT_OUT = ("varied",)  # unless asked for: each example compiles forms of its own


def main(words: list[str] | None = None) -> int:
    """Runs the parts; returns the exit status: 1 where one failed or was ended, or where there is no GPU."""
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="those parts (all but varied)")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    options = parser.parse_args(words)
    if options.list:
        print("\n".join(f"{name:13} {part.limit:4} s  {part.what}" for name, part in known.items()))
        return 0
    if unknown := [name for name in options.parts if name not in known]:
        parser.error(f"expected parts among {', '.join(known)}, got {', '.join(unknown)}")
    device = device_facts()
    if device is None:
        print("make gpu: expected an NVIDIA GPU and CuPy, found none; `ranvier devices` says what is missing")
        return 1
    print("  ".join(map(str, device.values())), flush=True)
    chosen = options.parts or [name for name in known if name not in LEFT_OUT]
    environment, outcomes = environment_for(ROOT / "build" / "importable"), {}
    for number, name in enumerate(chosen, 1):
        part = known[name]
        print(f"\n=== {number} of {len(chosen)}: {name}, {part.what} (at most {part.limit} s)", flush=True)
        outcomes[name] = run(part, environment)
        keep(RESULTS / "gpu-proof.json", device, {name: outcomes[name]})
        print(f"=== {name}: {outcomes[name]['outcome']} after {outcomes[name]['seconds']} s", flush=True)
    print("\n" + "\n".join(f"{name:13} {found['outcome']}: {found['said']}" for name, found in outcomes.items()))
    return int(any(found["outcome"] not in ("passed", "skipped") for found in outcomes.values()))


def run(part: Part, environment: dict[str, str]) -> dict:
    """Runs a part, showing what it prints; returns how it ended: passed, failed, skipped, or ended at its limit."""
    if part.package and importlib.util.find_spec(part.package) is None:
        return {"outcome": "skipped", "seconds": 0, "said": f"{part.package} is not installed"}
    started, last = time.monotonic(), ""
    command = [sys.executable, *part.arguments]
    # A session of its own: what it starts ends with it.
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    ended = _Ending(process, part.limit)
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    status = process.wait()
    ended.cancel()
    outcome = "ended at its limit" if ended.reached else "failed" if status else "passed"
    return {"outcome": outcome, "seconds": round(time.monotonic() - started), "said": last}


class _Ending:
    """Ends a process and all that it started when its time is over: asks first, then does not."""

    def __init__(self, process: subprocess.Popen, limit: float):
        import threading

        self._process, self.reached = process, False
        self._timers = [
            threading.Timer(limit, self._send, [signal.SIGINT]),
            threading.Timer(limit + GRACE, self._send, [signal.SIGKILL]),
        ]
        for timer in self._timers:
            timer.daemon = True
            timer.start()

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _send(self, number: int) -> None:
        self.reached = True
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # it has just ended by itself


def device_facts() -> dict | None:
    """The GPU's name, architecture, driver; None where there is none."""
    if importlib.util.find_spec("cupy") is None:
        return None
    import cupy

    if not cupy.cuda.is_available():
        return None
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "of unknown version"
    return {
        "name": properties["name"].decode(),
        "architecture": f"sm_{properties['major']}{properties['minor']}",
        "driver": f"driver {driver}",
        "cuda": f"CUDA {runtime.driverGetVersion() // 1000}.{runtime.driverGetVersion() % 1000 // 10}",
    }


def keep(path: Path, device: dict, outcomes: dict) -> None:
    """Adds outcomes to the file, which begins anew for another device or other versions."""
    versions = {"python": sys.version.split()[0]}
    for name in _VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("device") != device or known.get("versions") != versions:
        known = {"device": device, "versions": versions, "parts": {}}
    described = "unknown"  # where the tree came without its history
    if shutil.which("git") is not None:
        described = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True).stdout.strip() or described
    when = datetime.now(UTC).isoformat(timespec="seconds")
    known["parts"] |= {name: {**found, "commit": described, "when": when} for name, found in outcomes.items()}
    path.write_text(json.dumps(known, indent=1) + "\n")


def environment_for(folder: Path) -> dict[str, str]:
    """The environment in which the parts can import the library: where it is not installed, from a folder of links to
    this tree, so that nothing needs to be installed into an interpreter that has all else."""
    if importlib.util.find_spec("ranvier") is not None:
        return dict(os.environ)
    package = folder / "ranvier"
    package.mkdir(parents=True, exist_ok=True)
    links = {item.name: item for item in (ROOT / "ranvier").iterdir() if item.suffix == ".py"}
    links |= {name: ROOT / name for name in ("kernels", "layers", "train", "profiling")}
    for name, target in links.items():
        if not (package / name).exists():
            (package / name).symlink_to(target)
    facts = folder / "ranvier-0.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: ranvier\nVersion: 0\n")
    # Safe: Python would look in the current folder first, where `ranvier` is the face alone.
    paths = [str(folder), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


if __name__ == "__main__":
    sys.exit(main())
