"""Training steps beside PyTorch on a device, rehearsed where both have none but the CPU."""

import pytest

pytest.importorskip("torch", reason="the extra `judges` brings PyTorch")

from ranvier.profiling import bench_cases, gpu_steps, record
from ranvier.profiling.timing import HostClock

pytestmark = pytest.mark.judge


@pytest.mark.parametrize("name", ["mlp/small", "char_lm/small", "autoencoder/small"])
def test_all_variants_train_the_same_network(name, monkeypatch):
    monkeypatch.setattr(gpu_steps, "WallClock", lambda device: HostClock())
    made = record.Record({})
    rows = gpu_steps.rows_of(bench_cases.find(name), "cpu", 0.01, made)
    assert made.errors == []
    assert [row.variant for row in rows] == ["ranvier", "ranvier captured", "pytorch"]
    assert all(row.median > 0 for row in rows)


def test_another_network_is_not_timed(monkeypatch):
    monkeypatch.setattr(gpu_steps, "WallClock", lambda device: HostClock())
    monkeypatch.setattr(gpu_steps, "_TOLERANCE", -1.0)
    made = record.Record({})
    rows = gpu_steps.rows_of(bench_cases.find("mlp/small"), "cpu", 0.01, made)
    assert [row.variant for row in rows] == ["ranvier"]
    assert {error.variant for error in made.errors} == {"ranvier captured", "pytorch"}
