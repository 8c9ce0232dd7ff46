"""Times functions against each other: samples well above the clock's resolution, taken in turns.

    samples = measure({"ours": lambda: f(x), "theirs": lambda: g(x)}, seconds=1.0)
    np.median(samples["ours"]) / np.median(samples["theirs"])

A sample is the mean of a batch of calls that together last a millisecond or more. The variants are sampled one after
the other in rounds, each round beginning with the next of them, so that whatever else the machine does meets all alike.
Before a sample the variant before it has come to rest: OpenMP's threads go on spinning for milliseconds after their
work is done, OpenBLAS's for a tenth of a second, on cores that the next variant needs. Every sample is kept; nothing
is thrown out as an outlier.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

SHORTEST_SAMPLE = 1e-3  # seconds: ten thousand times what perf_counter can tell apart
FEWEST_SAMPLES = 5
LONGEST_REST = 0.25  # seconds that a sample waits for the threads of the one before it


class Clock(Protocol):
    """`settle()` waits until what ran before has come to rest; `sample(function, calls)` runs function() so many times
    and returns the seconds that they took together."""

    def settle(self) -> None: ...

    def sample(self, function: Callable[[], object], calls: int) -> float: ...


class HostClock:
    """The processor's clock, for functions that have done their work when they return."""

    def settle(self) -> None:
        """Waits until no thread of this process runs, for at most `LONGEST_REST` seconds."""
        waited = 0.0
        while waited < LONGEST_REST:
            busy, started = time.process_time(), time.perf_counter()
            time.sleep(1e-3)
            lasted = time.perf_counter() - started
            if time.process_time() - busy < 0.2 * lasted:
                return
            waited += lasted

    def sample(self, function: Callable[[], object], calls: int) -> float:
        if calls > 1:
            function()  # wakes its threads and brings its data back to the caches
        repeat = itertools.repeat(None, calls)  # the least that a loop can cost: some 10 ns a call
        started = time.perf_counter()
        for _ in repeat:
            function()
        return time.perf_counter() - started


def measure(
    variants: dict[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    clock: Clock | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, np.ndarray]:
    """Seconds a call of each variant, one value a sample.

    Args:
        variants: functions without arguments, by name. Each is called once before anything is timed, and then until
            its batches are long enough: compilation and first touches do not count.
        seconds: how long to sample, all variants together; warming up comes on top. Every variant gets
            `FEWEST_SAMPLES` samples even if that takes longer.
        clock: HostClock() unless given; `gpu_timing.GpuClock` for work on CuPy arrays.
        progress: called after each sample with the fraction of `seconds` that is over, from 0 to 1.

    Returns:
        A float64 array of samples for each name, all of one length.

    Raises:
        ValueError: there are no variants, or `seconds` is not above zero.
    """
    if not variants:
        raise ValueError("measure: expected one variant or more, got none")
    if not seconds > 0:
        raise ValueError(f"measure: expected seconds above 0, got {seconds}")
    clock = clock or HostClock()
    samples: dict[str, list[float]] = {name: [] for name in variants}
    with _collection_between_samples() as collect:
        calls = {name: _long_enough(clock, function, collect) for name, function in variants.items()}
        started = time.perf_counter()
        for order in _rotations(list(variants)):
            for name in order:
                collect()
                clock.settle()
                samples[name].append(clock.sample(variants[name], calls[name]) / calls[name])
                elapsed = time.perf_counter() - started
                if progress is not None:
                    progress(min(elapsed / seconds, 1.0))
            if elapsed >= seconds and len(samples[order[0]]) >= FEWEST_SAMPLES:
                return {name: np.array(values) for name, values in samples.items()}


def _long_enough(clock: Clock, function: Callable[[], object], collect: Callable[[], object]) -> int:
    """How many calls make a sample of `SHORTEST_SAMPLE` or more."""
    function()
    calls = 1
    while True:
        collect()
        clock.settle()
        lasted = clock.sample(function, calls)
        if lasted >= SHORTEST_SAMPLE:
            return calls
        # A little more than needed, but never many times more on the word of one short and noisy sample.
        calls = min(max(calls + 1, math.ceil(1.2 * calls * SHORTEST_SAMPLE / max(lasted, 1e-9))), 10 * calls)


def _rotations(names: Sequence[str]) -> Iterator[list[str]]:
    for first in itertools.cycle(range(len(names))):
        yield [*names[first:], *names[:first]]


@contextmanager
def _collection_between_samples():
    """Garbage is collected when the function that is handed out is called, and at no other time.

    What is alive already is set aside, so that a collection costs microseconds and leaves the caches as they were.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
