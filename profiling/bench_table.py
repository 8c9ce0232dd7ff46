"""The bench's rows against PyTorch's: ratios, geometric means, and the table in text and in Markdown.

Everything is computed from a record (`record.Record`), so that a table is the same whether it was just measured or
read from a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..train.checkpoint import write_atomically
from .bench_libraries import CAPTURED, CHANNELS_LAST, PYTORCH, RANVIER
from .record import Record, Row

MEMORY = "peak memory"
OVERHEAD = "overhead"
HEADER = (
    f"{'row':56} {'ranvier':>11} {'captured':>11} {'pytorch':>11} {'channels-l.':>11} {'ratio':>8} {'captured':>8}"
    "  spread"
)
LEGEND = (
    "ratio: time of PyTorch's faster layout by Ranvier's, above 1 Ranvier is faster, `<` marks those below; spread: "
    "middle half of the samples, of the median, of whichever library scatters more"
)


class Line(NamedTuple):
    """One row of the table.

    seconds (or bytes, in the group MEMORY) are medians; `pytorch` and `channels_last` are None where that
    layout was not measured. `ratio` is the better of them by Ranvier's, `captured_ratio` by that of Ranvier's captured
    step, None where there is none.
    """

    group: str
    family: str
    name: str
    case: str
    direction: str
    ranvier: float
    captured: float | None
    pytorch: float | None
    channels_last: float | None
    ratio: float
    captured_ratio: float | None
    spread: float

    @property
    def label(self) -> str:
        """What people read: "conv2d/resnet_56 forward"."""
        return f"{self.name}/{self.case} {self.direction}".removesuffix(" step").rstrip()


class Mean(NamedTuple):
    """The geometric mean of some lines' ratios, and how many of them are below 1."""

    label: str
    ratio: float
    lines: int
    below: int


def line_of(rows: Sequence[Row]) -> Line | None:
    """The line of one case and direction from its variants' rows; None where one side is missing."""
    by_variant = {row.variant: row for row in rows}
    ours, captured = by_variant.pop(RANVIER, None), by_variant.pop(CAPTURED, None)
    if ours is None or not by_variant:
        return None
    best = min(by_variant.values(), key=lambda row: row.median)
    medians = {variant: row.median for variant, row in by_variant.items()}
    return Line(
        ours.group,
        ours.family,
        ours.name,
        ours.case,
        ours.direction,
        ours.median,
        captured and captured.median,
        medians.get(PYTORCH),
        medians.get(CHANNELS_LAST),
        best.median / ours.median,
        captured and best.median / captured.median,
        max(_spread(ours), _spread(best)),
    )


def lines_of(record: Record) -> list[Line]:
    """The table of a record, in the record's order."""
    by_line: dict[tuple, list[Row]] = {}
    for row in record.rows:
        by_line.setdefault((row.group, row.name, row.case, row.direction), []).append(row)
    lines = [line for rows in by_line.values() if (line := line_of(rows)) is not None]
    return lines + [memory_line(model, peaks) for model, peaks in record.run.get("memory", {}).items()]


def memory_line(model: str, peaks: dict[str, int]) -> Line:
    """The line of a network's peak memory: bytes by variant. The ratio is above 1 where Ranvier needs less."""
    theirs = min(value for variant, value in peaks.items() if variant != RANVIER)
    medians = peaks.get(PYTORCH), peaks.get(CHANNELS_LAST)
    own = peaks[RANVIER]
    return Line(MEMORY, "memory", "memory", model, "", own, None, *medians, theirs / own, None, 0.0)


def geometric_mean(ratios: Iterable[float]) -> float:
    """The number whose logarithm is the mean of the ratios' logarithms."""
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def means_of(lines: Sequence[Line]) -> list[Mean]:
    """Geometric means of kernels, training steps, small networks and what else there is; then family by family."""
    kernels = [line for line in lines if line.group == "kernel"]
    steps = [line for line in lines if line.group == "training step"]
    parts = {
        "kernels": kernels,
        "kernels, forward": [line for line in kernels if line.direction == "forward"],
        "kernels, backward": [line for line in kernels if line.direction == "backward"],
        "training steps": steps,
        "small networks": [line for line in steps if line.case == "small"],
        "medium networks": [line for line in steps if line.case == "medium"],
        "large networks": [line for line in steps if line.case == "large"],
    }
    for group in dict.fromkeys(line.group for line in lines):
        if group not in ("kernel", "training step"):
            parts[group] = [line for line in lines if line.group == group]
    for family in sorted({line.family for line in kernels}):
        parts[f"kernels, {family}"] = [line for line in kernels if line.family == family]
    ratios = {label: [line.ratio for line in part] for label, part in parts.items()}
    captured = [line for line in steps if line.captured_ratio is not None]
    ratios |= {
        "training steps, captured": [line.captured_ratio for line in captured],
        "small networks, captured": [line.captured_ratio for line in captured if line.case == "small"],
    }
    return [
        Mean(label, geometric_mean(part), len(part), sum(ratio < 1 for ratio in part))
        for label, part in ratios.items()
        if part
    ]


