"""Small networks of neurons that part two moons and recognise breast cancer (569 patients, 30 measurements each).

A **neuron** multiplies each of its inputs by a **weight**, adds them up with a **bias**, and passes the sum on through
an **activation**: a curve such as sigmoid, tanh or ReLU. One neuron can only draw a straight line between two classes.
A **multi-layer perceptron** puts layers of neurons behind each other, and bends the line.

**Training** is always the same four steps. Forward: the network answers. Loss: one number says how wrong it is.
Backward: **back-propagation** finds, by the chain rule from the last layer to the first, how the loss would change with
each weight: its **gradient**. Step: each weight goes a little down its gradient. The first part does so by hand on two
moons of points, with one neuron and with three activations, and draws the border between the classes as it moves over
the **epochs** (passes over the data). The second part leaves the loop to the `Trainer` and looks for malignant tumours
in measurements of cells, or for class 1 in the table of your own that `--data` names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from .. import pictures, run_folder
from ..checkpoint import write_atomically
from ..data import ArrayDataset, DataLoader, Normalize, need, random_split, read_csv, read_csv_header
from ..metrics import ROCAUC, Accuracy
from ..trainer import Trainer

SNAPSHOTS = (0, 5, 20, 60, 200, 1000)  # epochs after which the border between the moons is drawn
NETWORKS = {"one neuron": ((), None), "sigmoid": ((16, 16), "sigmoid"), "tanh": ((16, 16), "tanh"),
            "ReLU": ((16, 16), "relu")}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=40)
    parser.add_argument("--data", type=Path, metavar="CSV", help="a table of numbers of your own, with a header line")
    parser.add_argument("--target", default="class", help="its column that is 1 or 0 (%(default)s)")


def build(features: int, hidden: tuple[int, ...] = (32,), activation: str | None = "relu") -> rv.Layer:
    """Layers of neurons, and one neuron at the end; above 0 its sum means class 1. [N, features] -> [N]."""
    sizes = (features, *hidden)
    layers = [rv.Dense(before, after, activation=activation) for before, after in zip(sizes, hidden)]
    return rv.Sequential(*layers, rv.Dense(sizes[-1], 1), rv.Flatten(0))


def loss_function(scores: rv.Tensor, labels: rv.Tensor) -> rv.Tensor:
    """Binary cross-entropy: how surprised one is by the labels who believes sigmoid(scores) as probabilities."""
    return rv.functional.binary_cross_entropy_with_logits(scores, labels.float())


def run(options: argparse.Namespace) -> dict:
    need("sklearn", "perceptron")
    table = read_table(options)
    moons = part_the_moons(options)
    result = recognise(options, *table) | {"moons_accuracy": moons}
    run_folder.write_result(options.run_dir, result)
    return result


# ---- part one: the loop by hand, on two moons


def part_the_moons(options: argparse.Namespace) -> dict:
    """Trains each of NETWORKS on 400 points; returns their accuracies on 1,000 others."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(1400, noise=0.15, random_state=options.seed)
    x, y = (rv.tensor(part[:400], device=options.device, dtype=t) for part, t in ((points, "f4"), (labels, "i8")))
    model = build(2, (16, 16), "relu").to(options.device)
    slope, tried = nudge(model, x, y)
    print(f"back-propagation says that a weight, made larger, changes the loss at a rate of {slope:+.5f};")
    print(f"trying it out, with that weight a little larger and a little smaller, gives {tried:+.5f}\n")
    borders, accuracies = {}, {}
    print(f"two moons: accuracy on held-back points after {SNAPSHOTS[-1]} epochs; and how large the gradient is in the")
    print("first layer, against the last, when training begins (sigmoid is flat: it lets little through)")
    for name, (hidden, activation) in NETWORKS.items():
        model = build(2, hidden, activation).to(options.device)
        gradients, borders[name] = descend(model, x, y)
        test = rv.tensor(points[400:], device=options.device, dtype="f4")
        accuracies[name] = float(((model(test).numpy() > 0) == labels[400:]).mean())
        print(f"  {name:12}{accuracies[name]:7.1%}" + (f"   {gradients[0] / gradients[-1]:.2f}" if hidden else ""))
    print()
    draw_borders(borders, points[:400], labels[:400], options.run_dir / "moons.png")
    return accuracies


