"""Sums over one row, for the kernels of this family: in float32 where the row is float32, but over blocks whose sums
are added in float64, so that a row of millions errs no more than one of thousands.

A block is a slice, indexed from 0: with an index that starts elsewhere the compiler must provide for negative ones, and
gathers element by element.
"""

import numpy as np

from ..cpu_jit import serial_kernel

_BLOCK = 4096


@serial_kernel
def row_sum(x):
    """Sum of x. x: [size]."""
    total = 0.0
    for start in range(0, x.size, _BLOCK):
        block, part = x[start : start + _BLOCK], x.dtype.type(0)
        for i in range(block.size):
            part += block[i]
        total += np.float64(part)
    return total


@serial_kernel
def row_deviations(x, centre):
    """Sum of x - centre and sum of its squares. x: [size]."""
    total, total_squares = 0.0, 0.0
    for start in range(0, x.size, _BLOCK):
        block, part, squares = x[start : start + _BLOCK], x.dtype.type(0), x.dtype.type(0)
        for i in range(block.size):
            deviation = block[i] - centre
            part += deviation
            squares += deviation * deviation
        total += np.float64(part)
        total_squares += np.float64(squares)
    return total, total_squares


@serial_kernel
def row_grad_sums(x, grad_y, centre):
    """Sum of grad_y and sum of grad_y * (x - centre). x, grad_y: [size]."""
    total, total_products = 0.0, 0.0
    for start in range(0, x.size, _BLOCK):
        block, grad = x[start : start + _BLOCK], grad_y[start : start + _BLOCK]
        part, products = x.dtype.type(0), x.dtype.type(0)
        for i in range(block.size):
            part += grad[i]
            products += grad[i] * (block[i] - centre)
        total += np.float64(part)
        total_products += np.float64(products)
    return total, total_products
