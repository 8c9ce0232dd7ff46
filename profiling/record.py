"""What a measurement leaves behind: a file of JSON lines, and the figures that follow from it.

The first line says which machine, versions and command the measurements come from, and what the machine's ceilings
are; every other line is a measurement (`row`), a variant that is not there (`missing`) or one whose results were wrong
and which was therefore not timed (`error`). Tables, pictures and reports compute what they show with `derive`.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ..train.checkpoint import write_atomically

SCHEMA = 1
QUANTILES = ("0.0", "0.1", "0.25", "0.5", "0.75", "0.9", "1.0")
_VERSIONS_OF = ("numpy", "numba", "scipy", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "threadpoolctl")


@dataclass(frozen=True)
class Row:
    """One variant measured in one case.

    Args:
        group: what was run: "kernel", "training step", ...
        name, family: the operation and its folder, or the model and its kind.
        case: the name of the shapes.
        shapes: the shapes as people write them: "x 32x64x56x56, weight 64x64x3x3".
        dtype: of the arrays.
        direction: "forward", "backward" or "step" (`pass` in the file).
        variant: "ranvier", "pytorch", "pytorch channels-last", "numpy", ...
        samples: how many samples the quantiles come from.
        quantiles: seconds a call, by the keys of QUANTILES.
        configuration: what the variant was run with: implementation, threads, tiles.
        flops, bytes: the least work of a call; None where nobody counted it.
        counters: what the processor counted in a call: instructions, cycles, cache-misses; None where it cannot.
    """

    kind: ClassVar[str] = "row"

    group: str
    name: str
    family: str
    case: str
    shapes: str
    dtype: str
    direction: str
    variant: str
    samples: int
    quantiles: dict[str, float]
    configuration: str = ""
    flops: int | None = None
    bytes: int | None = None
    counters: dict[str, float] | None = None

    @property
    def median(self) -> float:
        """Seconds a call."""
        return self.quantiles["0.5"]

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this row from every other of its file."""
        return (self.group, self.name, self.case, self.shapes, self.dtype, self.direction, self.variant)


@dataclass(frozen=True)
class Missing:
    """A variant that could not be run here, and why."""

    kind: ClassVar[str] = "missing"

    variant: str
    reason: str


@dataclass(frozen=True)
class Error:
    """A variant that was run and not timed, because it failed or its results did not agree."""

    kind: ClassVar[str] = "error"

    name: str
    case: str
    dtype: str
    direction: str
    variant: str
    reason: str


@dataclass
class Record:
    """One run: its first line, its measurements, and what is missing from them."""

    run: dict
    rows: list[Row] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    errors: list[Error] = field(default_factory=list)

    @property
    def ceilings(self) -> dict:
        """{"copy": bytes/s, "matmul": {dtype: flop/s}, "launch": s}, as far as they were measured."""
        return self.run.get("ceilings") or {}


def new_run(device: dict, command: str, ceilings: dict | None = None) -> dict:
    """The first line of a record: device, versions, command and time."""
    versions = {"python": sys.version.split()[0], "ranvier": importlib.metadata.version("ranvier")}
    for distribution in _VERSIONS_OF:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "kind": "run",
        "schema": SCHEMA,
        "device": device,
        "versions": versions,
        "command": command,
        "started": started,
        "ceilings": ceilings or {},
    }


def quantiles_of(samples: np.ndarray) -> dict[str, float]:
    """The quantiles of a row, from all samples."""
    return {key: float(value) for key, value in zip(QUANTILES, np.quantile(samples, [float(q) for q in QUANTILES]))}


