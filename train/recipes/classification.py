"""What the recipes that classify images have in common: the closing report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...layers import functional
from ...layers.tensor import Tensor
from .. import metrics, pictures, run_folder
from ..trainer import Trainer


def report(trainer: Trainer, loader, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = ()) -> dict:
    """Predicts the test data, prints accuracy and confusion matrix, draws predictions and filters.

    Args:
        trainer: after `fit`, with a run folder.
        loader: the test batches, in order; images, labels: what they hold, for the pictures.
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
    run_folder.write_result(folder, {"test_accuracy": accuracy, "test_images": len(labels)})
    wrong = round((1 - accuracy) * len(labels))
    print(f"\n{table}\n\ntest accuracy {accuracy:.2%} ({wrong} of {len(labels)} images wrong)")
    print(f"run folder    {folder}/  (metrics.csv, curves.png, predictions.png, filters.png, checkpoint/)")
    return {"test_accuracy": accuracy}
