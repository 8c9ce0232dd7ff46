"""Sums down the columns of a matrix, for a few vector registers' columns at a time: the sums stay in the registers from
the first row to the last. As in `cpu_lines`, matrices and vectors are named by memory and place."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel
from ..cpu_lines import lanes_of, vector_of
from ..cpu_vectors import load, store

_WIDE = 4  # registers side by side


def _column_sums(registers, rectified):
    @intrinsic
    def column_sums(
        typing_context, x, grad, squares, start, pitch, rows, centre, scale, offset, column, sums, products, to
    ):
        """sums[to...], products[to...] = the sums of g and of g d over rows of `pitch` elements, where d is x - centre
        and g is d for `squares`, else grad; of `rectified` sums those rows count where d * scale + offset is above 0.
        """

        def generate(context, builder, signature, arguments):
            x, grad, squares, start, pitch, rows, centre, scale, offset, column, sums, products, to = arguments
            vector = vector_of(context, signature.args[0], 1)
            zero = ir.Constant(vector, None)
            places = [ir.Constant(start.type, r * vector.count) for r in range(registers)]
            lines = (centre, scale, offset) if rectified else (centre,)
            constants = [
                [load(builder, vector, line, builder.add(column, place)) for line in lines] for place in places
            ]
            totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in places]
            for pair in totals:
                for slot in pair:
                    builder.store(zero, slot)
            with cgutils.for_range(builder, rows, intp=start.type) as loop:
                row = builder.add(start, builder.mul(loop.index, pitch))
                for place, (middle, *affine), (total, total_product) in zip(places, constants, totals):
                    there = builder.add(row, place)
                    deviation = builder.fsub(load(builder, vector, x, there), middle)
                    g = builder.select(squares, deviation, load(builder, vector, grad, there))
                    if rectified:
                        scaled = builder.fmul(deviation, affine[0], flags=("contract",))
                        value = builder.fadd(scaled, affine[1], flags=("contract",))
                        g = builder.select(builder.fcmp_ordered(">", value, zero), g, zero)
                    product = builder.fmul(g, deviation, flags=("contract",))
                    builder.store(builder.fadd(builder.load(total), g), total)
                    product = builder.fadd(builder.load(total_product), product, flags=("contract",))
                    builder.store(product, total_product)
            for place, (total, total_product) in zip(places, totals):
                store(builder, builder.load(total), sums, builder.add(to, place))
                store(builder, builder.load(total_product), products, builder.add(to, place))
            return context.get_dummy_value()

        integer = types.intp
        places = integer, integer, integer, centre, scale, offset, integer, sums, products, integer
        return types.void(x, grad, types.boolean, *places), generate

    return column_sums


_wide_sums, _narrow_sums = _column_sums(_WIDE, False), _column_sums(1, False)
_wide_rectified_sums, _narrow_rectified_sums = _column_sums(_WIDE, True), _column_sums(1, True)


@serial_kernel
def column_sums(x, grad, squares, start, columns, rows, centre, sums, products, to):
    """sums[to + c] = the sum of g, products[to + c] = the sum of g d, down `rows` rows of `columns` elements from
    x[start] and grad[start] on, where d is x - centre[c], and g is d for `squares`, else grad."""
    lanes, c = lanes_of(x), 0
    while c + _WIDE * lanes <= columns:
        _wide_sums(x, grad, squares, start + c, columns, rows, centre, centre, centre, c, sums, products, to + c)
        c += _WIDE * lanes
    while c < columns and columns >= lanes:
        c = min(c, columns - lanes)
        _narrow_sums(x, grad, squares, start + c, columns, rows, centre, centre, centre, c, sums, products, to + c)
        c += lanes
    if c < columns:
        for c in range(columns):
            sums[to + c] = products[to + c] = 0
        for r in range(rows):
            for c in range(columns):
                place = start + r * columns + c
                deviation = x[place] - centre[c]
                g = deviation if squares else grad[place]
                sums[to + c] += g
                products[to + c] += g * deviation


@serial_kernel
def rectified_column_sums(x, grad, start, columns, rows, centre, scale, offset, sums, products, to):
    """As `column_sums` of grad, which counts where d * scale[c] + offset[c] is above 0."""
    lanes, c = lanes_of(x), 0
    while c + _WIDE * lanes <= columns:
        _wide_rectified_sums(
            x, grad, False, start + c, columns, rows, centre, scale, offset, c, sums, products, to + c
        )  # fmt: skip
        c += _WIDE * lanes
    while c < columns and columns >= lanes:
        c = min(c, columns - lanes)
        _narrow_rectified_sums(
            x, grad, False, start + c, columns, rows, centre, scale, offset, c, sums, products, to + c
        )  # fmt: skip
        c += lanes
    if c < columns:
        for c in range(columns):
            sums[to + c] = products[to + c] = 0
        for r in range(rows):
            for c in range(columns):
                place = start + r * columns + c
                deviation = x[place] - centre[c]
                if deviation * scale[c] + offset[c] > 0:
                    sums[to + c] += grad[place]
                    products[to + c] += grad[place] * deviation
