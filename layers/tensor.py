"""Tensor and tape: first order, define-by-run. The tape knows arrays and callables; it imports no operation.

Every differentiable function hands its result to `record`, which leaves one node an operation: how to go backward, what
the forward pass saved, and where each input's gradient goes. `Tensor.backward` walks the nodes from the newest to the
oldest, and each frees what it saved once it has run.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable

import numpy as np
from numpy import ndarray

from ..kernels import accumulate, device
from ..kernels.check import FLOATS, refuse_value
from ..kernels.destinations import offering
from .overwritten import Overwritten, place_of, reads


class _State(threading.local):
    recording = True


_state = _State()
_order = itertools.count(0, -1)  # falling, so that a heap yields the newest node first: consumers before producers
_FREED = object()
_OUR_FAMILIES = accumulate.__package__ + "."
_WORTH_A_PLACE = 1 << 16  # bytes from which on a gradient is written where it is wanted, and not copied there
_overwritten = Overwritten()


class Node:
    """One recorded operation.

    Attributes:
        edges: where the gradient of each input goes: None, a leaf, or (node, index of the node's output).
        needs: for each input whether it gets one.
        outputs: how many outputs the operation has.
        overwrites: the saved array that its backward writes a gradient over, None for nearly all.
    """

    __slots__ = ("backward", "edges", "name", "needs", "order", "outputs", "overwrites", "saved")

    def __init__(self, name: str, backward: Callable, saved, edges: list, needs: tuple[bool, ...], outputs: int):
        self.name = name
        self.backward = backward
        self.saved = saved
        self.edges = edges
        self.needs = needs
        self.outputs = outputs
        self.overwrites = None
        self.order = next(_order)


class Tensor:
    """An array and its place on the tape.

    Args:
        array: NumPy array (CPU) or CuPy array (GPU); it is held, not copied.
        requires_grad: whether `backward` shall compute a gradient for it.

    Attributes:
        array: the values.
        grad: the gradient of the last `backward`, a Tensor of the same shape and dtype, or None.
        requires_grad: whether operations on this tensor are recorded.
    """

    __slots__ = ("__weakref__", "_source", "array", "grad", "grad_buffer", "requires_grad")
    __array_priority__ = 1000  # so that `array * tensor` asks the tensor first

    def __init__(self, array, requires_grad: bool = False):
        if type(array) is not ndarray and type(array).__module__.partition(".")[0] != "cupy":
            raise TypeError(
                f"Tensor: expected a NumPy or CuPy array, got {type(array).__qualname__}; rv.tensor() converts"
            )
        if requires_grad and array.dtype not in FLOATS:
            raise TypeError(f"Tensor: expected a floating-point array where requires_grad is True, got {array.dtype}")
        self.array = array
        self.requires_grad = requires_grad
        self.grad = None
        self.grad_buffer = None  # where an optimizer wants the gradient: a view of its flat buffer
        self._source = None  # (node, index of the node's output) for what a recorded operation made

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def device(self) -> str:
        """'cpu' or 'cuda:<index>'."""
        return device.device_of(self.array)

    @property
    def is_leaf(self) -> bool:
        """True for tensors that no recorded operation made: parameters, data."""
        return self._source is None

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array: shared memory on the CPU, a copy from a GPU."""
        return device.to_device(self.array, "cpu")

    def item(self) -> float | int | bool:
        """The value of a tensor of one element as a Python number."""
        if self.array.size != 1:
            raise ValueError(f"item: expected a tensor of one element, got shape {self.shape}; tolist() gives all")
        return self.array.item()

    def detach(self) -> Tensor:
        """The same array, off the tape."""
        return Tensor(self.array)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets `requires_grad` of a leaf and returns it."""
        if not self.is_leaf:
            raise RuntimeError(
                "requires_grad_: expected a leaf tensor, got the result of a recorded operation; detach() it"
            )
        if requires_grad and self.array.dtype not in FLOATS:
            raise TypeError(f"requires_grad_: expected a floating-point tensor, got {self.array.dtype}")
        self.requires_grad = requires_grad
        return self

    def backward(self, grad=None, retain_graph: bool = False) -> None:
        """Adds d(self)/d(leaf), weighted with `grad`, to the `grad` of every leaf that requires one.

        Args:
            grad: array or tensor of this tensor's shape and dtype; may be left out for a tensor of one element.
            retain_graph: keep what the operations saved, so that backward can run again.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: expected a tensor that requires a gradient; no input of its operations did, or they ran "
                "under no_grad()"
            )
        if grad is None:
            if self.array.size != 1:
                raise ValueError(
                    f"backward: expected grad for a tensor of shape {self.shape}; only one element needs none"
                )
            grad = _ones_like(self.array)
        else:
            grad = grad.array if isinstance(grad, Tensor) else grad
            if grad.shape != self.shape or grad.dtype != self.dtype:
                raise ValueError(
                    f"backward: expected grad of shape {self.shape} and type {self.dtype}, "
                    f"got shape {grad.shape} and type {grad.dtype}"
                )
            if device.device_of(grad) != self.device:
                raise TypeError(f"backward: expected grad on {self.device}, got one on {device.device_of(grad)}")
        _run_backward(self, grad, retain_graph)

    def __len__(self) -> int:
        if self.array.ndim == 0:
            raise TypeError("len: expected a tensor of at least one axis, got a scalar")
        return len(self.array)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.array.size != 1:
            raise ValueError(f"bool: expected a tensor of one element, got shape {self.shape}; any() or all() decide")
        return bool(self.array)

    def __format__(self, specification: str) -> str:
        return format(self.item(), specification) if specification else str(self)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if type(self.array) is not np.ndarray:
            raise TypeError("expected a tensor on the CPU, got one on a GPU; .numpy() copies it over")
        return np.array(self.array, dtype, copy=copy)

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="tensor(", threshold=200)
        extra = "" if self.device == "cpu" else f", device={self.device!r}"
        extra += ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({values}, dtype={self.dtype}{extra})"

    def __getattr__(self, name):
        """What to do instead, where a name is PyTorch's and not ours."""
        if name == "data":
            hint = "; .detach() is the tensor off the tape, .array its values"
        elif name.endswith("_") and not name.startswith("_"):
            hint = "; no operation changes its input: x = x + 1, or under no_grad() `parameter += 1`"
        else:
            hint = ""
        raise AttributeError(f"Tensor has no attribute {name!r}{hint}")

    __hash__ = object.__hash__  # == compares values (tensor_methods.py); sets and dicts go by identity


