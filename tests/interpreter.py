"""Runs Triton kernels on NumPy arrays in Triton's interpreter, and Numba-CUDA kernels in Numba's simulator: the same
source that a GPU runs.

TRITON_INTERPRET=1 must be set before Triton is imported, so tests that use this run in a process of their own
(`make test` starts it). `install()` makes `ranvier.kernels.launch` hand its launches here.

What the interpreter of Triton 3.6 to 3.9 lacks is mended from outside: bfloat16 arithmetic (it takes the bits for
integers), `range` over a kernel's argument, bool arguments; and more than half of its time, which went into putting its
functions in the language's place over and over, and into results that nobody looked at. What it cannot see stays
unproved here: tensor-core rounding, races, alignment. Programs that wait for one another, which are launched
cooperatively, take turns (`Turns`). The simulator's threads do wait at barriers, one block after the other, and an
index out of an array raises there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import os
import random
import threading

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter as machine

from ranvier.kernels import launch
from ranvier.kernels.launch_numba import NumbaKernel

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when numba.cuda is imported, which the first of its kernels does
_ACCESSES = ("create_masked_load", "create_masked_store", "create_atomic_rmw", "create_atomic_cas")
_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])


class _Storage:
    """The memory behind an array; the interpreter copies results back into it."""

    def __init__(self, array):
        self.array = array

    def data_ptr(self):
        return self.array.ctypes.data

    def cpu(self):
        return self

    def copy_(self, other):
        assert other is self or other.array is self.array, "the kernel wrote into another array than it was given"


class _Argument:
    """What the interpreter asks of a tensor, answered by a NumPy array."""

    def __init__(self, array):
        self.array, self.storage = array, _Storage(array) if array is not None else None
        self.dtype = getattr(array, "dtype", None)

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return self.storage

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    @property
    def shape(self):
        return self.array.shape

    def stride(self):
        return tuple(stride // self.array.itemsize for stride in self.array.strides)

    def element_size(self):
        return self.array.itemsize

    def new_empty(self, *_shape, **_options):
        return _Argument(None)

    def set_(self, storage, _offset, _size, _stride):
        self.array, self.dtype, self.storage = storage.array, storage.array.dtype, storage


def interpret(kernel, grid, arguments, constants) -> None:
    """A launch: what `ranvier.kernels.launch.interpreter` is set to."""
    if isinstance(kernel, NumbaKernel):
        return _simulate(kernel, grid, arguments, **constants)
    options = {name: value for name, value in constants.items() if name in kernel.arg_names}
    arguments = [_argument(value) for value in arguments]
    if constants.get("launch_cooperative_grid"):
        machine.GridExecutor(Turns(kernel.rewrite(), grid), kernel.arg_names, (1,))(*arguments, **options)
    else:
        kernel[grid](*arguments, **options)


class Turns:
    """All programs of a grid as one function for the interpreter: threads of which one runs at a time.

    A program may lose its turn at each access to memory, by chance (`seed`), and always at an atomic one: it may wait
    for another there. What is stored is seen by all at once. So this shows a wait that is missing or for a wrong count,
    and a buffer that is written while another program still reads it; not an order of memory that is too weak.

    Raises:
        RuntimeError: nothing but atomic accesses for so long that the programs must be waiting for one another.
    """

    seed = 0
    chance = 0.2  # of losing the turn at an access that is not atomic
    patience = 100  # atomic accesses a program

    def __init__(self, function, grid):
        functools.update_wrapper(self, function)
        self.__signature__, self.__globals__ = inspect.signature(function), function.__globals__
        self._function, self._grid = function, (*grid, 1, 1)[:3]

    def __call__(self, **arguments):
        self._random, self._in_vain, self._errors = random.Random(self.seed), 0, []
        machine.interpreter_builder.set_grid_dim(*self._grid)
        places = list(np.ndindex(*self._grid))
        self._begins = {place: threading.Semaphore(0) for place in places}
        self._over = threading.Semaphore(0)

        def work(place):
            self._begins[place].acquire()
            try:
                machine.interpreter_builder.set_grid_idx(*place)
                self._function(**arguments)
            except BaseException as error:
                self._errors.append(error)
            del self._begins[place]
            self._next().release()

        threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in places]
        for thread in threads:
            thread.start()
        with self._watched():
            self._next().release()
            self._over.acquire()
        if self._errors:
            raise self._errors[0]

    def _next(self) -> threading.Semaphore:
        """Of the program whose turn it is now; of the caller when all have ended."""
        return self._begins[self._random.choice(list(self._begins))] if self._begins else self._over

    def _access(self, atomic: bool) -> None:
        """The running program has accessed memory: another one's turn, perhaps."""
        self._in_vain = self._in_vain + 1 if atomic else 0
        if self._errors or self._in_vain > self.patience * math.prod(self._grid):
            raise RuntimeError("programs wait for one another" if not self._errors else "another program has failed")
        if atomic or self._random.random() < self.chance:
            place = machine.interpreter_builder.grid_idx
            own, following = self._begins[place], self._next()
            if following is not own:
                following.release()
                own.acquire()
                machine.interpreter_builder.set_grid_idx(*place)

    @contextlib.contextmanager
    def _watched(self):
        """Within the block the interpreter's accesses to memory are told to `_access`."""
        builder = machine.InterpreterBuilder
        accesses = {name: name.startswith("create_atomic") for name in _ACCESSES}
        before = {name: getattr(builder, name) for name in accesses}

        def telling(original, atomic):
            def access(*arguments):
                result = original(*arguments)
                self._access(atomic)
                return result

            return access

        for name, atomic in accesses.items():
            setattr(builder, name, telling(before[name], atomic))
        try:
            yield
        finally:
            for name, original in before.items():
                setattr(builder, name, original)


