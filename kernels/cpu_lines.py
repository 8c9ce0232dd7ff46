"""Lines of neighbouring elements inside CPU kernels: weighted sums of several lines, and lines taken apart into phases.

With a step of s, element i of a line belongs to phase i % s: what a window reads that moves by s lies side by side
within a phase, and so fits into vector registers; over every s-th element Numba's own loops do not use them.

A line is named by the memory it lies in, `memory(array)`, and the element it starts at: where lines are short, handing
arrays on would take longer than the line, because each hand counts its references. Only arrays that the kernel was
called with may be used like this; one that it makes itself would be freed after its last use by name.

What is left over after whole vectors goes as one more that overlaps the one before: no line may be written over what is
read. All lines of a call are of one type.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from .cpu_jit import serial_kernel
from .cpu_product import REGISTER_BYTES, prefetch
from .cpu_vectors import everywhere, load, store


@intrinsic
def memory(typing_context, array):
    """The elements of a C-contiguous array, as one line: memory(array)[i]."""

    def generate(context, builder, signature, arguments):
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def empty_line(typing_context, count, like):
    """A new array of so many elements of another's type, whatever they are: `np.empty` in a tenth of a second less of
    compilation."""
    kind = types.Array(like.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        size = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
        owner = context.nrt.meminfo_alloc_aligned(
            builder, size=builder.mul(arguments[0], size), align=context.get_constant(types.uint32, REGISTER_BYTES)
        )
        line = context.make_array(kind)(context, builder)
        data = builder.bitcast(context.nrt.meminfo_data(builder, owner), line.data.type)
        populate_array(line, data=data, shape=arguments[:1], strides=[size], itemsize=size, meminfo=owner)
        return line._getvalue()

    return kind(types.intp, like), generate


@intrinsic
def lanes_of(typing_context, line):
    """How many of the line's elements a vector register holds."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(ir.IntType(64), REGISTER_BYTES * 8 // signature.args[0].dtype.bitwidth)

    return types.intp(line), generate


@intrinsic
def lowest_of(typing_context, line):
    """-inf, in the line's type."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_data_type(signature.return_type), float("-inf"))

    return line.dtype(line), generate


@intrinsic
def zero_of(typing_context, line):
    """0, in the line's type."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_data_type(signature.return_type), 0.0)

    return line.dtype(line), generate


