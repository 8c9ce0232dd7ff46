"""Products of a matrix, as it lies, with a vector or a few: a dense layer's of few samples, a recurrent step's of few
sequences.

Every element of the matrix is used once a vector: packing it would take as long as a few products. Eight rows at a time
pass by, a vector register wide; every sum has its own order, written down here, that no compiler changes.

All arrays are flat. Row r of the matrix is `inner` elements from matrix[start + r * pitch].
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_jit import serial_kernel
from .cpu_product import REGISTER_BYTES
from .cpu_vectors import data_of, everywhere, fold, load, multiply_add, store

_EIGHT = 8  # rows of the matrix at a time: as many sums as keep both multipliers busy


class _Vectors:
    """What both intrinsics need: pointers, and vectors of as many elements as a register holds."""

    def __init__(self, context, builder, signature, arguments, arrays):
        self.builder = builder
        self.data = data_of(context, builder, signature, arguments, *arrays)
        dtype = signature.args[arrays[0]].dtype
        self.lanes = REGISTER_BYTES * 8 // dtype.bitwidth
        self.scalar = context.get_data_type(dtype)
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def at(self, pointer, index):
        return self.builder.gep(pointer, [index])

    def load(self, pointer, index, kind):
        return load(self.builder, kind, pointer, index)

    def store(self, value, pointer, index):
        store(self.builder, value, pointer, index)

    def walk(self, count):
        """(index, type) of whole vectors, then of the elements that are left over."""
        integer = count.type
        lanes, one = (ir.Constant(integer, n) for n in (self.lanes, 1))
        whole = self.builder.mul(self.builder.sdiv(count, lanes), lanes)
        for start, stop, step, kind in (
            (ir.Constant(integer, 0), whole, lanes, self.vector),
            (whole, count, one, self.scalar),
        ):
            with cgutils.for_range_slice(self.builder, start, stop, step, intp=integer) as (index, _):
                yield index, kind


def _dot_rows(rows):
    """A function that multiplies `rows` rows of a matrix with a vector."""

    @intrinsic
    def dot_rows(typing_context, matrix, start, pitch, inner, left, left_start, sums, sums_start):
        """sums[r] += row r . left[left_start : ...]"""

        def generate(context, builder, signature, arguments):
            _, start, pitch, inner, _, left_start, _, sums_start = arguments
            v = _Vectors(context, builder, signature, arguments, (0, 4, 6))
            left, sums = v.at(v.data[1], left_start), v.at(v.data[2], sums_start)
            numbers = [ir.Constant(inner.type, r) for r in range(rows)]
            pointers = [v.at(v.data[0], builder.add(start, builder.mul(number, pitch))) for number in numbers]
            # Stack slots of which LLVM makes registers: sums of whole vectors, and of what is left over.
            wide, narrow = (
                [cgutils.alloca_once_value(builder, ir.Constant(kind, None)) for _ in numbers]
                for kind in (v.vector, v.scalar)
            )
            for index, kind in v.walk(inner):
                factor = v.load(left, index, kind)
                for pointer, slot in zip(pointers, wide if kind is v.vector else narrow):
                    builder.store(multiply_add(builder, v.load(pointer, index, kind), factor, builder.load(slot)), slot)
            for number, a, b in zip(numbers, wide, narrow):
                total = builder.fadd(fold(builder, builder.fadd, builder.load(a)), builder.load(b))
                v.store(builder.fadd(v.load(sums, number, v.scalar), total), sums, number)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(matrix, integer, integer, integer, left, integer, sums, integer), generate

    return dot_rows


def _add_rows(rows):
    """A function that adds `rows` rows of a matrix, each times a number."""

    @intrinsic
    def add_rows(typing_context, matrix, start, pitch, inner, factors, factors_start, result, result_start, add):
        """result = (add: itself +) the sum of row r * factors[r]"""

        def generate(context, builder, signature, arguments):
            _, start, pitch, inner, _, factors_start, _, result_start, add = arguments
            v = _Vectors(context, builder, signature, arguments, (0, 4, 6))
            factors, result = v.at(v.data[1], factors_start), v.at(v.data[2], result_start)
            numbers = [ir.Constant(inner.type, r) for r in range(rows)]
            pointers = [v.at(v.data[0], builder.add(start, builder.mul(number, pitch))) for number in numbers]
            single = [v.load(factors, number, v.scalar) for number in numbers]
            spread = [everywhere(builder, factor, v.lanes) for factor in single]
            for index, kind in v.walk(inner):
                total = cgutils.alloca_once_value(builder, ir.Constant(kind, None))
                with builder.if_then(add):
                    builder.store(v.load(result, index, kind), total)
                value = builder.load(total)
                for pointer, factor in zip(pointers, spread if kind is v.vector else single):
                    value = multiply_add(builder, v.load(pointer, index, kind), factor, value)
                v.store(value, result, index)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(
            matrix, integer, integer, integer, factors, integer, result, integer, types.boolean
        ), generate  # fmt: skip

    return add_rows


_dot_eight, _dot_one = _dot_rows(_EIGHT), _dot_rows(1)
_add_eight, _add_one = _add_rows(_EIGHT), _add_rows(1)


@serial_kernel
def add_products(matrix, start, pitch, rows, inner, left, left_starts, count, sums, sums_start, sums_pitch):
    """sums[sums_start + i * sums_pitch + r] += row r . vector i, for `rows` rows and `count` vectors.

    Args:
        left: vector i is left[left_starts[i] : left_starts[i] + inner].
    """
    together = rows // _EIGHT * _EIGHT
    for row in range(0, together, _EIGHT):
        for i in range(count):
            to = sums_start + i * sums_pitch + row
            _dot_eight(matrix, start + row * pitch, pitch, inner, left, left_starts[i], sums, to)
    for row in range(together, rows):
        for i in range(count):
            to = sums_start + i * sums_pitch + row
            _dot_one(matrix, start + row * pitch, pitch, inner, left, left_starts[i], sums, to)


@serial_kernel
def add_weighted_rows(
    matrix, start, pitch, rows, inner, factors, factors_start, factors_pitch, count, result, result_start,
    result_pitch, add,
):  # fmt: skip
    """result i = (add: itself +) the sum of `rows` rows, each times a factor, for `count` results of `inner` elements.

    Args:
        factors: that of row r in result i is factors[factors_start + i * factors_pitch + r].
        result: result i begins at result[result_start + i * result_pitch].
    """
    together = rows // _EIGHT * _EIGHT
    for row in range(0, together, _EIGHT):
        for i in range(count):
            number, to = factors_start + i * factors_pitch + row, result_start + i * result_pitch
            _add_eight(matrix, start + row * pitch, pitch, inner, factors, number, result, to, add or row > 0)
    for row in range(together, rows):
        for i in range(count):
            number, to = factors_start + i * factors_pitch + row, result_start + i * result_pitch
            _add_one(matrix, start + row * pitch, pitch, inner, factors, number, result, to, add or row > 0)
