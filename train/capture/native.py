"""CPU kernels of a captured step called without Python in between: which passes allow it, and how they are joined.

A pass is watched while it is recorded. Its kernels may be called again without it, on the same arrays and numbers, if
- it changes no memory but through its kernels: between two of their calls no array has other bytes than before,
- what the kernels look at lies where it will lie in each replay: in memory of the step's plan, or in an array that was
  there at the first recording too; or it is integers that the pass has computed from shapes, which stay as they are,
- nothing that is computed comes back to Python: no kernel returns something, and none gets a number that depends on an
  array's values.

The last cannot be seen from one run. This library's operations keep to it, to which a test holds them all with other
values; of a user's own nobody knows, and their Python runs in each replay.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...kernels import destinations, memory
from ...kernels.operation import Operation
from ..hooks import modules_that_show
from .arrays import address_of
from .recording import Call, Recording

_KERNELS = Operation.__module__.rpartition(".")[0]
# Looking at all that a pass works on takes time, and what works on so many bytes is not kept waiting by Python.
_MOST_BYTES = 64 << 20
_UNLIKELY = 0xA5  # a byte


def is_own(module: str) -> bool:
    """Whether a module is this library's, where no pass decides in Python what depends on an array's values."""
    return module.startswith(f"{_KERNELS.partition('.')[0]}.")


class Watch:
    """What a pass does to memory.

    Args:
        recording: what the pass belongs to.
        given: the arrays that it gets, in tuples, lists and dicts.
        tables: whether there are integers among its operation's inputs.
        closely: whether to find out if its kernels can be called without it.
    """

    def __init__(self, recording: Recording, given, tables: bool, closely: bool):
        self._recording = recording
        self._calls: list = []
        self._strangers: list = []  # arrays that kernels got though they lie elsewhere, in the order of the calls
        self._plain = closely  # it has done nothing, so far, but call kernels that can be called again
        # Kinds of arrays that need not be there again: integers that it computes from shapes are as good as numbers,
        # what it computes from tables is not.
        self._as_numbers = "" if tables else "iu"
        self._sums: dict[tuple, tuple[np.ndarray, int]] = {}
        self._bytes = 0  # of these arrays
        self._look_at(_arrays_in(given))

    def take_in(self, array) -> None:
        """Takes note of new memory, after writing to it what hardly anybody writes, so that others show who write."""
        self._check([array])
        if self._plain:
            array.reshape(-1).view(np.uint8).fill(_UNLIKELY)
            self._look_at([array])

    def call(self, kernel, arguments: tuple):
        """Calls a kernel, between two looks at memory."""
        from ...kernels import cpu_replay  # not before a kernel was called: `import ranvier` goes without Numba

        self._check()
        arrays = list(_arrays_in(arguments))
        strangers = [x for x in arrays if x.size and not self._recording.knows(x)]
        integers = [(x, _sum_of(x)) for x in strangers if x.dtype.kind in "iu"]
        result = cpu_replay.call(kernel, arguments)
        self._strangers += strangers
        if any(_sum_of(x) != before for x, before in integers):
            self._as_numbers = ""  # a kernel works on them
        if self._plain:
            self._plain = result is None and cpu_replay.can_replay(kernel, arguments)
            self._calls.append(cpu_replay.KernelCall(kernel, arguments))
            self._look_at(arrays)
        return result

    def accumulate(self, name: str, original: Callable, arguments: tuple):
        """Calls a function of `accumulate.py`, between two looks at memory, and notes the kernel that does the same, or
        the function itself where it makes no array."""
        self._check()
        result = original(*arguments)
        calls = kernels_of(name, arguments, result) if self._plain else []
        if calls is None and (result is None or any(result is x for x in arguments)):
            calls = [functools.partial(original, *arguments)]
        arrays = [*_arrays_in(arguments), *_arrays_in(result)]
        self._strangers += [x for x in arrays if x.size and not self._recording.knows(x)]
        if self._plain and calls is not None:
            self._calls += calls
            self._look_at(arrays)
        return result

    def workspace(self, name: str, shape: int | tuple[int, ...], dtype) -> np.ndarray:
        """As `memory.workspace`, of memory that is not the thread's: replays may run on another one."""
        size = (math.prod(shape) if isinstance(shape, tuple) else shape) * np.dtype(dtype).itemsize
        scratch = self._recording.scratch
        if name not in scratch or scratch[name].size < size:
            with memory.supplied_by(None):
                scratch[name] = memory.empty(size, np.uint8)
        self._recording.remember(scratch[name])
        array = scratch[name][:size].view(dtype).reshape(shape)
        self.take_in(array)
        return array

    def kernels(self) -> list | None:
        """The calls that can be made instead of the pass, which has ended; None if they do not do the same."""
        self._check()
        lasting = self._recording.meets_again(self._strangers, or_equal=self._as_numbers)
        return self._calls if self._plain and lasting else None

    def _look_at(self, arrays) -> None:
        """From here on these have their present contents, as has what shares memory with them."""
        if not self._plain:
            return
        new = {_place_of(x): x for x in arrays}
        new |= {place: x for place, (x, _) in self._sums.items() if _shares_memory(x, new.values())}
        self._bytes += sum(x.nbytes for place, x in new.items() if place not in self._sums)
        self._plain = self._bytes <= _MOST_BYTES
        if self._plain:
            self._sums |= {place: (x, _sum_of(x)) for place, x in new.items()}

    def _check(self, arrays=None) -> None:
        """Looks whether something has changed since, or what shares memory with `arrays`."""
        self._plain = self._plain and all(
            _sum_of(array) == before
            for array, before in self._sums.values()
            if arrays is None or _shares_memory(array, arrays)
        )


