"""Pictures of a run, for where one would rather look than read. Matplotlib is imported when the first is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1):
    """A figure that no window system sees, and its axes as a flat list.

    Args:
        width, height: in inches; `figure.savefig(path, dpi=100)` makes pixels of them.
        rows, columns: of axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def save_curves(history: list[dict], path: str | Path) -> None:
    """Loss and each metric over the epochs, training against validation, with the gap between them shaded."""
    names = [key.removeprefix("training_") for key in history[0] if key.startswith("training_")]
    epochs = [row["epoch"] for row in history]
    figure, axes = new_figure(5 * len(names), 3.6, 1, len(names))
    for axis, name in zip(axes, names):
        training = [row[f"training_{name}"] for row in history]
        axis.plot(epochs, training, "o-", markersize=3, label="training")
        if f"validation_{name}" in history[0]:
            validation = [row[f"validation_{name}"] for row in history]
            axis.plot(epochs, validation, "o-", markersize=3, label="validation")
            axis.fill_between(epochs, training, validation, alpha=0.15, color="gray", label="gap")
        axis.set(xlabel="epoch", title=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def save_predictions(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, path: str | Path, classes: Sequence[str] = ()
) -> None:
    """Images with what was predicted, how surely, and what is true; mistakes in red and first.

    Args:
        images: [N, C, H, W] in 0..1; labels: [N]; probabilities: [N, classes].
        path: of the PNG.
        classes: names of the labels.
    """
    predicted = probabilities.argmax(axis=1)
    wrong = predicted != labels
    order = np.concatenate([np.flatnonzero(wrong), np.flatnonzero(~wrong)])[:40]
    name = (lambda label: classes[label]) if len(classes) else str
    figure, axes = new_figure(13, 9.5, 5, 8)
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, order):
        image = images[index].transpose(1, 2, 0)
        axis.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray_r", vmin=0, vmax=1)
        text = f"{name(predicted[index])}  {probabilities[index].max():.0%}"
        text += f"\ntrue: {name(labels[index])}" if wrong[index] else ""
        axis.set_title(text, color="firebrick" if wrong[index] else "black", fontsize=9)
    figure.suptitle(f"{wrong.sum()} of {len(labels)} wrong; mistakes first")
    figure.savefig(path, dpi=100)


def save_filters(weight: np.ndarray, path: str | Path) -> None:
    """The kernels of a first convolution [out, in, height, width], one picture an output channel."""
    columns = min(8, len(weight))
    rows = -(-len(weight) // columns)
    figure, axes = new_figure(1.2 * columns, 1.2 * rows + 0.4, rows, columns)
    bound = float(np.abs(weight).max())
    for axis in axes:
        axis.axis("off")
    for axis, kernel in zip(axes, weight.mean(axis=1)):
        axis.imshow(kernel, cmap="coolwarm", vmin=-bound, vmax=bound)
    figure.suptitle("learned filters of the first convolution (red: +, blue: -)", fontsize=9)
    figure.savefig(path, dpi=110)


def confusion_table(matrix: np.ndarray, classes: Sequence[str] = ()) -> str:
    """A confusion matrix as text: a row for what is true, a column for what was predicted; zeros as dots."""
    names = list(classes) or [str(i) for i in range(len(matrix))]
    width = max(5, len(str(matrix.max())) + 1)
    left = max(len(name) for name in [*names, "true"])
    lines = [f"{'true':>{left}} | " + "".join(f"{name[: width - 1]:>{width}}" for name in names) + "   <- predicted"]
    lines.append("-" * (left + 1) + "+" + "-" * (width * len(names) + 1))
    for name, row in zip(names, matrix):
        lines.append(f"{name:>{left}} | " + "".join(f"{int(n) if n else '.':>{width}}" for n in row))
    return "\n".join(lines)