def _simulate(kernel, grid, arguments, num_warps: int, shared_bytes: int = 0) -> None:
    """A launch of a Numba-CUDA kernel, whose arrays have one axis each."""
    from numba import cuda  # the simulator: see NUMBA_ENABLE_CUDASIM above

    for argument in arguments:
        assert not isinstance(argument, np.ndarray) or (argument.ndim == 1 and argument.flags.c_contiguous)
    _mend_simulator()
    cuda.jit(kernel.function)[grid, 32 * num_warps, 0, shared_bytes](*arguments)


def install() -> None:
    """Mends the interpreter once and sends the library's launches to it."""
    if launch.interpreter is None:
        _mend_patches()
        _mend_types()
        _mend_overflow()
        _mend_bfloat16()
        _mend_range()
        _mend_reductions()
        launch.interpreter = interpret


def _mend_patches() -> None:
    """The interpreter puts its functions in the place of the language's at each launch, and whenever one function calls
    another, which took a third of its time. Here it does so once for each module with kernels: nothing in this process
    compiles, so they may stay."""
    original, scopes = machine._patch_lang, {}

    def mended(function):
        module = function.__globals__["__name__"]
        if module not in scopes:
            scopes[module] = type(original(function))
        return scopes[module]()  # one that has nothing to restore

    machine._patch_lang = mended


def _mend_types() -> None:
    """The interpreter makes a table of NumPy's types whenever it asks for one."""
    original = machine._get_np_dtype
    known = {}

    def mended(kind):
        scalar = kind.scalar
        if scalar.name not in known:
            known[scalar.name] = original(scalar)
        return known[scalar.name]

    machine._get_np_dtype = mended


def _mend_overflow() -> None:
    """The interpreter works out whether sums, differences and products of integers overflow, in five operations on
    tensors each that took a fifth of its time, and then looks at the result only where a kernel is made for debugging.
    Lanes that are masked may overflow; `vast.py` looks at the others."""
    builder = machine.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _argument(value):
    if isinstance(value, np.ndarray):
        return _Argument(value)
    return int(value) if isinstance(value, bool) and _VERSION < (3, 8) else value


def _is_bfloat16(handle) -> bool:
    return handle.dtype.scalar == tl.bfloat16 and handle.data.dtype == np.uint16


def _to_float(handle):
    """A handle's values; bfloat16's bits are the upper half of a float32's."""
    return (handle.data.astype(np.uint32) << 16).view(np.float32) if _is_bfloat16(handle) else handle.data


