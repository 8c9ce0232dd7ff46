"""A record as one HTML file that needs nothing else: machine, versions and command, the roofline, tables that sort.

    report.write("conv.jsonl", "conv.html")

A click on a column's head sorts by it, another click turns the order. The end of an address does the same, for links:
`conv.html#kernel-7-descending` opens the table of kernels sorted by its eighth column.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from ..train.checkpoint import write_atomically
from . import roofline, table
from .record import Record, Row, derive, read

_COLUMNS = (
    ("operation", "text"), ("case", "text"), ("type", "text"), ("pass", "text"), ("variant", "text"),
    ("median", "number"), ("spread", "number"), ("FLOP/s", "number"), ("B/s", "number"), ("FLOP/B", "number"),
    ("roofline", "number"), ("bound", "text"), ("vs best peer", "number"),
)  # fmt: skip
_ALIKE = 0.05  # medians this near to each other count as equal
_COMPUTED = {
    "spread": "the middle half of the samples as a share of the median; the bar shows the tenth to the ninetieth "
    "percentile, the box the middle half, the mark the median, on one scale for all variants of a case",
    "roofline": "the time that the measured ceilings allow, as a share of the median; above 100 % data stay in a cache",
    "bound": "which ceiling allows less: compute, bandwidth, or launch where a call costs more than the work",
    "vs best peer": "how many times as fast as the fastest other library",
}


def write(rows_path: str | Path, html_path: str | Path) -> None:
    """Writes the page for a file of measurements.

    Raises:
        FileNotFoundError, ValueError: as `record.read`.
    """
    page_text = page(read(rows_path))
    write_atomically(Path(html_path), lambda temporary: Path(temporary).write_text(page_text, encoding="utf-8"))


def page(record: Record) -> str:
    """The whole page."""
    device = record.run["device"]["name"]
    groups = dict.fromkeys(row.group for row in record.rows)
    parts = [
        f"<h1>{escape(device)}</h1>",
        f'<p class="quiet">{escape(record.run["started"])} · <code>{escape(record.run["command"])}</code></p>',
        *_summary(record),
        *_absent(record),
        "<h2>Roofline</h2>",
        f"<figure>{roofline.svg(record)}</figure>"
        if roofline.drawable(record)
        else "<p>No row has both operations and bytes counted, so there is nothing to draw.</p>",
        *(part for group in groups for part in _table(record, group)),
        "<h2>Machine</h2>",
        *_machine(record),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(device)}: Ranvier profile</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def _summary(record: Record) -> list[str]:
    """How often Ranvier is faster than the best peer, and by how much on the whole."""
    ratios = [ratio for ratio in _ratios(record).values() if ratio is not None]
    if not ratios:
        return ["<p>No peer was measured beside Ranvier.</p>"]
    faster, slower = sum(r > 1 + _ALIKE for r in ratios), sum(r < 1 - _ALIKE for r in ratios)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    return [
        '<ul class="cards">'
        f"<li><b>{mean:.2f}x</b>geometric mean against the best peer</li>"
        f'<li><b class="faster">{faster}</b>faster</li>'
        f"<li><b>{len(ratios) - faster - slower}</b>within {_ALIKE:.0%}</li>"
        f'<li><b class="slower">{slower}</b>slower</li></ul>'
    ]


def _ratios(record: Record) -> dict[tuple, float | None]:
    """For each of Ranvier's rows, by key, how many times as fast as the fastest peer; None where there is none."""
    peers: dict[tuple, float] = {}
    for row in record.rows:
        if not table.is_ours(row):
            peers[row.key[:-1]] = min(row.median, peers.get(row.key[:-1], math.inf))
    ratios = {}
    for row in record.rows:
        if table.is_ours(row):
            best = peers.get(row.key[:-1])
            ratios[row.key] = None if best is None else best / row.median
    return ratios


