"""Where the time and the memory of your own code go: `with rv.profile() as p:`.

    with rv.profile(model) as p:
        for x, y in loader:
            loss = rv.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            p.step()
    print(p.table(group_by="layer"))
    p.export_chrome_trace("trace.json")     # opens in https://ui.perfetto.dev

Every kernel's forward and backward pass, layer, optimizer step, clipping and batch that a DataLoader makes is timed
while the block runs. It works by replacing the library's functions on entry and putting them back on exit: before and
after, nothing is there that could cost anything. Results are the same bits with and without.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns as clock
from typing import NamedTuple

from ..layers.layer import Layer
from .averages import Average, averages, table
from .holdings import Peak
from .recording import Recording, Span


class Step(NamedTuple):
    """One step of a profile: its seconds, less what the profile took for itself, and whether spans were recorded."""

    seconds: float
    is_recorded: bool


class profile:
    """Records what a block does, in all threads.

    Args:
        model: gives its layers their names, as `state_dict` has them. Without it, names start at the layer called.
        warm_up: calls of `step()` before recording starts: kernels are compiled when they are first called.
        memory: whether to watch arrays; see `peak_memory`.
        nvtx: whether to mark ranges for NVIDIA's Nsight, through CuPy.

    A backward pass is seen where its forward pass ran in the block, after the warm-up. What the profile takes for
    itself is left out of all times, but for the few microseconds a call that replaced functions cost by being called.
    A time on a GPU is from when it reached the kernel's first launch to when it was done with the last.

    Raises:
        RuntimeError: another profile is open in this process, in whichever thread.
        ModuleNotFoundError, ValueError: nvtx is asked for and CuPy cannot do it.

    Attributes:
        steps: what each call of `step()` closed, warm-up included.
    """

    def __init__(self, model: Layer | None = None, *, warm_up: int = 0, memory: bool = True, nvtx: bool = False):
        if model is not None and not isinstance(model, Layer):
            raise TypeError(f"profile: expected model as a layer or None, got {type(model).__name__}")
        if not isinstance(warm_up, int) or warm_up < 0:
            raise ValueError(f"profile: expected warm_up as an integer of 0 or more, got {warm_up!r}")
        self.steps: list[Step] = []
        self._recording = Recording(model, memory, nvtx)
        self._warm_up = warm_up
        self._hooks: ExitStack | None = None
        self._state = "new"
        self._wall = self._opened = self._step_started = self._thread = 0

    def __enter__(self) -> profile:
        from .hooks import install

        if self._state != "new":
            raise RuntimeError("profile: expected a new profile() for each block, got one that was used before")
        if not _one_at_a_time.acquire(blocking=False):
            raise RuntimeError("profile: expected one profile at a time, got one within or beside another that is open")
        try:
            self._hooks = install(self._recording)
        except BaseException:
            _one_at_a_time.release()
            raise
        self._state, self._thread = "open", self._recording.thread.number
        self._step_started = self._now()
        if self._warm_up == 0:
            self._begin()
        return self

    def __exit__(self, *_) -> None:
        if self._recording.active:
            self._wall = self._now() - self._opened
        self._hooks.close()
        self._state = "closed"
        _one_at_a_time.release()
        self._recording.finish()

    def step(self) -> None:
        """Says that a training step has ended and the next begins."""
        self._expect("open", "step() within the block")
        now = self._now()
        self.steps.append(Step((now - self._step_started) / 1e9, self._recording.active))
        self._step_started = now
        if len(self.steps) == self._warm_up:
            self._begin()

    # ---- results

    @property
    def wall_time(self) -> float:
        """Seconds recorded, less what the profile took for itself."""
        return self._wall / 1e9

    @property
    def spans(self) -> list[Span]:
        """All that was recorded, in the order in which it ended."""
        self._expect("closed", "results to be asked for after the block")
        return self._recording.spans

    def key_averages(
        self, group_by: str = "kernel", *, by_shape: bool = False, per_step: bool = False
    ) -> list[Average]:
        """What was recorded, added up.

        Args:
            group_by: 'kernel' (operation and pass), 'layer' or 'phase' (forward, backward, optimizer, clipping, data,
                other).
            by_shape: for kernels, a row for each shape of the inputs.
            per_step: means a recorded step, in place of sums.
        """
        spans = self.spans
        outside = self._wall - sum(span.time for span in spans if span.parent is None and span.thread == self._thread)
        rows = averages(spans, self._wall, outside, self._recording.layers, group_by, by_shape)
        if per_step:
            count = self._recorded_steps()
            rows = [row.divided_by(count) for row in rows]
        return rows

    def table(
        self,
        group_by: str = "kernel",
        *,
        sort_by: str | None = "self_time",
        row_limit: int | None = None,
        by_shape: bool = False,
        per_step: bool = False,
    ) -> str:
        """The same as text.

        Args:
            group_by, by_shape, per_step: as for `key_averages`.
            sort_by: a field of `Average`, the largest first; None keeps the order in which rows were first met.
            row_limit: rows to show, without an order those of the most time; one more row holds the rest together.
        """
        rows = self.key_averages(group_by, by_shape=by_shape, per_step=per_step)
        return table(rows, group_by, sort_by, row_limit, per_step)

    @property
    def peak_memory(self) -> Peak:
        """The most bytes that were alive at once, and what held them.

        Counted are arrays that operations read, made or saved, with the whole memory that they are views of, from when
        the profile first sees them to when they are gone; not what a kernel allocates and drops within one call.
        """
        self._expect("closed", "results to be asked for after the block")
        if self._recording.ledger is None:
            raise ValueError("profile: expected memory=True where peak_memory is asked for")
        return self._recording.ledger.peak()

    def export_chrome_trace(self, path: str | Path) -> None:
        """Writes a trace that https://ui.perfetto.dev and chrome://tracing open: layers, and kernels within them, on a
        line of time for each thread and each GPU, and the memory alive."""
        from .chrome_trace import write

        write(path, self.spans, self._recording.ledger, self._recording.layers)

    # ---- how it is done

    def _now(self) -> int:
        """Nanoseconds on a clock of this thread that stands still while the profile is at work."""
        return clock() - self._recording.thread.bookkeeping

    def _begin(self) -> None:
        self._opened = self._now()
        self._recording.active = True

    def _recorded_steps(self) -> int:
        count = sum(step.is_recorded for step in self.steps)
        if count == 0:
            raise ValueError("profile: expected step() to be called after the warm-up where per_step is asked for")
        return count

    def _expect(self, state: str, what: str) -> None:
        if self._state != state:
            raise RuntimeError(f"profile: expected {what}")


_one_at_a_time = threading.Lock()