class Parameter(Tensor):
    """A leaf that a layer owns and an optimizer changes.

    Args:
        data: array or tensor with the first values.
        requires_grad: False freezes it.
    """

    __slots__ = ()

    def __init__(self, data, requires_grad: bool = True):
        super().__init__(data.array if isinstance(data, Tensor) else data, requires_grad)


def record(name: str, backward: Callable, saved, inputs: tuple, output):
    """Wraps an operation's output array(s) in tensors, with a node on the tape if an input requires a gradient.

    Args:
        name: what errors and profiles call the node.
        backward: `backward(saved, grad_output, needs) -> one gradient per input`.
        inputs: the operation's inputs; those that are tensors can get a gradient.
        output: one array, or a tuple of them.
    """
    _, edges, needs = _taken_apart(inputs)
    return _recorded(name, backward, saved, edges, needs, output)


def apply(operation, *inputs, **attributes):
    """Runs a kernel operation on tensors (or arrays, None, numbers) and records it."""
    arrays, edges, needs = _taken_apart(inputs)
    output, saved = operation.forward(*arrays, **attributes)
    return _recorded(operation.name, operation.backward, saved, edges, needs, output)


def apply_in_place(operation, input, *others, **attributes):
    """As `apply`, of an operation with an attribute `inplace`: backward writes the gradient of `input` over its array.

    Where no gradient is asked of input, nothing is written.

    Raises:
        ValueError: input is a leaf, is not C-contiguous, shares memory with another input, is computed in another type
            than it has, or the operation that it comes from reads it in its own backward.
    """
    if not (isinstance(input, Tensor) and input.requires_grad and _state.recording):
        return apply(operation, input, *others, **attributes)
    name, expected, array = operation.name, "for inplace=True", input.array
    if input._source is None:
        refuse_value(name, "input", f"{expected} as the result of an operation", "a leaf, whose values are its own")
    if not array.flags.c_contiguous:
        refuse_value(name, "input", f"{expected} as a C-contiguous array", f"strides {array.strides}")
    if type(array) is ndarray and array.itemsize == 2:
        refuse_value(
            name, "input", f"{expected} of float32 or float64 on the CPU", f"{array.dtype}, computed in float32"
        )
    place = place_of(array)
    if reads([getattr(x, "array", x) for x in others], place):
        refuse_value(name, "input", f"{expected} in memory of its own", "memory of another input")
    producer = input._source[0]
    while True:
        leaves = [edge.array for edge in producer.edges if isinstance(edge, Tensor)]
        if reads((producer.saved, leaves), place):
            refuse_value(name, "input", f"{expected} that its backward does not read", f"a result of {producer.name}")
        # Through views to what wrote the memory.
        if len(producer.edges) != 1 or type(producer.edges[0]) is not tuple:
            break
        producer = producer.edges[0][0]
    output = apply(operation, input, *others, inplace=True, **attributes)
    output._source[0].overwrites = array
    return output


def _taken_apart(inputs: tuple) -> tuple[list, list, list[bool]]:
    """What the kernel gets, where each gradient goes as `Node.edges` has it, and whether there is one."""
    arrays, edges, needs = [], [], []
    for x in inputs:
        if isinstance(x, Tensor):
            arrays.append(x.array)
            if x.requires_grad:
                # Not x itself for results: the node must not keep an array alive that no backward needs.
                edges.append(x._source or x)
                needs.append(True)
                continue
        else:
            arrays.append(x)
        edges.append(None)
        needs.append(False)
    return arrays, edges, needs


