"""The left side of a matrix product, packed: groups of as many rows as the highest tile has, term by term.

A tile that reads its rows where they lie follows a dozen of them through memory; from a group it reads one line, and
multiplies a tenth faster. Packing takes as long as a product with a hundred columns gains.

    groups element (row, k)       groups[row // TALL * TALL * inner + k * TALL + row % TALL]

Lines are stored as whole vectors, whose end the next line overwrites: behind the last group there must be room for one
more vector. The group of the last rows repeats the last row, or what lies behind it, where there are no more.
"""

from __future__ import annotations

from functools import lru_cache

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .cpu_jit import serial_kernel
from .cpu_product import (
    LOW,
    MIDDLE,
    PANEL_BYTES,
    REGISTER_BYTES,
    TALL,
    copy_vector,
    multiply_low,
    multiply_middle,
    multiply_tall,
    transposed,
)
from .cpu_vectors import data_of, load, store

_PACKING = 14  # multiply-adds in whose time an element is packed
_TOGETHER = 8  # groups packed at once where columns are contiguous: more of each column is read on end


@intrinsic
def _pack_block(typing_context, source, start, pitch, last_row, groups, to):
    """As many terms of a group as a vector register holds elements: row r's from source[start + r * pitch], where rows
    after last_row are that one again."""

    def generate(context, builder, signature, arguments):
        source, groups = data_of(context, builder, signature, arguments, 0, 4)
        _, start, pitch, last_row, _, to = arguments
        lanes = REGISTER_BYTES * 8 // signature.args[0].dtype.bitwidth
        vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes)

        def place(row, k):
            row = ir.Constant(pitch.type, row)
            row = builder.select(builder.icmp_signed("<", row, last_row), row, last_row)
            offset = builder.add(start, builder.mul(row, pitch))
            return builder.gep(source, [builder.add(offset, ir.Constant(pitch.type, k))])

        # From the last rows down: where these are fewer than a vector's lanes, what it holds beyond is overwritten.
        for first in reversed(range(0, TALL, lanes)):

            def line(row, k, first=first):
                return place(first + row, k) if first + row < TALL else None

            for k, terms in enumerate(transposed(builder, vector.element, line, lanes)):
                store(builder, terms, groups, builder.add(to, ir.Constant(to.type, k * TALL + first)))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, integer, groups, integer), generate


@intrinsic
def _copy_lines(typing_context, source, start, groups, to, group_size):
    """A line of each of `_TOGETHER` groups, from lines that follow one another."""

    def generate(context, builder, signature, arguments):
        source, groups = data_of(context, builder, signature, arguments, 0, 2)
        _, start, _, to, group_size = arguments
        lanes = REGISTER_BYTES * 8 // signature.args[0].dtype.bitwidth
        vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes)
        for group in range(_TOGETHER):
            for lane in range(0, TALL, lanes):
                value = load(builder, vector, source, builder.add(start, start.type(group * TALL + lane)))
                store(builder, value, groups, builder.add(to, to.type(lane)))
            to = builder.add(to, group_size)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, groups, integer, integer), generate


@serial_kernel
def pack_groups(left, start, row_pitch, step, rows, terms, groups):
    """Groups of a matrix whose element (row, k) is left[start + row * row_pitch + k * step]; one of both is 1."""
    lanes = REGISTER_BYTES // left.itemsize
    if step == 1 and terms >= lanes:
        for row in range(0, rows, TALL):
            first, to, last_row = start + row * row_pitch, row * terms, min(TALL, rows - row) - 1
            for next_term in range(0, terms, lanes):
                k = min(next_term, terms - lanes)
                _pack_block(left, first + k, row_pitch, last_row, groups, to + k * TALL)
        return
    line = (TALL + lanes - 1) // lanes * lanes
    for first_row in range(0, rows, _TOGETHER * TALL):
        last_row = min(first_row + _TOGETHER * TALL, rows)
        last_group = (last_row - first_row - 1) // TALL * TALL
        for k in range(terms):
            place, to = start + first_row * row_pitch + k * step, first_row * terms + k * TALL
            # What lies behind a group's last line may be packed already.
            in_vectors = row_pitch == 1 and k < terms - 1 and place + last_group + line <= len(left)
            if in_vectors and last_row - first_row == _TOGETHER * TALL:
                _copy_lines(left, place, groups, to, TALL * terms)
                continue
            for row in range(first_row, last_row, TALL):
                if in_vectors:
                    for lane in range(0, TALL, lanes):
                        copy_vector(left, place + lane, groups, to + lane)
                else:
                    for r in range(TALL):
                        groups[to + r] = left[place + min(r, rows - row - 1) * row_pitch]
                place, to = place + TALL * row_pitch, to + TALL * terms


@serial_kernel
def multiply_groups(
    groups, rows, panels, panels_start, panel_step, row_step, inner, panel_count,
    result, result_start, result_pitch, add,
):  # fmt: skip
    """Packed rows times whole panels, to result or added to it, as `multiply_panels` has it; but group by group, across
    all panels: a group stays in the nearest cache, and rows of the result are written from left to right."""
    multiply_groups_ahead(
        groups, rows, panels, panels_start, panel_step, row_step, inner, panel_count, result, result_start,
        result_pitch, add, panels, panels_start, 0, 0, 0,
    )  # fmt: skip


@serial_kernel
def multiply_groups_ahead(
    groups, rows, panels, panels_start, panel_step, row_step, inner, panel_count,
    result, result_start, result_pitch, add, ahead, ahead_start, ahead_step, ahead_part, ahead_parts,
):  # fmt: skip
    """`multiply_groups` that asks meanwhile for the memory of what will be packed next: for a part of it with each
    tile, as `multiply_tile` has it; the `ahead_parts` parts begin ahead_part apart."""
    width = PANEL_BYTES // result.itemsize
    for row in range(0, rows, TALL):
        count, group = rows - row, row * (inner - 1)
        for p in range(panel_count):
            start, to = panels_start + p * panel_step, result_start + p * width
            if count > MIDDLE:
                part = row // TALL + p if row // TALL + p < ahead_parts else 0
                multiply_tall(
                    groups, group, None, row, min(count, TALL), panels, start, row_step, inner, result, to,
                    result_pitch, add, TALL, ahead, ahead_start + part * ahead_part, ahead_step,
                )  # fmt: skip
            elif count > LOW:
                multiply_middle(
                    groups, group, None, row, count, panels, start, row_step, inner, result, to, result_pitch, add, TALL
                )
            else:
                multiply_low(
                    groups, group, None, row, count, panels, start, row_step, inner, result, to, result_pitch, add, TALL
                )


@lru_cache(maxsize=1024)
def shares(threads, rows, columns, width):
    """(parts of the rows, parts of the columns), a part a thread, so that the thread with most to do has least: to
    multiply, and to pack of both sides. Parts are whole groups of rows and whole panels of columns."""
    groups, panels = -(-rows // TALL), -(-columns // width)

    def longest(row_parts):
        high, wide = -(-groups // row_parts) * TALL, -(-panels // min(threads // row_parts, panels)) * width
        return high * wide + _PACKING * (high + wide)

    row_parts = min(range(1, min(threads, groups) + 1), key=longest)
    return row_parts, min(threads // row_parts, panels)
