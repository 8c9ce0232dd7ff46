"""GPU kernels on arrays of more than 2^31 elements, in Triton's interpreter, on a machine that has not the memory.

The arrays are addresses: no page of theirs is there before it is touched. Of each launch only the first program and the
last one run, of each loop only the first and the last rounds. Meanwhile an integer of 32 bits that wraps is an error,
and so are one of 64 bits that is cut off, an access outside the launch's arrays and a grid that no GPU takes. What the
kernels compute means nothing then; where they read and write does.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import mmap
import sys
from collections import defaultdict
from unittest import mock

import interpreter
import numpy as np
import triton.language as tl
from interpreter import machine
from triton.runtime.jit import _normalize_ty

from ranvier.kernels import check, embedding, launch, memory
from ranvier.kernels.embedding import gpu as embedding_gpu
from ranvier.kernels.launch_numba import NumbaKernel
from ranvier.kernels.loss import common as losses
from ranvier.kernels.loss import ctc
from ranvier.profiling.launches import gpu_passes, has_gpu_kernels, zero_inputs

ELEMENTS = 2**31
_PAGES_ON_DEMAND = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
_SMALL_PAGES = 15  # MADV_NOHUGEPAGE
_LARGEST = 2**40  # bytes of one array: more has no GPU either
_SEEN = 1000  # elements at an array's end that hold the sample's values, and that checks on the host read
_LONG = 2**24  # elements that the host would take its time to read
_FORMS, _FAR_FORMS = 20, 6  # of one kernel, and of those that access what is far
_LAUNCHES = 30  # of one pass: recurrent layers have some for every step
_OPERATIONS = 20_000  # of one program
# These make tables on the host that are as long as an axis, or read indices there.
_SHORT_AXES = {"adaptive_avg_pool", "adaptive_max_pool", "interpolate", "ctc_loss"}
_CUT = {np.add, np.subtract, np.multiply, np.left_shift}


class Fault(Exception):
    """What a kernel must not do."""


class _Enough(Exception):
    """A pass has made as many launches, or would read as much on the host, as is looked at."""


def virtual(shape, dtype, gpu=None) -> np.ndarray:
    """An array of zeros whose memory is there when it is touched."""
    shape, dtype = tuple(map(int, np.atleast_1d(shape))) if shape != () else (), np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size > _LARGEST:
        raise MemoryError(f"{size} bytes")
    if size < 2**20:
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=_PAGES_ON_DEMAND)
    pages.madvise(_SMALL_PAGES)
    return np.frombuffer(pages, dtype).reshape(shape)


def grown(inputs, longest=_LARGEST):
    """The inputs with one of their sizes, wherever an array has it, so large that an array passes 2^31 elements: one
    list of inputs for each size that need not be longer than `longest`. Indices that named the last place name the new
    last one."""
    arrays = [x for x in inputs if isinstance(x, np.ndarray)]
    if any(x.size == 0 for x in arrays):
        return
    for size in sorted({size for x in arrays for size in x.shape}):
        axes = [(x.shape.count(size), x.size) for x in arrays if size in x.shape]
        large = min(int((ELEMENTS * 1.01 * size**count / whole) ** (1 / count)) + 7 for count, whole in axes)
        if large > longest:
            continue
        with contextlib.suppress(MemoryError):  # the other arrays would be larger than any memory
            yield [_with_size(x, size, large) if isinstance(x, np.ndarray) else x for x in inputs]


def _with_size(x, size, large):
    shape = tuple(large if n == size else n for n in x.shape)
    if shape == x.shape:
        return np.where(x == size - 1, large - 1, x).astype(x.dtype) if x.dtype.kind == "i" else x
    result = virtual(shape, x.dtype)
    end = result.reshape(-1)[-_SEEN:]
    end[...] = np.resize(x, end.shape)
    return result


class Walk:
    """Launches of GPU kernels on NumPy arrays, of which the ends run.

    Attributes:
        faults: what each kernel did wrong, by its module and name.
        far: in how many forms each kernel accessed elements beyond an array's first 2^31.
    """

    def __init__(self):
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.far: dict[str, int] = defaultdict(int)
        self._forms: dict[str, set] = defaultdict(set)
        self._case, self._launches = "", 0

    def operation(self, operation) -> None:
        """Walks all samples of an operation, each with each of its sizes grown, forward and backward."""
        if not has_gpu_kernels(operation):
            return
        longest = 2**20 if operation.name in _SHORT_AXES else _LARGEST
        dtype = np.dtype("float16" if "float16" in operation.dtypes else operation.dtypes[0])
        for sample in operation.samples:
            if sample.large and not operation.family.endswith("recurrent"):
                continue
            for inputs in grown(zero_inputs(sample, dtype), longest):
                self._case = f"{operation.name}, {[getattr(x, 'shape', x) for x in inputs]}"
                self.passes(operation, sample, inputs, dtype)

    def passes(self, operation, sample, inputs, dtype) -> None:
        needs = tuple(isinstance(x, np.ndarray) and x.dtype == dtype for x in inputs)
        # What it refuses, it refuses with a reason; what has no room, or goes on and on, is not looked at further.
        with self.walking(), contextlib.suppress(ValueError, IndexError, MemoryError, _Enough):
            for run in gpu_passes(operation, sample, inputs, needs):
                self._launches = 0
                run()

    @contextlib.contextmanager
    def walking(self):
        """Launches come here, memory is virtual, and of long arrays checks on the host read the ends or nothing."""
        first_outside, in_range, extent = losses._first_outside, check._in_range, check._extent
        offsets_checked, labels_checked = embedding._check_offsets, ctc._check_labels

        def check_offsets(indices, offsets, *rest):
            if offsets.size <= _LONG:
                offsets_checked(indices, offsets, *rest)

        def check_labels(targets, *rest):
            if targets.size > _LONG:
                raise _Enough  # what follows reads them one and all, too
            labels_checked(targets, *rest)

        patches = [
            (launch, "interpreter", self),
            # Outputs are their own gradients: two storages in one.
            (interpreter._Storage, "copy_", lambda self, other: None),
            (losses, "_first_outside", lambda x, *limits: first_outside(x.reshape(-1)[-_SEEN:], *limits)),
            (check, "_in_range", lambda: lambda x, *limits: in_range()(x[-_SEEN:].copy(), *limits)),
            (check, "_extent", lambda x, ignored: extent(x.reshape(-1)[-_SEEN:], ignored)),
            (embedding_gpu, "count_classes", lambda x, n: embedding.count_classes(x.reshape(-1)[-_SEEN:], n)),
            (embedding, "_check_offsets", check_offsets),
            (ctc, "_check_labels", check_labels),
        ]
        with contextlib.ExitStack() as stack:
            for target, name, value in patches:
                stack.enter_context(mock.patch.object(target, name, value))
            stack.enter_context(memory.supplied_by(virtual))
            yield

    def __call__(self, kernel, grid, arguments, constants) -> None:
        arrays = [x for x in arguments if isinstance(x, np.ndarray)]
        if all(x.size < 5000 for x in arrays) and not constants.get("launch_cooperative_grid"):
            return interpreter.interpret(kernel, grid, arguments, constants)
        self._launches += 1
        if self._launches > _LAUNCHES:
            raise _Enough
        if isinstance(kernel, NumbaKernel) or all(x.size < ELEMENTS for x in arrays):
            return None
        name, form = name_of(kernel), _form(arguments, constants)
        if form in self._forms[name] or len(self._forms[name]) >= _FORMS or self.far.get(name, 0) >= _FAR_FORMS:
            return None
        self._forms[name].add(form)
        try:
            self.far[name] += _run_ends(kernel, grid, arguments, constants)
        except (Fault, machine.InterpreterError, AssertionError, ValueError, TypeError) as error:
            self.faults[name].append(f"{self._case}: {error.__cause__ or error}")


def name_of(kernel) -> str:
    """Module and name."""
    return f"{kernel.fn.__module__.removeprefix('ranvier.kernels.')}.{kernel.__name__}"


def _form(arguments, constants) -> tuple:
    """What decides how offsets are computed: which numbers and arrays are large, and constants that choose a branch."""
    sizes = []
    for x in arguments:
        if isinstance(x, np.ndarray):
            sizes.append(x.size >= ELEMENTS)
        else:
            sizes.append(math.ceil(math.log2(abs(x) + 1) / 16) if isinstance(x, int) else x is None)
    chosen = [(name, x) for name, x in constants.items() if isinstance(x, (bool, tl.dtype)) or x is None]
    ranks = [(name, x) for name, x in constants.items() if type(x) is int and x < 5]
    return tuple(sizes), tuple(sorted(chosen + ranks, key=str))


def _run_ends(kernel, grid, arguments, constants) -> bool:
    """Runs a launch's first and last program; says whether they accessed elements beyond the first 2^31."""
    if grid[0] >= 2**31 or max(grid[1:], default=1) > 65535:
        raise Fault(f"grid {grid}: expected at most (2^31 - 1, 65535, 65535) programs")
    options = {name: value for name, value in constants.items() if name in kernel.arg_names}
    places = dict.fromkeys([(0, 0, 0), tuple(size - 1 for size in (*grid, 1, 1)[:3])])
    with _watched([x for x in arguments if isinstance(x, np.ndarray)]) as watch:
        function = kernel.rewrite()

        @functools.wraps(function)
        def ends(**values):
            machine.interpreter_builder.set_grid_dim(*(*grid, 1, 1)[:3])
            for place in places:
                machine.interpreter_builder.set_grid_idx(*place)
                watch.operations = 0
                function(**values)

        ends.__signature__ = inspect.signature(function)
        machine.GridExecutor(ends, kernel.arg_names, (1,))(*_typed(kernel, arguments), **options)
    return watch.far


