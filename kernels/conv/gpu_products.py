"""Convolutions as implicit matrix products on CuPy arrays: no matrix of columns exists, each tile of it is gathered
from the image when a tensor core wants it. Images have any strides; `gpu_layout.py` says which are copied first.

Lanes are the axis of the product that is summed over (a channel at a tap, that is a kernel position). Where there are
enough channels, a block of lanes is a block of channels at one tap: its addresses are a shift of the positions'. With
few channels, lanes run over channels and taps together, so that tensor cores are not fed with padding.

Where a result has few tiles and sums are long (deep layers with small images), a sum is split into stretches of its
lanes, each a program's: partial sums are written apart, then added in a fixed order by a kernel that goes on with bias,
residual and activation. How many stretches follows from the number of tiles (`parts_of`), so that bits do not depend on
the device.
"""

import math

import numpy as np
import triton
import triton.language as tl

from ..dense.gpu_product import parts_of, sum_parts
from ..launch import ceil_div, empty, launch
from ..precision import input_precision
from ..tuning import Choice, has_room
from .gpu_layout import PIECE, Image, arranged, cell_step, dense_strides, has_few_channels, is_wide

WIDE = 2**31 - 2**20  # from so many positions on, they are counted in 64 bits
_LONG = 2**31  # steps: more than any sum has
_SUM_BLOCK = 256  # elements that a program sums over the parts; few elements make up for what a program waits


@triton.jit
def cells_of(position, depth, height, width):
    """Which image, plane, row and column a position is in, counted through [batch, depth, height, width]."""
    column, rest = position % width, position // width
    row, rest = rest % height, rest // height
    return rest // depth, rest % depth, row, column


