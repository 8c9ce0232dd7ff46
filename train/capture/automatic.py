"""The pass of a Trainer, captured where its replays certainly do the same, and what it says where they may not."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator

import numpy as np

from ...kernels import accumulate
from ...kernels.device import copied
from ...kernels.precision import input_precision
from ...layers import random
from ...layers.layer import Layer
from .. import hooks
from .recording import CaptureError
from .step import Captured

_LIBRARY = __package__.partition(".")[0]
_LAYERS, _TRAINER = f"{_LIBRARY}.layers", f"{_LIBRARY}.train.trainer"
_FLOAT32 = np.dtype(np.float32)
_MOST_FORMS = 4  # of batches that are captured: each holds the memory of a step
_MOST_VAIN = 4  # captures that begin before one is replayed
_ADVICE = "capture=True captures them, which is right if it does the same for every batch"


class AutomaticPass:
    """A Trainer's forward and backward pass, which begins to be captured anew whenever what it consists of changes:
    the model, its layers, their settings and modes, which parameters are frozen, or the loss.

    While the library's functions are replaced, as by a profile, it runs uncaptured: a replay calls none of them.

    Args:
        trainer: the Trainer.
        run: its pass.
        say: called with a line that says why steps are not captured.
        asked: capture whatever the pass is, and raise CaptureError where that cannot be. Else only what
            `what_prevents` has nothing against is captured, and of a capture that fails nothing remains but the reason.
    """

    def __init__(self, trainer, run: Callable, say: Callable[[str], None], asked: bool):
        self._trainer, self._uncaptured, self._say, self._asked = trainer, run, say, asked
        self.forget()

    def forget(self) -> None:
        """Lets go of what has been captured, with its memory."""
        self._parts: _Parts | None = None
        self._captured: Captured | None = None
        self._vain = 0

    def __call__(self, *batch):
        if hooks.is_listening():
            return self._uncaptured(*batch)
        if self._parts is None or not self._parts.stand():
            self._begin()
        return (self._captured or self._uncaptured)(*batch)

    def _begin(self) -> None:
        before, self._captured, self._parts = self._captured, None, _Parts(self._trainer)
        if self._asked:
            self._captured = Captured(self._uncaptured, strict=False)
            return
        self._vain = 1 if isinstance(before, _Attempt) and before.has_replayed else self._vain + 1
        reason = what_prevents(self._trainer)
        if reason is None and self._vain > _MOST_VAIN:
            reason = "layers or parameters change before a captured step is ever replayed"
        if reason is None:
            self._captured = _Attempt(self._uncaptured, self._parts, self._say, self._go_on_without)
        else:
            self._go_on_without(reason)

    def _go_on_without(self, reason: str) -> None:
        self._captured = None
        self._say(f"steps are not captured: {reason}")


class _Attempt(Captured):
    """A pass whose capture may fail: then all is as it was before, and it runs uncaptured.

    What is captured are batches of a shape of which two come in a row. The last and smaller one of an epoch would keep
    the memory of a step for little.

    Args:
        function: the pass.
        parts: what it consists of.
        say: called with a line that says why steps of some shapes are not captured.
        fail: called with the reason where none is.

    Attributes:
        has_replayed: whether a capture has come to be replayed.
    """

    def __init__(self, function: Callable, parts: _Parts, say: Callable[[str], None], fail: Callable[[str], None]):
        super().__init__(function, strict=False)
        self._parts, self._say, self._fail, self.has_replayed = parts, say, fail, False
        self._last = None

    def _call(self, step, arguments, options, arrays):
        last, self._last = self._last, step
        if step.is_recorded or not step.has_run:
            self.has_replayed |= step.is_recorded
            return step(arguments, options, arrays)
        if step is not last:
            return self.__wrapped__(*arguments, **options)
        if sum(other.is_recorded for other in self._steps.values()) >= _MOST_FORMS:
            self._say(
                f"steps are not captured for more than {_MOST_FORMS} shapes of batches, as each keeps the memory of a "
                "step (capture=True captures all)"
            )
            return self.__wrapped__(*arguments, **options)
        before = _State(self._parts)
        try:
            return step(arguments, options, arrays)
        except (CaptureError, MemoryError) as error:
            reason = str(error).removeprefix("capture: ")
        before.restore()
        self._fail(reason)
        return self.__wrapped__(*arguments, **options)


class _Parts:
    """What a Trainer's pass consists of, but for the values in arrays.

    Attributes:
        layers: the model's and the loss's.
    """

    def __init__(self, trainer):
        self._trainer, self._own = trainer, _parts_of(trainer)
        self.layers = [layer for part in self._own if isinstance(part, Layer) for layer in part.modules()]
        members = [vars(layer) for layer in self.layers if _stranger_in(layer) is None]
        members += [getattr(layer, name) for layer in self.layers for name in ("_parameters", "_buffers", "_layers")]
        # Of layers that are the user's, other attributes may well change in every pass.
        self._modes = [(layer, layer.training) for layer in self.layers]
        self._members = [(member, tuple(member.values())) for member in members]
        tensors = [x for layer in self.layers for x in (*layer.parameters(False), *layer._buffers.values())]
        self._tensors = [(x, x.array, x.requires_grad) for x in tensors if x is not None]

    def stand(self) -> bool:
        """Whether all is still so. Values are compared by what they are, not by what they are equal to: of arrays that
        would be arrays, too."""
        return (
            all(map(operator.is_, _parts_of(self._trainer), self._own))
            and all(layer.training == mode for layer, mode in self._modes)
            and all(len(m) == len(known) and all(map(operator.is_, m.values(), known)) for m, known in self._members)
            and all(x.array is array and x.requires_grad == needs for x, array, needs in self._tensors)
        )


class _State:
    """What a pass of the library's layers changes, kept so that it can be put back."""

    def __init__(self, parts: _Parts):
        self._random = random.get_state()
        parameters = [parameter for layer in parts.layers for parameter in layer.parameters(False)]
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]
        sums = [gradient for _, gradient in self._gradients if gradient is not None]
        buffers = [buffer for layer in parts.layers for buffer in layer._buffers.values() if buffer is not None]
        # What shortens an embedding's rows does it in the table itself.
        tables = [layer.weight for layer in parts.layers if getattr(layer, "max_norm", None) is not None]
        self._values = [(x.array, copied(x.array)) for x in (*sums, *buffers, *tables)]

    def restore(self) -> None:
        """Puts it back."""
        random.set_state(self._random)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for array, value in self._values:
            accumulate.copy_into(array, value)


