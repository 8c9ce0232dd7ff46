"""The recipe `chat`, end to end: held-back paraphrases, the conversation at the terminal, a user's file."""

import io
import json

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.data import Vocabulary
from ranvier.train.recipes import chat


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    assert main(["train", "chat", "--quick", "--run-dir", str(folder)]) == 0
    return folder


def test_held_back_paraphrases_are_held_back():
    for intent in json.loads(chat.INTENTS.read_text()):
        words = {" ".join(chat.tokenize(question)) for question in intent["questions"]}
        assert not words & {" ".join(chat.tokenize(question)) for question in intent["held_back"]}
        assert len(intent["held_back"]) >= 4


def test_the_network_recognises_paraphrases_it_never_saw(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["held_back_questions"] == 108
    assert result["held_back_accuracy"] >= 0.85 > result["baseline_accuracy"] + 0.1
    for name in ("intents.png", "curves.png", "metrics.csv", "pieces.json", "checkpoint/state.json"):
        assert (trained / name).is_file()


def test_predict_answers_each_line_of_a_file(trained, tmp_path, capsys):
    (tmp_path / "questions.txt").write_text("hello there\n\nhow do I install this library?\n")
    assert main(["predict", str(trained), str(tmp_path / "questions.txt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "> hello there"
    assert lines[1].startswith("Hello!")
    assert "pip install" in lines[3]


def test_predict_without_files_is_a_conversation(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("what is dropout?\nthank you very much\n\nnever read\n"))
    assert main(["predict", str(trained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Dropout switches")
    assert lines[1].startswith("You are welcome")


def test_an_unlikely_intent_is_not_answered(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(chat, "UNSURE", 1.1)
    (tmp_path / "question.txt").write_text("hello\n")
    assert main(["predict", str(trained), str(tmp_path / "question.txt")]) == 0
    assert "I am not sure what you mean. I know about: greeting, goodbye" in capsys.readouterr().out


def test_a_file_of_the_user(tmp_path):
    kinds = ("mare", "foal", "colt", "pony", "stallion")
    questions = {
        name: [f"{verb} the {kind}" for kind in kinds] for name, verb in (("feed", "feed"), ("ride", "saddle"))
    }
    intents = [{"intent": name, "answer": name.upper(), "questions": known} for name, known in questions.items()]
    (tmp_path / "mine.json").write_text(json.dumps(intents))
    call = ["train", "chat", "--data", str(tmp_path / "mine.json"), "--run-dir", str(tmp_path / "run")]
    assert main(call) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["held_back_accuracy"] == 1
    kept = json.loads((tmp_path / "run" / "intents.json").read_text())
    for intent in kept:
        assert sorted(intent["questions"] + intent["held_back"]) == sorted(questions[intent["intent"]])
        assert len(intent["held_back"]) == 1


@pytest.mark.parametrize(
    "text", ["[]", "no json", '[{"intent": "a"}]', '[{"intent": "a", "answer": "b", "questions": ["c", "d"]}]']
)
def test_what_is_no_file_of_intents_is_refused(tmp_path, capsys, text):
    (tmp_path / "mine.json").write_text(text)
    assert main(["train", "chat", "--data", str(tmp_path / "mine.json"), "--run-dir", str(tmp_path / "run")]) == 1
    assert "chat: expected" in capsys.readouterr().err


def test_words_that_were_never_seen_keep_their_known_pieces():
    vocabulary = Vocabulary.build([chat.pieces_of("install")])
    numbers, lengths = chat.encode(["installing it", ""], vocabulary)
    known = set(vocabulary.decode(numbers[0, 0].tolist()))
    assert known == {"#^in", "#ins", "#nst", "#sta", "#tal", "#all"}
    np.testing.assert_array_equal(numbers[0, 1], 0)
    np.testing.assert_array_equal(lengths, [2, 1])
