"""The recipe `textgen`, end to end, its 5-gram against counting by hand, and its windows."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv
from ranvier.__main__ import main
from ranvier.train.data import Vocabulary
from ranvier.train.recipes import textgen

pytestmark = pytest.mark.slow

needs_bible = pytest.mark.skipif(
    not (Path("/usr/bin/diatheke").exists() and Path("/usr/share/sword/modules/texts/ztext/engKJV2006eb").exists()),
    reason="needs Debian's sword-text-kjv and diatheke",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textgen")
    assert main(["train", "textgen", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@needs_bible
def test_the_network_foresees_held_back_text(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["test_bits_per_character"] < 2.4  # letters alone, without what came before, take 4.3
    assert 1.4 < result["baseline_5gram_bits_per_character"] < 2.1
    assert result["test_characters"] >= 10_000
    assert "temperature 0.7:" in (trained / "samples.txt").read_text()
    for name in ("surprise.png", "curves.png", "metrics.csv", "characters.json", "checkpoint/state.json"):
        assert (trained / name).is_file()


@needs_bible
def test_predict_goes_on_with_the_users_text(trained, tmp_path, capsys):
    (tmp_path / "psalm.txt").write_text("And the LORD spake unto Moses, saying,\n")
    (tmp_path / "noise.txt").write_text("xqzt wvkj qqxz jjkx zzqv\n")
    outputs = []
    for _ in range(2):
        assert main(["predict", str(trained), str(tmp_path / "psalm.txt"), str(tmp_path / "noise.txt")]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    psalm, noise = outputs[0].split(str(tmp_path / "noise.txt"))
    assert "saying,|" in psalm
    assert len(psalm) > 400
    bits = [float(part.split(" bits per character")[0].split(", ")[-1]) for part in (psalm, noise)]
    assert bits[0] < 2.5 < 5 < bits[1]


def test_a_resumed_run_ends_in_the_same_bits(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("".join(f"{n} sheep and {n + 1} goats. " for n in range(3000)))
    call = ["train", "textgen", "--quick", "--data", str(tmp_path / "mine.txt"), "--run-dir"]
    assert main([*call, str(tmp_path / "whole")]) == 0
    step = textgen.TruncatedStep.__call__

    def interrupted(self, trainer, batch):
        if trainer.epoch == 1 and trainer.step > 40:
            raise KeyboardInterrupt
        return step(self, trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(textgen.TruncatedStep, "__call__", interrupted)
        assert main([*call, str(tmp_path / "half")]) == 130
    assert main([*call, str(tmp_path / "half"), "--resume", str(tmp_path / "half" / "checkpoint")]) == 0
    whole, half = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "half"))
    assert whole == half


def test_the_5gram_is_what_counting_by_hand_gives():
    vocabulary = Vocabulary.build(["abcd"])
    training, test = (np.array(vocabulary.encode(text)) for text in ("abracadabra" * 3, "abdcab"))

    def probability(context, character, order):
        if order == 0:
            return 1 / 4
        context = tuple(context)[len(context) - (order - 1) :] if order > 1 else ()
        grams = Counter(tuple(training[i : i + order]) for i in range(len(training) - order + 1))
        followers = {gram[-1]: count for gram, count in grams.items() if gram[:-1] == context}
        shorter = probability(context[1:], character, order - 1)
        if not followers:
            return shorter
        total, kinds = sum(followers.values()), len(followers)
        return (followers.get(character, 0) + kinds * shorter) / (total + kinds)

    expected = [-math.log2(probability(test[max(0, i - 2) : i], test[i], min(3, i + 1))) for i in range(1, len(test))]
    np.testing.assert_allclose(textgen.ngram_bits(training, test, 3), expected)


def test_windows_read_every_stream_in_order():
    numbers = np.arange(2 * 3 * textgen.STEPS + 50)
    loader = textgen.windows(numbers, 2, forget_every=2)
    batches = [[x.numpy() for x in batch] for batch in loader]
    assert len(batches) == 3
    for stream in range(2):
        inputs = np.concatenate([batch[1][stream] for batch in batches])
        np.testing.assert_array_equal(inputs, np.arange(3 * textgen.STEPS) + stream * 3 * textgen.STEPS)
        np.testing.assert_array_equal(np.concatenate([batch[2][stream] for batch in batches]), inputs + 1)
    np.testing.assert_array_equal([batch[0] for batch in batches], [[0, 0], [1, 0], [0, 1]])
    assert [batch[0].tolist() for batch in textgen.windows(numbers, 2)] == [[0, 0], [1, 1], [1, 1]]


def test_the_state_goes_on_and_is_forgotten_where_it_shall_be():
    rv.seed(0)
    model = textgen.CharacterModel(9, 4, 8)
    step = textgen.TruncatedStep()
    trainer = type("Trainer", (), {"model": model})
    first, second = (rv.tensor(np.random.default_rng(i).integers(4, 9, (2, 5))) for i in range(2))
    step(trainer, (rv.tensor([0.0, 0.0]), first, first))
    loss, _ = step(trainer, (rv.tensor([1.0, 0.0]), second, second))
    whole, _ = model(rv.functional.cat([first[:1], second[:1]], dim=1))
    alone, _ = model(second[1:])
    scores = rv.functional.cat([whole[0, 5:], alone[0]], dim=0)
    expected = rv.functional.cross_entropy(scores, second.flatten()) / math.log(2)
    np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-5)


def test_a_text_too_short_is_refused(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("too short")
    call = ["train", "textgen", "--data", str(tmp_path / "short.txt"), "--run-dir", str(tmp_path / "run")]
    assert main(call) == 1
    assert "a longer text is needed" in capsys.readouterr().err


def test_a_missing_bible_comes_with_the_command_that_brings_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ranvier.train.data.packages.Path.exists", lambda self: False)
    assert main(["train", "textgen", "--run-dir", str(tmp_path / "run")]) == 1
    assert "apt-get install sword-text-kjv diatheke" in capsys.readouterr().err
