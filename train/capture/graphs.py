"""CUDA graphs of a captured step: the launches that are the same in each replay, handed to the driver as one."""

from __future__ import annotations

import contextlib

from .arrays import on
from .recording import Call


class Graphs:
    """The calls of a step with all launches between two calls that need the GPU as one graph.

    A graph is made by launching all again on a stream that is being captured: nothing runs. They have run before, on
    the same arrays, so nothing is compiled, loaded or decided on the way. The scratch that launches ask for comes from
    a pool that no one else takes from, which lives as long as this object.

    Args:
        calls: in their order.
        gpu: the device's index.

    Attributes:
        calls: fewer ones, that do the same on CuPy's current stream of that device.
    """

    def __init__(self, calls: list[Call], gpu: int):
        import cupy

        self.calls: list[Call] = []
        # Not asynchronous: a graph that holds allocations cannot be launched again.
        self._pool = cupy.cuda.MemoryPool()
        with on(gpu):
            stream = cupy.cuda.Stream(non_blocking=True)
            launches: list[Call] = []
            for call in calls:
                if call.fixed:
                    launches.append(call)
                else:
                    if not call.idle:
                        self._capture(launches, stream)
                        launches = []
                    self.calls.append(call)
            self._capture(launches, stream)

    def _capture(self, launches: list[Call], stream) -> None:
        if not launches:
            return
        import cupy

        with stream, cupy.cuda.using_allocator(self._pool.malloc):
            stream.begin_capture()
            try:
                for call in launches:
                    call.run()
            except BaseException:
                # Leaves capture mode; what was captured is thrown away, and the driver may have done so already.
                with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            graph = stream.end_capture()
            graph.upload(stream)
        self.calls.append(Call(launches[0].position, graph.launch))
