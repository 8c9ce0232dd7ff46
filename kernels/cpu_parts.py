"""Kernels as parts of others: what one kernel calls is compiled into it, and machine code is made of the whole alone.

Numba makes machine code of every function that it compiles, also of one that no Python calls, whose optimised form the
callers then take up again. That was a sixth of the time that a network's first step took.
"""

from __future__ import annotations

from numba.core.compiler import CompilerBase
from numba.core.registry import CPUDispatcher

from .cpu_compiler import KernelLibrary, kernel_passes


class Part(CPUDispatcher):
    """What a kernel's compilation finds in the place of another kernel that it calls."""

    def add_overload(self, compiled):
        """As Numba's, but for Python, which cannot call it: the name stands for the address that there is not."""
        name = compiled.fndesc.mangled_name
        self.targetctx.insert_user_function(name, compiled.fndesc, [compiled.library])
        self.overloads[tuple(compiled.signature.args)] = compiled._replace(entry_point=name)


class PartCompiler(CompilerBase):
    """Compiles a part as far as callers need it."""

    def define_pipelines(self):
        """Numba's own passes, which add the function to a library that is never loaded."""
        self.state.flags.no_compile = self.state.flags.no_cpython_wrapper = True
        return [kernel_passes(self.state, library=_PartLibrary)]


class _PartLibrary(KernelLibrary):
    def _optimize_final_module(self):
        """Is left to the library of the caller, where a part would lose its own wish for `wide_vectors`, though."""
        attributes = (each for function in self._final_module.functions for each in function.attributes)
        if any(b"prefer-vector-width" in each for each in attributes):
            super()._optimize_final_module()

    def _finalize_final_module(self):
        self._finalized = True
