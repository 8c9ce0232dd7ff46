"""The recipe `translate`, end to end on a language that a test can check, its search, its dictionary, its attention."""

import json
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv
from ranvier.__main__ import main
from ranvier.train.data import Vocabulary
from ranvier.train.recipes import translate as recipe

pytestmark = pytest.mark.slow

pytest.importorskip("sacrebleu", reason="needs the extra `translate`")

NUMBERS = {"one": "uno", "two": "dos", "three": "tres", "four": "cuatro", "five": "cinco"}
THINGS = {"sheep": "ovejas", "goats": "cabras", "camels": "camellos", "oxen": "bueyes", "asses": "asnas"}
COLOURS = {"white": "blancas", "black": "negras", "old": "viejas", "young": "jovenes"}


def sentence(number, colour, thing, other):
    """'two white sheep and oxen' -> 'dos ovejas blancas y bueyes': the order differs."""
    return (
        f"{number} {colour} {thing} and {other}\t{NUMBERS[number]} {THINGS[thing]} {COLOURS[colour]} y {THINGS[other]}"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translate")
    lines = [sentence(n, c, t, o) for n in NUMBERS for c in COLOURS for t in THINGS for o in THINGS if o != t]
    (folder / "pairs.tsv").write_text("\n".join(lines))
    call = ["train", "translate", "--data", str(folder / "pairs.tsv"), "--epochs", "25"]
    assert main([*call, "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def test_a_small_language_is_learned_with_its_order_of_words(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["test_bleu"] > 90 > result["baseline_word_by_word_bleu"]
    assert result["test_bleu"] > result["baseline_nearest_verse_bleu"]
    assert "true       " in (trained / "samples.txt").read_text()
    for name in ("attention.png", "curves.png", "metrics.csv", "source.json", "target.json", "lexicon.json"):
        assert (trained / name).is_file()


def test_predict_translates_each_line(trained, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("Two white sheep and oxen\n\nfive old camels and goats\n")
    assert main(["predict", str(trained), str(tmp_path / "mine.txt")]) == 0
    assert capsys.readouterr().out.splitlines() == ["dos ovejas blancas y bueyes", "cinco camellos viejas y cabras"]


@pytest.mark.slow
@pytest.mark.skipif(
    not all(
        Path(path).exists()
        for path in (
            "/usr/bin/diatheke",
            "/usr/share/sword/modules/texts/ztext/engKJV2006eb",
            "/usr/share/sword/modules/texts/ztext/spaRV1909eb",
        )
    ),
    reason="needs Debian's sword-text-kjv, sword-text-sparv and diatheke",
)
def test_verses_end_to_end(tmp_path):
    assert main(["train", "translate", "--quick", "--run-dir", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_pairs"] == 40
    assert 8 < result["baseline_word_by_word_bleu"] < 25
    rows = json.loads((tmp_path / "metrics.json").read_text())
    assert rows[-1]["validation_loss"] < 4.45  # the frequencies of words alone: 4.7


def table_model(table):
    """A model whose next word's probabilities depend on the last word alone."""
    scores = np.log(np.full((len(table), len(table)), 1e-9))
    for last, row in enumerate(table):
        for word, chance in row.items():
            scores[last, word] = np.log(chance)

    class Table(rv.Layer):
        def __init__(self):
            super().__init__()
            self.weight = rv.Parameter(np.zeros(1, np.float32))

        def encode(self, source, lengths):
            size = source.shape[1]
            return rv.zeros(1, size, 2), rv.zeros(1, size, 2), rv.zeros(1, 1, size), rv.zeros(1, 1, 2)

        def decode(self, target, state, outputs, words, filling):
            size, length = target.shape[0], outputs.shape[1]
            attention = rv.tensor(np.tile(np.eye(length, dtype=np.float32)[-1], (size, 1, 1)))
            return rv.tensor(scores.astype(np.float32)[target.numpy()]), attention, rv.zeros(1, size, 2)

    return Table()


def test_beam_search_finds_what_begins_less_likely_and_ends_better():
    vocabularies = [Vocabulary(["x", "y"]), Vocabulary(["a", "b"])]
    a, b, end, unknown = 4, 5, Vocabulary.END, Vocabulary.UNKNOWN
    table = [{}, {end: 1.0}, {a: 0.6, b: 0.4}, {}, {unknown: 0.3, a: 0.3, b: 0.2, end: 0.2}, {end: 1.0}]
    model = table_model(table)
    assert recipe.translate(model, vocabularies, {}, ["x"], width=3)[0] == ["b"]
    assert recipe.translate(model, vocabularies, {}, ["x"], width=1)[0][0] == "a"


def test_an_unknown_word_is_looked_up_where_the_network_looked():
    vocabularies = [Vocabulary(["x", "y"]), Vocabulary(["a"])]
    model = table_model([{}, {Vocabulary.END: 1.0}, {Vocabulary.UNKNOWN: 1.0}, {}, {}])
    words, attention = recipe.translate(model, vocabularies, {"y": "ye"}, ["x", "y"])
    assert words == ["ye"]
    np.testing.assert_array_equal(attention, [[0, 1], [0, 1]])
    assert recipe.translate(model, vocabularies, {}, ["x", "Goliath"])[0] == ["Goliath"]


def test_the_dictionary_finds_which_word_goes_with_which():
    lines = ("the house|la casa", "the door|la puerta", "the book|el libro", "a book|un libro")
    pairs = [tuple(side.split() for side in line.split("|")) for line in lines]
    lexicon = recipe.word_pairs(pairs, rounds=20)
    assert lexicon["book"] == "libro"
    assert lexicon["house"] == "casa"
    assert lexicon["a"] == "un"


def test_attention_leaves_the_filling_out():
    rv.seed(0)
    model = recipe.Translator(9, 9, 8).eval()
    target = rv.tensor([[2, 4, 5]])
    alone = model(rv.tensor([[4, 5]]), rv.tensor([2]), target)
    filled = model(rv.tensor([[4, 5, 0, 0]]), rv.tensor([2]), target)
    np.testing.assert_allclose(filled.numpy(), alone.numpy(), rtol=1e-5, atol=1e-6)


def test_no_test_sentence_occurs_in_training():
    rv.seed(0)
    pairs = [([f"a{i % 150}"], [f"b{i % 170}"]) for i in range(2000)]
    training, validation, test = recipe.split_pairs(pairs, quick=True)
    in_test = {sentence[0] for pair in test for sentence in pair}
    assert len(test) == 40
    assert training
    assert not [pair for pair in training + validation if {pair[0][0], pair[1][0]} & in_test]


def test_files_that_hold_no_pairs_are_refused(tmp_path, capsys):
    for text, message in (("a\tb\nc d\n", "in each line of"), ("a\tb\n", "expected 100 pairs or more")):
        (tmp_path / "mine.tsv").write_text(text)
        call = ["train", "translate", "--data", str(tmp_path / "mine.tsv"), "--run-dir", str(tmp_path / "run")]
        assert main(call) == 1
        assert message in capsys.readouterr().err


def test_missing_bibles_come_with_the_command_that_brings_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ranvier.train.data.packages.Path.exists", lambda self: False)
    assert main(["train", "translate", "--run-dir", str(tmp_path / "run")]) == 1
    assert "apt-get install sword-text-kjv diatheke" in capsys.readouterr().err
