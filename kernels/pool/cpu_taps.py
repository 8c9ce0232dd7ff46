"""What a max pool asks of the lines under its windows, in vector registers: the largest of several lines element by
element, and a byte that says which line it came from. As in `cpu_lines`, lines are named by memory and place."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel
from ..cpu_lines import lanes_of, vector_of
from ..cpu_vectors import everywhere, load, store


def _largest(parts):
    @intrinsic
    def largest(typing_context, lines, offsets, count, place, lowest, first_codes, y, codes, to):
        """y[to + lane] = the largest of lines[offsets[t] + place + lane] over t < count, codes[to + lane] = its t.

        Of equal ones the first, of NaNs the last; lowest + first_codes[place + lane] where all are -inf.
        """

        def generate(context, builder, signature, arguments):
            lines, offsets, count, place, lowest, first_codes, y, codes, to = arguments
            vector, integer = vector_of(context, signature.args[0], parts), count.type
            numbers_vector, bytes_vector = (ir.VectorType(ir.IntType(bits), vector.count) for bits in (32, 8))

            def number(t):
                return everywhere(builder, builder.trunc(t, ir.IntType(32)), numbers_vector.count)

            nothing = ir.Constant(vector, [ir.Constant(vector.element, float("-inf"))] * vector.count)
            best = cgutils.alloca_once_value(builder, nothing)
            first = builder.bitcast(builder.gep(first_codes, [place]), bytes_vector.as_pointer())
            first = builder.zext(builder.load(first, align=1), numbers_vector)
            winner = cgutils.alloca_once_value(builder, builder.add(number(lowest), first))
            with cgutils.for_range(builder, count, intp=integer) as loop:
                offset = builder.load(builder.gep(offsets, [loop.index]))
                value = load(builder, vector, lines, builder.add(offset, place))
                before = builder.load(best)
                better = builder.or_(
                    builder.fcmp_ordered(">", value, before), builder.fcmp_unordered("uno", value, value)
                )
                builder.store(builder.select(better, value, before), best)
                builder.store(builder.select(better, number(loop.index), builder.load(winner)), winner)
            store(builder, builder.load(best), y, to)
            pointer = builder.bitcast(builder.gep(codes, [to]), bytes_vector.as_pointer())
            builder.store(builder.trunc(builder.load(winner), bytes_vector), pointer, align=1)
            return context.get_dummy_value()

        integer = types.intp
        signature = types.void(lines, offsets, integer, integer, integer, first_codes, y, codes, integer)
        return signature, generate

    return largest


_largest_vector, _largest_half, _largest_quarter = (_largest(parts) for parts in (1, 2, 4))


@serial_kernel
def largest_line(lines, offsets, count, lowest, first_codes, y, codes, to, length):
    """For i < length, y[to + i] = the largest of lines[offsets[t] + i] over t < count, and codes[to + i] = its t.

    The first of equal ones wins, and of NaNs, which beat all numbers, the last. Where there is nothing but -inf, the
    code is lowest + first_codes[i].
    """
    lanes = lanes_of(lines)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _largest_vector(lines, offsets, count, i, lowest, first_codes, y, codes, to + i)
        if length % lanes:
            last = length - lanes
            _largest_vector(lines, offsets, count, last, lowest, first_codes, y, codes, to + last)
    elif length >= lanes // 2:
        last = length - lanes // 2
        _largest_half(lines, offsets, count, 0, lowest, first_codes, y, codes, to)
        _largest_half(lines, offsets, count, last, lowest, first_codes, y, codes, to + last)
    elif length >= lanes // 4:
        last = length - lanes // 4
        _largest_quarter(lines, offsets, count, 0, lowest, first_codes, y, codes, to)
        _largest_quarter(lines, offsets, count, last, lowest, first_codes, y, codes, to + last)
    else:
        for i in range(length):
            best, winner = lines[offsets[0] + i], lowest + first_codes[i]
            for t in range(count):
                value = lines[offsets[t] + i]
                better = value > best or value != value
                best, winner = value if better else best, t if better else winner
            y[to + i] = best
            codes[to + i] = winner


def _largest_of_squares(parts):
    @intrinsic
    def largest_of_squares(typing_context, x, upper, lower, y, codes, to):
        """y[to + lane] = the largest of x[upper + 2 lane], x[upper + 2 lane + 1] and the same two from `lower` on,
        codes[to + lane] = which of the four: of equal ones the first, of NaNs the last."""

        def generate(context, builder, signature, arguments):
            x, upper, lower, y, codes, to = arguments
            vector = vector_of(context, signature.args[0], parts)
            bytes_vector = ir.VectorType(ir.IntType(8), vector.count)
            values = []
            for start in (upper, lower):
                halves = [
                    load(builder, vector, x, builder.add(start, ir.Constant(start.type, place)))
                    for place in (0, vector.count)
                ]
                for first in range(2):
                    lanes = list(range(first, 2 * vector.count, 2))
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), lanes)
                    values.append(builder.shuffle_vector(*halves, mask))
            best, winner = values[0], ir.Constant(bytes_vector, None)
            for code, value in enumerate(values[1:], 1):
                better = builder.or_(
                    builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
                )
                best = builder.select(better, value, best)
                winner = builder.select(better, ir.Constant(bytes_vector, [code] * vector.count), winner)
            store(builder, best, y, to)
            store(builder, winner, codes, to)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(x, integer, integer, y, codes, integer), generate

    return largest_of_squares


_squares_vector, _squares_half, _squares_quarter = (_largest_of_squares(parts) for parts in (1, 2, 4))


@serial_kernel
def largest_of_squares_line(x, upper, lower, y, codes, to, length):
    """largest_line for windows of 2 x 2 that lie side by side, as max pools mostly have them, without scratch: for
    i < length, of x[upper + 2 i], x[upper + 2 i + 1], x[lower + 2 i], x[lower + 2 i + 1]."""
    lanes = lanes_of(x)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _squares_vector(x, upper + 2 * i, lower + 2 * i, y, codes, to + i)
        if length % lanes:
            last = length - lanes
            _squares_vector(x, upper + 2 * last, lower + 2 * last, y, codes, to + last)
    elif length >= lanes // 2:
        last = length - lanes // 2
        _squares_half(x, upper, lower, y, codes, to)
        _squares_half(x, upper + 2 * last, lower + 2 * last, y, codes, to + last)
    elif length >= lanes // 4:
        last = length - lanes // 4
        _squares_quarter(x, upper, lower, y, codes, to)
        _squares_quarter(x, upper + 2 * last, lower + 2 * last, y, codes, to + last)
    else:
        for i in range(length):
            best, winner = x[upper + 2 * i], 0
            for t in range(1, 4):
                value = x[(upper if t < 2 else lower) + 2 * i + t % 2]
                better = value > best or value != value
                best, winner = value if better else best, t if better else winner
            y[to + i] = best
            codes[to + i] = winner
