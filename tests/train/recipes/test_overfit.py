"""The recipe `overfit`: the bare network learns wrong labels by heart, each cure helps; files, answers, resuming."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.checkpoint import load_checkpoint, save_checkpoint
from ranvier.train.data import load_digits
from ranvier.train.recipes import overfit

CURES = ("dropout", "weight decay", "augmentation", "early stopping")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overfit")
    assert main(["train", "overfit", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_every_cure_beats_the_bare_network(run):
    result = json.loads((run / "result.json").read_text())
    bare = result["none"]
    assert bare["learned_by_heart"] > 0.85
    assert 0.6 < result["nearest_neighbour_accuracy"] < 0.75
    for cure in CURES:
        assert result[cure]["test_accuracy"] > bare["test_accuracy"]
        assert result[cure]["test_loss"] < bare["test_loss"]
        assert result[cure]["learned_by_heart"] < bare["learned_by_heart"]
    assert (run / "cures.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_in_the_same_bits(run, tmp_path):
    whole = load_checkpoint(run / "checkpoint")
    cut = {cure: done for cure, done in whole["done"].items() if cure in ("none", "dropout", "weight decay")}
    save_checkpoint(tmp_path / "cut", {"model": cut["none"]["model"], "done": cut})
    arguments = ["train", "overfit", "--quick", "--run-dir", str(tmp_path), "--resume", str(tmp_path / "cut")]
    assert main(arguments) == 0
    resumed = load_checkpoint(tmp_path / "checkpoint")
    for cure in overfit.CURES:
        for name, weights in whole["done"][cure]["model"].items():
            np.testing.assert_array_equal(weights, resumed["done"][cure]["model"][name], err_msg=f"{cure} {name}")
    assert (tmp_path / "result.json").read_text() == (run / "result.json").read_text()


@pytest.mark.slow
def test_it_reads_digits_from_pictures(run, tmp_path, capsys):
    from PIL import Image

    images, labels = load_digits()
    paths = [tmp_path / f"{index}.png" for index in range(40)]
    for path, image in zip(paths, images[:, 0]):
        paper = np.pad(255 - (image * 255).astype(np.uint8), 3, constant_values=255)
        Image.fromarray(paper).resize((140, 140), Image.Resampling.NEAREST).save(path)
    assert main(["predict", str(run), *map(str, paths)]) == 0
    said = [int(line.split(": ")[1].split(" ")[0]) for line in capsys.readouterr().out.splitlines()]
    assert (np.array(said) == labels[:40]).mean() > 0.6


def test_wrong_labels_are_as_many_as_asked_for_and_wrong():
    labels = np.arange(200) % 10
    given, wrong = overfit.mislabel(labels, 0.2, np.random.default_rng(0))
    assert wrong.sum() == 40
    np.testing.assert_array_equal(given != labels, wrong)


def test_a_share_of_labels_is_between_0_and_1(capsys):
    with pytest.raises(SystemExit):
        main(["train", "overfit", "--wrong-labels", "1.5"])
    assert "expected a number from 0 to 1, got 1.5" in capsys.readouterr().err
