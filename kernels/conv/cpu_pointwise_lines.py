"""Lines of vectors around the products of a pointwise convolution: into panels and out of them, with ReLU, their
sums, and every other element of lines."""

import functools

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu_product import TALL, prefetch
from .cpu_lanes import Vectors

_WIDTH = 2  # vectors across a panel
_TERMS = 4  # added at a time
_LINES_AHEAD = 4  # are asked for early: each lies on a page of its own, where nothing foresees it


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
                prefetch(builder, vectors.at(source, there, column, vectors.times(pitch, _LINES_AHEAD)))
                value = vectors.load(vectors.at(source, there, column), mask)
                vectors.store(value, vectors.at(panels, row, panel, builder.mul(part, lanes)), mask)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, *[integer] * 5, panels, integer, integer), generate


@intrinsic
def pack_turned(typing_context, left, start, pitch, terms, rows, groups, to, size):
    """Groups of rows (`cpu_groups.py`), `size` apart, of a matrix with contiguous columns: element (row, k) is
    left[start + k * pitch + row]. Rows that fill up the last group are zeros."""

    def generate(context, builder, signature, arguments):
        _, start, pitch, terms, rows, _, to, size = arguments
        vectors = Vectors(context, builder, signature, arguments)
        left, groups = vectors.data(0, 5)
        tall, places = vectors.constant(TALL), [vectors.constant(place) for place in range(0, TALL, vectors.lanes)]
        whole = [vectors.inside(place, tall) for place in places]
        with cgutils.for_range(builder, terms) as term:
            column = vectors.add(start, builder.mul(term.index, pitch))
            line = vectors.add(to, vectors.times(term.index, TALL))
            with cgutils.for_range(builder, builder.udiv(vectors.add(rows, vectors.constant(TALL - 1)), tall)) as group:
                row = vectors.times(group.index, TALL)
                for place, mask in zip(places, whole):
                    there = vectors.add(row, place)
                    value = vectors.load(
                        vectors.at(left, column, there), builder.and_(mask, vectors.inside(there, rows))
                    )
                    vectors.store(value, vectors.at(groups, line, builder.mul(group.index, size), place), mask)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(left, *[integer] * 4, groups, integer, integer), generate


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
def add_rows(typing_context, groups, start, terms, rows, totals, to, add):
    """totals[to + r] = (add: itself +) the sum over all terms of row r of a group (`cpu_groups.py`), up to its last."""

    def generate(context, builder, signature, arguments):
        _, start, terms, rows, _, to, add = arguments
        vectors = Vectors(context, builder, signature, arguments)
        groups, totals = vectors.data(0, 4)
        places = [vectors.constant(place) for place in range(0, TALL, vectors.lanes)]
        masks = [vectors.inside(place, rows) for place in places]
        whole = [vectors.inside(place, vectors.constant(TALL)) for place in places]
        # Each of a few terms to sums of its own: none waits for the one before.
        sums = [[cgutils.alloca_once_value(builder, vectors.zero) for _ in places] for _ in range(_TERMS)]

        def add_terms(first, count):
            for term in range(count):
                there = vectors.add(start, vectors.times(vectors.add(first, vectors.constant(term)), TALL))
                for place, mask, slot in zip(places, whole, sums[term]):
                    value = vectors.load(vectors.at(groups, there, place), mask)
                    builder.store(builder.fadd(builder.load(slot), value), slot)

        together = vectors.constant(_TERMS)
        with cgutils.for_range(builder, builder.udiv(terms, together)) as loop:
            add_terms(builder.mul(loop.index, together), _TERMS)
        done = builder.sub(terms, builder.urem(terms, together))
        with cgutils.for_range_slice(builder, done, terms, vectors.constant(1)) as (term, _):
            add_terms(term, 1)
        sums = [[builder.load(slot) for slot in slots] for slots in zip(*sums)]
        sums = [functools.reduce(builder.fadd, values) for values in sums]
        for place, mask, slot in zip(places, masks, sums):
            target = vectors.at(totals, to, place)
            before = builder.select(add, vectors.load(target, mask), vectors.zero)
            vectors.store(builder.fadd(before, slot), target, mask)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(groups, integer, integer, integer, totals, integer, types.boolean), generate


@intrinsic
def take_even(typing_context, source, start, pitch, lines, count, target, to):
    """target[to + line * count + i] = source[start + line * pitch + 2 i]: the first of all pairs of so many lines."""

    def generate(context, builder, signature, arguments):
        _, start, pitch, lines, count, _, to = arguments
        vectors = Vectors(context, builder, signature, arguments)
        source, target = vectors.data(0, 5)
        lanes = vectors.constant(vectors.lanes)
        whole, rest = builder.udiv(count, lanes), builder.urem(count, lanes)

        zero, order = vectors.constant(0), list(range(0, 2 * vectors.lanes, 2))

        def masks(count):
            read = builder.sub(vectors.times(count, 2), vectors.constant(1))  # no further: there may be no memory
            return [vectors.inside(zero, read), vectors.inside(lanes, read)], vectors.inside(zero, count)

        whole_masks, rest_masks = masks(lanes), masks(rest)

        def take(there, place, masks):
            to_read, to_write = masks
            pair = [vectors.load(vectors.at(there, part), mask) for part, mask in zip((zero, lanes), to_read)]
            vectors.store(vectors.chosen(*pair, order), place, to_write)

        with cgutils.for_range(builder, lines) as line:
            there = vectors.at(source, start, builder.mul(line.index, pitch))
            place = vectors.at(target, to, builder.mul(line.index, count))
            with cgutils.for_range(builder, whole) as part:
                first = builder.mul(part.index, lanes)
                take(vectors.at(there, vectors.times(first, 2)), vectors.at(place, first), whole_masks)
            with builder.if_then(builder.icmp_signed(">", rest, zero)):
                first = builder.mul(whole, lanes)
                take(vectors.at(there, vectors.times(first, 2)), vectors.at(place, first), rest_masks)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, *[integer] * 4, target, integer), generate


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
