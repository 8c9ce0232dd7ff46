"""3x3 convolutions of stride 1 with 16 multiplications for 4 results where the sum as it is written takes 36.

F(2x2, 3x3) of A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): of every 4x4 patch of x
and every 3x3 kernel, 16 combinations are made; products are summed over channels for each of the 16 apart, as matrix
products; and 2x2 results are combinations of those sums. The factors are 1, -1 and 1/2, so that results are about as
exact as those of the plain sum (tests/kernels/test_conv.py bounds their error). An infinity becomes NaN in the whole
patch that it lies in.

    patches    d -> B^T d B    B^T = rows d0 - d2, d1 + d2, d2 - d1, d1 - d3
    kernels    g -> G g G^T    G   = rows g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2
    results    m -> A^T m A    A^T = rows m0 + m1 + m2, m1 - m2 - m3

A task is some images, or some rows of patches of one; it has a frame as in plan.py, of one image.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from ..cpu_jit import kernel, serial_kernel
from ..cpu_product import PANEL_BYTES, REGISTER_BYTES, copy_line, multiply_panels, panel_width
from ..memory import workspace
from .cpu_tiles import conv_transpose_weight_kernel, fill_frame, threads_of
from .plan import INNER

_WORK_BYTES = 1 << 20  # combinations of patches and their sums, in a core's second-level cache
_PHASES = (np.array([0]),) * 3  # a frame has one
_SHIFT = (
    80  # elements by which the 16 parts lie further apart: at powers of two they would meet in the same cache lines
)
_CHANNELS = 16  # with fewer, on either side, combining takes longer than it saves
_PATCHES = 256  # with fewer, so does transforming the weight


def suits(shape) -> bool:
    """Whether this way is open for a convolution, and shorter."""
    patches = shape.batch * (-(-shape.output[1] // 2)) * (-(-shape.output[2] // 2))
    return (
        shape.kernel == (1, 3, 3)
        and shape.stride == shape.dilation == (1, 1, 1)
        and shape.input[0] == shape.output[0] == 1
        and min(shape.in_channels, shape.out_channels) >= _CHANNELS * shape.groups
        and patches >= _PATCHES
    )


class _Vectors:
    """Whole vectors in flat arrays, for the two intrinsics below."""

    def __init__(self, context, builder, signature, arguments, arrays):
        self.builder = builder
        self.pointers = {i: context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in arrays}
        element = signature.args[arrays[0]].dtype
        self.lanes = REGISTER_BYTES // (4 if element == types.float32 else 8)
        self.vector = ir.VectorType(context.get_data_type(element), self.lanes)

    def _at(self, array, *offsets):
        total = offsets[0]
        for offset in offsets[1:]:
            total = self.builder.add(total, offset)
        return self.builder.bitcast(self.builder.gep(self.pointers[array], [total]), self.vector.as_pointer())

    def load(self, array, *offsets):
        return self.builder.load(self._at(array, *offsets), align=4)

    def store(self, value, array, *offsets):
        self.builder.store(value, self._at(array, *offsets), align=4)

    def times(self, value, factor):
        return self.builder.mul(value, ir.Constant(value.type, factor))

    def everywhere(self, value):
        """A vector with one value in every place."""
        index = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        undefined = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, undefined, index)

    def chosen(self, a, b, order):
        """Elements of two vectors that follow each other, by their numbers."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), order))

    def every_other(self, a, b, first):
        """Every other element of two vectors, from the first or the second on."""
        return self.chosen(a, b, list(range(first, 2 * self.lanes, 2)))

    def interleaved(self, even, odd):
        """The vectors' elements in turns, as two vectors."""
        order = [i // 2 + (self.lanes if i % 2 else 0) for i in range(2 * self.lanes)]
        return [self.chosen(even, odd, half) for half in (order[: self.lanes], order[self.lanes :])]


@intrinsic
def _combine_patches(typing_context, frame, start, row_pitch, combined, to, size):
    """The 16 combinations of as many patches side by side as a register holds, `size` elements from each other."""

    def generate(context, builder, signature, arguments):
        _, start, row_pitch, _, to, size = arguments
        vectors = _Vectors(context, builder, signature, arguments, (0, 3))

        def combinations(d0, d1, d2, d3):
            return builder.fsub(d0, d2), builder.fadd(d1, d2), builder.fsub(d2, d1), builder.fsub(d1, d3)

        lines = []
        for row in range(4):
            line = builder.add(start, vectors.times(row_pitch, row))
            # The patches' columns 0 and 1 are every other element; 2 and 3 are those two elements further.
            pairs = [
                [vectors.load(0, line, ir.Constant(start.type, shift + part * vectors.lanes)) for part in range(2)]
                for shift in (0, 2)
            ]
            lines.append([vectors.every_other(*pair, first) for pair in pairs for first in range(2)])
        by_column = [combinations(*(line[column] for line in lines)) for column in range(4)]
        for row in range(4):
            for column, value in enumerate(combinations(*(values[row] for values in by_column))):
                vectors.store(value, 3, to, vectors.times(size, 4 * row + column))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(frame, integer, integer, combined, integer, integer), generate


@intrinsic
def _combine_sums(typing_context, sums, start, size, lines, to, line_size, bias, relu):
    """Two lines of results of as many patches side by side as a register holds, from their 16 sums and the bias."""

    def generate(context, builder, signature, arguments):
        _, start, size, _, to, line_size, bias, relu = arguments
        vectors = _Vectors(context, builder, signature, arguments, (0, 3))

        def two(m0, m1, m2, m3):
            return builder.fadd(builder.fadd(m0, m1), m2), builder.fsub(builder.fsub(m1, m2), m3)

        biases = vectors.everywhere(bias)
        zero = ir.Constant(biases.type, None)

        def finished(value):
            value = builder.fadd(value, biases)
            negative = builder.and_(builder.fcmp_ordered("<", value, zero), vectors.everywhere(relu))
            return builder.select(negative, zero, value)  # a NaN stays one

        by_column = []
        for column in range(4):
            values = (vectors.load(0, start, vectors.times(size, 4 * row + column)) for row in range(4))
            by_column.append(two(*values))
        for line in range(2):
            parts = vectors.interleaved(*two(*(values[line] for values in by_column)))
            for part, value in enumerate(parts):
                place = ir.Constant(to.type, part * vectors.lanes)
                vectors.store(finished(value), 3, to, vectors.times(line_size, line), place)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(sums, integer, integer, lines, integer, integer, bias, types.boolean), generate


@serial_kernel
def _combine_taps(g0, g1, g2, u0, u1, u2, u3):
    half = g0.dtype.type(0.5)
    for i in range(len(g0)):
        u0[i] = g0[i]
        u3[i] = g2[i]
    for i in range(len(g0)):
        u1[i] = half * (g0[i] + g1[i] + g2[i])
    for i in range(len(g0)):
        u2[i] = half * (g0[i] - g1[i] + g2[i])


@kernel
def winograd_weight_kernel(weight, flipped, by_line, combined):
    """combined [16, lines, size] = the combinations of weight's kernels.

    weight is [lines, 9, size], or [lines, size, 9] if not `by_line`; flipped: taps from the last to the first.
    """
    lines, size = combined.shape[1:]
    for line in prange(lines):
        taps = np.empty((9, size), weight.dtype)
        rows = np.empty((3, 4, size), weight.dtype)
        for tap in range(9):
            source, to = 8 - tap if flipped else tap, taps[tap]
            if by_line:
                there = weight[(line * 9 + source) * size : (line * 9 + source + 1) * size]
                for i in range(size):
                    to[i] = there[i]
            else:
                there = weight[line * size * 9 + source :]
                for i in range(size):
                    to[i] = there[i * 9]
        for column in range(3):
            r = rows[column]
            _combine_taps(taps[column], taps[3 + column], taps[6 + column], r[0], r[1], r[2], r[3])
        for row in range(4):
            _combine_taps(
                rows[0, row], rows[1, row], rows[2, row],
                combined[4 * row, line], combined[4 * row + 1, line], combined[4 * row + 2, line],
                combined[4 * row + 3, line],
            )  # fmt: skip


@kernel
def winograd_kernel(
    x, weight, z, bias, relu, batch, groups, channels, results, source, result, padding, images, rows, patches_wide,
    pitch, frames, combined, sums,
):  # fmt: skip
    """z [batch, groups * results, *result] = activation(weight x + bias), all flat.

    Args:
        weight: [16, groups * results, channels], combined.
        images, rows: of patches, of a task; patches_wide: in a row.
        pitch: of combined patches: a task's patches, and room for a vector.
        frames, combined, sums: scratch, a row a worker.
    """
    rows_high, workers, width = (result[1] + 1) // 2, len(frames), PANEL_BYTES // x.itemsize
    lanes = REGISTER_BYTES // x.itemsize
    blocks, frame = (rows_high + rows - 1) // rows, (1, 2 * rows + 2, 2 * patches_wide + 2)
    frame_size, in_size, out_size = frame[1] * frame[2], source[1] * source[2], result[1] * result[2]
    in_part, out_part = channels * pitch + _SHIFT, results * pitch + _SHIFT
    weight_rows = np.arange(results) * channels
    rounds = (channels + INNER - 1) // INNER
    terms_at_a_time = (channels + rounds - 1) // rounds
    flat = weight.reshape(-1)
    for worker in prange(workers):
        v, m, line_size = combined[worker], sums[worker], 2 * (patches_wide + lanes)
        lines = np.empty(2 * line_size, x.dtype)
        for task in range(worker, (batch + images - 1) // images * blocks, workers):
            n, first = task // blocks * images, task % blocks * rows
            task_images, task_rows = min(images, batch - n), min(rows, rows_high - first)
            count = task_images * task_rows * patches_wide
            for group in range(groups):
                for image in range(task_images):
                    fill_frame(
                        x, ((n + image) * groups + group) * channels * in_size, channels, source, (0, 2 * first, 0),
                        (1, 1, 1), padding, _PHASES, frame, frames[worker], 0,
                    )  # fmt: skip
                    for channel in range(channels):
                        for row in range(task_rows):
                            place = (image * task_rows + row) * patches_wide
                            for column in range(0, patches_wide, lanes):
                                _combine_patches(
                                    frames[worker], channel * frame_size + 2 * (row * frame[2] + column), frame[2],
                                    v, channel * pitch + place + column, in_part,
                                )  # fmt: skip
                for part in range(16):
                    for k in range(0, channels, terms_at_a_time):
                        multiply_panels(
                            flat, (part * groups + group) * results * channels + k, weight_rows, 0, results,
                            v, part * in_part + k * pitch, width, pitch, min(terms_at_a_time, channels - k),
                            (count + width - 1) // width, m, part * out_part, pitch, k > 0,
                        )  # fmt: skip
                for channel in range(results):
                    b = bias[group * results + channel] if len(bias) else x.dtype.type(0)
                    for image in range(task_images):
                        plane = ((n + image) * groups + group) * results + channel
                        for row in range(task_rows):
                            place = (image * task_rows + row) * patches_wide
                            for column in range(0, patches_wide, lanes):
                                _combine_sums(
                                    m, channel * pitch + place + column, out_part,
                                    lines, 2 * column, line_size, b, relu,
                                )  # fmt: skip
                            for line in range(min(2, result[1] - 2 * (first + row))):
                                to = plane * out_size + (2 * (first + row) + line) * result[2]
                                copy_line(lines, line * line_size, z, to, result[2])


class _Tasks(NamedTuple):
    images: int
    rows: int
    pitch: int


@lru_cache(maxsize=256)
def _tasks(batch, rows_high, patches_wide, channels, itemsize, threads) -> _Tasks:
    """How much a task is: what fits into the cache; whole images where they are small; something for each thread."""
    width = panel_width(itemsize)
    room = max(width, _WORK_BYTES // (16 * channels * itemsize) // width * width)
    rows = max(1, min(rows_high, room // patches_wide))
    rows = -(-rows_high // -(-rows_high // rows))  # tasks of about one size
    if batch < 2 * threads:
        rows = min(rows, max(1, -(-rows_high * batch // (4 * threads))))
    images = max(1, min(room // (rows_high * patches_wide), batch // (2 * threads))) if rows == rows_high else 1
    patches = -(-images * rows * patches_wide // width) * width
    return _Tasks(images, rows, patches + width // 2)


def correlate(x, weight, shape, z, bias=None, relu=False):
    """z [N, out, P] = activation(W x + bias) from x [N, in, input positions] and weight [out, in / groups, 9]."""
    combined = workspace("winograd weight", (16, shape.out_channels, shape.in_channels // shape.groups), x.dtype)
    transform = winograd_weight_kernel if threads_of(shape) > 1 else winograd_weight_kernel.serial
    transform(weight.reshape(-1), False, False, combined)
    _run(
        x,
        combined,
        shape,
        shape.in_channels,
        shape.out_channels,
        shape.input,
        shape.output,
        shape.padding,
        z,
        bias,
        relu,
    )


def spread(z, weight, shape, x, bias=None, relu=False):
    """x [N, in, input positions] = activation(W^T z + bias): the transpose of correlate."""
    out, channels = shape.out_channels // shape.groups, shape.in_channels // shape.groups
    parallel = threads_of(shape) > 1
    transposed = workspace("conv weight", weight.size, weight.dtype)
    transpose_weight = conv_transpose_weight_kernel if parallel else conv_transpose_weight_kernel.serial
    transpose_weight(weight.reshape(-1), shape.groups, out, channels * 9, transposed)
    combined = workspace("winograd weight", (16, shape.in_channels, out), x.dtype)
    transform = winograd_weight_kernel if parallel else winograd_weight_kernel.serial
    transform(transposed, True, True, combined)
    padding = (0, 2 - shape.padding[1], 2 - shape.padding[2])
    _run(z, combined, shape, shape.out_channels, shape.in_channels, shape.output, shape.input, padding, x, bias, relu)


def _run(x, weight, shape, channels, results, source, result, padding, z, bias, relu):
    threads, groups = threads_of(shape), shape.groups
    rows_high, patches_wide = -(-result[1] // 2), -(-result[2] // 2)
    tasks = _tasks(shape.batch, rows_high, patches_wide, (channels + results) // groups, x.itemsize, threads)
    workers = min(threads, -(-shape.batch // tasks.images) * -(-rows_high // tasks.rows))
    slack = REGISTER_BYTES // x.itemsize
    frame = channels // groups * (2 * tasks.rows + 2) * (2 * patches_wide + 2) + 2 * slack + 2
    run = winograd_kernel if workers > 1 else winograd_kernel.serial
    run(
        x.reshape(-1),
        weight,
        z.reshape(-1),
        np.empty(0, x.dtype) if bias is None else bias,
        relu,
        shape.batch,
        groups,
        channels // groups,
        results // groups,
        source,
        result,
        padding,
        tasks.images,
        tasks.rows,
        patches_wide,
        tasks.pitch,
        workspace("winograd frames", (workers, frame), x.dtype),
        workspace("winograd patches", (workers, 16 * (channels // groups * tasks.pitch + _SHIFT)), x.dtype),
        workspace("winograd sums", (workers, 16 * (results // groups * tasks.pitch + _SHIFT)), x.dtype),
    )
