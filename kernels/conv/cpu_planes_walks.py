"""How 3x3 kernels pass over a plane, a vector of columns at a time from its first row to its last.

Every row is read once: what it adds to the results of this row, the row before and the row after is held in registers
until these are complete. Columns are read by lanes: what lies outside a line is zero without being read. Meanwhile the
plane that comes next is fetched into the cache, a vector a step: lines of a plane that are read downwards are no
stream that the processor would foresee.

The padding is 1 on every side, the stride 1 or 2 along both axes, the weight of tap (row, column) the number 3 row +
column of nine.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_lanes import Vectors

TAPS = 9


class _Walk(Vectors):
    """What the walks share: numbers in slots of which LLVM makes registers, weights, and the columns of a row."""

    def slot(self, value):
        return cgutils.alloca_once_value(self.builder, value)

    def minus(self, value, number):
        return self.builder.sub(value, self.constant(number))

    def dot(self, total, values, weights):
        """total + values x weights"""
        for value, weight in zip(values, weights):
            total = self.plus(total, value, weight)
        return total

    def weights(self, array, start):
        """Row by row, each in all lanes of a vector."""
        numbers = [self.everywhere(self.builder.load(self.at(array, start, self.constant(tap)))) for tap in range(TAPS)]
        return numbers[0:3], numbers[3:6], numbers[6:9]

    def fetch(self, pointer, done, count):
        """The lines of so many vectors after those that are `done` already, counted from the pointer, into the
        cache."""
        number, place = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
        prefetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        hints = [ir.Constant(number, hint) for hint in (0, 3, 1)]  # to be read, into the nearest cache, data
        first = self.builder.load(done)
        for vector in range(count):
            there = self.at(pointer, self.times(first, self.lanes), self.constant(vector * self.lanes))
            self.builder.call(prefetch, [self.builder.bitcast(there, place), *hints])
        self.builder.store(self.add(first, self.constant(count)), done)

    def reader(self, step, column, width, count):
        """A function of where a row starts, and whether there is one, that gives what the three taps of results
        column, column + 1, ... of `count` read of it, which is `width` long."""
        first = self.minus(self.times(column, step), 1)
        bound = self.minus(self.times(count, step), step)  # what results beyond the last would read is zero, too
        before = self.builder.select(self.builder.icmp_signed("<", bound, width), bound, width)
        if step == 1:
            places = [self.add(first, self.constant(tap)) for tap in range(3)]
            masks = [self.inside(places[0], before), *(self.inside(place, width) for place in places[1:])]
        else:
            places = [self.add(first, self.constant(place)) for place in (0, self.lanes, 1, self.lanes + 1)]
            masks = [self.inside(p, bound) for p, bound in zip(places, (before, before, width, width))]
        nothing = ir.Constant(masks[0].type, None)

        def read(row, there):
            loaded = [
                self.load(self.at(row, place), self.builder.select(there, mask, nothing))
                for place, mask in zip(places, masks)
            ]
            if step == 1:
                return loaded
            even, odd = (list(range(parity, 2 * self.lanes, 2)) for parity in (0, 1))
            return [self.chosen(*loaded[:2], even), self.chosen(*loaded[2:], even), self.chosen(*loaded[2:], odd)]

        return read

    def rows(self, count):
        return cgutils.for_range(self.builder, count, intp=ir.IntType(64))

    def columns(self, count):
        """A loop over the columns of `count` results, a vector at a time."""
        return cgutils.for_range_slice(
            self.builder, self.constant(0), count, self.constant(self.lanes), intp=ir.IntType(64)
        )


def _sum_plane(step):
    @intrinsic
    def sum_plane(
        typing_context, source, start, height, width, weight, weight_start, bias, relu, result, to, rows, count
    ):
        """The plane [rows, count] of result from `to` = relu(bias + the 3x3 sums of the plane [height, width])."""

        def generate(context, builder, signature, arguments):
            _, start, height, width, _, weight_start, bias, relu, _, to, rows, count = arguments
            walk = _Walk(context, builder, signature, arguments)
            source, weight, result = walk.data(0, 4, 8)
            weights, biases, finish = walk.weights(weight, weight_start), walk.everywhere(bias), _finish(walk, relu)
            plane, target = walk.at(source, start), walk.at(result, to)
            following, done = walk.at(plane, builder.mul(height, width)), walk.slot(walk.constant(0))
            with walk.columns(count) as (column, _):
                read, mask = walk.reader(step, column, width, count), walk.inside(column, count)

                def store(value, row):
                    walk.store(finish(value), walk.at(target, builder.mul(row, count), column), mask)

                def row_of(number):
                    return walk.at(plane, builder.mul(number, width))

                # Sums of the next row; with a stride of 1, of this one too.
                slots = [walk.slot(biases) for _ in range(3 - step)]
                for slot in slots:
                    builder.store(biases, slot)
                with walk.rows(rows) as loop:
                    walk.fetch(following, done, step * step)
                    if step == 1:
                        values = read(row_of(loop.index), walk.true)
                        above, here = (builder.load(slot) for slot in slots)
                        # The first row completes none: what it writes to its own place is overwritten next.
                        first = builder.icmp_signed("==", loop.index, walk.constant(0))
                        row = builder.select(first, loop.index, walk.minus(loop.index, 1))
                        store(walk.dot(above, values, weights[2]), row)
                        builder.store(walk.dot(here, values, weights[1]), slots[0])
                        builder.store(walk.dot(biases, values, weights[0]), slots[1])
                    else:
                        number = walk.times(loop.index, 2)
                        middle = read(row_of(number), walk.true)
                        number = walk.add(number, walk.constant(1))
                        below = read(row_of(number), builder.icmp_signed("<", number, height))
                        total = walk.dot(builder.load(slots[0]), middle, weights[1])
                        store(walk.dot(total, below, weights[2]), loop.index)
                        builder.store(walk.dot(biases, below, weights[0]), slots[0])
                if step == 1:
                    store(builder.load(slots[0]), walk.minus(rows, 1))
            return context.get_dummy_value()

        integer = types.intp
        return types.void(
            source, integer, integer, integer, weight, integer, bias, types.boolean, result, integer, integer, integer
        ), generate  # fmt: skip

    return sum_plane


sum_plane, sum_plane_by_two = _sum_plane(1), _sum_plane(2)


def _finish(walk, relu):
    """A function that makes negative values 0 if relu."""
    builder = walk.builder
    lowest = ir.Constant(walk.vector, [ir.Constant(walk.vector.element, float("-inf"))] * walk.lanes)
    floor = builder.select(relu, walk.zero, lowest)

    def finish(value):
        return builder.select(builder.fcmp_ordered("<", value, floor), floor, value)  # a NaN stays one

    return finish


@intrinsic
def spread_plane_by_two(
    typing_context, source, start, height, width, weight, weight_start, bias, relu, result, to, rows, count
):
    """The plane [rows, count] of result from `to` = relu(bias + the transpose of sum_plane_by_two on the plane [height,
    width]): of a pair of columns the first one reads tap 1, the second one taps 2 and, of the next column, 0; and so do
    rows."""

    def generate(context, builder, signature, arguments):
        _, start, height, width, _, weight_start, bias, relu, _, to, rows, count = arguments
        walk = _Walk(context, builder, signature, arguments)
        source, weight, result = walk.data(0, 4, 8)
        weights, biases, finish = walk.weights(weight, weight_start), walk.everywhere(bias), _finish(walk, relu)
        plane, target = walk.at(source, start), walk.at(result, to)
        following, done = walk.at(plane, builder.mul(height, width)), walk.slot(walk.constant(0))
        with walk.columns(width) as (column, _):
            there = [walk.add(walk.times(column, 2), walk.constant(half * walk.lanes)) for half in range(2)]
            masks = [walk.inside(place, count) for place in there]
            here = walk.inside(column, width), walk.inside(walk.add(column, walk.constant(1)), width)

            def store(pair, row):
                pair = [finish(value) for value in pair]
                line = walk.at(target, builder.mul(row, count))
                for half, (place, mask) in enumerate(zip(there, masks)):
                    first = half * walk.lanes // 2
                    turns = [first + lane // 2 + lane % 2 * walk.lanes for lane in range(walk.lanes)]
                    walk.store(walk.chosen(*pair, turns), walk.at(line, place), mask)

            def add(pair, values, taps):
                even, odd = pair
                return walk.plus(even, values[0], taps[1]), walk.dot(odd, values, (taps[2], taps[0]))

            slots = [walk.slot(biases) for _ in range(2)]
            for slot in slots:
                builder.store(biases, slot)
            with walk.rows(height) as loop:
                walk.fetch(following, done, 1)
                line = walk.at(plane, builder.mul(loop.index, width), column)
                values = [walk.load(walk.at(line, walk.constant(shift)), mask) for shift, mask in enumerate(here)]
                row = walk.times(loop.index, 2)
                # Before the first row there is none: what is written to its place is overwritten next.
                first = builder.icmp_signed("==", row, walk.constant(0))
                before = builder.select(first, row, walk.minus(row, 1))
                store(add([builder.load(slot) for slot in slots], values, weights[0]), before)
                store(add((biases, biases), values, weights[1]), row)
                for value, slot in zip(add((biases, biases), values, weights[2]), slots):
                    builder.store(value, slot)
            last = walk.minus(walk.times(height, 2), 1)
            with builder.if_then(builder.icmp_signed("<", last, rows)):
                store([builder.load(slot) for slot in slots], last)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        source, integer, integer, integer, weight, integer, bias, types.boolean, result, integer, integer, integer
    ), generate  # fmt: skip


def _add_products(step):
    @intrinsic
    def add_products(typing_context, source, start, height, width, grad, grad_start, rows, count, sums):
        """sums, ten vectors: to the nine first, by lanes, the products of grad's plane [rows, count] and what each tap
        reads of source's plane [height, width]; to the last one the plane's own sum."""

        def generate(context, builder, signature, arguments):
            _, start, height, width, _, grad_start, rows, count, _ = arguments
            walk = _Walk(context, builder, signature, arguments)
            source, grad, sums = walk.data(0, 4, 8)
            plane, grad_plane = walk.at(source, start), walk.at(grad, grad_start)
            following, done = walk.at(plane, builder.mul(height, width)), walk.slot(walk.constant(0))
            # Of this plane alone, to round less.
            totals = [walk.slot(walk.zero) for _ in range(TAPS + 1)]
            for slot in totals:
                builder.store(walk.zero, slot)
            with walk.columns(count) as (column, _):
                read, mask = walk.reader(step, column, width, count), walk.inside(column, count)

                def row_of(number):
                    return walk.at(plane, builder.mul(number, width))

                held = [[walk.slot(walk.zero) for _ in range(3)] for _ in range(3 - step)]  # rows that were read
                start_rows = [[walk.zero] * 3, read(plane, walk.true)][: 3 - step]
                for slots, values in zip(held, start_rows):
                    for slot, value in zip(slots, values):
                        builder.store(value, slot)
                with walk.rows(rows) as loop:
                    walk.fetch(following, done, step * step)
                    values = [[builder.load(slot) for slot in slots] for slots in held]
                    number = walk.times(loop.index, step)
                    if step == 2:
                        values.append(read(row_of(number), walk.true))
                    number = walk.add(number, walk.constant(1))
                    values.append(read(row_of(number), builder.icmp_signed("<", number, height)))
                    line = walk.at(grad_plane, builder.mul(loop.index, count), column)
                    gradient = walk.load(line, mask)
                    for slot, value in zip(totals, [value for row in values for value in row]):
                        builder.store(walk.plus(builder.load(slot), value, gradient), slot)
                    builder.store(builder.fadd(builder.load(totals[TAPS]), gradient), totals[TAPS])
                    for slots, row in zip(held, values[step:]):
                        for slot, value in zip(slots, row):
                            builder.store(value, slot)
            for number, slot in enumerate(totals):
                there = walk.at(sums, walk.constant(number * walk.lanes))
                before = walk.load(there, walk.everywhere(walk.true))
                walk.store(builder.fadd(before, builder.load(slot)), there, walk.everywhere(walk.true))
            return context.get_dummy_value()

        integer = types.intp
        return types.void(
            source, integer, integer, integer, grad, integer, integer, integer, sums
        ), generate  # fmt: skip

    return add_products


add_products, add_products_by_two = _add_products(1), _add_products(2)