def _absent(record: Record) -> list[str]:
    """What was not measured: variants that are missing, and those that failed."""
    reasons: dict[str, list[str]] = {}
    for item in record.missing:
        reasons.setdefault(item.variant, []).append(item.reason)
    items = [
        f"<li><b>{escape(variant)}</b> is missing: {escape('; '.join(dict.fromkeys(why)))}</li>"
        for variant, why in reasons.items()
    ]
    items += [
        f'<li class="slower"><b>{escape(item.variant)}</b> was not timed on {escape(item.name)} {escape(item.case)}, '
        f"{escape(item.dtype)} {escape(item.direction)}: {escape(item.reason)}</li>"
        for item in record.errors
    ]
    return [f'<ul class="absent">{"".join(items)}</ul>'] if items else []


def _table(record: Record, group: str) -> list[str]:
    rows = [row for row in record.rows if row.group == group]
    longest: dict[tuple, float] = {}
    for row in rows:
        longest[row.key[:-1]] = max(row.quantiles["0.9"], longest.get(row.key[:-1], 0.0))
    ratios = _ratios(record)
    heads = "".join(
        f'<th scope="col" data-kind="{kind}"{_title(_COMPUTED.get(name))}><button>{escape(name)}</button></th>'
        for name, kind in _COLUMNS
    )
    body = "".join(_row(row, record, ratios.get(row.key), longest[row.key[:-1]]) for row in rows)
    name = escape(group.replace(" ", "-"))
    return [
        f"<h2>{escape(group[:1].upper() + group[1:])}s</h2>",
        f'<div class="wide"><table id="{name}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>',
    ]


def _row(row: Row, record: Record, ratio: float | None, longest: float) -> str:
    found = derive(row, record.ceilings)
    share = found.roofline_share
    cells = [
        _cell(row.name), _cell(row.case, title=row.shapes), _cell(row.dtype), _cell(row.direction),
        _cell(row.variant, title=row.configuration), _cell(table.duration(found.median), found.median),
        _cell(_bar(row, longest) + f"{found.spread:.0%}", found.spread, markup=True),
        _cell(table.quantity(found.flops_per_second), found.flops_per_second),
        _cell(table.quantity(found.bytes_per_second), found.bytes_per_second),
        _cell("-" if not found.intensity else f"{found.intensity:.3g}", found.intensity),
        _cell("-" if share is None else f"{share:.0%}", share),
        _cell(found.bound or "-"),
        _cell("" if ratio is None else f"{ratio:.2f}x", ratio, kind=_judged(ratio)),
    ]  # fmt: skip
    kind = ' class="ours"' if table.is_ours(row) else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _cell(text: str, value: float | None = None, title: str = "", kind: str = "", markup: bool = False) -> str:
    """A table's cell; `value` is what it sorts by, and text otherwise. `markup` says that `text` is HTML already."""
    attributes = f' data-value="{value!r}"' if value is not None else ""
    attributes += f' class="{kind}"' if kind else ""
    return f"<td{attributes}{_title(title)}>{text if markup else escape(text)}</td>"


def _title(text: str | None) -> str:
    return f' title="{escape(text, quote=True)}"' if text else ""


def _judged(ratio: float | None) -> str:
    if ratio is None or abs(ratio - 1) <= _ALIKE:
        return ""
    return "faster" if ratio > 1 else "slower"


def _bar(row: Row, longest: float) -> str:
    """Quantiles as a picture: a line from 10 to 90 %, a box from 25 to 75 %, a mark at the median."""
    at = {key: f"{100 * min(row.quantiles[key] / longest, 1):.2f}" for key in ("0.1", "0.25", "0.5", "0.75", "0.9")}
    return (
        '<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<line x1="{at["0.1"]}" x2="{at["0.9"]}" y1="6" y2="6"/>'
        f'<rect x="{at["0.25"]}" y="2" height="8" width="{max(float(at["0.75"]) - float(at["0.25"]), 0.8):.2f}"/>'
        f'<line class="median" x1="{at["0.5"]}" x2="{at["0.5"]}" y1="0" y2="12"/></svg>'
    )


