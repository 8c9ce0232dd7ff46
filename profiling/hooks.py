"""Where a profile listens: the library's own functions, replaced while it is open and put back when it ends.

Nothing in kernels, layers and train knows of profiles. What is replaced are attributes of classes and modules that
callers look up at every call; so what was looked up before, such as the backward pass of a node on the tape, stays what
it was, and what was looked up during a profile and is called after it goes straight to the original.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import perf_counter_ns as clock
from typing import Any

from ..kernels import accumulate
from ..kernels.operation import Operation
from ..layers.layer import Layer
from ..layers.tensor import Tensor
from ..train import clip
from ..train.data.loader import DataLoader
from ..train.hooks import definers, modules_that_show, replaced
from ..train.optimizer import Optimizer
from .recording import Recording


def install(recording: Recording) -> ExitStack:
    """Replaces the functions; closing what it returns puts them back."""
    return replaced((owner, name, functools.partial(hook, recording)) for owner, name, hook in _hooks())


def _hooks() -> Iterator[tuple[Any, str, Callable]]:
    """(owner, attribute, function that makes the replacement of a recording and the original)."""
    yield Operation, "forward", _operation_forward
    yield Operation, "backward", _operation_backward
    yield sys.modules[Tensor.__module__], "Node", _node  # `layers.tensor` is the function of that name
    for name in ("add", "add_into", "copy_into", "fill"):
        yield accumulate, name, _accumulate
    for owner in definers(Layer, "__call__"):
        yield owner, "__call__", _layer_call
    yield Tensor, "backward", _tensor_backward
    for name in ("step", "zero_grad"):
        for owner in definers(Optimizer, name):
            yield owner, name, _optimizer
    yield DataLoader, "__iter__", _batches
    for name in clip.__all__:
        for module in modules_that_show(name, getattr(clip, name)):
            yield module, name, _clipping


def _operation_forward(recording: Recording, original: Callable) -> Callable:
    def forward(operation, *inputs, implementation=None, **attributes):
        if not recording.active:
            return original(operation, *inputs, implementation=implementation, **attributes)
        entered = clock()
        arrays = zip(operation.input_names(len(inputs)), inputs)
        span = recording.open_kernel(entered, operation.name, "forward", _family(operation), arrays)
        result = call = None
        try:
            result = original(operation, *inputs, implementation=implementation, **attributes)
            call = operation, inputs, attributes
        finally:
            recording.close(span, clock(), result, span.title, call)
        return result

    return forward


def _operation_backward(recording: Recording, original: Callable) -> Callable:
    def backward(operation, saved, grad_output, needs, implementation=None):
        if not recording.active:
            return original(operation, saved, grad_output, needs, implementation)
        entered = clock()
        span = recording.open_kernel(entered, operation.name, "backward", _family(operation), _gradients(grad_output))
        span.cause = recording.thread.cause
        grads = ()
        try:
            grads = original(operation, saved, grad_output, needs, implementation)
        finally:
            recording.close(span, clock(), grads, span.title)
        # The names are looked up when the profile has ended.
        span.given = tuple(grad is not None for grad in grads)
        return grads

    return backward


def _node(recording: Recording, original: type) -> Callable:
    """Nodes made while a profile is open remember the layer and the forward pass that they come from."""

    def node(name, backward, *rest):
        if recording.active:
            entered, thread = clock(), recording.thread
            is_operation = getattr(backward, "__func__", None) is vars(Operation)["backward"]
            cause = thread.last_forward if is_operation else None
            run = backward if is_operation else functools.partial(_view_backward, recording, name, backward)
            backward = functools.partial(_attributed, recording, run, thread.layer, cause)
            thread.bookkeeping += clock() - entered
        return original(name, backward, *rest)

    return node


def _attributed(recording: Recording, backward: Callable, layer: str | None, cause, saved, grad, needs):
    # Not put back: what the tape then does with the gradients, their sums, belongs to the same layer. The span of
    # Tensor.backward puts the layer back when it closes.
    recording.thread.layer, recording.thread.cause = layer, cause
    return backward(saved, grad, needs)


def _view_backward(recording: Recording, name: str, backward: Callable, saved, grad, needs):
    """The backward pass of a node that is no operation, such as reshape."""
    if not recording.active:
        return backward(saved, grad, needs)
    span = recording.open_kernel(clock(), name, "backward", "tape", _gradients(grad))
    grads = None
    try:
        grads = backward(saved, grad, needs)
    finally:
        recording.close(span, clock(), grads, span.title)
    return grads


def _accumulate(recording: Recording, original: Callable) -> Callable:
    name = f"accumulate.{original.__name__}"

    def accumulated(target, value):
        if not recording.active:
            return original(target, value)
        arrays = [("gradient", target), ("gradient", value)]
        span = recording.open_kernel(clock(), name, "", "accumulate", arrays)
        result = None
        try:
            result = original(target, value)
        finally:
            recording.close(span, clock(), result, "sum of gradients")
        return result

    return accumulated


def _layer_call(recording: Recording, original: Callable) -> Callable:
    def call(layer, *inputs, **arguments):
        if not recording.active:
            return original(layer, *inputs, **arguments)
        span = recording.open_layer(clock(), layer, inputs)
        try:
            return original(layer, *inputs, **arguments)
        finally:
            recording.close(span, clock())

    return call


def _tensor_backward(recording: Recording, original: Callable) -> Callable:
    return _called(recording, original, "backward", lambda *_: "backward")


def _optimizer(recording: Recording, original: Callable) -> Callable:
    return _called(recording, original, "optimizer", lambda owner, *_: f"{type(owner).__name__}.{original.__name__}")


def _clipping(recording: Recording, original: Callable) -> Callable:
    return _called(recording, original, "clipping", lambda *_: original.__name__)


def _called(recording: Recording, original: Callable, phase: str, name: Callable) -> Callable:
    """A function whose whole call is a span of one phase."""

    def call(*arguments, **options):
        if not recording.active:
            return original(*arguments, **options)
        span = recording.open(clock(), name(*arguments), "call", phase, None)
        try:
            return original(*arguments, **options)
        finally:
            recording.close(span, clock())

    return call


def _batches(recording: Recording, original: Callable) -> Callable:
    """The making of each batch is a span; what the loop then does with it is not."""

    def iterate(loader):
        batches = original(loader)
        while True:
            if not recording.active:
                batch = next(batches, None)
            else:
                span = recording.open(clock(), "batch", "call", "data", None)
                batch = None
                try:
                    batch = next(batches, None)
                finally:
                    recording.close(span, clock(), batch, "batch")
            if batch is None:
                return
            yield batch

    return iterate


def _family(operation: Operation) -> str:
    return operation.family.rpartition(".")[2]


def _gradients(grad) -> list[tuple[str, Any]]:
    """(name, gradient) of one output's gradient or of several's."""
    if type(grad) is not tuple:
        return [("grad_output", grad)]
    return [(f"grad_output[{index}]", member) for index, member in enumerate(grad)]
