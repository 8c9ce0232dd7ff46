"""A record comes back from its file as it was written, and its figures follow from its ceilings."""

import json

import numpy as np
import pytest

from ranvier.profiling import record
from ranvier.profiling.record import Error, Missing, Record, Row

CEILINGS = {"copy": 10e9, "matmul": {"float32": 100e9, "float64": 50e9}, "launch": 2e-6}


def row(seconds=1e-3, **changes):
    fields = {
        "group": "kernel", "name": "conv2d", "family": "conv", "case": "resnet_56", "shapes": "x 8x64x56x56",
        "dtype": "float32", "direction": "forward", "variant": "ranvier", "samples": 9,
        "quantiles": record.quantiles_of(np.linspace(0.8, 1.2, 9) * seconds), "flops": 50_000_000, "bytes": 1_000_000,
    }  # fmt: skip
    return Row(**fields | changes)


def whole_record():
    run = record.new_run({"name": "a machine"}, "ranvier profile conv2d", CEILINGS)
    rows = [row(), row(direction="backward", flops=None, bytes=None)]
    missing = [Missing("pytorch", "not installed")]
    errors = [Error("conv2d", "resnet_56", "float32", "forward", "numpy", "off by 3")]
    return Record(run, rows, missing, errors)


def test_what_is_written_is_read(tmp_path):
    written = whole_record()
    record.write(tmp_path / "rows.jsonl", written)
    assert record.read(tmp_path / "rows.jsonl") == written
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["run", "row", "row", "missing", "error"]
    assert lines[2]["pass"] == "backward"
    assert lines[0]["versions"]["numpy"] == np.__version__


def test_quantiles_are_of_all_samples():
    samples = np.arange(101.0)
    assert record.quantiles_of(samples) == {
        "0.0": 0, "0.1": 10, "0.25": 25, "0.5": 50, "0.75": 75, "0.9": 90, "1.0": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, "{}", "line 1: expected a JSON object with a kind"),
        (0, '{"kind": "run", "schema": 99}', "line 1: expected a run of schema 1"),
        (1, '{"kind": "row", "name": "conv2d"}', "line 2: expected all fields of a row: .*missing"),
        (1, "half a li", "line 2: expected a JSON object"),
        (2, '{"kind": "song"}', "line 3: expected a row, missing or error, got kind 'song'"),
    ],
)
def test_a_damaged_file_is_refused_by_its_line(tmp_path, line, text, message):
    path = tmp_path / "rows.jsonl"
    record.write(path, whole_record())
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        record.read(path)


def test_no_file_and_an_empty_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file of measurements"):
        record.read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="an empty file"):
        record.read(tmp_path / "empty.jsonl")


def test_the_figures_follow_from_the_ceilings():
    found = record.derive(row(), CEILINGS)
    assert found.median == pytest.approx(1e-3)
    assert found.spread == pytest.approx(0.2)
    assert found.flops_per_second == pytest.approx(50e9)
    assert found.bytes_per_second == pytest.approx(1e9)
    assert found.intensity == 50
    assert found.roofline_share == pytest.approx(0.5)  # 0.5 ms of arithmetic at 100 GFLOP/s
    assert found.bound == "compute"


@pytest.mark.parametrize(
    ("changes", "share", "bound"),
    [
        ({"dtype": "float64"}, 1.0, "compute"),
        ({"dtype": "bfloat16"}, 0.5, "compute"),  # computed in float32
        ({"bytes": 8_000_000}, 0.8, "bandwidth"),
        ({"flops": 0, "bytes": 1_000_000}, 0.1, "bandwidth"),
        ({"flops": 1000, "bytes": 1000}, 1e-4, "launch"),
        ({"flops": None, "bytes": None}, None, None),
    ],
)
def test_the_nearer_ceiling_is_the_bound(changes, share, bound):
    found = record.derive(row(**changes), CEILINGS)
    assert found.roofline_share == (share if share is None else pytest.approx(share))
    assert found.bound == bound


def test_without_ceilings_there_is_no_share():
    found = record.derive(row(), {})
    assert found.roofline_share is found.bound is None
    assert found.flops_per_second == pytest.approx(50e9)
