"""Pooling on CuPy arrays.

Every rank is three axes. Forward, a tile is some outputs by some positions of their windows; backward, it is some
inputs by some of the windows that lie above them, so that each gradient is summed by one program in a fixed order and
no atomics are needed. Small windows are walked one position after another, with neighbouring outputs side by side in
the tile; large ones lie along the tile's second axis and are reduced there. `gpu_kernels.py` has the kernels.
"""

import math

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, copy_into, fill
from ..launch import ceil_div, empty, launch
from .geometry import adaptive_windows, pooled_shape, three
from .gpu_kernels import (
    GIVEN,
    LARGEST,
    LENGTH,
    PADDED,
    PART,
    PLAIN,
    SMALLEST,
    avg_pool_grad_input_kernel,
    avg_pool_kernel,
    max_pool_grad_input_kernel,
    max_pool_kernel,
    max_unpool_grad_input_kernel,
    max_unpool_kernel,
    max_unpool_source_kernel,
)

_BLOCK = 1024


# ---- geometry


class _Geometry:
    """Windows of three axes as the kernels take them."""

    def __init__(self, shape, counts, kernel, stride, padding, dilation, adaptive):
        self.size, self.count, self.kernel = three(shape, 1), three(counts, 1), three(kernel, 1)
        self.stride, self.padding, self.dilation = three(stride, 1), three(padding, 0), three(dilation, 1)
        self.adaptive = adaptive

    def arguments(self, dilated: bool) -> tuple[int, ...]:
        averaged = self.size + self.count + self.kernel + self.stride + self.padding
        return tuple(int(n) for n in (averaged + self.dilation if dilated else averaged))

    def above(self) -> tuple[int, ...]:
        """The most windows of each axis that lie above one position."""
        if self.adaptive:
            return tuple(_longest(count, size) for size, count in zip(self.size, self.count))
        reach = (d * (k - 1) for k, d in zip(self.kernel, self.dilation))
        return tuple(min(int(r // s) + 1, n) for r, s, n in zip(reach, self.stride, self.count))

    def index_type(self, planes: int):
        """32 bits as far as they reach: 64-bit divisions are slow."""
        largest = max(planes * math.prod(self.size), planes * math.prod(self.count))
        if self.adaptive:
            largest = max(largest, *((n + 1) * (m + 1) for n, m in zip(self.size, self.count)))
        else:
            largest = max(
                largest, *((n + k * d) * s for n, k, d, s in zip(self.count, self.kernel, self.dilation, self.stride))
            )
        return tl.int32 if largest < 2**31 - 2 * _BLOCK else tl.int64


def _sliding(shape, kernel_size, stride, padding, dilation, ceil_mode):
    counts = pooled_shape(shape, kernel_size, stride, padding, dilation, ceil_mode)
    return _Geometry(shape, counts, kernel_size, stride, padding, dilation, False)


def _adaptive(shape, output_size):
    rank = len(shape)
    longest = tuple(_longest(*axis) for axis in zip(shape, output_size))
    return _Geometry(shape, output_size, longest, (1,) * rank, (0,) * rank, (1,) * rank, True)


def _longest(size, count):
    """The most positions under one of `count` adaptive windows over `size` positions."""
    start, stop = adaptive_windows(size, count)
    return int((stop - start).max())


def _blocks(window):
    """A tile of _BLOCK values: all of them outputs for small windows, else with the window along the second axis."""
    if window <= 32:
        return {"BLOCK": 256, "BLOCK_WINDOW": 1}
    along = min(triton.next_power_of_2(window), _BLOCK)
    return {"BLOCK": _BLOCK // along, "BLOCK_WINDOW": along}


def _compute_type(dtype):
    return tl.float64 if dtype == np.float64 else tl.float32


def _planes(shape, rank):
    return math.prod(shape[:-rank])


def _grid(size, block):
    return (ceil_div(size, block),)


def _ready(x, out, shape, dtype):
    """A C-contiguous array to write to: `out` itself where it is one."""
    return out if out is not None and out.flags.c_contiguous else empty(x, shape, dtype)


def _delivered(computed, out):
    """The result in `out` where one is given."""
    if out is None or out is computed:
        return computed
    copy_into(out, computed)
    return out


# ---- maximum


def _max_forward(x, geometry, rank, return_indices, out, magnitude=PLAIN):
    x, shape = contiguous(x), (*x.shape[:-rank], *geometry.count[3 - rank :])
    y_out, indices_out = out if type(out) is tuple else (out, None)
    y = _ready(x, y_out, shape, x.dtype)
    # Half the memory of int64, wherever a plane's positions fit and nobody else sees the indices.
    small = math.prod(geometry.size) < 2**31 and not return_indices
    indices = _ready(x, indices_out, shape, np.dtype(np.int32 if small else np.int64))
    blocks = _blocks(math.prod(geometry.kernel))
    launch(
        max_pool_kernel, _grid(y.size, blocks["BLOCK"]),
        x, y, indices, y.size, *geometry.arguments(True),
        ADAPTIVE=geometry.adaptive, MAGNITUDE=magnitude.value, COMPUTE=_compute_type(x.dtype),
        INDEX=geometry.index_type(_planes(x.shape, rank)), **blocks,
    )  # fmt: skip
    saved = x.shape, geometry, indices
    y = _delivered(y, y_out)
    return (y, _delivered(indices, indices_out)) if return_indices else y, saved


def _max_backward(saved, grad_output, needs, signs_of=None):
    x_shape, geometry, indices = saved
    if not needs[0]:
        return (None,)
    grad_y = contiguous(grad_output[0] if type(grad_output) is tuple else grad_output)
    grad_x, above = empty(grad_y, x_shape), geometry.above()
    blocks = _blocks(math.prod(above))
    planes = grad_x.size // math.prod(geometry.size)
    launch(
        max_pool_grad_input_kernel, _grid(grad_x.size, blocks["BLOCK"]),
        grad_y, indices, signs_of, grad_x, grad_x.size, *above, *geometry.arguments(True),
        ADAPTIVE=geometry.adaptive, COMPUTE=_compute_type(grad_y.dtype), INDEX=geometry.index_type(planes), **blocks,
    )  # fmt: skip
    return (grad_x,)


def max_pool_forward(x, *, kernel_size, stride, padding, dilation, ceil_mode=False, return_indices=False, out=None):
    rank = len(kernel_size)
    geometry = _sliding(x.shape[-rank:], kernel_size, stride, padding, dilation, ceil_mode)
    return _max_forward(x, geometry, rank, return_indices, out)


def adaptive_max_pool_forward(x, *, output_size, return_indices=False, out=None):
    rank = len(output_size)
    return _max_forward(x, _adaptive(x.shape[-rank:], output_size), rank, return_indices, out)


max_pool_backward = adaptive_max_pool_backward = _max_backward


# ---- average


def _average_forward(x, geometry, rank, divisor_code, divisor=1, power=1, root=1, out=None):
    """Returns y, saved, and for a power average the array that the root is taken of."""
    x, shape = contiguous(x), (*x.shape[:-rank], *geometry.count[3 - rank :])
    y = _ready(x, out, shape, x.dtype)
    half = x.dtype != np.float64
    total = empty(x, shape, np.dtype(np.float32 if half else np.float64)) if root != 1 else None
    blocks = _blocks(math.prod(geometry.kernel))
    launch(
        avg_pool_kernel, _grid(y.size, blocks["BLOCK"]),
        x, y, total, y.size, divisor, *geometry.arguments(False),
        ADAPTIVE=geometry.adaptive, DIVISOR=divisor_code.value, POWER=power, ROOT=root,
        COMPUTE=_compute_type(x.dtype), INDEX=geometry.index_type(_planes(x.shape, rank)), **blocks,
    )  # fmt: skip
    return _delivered(y, out), (x.shape, geometry, divisor_code, divisor), total


def _average_backward(saved, grad_y, needs, x=None, total=None, power=1, root=1):
    x_shape, geometry, divisor_code, divisor = saved
    if not needs[0]:
        return (None,)
    grad_y = contiguous(grad_y)
    grad_x, above = empty(grad_y, x_shape), geometry.above()
    blocks = _blocks(math.prod(above))
    planes = grad_x.size // math.prod(geometry.size)
    launch(
        avg_pool_grad_input_kernel, _grid(grad_x.size, blocks["BLOCK"]),
        grad_y, x, total, grad_x, grad_x.size, divisor, *above, *geometry.arguments(False),
        ADAPTIVE=geometry.adaptive, DIVISOR=divisor_code.value, POWER=power, ROOT=root,
        COMPUTE=_compute_type(grad_y.dtype), INDEX=geometry.index_type(planes), **blocks,
    )  # fmt: skip
    return (grad_x,)


def avg_pool_forward(
    x, *, kernel_size, stride, padding, ceil_mode=False, count_include_pad=True, divisor_override=None, out=None
):
    rank = len(kernel_size)
    geometry = _sliding(x.shape[-rank:], kernel_size, stride, padding, (1,) * rank, ceil_mode)
    if divisor_override is not None:
        return _average_forward(x, geometry, rank, GIVEN, int(divisor_override), out=out)[:2]
    return _average_forward(x, geometry, rank, PADDED if count_include_pad else LENGTH, out=out)[:2]


def adaptive_avg_pool_forward(x, *, output_size, out=None):
    rank = len(output_size)
    return _average_forward(x, _adaptive(x.shape[-rank:], output_size), rank, LENGTH, out=out)[:2]


avg_pool_backward = adaptive_avg_pool_backward = _average_backward


# ---- power average


def lp_pool_forward(x, *, norm_type, kernel_size, stride, ceil_mode=False, out=None):
    rank = len(kernel_size)
    x = contiguous(x)
    geometry = _sliding(x.shape[-rank:], kernel_size, stride, (0,) * rank, (1,) * rank, ceil_mode)
    if math.isinf(norm_type):
        y, pooled = _max_forward(x, geometry, rank, False, out, LARGEST if norm_type > 0 else SMALLEST)
        return y, (x, norm_type, None, pooled)
    power = float(norm_type)
    # A window cut short counts as if it were full of its mean, so the divisor is the part of it that is there.
    y, pooled, total = _average_forward(x, geometry, rank, PART, 1, power, 1 / power, out)
    return y, (x, power, y if total is None else total, pooled)


def lp_pool_backward(saved, grad_y, needs):
    x, norm_type, total, pooled = saved
    if math.isinf(norm_type):
        return _max_backward(pooled, grad_y, needs, signs_of=x)
    return _average_backward(pooled, grad_y, needs, x, total, norm_type, 1 / norm_type)


# ---- unpooling


def max_unpool_forward(x, indices, *, output_size, out=None):
    rank = len(output_size)
    shape = (*x.shape[:-rank], *output_size)
    x, indices, y = contiguous(x), contiguous(indices), _ready(x, out, shape, x.dtype)
    count, positions = math.prod(x.shape[-rank:]), math.prod(output_size)
    source = empty(x, shape, np.dtype(np.int32 if count < 2**31 else np.int64))
    fill(source, -1)
    index_type = _flat_index_type(x.size, y.size)
    launch(
        max_unpool_source_kernel, _grid(x.size, _BLOCK), indices, source, x.size, count, positions,
        INDEX=index_type, BLOCK=_BLOCK,
    )  # fmt: skip
    launch(
        max_unpool_kernel, _grid(y.size, _BLOCK), x, source, y, y.size, count, positions, INDEX=index_type, BLOCK=_BLOCK
    )
    return _delivered(y, out), (x.shape, indices, count, positions)


def max_unpool_backward(saved, grad_y, needs):
    x_shape, indices, count, positions = saved
    if not needs[0]:
        return None, None
    grad_y, grad_x = contiguous(grad_y), empty(grad_y, x_shape)
    launch(
        max_unpool_grad_input_kernel, _grid(grad_x.size, _BLOCK),
        grad_y, indices, grad_x, grad_x.size, count, positions,
        INDEX=_flat_index_type(grad_x.size, grad_y.size), BLOCK=_BLOCK,
    )  # fmt: skip
    return grad_x, None


def _flat_index_type(*sizes):
    return tl.int32 if max(sizes) < 2**31 - 2 * _BLOCK else tl.int64
