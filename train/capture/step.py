"""`step = rv.capture(train_step)`: a training step as a flat list of kernel calls."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from ...kernels import accumulate, memory
from ...kernels.device import copied
from ...layers.tensor import Tensor
from . import native
from .arrays import copy_of, gpu_of, is_array, on
from .calls import listening
from .graphs import Graphs
from .recording import CaptureError, Recording

__all__ = ["CaptureError", "capture"]

_replacing = threading.Lock()  # one thread at a time replaces the library's functions


def capture(function: Callable, strict: bool = False) -> Callable:
    """A function that does what `function` does, faster: after three calls it replays the kernel calls of the third,
    without layers, tape and checks, in memory that is kept. The results have the same bits.

        @rv.capture
        def step(x, y):
            loss = rv.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

    The first call runs as it is, the second is measured, the third written down. Arguments of other shapes or types,
    and other values of arguments that are no arrays, are captured for themselves, as is a step whose parameters have
    been replaced. Indices are checked in every replay, and optimizers, clipping, schedules, dropout and random numbers
    go on as they would.

    On the CPU, a step is captured for each number of threads that Numba may use (`numba.set_num_threads`), on which
    depends how kernels share their work. Kernels that follow each other are called by one native call, without Python
    in between. An operation whose passes do more than call kernels, or that is not this library's, runs its Python in
    each replay.

    On a GPU, all kernels between two things that the host does anew are one CUDA graph: forward and backward pass of a
    network without dropout, with clipping, up to the optimizer's step. Optimizers, and operations that draw a seed,
    such as dropout, forward and backward, are launched as usual between graphs. Labels and indices that the step does
    not make are checked before the first graph; others before their operation, so that two graphs lie around the check.
    Replays run on CuPy's current stream.

    Args:
        function: takes tensors, arrays and plain values, returns a tensor, a tuple, list or dict of them, or None. What
            it does must be done by the library's functions, on the CPU or on one GPU: other Python in it runs three
            times and never again. Arrays that it uses are its arguments, or outlive it.
        strict: raise CaptureError for arguments of a second form, instead of capturing again.

    Returns:
        The captured function. What it returns are copies, which stay as they are. Its attribute `calls` is the number
        of calls in the last step captured, a graph or kernels that are called together being one; 0 before.

    Raises:
        CaptureError: when called, the step cannot be captured: it reads a value into Python, makes arrays other than by
            the library's functions, runs on several devices, or does something else each time.
    """
    return Captured(function, strict)


class Captured:
    """What `capture` returns."""

    def __init__(self, function: Callable, strict: bool):
        if not callable(function):
            raise TypeError(f"capture: expected a function, got {type(function).__name__}")
        self.__wrapped__ = function
        self.strict = strict
        self._steps: dict[tuple, _Step] = {}  # by the form of the arguments and the number of threads
        self.calls = 0

    def __call__(self, *arguments, **options):
        arrays, form = _take_apart(arguments, options)
        step = self._steps.get((form, _threads()))
        if step is None:
            known = next((known for known, _ in self._steps), form)
            if self.strict and known != form:
                raise CaptureError(f"capture: expected arguments of the form {known}, got {form}")
            step = _Step(self.__wrapped__)
            result = self._call(step, arguments, options, arrays)
            self._steps[form, _threads()] = step  # which are known only now, if it is what has loaded Numba
        else:
            result = self._call(step, arguments, options, arrays)
        self.calls = len(step.calls)
        return result

    def _call(self, step: _Step, arguments, options, arrays):
        """What a step does for its arguments, which `arrays` are among."""
        return step(arguments, options, arrays)


def _threads() -> int | None:
    """How many threads kernels on the CPU may use, which each thread of Python sets for itself; None before Numba is
    loaded, as it may stay on a GPU."""
    numba = sys.modules.get("numba")
    return None if numba is None else numba.get_num_threads()


class _Step:
    """A function for arguments of one form: it runs, is measured, is recorded, and then replays."""

    def __init__(self, function: Callable):
        self.function = function
        self._start_again()

    def __call__(self, arguments, options, arrays):
        if self.recording is not None:
            if self._fits():
                return self._replay(arrays)
            self._start_again()
        if self.measured is not None and not self.measured.stands():  # what is recorded would not agree
            self.measured = None
        if not self.has_run:
            result = self.function(*arguments, **options)
            self.has_run = True
            return result
        return self._record(arguments, options, arrays)

    @property
    def is_recorded(self) -> bool:
        """Whether the next call replays, unless parameters have been replaced."""
        return self.recording is not None

    def _start_again(self) -> None:
        self.has_run, self.measured, self.recording, self.graphs, self.calls = False, None, None, None, []

    def _record(self, arguments, options, arrays):
        inputs = [copy_of(x) for x in arrays]
        recording = Recording(inputs, self.measured)
        leaves = [] if self.measured is None else list(self.measured.leaves.values())
        start = [(leaf, leaf.array, leaf.grad_buffer, _lies_in_buffer(leaf)) for leaf in leaves]
        arguments, options = _put_together(arguments, options, inputs)
        try:
            with _replacing, listening() as _, recording.on():
                result = self.function(*arguments, **options)
            if self.measured is None:
                self.measured = recording
                return result
            recording.check_agreement()
            if recording.on_gpu:
                self.graphs = Graphs(recording.calls, recording.gpu)
        except BaseException:
            self._start_again()
            raise
        self.measured, self.recording, self.inputs, self.start, self.result = None, recording, inputs, start, result
        calls = native.joined(recording.calls) if self.graphs is None else self.graphs.calls
        self.calls = [(call.position, call.run) for call in calls]
        self.end = [(leaf, leaf.grad) for leaf in leaves]
        return _copied(result)

    def _fits(self) -> bool:
        """Whether parameters and their gradients lie where they lay when the step was recorded."""
        return self.recording.stands() and all(
            leaf.array is array and leaf.grad_buffer is buffer and _lies_in_buffer(leaf) == lies
            for leaf, array, buffer, lies in self.start
        )

    def _replay(self, arrays):
        for own, array in zip(self.inputs, arrays):
            accumulate.copy_into(own, array)
        supply = self.recording.supply
        with on(self.recording.gpu), memory.supplied_by(supply.take):
            for position, run in self.calls:
                supply.position = position
                run()
        for leaf, gradient in self.end:
            leaf.grad = gradient
        return _copied(self.result)


def _lies_in_buffer(leaf: Tensor) -> bool | None:
    """Whether a gradient lies where an optimizer wants it; None if there is no gradient."""
    return None if leaf.grad is None else leaf.grad.array is leaf.grad_buffer


def _take_apart(arguments, options) -> tuple[list, tuple]:
    """The arrays among arguments, and the form of all: what must be alike for a step to be replayed."""
    arrays, form = [], []
    for name, value in [*enumerate(arguments), *options.items()]:
        array = value.array if isinstance(value, Tensor) else value
        if isinstance(value, Tensor) and value.requires_grad:
            raise CaptureError(f"capture: expected arguments that require no gradient, got one at {name!r}")
        if is_array(array):
            arrays.append(array)
            form.append((name, type(value).__name__, array.dtype.str, array.shape, gpu_of(array)))
        else:
            form.append((name, value))
    return arrays, tuple(form)


def _put_together(arguments, options, inputs):
    """The arguments with other arrays in the places of theirs."""
    inputs = iter(inputs)

    def replaced(value):
        if isinstance(value, Tensor):
            return Tensor(next(inputs))
        return next(inputs) if is_array(value) else value

    return [replaced(value) for value in arguments], {name: replaced(value) for name, value in options.items()}


def _copied(result):
    """A result whose arrays no replay will write to."""
    if isinstance(result, Tensor):
        return Tensor(copied(result.array))
    if isinstance(result, (tuple, list)):
        return type(result)(_copied(part) for part in result)
    if isinstance(result, dict):
        return {name: _copied(part) for name, part in result.items()}
    if result is None:
        return None
    raise CaptureError(f"capture: expected a step that returns tensors, got {type(result).__name__}")
