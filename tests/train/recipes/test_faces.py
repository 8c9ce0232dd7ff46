"""The recipe `faces`: cross-validated recognition, a network that slides, its files, what it refuses."""

import json

import numpy as np
import pytest

import ranvier as rv
from ranvier.__main__ import main
from ranvier.train.data import packages
from ranvier.train.recipes import faces

pytest.importorskip("skimage", reason="needs the extra faces")
pytest.importorskip("sklearn", reason="needs the extra faces")
from PIL import Image


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    assert main(["train", "faces", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_it_recognises_faces_it_has_not_seen_and_finds_one_in_a_portrait(run):
    result = json.loads((run / "result.json").read_text())
    assert (result["pictures"], result["folds"]) == (200, 5)
    assert result["network_accuracy"] > 0.95
    assert result["network_auc"] > 0.98
    assert 0.85 < result["eigenfaces_accuracy"] < 1
    assert 0.85 < result["hog_accuracy"] < 1
    assert result["portrait_iou"] > 0.3
    assert result["windows_judged"] > 20_000
    assert result["portrait_false_alarms"] + result["other_false_alarms"] < 50
    for picture in ("portrait.png", "curves.png"):
        assert (run / picture).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_it_answers_for_pictures_of_the_users_own(run, capsys, tmp_path):
    portrait = packages.package_file("skimage", "data/astronaut.png", "faces")
    Image.open(portrait).crop((50, 0, 450, 350)).save(tmp_path / "mine.jpg")
    Image.fromarray(np.full((60, 60), 128, np.uint8)).save(tmp_path / "grey.png")
    assert main(["predict", str(run), str(tmp_path / "mine.jpg"), str(tmp_path / "grey.png")]) == 0
    mine, grey = capsys.readouterr().out.splitlines()
    boxes = np.array([json.loads("[" + part.split("[")[1].split("]")[0] + "]") for part in mine.split(" at ")[1:]])
    assert boxes.shape[1] == 4
    assert ((boxes[:, 2] - boxes[:, 0]) == (boxes[:, 3] - boxes[:, 1])).sum() > 0
    assert boxes.min() >= 0
    assert (boxes.max(axis=0) <= [401, 351, 401, 351]).all()
    assert "grey.png: no face" in grey
    assert (run / "faces-mine.png").is_file()


def test_applied_to_a_picture_the_network_judges_every_fourth_window():
    rv.seed(0)
    model = faces.build()
    picture = np.random.default_rng(0).random((1, 1, 45, 37), dtype=np.float32)
    at_once = faces.chances_of(model, picture)
    assert at_once.shape == (1, 1, 6, 4)
    for row in range(6):
        for column in range(4):
            window = picture[..., 4 * row : 4 * row + 25, 4 * column : 4 * column + 25]
            np.testing.assert_allclose(
                faces.chances_of(model, window), at_once[..., row, column, None, None], atol=1e-6
            )


def test_windows_come_from_all_pictures_in_turn(tmp_path):
    for name, value in (("a", 0), ("b", 255)):
        Image.fromarray(np.full((40, 70), value, np.uint8)).save(tmp_path / f"{name}.png")
    windows = faces.windows_of([tmp_path / "a.png", tmp_path / "b.png"], 6, np.random.default_rng(0))
    assert windows.shape == (6, 1, 25, 25)
    assert windows.dtype == np.float32
    assert [window.mean() for window in windows] == pytest.approx([0, 1, 0, 1, 0, 1])


def test_light_changes_and_stays_within_bounds():
    images = np.random.default_rng(0).random((50, 1, 25, 25), dtype=np.float32)
    lit = faces.RandomLight()(images, np.random.default_rng(1))
    assert lit.dtype == np.float32
    assert 0 <= lit.min() <= lit.max() <= 1
    assert lit.mean(axis=(1, 2, 3)).std() > 3 * images.mean(axis=(1, 2, 3)).std()


@pytest.mark.slow
def test_a_picture_smaller_than_a_window_is_refused(run, capsys, tmp_path):
    Image.fromarray(np.zeros((20, 90), np.uint8)).save(tmp_path / "small.png")
    assert main(["predict", str(run), str(tmp_path / "small.png")]) == 1
    assert "at least 25x25 pixels, got 90x20" in capsys.readouterr().err


def test_a_missing_package_comes_with_the_command_that_brings_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(packages, "_folder_of", lambda package: None)
    assert main(["train", "faces", "--run-dir", str(tmp_path)]) == 1
    assert "pip install 'ranvier[faces]'" in capsys.readouterr().err
