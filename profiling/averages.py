"""A profile's spans added up: by kernel, by layer or by phase, as rows and as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

from .recording import PHASES, LayerNames, Span

GROUPS = ("kernel", "layer", "phase")


@dataclass
class Average:
    """What belongs to one kernel, layer or phase; times in seconds. Times, flops and memory of all rows of a group add
    up to those of the whole profile, but for `total_time`, which holds what is nested.

    Attributes:
        name: the kernel (operation and pass), the layer (path and class), the phase; in brackets what belongs to none.
        calls: of the kernel or the layer; for phases, and for what belongs to no layer, kernel calls.
        self_time: what was spent in it, less the layers and kernels of their own that it called. A layer's own kernels,
            forward and backward, are its self time.
        total_time: with all that it called; a layer's with the backward passes that belong to it.
        share: of `self_time` in the time that was recorded.
        kernel_time: the part of `self_time` that was spent in kernels; the rest is the host's between them.
        forward_time, backward_time: the parts of `total_time` that were spent in these phases.
        flops: declared by the operations, and derived from that for backward passes (`work.py`); None where there are
            none.
        memory: bytes of the arrays that its kernels made and left behind.
        device_time: time on the GPU, None on the CPU.
    """

    name: str
    calls: float = 0
    self_time: float = 0.0
    total_time: float = 0.0
    share: float = 0.0
    kernel_time: float = 0.0
    forward_time: float = 0.0
    backward_time: float = 0.0
    flops: float | None = None
    memory: float = 0
    device_time: float | None = None

    def divided_by(self, count: int) -> Average:
        """The mean of `count` steps, where this is their sum."""
        means = {name: getattr(self, name) for name in _SUMS if getattr(self, name) is not None}
        return replace(self, **{name: value / count for name, value in means.items()})


_SUMS = [entry.name for entry in fields(Average) if entry.name not in ("name", "share")]


def averages(
    spans: Sequence[Span], wall: int, outside: int, layers: LayerNames, group_by: str, by_shape: bool
) -> list[Average]:
    """Rows in the order in which each was first met, those in brackets last.

    Args:
        spans: of a profile.
        wall: nanoseconds that it was open, without bookkeeping.
        outside: those of them that are in no span.
        layers: names.
        group_by: one of GROUPS.
        by_shape: a row for each kernel and shapes of its inputs.
    """
    if group_by not in GROUPS:
        raise ValueError(f"profile: expected group_by as one of {', '.join(map(repr, GROUPS))}, got {group_by!r}")
    rows: dict[str, Average] = {}

    def row(name: str) -> Average:
        return rows.setdefault(name, Average(name))

    key_of: Callable[[Span], str] = {
        "kernel": lambda span: _kernel_key(span, by_shape),
        "layer": lambda span: _layer_key(span, layers),
        "phase": lambda span: span.phase,
    }[group_by]
    counted = ("kernel", "layer") if group_by == "layer" else ("kernel",)
    for span in sorted(spans, key=lambda span: span.start):
        key = key_of(span)
        _add(row(key), span)
        if span.kind in counted and not (span.kind == "kernel" and group_by == "layer" and span.layer is not None):
            rows[key].calls += 1
    other = {"kernel": "(other, outside kernels)", "layer": "(other, no layer)", "phase": "other"}[group_by]
    row(other).self_time += outside / 1e9
    _add_totals(rows, spans, key_of, group_by, layers)
    rows[other].total_time += outside / 1e9
    for each in rows.values():
        each.share = each.self_time * 1e9 / wall if wall else 0.0
    if group_by == "phase":
        return [rows[phase] for phase in PHASES if phase in rows]
    return sorted(rows.values(), key=lambda row: row.name.startswith("("))


def _add(row: Average, span: Span) -> None:
    seconds = span.self_time / 1e9
    row.self_time += seconds
    row.memory += span.memory
    if span.kind == "kernel":
        row.kernel_time += seconds
    if span.flops is not None:
        row.flops = (row.flops or 0) + span.flops
    if span.device is not None:
        row.device_time = (row.device_time or 0.0) + span.device.time / 1e9


def _add_totals(
    rows: dict[str, Average], spans: Iterable[Span], key_of: Callable, group_by: str, layers: LayerNames
) -> None:
    """Each span's own time goes to its row and to those around it, to each once."""
    for span in spans:
        keys, around = {key_of(span)}, span.parent
        while around is not None:
            if _is_row_of_its_own(around, group_by):
                keys.add(key_of(around))
            around = around.parent
        if group_by == "layer" and span.layer is not None:
            keys |= {layers.title(path) for path in layers.above(span.layer)}
        for key in keys & rows.keys():
            seconds = span.self_time / 1e9
            rows[key].total_time += seconds
            if span.phase == "forward":
                rows[key].forward_time += seconds
            elif span.phase == "backward":
                rows[key].backward_time += seconds


