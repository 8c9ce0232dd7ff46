"""`make gpu` without a GPU: its parts are ended at their limits, kept, and find what they are to run."""

import json
import os
import subprocess
import sys
import time

import on_gpu
import pytest
import standin
from on_gpu import Part

PARTS = on_gpu.parts()


def run(code, limit=30, package=None):
    return on_gpu.run(Part("", ["-c", code], limit, package), dict(os.environ))


def test_how_a_part_ends_is_told():
    assert run("print('so'); print('1 passed')") == {"outcome": "passed", "seconds": 0, "said": "1 passed"}
    assert run("print('1 failed'); raise SystemExit(1)")["outcome"] == "failed"
    assert run("", package="no_such_package") == {
        "outcome": "skipped",
        "seconds": 0,
        "said": "no_such_package is not installed",
    }


def test_a_part_that_hangs_is_ended_with_all_it_started(monkeypatch):
    monkeypatch.setattr(on_gpu, "GRACE", 0.5)
    # Neither it nor what it starts can be asked to end, as a process that waits for a kernel cannot.
    deaf = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('waits', flush=True); time.sleep(60)"
    )
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}]); {deaf}"
    started = time.monotonic()
    found = run(code, limit=1.5)
    assert time.monotonic() - started < 20
    assert found["outcome"] == "ended at its limit"
    assert found["said"] == "waits"


def test_outcomes_are_kept_until_the_device_changes(tmp_path):
    path = tmp_path / "proof.json"
    for name in ("parity", "tune"):
        on_gpu.keep(path, {"name": "one"}, {name: {"outcome": "passed"}})
    kept = json.loads(path.read_text())
    assert set(kept["parts"]) == {"parity", "tune"}
    assert kept["versions"]["python"] == sys.version.split()[0]
    on_gpu.keep(path, {"name": "other"}, {"tune": {"outcome": "failed"}})
    assert set(json.loads(path.read_text())["parts"]) == {"tune"}


def test_the_library_need_not_be_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu.importlib.util, "find_spec", lambda name: None)
    code = "import ranvier, ranvier.kernels, importlib.metadata as m; print(ranvier.__file__, m.version('ranvier'))"
    for _ in range(2):
        environment = on_gpu.environment_for(tmp_path)
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=on_gpu.ROOT, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(tmp_path / "ranvier" / "__init__.py"), "0"]


def test_files_of_parts_are_there_and_limits_are_below_ten_minutes():
    for name, part in PARTS.items():
        assert all((on_gpu.ROOT / word).exists() for word in part.arguments if word.startswith("tests/"))
        assert part.limit + on_gpu.GRACE <= 600 or name in on_gpu.LEFT_OUT


@pytest.mark.skipif(standin.missing() is not None, reason=str(standin.missing()))
def test_the_part_for_whole_sequences_finds_them_and_the_others_go_without():
    def collected(name):
        arguments = PARTS[name].arguments[1:]
        if "-n" in arguments:
            del arguments[arguments.index("-n") : arguments.index("-n") + 2]
        command = [sys.executable, "tests/standin", *arguments, "--collect-only"]
        result = subprocess.run(command, cwd=on_gpu.ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        return [line for line in result.stdout.splitlines() if "::" in line]

    whole = collected("resident")
    assert len(whole) > 50
    assert all(any(word in line for word in ("lstm", "gru", "rnn", "recurrent", "speech")) for line in whole)
    assert any("test_a_family_trains_as_on_the_cpu[lstm]" in line for line in whole)
    assert "--single-steps" not in PARTS["resident"].arguments
    assert "--single-steps" in PARTS["parity"].arguments
    assert len(collected("training")) > 30
    assert len(collected("layers")) > 300
    assert len(collected("memcheck")) == len(collected("racecheck")) == 2
