"""Text as numbers: reading, tokens, vocabulary, padding, verses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.train.data import text as texts
from ranvier.train.data.text import Vocabulary


def test_tokens_are_words_and_marks_in_lower_case():
    assert texts.tokenize("Let there be light: and God's was.") == (
        ["let", "there", "be", "light", ":", "and", "god's", "was", "."]
    )
    assert texts.tokenize("¿Quién?  ¡Él!") == ["¿", "quién", "?", "¡", "él", "!"]


@pytest.mark.parametrize("line", ["he said, go: and he went.", "¿quién (dijo) eso? ¡él!", "god’s word; so it is"])
def test_what_was_cut_into_tokens_is_joined_as_it_was(line):
    assert texts.detokenize(texts.tokenize(line)) == line


def test_a_vocabulary_numbers_the_most_frequent_tokens():
    vocabulary = Vocabulary.build([["a", "b", "a"], ["c", "a", "b"]], max_size=2)
    assert vocabulary.tokens == ["<pad>", "<unknown>", "<begin>", "<end>", "a", "b"]
    assert vocabulary.encode(["b", "c", "a"]) == [5, Vocabulary.UNKNOWN, 4]
    assert vocabulary.decode([Vocabulary.BEGIN, 4, 1, 5, Vocabulary.PAD, Vocabulary.END, 4]) == ["a", "<unknown>", "b"]
    assert len(Vocabulary.build(["abca"], min_count=2)) == 5


@given(st.lists(st.text(max_size=5), unique=True, max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_vocabulary_comes_back_from_its_file(tmp_path_factory, tokens):
    tokens = [token for token in tokens if token not in Vocabulary.SPECIAL]
    path = tmp_path_factory.mktemp("vocabulary") / "a.json"
    Vocabulary(tokens).save(path)
    again = Vocabulary.load(path)
    assert again.encode(tokens) == list(range(4, 4 + len(tokens)))
    assert again.decode(again.encode(tokens)) == tokens


def test_a_token_twice_is_refused():
    with pytest.raises(ValueError, match=r"expected every token once, got \['a'\]"):
        Vocabulary(["a", "b", "a"])


def test_sentences_are_filled_up_and_cut():
    numbers, lengths = texts.pad_sentences([[4, 5, 6, 7], [8]], max_length=3)
    np.testing.assert_array_equal(numbers, [[4, 5, 6], [8, 0, 0]])
    np.testing.assert_array_equal(lengths, [3, 1])
    assert numbers.dtype == lengths.dtype == np.int64
    assert texts.pad_sentences([])[0].shape == (0, 0)
    with pytest.raises(ValueError, match="expected sentences of one token or more, got none in sentence 1"):
        texts.pad_sentences([[4], []])


def test_text_is_utf8_and_not_empty(tmp_path):
    (tmp_path / "a.txt").write_bytes("\N{BYTE ORDER MARK}año\n".encode())
    assert texts.read_text(tmp_path / "a.txt") == "año\n"
    (tmp_path / "latin.txt").write_bytes("año".encode("latin-1"))
    with pytest.raises(ValueError, match=r"expected .*latin.txt in UTF-8, got byte 0xf1 at 1"):
        texts.read_text(tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"expected text in .*empty\.txt"):
        texts.read_text(tmp_path / "empty.txt")


def test_missing_verses_say_what_brings_them():
    with pytest.raises(FileNotFoundError, match="apt-get install sword-text-nothing diatheke"):
        texts.read_verses("nothing", "sword-text-nothing")


def test_markup_titles_and_notes_do_not_belong_to_a_verse(monkeypatch, tmp_path):
    raw = (
        '<title type="psalm">A <w savlm="H1">Psalm</w>.</title> <l level="1"/> Psalms 3:1: <divineName><w>LORD</w>'
        "</divineName>, ¶ how<note>Or, <i>what</i></note> are<title>B</title>\n"
        "I John 2:3: <w>And</w> <transChange>this</transChange>:<lb/>so.  <div eID='a'/>\n"
        "I John 2:4: \n(module)\n"
    )
    monkeypatch.setattr(texts, "debian_file", lambda path, package: path)
    monkeypatch.setattr(texts.subprocess, "run", lambda *a, **k: type("Done", (), {"stdout": raw}))
    assert texts.read_verses("module", "package") == {
        "Psalms 3:1": "LORD, how are",
        "I John 2:3": "And this: so.",
    }


@pytest.mark.skipif(
    shutil.which("diatheke") is None or not Path("/usr/share/sword/modules/texts/ztext/engKJV2006eb").exists(),
    reason="needs Debian's sword-text-kjv and diatheke",
)
def test_the_king_james_bible_is_whole():
    verses = texts.read_verses("engKJV2006eb", "sword-text-kjv")
    assert len(verses) == 31_102
    assert verses["John 11:35"] == "Jesus wept."
    assert (
        verses["Psalms 3:1"] == "LORD, how are they increased that trouble me! many are they that rise up against me."
    )
    assert sorted(set("".join(verses.values())) & set("<>¶\n")) == []
