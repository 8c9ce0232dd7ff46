"""A convolutional network that tells ten kinds of garments apart (Fashion-MNIST, 60,000 + 10,000 images of 28x28).

Needs the four IDX files: `apt-get install dataset-fashion-mnist` puts them in /usr/share/datasets/fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import ranvier as rv

from .. import run_folder
from ..data import (
    ArrayDataset,
    DataLoader,
    Normalize,
    RandomHorizontalFlip,
    load_fashion_mnist,
    random_split,
    read_drawing,
)
from ..metrics import Accuracy
from ..trainer import Trainer
from .classification import answers, report

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=5)
    parser.add_argument(
        "--data", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files (%(default)s)"
    )


def build() -> rv.Layer:
    return rv.Sequential(
        rv.Conv2d(1, 32, 3, padding=1),
        rv.BatchNorm2d(32, activation="relu"),
        rv.MaxPool2d(2),
        rv.Conv2d(32, 64, 3, padding=1),
        rv.BatchNorm2d(64, activation="relu"),
        rv.MaxPool2d(2),
        rv.Flatten(),
        rv.Dropout(0.25),
        rv.Dense(64 * 7 * 7, 128, activation="relu"),
        rv.Dropout(0.25),
        rv.Dense(128, 10),
    )


def run(options: argparse.Namespace) -> dict:
    train_images, train_labels, test_images, test_labels = load_fashion_mnist(options.data)
    normalize = Normalize.fit(train_images)
    run_folder.write_json(
        options.run_dir / "normalize.json", {"mean": normalize.mean.tolist(), "std": normalize.std.tolist()}
    )
    whole = ArrayDataset(normalize(train_images), train_labels)
    lengths = [0.1, 0.02, 0.88] if options.quick else [0.95, 0.05, 0.0]
    training, validation, _ = random_split(whole, lengths, stratify=train_labels)
    epochs = 1 if options.quick else options.epochs
    train_loader = DataLoader(training, batch_size=128, shuffle=True, augment=RandomHorizontalFlip())
    model = build()
    optimizer = rv.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        metrics={"accuracy": Accuracy()},
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, DataLoader(validation, batch_size=500), resume=options.resume)
    if options.quick:
        test_images, test_labels = test_images[:2000], test_labels[:2000]
    test_loader = DataLoader(ArrayDataset(normalize(test_images), test_labels), batch_size=500)
    return report(trainer, test_loader, test_images, test_labels, (train_images, train_labels), CLASSES)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Which garment each image shows; one garment on a plain ground, dark or bright."""
    normalize = Normalize(**json.loads((run.folder / "normalize.json").read_text()))
    return answers(
        run.load_weights(build()), paths, lambda path: normalize(read_drawing(path, size=28)[None])[0], CLASSES
    )
