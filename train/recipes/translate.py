"""An encoder and a decoder with attention that translate English verses into Spanish (aligned Bibles of Debian).

The idea, *sequence to sequence*: the *encoder*, a bidirectional GRU, turns the English words into a list of vectors,
each a word with its surroundings. The *decoder*, another GRU, writes the Spanish words one after the other. Before each
word it looks back: *attention* compares its state with all of the encoder's vectors, and mixes those that fit best. So
a long sentence need not pass through one vector, and one can see in a picture which word was translated from which
(M.-T. Luong et al., Effective Approaches to Attention-based Neural Machine Translation, 2015).

In training the decoder is fed the true words before each place, not its own (*teacher forcing*): all places can be
learned at once. To translate, it is fed what it wrote. *Beam search* keeps the few best beginnings at each step, since
the best sentence does not always begin with the likeliest word; dividing by the length keeps it from stopping early.

A few thousand short verses are little to learn a language from. Two things help. Attention mixes the looked-at words
themselves too, beside the encoder's vectors, so that what a word means need not pass through the GRU (T. Nguyen and D.
Chiang, Improving Lexical Choice in Neural Machine Translation, 2018). And rare words are <unknown> to the network,
which may write <unknown> as well: there the word that it looked at most is looked up in a dictionary of word pairs.

Held-back verses are judged by *BLEU* (sacrebleu): how many runs of one to four words the translation shares with the
Bible's own, which is one good translation among many. The simple baselines: the dictionary alone, word by word, where
each word becomes the one that it most often goes with in the training verses (IBM model 1, P. Brown et al., 1993), and
the translation of the most similar training verse.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from ..checkpoint import write_atomically
from ..data import ArrayDataset, DataLoader, need, random_split
from ..data.text import Vocabulary, detokenize, pad_sentences, read_text, read_verses, tokenize
from ..pictures import new_figure
from ..run_folder import Run, write_json, write_result
from ..trainer import Trainer

MAX_WORDS = 20  # of a verse, in either language; marks count as words
TEST_VERSES = 300
BEAM = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=12)
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="your own pairs in UTF-8, a line each: text, tab, translation"
    )


class Translator(rv.Layer):
    """Source words [N, S] with lengths [N], and the target's words so far [N, T] -> scores of each next word [N, T, V].

    Every size but the vocabularies' is `size`; the encoder gives half of it to each direction.
    """

    def __init__(self, source_words: int, target_words: int, size: int = 160):
        super().__init__()
        self.source_embedding = rv.Embedding(source_words, size, padding_idx=Vocabulary.PAD)
        self.target_embedding = rv.Embedding(target_words, size, padding_idx=Vocabulary.PAD)
        for embedding in (self.source_embedding, self.target_embedding):
            rv.init.normal_(embedding.weight, std=0.1)
            rv.init.zeros_(embedding.weight[Vocabulary.PAD].detach())
        self.dropout = rv.Dropout(0.3)
        self.encoder = rv.GRU(size, size // 2, batch_first=True, bidirectional=True)
        self.decoder = rv.GRU(size, size, batch_first=True)
        self.query = rv.Dense(size, size, bias=False)
        self.mix = rv.Dense(3 * size, size, activation="tanh")
        self.head = rv.Dense(size, target_words)

    def encode(self, source, lengths):
        """The encoder's vectors and the words' own [N, S, size], where they are filling [N, 1, S], the first state."""
        words = self.dropout(self.source_embedding(source))
        outputs, state = self.encoder(words, None, lengths)
        first = rv.functional.cat([state[0], state[1]], dim=1).unsqueeze(0)
        return outputs, words, (source == Vocabulary.PAD).unsqueeze(1), first

    def decode(self, target, state, outputs, words, filling):
        """Scores [N, T, V], attention [N, T, S] and the next state."""
        states, state = self.decoder(self.dropout(self.target_embedding(target)), state)
        fit = rv.functional.matmul(self.query(states), outputs.transpose(1, 2))
        attention = rv.functional.softmax(fit.masked_fill(filling, -1e9), dim=2)
        looked_at = rv.functional.matmul(attention, rv.functional.cat([outputs, words], dim=2))
        mixed = self.mix(rv.functional.cat([states, looked_at], dim=2))
        return self.head(self.dropout(mixed)), attention, state

    def forward(self, source, lengths, target):
        *encoded, state = self.encode(source, lengths)
        return self.decode(target, state, *encoded)[0]


def build(source_words: int, target_words: int, quick: bool = False) -> Translator:
    return Translator(source_words, target_words, 64 if quick else 160)


def teacher_forcing(trainer: Trainer, batch):
    """The training step: from BEGIN and the true words, foresee the true words and END. Filling is cut off the batch
    and does not count."""
    source, lengths, target = batch
    source = source[:, : int(lengths.amax())]
    target = target[:, : int((target != Vocabulary.PAD).count_nonzero(dim=1).amax())]
    scores = trainer.model(source, lengths, target[:, :-1])
    smoothing = 0.1 if trainer.model.training else 0.0  # some probability for all words: fewer sure mistakes
    loss = rv.functional.cross_entropy(
        scores.flatten(0, 1),
        target[:, 1:].flatten(),
        ignore_index=Vocabulary.PAD,
        label_smoothing=smoothing,
    )
    return loss, None


def load_pairs(path: Path | None) -> list[tuple[list[str], list[str]]]:
    """Aligned sentences as tokens, none empty and none longer than MAX_WORDS."""
    if path is None:
        english = read_verses("engKJV2006eb", "sword-text-kjv")
        spanish = read_verses("spaRV1909eb", "sword-text-sparv")
        lines = [(text, spanish[place]) for place, text in english.items() if place in spanish]
    else:
        lines = [tuple(line.split("\t")) for line in read_text(path).splitlines() if line.strip()]
        if wrong := [number for number, line in enumerate(lines, start=1) if len(line) != 2]:
            raise ValueError(
                f"translate: expected text, tab, translation in each line of {path}, got else in {wrong[0]}"
            )
    pairs = [(tokenize(one), tokenize(other)) for one, other in lines]
    pairs = [pair for pair in pairs if all(1 <= len(sentence) <= MAX_WORDS for sentence in pair)]
    if len(pairs) < 100:
        raise ValueError(f"translate: expected 100 pairs or more of 1 to {MAX_WORDS} words, got {len(pairs)}")
    return pairs


def split_pairs(pairs: list, quick: bool) -> tuple[list, list, list]:
    """Training, validation, test. What occurs in the test, in either language, does not occur in the others."""
    held = 40 if quick else min(TEST_VERSES, len(pairs) // 10)
    parts = random_split(ArrayDataset(np.arange(len(pairs))), [len(pairs) - 2 * held, held, held])
    training, validation, test = ([pairs[i] for i in part.indices] for part in parts)
    in_test = {tuple(sentence) for pair in test for sentence in pair}
    training, validation = (
        [pair for pair in part if not any(tuple(sentence) in in_test for sentence in pair)]
        for part in (training, validation)
    )
    return training[: 2000 if quick else None], validation, test


def run(options: argparse.Namespace) -> dict:
    sacrebleu = need("sacrebleu", "translate")
    training, validation, test = split_pairs(load_pairs(options.data), options.quick)
    sides = [[pair[side] for pair in training] for side in (0, 1)]
    vocabularies = [Vocabulary.build(side, max_size=2500, min_count=2) for side in sides]
    for name, vocabulary in zip(("source", "target"), vocabularies):
        vocabulary.save(options.run_dir / f"{name}.json")
    lexicon = word_pairs(training)
    write_json(options.run_dir / "lexicon.json", lexicon)
    train_loader = batches(training, vocabularies, batch_size=32, shuffle=True)
    model = build(len(vocabularies[0]), len(vocabularies[1]), options.quick)
    epochs = min(options.epochs, 5) if options.quick else options.epochs
    optimizer = rv.optim.Adam(model.parameters(), lr=3e-3)
    trainer = Trainer(
        model,
        optimizer=optimizer,
        training_step=teacher_forcing,
        capture=False,  # the longest verses of a batch decide how many steps the GRUs take
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        gradient_clip_val=1.0,
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, batches(validation, vocabularies, batch_size=100), resume=options.resume)

    model.eval()
    sources, truths = ([detokenize(pair[side]) for pair in test] for side in (0, 1))
    beam = [
        translate(model, vocabularies, lexicon, source) for source, _ in tqdm(test, desc="beam search", unit="verse")
    ]
    candidates = {
        "test_bleu": [words for words, _ in beam],
        "greedy_bleu": [translate(model, vocabularies, lexicon, source, width=1)[0] for source, _ in test],
        "baseline_word_by_word_bleu": [[lexicon.get(word, word) for word in source] for source, _ in test],
        "baseline_nearest_verse_bleu": nearest(training, [source for source, _ in test]),
    }
    texts = {name: [detokenize(words) for words in sentences] for name, sentences in candidates.items()}
    result = {name: sacrebleu.corpus_bleu(lines, [truths]).score for name, lines in texts.items()}
    result |= {"test_pairs": len(test), "training_pairs": len(training)}
    write_result(options.run_dir, result)
    samples = "\n\n".join(
        f"text       {source}\nnetwork    {ours}\nword/word  {words}\ntrue       {truth}"
        for source, ours, words, truth in zip(sources, texts["test_bleu"], texts["baseline_word_by_word_bleu"], truths)
    )
    write_atomically(options.run_dir / "samples.txt", lambda t: Path(t).write_text(samples, "utf-8"))
    save_attention(test, beam, options.run_dir / "attention.png")
    print("\n" + "\n\n".join(samples.split("\n\n")[:6]))
    print(f"\nBLEU of {len(test)} held-back pairs of at most {MAX_WORDS} words, lower case:")
    print(f"  network, beam of {BEAM}             {result['test_bleu']:.1f}")
    print(f"  network, likeliest word each   {result['greedy_bleu']:.1f}")
    print(f"  word by word                   {result['baseline_word_by_word_bleu']:.1f}")
    print(f"  most similar training pair     {result['baseline_nearest_verse_bleu']:.1f}")
    print(f"run folder {options.run_dir}/  (metrics.csv, curves.png, samples.txt, attention.png, checkpoint/)")
    return result


def batches(pairs: list, vocabularies: list[Vocabulary], batch_size: int, shuffle: bool = False) -> DataLoader:
    """Batches (source [N, S], its lengths [N], target [N, T] between BEGIN and END)."""
    source, lengths = pad_sentences([vocabularies[0].encode(source) for source, _ in pairs])
    ends = [[Vocabulary.BEGIN, *vocabularies[1].encode(target), Vocabulary.END] for _, target in pairs]
    return DataLoader(ArrayDataset(source, lengths, pad_sentences(ends)[0]), batch_size=batch_size, shuffle=shuffle)


def translate(
    model: Translator, vocabularies: list[Vocabulary], lexicon: dict[str, str], words: list[str], width: int = BEAM
) -> tuple[list[str], np.ndarray]:
    """The best translation that beam search finds, and its attention [words of it and END, source words].

    Args:
        lexicon: a translation for each known word, in place of <unknown>; a word that is not in it stays as it is.
        width: beginnings that are kept at each step; 1 takes the likeliest word each time.
    """
    device = next(model.parameters()).device
    source = rv.tensor(np.array([vocabularies[0].encode(words)]), device=device)
    beams, finished = [(0.0, [Vocabulary.BEGIN], [])], []  # log-probability, words, attention
    with rv.no_grad():
        outputs, own, filling, state = model.encode(source, rv.tensor([len(words)], device=device))
        for _ in range(2 * len(words) + 5):
            last = rv.tensor([[numbers[-1]] for _, numbers, _ in beams], device=device)
            size = len(beams)
            encoded = (x.expand(size, -1, -1) for x in (outputs, own, filling))
            scores, attention, states = model.decode(last, state, *encoded)
            chances = rv.functional.log_softmax(scores[:, 0], dim=1).numpy().copy()
            chances[:, [Vocabulary.PAD, Vocabulary.BEGIN]] = -np.inf
            total = chances + np.array([[score] for score, _, _ in beams])
            best = np.argsort(-total, axis=None, kind="stable")[:width]
            kept, origins = [], []
            for origin, word in zip(*np.unravel_index(best, total.shape)):
                _, numbers, looks = beams[origin]
                longer = (float(total[origin, word]), [*numbers, int(word)], [*looks, attention.numpy()[origin, 0]])
                if word == Vocabulary.END:
                    finished.append(longer)
                else:
                    kept.append(longer)
                    origins.append(int(origin))
            if not kept or len(finished) >= width:
                break
            beams, state = kept, states[:, origins]
    _, numbers, looks = max(finished or beams, key=lambda beam: beam[0] / len(beam[1]))
    written = vocabularies[1].decode(numbers)
    unknown = Vocabulary.SPECIAL[Vocabulary.UNKNOWN]
    looked_up = (lexicon.get(words[look.argmax()], words[look.argmax()]) for look in looks)
    return [there if word == unknown else word for word, there in zip(written, looked_up)], np.array(looks)


def word_pairs(pairs: list, rounds: int = 5) -> dict[str, str]:
    """For each source word the target word that it most probably becomes, by IBM model 1.

    Each target word was made by some word of its source sentence. Which one is unknown: begin with any alike, share
    each target word out among the source words by what they are believed to become, count the shares, believe them.
    """
    sources, targets = (Vocabulary.build([pair[side] for pair in pairs]) for side in (0, 1))
    ours, theirs, first = [], [], []  # every pair of words in a pair of sentences, target word by target word
    for source, target in pairs:
        numbers = sources.encode(source)
        for word in targets.encode(target):
            first.append(len(ours))
            ours += numbers
            theirs += [word] * len(numbers)
    cells, cell = np.unique(np.array(ours) * len(targets) + np.array(theirs), return_inverse=True)
    rows = cells // len(targets)
    owner = np.repeat(np.arange(len(first)), np.diff([*first, len(ours)]))
    belief = np.ones(len(cells))
    for _ in range(rounds):
        shares = belief[cell]
        counts = np.bincount(cell, shares / np.add.reduceat(shares, first)[owner], len(cells))
        belief = counts / np.bincount(rows, counts)[rows]
    lexicon = {}
    for index in np.argsort(belief, kind="stable"):  # the strongest comes last and stays
        lexicon[sources.tokens[rows[index]]] = targets.tokens[cells[index] % len(targets)]
    return lexicon


def nearest(training: list, sources: list[list[str]]) -> list[list[str]]:
    """The target of the training pair whose source has the most words in common, relative to both their words."""
    sets = [set(source) for source, _ in training]
    found = []
    for source in tqdm(sources, desc="most similar pairs", unit="verse"):
        own = set(source)
        found.append(training[int(np.argmax([len(own & other) / len(own | other) for other in sets]))][1])
    return found


def save_attention(test: list, translations: list, path: Path) -> None:
    """For four verses: which source words (columns) the decoder looked at while it wrote each word (rows)."""
    figure, axes = new_figure(13, 10, 2, 2)
    for axis, (source, _), (words, attention) in zip(axes, test, translations):
        axis.imshow(attention, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(source)), source, rotation=60, ha="right")
        axis.set_yticks(range(len(attention)), [*words, "<end>"][: len(attention)])
    figure.suptitle("what the decoder looked at (columns) to write each word (rows)")
    figure.savefig(path, dpi=70)


def predict(run: Run, paths: list[Path]) -> Iterator[str]:
    """The translation of each line of the user's files."""
    vocabularies = [Vocabulary.load(run.folder / f"{name}.json") for name in ("source", "target")]
    lexicon = json.loads((run.folder / "lexicon.json").read_text())
    model = run.load_weights(build(*map(len, vocabularies), run.options.quick))
    for path in paths:
        for line in read_text(path).splitlines():
            if words := tokenize(line):
                yield detokenize(translate(model, vocabularies, lexicon, words)[0])
