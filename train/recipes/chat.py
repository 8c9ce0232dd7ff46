"""A small recurrent network that answers questions at the terminal (its own questions and answers, or your file).

The idea, *intents*: people ask for the same thing in many ways. For each thing that they may want, the *intent*, a file
lists a dozen questions and one answer. The network learns to recognise the intent of a question, also where it is put
in words that the file does not have; the answer is then the one that a person wrote. Nothing is made up.

A word's vector is the sum of learned vectors of its pieces: of the whole word and of each three letters in a row in it
(the *subwords* of fastText), so that "install", "installing" and "installation" begin alike, and a word that was never
seen is not quite unknown. A bidirectional *GRU* reads the vectors, the strongest answer of each feature over the
sentence decides (*pooling*). During training some words are hidden, so that none alone decides. If no intent is likely
enough the network says so; everyday questions off the topic are an intent of their own.

Each intent has paraphrases that are held back: they are asked once, at the end. The simple baseline answers with the
intent of the training question that has the most words in common.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from ...layers.random import generator
from ..data import ArrayDataset, DataLoader
from ..data.text import Vocabulary, read_text, tokenize
from ..metrics import Accuracy
from ..pictures import new_figure
from ..run_folder import Run, write_json, write_result
from ..trainer import Trainer

INTENTS = Path(__file__).parent.parent / "data" / "intents.json"
UNSURE = 0.5  # an intent less probable than this is not answered
MAX_WORDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=30)
    parser.add_argument(
        "--data",
        type=Path,
        default=INTENTS,
        metavar="FILE",
        help='your own JSON: [{"intent": name, "answer": text, "questions": [...], "held_back": [...]}, ...]; '
        "without held_back, a fifth of the questions is held back",
    )


class IntentClassifier(rv.Layer):
    """Pieces of words [N, T, P] and lengths [N] -> scores [N, intents]."""

    def __init__(self, pieces: int, intents: int, embedding_dim: int = 64, hidden_size: int = 64):
        super().__init__()
        self.embedding = rv.Embedding(pieces, embedding_dim, padding_idx=Vocabulary.PAD)
        rv.init.normal_(self.embedding.weight, std=0.2)
        rv.init.zeros_(self.embedding.weight[Vocabulary.PAD].detach())
        self.embedding_dropout = rv.Dropout(0.3)
        self.gru = rv.GRU(embedding_dim, hidden_size, batch_first=True, bidirectional=True)
        self.dropout = rv.Dropout(0.3)
        self.head = rv.Dense(2 * hidden_size, intents)

    def forward(self, pieces, lengths):
        words = self.embedding_dropout(self.embedding(pieces).sum(dim=2))
        outputs, _ = self.gru(words, None, lengths)
        return self.head(self.dropout(outputs.amax(dim=1)))


def build(pieces: int, intents: int) -> IntentClassifier:
    return IntentClassifier(pieces, intents)


def pieces_of(word: str) -> list[str]:
    """The word itself, and every three letters in a row of it between marks of its ends."""
    marked = f"^{word}$"
    return [word, *(f"#{marked[i : i + 3]}" for i in range(len(marked) - 2))]


def encode(questions: Iterable[str], vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the known pieces [N, MAX_WORDS, P], the word's own first, and lengths [N]."""
    sentences = [[pieces_of(word) for word in tokenize(question)[:MAX_WORDS]] for question in questions]
    longest = max((len(pieces) for sentence in sentences for pieces in sentence), default=1)
    numbers = np.full((len(sentences), MAX_WORDS, longest), Vocabulary.PAD, np.int64)
    for row, sentence in zip(numbers, sentences):
        for place, pieces in zip(row, sentence):
            place[: len(pieces)] = vocabulary.encode(pieces)
    numbers[numbers == Vocabulary.UNKNOWN] = Vocabulary.PAD  # an unknown piece adds nothing
    return numbers, np.array([max(1, len(sentence)) for sentence in sentences], np.int64)


