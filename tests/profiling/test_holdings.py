"""`rv.profile`: which memory is held at the peak, for what, and that the profile itself holds none."""

import gc
import weakref

import numpy as np
import pytest

import ranvier as rv


def test_the_memory_of_known_arrays_is_exact():
    layer = rv.Dense(1000, 500)
    x = rv.Tensor(np.ones((64, 1000), np.float32))
    with rv.profile(layer) as p, rv.no_grad():
        y = layer(x)
    (row,) = [row for row in p.key_averages() if row.name == "dense forward"]
    output = 64 * 500 * 4
    assert row.memory == output
    peak = p.peak_memory
    assert peak.bytes == 4 * (64 * 1000 + 1000 * 500 + 500) + output
    held = {holding.origin: (holding.bytes, holding.shape, holding.layer) for holding in peak.holdings}
    assert held["weight of dense"] == (2_000_000, (500, 1000), "")
    assert held["dense forward"] == (output, (64, 500), "")
    assert [holding.bytes for holding in peak.holdings] == [2_000_000, 256_000, output, 2000]
    del y


def test_memory_that_is_gone_no_longer_counts():
    def chain(x):
        for _ in range(10):
            x = rv.functional.exp(x)
        return x

    x = rv.Tensor(np.zeros(1000, np.float32), requires_grad=True)
    with rv.profile() as p, rv.no_grad():
        chain(x)
    assert p.peak_memory.bytes == 3 * 4000  # x, which this test holds, and one array becoming the next
    with rv.profile() as p:
        chain(x)
    assert p.peak_memory.bytes == 11 * 4000  # all are kept for the backward pass


def test_a_later_array_counts_in_place_of_an_earlier():
    with rv.profile() as p, rv.no_grad():
        for size in (1000, 3000, 2000):
            rv.functional.relu(rv.Tensor(np.zeros(size, np.float32)))
    assert p.peak_memory.bytes == 2 * 3000 * 4
    assert [total for _, total in p._recording.ledger.timeline()][-1] == 0


def test_views_count_as_what_they_are_views_of():
    whole = np.zeros((100, 100), np.float32)
    with rv.profile() as p, rv.no_grad():
        rv.functional.relu(rv.Tensor(whole[:10]))
        rv.functional.relu(rv.Tensor(whole[10:20, ::2]))
    (read,) = [holding for holding in p.peak_memory.holdings if holding.origin == "x of relu"]
    assert (read.bytes, read.shape) == (40_000, (100, 100))


def test_flat_buffers_are_named_for_the_optimizer():
    layer = rv.Dense(20, 10)
    optimizer = rv.optim.Adam(layer.parameters())
    with rv.profile(layer) as p:
        for _ in range(2):
            layer(rv.ones(32, 20)).sum().backward()
            optimizer.step()
    held = {holding.origin: holding.bytes for holding in p.peak_memory.holdings}
    assert {"parameter of adam", "gradient of adam", "exp_avg of adam", "exp_avg_sq of adam"} <= set(held)
    assert len({held[f"{name} of adam"] for name in ("parameter", "gradient", "exp_avg", "exp_avg_sq")}) == 1


def test_the_profile_keeps_no_array_and_no_model_alive():
    model = rv.Sequential(rv.Dense(20, 40), rv.ReLU(), rv.Dense(40, 10))
    with rv.profile() as p:
        y = model(rv.ones(32, 20))
    gone = [weakref.ref(model), weakref.ref(y.array)]
    del model, y
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert p.peak_memory.bytes > 0


def test_without_memory_there_is_no_peak():
    with rv.profile(memory=False) as p:
        rv.functional.relu(rv.ones(32, 20))
    assert sum(row.memory for row in p.key_averages()) == 0
    with pytest.raises(ValueError, match="memory=True"):
        _ = p.peak_memory
