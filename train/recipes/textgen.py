"""A recurrent network that writes text letter by letter (King James Bible, 4 million characters).

The idea, a *language model*: given all characters so far, how probable is each character to come next? The network
reads one character at a time, as a learned vector (*embedding*), and keeps what it needs of the past in the state of a
*GRU*. From the state a dense layer gives every character a probability. The loss is how much the character that really
came surprises the network: -log2 of its probability, in *bits per character*.

Gradients would have to flow back through four million steps. *Truncated back-propagation through time* cuts the text
into windows of 100 characters: the state goes on from window to window, the gradient ends at the window's edge. 32
parts of the text (*streams*) are read side by side as one batch.

To write, draw a character from the probabilities, feed it in as the next one, and so on. Dividing the scores by a
*temperature* below 1 makes likely characters likelier: careful and repetitive; above 1 it makes them bold and wrong.

The end of the text is held back. The simple baseline is a 5-gram counted on the same training text: how often does
each character follow the last four, mixed with the counts for the last three, two, one and none.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from ...layers import random
from ..checkpoint import write_atomically
from ..data import ArrayDataset, DataLoader
from ..data.text import Vocabulary, read_text, read_verses
from ..pictures import new_figure
from ..run_folder import Run, write_result
from ..trainer import Trainer

STEPS = 100  # characters a window
FORGET_EVERY = 20  # windows
BITS = 1 / math.log(2)  # a nat in bits
HELD_BACK = 0.05  # of the text, at its end; as much before it is for validation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=2)
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="your own text in UTF-8, a million characters or more"
    )
    parser.add_argument("--temperature", type=float, default=0.7, help="of what `predict` writes (%(default)s)")


class CharacterModel(rv.Layer):
    """Characters [N, T] and the state before them -> scores of each next character [N, T, characters], state."""

    def __init__(self, characters: int, embedding_dim: int = 64, hidden_size: int = 256):
        super().__init__()
        self.embedding = rv.Embedding(characters, embedding_dim)
        self.gru = rv.GRU(embedding_dim, hidden_size, batch_first=True)
        self.head = rv.Dense(hidden_size, characters)

    def forward(self, characters, state=None):
        outputs, state = self.gru(self.embedding(characters), state)
        return self.head(outputs), state


def build(characters: int, quick: bool = False) -> CharacterModel:
    return CharacterModel(characters, 32, 128) if quick else CharacterModel(characters)


class TruncatedStep:
    """The training step that carries the state from one window to the next, off the tape."""

    def __init__(self):
        self.state = None

    def __call__(self, trainer: Trainer, batch):
        keep, inputs, targets = batch
        before = self.state * keep.reshape(1, -1, 1) if keep.amax() else None
        scores, state = trainer.model(inputs, before)
        self.state = state.detach()
        return rv.functional.cross_entropy(scores.flatten(0, 1), targets.flatten()) * BITS, None


def windows(numbers: np.ndarray, streams: int, forget_every: int | None = None) -> DataLoader:
    """Batches (keep [streams], inputs [streams, STEPS], targets [streams, STEPS]) that read the text in order.

    `keep` is 0 where a stream begins and its state shall be forgotten, else 1.

    Args:
        numbers: the text's characters. What is left over at its end by streams * STEPS is not read.
        streams: parts of the text that are read side by side.
        forget_every: windows after which a stream begins anew, each stream at another time. A network that began only
            once would not learn how to: its first words on another text would be nonsense.
    """
    count = (len(numbers) - 1) // (streams * STEPS)
    if count == 0:
        raise ValueError(
            f"textgen: expected {streams * STEPS + 1} characters or more in each part of the text, got {len(numbers)}; "
            "a longer text is needed"
        )
    parts = (numbers[shift : shift + count * streams * STEPS] for shift in (0, 1))
    inputs, targets = (p.reshape(streams, count, STEPS).swapaxes(0, 1).reshape(-1, STEPS) for p in parts)
    window, stream = np.divmod(np.arange(count * streams), streams)
    begins = window == 0 if forget_every is None else (window == 0) | ((window + stream) % forget_every == 0)
    return DataLoader(ArrayDataset((~begins).astype(np.float32), inputs, targets), batch_size=streams)


def run(options: argparse.Namespace) -> dict:
    text = (
        read_text(options.data) if options.data else "\n".join(read_verses("engKJV2006eb", "sword-text-kjv").values())
    )
    text = text[:400_000] if options.quick else text
    vocabulary = Vocabulary.build([text])
    vocabulary.save(options.run_dir / "characters.json")
    numbers = np.array(vocabulary.encode(text))
    held = round(len(text) * HELD_BACK)
    training, validation, test = np.split(numbers, [len(text) - 2 * held, len(text) - held])
    train_loader, test_loader = windows(training, 16 if options.quick else 32, FORGET_EVERY), windows(test, 16)
    model = build(len(vocabulary), options.quick)
    optimizer = rv.optim.Adam(model.parameters(), lr=4e-3)
    trainer = Trainer(
        model,
        optimizer=optimizer,
        training_step=TruncatedStep(),
        capture=False,  # a batch goes on from the state that the one before it left
        max_epochs=options.epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=4e-3, total_steps=options.epochs * len(train_loader)),
        schedule_interval="step",
        gradient_clip_val=1.0,
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, windows(validation, 16), resume=options.resume)

    characters = len(test_loader) * test_loader.batch_size * STEPS
    result = {
        "test_bits_per_character": trainer.evaluate(test_loader)["loss"],
        "baseline_5gram_bits_per_character": float(ngram_bits(training, test[: characters + 1], 5).mean()),
        "test_characters": characters,
    }
    write_result(options.run_dir, result)
    samples = [
        f"temperature {t}:\n{write_on(model, vocabulary, chr(10), 300, t).strip()}\n" for t in (0.3, 0.7, 1.0, 1.3)
    ]
    write_atomically(options.run_dir / "samples.txt", lambda t: Path(t).write_text("\n".join(samples), "utf-8"))
    save_surprise(model, vocabulary, test[:600], options.run_dir / "surprise.png")
    print("\n" + "\n".join(samples))
    print(f"bits per character of {characters:,} held-back ones: {result['test_bits_per_character']:.3f}")
    print(f"a 5-gram's, counted on the same training text:  {result['baseline_5gram_bits_per_character']:.3f}")
    print(f"run folder {options.run_dir}/  (metrics.csv, curves.png, samples.txt, surprise.png, checkpoint/)")
    print(f"`ranvier predict {options.run_dir} FILE` goes on with your own text")
    return result


def ngram_bits(training: np.ndarray, test: np.ndarray, order: int) -> np.ndarray:
    """-log2 of the probability that an interpolated n-gram gives each character of `test` but the first.

    p(c | last n-1) = (count(last n-1, c) + kinds(last n-1) p(c | last n-2)) / (count(last n-1) + kinds(last n-1)),
    where kinds counts the different characters that have followed; below all stands 1 / characters.
    Source: I. Witten and T. Bell, The zero-frequency problem, 1991.

    Args:
        training: characters [M] to count; test: characters [N] to judge.
        order: how many characters make an n-gram.

    Returns:
        bits [N - 1].
    """
    base = int(max(training.max(), test.max())) + 1
    probability = np.full(len(test) - 1, 1 / (base - len(Vocabulary.SPECIAL)))
    for n in range(1, min(order, len(test)) + 1):
        grams, counts = np.unique(_grams(training, n, base), return_counts=True)
        contexts, starts, kinds = np.unique(grams // base, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, starts)
        wanted = _grams(test, n, base)[max(0, 2 - n) :]  # each ends with a character that is judged
        seen = _found(grams, counts, wanted)
        total, kind = (_found(contexts, values, wanted // base) for values in (totals, kinds))
        # The first characters of the test have no whole context: they keep the shorter one's probability.
        tail = probability[len(probability) - len(wanted) :]
        known = total > 0
        tail[known] = (seen[known] + kind[known] * tail[known]) / (total[known] + kind[known])
    return -np.log2(probability)


def _grams(numbers: np.ndarray, n: int, base: int) -> np.ndarray:
    """Every n characters in a row as one number."""
    count = len(numbers) - n + 1
    return sum(numbers[i : i + count].astype(np.int64) * base ** (n - 1 - i) for i in range(n))


def _found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values at the wanted keys (sorted, unique), 0 where there is none."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def write_on(model: CharacterModel, vocabulary: Vocabulary, beginning: str, length: int, temperature: float) -> str:
    """`length` characters that the model writes after a beginning."""
    device = next(model.parameters()).device
    numbers, state = np.array([vocabulary.encode(beginning)]), None
    written = []
    with rv.no_grad():
        for _ in range(length):
            scores, state = model(rv.tensor(numbers, device=device), state)
            chances = rv.functional.softmax(scores[0, -1] / temperature, dim=0).numpy().astype(np.float64)
            chances[: len(Vocabulary.SPECIAL)] = 0
            numbers = random.generator().choice(len(chances), (1, 1), p=chances / chances.sum())
            written.append(vocabulary.tokens[int(numbers[0, 0])])
    return "".join(written)


def surprise(model: CharacterModel, numbers: np.ndarray) -> np.ndarray:
    """Bits by which each character but the first surprises the model."""
    with rv.no_grad():
        characters = rv.tensor(numbers, device=next(model.parameters()).device)
        scores, _ = model(characters[None, :-1])
        return (rv.functional.cross_entropy(scores[0], characters[1:], reduction="none") * BITS).numpy()


def save_surprise(model: CharacterModel, vocabulary: Vocabulary, numbers: np.ndarray, path: Path) -> None:
    """Held-back text, each character on a ground that is the redder the more it surprised the model."""
    columns = 75
    bits = surprise(model, numbers)
    rows = -(-len(bits) // columns)
    figure, axes = new_figure(12, 0.3 * rows + 0.8)
    image = np.full(rows * columns, np.nan)
    image[: len(bits)] = bits
    drawn = axes[0].imshow(image.reshape(rows, columns), cmap="Reds", vmin=0, vmax=8, aspect="auto")
    for index, number in enumerate(numbers[1:]):
        letter = vocabulary.tokens[number].replace("\n", "↵")
        row, column = divmod(index, columns)
        axes[0].text(column, row, letter, ha="center", va="center", family="monospace", fontsize=10)
    axes[0].axis("off")
    axes[0].set_title("held-back text: where the next character surprised the network")
    figure.colorbar(drawn, ax=axes[0], label="bits", pad=0.01)
    figure.savefig(path, dpi=90)


def predict(run: Run, paths: list[Path]) -> Iterator[str]:
    """The user's text, how well the model foresaw it, and how it would go on."""
    vocabulary = Vocabulary.load(run.folder / "characters.json")
    model = run.load_weights(build(len(vocabulary), run.options.quick))
    rv.seed(run.options.seed)
    for path in paths:
        text = read_text(path).rstrip("\n")
        numbers = np.array(vocabulary.encode(text))
        bits = f", {surprise(model, numbers).mean():.2f} bits per character" if len(numbers) > 1 else ""
        more = write_on(model, vocabulary, text[-1000:], 400, run.options.temperature)
        yield f"{path} ({len(text):,} characters{bits}) goes on:\n{text[-200:]}|{more}"
