"""How `cpu_frames.py` writes its sums, which lie [positions, channels]: with bias, through relu, channel by channel."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel
from ..cpu_product import REGISTER_BYTES, transpose, transposed
from ..cpu_vectors import CONTRACT, data_of, everywhere, load, store


def _finish(builder, value, bias, relu):
    """value + bias, through relu or not."""
    value, zero = builder.fadd(value, bias, flags=CONTRACT), ir.Constant(value.type, None)
    negative = builder.and_(builder.fcmp_ordered("<", value, zero), everywhere(builder, relu, value.type.count))
    return builder.select(negative, zero, value)  # a NaN stays one


def _vector(context, array):
    return ir.VectorType(context.get_data_type(array.dtype), REGISTER_BYTES * 8 // array.dtype.bitwidth)


@intrinsic
def _finish_vector(typing_context, sums, start, bias, channel, relu, target, to):
    """target[to ...] = the vector sums[start ...] + bias[channel ...], through relu or not."""

    def generate(context, builder, signature, arguments):
        sums, bias, target = data_of(context, builder, signature, arguments, 0, 2, 5)
        _, start, _, channel, relu, _, to = arguments
        vector = _vector(context, signature.args[0])
        values, biases = load(builder, vector, sums, start), load(builder, vector, bias, channel)
        store(builder, _finish(builder, values, biases, relu), target, to)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(sums, integer, bias, integer, types.boolean, target, integer), generate


@intrinsic
def _finish_block(typing_context, sums, start, pitch, bias, channel, relu, target, to, target_pitch):
    """The same for as many vectors as one has lanes, `pitch` apart: vector p, lane c goes to target[to + c *
    target_pitch + p]."""

    def generate(context, builder, signature, arguments):
        sums, bias, target = data_of(context, builder, signature, arguments, 0, 3, 6)
        _, start, pitch, _, channel, relu, _, to, target_pitch = arguments
        vector = _vector(context, signature.args[0])

        def at(first, step, number):
            return builder.add(first, builder.mul(step, ir.Constant(step.type, number)))

        def line(row, place):
            return builder.gep(sums, [builder.add(at(start, pitch, row), ir.Constant(start.type, place))])

        for number, values in enumerate(transposed(builder, vector.element, line, vector.count)):
            b = load(builder, vector.element, bias, builder.add(channel, ir.Constant(channel.type, number)))
            values = _finish(builder, values, everywhere(builder, b, vector.count), relu)
            store(builder, values, target, at(to, target_pitch, number))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        sums, integer, integer, bias, integer, types.boolean, target, integer, integer
    ), generate  # fmt: skip


@serial_kernel
def write_results(
    sums, sum_pitch, sum_rows, image, images, unit, row, rows, counts, every, result, plane, bias, relu, lines, z, to,
    channels,
):  # fmt: skip
    """What one image's units row..row + rows - 1 are, through bias and activation, in a plane of each of z's channels.

    Where units follow each other in z as they do in the sums, blocks of these go there in one step; else they are put
    together in lines first.

    Args:
        sum_rows: where each sum's rows begin; its unit (image, row, place) follows in that order.
        counts: of sums, as in Plan; unit: along the first axis; plane: of the result.
    """
    lanes, zero = REGISTER_BYTES // z.itemsize, z.dtype.type(0)
    low, high = row * every[1], min((row + rows) * every[1], result[1])
    out_size = result[0] * result[1] * result[2]
    alone = len(counts) == 1 and every[1] == 1 and every[2] == 1
    if alone and unit < counts[0, 0] and unit * every[0] + counts[0, 3] == plane:
        positions = rows * counts[0, 2]
    else:
        positions = 0
    for channel in range(0, channels, lanes):
        if positions >= lanes and channel + lanes <= channels:
            place = (sum_rows[0] + image * positions) * sum_pitch + channel
            there = to + channel * out_size + (plane * result[1] + low) * result[2]
            for next_position in range(0, positions, lanes):
                p = min(next_position, positions - lanes)
                _finish_block(sums, place + p * sum_pitch, sum_pitch, bias, channel, relu, z, there + p, out_size)
            continue
        b = bias[channel : channel + lanes]
        covered = 0
        for number in range(len(counts)):
            if unit < counts[number, 0] and unit * every[0] + counts[number, 3] == plane:
                covered += max(0, min(rows, counts[number, 1] - row)) * counts[number, 2]
        if covered < (high - low) * result[2]:  # no tap reaches some positions
            for position in range((high - low) * result[2]):
                line = lines[position * lanes : (position + 1) * lanes]
                for i in range(lanes):
                    line[i] = zero if relu and b[i] < 0 else b[i]
        for number in range(len(counts)):
            if unit >= counts[number, 0] or unit * every[0] + counts[number, 3] != plane:
                continue
            there_rows, wide = min(rows, counts[number, 1] - row), counts[number, 2]
            for r in range(there_rows):
                place = (sum_rows[number] + (image * there_rows + r) * wide) * sum_pitch + channel
                here = (r * every[1] + counts[number, 4]) * result[2] + counts[number, 5]
                for column in range(wide):
                    line = (here + column * every[2]) * lanes
                    _finish_vector(sums, place + column * sum_pitch, bias, channel, relu, lines, line)
        there = to + channel * out_size + (plane * result[1] + low) * result[2]
        transpose(lines, 0, lanes, (high - low) * result[2], min(lanes, channels - channel), z, there, out_size)
