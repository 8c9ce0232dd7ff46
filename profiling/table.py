"""Rows as people read them in a terminal: a block a case, a line a variant."""

from __future__ import annotations

from collections.abc import Sequence

from .record import Derived, Record, Row, derive

_HEADER = ("pass", "variant", "median", "spread", "FLOP/s", "B/s", "FLOP/B", "roofline", "bound", "vs best peer")
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def block(rows: Sequence[Row], ceilings: dict) -> str:
    """The rows of one case under a line that says what was computed."""
    first = rows[0]
    lines = [_HEADER]
    for direction in dict.fromkeys(row.direction for row in rows):
        same = [row for row in rows if row.direction == direction]
        peers = [row.median for row in same if not is_ours(row)]
        for row in same:
            lines.append((*_cells(row, derive(row, ceilings)), _ratio(row, peers)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    left = {0, 1, 8}  # columns of words
    table = [
        "  " + "  ".join(cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    ]
    configurations = dict.fromkeys(f"{row.variant}: {row.configuration}" for row in rows if row.configuration)
    title = f"{first.name} {first.case}, {first.dtype}: {first.shapes}"
    counted = [_counters(row) for row in rows if row.counters]
    return "\n".join([title, *(line.rstrip() for line in table), *counted, f"  ({'; '.join(configurations)})"])


def _counters(row: Row) -> str:
    """What the processor counted in a call, and instructions a cycle."""
    found = row.counters
    words = [f"{quantity(value).rstrip()} {event}" for event, value in found.items()]
    if found.get("cycles"):
        words.append(f"{found.get('instructions', 0) / found['cycles']:.2f} instructions a cycle")
    return f"  {row.direction} {row.variant}, a call: {', '.join(words)}"


def is_ours(row: Row) -> bool:
    """Whether a row is one of Ranvier's."""
    return row.variant.partition(" ")[0] == "ranvier"


def machine_lines(record: Record) -> list[str]:
    """The machine, its threads and its ceilings."""
    device, found = record.run["device"], record.ceilings
    threads = ", ".join(f"{name} {count}" for name, count in device.get("threads", {}).items())
    lines = [device["name"] + (f"; threads: {threads}" if threads else "")]
    if found:
        products = ", ".join(f"{dtype} {quantity(rate)}FLOP/s" for dtype, rate in found["matmul"].items())
        lines.append(
            f"ceilings measured {found['measured'][:10]}: copy {quantity(found['copy'])}B/s; products {products}; "
            f"a call {duration(found['launch'])}"
        )
    return lines


def quantity(value: float | None) -> str:
    """'12.3 G' for 12.3e9; '-' for None."""
    if value is None:
        return "-"
    for scale, unit in _UNITS:
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} "


def duration(seconds: float) -> str:
    """'1.23 ms'."""
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _cells(row: Row, found: Derived) -> tuple[str, ...]:
    return (
        row.direction,
        row.variant,
        duration(found.median),
        f"{found.spread:.0%}",
        quantity(found.flops_per_second).rstrip() if row.flops else "-",
        quantity(found.bytes_per_second).rstrip(),
        "-" if not found.intensity else f"{found.intensity:.3g}",
        "-" if found.roofline_share is None else f"{found.roofline_share:.0%}",
        found.bound or "-",
    )


def _ratio(row: Row, peers: Sequence[float]) -> str:
    """How many times faster than the fastest peer."""
    return f"{min(peers) / row.median:.2f}x" if peers and is_ours(row) else ""
