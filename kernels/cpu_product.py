"""Matrix products inside CPU kernels: any thread multiplies what it has just gathered, and nothing else runs threads.

As in BLIS (F. Van Zee, R. van de Geijn, 2015), a tile of the result, a few rows by two vector registers, stays in
registers over the whole sum. The right matrix is first copied into panels of that width, [panel][inner][width], so that
the tile reads it from left to right; the left one is read where it lies, an element at a time, broadcast over a
register. Every element is summed in the order of `inner`, whatever the tile's height and whoever computes it: results
depend neither on the number of threads nor on how rows and columns were shared out.

All arrays are flat; where an element stands is the sum of where its row starts and its place in it:

    left element (row, k)         left[left_start + left_rows[row] + left_places[k]]
                                  (an integer as left_places stands for that many times k; None as left_rows for rows
                                  that begin at each other's second element: up to 3 rows too many are read then)
    panels element (k, column)    panels[panels_start + column // width * panel_step + k * row_step + column % width]
    result element (row, column)  result[result_start + row * result_pitch + column]
"""

from __future__ import annotations

import itertools

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_jit import serial_kernel

_FEATURES = llvmlite.binding.get_host_cpu_features()
REGISTER_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
_VECTORS = 2  # registers across a tile
PANEL_BYTES = _VECTORS * REGISTER_BYTES
# Tile heights: the sums, a panel's row and one broadcast element fill the register file (32 registers, or 16).
TALL, MIDDLE, LOW = (12, 8, 4) if _FEATURES.get("avx512f") else (6, 4, 2)
_MIDDLE_FROM = LOW + 1
_TALL_FROM = 2 * MIDDLE + 1


def panel_width(itemsize: int) -> int:
    """Columns of a panel of elements of so many bytes."""
    return PANEL_BYTES // itemsize


def _lanes(array_type):
    return REGISTER_BYTES // (4 if array_type.dtype == types.float32 else 8)


