"""`ranvier profile OPERATION`, as a user types it: tables, files, refusals, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import ranvier.__main__ as command
from ranvier.profiling import agreement, cases, ceilings, operations, record
from ranvier.profiling.record import Row

CEILINGS = {
    "copy": 10e9, "matmul": {"float32": 50e9, "float64": 25e9}, "launch": 1e-6, "measured": "2026-01-01T00:00:00",
}  # fmt: skip
QUICK = ("--seconds", "0.01")


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch):
    """Measuring them takes seconds; test_ceilings does."""
    monkeypatch.setattr(operations, "ceilings", lambda *arguments, **options: CEILINGS)


def profiled(capsys, *words):
    status = command.main(["profile", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_small_convolution_both_passes_in_two_types(tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    words = ("conv2d", "--case", "resnet_block", "--dtype", "float32", "float64", "--output", str(output), *QUICK)
    status, out, _ = profiled(capsys, *words)
    assert status == 0
    assert "conv2d resnet_block, float32: x 2x8x9x9, weight 8x8x3x3, bias 8" in out
    made = record.read(output)
    assert made.run["command"] == "ranvier profile " + " ".join(words)
    assert made.ceilings == CEILINGS
    ours = [row for row in made.rows if row.variant == "ranvier"]
    assert [(row.dtype, row.direction) for row in ours] == [
        ("float32", "forward"), ("float32", "backward"), ("float64", "forward"), ("float64", "backward"),
    ]  # fmt: skip
    assert not made.errors
    forward, backward = ours[:2]
    assert forward.flops == 2 * 8 * 8 * 9 * 2 * 9 * 9
    assert backward.flops == 2 * forward.flops
    assert all(row.samples >= 5 and 0 < row.quantiles["0.0"] <= row.median for row in made.rows)
    assert "threads" in made.run["device"]


def test_families_and_passes_are_chosen(tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    status, _, _ = profiled(
        capsys, "softmax/", "--case", "rows", "--pass", "backward", "--no-peers", "--output", str(output), *QUICK
    )
    assert status == 0
    rows = record.read(output).rows
    assert [(row.name, row.direction, row.variant) for row in rows] == [
        (name, "backward", "ranvier") for name in ("log_softmax", "logsumexp", "softmax")
    ]


def test_implementations_are_timed_beside_each_other(tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    words = ("relu", "--case", "images", "--implementation", "cpu", "reference", "--no-peers", "--output", str(output))
    assert profiled(capsys, *words, *QUICK)[0] == 0
    assert {row.variant for row in record.read(output).rows} == {"ranvier cpu", "ranvier reference"}


def test_numpy_is_a_peer(capsys):
    status, out, _ = profiled(capsys, "add", "--shape", "x=40x30", "y=40x30", "--pass", "forward", *QUICK)
    assert status == 0
    assert "numpy" in out
    assert "vs best peer" in out


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys):
    found = operations.peer_variants.__globals__["importlib"].util.find_spec
    hidden = lambda name, *rest: None if name == "torch" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(operations.peer_variants.__globals__["importlib"].util, "find_spec", hidden)
    status, out, _ = profiled(capsys, "conv2d", "--case", "lenet_first", *QUICK)
    assert status == 0
    assert "missing: pytorch: not installed: pip install torch" in out
    assert "missing: numpy: conv2d: no such function" in out


def test_a_wrong_result_gets_no_time_but_an_error(monkeypatch, tmp_path, capsys):
    from ranvier.profiling import peers_arrays

    monkeypatch.setitem(peers_arrays.CALLS, "exp", lambda xp, special, x: xp.exp(x) * np.float32(1.001))
    output = tmp_path / "rows.jsonl"
    status, out, _ = profiled(capsys, "exp", "--shape", "x=50", "--pass", "forward", "--output", str(output), *QUICK)
    assert status == 1
    assert "error: exp --shape float32 forward, numpy: output: 50 of 50 elements differ, the first:" in out
    made = record.read(output)
    assert "numpy" not in {row.variant for row in made.rows}
    assert made.errors[0].variant == "numpy"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conv2"], "expected an operation, a family or 'all', got 'conv2'; did you mean conv"),
        (["conv2d", "--shape", "x=2x4x6x5", "weight=8x3x3x3"], "conv2d: expected x of 3 channels"),
        (["relu", "--shape", "x=1000000x1000000x250"], "expected a case that fits in"),
        (["relu", "exp", "--shape", "x=3"], "--shape: expected one operation to go with it, got 2"),
        (["relu", "--device", "tpu"], "device: expected 'cpu', 'cuda' or 'cuda:<index>', got 'tpu'"),
        (["relu", "--device", "cuda:7"], "cuda:7"),
        (["relu", "--seconds", "0"], "--seconds: expected a number above 0"),
        (["relu", "--implementation", "gpu"], "--implementation: expected cpu or reference on cpu, got gpu"),
        (["relu", "--case", "resnet"], "relu: expected a case among"),
    ],
)
def test_what_cannot_be_profiled_is_one_line_and_a_status(capsys, words, message):
    status, _, err = profiled(capsys, *words)
    assert status == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [[], ["relu", "--dtype", "int8"], ["relu", "--pass", "sideways"], ["relu", "--quick"]]
)
def test_wrong_usage_is_refused(capsys, words):
    with pytest.raises(SystemExit) as stop:
        command.main(["profile", *words])
    assert stop.value.code == 2
    assert "usage: ranvier profile" in capsys.readouterr().err


def test_help_shows_the_forms(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["profile", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for words in ("ranvier profile model TARGET", "ranvier profile compare OLD NEW", "--static", "--shape", "--report"):
        assert words in text


def test_what_does_not_fit_among_declared_cases_is_an_error_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cases, "available_bytes", lambda device: 1 << 20)
    output = tmp_path / "rows.jsonl"
    assert profiled(capsys, "relu", "--output", str(output))[0] == 1
    made = record.read(output)
    assert not made.rows
    assert "expected a case that fits in" in made.errors[0].reason


def test_ctrl_c_leaves_what_was_measured_whole(tmp_path):
    output = tmp_path / "rows.jsonl"
    environment = os.environ | {"RANVIER_CACHE_DIR": str(tmp_path)}
    words = ("exp", "log", "--seconds", "0.2", "--no-peers", "--pass", "forward", "--output", str(output))
    # A stand-in for the ceilings, so that the test does not wait for them; the second case would last for ever.
    code = (
        "import sys, ranvier.__main__ as command\n"
        "from ranvier.profiling import operations\n"
        f"operations.ceilings = lambda *a, **k: {CEILINGS!r}\n"
        "measure, calls = operations.measure, []\n"
        "def slow(variants, **options):\n"
        "    calls.append(1)\n"
        "    return measure(variants, **(options | {'seconds': 0.2 if len(calls) == 1 else 600}))\n"
        "operations.measure = slow\n"
        f"sys.exit(command.main(['profile', *{words!r}]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # The tests themselves may run in the background of a shell, which has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not output.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted: 1 of 2 cases are whole" in out + err
    made = record.read(output)
    assert [row.name for row in made.rows] == ["exp"]
    assert list(tmp_path.glob(".rows*")) == []


def test_random_masks_agree_as_often_as_chance_has_it():
    (operation,) = cases.select(["dropout"])
    case = cases.case_of_shapes(operation, {"x": "1000x10"}, {"p": 0.25, "seed": 1}, "float32")
    rng, x = np.random.default_rng(0), np.ones((1000, 10), np.float32)
    ours, theirs = ((rng.random(x.shape) > 0.25) * x / np.float32(0.75) for _ in range(2))
    assert agreement.disagreement(case, [ours], [theirs], [x], "output") is None
    assert "agree, expected 62% by chance" in agreement.disagreement(case, [ours], [theirs * 1.1], [x], "output")


def test_a_file_is_lines_of_json(tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    profiled(capsys, "exp", "--shape", "x=50", "--no-peers", "--output", str(output), *QUICK)
    run, *rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert run["kind"] == "run"
    assert {row["pass"] for row in rows} == {"forward", "backward"}
    assert set(rows[0]) >= {field for field in Row.__dataclass_fields__ if field != "direction"}


def test_ceilings_are_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ceilings, "_SECONDS", 0.02)
    monkeypatch.setattr(ceilings, "_MATRIX", {"cpu": 256})
    monkeypatch.setattr(ceilings, "_LARGEST_COPY", 32 << 20)
    machine, versions, steps = {"name": "a machine", "threads": {"numba": 1, "blas": 1}}, {"numpy": "2"}, []
    found = ceilings.ceilings("cpu", machine, versions, progress=steps.append)
    assert 1e8 < found["copy"] < 1e13
    assert set(found["matmul"]) == {"float32", "float64"}
    assert 1e8 < found["matmul"]["float64"] < 1e14
    assert 1e-8 < found["launch"] < 1e-3
    assert len(steps) == 4
    assert ceilings.ceilings("cpu", machine, versions, progress=steps.append) == found
    assert len(steps) == 4  # from the file
    ceilings.ceilings("cpu", machine | {"threads": {"numba": 2, "blas": 2}}, versions, progress=steps.append)
    assert len(steps) == 8  # other threads, other ceilings
    ceilings.ceilings("cpu", machine, versions, remeasure=True, progress=steps.append)
    assert len(steps) == 12