def write(path: str | Path, record: Record) -> None:
    """Writes a record whole or not at all."""
    lines = [record.run]
    for item in (*record.rows, *record.missing, *record.errors):
        line = {"kind": item.kind} | asdict(item)
        if "direction" in line:
            line["pass"] = line.pop("direction")
        lines.append(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(Path(path), lambda temporary: Path(temporary).write_text(text))


def read(path: str | Path) -> Record:
    """The record in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no record of this schema; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"profile: expected a file of measurements at {path}, found none")
    record = None
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            kind = line.pop("kind")
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError):
            raise _unreadable(path, number, f"a JSON object with a kind, got {text[:60]!r}") from None
        if record is None:
            if kind != "run" or line.get("schema") != SCHEMA:
                raise _unreadable(path, number, f"a run of schema {SCHEMA}, got {text[:60]!r}")
            record = Record({"kind": "run"} | line)
        elif kind in _PARTS:
            _PARTS[kind][1](record).append(_item(path, number, _PARTS[kind][0], line))
        else:
            raise _unreadable(path, number, f"a row, missing or error, got kind {kind!r}")
    if record is None:
        raise _unreadable(path, 1, f"a run of schema {SCHEMA}, got an empty file")
    return record


_PARTS = {
    "row": (Row, lambda record: record.rows),
    "missing": (Missing, lambda record: record.missing),
    "error": (Error, lambda record: record.errors),
}


def _item(path: Path, number: int, kind: type, line: dict):
    if "pass" in line:
        line["direction"] = line.pop("pass")
    known = {entry.name for entry in fields(kind)}
    try:
        item = kind(**{name: value for name, value in line.items() if name in known})
    except TypeError as error:
        raise _unreadable(path, number, f"all fields of a {kind.kind}: {error}") from None
    if kind is Row and not set(QUANTILES) <= set(item.quantiles):
        raise _unreadable(path, number, f"the quantiles {', '.join(QUANTILES)}, got {sorted(item.quantiles)}")
    return item


def _unreadable(path: Path, number: int, expected: str) -> ValueError:
    return ValueError(f"profile: {path}, line {number}: expected {expected}")


class Derived(NamedTuple):
    """What a row says about the machine. None where flops, bytes or a ceiling are not known.

    spread: the middle half of the samples (upper less lower quartile) as a share of the median.
    intensity: flops a byte.
    roofline_share: the time that the ceilings allow, as a share of the median: 1 is the limit. Data that stay in a
        cache can beat it, because the ceiling for bytes is the main memory's.
    bound: "compute" or "bandwidth", whichever ceiling allows less; "launch" where a call costs more than the work.
    """

    median: float
    spread: float
    flops_per_second: float | None
    bytes_per_second: float | None
    intensity: float | None
    roofline_share: float | None
    bound: str | None


def derive(row: Row, ceilings: dict) -> Derived:
    """The figures of a row, against the ceilings of the machine that it was measured on."""
    median, quantiles = row.median, row.quantiles
    compute = matmul_ceiling(ceilings, row.dtype)
    times = {}
    if row.flops is not None and compute:
        times["compute"] = row.flops / compute
    if row.bytes is not None and ceilings.get("copy"):
        times["bandwidth"] = row.bytes / ceilings["copy"]
    allowed = max(times.values(), default=None)
    bound = max(times, key=times.get) if times else None
    if bound is not None and allowed < ceilings.get("launch", 0.0):
        bound = "launch"
    return Derived(
        median=median,
        spread=(quantiles["0.75"] - quantiles["0.25"]) / median,
        flops_per_second=None if row.flops is None else row.flops / median,
        bytes_per_second=None if row.bytes is None else row.bytes / median,
        intensity=row.flops / row.bytes if row.flops is not None and row.bytes else None,
        roofline_share=None if allowed is None else allowed / median,
        bound=bound,
    )


def matmul_ceiling(ceilings: dict, dtype: str) -> float | None:
    """Flop/s of matrix products in `dtype`. Half types that have no ceiling are computed in float32, as on the CPU."""
    rates = ceilings.get("matmul", {})
    return rates.get(dtype) or (rates.get("float32") if dtype in ("float16", "bfloat16") else None)
