"""Calls of CPU kernels that were written down, made again by one native call, without Python in between.

A kernel's machine code takes its arguments one number each: an array is its address, sizes and strides. What was
written down is kept in this form, as rows of 64-bit slots. There are

    the adapter   a function that loads a row of slots as the arguments of a kernel's machine code and calls it: one for
                  all kernels whose arguments have the same machine types
    the player    goes through a list of (adapter, machine code, row) and stops at the first call that fails
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import struct
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir as llvm
from numba import types
from numba.core import cgutils
from numba.core.callconv import RETCODE_NONE, RETCODE_OK
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from .cpu_jit import Kernel, serial_kernel

_BYTE, _STATUS, _SLOT = llvm.IntType(8), llvm.IntType(32), llvm.IntType(64)
_POINTER, _SLOTS = _BYTE.as_pointer(), _SLOT.as_pointer()
_ADAPTER = llvm.FunctionType(_STATUS, [_POINTER, _SLOTS])
_numbers = itertools.count()
_GOLDEN, _FIRST_FACTOR, _SECOND_FACTOR = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class KernelCall(NamedTuple):
    """A call of a kernel that was written down.

    Attributes:
        refuse: raises what the call stands for, where the kernel has failed; None: calling the kernel does.
    """

    kernel: Kernel
    arguments: tuple
    refuse: Callable[[], None] | None = None


class _Thread(threading.local):
    note: Callable | None = None


_thread = _Thread()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within it `noted_by` works, and calls of kernels take a little longer on all threads. One thread at a time."""
    Kernel.__call__ = _noted
    try:
        yield
    finally:
        del Kernel.__call__


@contextlib.contextmanager
def noted_by(note: Callable) -> Iterator[None]:
    """Within it, inside of `listening`, this thread's calls of kernels are `note(kernel, arguments)`, which makes them
    with `call` and returns what that does."""
    _thread.note = note
    try:
        yield
    finally:
        _thread.note = None


def call(kernel: Kernel, arguments: tuple):
    """Calls a kernel as Python does while nobody listens."""
    return super(Kernel, kernel).__call__(*arguments)


def _noted(kernel, *arguments):
    return call(kernel, arguments) if _thread.note is None else _thread.note(kernel, arguments)


def checksum(array) -> int:
    """A number that changes with the bytes of a C-contiguous array."""
    return call(_checksum, (array.reshape(-1).view(np.uint8 if array.nbytes % 8 else np.uint64),))


@serial_kernel
def _checksum(words):
    """The sum of the words, each mixed with its place: every bit of both reaches every bit of what is summed, as in
    the finalizer of SplitMix64 (Steele, Lea and Flood, 2014). Without that, highest bits, signs, would cancel."""
    total = np.uint64(0)
    for i in range(words.size):
        word = np.uint64(words[i]) ^ (np.uint64(i + 1) * _GOLDEN)
        word = (word ^ (word >> np.uint64(30))) * _FIRST_FACTOR
        word = (word ^ (word >> np.uint64(27))) * _SECOND_FACTOR
        total += word ^ (word >> np.uint64(31))
    return total


def can_replay(kernel: Kernel, arguments: tuple) -> bool:
    """Whether `Program` takes this call: it returns nothing; arguments are arrays, numbers and tuples of them."""
    form = _form_of(kernel, arguments)
    return form.signature.return_type == types.none and all(map(_has_slots, form.signature.args))


def _form_of(kernel, arguments):
    """What the kernel is compiled to for arguments of these types."""
    kinds = tuple(map(kernel.typeof_pyval, arguments))
    if kinds not in kernel.overloads:
        kernel.compile(kinds)
    return kernel.overloads[kinds]


def _has_slots(kind) -> bool:
    if isinstance(kind, types.BaseTuple):
        return all(map(_has_slots, kind))
    return isinstance(kind, (types.Array, types.Integer, types.Boolean)) or kind in (types.float32, types.float64)


class Program:
    """Calls of kernels, one after another, in the same memory each time.

    Args:
        calls: such as `can_replay` says. Their arrays are kept.
    """

    def __init__(self, calls: list[KernelCall]):
        self.calls = calls
        self._forms = [_form_of(each.kernel, each.arguments) for each in calls]  # they own the machine code
        self._rows = [_row(form.signature.args, each.arguments) for form, each in zip(self._forms, calls)]
        self._table = np.array(
            [
                (_adapter(form.fndesc.restype, form.fndesc.argtypes), _address_of(form), row.ctypes.data)
                for form, row in zip(self._forms, self._rows)
            ],
            np.uint64,
        ).reshape(-1, 3)
        self._play, self._start, self._count = _player(), self._table.ctypes.data, len(calls)
        self._numbers: dict[int, tuple] = {}  # of calls that have other ones than at first

    def change_numbers(self, index: int, numbers: tuple[bool | float, ...]) -> None:
        """From now on, a call's last arguments are these: flags as bool, and float64, as they were at first."""
        row = self._rows[index]
        struct.pack_into(_layout(*map(type, numbers)), row, row.nbytes - 8 * len(numbers), *numbers)
        self._numbers[index] = numbers

    def __call__(self) -> None:
        """Makes the calls.

        Raises:
            What a kernel raises; the calls after it are not made.
        """
        done = self._play(self._start, self._count)
        while done < self._count:
            # The failed call again, through Python, which knows how to say what is wrong.
            kernel, arguments, refuse = self.calls[done]
            if refuse is not None:
                refuse()
            numbers = self._numbers.get(done, ())
            call(kernel, (*arguments[: len(arguments) - len(numbers)], *numbers))
            done += 1
            done += self._play(self._start + done * self._table.strides[0], self._count - done)


