"""The product inside CPU kernels: every tile height, panels, packing and transposing, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close

from ranvier.kernels import cpu_product
from ranvier.kernels.cpu_product import multiply_panels, pack_columns, pack_rows, panel_width, transpose

SIZES = st.integers(1, 70)
DTYPES = st.sampled_from([np.float32, np.float64])


def packed(matrix, pack=pack_rows):
    """(panels, their number) of a matrix [inner, columns], with NaN where nothing is written."""
    inner, columns = matrix.shape
    width = panel_width(matrix.itemsize)
    count = -(-columns // width)
    panels = np.full(count * inner * width, np.nan, matrix.dtype)
    if pack is pack_rows:
        pack(np.ascontiguousarray(matrix).reshape(-1), 0, columns, inner, columns, panels, 0)
    else:
        pack(np.ascontiguousarray(matrix.T).reshape(-1), 0, inner, inner, columns, panels, 0)
    return panels, count


def multiply(left, right, start=None):
    """left @ right by panels, added to `start` if there is one."""
    (rows, inner), columns, width = left.shape, right.shape[1], panel_width(left.itemsize)
    panels, count = packed(right)
    result = np.full((rows, count * width), np.nan, left.dtype)
    if start is not None:
        result[:, :columns] = start
    multiply_panels(
        left.reshape(-1), 0, np.arange(rows) * inner, 0, rows, panels, 0, inner * width, width, inner, count,
        result.reshape(-1), 0, count * width, start is not None,
    )  # fmt: skip
    return result[:, :columns]


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, DTYPES, st.booleans(), st.integers(0, 2**32 - 1))
def test_product(rows, inner, columns, dtype, adds, seed):
    rng = np.random.default_rng(seed)
    left, right, start = (
        rng.standard_normal(shape).astype(dtype) for shape in ((rows, inner), (inner, columns), (rows, columns))
    )
    exact = left.astype(np.float64) @ right.astype(np.float64) + (start if adds else 0)
    actual = multiply(left, right, start if adds else None)
    assert_close(actual, exact, np.dtype(dtype).name, inner)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_has_the_same_bits_in_a_tile_of_any_height(dtype):
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((40, 300)).astype(dtype), rng.standard_normal((300, 50)).astype(dtype)
    whole = multiply(left, right)
    for rows in range(1, 40):
        np.testing.assert_array_equal(multiply(left[:rows], right), whole[:rows])


def test_a_sum_in_two_parts_has_the_same_bits():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((13, 90)).astype("f"), rng.standard_normal((90, 33)).astype("f")
    first = multiply(np.ascontiguousarray(left[:, :31]), right[:31])
    np.testing.assert_array_equal(
        multiply(np.ascontiguousarray(left[:, 31:]), right[31:], first), multiply(left, right)
    )


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, SIZES, DTYPES, st.booleans(), st.integers(0, 2**32 - 1))
def test_rows_may_be_neighbours_and_terms_anywhere(rows, inner, columns, dtype, scattered, seed):
    rng = np.random.default_rng(seed)
    pitch = rows + 3  # as many as may be read past the last row
    terms = rng.permutation(inner) if scattered else np.arange(inner)
    lines, right = (
        rng.standard_normal((inner, pitch)).astype(dtype),
        rng.standard_normal((inner, columns)).astype(dtype),
    )
    panels, count = packed(right)
    width = panel_width(right.itemsize)
    result = np.full((rows + 1, count * width), np.nan, dtype)
    multiply_panels(
        lines.reshape(-1), 0, None, 0, rows, panels, 0, inner * width, width, inner, count,
        result.reshape(-1), 0, count * width, False, terms * pitch if scattered else pitch,
    )  # fmt: skip
    exact = lines[terms, :rows].T.astype(np.float64) @ right.astype(np.float64)
    assert_close(np.ascontiguousarray(result[:rows, :columns]), exact, np.dtype(dtype).name, inner)
    assert np.isnan(result[rows]).all()


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, DTYPES)
def test_both_ways_of_packing_give_panels_filled_up_with_zeros(inner, columns, dtype):
    matrix = np.random.default_rng(0).standard_normal((inner, columns)).astype(dtype)
    by_rows, count = packed(matrix)
    by_columns, _ = packed(matrix, pack_columns)
    width = panel_width(matrix.itemsize)
    whole = np.zeros((inner, count * width), dtype)
    whole[:, :columns] = matrix
    expected = whole.reshape(inner, count, width).swapaxes(0, 1).reshape(-1)
    np.testing.assert_array_equal(by_rows, expected)
    np.testing.assert_array_equal(by_columns, expected)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, st.integers(0, 5), DTYPES)
def test_transpose_writes_its_block_and_nothing_else(rows, columns, margin, dtype):
    source = np.random.default_rng(0).standard_normal((rows, columns + margin)).astype(dtype)
    target = np.full((columns, rows + margin), -1, dtype)
    transpose(source.reshape(-1), 0, columns + margin, rows, columns, target.reshape(-1), 0, rows + margin)
    np.testing.assert_array_equal(target[:, :rows], source[:, :columns].T)
    assert (target[:, rows:] == -1).all()


def test_a_panel_is_two_registers_wide():
    assert cpu_product.PANEL_BYTES == 2 * cpu_product.REGISTER_BYTES
    assert panel_width(4) == 2 * panel_width(8)
