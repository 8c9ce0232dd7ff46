"""Traces in the Trace Event Format, which https://ui.perfetto.dev and chrome://tracing open.

Times are microseconds since the first event. A thread of the host is a line of time with layers and the kernels within
them; so is a GPU. Arrows lead from forward passes to their backward passes. The format is described in "Trace Event
Format" (Google, 2016): complete events "X", counters "C", flows "s" and "f", names "M".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..train.checkpoint import write_atomically
from .averages import describe_shapes
from .holdings import Ledger
from .recording import LayerNames, Span

_HOST, _DEVICES = 1, 2  # process numbers


def write(path: str | Path, spans: Sequence[Span], ledger: Ledger | None, layers: LayerNames) -> None:
    """Writes a trace, whole or not at all."""
    text = json.dumps({"traceEvents": list(events(spans, ledger, layers)), "displayTimeUnit": "ms"})
    write_atomically(Path(path), lambda temporary: Path(temporary).write_text(text))


def events(spans: Sequence[Span], ledger: Ledger | None, layers: LayerNames) -> Iterator[dict]:
    """All events of a trace."""
    spans = sorted(spans, key=lambda span: (span.start, -span.end))
    changes = [] if ledger is None else list(ledger.timeline())
    origin = min([span.start for span in spans[:1]] + [time for time, _ in changes[:1]], default=0)
    devices = sorted({span.device.device for span in spans if span.device is not None})
    yield _named("process_name", _HOST, 0, "host")
    for thread in sorted({span.thread for span in spans}):
        yield _named("thread_name", _HOST, thread, f"thread {thread}")
    if devices:
        yield _named("process_name", _DEVICES, 0, "GPUs")
    for device in devices:
        yield _named("thread_name", _DEVICES, device, f"cuda:{device}")
    identities = {}
    for number, span in enumerate(spans):
        identities[id(span)] = number
        event = _complete(span, layers, origin) | {"pid": _HOST, "tid": span.thread}
        yield event
        if span.device is not None:
            on_device = {"ts": (span.device.start - origin) / 1e3, "dur": span.device.time / 1e3}
            yield event | on_device | {"pid": _DEVICES, "tid": span.device.device}
        if span.cause is not None and id(span.cause) in identities:
            arrow = {"name": "backward of", "cat": "backward", "id": number, "pid": _HOST}
            cause = span.cause
            yield arrow | {"ph": "s", "ts": (cause.start - origin) / 1e3, "tid": cause.thread}
            yield arrow | {"ph": "f", "bp": "e", "ts": (span.start - origin) / 1e3, "tid": span.thread}
    for time, alive in changes:
        counter = {"name": "memory alive", "ph": "C", "pid": _HOST, "tid": 0, "ts": (time - origin) / 1e3}
        yield counter | {"args": {"bytes": alive}}


def _complete(span: Span, layers: LayerNames, origin: int) -> dict:
    title = layers.title(span.layer) if span.kind == "layer" else span.title
    details = {
        "layer": None if span.layer is None else layers.title(span.layer),
        "phase": span.phase,
        "inputs": describe_shapes(span.shapes) or None,
        "dtype": span.shapes[0][2] if span.shapes else None,
        "flops": span.flops,
        "bytes made": span.memory or None,
    }
    return {
        "name": title,
        "cat": span.kind,
        "ph": "X",
        "ts": (span.start - origin) / 1e3,
        "dur": (span.end - span.start) / 1e3,
        "args": {name: value for name, value in details.items() if value is not None},
    }


def _named(what: str, process: int, thread: int, name: str) -> dict:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
