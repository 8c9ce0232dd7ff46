"""Fine-tuning: a network that knows five kinds of garments learns the other five from a few examples (Fashion-MNIST).

Few examples are too few to learn what edges, textures and outlines are; but those are the same for all garments. So a
network is **pretrained** on five classes with 6,000 images each. Its **trunk** (all layers but the last) turns an image
into features; only its **head** (the last layer) speaks of classes. For the other five classes it gets a new head, and
with the same few examples of each class three networks are trained:

- from scratch: all weights start at random, as if there were no pretrained network;
- frozen: the trunk's weights stay as they are, only the new head learns;
- thawed: the frozen one, and then all layers together go on with small steps.

The few examples are drawn anew several times, as much depends on which few one gets; the means count. The baseline
is the nearest of the few examples. Needs the IDX files of Fashion-MNIST: `apt-get install dataset-fashion-mnist` puts
them in /usr/share/datasets/fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from .. import pictures, run_folder
from ..checkpoint import save_checkpoint
from ..data import ArrayDataset, DataLoader, Normalize, load_fashion_mnist, random_split, read_drawing
from ..metrics import Accuracy
from ..trainer import Trainer
from .classification import answers
from .fashion import CLASSES

KNOWN = (0, 3, 4, 7, 8)  # labels of the classes to learn first: T-shirt, dress, coat, sneaker, bag
NEW = (1, 2, 5, 6, 9)  # trouser, pullover, sandal, shirt, boot
NEW_NAMES = tuple(CLASSES[label] for label in NEW)
EXAMPLES = (1, 2, 5, 10, 20)  # of each new class
JUDGED = 2  # examples of each class at which the result is stated
METHODS = ("nearest example", "from scratch", "frozen", "thawed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=3)
    parser.add_argument(
        "--data", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files (%(default)s)"
    )


def build() -> rv.Sequential:
    """Trunk and head: images [N, 1, 28, 28] -> features [N, 576] -> scores of five classes [N, 5]."""

    def block(before: int, after: int) -> list[rv.Layer]:
        return [rv.Conv2d(before, after, 3, padding=1), rv.BatchNorm2d(after, activation="relu"), rv.MaxPool2d(2)]

    trunk = rv.Sequential(*block(1, 16), *block(16, 32), *block(32, 64), rv.Flatten(), rv.Dropout(0.3))
    return rv.Sequential({"trunk": trunk, "head": rv.Dense(64 * 3 * 3, 5)})


def run(options: argparse.Namespace) -> dict:
    train_images, train_labels, test_images, test_labels = load_fashion_mnist(options.data)
    normalize = Normalize.fit(train_images)
    known, new = only(KNOWN, train_images, train_labels), only(NEW, train_images, train_labels)
    new_test = only(NEW, test_images, test_labels)
    if options.quick:
        new_test = new_test[0][:1000], new_test[1][:1000]
    run_folder.write_json(
        options.run_dir / "normalize.json", {"mean": normalize.mean.tolist(), "std": normalize.std.tolist()}
    )
    trainer = pretrain(options, ArrayDataset(normalize(known[0]), known[1]))
    state = trainer.state_dict()  # before the draws, so that a resumed run draws the same
    x, y = normalize(new[0]), new[1]
    test = normalize(new_test[0]), new_test[1]

    scores = {(method, examples): [] for method in METHODS for examples in EXAMPLES}
    draws = 3 * [JUDGED] if options.quick else [examples for examples in EXAMPLES for _ in range(3)]
    with tqdm(draws, unit="draw", desc="few examples of new classes", dynamic_ncols=True) as bar:
        for examples in bar:
            few, _ = random_split(ArrayDataset(x, y), [5 * examples, len(x) - 5 * examples], stratify=y)
            accuracies, model = learn(options, trainer.model, few.fetch(slice(None)), test)
            for method, accuracy in accuracies.items():
                scores[method, examples].append(accuracy)
    save_checkpoint(options.run_dir / "checkpoint", state | {"finetuned": model.state_dict()})
    return report(options, scores, model, test, new_test[0])


def only(classes: tuple[int, ...], images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of some classes, and their labels as places in `classes`."""
    chosen = np.isin(labels, classes)
    return images[chosen], np.searchsorted(classes, labels[chosen])


