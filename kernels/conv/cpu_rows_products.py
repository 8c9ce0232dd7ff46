"""Vectors of columns for `cpu_rows.py`: rows combined, products of what they became, and rows of results from these.

Coefficients lie in memory and are broadcast from there, so that one kernel serves all sorts of patches.
"""

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu_product import prefetch
from .cpu_lanes import Vectors

MOST_ROWS = 6  # that a patch has
MOST_RESULTS = 4  # rows of results that it gives
ACROSS = 3  # vectors of positions, at most, whose sums stay in registers, of
RESULTS = 8 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 4  # results


@intrinsic
def combine_rows(typing_context, source, places, shift, factors, first, count, length, target, to, step):
    """`count` lines of target, `step` apart from `to` on, of `length` rounded up to whole vectors: line q is the sum
    over the six rows r of factors[first + q, r] times the line at source[places[r] + shift]."""

    def generate(context, builder, signature, arguments):
        _, _, shift, _, first, count, length, _, to, step = arguments
        vectors = Vectors(context, builder, signature, arguments)
        source, places, factors, target = vectors.data(0, 1, 3, 7)
        lines = [
            vectors.at(source, shift, builder.load(vectors.at(places, vectors.constant(r)))) for r in range(MOST_ROWS)
        ]
        with cgutils.for_range_slice(builder, vectors.constant(0), length, vectors.constant(vectors.lanes)) as (at, _):
            rows = [vectors.whole(vectors.at(line, at)) for line in lines]
            with cgutils.for_range(builder, count, intp=ir.IntType(64)) as line:
                factor = vectors.times(builder.add(first, line.index), MOST_ROWS)
                total = vectors.zero
                for r, row in enumerate(rows):
                    number = builder.load(vectors.at(factors, factor, vectors.constant(r)))
                    total = vectors.plus(total, vectors.everywhere(number), row)
                vectors.put(total, vectors.at(target, to, at, builder.mul(line.index, step)))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        source, places, integer, factors, integer, integer, integer, target, integer, integer
    ), generate  # fmt: skip


def _product(across):
    @intrinsic
    def multiply_lines(typing_context, weights, start, lines, base, places, first, count, sums, to):
        """sums[to + (r, i)] = the sum over `count` terms t of weights[start + t * RESULTS + r] * lines[base +
        places[first + t] + i], for RESULTS results r and `across` vectors of positions i; sums have room for ACROSS."""

        def generate(context, builder, signature, arguments):
            _, start, _, base, _, first, count, _, to = arguments
            vectors = Vectors(context, builder, signature, arguments)
            weights, lines, places, sums = vectors.data(0, 2, 4, 7)
            parts = [vectors.constant(v * vectors.lanes) for v in range(across)]
            # Stack slots of which LLVM makes registers.
            slots = [[cgutils.alloca_once_value(builder, vectors.zero) for _ in parts] for _ in range(RESULTS)]
            for row in slots:
                for slot in row:
                    builder.store(vectors.zero, slot)
            lines, places, weights = (
                vectors.at(pointer, offset) for pointer, offset in ((lines, base), (places, first), (weights, start))
            )
            with cgutils.for_range(builder, count, intp=ir.IntType(64)) as term:
                place = vectors.at(lines, builder.load(vectors.at(places, term.index)))
                columns = [vectors.whole(vectors.at(place, part)) for part in parts]
                factors = vectors.at(weights, vectors.times(term.index, RESULTS))
                for r, row in enumerate(slots):
                    factor = vectors.everywhere(builder.load(vectors.at(factors, vectors.constant(r))))
                    for slot, column in zip(row, columns):
                        builder.store(vectors.plus(builder.load(slot), factor, column), slot)
            for r, row in enumerate(slots):
                for slot, part in zip(row, parts):
                    line = vectors.constant(r * ACROSS * vectors.lanes)
                    vectors.put(builder.load(slot), vectors.at(sums, to, line, part))
            return context.get_dummy_value()

        integer = types.intp
        return types.void(
            weights, integer, lines, integer, places, integer, integer, sums, integer
        ), generate  # fmt: skip

    return multiply_lines


multiply_one, multiply_two, multiply_three = (_product(across) for across in (1, 2, 3))


@intrinsic
def ask_for_rows(typing_context, result, to, pitch, rows, length):
    """Asks early for the memory of `rows` lines of `length` results, `pitch` apart from `to` on, to write them."""

    def generate(context, builder, signature, arguments):
        _, to, pitch, rows, length = arguments
        vectors = Vectors(context, builder, signature, arguments)
        (result,) = vectors.data(0)
        with cgutils.for_range(builder, rows, intp=ir.IntType(64)) as row:
            line = vectors.at(result, to, builder.mul(row.index, pitch))
            step = vectors.constant(vectors.lanes)
            with cgutils.for_range_slice(builder, vectors.constant(0), length, step) as (at, _):
                prefetch(builder, vectors.at(line, at), to_write=True)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(result, integer, integer, integer, integer), generate


@intrinsic
def finish_rows(
    typing_context, sums, start, step, lines, factors, bias, relu, length, result, to, pitch, rows
):  # fmt: skip
    """`rows` lines of `length` results, `pitch` apart from `to` on: line i is activation(bias + the sum over q <
    `lines` of factors[q, i] times the line at sums[start + q * step])."""

    def generate(context, builder, signature, arguments):
        _, start, step, lines, _, bias, relu, length, _, to, pitch, rows = arguments
        vectors = Vectors(context, builder, signature, arguments)
        sums, factors, result = vectors.data(0, 4, 8)
        biases, positive = vectors.everywhere(bias), vectors.everywhere(relu)
        slots = [cgutils.alloca_once_value(builder, vectors.zero) for _ in range(MOST_RESULTS)]
        with cgutils.for_range_slice(builder, vectors.constant(0), length, vectors.constant(vectors.lanes)) as (at, _):
            mask = vectors.inside(at, length)
            for slot in slots:
                builder.store(biases, slot)
            with cgutils.for_range(builder, lines, intp=ir.IntType(64)) as line:
                value = vectors.whole(vectors.at(sums, start, at, builder.mul(line.index, step)))
                for i, slot in enumerate(slots):
                    factor = builder.load(
                        vectors.at(factors, vectors.times(line.index, MOST_RESULTS), vectors.constant(i))
                    )
                    builder.store(vectors.plus(builder.load(slot), vectors.everywhere(factor), value), slot)
            for i, slot in enumerate(slots):
                with builder.if_then(builder.icmp_signed("<", vectors.constant(i), rows)):
                    value = builder.load(slot)
                    negative = builder.and_(builder.fcmp_ordered("<", value, vectors.zero), positive)
                    value = builder.select(negative, vectors.zero, value)  # a NaN stays one
                    vectors.store(value, vectors.at(result, to, at, vectors.times(pitch, i)), mask)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        sums, integer, integer, integer, factors, bias, types.boolean, integer, result, integer, integer, integer
    ), generate  # fmt: skip
