"""What tells whether a node still reads memory that was written over."""

import gc
import sys
import threading
import types

import numpy as np
import pytest

from ranvier.kernels.memory import empty
from ranvier.kernels.operation import all_operations
from ranvier.layers.overwritten import Overwritten, Place, arrays_in, place_of

OPERATIONS = [operation for operation in all_operations() if operation.differentiable]


def reachable(value, seen) -> set[int]:
    """The identities of all arrays that are referred to from there, in whatever way."""
    if id(value) in seen or isinstance(value, (type, types.ModuleType, types.FunctionType)):
        return set()
    seen[id(value)] = value
    if isinstance(value, np.ndarray):
        return {id(value)}
    return set().union(*(reachable(referent, seen) for referent in gc.get_referents(value)))


@pytest.mark.parametrize("operation", OPERATIONS, ids=repr)
def test_all_arrays_that_an_operation_saves_are_found(operation):
    sample = operation.samples[0]
    _, saved = operation.forward(*sample.build(np.random.default_rng(0), np.float32), **sample.attributes)
    assert {id(array) for array in arrays_in(saved)} == reachable(saved, {})


def test_places_of_views():
    x = np.zeros((4, 6, 5))
    start = place_of(x).start
    assert place_of(x) == ("cpu", start, start + x.nbytes)
    assert place_of(x[1:3, ::-2, 2]) == ("cpu", start + (30 + 5 + 2) * 8, start + (60 + 25 + 2) * 8 + 8)
    assert not place_of(x[:2]).overlaps(place_of(x[2:]))
    assert place_of(x[:, 0]).overlaps(place_of(x[:, 1]))  # between its elements
    assert not place_of(x[:0]).overlaps(place_of(x))
    assert not Place("cpu", 0, 8).overlaps(Place("cuda:0", 0, 8))


def test_only_what_is_older_and_lies_there_has_read():
    x, other = np.zeros(9), np.zeros(9)
    overwritten = Overwritten()
    overwritten.add(x[3:], -5)
    assert overwritten.is_read_by((0, {"a": [x[:4]]}), -4)
    assert not overwritten.is_read_by((0, {"a": [x[:4]]}), -6)
    assert not overwritten.is_read_by([x[:3], other], -4)
    overwritten.add(x, -8)
    assert len(overwritten.places) == 1
    assert overwritten.is_read_by(x[3:], -6)


def test_memory_that_is_gone_is_forgotten():
    overwritten, kept = Overwritten(), np.zeros(3)
    overwritten.add(kept[1:], 0)  # the view goes, its memory stays
    for order in range(-1, -20, -1):
        gone = empty(1 << 16, np.uint8) if order % 2 else np.zeros(100 - order)
        overwritten.add(gone.reshape(-1)[1:], order)
        del gone
    last = np.zeros(2)
    overwritten.add(last, -20)
    places = {place for place, *_ in overwritten.places}
    assert {place_of(kept[1:]), place_of(last)} <= places
    assert len(places) <= 3  # a piece of the pool's memory stays with the pool


def test_no_thread_loses_what_another_adds():
    overwritten, arrays = Overwritten(), [[np.zeros(1) for _ in range(100)] for _ in range(4)]

    def work(own):
        for array in own:
            overwritten.add(array, 0)

    threads = [threading.Thread(target=work, args=(own,)) for own in arrays]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(overwritten.places) == 400