def _is_row_of_its_own(span: Span, group_by: str) -> bool:
    """Whether what lies within is part of it, and not only called while it was open."""
    return {"kernel": span.kind == "kernel", "layer": span.layer is not None, "phase": True}[group_by]


def _kernel_key(span: Span, by_shape: bool) -> str:
    if span.kind != "kernel":
        return f"({span.phase}, outside kernels)"
    if not by_shape:
        return span.title
    shapes = (span.cause or span).shapes
    return f"{span.title}: {describe_shapes(shapes)}"


def _layer_key(span: Span, layers: LayerNames) -> str:
    return f"({span.phase}, no layer)" if span.layer is None else layers.title(span.layer)


def describe_shapes(shapes) -> str:
    """Shapes as people write them: 'x 32x64x56x56, weight 64x64x3x3'."""
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape, _ in shapes)


# ---- the table

SORTABLE = tuple(entry.name for entry in fields(Average))


def table(rows: Sequence[Average], group_by: str, sort_by: str | None, row_limit: int | None, per_step: bool) -> str:
    """Rows as text.

    Args:
        rows: of one group.
        group_by: which.
        sort_by: a field of Average, the largest first; None keeps the order.
        row_limit: rows to show, without an order those of the most time; one more row holds the rest together.
        per_step: say that the figures are a step's.
    """
    if sort_by is not None and sort_by not in SORTABLE:
        raise ValueError(f"profile: expected sort_by as None or one of {', '.join(SORTABLE)}, got {sort_by!r}")
    if row_limit is not None and row_limit < 1:
        raise ValueError(f"profile: expected row_limit of 1 or more, got {row_limit}")
    rows = list(rows)
    if sort_by == "name":
        rows.sort(key=lambda row: row.name)
    elif sort_by is not None:
        rows.sort(key=lambda row: -(getattr(row, sort_by) or 0))
    if row_limit is not None and len(rows) > row_limit:
        kept = rows[:row_limit] if sort_by else sorted(rows, key=lambda row: -row.self_time)[:row_limit]
        rest = [row for row in rows if row not in kept]
        rows = [*(row for row in rows if row in kept), _together(rest)]
    columns = [column for column in _COLUMNS if column[1] in (None, group_by)]
    if all(row.device_time is None for row in rows):
        columns = [column for column in columns if column[0] != "GPU"]
    header = [group_by + (", a step" if per_step else ""), *(name for name, _, _ in columns)]
    lines = [header, *([row.name, *(text(row) for _, _, text in columns)] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:]))]
        ).rstrip()
        for line in lines
    )


def _together(rows: Sequence[Average]) -> Average:
    rest = Average(f"({len(rows)} more)")
    for row in rows:
        for name in ("calls", "self_time", "share", "kernel_time", "memory"):
            setattr(rest, name, getattr(rest, name) + getattr(row, name))
        for name in ("flops", "device_time"):
            if getattr(row, name) is not None:
                setattr(rest, name, (getattr(rest, name) or 0) + getattr(row, name))
    return rest


def seconds(value: float) -> str:
    """A time as people read it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3f} {unit}"
    return f"{value / 1e-6:.3f} us" if value else "-"


def size(value: float) -> str:
    """Bytes as people read them."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.2f} {unit}"
    return f"{value:.0f} B" if value else "-"


def _mean(row: Average) -> str:
    return seconds(row.total_time / row.calls) if row.calls and row.total_time else "-"


def _flops(row: Average) -> str:
    return "-" if not row.flops else f"{row.flops / 1e6:,.3f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


# (heading, the only group that has it or None for all, text of a row)
_COLUMNS: list[tuple[str, str | None, Callable[[Average], str]]] = [
    ("self", None, lambda row: seconds(row.self_time)),
    ("share", None, lambda row: f"{100 * row.share:.1f} %"),
    ("total", None, lambda row: seconds(row.total_time)),
    ("forward", "layer", lambda row: seconds(row.forward_time)),
    ("backward", "layer", lambda row: seconds(row.backward_time)),
    ("in kernels", "phase", lambda row: seconds(row.kernel_time)),
    ("between", "phase", lambda row: seconds(row.self_time - row.kernel_time)),
    ("GPU", None, lambda row: "-" if row.device_time is None else seconds(row.device_time)),
    ("calls", None, lambda row: _number(row.calls)),
    ("a call", "kernel", _mean),
    ("MFLOP", None, _flops),
    ("memory", None, lambda row: size(row.memory)),
]
