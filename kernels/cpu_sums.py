"""Sums over one contiguous line, in an order that is written down: the same bits from every process and processor.

A loop `total += x[i]` vectorises only if the compiler may reorder it, and then its bits depend on the compiler's mood:
Numba optimises the body of a `prange` loop several times over, and the process that has just compiled it runs another
version than those that load it from the cache. Here the order is fixed: element i goes to lane i % 64 (float32; 32 in
float64) of four vectors, the vectors are added in pairs, then halves of the lanes, until one is left.

Call them from kernels, on slices: `total = line_sum(x[row])`. All arrays of a call have one length and one dtype.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu_vectors import CONTRACT, data_of, everywhere, fold, load, load_lanes

_VECTOR_BYTES = 64  # on every processor, in as many registers as that takes
_VECTORS = 4  # side by side, so that one addition need not wait for the one before


def _line_sums(term, *operands, results=1, wide=False):
    """What an intrinsic returns for the sums of `term` over the elements of its lines.

    Args:
        term: `term(builder, *vectors) -> a tuple of vectors`, in LLVM; a scalar comes as a vector of equal lanes.
        operands: the types of the intrinsic's arguments: lines, and scalars that take the lines' dtype.
        results: how many sums there are.
        wide: the lines are converted to float64 first.
    """
    kind = operands[0].dtype
    if any(isinstance(o, types.Array) and (o.dtype, o.ndim, o.layout) != (kind, 1, "C") for o in operands):
        return None
    total = types.float64 if wide else kind
    signature = (types.UniTuple(total, results) if results > 1 else total)(
        *(o if isinstance(o, types.Array) else kind for o in operands)
    )

    def generate(context, builder, signature, values):
        return _Loop(context, builder, signature, values, wide).sums(term, results)

    return signature, generate


class _Loop:
    """Emits the loop over the lines of a call."""

    def __init__(self, context, builder, signature, values, wide):
        self.builder, self.wide = builder, wide
        kind = signature.args[0].dtype
        self.lanes = _VECTOR_BYTES * 8 // kind.bitwidth
        self.vector = ir.VectorType(context.get_data_type(kind), self.lanes)
        self.total = ir.VectorType(ir.DoubleType(), self.lanes) if wide else self.vector
        self.length = context.make_array(signature.args[0])(context, builder, values[0]).nitems
        self.operands = [
            (data_of(context, builder, signature, values, i)[0], None)
            if isinstance(kind, types.Array)
            else (None, everywhere(builder, values[i], self.lanes))
            for i, kind in enumerate(signature.args)
        ]

    def sums(self, term, results):
        builder, lanes, integer = self.builder, self.lanes, self.length.type
        zero = ir.Constant(self.total, None)
        slots = [[cgutils.alloca_once_value(builder, zero) for _ in range(results)] for _ in range(_VECTORS)]
        for row in slots:
            for slot in row:
                builder.store(zero, slot)

        def add(row, terms):
            for slot, value in zip(row, terms):
                builder.store(builder.fadd(builder.load(slot), value, flags=CONTRACT), slot)

        block = ir.Constant(integer, _VECTORS * lanes)
        blocks = builder.sdiv(self.length, block)
        with cgutils.for_range(builder, blocks, intp=integer) as loop:
            start = builder.mul(loop.index, block)
            for v, row in enumerate(slots):
                add(row, term(builder, *self._load(builder.add(start, ir.Constant(integer, v * lanes)))))
        done = builder.mul(blocks, block)
        for v, row in enumerate(slots):
            start = builder.add(done, ir.Constant(integer, v * lanes))
            with builder.if_then(builder.icmp_signed("<", start, self.length)):
                mask = self._mask(builder.sub(self.length, start))
                add(row, [builder.select(mask, t, zero) for t in term(builder, *self._load(start, mask))])
        totals = [self._across([builder.load(row[r]) for row in slots]) for r in range(results)]
        return totals[0] if results == 1 else cgutils.pack_array(builder, totals)

    def _load(self, start, mask=None):
        """The vectors of all operands at `start`; of a masked one, lanes that are beyond the line are 0."""
        builder, loaded = self.builder, []
        for pointer, value in self.operands:
            if pointer is None:
                vector = value
            elif mask is None:
                vector = load(builder, self.vector, pointer, start)
            else:
                vector = load_lanes(builder, self.vector, builder.gep(pointer, [start]), mask)
            loaded.append(builder.fpext(vector, self.total) if vector.type != self.total else vector)
        return loaded

    def _mask(self, rest):
        """Lanes below `rest`."""
        numbers = ir.Constant(ir.VectorType(rest.type, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, everywhere(self.builder, rest, self.lanes))

    def _across(self, vectors):
        while len(vectors) > 1:
            vectors = [self.builder.fadd(a, b) for a, b in zip(vectors[::2], vectors[1::2])]
        return fold(self.builder, self.builder.fadd, vectors[0])


@intrinsic
def line_sum(typing_context, x):
    """The sum of x."""
    return _line_sums(lambda builder, x: (x,), x)


@intrinsic
def wide_sum(typing_context, x):
    """The sum of x, in float64."""
    return _line_sums(lambda builder, x: (x,), x, wide=True)


@intrinsic
def line_product(typing_context, x, y):
    """The sum of x * y."""
    return _line_sums(lambda builder, x, y: (builder.fmul(x, y, flags=CONTRACT),), x, y)


@intrinsic
def line_magnitude(typing_context, x):
    """The sum of |x|."""
    return _line_sums(lambda builder, x: (_absolute(builder, x),), x)


@intrinsic
def wide_magnitude(typing_context, x):
    """The sum of |x|, in float64."""
    return _line_sums(lambda builder, x: (_absolute(builder, x),), x, wide=True)


@intrinsic
def wide_squares(typing_context, x):
    """The sum of x * x, in float64."""
    return _line_sums(lambda builder, x: (builder.fmul(x, x, flags=CONTRACT),), x, wide=True)


@intrinsic
def line_deviations(typing_context, x, centre):
    """The sum of x - centre, and that of its squares."""

    def term(builder, x, centre):
        deviation = builder.fsub(x, centre)
        return deviation, builder.fmul(deviation, deviation, flags=CONTRACT)

    return _line_sums(term, x, centre, results=2)


@intrinsic
def line_weighted_deviations(typing_context, weight, x, centre):
    """The sum of weight, and that of weight * (x - centre)."""

    def term(builder, weight, x, centre):
        return weight, builder.fmul(weight, builder.fsub(x, centre), flags=CONTRACT)

    return _line_sums(term, weight, x, centre, results=2)


@intrinsic
def line_rectified_deviations(typing_context, weight, x, centre, scale, offset):
    """The sums of `line_weighted_deviations`, of the elements with (x - centre) * scale + offset above 0."""

    def term(builder, weight, x, centre, scale, offset):
        deviation = builder.fsub(x, centre)
        value = builder.fadd(builder.fmul(deviation, scale, flags=CONTRACT), offset, flags=CONTRACT)
        zero = ir.Constant(x.type, None)
        weight = builder.select(builder.fcmp_ordered(">", value, zero), weight, zero)
        return weight, builder.fmul(weight, deviation, flags=CONTRACT)

    return _line_sums(term, weight, x, centre, scale, offset, results=2)


@intrinsic
def line_scaled_deviations(typing_context, grad, scale, x, centre):
    """The sum of grad * scale, and that of grad * scale * (x - centre)."""

    def term(builder, grad, scale, x, centre):
        weight = builder.fmul(grad, scale)
        return weight, builder.fmul(weight, builder.fsub(x, centre), flags=CONTRACT)

    return _line_sums(term, grad, scale, x, centre, results=2)


def _absolute(builder, x):
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(x.type, [x.type]),
        f"llvm.fabs.v{x.type.count}f{32 if x.type.element == ir.FloatType() else 64}",
    )
    return builder.call(function, [x])
