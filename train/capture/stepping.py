"""An optimizer's step as replays on the CPU make it: its kernels on the arrays that they had, with new numbers."""

from __future__ import annotations

from collections.abc import Callable

from ...kernels import memory
from ...kernels import optimizer as kernels
from ..optimizer import Optimizer, Run

_step, _step_run = Optimizer.step, Optimizer._step_run  # while a step is recorded, the class has others


def steps_in_runs(optimizer: Optimizer, step: Callable) -> bool:
    """Whether what steps an optimizer is the library's own code, so that `Stepping` does the same: no subclass, and
    nobody else, has put a `step`, a `_step_run` or an operation in its place."""
    return (
        step is _step
        and getattr(optimizer._step_run, "__func__", None) is _step_run
        and optimizer.operation.family == kernels.__name__
    )


class Stepping:
    """Steps an optimizer, without looking for its parameters' arrays as long as nothing changes but counts and the
    learning rate.

    Args:
        optimizer: the optimizer, on the CPU.
        step: what steps it otherwise.
    """

    def __init__(self, optimizer: Optimizer, step: Callable):
        self._optimizer, self._step = optimizer, step
        self._runs: list[Run] | None = None
        self._options: list[dict] = []  # of each run, as they were found to be right

    def __call__(self) -> None:
        optimizer = self._optimizer
        if self._runs is None or not optimizer.stands_on(self._runs):
            self._step_whole()
            return
        numbers = [optimizer.next_numbers(run.group, run.buffer, 0) for run in self._runs]
        options = [_options(run) for run in self._runs]
        if options != self._options:
            if [known | {"lr": 0} for known in options] != [known | {"lr": 0} for known in self._options]:
                self._step_whole()  # with another option, such as momentum, may come other arrays
                return
            for run, (_, attributes) in zip(self._runs, numbers):
                optimizer.operation.check(*run.arrays, **attributes)
            self._options = options
        for index, (_, attributes) in enumerate(numbers):
            self._program.change_numbers(index, self._numbers(optimizer.operation.name, attributes))
        self._program()
        for run, (counters, _) in zip(self._runs, numbers):
            run.buffer.count(counters, 0, len(run.buffer.parameters) - 1)

    def _step_whole(self) -> None:
        with memory.supplied_by(None):
            self._step(self._optimizer)
        self._runs = self._optimizer.whole_runs()
        if self._runs is not None:
            self._write_down()

    def _write_down(self) -> None:
        """Keeps the kernels of the next step, with the numbers that it would have."""
        from ...kernels.cpu_replay import KernelCall, Program  # not before a kernel was called
        from ...kernels.optimizer.cpu import step_call, step_numbers

        optimizer, calls = self._optimizer, []
        for run in self._runs:
            _, attributes = optimizer.next_numbers(run.group, run.buffer, 0)
            calls.append(KernelCall(*step_call(optimizer.operation.name, run.arrays, attributes)))
        self._program, self._numbers = Program(calls), step_numbers
        self._options = [_options(run) for run in self._runs]


def _options(run: Run) -> dict:
    return {name: value for name, value in run.group.items() if name != "params"}
