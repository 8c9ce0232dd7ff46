"""A convolutional network that reads handwritten digits (UCI, 1,797 images of 8x8, shipped with the library).

Two convolutions find strokes and their arrangement, pooling forgets where exactly they were, two dense layers decide.
A fifth of the images is held back and seen only once, at the end; moving the training images by a pixel and dropping
units keeps the network from learning them by heart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import ranvier as rv

from .. import run_folder
from ..data import ArrayDataset, DataLoader, RandomShift, load_digits, random_split, read_drawing
from ..metrics import Accuracy
from ..trainer import Trainer
from .classification import answers, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=20)


def build() -> rv.Layer:
    return rv.Sequential(
        rv.Conv2d(1, 32, 3, padding=1),
        rv.ReLU(),
        rv.Conv2d(32, 64, 3, padding=1),
        rv.ReLU(),
        rv.MaxPool2d(2),
        rv.Dropout(0.25),
        rv.Flatten(),
        rv.Dense(64 * 4 * 4, 128, activation="relu"),
        rv.Dropout(0.5),
        rv.Dense(128, 10),
    )


def run(options: argparse.Namespace) -> dict:
    images, labels = load_digits()
    training, validation, test = random_split(ArrayDataset(images, labels), [0.7, 0.1, 0.2], stratify=labels)
    train_loader = DataLoader(training, batch_size=32, shuffle=True, drop_last=True, augment=RandomShift(1))
    epochs = min(options.epochs, 4) if options.quick else options.epochs
    model = build()
    optimizer = rv.optim.Adam(model.parameters(), lr=2e-3)
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
    trainer.fit(train_loader, DataLoader(validation, batch_size=256), resume=options.resume)
    known = training.fetch(slice(None))
    return report(trainer, DataLoader(test, batch_size=256), *test.fetch(slice(None)), known)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Which digit each image shows; a digit on a plain ground, dark or bright."""
    return answers(run.load_weights(build()), paths, lambda path: read_drawing(path, size=8))
