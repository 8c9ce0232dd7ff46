"""What is written down of a step that shall be replayed: its calls, with the very arrays that they touched.

A step is recorded twice. The first recording measures: which arrays the step makes, and when it lets go of each. From
that follows a plan in which arrays that are never alive together share memory. The second recording takes its arrays
from the plan, so that its calls can be repeated in the same memory. Both must agree in every call, number and array
from outside: what differs from one run to the next would be frozen, and is refused.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..kernels import memory
from ..layers.tensor import Tensor

_ALIGNMENT = 64  # bytes, as kernels like it


class CaptureError(RuntimeError):
    """A step that cannot be captured, with the reason."""


class Seed(int):
    """A key for a counter-based generator that the step has drawn: each replay draws its own."""


class Call(NamedTuple):
    """One call of a step.

    Attributes:
        position: how many arrays the step has made before it.
        run: does it again.
    """

    position: int
    run: Callable[[], None]


class _Block(NamedTuple):
    """Where an array of the step lies: in which piece of memory."""

    piece: int
    shape: tuple[int, ...]
    dtype: np.dtype


class _Thread(threading.local):
    recording: Recording | None = None


_thread = _Thread()


def current() -> Recording | None:
    """The recording that this thread's next call belongs into; None also inside of a call that is written down."""
    return _thread.recording


class Recording:
    """One run of a step, written down.

    Args:
        inputs: the arrays of the step's arguments.
        first: the measuring recording that this one must agree with; None if this is it.

    Attributes:
        calls: what does again what the step did, in order.
        saved: what forward passes saved for backward passes, by the order of the former.
        leaves: the tensors that got a gradient.
        supply: where the step's arrays come from; None while measuring.
    """

    def __init__(self, inputs: list[np.ndarray], first: Recording | None = None):
        self.calls: list[Call] = []
        self.saved: list = []
        self.leaves: dict[int, Tensor] = {}
        self.supply = None if first is None else Supply(first.plan())
        self._first = first
        self._facts: list[tuple] = []
        self._outer: list[np.ndarray] = []  # kept alive, so that no other array can take the place of one
        self._made: dict[int, Any] = {id(owner_of(x)): x for x in inputs}
        self._saved_by: dict[int, int] = {}
        self._sizes: list[tuple] = []
        self._deaths: dict[int, int] = {}
        if first is not None:
            self._made |= {id(piece): piece for piece in self.supply.pieces}

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """The calls of this thread within it belong to this recording."""
        before, _thread.recording = _thread.recording, self
        try:
            with memory.supplied_by(self._measure if self.supply is None else self.supply.take):
                yield
        finally:
            _thread.recording = before

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Within it runs a call that is written down as a whole: what it calls itself is part of it."""
        _thread.recording = None
        try:
            yield
        finally:
            _thread.recording = self

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Within it runs what each replay does anew, with arrays of its own."""
        with self.inside(), memory.supplied_by(None):
            yield

    @property
    def position(self) -> int:
        """How many arrays the step has made so far."""
        return len(self._sizes) if self.supply is None else self.supply.position

    def add(self, position: int, name: str, arguments, run: Callable[[], None]) -> None:
        """Writes down a call; `arguments` are what both recordings must have alike, in tuples, lists and dicts."""
        self._facts.append((name, self._fact(arguments)))
        if self.supply is not None:  # the measuring run must not keep alive what the step lets go of
            self.calls.append(Call(position, run))

    def save(self, saved) -> int:
        """A place for what a forward pass saved."""
        self._saved_by[id(saved)] = len(self.saved)
        self.saved.append(None if self.supply is None else saved)
        return len(self.saved) - 1

    def place_of(self, saved) -> int:
        """Where `save` put it."""
        place = self._saved_by.get(id(saved))
        if place is None:
            raise CaptureError("capture: expected backward of what the step itself has computed, got an earlier result")
        return place

    def knows(self, array: np.ndarray) -> bool:
        """Whether the array's memory is written by the step's calls, or is an argument's."""
        return id(owner_of(array)) in self._made

    def keep(self, outputs) -> list[tuple[int, np.ndarray]]:
        """(index, array) of the outputs that each replay makes anew elsewhere, and copies to where they are now."""
        elsewhere = [(i, x) for i, x in enumerate(outputs) if isinstance(x, np.ndarray) and not self.knows(x)]
        for _, x in elsewhere:
            self.remember(x)
        return elsewhere

    def remember(self, array: np.ndarray) -> None:
        """Counts the array's memory among what the step has made."""
        owner = owner_of(array)
        identity = id(owner)
        if self.supply is None:
            self._made[identity] = weakref.ref(owner, lambda _: self._made.pop(identity, None))
        else:
            self._made[identity] = owner

    def check_agreement(self) -> None:
        """Raises CaptureError unless the first recording wrote down the same."""
        before, now = self._first._facts, self._facts
        for a, b in zip(before, now):
            if a != b:
                raise CaptureError(f"capture: expected the same call in each step, got {a}, then {b}")
        if len(before) != len(now):
            raise CaptureError(f"capture: expected as many calls in each step, got {len(before)}, then {len(now)}")
        for a, b in zip(self._first._outer, self._outer):
            if owner_of(a) is not owner_of(b) or a.ctypes.data != b.ctypes.data:
                raise CaptureError(
                    f"capture: expected arrays that outlive the step, got a new one of {b.dtype} {b.shape}; "
                    "make it before the step, or an argument of it"
                )

    def plan(self) -> list[_Block]:
        """A piece of memory for each array, the same one for arrays of which the first is gone when the other comes."""
        free: list[tuple[int, int, int]] = []  # (since when, bytes, piece)
        pieces: list[int] = []
        blocks = []
        for time, (shape, dtype, size) in enumerate(self._sizes):
            # Not much larger ones: what needs them would have to take new memory.
            fitting = [entry for entry in free if entry[0] <= time and size <= entry[1] <= 2 * size + _ALIGNMENT]
            if fitting:
                chosen = min(fitting, key=lambda entry: entry[1])
                free.remove(chosen)
                piece = chosen[2]
            else:
                piece = len(pieces)
                pieces.append(size)
            blocks.append(_Block(piece, shape, dtype))
            if time in self._deaths:
                free.append((self._deaths[time], pieces[piece], piece))
        return blocks

    def _measure(self, shape, dtype) -> np.ndarray:
        array, time = np.empty(shape, dtype), len(self._sizes)
        self._sizes.append((array.shape, array.dtype, array.nbytes))
        identity = id(array)

        def gone(_):
            self._made.pop(identity, None)
            self._deaths[time] = len(self._sizes)

        self._made[identity] = weakref.ref(array, gone)
        return array

    def _fact(self, x):
        if isinstance(x, (tuple, list)):
            return tuple(self._fact(part) for part in x)
        if isinstance(x, dict):
            return tuple((name, self._fact(part)) for name, part in x.items())
        if isinstance(x, Seed):
            return "a seed"
        if isinstance(x, float):
            return repr(x)  # NaN is like NaN
        if not isinstance(x, np.ndarray):
            return x
        if not self.knows(x):
            self._outer.append(x)
        return x.dtype.str, x.shape, x.strides


