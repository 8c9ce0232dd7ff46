"""The recipe `medical`: overlap beyond a threshold's, its files, the user's own pictures, what it refuses."""

import json

import numpy as np
import pytest

import ranvier as rv
from ranvier.__main__ import main
from ranvier.train.data import packages
from ranvier.train.recipes import medical

pytest.importorskip("stardist", reason="needs the extra medical")
pytest.importorskip("skimage", reason="needs the extra medical")
from PIL import Image


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("medical")
    assert main(["train", "medical", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_it_outlines_nuclei_better_than_any_threshold_on_brightness(run):
    result = json.loads((run / "result.json").read_text())
    assert result["test_iou"] > 0.82 > result["best_threshold_iou"] > result["otsu_iou"]
    assert len(result["test_iou_by_patch"]) == 4
    assert min(result["test_iou_by_patch"]) > 0.75
    assert result["test_pixels"] == 512 * 128
    for picture in ("test.png", "curves.png"):
        assert (run / picture).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_it_finds_one_bright_blob_in_a_picture_of_odd_size(run, capsys, tmp_path):
    y, x = np.mgrid[:101, :90]
    blob = ((y - 50) / 14) ** 2 + ((x - 40) / 9) ** 2 < 1
    pixels = 20 + 60 * blob + np.random.default_rng(0).normal(0, 4, blob.shape)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "blob.png")
    assert main(["predict", str(run), str(tmp_path / "blob.png")]) == 0
    answer = capsys.readouterr().out
    share = float(answer.split(": ")[1].split("%")[0]) / 100
    assert share == pytest.approx(blob.mean(), rel=0.5)
    assert (run / "overlay-blob.png").read_bytes()[:4] == b"\x89PNG"


def test_the_parts_do_not_overlap_and_patches_are_cut_where_they_should():
    grid = np.arange(2 * 8 * 12).reshape(2, 8, 12)
    patches = medical.cut(grid, size=4, step=4)
    assert patches.shape == (6, 2, 4, 4)
    np.testing.assert_array_equal(patches[5], grid[:, 4:, 8:])


def test_the_loss_is_none_for_a_perfect_answer_and_more_for_worse_ones():
    inside = np.zeros((1, 1, 8, 8), bool)
    inside[..., 2:5, 2:5] = True
    signs = np.where(inside, 1.0, -1.0).astype(np.float32)

    def loss(scores):
        return medical.dice_and_cross_entropy(rv.tensor(scores), rv.tensor(inside)).item()

    # scores of 0: every chance is 1/2, so cross-entropy log 2 and Dice (2 * 4.5 + 1) / (32 + 9 + 1)
    assert loss(0 * signs) == pytest.approx(np.log(2) + 1 - 10 / 42, rel=1e-5)
    assert loss(30 * signs) == pytest.approx(0, abs=1e-5)
    assert loss(-3 * signs) > loss(0 * signs) > loss(3 * signs)


def test_picture_and_mask_turn_together_and_only_the_picture_changes_its_light():
    rng = np.random.default_rng(0)
    patches = np.repeat(rng.random((200, 1, 5, 5), dtype=np.float32), 2, axis=1)
    turned = medical.RandomTurn()(patches, rng)
    np.testing.assert_array_equal(turned[:, 0], turned[:, 1])
    same = [np.array_equal(a, b) for a, b in zip(turned, patches)]
    assert 200 / 16 < sum(same) < 200 / 4  # one in eight
    lit = medical.RandomIntensity()(patches, rng)
    np.testing.assert_array_equal(lit[:, 1], patches[:, 1])
    assert lit.dtype == np.float32
    assert np.abs(lit[:, 0] - patches[:, 0]).max() > 0.02


def test_what_it_cannot_learn_from_is_refused_before_it_begins(capsys, tmp_path):
    small, mask = tmp_path / "small.png", tmp_path / "mask.png"
    Image.fromarray(np.zeros((50, 600), np.uint8)).save(small)
    Image.fromarray(np.zeros((50, 500), np.uint8)).save(mask)
    (tmp_path / "text.txt").write_text("no picture")
    for arguments, message in [
        (["--image", small], "expected --image and --mask together"),
        (["--image", small, "--mask", mask], r"a mask of the image's size (50, 600), got (50, 500)"),
        (["--image", small, "--mask", small], "at least 96 rows and 512 columns, got (50, 600)"),
        (["--image", tmp_path / "text.txt", "--mask", mask], "expected a picture such as TIFF or PNG"),
    ]:
        assert main(["train", "medical", "--run-dir", str(tmp_path / "run"), *map(str, arguments)]) == 1
        assert message in capsys.readouterr().err


def test_a_missing_package_comes_with_the_command_that_brings_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(packages, "_folder_of", lambda package: None)
    assert main(["train", "medical", "--run-dir", str(tmp_path)]) == 1
    assert "pip install 'ranvier[medical]'" in capsys.readouterr().err
