"""Gradient clipping on CuPy arrays: the norm of a gradient buffer, the buffer scaled, the buffer clipped."""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import ceil_div, empty, launch
from .gpu_elements import BLOCK, as_type, load_elements, store_elements, targets_for

# Each program's chunk is summed in a fixed order, and so are the chunks: a norm is the same in every run.
_CHUNK = 16384
_POWER, _SQUARE, _SIZE = (tl.constexpr(code) for code in range(3))


@triton.jit
def gradient_power_sums_kernel(
    gradient, sums, size, power: tl.float64, CODE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    """sums[c] = sum of |gradient|^power over chunk c, in float64: squares of float32 may not fit float32.

    A program walks its chunk in blocks, adds lane by lane and then the lanes.
    """
    start = tl.program_id(0).to(tl.int64) * CHUNK
    total = tl.zeros((BLOCK,), tl.float64)
    for block in range(0, CHUNK, BLOCK):
        offset = start + block + tl.arange(0, BLOCK)
        value = tl.abs(tl.load(gradient + offset, mask=offset < size, other=0.0).to(tl.float64))
        if CODE == _SQUARE:
            total += value * value
        elif CODE == _SIZE:
            total += value
        else:
            logarithm = tl.log(tl.where(value == 0, 1.0, value))
            total += tl.where(value == 0, 0.0, tl.exp(tl.full((), power, tl.float64) * logarithm))
    tl.store(sums + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def gradient_norm_kernel(sums, norm, count, power: tl.float64, CODE: tl.constexpr, BLOCK: tl.constexpr):
    """norm = (sum of sums)^(1 / power); the one program walks the sums from first to last."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        offset = start + tl.arange(0, BLOCK)
        total += tl.load(sums + offset, mask=offset < count, other=0.0)
    whole = tl.sum(total, axis=0)
    if CODE == _SQUARE:
        whole = tl.sqrt(whole)
    elif CODE == _POWER:
        logarithm = tl.log(tl.where(whole == 0, 1.0, whole))
        whole = tl.where(whole == 0, 0.0, tl.exp(logarithm / tl.full((), power, tl.float64)))
    tl.store(norm, whole.to(norm.dtype.element_ty))


@triton.jit
def gradient_largest_bits_kernel(gradient, largest, size, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """largest[c] = the largest of chunk c's floating-point numbers without their signs, as integers: their bits sort
    as they do, and NaN above infinity."""
    start = tl.program_id(0).to(tl.int64) * CHUNK
    top = tl.zeros((BLOCK,), largest.dtype.element_ty)
    for block in range(0, CHUNK, BLOCK):
        offset = start + block + tl.arange(0, BLOCK)
        value = load_elements(gradient, offset, offset < size)
        if value.dtype == tl.float64:
            bits = value.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF
        else:
            bits = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        top = tl.maximum(top, bits)
    tl.store(largest + tl.program_id(0), tl.max(top, axis=0))


@triton.jit
def gradient_largest_kernel(largest, norm, count, BLOCK: tl.constexpr):
    """norm = the number whose bits are the largest of `largest`."""
    top = tl.zeros((BLOCK,), largest.dtype.element_ty)
    for start in range(0, count, BLOCK):
        offset = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.load(largest + offset, mask=offset < count, other=0))
    bits = tl.max(top, axis=0)
    if bits.dtype == tl.int64:
        tl.store(norm, bits.to(tl.float64, bitcast=True))
    else:
        tl.store(norm, bits.to(tl.float32, bitcast=True).to(norm.dtype.element_ty))


@triton.jit
def gradient_limit_kernel(
    gradient, norm, result, size, max_norm: tl.float64, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr
):
    """result = gradient * max_norm / (norm + 1e-6) where that factor is below 1; 0 stays 0 also where the norm is NaN.

    Every program reads the norm, which lies on the device: the host need not wait for it. In place, nothing else is
    read or written where the gradient is short enough.
    """
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    factor = tl.full((BLOCK,), max_norm, tl.float64) / (tl.load(norm).to(tl.float64) + 1e-6)
    factor = tl.where(factor >= 1, 1.0, factor)
    if IN_PLACE:
        inside = inside & (factor != 1)
    value = load_elements(gradient, offset, inside)
    store_elements(result, offset, inside, tl.where(value == 0, value, factor.to(value.dtype) * value))


@triton.jit
def gradient_scale_and_clip_kernel(
    gradient, result, size, factor: tl.float64, low: tl.float64, high: tl.float64, BLOCK: tl.constexpr
):
    """result = factor * gradient, between low and high; NaN stays."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    scaled = load_elements(gradient, offset, inside)
    least, most = as_type(low, scaled), as_type(high, scaled)
    scaled = as_type(factor, scaled) * scaled
    store_elements(result, offset, inside, tl.where(scaled < least, least, tl.where(scaled > most, most, scaled)))


def gradient_norm_forward(gradient, *, norm_type=2.0):
    flat, norm = contiguous(gradient), empty(gradient, ())
    chunks = ceil_div(flat.size, _CHUNK)
    if norm_type == math.inf:
        bits = np.int64 if flat.dtype == np.float64 else np.int32
        largest = empty(flat, (chunks,), bits)
        launch(gradient_largest_bits_kernel, (chunks,), flat, largest, flat.size, CHUNK=_CHUNK, BLOCK=BLOCK)
        launch(gradient_largest_kernel, (1,), largest, norm, chunks, BLOCK=BLOCK)
        return norm, None
    sums, power = empty(flat, (chunks,), np.float64), float(norm_type)
    code = {2.0: 1, 1.0: 2}.get(power, 0)
    launch(gradient_power_sums_kernel, (chunks,), flat, sums, flat.size, power, CODE=code, CHUNK=_CHUNK, BLOCK=BLOCK)
    launch(gradient_norm_kernel, (1,), sums, norm, chunks, power, CODE=code, BLOCK=BLOCK)
    return norm, None


def gradient_scale_forward(gradient, *, factor, out=None):
    return _scale_and_clip("gradient_scale", gradient, factor, -math.inf, math.inf, out)


def gradient_limit_forward(gradient, norm, *, max_norm, out=None):
    (target,) = targets_for("gradient_limit", [gradient], out)
    grid, limit, in_place = (ceil_div(gradient.size, BLOCK),), float(max_norm), target is gradient
    launch(
        gradient_limit_kernel, grid, contiguous(gradient), norm, target, gradient.size, limit, IN_PLACE=in_place,
        BLOCK=BLOCK,
    )  # fmt: skip
    return target, None


def gradient_clip_forward(gradient, *, low, high, out=None):
    return _scale_and_clip("gradient_clip", gradient, 1.0, low, high, out)


def _scale_and_clip(operation, gradient, factor, low, high, out):
    (target,) = targets_for(operation, [gradient], out)
    grid = (ceil_div(gradient.size, BLOCK),)
    numbers = map(float, (factor, low, high))
    launch(gradient_scale_and_clip_kernel, grid, contiguous(gradient), target, gradient.size, *numbers, BLOCK=BLOCK)
    return target, None
