"""The roofline picture (Williams, Waterman and Patterson, 2009): how many operations a byte each kernel has to do, how
many a second it does, and what this machine's measured bandwidth and arithmetic would allow.

    roofline.save(record.read("conv.jsonl"), "conv.png")    # conv.png and conv.svg

A dot is a variant of a case; the variants of one case stand above each other, joined by a thin line. The number at
Ranvier's dot is explained in the list beside the picture.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..train.checkpoint import write_atomically
from ..train.pictures import new_figure
from . import table
from .record import Record, Row, derive, matmul_ceiling

_INK, _GRID, _PAPER = "#222222", "#bbbbbb", "white"
# Colours that stay apart for colour-blind eyes (Okabe and Ito), each with a shape of its own.
_STYLES = {
    "ranvier": ("#0072b2", "o"),
    "pytorch": ("#d55e00", "s"),
    "pytorch channels-last": ("#e69f00", "D"),
    "numpy": ("#009e73", "^"),
    "cupy": ("#cc79a7", "v"),
}
_OTHER_STYLES = (("#56b4e9", "P"), ("#8a8a8a", "X"), ("#b0a000", "<"), ("#7b5cb8", ">"), ("#6b3e26", "h"))
_MOST_NUMBERED, _LINES_A_COLUMN = 90, 45
_NUMBER_SIZE = 7.5  # points
_LEADER = {"arrowstyle": "-", "color": _GRID, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 2}
_METADATA = {"Date": None, "Creator": None}


@dataclass
class _Case:
    """A pass of a case: one place on the axis of intensity."""

    first: Row
    rows: list[tuple[Row, float, float]] = field(default_factory=list)  # with intensity and flop/s

    @property
    def named(self) -> tuple[Row, float, float]:
        """The dot that the number stands at: Ranvier's if it is there."""
        return next((one for one in self.rows if table.is_ours(one[0])), self.rows[0])


def save(record: Record, path: str | Path) -> list[Path]:
    """Draws the picture as PNG and SVG beside each other, under the name given with either ending or none.

    Raises:
        ValueError: no row has operations and bytes counted.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    figure = _draw(record)
    paths = []
    for suffix in (".png", ".svg"):
        target = stem.parent / (stem.name + suffix)
        write_atomically(target, lambda temporary, suffix=suffix: _save(figure, temporary, suffix[1:]))
        paths.append(target)
    return paths


def svg(record: Record) -> str:
    """The picture as an <svg> element for a page: the page's text colour, no background.

    Raises:
        ValueError: no row has operations and bytes counted.
    """
    figure = _draw(record)
    figure.patch.set_alpha(0)
    text = io.StringIO()
    _save(figure, text, "svg")
    element = text.getvalue()
    return element[element.index("<svg") :].replace(_INK, "currentColor")


def drawable(record: Record) -> bool:
    """Whether any row has operations and bytes counted."""
    return bool(_cases(record))


def _save(figure, target, kind: str) -> None:
    import matplotlib

    # Text stays text in the SVG; the salt makes its ids the same each time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ranvier"}):
        figure.savefig(target, format=kind, dpi=130, metadata=_METADATA if kind == "svg" else None)


def _cases(record: Record) -> list[_Case]:
    """What can be drawn, in the order of the record."""
    cases: dict[tuple, _Case] = {}
    for row in record.rows:
        found = derive(row, record.ceilings)
        if found.intensity and found.flops_per_second:
            case = cases.setdefault((*row.key[:-1],), _Case(row))
            case.rows.append((row, found.intensity, found.flops_per_second))
    return list(cases.values())


def _draw(record: Record):
    cases = _cases(record)
    if not cases:
        raise ValueError(
            "roofline: expected rows whose operations and bytes are counted, got none; kernels with no arithmetic "
            "have no place in the picture"
        )
    longest = {id(case) for case in sorted(cases, key=lambda case: -case.named[0].median)[:_MOST_NUMBERED]}
    numbered = [case for case in cases if id(case) in longest]
    columns = math.ceil(len(numbered) / _LINES_A_COLUMN)
    lines = math.ceil(len(numbered) / columns)
    list_width = 4.6 * columns
    figure, (axis,) = new_figure(9.2 + list_width, max(6.2, 1.6 + 0.165 * lines))
    figure.set_layout_engine("none")
    width = figure.get_figwidth()
    axis.set_position([1.05 / width, 0.11, 7.85 / width, 0.76])
    _set_up(axis, record, cases)
    _draw_ceilings(axis, record, cases)
    handles = _draw_dots(axis, cases)
    axis.legend(handles=handles, loc="lower right", fontsize=8.5, facecolor="none", edgecolor=_GRID, labelcolor=_INK)
    _number(figure, axis, cases, numbered)
    _list(figure, record, numbered, len(cases), 9.05 / width, 4.6 / width, lines)
    return figure


def _set_up(axis, record: Record, cases: Sequence[_Case]) -> None:
    """Scales, limits, units, title."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    points = [(x, y) for case in cases for _, x, y in case.rows]
    peaks = list(_peaks(record, cases).values())
    copy = record.ceilings.get("copy")
    ridges = [peak / copy for peak in peaks] if copy else []
    horizontal = (
        0.6 * min([x for x, _ in points] + [0.5 * ridge for ridge in ridges]),
        1.8 * max([x for x, _ in points] + [2.5 * ridge for ridge in ridges]),
    )
    vertical = 0.45 * min(y for _, y in points), 2.0 * max([y for _, y in points] + peaks)
    axis.set(xscale="log", yscale="log", xlim=horizontal, ylim=vertical)
    for one, (low, high) in ((axis.xaxis, horizontal), (axis.yaxis, vertical)):
        subs = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
        one.set_major_locator(LogLocator(subs=subs))
        one.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{table.quantity(value)}FLOP/s"))
    axis.set_xlabel("arithmetic intensity, FLOP a byte (least operations, least traffic)", color=_INK)
    figure, run = axis.figure, record.run
    figure.text(0.012, 0.95, f"Roofline: {_device(run['device'])}", fontsize=14, weight="bold", color=_INK)
    command = run["command"] if len(run["command"]) < 110 else run["command"][:107] + "..."
    figure.text(0.012, 0.915, f"{run['started'][:10]}    {command}", fontsize=9, color=_INK)
    axis.grid(color=_GRID, alpha=0.4, linewidth=0.6)
    axis.patch.set_alpha(0)
    axis.tick_params(colors=_INK, labelsize=8.5, which="both")
    for spine in axis.spines.values():
        spine.set_color(_GRID)


