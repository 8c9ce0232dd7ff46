"""A convolutional network that tells ten kinds of garments apart (Fashion-MNIST, 60,000 + 10,000 images of 28x28).

Needs the four IDX files: `apt-get install dataset-fashion-mnist` puts them in /usr/share/datasets/fashion-mnist.
"""

from __future__ import annotations

import argparse

import ranvier as rv

from ..data import ArrayDataset, DataLoader, Normalize, RandomHorizontalFlip, load_fashion_mnist, random_split
from ..metrics import Accuracy
from ..trainer import Trainer
from .classification import report

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=5)
    parser.add_argument(
        "--data", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files (%(default)s)"
    )


def build() -> rv.Layer:
    return rv.Sequential(
        rv.Conv2d(1, 32, 3, padding=1),
        rv.BatchNorm2d(32),
        rv.ReLU(),
        rv.MaxPool2d(2),
        rv.Conv2d(32, 64, 3, padding=1),
        rv.BatchNorm2d(64),
        rv.ReLU(),
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
    whole = ArrayDataset(normalize(train_images), train_labels)
    training, validation = random_split(whole, [0.95, 0.05], stratify=train_labels)
    train_loader = DataLoader(training, batch_size=128, shuffle=True, augment=RandomHorizontalFlip())
    model = build()
    optimizer = rv.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        optimizer,
        max_epochs=options.epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=4e-3, total_steps=options.epochs * len(train_loader)),
        schedule_interval="step",
        metrics={"accuracy": Accuracy()},
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, DataLoader(validation, batch_size=500), resume=options.resume)
    test_loader = DataLoader(ArrayDataset(normalize(test_images), test_labels), batch_size=500)
    return report(trainer, test_loader, test_images, test_labels, CLASSES)