def _machine(record: Record) -> list[str]:
    run, found = record.run, record.ceilings
    measured: list[tuple[str, str]] = []
    if found.get("copy"):
        measured.append(("copy", f"{table.quantity(found['copy'])}B/s"))
    measured += [
        (f"products in {dtype}", f"{table.quantity(rate)}FLOP/s") for dtype, rate in found.get("matmul", {}).items()
    ]
    if found.get("launch"):
        measured.append(("an empty call", table.duration(found["launch"])))
    lists = [
        ("Device", ((name, _plain(value)) for name, value in run["device"].items())),
        ("Versions", run["versions"].items()),
        (f"Ceilings, measured {str(found.get('measured', ''))[:10]}".strip(" ,"), measured),
    ]
    return ['<div class="machine">', *(_pairs(title, pairs) for title, pairs in lists), "</div>"]


def _plain(value) -> str:
    return ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else str(value)


def _pairs(title: str, pairs: Iterable[Sequence]) -> str:
    lines = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs)
    return f"<section><h3>{escape(title)}</h3><dl>{lines or '<dt>not measured</dt>'}</dl></section>"


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2129; --quiet: #667; --line: #dfe2e8; --band: #f6f7f9;
  --faster: #0a7a3d; --slower: #c0392b; --ours: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181d; --ink: #e4e6ea; --quiet: #9aa0ac; --line: #333842;
  --band: #1e2128; --faster: #4cc38a; --slower: #ff7b72; --ours: #5ab0e6; } }
body { margin: 2rem auto; max-width: 96rem; padding: 0 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; } h3 { margin: 0 0 .4rem; }
.quiet, dt, .cards li { color: var(--quiet); } code { overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; list-style: none; }
.cards li { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem; }
.cards b { display: block; font-size: 1.5rem; color: var(--ink); }
.faster, .cards .faster { color: var(--faster); } .slower, .cards .slower { color: var(--slower); }
.absent { padding-left: 1.2rem; } figure { margin: 0; } figure svg { width: 100%; height: auto; }
.wide { overflow: auto; max-height: 85vh; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--line); padding: 0; z-index: 1; }
th button { all: unset; cursor: pointer; display: block; padding: .45rem .6rem; font-weight: 600; white-space: nowrap;
  text-align: left; } th button:focus-visible { outline: 2px solid var(--ours); outline-offset: -2px; }
th[data-kind=number] button { text-align: right; }
th button::after { content: " \\2195"; opacity: .25; } th[aria-sort] button::after { opacity: 1; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td { padding: .25rem .6rem; white-space: nowrap; } tr:nth-child(even) td { background: var(--band); }
td:nth-child(n+6):not(:nth-child(12)) { text-align: right; } 
.ours td:nth-child(5) { color: var(--ours); font-weight: 600; }
.bar { width: 7rem; height: .8rem; vertical-align: middle; margin-right: .5rem; overflow: visible; }
.bar line { stroke: var(--quiet); stroke-width: 1; vector-effect: non-scaling-stroke; }
.bar rect { fill: var(--quiet); opacity: .45; } .bar .median { stroke: var(--ink); stroke-width: 2; }
.ours .bar rect { fill: var(--ours); } .ours .bar .median { stroke: var(--ours); }
.machine { display: flex; flex-wrap: wrap; gap: 2.5rem; } dl { display: grid; grid-template-columns: auto auto;
  gap: .1rem 1rem; margin: 0; } dd { margin: 0; }
"""

_SCRIPT = """
function sortBy(table, column, order) {
  const head = table.tHead.rows[0].cells[column], body = table.tBodies[0];
  const value = row => {
    const cell = row.cells[column];
    if (head.dataset.kind === "text") return cell.textContent;
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };
  const sign = order === "descending" ? -1 : 1;
  const compare = (a, b) => {
    const x = value(a), y = value(b);
    if (x === null || y === null) return (x === null) - (y === null);  // what has no value stays at the end
    return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
  };
  [...body.rows].sort(compare).forEach(row => body.append(row));
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
}
for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => head.addEventListener("click", () =>
    sortBy(table, column, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending")));
}
function sortByAddress() {
  const asked = location.hash.match(/^#(.+)-(\\d+)-(ascending|descending)$/);
  const table = asked && document.getElementById(asked[1]);
  if (table && table.tHead.rows[0].cells[asked[2]]) sortBy(table, Number(asked[2]), asked[3]);
}
addEventListener("hashchange", sortByAddress);
sortByAddress();
"""
