"""Spans: what a profile writes down while it records, on a clock that leaves its own bookkeeping out.

Spans of one thread nest: layers in layers, kernels in layers, backward passes in `Tensor.backward`. The time that the
profile itself takes, before a span starts and after it has ended, is added up and taken off all spans around it. So the
times of all spans, less those of the spans within, add up to the time in which the profile was open, exactly: they are
whole nanoseconds.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns as clock

import numpy as np

from ..kernels.device import to_device
from ..kernels.operation import Operation
from ..layers.layer import Layer
from ..layers.tensor import Tensor
from .device_clock import DeviceClock, DeviceSpan
from .holdings import Ledger, is_array

PHASES = ("forward", "backward", "optimizer", "clipping", "data", "other")


@dataclass(eq=False, slots=True)
class Span:
    """A stretch of one thread's time; all times in nanoseconds of `time.perf_counter_ns`.

    Attributes:
        name: the operation, the layer's class, or what was called.
        kind: 'kernel', 'layer', or 'call': backward, an optimizer's step, the making of a batch.
        phase: one of PHASES.
        direction: 'forward' or 'backward' for kernels, else ''.
        layer: path of the layer that it belongs to, None outside layers.
        thread: the thread's number.
        parent: the span around it, or None.
        shapes: (input's name, shape, dtype) of the arrays that went in.
        flops: the operation's declared count, and for a backward pass what `work.py` derives from it; None where there
            is none.
        given: of a backward pass, whether each input got a gradient.
        memory: bytes of the arrays that it made and left behind.
        bookkeeping: time that the profile took for itself within the span.
        inner: time of the spans directly within.
        cause: for a backward pass, the span of the forward pass.
        device: its time on the GPU, None on the CPU.
    """

    name: str
    kind: str
    phase: str
    direction: str
    layer: str | None
    thread: int
    parent: Span | None
    shapes: tuple[tuple[str, tuple[int, ...], str], ...] = ()
    flops: int | None = None
    given: tuple[bool, ...] = ()
    memory: int = 0
    start: int = 0
    end: int = 0
    bookkeeping: int = 0
    inner: int = 0
    cause: Span | None = field(default=None, repr=False)
    device: DeviceSpan | None = None
    outer_layer: str | None = field(default=None, repr=False)

    @property
    def time(self) -> int:
        """Nanoseconds from start to end, without bookkeeping."""
        return self.end - self.start - self.bookkeeping

    @property
    def self_time(self) -> int:
        """`time` without the spans within."""
        return self.time - self.inner

    @property
    def title(self) -> str:
        """The name, and the direction where there is one."""
        return f"{self.name} {self.direction}".rstrip()


class _Thread(threading.local):
    """What is open in one thread: the spans, the layer, the forward pass whose backward runs, the time taken so far."""

    def __init__(self, numbers: Iterator[int]):
        self.open: list[Span] = []
        self.layer: str | None = None
        self.cause: Span | None = None
        self.last_forward: Span | None = None
        self.bookkeeping = 0
        self.number = next(numbers)  # not the system's, which it gives to another when a thread has ended


class Recording:
    """What the hooks write to.

    Attributes:
        active: whether anything is written.
        spans: all that have ended.
        layers: names of layers.
        ledger: of memory, None where it is not asked for.
    """

    def __init__(self, model: Layer | None, memory: bool, nvtx: bool):
        self.active = False
        self.spans: list[Span] = []
        self.layers = LayerNames(model)
        self.ledger = Ledger() if memory else None
        self.devices = DeviceClock()
        self.ranges = _nvtx() if nvtx else None
        self.thread = _Thread(itertools.count())
        self._costs_to_come: list[tuple] = []

    # Of these methods, those that open take the moment at which the hook was entered, those that close the moment at
    # which what it is about had ended: from one to the next call's end is what the profile takes for itself.

    def open(
        self, entered: int, name: str, kind: str, phase: str, layer: str | None, direction: str = "", arrays=()
    ) -> Span:
        """Starts a span within the innermost open one of this thread; `arrays` are (input's name, array)."""
        thread = self.thread
        span = Span(name, kind, phase, direction, layer, thread.number, thread.open[-1] if thread.open else None)
        span.outer_layer, thread.layer = thread.layer, layer
        thread.open.append(span)
        if arrays:
            span.shapes = tuple((key, x.shape, str(x.dtype)) for key, x in arrays)
            if kind == "kernel":
                span.device = self.devices.start(arrays)
        if self.ranges is not None:
            self.ranges.RangePush(f"{layer}: {span.title}" if layer else span.title)
        span.start = clock()
        thread.bookkeeping += span.start - entered
        span.bookkeeping = thread.bookkeeping
        return span

    def open_kernel(self, entered: int, name: str, direction: str, family: str, arrays) -> Span:
        """Starts a span of a kernel.

        Args:
            name, direction: the operation and its pass.
            family: the operation's room; optimizers' kernels are a phase of their own wherever they are called.
            arrays: (input's name, value) of all inputs; those that are no arrays are left out.
        """
        thread = self.thread
        arrays = [(key, value) for key, value in arrays if is_array(value)]
        if self.ledger is not None:
            owned = family == "optimizer"
            for key, value in arrays:
                origin = key if family == "accumulate" else f"{key} of {name}"
                self.ledger.see(value, origin, None if owned else thread.layer, named=owned)
        phase = _phase_of_kernel(name, direction, family, thread.open[-1].phase if thread.open else None)
        return self.open(entered, name, "kernel", phase, thread.layer, direction, arrays)

    def open_layer(self, entered: int, layer: Layer, inputs: tuple) -> Span:
        """Starts a span of a layer's call."""
        thread = self.thread
        arrays = [(f"inputs[{index}]", x.array) for index, x in enumerate(inputs) if isinstance(x, Tensor)]
        around = thread.open[-1].phase if thread.open else None
        phase = around if around in ("backward", "data") else "forward"
        return self.open(entered, type(layer).__name__, "layer", phase, self.layers.path(layer), arrays=arrays)

    def close(self, span: Span, ended: int, made=None, origin: str = "", call: tuple | None = None) -> None:
        """Ends the innermost open span, whether or not what it is about has failed.

        Args:
            made: what holds the arrays that it made, None where it failed or makes none.
            origin: what they are put down to.
            call: (operation, inputs, attributes) of a forward pass that did not fail, whose flops are to be counted.
        """
        thread = self.thread
        span.end = ended
        if self.ranges is not None:
            self.ranges.RangePop()
        if span.device is not None:
            self.devices.end(span.device)
        thread.open.pop()
        thread.layer = span.outer_layer
        span.bookkeeping = thread.bookkeeping - span.bookkeeping
        if span.parent is not None:
            span.parent.inner += span.time
        if self.active:
            self.spans.append(span)
        if self.ledger is not None and made is not None:
            span.memory = self.ledger.see(made, origin, span.layer)
        if call is not None:
            thread.last_forward = span
            self._count(span, *call)
        thread.bookkeeping += clock() - ended

    def _count(self, span: Span, operation: Operation, inputs: tuple, attributes: dict) -> None:
        """Puts down the operation's declared flops: now, or at the end where arrays lie on a GPU, which a count that
        looks at lengths would have to wait for."""
        attributes = {name: value for name, value in attributes.items() if name != "out"}
        if span.device is None:
            span.flops = operation.cost(*inputs, **attributes).flops
        else:
            self._costs_to_come.append((span, operation, tuple(map(_stand_in, inputs)), attributes))

    def finish(self) -> None:
        """Waits for the GPUs and computes what had to wait."""
        from .work import backward_flops_of

        self.active = False
        self.devices.finish()
        for span, operation, inputs, attributes in self._costs_to_come:
            inputs = (to_device(x, "cpu") if is_array(x) else x for x in inputs)
            span.flops = operation.cost(*inputs, **attributes).flops
        self._costs_to_come.clear()
        for span in self.spans:
            if span.cause is not None and span.cause.flops is not None:
                operation = Operation.registry[span.name]
                names = itertools.compress(operation.input_names(len(span.given)), span.given)
                span.flops = backward_flops_of(operation, span.cause.flops, tuple(names))
        self.layers.forget()
        if self.ledger is not None:
            self.ledger.close()


class LayerNames:
    """Paths of layers, as `named_modules` has them.

    Without a model, the first layer called from outside every known one is taken for a model of its own, named for its
    class: `Sequential`, `Sequential.0`, and `Sequential#2` for the next of that class.

    Args:
        model: whose own names are used as they are, as `state_dict` has them; itself it is ''.
    """

    def __init__(self, model: Layer | None):
        self.classes: dict[str, str] = {}
        self._paths: dict[int, str] = {}
        self._roots: list[Layer] = []  # held, so that no id is used twice
        if model is not None:
            self._add(model, "")

    def path(self, layer: Layer) -> str:
        """The layer's path."""
        path = self._paths.get(id(layer))
        if path is None:
            for root in self._roots:  # it may have grown since
                self._add(root, self._paths[id(root)])
            path = self._paths.get(id(layer))
        if path is None:
            kind = type(layer).__name__
            same = sum(self._paths[id(root)].partition("#")[0] == kind for root in self._roots)
            path = self._add(layer, f"{kind}#{same + 1}" if same else kind)
        return path

    def title(self, path: str) -> str:
        """A path and the layer's class."""
        kind = self.classes[path]
        return kind if path == "" else path if path.partition("#")[0] == kind else f"{path}: {kind}"

    def above(self, path: str) -> Iterator[str]:
        """The paths of the layers that hold the one at `path`."""
        while path:
            path = path.rpartition(".")[0]
            if path in self.classes:
                yield path

    def forget(self) -> None:
        """Lets the layers go; the names stay."""
        self._roots.clear()
        self._paths.clear()

    def _add(self, root: Layer, path: str) -> str:
        if not any(known is root for known in self._roots):
            self._roots.append(root)
        for name, layer in root.named_modules(path):
            self._paths.setdefault(id(layer), name)
            self.classes.setdefault(self._paths[id(layer)], type(layer).__name__)
        return path


def _phase_of_kernel(name: str, direction: str, family: str, around: str | None) -> str:
    """The phase of a kernel within a span of the phase `around`."""
    if family == "optimizer":
        return "clipping" if name.startswith("gradient_") else "optimizer"
    if family == "accumulate":
        return around or "other"
    if direction == "backward" or around == "backward":
        return "backward"
    return "data" if around == "data" else "forward"


def _stand_in(x):
    """An array of x's shape and type that holds no memory; x itself if it is no array, or may be lengths."""
    if not is_array(x) or (x.ndim == 1 and x.dtype.kind in "iu"):
        return x
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)


def _nvtx():
    try:
        from cupy.cuda import nvtx
    except ImportError:
        raise ModuleNotFoundError(
            "profile: nvtx=True needs CuPy; `pip install ranvier[cuda13]` (or [cuda12]) brings it"
        ) from None
    if not nvtx.available:
        raise ValueError("profile: expected a CuPy that was built with NVTX where nvtx=True, got one without")
    return nvtx