def _device(device: dict) -> str:
    counts = set(device.get("threads", {}).values())
    if len(counts) == 1:
        (count,) = counts
        return f"{device['name']}, {count} thread{'' if count == 1 else 's'}"
    return device["name"]


def _peaks(record: Record, cases: Sequence[_Case]) -> dict[str, float]:
    """Flop/s of matrix products, in the types that the picture has."""
    dtypes = dict.fromkeys(row.dtype for case in cases for row, _, _ in case.rows)
    return {dtype: peak for dtype in dtypes if (peak := matmul_ceiling(record.ceilings, dtype))}


def _draw_ceilings(axis, record: Record, cases: Sequence[_Case]) -> None:
    """The slope of the measured bandwidth and the measured rate of products in each type, with their values."""
    peaks, copy = _peaks(record, cases), record.ceilings.get("copy")
    left, right = axis.get_xlim()
    for dtype, peak in peaks.items():
        start = peak / copy if copy else left
        axis.plot([start, right], [peak, peak], color=_INK, linewidth=1.4)
        axis.annotate(
            f"{dtype} products {table.quantity(peak)}FLOP/s", (start, peak), (4, 4), textcoords="offset points",
            fontsize=8.5, color=_INK,
        )  # fmt: skip
    if not copy:
        return
    top = max(peaks.values(), default=axis.get_ylim()[1])
    axis.plot([left, top / copy], [left * copy, top], color=_INK, linewidth=1.4)
    # Written along the line, in the part of it that is in the picture.
    lowest = max(left, axis.get_ylim()[0] / copy)
    middle = math.sqrt(lowest * top / copy)
    axis.annotate(
        f"copy {table.quantity(copy)}B/s", (middle, middle * copy), (-5, 5), textcoords="offset points",
        rotation=math.degrees(math.atan2(*_slope(axis))), rotation_mode="anchor", ha="center", fontsize=8.5, color=_INK,
    )  # fmt: skip


def _slope(axis) -> tuple[float, float]:
    """Rise and run on paper of a line that rises tenfold where it runs tenfold."""
    origin, there = axis.transData.transform([(1.0, 1.0), (10.0, 10.0)])
    return there[1] - origin[1], there[0] - origin[0]


