"""Sums over one row, for the kernels of this family: in float32 where the row is float32, but over blocks whose sums
are added in float64, so that a row of millions errs no more than one of thousands.

Deviations are taken from the mean of a sixteenth of the values or more, `few_of`: however far these lie from the rest,
the squares are then at most 16 times those around the mean, and little is lost; what the deviations' own mean is, gives
the mean and corrects the variance. So the values are read from memory once, where the mean itself would take another
pass.
"""

import numpy as np

from ..cpu_jit import serial_kernel
from ..cpu_sums import line_deviations, line_rectified_deviations, line_sum, line_weighted_deviations

_BLOCK = 4096


@serial_kernel
def few_of(count):
    """How many of so many values deviations are taken from the mean of, at least 1."""
    return max(min(count, 16), (count + 15) // 16, 1)


@serial_kernel
def row_sum(x):
    """Sum of x. x: [size]."""
    total = 0.0
    for start in range(0, x.size, _BLOCK):
        total += np.float64(line_sum(x[start : start + _BLOCK]))
    return total


@serial_kernel
def row_deviations(x, centre):
    """Sum of x - centre and sum of its squares. x: [size]."""
    total, total_squares = 0.0, 0.0
    for start in range(0, x.size, _BLOCK):
        part, squares = line_deviations(x[start : start + _BLOCK], centre)
        total += np.float64(part)
        total_squares += np.float64(squares)
    return total, total_squares


@serial_kernel
def row_grad_sums(x, grad_y, centre):
    """Sum of grad_y and sum of grad_y * (x - centre). x, grad_y: [size]."""
    total, total_products = 0.0, 0.0
    for start in range(0, x.size, _BLOCK):
        stop = start + _BLOCK
        part, products = line_weighted_deviations(grad_y[start:stop], x[start:stop], centre)
        total += np.float64(part)
        total_products += np.float64(products)
    return total, total_products


@serial_kernel
def row_rectified_grad_sums(x, grad_y, centre, scale, offset):
    """The sums of `row_grad_sums`, of the values with (x - centre) * scale + offset above 0."""
    total, total_products = 0.0, 0.0
    for start in range(0, x.size, _BLOCK):
        stop = start + _BLOCK
        part, products = line_rectified_deviations(grad_y[start:stop], x[start:stop], centre, scale, offset)
        total += np.float64(part)
        total_products += np.float64(products)
    return total, total_products
