"""What a depthwise convolution computes at once in vector registers: some rows of a plane, a vector or a few wide.

A tile passes over the taps of one kernel line, or of three whose sources are neighbours: then what is read serves all
three. Vectors are read by lanes: what lies outside a line is zero without being read, and rows outside a plane are a
line of zeros, so that planes need neither frames around them nor loops for their edges.

A kernel's columns are a flat table of four numbers a column:

    offset      the result's column c reads column c + offset of a source line,
    width       which is so long,
    shift       and whose column c + offset lies c + shift from the start of its row (which may hold several lines)
    tap         where the column's weight stands in a kernel line
"""

from typing import NamedTuple

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_lanes import Vectors


class Tile(NamedTuple):
    """How much is computed at once: rows, vectors of each, and kernel lines, whose sources are rows beside each other;
    and what the step from one row's source to the next must be, if there are several lines."""

    rows: int
    vectors: int
    lines: int
    step: int = 0

    def pairs(self, read):
        """Rows and kernel lines that use row number `read` of those that the tile reads."""
        if self.lines == 1:
            return [(read, 0)]
        return [(r, read - r * self.step) for r in range(self.rows) if 0 <= read - r * self.step < self.lines]


SHARED = Tile(rows=8, vectors=1, lines=3, step=1)
STRIDED = Tile(rows=8, vectors=1, lines=3, step=2)
APART = Tile(rows=8, vectors=1, lines=1)
FLAT = Tile(rows=1, vectors=4, lines=1)  # for planes that are one row


@intrinsic
def add_taps(
    typing_context, source, base, pitch, first_row, step, height, zeros, weight, weight_start, line_step, lines,
    columns, first_tap, last_tap, result, to, result_pitch, rows, count, add, start, relu,
):  # fmt: skip
    """Rows 0..rows - 1 of result = relu((add: themselves, else start) + the sums of the taps of some kernel lines).

    Args:
        source: row r of `height` starts at base + r * pitch; row i of result reads, with kernel line l, row
            first_row + i * step + l.
        zeros: as long as a row.
        weight: that of kernel line l's tap t stands at weight_start + l * line_step + t.
        lines: SHARED.lines, if step is 1 or 2, or 1; rows: at most SHARED.rows.
        columns: the table above, of which columns first_tap..last_tap - 1 are added.
        result: row i starts at to + i * result_pitch and has `count` columns.
        relu: whether negative sums become zero.
    """

    def generate(context, builder, signature, arguments):
        vectors = Vectors(context, builder, signature, arguments)
        step, lines, rows, count = arguments[4], arguments[10], arguments[17], arguments[18]
        _for_each_tile(
            vectors, step, lines, rows, count, lambda tile, column: _add_tile(vectors, tile, column, arguments)
        )
        return context.get_dummy_value()

    integer, boolean = types.intp, types.boolean
    return types.void(
        source, integer, integer, integer, integer, integer, zeros, weight, integer, integer, integer,
        columns, integer, integer, result, integer, integer, integer, integer, boolean, start, boolean,
    ), generate  # fmt: skip


def _for_each_tile(vectors, step, lines, rows, count, generate_tile):
    """Calls generate_tile(tile, column) in loops over `count` columns, for each kind of tile that there may be."""
    builder = vectors.builder

    def loop(tile):
        width = vectors.constant(tile.vectors * vectors.lanes)
        with cgutils.for_range_slice(builder, vectors.constant(0), count, width) as (column, _):
            generate_tile(tile, column)

    with builder.if_else(builder.icmp_signed("==", lines, vectors.constant(SHARED.lines))) as (shared, apart):
        with shared, builder.if_else(builder.icmp_signed("==", step, vectors.constant(1))) as (beside, strided):
            with beside:
                loop(SHARED)
            with strided:
                loop(STRIDED)
        with apart, builder.if_else(builder.icmp_signed(">", rows, vectors.constant(1))) as (high, flat):
            with high:
                loop(APART)
            with flat:
                loop(FLAT)


def _lines(vectors, tile, source, zeros, base, pitch, first_row, step, height):
    """Where the rows start that a tile reads."""
    if tile.lines == 1:
        return vectors.rows(source, zeros, base, pitch, first_row, step, height, tile.rows)
    count = (tile.rows - 1) * tile.step + tile.lines
    return vectors.rows(source, zeros, base, pitch, first_row, vectors.constant(1), height, count)