def _typed(kernel, arguments) -> list:
    """Arguments with the types that a launch gives them: numbers of 64 bits where annotated so, or needed."""
    annotations = {name: _normalize_ty(x) for name, x in inspect.get_annotations(kernel.fn).items()}
    names = [name for name in kernel.arg_names if annotations.get(name) != "constexpr"]
    return [
        _integer(x, annotations.get(name) == "i64") if type(x) is int and annotations.get(name) in (None, "", "i64")
        else interpreter._argument(x)
        for name, x in zip(names, arguments, strict=True)
    ]  # fmt: skip


def _integer(x: int, wide: bool):
    dtype = tl.int64 if wide or not -(2**31) <= x < 2**31 else tl.int32
    return tl.tensor(machine.TensorHandle(np.array([x], np.int64 if dtype == tl.int64 else np.int32), dtype), dtype)


def _ends_of_range(*bounds, **options):
    """`range` and `tl.range` in a kernel: its first and last two rounds; numbers of 64 bits where a bound has them."""
    whole = range(*map(int, bounds))
    rounds = whole if len(whole) < 5 else (*whole[:2], *whole[-2:])
    wide = any(isinstance(x, tl.tensor) and x.dtype == tl.int64 for x in bounds)
    return [_integer(x, True) for x in rounds] if wide else rounds