def descend(model: rv.Layer, x: rv.Tensor, y: rv.Tensor) -> tuple[list[float], list[np.ndarray]]:
    """Gradient descent by hand: the sizes of the weights' first gradients, and the scores over the plane in between."""
    optimizer = rv.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    plane = rv.tensor(np.stack(np.meshgrid(*axes_of_the_plane()), axis=-1).reshape(-1, 2), device=x.device)
    first_gradients, borders = [], []
    for epoch in range(SNAPSHOTS[-1] + 1):
        if epoch in SNAPSHOTS:
            borders.append(model(plane).numpy())
        loss = loss_function(model(x), y)  # forward: how wrong are we?
        loss.backward()  # backward: which way is down?
        if epoch == 0:
            first_gradients = [float(np.abs(p.grad.numpy()).mean()) for p in model.parameters() if p.ndim == 2]
        optimizer.step()  # go a step down
        optimizer.zero_grad()
    return first_gradients, borders


def nudge(model: rv.Layer, x: rv.Tensor, y: rv.Tensor, step: float = 0.01) -> tuple[float, float]:
    """dL/dw of the first layer's steepest weight: as back-propagation says, and as trying it out says."""
    loss_function(model(x), y).backward()
    weights, gradient = model[0].weight.numpy(), model[0].weight.grad.numpy()
    place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    losses = []
    for sign in (1, -1):
        moved = weights.copy()
        moved[place] += sign * step
        other = build(2, (16, 16), "relu").to(x.device)
        other.load_state_dict(model.state_dict() | {"0.weight": moved})
        losses.append(loss_function(other(x), y).item())
    return float(gradient[place]), (losses[0] - losses[1]) / (2 * step)


def axes_of_the_plane() -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(-1.6, 2.6, 120, dtype="f4"), np.linspace(-1.1, 1.6, 90, dtype="f4")