def _add_tile(vectors, tile, column, arguments):
    """One tile of add_taps."""
    builder = vectors.builder
    _, base, pitch, first_row, step, height, _, _, weight_start, line_step = arguments[:10]
    first_tap, last_tap, _, to, result_pitch, rows, count, add, start, relu = arguments[12:]
    source, zeros, weight, table, result = vectors.data(0, 6, 7, 11, 14)
    places = [vectors.add(column, vectors.constant(v * vectors.lanes)) for v in range(tile.vectors)]
    masks = [vectors.inside(place, count) for place in places]
    there = [builder.icmp_signed("<", vectors.constant(r), rows) for r in range(tile.rows)]
    targets = [
        [vectors.at(result, to, vectors.times(result_pitch, r), place) for place in places] for r in range(tile.rows)
    ]
    # Stack slots of which LLVM makes registers.
    sums = [[cgutils.alloca_once(builder, vectors.vector) for _ in places] for _ in range(tile.rows)]
    with builder.if_else(add) as (then, otherwise):
        with then:
            for r in range(tile.rows):
                present = vectors.everywhere(there[r])
                for slot, target, mask in zip(sums[r], targets[r], masks):
                    builder.store(vectors.load(target, builder.and_(mask, present)), slot)
        with otherwise:
            starts = vectors.everywhere(start)
            for slots in sums:
                for slot in slots:
                    builder.store(starts, slot)
    lines = _lines(vectors, tile, source, zeros, base, pitch, first_row, step, height)
    with cgutils.for_range_slice(builder, first_tap, last_tap, vectors.constant(1)) as (index, _):
        offset, width, shift, tap = vectors.entry(table, index)
        inside = [vectors.inside(vectors.add(place, offset), width) for place in places]
        factors = [
            vectors.everywhere(builder.load(vectors.at(weight, weight_start, tap, vectors.times(line_step, line))))
            for line in range(tile.lines)
        ]
        for t, line_start in enumerate(lines):
            for v, place in enumerate(places):
                value = vectors.load(vectors.at(line_start, place, shift), inside[v])
                for r, line in tile.pairs(t):
                    slot = sums[r][v]
                    builder.store(vectors.plus(builder.load(slot), value, factors[line]), slot)
    with builder.if_then(relu):
        for slots in sums:
            for slot in slots:
                value = builder.load(slot)
                negative = builder.fcmp_ordered("<", value, vectors.zero)
                builder.store(builder.select(negative, vectors.zero, value), slot)  # a NaN stays one
    for r in range(tile.rows):
        with builder.if_then(there[r]):
            for slot, target, mask in zip(sums[r], targets[r], masks):
                vectors.store(builder.load(slot), target, mask)


@intrinsic
def add_products(
    typing_context, source, base, pitch, first_row, step, height, zeros, lines, columns,
    grad, grad_base, grad_pitch, row, rows, grad_height, count, sums, sums_start, line_step, sums_grad,
):  # fmt: skip
    """sums, a vector each at sums_start + l * line_step + tap, += the products of grad's rows and what the taps read.

    Args:
        source, zeros, lines, columns: as in add_taps; row row + i of grad is multiplied with rows
            first_row + i * step + l.
        grad: row r of `grad_height` starts at grad_base + r * grad_pitch, and has `count` columns. Its rows from `row`
            are read, one if `rows` is 1, else SHARED.rows as far as there are so many.
        sums_grad: whether to add grad's own sum to the first vector of sums.
    """

    def generate(context, builder, signature, arguments):
        vectors = Vectors(context, builder, signature, arguments)
        step, lines, rows, count = arguments[4], arguments[7], arguments[13], arguments[15]
        _for_each_tile(
            vectors,
            step,
            lines,
            rows,
            count,
            lambda tile, column: _add_products_of_tile(vectors, tile, column, arguments),
        )
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        source, integer, integer, integer, integer, integer, zeros, integer, columns,
        grad, integer, integer, integer, integer, integer, integer, sums, integer, integer, types.boolean,
    ), generate  # fmt: skip


