"""The windows of most networks, two or three places wide and one or two steps apart, pooled in vector registers.

A row of windows is worked off a vector of them at a time. What they read at one of their places is a vector too: with a
step of one a line of neighbours, with a step of two every other element of two vectors that follow one another. So rows
are read where they lie, and there is no scratch. Vectors that reach beyond a row's ends are masked.

As in `cpu_lines`, lines are named by memory and place.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel
from ..cpu_lines import vector_of
from ..cpu_vectors import everywhere, load, load_lanes, multiply_add, store, store_lanes

_LANE = ir.IntType(32)
_WIDEST = 1 << 30  # elements of a row, so that a lane's number holds the places in it


@serial_kernel
def has_few_places(places, step, width):
    """Whether the functions below know rows of this width under windows of so many places across, a step apart."""
    return 2 <= places <= 3 and step <= 2 and width <= _WIDEST


class _Row:
    """Emits what reads and writes a row of `width` elements, a vector at a time.

    Args:
        whole: whether no vector reaches beyond the row's ends, so that none is masked.
        beyond: what is read beyond the ends.
    """

    def __init__(self, builder, vector, width, whole, beyond=0.0):
        self.builder, self.vector, self.width, self.whole, self.beyond = builder, vector, width, whole, beyond

    def lanes(self, first):
        """Those of the elements from place `first` on that the row has."""
        builder, count = self.builder, self.vector.count
        numbers = ir.Constant(ir.VectorType(_LANE, count), list(range(count)))
        places = builder.add(numbers, everywhere(builder, builder.trunc(first, _LANE), count))
        return builder.icmp_unsigned("<", places, everywhere(builder, builder.trunc(self.width, _LANE), count))

    def read(self, line, start, first):
        """The elements from place `first` on of the row that begins at line[start]."""
        place = self.builder.add(start, first)
        if self.whole:
            return load(self.builder, self.vector, line, place)
        pointer = self.builder.gep(line, [place])
        return load_lanes(self.builder, self.vector, pointer, self.lanes(first), self.beyond)

    def read_places(self, line, start, first, places, step):
        """What windows read at each of their places; the first window's first is place `first` of the row."""
        builder, found = self.builder, []
        for place in range(0, places, step):
            parts = [builder.add(first, first.type(place + part * self.vector.count)) for part in range(step)]
            parts = [self.read(line, start, part) for part in parts]
            for phase in range(min(step, places - place)):
                found.append(parts[0] if step == 1 else _every_other(builder, *parts, phase))
        return found

    def write(self, value, line, start, first):
        """Writes a vector from place `first` of the row on."""
        place = self.builder.add(start, first)
        if self.whole:
            store(self.builder, value, line, place)
        else:
            store_lanes(self.builder, value, self.builder.gep(line, [place]), self.lanes(first))


def _every_other(builder, lower, upper, first):
    """Lanes first, first + 2, ... of two vectors that follow one another."""
    return _lanes_of_two(builder, lower, upper, range(first, 2 * lower.type.count, 2))


def _from_lane(builder, lower, upper, first):
    """As many lanes of two vectors that follow one another, from a lane of the first on."""
    return _lanes_of_two(builder, lower, upper, range(first, first + lower.type.count))


def _lanes_of_two(builder, lower, upper, lanes):
    return builder.shuffle_vector(lower, upper, ir.Constant(ir.VectorType(_LANE, len(lanes)), list(lanes)))


def _within(builder, first, count, width):
    """Whether places first..first + count - 1 are in a row."""
    last = builder.add(first, first.type(count))
    return builder.and_(builder.icmp_signed(">=", first, first.type(0)), builder.icmp_signed("<=", last, width))


def _divided(builder, x, divisor, share):
    """x / divisor, where share is 1 / divisor: what the first product is off is added to it. Dividing takes longer than
    all that a mean otherwise does."""
    quotient = builder.fmul(x, share)
    rest = multiply_add(builder, builder.fneg(quotient), divisor, x)
    better = multiply_add(builder, rest, share, quotient)
    # Infinities leave no rest.
    return builder.select(builder.fcmp_ordered("ord", better, better), better, quotient)


