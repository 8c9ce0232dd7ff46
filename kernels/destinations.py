"""Where gradients are wanted: a backward pass that asks writes a large one there at once, and nobody copies it.

An optimizer keeps the gradients of all parameters in one buffer. The tape offers a parameter's part of it to the pass
that computes its gradient, for the length of that call; a pass that does not ask returns an array of its own, which is
copied. A captured step offers its passes in each replay what they were offered when it was recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .memory import empty


class _Offered(threading.local):
    places: Sequence = ()


_offered = _Offered()


def offering(places: Sequence, function: Callable, *arguments):
    """function(*arguments), a backward pass, within which `gradient` finds these places: an array or None an input."""
    before, _offered.places = _offered.places, places
    try:
        return function(*arguments)
    finally:
        _offered.places = before


def offered() -> Sequence:
    """The places that the pass which this thread runs may write to: as `offering` has them, or none."""
    return _offered.places


def is_in(array, places: Sequence) -> bool:
    """Whether the array is itself one of the places."""
    return array is not None and any(array is place for place in places)


def gradient(index: int, shape: tuple[int, ...], dtype):
    """An array for the gradient of a pass's input of that index: where it is wanted, or a new one. On the CPU.

    It is C-contiguous. A pass asks once for each input, writes every element, and returns the array itself.
    """
    places = _offered.places
    if places:
        place = places[index]
        if place is not None and place.shape == shape and place.dtype == dtype and place.flags.c_contiguous:
            return place
    return empty(shape, dtype)