def pretrain(options: argparse.Namespace, known: ArrayDataset) -> Trainer:
    """A network for the five known classes."""
    lengths = [0.25, 0.02, 0.73] if options.quick else [0.95, 0.05, 0.0]
    training, validation, _ = random_split(known, lengths, stratify=known.arrays[1])
    loader = DataLoader(training, batch_size=64, shuffle=True)
    model = build()
    optimizer = rv.optim.Adam(model.parameters(), lr=1e-3)
    epochs = min(options.epochs, 2) if options.quick else options.epochs
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(loader)),
        schedule_interval="step",
        metrics={"accuracy": Accuracy()},
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(loader, DataLoader(validation, batch_size=500), resume=options.resume)
    return trainer


def learn(options, pretrained: rv.Layer, few: tuple, test: tuple) -> tuple[dict[str, float], rv.Layer]:
    """Accuracy on the new classes of each method, from the same few examples; and the thawed network."""
    pixels, known = test[0].reshape(len(test[0]), -1), few[0].reshape(len(few[0]), -1)
    distances = (known**2).sum(axis=1) - 2 * pixels @ known.T  # less the pixels' own squares, which order nothing
    accuracies = {"nearest example": float((few[1][distances.argmin(axis=1)] == test[1]).mean())}

    def fit(model: rv.Layer, parameters, lr: float, epochs: int) -> float:
        loader = DataLoader(ArrayDataset(*few), batch_size=16, shuffle=True)
        trainer = Trainer(model, rv.CrossEntropyLoss(), rv.optim.Adam(parameters, lr=lr), max_epochs=epochs,
                          metrics={"accuracy": Accuracy()}, device=options.device,
                          enable_progress_bar=False)  # fmt: skip
        trainer.fit(loader)
        return trainer.evaluate(DataLoader(ArrayDataset(*test), batch_size=500))["accuracy"]

    scratch = build()
    accuracies["from scratch"] = fit(scratch, scratch.parameters(), lr=1e-3, epochs=30)
    model = build()  # with a new head
    state = {name: value for name, value in pretrained.state_dict().items() if name.startswith("trunk.")}
    model.load_state_dict(state, strict=False)
    model.trunk.requires_grad_(False)
    accuracies["frozen"] = fit(model, model.head.parameters(), lr=3e-3, epochs=30)
    model.trunk.requires_grad_(True)
    accuracies["thawed"] = fit(model, model.parameters(), lr=3e-4, epochs=15)
    return accuracies, model


def report(options, scores: dict, model: rv.Layer, test: tuple, images: np.ndarray) -> dict:
    """Prints and draws the accuracies over the number of examples; draws what the last thawed network says."""
    means = {method: {examples: float(np.mean(scores[method, examples])) for examples in EXAMPLES
                      if scores[method, examples]} for method in METHODS}  # fmt: skip
    counts = list(means["frozen"])
    draws = len(scores["frozen", JUDGED])
    print(
        f"\naccuracy on {len(test[1])} test images of the new classes ({', '.join(NEW_NAMES)}); mean of {draws} draw(s)"
    )
    print("examples of each class  " + "".join(f"{count:8}" for count in counts))
    for method in METHODS:
        print(f"  {method:22}" + "".join(f"{means[method][count]:8.1%}" for count in counts))
    result = {"test_images": len(test[1]), "draws": draws, "examples": counts,
              **{method.replace(" ", "_"): [means[method][count] for count in counts] for method in METHODS},
              **{f"{method.replace(' ', '_')}_accuracy": means[method][JUDGED] for method in METHODS}}  # fmt: skip
    run_folder.write_result(options.run_dir, result)
    figure, (axis,) = pictures.new_figure(6, 4)
    for method in METHODS:
        axis.plot(counts, [means[method][count] for count in counts], "o-", label=method)
    axis.set(xscale="log", xlabel="examples of each new class", ylabel="test accuracy", xticks=counts)
    axis.set_xticklabels(map(str, counts))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(options.run_dir / "few.png", dpi=90)
    predictor = Trainer(model, rv.CrossEntropyLoss(), device=options.device)
    outputs = predictor.predict(DataLoader(ArrayDataset(*test), batch_size=500))
    probabilities = rv.functional.softmax(rv.tensor(outputs), dim=1).numpy()
    pictures.save_predictions(images, test[1], probabilities, options.run_dir / "predictions.png", NEW_NAMES)
    print(f"\nrun folder  {options.run_dir}/  (few.png, predictions.png, curves.png of the pretraining, checkpoint/)")
    return result


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Which of the five new classes each image shows, as the last thawed network says."""
    normalize = Normalize(**json.loads((run.folder / "normalize.json").read_text()))
    model = run.load_weights(build(), "finetuned")
    return answers(model, paths, lambda path: normalize(read_drawing(path, size=28)[None])[0], NEW_NAMES)
