"""Broadcasting: the shape that operands share, and its backward, summing a gradient to the shape that was stretched."""

from functools import lru_cache

import numpy as np


def shape_of(x):
    """The shape of an array; () for a number."""
    return getattr(x, "shape", ())


def broadcast_shape(*operands):
    """The common shape of arrays and numbers that broadcast."""
    return broadcast_shape_of(*map(shape_of, operands))


@lru_cache(maxsize=4096)
def broadcast_shape_of(*shapes) -> tuple[int, ...]:
    """The common shape of shapes that broadcast."""
    return np.broadcast_shapes(*shapes)


def broadcast_to(x, shape):
    """A view of x that repeats it along axes that are new, or of size 1, without a copy."""
    if x.shape == shape:
        return x
    added = len(shape) - x.ndim
    strides = (0,) * added + tuple(0 if n == 1 else stride for n, stride in zip(x.shape, x.strides))
    if type(x) is np.ndarray:
        # Not np.broadcast_to: its views are read-only, a type of their own for which Numba would compile again.
        if x.size and x.flags.c_contiguous:
            return np.ndarray(shape, x.dtype, x, 0, strides)  # what as_strided takes several times as long for
        return np.lib.stride_tricks.as_strided(x, shape, strides)
    import cupy

    return cupy.lib.stride_tricks.as_strided(x, shape, strides)


def merged(shape, *steps_of_sides) -> tuple[list[int], list[list[int]]]:
    """A shape and each side's strides, axes of size 1 dropped, neighbours merged that all sides walk as one."""
    sizes: list[int] = []
    sides: list[list[int]] = [[] for _ in steps_of_sides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        steps = [side[axis] for side in steps_of_sides]
        if sizes and all(side[-1] == step * size for side, step in zip(sides, steps)):
            sizes[-1] *= size
            for side, step in zip(sides, steps):
                side[-1] = step
        else:
            sizes.append(size)
            for side, step in zip(sides, steps):
                side.append(step)
    return sizes, sides


@lru_cache(maxsize=4096)
def stretched_axes(shape, operand_shape) -> tuple[int, ...]:
    """The axes of `shape` that broadcasting added to an operand of the other shape, or stretched from 1."""
    added = len(shape) - len(operand_shape)
    return tuple(
        axis for axis, size in enumerate(shape) if axis < added or (operand_shape[axis - added] == 1 and size != 1)
    )


def sum_to_shape(x, shape):
    """x summed over the axes that broadcasting added or stretched, so that it has `shape` again."""
    if x.shape == shape:
        return x
    return x.sum(axis=stretched_axes(x.shape, shape), keepdims=True).reshape(shape)
