"""An optimizer's step as replays on the CPU make it: its kernels on the arrays that they had, with new numbers."""

from __future__ import annotations

from collections.abc import Callable

from ..optimizer import Optimizer

_step, _step_run = Optimizer.step, Optimizer._step_run  # while a step is recorded, the class has others


def steps_in_runs(optimizer: Optimizer, step: Callable) -> bool:
    """Whether what steps an optimizer is the library's own code, so that `Stepping` does the same: no subclass, and
    nobody else, has put a `step` or a `_step_run` in its place."""
    return step is _step and getattr(optimizer._step_run, "__func__", None) is _step_run


class Stepping:
    """Steps an optimizer, without looking for its parameters' arrays as long as nothing changes but counts and the
    learning rate.

    Args:
        optimizer: the optimizer, on the CPU.
        step: what steps it otherwise.
    """

    def __init__(self, optimizer: Optimizer, step: Callable):
        self._optimizer, self._step = optimizer, step
        self._runs: list | None = None
        self._options: list[dict] = []  # of each run, as they were found to be right

    def __call__(self) -> None:
        optimizer, operation = self._optimizer, self._optimizer.operation
        if self._runs is None or not optimizer.stands_on(self._runs):
            self._step_whole()
            return
        numbers = [optimizer.next_numbers(run.group, run.buffer, 0) for run in self._runs]
        options = [_options(counters, attributes) for counters, attributes in numbers]
        if options != self._options:
            if [known | {"lr": 0} for known in options] != [known | {"lr": 0} for known in self._options]:
                self._step_whole()  # with another option, such as momentum, may come other arrays
                return
            for run, (_, attributes) in zip(self._runs, numbers):
                operation.check(*run.arrays, **attributes)
            self._options = options
        step = operation.passes("cpu")[0]
        for run, (counters, attributes) in zip(self._runs, numbers):
            step(*run.arrays, **attributes, out=run.out)
            run.buffer.count(counters, 0, len(run.buffer.parameters) - 1)

    def _step_whole(self) -> None:
        self._step(self._optimizer)
        self._runs = self._optimizer.whole_runs()
        numbers = [self._optimizer.next_numbers(run.group, run.buffer, 0) for run in self._runs or ()]
        self._options = [_options(counters, attributes) for counters, attributes in numbers]


def _options(counters: dict, attributes: dict) -> dict:
    return {name: value for name, value in attributes.items() if name not in counters}
