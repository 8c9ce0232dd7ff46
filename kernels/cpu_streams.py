"""Results larger than the caches, written around them.

An ordinary store first fetches the cache line that it writes to, so that writing moves twice what is written. A store
around the caches does not, if the line is written whole; but what is written is then in no cache. That pays where it
would not stay in one until it is read: on a core with 2 MiB of its own, 12 MiB took a tenth longer to write and to
read, 16 MiB a tenth less to write, 24 MiB a quarter less, and reading these took as long either way.

Results are put together in scratch that stays in the nearest caches, and go out from there line by line.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .cpu_jit import serial_kernel
from .cpu_lines import lanes_of, vector_of
from .cpu_vectors import load

_PAST_CACHES = 1 << 24  # bytes


def is_past_caches(nbytes: int) -> bool:
    """Whether a result of so many bytes is better written around the caches."""
    return nbytes >= _PAST_CACHES


@intrinsic
def _until_aligned(typing_context, target, to):
    """How many elements lie between target[to] and the next cache line."""

    def generate(context, builder, signature, arguments):
        target, to = arguments
        itemsize = signature.args[0].dtype.bitwidth // 8
        address = builder.ptrtoint(builder.gep(target, [to]), to.type)
        gap = builder.and_(builder.neg(address), ir.Constant(to.type, 63))
        return builder.udiv(gap, ir.Constant(to.type, itemsize))

    return types.intp(target, types.intp), generate


@intrinsic
def _stream_vector(typing_context, source, start, target, to):
    """target[to + lane] = source[start + lane], around the caches; target[to] begins a cache line."""

    def generate(context, builder, signature, arguments):
        source, start, target, to = arguments
        vector = vector_of(context, signature.args[0], 1)
        place = builder.bitcast(builder.gep(target, [to]), vector.as_pointer())
        stored = builder.store(load(builder, vector, source, start), place, align=64)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic
def end_streams(typing_context):
    """After the last line that a thread has streamed: what other threads read of them from here on is written."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@serial_kernel
def stream_line(source, start, target, to, count):
    """target[to + i] = source[start + i] for i < count. What begins or ends within a cache line is stored as usual."""
    lanes, head = lanes_of(source), min(_until_aligned(target, to), count)
    for i in range(head):
        target[to + i] = source[start + i]
    whole = (count - head) // lanes * lanes
    for i in range(head, head + whole, lanes):
        _stream_vector(source, start + i, target, to + i)
    for i in range(head + whole, count):
        target[to + i] = source[start + i]