def _add_products_of_tile(vectors, tile, column, arguments):
    """One tile of add_products."""
    builder = vectors.builder
    _, base, pitch, first_row, step, height = arguments[:6]
    grad_base, grad_pitch, row, _, grad_height, count, _, sums_start, line_step, sums_grad = arguments[10:]
    source, zeros, table, grad, sums = vectors.data(0, 6, 8, 9, 16)
    places = [vectors.add(column, vectors.constant(v * vectors.lanes)) for v in range(tile.vectors)]
    masks = [vectors.inside(place, count) for place in places]
    grad_rows = vectors.rows(grad, zeros, grad_base, grad_pitch, row, vectors.constant(1), grad_height, tile.rows)
    # What a row that is not there would multiply is left out: infinity times its zeros would be NaN.
    there = [
        vectors.everywhere(builder.icmp_signed("<", vectors.add(row, vectors.constant(r)), grad_height))
        for r in range(tile.rows)
    ]
    grads = [
        [vectors.load(vectors.at(there, place), mask) for place, mask in zip(places, masks)] for there in grad_rows
    ]

    def add_to(place, terms):
        """To the vector of sums at that place, the sum of terms, in pairs."""
        while len(terms) > 1:
            pairs = [builder.fadd(*terms[i : i + 2]) for i in range(0, len(terms) - 1, 2)]
            terms = pairs + terms[2 * len(pairs) :]
        pointer = vectors.at(sums, vectors.times(place, vectors.lanes))
        pointer = builder.bitcast(pointer, vectors.vector.as_pointer())
        builder.store(builder.fadd(builder.load(pointer, align=4), terms[0]), pointer, align=4)

    with builder.if_then(sums_grad):
        add_to(vectors.constant(0), [value for values in grads for value in values])
    lines = _lines(vectors, tile, source, zeros, base, pitch, first_row, step, height)
    with cgutils.for_range(builder, vectors.entries(8)) as loop:
        offset, width, shift, tap = vectors.entry(table, loop.index)
        inside = [
            builder.and_(mask, vectors.inside(vectors.add(place, offset), width)) for place, mask in zip(places, masks)
        ]
        products = [[None, None] for _ in range(tile.lines)]  # two sums each, because one would wait for itself
        for t, line_start in enumerate(lines):
            for v, place in enumerate(places):
                value = vectors.load(vectors.at(line_start, place, shift), inside[v])
                for r, line in tile.pairs(t):
                    halves, half = products[line], (r + v) % 2
                    if halves[half] is None:
                        product, before = builder.fmul(value, grads[r][v]), vectors.zero
                    else:
                        product, before = vectors.plus(halves[half], value, grads[r][v]), halves[half]
                    halves[half] = builder.select(there[r], product, before) if tile.rows > 1 else product
        for line, halves in enumerate(products):
            add_to(vectors.add(sums_start, tap, vectors.times(line_step, line)), halves)


@intrinsic
def split_pairs(typing_context, source, start, width, target, even, odd):
    """The even elements of a line of `width` from source[start] to target[even...], its odd ones to target[odd...].

    Both are filled up with zeros to whole vectors, and one more than needed at most.
    """

    def generate(context, builder, signature, arguments):
        _, start, width, _, even, odd = arguments
        vectors = Vectors(context, builder, signature, arguments)
        source, target = vectors.data(0, 3)
        with vectors.pairs(width) as (column, half):
            parts = [vectors.add(column, vectors.constant(part * vectors.lanes)) for part in range(2)]
            pair = [vectors.load(vectors.at(source, start, part), vectors.inside(part, width)) for part in parts]
            for first, to in enumerate((even, odd)):
                every_other = vectors.chosen(*pair, list(range(first, 2 * vectors.lanes, 2)))
                vectors.store(every_other, vectors.at(target, to, half), vectors.everywhere(vectors.true))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, target, integer, integer), generate


@intrinsic
def join_pairs(typing_context, source, even, odd, target, start, width):
    """The reverse: elements from source[even] and source[odd] in turns to a line of `width` from target[start]."""

    def generate(context, builder, signature, arguments):
        _, even, odd, _, start, width = arguments
        vectors = Vectors(context, builder, signature, arguments)
        source, target = vectors.data(0, 3)
        order = [i // 2 + (vectors.lanes if i % 2 else 0) for i in range(2 * vectors.lanes)]
        with vectors.pairs(width) as (column, half):
            pair = [
                vectors.load(vectors.at(source, place, half), vectors.everywhere(vectors.true)) for place in (even, odd)
            ]
            for part in range(2):
                place = vectors.add(column, vectors.constant(part * vectors.lanes))
                value = vectors.chosen(*pair, order[part * vectors.lanes : (part + 1) * vectors.lanes])
                vectors.store(value, vectors.at(target, start, place), vectors.inside(place, width))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, target, integer, integer), generate
