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
