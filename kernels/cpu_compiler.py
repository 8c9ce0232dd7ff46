"""What a kernel's source goes through until it is machine code: of Numba's and LLVM's passes, those that it gains by.

Numba's own pipeline also looks for closures, comprehensions and expressions of whole arrays, of which kernels have
none, and has LLVM optimise each function three times: by itself, with what it calls, and that once more. Kernels
compile in five sixths of the time without, and are as fast.
"""

from __future__ import annotations

from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

_UNUSED = {
    untyped_passes.WithLifting,
    untyped_passes.InlineClosureLikes,
    untyped_passes.MakeFunctionToJitFunction,
    untyped_passes.InlineInlinables,
    untyped_passes.LiteralUnroll,
    untyped_passes.LiteralPropagationSubPipelinePass,
    typed_passes.InlineOverloads,
    typed_passes.NopythonRewrites,
    typed_passes.DumpParforDiagnostics,
}


class KernelLibrary(JITCodeLibrary):
    """A kernel's functions, on their way from LLVM's instructions to the processor's."""

    def _optimize_functions(self, module):
        # Before linking, and by all that simplifies: LLVM vectorises some loops only when it meets them simplified.
        module.data_layout = self.codegen._data_layout
        for function in module.functions:
            if not function.is_declaration:
                passes, builder = self.codegen._function_pass_manager(opt=2)
                passes.run(function, builder)

    def _optimize_final_module(self):
        passes, builder = self.codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class KernelCompiler(CompilerBase):
    """Compiles a kernel that runs on the calling thread."""

    def define_pipelines(self):
        """The passes, from bytecode to machine code."""
        return [kernel_passes(self.state)]


def kernel_passes(state, *, library=KernelLibrary):
    """Numba's passes without the unused ones, which put a kernel into the library that its caller names in `state`, or
    a new one."""
    if state.library is None:
        state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
    passes = DefaultPassBuilder.define_nopython_pipeline(state)
    passes.passes = [(each, reason) for each, reason in passes.passes if each not in _UNUSED]
    return passes
