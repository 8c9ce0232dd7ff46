"""A run's folder: where it lies and the numbers in it."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

from .checkpoint import write_atomically


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
    write_atomically(folder / "metrics.json", lambda t: Path(t).write_text(json.dumps(history, indent=1)))


def write_result(folder: str | Path, result: dict) -> None:
    """`result.json`: what a run came to."""
    write_atomically(Path(folder) / "result.json", lambda t: Path(t).write_text(json.dumps(result, indent=1)))
