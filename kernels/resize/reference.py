"""Resizing and rearranging planes, as a textbook writes it."""

import itertools
import math

import numpy as np

# ---- interpolation: every axis is multiplied by a matrix whose rows hold the weights of one output position


def _triangle(x):
    return max(0.0, 1 - abs(x))


def _cubic(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _lanczos(x):
    if x == 0:
        return 1.0
    return 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2 if abs(x) < 3 else 0.0


def _step(size, count, align_corners, scale):
    """Distance between output positions, in input positions."""
    if align_corners:
        return (size - 1) / (count - 1) if count > 1 else 0.0
    return size / count if scale is None else 1 / scale


def _matrix(size, count, mode, align_corners, scale, antialias):
    """[count, size]: weight of each input position in each output position."""
    matrix = np.zeros((count, size))
    for o in range(count):
        # As PyTorch has it, these sizes go by position, whatever the scale says.
        if count == size and mode in ("nearest", "linear") and not antialias:
            matrix[o, o] = 1
        elif count == 2 * size and mode == "nearest":
            matrix[o, o // 2] = 1
        elif mode in ("nearest", "nearest-exact"):
            step = np.float32(size) / np.float32(count) if scale is None else np.float32(1 / scale)
            source = np.float32(o + (0.5 if mode == "nearest-exact" else 0)) * step
            matrix[o, min(math.floor(source), size - 1)] = 1
        elif antialias:
            _add_antialiased(matrix[o], o, _step(size, count, align_corners, scale), mode)
        else:
            _add_interpolated(matrix[o], o, _step(size, count, align_corners, scale), mode, align_corners)
    return matrix


def _add_interpolated(row, o, step, mode, align_corners):
    source = o * step if align_corners else (o + 0.5) * step - 0.5
    if mode == "linear":
        source = max(source, 0.0)
    first = math.floor(source)
    for position in range(first - 1, first + 3):
        weight = _triangle(source - position) if mode == "linear" else _cubic(source - position, -0.75)
        row[min(max(position, 0), len(row) - 1)] += weight


def _add_antialiased(row, o, step, mode):
    filters = {"linear": (_triangle, 2), "cubic": (lambda x: _cubic(x, -0.5), 4), "lanczos": (_lanczos, 6)}
    function, width = filters[mode]
    stretch = max(step, 1.0)
    center, support = (o + 0.5) * step, width / 2 * stretch
    for position in range(max(int(center - support + 0.5), 0), min(int(center + support + 0.5), len(row))):
        row[position] = function((position + 0.5 - center) / stretch)
    row /= row.sum()


def interpolate_forward(x, *, size, mode, align_corners=False, scales=None, antialias=False):
    rank = len(size)
    scales = scales or (None,) * rank
    matrices = [
        _matrix(length, count, mode, align_corners, scale, antialias)
        for length, count, scale in zip(x.shape[-rank:], size, scales)
    ]
    return _along_axes(x, matrices).astype(x.dtype), matrices


def interpolate_backward(saved, grad_y, needs):
    return (_along_axes(grad_y, [matrix.T for matrix in saved]) if needs[0] else None,)


def _along_axes(x, matrices):
    for axis, matrix in enumerate(matrices, start=x.ndim - len(matrices)):
        x = np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    return x


# ---- windows as columns, and back


def _columns(height, width, kernel_size, dilation, padding, stride):
    """Yields (number in the window, number of the window, row, column) for every place inside the plane."""
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, d, p, s in zip((height, width), kernel_size, dilation, padding, stride)
    ]
    inside = list(itertools.product(*map(range, kernel_size)))
    windows = list(itertools.product(*map(range, sizes)))
    for (k, (i, j)), (n, (top, left)) in itertools.product(enumerate(inside), enumerate(windows)):
        row = top * stride[0] - padding[0] + i * dilation[0]
        column = left * stride[1] - padding[1] + j * dilation[1]
        if 0 <= row < height and 0 <= column < width:
            yield k, n, row, column


def _count(height, width, kernel_size, dilation, padding, stride):
    return math.prod(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, d, p, s in zip((height, width), kernel_size, dilation, padding, stride)
    )


def unfold_forward(x, *, kernel_size, dilation, padding, stride):
    *leading, channels, height, width = x.shape
    window = kernel_size, dilation, padding, stride
    y = np.zeros((*leading, channels, math.prod(kernel_size), _count(height, width, *window)), x.dtype)
    for k, n, row, column in _columns(height, width, *window):
        y[..., k, n] = x[..., row, column]
    return y.reshape(*leading, channels * math.prod(kernel_size), y.shape[-1]), ((height, width), window)


def unfold_backward(saved, grad_y, needs):
    shape, window = saved
    return (_fold(grad_y, shape, window) if needs[0] else None,)


def _fold(columns, shape, window):
    *leading, rows, count = columns.shape
    area = math.prod(window[0])
    columns = columns.reshape(*leading, rows // area, area, count)
    y = np.zeros((*leading, rows // area, *shape), columns.dtype)
    for k, n, row, column in _columns(*shape, *window):
        y[..., row, column] += columns[..., k, n]
    return y


def fold_forward(x, *, output_size, kernel_size, dilation, padding, stride):
    window = kernel_size, dilation, padding, stride
    return _fold(x, output_size, window), window


def fold_backward(saved, grad_y, needs):
    kernel_size, dilation, padding, stride = saved
    if not needs[0]:
        return (None,)
    return (unfold_forward(grad_y, kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)[0],)


# ---- rearranged channels


def pixel_shuffle_forward(x, *, upscale_factor):
    r = upscale_factor
    *leading, channels, height, width = x.shape
    y = np.empty((*leading, channels // r**2, height * r, width * r), x.dtype)
    for i, j in itertools.product(range(r), range(r)):
        y[..., i::r, j::r] = x[..., i * r + j :: r**2, :, :]
    return y, r


def pixel_shuffle_backward(saved, grad_y, needs):
    return (pixel_unshuffle_forward(grad_y, downscale_factor=saved)[0] if needs[0] else None,)


def pixel_unshuffle_forward(x, *, downscale_factor):
    r = downscale_factor
    *leading, channels, height, width = x.shape
    y = np.empty((*leading, channels * r**2, height // r, width // r), x.dtype)
    for i, j in itertools.product(range(r), range(r)):
        y[..., i * r + j :: r**2, :, :] = x[..., i::r, j::r]
    return y, r


def pixel_unshuffle_backward(saved, grad_y, needs):
    return (pixel_shuffle_forward(grad_y, upscale_factor=saved)[0] if needs[0] else None,)


def channel_shuffle_forward(x, *, groups):
    order = [
        group * (x.shape[1] // groups) + channel for channel in range(x.shape[1] // groups) for group in range(groups)
    ]
    return x[:, order], order


def channel_shuffle_backward(saved, grad_y, needs):
    grad_x = np.empty_like(grad_y)
    grad_x[:, saved] = grad_y
    return (grad_x if needs[0] else None,)
