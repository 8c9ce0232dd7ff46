"""NumPy arrays as vectors, in the order in which their elements lie in memory: element by element, a kernel need not
know the axes, and what comes out lies as what went in did."""

import numpy as np

from ..memory import empty


def with_result(x):
    """(x as a vector in the order of its elements in memory, the axes in that order as `axes_by_memory` has them, a new
    array that lies as x does, that array as a vector)."""
    if x.flags.c_contiguous:
        y = empty(x.shape, x.dtype)
        return x.ravel(), None, y, y.ravel()
    order = axes_by_memory(x)
    result = empty(x.size, x.dtype)
    return x.transpose(order).ravel(), order, unflat(result, x.shape, order), result


def axes_by_memory(x):
    """The axes from the widest stride to the narrowest; None for C order. Channels-last input gives such output."""
    return None if x.flags.c_contiguous else tuple(np.argsort([-abs(s) for s in x.strides], kind="stable").tolist())


def flat(x, order):
    """x as a vector in the given order of axes; shares memory where x lies so."""
    return x.ravel() if order is None else x.transpose(order).ravel()


def unflat(vector, shape, order):
    """A vector from `flat` as an array of the shape."""
    if order is None:
        return vector.reshape(shape)
    return vector.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def deliver(y, out):
    """y, in the caller's array where there is one."""
    if out is None:
        return y
    out[...] = y
    return out
