"""From the losses of all rows to the output, and back from its gradient to a factor for each row."""

import math

import numpy as np

from ..memory import empty


def mean_of(total, divisor, dtype):
    """total / divisor as an array without axes; the mean of nothing is NaN."""
    output = empty((), dtype)
    with np.errstate(over="ignore"):
        output[()] = total / divisor if divisor else math.nan
    return output


def reduce_losses(losses, reduction, divisor, shape):
    """(output, factor of the gradient): the losses in their shape, their sum, or their sum over divisor."""
    if reduction == "none":
        return losses.reshape(shape), 1.0
    divisor = divisor if reduction == "mean" else 1.0
    return mean_of(losses.sum(dtype=np.float64), divisor, losses.dtype), 1 / divisor if divisor else 0.0


def scales_of(grad_output, factor, reduction, shape, dtype):
    """What each row's gradient is multiplied with: an array of `shape`, or with axes of 1 if one value serves all."""
    if reduction == "none":
        return np.ascontiguousarray(grad_output, dtype=dtype).reshape(shape)
    scales = empty((1,) * len(shape), dtype)
    scales.fill(float(grad_output) * factor)
    return scales
