"""The small product inside the time loop: a few rows of state times a weight that every step uses again.

The weight is packed once a sequence (`kernels/cpu_product.py` says how): a BLAS call would pack it anew at every step.
"""

import numpy as np

from ..cpu_jit import serial_kernel
from ..cpu_product import multiply_panels, pack_columns, pack_rows, panel_width
from ..memory import empty


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


def product_scratch(blocks, rows, packed):
    """Room for the product of `rows` rows with a packed matrix, once a block: [blocks, rows, columns filled up]."""
    return empty((blocks, rows, packed.shape[0] * packed.shape[2]), packed.dtype)


@serial_kernel
def multiply_rows(left, rows, packed, product):
    """product[:rows] = left[:rows] @ matrix, for `packed = pack(matrix)`.

    left: [at least rows, inner], product: [at least rows, columns filled up to whole panels], both C-contiguous.
    """
    panels, inner, width = packed.shape
    starts = np.arange(rows) * inner
    multiply_panels(
        left.reshape(-1), 0, starts, 0, rows, packed.reshape(-1), 0, inner * width, width, inner, panels,
        product.reshape(-1), 0, panels * width, False,
    )  # fmt: skip
