"""perf stat, attached to this process: software events show that the counting is right where there is no hardware's."""

import mmap
import shutil
import time

import pytest

from ranvier.profiling import counters

needs_perf = pytest.mark.skipif(
    shutil.which("perf") is None, reason="perf is not installed: apt-get install linux-perf"
)


def busy():
    end = time.process_time() + 5e-3
    while time.process_time() < end:
        pass


@needs_perf
def test_only_the_calls_are_counted():
    time.sleep(0.01)
    found = counters.count(busy, ["task-clock"], seconds=0.1)
    assert found["task-clock"] == pytest.approx(5.0, rel=0.2)  # milliseconds


@needs_perf
def test_events_are_given_for_one_call():
    pages = 64

    def touch():
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
            for page in range(pages):
                memory[page * mmap.PAGESIZE] = 1

    assert counters.count(touch, ["page-faults"])["page-faults"] == pytest.approx(pages, rel=0.2)


@needs_perf
def test_what_cannot_be_counted_is_said():
    assert counters.unavailable(["task-clock"]) is None
    reason = counters.unavailable(["no-such-event"])
    assert reason.startswith("no processor counters: perf stat gave up: ")
    assert "no-such-event" in reason


def test_lines_without_a_count_are_left_out():
    text = "# started\n\n1234;;instructions:u;100;100.00;;\n<not supported>;;cycles;0;100.00;;\n"
    assert counters._read(text) == {"instructions": 1234}


def test_without_perf_the_package_that_brings_it_is_named(monkeypatch):
    monkeypatch.setattr(counters.shutil, "which", lambda name: None)
    assert "apt-get install linux-perf" in counters.unavailable()
