"""Learning-rate schedules with torch.optim.lr_scheduler's names, arguments and defaults.

Each computes a group's rate from its initial rate and the number of `step()` calls alone ("epochs", which may be
batches), so a resumed run goes on with the same numbers. Call `step()` after the optimizer's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np

from ..kernels.check import check_choice, check_number
from .optimizer import Optimizer

__all__ = [
    "LRScheduler",
    "StepLR",
    "MultiStepLR",
    "ExponentialLR",
    "ConstantLR",
    "LinearLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "LambdaLR",
    "OneCycleLR",
    "SequentialLR",
    "ReduceLROnPlateau",
]


class LRScheduler:
    """Sets the learning rate of each of an optimizer's groups at every `step()`. A subclass defines `_rate`.

    Args:
        optimizer: its groups' 'lr' at this moment, kept as 'initial_lr', is what the schedule starts from.
        last_epoch: number of the last epoch, where a run is taken up again; -1 starts.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        _check_optimizer(self, optimizer)
        self.optimizer = optimizer
        for index, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ValueError(
                    f"{self._name}: expected 'initial_lr' in group {index} where last_epoch is {last_epoch}"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def step(self, epoch: float | None = None) -> None:
        """Goes on to the next epoch, or to the one given, and sets the learning rates."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        for index, (group, base) in enumerate(zip(self.optimizer.param_groups, self.base_lrs)):
            self._set(index, group, base)

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict:
        """Everything but the optimizer, as plain numbers and lists."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up a state that `state_dict` gave. The rates themselves are the optimizer's state."""
        vars(self).update(state_dict)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _set(self, index: int, group: dict, base: float) -> None:
        group["lr"] = self._rate(index, base, self.last_epoch)

    def _rate(self, index: int, base: float, epoch: float) -> float:
        """The rate of the group of this index and initial rate."""
        raise TypeError(f"{self._name}: expected a subclass that defines _rate()")


class StepLR(LRScheduler):
    """The rate times `gamma` every `step_size` epochs."""

    def __init__(self, optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        _check_count(self, "step_size", step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        return base * self.gamma ** (epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """The rate times `gamma` at each of the epochs in `milestones`."""

    def __init__(self, optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        return base * self.gamma ** bisect_right(self.milestones, epoch)


class ExponentialLR(LRScheduler):
    """The rate times `gamma` every epoch."""

    def __init__(self, optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        return base * self.gamma**epoch


class ConstantLR(LRScheduler):
    """The rate times `factor` for the first `total_iters` epochs."""

    def __init__(self, optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1):
        check_number(self._name, "factor", factor, 0, 1)
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        return base * self.factor if epoch < self.total_iters else base


class LinearLR(LRScheduler):
    """Warm-up: the rate times a factor that goes from `start_factor` to `end_factor` in `total_iters` epochs."""

    def __init__(
        self,
        optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        check_number(self._name, "start_factor", start_factor, 0, 1, open_low=True)
        check_number(self._name, "end_factor", end_factor, 0, 1)
        _check_count(self, "total_iters", total_iters)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        done = min(epoch, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class PolynomialLR(LRScheduler):
    """The rate falls to 0 in `total_iters` epochs, as the `power` of the part that is left."""

    def __init__(self, optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        _check_count(self, "total_iters", total_iters)
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        return base * (1 - min(epoch, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate down to `eta_min` in `T_max` epochs, then up again (Loshchilov & Hutter 2017,
    without restarts)."""

    def __init__(self, optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        _check_count(self, "T_max", T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        return _cosine(base, self.eta_min, epoch / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine from the initial rate down to `eta_min`, again and again; the first takes `T_0` epochs, each
    following one `T_mult` times the one before (Loshchilov & Hutter 2017). `step(epoch)` takes fractions."""

    def __init__(self, optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        _check_count(self, "T_0", T_0)
        _check_count(self, "T_mult", T_mult)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)

    def _rate(self, index, base, epoch):
        if self.T_mult == 1:
            return _cosine(base, self.eta_min, epoch % self.T_0 / self.T_0)
        length = self.T_0
        while epoch >= length:
            epoch, length = epoch - length, length * self.T_mult
        return _cosine(base, self.eta_min, epoch / length)


class LambdaLR(LRScheduler):
    """The initial rate times `lr_lambda(epoch)`; one function, or a list with one a group. Functions are no state."""

    def __init__(self, optimizer, lr_lambda: Callable | Sequence[Callable], last_epoch: int = -1):
        _check_optimizer(self, optimizer)
        self.lr_lambdas = _per_group(self, "lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict:
        return {name: value for name, value in super().state_dict().items() if name != "lr_lambdas"}

    def _rate(self, index, base, epoch):
        return base * self.lr_lambdas[index](epoch)


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to almost nothing, with momentum going the other way (Smith &
    Topin 2018). One step a batch.

    Args:
        max_lr: the highest rate; a number, or a list with one a group.
        total_steps: batches in the cycle; or `epochs` and `steps_per_epoch`, whose product it is.
        pct_start: part of the cycle in which the rate rises.
        anneal_strategy: 'cos' or 'linear'.
        cycle_momentum: let the momentum (or betas[0]) fall from `max_momentum` to `base_momentum` and rise again.
        div_factor: the first rate is max_lr / div_factor.
        final_div_factor: the last rate is the first one / final_div_factor.
        three_phase: come down symmetrically to the first rate, then to the last.
    """

    def __init__(
        self,
        optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        _check_optimizer(self, optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(f"{self._name}: expected total_steps, or epochs and steps_per_epoch, got neither")
            total_steps = epochs * steps_per_epoch
        _check_count(self, "total_steps", total_steps)
        check_number(self._name, "pct_start", pct_start, 0, 1)
        check_choice(self._name, "anneal_strategy", anneal_strategy, ("cos", "linear"))
        has_momentum = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
        if cycle_momentum and not has_momentum:
            raise ValueError(f"{self._name}: expected an optimizer with momentum or betas where cycle_momentum is True")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        self.max_lrs = _per_group(self, "max_lr", optimizer, max_lr)
        self.max_momenta = _per_group(self, "max_momentum", optimizer, max_momentum)
        self.base_momenta = _per_group(self, "base_momentum", optimizer, base_momentum)
        self.final_div_factor = final_div_factor
        # Where each phase ends, and how far up the rate is there: 0 its first value, 1 its highest, -1 its last.
        top, last = pct_start * total_steps - 1, total_steps - 1
        self.phases = [[top, 1], [2 * top, 0], [last, -1]] if three_phase else [[top, 1], [last, -1]]
        if last_epoch == -1:
            for group, highest in zip(optimizer.param_groups, self.max_lrs):
                group["initial_lr"] = highest / div_factor
        super().__init__(optimizer, last_epoch)

    def _set(self, index, group, base):
        if self.last_epoch > self.total_steps:
            raise ValueError(f"{self._name}: expected at most {self.total_steps} steps, got {self.last_epoch}")
        super()._set(index, group, base)
        if self.cycle_momentum:
            high, low = self.max_momenta[index], self.base_momenta[index]
            momentum = self._between(self.last_epoch, {0: high, 1: low, -1: high})
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum

    def _rate(self, index, base, epoch):
        return self._between(epoch, {0: base, 1: self.max_lrs[index], -1: base / self.final_div_factor})

    def _between(self, epoch, values: dict[int, float]) -> float:
        start, level = 0.0, 0
        for end, next_level in self.phases[:-1]:
            if epoch <= end:
                break
            start, level = end, next_level
        else:
            end, next_level = self.phases[-1]
        done = (epoch - start) / (end - start) if end > start else 1.0
        if self.anneal_strategy == "cos":
            return _cosine(values[level], values[next_level], done)
        return values[level] + (values[next_level] - values[level]) * done


class SequentialLR:
    """One schedule after another.

    Args:
        optimizer: that of all schedules.
        schedulers: in their order.
        milestones: the epochs at which each but the first takes over; it starts from its epoch 0 then.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ):
        if not schedulers or any(schedule.optimizer is not optimizer for schedule in schedulers):
            raise ValueError("SequentialLR: expected one or more schedules of the optimizer given")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: expected {len(schedulers) - 1} milestones for {len(schedulers)} schedules, "
                f"got {len(milestones)}"
            )
        self.optimizer, self._schedulers, self._milestones = optimizer, list(schedulers), list(milestones)
        self.last_epoch = last_epoch
        self.step()  # each schedule has set its own first rate: the active one's counts

    def step(self, epoch: int | None = None) -> None:
        """Goes on to the next epoch (or to epoch 0, where it takes over itself) and sets the learning rates."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        active = self._schedulers[bisect_right(self._milestones, self.last_epoch)]
        active.step(0 if self.last_epoch in (0, *self._milestones) else None)

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict:
        """The epoch and the schedules' own states, as plain numbers and lists."""
        schedules = [schedule.state_dict() for schedule in self._schedulers]
        return {"last_epoch": self.last_epoch, "milestones": self._milestones, "schedulers": schedules}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up a state that `state_dict` gave."""
        self.last_epoch, self._milestones = state_dict["last_epoch"], list(state_dict["milestones"])
        for schedule, state in zip(self._schedulers, state_dict["schedulers"], strict=True):
            schedule.load_state_dict(state)


class ReduceLROnPlateau:
    """The rate times `factor` when a watched number has not become better for more than `patience` epochs.

    Args:
        mode: 'min' where smaller is better, 'max' where larger is.
        threshold: how much better counts: a part of the best so far ('rel') or an amount ('abs', `threshold_mode`).
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: the lowest rate; a number, or a list with one a group.
        eps: reductions that are not larger are not made.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ):
        _check_optimizer(self, optimizer)
        check_choice("ReduceLROnPlateau", "mode", mode, ("min", "max"))
        check_choice("ReduceLROnPlateau", "threshold_mode", threshold_mode, ("rel", "abs"))
        check_number("ReduceLROnPlateau", "factor", factor, 0, 1, open_high=True)
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.min_lrs = _per_group(self, "min_lr", optimizer, min_lr)
        self.best = math.inf if mode == "min" else -math.inf
        self.last_epoch = self.num_bad_epochs = self.cooldown_counter = 0

    def step(self, metrics: float) -> None:
        """Counts an epoch in which the watched number was `metrics`, and reduces the rates if it is time."""
        current = float(metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            for group, lowest in zip(self.optimizer.param_groups, self.min_lrs):
                reduced = max(group["lr"] * self.factor, lowest)
                if group["lr"] - reduced > self.eps:
                    group["lr"] = reduced

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict:
        """Everything but the optimizer, as plain numbers and lists."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up a state that `state_dict` gave. The rates themselves are the optimizer's state."""
        vars(self).update(state_dict)

    def _is_better(self, current: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs":
            return sign * current > sign * self.best + self.threshold
        return sign * current > sign * self.best * (1 + sign * self.threshold)


def _cosine(start: float, end: float, done: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def _per_group(schedule, argument: str, optimizer: Optimizer, value) -> list:
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{type(schedule).__name__}: expected {argument} for {groups} groups, got {len(value)}")
    return list(value)


def _check_optimizer(schedule, optimizer) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(schedule).__name__}: expected an optimizer, got {type(optimizer).__name__}")


def _check_count(schedule, argument: str, value) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{type(schedule).__name__}: expected {argument} as an integer of 1 or more, got {value!r}")
