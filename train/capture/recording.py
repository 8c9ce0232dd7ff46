"""What is written down of a step that shall be replayed: its calls, with the very arrays that they touched.

A step is recorded twice. The first recording measures: which arrays the step makes, and when it lets go of each. From
that follows a plan in which arrays that are never alive together share memory. The second recording takes its arrays
from the plan, so that its calls can be repeated in the same memory. Both must agree in every call, number and array
from outside: what differs from one run to the next would be frozen, and is refused.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...kernels import memory
from ...kernels.device import device_of
from ...layers.tensor import Tensor
from .arrays import address_of, gpu_of, is_array, owner_of, part_of, piece_of, watched

_ALIGNMENT = 64  # bytes, as kernels like it


class CaptureError(RuntimeError):
    """A step that cannot be captured, with the reason."""


class Seed(int):
    """A key for a counter-based generator that the step has drawn: each replay draws its own."""


class Call(NamedTuple):
    """One call of a step.

    Attributes:
        position: how many arrays the step has made before it.
        run: does it again.
        fixed: it is the same launch of a kernel each time, so that a CUDA graph can hold it.
        idle: it gives a GPU nothing to do, so that it may come before a launch that was before it.
        kernels: the calls of CPU kernels, and of functions beside them, that do the same; None if nobody knows.
    """

    position: int
    run: Callable[[], None]
    fixed: bool = False
    idle: bool = False
    kernels: list | None = None


class _Block(NamedTuple):
    """Where an array of the step lies: in which piece of memory."""

    piece: int
    shape: tuple[int, ...]
    dtype: np.dtype
    gpu: int | None


class _Thread(threading.local):
    recording: Recording | None = None


_thread = _Thread()


def current() -> Recording | None:
    """The recording that this thread's next call belongs into; None also inside of a call that is written down."""
    return _thread.recording


