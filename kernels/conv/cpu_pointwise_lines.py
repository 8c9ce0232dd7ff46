"""Lines of vectors around the products of a pointwise convolution: into panels and out of them, with bias and ReLU, and
every other element of a line."""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_lanes import Vectors

_WIDTH = 2  # vectors across a panel


@intrinsic
def pack_lines(typing_context, source, start, pitch, lines, first, count, panels, to, panel_step):
    """Lines of `count` elements, from start + k * pitch of source, to columns first..first + count - 1 of panels.

    Line k lies in row k of each panel; panel p begins at to + p * panel_step. Line by line, as memory is read ahead.
    """

    def generate(context, builder, signature, arguments):
        _, start, pitch, lines, first, count, _, to, panel_step = arguments
        vectors = Vectors(context, builder, signature, arguments)
        source, panels = vectors.data(0, 6)
        lanes = vectors.constant(vectors.lanes)
        low, high = builder.sdiv(first, lanes), vectors.add(first, count, vectors.constant(vectors.lanes - 1))
        with cgutils.for_range(builder, lines) as line:
            there = builder.sub(vectors.add(start, builder.mul(line.index, pitch)), first)
            row = vectors.add(to, vectors.times(line.index, _WIDTH * vectors.lanes))
            with cgutils.for_range_slice(builder, low, builder.sdiv(high, lanes), vectors.constant(1)) as (index, _):
                column = builder.mul(index, lanes)
                mask = vectors.inside(builder.sub(column, first), count)
                part = builder.and_(index, vectors.constant(_WIDTH - 1))
                panel = builder.mul(builder.sdiv(index, vectors.constant(_WIDTH)), panel_step)
                value = vectors.load(vectors.at(source, there, column), mask)
                vectors.store(value, vectors.at(panels, row, panel, builder.mul(part, lanes)), mask)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, *[integer] * 5, panels, integer, integer), generate


@intrinsic
def finish_rows(typing_context, sums, start, pitch, count, rows, result, to, result_pitch, relu):
    """`rows` lines of `count` sums to result, negative ones as 0 if relu.

    Line r stands in sums at start + r * pitch, in result at to + r * result_pitch.
    """

    def generate(context, builder, signature, arguments):
        _, start, pitch, count, rows, _, to, result_pitch, relu = arguments
        vectors = Vectors(context, builder, signature, arguments)
        sums, result = vectors.data(0, 5)
        positive = vectors.everywhere(relu)
        with cgutils.for_range(builder, rows) as row:
            source = vectors.at(sums, start, builder.mul(row.index, pitch))
            target = vectors.at(result, to, builder.mul(row.index, result_pitch))
            step = vectors.constant(vectors.lanes)
            with cgutils.for_range_slice(builder, vectors.constant(0), count, step) as (column, _):
                mask = vectors.inside(column, count)
                value = vectors.load(vectors.at(source, column), mask)
                negative = builder.and_(builder.fcmp_ordered("<", value, vectors.zero), positive)
                value = builder.select(negative, vectors.zero, value)  # a NaN stays one
                vectors.store(value, vectors.at(target, column), mask)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(sums, *[integer] * 4, result, integer, integer, types.boolean), generate


@intrinsic
def add_rows(typing_context, panel, start, rows, totals, to):
    """totals, a panel's row from `to`, += the sum of a panel's rows."""

    def generate(context, builder, signature, arguments):
        _, start, rows, _, to = arguments
        vectors = Vectors(context, builder, signature, arguments)
        panel, totals = vectors.data(0, 3)
        everything = vectors.everywhere(vectors.true)
        places = [vectors.constant(part * vectors.lanes) for part in range(_WIDTH)]
        sums = [cgutils.alloca_once_value(builder, vectors.zero) for _ in places]
        with cgutils.for_range(builder, rows) as row:
            there = vectors.add(start, vectors.times(row.index, _WIDTH * vectors.lanes))
            for place, slot in zip(places, sums):
                value = vectors.load(vectors.at(panel, there, place), everything)
                builder.store(builder.fadd(builder.load(slot), value), slot)
        for place, slot in zip(places, sums):
            target = vectors.at(totals, to, place)
            vectors.store(builder.fadd(vectors.load(target, everything), builder.load(slot)), target, everything)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(panel, integer, integer, totals, integer), generate


@intrinsic
def take_even(typing_context, source, start, width, target, to):
    """target[to...] = every other element of a line of `width`, from its first."""

    def generate(context, builder, signature, arguments):
        _, start, width, _, to = arguments
        vectors = Vectors(context, builder, signature, arguments)
        source, target = vectors.data(0, 3)
        count = builder.lshr(vectors.add(width, vectors.constant(1)), vectors.constant(1))
        with vectors.pairs(width) as (column, half):
            parts = [vectors.add(column, vectors.constant(part * vectors.lanes)) for part in range(2)]
            pair = [vectors.load(vectors.at(source, start, part), vectors.inside(part, width)) for part in parts]
            value = vectors.chosen(*pair, list(range(0, 2 * vectors.lanes, 2)))
            vectors.store(value, vectors.at(target, to, half), vectors.inside(half, count))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, target, integer), generate


@intrinsic
def place_even(typing_context, source, start, target, to, width, between):
    """The reverse: elements from source[start], with `between` after each, to a line of `width` from target[to]."""

    def generate(context, builder, signature, arguments):
        _, start, _, to, width, between = arguments
        vectors = Vectors(context, builder, signature, arguments)
        source, target = vectors.data(0, 2)
        count = builder.lshr(vectors.add(width, vectors.constant(1)), vectors.constant(1))
        others = vectors.everywhere(between)
        with vectors.pairs(width) as (column, half):
            value = vectors.load(vectors.at(source, start, half), vectors.inside(half, count))
            for part in range(2):
                first = part * vectors.lanes // 2
                order = [first + i // 2 + (vectors.lanes if i % 2 else 0) for i in range(vectors.lanes)]
                place = vectors.add(column, vectors.constant(part * vectors.lanes))
                turns = vectors.chosen(value, others, order)
                vectors.store(turns, vectors.at(target, to, place), vectors.inside(place, width))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, target, integer, integer, between), generate
