"""Two files of measurements: what changed beyond the noise, what did not, and what cannot be compared."""

import numpy as np
import pytest

import ranvier.__main__ as command
from ranvier.profiling import record
from ranvier.profiling.record import Record, Row


def row(name, seconds, spread=0.02, variant="ranvier"):
    samples = seconds * (1 + spread * np.linspace(-1, 1, 41))
    return Row(
        "kernel", name, "conv", "resnet", "x 8x64", "float32", "forward", variant, 41, record.quantiles_of(samples)
    )


def written(folder, name, rows, device="a machine", threads=2):
    path = folder / name
    run = record.new_run({"name": device, "threads": {"numba": threads}}, "ranvier profile conv")
    record.write(path, Record(run, list(rows)))
    return str(path)


def compared(capsys, *arguments):
    status = command.main(["profile", "compare", *arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


@pytest.mark.parametrize(
    ("new", "spread", "status", "verdict"),
    [
        (1.5e-3, 0.02, 1, "1 slower, 0 faster, 0 same"),
        (0.7e-3, 0.02, 0, "0 slower, 1 faster, 0 same"),
        (1.02e-3, 0.002, 0, "0 slower, 0 faster, 1 same"),  # less than counts
        (1.2e-3, 0.9, 0, "0 slower, 0 faster, 1 same"),  # within the noise
        (1e-3, 0.02, 0, "0 slower, 0 faster, 1 same"),
    ],
)
def test_a_change_is_what_the_noise_does_not_explain(tmp_path, capsys, new, spread, status, verdict):
    old_file = written(tmp_path, "old.jsonl", [row("conv2d", 1e-3, spread)])
    new_file = written(tmp_path, "new.jsonl", [row("conv2d", new, spread)])
    found, text = compared(capsys, old_file, new_file)
    assert found == status
    assert verdict in text


def test_a_wider_threshold_forgives(tmp_path, capsys):
    files = [written(tmp_path, f"{s}.jsonl", [row("conv2d", s)]) for s in (1e-3, 1.3e-3)]
    assert compared(capsys, *files)[0] == 1
    assert compared(capsys, *files, "--least", "0.5")[0] == 0


def test_only_ranviers_own_rows_count_unless_asked(tmp_path, capsys):
    old_file = written(tmp_path, "old.jsonl", [row("conv2d", 1e-3), row("conv2d", 1e-3, variant="pytorch")])
    new_file = written(tmp_path, "new.jsonl", [row("conv2d", 1e-3), row("conv2d", 2e-3, variant="pytorch")])
    assert compared(capsys, old_file, new_file)[0] == 0
    status, text = compared(capsys, old_file, new_file, "--variant", "all")
    assert status == 1
    assert "0.50x" in text
    assert "(pytorch)" in text


@pytest.mark.parametrize("change", [{"device": "another machine"}, {"threads": 8}])
def test_different_machines_are_refused_unless_forced(tmp_path, capsys, change):
    old_file = written(tmp_path, "old.jsonl", [row("conv2d", 1e-3)])
    new_file = written(tmp_path, "new.jsonl", [row("conv2d", 1e-3)], **change)
    status, text = compared(capsys, old_file, new_file)
    assert status == 2
    assert "expected measurements of one device" in text
    assert compared(capsys, old_file, new_file, "--force")[0] == 0


def test_files_without_anything_in_common_and_no_files_are_refused(tmp_path, capsys):
    old_file = written(tmp_path, "old.jsonl", [row("conv2d", 1e-3)])
    new_file = written(tmp_path, "new.jsonl", [row("relu", 1e-3)])
    assert compared(capsys, old_file, new_file)[0] == 2
    status, text = compared(capsys, old_file, str(tmp_path / "none.jsonl"))
    assert status == 2
    assert "expected a file of measurements" in text
