"""The small product inside the time loop: a few rows of state times a weight that every step uses again.

The weight is packed once a sequence into panels as wide as two vector registers, so that a tile of the result stays in
registers over the whole sum while the panel streams through the cache. A BLAS call would pack the weight anew at every
step.
"""

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu_jit import serial_kernel
from ..memory import empty, zeros

_FEATURES = llvmlite.binding.get_host_cpu_features()
_REGISTER_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
_VECTORS = 2  # registers across a tile
_ROWS = 8 if _FEATURES.get("avx512f") else 4  # registers down a tile: sums, panel row and one state fill the file


def pack(matrix):
    """A matrix [inner, columns] as panels [ceil(columns / width), inner, width], the last one filled up with zeros."""
    inner, columns = matrix.shape
    width = _VECTORS * _REGISTER_BYTES // matrix.dtype.itemsize
    panels = -(-columns // width)
    padded = zeros((inner, panels * width), matrix.dtype)
    padded[:, :columns] = matrix
    return np.ascontiguousarray(padded.reshape(inner, panels, width).swapaxes(0, 1))


def product_scratch(blocks, rows, packed):
    """Room for the product of `rows` rows with a packed matrix, once a block: [blocks, rows, columns filled up]."""
    return empty((blocks, rows, packed.shape[0] * packed.shape[2]), packed.dtype)


def _tile_product(rows):
    """A function that writes `rows` rows by one panel of a product, with the sums in vector registers."""

    @intrinsic
    def multiply_tile(typing_context, left, row, packed, panel, product):
        """product[row : row + rows, columns of the panel] = left[row : row + rows] @ packed[panel]."""

        def generate(context, builder, signature, arguments):
            left, packed, product = (
                context.make_array(signature.args[index])(context, builder, arguments[index]) for index in (0, 2, 4)
            )
            row, panel = arguments[1], arguments[3]
            integer = row.type
            element = context.get_data_type(signature.args[0].dtype)
            lanes = _REGISTER_BYTES // (4 if signature.args[0].dtype == types.float32 else 8)
            vector = ir.VectorType(element, lanes)
            width = ir.Constant(integer, _VECTORS * lanes)
            first_lane = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            undefined = ir.Constant(vector, ir.Undefined)
            inner = builder.extract_value(left.shape, 1)
            columns = builder.extract_value(product.shape, 1)

            def at(pointer, offset):
                return builder.gep(pointer, [offset if isinstance(offset, ir.Value) else ir.Constant(integer, offset)])

            def vectors_at(pointer):
                return [builder.bitcast(at(pointer, v * lanes), vector.as_pointer()) for v in range(_VECTORS)]

            rows_down = [builder.add(row, ir.Constant(integer, r)) for r in range(rows)]
            left_rows = [at(left.data, builder.mul(r, inner)) for r in rows_down]
            panel_start = at(packed.data, builder.mul(panel, builder.mul(inner, width)))
            # Stack slots of which LLVM makes registers.
            sums = [
                [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(_VECTORS)]
                for _ in range(rows)
            ]
            with cgutils.for_range(builder, inner, intp=integer) as loop:
                panel_row = at(panel_start, builder.mul(loop.index, width))
                weights = [builder.load(pointer, align=4) for pointer in vectors_at(panel_row)]
                for left_row, row_sums in zip(left_rows, sums):
                    state = builder.load(at(left_row, loop.index))
                    state = builder.insert_element(undefined, state, ir.Constant(ir.IntType(32), 0))
                    state = builder.shuffle_vector(state, undefined, first_lane)
                    for weight, slot in zip(weights, row_sums):
                        term = builder.fmul(state, weight, flags=("contract",))
                        builder.store(builder.fadd(builder.load(slot), term, flags=("contract",)), slot)
            for r, row_sums in zip(rows_down, sums):
                start = at(product.data, builder.add(builder.mul(r, columns), builder.mul(panel, width)))
                for slot, pointer in zip(row_sums, vectors_at(start)):
                    builder.store(builder.load(slot), pointer, align=4)
            return context.get_dummy_value()

        return types.void(left, types.intp, packed, types.intp, product), generate

    return multiply_tile


_multiply_tile = _tile_product(_ROWS)
_multiply_row = _tile_product(1)


@serial_kernel
def multiply_rows(left, rows, packed, product):
    """product[:rows] = left[:rows] @ matrix, for `packed = pack(matrix)`.

    left: [at least rows, inner], product: [at least rows, columns filled up to whole panels], both C-contiguous. Every
    element is summed in the order of `inner`, whatever the number of rows.
    """
    for panel in range(packed.shape[0]):
        row = 0
        while row + _ROWS <= rows:
            _multiply_tile(left, row, packed, panel, product)
            row += _ROWS
        while row < rows:
            _multiply_row(left, row, packed, panel, product)
            row += 1
