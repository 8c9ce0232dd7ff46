"""A run's folder: where it lies, how it was made, the numbers in it."""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import time
from dataclasses import dataclass
from pathlib import Path

from ..layers.layer import Layer
from .checkpoint import load_checkpoint, write_atomically

_RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """A run of a recipe that `open_run` found.

    Args:
        folder: where its results lie.
        recipe: the recipe's name.
        options: what it was called with; paths as strings.
    """

    folder: Path
    recipe: str
    options: argparse.Namespace

    def load_weights(self, model: Layer, name: str = "model") -> Layer:
        """Puts the checkpoint's weights into a model as the recipe builds it, and the model into evaluation mode.

        Args:
            model: to fill.
            name: under which the checkpoint holds its state.
        """
        model.load_state_dict(load_checkpoint(self.folder / "checkpoint")[name])
        return model.eval()


def new_run_folder(name: str, root: str | Path = "runs") -> Path:
    """A new folder `runs/<name>-<date>-<time>`."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(1000):
        folder = Path(root) / (stem if attempt == 0 else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"new_run_folder: expected a free name like {stem} in {root}, all are taken")


def write_metrics(folder: str | Path, history: list[dict]) -> None:
    """`metrics.csv` (a line an epoch) and `metrics.json` with the same rows."""

    def write_csv(temporary: str) -> None:
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in history for name in row)))
            writer.writeheader()
            writer.writerows(history)

    folder = Path(folder)
    write_atomically(folder / "metrics.csv", write_csv)
    write_json(folder / "metrics.json", history)


def write_result(folder: str | Path, result: dict) -> None:
    """`result.json`: what a run came to."""
    write_json(Path(folder) / "result.json", result)


def write_json(path: str | Path, value) -> None:
    """Numbers, text, lists and dicts as a JSON file: what `predict` needs beside the weights, such as names."""
    write_atomically(Path(path), lambda temporary: Path(temporary).write_text(json.dumps(value, indent=1)))


def write_run(folder: str | Path, recipe: str, options: argparse.Namespace) -> None:
    """`run.json`: recipe, options and versions, from which `open_run` knows how to use the results."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    kept = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k not in ("command", "recipe")}
    versions = {name: importlib.metadata.version(name) for name in ("ranvier", "numpy", "numba")}
    write_json(Path(folder) / _RECORD, {"recipe": recipe, "options": kept, "versions": versions})


def open_run(folder: str | Path) -> Run:
    """A run folder that `ranvier train` wrote.

    Raises:
        FileNotFoundError: it is none.
    """
    record = Path(folder) / _RECORD
    if not record.is_file():
        raise FileNotFoundError(f"open_run: expected a run folder of `ranvier train`, got {folder} without {_RECORD}")
    content = json.loads(record.read_text())
    return Run(Path(folder), content["recipe"], argparse.Namespace(**content["options"]))
