"""Memory that a backward pass has written over: what read it before, on the way forward, must not go backward any more.

Kept is for each such piece of memory where it lies and when it was written, on the clock of the tape's nodes. A node
that is older than that and still holds an array there would differentiate at other values than it has seen. Nothing is
kept alive for it: what a node holds it has held since it was made, so memory that was freed in between is not meant.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..kernels import device

_OUR_PACKAGE = __package__.partition(".")[0] + "."


class Place(NamedTuple):
    """Where an array lies: the device, and the addresses from its first byte to behind its last."""

    device: str
    start: int
    stop: int

    def overlaps(self, other: Place) -> bool:
        """Whether a byte belongs to both."""
        return self.device == other.device and self.start < other.stop and other.start < self.stop


def place_of(array) -> Place:
    """The place of an array, with what lies between its elements."""
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    if array.size == 0:
        return Place(device.device_of(array), address, address)
    steps = [(size - 1) * stride for size, stride in zip(array.shape, array.strides)]
    start = address + sum(step for step in steps if step < 0)
    return Place(device.device_of(array), start, address + sum(step for step in steps if step > 0) + array.itemsize)


def reads(saved, place: Place) -> bool:
    """Whether an array in what a node has saved lies there."""
    return any(place.overlaps(place_of(array)) for array in arrays_in(saved))


def arrays_in(value) -> Iterator:
    """All NumPy and CuPy arrays in tuples, lists, dicts, tensors and plain objects of the library, at any depth."""
    if is_array(value):
        yield value
    elif isinstance(value, (tuple, list)):
        for member in value:
            yield from arrays_in(member)
    elif isinstance(value, dict):
        for member in value.values():
            yield from arrays_in(member)
    elif type(value).__module__.startswith(_OUR_PACKAGE):
        yield from arrays_in(vars(value) if hasattr(value, "__dict__") else getattr(value, "array", None))


def is_array(value) -> bool:
    """Whether it is a NumPy or CuPy array."""
    return isinstance(value, np.ndarray) or (
        type(value).__module__.partition(".")[0] == "cupy" and hasattr(value, "base")
    )


class Overwritten:
    """The places that backward passes have written over, on any thread, each with the number of the newest node before
    that: later nodes have lower ones."""

    def __init__(self):
        # With each place what tells when its memory is gone. The list is not changed, but replaced.
        self.places: list[tuple[Place, int, weakref.ref | None]] = []
        self._adding = threading.Lock()

    def add(self, array, order: int) -> None:
        """Takes note of an array's place. What was known of memory there ends with it: that is the same, or was freed
        before. Memory that is gone is forgotten."""
        place, owner = place_of(array), _owner_of(array)
        with self._adding:
            lasting = [
                known for known in self.places
                if not known[0].overlaps(place) and (known[2] is None or known[2]() is not None)
            ]  # fmt: skip
            self.places = [*lasting, (place, order, owner)]

    def is_read_by(self, saved, order: int) -> bool:
        """Whether the node of that number has saved an array of a place that was written over since."""
        return any(order > since and reads(saved, place) for place, since, _ in self.places)


def _owner_of(array) -> weakref.ref | None:
    """What an array's memory ends with; None where that cannot be referred to weakly, as with CuPy's, which is soon
    made another array's."""
    owner = array if isinstance(array, np.ndarray) else array.data.mem
    while (base := getattr(owner, "base", None)) is not None:
        owner = base
    return weakref.ref(owner) if getattr(type(owner), "__weakrefoffset__", 0) else None
