"""Pooling over one, two or three spatial axes.

Inputs are [N, C, *spatial] or, for one sample, [C, *spatial]. Sizes are one integer for all axes or one an axis.
"""

from __future__ import annotations

from ...kernels import pool as kernels
from ...kernels.pool.geometry import LAYOUTS
from ..tensor import apply

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
]


def per_axis(operation: str, argument: str, value, rank: int) -> tuple:
    """One entry an axis: a single value (or a sequence of one) stands for all `rank` axes."""
    if not isinstance(value, (tuple, list)):
        return (value,) * rank
    if len(value) not in (1, rank):
        raise ValueError(f"{operation}: expected {argument} as one value or {rank}, got {value}")
    return tuple(value) * rank if len(value) == 1 else tuple(value)


def _check_rank(operation, input, rank):
    if input.ndim not in (rank + 1, rank + 2):
        raise ValueError(f"{operation}: expected input as {LAYOUTS[rank]}, got shape {input.shape}")


def _kernel_and_stride(operation, kernel_size, stride, rank):
    """Both spelled out; without a stride the windows lie side by side."""
    kernel_size = per_axis(operation, "kernel_size", kernel_size, rank)
    # An empty sequence means "not given" in PyTorch too.
    given = stride is not None and stride != () and stride != []
    return kernel_size, per_axis(operation, "stride", stride, rank) if given else kernel_size


# ---- maximum


def max_pool1d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Largest value under each window of [N, C, L] or [C, L]; arguments as for `max_pool2d`."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Largest value under each window; of equal values the first has the gradient, and NaN beats all numbers.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size: positions under a window.
        stride: step between windows; kernel_size where left out.
        padding: positions of minus infinity around the plane, at most half of kernel_size.
        dilation: step between the positions under a window.
        ceil_mode: whether a last window may reach past the padded input.
        return_indices: whether to return also where the values were found.

    Returns:
        [..., C, OH, OW], and with return_indices int64 positions of the same shape in the flattened plane.

    Raises:
        ValueError: a window does not fit, or sizes are out of range.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Largest value under each window of [N, C, D, H, W] or [C, D, H, W]; arguments as for `max_pool2d`."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _max_pool(rank, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    name = f"max_pool{rank}d"
    kernel_size, stride = _kernel_and_stride(name, kernel_size, stride, rank)
    return apply(
        kernels.max_pool,
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=per_axis(name, "padding", padding, rank),
        dilation=per_axis(name, "dilation", dilation, rank),
        ceil_mode=ceil_mode,
        return_indices=return_indices,
    )


def adaptive_max_pool1d(input, output_size, return_indices=False):
    """Largest value under each of output_size windows of [N, C, L] or [C, L]; see `adaptive_max_pool2d`."""
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input, output_size, return_indices=False):
    """Largest value under each window, with windows that share the plane evenly.

    Args:
        input: [N, C, H, W] or [C, H, W].
        output_size: how many windows on each axis; None for as many as the input has positions.
        return_indices: whether to return also where the values were found.

    Returns:
        [..., C, *output_size], and with return_indices int64 positions of the same shape in the flattened plane.
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input, output_size, return_indices=False):
    """Largest value under each window of [N, C, D, H, W] or [C, D, H, W]; see `adaptive_max_pool2d`."""
    return _adaptive_max_pool(3, input, output_size, return_indices)


def _adaptive_max_pool(rank, input, output_size, return_indices):
    output_size = _adaptive_size(f"adaptive_max_pool{rank}d", input, output_size, rank)
    return apply(kernels.adaptive_max_pool, input, output_size=output_size, return_indices=return_indices)


def _adaptive_size(operation, input, output_size, rank):
    """output_size spelled out, with the input's own size where it is None."""
    output_size = per_axis(operation, "output_size", output_size, rank)
    _check_rank(operation, input, rank)
    return tuple(own if size is None else size for size, own in zip(output_size, input.shape[-rank:]))


# ---- average


