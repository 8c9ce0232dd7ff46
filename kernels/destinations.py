"""Where gradients are wanted: a backward pass that asks writes a large one there at once, and nobody copies it.

An optimizer keeps the gradients of all parameters in one buffer. The tape offers a parameter's part of it to the pass
that computes its gradient, for the length of that call; a pass that does not ask returns an array of its own, which is
copied. A step that is being recorded is offered nothing: its arrays all come from the plan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .memory import empty, supplier


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


def gradient(index: int, shape: tuple[int, ...], dtype):
    """An array for the gradient of a pass's input of that index: where it is wanted, or a new one. On the CPU.

    It is C-contiguous. A pass asks once for each input, writes every element, and returns the array itself.
    """
    places = _offered.places
    if places and supplier() is None:
        place = places[index]
        if place is not None and place.shape == shape and place.dtype == dtype and place.flags.c_contiguous:
            return place
    return empty(shape, dtype)
