"""Which arrays were alive, when, and what made them: the memory side of a profile.

Counted are arrays that cross the border of an operation: its inputs, its outputs, what its forward pass saved, the
gradients that its backward pass gave. An array counts once, with all bytes of the memory that it is a view of, from
when it is first seen until the last reference to it is gone (a weak reference tells). Not counted is what a kernel
allocates and drops within one call.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns

from ..layers.overwritten import arrays_in, is_array

_ALIGNMENT = 64  # bytes


@dataclass(eq=False, slots=True)
class Holding:
    """Memory that is alive.

    Attributes:
        bytes, shape, dtype: of the array that owns it.
        origin: what made it, such as 'conv2d forward', or what was first seen to read it.
        layer: the path of the layer whose operation that was, None outside layers.
    """

    bytes: int
    shape: tuple[int, ...]
    dtype: str
    origin: str
    layer: str | None
    reference: weakref.ref = field(default=None, repr=False)


@dataclass(frozen=True)
class Peak:
    """The moment at which most bytes were alive.

    Attributes:
        bytes: how many.
        time: the moment, on the clock `time.perf_counter_ns`.
        holdings: what held them, the largest first.
    """

    bytes: int
    time: int
    holdings: list[Holding]


class Ledger:
    """Writes down when memory comes and goes.

    Attributes:
        events: (nanoseconds, holding, True where it came and False where it went), in order.
    """

    def __init__(self):
        self.events: list[tuple[int, Holding, bool]] = []
        self._live: dict[int, Holding] = {}

    def see(self, value, origin: str, layer: str | None, *, named: bool = False) -> int:
        """Takes note of all arrays in `value`, at any depth.

        Args:
            value: an array, or tuples, lists, dicts and objects that hold some.
            origin, layer: what they are put down to if they are new.
            named: put memory that is known already down to `origin` too.

        Returns:
            The bytes that are new.
        """
        return sum(self._see_one(array, origin, layer, named) for array in arrays_in(value))

    def _see_one(self, array, origin: str, layer: str | None, named: bool) -> int:
        owner = owner_of(array)
        key = id(owner)
        known = self._live.get(key)
        if known is not None:
            if named:
                known.origin, known.layer = origin, layer
            return 0
        if owner.nbytes == 0:
            return 0
        # An array that begins at a cache line is a view of all but the first few bytes.
        whole = array if owner.nbytes - array.nbytes <= _ALIGNMENT else owner
        holding = Holding(owner.nbytes, whole.shape, str(owner.dtype), origin, layer)
        self._live[key] = holding
        holding.reference = weakref.ref(owner, lambda _: self._gone(key))
        self.events.append((perf_counter_ns(), holding, True))
        return holding.bytes

    def _gone(self, key: int) -> None:
        holding = self._live.pop(key, None)
        if holding is not None:
            self.events.append((perf_counter_ns(), holding, False))

    def close(self) -> None:
        """Stops watching."""
        self._live.clear()
        for _, holding, _ in self.events:
            holding.reference = None

    def timeline(self) -> Iterator[tuple[int, int]]:
        """(nanoseconds, bytes alive) after each change."""
        total = 0
        for time, holding, came in self.events:
            total += holding.bytes if came else -holding.bytes
            yield time, total

    def peak(self) -> Peak:
        """The moment at which most bytes were alive, and what held them."""
        highest, at, moment = 0, -1, 0
        for index, (time, total) in enumerate(self.timeline()):
            if total > highest:
                highest, at, moment = total, index, time
        alive: dict[int, Holding] = {}
        for _, holding, came in self.events[: at + 1]:
            if came:
                alive[id(holding)] = holding
            else:
                del alive[id(holding)]
        return Peak(highest, moment, sorted(alive.values(), key=lambda holding: -holding.bytes))


def owner_of(array):
    """The array that owns the memory which `array` is a view of: itself, if it is no view of another."""
    while is_array(array.base):
        array = array.base
    return array
