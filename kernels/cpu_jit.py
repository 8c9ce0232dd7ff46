"""How every CPU kernel is compiled: one decorator, so that one place decides.

`kernel` compiles for NumPy arrays with Numba, shares the `prange` loop among threads (`cpu_threads.py`), and keeps the
machine code on disk beside the source (`__pycache__`, or `NUMBA_CACHE_DIR`), so that a second process starts at once
(`cpu_cache.py`).
"""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from types import FunctionType

from numba import njit, types
from numba.core.registry import CPUDispatcher

from .cpu_cache import KernelCache
from .cpu_compiler import KernelCompiler
from .cpu_parts import Part, PartCompiler
from .cpu_threads import EntryCompiler, thread_count

# Multiply-adds may be contracted; NaN and infinities keep their meaning, and sums their order: a loop `total += x[i]`
# does not vectorise, `cpu_sums.py` has those that do. Were LLVM free to reorder them, their bits would depend on how
# often it had optimised a loop, and that is once in the process that compiles a kernel and more often in later ones.
_OPTIONS = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "no_cfunc_wrapper": True}


class Kernel(CPUDispatcher):
    """A compiled kernel, as Python calls it: a class of its own, so that who writes down calls (`cpu_replay.py`) can
    come in between, and nobody else pays for it."""


class SerialKernel(Kernel):
    """One that runs on the calling thread, and that other kernels may call as a part of theirs."""

    @cached_property
    def _part(self) -> Part:
        part = njit(**_OPTIONS, pipeline_class=PartCompiler)(self.py_func)
        part.__class__ = Part
        return part

    def get_call_template(self, args, kws):
        """What the compilation of a caller asks: the part's signatures, with one for such arguments."""
        # Numba would compile a part anew for each constant it is called with, to the same code.
        kws = {name: types.unliteral(kind) for name, kind in kws.items()}
        return self._part.get_call_template(tuple(types.unliteral(kind) for kind in args), kws)

    def get_overload(self, sig):
        """What stands for the part's form of that signature in the caller."""
        return self._part.get_overload(sig)


# Below so many multiply-adds a second thread takes longer to wake up than it would save.
_WORTH_A_THREAD = 4_000_000


def kernel(function):
    """Compiles a CPU kernel that ends in a `prange` loop, to run on all of Numba's threads; `kernel.serial` is the same
    code on the calling thread, for arrays so small that waking the others would take longer."""
    # Under a name of its own, because the cache on disk does not tell the two apart.
    name = f"{function.__name__}_serial"
    serial = FunctionType(function.__code__, function.__globals__, name, closure=function.__closure__)
    serial.__qualname__, serial.__module__ = f"{function.__qualname__}_serial", function.__module__
    compiled = _compile(function, Kernel, pipeline_class=EntryCompiler)
    compiled.serial = _compile(serial, Kernel, pipeline_class=KernelCompiler)
    return compiled


def serial_kernel(function):
    """Compiles a CPU kernel that runs on the calling thread, for recursions and for parts of other kernels."""
    return _compile(function, SerialKernel, pipeline_class=KernelCompiler)


def _compile(function, kind, **options):
    if function.__closure__:
        function.__qualname__ += f"_{_digest([cell.cell_contents for cell in function.__closure__])}"
    compiled = njit(**_OPTIONS, **options)(function)
    compiled._cache = KernelCache(function)
    compiled.__class__ = kind
    return compiled


def _digest(values) -> str:
    """Letters for the values that a kernel was made with in another function. Its machine code has a name, and if it
    had that of the same function's other kernels, which are compiled in any order and by several processes, then code
    from the cache could be taken for another's."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(values)).encode()).hexdigest()[:8]


def threads_for(multiply_adds: int) -> int:
    """How many threads a product of so many multiply-adds is worth: all that Numba may use, or one."""
    return thread_count() if multiply_adds > _WORTH_A_THREAD else 1
