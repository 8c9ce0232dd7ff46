"""What is written down of a step on a GPU: each launch of a kernel, with the arrays and numbers that it got.

Launches are the same each time, so they become CUDA graphs (`graphs.py`), with two exceptions. What depends on a seed
runs anew in each replay, operation by operation (`calls.py`). And where an operation's check looks at values,
such as the range of labels, the host waits for it, which no graph can: it is done again by itself, before all else if
it looks at nothing that the step makes.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ...kernels import memory
from ..hooks import modules_that_show
from .arrays import is_array
from .recording import CaptureError, Recording, current


class _Thread(threading.local):
    looked_at: list | None = None


_thread = _Thread()


def replacements() -> Iterator[tuple[Any, str, Callable]]:
    """What a recording replaces, as `hooks.replaced` takes it: nothing before the first array on a GPU."""
    kernels = memory.__package__
    launch, gpu_arrays = (sys.modules.get(f"{kernels}.{name}") for name in ("launch", "gpu_arrays"))
    if launch is not None:
        yield launch.Kernel, "__call__", _launched
        yield launch.Kernel, "bound", _bound
    if gpu_arrays is not None:
        for module in modules_that_show("fetched", gpu_arrays.fetched):
            yield module, "fetched", _fetched


def forward(recording: Recording, operation, inputs: tuple, attributes: dict) -> tuple:
    """An operation's forward pass, whose launches are written down, as is its check if it looks at values."""
    checked = {name: value for name, value in attributes.items() if name != "out"}
    check = functools.partial(operation.check, *inputs, **checked)
    with recording.outside(), watching() as looked_at:
        check()
    if looked_at:
        early = not any(recording.knows(x) and not recording.is_argument(x) for x in looked_at if is_array(x))
        recording.add(
            recording.position, f"{operation.name} check", (inputs, checked), functools.partial(_check, check),
            early=early,
        )  # fmt: skip
    out = attributes.get("out")
    given = checked if out is None else attributes
    recording.claim(operation.name, out if type(out) is tuple else (out,))
    output, saved = operation.passes("gpu")[0](*inputs, **given)
    recording.save(saved, changes=False)
    return output, saved


def _check(check: Callable) -> None:
    with memory.supplied_by(None):
        check()


@contextlib.contextmanager
def watching() -> Iterator[list]:
    """What launches within it get, that are not written down."""
    _thread.looked_at = []
    try:
        yield _thread.looked_at
    finally:
        _thread.looked_at = None


def _launched(original: Callable) -> Callable:
    def call(kernel, grid, *arguments, **constants):
        recording = current()
        if recording is None:
            if _thread.looked_at is not None:
                _thread.looked_at.extend(arguments)
            return original(kernel, grid, *arguments, **constants)
        name = kernel.function.__name__
        recording.claim(name, arguments)
        with recording.inside():
            original(kernel, grid, *arguments, **constants)
        run = functools.partial(original, kernel, grid, *arguments, **constants)
        recording.add(recording.position, name, (grid, arguments, constants), run, fixed=True)

    return call


def _bound(original: Callable) -> Callable:
    """The launches of `launch_steps`, each as one."""

    def bind(kernel, grid, *arguments, **constants):
        recording, run = current(), original(kernel, grid, *arguments, **constants)
        if recording is None:
            if _thread.looked_at is not None:
                _thread.looked_at.extend(arguments)
            return run
        name = kernel.function.__name__
        recording.claim(name, arguments)

        def launch(step):
            run(step)
            given = grid, (*arguments, step), constants
            recording.add(recording.position, name, given, functools.partial(run, step), fixed=True)

        return launch

    return bind


def _fetched(original: Callable) -> Callable:
    def fetch(x):
        if current() is not None:
            raise CaptureError(
                "capture: expected a step whose values stay on the GPU, got one that reads some to find the size of a "
                "result; give the size, such as num_classes, as an argument"
            )
        return original(x)

    return fetch
