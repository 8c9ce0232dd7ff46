"""How optimizer kernels on GPUs read and write elements, and which arrays they write to."""

import triton
import triton.language as tl

from ..check import refuse_type, refuse_value
from ..launch import empty

BLOCK = 1024  # elements of each array that a program reads before it writes them


@triton.jit
def load_elements(array, offset, inside):
    """Elements in the type that is computed in."""
    value = tl.load(array + offset, mask=inside, other=0.0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value


@triton.jit
def store_elements(array, offset, inside, value):
    tl.store(array + offset, value.to(array.dtype.element_ty), mask=inside)


@triton.jit
def as_type(number, like):
    """A hyper-parameter in the type that is computed in."""
    return tl.full((), number, like.dtype)


def targets_for(operation, arrays, out):
    """The arrays to write to: `out`, if it can hold what `arrays` become, or new ones."""
    if out is None:
        return [empty(array) for array in arrays]
    targets = list(out) if isinstance(out, tuple) else [out]
    if len(targets) != len(arrays):
        refuse_value(operation, "out", f"as {len(arrays)} arrays", len(targets))
    for target, array in zip(targets, arrays):
        if type(target) is not type(array) or target.dtype != array.dtype:
            refuse_type(operation, "out", f"as CuPy arrays of type {array.dtype}", getattr(target, "dtype", target))
        if target.shape != array.shape or not target.flags.c_contiguous:
            refuse_value(operation, "out", f"as C-contiguous arrays of shape {array.shape}", f"shape {target.shape}")
    return targets
