"""The recipes `digits` and `fashion` in their quick form, and what they say of the user's own pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.data import load_digits, read_idx
from ranvier.train.recipes.fashion import CLASSES

FASHION = Path("/usr/share/datasets/fashion-mnist")


def on_paper(image, path):
    """Saves a bright image [H, W] of bytes as one on a white sheet, larger."""
    from PIL import Image

    sheet = np.pad(255 - image, 4, constant_values=255)
    Image.fromarray(sheet).resize((200, 200), Image.Resampling.NEAREST).save(path)


def said_of(run, paths, capsys):
    capsys.readouterr()
    assert main(["predict", str(run), *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(f"{path}: ") for line, path in zip(lines, paths, strict=True))
    return [line.split(": ")[1].split(" ")[0] for line in lines]


@pytest.mark.slow
def test_digits(tmp_path, capsys):
    assert main(["train", "digits", "--quick", "--run-dir", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["test_accuracy"] > 0.9
    images, labels = load_digits()
    paths = [tmp_path / f"{index}.png" for index in range(50)]
    for path, image in zip(paths, images[:50, 0]):
        on_paper((image * 255).astype(np.uint8), path)
    right = np.array(said_of(tmp_path, paths, capsys), int) == labels[:50]
    assert right.mean() >= 0.8


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion(tmp_path, capsys):
    assert main(["train", "fashion", "--quick", "--run-dir", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["test_accuracy"] > 0.75
    images, labels = (read_idx(FASHION / f"t10k-{kind}-ubyte.gz")[:60] for kind in ("images-idx3", "labels-idx1"))
    paths = [tmp_path / f"{index}.png" for index in range(60)]
    for path, image in zip(paths, images):
        on_paper(image, path)
    right = [name == CLASSES[label] for name, label in zip(said_of(tmp_path, paths, capsys), labels)]
    assert np.mean(right) >= 0.65
