"""The GPU's clock, on a stand-in device whose kernels and copies take known times: `python tests/standin pytest` with
this file. No kernel runs here. `test_standin.py` starts this file in a process of its own.
"""

import time

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import numpy as np

import ranvier.__main__ as command
from ranvier.kernels.gpu_arrays import sum_of_two_kernel
from ranvier.kernels.launch import launch
from ranvier.profiling import gpu_timing, operations, record
from ranvier.profiling.timing import measure

KERNEL = 50e-6  # seconds
GIGABYTE = 1.0  # seconds: a copy of the backlog, made small here because its bytes are really copied, takes 65 us


@pytest.fixture(autouse=True)
def pace(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(gpu_timing, "_COPY_BYTES", 1 << 16)
    with standin.paced(KERNEL, GIGABYTE):
        yield


def slow_host(seconds):
    """A launch for which the host takes longer than the GPU."""
    a, b, total = (cupy.empty(1024, np.float32) for _ in range(3))

    def call():
        launch(sum_of_two_kernel, (1,), a, b, total, 1024, BLOCK=1024)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return call


def test_the_hosts_time_is_hidden_behind_a_backlog():
    clock = gpu_timing.GpuClock("cuda")
    samples = measure({"kernel": slow_host(200e-6)}, seconds=0.1, clock=clock)["kernel"]
    np.testing.assert_allclose(samples, KERNEL, rtol=0.01)
    assert clock.exposed == 0


def test_without_a_backlog_the_hosts_time_would_be_measured(monkeypatch):
    monkeypatch.setattr(gpu_timing, "_LONGEST_BACKLOG", 0.0)
    clock = gpu_timing.GpuClock("cuda")
    samples = measure({"kernel": slow_host(200e-6)}, seconds=0.1, clock=clock)["kernel"]
    assert np.median(samples) > 2 * KERNEL
    assert clock.exposed > 0


def test_a_call_that_waits_for_the_gpu_is_counted_as_exposed(monkeypatch):
    monkeypatch.setattr(gpu_timing, "_LONGEST_BACKLOG", 0.01)
    clock, work = gpu_timing.GpuClock("cuda"), slow_host(0)

    def call():
        work()
        cupy.cuda.Device().synchronize()

    clock.sample(call, 3)
    assert clock.exposed == 1


def test_many_calls_are_enqueued_in_parts(monkeypatch):
    monkeypatch.setattr(gpu_timing, "_MOST_CALLS", 10)
    clock = gpu_timing.GpuClock("cuda")
    assert clock.sample(slow_host(0), 25) == pytest.approx(25 * KERNEL, rel=0.01)


def test_inputs_take_turns_until_the_cache_is_left_behind():
    assert gpu_timing.sets_past_cache("cuda", 50 << 20) == 2
    assert gpu_timing.sets_past_cache("cuda", 1 << 20) == 64
    assert gpu_timing.sets_past_cache("cuda", 10 << 20) == 10
    assert gpu_timing.sets_past_cache("cuda", 1 << 40) == 1
    assert gpu_timing.sets_past_cache("cpu", 1 << 10) == 1


def test_an_operation_is_profiled_on_the_gpu(tmp_path, monkeypatch, capsys):
    found = {"copy": 1e12, "matmul": {"float32": 1e13}, "launch": 1e-6, "measured": "2026-01-01"}
    monkeypatch.setattr(operations, "ceilings", lambda *arguments, **options: found)
    output = tmp_path / "rows.jsonl"
    words = ["relu", "--shape", "x=1024x1024", "--device", "cuda", "--no-peers", "--seconds", "0.05"]
    with standin.recorded() as launches:
        status = command.main(["profile", *words, "--output", str(output)])
    assert status == 0, capsys.readouterr().err
    made = record.read(output)
    assert made.run["device"]["name"] == "stand-in"
    assert made.run["device"]["architecture"] == "sm_90"
    assert [row.direction for row in made.rows] == ["forward", "backward"]
    for row in made.rows:
        assert row.configuration.startswith("cuda: activation_")
        assert "BLOCK=" in row.configuration
        assert row.median == pytest.approx(KERNEL, rel=0.01)
    # 4 MiB fit 25 times in twice the cache: so many inputs took turns. One more is for the backward pass's bytes.
    read = {seen.parameters[0] for seen in launches if seen.name.startswith("activation_forward")}
    assert len(read) == 25 + 1