def _means(places, step):
    @intrinsic
    def means(typing_context, x, rows, count, width, padding, divisors, shares, y, to, across):
        def generate(context, builder, signature, arguments):
            x, rows, count, width, padding, divisors, shares, y, to, across = arguments
            vector = vector_of(context, signature.args[0], 1)
            lanes, integer = vector.count, across.type
            reach = step * lanes  # elements from one vector of windows to the next
            joins = places > step  # whether windows read beyond it
            here, beyond = ([cgutils.alloca_once(builder, vector) for _ in range(step)] for _ in range(2))

            def add_rows(window, sums, whole):
                """The sums of the rows that begin under a vector of windows, its phases apart."""
                row, first = (
                    _Row(builder, vector, width, whole),
                    builder.sub(builder.mul(window, integer(step)), padding),
                )
                firsts = [builder.add(first, integer(part * lanes)) for part in range(step)]
                for slot in sums:
                    builder.store(ir.Constant(vector, None), slot)

                def add(r):
                    start = builder.load(builder.gep(rows, [r]))
                    for slot, at in zip(sums, firsts):
                        builder.store(builder.fadd(builder.load(slot), row.read(x, start, at)), slot)

                with builder.if_else(builder.icmp_signed("==", count, integer(places))) as (then, otherwise):
                    with then:
                        for r in range(places):
                            add(integer(r))
                    with otherwise, cgutils.for_range(builder, count, intp=integer) as loop:
                        add(loop.index)
                if step == 2:
                    halves = [builder.load(slot) for slot in sums]
                    for phase, slot in enumerate(sums):
                        builder.store(_every_other(builder, *halves, phase), slot)

            def emit(window, whole):
                if joins:
                    add_rows(builder.add(window, integer(lanes)), beyond, whole)
                else:
                    add_rows(window, here, whole)
                phases = [[builder.load(slot) for slot in slots] for slots in ((here, beyond) if joins else (here,))]
                total = None
                for place in range(places):
                    value, shift = phases[0][place % step], place // step
                    if shift:
                        value = _from_lane(builder, value, phases[1][place % step], shift)
                    total = builder.fadd(total, value) if total else value
                windows = _Row(builder, vector, across, whole)
                scales = (windows.read(line, integer(0), window) for line in (divisors, shares))
                windows.write(_divided(builder, total, *scales), y, to, window)

            if joins:
                add_rows(integer(0), here, False)
            with cgutils.for_range_slice(builder, integer(0), across, integer(lanes)) as (window, _):
                read = builder.sub(builder.mul(window, integer(step)), padding)
                read = builder.add(read, integer(reach)) if joins else read
                whole = builder.and_(
                    _within(builder, read, reach, width), _within(builder, window, lanes, across)
                )  # fmt: skip
                with builder.if_else(whole) as (then, otherwise):
                    with then:
                        emit(window, True)
                    with otherwise:
                        emit(window, False)
                for slot, following in zip(here, beyond) if joins else ():
                    builder.store(builder.load(following), slot)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(x, rows, integer, integer, integer, divisors, shares, y, integer, integer), generate

    return means


_means_2_1, _means_3_1, _means_2_2, _means_3_2 = (_means(places, step) for step in (1, 2) for places in (2, 3))


@serial_kernel
def means_line(x, rows, count, width, places, step, padding, divisors, shares, y, to, across):
    """y[to + j] = the sum under window j / divisors[j] for j < across; shares[j] is 1 / divisors[j].

    The windows read `count` rows of x, `width` elements each from x[rows[r]] on; window j begins `padding` before place
    j * step of them, and what is beyond a row's ends counts 0.
    """
    if step == 1 and places == 2:
        _means_2_1(x, rows, count, width, padding, divisors, shares, y, to, across)
    elif step == 1:
        _means_3_1(x, rows, count, width, padding, divisors, shares, y, to, across)
    elif places == 2:
        _means_2_2(x, rows, count, width, padding, divisors, shares, y, to, across)
    else:
        _means_3_2(x, rows, count, width, padding, divisors, shares, y, to, across)