class Supply:
    """The arrays of a step, handed out in the order of the plan, in the same memory for each run.

    Attributes:
        pieces: the memory.
        position: how many have been handed out; setting it goes back, or ahead.
    """

    def __init__(self, blocks: list[_Block]):
        sizes: dict[int, int] = {}
        for block in blocks:
            sizes[block.piece] = max(_bytes(block), sizes.get(block.piece, 0))
        self.pieces = [np.empty(sizes[piece] + _ALIGNMENT, np.uint8) for piece in range(len(sizes))]
        self.position = 0
        self._arrays = [_array_in(self.pieces[block.piece], block) for block in blocks]

    def take(self, shape, dtype) -> np.ndarray:
        """The next array, which must be what the plan has there."""
        if self.position == len(self._arrays):
            raise CaptureError(f"capture: expected a step of {self.position} arrays, got one more, {dtype} {shape}")
        array = self._arrays[self.position]
        self.position += 1
        if array.dtype != dtype or (array.shape != shape and array.shape != (shape,)):
            raise CaptureError(
                f"capture: expected the same arrays in each step, got {array.dtype} {array.shape}, then "
                f"{np.dtype(dtype)} {shape}"
            )
        return array


def owner_of(array: np.ndarray) -> np.ndarray:
    """The array that owns the memory which this one looks at."""
    while True:
        base = array.base
        if base is not None and not isinstance(base, np.ndarray):
            base = getattr(base, "base", None)  # what NumPy's stride tricks put in between
        if not isinstance(base, np.ndarray):
            return array
        array = base


def _bytes(block: _Block) -> int:
    return int(np.prod(block.shape, dtype=np.int64)) * block.dtype.itemsize


def _array_in(piece: np.ndarray, block: _Block) -> np.ndarray:
    start = -piece.ctypes.data % _ALIGNMENT
    return piece[start : start + _bytes(block)].view(block.dtype).reshape(block.shape)
