"""The training loop: epochs, validation, metrics, schedules, clipping, accumulation, checkpoints, progress.

Nothing here is needed to train (README.md has the loop in ten lines by hand). Argument names are Lightning's.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..kernels.check import FLOATS
from ..kernels.device import cast, to_device
from ..layers import random
from ..layers.create import full_like
from ..layers.layer import Layer
from ..layers.tensor import Tensor, no_grad
from . import clip, pictures, run_folder
from .callbacks import Callback
from .capture.automatic import AutomaticPass
from .checkpoint import load_checkpoint, save_checkpoint
from .schedules import ReduceLROnPlateau

_PRECISIONS = {"float32": np.float32, "float64": np.float64}


class Trainer:
    """Fits a model to data.

    Args:
        model: the layer to train.
        loss: `loss(prediction, target) -> scalar tensor`; a loss layer or a function.
        optimizer: over the model's parameters.
        max_epochs: passes over the training data.
        schedule: a learning-rate schedule, stepped once an epoch, or once an optimizer step if
            `schedule_interval="step"`. ReduceLROnPlateau watches the validation loss.
        schedule_interval: 'epoch' or 'step'.
        metrics: name -> metric (`ranvier.train.metrics`), computed on training and validation data.
        callbacks: Callback objects, called in order.
        accumulate_grad_batches: batches whose gradients are averaged for one optimizer step.
        gradient_clip_val: bound on the gradient before each step, or None.
        gradient_clip_algorithm: 'norm' (all gradients scaled together) or 'value' (each element clamped).
        precision: 'float32' or 'float64': type of parameters and of floating-point inputs.
        device: 'cpu', 'cuda' or 'cuda:<index>'; None leaves the model where it is. Batches go where the model is.
        run_dir: folder for `metrics.csv`, `metrics.json`, `checkpoint/`, written after every epoch, and `curves.png`,
            drawn at the end; None writes nothing.
        enable_progress_bar: whether to show batch, loss, metrics and time left.
        training_step: `training_step(trainer, batch) -> (loss, prediction or None)` in place of the usual one, for
            models whose batch is not (inputs..., target).
        capture: whether to replay forward and backward pass as a flat list of kernel calls, on a GPU as CUDA graphs
            (`rv.capture`), with the same bits. None does where that is certain: all layers and the loss are the
            library's, and nothing of `accumulate_grad_batches` and `training_step` is set; and says once, with the
            progress bar, why it does not. At most four shapes of batches are captured then. True captures whatever the
            model is: its own Python then runs for the first three batches of each form only, so this is for models
            whose `forward` does the same every time. Raises CaptureError where it sees that it cannot. False never
            captures. Layers whose settings or modes change, and parameters that are frozen, are captured anew.

    Attributes:
        history: one dict an epoch: losses, metrics, learning rate, seconds, and `gap`, the validation loss less the
            training loss: what overfitting shows up in first.
        epoch, step: epochs done, optimizer steps done.
        should_stop: a callback sets it to end the fit after the epoch.
        uncaptured: why `capture=None` captures no steps, or not all; None where it does, or has not tried.
    """

    def __init__(
        self,
        model: Layer,
        loss: Callable | None = None,
        optimizer=None,
        *,
        max_epochs: int = 1,
        schedule=None,
        schedule_interval: str = "epoch",
        metrics: Mapping | None = None,
        callbacks: Iterable[Callback] = (),
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str = "norm",
        precision: str = "float32",
        device: str | None = None,
        run_dir: str | Path | None = None,
        enable_progress_bar: bool = True,
        training_step: Callable | None = None,
        capture: bool | None = None,
    ):
        _check_choice("schedule_interval", schedule_interval, ("epoch", "step"))
        _check_choice("gradient_clip_algorithm", gradient_clip_algorithm, ("norm", "value"))
        _check_choice("precision", precision, tuple(_PRECISIONS))
        _check_choice("capture", capture, (None, True, False))
        for name, value in (("max_epochs", max_epochs), ("accumulate_grad_batches", accumulate_grad_batches)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Trainer: expected {name} as an integer of 1 or more, got {value!r}")
        if loss is None and training_step is None:
            raise ValueError("Trainer: expected loss or training_step, got neither")
        self.model, self.loss, self.optimizer, self.max_epochs = model, loss, optimizer, max_epochs
        self.schedule, self.schedule_interval = schedule, schedule_interval
        self.metrics = dict(metrics or {})
        self.callbacks = list(callbacks)
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val, self.gradient_clip_algorithm = gradient_clip_val, gradient_clip_algorithm
        self.dtype = np.dtype(_PRECISIONS[precision])
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.enable_progress_bar = enable_progress_bar
        if capture and accumulate_grad_batches > 1:
            raise ValueError(
                f"Trainer: expected accumulate_grad_batches as 1 where capture is set, got {accumulate_grad_batches}"
            )
        self.training_step = training_step or Trainer.supervised_step
        self.capture, self.uncaptured = capture, None
        self._captured = AutomaticPass(self, self._pass, self._say_uncaptured, asked=bool(capture))
        model.to(device=device, dtype=self.dtype)
        self.history: list[dict] = []
        self.epoch = self.step = 0
        self.should_stop = False
        self._batches_done = 0  # of the epoch under way
        self._totals = _Totals(copy.deepcopy(self.metrics))

    # ---- what a user calls

    def fit(self, train_loader, validation_loader=None, resume: str | Path | None = None) -> list[dict]:
        """Trains until `max_epochs` are done or a callback stops it; returns `history`.

        Args:
            train_loader: a DataLoader, or any iterable of batches with a length.
            validation_loader: likewise; evaluated after each epoch.
            resume: checkpoint folder to go on from. The rest of the run gives the bits that the unbroken one would.
        """
        if self.optimizer is None:
            raise ValueError("Trainer.fit: expected an optimizer, got None")
        if len(train_loader) == 0:
            raise ValueError("Trainer.fit: expected at least one training batch, got none")
        if resume is not None:
            self.restore(load_checkpoint(resume), train_loader)
        self._train_loader, self._is_first_batch = train_loader, True
        self._call("on_fit_start")
        done = self.epoch * len(train_loader) + self._batches_done
        with tqdm(
            total=self.max_epochs * len(train_loader),
            initial=done,
            unit="batch",
            dynamic_ncols=True,
            disable=not self.enable_progress_bar,
        ) as bar:
            while self.epoch < self.max_epochs and not self.should_stop:
                self._fit_epoch(train_loader, validation_loader, bar)
        if self.capture is None:
            self._captured.forget()  # the memory of a step is free for what comes after the fit
        self._call("on_fit_end")
        if self.run_dir is not None and self.history:
            pictures.save_curves(self.history, self.run_dir / "curves.png")
        return self.history

    def evaluate(self, loader) -> dict[str, float]:
        """Loss and metrics over a loader's batches, in evaluation mode and off the tape."""
        totals = _Totals(copy.deepcopy(self.metrics))
        training = self.model.training
        self.model.eval()
        with no_grad():
            for batch in loader:
                batch = self.place(batch)
                loss, prediction = self.training_step(self, batch)
                totals.add(loss, prediction, batch)
        self.model.train(training)
        return totals.result()

    def predict(self, loader) -> np.ndarray:
        """The model's outputs for a loader's batches, stacked. A batch's last array is taken for the target unless it
        is the only one."""
        training = self.model.training
        self.model.eval()
        with no_grad():
            batches = (self.place(batch) for batch in loader)
            outputs = [self.model(*(batch[:-1] or batch)).numpy() for batch in batches]
        self.model.train(training)
        return np.concatenate(outputs)

    def supervised_step(self, batch) -> tuple[Tensor, Tensor]:
        """The usual step: the batch's last tensor is the target, the others go to the model."""
        *inputs, target = batch
        prediction = self.model(*inputs)
        return self.loss(prediction, target), prediction

    # ---- state

    def state_dict(self) -> dict:
        """All that a resumed run needs, as a tree for `save_checkpoint`."""
        loader = self._train_loader
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "random": random.get_state(),
            "loader_seed": getattr(loader, "seed", None),
            "epoch": self.epoch,
            "step": self.step,
            "batches_done": self._batches_done,
            "totals": self._totals.state_dict(),
            "history": self.history,
        }

    def restore(self, state: dict, train_loader) -> None:
        """Takes up a state that `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        for callback, callback_state in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(callback_state)
        random.set_state(state["random"])
        self.epoch, self.step, self._batches_done = state["epoch"], state["step"], state["batches_done"]
        self._totals.load_state_dict(state["totals"])
        self.history = list(state["history"])
        if state["loader_seed"] is not None:
            train_loader.seed = state["loader_seed"]
            train_loader.epoch, train_loader.skip = self.epoch, self._batches_done

    def save(self, folder: str | Path) -> None:
        """Writes a checkpoint from which `fit(resume=folder)` goes on."""
        save_checkpoint(folder, self.state_dict())

    def place(self, batch) -> tuple[Tensor, ...]:
        """A batch as tensors on the model's device; floating-point ones in the trainer's precision."""
        parameter = next(self.model.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
        return tuple(Tensor(self._place(x.array if isinstance(x, Tensor) else np.asarray(x), device)) for x in batch)

    # ---- the loop

    def _fit_epoch(self, train_loader, validation_loader, bar) -> None:
        started = time.perf_counter()
        title = f"epoch {self.epoch + 1}/{self.max_epochs}"
        # A first run compiles its kernels in its first batch, which takes a while and happens once.
        bar.set_description(f"{title}, first batch (kernels compile once)" if self._is_first_batch else title)
        self.model.train()
        self._call("on_epoch_start")
        for batch in train_loader:
            self._fit_batch(self.place(batch), len(train_loader))
            if self._is_first_batch:
                bar.set_description(title, refresh=False)
                self._is_first_batch = False
            bar.update()
            if bar.n % 10 == 0:
                bar.set_postfix(self._totals.progress(), refresh=False)
            self._call("on_batch_end")
        row = {"epoch": self.epoch + 1, "step": self.step, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= {f"training_{name}": value for name, value in self._totals.result().items()}
        if validation_loader is not None:
            row |= {f"validation_{name}": value for name, value in self.evaluate(validation_loader).items()}
            row["gap"] = row["validation_loss"] - row["training_loss"]
        row["seconds"] = round(time.perf_counter() - started, 3)
        self._totals.reset()
        self._batches_done = 0
        self.epoch += 1
        self.history.append(row)
        if self.schedule is not None and self.schedule_interval == "epoch":
            watched = row.get("validation_loss", row["training_loss"])
            self.schedule.step(watched) if isinstance(self.schedule, ReduceLROnPlateau) else self.schedule.step()
        bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k.startswith(("training_", "validation_"))})
        self._call("on_epoch_end")
        if self.run_dir is not None:
            run_folder.write_metrics(self.run_dir, self.history)
            self.save(self.run_dir / "checkpoint")

    def _fit_batch(self, batch, batches: int) -> None:
        run = self._pass if self.capture is False else self._captured
        loss, prediction = run(*batch)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"Trainer: the loss is {value} in epoch {self.epoch + 1}, batch {self._batches_done + 1}; "
                "a smaller learning rate, gradient_clip_val or a look at the inputs may help"
            )
        self._totals.add(loss, prediction, batch)
        self._batches_done += 1
        if self._batches_done % self.accumulate_grad_batches == 0 or self._batches_done == batches:
            self._optimizer_step()

    def _pass(self, *batch) -> tuple[Tensor, Tensor | None]:
        """Loss and prediction, after the backward pass."""
        loss, prediction = self.training_step(self, batch)
        loss.backward(full_like(loss, 1 / self.accumulate_grad_batches))
        return loss, None if prediction is None else prediction.detach()

    def _optimizer_step(self) -> None:
        if self.gradient_clip_val is not None:
            function = clip.clip_grad_norm_ if self.gradient_clip_algorithm == "norm" else clip.clip_grad_value_
            function(self.model.parameters(), self.gradient_clip_val)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.schedule is not None and self.schedule_interval == "step":
            self.schedule.step()

    def _say_uncaptured(self, line: str) -> None:
        if self.uncaptured is None and self.enable_progress_bar:
            tqdm.write(f"Trainer: {line}; capture=False says nothing of it", file=sys.stderr)
        self.uncaptured = self.uncaptured or line

    def _call(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self)

    def _place(self, array, device: str):
        array = to_device(array, device)
        return cast(array, self.dtype) if array.dtype in FLOATS else array


class _Totals:
    """Loss and metrics accumulated over batches, weighted by their examples."""

    def __init__(self, metrics: dict):
        self.metrics = metrics
        self.reset()

    def reset(self) -> None:
        self.loss, self.examples = 0.0, 0
        for metric in self.metrics.values():
            metric.reset()

    def add(self, loss: Tensor, prediction, batch) -> None:
        examples = batch[-1].shape[0] if batch[-1].ndim else 1
        self.loss += loss.item() * examples
        self.examples += examples
        for metric in self.metrics.values():
            metric.update(prediction.detach(), batch[-1])

    def result(self) -> dict[str, float]:
        mean = self.loss / self.examples if self.examples else math.nan
        return {"loss": mean} | {name: float(metric.compute()) for name, metric in self.metrics.items()}

    def progress(self) -> dict[str, str]:
        return {name: f"{value:.4g}" for name, value in self.result().items()}

    def state_dict(self) -> dict:
        metrics = {name: metric.state_dict() for name, metric in self.metrics.items()}
        return {"loss": self.loss, "examples": self.examples, "metrics": metrics}

    def load_state_dict(self, state: dict) -> None:
        self.loss, self.examples = state["loss"], state["examples"]
        for name, metric in self.metrics.items():
            metric.load_state_dict(state["metrics"][name])


def _check_choice(argument: str, value, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"Trainer: expected {argument} as one of {', '.join(map(repr, choices))}, got {value!r}")