@triton.jit
def taps_of_class(shifted, stride, dilation, tap_step, inverse, KERNEL: tl.constexpr):
    """Which taps k reach a gradient's position i: those where i + padding - k * dilation is a multiple of the stride.

    shifted = i + padding, for i below the stride. They are first, first + tap_step, ... -> first, how many, and which
    output position the first of them comes from.
    """
    common = stride // tap_step
    residue = shifted % stride
    first = tl.where(residue % common == 0, residue // common * inverse % tap_step, KERNEL)
    count = tl.maximum((KERNEL - first + tap_step - 1) // tap_step, 0)
    return first, count, (shifted - first * dilation) // stride


@triton.jit
def conv_correlate_kernel(
    source, weight, bias, residual, result,
    batch, groups, channels, features, cells,
    source_depth, source_height, source_width, result_depth, result_height, result_width,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w, dilation_d, dilation_h, dilation_w,
    tap_step_d, tap_step_h, tap_step_w, inverse_d, inverse_h, inverse_w,
    source_n, source_c, source_d, source_h, source_w,
    result_n, result_c, result_d, result_h, result_w,
    weight_group, weight_feature, weight_channel, weight_tap,
    KERNEL_D: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, VOLUME: tl.constexpr,
    SPREAD: tl.constexpr, STRIDED: tl.constexpr, FLAT: tl.constexpr, POINTWISE: tl.constexpr, LINEAR: tl.constexpr,
    RELU: tl.constexpr, WIDE: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """result = activation(weight * source + bias + residual): a convolution, or with SPREAD its transpose.

    The residual has the result's strides. With SPLIT the grid's second axis has the stretches of the sums: result then
    has a leading axis for them, and is as large along it as its other axes together.

    `cells` are the positions of an image of the result. With LINEAR they are a row in memory, result_w apart; with
    POINTWISE the source's are too, source_w apart, and each makes the result's of its own index.

    A program makes BLOCK_M features at BLOCK_P positions of the result, all images counted through. Programs walk the
    features first, so that those which read the same source run together. A transpose with strides falls apart into a
    dense convolution for each remainder (class) of the result's positions by the strides, each with its own taps.
    """
    TAPS: tl.constexpr = KERNEL_D * KERNEL_H * KERNEL_W
    cells_d, cells_h, cells_w = result_depth, result_height, result_width
    if STRIDED and SPREAD:
        cells_d, cells_h, cells_w = tl.cdiv(cells_d, stride_d), tl.cdiv(cells_h, stride_h), tl.cdiv(cells_w, stride_w)
    # As a factor that is an argument the cells show the compiler whether 16 divides positions.
    cells_of_class = cells_d * cells_h * cells_w if STRIDED and SPREAD else cells
    positions = batch * cells_of_class
    if WIDE:
        positions = tl.cast(batch, tl.int64) * cells_of_class
    tiles_m, tiles_p = tl.cdiv(features, BLOCK_M), tl.cdiv(positions, BLOCK_P)
    program = tl.program_id(0)
    feature = (program % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    program = program // tiles_m
    position = (program % tiles_p) * BLOCK_P + tl.arange(0, BLOCK_P)
    program = program // tiles_p
    group, program = (program % groups).to(tl.int64), program // groups
    inside_p = position < positions
    if not POINTWISE:
        image, d, h, w = cells_of(position, cells_d, cells_h, cells_w)

    first_d, first_h, first_w = 0, 0, 0
    count_d, count_h, count_w = KERNEL_D, KERNEL_H, KERNEL_W
    if POINTWISE:
        at_position = (position // cells).to(tl.int64) * source_n + (position % cells).to(tl.int64) * source_w
    elif SPREAD and STRIDED:
        class_w, program = program % stride_w, program // stride_w
        class_h, class_d = program % stride_h, program // stride_h
        first_d, count_d, from_d = taps_of_class(
            class_d + padding_d, stride_d, dilation_d, tap_step_d, inverse_d, KERNEL_D
        )
        first_h, count_h, from_h = taps_of_class(
            class_h + padding_h, stride_h, dilation_h, tap_step_h, inverse_h, KERNEL_H
        )
        first_w, count_w, from_w = taps_of_class(
            class_w + padding_w, stride_w, dilation_w, tap_step_w, inverse_w, KERNEL_W
        )
        origin_d, origin_h, origin_w = d + from_d, h + from_h, w + from_w
        jump_d = -(dilation_d * tap_step_d // stride_d)
        jump_h = -(dilation_h * tap_step_h // stride_h)
        jump_w = -(dilation_w * tap_step_w // stride_w)
        d, h, w = class_d + d * stride_d, class_h + h * stride_h, class_w + w * stride_w
        inside_p = inside_p & (d < result_depth) & (h < result_height) & (w < result_width)
    elif SPREAD:
        origin_d, origin_h, origin_w = d + padding_d, h + padding_h, w + padding_w
        jump_d, jump_h, jump_w = -dilation_d, -dilation_h, -dilation_w
    else:
        origin_d, origin_h, origin_w = d * stride_d - padding_d, h * stride_h - padding_h, w * stride_w - padding_w
        jump_d, jump_h, jump_w = dilation_d, dilation_h, dilation_w

    inside_m = feature < features
    if not POINTWISE:
        at_position = image.to(tl.int64) * source_n + origin_d.to(tl.int64) * source_d
        at_position += origin_h.to(tl.int64) * source_h + origin_w.to(tl.int64) * source_w
        step_d, step_h = tl.cast(jump_d, tl.int64) * source_d, tl.cast(jump_h, tl.int64) * source_h
        step_w = tl.cast(jump_w, tl.int64) * source_w
    source_tile = source + group * channels * source_c + at_position[None, :]
    weight_tile = weight + group * weight_group + feature.to(tl.int64)[:, None] * weight_feature
    taps = count_d * count_h * count_w
    steps = tl.cdiv(channels * TAPS, BLOCK_K) if FLAT else tl.cdiv(channels, BLOCK_K) * taps
    first, last = 0, steps
    if SPLIT:
        steps_of_part = tl.cdiv(steps, tl.num_programs(1))
        first = tl.program_id(1) * steps_of_part
        last = tl.minimum(first + steps_of_part, steps)
    total = tl.zeros((BLOCK_M, BLOCK_P), dtype=ACCUMULATOR)
    for step in range(first, last):
        if POINTWISE:
            channel = step * BLOCK_K + tl.arange(0, BLOCK_K)
            source_lane, weight_lane = channel.to(tl.int64) * source_c, channel.to(tl.int64) * weight_channel
            inside = inside_p[None, :]
        else:
            if FLAT:
                lane = step * BLOCK_K + tl.arange(0, BLOCK_K)
                channel, tap = lane // TAPS, lane % TAPS
                k_d, k_h, k_w = tap // (KERNEL_H * KERNEL_W), tap // KERNEL_W % KERNEL_H, tap % KERNEL_W
                moved_d, moved_h, moved_w = (k_d * jump_d)[:, None], (k_h * jump_h)[:, None], (k_w * jump_w)[:, None]
            else:
                # Taps go fastest: what they read of a block of channels is still in the cache.
                channel, tap = step // taps * BLOCK_K + tl.arange(0, BLOCK_K), step % taps
                k_d, k_h, k_w = tap // (count_h * count_w), tap // count_w % count_h, tap % count_w
                moved_d, moved_h, moved_w = k_d * jump_d, k_h * jump_h, k_w * jump_w
                if SPREAD and STRIDED:
                    tap = (first_d + k_d * tap_step_d) * KERNEL_H + first_h + k_h * tap_step_h
                    tap = tap * KERNEL_W + first_w + k_w * tap_step_w
            weight_lane = tap * weight_tap + channel.to(tl.int64) * weight_channel
            at_h, at_w = origin_h[None, :] + moved_h, origin_w[None, :] + moved_w
            inside = inside_p[None, :] & (at_h >= 0) & (at_h < source_height) & (at_w >= 0) & (at_w < source_width)
            if VOLUME:
                at_d = origin_d[None, :] + moved_d
                inside = inside & (at_d >= 0) & (at_d < source_depth)
            source_lane = channel.to(tl.int64) * source_c + (k_d * step_d + k_h * step_h + k_w * step_w)
        inside_k = channel < channels
        patch = tl.load(source_tile + source_lane[:, None], mask=inside_k[:, None] & inside, other=0.0)
        factor = tl.load(weight_tile + weight_lane[None, :], mask=inside_m[:, None] & inside_k[None, :], other=0.0)
        total = tl.dot(factor, patch, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    feature = group * features + feature
    if bias is not None:
        total += tl.load(bias + feature, mask=inside_m, other=0.0).to(ACCUMULATOR)[:, None]
    if LINEAR:
        target = (position // cells).to(tl.int64) * result_n + (position % cells).to(tl.int64) * result_w
    else:
        target = image.to(tl.int64) * result_n + d.to(tl.int64) * result_d
        target += h.to(tl.int64) * result_h + w.to(tl.int64) * result_w
    target = feature[:, None] * result_c + target[None, :]
    inside = inside_m[:, None] & inside_p[None, :]
    if residual is not None:
        total += tl.load(residual + target, mask=inside, other=0.0).to(ACCUMULATOR)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # NaN stays NaN
    if SPLIT:
        size = tl.cast(batch, tl.int64) * groups * features * cells
        result += tl.program_id(1) * size
    tl.store(result + target, total.to(result.dtype.element_ty), mask=inside)


@triton.jit
def conv_sum_of_parts_kernel(
    partials, bias, residual, result,
    size, channels, parts, depth, height, width, result_n, result_c, result_d, result_h, result_w,
    CHANNELS_LAST: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """result = activation(the sum of partials [parts, size] over the parts, in their order, + bias + residual).

    Partials lie as [N, C, D, H, W], with CHANNELS_LAST as [N, D, H, W, C]; only where tiles are few is there more than
    one part, so 32 bits count them. Neighbours are neighbours in the result too.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    total = tl.zeros((BLOCK,), dtype=partials.dtype.element_ty)
    for part in range(parts):
        total += tl.load(partials + tl.cast(part, tl.int64) * size + index, mask=inside, other=0.0)
    if CHANNELS_LAST:
        channel = index % channels
        image, d, h, w = cells_of(index // channels, depth, height, width)
    else:
        plane, d, h, w = cells_of(index, depth, height, width)
        image, channel = plane // channels, plane % channels
    target = image.to(tl.int64) * result_n + channel.to(tl.int64) * result_c + d.to(tl.int64) * result_d
    target += h.to(tl.int64) * result_h + w.to(tl.int64) * result_w
    if bias is not None:
        total += tl.load(bias + channel, mask=inside, other=0.0).to(total.dtype)
    if residual is not None:
        total += tl.load(residual + target, mask=inside, other=0.0).to(total.dtype)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # NaN stays NaN
    tl.store(result + target, total.to(result.dtype.element_ty), mask=inside)


@triton.jit
def conv_grad_weight_kernel(
    x, grad_z, grad_weight,
    batch, channels, features, x_group, grad_group, cells, parts, part_size,
    depth, height, width, out_depth, out_height, out_width,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w, dilation_d, dilation_h, dilation_w,
    x_n, x_c, x_d, x_h, x_w,
    grad_n, grad_c, grad_d, grad_h, grad_w,
    KERNEL_D: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, VOLUME: tl.constexpr,
    FLAT: tl.constexpr, POINTWISE: tl.constexpr, LINEAR: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """grad_weight = the sum over images and output positions of grad_z times what each tap saw of x.

    A program makes BLOCK_M output channels by BLOCK_N lanes over one of `parts` stretches of the positions;
    grad_weight [parts, out, channels, taps] has an axis for the parts. A group has x_group and grad_group channels in
    memory, of which those behind its `channels` and `features` are 0. The `cells` of an image of grad_z are a row in
    memory with LINEAR, grad_w apart; with POINTWISE those of x are too, x_w apart.
    """
    TAPS: tl.constexpr = KERNEL_D * KERNEL_H * KERNEL_W
    tiles_m = tl.cdiv(features, BLOCK_M)
    tiles_n = tl.cdiv(channels * TAPS, BLOCK_N) if FLAT else tl.cdiv(channels, BLOCK_N) * TAPS
    program = tl.program_id(0)
    feature = (program % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    program = program // tiles_m
    tile_n, group = program % tiles_n, (program // tiles_n).to(tl.int64)
    if FLAT:
        lane = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        channel, tap = lane // TAPS, lane % TAPS
    else:
        channel, tap = tile_n // TAPS * BLOCK_N + tl.arange(0, BLOCK_N), tile_n % TAPS
    k_d, k_h, k_w = tap // (KERNEL_H * KERNEL_W), tap // KERNEL_W % KERNEL_H, tap % KERNEL_W
    moved_d, moved_h, moved_w = k_d * dilation_d, k_h * dilation_h, k_w * dilation_w
    x_lane = channel.to(tl.int64) * x_c + moved_d.to(tl.int64) * x_d
    x_lane += moved_h.to(tl.int64) * x_h + moved_w.to(tl.int64) * x_w
    if FLAT:
        moved_d, moved_h, moved_w = moved_d[:, None], moved_h[:, None], moved_w[:, None]
    x_tile = x + group * x_group * x_c + x_lane[:, None]
    grad_tile = grad_z + (group * grad_group + feature)[:, None] * grad_c

    positions = batch * cells
    if WIDE:
        positions = tl.cast(batch, tl.int64) * cells
    steps = tl.cdiv(positions, BLOCK_K)
    part = tl.program_id(1)
    steps_of_part = tl.cdiv(steps, parts)
    first = part * steps_of_part
    last = tl.minimum(first + steps_of_part, steps)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACCUMULATOR)
    for step in range(first, last):
        position = step * BLOCK_K + tl.arange(0, BLOCK_K)
        inside_p = position < positions
        if LINEAR:
            at_grad = (position // cells).to(tl.int64) * grad_n + (position % cells).to(tl.int64) * grad_w
        if POINTWISE:
            at_x = (position // cells).to(tl.int64) * x_n + (position % cells).to(tl.int64) * x_w
            inside = inside_p[None, :]
        else:
            image, d, h, w = cells_of(position, out_depth, out_height, out_width)
            if not LINEAR:
                at_grad = image.to(tl.int64) * grad_n + d.to(tl.int64) * grad_d
                at_grad += h.to(tl.int64) * grad_h + w.to(tl.int64) * grad_w
            d, h, w = d * stride_d - padding_d, h * stride_h - padding_h, w * stride_w - padding_w
            at_x = image.to(tl.int64) * x_n + d.to(tl.int64) * x_d + h.to(tl.int64) * x_h + w.to(tl.int64) * x_w
            at_h, at_w = h[None, :] + moved_h, w[None, :] + moved_w
            inside = inside_p[None, :] & (at_h >= 0) & (at_h < height) & (at_w >= 0) & (at_w < width)
            if VOLUME:
                at_d = d[None, :] + moved_d
                inside = inside & (at_d >= 0) & (at_d < depth)
        gradient = tl.load(
            grad_tile + at_grad[None, :], mask=(feature < grad_group)[:, None] & inside_p[None, :], other=0.0
        )
        patch = tl.load(x_tile + at_x[None, :], mask=(channel < x_group)[:, None] & inside, other=0.0)
        total = tl.dot(gradient, tl.trans(patch), total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    target = part.to(tl.int64) * part_size + (group * features + feature)[:, None] * channels * TAPS
    target += (channel.to(tl.int64) * TAPS + tap)[None, :]
    mask = (feature < features)[:, None] & (channel < channels)[None, :]
    tl.store(grad_weight + target, total.to(grad_weight.dtype.element_ty), mask=mask)


def correlate(x: Image, weight, bias, shape, y: Image, relu, residual=None) -> None:
    """y = activation(the convolution of x with weight + bias + residual); the residual has y's strides."""
    _correlate(x, weight, bias, residual, shape, y, relu, shape.input, shape.output, spread=False)


def spread(z: Image, weight, bias, shape, x: Image, relu, residual=None) -> None:
    """x = activation(the transpose of the convolution, of z + bias + residual): its gradient, or a transposed
    convolution; the residual has x's strides."""
    _correlate(z, weight, bias, residual, shape, x, relu, shape.output, shape.input, spread=True)


def grad_weight(x: Image, grad_z: Image, shape, result) -> None:
    """result [out, in / groups, *kernel], contiguous, from x and grad_z."""
    if result.size == 0:
        return
    channels, features = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    flat = has_few_channels(channels, shape.taps)
    positions = shape.batch * shape.out_size
    linear = cell_step(grad_z.strides, shape.output) is not None
    pointwise = linear and shape.is_pointwise and cell_step(x.strides, shape.input) is not None
    gathered = flat or not (is_wide(x, shape.batch, shape.input) and is_wide(grad_z, shape.batch, shape.output))
    lanes = channels * shape.taps if flat else channels
    tile = GRAD_WEIGHT.pick(x.array, features, lanes, positions, gathered, pointwise)
    tiles_n = ceil_div(lanes, tile["BLOCK_N"]) * (1 if flat else shape.taps)
    tiles = shape.groups * tiles_n * ceil_div(features, tile["BLOCK_M"])
    parts = parts_of(tiles, ceil_div(positions, tile["BLOCK_K"]))
    target = result if parts == 1 else empty(result, (parts, result.size), _wide(result))
    launch(
        conv_grad_weight_kernel, (tiles, parts),
        x.array, grad_z.array, target,
        shape.batch, channels, features, x.group, grad_z.group, shape.out_size, parts, result.size,
        *shape.input, *shape.output, *shape.stride, *shape.padding, *shape.dilation,
        *_along_cells(x.strides, shape.input, pointwise), *_along_cells(grad_z.strides, shape.output, linear),
        FLAT=flat, POINTWISE=pointwise, LINEAR=linear, WIDE=positions >= WIDE,
        **_kernel_sizes(shape), **_types(result.dtype), **tile,
    )  # fmt: skip
    if parts > 1:
        sum_parts(target, result, parts)


def _correlate(source, weight, bias, residual, shape, result, relu, source_sizes, sizes, spread):
    if result.array.size == 0:
        return
    # Sizes are those of the sum: `channels` are summed over, `features` are made.
    channels, features = source.group, shape.out_channels // shape.groups
    if spread:
        features = shape.in_channels // shape.groups
    strided = shape.stride != (1, 1, 1)
    flat = has_few_channels(channels, shape.taps) and not (spread and strided)
    weight, weight_strides = arranged(weight, shape, channels, spread, lanes_apart=flat or shape.taps == 1)
    classes = math.prod(shape.stride) if spread else 1
    linear = classes == 1 and cell_step(result.strides, sizes) is not None
    pointwise = linear and shape.is_pointwise and cell_step(source.strides, sizes) is not None
    cells = math.prod(sizes)
    positions = shape.batch * math.prod(
        ceil_div(size, stride) if spread else size for size, stride in zip(sizes, shape.stride)
    )
    lanes = channels * shape.taps if flat else channels
    gathered = flat or not is_wide(source, shape.batch, source_sizes)
    gathered = gathered and not (pointwise and cells % PIECE == 0)
    tile = dict(CORRELATE.pick(source.array, features, positions, lanes, gathered))
    may_split = tile.pop("SPLIT")
    steps, inverses = tap_steps(shape)
    tiles = ceil_div(features, tile["BLOCK_M"]) * ceil_div(positions, tile["BLOCK_P"]) * shape.groups * classes
    # A class of a transpose with strides has its share of the taps.
    longest = ceil_div(lanes, tile["BLOCK_K"]) * (1 if flat else ceil_div(shape.taps, classes))
    parts = parts_of(tiles, longest) if may_split else 1
    array, strides, epilogue = *result[:2], (bias, residual)
    channels_last = strides[1] == 1
    if parts > 1:
        array = empty(array, (parts, array.size), _wide(array))
        strides, linear = dense_strides(features * shape.groups, sizes, channels_last), classes == 1
        epilogue = None, None
    launch(
        conv_correlate_kernel, (tiles, parts),
        source.array, weight, *epilogue, array,
        shape.batch, shape.groups, channels, features, cells, *source_sizes, *sizes,
        *shape.stride, *shape.padding, *shape.dilation, *steps, *inverses,
        *_along_cells(source.strides, sizes, pointwise), *_along_cells(strides, sizes, linear), *weight_strides,
        SPREAD=spread, STRIDED=strided, FLAT=flat, POINTWISE=pointwise, LINEAR=linear,
        RELU=relu and parts == 1, WIDE=positions >= WIDE, SPLIT=parts > 1,
        **_kernel_sizes(shape), **_types(source.array.dtype), **tile,
    )  # fmt: skip
    if parts > 1:
        launch(
            conv_sum_of_parts_kernel, (ceil_div(result.array.size, _SUM_BLOCK),),
            array, bias, residual, result.array,
            result.array.size, features * shape.groups, parts, *sizes, *result.strides,
            CHANNELS_LAST=channels_last, RELU=relu, BLOCK=_SUM_BLOCK,
        )  # fmt: skip


def _along_cells(strides, sizes, linear) -> tuple[int, ...]:
    """The strides; with `linear` the last of them is what all positions, counted through, are apart."""
    return (*strides[:4], cell_step(strides, sizes)) if linear else strides


def tap_steps(shape) -> tuple[list[int], list[int]]:
    """What `taps_of_class` wants of each axis: how many taps on the next one of a class is, and the dilation's inverse
    modulo that."""
    common = [math.gcd(stride, dilation) for stride, dilation in zip(shape.stride, shape.dilation)]
    steps = [stride // divisor for stride, divisor in zip(shape.stride, common)]
    inverses = [pow(dilation // divisor, -1, step) for dilation, divisor, step in zip(shape.dilation, common, steps)]
    return steps, inverses


def _kernel_sizes(shape) -> dict:
    volume = shape.input[0] > 1 or shape.output[0] > 1 or shape.kernel[0] > 1 or shape.padding[0] > 0
    return dict(zip(("KERNEL_D", "KERNEL_H", "KERNEL_W"), shape.kernel)) | {"VOLUME": volume}


def _wide(x) -> type:
    """What x's products are added in."""
    return np.float64 if x.dtype == np.float64 else np.float32


def _types(dtype) -> dict:
    double = dtype == np.float64
    return {
        "PRECISION": input_precision(dtype),
        "ACCUMULATOR": tl.float64 if double else tl.float32,
    }


def _default(architecture, dtype, rows, columns, inner, gathered):
    """Where values are gathered one by one (channels that do not lie side by side), their addresses and masks fill
    registers, so blocks are smaller."""
    if dtype.itemsize == 8:
        return 32, 32, 16, 4, 2
    if dtype.itemsize == 4:
        return 64, 64, 32, 8, 3
    # 96 KB of shared memory, or half of that where two blocks would not fit otherwise.
    return (64, 128, 32, 8, 3) if gathered else (128, 128, 64 if has_room(architecture) else 32, 8, 3)


def _candidates(dtype, rows, columns, inner, gathered):
    return {
        2: [
            (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 8, 3),
            (128, 128, 32, 8, 4), (128, 128, 32, 8, 3), (128, 64, 64, 8, 3), (64, 128, 64, 8, 3),
            (64, 128, 32, 8, 3), (64, 128, 32, 4, 3), (128, 64, 32, 4, 3), (64, 64, 64, 4, 3),
            (64, 64, 32, 4, 4), (64, 64, 32, 8, 3), (32, 128, 32, 4, 3), (32, 64, 64, 4, 3),
        ],
        4: [
            (128, 64, 32, 8, 2), (64, 128, 32, 8, 2), (128, 64, 16, 8, 3), (64, 128, 16, 8, 3), (64, 64, 32, 8, 3),
            (64, 64, 32, 8, 2), (64, 64, 16, 8, 4), (64, 64, 16, 4, 3), (64, 32, 32, 4, 3), (32, 64, 32, 4, 3),
            (32, 128, 32, 8, 3), (32, 32, 32, 4, 3),
        ],
        8: [(64, 64, 16, 8, 2), (64, 32, 16, 4, 2), (32, 64, 16, 4, 2), (32, 32, 16, 4, 2), (32, 32, 32, 4, 2)],
    }[dtype.itemsize]  # fmt: skip


def _default_correlate(architecture, dtype, rows, columns, inner, gathered):
    return *_default(architecture, dtype, rows, columns, inner, gathered), 1


def _candidates_correlate(dtype, rows, columns, inner, gathered):
    """Every tile with sums split as `parts_of` says; and whole, where there are so few tiles that it may split them."""
    tiles = _candidates(dtype, rows, columns, inner, gathered)
    few = [tile for tile in tiles if parts_of(ceil_div(rows, tile[0]) * ceil_div(columns, tile[1]), _LONG) > 1]
    return [*((*tile, 1) for tile in tiles), *((*tile, 0) for tile in few)]


def _default_grad_weight(architecture, dtype, rows, columns, inner, gathered, pointwise):
    if gathered and pointwise and dtype.itemsize == 2:
        return 64, 128, 64, 4, 3  # few addresses: positions are read in rows
    return _default(architecture, dtype, rows, columns, inner, gathered)


# Rows and columns of the result that a program makes, what of the sum it takes at a time, how it is pipelined, and
# whether sums may be split. The sizes are those of the three axes, and whether values are gathered one by one; for a
# gradient of the weight also whether that is pointwise. Masks fill up what is less than 16.
CORRELATE = Choice(
    "conv.correlate",
    ("BLOCK_M", "BLOCK_P", "BLOCK_K", "num_warps", "num_stages", "SPLIT"),
    _candidates_correlate,
    _default_correlate,
    along={"BLOCK_M": 0, "BLOCK_P": 1, "BLOCK_K": 2},
)
GRAD_WEIGHT = Choice(
    "conv.grad_weight",
    ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages"),
    lambda dtype, rows, columns, inner, gathered, pointwise: _candidates(dtype, rows, columns, inner, gathered),
    _default_grad_weight,
    along={"BLOCK_M": 0, "BLOCK_N": 1, "BLOCK_K": 2},
)
