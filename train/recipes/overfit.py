"""Overfitting and its cures: one convolutional network on 200 digits of which a fifth are labelled wrongly.

A network with more weights than examples can learn its training data by heart, wrong labels and all: the loss on the
training data goes on falling while the loss on data that it does not train on rises. That is **overfitting**. The same
network, from the same first weights, is trained with no cure and with each of these:

- **dropout** switches half of the units off at random in each step, so that none can rely on another;
- **weight decay** pulls every weight towards 0, so that only what many examples agree on stays;
- **augmentation** moves each image by up to a pixel at random: no image comes twice, so none can be learned by heart;
- **early stopping** ends the training when the loss on validation data has stopped falling, and goes back to where it
  was lowest.

All are judged on 1,347 digits with true labels that none of them saw. With `--wrong-labels 0` there is nothing wrong to
learn by heart: these easy digits then forgive a bare network, and not every cure is worth its price.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from .. import pictures, run_folder
from ..callbacks import EarlyStopping
from ..checkpoint import load_checkpoint, save_checkpoint
from ..data import ArrayDataset, DataLoader, RandomShift, load_digits, random_split, read_drawing
from ..metrics import Accuracy
from ..trainer import Trainer
from .classification import answers

CURES = ("none", "dropout", "weight decay", "augmentation", "early stopping")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=80)
    parser.add_argument("--wrong-labels", type=_share, default=0.2, help="part of the training labels (%(default)s)")


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return float(text)


def build(dropout: float = 0.0) -> rv.Layer:
    """150,000 weights for 200 examples. [N, 1, 8, 8] -> [N, 10]."""
    return rv.Sequential(
        rv.Conv2d(1, 32, 3, padding=1),
        rv.ReLU(),
        rv.Conv2d(32, 64, 3, padding=1),
        rv.ReLU(),
        rv.MaxPool2d(2),
        rv.Flatten(),
        rv.Dropout(dropout),
        rv.Dense(64 * 4 * 4, 128, activation="relu"),
        rv.Dropout(dropout),
        rv.Dense(128, 10),
    )


def run(options: argparse.Namespace) -> dict:
    images, labels = load_digits()
    few, watched = (80, 100) if options.quick else (200, 250)
    lengths = [few, watched, len(labels) - few - watched]
    parts = random_split(ArrayDataset(images, labels), lengths, stratify=labels)
    (x, true), validation, test = (part.fetch(slice(None)) for part in parts)
    y, wrong = mislabel(true, options.wrong_labels, np.random.default_rng(options.seed))

    # Each cure starts from the same seed, so a run that was cut off goes on with the first cure that is not done.
    done = {} if options.resume is None else load_checkpoint(options.resume)["done"]
    for cure in CURES:
        if cure not in done:
            rv.seed(options.seed)
            done[cure] = train(options, cure, (x, y), validation, test, wrong)
            best = max(done, key=lambda name: done[name]["validation_accuracy"])
            save_checkpoint(options.run_dir / "checkpoint", {"model": done[best]["model"], "done": done})
    return report(options, done, (x, y), test, wrong)


def mislabel(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The labels, a share of them replaced by another digit; and which ones."""
    wrong = rng.permutation(len(labels)) < round(share * len(labels))
    return np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels), wrong


def train(options, cure: str, training: tuple, validation: tuple, test: tuple, wrong: np.ndarray) -> dict:
    """Trains the network with one cure; returns its history, its weights and what it scores."""
    model = build(dropout=0.5 if cure == "dropout" else 0.0)
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        rv.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=2.0 if cure == "weight decay" else 0.0),
        max_epochs=min(options.epochs, 60) if options.quick else options.epochs,
        callbacks=[EarlyStopping(patience=5)] if cure == "early stopping" else [],
        metrics={"accuracy": Accuracy()},
        device=options.device,
    )
    augment = RandomShift(1) if cure == "augmentation" else None
    loader = DataLoader(ArrayDataset(*training), batch_size=32, shuffle=True, augment=augment)
    print(f"cure: {cure}")
    watched = DataLoader(ArrayDataset(*validation), batch_size=250)
    history = trainer.fit(loader, watched)
    score = trainer.evaluate(DataLoader(ArrayDataset(*test), batch_size=500))
    believed = trainer.predict(DataLoader(ArrayDataset(training[0]), batch_size=250)).argmax(axis=1)
    return {
        "model": model.state_dict(),
        "history": history,
        "validation_accuracy": trainer.evaluate(watched)["accuracy"],
        "test_loss": score["loss"],
        "test_accuracy": score["accuracy"],
        "learned_by_heart": float((believed == training[1])[wrong].mean()) if wrong.any() else None,
    }


def report(options, done: dict, training: tuple, test: tuple, wrong: np.ndarray) -> dict:
    """Prints all nets beside the nearest neighbour, which is nothing but learning by heart."""
    pixels, known = test[0].reshape(-1, 1, 64), training[0].reshape(1, -1, 64)
    nearest = training[1][((pixels - known) ** 2).sum(axis=2).argmin(axis=1)]
    scores = {cure: {k: v for k, v in row.items() if k not in ("model", "history")} for cure, row in done.items()}
    result = {"test_images": len(test[1]), "nearest_neighbour_accuracy": float((nearest == test[1]).mean())} | scores
    print(f"\n{len(training[1])} training images, {int(wrong.sum())} labelled wrongly; {len(test[1])} test images")
    print("cure             epochs   test loss   test accuracy   wrong labels learned by heart")
    for cure, row in done.items():
        heart = "-" if row["learned_by_heart"] is None else f"{row['learned_by_heart']:.0%}"
        print(f"{cure:16}{len(row['history']):7}{row['test_loss']:12.3f}{row['test_accuracy']:16.1%}{heart:>16}")
    print(f"{'nearest neighbour':35}{result['nearest_neighbour_accuracy']:16.1%}{'100%' if wrong.any() else '-':>16}")
    draw_curves({cure: row["history"] for cure, row in done.items()}, options.run_dir / "cures.png")
    run_folder.write_result(options.run_dir, result)
    print(f"\nrun folder  {options.run_dir}/  (cures.png: the curves side by side, checkpoint/: the best net)")
    return result


def draw_curves(histories: dict, path: Path) -> None:
    """A column a cure: loss above, accuracy below, on training and on validation data, all on the same scales."""
    figure, axes = pictures.new_figure(2.9 * len(histories), 5.2, 2, len(histories))
    highest = max(row["validation_loss"] for history in histories.values() for row in history)
    for position, (cure, history) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in history]
        for axis, name, top in ((axes[position], "loss", highest), (axes[position + len(histories)], "accuracy", 1)):
            for part, colour in (("training", "tab:blue"), ("validation", "tab:orange")):
                axis.plot(epochs, [row[f"{part}_{name}"] for row in history], color=colour, label=part)
            axis.set(ylim=(0, top * 1.02), xlim=(0, max(map(len, histories.values()))), xlabel="epoch")
            axis.set_title(f"{cure}: {name}" if cure != "none" else f"no cure: {name}", fontsize=10)
            axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=75)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Which digit each image shows, as the best of the nets says."""
    return answers(run.load_weights(build()), paths, lambda path: read_drawing(path, size=8))
