"""Kernels as parts of others: what one kernel calls is compiled into it, and machine code is made of the whole alone.

Numba makes machine code of every function that it compiles, also of one that no Python calls, whose optimised form the
callers then take up again. That was a sixth of the time that a network's first step took.
"""

from __future__ import annotations

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.registry import CPUDispatcher


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
        state = self.state
        state.flags.no_compile = state.flags.no_cpython_wrapper = True
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(state)]


class _PartLibrary(JITCodeLibrary):
    def _finalize_final_module(self):
        self._finalized = True
