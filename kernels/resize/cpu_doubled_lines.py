"""Lines whose length doubles when they are resized, in vectors: forward, the even and the odd elements of the longer
line are weighted sums of neighbours in the shorter one; backward, sums of longer lines are taken apart into the two.

Lines are named as in `cpu_lines.py`, and what is left over after whole vectors overlaps the one before here too.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel
from ..cpu_lines import lanes_of, vector_of
from ..cpu_vectors import everywhere, load, multiply_add, store


def _shuffled(builder, first, second, lanes):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), first.type.count), lanes)
    return builder.shuffle_vector(first, second, mask)


def _places(builder, start, count, step):
    """start, start + step, ..., of `count` places."""
    return [builder.add(start, ir.Constant(start.type, i * step)) for i in range(count)]


def _doubled(parts):
    @intrinsic
    def doubled(typing_context, source, start, weights, target, to):
        """target[to + 2 lane] = sum of weights[t] * source[start + lane + t] over the first half of the tuple, and
        target[to + 2 lane + 1] = that of source[start + lane + 1 + t] with the second half."""

        def generate(context, builder, signature, arguments):
            source, start, weights, target, to = arguments
            vector = vector_of(context, signature.args[0], parts)
            weights = [everywhere(builder, weight, vector.count) for weight in cgutils.unpack_tuple(builder, weights)]
            taps = len(weights) // 2
            neighbours = [load(builder, vector, source, place) for place in _places(builder, start, taps + 1, 1)]
            sums = []
            for phase in range(2):
                factors, lines = weights[phase * taps : (phase + 1) * taps], neighbours[phase : phase + taps]
                total = builder.fmul(factors[0], lines[0])
                for factor, line in zip(factors[1:], lines[1:]):
                    total = multiply_add(builder, factor, line, total)
                sums.append(total)
            for half, place in enumerate(_places(builder, to, 2, vector.count)):
                first = half * vector.count // 2
                lanes = [first + lane // 2 + lane % 2 * vector.count for lane in range(vector.count)]
                store(builder, _shuffled(builder, *sums, lanes), target, place)
            return context.get_dummy_value()

        return types.void(source, types.intp, weights, target, types.intp), generate

    return doubled


_doubled_vector, _doubled_half = _doubled(1), _doubled(2)


@serial_kernel
def double_line(source, start, weights, target, to, length):
    """target[to + 2 i + p] = sum over t of weights[p * taps + t] * source[start + i + p + t] for i < length; weights: a
    tuple of 2 taps numbers."""
    lanes = lanes_of(source)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _doubled_vector(source, start + i, weights, target, to + 2 * i)
        if length % lanes:
            _doubled_vector(source, start + length - lanes, weights, target, to + 2 * (length - lanes))
    elif length >= lanes // 2:
        _doubled_half(source, start, weights, target, to)
        _doubled_half(source, start + length - lanes // 2, weights, target, to + 2 * (length - lanes // 2))
    else:
        taps = len(weights) // 2
        for i in range(length):
            for phase in range(2):
                total = weights[phase * taps] * source[start + i + phase]
                for t in range(1, taps):
                    total += weights[phase * taps + t] * source[start + i + phase + t]
                target[to + 2 * i + phase] = total


def _halved(parts, together):
    @intrinsic
    def halved(typing_context, source, offsets, weights, count, place, target, even, odd):
        """target[even + lane], target[odd + lane] = the sums over t < count of weights[t] * source[offsets[t] + place +
        2 lane] and of the elements behind these; where `together`, target[even + lane] is the sum of both."""

        def generate(context, builder, signature, arguments):
            source, offsets, weights, count, place, target, even, odd = arguments
            vector = vector_of(context, signature.args[0], parts)
            halves = [cgutils.alloca_once(builder, vector) for _ in range(2)]

            def terms(t):
                start = builder.add(builder.load(builder.gep(offsets, [t])), place)
                factor = everywhere(builder, builder.load(builder.gep(weights, [t])), vector.count)
                lines = [load(builder, vector, source, at) for at in _places(builder, start, 2, vector.count)]
                return factor, lines

            zero, one = ir.Constant(count.type, 0), ir.Constant(count.type, 1)
            # The first term is no sum with 0: what has weight 1 comes out to the bit.
            factor, lines = terms(zero)
            for slot, line in zip(halves, lines):
                builder.store(builder.fmul(factor, line), slot)
            with cgutils.for_range_slice(builder, one, count, one) as (t, _):
                factor, lines = terms(t)
                for slot, line in zip(halves, lines):
                    builder.store(multiply_add(builder, factor, line, builder.load(slot)), slot)
            lower, upper = (builder.load(slot) for slot in halves)
            phases = [_shuffled(builder, lower, upper, list(range(phase, 2 * vector.count, 2))) for phase in range(2)]
            if together:
                store(builder, builder.fadd(*phases), target, even)
            else:
                for phase, to in zip(phases, (even, odd)):
                    store(builder, phase, target, to)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, offsets, weights, integer, integer, target, integer, integer), generate

    return halved


_halved_vector, _halved_half = _halved(1, False), _halved(2, False)
_pairs_vector, _pairs_half = _halved(1, True), _halved(2, True)


@serial_kernel
def halve_lines(source, offsets, weights, count, target, even, odd, length):
    """target[even + i], target[odd + i] = the sums over t < count, at least one, of weights[t] * source[offsets[t] +
    2 i] and of the elements behind these, for i < length."""
    lanes = lanes_of(source)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _halved_vector(source, offsets, weights, count, 2 * i, target, even + i, odd + i)
        if length % lanes:
            rest = length - lanes
            _halved_vector(source, offsets, weights, count, 2 * rest, target, even + rest, odd + rest)
    elif length >= lanes // 2:
        rest = length - lanes // 2
        _halved_half(source, offsets, weights, count, 0, target, even, odd)
        _halved_half(source, offsets, weights, count, 2 * rest, target, even + rest, odd + rest)
    else:
        for i in range(length):
            for phase, to in ((0, even), (1, odd)):
                total = weights[0] * source[offsets[0] + 2 * i + phase]
                for t in range(1, count):
                    total += weights[t] * source[offsets[t] + 2 * i + phase]
                target[to + i] = total


@serial_kernel
def add_pairs_of_lines(source, offsets, weights, count, target, to, length):
    """target[to + i] = the sum over t < count, at least one, of weights[t] * (source[offsets[t] + 2 i] + the element
    behind it), for i < length."""
    lanes = lanes_of(source)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _pairs_vector(source, offsets, weights, count, 2 * i, target, to + i, 0)
        if length % lanes:
            _pairs_vector(source, offsets, weights, count, 2 * (length - lanes), target, to + length - lanes, 0)
    elif length >= lanes // 2:
        rest = length - lanes // 2
        _pairs_half(source, offsets, weights, count, 0, target, to, 0)
        _pairs_half(source, offsets, weights, count, 2 * rest, target, to + rest, 0)
    else:
        for i in range(length):
            total = weights[0] * source[offsets[0] + 2 * i] + weights[0] * source[offsets[0] + 2 * i + 1]
            for t in range(1, count):
                total += weights[t] * source[offsets[t] + 2 * i] + weights[t] * source[offsets[t] + 2 * i + 1]
            target[to + i] = total


def _twice(parts):
    @intrinsic
    def twice(typing_context, source, start, target, to, again):
        """target[to + 2 lane], the element behind it, and the same from `again` on = source[start + lane]."""

        def generate(context, builder, signature, arguments):
            source, start, target, *lines = arguments
            vector = vector_of(context, signature.args[0], parts)
            line = load(builder, vector, source, start)
            for half in range(2):
                lanes = [half * vector.count // 2 + lane // 2 for lane in range(vector.count)]
                pairs = _shuffled(builder, line, line, lanes)
                for to in lines:
                    store(builder, pairs, target, builder.add(to, ir.Constant(to.type, half * vector.count)))
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, integer, target, integer, integer), generate

    return twice


_twice_vector, _twice_half = _twice(1), _twice(2)


@serial_kernel
def repeat_line(source, start, target, to, again, length):
    """target[to + 2 i], the element behind it, and the same from `again` on = source[start + i] for i < length."""
    lanes = lanes_of(source)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _twice_vector(source, start + i, target, to + 2 * i, again + 2 * i)
        if length % lanes:
            rest = length - lanes
            _twice_vector(source, start + rest, target, to + 2 * rest, again + 2 * rest)
    elif length >= lanes // 2:
        rest = length - lanes // 2
        _twice_half(source, start, target, to, again)
        _twice_half(source, start + rest, target, to + 2 * rest, again + 2 * rest)
    else:
        for i in range(length):
            for k in range(2 * i, 2 * i + 2):
                target[to + k] = target[again + k] = source[start + i]
