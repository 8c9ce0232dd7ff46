"""The command: help that explains itself, devices, and the digits from the command to the run folder."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import ranvier.__main__ as command
from ranvier.train import recipes
from ranvier.train.checkpoint import load_checkpoint


def output_of(capsys, *arguments):
    status = command.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_help_names_the_commands_and_recipes(capsys):
    for arguments, words in ((["--help"], ("train", "devices")), (["train", "--help"], tuple(recipes.names()))):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments)
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words)


def test_the_list_has_a_line_a_recipe(capsys):
    status, out, _ = output_of(capsys, "train", "--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == recipes.names()
    assert "digits" in recipes.names()
    assert "fashion" in recipes.names()


def test_devices_says_what_works_and_what_is_missing(capsys):
    status, out, _ = output_of(capsys, "devices")
    assert status == 0
    assert "CPU" in out
    assert "ready" in out
    assert "GPU" in out
    for package in ("numpy", "numba", "cupy", "triton"):
        assert package in out


def test_a_package_that_is_missing_comes_with_the_command_that_brings_it(monkeypatch):
    from ranvier.profiling import devices

    monkeypatch.setattr(devices, "_version", lambda distribution: None)
    report = devices.describe()
    assert report.count("missing") == 5
    assert "pip install ranvier[cuda13]" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "fashion", "--data", "/nowhere"], "apt-get install dataset-fashion-mnist"),
        (["train", "digits", "--device", "tpu"], "device: expected 'cpu', 'cuda' or 'cuda:<index>', got 'tpu'"),
        (["train", "digits", "--resume", "/nowhere"], "expected a checkpoint"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(capsys, tmp_path, arguments, message):
    status, _, err = output_of(capsys, *arguments, "--run-dir", str(tmp_path), "--epochs", "1")
    assert status == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["train", "nothing"], ["train", "digits", "--epochs", "0"], []])
def test_wrong_usage_is_refused(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2


@pytest.mark.slow
def test_digits_are_read_and_the_run_folder_is_whole(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "ranvier", "train", "digits", "--run-dir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "run"
    result = json.loads((folder / "result.json").read_text())
    assert result["test_images"] == 359  # a fifth of 1,797
    assert result["test_accuracy"] >= 0.98
    assert f"test accuracy {result['test_accuracy']:.2%}" in run.stdout
    assert "<- predicted" in run.stdout
    assert str(folder) in run.stdout
    for picture in ("curves.png", "predictions.png", "filters.png"):
        assert (folder / picture).read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert len(rows) == 20
    assert float(rows[-1]["training_loss"]) < float(rows[0]["training_loss"])
    assert load_checkpoint(folder / "checkpoint")["epoch"] == 20
    assert "loss=" in run.stderr  # progress, with the time left
    assert "<" in run.stderr


def test_the_confusion_table_counts_what_it_was_given():
    from ranvier.train.pictures import confusion_table

    table = confusion_table(np.array([[5, 0], [2, 7]]), ("cat", "dog"))
    assert [line.split("|")[1].split() for line in table.splitlines()[2:]] == [["5", "."], ["2", "7"]]