@intrinsic
def ask_for(typing_context, line, start, count):
    """Asks memory for line[start] up to line[start + count], which will soon be read: the second cache shall have them.
    There need be no such elements."""

    def generate(context, builder, signature, arguments):
        line, start, count = arguments
        step = ir.Constant(count.type, REGISTER_BYTES * 8 // signature.args[0].dtype.bitwidth)
        with cgutils.for_range_slice(builder, ir.Constant(count.type, 0), count, step) as (place, _):
            prefetch(builder, builder.gep(line, [builder.add(start, place)]))
        return context.get_dummy_value()

    return types.void(line, types.intp, types.intp), generate


def vector_of(context, line, parts):
    """The type of a register full of the line's elements, or of a half or a quarter of them, but at least one."""
    lanes = REGISTER_BYTES * 8 // line.dtype.bitwidth // parts
    return ir.VectorType(context.get_data_type(line.dtype), max(lanes, 1))


def _sum_of_few(parts):
    @intrinsic
    def sum_of_few(typing_context, source, offsets, weights, place, target, to):
        """target[to + lane] = sum of weights[t] * source[offsets[t] + place + lane]; offsets, weights: tuples."""

        def generate(context, builder, signature, arguments):
            source, offsets, weights, place, target, to = arguments
            vector, total = vector_of(context, signature.args[0], parts), None
            for offset, weight in zip(cgutils.unpack_tuple(builder, offsets), cgutils.unpack_tuple(builder, weights)):
                weight = context.cast(builder, weight, signature.args[2].dtype, signature.args[0].dtype)
                line = load(builder, vector, source, builder.add(offset, place))
                product = builder.fmul(line, everywhere(builder, weight, vector.count), flags=("contract",))
                total = builder.fadd(total, product, flags=("contract",)) if total else product
            store(builder, total, target, to)
            return context.get_dummy_value()

        return types.void(source, offsets, weights, types.intp, target, types.intp), generate

    return sum_of_few


_few_vector, _few_half, _few_quarter = (_sum_of_few(parts) for parts in (1, 2, 4))


@serial_kernel
def sum_of_few_lines(source, offsets, weights, target, to, length):
    """target[to + i] = sum over t of weights[t] * source[offsets[t] + i], in the order of t; offsets and weights are
    tuples, whose elements stay in registers along the line."""
    lanes = lanes_of(source)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _few_vector(source, offsets, weights, i, target, to + i)
        if length % lanes:
            _few_vector(source, offsets, weights, length - lanes, target, to + length - lanes)
    elif length >= lanes // 2:
        _few_half(source, offsets, weights, 0, target, to)
        _few_half(source, offsets, weights, length - lanes // 2, target, to + length - lanes // 2)
    elif lanes >= 4 and length >= lanes // 4:
        _few_quarter(source, offsets, weights, 0, target, to)
        _few_quarter(source, offsets, weights, length - lanes // 4, target, to + length - lanes // 4)
    else:
        for i in range(length):
            total = weights[0] * source[offsets[0] + i]
            for t in range(1, len(offsets)):
                total += weights[t] * source[offsets[t] + i]
            target[to + i] = total


def _sum_of_many(parts):
    @intrinsic
    def sum_of_many(typing_context, source, offsets, first, weights, count, place, target, to):
        """target[to + lane] = sum over first <= t < first + count of weights[t] * source[offsets[t] + place + lane]."""

        def generate(context, builder, signature, arguments):
            source, offsets, first, weights, count, place, target, to = arguments
            vector = vector_of(context, signature.args[0], parts)

            def term(t):
                line = load(builder, vector, source, builder.add(builder.load(builder.gep(offsets, [t])), place))
                return line, everywhere(builder, builder.load(builder.gep(weights, [t])), vector.count)

            # The first term is no sum with 0: a single line with weight 1 is copied to the bit.
            total = cgutils.alloca_once_value(builder, builder.fmul(*term(first)))
            one = ir.Constant(first.type, 1)
            with cgutils.for_range_slice(builder, builder.add(first, one), builder.add(first, count), one) as (t, _):
                product = builder.fmul(*term(t), flags=("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
            store(builder, builder.load(total), target, to)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, offsets, integer, weights, integer, integer, target, integer), generate

    return sum_of_many


_many_vector, _many_half, _many_quarter = (_sum_of_many(parts) for parts in (1, 2, 4))


@serial_kernel
def _sum_of_many_lines(source, offsets, first, weights, count, target, to, length):
    lanes = lanes_of(source)
    if length >= lanes:
        for i in range(0, length - lanes + 1, lanes):
            _many_vector(source, offsets, first, weights, count, i, target, to + i)
        if length % lanes:
            _many_vector(source, offsets, first, weights, count, length - lanes, target, to + length - lanes)
    elif length >= lanes // 2:
        _many_half(source, offsets, first, weights, count, 0, target, to)
        rest = length - lanes // 2
        _many_half(source, offsets, first, weights, count, rest, target, to + rest)
    elif lanes >= 4 and length >= lanes // 4:
        _many_quarter(source, offsets, first, weights, count, 0, target, to)
        rest = length - lanes // 4
        _many_quarter(source, offsets, first, weights, count, rest, target, to + rest)
    else:
        for i in range(length):
            total = weights[first] * source[offsets[first] + i]
            for t in range(first + 1, first + count):
                total += weights[t] * source[offsets[t] + i]
            target[to + i] = total


@serial_kernel
def weighted_sum_line(source, offsets, first, weights, count, target, to, length):
    """target[to + i] = sum of weights[t] * source[offsets[t] + i] over the `count` t from `first` on, at least one, in
    their order."""
    o, w = offsets, weights
    if count == 1:
        sum_of_few_lines(source, (o[first],), (w[first],), target, to, length)
    elif count == 2:
        sum_of_few_lines(source, (o[first], o[first + 1]), (w[first], w[first + 1]), target, to, length)
    elif count == 3:
        sum_of_few_lines(
            source, (o[first], o[first + 1], o[first + 2]), (w[first], w[first + 1], w[first + 2]), target, to, length
        )  # fmt: skip
    elif count == 4:
        sum_of_few_lines(
            source, (o[first], o[first + 1], o[first + 2], o[first + 3]),
            (w[first], w[first + 1], w[first + 2], w[first + 3]), target, to, length,
        )  # fmt: skip
    else:
        _sum_of_many_lines(source, offsets, first, weights, count, target, to, length)


@intrinsic
def _largest_of_vectors(typing_context, source, start, count):
    """The largest of source[start...], not below -inf and no NaN, over `count` elements, at least a vector of them."""

    def generate(context, builder, signature, arguments):
        source, start, count = arguments
        vector = vector_of(context, signature.args[0], 1)
        width = ir.Constant(count.type, vector.count)
        nothing = ir.Constant(vector, [ir.Constant(vector.element, float("-inf"))] * vector.count)
        slots = [cgutils.alloca_once_value(builder, nothing) for _ in range(4)]
        for slot in slots:
            builder.store(nothing, slot)

        def meet(slot, place):
            value, before = load(builder, vector, source, builder.add(start, place)), builder.load(slot)
            builder.store(builder.select(builder.fcmp_ordered(">", value, before), value, before), slot)

        # Four vectors at a time, so that one comparison need not wait for the one before.
        blocks = builder.sdiv(count, ir.Constant(count.type, 4 * vector.count))
        with cgutils.for_range(builder, blocks, intp=count.type) as loop:
            for v, slot in enumerate(slots):
                place = builder.mul(loop.index, ir.Constant(count.type, 4 * vector.count))
                meet(slot, builder.add(place, ir.Constant(count.type, v * vector.count)))
        done = builder.mul(blocks, ir.Constant(count.type, 4 * vector.count))
        last = builder.sub(count, width)
        with cgutils.for_range_slice(builder, done, last, width) as (place, _):
            meet(slots[0], place)
        meet(slots[1], last)
        vectors = [builder.load(slot) for slot in slots]
        while len(vectors) > 1:
            vectors = [
                builder.select(builder.fcmp_ordered(">", a, b), a, b) for a, b in zip(vectors[::2], vectors[1::2])
            ]
        (best,), distance = vectors, vector.count // 2
        while distance:
            lanes = [(lane + distance) % vector.count for lane in range(vector.count)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), lanes)
            other = builder.shuffle_vector(best, ir.Constant(vector, ir.Undefined), mask)
            best, distance = builder.select(builder.fcmp_ordered(">", other, best), other, best), distance // 2
        return builder.extract_element(best, ir.Constant(ir.IntType(32), 0))

    return source.dtype(source, types.intp, types.intp), generate


@serial_kernel
def largest_of_line(source, start, count):
    """The largest of `count` elements that is not NaN, -inf if there is none."""
    if count >= lanes_of(source):
        return _largest_of_vectors(source, start, count)
    best = lowest_of(source)
    for i in range(count):
        best = source[start + i] if source[start + i] > best else best
    return best


def _lanes_of_two(vector, first, step):
    """Lanes first, first + step, ... of two vectors that follow one another, for shuffle_vector."""
    return ir.Constant(
        ir.VectorType(ir.IntType(32), vector.count), [first + step * lane for lane in range(vector.count)]
    )


def _split_pairs(parts):
    @intrinsic
    def split_pairs(typing_context, source, start, target, even, odd):
        """target[even + lane], target[odd + lane] = source[start + 2 lane], source[start + 2 lane + 1]."""

        def generate(context, builder, signature, arguments):
            source, start, target, even, odd = arguments
            vector = vector_of(context, signature.args[0], parts)
            lower = load(builder, vector, source, start)
            upper = load(builder, vector, source, builder.add(start, ir.Constant(start.type, vector.count)))
            for to, first in ((even, 0), (odd, 1)):
                store(builder, builder.shuffle_vector(lower, upper, _lanes_of_two(vector, first, 2)), target, to)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, integer, target, integer, integer), generate

    return split_pairs


_split_vectors, _split_halves, _split_quarters = (_split_pairs(parts) for parts in (1, 2, 4))


@serial_kernel
def _split_pairs_line(source, start, target, even, odd, pairs):
    lanes = lanes_of(source)
    if pairs >= lanes:
        for i in range(0, pairs - lanes + 1, lanes):
            _split_vectors(source, start + 2 * i, target, even + i, odd + i)
        if pairs % lanes:
            last = pairs - lanes
            _split_vectors(source, start + 2 * last, target, even + last, odd + last)
    elif pairs >= lanes // 2:
        last = pairs - lanes // 2
        _split_halves(source, start, target, even, odd)
        _split_halves(source, start + 2 * last, target, even + last, odd + last)
    elif lanes >= 4 and pairs >= lanes // 4:
        last = pairs - lanes // 4
        _split_quarters(source, start, target, even, odd)
        _split_quarters(source, start + 2 * last, target, even + last, odd + last)
    else:
        for i in range(pairs):
            target[even + i] = source[start + 2 * i]
            target[odd + i] = source[start + 2 * i + 1]


def _join_pairs(parts):
    @intrinsic
    def join_pairs(typing_context, source, even, odd, target, to):
        """target[to + 2 lane], target[to + 2 lane + 1] = source[even + lane], source[odd + lane]."""

        def generate(context, builder, signature, arguments):
            source, even, odd, target, to = arguments
            vector = vector_of(context, signature.args[0], parts)
            evens, odds = (load(builder, vector, source, start) for start in (even, odd))
            for half in range(2):
                places = range(half * vector.count, (half + 1) * vector.count)
                lanes = [place // 2 + place % 2 * vector.count for place in places]
                mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), lanes)
                place = builder.add(to, ir.Constant(to.type, half * vector.count))
                store(builder, builder.shuffle_vector(evens, odds, mask), target, place)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, integer, integer, target, integer), generate

    return join_pairs


