"""The clock for work on CuPy arrays: two events around the work, and enough before it that the host is ahead.

A kernel of microseconds is launched in about as long as it runs. Were the stream empty when the first event is
recorded, the time between the events would be the host's. So copies are enqueued first, long enough for the host to
enqueue all calls of a sample while the GPU is still busy; whether it was is asked of the first event before the second
is recorded. Where it never is, because the work itself waits for the GPU, the samples hold the host's time too: the
clock's `exposed` counts them.

Data that fit in the L2 cache would stay there between calls: `sets_past_cache` says how many sets of inputs to use in
turn so that each call finds its own gone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from .machine import device_index, last_cache_bytes
from .timing import Clock, HostClock

_COPY_BYTES = 64 << 20
_LONGEST_BACKLOG = 0.2  # seconds
_MOST_SETS = 64
_MOST_CALLS = 200  # in a sample: fewer than a stream's queue holds, so that the host never waits for room in it


def clock_for(device: str) -> Clock:
    """The clock of a device: the processor's, or events."""
    return HostClock() if device == "cpu" else GpuClock(device)


def sets_past_cache(device: str, input_bytes: int) -> int:
    """How many sets of inputs, used in turn, are twice what the device's L2 cache holds. On the CPU 1: its caches stay
    warm, as between a network's layers."""
    if device == "cpu":
        return 1
    return min(max(math.ceil(2 * last_cache_bytes(device) / max(input_bytes, 1)), 1), _MOST_SETS)


class GpuClock:
    """Times what is enqueued on CuPy's current stream of a device.

    Attributes:
        exposed: samples so far in which the GPU caught up with the host.
    """

    def __init__(self, device: str):
        import cupy

        self._cupy, self._device = cupy, cupy.cuda.Device(device_index(device))
        with self._device:
            self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()
            self._source, self._target = (cupy.empty(_COPY_BYTES, "u1") for _ in range(2))
        self._copy_seconds = self._measure_copy()
        self.exposed = 0

    def settle(self) -> None:
        """Waits until the GPU has nothing to do."""
        self._device.synchronize()

    def sample(self, function: Callable[[], object], calls: int) -> float:
        """Seconds on the GPU for all calls. More than can be enqueued ahead are timed in parts."""
        whole = 0.0
        while calls > 0:
            part = min(calls, _MOST_CALLS)
            whole += self._behind_a_backlog(function, part)
            calls -= part
        return whole

    def _behind_a_backlog(self, function: Callable[[], object], calls: int) -> float:
        backlog = 4 * calls * self._host_seconds(function)
        while True:
            seconds, hidden = self._events(function, calls, min(backlog, _LONGEST_BACKLOG))
            if hidden or backlog >= _LONGEST_BACKLOG:
                self.exposed += not hidden
                return seconds
            backlog *= 4

    def _host_seconds(self, function: Callable[[], object]) -> float:
        """What the host needs to enqueue one call."""
        self.settle()
        started = time.perf_counter()
        function()
        lasted = time.perf_counter() - started
        self.settle()
        return lasted

    def _events(self, function: Callable[[], object], calls: int, backlog: float) -> tuple[float, bool]:
        with self._device:
            for _ in range(max(math.ceil(backlog / self._copy_seconds), 1)):
                self._target.data.copy_from_device_async(self._source.data, _COPY_BYTES)
            self._start.record()
            for _ in range(calls):
                function()
            hidden = not self._start.done
            self._end.record()
            self._end.synchronize()
            return self._cupy.cuda.get_elapsed_time(self._start, self._end) / 1e3, hidden

    def _measure_copy(self, copies: int = 20) -> float:
        with self._device:
            self._start.record()
            for _ in range(copies):
                self._target.data.copy_from_device_async(self._source.data, _COPY_BYTES)
            self._end.record()
            self._end.synchronize()
            return self._cupy.cuda.get_elapsed_time(self._start, self._end) / 1e3 / copies