def draw_borders(borders: dict, points: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """A row a network, a column a moment: probabilities as colour, the border as a line."""
    figure, axes = pictures.new_figure(2.6 * len(SNAPSHOTS), 2.0 * len(borders), len(borders), len(SNAPSHOTS))
    horizontal, vertical = axes_of_the_plane()
    pairs = ((name, epoch, scores) for name, row in borders.items() for epoch, scores in zip(SNAPSHOTS, row))
    for axis, (name, epoch, scores) in zip(axes, pairs):
        scores = scores.reshape(len(vertical), len(horizontal))
        probability = 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
        axis.contourf(horizontal, vertical, probability, np.linspace(0, 1, 11), cmap="coolwarm", alpha=0.6)
        axis.contour(horizontal, vertical, scores, [0], colors="black", linewidths=1.2)
        axis.scatter(*points.T, c=labels, cmap="coolwarm", s=4)
        axis.set_title(f"{name}, epoch {epoch}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.suptitle("where the networks see the one moon (blue) and the other (red); black: their border", fontsize=10)
    figure.savefig(path, dpi=70)


# ---- part two: patients, or a table of your own


def read_table(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """Features [N, features], labels [N], the features' names, and what label 1 means."""
    if options.data is None:
        from sklearn.datasets import load_breast_cancer

        cancer = load_breast_cancer()
        return cancer.data.astype("f4"), 1 - cancer.target, list(cancer.feature_names), "malignant"
    features, labels = read_csv(options.data, target=options.target)
    if set(np.unique(labels)) != {0, 1}:
        raise ValueError(f"perceptron: expected column {options.target} of 0 and 1, got {np.unique(labels)[:5]}")
    names = [name for name in read_csv_header(options.data) if name != options.target]
    return features, labels.astype(np.int64), names, f"{options.target} = 1"


def recognise(options, features: np.ndarray, labels: np.ndarray, names: list[str], meaning: str) -> dict:
    """Trains on 6 of 10 rows, watches one, is judged on three that it never saw."""
    training, validation, test = random_split(ArrayDataset(features, labels), [0.6, 0.1, 0.3], stratify=labels)
    normalize = Normalize.fit(training.fetch(slice(None))[0])  # measurements of all sizes become numbers around 0
    run_folder.write_json(options.run_dir / "features.json", {"names": names, "meaning": meaning} | {
        "mean": normalize.mean.tolist(), "std": normalize.std.tolist()})  # fmt: skip

    def batches(part, **arguments):
        x, y = part.fetch(slice(None))
        return DataLoader(ArrayDataset(normalize(x), y), batch_size=32, **arguments)

    model = build(features.shape[1])
    trainer = Trainer(
        model,
        loss_function,
        rv.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1),
        max_epochs=10 if options.quick else options.epochs,
        metrics={"accuracy": Accuracy(threshold=0), "auc": ROCAUC()},
        capture=True,
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(batches(training, shuffle=True), batches(validation), resume=options.resume)
    return report(options, trainer.predict(batches(test)), normalize, training, test, names, meaning)


def report(options, scores: np.ndarray, normalize: Normalize, training, test, names: list[str], meaning: str) -> dict:
    """Prints the network's result beside those of logistic regression and of always saying the same."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (test_x, test_y) = training.fetch(slice(None)), test.fetch(slice(None))
    regression = LogisticRegression(max_iter=1000).fit(normalize(x), y)
    baseline = regression.decision_function(normalize(test_x))
    result = {
        "test_rows": len(test_y),
        "test_accuracy": float(((scores > 0) == test_y).mean()),
        "test_auc": auc(scores, test_y),
        "regression_accuracy": float(((baseline > 0) == test_y).mean()),
        "regression_auc": auc(baseline, test_y),
        "majority_accuracy": float(max(test_y.mean(), 1 - test_y.mean())),
    }
    print(f"\n{len(test_y)} held-back rows, {int(test_y.sum())} of them {meaning}")
    print("                      accuracy     AUC  (chance that one of them is scored above one that is not)")
    print(f"  network             {result['test_accuracy']:8.1%}  {result['test_auc']:.4f}")
    print(f"  logistic regression {result['regression_accuracy']:8.1%}  {result['regression_auc']:.4f}")
    print(f"  always the same     {result['majority_accuracy']:8.1%}  0.5000")
    rows = "\n".join(",".join(map(repr, row)) for row in test_x[:10].tolist())
    header = ",".join(f'"{name}"' for name in names)
    write_atomically(options.run_dir / "examples.csv", lambda t: Path(t).write_text(f"{header}\n{rows}\n"))
    print(f"\nrun folder  {options.run_dir}/  (moons.png, curves.png, metrics.csv, examples.csv, checkpoint/)")
    print(f"try         ranvier predict {options.run_dir} {options.run_dir}/examples.csv")
    return result


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    metric = ROCAUC()
    metric.update(scores, labels)
    return metric.compute()


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """For each row of each CSV file (the training table's columns without its target): how probable class 1 is."""
    known = json.loads((run.folder / "features.json").read_text())
    model = run.load_weights(build(len(known["names"])))
    for path in paths:
        if read_csv_header(path) != known["names"]:
            raise ValueError(f"predict: expected columns {', '.join(known['names'])} in {path}, got others")
        (features,) = read_csv(path)
        probabilities = rv.functional.sigmoid(model(rv.tensor(Normalize(known["mean"], known["std"])(features))))
        for row, probability in enumerate(probabilities.numpy(), start=1):
            yield f"{path} row {row}: {probability:.1%} {known['meaning']}"