def avg_pool1d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Mean under each window of [N, C, L] or [C, L]; arguments as for `avg_pool2d`."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """Mean under each window.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size: positions under a window.
        stride: step between windows; kernel_size where left out.
        padding: zeros around the plane, at most half of kernel_size.
        ceil_mode: whether a last window may reach past the padded input; what lies there does not count.
        count_include_pad: whether padding counts as positions.
        divisor_override: what to divide the sums by instead of the number of positions.

    Returns:
        [..., C, OH, OW].

    Raises:
        ValueError: a window does not fit, or sizes are out of range.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """Mean under each window of [N, C, D, H, W] or [C, D, H, W]; arguments as for `avg_pool2d`."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _avg_pool(rank, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    name = f"avg_pool{rank}d"
    kernel_size, stride = _kernel_and_stride(name, kernel_size, stride, rank)
    return apply(
        kernels.avg_pool,
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=per_axis(name, "padding", padding, rank),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )


def adaptive_avg_pool1d(input, output_size):
    """Mean under each of output_size windows of [N, C, L] or [C, L]; see `adaptive_avg_pool2d`."""
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input, output_size):
    """Mean under each window, with windows that share the plane evenly; size 1 is global average pooling.

    Args:
        input: [N, C, H, W] or [C, H, W].
        output_size: how many windows on each axis; None for as many as the input has positions.

    Returns:
        [..., C, *output_size].
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input, output_size):
    """Mean under each window of [N, C, D, H, W] or [C, D, H, W]; see `adaptive_avg_pool2d`."""
    return _adaptive_avg_pool(3, input, output_size)


def _adaptive_avg_pool(rank, input, output_size):
    output_size = _adaptive_size(f"adaptive_avg_pool{rank}d", input, output_size, rank)
    return apply(kernels.adaptive_avg_pool, input, output_size=output_size)


# ---- power average


def lp_pool1d(input, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(sum of x^norm_type)^(1/norm_type) under each window of [N, C, L] or [C, L]; see `lp_pool2d`."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(sum of x^norm_type)^(1/norm_type) under each window; where the sum is zero, so is the gradient.

    Args:
        input: [N, C, H, W] or [C, H, W].
        norm_type: the power; infinity takes the largest magnitude, minus infinity the smallest.
        kernel_size: positions under a window.
        stride: step between windows; kernel_size where left out.
        ceil_mode: whether a last window may reach past the input; it counts as if it were full of its mean.

    Returns:
        [..., C, OH, OW]; NaN where the sum is negative and its root is not real.
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(input, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(sum of x^norm_type)^(1/norm_type) under each window of a volume; see `lp_pool2d`."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def _lp_pool(rank, input, norm_type, kernel_size, stride, ceil_mode):
    kernel_size, stride = _kernel_and_stride(f"lp_pool{rank}d", kernel_size, stride, rank)
    return apply(
        kernels.lp_pool, input, norm_type=norm_type, kernel_size=kernel_size, stride=stride, ceil_mode=ceil_mode
    )


# ---- unpooling


def max_unpool1d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Values of [N, C, L] or [C, L] back to where `max_pool1d` found them; see `max_unpool2d`."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Values back to where a max pool found them, zeros elsewhere; of values with the same index the last stays.

    Args:
        input: [N, C, H, W] or [C, H, W], the pool's output.
        indices: the pool's indices, of input's shape.
        kernel_size, stride, padding: the pool's, from which the output's size follows.
        output_size: the spatial shape of the pool's input (or its whole shape), where several sizes pool to one.

    Returns:
        [..., C, *output_size].

    Raises:
        ValueError: an index lies outside the output, or output_size is a stride or more off.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Values of a volume back to where `max_pool3d` found them; see `max_unpool2d`."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


def _max_unpool(rank, input, indices, kernel_size, stride, padding, output_size):
    name = f"max_unpool{rank}d"
    kernel_size, stride = _kernel_and_stride(name, kernel_size, stride, rank)
    padding = per_axis(name, "padding", padding, rank)
    _check_rank(name, input, rank)
    usual = tuple(
        (size - 1) * s + k - 2 * p for size, k, s, p in zip(input.shape[-rank:], kernel_size, stride, padding)
    )
    if output_size is None:
        output_size = usual
    else:
        output_size = tuple(output_size)[-rank:]
        if len(output_size) != rank or any(abs(size - u) >= s for size, u, s in zip(output_size, usual, stride)):
            raise ValueError(
                f"{name}: expected output_size as {rank} sizes less than stride {stride} away from {usual}, "
                f"got {output_size}"
            )
    return apply(kernels.max_unpool, input, indices, output_size=output_size)