def _spread(places, step):
    @intrinsic
    def spread(typing_context, grad_y, rows, weights, count, across, shares, padding, grad_x, to, width):
        def generate(context, builder, signature, arguments):
            grad_y, rows, weights, count, across, shares, padding, grad_x, to, width = arguments
            vector = vector_of(context, signature.args[0], 1)
            lanes, integer = vector.count, count.type
            reach = step * lanes  # elements under one vector of windows
            total, before = (cgutils.alloca_once(builder, vector) for _ in range(2))

            def emit(window, first, whole):
                windows, row = _Row(builder, vector, across, whole), _Row(builder, vector, width, whole)
                builder.store(ir.Constant(vector, None), total)
                with cgutils.for_range(builder, count, intp=integer) as loop:
                    start, weight = (builder.load(builder.gep(line, [loop.index])) for line in (rows, weights))
                    grads, weight = windows.read(grad_y, start, window), everywhere(builder, weight, lanes)
                    builder.store(multiply_add(builder, grads, weight, builder.load(total)), total)
                here = builder.fmul(builder.load(total), windows.read(shares, integer(0), window))
                phases = [None] * step
                for place in range(places):
                    shift, phase = place // step, place % step
                    value = _from_lane(builder, builder.load(before), here, lanes - shift) if shift else here
                    phases[phase] = builder.fadd(phases[phase], value) if phases[phase] else value
                builder.store(here, before)
                for part in range(step):
                    value = phases[0] if step == 1 else _in_turns(builder, *phases, part)
                    row.write(value, grad_x, to, builder.add(first, integer(part * lanes)))

            builder.store(ir.Constant(vector, None), before)
            end = builder.sdiv(builder.add(builder.add(width, padding), integer(step - 1)), integer(step))
            with cgutils.for_range_slice(builder, integer(0), end, integer(lanes)) as (window, _):
                first = builder.sub(builder.mul(window, integer(step)), padding)
                whole = builder.and_(_within(builder, first, reach, width), _within(builder, window, lanes, across))
                with builder.if_else(whole) as (then, otherwise):
                    with then:
                        emit(window, first, True)
                    with otherwise:
                        emit(window, first, False)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(grad_y, rows, weights, integer, integer, shares, integer, grad_x, integer, integer), generate

    return spread


