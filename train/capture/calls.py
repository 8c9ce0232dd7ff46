"""Which of the library's functions a recorded step consists of, and how each is done again.

Operations and the tape's sums run on the arrays that they had; what they allocate comes from the step's plan, so it
lies where it lay. On a GPU their launches are written down one by one (`launches.py`), on the CPU the kernels of those
passes that are nothing else (`native.py`). Views need no call:
they look at memory that another call writes. Optimizers, schedules and random numbers run as they are, for their
numbers change from step to step, and so does clipping where the host is to read the norm. What reads a value into
Python is refused, as no replay could act on it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...kernels import accumulate, destinations, device, memory
from ...kernels.check import HALF_TYPES
from ...kernels.operation import Operation
from ...layers import create, random
from ...layers.tensor import Parameter, Tensor
from .. import clip
from ..hooks import definers, modules_that_show, replaced
from ..optimizer import Optimizer
from ..schedules import LRScheduler
from . import launches, native
from .arrays import address_of, owner_of
from .recording import CaptureError, Seed, current
from .stepping import Stepping, steps_in_runs

_tape = sys.modules[Tensor.__module__]  # `layers.tensor` is the function of that name
_READS = ("__array__", "__bool__", "__float__", "__int__", "item", "numpy")
_CONSTANTS = ("arange", "empty", "eye", "full", "full_like", "linspace", "ones", "ones_like", "zeros", "zeros_like")
_DRAWS = ("rand", "randint", "randn", "randperm")
_SUMS = ("add", "add_into", "copy_into", "count", "divide", "fill", "sum_rows")  # of kernels/accumulate.py
_COPIES = ("cast", "clone", "reshape", "to")


def listening() -> contextlib.ExitStack:
    """Replaces the functions; closing what it returns puts them back."""
    with replaced(_replacements()) as stack:
        stack.enter_context(native.listening())
        return stack.pop_all()


def _replacements() -> Iterator[tuple[Any, str, Callable]]:
    yield from launches.replacements()
    yield from native.replacements()
    yield Operation, "forward", _forward
    yield Operation, "backward", _backward
    yield _tape, "Node", _node
    yield _tape, "_accumulate", _leaf
    yield _tape, "_taken_apart", _inputs
    for module in modules_that_show("record", _tape.record):
        yield module, "record", _record
    for name in _SUMS:
        for module in modules_that_show(name, getattr(accumulate, name)):
            yield module, name, functools.partial(_accumulated, name)
    for name in ("step", "zero_grad"):
        for owner in definers(Optimizer, name):
            yield owner, name, _on_the_host
    for owner in definers(LRScheduler, "step"):
        yield owner, "step", _on_the_host
    for name in ("_clip_norm", "_clip_values"):
        yield clip, name, _clipping
    for names, hook in ((_CONSTANTS, _constant), (_DRAWS, _on_the_host)):
        for name in names:
            for module in modules_that_show(name, getattr(create, name)):
                yield module, name, hook
    for module in modules_that_show("next_philox_seed", random.next_philox_seed):
        yield module, "next_philox_seed", _seed
    for name in _READS:
        yield Tensor, name, functools.partial(_read, name)
    # How many elements are not 0 decides how large the next arrays are.
    for module in modules_that_show("nonzero", device.nonzero):
        yield module, "nonzero", functools.partial(_read, "nonzero")


def _forward(original: Callable) -> Callable:
    def forward(operation, *inputs, **attributes):
        recording = current()
        if recording is None:
            return original(operation, *inputs, **attributes)
        recording.claim(operation.name, inputs)
        seeds = [name for name, value in attributes.items() if isinstance(value, Seed)]
        if recording.on_gpu and not seeds:
            return launches.forward(recording, operation, inputs, attributes)
        function, kinds = functools.partial(original, operation), {x.dtype for x in inputs if isinstance(x, np.ndarray)}
        tables = any(kind.kind in "iu" for kind in kinds)
        # Half-precision inputs are converted on the way, and others say themselves where they want to go.
        usual = not (recording.on_gpu or kinds & HALF_TYPES or "implementation" in attributes)
        if usual:
            _check(recording, operation, inputs, attributes)
            function = operation.passes("cpu")[0]
        position = recording.position
        closely = usual and not seeds
        with (
            recording.inside(),
            _watched(recording, operation.family, (inputs, attributes), tables, closely) as kernels,
        ):
            output, saved = function(*inputs, **attributes)
        outputs, given = (x if type(x) is tuple else (x,) for x in (output, attributes.get("out")))
        place = recording.save(saved, changes=bool(seeds))
        recording.tables |= {place} if tables else set()
        elsewhere = recording.keep([None if any(x is y for y in given) else x for x in outputs])

        def run():
            for name in seeds:
                attributes[name] = random.next_philox_seed()
            result, recording.saved[place] = function(*inputs, **attributes)
            _copy_over(result, elsewhere)

        does_the_same = None if elsewhere else kernels()
        if attributes.get("out") is not None:  # NumPy may write there, for other values than these: `embedding_renorm`
            does_the_same = does_the_same or None
        recording.add(position, operation.name, (inputs, attributes), run, kernels=does_the_same)
        return output, saved

    return forward


def _check(recording, operation, inputs: tuple, attributes: dict) -> None:
    """An operation's check, which each replay repeats where an input is a table of indices: no kernel may touch memory
    with a wrong one. Before all else, if the step does not make the table."""
    attributes = {name: value for name, value in attributes.items() if name != "out"}
    check = functools.partial(operation.check, *inputs, **attributes)
    tables, seen = [x for x in inputs if isinstance(x, np.ndarray) and x.dtype.kind in "iu"], []
    with recording.inside(), native.looking(seen):
        check()
    if tables:
        early = not any(recording.knows(x) and not recording.is_argument(x) for x in tables)
        kernels = native.checks_of(tables, seen, check) if native.is_own(operation.family) else None
        name = f"{operation.name} check"
        recording.add(recording.position, name, (inputs, attributes), check, early=early, kernels=kernels)


@contextlib.contextmanager
def _watched(recording, module: str, given, tables: bool, closely: bool) -> Iterator[Callable[[], list | None]]:
    """Within it runs a pass of a module; after it, what it gives is a function that says which kernels do the same, or
    None."""
    if recording.on_gpu:
        yield lambda: None
        return
    closely = closely and recording.supply is not None and native.is_own(module)
    watch = native.Watch(recording, given, tables, closely)
    with native.watching(watch):
        yield lambda: kernels
    kernels = watch.kernels()


def _backward(original: Callable) -> Callable:
    def backward(operation, saved, grad_output, needs, implementation=None):
        recording = current()
        if recording is None:
            return original(operation, saved, grad_output, needs, implementation)
        position, place = recording.position, recording.place_of(saved)
        recording.claim(f"{operation.name} backward", grad_output if type(grad_output) is tuple else (grad_output,))
        if recording.on_gpu and not recording.changes(place):
            return original(operation, saved, grad_output, needs, implementation)
        places = destinations.offered()  # they outlive the step: replays compute gradients there
        closely, tables = implementation is None and not recording.changes(place), place in recording.tables
        with (
            recording.inside(),
            _watched(recording, operation.family, (saved, grad_output), tables, closely) as kernels,
        ):
            grads = original(operation, saved, grad_output, needs, implementation)
        in_place = [x for x in grads if destinations.is_in(x, places)]
        elsewhere = recording.keep([None if destinations.is_in(x, places) else x for x in grads])

        def run():
            result = destinations.offering(
                places, original, operation, recording.saved[place], grad_output, needs, implementation
            )
            _copy_over(result, elsewhere)

        recording.add(
            position, f"{operation.name} backward", (grad_output, needs, in_place), run,
            kernels=None if elsewhere else kernels(),
        )  # fmt: skip
        return grads

    return backward


def _node(original: type) -> Callable:
    """Nodes that are no operations, such as views, are called through here on the way back."""

    def node(name, backward, *rest):
        if current() is not None and not isinstance(getattr(backward, "__self__", None), Operation):
            backward = functools.partial(_view_backward, name, backward)
        return original(name, backward, *rest)

    return node


def _view_backward(name: str, backward: Callable, saved, grad, needs):
    recording = current()
    if recording is None:
        return backward(saved, grad, needs)
    if recording.on_gpu:
        grads = backward(saved, grad, needs)
        recording.claim(f"{name} backward", grads)
        return grads
    position = recording.position
    with recording.inside(), _watched(recording, backward.__module__, (saved, grad), True, True) as kernels:
        grads = backward(saved, grad, needs)
    if any(x is not None and owner_of(x) is not owner_of(grad) for x in grads):
        elsewhere = recording.keep(grads)
        recording.add(
            position, f"{name} backward", (saved, grad), lambda: _copy_over(backward(saved, grad, needs), elsewhere),
            kernels=None if elsewhere else kernels(),
        )  # fmt: skip
    return grads


def _leaf(original: Callable) -> Callable:
    def accumulate_in(leaf, grad):
        if (recording := current()) is not None:
            recording.meet(leaf)
        original(leaf, grad)

    return accumulate_in


def _inputs(original: Callable) -> Callable:
    def taken_apart(inputs: tuple):
        if (recording := current()) is not None:
            for parameter in (x for x in inputs if isinstance(x, Parameter)):
                recording.see(parameter)
        return original(inputs)

    return taken_apart


def _record(original: Callable) -> Callable:
    """What is put on the tape and is no operation is a view, or a copy in another form."""

    def record(name, backward, saved, inputs, output):
        recording = current()
        if recording is not None and type(output) is not tuple and not recording.knows(output):
            source = inputs[0].array
            recording.claim(name, (source, output))
            if not recording.on_gpu and owner_of(output) is not owner_of(source):
                if name not in _COPIES:
                    raise CaptureError(f"capture: expected operations, views and copies, got {name}")
                recording.keep((output,))
                position = recording.position
                target = output if source.flags.c_contiguous else output.reshape(source.shape)  # a view: it is new
                recording.add(
                    position, name, (source, output.shape),
                    lambda: np.copyto(output, source.reshape(output.shape), casting="unsafe"),
                    kernels=native.kernels_of("copy_into", (target, source.reshape(target.shape))),
                )  # fmt: skip
        return original(name, backward, saved, inputs, output)

    return record


def _accumulated(name: str, original: Callable) -> Callable:
    def call(*arguments):
        recording = current()
        if recording is None:
            return native.accumulated(name, original, arguments)
        recording.claim(name, arguments)
        if recording.on_gpu:
            return original(*arguments)
        position = recording.position
        with recording.inside():
            result = original(*arguments)
        kernels = native.kernels_of(name, arguments, result)
        recording.add(position, name, arguments, functools.partial(original, *arguments), kernels=kernels)
        return result

    return call


def _on_the_host(original: Callable) -> Callable:
    """Runs anew in each replay, with the gradients that it found when it was recorded."""

    @functools.wraps(original)
    def call(*arguments, **options):
        recording = current()
        if recording is None:
            return original(*arguments, **options)
        gradients = [(leaf, leaf.grad) for leaf in recording.leaves.values()]
        # `model.parameters()` can be walked through once only.
        arguments = tuple(list(x) if isinstance(x, Iterator) else x for x in arguments)
        with recording.outside(), launches.watching() as launched:
            result = original(*arguments, **options)
        kept = result.array if isinstance(result, Tensor) else None
        if kept is not None:
            recording.remember(kept)

        def again():
            with memory.supplied_by(None):
                return original(*arguments, **options)

        if len(arguments) == 1 and not (options or recording.on_gpu) and steps_in_runs(arguments[0], original):
            again = Stepping(arguments[0], original)

        def run():
            for leaf, gradient in gradients:
                leaf.grad = gradient
            fresh = again()
            if kept is not None:
                accumulate.copy_into(kept, fresh.array)

        idle = not launched and kept is None
        recording.add(recording.position, original.__qualname__, (), run, idle=idle)
        return result

    return call


def _clipping(original: Callable) -> Callable:
    """It does the same each time, unless the host is to read the norm."""
    on_the_host, signature = _on_the_host(original), inspect.signature(original)

    @functools.wraps(original)
    def clip_(*arguments, **options):
        given = signature.bind(*arguments, **options).arguments
        reads = current() is not None and given.get("error_if_nonfinite", False)
        return (on_the_host if reads else original)(*arguments, **options)

    return clip_


def _constant(original: Callable) -> Callable:
    @functools.wraps(original)
    def make(*arguments, **options):
        recording = current()
        if recording is None:
            return original(*arguments, **options)
        with recording.outside():
            result = original(*arguments, **options)
        recording.remember(result.array)
        return result

    return make


def _seed(original: Callable) -> Callable:
    return lambda: original() if current() is None else Seed(original())


def _read(name: str, original: Callable) -> Callable:
    @functools.wraps(original)
    def read(*arguments, **options):
        if current() is not None:
            raise CaptureError(
                f"capture: expected a step that leaves values in tensors, got {name}(); "
                "return the tensor, and read it after the step"
            )
        return original(*arguments, **options)

    return read


def _copy_over(result, elsewhere) -> None:
    for index, array in elsewhere:
        new = result[index] if type(result) is tuple else result
        if address_of(new) != address_of(array):
            accumulate.copy_into(array, new)
