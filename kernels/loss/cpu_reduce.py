"""From the losses of all rows to the output, and back from its gradient to a factor for each row."""

import math

import numpy as np

from ..cpu_jit import serial_kernel
from ..cpu_sums import wide_sum
from ..memory import empty


@serial_kernel
def mean_kernel(terms, divisor, mean):
    """mean, of no axes, = the sum of a vector by the divisor; the mean of nothing is NaN."""
    mean[()] = wide_sum(terms) / divisor if divisor != 0 else math.nan


def mean_of(terms, divisor, dtype):
    """The sum of an array's elements by the divisor as an array without axes; the mean of nothing is NaN."""
    output = empty((), dtype)
    mean_kernel(terms.ravel(), float(divisor), output)
    return output


def reduce_losses(losses, reduction, divisor, shape):
    """(output, factor of the gradient): the losses in their shape, their sum, or their sum over divisor."""
    if reduction == "none":
        return losses.reshape(shape), 1.0
    divisor = divisor if reduction == "mean" else 1.0
    return mean_of(losses, divisor, losses.dtype), 1 / divisor if divisor else 0.0


@serial_kernel
def _scale_kernel(grad_output, factor, counted, scales):
    """scales = grad_output * factor, or where something is counted, the factor found there."""
    factor = counted[0] if counted.size > 0 else factor
    scales[:] = scales.dtype.type(np.float64(grad_output[0]) * factor)


_NOT_COUNTED = np.empty(0)


def scales_of(grad_output, factor, reduction, shape, dtype):
    """What each row's gradient is multiplied with: an array of `shape`, or with axes of 1 if one value serves all.

    Args:
        factor: of a reduced loss's gradient, a number or a vector of one.
    """
    if reduction == "none":
        return np.ascontiguousarray(grad_output, dtype=dtype).reshape(shape)
    scales = empty((1,) * len(shape), dtype)
    given = (0.0, factor) if isinstance(factor, np.ndarray) else (factor, _NOT_COUNTED)
    _scale_kernel(grad_output.reshape(-1), *given, scales.reshape(-1))
    return scales
