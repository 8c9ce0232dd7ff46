"""Broadcasting: the shape that operands share, and its backward, summing a gradient to the shape that was stretched."""

import numpy as np


def shape_of(x):
    """The shape of an array; () for a number."""
    return getattr(x, "shape", ())


def broadcast_shape(*operands):
    """The common shape of arrays and numbers that broadcast."""
    shapes = {shape_of(x) for x in operands}
    shapes.discard(())
    if len(shapes) < 2:
        return next(iter(shapes), ())
    return np.broadcast_shapes(*shapes)


def broadcast_to(x, shape):
    """A view of x that repeats it along axes that are new, or of size 1, without a copy."""
    if x.shape == shape:
        return x
    added = len(shape) - x.ndim
    strides = (0,) * added + tuple(0 if n == 1 else stride for n, stride in zip(x.shape, x.strides))
    if type(x) is np.ndarray:
        # Not np.broadcast_to: its views are read-only, a type of their own for which Numba would compile again.
        return np.lib.stride_tricks.as_strided(x, shape, strides)
    import cupy

    return cupy.lib.stride_tricks.as_strided(x, shape, strides)


def sum_to_shape(x, shape):
    """x summed over the axes that broadcasting added or stretched, so that it has `shape` again."""
    if x.shape == shape:
        return x
    added = x.ndim - len(shape)
    stretched = tuple(
        axis for axis, size in enumerate(x.shape) if axis < added or (shape[axis - added] == 1 and size != 1)
    )
    return x.sum(axis=stretched, keepdims=True).reshape(shape)