def what_prevents(trainer) -> str | None:
    """Why replays might do something else than a Trainer's pass would, and what to do about it; None if all that runs
    in it is this library's own code, so that they cannot."""
    if trainer.accumulate_grad_batches > 1:
        return f"gradients of {trainer.accumulate_grad_batches} batches are summed (accumulate_grad_batches)"
    if not _comes_from(_TRAINER, trainer.training_step):
        return f"training_step is not the Trainer's own ({_ADVICE})"
    stranger = next(_strangers_in(trainer.model), None)
    if stranger is None and not _is_own(trainer.loss):
        stranger = "the loss is a function or layer of your own"
    return None if stranger is None else f"{stranger} ({_ADVICE})"


def _parts_of(trainer) -> tuple:
    return trainer.model, trainer.loss, trainer.training_step, input_precision(_FLOAT32)


def _strangers_in(layer: Layer) -> Iterator[str]:
    """What in a layer and all inside it is not this library's."""
    return filter(None, map(_stranger_in, layer.modules()))


def _stranger_in(layer: Layer) -> str | None:
    kind = type(layer)
    if not _is_in(_LAYERS, kind.__module__):
        return f"{kind.__qualname__} is a layer of your own"
    if not (_comes_from(_LAYERS, kind.forward) and _comes_from(_LAYERS, kind.__call__)):
        return f"{kind.__qualname__}.forward has been replaced"
    for name, value in vars(layer).items():
        if callable(value) and not isinstance(value, type) and not _is_own(value):
            return f"{kind.__qualname__}.{name} is a function of your own"
    return None


def _is_own(value) -> bool:
    """Whether calling it runs nothing but the code of this library's layers."""
    if isinstance(value, functools.partial):
        given = (*value.args, *value.keywords.values())
        return _is_own(value.func) and all(_is_own(x) for x in given if callable(x))
    if isinstance(value, Layer):
        return next(_strangers_in(value), None) is None
    return _comes_from(_LAYERS, value)


def _comes_from(package: str, value) -> bool:
    """Whether it is a function that a package defines; what only says so, as decorators make it, is none."""
    return inspect.isfunction(value) and _is_in(package, value.__globals__.get("__name__", ""))


def _is_in(package: str, module: str) -> bool:
    return module == package or module.startswith(f"{package}.")
