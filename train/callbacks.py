"""Callbacks: what else shall happen during a fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Callback:
    """Base of callbacks: every hook is called with the trainer and does nothing unless overridden."""

    def on_fit_start(self, trainer) -> None: ...

    def on_epoch_start(self, trainer) -> None: ...

    def on_batch_end(self, trainer) -> None: ...

    def on_epoch_end(self, trainer) -> None:
        """After validation; `trainer.history[-1]` is the epoch's row."""

    def on_fit_end(self, trainer) -> None: ...

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Takes up what `state_dict` gave."""


class _Monitor(Callback):
    """Watches one number of each epoch's row for its best value so far."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0):
        if mode not in ("min", "max"):
            raise ValueError(f"{type(self).__name__}: expected mode 'min' or 'max', got {mode!r}")
        self.monitor, self.sign, self.min_delta = monitor, 1.0 if mode == "min" else -1.0, min_delta
        self.best = float("inf")

    def improved(self, trainer) -> bool:
        row = trainer.history[-1]
        if self.monitor not in row:
            raise ValueError(
                f"{type(self).__name__}: expected monitor as one of {', '.join(row)}, got {self.monitor!r}"
            )
        value = self.sign * row[self.monitor]
        if not value < self.best - self.min_delta:
            return False
        self.best = value
        return True


class EarlyStopping(_Monitor):
    """Ends the fit when a number has not improved for some epochs.

    Args:
        monitor: its name in the epoch's row.
        patience: epochs in a row without improvement after which it ends.
        mode: 'min' if smaller is better, 'max' if larger.
        min_delta: a smaller change is no improvement.
        restore_best: put the best epoch's weights back at the end.
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int = 3,
        mode: str = "min",
        min_delta: float = 0.0,
        restore_best: bool = True,
    ):
        super().__init__(monitor, mode, min_delta)
        self.patience, self.restore_best = patience, restore_best
        self.waited = 0
        self.best_state: dict | None = None

    def on_epoch_end(self, trainer) -> None:
        if self.improved(trainer):
            self.waited = 0
            if self.restore_best:
                self.best_state = {name: np.array(t.numpy()) for name, t in trainer.model.state_dict().items()}
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer) -> None:
        if self.best_state is not None:
            trainer.model.load_state_dict(self.best_state)

    def state_dict(self) -> dict:
        return {"best": self.best, "waited": self.waited, "best_state": self.best_state}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.waited, self.best_state = state["best"], state["waited"], state["best_state"]


class BestCheckpoint(_Monitor):
    """Writes a checkpoint whenever a number is better than ever before.

    Args:
        folder: the checkpoint's folder.
        monitor: the number's name in the epoch's row.
        mode: 'min' if smaller is better, 'max' if larger.
    """

    def __init__(self, folder: str | Path, monitor: str = "validation_loss", mode: str = "min"):
        super().__init__(monitor, mode)
        self.folder = Path(folder)

    def on_epoch_end(self, trainer) -> None:
        if self.improved(trainer):
            trainer.save(self.folder)

    def state_dict(self) -> dict:
        return {"best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.best = state["best"]


class PeriodicCheckpoint(Callback):
    """Writes a checkpoint every so many batches, so that a long epoch can be resumed in its middle.

    Args:
        folder: the checkpoint's folder.
        every_n_batches: how often. With `accumulate_grad_batches` a multiple of it, or gradients under way are lost.
    """

    def __init__(self, folder: str | Path, every_n_batches: int):
        if every_n_batches < 1:
            raise ValueError(f"PeriodicCheckpoint: expected every_n_batches of 1 or more, got {every_n_batches}")
        self.folder, self.every_n_batches = Path(folder), every_n_batches
        self.batches = 0

    def on_batch_end(self, trainer) -> None:
        self.batches += 1
        if self.batches % self.every_n_batches == 0:
            trainer.save(self.folder)

    def state_dict(self) -> dict:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict) -> None:
        self.batches = state["batches"]