_join_vectors, _join_halves, _join_quarters = (_join_pairs(parts) for parts in (1, 2, 4))


@serial_kernel
def _join_pairs_line(source, even, odd, target, to, pairs):
    lanes = lanes_of(source)
    if pairs >= lanes:
        for i in range(0, pairs - lanes + 1, lanes):
            _join_vectors(source, even + i, odd + i, target, to + 2 * i)
        if pairs % lanes:
            last = pairs - lanes
            _join_vectors(source, even + last, odd + last, target, to + 2 * last)
    elif pairs >= lanes // 2:
        last = pairs - lanes // 2
        _join_halves(source, even, odd, target, to)
        _join_halves(source, even + last, odd + last, target, to + 2 * last)
    elif lanes >= 4 and pairs >= lanes // 4:
        last = pairs - lanes // 4
        _join_quarters(source, even, odd, target, to)
        _join_quarters(source, even + last, odd + last, target, to + 2 * last)
    else:
        for i in range(pairs):
            target[to + 2 * i] = source[even + i]
            target[to + 2 * i + 1] = source[odd + i]


@serial_kernel
def split_line(source, start, count, step, first, target, to, pitch):
    """Puts `count` elements into their phases: element i goes to place (i + first) // step of phase (i + first) % step.
    Phase p starts at target[to + p * pitch]."""
    if step == 1:
        sum_of_few_lines(source, (start,), (1,), target, to + first, count)
    elif step == 2:
        even, odd = to + first % 2 * pitch + first // 2, to + (first + 1) % 2 * pitch + (first + 1) // 2
        _split_pairs_line(source, start, target, even, odd, count // 2)
        if count % 2:
            target[even + count // 2] = source[start + count - 1]
    else:
        for phase in range(step):
            earliest = (phase - first) % step
            place = to + phase * pitch + (earliest + first) // step
            for i in range((count - earliest + step - 1) // step):
                target[place + i] = source[start + earliest + i * step]


@serial_kernel
def join_line(source, start, pitch, step, first, target, to, count):
    """Collects `count` elements from their phases: what split_line has put there, if it is called with the same."""
    if step == 1:
        sum_of_few_lines(source, (start + first,), (1,), target, to, count)
    elif step == 2:
        even, odd = start + first % 2 * pitch + first // 2, start + (first + 1) % 2 * pitch + (first + 1) // 2
        _join_pairs_line(source, even, odd, target, to, count // 2)
        if count % 2:
            target[to + count - 1] = source[even + count // 2]
    else:
        for phase in range(step):
            earliest = (phase - first) % step
            place = start + phase * pitch + (earliest + first) // step
            for i in range((count - earliest + step - 1) // step):
                target[to + earliest + i * step] = source[place + i]