def hide_words(pieces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hides some words with all their pieces, and of others the word itself, as if it were a new one."""
    pieces = pieces.copy()
    chance = rng.random(pieces.shape[:2])
    pieces[chance < 0.1] = Vocabulary.PAD
    pieces[chance > 0.7, 0] = Vocabulary.PAD
    return pieces


def load_intents(path: Path) -> list[dict]:
    """The file's intents; each gets held-back questions, drawn from its questions where none has any."""
    try:
        intents = json.loads(read_text(path))
        complete = len(intents) > 1 and all(len(i["questions"]) > 1 and i["intent"] and i["answer"] for i in intents)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"chat: expected {path} as a JSON list of intents (see --data), got {error!r}") from None
    if not complete:
        raise ValueError(f"chat: expected two intents or more in {path}, each with an answer and two questions or more")
    if any(intent.get("held_back") for intent in intents):
        return [intent | {"held_back": intent.get("held_back", [])} for intent in intents]
    split = []
    for intent in intents:
        questions = generator().permutation(intent["questions"]).tolist()
        count = max(1, len(questions) // 5)
        split.append(intent | {"held_back": questions[:count], "questions": questions[count:]})
    return split


def run(options: argparse.Namespace) -> dict:
    intents = load_intents(options.data)
    write_json(options.run_dir / "intents.json", intents)
    questions, labels = asked(intents, "questions")
    held_back, truth = asked(intents, "held_back")
    vocabulary = Vocabulary.build(pieces_of(word) for question in questions for word in tokenize(question))
    vocabulary.save(options.run_dir / "pieces.json")
    loader = DataLoader(
        ArrayDataset(*encode(questions, vocabulary), labels), batch_size=32, shuffle=True, augment=hide_words
    )
    model = build(len(vocabulary), len(intents))
    epochs = min(options.epochs, 20) if options.quick else options.epochs
    optimizer = rv.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=1e-2, total_steps=epochs * len(loader)),
        schedule_interval="step",
        gradient_clip_val=1.0,
        metrics={"accuracy": Accuracy()},
        capture=False,  # the GRU computes as many rows as a batch has words
        device=options.device,
        run_dir=options.run_dir,
    )
    # No part is kept for validation: a dozen questions an intent are few. Sizes and rates were chosen beforehand by
    # cross-validation among the training questions; the held-back paraphrases are asked once, here below.
    trainer.fit(loader, resume=options.resume)

    chances = recognise(model, vocabulary, held_back)
    answered = np.where(chances.max(axis=1) >= UNSURE, chances.argmax(axis=1), -1)
    result = {
        "held_back_accuracy": float((answered == truth).mean()),
        "held_back_unsure": float((answered < 0).mean()),
        "baseline_accuracy": float((labels[most_words_in_common(questions, held_back)] == truth).mean()),
        "held_back_questions": len(held_back),
    }
    write_result(options.run_dir, result)
    save_recognised(chances, truth, [intent["intent"] for intent in intents], options.run_dir / "intents.png")
    for question, intent, label in zip(held_back, answered, truth):
        if intent != label:
            print(f"missed: {question!r} is {intents[label]['intent']}, got {_name(intents, intent)}")
    print(f"\nheld-back paraphrases answered rightly   {result['held_back_accuracy']:.1%} of {len(held_back)}")
    print(f"by the most words in common              {result['baseline_accuracy']:.1%}")
    print(f"run folder {options.run_dir}/  (metrics.csv, curves.png, intents.png, checkpoint/)")
    print(f"`ranvier predict {options.run_dir}` opens the conversation")
    return result


def asked(intents: list[dict], kind: str) -> tuple[list[str], np.ndarray]:
    """All questions of a kind, and the number of each one's intent."""
    questions = [question for intent in intents for question in intent[kind]]
    return questions, np.array([label for label, intent in enumerate(intents) for _ in intent[kind]], np.int64)


def recognise(model: IntentClassifier, vocabulary: Vocabulary, questions: Iterable[str]) -> np.ndarray:
    """The probability of each intent for each question [N, intents]."""
    device = next(model.parameters()).device
    model.eval()
    with rv.no_grad():
        scores = model(*(rv.tensor(x, device=device) for x in encode(questions, vocabulary)))
        return rv.functional.softmax(scores, dim=1).numpy()


def most_words_in_common(known: list[str], questions: list[str]) -> np.ndarray:
    """The baseline: for each question the known one that shares the largest part of both their words."""
    sets = [set(tokenize(question)) for question in known]
    words = (set(tokenize(question)) for question in questions)
    return np.array([np.argmax([len(own & other) / len(own | other) for other in sets]) for own in words])


def save_recognised(chances: np.ndarray, truth: np.ndarray, names: list[str], path: Path) -> None:
    """The mean probability that the held-back questions of each intent (rows) gave to each intent (columns)."""
    present = np.unique(truth)
    figure, axes = new_figure(7.5, 6.5)
    mean = np.stack([chances[truth == label].mean(axis=0) for label in present])
    drawn = axes[0].imshow(mean, cmap="Blues", vmin=0, vmax=1)
    axes[0].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes[0].set_yticks(range(len(present)), [names[label] for label in present], fontsize=8)
    axes[0].set(xlabel="taken for", ylabel="meant")
    figure.colorbar(drawn, ax=axes[0], label="mean probability")
    figure.savefig(path, dpi=90)


def _name(intents: list[dict], label: int) -> str:
    return "no answer" if label < 0 else intents[label]["intent"]


def predict(run: Run, paths: list[Path]) -> Iterator[str]:
    """An answer to each line of the user's files; without files, a conversation at the terminal."""
    intents = json.loads((run.folder / "intents.json").read_text())
    vocabulary = Vocabulary.load(run.folder / "pieces.json")
    model = run.load_weights(build(len(vocabulary), len(intents)))
    for path in paths:
        for question in read_text(path).splitlines():
            if question.strip():
                yield f"> {question}\n{answer(model, vocabulary, intents, question)}"
    if not paths:
        for question in conversation():
            yield answer(model, vocabulary, intents, question)


def answer(model: IntentClassifier, vocabulary: Vocabulary, intents: list[dict], question: str) -> str:
    """What a person wrote for the most likely intent, or what the network knows about if none is likely."""
    chances = recognise(model, vocabulary, [question])[0]
    if chances.max() < UNSURE:
        return "I am not sure what you mean. I know about: " + ", ".join(intent["intent"] for intent in intents) + "."
    return intents[chances.argmax()]["answer"]


def conversation() -> Iterator[str]:
    """The lines that the user types, until end of input (Ctrl-D) or an empty line."""
    print("Ask, or leave with an empty line.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line
