"""What got faster and what slower between two files of measurements, beyond the noise.

  ranvier profile conv --output before.jsonl
  ...
  ranvier profile conv --output after.jsonl
  ranvier profile compare before.jsonl after.jsonl

The rule: a measurement changed if the middle halves of its samples do not overlap (the lower quartile of one lies above
the upper quartile of the other) and the medians differ by more than `--least` (3 %). Both are asked for: on a quiet
machine the halves are narrower than what any two runs differ by, and on a busy one they are wide.

Exit status: 0 if nothing got slower, 1 if something did, 2 if the files cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import record
from .record import Record, Row
from .table import duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ranvier profile compare`."""
    parser.add_argument("old", type=Path, metavar="OLD", help="measurements before (JSON lines)")
    parser.add_argument("new", type=Path, metavar="NEW", help="measurements after")
    parser.add_argument(
        "--least", type=float, default=0.03, help="smallest change of a median that counts (%(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="show what did not change too")
    parser.add_argument("--variant", default="ranvier", help="whose measurements; 'all' for every one (%(default)s)")
    parser.add_argument("--force", action="store_true", help="compare different devices or numbers of threads")


class Change(NamedTuple):
    """One measurement before and after; `verdict` is "faster", "slower" or "same"."""

    old: Row
    new: Row
    verdict: str

    @property
    def ratio(self) -> float:
        """How many times faster it is now."""
        return self.old.median / self.new.median


def run(options: argparse.Namespace) -> int:
    """Prints what changed; returns the exit status."""
    try:
        old, new = record.read(options.old), record.read(options.new)
        changes = compare(old, new, options.variant, options.least, force=options.force)
    except (ValueError, OSError) as error:
        print(f"ranvier: {error}", file=sys.stderr)
        return 2
    print(report(changes, old, new, show_all=options.all))
    return 1 if any(change.verdict == "slower" for change in changes) else 0


def compare(old: Record, new: Record, variant: str = "ranvier", least: float = 0.03, *, force=False) -> list[Change]:
    """The measurements that both records hold, with a verdict each.

    Raises:
        ValueError: they come from different devices or numbers of threads and `force` is False, or have no measurement
            in common.
    """
    if not force:
        for what in ("name", "threads"):
            before, after = old.run["device"].get(what), new.run["device"].get(what)
            if before != after:
                raise ValueError(
                    f"profile compare: expected measurements of one device, got {what} {before} and {after}; "
                    "--force compares them all the same"
                )
    before = {row.key: row for row in old.rows if variant in ("all", row.variant)}
    pairs = [(before[row.key], row) for row in new.rows if row.key in before]
    if not pairs:
        raise ValueError(
            f"profile compare: expected measurements in common, got {len(before)} and {len(new.rows)} without any "
            f"of one name, case, shapes, dtype, pass and variant (--variant {variant})"
        )
    return [Change(a, b, _verdict(a, b, least)) for a, b in pairs]


def _verdict(old: Row, new: Row, least: float) -> str:
    if new.quantiles["0.25"] > old.quantiles["0.75"] and new.median > old.median * (1 + least):
        return "slower"
    if new.quantiles["0.75"] < old.quantiles["0.25"] and new.median * (1 + least) < old.median:
        return "faster"
    return "same"


def report(changes: Sequence[Change], old: Record, new: Record, *, show_all: bool = False) -> str:
    """The changes as text, the slower ones first."""
    lines = [f"old: {_origin(old)}", f"new: {_origin(new)}"]
    for verdict in ("slower", "faster", *(("same",) if show_all else ())):
        found = sorted((c for c in changes if c.verdict == verdict), key=lambda c: abs(c.ratio - 1), reverse=True)
        for change in found:
            row = change.new
            lines.append(
                f"{verdict:7} {change.ratio:6.2f}x  {duration(change.old.median):>8} -> {duration(row.median):>8}  "
                f"{row.name} {row.case} {row.dtype} {row.direction} ({row.variant})"
            )
    counts = {verdict: sum(c.verdict == verdict for c in changes) for verdict in ("slower", "faster", "same")}
    lines.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    apart = len({row.key for row in old.rows} ^ {row.key for row in new.rows})
    if apart:
        lines.append(f"{apart} measurements are in one of the files only")
    return "\n".join(lines)


def _origin(made: Record) -> str:
    return f"{made.run['started']}  {made.run['device']['name']}  ranvier {made.run['versions'].get('ranvier')}"
