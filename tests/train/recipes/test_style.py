"""The recipe `style`: what its losses measure, that painting lowers them, resuming, the user's own pictures."""

import json

import numpy as np
import pytest

import ranvier as rv
from ranvier.__main__ import main
from ranvier.train.checkpoint import load_checkpoint
from ranvier.train.data import packages
from ranvier.train.recipes import style

pytest.importorskip("skimage", reason="needs the extra style")
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("style")
    assert main(["train", "style", "--quick", "--run-dir", str(folder)]) == 0
    return folder


def random_picture(seed, height=24, width=32):
    return rv.tensor(np.random.default_rng(seed).random((1, 3, height, width), dtype=np.float32))


def test_painting_lowers_both_losses_together(run):
    result = json.loads((run / "result.json").read_text())
    assert result["last_content"] < 0.7 * result["first_content"]
    assert result["last_style"] < min(result["first_style"], 0.1 * result["untouched_style"])
    assert result["untouched_content"] == pytest.approx(0, abs=1e-6)
    assert result["network_test_accuracy"] > 1.5 / len(style.SOURCES)
    for picture in ("pictures.png", "result.png", "curves.png"):
        assert (run / picture).read_bytes()[:4] == b"\x89PNG"
    rows = (run / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,total,content,style,variation"


def test_a_resumed_painting_ends_in_the_bits_of_an_unbroken_one(run, capsys, tmp_path):
    half, rest = tmp_path / "half", tmp_path / "rest"
    assert main(["train", "style", "--quick", "--steps", "20", "--run-dir", str(half)]) == 0
    assert main(["train", "style", "--quick", "--resume", str(half / "checkpoint"), "--run-dir", str(rest)]) == 0
    whole, resumed = (load_checkpoint(folder / "checkpoint")["painting"] for folder in (run, rest))
    assert len(load_checkpoint(half / "checkpoint")["painting"]["history"]) == 20
    assert resumed["history"] == whole["history"]
    np.testing.assert_array_equal(resumed["pixels"], whole["pixels"])
    assert not (rest / "network").exists()  # it was ready, and is not trained again
    other = ["--size", "40", "--resume", str(half / "checkpoint"), "--run-dir", str(rest)]
    assert main(["train", "style", "--quick", *other]) == 1
    assert "expected the --content and --size of the run that goes on" in capsys.readouterr().err


def test_losses_know_content_by_place_and_style_by_channel():
    rv.seed(0)
    model = style.build().eval().requires_grad_(False)
    content, look = random_picture(0), random_picture(1)
    losses = style.Losses(model, content, look)
    assert losses(content)[0].item() == pytest.approx(0, abs=1e-9)
    assert losses(look)[1].item() == pytest.approx(0, abs=1e-9)
    mirrored = rv.tensor(np.ascontiguousarray(look.numpy()[..., ::-1]))
    other = rv.tensor(look.numpy() ** 3)
    assert losses(mirrored)[1].item() < 0.2 * losses(other)[1].item()  # style hardly minds where things are
    assert losses(mirrored)[0].item() > 0.5
    flat = rv.tensor(np.full((1, 3, 24, 32), 0.5, np.float32))
    assert losses(flat)[2].item() == 0 < losses(content)[2].item()


def test_the_gram_matrix_worked_by_hand():
    answer = rv.tensor(np.array([[[[1.0, 2.0]], [[3.0, -1.0]]]], np.float32))
    np.testing.assert_allclose(style.gram(answer).numpy(), [[2.5, 0.5], [0.5, 5.0]])


def test_colours_move_over_and_the_picture_stays():
    content, look = random_picture(0).numpy()[0], 0.4 + 0.2 * random_picture(1).numpy()[0]
    moved = style.with_colours_of(content, look)
    np.testing.assert_allclose(moved.mean((1, 2)), look.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved.std((1, 2)), look.std((1, 2)), atol=1e-5)
    assert np.corrcoef(moved[0].ravel(), content[0].ravel())[0, 1] > 0.999


def test_it_paints_a_picture_of_the_users_own(run, capsys, tmp_path):
    Image.fromarray(np.tile(np.arange(120, dtype=np.uint8), (50, 1))).save(tmp_path / "mine.png")
    assert main(["predict", str(run), str(tmp_path / "mine.png")]) == 0
    assert "painted in" in capsys.readouterr().out
    assert Image.open(run / "painted-mine.png").size == (80, 33)


def test_what_it_cannot_paint_is_refused_before_it_trains(capsys, tmp_path):
    (tmp_path / "text.txt").write_text("no picture")
    assert main(["train", "style", "--content", str(tmp_path / "text.txt"), "--run-dir", str(tmp_path)]) == 1
    assert "expected an image such as PNG or JPEG" in capsys.readouterr().err
    assert main(["train", "style", "--steps", "0", "--run-dir", str(tmp_path)]) == 1
    assert "expected --size of 32 or more and --steps of 1 or more, got 224 and 0" in capsys.readouterr().err
    assert not (tmp_path / "network").exists()


def test_a_missing_package_comes_with_the_command_that_brings_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(packages, "_folder_of", lambda package: None)
    assert main(["train", "style", "--run-dir", str(tmp_path)]) == 1
    assert "pip install 'ranvier[style]'" in capsys.readouterr().err