@cache
def _layout(*kinds: type) -> str:
    """Numbers as slots, for `struct`."""
    return "".join("q" if kind is bool else "d" for kind in kinds)


def _row(kinds, values) -> np.ndarray:
    slots = itertools.chain.from_iterable(map(_slots_of, kinds, values))
    return np.array([slot & 0xFFFF_FFFF_FFFF_FFFF for slot in slots], np.uint64)


def _slots_of(kind, value) -> list[int]:
    """An argument as machine code takes it, each number as an integer of the same bits."""
    if isinstance(kind, types.Array):
        # The first two say who counts references to it: nobody, the program keeps it alive.
        return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    if isinstance(kind, types.BaseTuple):
        return list(itertools.chain.from_iterable(map(_slots_of, kind, value)))
    if kind == types.float32:
        return [struct.unpack("I", struct.pack("f", value))[0]]
    if kind == types.float64:
        return [struct.unpack("Q", struct.pack("d", value))[0]]
    return [int(value)]


def _address_of(form) -> int:
    return form.library.get_pointer_to_function(form.fndesc.llvm_func_name)


def _adapter(result, kinds) -> int:
    function_type = cpu_target.target_context.call_conv.get_function_type(result, kinds)
    address, _ = _adapter_of(str(function_type), function_type)
    return address


class _Compiled(NamedTuple):
    address: int
    library: object  # owns the machine code


_adapters: dict[str, _Compiled] = {}


def _adapter_of(name: str, function_type) -> _Compiled:
    """status adapter(machine code, row): one for each type of function, known by its text."""
    if name in _adapters:
        return _adapters[name]

    def fill(builder):
        code, row = builder.function.args
        result, failure, *kinds = function_type.args
        results = [cgutils.alloca_once(builder, kind.pointee) for kind in (result, failure)]
        arguments = [_loaded(builder, row, index, kind) for index, kind in enumerate(kinds)]
        builder.ret(builder.call(builder.bitcast(code, function_type.as_pointer()), [*results, *arguments]))

    return _adapters.setdefault(name, _compile(_ADAPTER, fill))


def _loaded(builder, row, index: int, kind):
    slot = builder.load(cgutils.gep_inbounds(builder, row, index))
    if isinstance(kind, llvm.PointerType):
        return builder.inttoptr(slot, kind)
    if isinstance(kind, llvm.DoubleType):
        return builder.bitcast(slot, kind)
    if isinstance(kind, llvm.FloatType):
        return builder.bitcast(builder.trunc(slot, llvm.IntType(32)), kind)
    return slot if kind.width == _SLOT.width else builder.trunc(slot, kind)


@cache
def _player() -> Callable[[int, int], int]:
    """play(address of a table of (adapter, machine code, row), its length) -> how many calls went well."""

    def fill(builder):
        table, count = builder.function.args
        with cgutils.for_range(builder, count, intp=_SLOT) as loop:
            first = builder.mul(loop.index, _SLOT(3))
            adapter, code, row = (
                builder.load(cgutils.gep_inbounds(builder, table, builder.add(first, _SLOT(i)))) for i in range(3)
            )
            adapter = builder.inttoptr(adapter, _ADAPTER.as_pointer())
            status = builder.call(adapter, [builder.inttoptr(code, _POINTER), builder.inttoptr(row, _SLOTS)])
            good = [builder.icmp_signed("==", status, each) for each in (RETCODE_OK, RETCODE_NONE)]
            with cgutils.if_unlikely(builder, builder.not_(builder.or_(*good))):
                builder.ret(loop.index)
        builder.ret(count)

    compiled = _compile(llvm.FunctionType(_SLOT, [_SLOTS, _SLOT]), fill)
    # With the interpreter's lock held, as kernels expect that are called from Python.
    play = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(compiled.address)
    play.library = compiled.library
    return play


@global_compiler_lock
def _compile(function_type, fill) -> _Compiled:
    """The machine code of a function whose instructions `fill(builder)` writes."""
    name = f"ranvier_replay_{next(_numbers)}"
    library = cpu_target.target_context.codegen().create_library(name)
    module = library.create_ir_module(name)
    fill(llvm.IRBuilder(llvm.Function(module, function_type, name).append_basic_block()))
    library.add_ir_module(module)
    library.finalize()
    return _Compiled(library.get_pointer_to_function(name), library)
