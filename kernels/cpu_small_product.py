"""Products of small matrices: one call on the calling thread, which reads them where they lie.

As in `cpu_product.py`, a tile of the result stays in vector registers over the whole sum, and every element is summed
in the order of the terms. Small are matrices whose panels need no packing to stay in the nearest cache; columns that
do not fill a vector are masked, and the last tile of rows overlaps the one before it, so that nothing is copied. Only
of a right matrix by columns a panel is turned, for no vector can be read from it.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .cpu_jit import serial_kernel
from .cpu_lines import empty_line, memory
from .cpu_product import LOW, MIDDLE, PANEL_BYTES, REGISTER_BYTES, TALL, transposed
from .cpu_vectors import everywhere, load_lanes, multiply_add, store_lanes

# A tile's rows, each as another one and a distance: instructions read from a pointer plus 1, 2, 4 or 8 times a
# register, so that four pointers and the pitch serve a dozen rows.
_ANCHORS = ((0, 0), (0, 1), (0, 2), (3, 0), (0, 4), (3, 2), (6, 0), (3, 4), (0, 8), (9, 0), (6, 4), (3, 8))


def _element_size(element) -> int:
    """Bytes of a floating-point number."""
    return 4 if element == ir.FloatType() else 8


def _repeated(builder, times, body, values):
    """The values after so many rounds of values = body(*values), which stay in registers."""
    before, (head, rounds, after) = builder.block, [builder.append_basic_block() for _ in range(3)]
    builder.branch(head)
    builder.position_at_end(head)
    left, *now = (builder.phi(value.type) for value in (times, *values))
    builder.cbranch(builder.icmp_signed(">", left, left.type(0)), rounds, after)
    builder.position_at_end(rounds)
    new = builder.sub(left, left.type(1)), *body(*now)
    builder.branch(head)
    for phi, first, following in zip((left, *now), (times, *values), new):
        phi.add_incoming(first, before)
        phi.add_incoming(following, rounds)
    builder.position_at_end(after)
    return tuple(now)


def _tile(height: int, vectors: int):
    """A function that computes `height` rows of the result, in columns of up to so many vectors."""

    @intrinsic
    def multiply_tile(
        typing_context, left, left_start, left_pitch, left_step, right, right_start, right_pitch, inner,
        result, result_start, result_pitch, columns, bias, bias_start, adds, clips,
    ):  # fmt: skip
        """result [height, columns] = left x right, plus the bias where it `adds`, or 0 where that is below and
        `clips`."""

        def generate(context, builder, signature, arguments):
            (
                left, left_start, left_pitch, left_step, right, right_start, right_pitch, inner,
                result, result_start, result_pitch, columns, bias, bias_start, adds, clips,
            ) = arguments  # fmt: skip
            integer, byte = inner.type, ir.IntType(8).as_pointer()
            lanes = REGISTER_BYTES * 8 // signature.args[0].dtype.bitwidth
            element = context.get_data_type(signature.args[0].dtype)
            vector = ir.VectorType(element, lanes)
            zero, numbers = ir.Constant(vector, None), ir.Constant(ir.VectorType(integer, lanes), list(range(lanes)))

            def constant(value):
                return ir.Constant(integer, value)

            def part(pointer, v):
                return builder.gep(pointer, [constant(v * lanes)])

            masks = [
                builder.icmp_signed("<", numbers, everywhere(builder, builder.sub(columns, constant(v * lanes)), lanes))
                for v in range(vectors)
            ]
            pitch, step = (builder.mul(x, constant(_element_size(element))) for x in (left_pitch, left_step))
            first = builder.bitcast(builder.gep(left, [left_start]), byte)
            anchors = sorted({anchor for anchor, _ in _ANCHORS[:height]})
            distances = {distance: builder.mul(pitch, constant(distance)) for _, distance in _ANCHORS[:height]}
            lefts = [builder.gep(first, [builder.mul(pitch, constant(anchor))]) for anchor in anchors]

            def add_term(line, *state):
                lefts, sums = dict(zip(anchors, state)), state[len(anchors) :]
                factors = [load_lanes(builder, vector, part(line, v), mask) for v, mask in enumerate(masks)]
                totals = []
                for row, (anchor, distance) in enumerate(_ANCHORS[:height]):
                    place = builder.gep(lefts[anchor], [distances[distance]])
                    factor = everywhere(builder, builder.load(builder.bitcast(place, element.as_pointer())), lanes)
                    for other, total in zip(factors, sums[row * vectors :]):
                        totals.append(multiply_add(builder, factor, other, total))
                return builder.gep(line, [right_pitch]), *(builder.gep(p, [step]) for p in lefts.values()), *totals

            state = (builder.gep(right, [right_start]), *lefts, *[zero] * (height * vectors))
            sums = _repeated(builder, inner, add_term, state)[1 + len(anchors) :]
            line = builder.gep(bias, [bias_start])
            addends = [
                load_lanes(builder, vector, part(line, v), builder.and_(mask, everywhere(builder, adds, lanes)))
                for v, mask in enumerate(masks)
            ]
            to = builder.gep(result, [result_start])
            for row in range(height):
                line = builder.gep(to, [builder.mul(result_pitch, constant(row))])
                for v, mask in enumerate(masks):
                    total = sums[row * vectors + v]
                    total = builder.select(adds, builder.fadd(total, addends[v]), total)
                    clipped = builder.select(builder.fcmp_ordered("<", total, zero), zero, total)
                    store_lanes(builder, builder.select(clips, clipped, total), part(line, v), mask)
            return context.get_dummy_value()

        integer, flag = types.intp, types.boolean
        return types.void(
            left, integer, integer, integer, right, integer, integer, integer,
            result, integer, integer, integer, bias, integer, flag, flag,
        ), generate  # fmt: skip

    return multiply_tile


_multiply_tall = _tile(TALL, 2)
_multiply_middle = _tile(MIDDLE, 2)
_multiply_low = _tile(LOW, 2)
_multiply_tall_narrow = _tile(TALL, 1)
_multiply_low_narrow = _tile(LOW, 1)


@intrinsic
def _turn_block(typing_context, source, start, pitch, columns, panel, to, row_step):
    """Rows to, to + row_step, ... of a panel, a vector long and as many: element (k, column) is
    source[start + column * pitch + k]. Of fewer columns than a vector has lanes, the last one fills the rest."""

    def generate(context, builder, signature, arguments):
        source, start, pitch, columns, panel, to, row_step = arguments
        lanes = REGISTER_BYTES * 8 // signature.args[0].dtype.bitwidth
        element, integer = context.get_data_type(signature.args[0].dtype), pitch.type
        last = builder.sub(columns, ir.Constant(integer, 1))
        first = builder.gep(source, [start])

        def line(column, place):
            column = ir.Constant(integer, column)
            column = builder.select(builder.icmp_signed("<", column, last), column, last)
            return builder.gep(first, [builder.add(builder.mul(column, pitch), ir.Constant(integer, place))])

        for i, row in enumerate(transposed(builder, element, line, lanes)):
            place = builder.gep(panel, [builder.add(to, builder.mul(row_step, ir.Constant(integer, i)))])
            builder.store(row, builder.bitcast(place, row.type.as_pointer()), align=_element_size(element))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, integer, panel, integer, integer), generate


@intrinsic
def _keep(typing_context, array):
    """A use of an array by its name, before which it is not freed."""
    return types.void(array), lambda context, builder, signature, arguments: context.get_dummy_value()


@serial_kernel
def _turn_panel(source, start, pitch, columns, inner, panel, width, lanes):
    """A panel [inner, width] of up to `width` columns, each of which is contiguous, `pitch` after the one before."""
    if inner < lanes:
        for column in range(columns):
            for k in range(inner):
                panel[k * width + column] = source[start + column * pitch + k]
        return
    for column in range(0, columns, lanes):
        for next_term in range(0, inner, lanes):
            k = next_term if next_term < inner - lanes else inner - lanes  # the last block overlaps the one before
            place = start + column * pitch + k
            _turn_block(source, place, pitch, columns - column, panel, k * width + column, width)


@serial_kernel
def small_product_kernel(
    left, left_pitch, left_step, right, right_pitch, right_by_columns, bias, clips, result, result_pitch,
    rows, inner, columns,
):  # fmt: skip
    """result [rows, columns] = left x right + bias, or 0 where that is below and `clips`; an empty bias is none.

    Where elements stand in flat memory: (row, k) of left at row * left_pitch + k * left_step; (k, column) of right at
    k * right_pitch + column or, by columns, column * right_pitch + k; (row, column) of result at row * result_pitch +
    column. Panel by panel of right: two vectors' columns, down all rows.
    """
    lanes, width = REGISTER_BYTES // result.itemsize, PANEL_BYTES // result.itemsize
    panel = empty_line(inner * width if right_by_columns else 0, result)
    x, panels, y, line, adds = memory(left), memory(right), memory(result), memory(bias), len(bias) > 0
    step = right_pitch
    if right_by_columns:
        panels, step = memory(panel), width
    for column in range(0, columns, width):
        wide, at = width if width < columns - column else columns - column, column
        if right_by_columns:
            _turn_panel(memory(right), column * right_pitch, right_pitch, wide, inner, panels, width, lanes)
            at = 0
        # A few rows are tiles of one each, whose rows are all the same; others end with a tile that overlaps the last.
        pitch, result_rows = (left_pitch, result_pitch) if rows >= LOW else (0, 0)
        row = 0
        while row < rows:
            rest = rows - row
            tall = rest > (LOW if wide <= lanes else MIDDLE) and rows >= TALL
            middle = not tall and wide > lanes and rest > LOW and rows >= MIDDLE
            height = TALL if tall else MIDDLE if middle else LOW if rows >= LOW else 1
            row = row if rest > height else rows - height
            start, to = row * left_pitch, row * result_pitch + column
            if wide <= lanes:
                if tall:
                    _multiply_tall_narrow(
                        x, start, pitch, left_step, panels, at, step, inner, y, to, result_rows, wide, line, column,
                        adds, clips,
                    )  # fmt: skip
                else:
                    _multiply_low_narrow(
                        x, start, pitch, left_step, panels, at, step, inner, y, to, result_rows, wide, line, column,
                        adds, clips,
                    )  # fmt: skip
            elif tall:
                _multiply_tall(
                    x, start, pitch, left_step, panels, at, step, inner, y, to, result_rows, wide, line, column,
                    adds, clips,
                )  # fmt: skip
            elif middle:
                _multiply_middle(
                    x, start, pitch, left_step, panels, at, step, inner, y, to, result_rows, wide, line, column,
                    adds, clips,
                )  # fmt: skip
            else:
                _multiply_low(
                    x, start, pitch, left_step, panels, at, step, inner, y, to, result_rows, wide, line, column,
                    adds, clips,
                )  # fmt: skip
            row += height
    _keep(panel)
