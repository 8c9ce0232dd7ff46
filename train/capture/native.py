"""CPU kernels of a captured step called without Python in between: which passes allow it, and how they are joined.

A pass is watched while it is recorded. Its kernels may be called again without it, on the same arrays and numbers, if
- it changes no memory but through its kernels: between two of their calls no array has other bytes than before,
- what the kernels look at lies where it will lie in each replay: it is the pass's own, taken from the step's plan, it
  was given to the pass, or it is one that the library keeps and that was there at the first recording too,
- nothing that is computed comes back to Python: no kernel returns something, and none gets a number that depends on an
  array's values.

The last cannot be seen from one run. This library's operations keep to it, to which a test holds them all with other
values; of a user's own nobody knows, and their Python runs in each replay.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...kernels import memory
from ...kernels.operation import Operation
from ..hooks import modules_that_show
from .arrays import address_of, owner_of
from .recording import Call

_LIBRARY = Operation.__module__.rpartition(".")[0]  # the package of all families
# Looking at all that a pass works on takes time, and what works on so many bytes is not kept waiting by Python.
_MOST_BYTES = 2 << 20
_UNLIKELY = 0xA5  # a byte


def is_own(operation: Operation) -> bool:
    """Whether the operation is this library's, none of which decides in Python what depends on an array's values."""
    return operation.family.startswith(f"{_LIBRARY}.")


class Watch:
    """What a pass does to memory.

    Args:
        given: the arrays that it gets, in tuples, lists and dicts.
        knows: whether an array lies in memory that each replay finds in the same place.
        scratch: pieces of memory by the name of a workspace; grows.
        closely: whether to find out if the pass is plain, too.

    Attributes:
        calls: of its kernels, as long as it is plain.
        strangers: what owns the arrays that kernels got though they are not known, in the order of the calls.
        plain: whether the pass has done nothing but call kernels that can be called again.
    """

    def __init__(self, given, knows: Callable[[Any], bool], scratch: dict[str, np.ndarray], closely: bool):
        self.calls: list = []
        self.strangers: list = []
        self.plain = closely
        self._knows, self._scratch = knows, scratch
        self._sums: dict[tuple, tuple[np.ndarray, int]] = {}
        for array in _arrays_in(given):
            self.look_at(array)

    def take_in(self, array) -> None:
        """Looks at new memory, after writing to it what hardly anybody writes, so that every other change is one."""
        if self.plain:
            array.reshape(-1).view(np.uint8).fill(_UNLIKELY)
            self.look_at(array)

    def look_at(self, array) -> None:
        """From here on the array has these contents, until a kernel is called."""
        if self.plain:
            self._sums[address_of(array), array.shape, array.strides] = array, _sum_of(array)
            self.plain = sum(seen.nbytes for seen, _ in self._sums.values()) <= _MOST_BYTES

    def check(self) -> None:
        """Looks whether something has changed other than by a kernel."""
        self.plain = self.plain and all(_sum_of(array) == before for array, before in self._sums.values())

    def call(self, kernel, arguments: tuple):
        """Calls a kernel, between two looks at memory."""
        from ...kernels import cpu_replay  # not before a kernel was called: `import ranvier` goes without Numba

        self.check()
        result = cpu_replay.call(kernel, arguments)
        for array in _arrays_in(arguments):
            owner = owner_of(array)
            if array.size and not self._knows(array) and not any(owner is own for own in self._scratch.values()):
                self.strangers.append(owner)
        if self.plain:
            self.plain = result is None and cpu_replay.can_replay(kernel, arguments)
            self.calls.append(cpu_replay.KernelCall(kernel, arguments))
            for array in [*_arrays_in(arguments), *(array for array, _ in self._sums.values())]:
                self.look_at(array)
        return result

    def workspace(self, name: str, shape: int | tuple[int, ...], dtype) -> np.ndarray:
        """As `memory.workspace`, of memory that is not the thread's: replays may run on another one."""
        size = (math.prod(shape) if isinstance(shape, tuple) else shape) * np.dtype(dtype).itemsize
        if name not in self._scratch or self._scratch[name].size < size:
            with memory.supplied_by(None):
                self._scratch[name] = memory.empty(size, np.uint8)
        array = self._scratch[name][:size].view(dtype).reshape(shape)
        self.take_in(array)
        return array


def kernels_of(name: str, *arguments) -> list | None:
    """The calls of kernels that do what the function of that name in `accumulate.py` does; None if none do."""
    from ...kernels import cpu_accumulate

    call = getattr(cpu_accumulate, name)(*arguments)
    return None if call is None else [call]


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
        watch.check()
    finally:
        _thread.watch = None


def joined(calls: list[Call]) -> list[Call]:
    """The calls of a step with all kernels that follow each other as one call."""
    from ...kernels.cpu_replay import Program

    result: list[Call] = []
    for native, group in itertools.groupby(calls, key=lambda call: call.kernels is not None):
        group = list(group)
        if not native:
            result += group
        elif kernels := [kernel for call in group for kernel in call.kernels]:
            result.append(Call(group[0].position, Program(kernels)))
    return result


def listening() -> contextlib.AbstractContextManager:
    """Within it a watch hears of kernels."""
    if f"{_LIBRARY}.cpu_jit" not in sys.modules:  # as on a GPU: there are no kernels to listen to
        return contextlib.nullcontext()
    from ...kernels import cpu_replay

    return cpu_replay.listening()


def replacements() -> Iterator[tuple[Any, str, Callable]]:
    """What takes the place of the doors to memory, so that a watch sees what is behind them."""
    for name, hook in (("workspace", _workspace), ("zeros", _zeros)):
        for module in modules_that_show(name, getattr(memory, name)):
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


def _sum_of(array) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _arrays_in(value) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays_in(part)
    elif isinstance(value, dict):
        yield from _arrays_in(list(value.values()))
