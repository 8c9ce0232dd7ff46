"""One step shared among threads, step after step, without waiting for a thread that is not there.

A step is cut into chunks of units, which do not depend on each other; the next step needs all of them. A worker begins
with chunks of its own, the same ones at every step, so that their weights stay in its own cache; then it takes what
others have not begun. It waits only for chunks that another worker has begun, and whoever has begun a chunk ends it
without waiting for anything: it goes on however many workers really run, one after the other or never.

Chunks have a fixed size and each is computed by one worker, so nobody's share changes a bit of the result.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel

CHUNK = 32  # units: small enough for every thread to get its share, and a few cache lines


def _element(context, builder, signature, arguments):
    """A pointer to element arguments[1] of array arguments[0]."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def _read(typing_context, array, index):
    """array[index], before anything that comes after it is read."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_element(context, builder, signature, arguments), "acquire", 8)

    return types.int64(array, types.intp), generate


@intrinsic
def _begin(typing_context, array, index, step):
    """Makes array[index] step + 1 if it is step; whether it was, which one worker is told."""

    def generate(context, builder, signature, arguments):
        step = arguments[2]
        pointer = _element(context, builder, signature, arguments)
        following = builder.add(step, ir.Constant(step.type, 1))
        return builder.extract_value(builder.cmpxchg(pointer, step, following, "acq_rel", "acquire"), 1)

    return types.boolean(array, types.intp, types.int64), generate


@intrinsic
def _add(typing_context, array, index, value):
    """array[index] += value, after everything that comes before it is written."""

    def generate(context, builder, signature, arguments):
        builder.atomic_rmw("add", _element(context, builder, signature, arguments), arguments[2], "acq_rel")
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


def board_size(chunks):
    """Elements of the array of zeros by which workers agree: steps begun a chunk, and chunks ended in all."""
    return chunks + 1


@serial_kernel
def next_chunk(board, step, worker, workers, position):
    """The next chunk for a worker at its `position`-th try of a step (0, 1, ...), and its next position.

    Chunk -1 says that there is none left. From step to step the direction changes: what a worker used last is what it
    finds in its cache. Others' chunks are tried from their far end.
    """
    chunks = len(board) - 1
    low, high = chunks * worker // workers, chunks * (worker + 1) // workers
    own, up = high - low, step % 2 == 0
    while position < chunks:
        if position < own:
            chunk = low + position if up else high - 1 - position
        else:
            chunk = (low - 1 - position + own if up else high + position - own) % chunks
        position += 1
        if _read(board, chunk) == step and _begin(board, chunk, step):
            return chunk, position
    return -1, position


@serial_kernel
def end_step(board, step, ended):
    """Tells the others of `ended` chunks that this worker ended, and waits until all chunks of the step are."""
    chunks = len(board) - 1
    if ended > 0:
        _add(board, chunks, ended)
    while _read(board, chunks) < chunks * (step + 1):
        pass
