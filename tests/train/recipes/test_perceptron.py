"""The recipe `perceptron`: both parts, its files, its answers, the user's own table, what it refuses."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.data import packages, read_csv, read_csv_header

pytest.importorskip("sklearn", reason="needs the extra perceptron")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perceptron")
    assert main(["train", "perceptron", "--quick", "--run-dir", str(folder)]) == 0
    return folder


def test_it_recognises_patients_and_only_layers_part_the_moons(run):
    result = json.loads((run / "result.json").read_text())
    assert result["test_rows"] == 171
    assert result["test_auc"] > 0.98
    assert result["test_accuracy"] > result["majority_accuracy"] + 0.25
    assert result["regression_auc"] > 0.98
    moons = result["moons_accuracy"]
    assert moons["one neuron"] < 0.92
    assert min(moons[name] for name in ("sigmoid", "tanh", "ReLU")) > 0.97
    for picture in ("moons.png", "curves.png"):
        assert (run / picture).read_bytes()[:4] == b"\x89PNG"


def test_back_propagation_agrees_with_trying_it_out(capsys, tmp_path):
    assert main(["train", "perceptron", "--quick", "--run-dir", str(tmp_path)]) == 0
    said, tried = (float(line.split()[-1].rstrip(";")) for line in capsys.readouterr().out.splitlines()[:2])
    assert said == pytest.approx(tried, rel=0.05)
    assert abs(said) > 1e-3


def test_it_answers_for_the_rows_of_a_file(run, capsys):
    assert main(["predict", str(run), str(run / "examples.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    said = np.array([float(line.split(": ")[1].split("%")[0]) for line in lines])
    assert all(line.endswith("% malignant") for line in lines)
    from sklearn.datasets import load_breast_cancer

    cancer = load_breast_cancer()
    assert read_csv_header(run / "examples.csv") == list(cancer.feature_names)
    (rows,) = read_csv(run / "examples.csv")
    malignant = [cancer.target[np.abs(cancer.data - row).max(axis=1).argmin()] == 0 for row in rows]
    assert ((said > 50) == malignant).mean() >= 0.8


def test_a_file_with_other_columns_is_refused(run, capsys, tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert main(["predict", str(run), str(tmp_path / "other.csv")]) == 1
    assert "predict: expected columns mean radius" in capsys.readouterr().err


def test_a_table_of_the_users_own(capsys, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 2))
    rows = [f"{a},{int(a + b > 0)},{b}" for a, b in x]
    (tmp_path / "own.csv").write_text("\n".join(["height,ill,weight", *rows]) + "\n")
    own = ["train", "perceptron", "--data", str(tmp_path / "own.csv"), "--target", "ill", "--run-dir", str(tmp_path)]
    assert main(own) == 0
    assert json.loads((tmp_path / "result.json").read_text())["test_auc"] > 0.97
    (tmp_path / "new.csv").write_text("height,weight\n3,3\n-3,-3\n")
    capsys.readouterr()
    assert main(["predict", str(tmp_path), str(tmp_path / "new.csv")]) == 0
    high, low = (float(line.split(": ")[1].split("%")[0]) for line in capsys.readouterr().out.splitlines())
    assert high > 90
    assert low < 10
    (tmp_path / "own.csv").write_text("height,ill\n1,2\n2,3\n")
    assert main(own) == 1
    assert "expected column ill of 0 and 1" in capsys.readouterr().err


def test_a_missing_package_comes_with_the_command_that_brings_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(packages, "_folder_of", lambda package: None)
    assert main(["train", "perceptron", "--run-dir", str(tmp_path)]) == 1
    assert "pip install 'ranvier[perceptron]'" in capsys.readouterr().err
