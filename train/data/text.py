"""Text as numbers: reading it, cutting it into words, numbering the words, lining sentences of unlike length up.

A network sees no letters. `tokenize` cuts a text into tokens (words and punctuation marks), a `Vocabulary` numbers the
tokens it knows, and `pad_sentences` puts sentences of different lengths into one array, with their lengths beside it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..checkpoint import write_atomically
from .packages import debian_file

_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_NO_SPACE_BEFORE = re.compile(r"\s+([.,;:!?)\]»”])")
_NO_SPACE_AFTER = re.compile(r"([(\[¿¡«“])\s+")
_VERSE = re.compile(r"^(?:<.*> )?([^<>]+ \d+:\d+): (.*)$")
_SWORD_LINE_BREAKS = re.compile(r"<(?:l|lb|lg|p|div)\b[^>]*>")
_SWORD_MARKUP = re.compile(r"<[^>]*>|¶")


def read_text(path: str | Path) -> str:
    """A plain text file in UTF-8.

    Raises:
        ValueError: it is not UTF-8, or there is nothing in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"read_text: expected {path} in UTF-8, got byte {error.object[error.start]:#04x} at {error.start}; "
            "`iconv -t UTF-8` converts"
        ) from None
    if not text.strip():
        raise ValueError(f"read_text: expected text in {path}, got an empty file")
    return text


def tokenize(text: str) -> list[str]:
    """Words and punctuation marks in lower case: "God's, and." -> ["god's", ",", "and", "."]."""
    return _TOKEN.findall(text.lower())


def detokenize(tokens: Iterable[str]) -> str:
    """Tokens as a line of text, with punctuation marks at the words they belong to."""
    return _NO_SPACE_AFTER.sub(r"\1", _NO_SPACE_BEFORE.sub(r"\1", " ".join(tokens)))


class Vocabulary:
    """Numbers for tokens, which may be words or characters.

    The first four numbers are taken: PAD fills sentences up, UNKNOWN stands for every token that is not known, BEGIN
    and END stand around a sentence that a network writes.

    Args:
        tokens: the known tokens, without those four; the first gets number 4.
    """

    PAD, UNKNOWN, BEGIN, END = range(4)
    SPECIAL = ("<pad>", "<unknown>", "<begin>", "<end>")

    def __init__(self, tokens: Sequence[str]):
        self.tokens = [*self.SPECIAL, *tokens]
        self._numbers = {token: number for number, token in enumerate(self.tokens)}
        if len(self._numbers) != len(self.tokens):
            twice = [token for token, count in Counter(self.tokens).items() if count > 1]
            raise ValueError(f"Vocabulary: expected every token once, got {twice[:5]} more often")

    @classmethod
    def build(cls, sentences: Iterable[Iterable[str]], max_size: int | None = None, min_count: int = 1) -> Vocabulary:
        """The most frequent tokens of some sentences (lists of words, or strings for characters), frequent ones first.

        Args:
            sentences: to count.
            max_size: tokens to keep at most, the four special ones not counted.
            min_count: how often a token must occur.
        """
        counts = Counter(token for sentence in sentences for token in sentence)
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_size]
        return cls([token for token, count in ordered if count >= min_count])

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """The tokens' numbers."""
        return [self._numbers.get(token, self.UNKNOWN) for token in tokens]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The tokens of numbers, up to the first END; PAD and BEGIN left out."""
        tokens = []
        for number in numbers:
            if number == self.END:
                break
            if number not in (self.PAD, self.BEGIN):
                tokens.append(self.tokens[number])
        return tokens

    def save(self, path: str | Path) -> None:
        """Writes the tokens as a JSON list."""
        text = json.dumps(self.tokens[len(self.SPECIAL) :], ensure_ascii=False, indent=0)
        write_atomically(Path(path), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """The vocabulary that `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))


def pad_sentences(sentences: Sequence[Sequence[int]], max_length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of numbers as one array, filled up with PAD.

    Args:
        sentences: lists of numbers, each of one or more.
        max_length: where longer ones are cut off.

    Returns:
        numbers [N, longest] int64, lengths [N] int64.
    """
    if empty := [index for index, sentence in enumerate(sentences) if len(sentence) == 0]:
        raise ValueError(f"pad_sentences: expected sentences of one token or more, got none in sentence {empty[0]}")
    lengths = np.array([len(sentence[:max_length]) for sentence in sentences], np.int64)
    numbers = np.full((len(sentences), lengths.max(initial=0)), Vocabulary.PAD, np.int64)
    for row, sentence in zip(numbers, sentences):
        row[: len(sentence[:max_length])] = sentence[:max_length]
    return numbers, lengths


def read_verses(module: str, package: str) -> dict[str, str]:
    """The verses of a Bible in the SWORD library's format, by place: {"John 11:35": "Jesus wept."}.

    The text is read by `diatheke`, SWORD's own command, and stripped of its markup, titles and notes.

    Args:
        module: the module's name, such as 'engKJV2006eb'.
        package: the Debian package that brings it, for the error.

    Raises:
        FileNotFoundError: the module or the command is not installed; the message has the command that brings them.
    """
    debian_file(f"/usr/share/sword/modules/texts/ztext/{module}", f"{package} diatheke")
    command = debian_file("/usr/bin/diatheke", f"{package} diatheke")
    raw = subprocess.run(
        [command, "-b", module, "-f", "internal", "-k", "Gen-Rev"], capture_output=True, check=True, text=True
    ).stdout
    found = (_VERSE.match(line) for line in raw.splitlines())
    verses = {match[1].strip(): _plain_verse(match[2]) for match in found if match}
    return {place: text for place, text in verses.items() if text}


def _plain_verse(marked: str) -> str:
    without_asides = re.sub(r"<(note|title)\b[^>]*>.*?</\1>", " ", marked)
    return " ".join(_SWORD_MARKUP.sub("", _SWORD_LINE_BREAKS.sub(" ", without_asides)).split())
