"""Time on GPUs, by CuPy's events: recorded beside the work without waiting for it, and read when all is done.

What lies between two events is the time from when the GPU reached the first to when it reached the second. Where the
host is slower than the GPU, that is the time between launches and not the kernels' own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter_ns as clock
from typing import Any

from .holdings import is_array


@dataclass(eq=False, slots=True)
class DeviceSpan:
    """A stretch of a GPU's time.

    Attributes:
        device: its index.
        start: when it reached the first event, on the host's clock; known when the profile has ended.
        time: nanoseconds until it reached the second.
    """

    device: int
    events: list[Any] = field(repr=False)
    start: int = 0
    time: int = 0


class DeviceClock:
    """Events of one profile."""

    def __init__(self):
        self._spans: list[DeviceSpan] = []
        self._origins: dict[int, tuple[Any, int]] = {}

    def start(self, arrays) -> DeviceSpan | None:
        """Records an event on the current stream of the device where the first of (name, array) lies; None on the CPU.
        Arrays of one operation lie on one device."""
        array = arrays[0][1]
        if not is_on_gpu(array):
            return None
        device = array.device.id
        if device not in self._origins:
            self._origins[device] = self._origin(device)
        span = DeviceSpan(device, [_recorded(device)])
        self._spans.append(span)
        return span

    def end(self, span: DeviceSpan) -> None:
        """Records the second event."""
        span.events.append(_recorded(span.device))

    def finish(self) -> None:
        """Waits for all events and reads them."""
        if not self._spans:
            return
        from cupy.cuda import get_elapsed_time

        for span in self._spans:
            first, last = span.events
            last.synchronize()
            origin, host = self._origins[span.device]
            span.start = host + round(get_elapsed_time(origin, first) * 1e6)
            span.time = round(get_elapsed_time(first, last) * 1e6)
            span.events.clear()
        self._spans.clear()
        self._origins.clear()

    @staticmethod
    def _origin(device: int) -> tuple[Any, int]:
        """An event, and when it was on the host's clock: the device is idle, so that it is at once."""
        import cupy

        cupy.cuda.Device(device).synchronize()
        event = _recorded(device)
        event.synchronize()
        return event, clock()


def is_on_gpu(value) -> bool:
    """Whether it is a CuPy array."""
    return is_array(value) and type(value).__module__.partition(".")[0] == "cupy"


def _recorded(device: int):
    import cupy

    with cupy.cuda.Device(device):
        event = cupy.cuda.Event()
        event.record()
    return event
