"""Profiles of GPU arrays, on the stand-in GPU: no kernel runs there, so a kernel's time on the device is the host's
time between its two events. `test_standin.py` starts this file in a process of its own."""

import contextlib
import json

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import numpy as np
from cupy.cuda import nvtx

import ranvier as rv
from ranvier.kernels import gpu_arrays
from ranvier.kernels.recurrent import lstm


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def step(model, device: str = "cuda"):
    x = rv.Tensor(cupy.asarray(np.zeros((16, 8), np.float32)) if device == "cuda" else np.zeros((16, 8), np.float32))
    model(x).sum().backward()


@pytest.fixture
def model():
    return rv.Sequential(rv.Dense(8, 12), rv.ReLU(), rv.Dense(12, 4)).to("cuda")


@pytest.fixture
def profiled(model):
    step(model)
    with rv.profile(model) as p, standin.only_our_kernels():
        step(model)
    return p


def test_kernels_have_times_of_the_device_beside_the_hosts(profiled):
    kernels = [span for span in profiled.spans if span.kind == "kernel"]
    assert len(kernels) > 6
    for span in kernels:
        # The events stand around the host's call here.
        assert span.device.time > 0
        assert abs(span.device.time - (span.end - span.start)) < 1e6
        assert abs(span.device.start - span.start) < 1e6
        assert span.device.events == []
    starts = [span.device.start for span in sorted(kernels, key=lambda span: span.start)]
    assert starts == sorted(starts)
    rows = {row.name: row for row in profiled.key_averages()}
    total = sum(span.device.time for span in kernels if span.title == "dense forward")
    assert rows["dense forward"].device_time == pytest.approx(total / 1e9)
    assert rows["(forward, outside kernels)"].device_time is None
    assert " GPU " in profiled.table()


def test_the_same_layers_kernels_and_flops_as_on_the_cpu(model, profiled):
    model.to("cpu")
    step(model, "cpu")
    with rv.profile(model) as on_cpu:
        step(model, "cpu")

    def seen(p):
        return [(span.title, span.layer, span.phase, span.flops) for span in p.spans]

    assert seen(profiled) == seen(on_cpu)
    assert {span.device for span in on_cpu.spans} == {None}
    assert profiled.peak_memory.bytes >= on_cpu.peak_memory.bytes


def test_flops_that_depend_on_lengths_wait_for_the_end(monkeypatch):
    # The check of the lengths asks a kernel, and none runs here.
    monkeypatch.setattr(gpu_arrays, "extent", lambda indices, ignored=None: None)
    layer = rv.LSTM(4, 6).to("cuda")
    x, lengths = rv.Tensor(cupy.empty((5, 3, 4), np.float32)), np.array([5, 2, 1])
    layer(x, None, cupy.asarray(lengths))
    with rv.profile(layer) as p:
        layer(x, None, cupy.asarray(lengths))
    (span,) = [span for span in p.spans if span.title == "lstm forward"]
    arrays = [np.zeros(shape, np.float32) for shape in ((5, 3, 4), (24, 4), (24, 6), (24,), (24,))]
    assert span.flops == lstm.cost(*arrays, None, None, None, lengths).flops == 2 * 8 * (24 * 4 + 24 * 6)


def test_memory_on_the_device_is_exact(model):
    x = rv.Tensor(cupy.empty((1000, 8), np.float32))
    with rv.profile(model) as p, rv.no_grad():
        y = model[0](x)
    (row,) = [row for row in p.key_averages() if row.name == "dense forward"]
    assert row.memory == y.array.nbytes == 1000 * 12 * 4
    assert p.peak_memory.bytes == 4 * (1000 * 8 + 8 * 12 + 12 + 1000 * 12)


def test_the_trace_has_a_line_for_each_device(model, tmp_path):
    with rv.profile() as p:
        step(model)
        with cupy.cuda.Device(1):
            rv.functional.relu(rv.Tensor(cupy.empty(100, np.float32)))
        assert cupy.cuda.get_device_id() == 0
    p.export_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"thread 0", "cuda:0", "cuda:1"}
    (second,) = [e for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == (2, 1)]
    assert second["name"] == "relu forward"


def test_nvtx_ranges_are_pushed_and_popped_in_pairs(model, monkeypatch):
    calls, depth = [], []
    monkeypatch.setattr(nvtx, "available", True)
    monkeypatch.setattr(nvtx, "RangePush", lambda message: (calls.append((len(depth), message)), depth.append(message)))
    monkeypatch.setattr(nvtx, "RangePop", lambda: depth.pop())
    with contextlib.suppress(ValueError), rv.profile(model, nvtx=True):
        step(model)
        model(rv.Tensor(cupy.empty((3, 5), np.float32)))  # refused: the shape does not fit
    assert depth == []
    assert calls[:3] == [(0, "Sequential"), (1, "0: Dense"), (2, "0: dense forward")]
    monkeypatch.setattr(nvtx, "available", False)
    with pytest.raises(ValueError, match="NVTX"):
        rv.profile(nvtx=True)