class _Watch:
    """Looks at what the interpreter does: integers that wrap, accesses outside the arrays."""

    def __init__(self, arrays):
        self.arrays = [(*np.lib.array_utils.byte_bounds(x), x.itemsize) for x in arrays]
        self.operations, self.far = 0, False

    def computed(self, left, right, operation, result) -> None:
        self.operations += 1
        if self.operations > _OPERATIONS:
            raise Fault(f"a program of more than {_OPERATIONS} operations, with but four rounds of each loop")
        if left.dtype.scalar == tl.int32 and operation in _CUT:
            exact = operation(left.data.astype(np.int64), right.data.astype(np.int64))
            if not np.array_equal(exact, result.data):
                raise Fault(f"{operation.__name__} in 32 bits wraps: {left.data.max()} and {right.data.max()}")

    def converted(self, source, result) -> None:
        if (source.dtype.scalar, result.dtype.scalar) == (tl.int64, tl.int32) and (source.data != result.data).any():
            raise Fault(f"{source.data.max()} is cut to 32 bits")

    def accessed(self, pointers, mask) -> None:
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].astype(np.int64)
        if addresses.size == 0:
            return
        inside = np.zeros(addresses.shape, bool)
        for start, stop, itemsize in self.arrays:
            here = (addresses >= start) & (addresses < stop)
            inside |= here
            self.far |= bool((addresses[here] - start >= ELEMENTS * itemsize).any())
        if not inside.all():
            raise Fault("an access outside the arrays")


@contextlib.contextmanager
def _watched(arrays):
    """Within it the interpreter tells a `_Watch` what it does, and kernels' loops have few rounds."""
    watch, builder, patched = _Watch(arrays), machine.InterpreterBuilder, []

    def patch(target, name, value):
        patched.append((target, name, vars(target).get(name)))
        setattr(target, name, value)

    binary, cast, load, store = (
        getattr(builder, name) for name in ("binary_op", "cast_impl", "create_masked_load", "create_masked_store")
    )

    def watched_binary(self, left, right, operation):
        result = binary(self, left, right, operation)
        watch.computed(left, right, operation, result)
        return result

    def watched_cast(self, source, target):
        result = cast(self, source, target)
        watch.converted(source, result)
        return result

    def watched_load(self, pointers, mask, *rest, **named):
        watch.accessed(pointers, mask)
        return load(self, pointers, mask, *rest, **named)

    def watched_store(self, pointers, value, mask, *rest, **named):
        watch.accessed(pointers, mask)
        return store(self, pointers, value, mask, *rest, **named)

    patch(builder, "binary_op", watched_binary)
    patch(builder, "cast_impl", watched_cast)
    patch(builder, "create_masked_load", watched_load)
    patch(builder, "create_masked_store", watched_store)
    scope_of = machine._patch_lang

    def patch_language(function):
        scope = scope_of(function)
        scope.set_attr(tl, "range", _ends_of_range)
        return scope

    patch(machine, "_patch_lang", patch_language)
    for module in kernel_modules():
        patch(module, "range", _ends_of_range)
        if hasattr(module, "wait_for"):
            patch(module, "wait_for", lambda counter, arrivals: None)  # the others do not run
    try:
        with np.errstate(all="ignore"):
            yield watch
    finally:
        for target, name, before in patched:
            delattr(target, name) if before is None else setattr(target, name, before)


def kernel_modules() -> list:
    """The library's modules that have GPU kernels, of those imported."""
    return [module for name, module in sys.modules.items() if name.startswith("ranvier.kernels.") and "gpu" in name]


def triton_kernels() -> dict[str, object]:
    """All Triton kernels that can be launched, by module and name."""
    return {
        name_of(value): value
        for module in kernel_modules()
        for name, value in vars(module).items()
        if name.endswith("_kernel") and hasattr(value, "fn") and value.fn.__module__ == module.__name__
    }
