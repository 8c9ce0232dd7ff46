"""Tiles of the sums in `cpu_images.py`: every vector holds one position of as many images as it has lanes."""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_lanes import Vectors

RESULTS, ACROSS = 6, 4  # channels of results, and positions or terms, whose sums are in registers at once


class _Tile:
    """What both tiles share: 6 x 4 sums, of which those too many repeat the last one."""

    def __init__(self, context, builder, signature, arguments):
        self.builder = builder
        self.vectors = Vectors(context, builder, signature, arguments)
        self.sums = [
            [cgutils.alloca_once_value(builder, self.vectors.zero) for _ in range(ACROSS)] for _ in range(RESULTS)
        ]

    def first(self, start, count, most):
        """start, start + 1, ..., none beyond start + count - 1."""
        last = self.builder.sub(count, self.vectors.constant(1))
        numbers = [self.vectors.constant(i) for i in range(most)]
        return [
            self.vectors.add(start, self.builder.select(self.builder.icmp_signed("<", n, last), n, last))
            for n in numbers
        ]

    def load(self, array, *offsets):
        pointer = self.builder.bitcast(self.vectors.at(array, *offsets), self.vectors.vector.as_pointer())
        return self.builder.load(pointer, align=4)

    def store(self, value, array, *offsets):
        pointer = self.builder.bitcast(self.vectors.at(array, *offsets), self.vectors.vector.as_pointer())
        self.builder.store(value, pointer, align=4)

    def multiply(self, lefts, rights):
        """sums += lefts x rights, pair by pair."""
        for left, slots in zip(lefts, self.sums):
            for right, slot in zip(rights, slots):
                self.builder.store(self.vectors.plus(self.builder.load(slot), left, right), slot)


@intrinsic
def sum_images(typing_context, frame, table, inner, places, place, count, weight, weight_start, rows, sums, to, pitch):
    """`rows` results (6 at most) at `count` positions (4 at most), a vector each, from the terms that `table` finds.

    Args:
        frame: term k of position p is the vector at places[p] + table[k], for p from `place` on.
        weight: of result r and term k at weight_start + r * inner + k.
        sums: result r at position p goes to to + r * pitch + p * lanes.
    """

    def generate(context, builder, signature, arguments):
        _, _, inner, _, place, count, _, weight_start, rows, _, to, pitch = arguments
        tile = _Tile(context, builder, signature, arguments)
        vectors = tile.vectors
        frame, table, places, weight, sums = vectors.data(0, 1, 3, 6, 9)
        positions = tile.first(place, count, ACROSS)
        results = tile.first(vectors.constant(0), rows, RESULTS)
        starts = [vectors.at(frame, builder.load(vectors.at(places, position))) for position in positions]
        weights = [vectors.at(weight, weight_start, builder.mul(result, inner)) for result in results]
        with cgutils.for_range(builder, inner) as term:
            shift = builder.load(vectors.at(table, term.index))
            rights = [tile.load(start, shift) for start in starts]
            tile.multiply([vectors.everywhere(builder.load(vectors.at(w, term.index))) for w in weights], rights)
        for result, slots in zip(results, tile.sums):
            for position, slot in zip(positions, slots):
                there = vectors.times(position, vectors.lanes)
                tile.store(builder.load(slot), sums, to, builder.mul(result, pitch), there)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        frame, table, integer, places, integer, integer, weight, integer, integer, sums, integer, integer
    ), generate  # fmt: skip


@intrinsic
def sum_positions(
    typing_context, frame, table, term, count, inner, places, positions, grad, grad_start, rows, sums, to, add
):
    """The gradients, by lanes, of `rows` results' weights (6 at most) for `count` terms (4 at most) from `term` on.

    Args:
        frame, table, places: as in sum_images, for all `positions`.
        grad: that of result r at position p is the vector at grad_start + (r * positions + p) * lanes.
        sums: of result r and term k go to to + (r * inner + k) * lanes, or are added there.
    """

    def generate(context, builder, signature, arguments):
        _, _, term, count, inner, _, positions, _, grad_start, rows, _, to, add = arguments
        tile = _Tile(context, builder, signature, arguments)
        vectors = tile.vectors
        frame, table, places, grad, sums = vectors.data(0, 1, 5, 7, 10)
        terms = tile.first(term, count, ACROSS)
        results = tile.first(vectors.constant(0), rows, RESULTS)
        starts = [vectors.at(frame, builder.load(vectors.at(table, k))) for k in terms]
        pitch = vectors.times(positions, vectors.lanes)
        grads = [vectors.at(grad, grad_start, builder.mul(result, pitch)) for result in results]
        with cgutils.for_range(builder, positions) as position:
            shift = builder.load(vectors.at(places, position.index))
            there = vectors.times(position.index, vectors.lanes)
            tile.multiply([tile.load(g, there) for g in grads], [tile.load(start, shift) for start in starts])
        targets = [
            [vectors.add(to, vectors.times(vectors.add(builder.mul(result, inner), k), vectors.lanes)) for k in terms]
            for result in results
        ]
        with builder.if_then(add):  # all are read before one is written, because the last one may stand here twice
            before = [[tile.load(sums, target) for target in row] for row in targets]
            for values, slots in zip(before, tile.sums):
                for value, slot in zip(values, slots):
                    builder.store(builder.fadd(value, builder.load(slot)), slot)
        for row, slots in zip(targets, tile.sums):
            for target, slot in zip(row, slots):
                tile.store(builder.load(slot), sums, target)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        frame, table, integer, integer, integer, places, integer, grad, integer, integer, sums, integer, types.boolean
    ), generate  # fmt: skip
