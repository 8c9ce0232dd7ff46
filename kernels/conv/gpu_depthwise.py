"""Convolutions in which every output channel reads one input channel, directly, on CuPy arrays of any strides: such a
convolution does a few operations a value, so what counts is that each value comes from memory once.

Weights are [out, 1, taps]; output channel o reads input channel o // (out / in).
"""

import math

import numpy as np
import triton
import triton.language as tl

from ..dense.gpu_product import parts_of, sum_parts
from ..gpu_arrays import contiguous
from ..launch import ceil_div, empty, launch
from ..tuning import Choice
from .gpu_layout import Image
from .gpu_products import WIDE, cells_of, tap_steps, taps_of_class


@triton.jit
def conv_depthwise_kernel(
    source, weight, bias, residual, result,
    batch, channels, multiplier,
    source_depth, source_height, source_width, result_depth, result_height, result_width,
    padding_d, padding_h, padding_w, dilation_d, dilation_h, dilation_w,
    tap_step_d, tap_step_h, tap_step_w, inverse_d, inverse_h, inverse_w,
    source_n, source_c, source_d, source_h, source_w,
    result_n, result_c, result_d, result_h, result_w,
    KERNEL_D: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    STRIDE_D: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    SPREAD: tl.constexpr, RELU: tl.constexpr, WIDE: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """result = activation(weight * source + bias + residual), a channel by itself; with SPREAD the transpose of that.

    The residual has the result's strides. A program makes BLOCK_C channels at BLOCK_P positions, all images counted
    through. The taps' windows overlap, and are in the first-level cache after the first. A transpose with strides falls
    apart into a dense convolution for each remainder (class) of the result's positions by the strides, each with its
    own taps: programs of all classes at the same place run together, as what they read and write interlocks.
    """
    TAPS: tl.constexpr = KERNEL_D * KERNEL_H * KERNEL_W
    program = tl.program_id(0)
    cells_d, cells_h, cells_w = result_depth, result_height, result_width
    if SPREAD:
        class_w, program = program % STRIDE_W, program // STRIDE_W
        class_h, program = program % STRIDE_H, program // STRIDE_H
        class_d, program = program % STRIDE_D, program // STRIDE_D
        cells_d, cells_h, cells_w = tl.cdiv(cells_d, STRIDE_D), tl.cdiv(cells_h, STRIDE_H), tl.cdiv(cells_w, STRIDE_W)
    tiles_c = tl.cdiv(channels, BLOCK_C)
    channel = ((program % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    position = (program // tiles_c) * BLOCK_P + tl.arange(0, BLOCK_P)
    positions = batch * cells_d * cells_h * cells_w
    if WIDE:
        position = (program // tiles_c).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
        positions = tl.cast(batch, tl.int64) * cells_d * cells_h * cells_w
    inside_c, inside_p = channel < channels, position < positions
    image, d, h, w = cells_of(position, cells_d, cells_h, cells_w)
    if SPREAD:
        first_d, count_d, from_d = taps_of_class(
            class_d + padding_d, STRIDE_D, dilation_d, tap_step_d, inverse_d, KERNEL_D
        )
        first_h, count_h, from_h = taps_of_class(
            class_h + padding_h, STRIDE_H, dilation_h, tap_step_h, inverse_h, KERNEL_H
        )
        first_w, count_w, from_w = taps_of_class(
            class_w + padding_w, STRIDE_W, dilation_w, tap_step_w, inverse_w, KERNEL_W
        )
        next_d, next_h, next_w = tap_step_d, tap_step_h, tap_step_w
        origin_d, origin_h, origin_w = d + from_d, h + from_h, w + from_w
        jump_d = -(dilation_d * tap_step_d // STRIDE_D)
        jump_h = -(dilation_h * tap_step_h // STRIDE_H)
        jump_w = -(dilation_w * tap_step_w // STRIDE_W)
        d, h, w = class_d + d * STRIDE_D, class_h + h * STRIDE_H, class_w + w * STRIDE_W
        inside_p = inside_p & (d < result_depth) & (h < result_height) & (w < result_width)
    else:
        first_d, first_h, first_w = 0, 0, 0
        next_d, next_h, next_w = 1, 1, 1
        count_d, count_h, count_w = KERNEL_D, KERNEL_H, KERNEL_W
        origin_d, origin_h, origin_w = d * STRIDE_D - padding_d, h * STRIDE_H - padding_h, w * STRIDE_W - padding_w
        jump_d, jump_h, jump_w = dilation_d, dilation_h, dilation_w
    total = tl.zeros((BLOCK_C, BLOCK_P), dtype=ACCUMULATOR)
    start = image.to(tl.int64) * source_n + origin_d.to(tl.int64) * source_d
    start += origin_h.to(tl.int64) * source_h + origin_w.to(tl.int64) * source_w
    step_d, step_h = tl.cast(jump_d, tl.int64) * source_d, tl.cast(jump_h, tl.int64) * source_h
    step_w = tl.cast(jump_w, tl.int64) * source_w
    for k_d in range(count_d):
        at_d = origin_d + k_d * jump_d
        inside_d = inside_p & (at_d >= 0) & (at_d < source_depth)
        for k_h in range(count_h):
            at_h = origin_h + k_h * jump_h
            inside_h = inside_d & (at_h >= 0) & (at_h < source_height)
            tap_of_row = ((first_d + k_d * next_d) * KERNEL_H + first_h + k_h * next_h) * KERNEL_W + first_w
            for k_w in range(count_w):
                at_w = origin_w + k_w * jump_w
                inside = inside_h & (at_w >= 0) & (at_w < source_width)
                at, tap = start + (k_d * step_d + k_h * step_h + k_w * step_w), tap_of_row + k_w * next_w
                mask = inside_c[:, None] & inside[None, :]
                if SPREAD:
                    for index in range(multiplier):
                        of_source = channel * multiplier + index
                        value = tl.load(source + of_source[:, None] * source_c + at[None, :], mask=mask, other=0.0)
                        factor = tl.load(weight + of_source * TAPS + tap, mask=inside_c, other=0.0)
                        total += value.to(ACCUMULATOR) * factor.to(ACCUMULATOR)[:, None]
                else:
                    of_source = channel // multiplier
                    value = tl.load(source + of_source[:, None] * source_c + at[None, :], mask=mask, other=0.0)
                    factor = tl.load(weight + channel * TAPS + tap, mask=inside_c, other=0.0)
                    total += value.to(ACCUMULATOR) * factor.to(ACCUMULATOR)[:, None]
    if bias is not None:
        total += tl.load(bias + channel, mask=inside_c, other=0.0).to(ACCUMULATOR)[:, None]
    target = image.to(tl.int64) * result_n + d.to(tl.int64) * result_d
    target += h.to(tl.int64) * result_h + w.to(tl.int64) * result_w
    target = channel[:, None] * result_c + target[None, :]
    inside = inside_c[:, None] & inside_p[None, :]
    if residual is not None:
        total += tl.load(residual + target, mask=inside, other=0.0).to(ACCUMULATOR)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # NaN stays NaN
    tl.store(result + target, total.to(result.dtype.element_ty), mask=inside)


@triton.jit
def conv_depthwise_grad_weight_kernel(
    x, grad_z, grad_weight,
    batch, channels, multiplier, parts, part_size,
    depth, height, width, out_depth, out_height, out_width,
    stride_d, stride_h, stride_w, padding_d, padding_h, padding_w, dilation_d, dilation_h, dilation_w,
    x_n, x_c, x_d, x_h, x_w,
    grad_n, grad_c, grad_d, grad_h, grad_w,
    KERNEL_D: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    WIDE: tl.constexpr, ACCUMULATOR: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """grad_weight[o, tap] = the sum over images and output positions of grad_z[:, o] times what the tap saw of x.

    A program walks one of `parts` stretches of the positions with BLOCK_C output channels and BLOCK_T taps at once, so
    that grad_z is read once and x comes from the first-level cache for all taps but the first; grad_weight
    [parts, out, taps] has an axis for the parts.
    """
    TAPS: tl.constexpr = KERNEL_D * KERNEL_H * KERNEL_W
    tiles_t = tl.cdiv(TAPS, BLOCK_T)
    tap = (tl.program_id(0) % tiles_t) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = ((tl.program_id(0) // tiles_t) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    inside_c, inside_t = channel < channels, tap < TAPS
    k_d, k_h, k_w = tap // (KERNEL_H * KERNEL_W), tap // KERNEL_W % KERNEL_H, tap % KERNEL_W
    moved_d = (k_d * dilation_d - padding_d)[:, None]
    moved_h = (k_h * dilation_h - padding_h)[:, None]
    moved_w = (k_w * dilation_w - padding_w)[:, None]
    x_channel = (channel // multiplier * x_c)[:, None, None]

    positions = batch * out_depth * out_height * out_width
    if WIDE:
        positions = tl.cast(batch, tl.int64) * out_depth * out_height * out_width
    steps = tl.cdiv(positions, BLOCK_P)
    steps_of_part = tl.cdiv(steps, parts)
    first = tl.program_id(1) * steps_of_part
    last = tl.minimum(first + steps_of_part, steps)
    total = tl.zeros((BLOCK_C, BLOCK_T, BLOCK_P), dtype=ACCUMULATOR)
    for step in range(first, last):
        position = step * BLOCK_P + tl.arange(0, BLOCK_P)
        inside_p = position < positions
        image, d, h, w = cells_of(position, out_depth, out_height, out_width)
        image = image.to(tl.int64)
        at_grad = image * grad_n + d.to(tl.int64) * grad_d + h.to(tl.int64) * grad_h + w.to(tl.int64) * grad_w
        gradient = tl.load(
            grad_z + channel[:, None] * grad_c + at_grad[None, :],
            mask=inside_c[:, None] & inside_p[None, :],
            other=0.0,
        )
        at_d, at_h = (d * stride_d)[None, :] + moved_d, (h * stride_h)[None, :] + moved_h
        at_w = (w * stride_w)[None, :] + moved_w
        inside = inside_t[:, None] & inside_p[None, :] & (at_d >= 0) & (at_d < depth)
        inside = inside & (at_h >= 0) & (at_h < height) & (at_w >= 0) & (at_w < width)
        at_x = image[None, :] * x_n + at_d.to(tl.int64) * x_d + at_h.to(tl.int64) * x_h + at_w.to(tl.int64) * x_w
        seen = tl.load(x + x_channel + at_x[None, :, :], mask=inside_c[:, None, None] & inside[None, :, :], other=0.0)
        total += gradient.to(ACCUMULATOR)[:, None, :] * seen.to(ACCUMULATOR)
    target = grad_weight + tl.program_id(1).to(tl.int64) * part_size + (channel * TAPS)[:, None] + tap[None, :]
    mask = inside_c[:, None] & inside_t[None, :]
    tl.store(target, tl.sum(total, axis=2).to(grad_weight.dtype.element_ty), mask=mask)


def correlate(x: Image, weight, bias, shape, y: Image, relu, residual=None) -> None:
    """y = activation(the convolution of x with weight + bias + residual); the residual has y's strides."""
    _convolve(x, weight, bias, residual, shape, y, relu, shape.input, shape.output, spread=False)


def spread(z: Image, weight, bias, shape, x: Image, relu, residual=None) -> None:
    """x = activation(the transpose of the convolution, of z + bias + residual): its gradient, or a transposed
    convolution; the residual has x's strides."""
    _convolve(z, weight, bias, residual, shape, x, relu, shape.output, shape.input, spread=True)


def grad_weight(x: Image, grad_z: Image, shape, result) -> None:
    """result [out, 1, *kernel], contiguous, from x and grad_z."""
    positions = shape.batch * shape.out_size
    tile = GRAD_WEIGHT.pick(result, shape.out_channels, positions, grad_z.strides[1] == 1 and shape.out_channels > 1)
    block_t = min(16, triton.next_power_of_2(shape.taps))
    tiles = ceil_div(shape.out_channels, tile["BLOCK_C"]) * ceil_div(shape.taps, block_t)
    parts = parts_of(tiles, ceil_div(positions, tile["BLOCK_P"]))
    accumulator = np.float64 if result.dtype == np.float64 else np.float32
    target = result if parts == 1 else empty(result, (parts, result.size), accumulator)
    launch(
        conv_depthwise_grad_weight_kernel, (tiles, parts),
        x.array, grad_z.array, target,
        shape.batch, shape.out_channels, shape.out_channels // shape.in_channels, parts, result.size,
        *shape.input, *shape.output, *shape.stride, *shape.padding, *shape.dilation, *x.strides, *grad_z.strides,
        **dict(zip(("KERNEL_D", "KERNEL_H", "KERNEL_W"), shape.kernel)), WIDE=positions >= WIDE,
        ACCUMULATOR=_accumulator(result.dtype), BLOCK_T=block_t, **tile,
    )  # fmt: skip
    if parts > 1:
        sum_parts(target, result, parts)


def _convolve(source, weight, bias, residual, shape, result, relu, source_sizes, sizes, spread):
    channels = shape.in_channels if spread else shape.out_channels
    strides = shape.stride if spread else (1, 1, 1)
    positions = shape.batch * math.prod(map(ceil_div, sizes, strides))  # of a class
    tile = CONVOLVE.pick(source.array, channels, positions, result.strides[1] == 1 and channels > 1)
    tiles = math.prod(strides) * ceil_div(channels, tile["BLOCK_C"]) * ceil_div(positions, tile["BLOCK_P"])
    steps, inverses = tap_steps(shape)
    launch(
        conv_depthwise_kernel, (tiles,),
        source.array, contiguous(weight), bias, residual, result.array,
        shape.batch, channels, shape.out_channels // shape.in_channels, *source_sizes, *sizes,
        *shape.padding, *shape.dilation, *steps, *inverses, *source.strides, *result.strides,
        **dict(zip(("KERNEL_D", "KERNEL_H", "KERNEL_W"), shape.kernel)),
        **dict(zip(("STRIDE_D", "STRIDE_H", "STRIDE_W"), shape.stride)),
        SPREAD=spread, RELU=relu, WIDE=positions >= WIDE, ACCUMULATOR=_accumulator(weight.dtype), **tile,
    )  # fmt: skip


# Threads lie along channels where these are neighbours in memory, else along positions.
CONVOLVE = Choice(
    "conv.depthwise",
    ("BLOCK_C", "BLOCK_P", "num_warps"),
    candidates=lambda dtype, channels, positions, channels_last: (
        [
            (64, 8, 4),
            (64, 4, 4),
            (64, 16, 4),
            (64, 16, 8),
            (32, 8, 4),
            (32, 16, 4),
            (128, 4, 4),
            (128, 8, 8),
            (32, 4, 2),
        ]
        if channels_last
        else [(1, 512, 4), (1, 256, 4), (1, 256, 2), (1, 1024, 4), (1, 1024, 8), (1, 2048, 8), (1, 128, 1)]
    ),
    default=lambda architecture, dtype, channels, positions, channels_last: (
        # The most positions with which a transpose with strides on three axes keeps all of them in registers.
        (64, 8, 4) if channels_last else (1, 512 if dtype.itemsize == 8 and architecture >= 90 else 256, 4)
    ),
)
GRAD_WEIGHT = Choice(
    "conv.depthwise_grad_weight",
    ("BLOCK_C", "BLOCK_P", "num_warps"),
    candidates=lambda dtype, channels, positions, channels_last: (
        [(32, 4, 4), (32, 8, 8), (32, 8, 4), (32, 2, 4), (64, 2, 4), (64, 4, 8), (16, 4, 2)]
        if channels_last
        else [(1, 128, 4), (1, 256, 4), (1, 256, 8), (1, 64, 2), (1, 512, 8), (1, 128, 2)]
    ),
    default=lambda architecture, dtype, channels, positions, channels_last: (
        (32, 4, 4) if channels_last else (1, 128, 4)
    ),
)


def _accumulator(dtype):
    return tl.float64 if dtype == np.float64 else tl.float32
