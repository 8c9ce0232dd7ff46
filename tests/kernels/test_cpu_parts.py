"""What becomes of kernels that are parts of others."""

from numba import types
from numba.core.compiler_lock import global_compiler_lock

from ranvier.kernels.cpu_jit import serial_kernel
from ranvier.kernels.cpu_math import wide_vectors

LINE = types.CPointer(types.float32)


@serial_kernel
def plain_part(x, start, count, by):
    for i in range(count):
        x[start + i] += by


@serial_kernel
def wide_part(x, start, count, by):
    wide_vectors()
    for i in range(count):
        x[start + i] += by


@global_compiler_lock
def compiled(part, *arguments):
    """LLVM's instructions for a part, by the steps in which the compilation of a caller asks for them."""
    part.get_call_template(arguments, {})
    (form,) = part._part.overloads.values()
    return str(form.library._get_module_for_linking())


def test_a_part_is_compiled_once_whatever_constants_it_is_called_with():
    compiled(plain_part, LINE, types.literal(0), types.literal(8), types.float32)
    compiled(plain_part, LINE, types.literal(16), types.intp, types.float32)


def test_only_a_part_with_vectors_of_its_own_is_optimised_before_its_caller():
    arguments = LINE, types.intp, types.intp, types.float32
    assert " x float>" in compiled(wide_part, *arguments)
    assert " x float>" not in compiled(plain_part, *arguments)
