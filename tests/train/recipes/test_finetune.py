"""The recipe `finetune`: two examples of a class are worth more on a pretrained trunk; files, answers, refusal."""

import json
from pathlib import Path

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.checkpoint import load_checkpoint
from ranvier.train.data import read_idx
from ranvier.train.recipes import finetune
from ranvier.train.recipes.fashion import CLASSES

FASHION = Path("/usr/share/datasets/fashion-mnist")
with_fashion = pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    assert main(["train", "finetune", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@with_fashion
@pytest.mark.slow
def test_a_pretrained_trunk_beats_training_from_scratch(run):
    result = json.loads((run / "result.json").read_text())
    assert result["test_images"] == 1000
    assert result["frozen_accuracy"] > 0.6
    assert result["thawed_accuracy"] > result["from_scratch_accuracy"]
    assert result["frozen_accuracy"] > result["from_scratch_accuracy"]
    assert 0.4 < result["nearest_example_accuracy"] < 0.9
    assert {path.name for path in run.glob("*.png")} == {"few.png", "predictions.png", "curves.png"}
    assert json.loads((run / "metrics.json").read_text())[-1]["validation_accuracy"] > 0.75  # of the five known classes


@with_fashion
@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bits(run, tmp_path):
    arguments = ["train", "finetune", "--quick", "--run-dir", str(tmp_path), "--resume", str(run / "checkpoint")]
    assert main(arguments) == 0
    whole, resumed = (load_checkpoint(folder / "checkpoint")["finetuned"] for folder in (run, tmp_path))
    for name, weights in whole.items():
        np.testing.assert_array_equal(weights, resumed[name], err_msg=name)


@with_fashion
@pytest.mark.slow
def test_it_names_garments_on_pictures(run, tmp_path, capsys):
    from PIL import Image

    images, labels = (read_idx(FASHION / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    new = np.flatnonzero(np.isin(labels, finetune.NEW))[:60]
    paths = [tmp_path / f"{index}.png" for index in new]
    for path, index in zip(paths, new):
        Image.fromarray(np.pad(255 - images[index], 4, constant_values=255)).resize((180, 180)).save(path)
    assert main(["predict", str(run), *map(str, paths)]) == 0
    said = [line.split(": ")[1].split(" ")[0] for line in capsys.readouterr().out.splitlines()]
    right = [name == CLASSES[labels[index]] for name, index in zip(said, new)]
    assert np.mean(right) > 0.5


def test_missing_data_comes_with_the_command_that_brings_it(capsys, tmp_path):
    assert main(["train", "finetune", "--data", "/nowhere", "--run-dir", str(tmp_path)]) == 1
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err