def _in_turns(builder, evens, odds, half):
    """A lane of one vector, one of the other, and so on: those from the first or the second half of both."""
    count = evens.type.count
    places = range(half * count, (half + 1) * count)
    return _lanes_of_two(builder, evens, odds, [place // 2 + place % 2 * count for place in places])


_spread_2_1, _spread_3_1, _spread_2_2, _spread_3_2 = (_spread(places, step) for step in (1, 2) for places in (2, 3))


@serial_kernel
def spread_line(grad_y, rows, weights, count, across, shares, places, step, padding, grad_x, to, width):
    """grad_x[to + w] = the sum over the windows above place w, and over `count` rows of them, of
    weights[r] * shares[j] * grad_y[rows[r] + j], for w < width; the windows as above, `across` in a row."""
    if step == 1 and places == 2:
        _spread_2_1(grad_y, rows, weights, count, across, shares, padding, grad_x, to, width)
    elif step == 1:
        _spread_3_1(grad_y, rows, weights, count, across, shares, padding, grad_x, to, width)
    elif places == 2:
        _spread_2_2(grad_y, rows, weights, count, across, shares, padding, grad_x, to, width)
    else:
        _spread_3_2(grad_y, rows, weights, count, across, shares, padding, grad_x, to, width)


def _maxima(places, step):
    @intrinsic
    def maxima(typing_context, x, rows, numbers, count, width, padding, first_codes, y, codes, to, across):
        def generate(context, builder, signature, arguments):
            x, rows, numbers, count, width, padding, first_codes, y, codes, to, across = arguments
            vector = vector_of(context, signature.args[0], 1)
            lanes, integer = vector.count, across.type
            bytes_vector, reach = ir.VectorType(ir.IntType(8), lanes), (places - 1) // step * step + step * lanes
            best, winner = cgutils.alloca_once(builder, vector), cgutils.alloca_once(builder, bytes_vector)

            def number(r):
                value = builder.trunc(builder.load(builder.gep(numbers, [r])), bytes_vector.element)
                return everywhere(builder, value, lanes)

            def better(value, than):
                larger = builder.fcmp_ordered(">", value, than)
                return builder.or_(larger, builder.fcmp_unordered("uno", value, value))

            def emit(window, first, whole):
                row = _Row(builder, vector, width, whole, float("-inf"))
                builder.store(ir.Constant(vector, [ir.Constant(vector.element, float("-inf"))] * lanes), best)
                lowest = load(builder, bytes_vector, first_codes, window)
                builder.store(builder.add(lowest, number(integer(0))), winner)

                def meet(r):
                    start, code = builder.load(builder.gep(rows, [r])), ir.Constant(bytes_vector, None)
                    value, *others = row.read_places(x, start, first, places, step)
                    for place, other in enumerate(others, 1):
                        chosen = better(other, value)
                        value = builder.select(chosen, other, value)
                        code = builder.select(chosen, ir.Constant(bytes_vector, [place] * lanes), code)
                    chosen, code = better(value, builder.load(best)), builder.add(code, number(r))
                    builder.store(builder.select(chosen, value, builder.load(best)), best)
                    builder.store(builder.select(chosen, code, builder.load(winner)), winner)

                with builder.if_else(builder.icmp_signed("==", count, integer(places))) as (then, otherwise):
                    with then:
                        for r in range(places):
                            meet(integer(r))
                    with otherwise, cgutils.for_range(builder, count, intp=integer) as loop:
                        meet(loop.index)
                windows = _Row(builder, vector, across, whole)
                windows.write(builder.load(best), y, to, window)
                windows.write(builder.load(winner), codes, to, window)

            with cgutils.for_range_slice(builder, integer(0), across, integer(lanes)) as (window, _):
                first = builder.sub(builder.mul(window, integer(step)), padding)
                whole = builder.and_(_within(builder, first, reach, width), _within(builder, window, lanes, across))
                with builder.if_else(whole) as (then, otherwise):
                    with then:
                        emit(window, first, True)
                    with otherwise:
                        emit(window, first, False)
            return context.get_dummy_value()

        integer = types.intp
        signature = types.void(
            x, rows, numbers, integer, integer, integer, first_codes, y, codes, integer, integer
        )  # fmt: skip
        return signature, generate

    return maxima


_maxima_2_1, _maxima_3_1, _maxima_2_2, _maxima_3_2 = (_maxima(places, step) for step in (1, 2) for places in (2, 3))


@serial_kernel
def maxima_line(x, rows, numbers, count, width, places, step, padding, first_codes, y, codes, to, across):
    """y[to + j] = the largest under window j, codes[to + j] = which it is: place p of row r is numbers[r] + p.

    The windows as above. Of equal values the first wins, and of NaNs, which beat all numbers, the last. Where there is
    nothing but -inf, the code is numbers[0] + first_codes[j], which has a vector more than there are windows.
    """
    if step == 1 and places == 2:
        _maxima_2_1(x, rows, numbers, count, width, padding, first_codes, y, codes, to, across)
    elif step == 1:
        _maxima_3_1(x, rows, numbers, count, width, padding, first_codes, y, codes, to, across)
    elif places == 2:
        _maxima_2_2(x, rows, numbers, count, width, padding, first_codes, y, codes, to, across)
    else:
        _maxima_3_2(x, rows, numbers, count, width, padding, first_codes, y, codes, to, across)