def _recorded(name: str, backward: Callable, saved, edges: list, needs: list[bool], output):
    """Tensors of an operation's output, with a node on the tape if an input requires a gradient."""
    if True in needs and _state.recording:
        outputs = len(output) if type(output) is tuple else 1
        node = Node(name, backward, saved, edges, tuple(needs), outputs)
    else:
        node = None
    if type(output) is tuple:
        return tuple([_wrap(array, node, index) for index, array in enumerate(output)])
    return _wrap(output, node, 0)


@contextlib.contextmanager
def _recording(value: bool):
    before, _state.recording = _state.recording, value
    try:
        yield
    finally:
        _state.recording = before


def no_grad():
    """Context manager (and decorator): operations inside are not recorded."""
    return _recording(False)


def enable_grad():
    """Context manager (and decorator): operations inside are recorded, also within `no_grad()`."""
    return _recording(True)


def is_grad_enabled() -> bool:
    """Whether operations are recorded here."""
    return _state.recording


def _wrap(array, node: Node | None, index: int) -> Tensor:
    """The tensor of an operation's output: what `Tensor(array)` makes, with its place on the tape."""
    tensor = Tensor(array)
    if node is not None and array.dtype in FLOATS:
        tensor.requires_grad = True
        tensor._source = node, index
    return tensor


def _run_backward(root: Tensor, grad, retain_graph: bool) -> None:
    if root._source is None:
        _accumulate(root, grad)
        return
    newest, index = root._source
    pending: dict[Node, list] = {newest: [None] * newest.outputs}
    pending[newest][index] = grad
    heap = [(newest.order, newest)]
    while heap:
        _, node = heapq.heappop(heap)
        grads = pending.pop(node)
        if node.saved is _FREED:
            raise RuntimeError(
                f"backward: {node.name} has run backward before and freed what it saved; "
                "run the forward pass again, or call backward(retain_graph=True) the first time"
            )
        if _overwritten.places and _overwritten.is_read_by(node.saved, node.order):
            raise RuntimeError(
                f"backward: {node.name} has saved values that an operation with inplace=True has written its gradient "
                "over since; leave inplace out"
            )
        if node.overwrites is not None:
            _overwritten.add(node.overwrites, next(_order))
        grad = grads[0] if node.outputs == 1 else tuple(grads)
        places = _destinations(node, grad)
        if places is None:
            results = node.backward(node.saved, grad, node.needs)
        else:
            results = offering(places, node.backward, node.saved, grad, node.needs)
        if not retain_graph:
            node.saved, node.overwrites = _FREED, None
        for edge, result in zip(node.edges, results):
            if edge is None or result is None:
                continue
            if type(edge) is tuple:
                producer, index = edge
                slots = pending.get(producer)
                if slots is None:
                    slots = pending[producer] = [None] * producer.outputs
                    heapq.heappush(heap, (producer.order, producer))
                slots[index] = result if slots[index] is None else accumulate.add(slots[index], result)
            else:
                _accumulate(edge, result)


def _destinations(node: Node, grad) -> list | None:
    """For each input the buffer in which its gradient is wanted, if that is large and nothing is there yet, or None;
    None for all where there is none."""
    places = None
    for index, edge in enumerate(node.edges):
        if edge is None or type(edge) is tuple or edge.grad is not None:
            continue
        buffer = edge.grad_buffer
        if type(buffer) is not ndarray or buffer.nbytes < _WORTH_A_PLACE:
            continue
        # Others' passes may be put together from ours, which would ask for the inputs of their own.
        if not getattr(getattr(node.backward, "__self__", None), "family", "").startswith(_OUR_FAMILIES):
            return None
        # A leaf's gradient of two inputs is their sum, and what the pass is still to read is not written over.
        if sum(other is edge for other in node.edges) > 1 or reads((node.saved, grad), place_of(buffer)):
            continue
        places = places or [None] * len(node.edges)
        places[index] = buffer
    return places


def _accumulate(leaf: Tensor, grad) -> None:
    """Adds to a leaf's gradient. What backward functions return may be shared or a view: a leaf owns its copy."""
    buffer = leaf.grad_buffer
    if leaf.grad is None:
        if buffer is None:
            buffer = accumulate.empty_like(leaf.array)
        if grad is not buffer:
            accumulate.copy_into(buffer, grad)
        leaf.grad = Tensor(buffer)
    elif leaf.grad.array is buffer:
        accumulate.add_into(buffer, grad)
    else:
        leaf.grad = Tensor(accumulate.add(leaf.grad.array, grad))


def _ones_like(array):
    ones = accumulate.empty_like(array)
    accumulate.fill(ones, 1)
    return ones