def prefetch(builder, pointer, to_write=False):
    """Asks for a line of memory: to be written, in the nearest cache, or to be read, in the second."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte), flag(int(to_write)), flag(3 if to_write else 2), flag(1)])


def _tile_product(height, vectors=_VECTORS):
    """A function that computes up to `height` rows of a panel's width, or of its first vectors, with the sums in vector
    registers."""

    @intrinsic
    def multiply_tile(
        typing_context, left, left_start, left_rows, row, rows, panels, panel_start, row_step, inner,
        result, result_start, result_pitch, add, left_places, ahead=None, ahead_start=None, ahead_step=None,
    ):  # fmt: skip
        """result rows row..row + rows - 1 = (add: themselves +) left rows times one panel. A tile that is higher than
        `rows` computes its last row several times.

        The highest tiles ask early for the memory of the result's next rows (in the second cache: in the nearest, rows
        of some thousand bytes would push each other and the panel out), and every 8 terms for a panel's width of
        `ahead`, if it is given, from ahead_start on, ahead_step apart.
        """

        def generate(context, builder, signature, arguments):
            (
                _, left_start, _, row, rows, _, panel_start, row_step, inner, _, result_start, pitch, add, left_places,
                *_,
            ) = arguments  # fmt: skip
            left, left_rows, panels, result, *asked = (
                None
                if signature.args[index] == types.none
                else context.make_array(signature.args[index])(context, builder, arguments[index]).data
                for index in (0, 2, 5, 9, 14)[: 4 if ahead is None else 5]
            )
            integer = inner.type
            lanes = _lanes(signature.args[0])
            vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes)
            first_lane = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            zero, undefined = ir.Constant(vector, None), ir.Constant(vector, ir.Undefined)

            def constant(value):
                return ir.Constant(integer, value)

            def at(pointer, offset):
                return builder.gep(pointer, [offset])

            def vectors_at(pointer):
                return [builder.bitcast(at(pointer, constant(v * lanes)), vector.as_pointer()) for v in range(vectors)]

            last = builder.sub(rows, constant(1))
            tile_rows = [
                builder.add(row, builder.select(builder.icmp_signed("<", constant(r), last), constant(r), last))
                for r in range(height)
            ]
            neighbours = signature.args[2] == types.none
            if neighbours:
                first = at(left, builder.add(left_start, row))
            else:
                left_pointers = [
                    at(left, builder.add(left_start, builder.load(at(left_rows, tile_row)))) for tile_row in tile_rows
                ]
            result_pointers = [
                vectors_at(at(result, builder.add(result_start, builder.mul(tile_row, pitch))))
                for tile_row in tile_rows
            ]
            if height == TALL:
                for pointer in itertools.chain(*result_pointers):
                    below = at(builder.bitcast(pointer, result.type), builder.mul(pitch, constant(TALL)))
                    prefetch(builder, below)
            # Stack slots of which LLVM makes registers.
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(height)]
            with builder.if_else(add) as (then, otherwise):
                with then:
                    for pointers, slots in zip(result_pointers, sums):
                        for pointer, slot in zip(pointers, slots):
                            builder.store(builder.load(pointer, align=4), slot)
                with otherwise:
                    for slots in sums:
                        for slot in slots:
                            builder.store(zero, slot)
            table = isinstance(signature.args[13], types.Array)
            if table:
                places = context.make_array(signature.args[13])(context, builder, left_places).data
            # Where the next term stands: in registers, too.
            panel_slot = cgutils.alloca_once_value(builder, at(panels, panel_start))
            left_slots = [cgutils.alloca_once_value(builder, p) for p in ([first] if neighbours else left_pointers)]

            def add_terms(count, index):
                panel, lefts = builder.load(panel_slot), [builder.load(slot) for slot in left_slots]
                for term in range(count):
                    offset = builder.mul(constant(term), row_step)
                    columns = [builder.load(p, align=4) for p in vectors_at(at(panel, offset))]
                    place = builder.load(at(places, index)) if table else builder.mul(constant(term), left_places)
                    factors = [at(left, place) for left in lefts]
                    if neighbours:
                        factors = [at(factors[0], constant(r)) for r in range(height)]
                    for pointer, slots in zip(factors, sums):
                        factor = builder.load(pointer)
                        factor = builder.insert_element(undefined, factor, ir.Constant(ir.IntType(32), 0))
                        factor = builder.shuffle_vector(factor, undefined, first_lane)
                        for column, slot in zip(columns, slots):
                            product = builder.fmul(factor, column, flags=("contract",))
                            builder.store(builder.fadd(builder.load(slot), product, flags=("contract",)), slot)
                builder.store(at(panel, builder.mul(constant(count), row_step)), panel_slot)
                for left, slot in zip(lefts, left_slots):
                    builder.store(left if table else at(left, builder.mul(constant(count), left_places)), slot)

            # A dozen of rows are a dozen of pointers to move on: once in several terms.
            together = 8 if height == TALL and not table and (asked or not neighbours) else 1
            with cgutils.for_range(builder, builder.udiv(inner, constant(together)), intp=integer) as loop:
                if together > 1 and asked:
                    place = builder.add(arguments[15], builder.mul(loop.index, arguments[16]))
                    for pointer in vectors_at(at(asked[0], place)):
                        prefetch(builder, pointer)
                add_terms(together, loop.index)
            if together > 1:
                with cgutils.for_range(builder, builder.urem(inner, constant(together)), intp=integer) as loop:
                    add_terms(1, loop.index)
            # From the last row up: neighbours of the rows that there are may have been summed in the last one's place.
            for pointers, slots in zip(reversed(result_pointers), reversed(sums)):
                for pointer, slot in zip(pointers, slots):
                    builder.store(builder.load(slot), pointer, align=4)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(
            left, integer, left_rows, integer, integer, panels, integer, integer, integer,
            result, integer, integer, types.boolean, left_places,
            *((types.none,) * 3 if ahead is None else (ahead, integer, integer)),
        ), generate  # fmt: skip

    return multiply_tile


multiply_tall = _tile_product(TALL)
multiply_middle = _tile_product(MIDDLE)
multiply_low = _tile_product(LOW)
multiply_narrow = _tile_product(TALL, vectors=1)


@serial_kernel
def multiply_panels(
    left, left_start, left_rows, first_row, last_row, panels, panels_start, panel_step, row_step, inner,
    panel_count, result, result_start, result_pitch, add, left_places=1,
):  # fmt: skip
    """Rows first_row..last_row - 1 of left times whole panels, to the same rows of result, or added to them.

    Panel by panel, down all rows: where `inner` is a few hundred, a panel stays in the nearest cache and the rows in
    the second.
    """
    width = PANEL_BYTES // result.itemsize
    for panel in range(panel_count):
        start, to = panels_start + panel * panel_step, result_start + panel * width
        row = first_row
        while row < last_row:
            rows = last_row - row
            if rows >= _TALL_FROM or MIDDLE < rows <= TALL:
                multiply_tall(
                    left, left_start, left_rows, row, min(rows, TALL), panels, start, row_step, inner,
                    result, to, result_pitch, add, left_places,
                )  # fmt: skip
                row += TALL
            elif rows >= _MIDDLE_FROM:
                multiply_middle(
                    left, left_start, left_rows, row, min(rows, MIDDLE), panels, start, row_step, inner,
                    result, to, result_pitch, add, left_places,
                )  # fmt: skip
                row += MIDDLE
            else:
                multiply_low(
                    left, left_start, left_rows, row, min(rows, LOW), panels, start, row_step, inner,
                    result, to, result_pitch, add, left_places,
                )  # fmt: skip
                row += LOW


def _vector_copy(parts):
    """A function that copies as many elements as a vector register holds, or half or a quarter of them."""

    @intrinsic
    def copy(typing_context, source, source_start, target, target_start):
        def generate(context, builder, signature, arguments):
            source, target = (
                context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2)
            )
            lanes = max(_lanes(signature.args[0]) // parts, 1)
            vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes).as_pointer()
            value = builder.load(builder.bitcast(builder.gep(source, [arguments[1]]), vector), align=4)
            builder.store(value, builder.bitcast(builder.gep(target, [arguments[3]]), vector), align=4)
            return context.get_dummy_value()

        return types.void(source, types.intp, target, types.intp), generate

    return copy


copy_vector = _vector_copy(1)
_copy_half = _vector_copy(2)
_copy_quarter = _vector_copy(4)


@serial_kernel
def copy_line(source, source_start, target, target_start, count):
    """`count` elements; what is left over after whole vectors goes as one more that overlaps the one before. (A loop
    over elements would copy short lines, and such rests, one by one.)"""
    lanes = REGISTER_BYTES // source.itemsize
    if count >= lanes:
        for i in range(0, count - lanes + 1, lanes):
            copy_vector(source, source_start + i, target, target_start + i)
        copy_vector(source, source_start + count - lanes, target, target_start + count - lanes)
    elif count >= lanes // 2:
        _copy_half(source, source_start, target, target_start)
        _copy_half(source, source_start + count - lanes // 2, target, target_start + count - lanes // 2)
    elif lanes >= 4 and count >= lanes // 4:
        _copy_quarter(source, source_start, target, target_start)
        _copy_quarter(source, source_start + count - lanes // 4, target, target_start + count - lanes // 4)
    else:
        for i in range(count):
            target[target_start + i] = source[source_start + i]


_TOGETHER = 4  # panels packed at once: more of each row is read on end, and what is written stays in the nearest cache
_ROWS_TOGETHER = 4  # rows of a panel copied at once


@intrinsic
def _copy_rows(typing_context, source, start, pitch, panels, to):
    """Some rows of a panel."""

    def generate(context, builder, signature, arguments):
        source, panels = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 3))
        _, start, pitch, _, to = arguments
        lanes = _lanes(signature.args[0])
        vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes).as_pointer()

        def place(base, row, part):
            return builder.bitcast(builder.gep(base, [builder.add(row, row.type(part * lanes))]), vector)

        for row in range(_ROWS_TOGETHER):
            for part in range(_VECTORS):
                value = builder.load(
                    place(source, builder.add(start, builder.mul(pitch, pitch.type(row))), part), align=4
                )
                builder.store(value, place(panels, to, row * _VECTORS + part), align=4)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, panels, integer), generate


@serial_kernel
def pack_rows(source, start, pitch, inner, columns, panels, panels_start):
    """Panels of a matrix whose rows are contiguous: element (k, column) is source[start + k * pitch + column]."""
    width, lanes = PANEL_BYTES // panels.itemsize, REGISTER_BYTES // panels.itemsize
    whole, together = columns // width * width, inner // _ROWS_TOGETHER * _ROWS_TOGETHER
    for first in range(0, whole, _TOGETHER * width):
        last = min(first + _TOGETHER * width, whole)
        for k in range(0, together, _ROWS_TOGETHER):
            for column in range(first, last, width):
                to = panels_start + column * inner + k * width
                _copy_rows(source, start + k * pitch + column, pitch, panels, to)
        for k in range(together, inner):
            for column in range(first, last, width):
                to = panels_start + column * inner + k * width
                for part in range(0, width, lanes):
                    copy_vector(source, start + k * pitch + column + part, panels, to + part)
    if whole < columns:
        to = panels_start + whole * inner
        panels[to : to + inner * width] = panels.dtype.type(0)
        for k in range(inner):
            copy_line(source, start + k * pitch + whole, panels, to + k * width, columns - whole)


def transposed(builder, element, line, lanes):
    """The columns of a block of rows as vectors of `lanes` elements, rows in order: as many columns as lanes.

    Pieces of 128 bits are loaded straight to where they belong, so that only squares of such pieces remain to be
    transposed, by exchanges within 128 bits: half as many as there are between whole rows.

    Args:
        line: line(row, place) -> pointer to a row's element at a place; None for a row that there is not.
    """
    piece = 128 // (32 if element == ir.FloatType() else 64)
    small, index = ir.VectorType(element, piece), ir.IntType(32)

    def joined(vectors):
        while len(vectors) > 1:
            count = vectors[0].type.count
            mask = ir.Constant(ir.VectorType(index, 2 * count), list(range(2 * count)))
            vectors = [builder.shuffle_vector(a, b, mask) for a, b in zip(vectors[::2], vectors[1::2])]
        return vectors[0]

    def pieces(first, place):
        for row in range(first, lanes, piece):
            pointer = line(row, place)
            if pointer is None:
                yield ir.Constant(small, ir.Undefined)
            else:
                yield builder.load(builder.bitcast(pointer, small.as_pointer()), align=piece_alignment)

    piece_alignment = 16 // piece
    columns = []
    for place in range(0, lanes, piece):
        rows, distance = [joined(list(pieces(first, place))) for first in range(piece)], 1
        while distance < piece:
            for i in range(piece):
                if not i & distance:
                    a, b = rows[i], rows[i + distance]
                    low = [lanes + (l ^ distance) if l & distance else l for l in range(lanes)]
                    high = [lanes + l if l & distance else l ^ distance for l in range(lanes)]
                    rows[i], rows[i + distance] = (
                        builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(index, lanes), mask))
                        for mask in (low, high)
                    )
            distance *= 2
        columns += rows
    return columns


@intrinsic
def _transpose_block(typing_context, source, source_start, source_pitch, target, target_start, target_pitch):
    """A square block as wide as a vector register, rows to columns."""

    def generate(context, builder, signature, arguments):
        source, target = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 3))
        _, source_start, source_pitch, _, target_start, target_pitch = arguments
        lanes = _lanes(signature.args[0])
        vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes)

        def place(base, start, pitch, row, column=0):
            offset = builder.add(start, builder.mul(pitch, ir.Constant(pitch.type, row)))
            return builder.gep(base, [builder.add(offset, ir.Constant(pitch.type, column))])

        def line(row, column):
            return place(source, source_start, source_pitch, row, column)

        for i, column in enumerate(transposed(builder, vector.element, line, lanes)):
            to = place(target, target_start, target_pitch, i)
            builder.store(column, builder.bitcast(to, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, target, integer, integer), generate


@serial_kernel
def transpose(source, source_start, source_pitch, rows, columns, target, target_start, target_pitch):
    """target [columns, rows] = the transpose of source [rows, columns]; the rows of each are contiguous.

    What is left over after whole blocks goes as one more that overlaps the one before, if there is one.
    """
    lanes = REGISTER_BYTES // source.itemsize
    if rows < lanes or columns < lanes:
        for row in range(rows):
            for column in range(columns):
                target[target_start + column * target_pitch + row] = source[source_start + row * source_pitch + column]
        return
    for next_row in range(0, rows, lanes):
        row = min(next_row, rows - lanes)
        for next_column in range(0, columns, lanes):
            column = min(next_column, columns - lanes)
            _transpose_block(
                source, source_start + row * source_pitch + column, source_pitch,
                target, target_start + column * target_pitch + row, target_pitch,
            )  # fmt: skip


@serial_kernel
def pack_columns(source, start, pitch, inner, columns, panels, panels_start):
    """Panels of a matrix whose columns are contiguous: element (k, column) is source[start + column * pitch + k]."""
    width = PANEL_BYTES // panels.itemsize
    for column in range(0, columns, width):
        to, count = panels_start + column * inner, min(width, columns - column)
        transpose(source, start + column * pitch, pitch, count, inner, panels, to, width)
        if count < width:
            for k in range(inner):
                panels[to + k * width + count : to + (k + 1) * width] = panels.dtype.type(0)