class Recording:
    """One run of a step, written down.

    Args:
        inputs: the arrays of the step's arguments.
        first: the measuring recording that this one must agree with; None if this is it.

    Attributes:
        calls: what does again what the step did, in order.
        saved: what forward passes saved for backward passes, by the order of the former.
        tables: the places in `saved` of operations that have integers among their inputs.
        leaves: the tensors that got a gradient.
        places: of these and of all parameters that it reads, (it, its array, its `grad_buffer`) at the first sight.
        supply: where the step's arrays come from; None while measuring.
        scratch: what kernels use as workspaces, by name.
        device: where the step runs; None before its first array.
    """

    def __init__(self, inputs: list, first: Recording | None = None):
        self.calls: list[Call] = []
        self.saved: list = []
        self.tables: set[int] = set()
        self.leaves: dict[int, Tensor] = {}
        self.places: dict[int, tuple] = {}
        self.supply = None if first is None else Supply(first.plan())
        self.scratch: dict[str, np.ndarray] = {} if first is None else first.scratch
        self.device: str | None = None
        self._first = first
        self._facts: list[tuple] = []
        self._outer: list = []  # kept alive, so that no other array can take the place of one
        self._made: dict[int, Any] = {id(owner_of(x)): x for x in inputs}
        self._arguments = set(self._made)
        self._changing: set[int] = set()
        self._early = 0
        self._saved_by: dict[int, int] = {}
        self._strangers: list[list] = []
        self._sizes: list[tuple] = []
        self._deaths: dict[int, int] = {}
        if first is not None:
            self._made |= {id(owner_of(piece)): piece for piece in self.supply.pieces}

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """The calls of this thread within it belong to this recording."""
        before, _thread.recording = _thread.recording, self
        try:
            with memory.supplied_by(self._measure if self.supply is None else self.supply.take):
                yield
        finally:
            _thread.recording = before

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Within it runs a call that is written down as a whole: what it calls itself is part of it."""
        _thread.recording = None
        try:
            yield
        finally:
            _thread.recording = self

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Within it runs what each replay does anew, with arrays of its own."""
        with self.inside(), memory.supplied_by(None):
            yield

    @property
    def position(self) -> int:
        """How many arrays the step has made so far."""
        return len(self._sizes) if self.supply is None else self.supply.position

    def claim(self, name: str, arrays) -> None:
        """Raises CaptureError unless the arrays among `arrays` lie where the step runs."""
        for device in (device_of(x) for x in arrays if is_array(x)):
            self.device = self.device or device
            if device != self.device:
                raise CaptureError(
                    f"capture: expected arrays of one device, got {name} on {device} in a step on {self.device}; "
                    "move them before the step"
                )

    @property
    def on_gpu(self) -> bool:
        """Whether the step runs on a GPU."""
        return self.gpu is not None

    @property
    def gpu(self) -> int | None:
        """The index of the GPU that the step runs on."""
        return None if self.device in (None, "cpu") else int(self.device.removeprefix("cuda:"))

    def add(self, position: int, name: str, arguments, run, fixed=False, idle=False, early=False, kernels=None) -> None:
        """Writes down a call; `arguments` are what both recordings must have alike, in tuples, lists and dicts. An
        early one comes before all that are not."""
        self._facts.append((name, self._fact(arguments)))
        if self.supply is not None:  # the measuring run must not keep alive what the step lets go of
            self.calls.insert(self._early if early else len(self.calls), Call(position, run, fixed, idle, kernels))
            self._early += early

    def meet(self, leaf: Tensor) -> None:
        """Takes note of a tensor that is about to get a gradient."""
        self.leaves[id(leaf)] = leaf
        self.see(leaf)

    def see(self, tensor: Tensor) -> None:
        """Takes note of where a tensor lies that outlives the step."""
        self.places.setdefault(id(tensor), (tensor, tensor.array, tensor.grad_buffer))

    def stands(self) -> bool:
        """Whether all of them still lie there."""
        return all(x.array is array and x.grad_buffer is buffer for x, array, buffer in self.places.values())

    def save(self, saved, changes: bool) -> int:
        """A place for what a forward pass saved, and whether each replay's forward pass saves something else."""
        place = self._saved_by[id(saved)] = len(self.saved)
        self.saved.append(None if self.supply is None else saved)
        if changes:
            self._changing.add(place)
        return place

    def changes(self, place: int) -> bool:
        """Whether each replay saves something else in this place."""
        return place in self._changing

    def place_of(self, saved) -> int:
        """Where `save` put it."""
        place = self._saved_by.get(id(saved))
        if place is None:
            raise CaptureError("capture: expected backward of what the step itself has computed, got an earlier result")
        return place

    def is_argument(self, array) -> bool:
        """Whether the array's memory is that of one of the step's arguments."""
        return id(owner_of(array)) in self._arguments

    def knows(self, array) -> bool:
        """Whether the array's memory is written by the step's calls, or is an argument's."""
        return id(owner_of(array)) in self._made

    def keep(self, outputs) -> list[tuple[int, Any]]:
        """(index, array) of the outputs that each replay makes anew elsewhere, and copies to where they are now."""
        elsewhere = [(i, x) for i, x in enumerate(outputs) if is_array(x) and not self.knows(x)]
        for _, x in elsewhere:
            self.remember(x)
        return elsewhere

    def remember(self, array) -> None:
        """Counts the array's memory among what the step has made."""
        owner = owner_of(array)
        identity = id(owner)
        if self.supply is None and isinstance(owner, np.ndarray):  # CuPy's memory cannot be referred to weakly
            self._made[identity] = weakref.ref(owner, lambda _: self._made.pop(identity, None))
        else:
            self._made[identity] = owner

    def meets_again(self, strangers: list, or_equal: str) -> bool:
        """Whether the first recording met the same arrays at this place: those that outlive the step.

        Args:
            strangers: arrays whose memory the step has not made.
            or_equal: kinds of types of which arrays with equal elements will do.
        """
        self._strangers.append(strangers)
        place = len(self._strangers) - 1
        if self._first is None or place >= len(self._first._strangers):
            return False
        before = self._first._strangers[place]
        return len(before) == len(strangers) and all(
            owner_of(a) is owner_of(b) or (b.dtype.kind in or_equal and np.array_equal(a, b))
            for a, b in zip(before, strangers)
        )

    def check_agreement(self) -> None:
        """Raises CaptureError unless the first recording wrote down the same."""
        before, now = self._first._facts, self._facts
        for a, b in zip(before, now):
            if a != b:
                raise CaptureError(f"capture: expected the same call in each step, got {a}, then {b}")
        if len(before) != len(now):
            raise CaptureError(f"capture: expected as many calls in each step, got {len(before)}, then {len(now)}")
        for a, b in zip(self._first._outer, self._outer):
            if owner_of(a) is not owner_of(b) or address_of(a) != address_of(b):
                raise CaptureError(
                    f"capture: expected arrays that outlive the step, got a new one of {b.dtype} {b.shape}; "
                    "make it before the step, or an argument of it"
                )

    def plan(self) -> list[_Block]:
        """A piece of memory for each array, the same one for arrays of which the first is gone when the other comes."""
        free: list[tuple[int, int, int, int | None]] = []  # (since when, bytes, piece, GPU)
        pieces: list[int] = []
        blocks = []
        for time, (shape, dtype, size, gpu) in enumerate(self._sizes):
            # Not much larger ones: what needs them would have to take new memory.
            fitting = [
                entry for entry in free
                if entry[0] <= time and size <= entry[1] <= 2 * size + _ALIGNMENT and entry[3] == gpu
            ]  # fmt: skip
            if fitting:
                chosen = min(fitting, key=lambda entry: entry[1])
                free.remove(chosen)
                piece = chosen[2]
            else:
                piece = len(pieces)
                pieces.append(size)
            blocks.append(_Block(piece, shape, dtype, gpu))
            if time in self._deaths:
                free.append((self._deaths[time], pieces[piece], piece, gpu))
        return blocks

    def _measure(self, shape, dtype, gpu: int | None = None):
        array, time = watched(shape, dtype, gpu), len(self._sizes)
        self._sizes.append((array.shape, array.dtype, array.nbytes, gpu))
        owner = owner_of(array)
        identity = id(owner)

        def gone(_):
            self._made.pop(identity, None)
            self._deaths[time] = len(self._sizes)

        self._made[identity] = weakref.ref(owner, gone)
        return array

    def _fact(self, x):
        if isinstance(x, (tuple, list)):
            return tuple(self._fact(part) for part in x)
        if isinstance(x, dict):
            return tuple((name, self._fact(part)) for name, part in x.items())
        if isinstance(x, Seed):
            return "a seed"
        if isinstance(x, float):
            return repr(x)  # NaN is like NaN
        if not is_array(x):
            return x
        if not self.knows(x):
            self._outer.append(x)
        return x.dtype.str, x.shape, x.strides


