"""Timings of work whose length is known come out right, and all variants meet the same conditions."""

import gc
import time

import numpy as np
import pytest

from ranvier.profiling import timing


def busy(seconds):
    def spin():
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return spin


@pytest.mark.parametrize("seconds", [20e-6, 500e-6, 4e-3])
def test_a_busy_loop_of_known_length_comes_out_right(seconds):
    samples = timing.measure({"busy": busy(seconds)}, seconds=0.3)["busy"]
    # The lower quartile: others who use this machine can make a loop longer, never shorter.
    assert np.quantile(samples, 0.25) == pytest.approx(seconds, rel=0.05)
    assert samples.min() > 0.98 * seconds


def test_ratios_of_variants_come_out_right():
    samples = timing.measure({"one": busy(200e-6), "two": busy(400e-6)}, seconds=0.4)
    assert np.quantile(samples["two"], 0.25) / np.quantile(samples["one"], 0.25) == pytest.approx(2, rel=0.05)


class Recorded:
    """A clock that writes down what it was asked for, and says that a call takes `length` seconds."""

    def __init__(self, length=2e-3):
        self.length, self.order, self.rests = length, [], 0

    def settle(self):
        self.rests += 1

    def sample(self, function, calls):
        for _ in range(calls):
            function()
        self.order.append((function, calls))
        return self.length * calls


def names_in_order(clock, variants, skip):
    names = {function: name for name, function in variants.items()}
    return [names[function] for function, _ in clock.order[skip:]]


def test_each_round_begins_with_the_next_variant():
    clock, variants = Recorded(), {name: lambda: None for name in "abc"}
    samples = timing.measure(variants, seconds=1e-9, clock=clock)
    assert {name: len(values) for name, values in samples.items()} == dict.fromkeys("abc", timing.FEWEST_SAMPLES)
    assert "".join(names_in_order(clock, variants, skip=3)) == "abcbcacababcbca"
    assert clock.rests == len(clock.order)


class OtherThreads:
    """The module `time` of a process whose other threads use the processor until `stop`."""

    def __init__(self, stop):
        self.stop, self.now, self.used = stop, 0.0, 0.0

    def sleep(self, seconds):
        self.used += max(min(self.stop - self.now, seconds), 0)
        self.now += seconds

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.used


@pytest.mark.parametrize(("stop", "settled"), [(0, 0), (0.05, 0.05), (9, timing.LONGEST_REST)])
def test_a_sample_waits_for_threads_that_go_on_but_not_for_ever(monkeypatch, stop, settled):
    others = OtherThreads(stop)
    monkeypatch.setattr(timing, "time", others)
    timing.HostClock().settle()
    assert settled <= others.now <= settled + 2.5e-3


def test_short_calls_are_batched_until_a_sample_is_long_enough():
    clock = Recorded(length=3e-6)
    samples = timing.measure({"short": lambda: None}, seconds=1e-9, clock=clock)["short"]
    calls = clock.order[-1][1]
    assert timing.SHORTEST_SAMPLE <= calls * 3e-6 < 2 * timing.SHORTEST_SAMPLE
    np.testing.assert_allclose(samples, 3e-6)


def test_warming_up_is_not_counted():
    slow_once = iter([0.2])

    def work():
        time.sleep(next(slow_once, 2e-3))

    assert timing.measure({"work": work}, seconds=0.05)["work"].max() < 0.1


def test_garbage_is_collected_between_samples_and_not_in_them():
    seen = []

    def work():
        seen.append(gc.isenabled())
        cycle = []
        cycle.append(cycle)

    collections_before = gc.get_stats()[2]["collections"]
    samples = timing.measure({"work": work}, seconds=0.02)["work"]
    assert gc.isenabled()
    assert not any(seen)
    assert gc.get_stats()[2]["collections"] - collections_before >= len(samples)


def test_progress_goes_from_nothing_to_all():
    seen = []
    timing.measure({"work": busy(1e-3)}, seconds=0.05, progress=seen.append)
    assert seen == sorted(seen)
    assert 0 < seen[0] < 0.5
    assert seen[-1] == 1


@pytest.mark.parametrize(("variants", "seconds", "message"), [({}, 1, "one variant"), ({"a": print}, 0, "above 0")])
def test_wrong_calls_are_refused(variants, seconds, message):
    with pytest.raises(ValueError, match=message):
        timing.measure(variants, seconds=seconds)