def _to_bits(values) -> np.ndarray:
    """float32 values rounded to bfloat16 (to nearest, ties to even), as bits."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _mend_bfloat16() -> None:
    builder, handle_of = machine.InterpreterBuilder, machine.TensorHandle

    def mend_arithmetic(name: str, operands: int) -> None:
        original = getattr(builder, name)

        def mended(self, *arguments):
            handles, operation = arguments[:operands], arguments[operands]
            if not any(_is_bfloat16(handle) for handle in handles):
                return original(self, *arguments)
            with np.errstate(all="ignore"):
                result = operation(*[_to_float(handle) for handle in handles])
            if result.dtype == np.float32:
                return handle_of(_to_bits(result), tl.bfloat16)
            return handle_of(result, tl.int1 if result.dtype == np.bool_ else handles[-1].dtype.scalar)

        setattr(builder, name, mended)

    for name, operands in (("unary_op", 1), ("binary_op", 2), ("ternary_op", 3)):
        mend_arithmetic(name, operands)

    original_dot, original_cast = builder.create_dot, builder.cast_impl
    original_conversion = builder.create_fp_to_fp

    def dot(self, a, b, total, *rest):
        if _is_bfloat16(a) or _is_bfloat16(b):
            a, b = handle_of(_to_float(a), tl.float32), handle_of(_to_float(b), tl.float32)
        return original_dot(self, a, b, total, *rest)

    def cast(self, source, target):
        before, after = source.dtype.scalar, target.scalar
        if before == tl.bfloat16 and after != tl.bfloat16:
            single = handle_of(_to_float(source), tl.float32)
            return single if after == tl.float32 else original_cast(self, single, target)
        if after == tl.bfloat16 and before != tl.bfloat16:
            return handle_of(_to_bits(source.data.astype(np.float32)), tl.bfloat16)
        return original_cast(self, source, target)

    def conversion(self, source, target, rounding):
        if tl.bfloat16 in (source.dtype.scalar, target.scalar):
            return cast(self, source, target)
        return original_conversion(self, source, target, rounding)

    builder.create_dot, builder.cast_impl, builder.create_fp_to_fp = dot, cast, conversion
    if not hasattr(builder, "get_bf16"):
        builder.get_bf16 = lambda self, value: handle_of(_to_bits(np.array([value], np.float32)), tl.bfloat16)


def _mend_range() -> None:
    original = machine._patch_lang_tensor

    def mended(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    machine._patch_lang_tensor = mended


def _mend_reductions() -> None:
    """Reductions and scans with a function of their own go element by element in the interpreter: here by slices."""

    def combine(self, before, after, dtypes):
        tensors = [self.to_tensor(x, dtype) for x, dtype in zip((*before, *after), (*dtypes, *dtypes))]
        result = self.combine_fn.fn(*tensors)
        return [part.handle.data for part in (result if isinstance(result, tuple) else (result,))]

    def reduce(self, arguments):
        kept_axis = self.axis
        arguments, axis = self.unravel(arguments, self.axis)
        dtypes = [argument.dtype for argument in arguments]
        parts = [np.moveaxis(argument.handle.data, axis, 0) for argument in arguments]
        while len(parts[0]) > 1:  # a power of two
            parts = combine(self, [x[0::2] for x in parts], [x[1::2] for x in parts], dtypes)
        results = [np.expand_dims(x[0], axis) if self.keep_dims and kept_axis is not None else x[0] for x in parts]
        return [self.to_tensor(x, dtype) for x, dtype in zip(results, dtypes)]

    def scan(self, arguments):
        dtypes = [argument.dtype for argument in arguments]
        parts = [np.moveaxis(argument.handle.data, self.axis, 0) for argument in arguments]
        step = 1
        while step < len(parts[0]):
            # Whole parts, because blocks must be of a power of two; the first `step` elements have nothing before them.
            later = combine(self, [np.roll(x, step, 0) for x in parts], parts, dtypes)
            parts = [np.concatenate([x[:step], y[step:]]) for x, y in zip(parts, later)]
            step *= 2
        return [self.to_tensor(np.moveaxis(x, 0, self.axis), dtype) for x, dtype in zip(parts, dtypes)]

    machine.ReduceOps.generic_reduce, machine.ScanOps.generic_scan = reduce, scan


@functools.cache
def _mend_simulator() -> None:
    """Numba's simulator asks its threads in turn whether they wait, which takes the time that they need to run. Here
    they wake each other; one that does not come to a barrier as the others do is an error."""
    from numba.cuda.simulator import kernel as simulator

    def run(self, grid_point, *arguments):
        barrier = threading.Barrier(math.prod(self._block_dim), timeout=60)

        def work():
            try:
                self._f(*arguments)
            except BaseException:
                barrier.abort()
                raise

        places = np.ndindex(*self._block_dim)
        threads = [simulator.BlockThread(work, self, grid_point, place, self._debug) for place in places]
        for thread in threads:
            thread.syncthreads = barrier.wait
            thread.start()
        for thread in threads:
            thread.join()
        errors = [thread.exception for thread in threads if thread.exception is not None]
        # Those that waited in vain say so too; the reason is what another one says.
        for kind, trace in sorted(errors, key=lambda error: type(error[0]) is threading.BrokenBarrierError):
            raise kind.with_traceback(trace)

    simulator.BlockManager.run = run