def _draw_dots(axis, cases: Sequence[_Case]) -> list:
    """The dots and the thin lines that join what belongs together; returns the legend's handles."""
    variants = dict.fromkeys(row.variant for case in cases for row, _, _ in case.rows)
    others = itertools.cycle(_OTHER_STYLES)
    styles = {variant: _STYLES.get(variant) or next(others) for variant in variants}
    for case in cases:
        heights = [y for _, _, y in case.rows]
        axis.plot([case.named[1]] * 2, [min(heights), max(heights)], color=_GRID, linewidth=0.9, zorder=2)
    handles = []
    for variant, (colour, marker) in styles.items():
        points = [(x, y) for case in cases for row, x, y in case.rows if row.variant == variant]
        front = 4 if variant.startswith("ranvier") else 3
        dots = {"s": 34, "marker": marker, "color": colour, "edgecolors": _PAPER, "linewidths": 0.6, "zorder": front}
        handles.append(axis.scatter(*zip(*points), label=variant, **dots))
    return handles


def _number(figure, axis, cases: Sequence[_Case], numbered: Sequence[_Case]) -> None:
    """Writes each case's number beside its dot, where neither a dot nor another number is."""
    scale = figure.dpi / 72
    dots = axis.transData.transform([(x, y) for case in cases for _, x, y in case.rows])
    taken = [(x - 3.2 * scale, y - 3.2 * scale, x + 3.2 * scale, y + 3.2 * scale) for x, y in dots]
    for number, case in enumerate(numbered, 1):
        _, x, y = case.named
        at = axis.transData.transform((x, y))
        half = (0.31 * len(str(number)) * _NUMBER_SIZE * scale, 0.5 * _NUMBER_SIZE * scale)
        place, box = _free_place(at, half, taken, scale)
        taken.append(box)
        offset = ((place[0] - at[0]) / scale, (place[1] - at[1]) / scale)
        far = math.hypot(*offset) > 13
        axis.annotate(
            str(number), (x, y), offset, textcoords="offset points", ha="center", va="center", fontsize=_NUMBER_SIZE,
            color=_INK, zorder=5,
            arrowprops=_LEADER if far else None,
        )  # fmt: skip


def _free_place(at, half: tuple[float, float], taken: Sequence[tuple], scale: float) -> tuple[tuple, tuple]:
    """The nearest centre around `at` for a box of that half width and height, and the box; the farthest ring's first
    place where all are taken."""
    for radius in (8, 11, 15, 20, 26, 33, 41, 50, 60):
        for angle in range(0, 360, 30):
            turned = math.radians(angle)
            x, y = at[0] + radius * scale * math.cos(turned), at[1] + radius * scale * math.sin(turned)
            box = (x - half[0], y - half[1], x + half[0], y + half[1])
            if not any(_overlap(box, other) for other in taken):
                return (x, y), box
    return (x, y), box


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _list(figure, record: Record, numbered: Sequence[_Case], count: int, left: float, width: float, lines: int) -> None:
    """What the numbers stand for: case, pass, rate, share of the roofline, against the best peer."""
    several = len({row.dtype for case in numbered for row, _, _ in case.rows}) > 1
    step = 0.8 / max(lines + 1, 36)
    for start in range(0, len(numbered), lines):
        x = left + start // lines * width
        _line(figure, x, 0.87, width, ("", "", "FLOP/s", "roofline", "vs best peer"))
        for index, case in enumerate(numbered[start : start + lines]):
            row, _, rate = case.named
            share = derive(row, record.ceilings).roofline_share
            peers = [one.median for one, _, _ in case.rows if not table.is_ours(one)]
            words = (row.name, row.case, row.direction, *([row.dtype] if several else []))
            cells = (
                str(start + index + 1),
                _shortened(" ".join(words), 42),
                table.quantity(rate),
                "" if share is None else f"{share:.0%}",
                f"{min(peers) / row.median:.2f}x" if peers and table.is_ours(row) else "",
            )
            _line(figure, x, 0.87 - (index + 1) * step, width, cells)
    if count > len(numbered):
        figure.text(left, 0.03, f"The {len(numbered)} longest-running of {count} are numbered.", fontsize=8, color=_INK)


def _line(figure, left: float, height: float, width: float, cells: Sequence[str]) -> None:
    for cell, place, side in zip(cells, (0.045, 0.06, 0.70, 0.81, 0.98), ("right", "left", "right", "right", "right")):
        figure.text(left + place * width, height, cell, ha=side, va="center", fontsize=7.5, color=_INK)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
