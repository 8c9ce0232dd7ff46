"""Moving elements, as a textbook writes it. Every other implementation is held against these."""

import numpy as np


def concatenate_forward(*arrays, axis):
    return np.concatenate(arrays, axis), ([x.shape[axis] for x in arrays], axis)


def concatenate_backward(saved, grad, needs):
    if not any(needs):
        return (None,) * len(needs)
    sizes, axis = saved
    parts = np.split(grad, np.cumsum(sizes)[:-1], axis)
    return tuple(part if needed else None for part, needed in zip(parts, needs))


def split_forward(x, *, sizes, axis):
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis)), (x.shape, sizes, axis)


def split_backward(saved, grads, needs):
    shape, sizes, axis = saved
    if not needs[0]:
        return (None,)
    parts = [
        np.zeros((*shape[:axis], size, *shape[axis + 1 :])) if grad is None else grad
        for size, grad in zip(sizes, grads)
    ]
    return (np.concatenate(parts, axis),)


def scatter_slice_forward(x, *, shape, index):
    y = np.zeros(shape, x.dtype)
    y[index] = x
    return y, index


def scatter_slice_backward(index, grad, needs):
    return (np.asarray(grad[index]) if needs[0] else None,)


def advanced_index_forward(x, *indices, axis):
    place = (slice(None),) * axis + indices
    return np.asarray(x[place]), (x.shape, place)


def advanced_index_backward(saved, grad, needs):
    shape, place = saved
    if not needs[0]:
        return (None,) * len(needs)
    grad_x = np.zeros(shape)
    np.add.at(grad_x, place, grad)
    return (grad_x,) + (None,) * (len(needs) - 1)


def gather_forward(x, index, *, axis):
    place = list(np.indices(index.shape))
    place[axis] = index
    return x[tuple(place)], (x.shape, tuple(place))


def gather_backward(saved, grad, needs):
    shape, place = saved
    if not needs[0]:
        return None, None
    grad_x = np.zeros(shape)
    np.add.at(grad_x, place, grad)
    return grad_x, None


def _pad_sources(size, before, after, mode):
    """For each position of a padded axis, the position that it is read from, and whether that lies in the axis."""
    position = np.arange(-before, size + after)
    if mode == "constant":
        return np.clip(position, 0, max(size - 1, 0)), (position >= 0) & (position < size)
    if mode == "reflect":
        source = size - 1 - abs(size - 1 - abs(position))
    elif mode == "replicate":
        source = np.clip(position, 0, size - 1)
    else:
        source = position % max(size, 1)
    return source, np.ones(position.shape, bool)


def pad_forward(x, *, widths, mode="constant", value=0.0):
    sources = [_pad_sources(size, *width, mode) for size, width in zip(x.shape, widths)]
    place = np.ix_(*(source for source, _ in sources))
    inside = np.ones((), bool)
    for axis, (_, within) in enumerate(sources):
        inside = inside & within.reshape(-1, *[1] * (x.ndim - 1 - axis))
    if x.size == 0:
        return np.full(inside.shape, value, x.dtype), (x.shape, place, inside)
    return np.where(inside, x[place], np.asarray(value, x.dtype)), (x.shape, place, inside)


def pad_backward(saved, grad, needs):
    shape, place, inside = saved
    if not needs[0]:
        return (None,)
    grad_x = np.zeros(shape)
    if grad_x.size:
        np.add.at(grad_x, place, np.where(inside, grad, 0))
    return (grad_x,)


def roll_forward(x, *, shifts, axes):
    return np.roll(x, shifts, axes), (shifts, axes)


def roll_backward(saved, grad, needs):
    shifts, axes = saved
    return (np.roll(grad, [-shift for shift in shifts], axes) if needs[0] else None,)


def triangle_forward(x, *, diagonal=0, upper=False):
    half = np.triu if upper else np.tril
    return half(x, diagonal), (half, diagonal)


def triangle_backward(saved, grad, needs):
    half, diagonal = saved
    return (half(grad, diagonal) if needs[0] else None,)
