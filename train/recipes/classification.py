"""What the recipes that classify images have in common: the closing report, and answers for the user's own images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...layers import functional
from ...layers.layer import Layer
from ...layers.tensor import Tensor, no_grad
from .. import metrics, pictures, run_folder
from ..trainer import Trainer


def report(
    trainer: Trainer,
    loader,
    images: np.ndarray,
    labels: np.ndarray,
    training: tuple[np.ndarray, np.ndarray],
    classes: tuple[str, ...] = (),
) -> dict:
    """Predicts the test data, prints accuracy and confusion matrix beside a baseline, draws predictions and filters.

    Args:
        trainer: after `fit`, with a run folder.
        loader: the test batches, in order; images, labels: what they hold, for pictures and the baseline.
        training: images and labels that the baseline learns from.
        classes: names of the labels.
    """
    folder: Path = trainer.run_dir
    probabilities = functional.softmax(Tensor(trainer.predict(loader)), dim=1).numpy()
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    confusion = metrics.ConfusionMatrix(num_classes=probabilities.shape[1])
    confusion.update(probabilities, labels)
    table = pictures.confusion_table(confusion.compute(), classes)
    pictures.save_predictions(images, labels, probabilities, folder / "predictions.png", classes)
    first_convolution = next(p for p in trainer.model.parameters() if p.ndim == 4)
    pictures.save_filters(first_convolution.numpy(), folder / "filters.png")
    baseline = float((nearest_mean(*training, images) == labels).mean())
    result = {"test_accuracy": accuracy, "test_images": len(labels), "baseline_nearest_mean_accuracy": baseline}
    run_folder.write_result(folder, result)
    wrong = round((1 - accuracy) * len(labels))
    print(f"\n{table}\n\ntest accuracy {accuracy:.2%} ({wrong} of {len(labels)} images wrong)")
    print(f"baseline      {baseline:.2%} (the class whose mean image is the nearest)")
    print(f"run folder    {folder}/  (metrics.csv, curves.png, predictions.png, filters.png, checkpoint/)")
    return result


def nearest_mean(images: np.ndarray, labels: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """For each unknown image [N, C, H, W] the label whose images' mean is nearest: a classifier without training."""
    means = np.stack([images[labels == label].mean(axis=0).ravel() for label in range(labels.max() + 1)])
    unknown = unknown.reshape(len(unknown), -1)
    return ((means**2).sum(axis=1) - 2 * unknown @ means.T).argmin(axis=1)  # without the unknown image's own square


def answers(
    model: Layer, paths: list[Path], read: Callable[[Path], np.ndarray], classes: Sequence[str] = ()
) -> Iterator[str]:
    """A line for each image file: the most probable class, how sure the network is, and what comes second.

    Args:
        model: in evaluation mode; [N, C, H, W] -> scores [N, classes].
        paths: the files.
        read: file -> image [C, H, W] as the network was trained on.
        classes: names of the labels.
    """
    for path in paths:
        with no_grad():
            (probabilities,) = functional.softmax(model(Tensor(read(path)[None])), dim=1).numpy()
        first, second = probabilities.argsort()[:-3:-1]
        names = [str(classes[label]) if classes else str(label) for label in (first, second)]
        yield f"{path}: {names[0]} ({probabilities[first]:.1%}; next {names[1]}, {probabilities[second]:.1%})"