class Supply:
    """The arrays of a step, handed out in the order of the plan, in the same memory for each run.

    Attributes:
        pieces: the memory, as arrays of bytes.
        position: how many have been handed out; setting it goes back, or ahead.
    """

    def __init__(self, blocks: list[_Block]):
        sizes: dict[tuple[int, int | None], int] = {}
        for block in blocks:
            key = block.piece, block.gpu
            sizes[key] = max(_bytes(block), sizes.get(key, 0))
        self.pieces = [piece_of(sizes[key] + _ALIGNMENT, key[1]) for key in sorted(sizes, key=lambda k: k[0])]
        self.position = 0
        self._arrays = [_array_in(self.pieces[block.piece], block) for block in blocks]

    def take(self, shape, dtype, gpu: int | None = None):
        """The next array, which must be what the plan has there."""
        if self.position == len(self._arrays):
            raise CaptureError(f"capture: expected a step of {self.position} arrays, got one more, {dtype} {shape}")
        array = self._arrays[self.position]
        self.position += 1
        if array.dtype != dtype or array.shape not in (shape, (shape,)) or gpu_of(array) != gpu:
            raise CaptureError(
                f"capture: expected the same arrays in each step, got {array.dtype} {array.shape}, then "
                f"{np.dtype(dtype)} {shape}"
            )
        return array


def _bytes(block: _Block) -> int:
    return int(np.prod(block.shape, dtype=np.int64)) * block.dtype.itemsize


def _array_in(piece, block: _Block):
    return part_of(piece, -address_of(piece) % _ALIGNMENT, block.shape, block.dtype)
