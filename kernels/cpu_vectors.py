"""What intrinsics over LLVM's vectors share: vectors from memory and back, one value in all lanes, lanes folded to one.

An intrinsic builds LLVM's instructions itself where Numba's loops would not become the vector code that is meant.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils

_INDEX = ir.IntType(32)
CONTRACT = ("contract",)  # a product and a sum may become one multiply-add


def data_of(context, builder, signature, arguments, *indices):
    """Pointers to the first elements of the array arguments at `indices`."""
    return [context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in indices]


def load(builder, vector, pointer, offset, itemsize: int):
    """The vector that begins `offset` elements after the pointer."""
    return builder.load(builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer()), align=itemsize)


def store(builder, value, pointer, offset, itemsize: int) -> None:
    """Writes a vector from `offset` elements after the pointer on."""
    builder.store(value, builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer()), align=itemsize)


def everywhere(builder, value, lanes: int):
    """A vector with the value in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INDEX, lanes), None))


def multiply_add(builder, a, b, c):
    """a b + c"""
    return builder.fadd(builder.fmul(a, b, flags=CONTRACT), c, flags=CONTRACT)


def fold(builder, combine: Callable, vector):
    """One element of all lanes: combine(half, other half) until one is left."""
    while vector.type.count > 1:
        half, undefined = vector.type.count // 2, ir.Constant(vector.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(
                vector, undefined, ir.Constant(ir.VectorType(_INDEX, half), list(range(first, first + half)))
            )
            for first in (0, half)
        )
        vector = combine(low, high)
    return builder.extract_element(vector, ir.Constant(_INDEX, 0))


def load_lanes(builder, vector, pointer, mask, itemsize: int):
    """The mask's lanes of the vector at the pointer, zeros in the others, whose memory is not touched."""
    place = builder.bitcast(pointer, vector.as_pointer())
    arguments = [place, ir.Constant(_INDEX, itemsize), mask, ir.Constant(vector, None)]
    return _masked(builder, "load", vector, arguments, vector.count, itemsize)


def store_lanes(builder, value, pointer, mask, itemsize: int) -> None:
    """Writes the mask's lanes of a vector; the memory of the others is not touched."""
    place = builder.bitcast(pointer, value.type.as_pointer())
    arguments = [value, place, ir.Constant(_INDEX, itemsize), mask]
    _masked(builder, "store", ir.VoidType(), arguments, value.type.count, itemsize)


def _masked(builder, name, result, arguments, lanes, itemsize):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    name = f"llvm.masked.{name}.v{lanes}f{8 * itemsize}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
