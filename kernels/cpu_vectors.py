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


def load(builder, kind, pointer, offset):
    """The vector (or number) of a type that begins `offset` elements after the pointer."""
    place = builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())
    return builder.load(place, align=_itemsize(kind))


def store(builder, value, pointer, offset) -> None:
    """Writes a vector (or number) from `offset` elements after the pointer on."""
    place = builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())
    builder.store(value, place, align=_itemsize(value.type))


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


def load_lanes(builder, vector, pointer, mask, other=0.0):
    """The mask's lanes of the vector at the pointer, a number in the others, whose memory is not touched."""
    place = builder.bitcast(pointer, vector.as_pointer())
    others = ir.Constant(vector, [ir.Constant(vector.element, other)] * vector.count)
    arguments = [place, ir.Constant(_INDEX, _itemsize(vector)), mask, others]
    return _masked(builder, "load", vector, vector, arguments)


def store_lanes(builder, value, pointer, mask) -> None:
    """Writes the mask's lanes of a vector; the memory of the others is not touched."""
    place = builder.bitcast(pointer, value.type.as_pointer())
    arguments = [value, place, ir.Constant(_INDEX, _itemsize(value.type)), mask]
    _masked(builder, "store", value.type, ir.VoidType(), arguments)


def _masked(builder, name, vector, result, arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    letter = "i" if isinstance(vector.element, ir.IntType) else "f"
    name = f"llvm.masked.{name}.v{vector.count}{letter}{8 * _itemsize(vector)}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _itemsize(kind) -> int:
    """Bytes of a number, or of a vector's element: what its address is a multiple of."""
    element = getattr(kind, "element", kind)
    return element.width // 8 if isinstance(element, ir.IntType) else 4 if element == ir.FloatType() else 8
