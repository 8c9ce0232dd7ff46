"""What tells whether a node still reads memory that was written over."""

import gc
import types

import numpy as np
import pytest

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
    overwritten.add(place_of(x[3:]), -5)
    assert overwritten.is_read_by((0, {"a": [x[:4]]}), -4)
    assert not overwritten.is_read_by((0, {"a": [x[:4]]}), -6)
    assert not overwritten.is_read_by([x[:3], other], -4)
    overwritten.add(place_of(x), -8)
    assert len(overwritten.places) == 1
    assert overwritten.is_read_by(x[3:], -6)
