"""The small products inside the time loop: a few rows of state or input times a weight that every step uses again.

The weight is packed once a sequence (`kernels/cpu_product.py` says how): a BLAS call would pack it anew at every step.
"""

import numpy as np

from ..cpu_jit import serial_kernel
from ..cpu_product import multiply_panels, pack_columns, pack_rows, panel_width
from ..memory import empty

_TERMS = 320  # of a sum at a time: so much of a panel stays in the nearest cache while all rows go by


def pack(matrix):
    """A matrix [inner, columns] as panels [ceil(columns / width), inner, width], the last one filled up with zeros."""
    inner, columns = matrix.shape
    width = panel_width(matrix.itemsize)
    packed = empty((-(-columns // width), inner, width), matrix.dtype)
    if matrix.T.flags.c_contiguous:  # as W_hh^T is
        pack_columns(matrix.T.reshape(-1), 0, inner, inner, columns, packed.reshape(-1), 0)
    else:
        pack_rows(np.ascontiguousarray(matrix).reshape(-1), 0, columns, inner, columns, packed.reshape(-1), 0)
    return packed


def no_weight(dtype):
    """What stands for the packed weight of a product that is not to be computed."""
    return empty((0, 0, 0), dtype)


def product_scratch(blocks, rows, packed):
    """Room for the product of `rows` rows with a packed matrix, once a block: [blocks, rows, columns filled up]."""
    return empty((blocks, rows, packed.shape[0] * packed.shape[2]), packed.dtype)


@serial_kernel
def multiply_rows(left, starts, rows, packed, product, first, add):
    """product[first : first + rows] = (add: itself +) rows of left @ matrix, for `packed = pack(matrix)`.

    Args:
        left: flat; row r is the matrix's inner size from left[starts[r]].
        product: [at least first + rows, columns filled up to whole panels], C-contiguous.
    """
    panels, inner, width = packed.shape
    for term in range(0, max(inner, 1), _TERMS):
        multiply_panels(
            left, term, starts, 0, rows, packed.reshape(-1), term * width, inner * width, width,
            min(_TERMS, inner - term), panels, product.reshape(-1), first * panels * width, panels * width,
            add or term > 0,
        )  # fmt: skip


@serial_kernel
def row_starts(rows, pitch):
    """Where rows that stand one after the other begin in flat memory."""
    return np.arange(rows) * pitch
