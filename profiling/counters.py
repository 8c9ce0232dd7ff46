"""The processor's own counters of a call: instructions, cycles, cache misses, by `perf stat` attached to this process.

perf counts all threads of the process between two words on a pipe, so that nothing but the calls is in its figures.
Where perf is missing, or the kernel or a virtual machine keeps the counters to itself, `unavailable` says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

EVENTS = ("instructions", "cycles", "cache-misses")
_SECONDS = 0.2
_PATIENCE = 10.0  # seconds for perf to answer


def unavailable(events: Sequence[str] = EVENTS) -> str | None:
    """Why the events cannot be counted here, in a sentence; None if they can."""
    if shutil.which("perf") is None:
        return "no processor counters: `perf` is not installed (Debian: apt-get install linux-perf)"
    try:
        found = count(lambda: None, events, seconds=0.01)
    except OSError as error:
        return f"no processor counters: {error}"
    if missing := [event for event in events if event not in found]:
        return f"no processor counters: perf cannot count {', '.join(missing)} here (a virtual machine seldom can)"
    return None


def count(call: Callable[[], object], events: Sequence[str] = EVENTS, seconds: float = _SECONDS) -> dict[str, float]:
    """Events a call, of all threads of this process in user mode, over as many calls as `seconds` hold.

    Events that cannot be counted here are left out.

    Raises:
        OSError: perf does not run, or may not look at this process; the message is perf's own.
    """
    control_out, control_in = os.pipe()
    answer_out, answer_in = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "counts")
        command = [
            "perf", "stat", "--field-separator=;", "--event", ",".join(events), "--pid", str(os.getpid()),
            "--output", str(report), "--delay=-1", f"--control=fd:{control_out},{answer_in}",
        ]  # fmt: skip
        perf = subprocess.Popen(command, pass_fds=(control_out, answer_in), stderr=subprocess.PIPE, text=True)
        os.close(control_out)
        os.close(answer_in)
        try:
            _tell(perf, "enable", control_in, answer_out)
            calls, started = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - started < seconds:
                call()
                calls += 1
            _tell(perf, "disable", control_in, answer_out)
        finally:
            os.close(control_in)
            os.close(answer_out)
            perf.send_signal(signal.SIGINT)
            perf.communicate(timeout=_PATIENCE)
        return {event: value / calls for event, value in _read(report.read_text()).items()}


def _tell(perf: subprocess.Popen, word: str, control: int, answer: int) -> None:
    """Sends perf a command and waits until it has obeyed; its end of the pipe closes when it gives up."""
    try:
        os.write(control, f"{word}\n".encode())
        obeyed = os.read(answer, 16)
    except BrokenPipeError:
        obeyed = b""
    if not obeyed.startswith(b"ack"):
        reason = " ".join(perf.communicate(timeout=_PATIENCE)[1].split())
        raise OSError(f"perf stat gave up: {reason[:200]}")


def _read(text: str) -> dict[str, float]:
    """Event -> count, from perf's lines `count;unit;event;...`; '<not supported>' and '<not counted>' are left out."""
    found = {}
    for line in text.splitlines():
        value, _, rest = line.partition(";")
        if value.replace(".", "", 1).isdecimal():
            found[rest.split(";")[1].removesuffix(":u")] = float(value)
    return found