@contextlib.contextmanager
def looking(seen: list) -> Iterator[None]:
    """Within it, kernels that this thread calls are added to `seen`, with their arguments."""
    from ...kernels import cpu_replay

    def note(kernel, arguments: tuple):
        seen.append((kernel, arguments))
        return cpu_replay.call(kernel, arguments)

    with cpu_replay.noted_by(note):
        yield


def checks_of(tables: list, seen: list, check: Callable) -> list | None:
    """The calls of kernels that do the same as an operation's check of its tables of indices.

    Args:
        seen: what the check has called.
        check: the check, which a kernel that fails calls again to say what is wrong.

    Returns:
        The calls; None if the check has not asked, of each table, whether all of it is in a range, and nothing else.
    """
    from ...kernels.cpu_indices import all_in_range, require_in_range
    from ...kernels.cpu_replay import KernelCall

    asked = {(address_of(arguments[0]), arguments[0].size) for kernel, arguments in seen if kernel is all_in_range}
    if len(asked) < len(seen) or not all((address_of(x), x.size) in asked and x.flags.c_contiguous for x in tables):
        return None
    return [KernelCall(require_in_range, arguments, check) for _, arguments in seen]


def kernels_of(name: str, arguments: tuple, result=None) -> list | None:
    """The calls of kernels that do what the function of that name in `accumulate.py` does; None if none do.

    Args:
        result: what it has returned.
    """
    from ...kernels import cpu_accumulate

    given = arguments if result is None or any(x is result for x in arguments) else (*arguments, result)
    write_down = getattr(cpu_accumulate, name, None)
    call = None if write_down is None else write_down(*given)
    return None if call is None else [call]


def accumulated(name: str, original: Callable, arguments: tuple):
    """A call of the function of that name in `accumulate.py`, outside of what is recorded by itself."""
    watch = _thread.watch
    return original(*arguments) if watch is None else watch.accumulate(name, original, arguments)


class _Thread(threading.local):
    watch: Watch | None = None


_thread = _Thread()


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Within it runs the pass, on this thread, with `replacements` in place."""
    from ...kernels import cpu_replay

    take = memory.supplier()

    def taken(shape, dtype):
        array = take(shape, dtype)
        watch.take_in(array)
        return array

    _thread.watch = watch
    try:
        with memory.supplied_by(taken), cpu_replay.noted_by(watch.call):
            yield
    finally:
        _thread.watch = None


def joined(calls: list[Call]) -> list[Call]:
    """The calls of a step with all kernels that follow each other as one call."""
    from ...kernels.cpu_replay import KernelCall, Program

    steps = []
    for call in calls:
        steps += [call] if call.kernels is None else call.kernels
    result: list[Call] = []
    for native, group in itertools.groupby(steps, key=lambda step: isinstance(step, KernelCall)):
        if native:
            result.append(Call(0, Program(list(group))))
        else:
            result += [step if isinstance(step, Call) else Call(0, step) for step in group]
    return result


def listening() -> contextlib.AbstractContextManager:
    """Within it a watch hears of kernels."""
    if f"{_KERNELS}.cpu_jit" not in sys.modules:  # as on a GPU: there are no kernels to listen to
        return contextlib.nullcontext()
    from ...kernels import cpu_replay

    return cpu_replay.listening()


def replacements() -> Iterator[tuple[Any, str, Callable]]:
    """What takes the place of the doors to memory, so that a watch sees what is behind them."""
    for door, name, hook in (
        (memory, "workspace", _workspace), (memory, "zeros", _zeros), (destinations, "gradient", _gradient)
    ):  # fmt: skip
        for module in modules_that_show(name, getattr(door, name)):
            yield module, name, hook


def _workspace(original: Callable) -> Callable:
    return lambda *wanted: original(*wanted) if _thread.watch is None else _thread.watch.workspace(*wanted)


def _zeros(original: Callable) -> Callable:
    def zeros(shape, dtype):
        if _thread.watch is None:
            return original(shape, dtype)
        from ...kernels.cpu_accumulate import clear

        array = memory.empty(shape, dtype)
        clear(array)
        return array

    return zeros


def _gradient(original: Callable) -> Callable:
    def gradient(index, shape, dtype):
        array = original(index, shape, dtype)
        if _thread.watch is not None and destinations.is_in(array, destinations.offered()):
            _thread.watch.take_in(array)
        return array

    return gradient


def _sum_of(array) -> int:
    from ...kernels.cpu_replay import checksum

    return checksum(np.ascontiguousarray(array))


def _place_of(array) -> tuple:
    """Where an array's elements lie, in whatever shape."""
    form = (array.nbytes,) if array.flags.c_contiguous else (array.shape, array.strides)
    return address_of(array), *form


def _shares_memory(array, others) -> bool:
    return any(np.may_share_memory(array, other) for other in others)


def _arrays_in(value) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays_in(part)
    elif isinstance(value, dict):
        yield from _arrays_in(list(value.values()))