def text_line(line: Line) -> str:
    """A line of the table, under HEADER."""
    mark = "<" if line.ratio < 1 else " "
    captured = "" if line.captured_ratio is None else f"{line.captured_ratio:.2f}x"
    times = " ".join(f"{cell:>11}" for cell in _cells(line))
    return f"{line.label:56} {times} {line.ratio:7.2f}x{mark} {captured:>7} {line.spread:5.0%}"


def text_means(means: Sequence[Mean]) -> str:
    """The geometric means, a line each."""
    rows = (f"{m.label:32} {m.ratio:6.2f}x {m.lines:5} {m.below:9}" for m in means)
    return "\n".join([f"{'geometric mean':32} {'ratio':>7} {'rows':>5} {'below 1x':>9}", *rows])


def machine(run: dict) -> str:
    """What a record was measured on and with, in one sentence."""
    device, versions = run["device"], run["versions"]
    threads = ", ".join(f"{name} {count}" for name, count in device["threads"].items()) or "each library's own default"
    packages = ", ".join(f"{name} {versions[name]}" for name in _NAMED if name in versions)
    return f"{device['name']}; threads: {threads}; {packages}; {run['started']}"


def write_markdown(path: str | Path, record: Record) -> None:
    """Writes the whole table as a Markdown page, whole or not at all."""
    text = markdown(record)
    write_atomically(Path(path), lambda temporary: Path(temporary).write_text(text))


def markdown(record: Record) -> str:
    """The whole table as a Markdown page."""
    lines = lines_of(record)
    parts = [
        "# Ranvier against PyTorch, row by row",
        f"`{record.run['command']}` on {machine(record.run)}.",
        "Both libraries run in processes of their own, in turns, with the threads that each sets by default; results "
        "agree before anything is timed. A ratio is the time of PyTorch's better variant by Ranvier's: above 1, "
        "Ranvier is faster; **bold** is below. PyTorch's optimizers are its fused ones. `captured` is the same step "
        "through `rv.capture`.",
        means_markdown(means_of(lines)),
    ]
    for group in dict.fromkeys(line.group for line in lines):
        parts.append(f"## {_TITLES.get(group, group.capitalize())}")
        parts.append(_table([line for line in lines if line.group == group]))
    failed = [*record.errors, *record.missing]
    if failed:
        parts.append("## Not measured")
        parts.append("\n".join(f"- {_failure(item)}" for item in failed))
    return "\n\n".join(parts) + "\n"


def means_markdown(means: Sequence[Mean]) -> str:
    """The geometric means as a Markdown table, as the README shows them."""
    rows = (f"| {m.label} | {m.ratio:.2f}x | {m.lines} | {m.below} |" for m in means)
    return "\n".join(["| geometric mean | ratio | rows | below 1x |", "|---|---:|---:|---:|", *rows])


_NAMED = ("python", "ranvier", "numpy", "numba", "torch")
_TITLES = {"kernel": "Kernels", "training step": "Training steps"}


def _table(lines: Sequence[Line]) -> str:
    names = ["row", "ranvier", "captured", "pytorch", "channels-last", "ratio", "captured ratio", "spread"]
    cells = [
        [line.label, *_cells(line), _ratio(line.ratio), _ratio(line.captured_ratio), f"{line.spread:.0%}"]
        for line in sorted(lines, key=lambda line: (line.family, line.name))
    ]
    # Columns in which nothing stands are left out: only training steps are captured, only images have layouts.
    used = [i for i in range(len(names)) if any(row[i] for row in cells)]
    head = ["| " + " | ".join(names[i] for i in used) + " |", "|---" + "|---:" * (len(used) - 1) + "|"]
    return "\n".join([*head, *("| " + " | ".join(row[i] for i in used) + " |" for row in cells)])


def _cells(line: Line) -> list[str]:
    return [_measure(line, value) for value in (line.ranvier, line.captured, line.pytorch, line.channels_last)]


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"**{ratio:.2f}x**" if ratio < 1 else f"{ratio:.2f}x"


def _failure(item) -> str:
    return f"{getattr(item, 'name', '')} {getattr(item, 'case', '')} {item.variant}: {item.reason}".strip()


def _measure(line: Line, value: float | None) -> str:
    if value is None:
        return ""
    if line.group == MEMORY:
        return f"{value / 2**20:.0f} MiB"
    return f"{value * 1e6:.2f} us" if line.group == OVERHEAD else f"{value * 1e3:.3f} ms"


def _spread(row: Row) -> float:
    return (row.quantiles["0.75"] - row.quantiles["0.25"]) / row.median
