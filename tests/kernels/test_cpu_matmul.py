"""Matrix products shared among threads, against NumPy: layouts, stacks, parts, bias, sizes over every block's edge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close

from ranvier.kernels import cpu_matmul
from ranvier.kernels.cpu_matmul import matmul

EDGES = [(528, 256, 1024), (529, 257, 1025), (1, 600, 700), (700, 900, 1), (25, 1, 40), (13, 330, 31), (600, 20, 600)]
EDGES += [(12, 530, 701), (2, 90, 600), (24, 100, 600)]  # rows that the right matrix passes by, and far rows of it
EDGES += [(500, 1100, 1001)]  # more rows and more terms than are packed at once


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """How many multiply-adds are few: in most of the tests none."""
    monkeypatch.setattr(cpu_matmul, "_SMALL", getattr(request, "param", 0))
    cpu_matmul._plan.cache_clear()
    yield
    cpu_matmul._plan.cache_clear()


def drawn(shape, layout, dtype, rng):
    """A stack of matrices whose rows or columns are contiguous, or neither, or which lies in a wider one."""
    *batch, rows, columns = shape
    if layout == "columns":
        return rng.standard_normal((*batch, columns, rows)).astype(dtype).swapaxes(-1, -2)
    if layout == "neither":
        return rng.standard_normal((*batch, rows, 2 * columns)).astype(dtype)[..., ::2]
    if layout == "wider":
        return rng.standard_normal((*batch, rows + 2, columns + 3)).astype(dtype)[..., 1:-1, 2:-1]
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("small", [0, cpu_matmul._SMALL], indirect=True)
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_matmul_of_any_layout(data):
    layouts = st.sampled_from(["rows", "columns", "neither", "wider"])
    rows, inner, columns = (data.draw(st.integers(0, 90)) for _ in range(3))
    batch = data.draw(st.sampled_from([(), (1,), (3,), (9,)]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    left = drawn((*batch, rows, inner), data.draw(layouts), dtype, rng)
    right = drawn((*(batch if data.draw(st.booleans()) else ()), inner, columns), data.draw(layouts), dtype, rng)
    bias = rng.standard_normal(columns).astype(dtype) if data.draw(st.booleans()) else None
    clips = data.draw(st.booleans())
    out = np.full((*batch, rows, columns), np.nan, dtype)
    assert matmul(left, right, out, bias, clips) is out
    exact = left.astype(np.float64) @ right.astype(np.float64) + (0 if bias is None else bias)
    assert_close(out, np.maximum(exact, 0) if clips else exact, np.dtype(dtype).name, max(inner, 1))


@pytest.mark.parametrize(("rows", "inner", "columns"), EDGES)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_sizes_around_the_blocks(rows, inner, columns, layout):
    rng = np.random.default_rng(0)
    left, right = (drawn(shape, layout, np.float32, rng) for shape in ((rows, inner), (inner, columns)))
    out, bias = np.full((rows, columns), np.nan, np.float32), rng.standard_normal(columns).astype("f")
    bias[0] = np.nan
    matmul(left, right, out, bias, clips=True)
    exact = np.maximum(left.astype(np.float64) @ right.astype(np.float64) + bias, 0)
    assert np.isnan(out[:, 0]).all()
    assert_close(out[:, 1:], exact[:, 1:], "float32", inner)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [(1, 300, 500), (12, 520, 19), (13, 256, 241), (33, 257, 240), (64, 1, 200), (16, 520, 33)],
)
def test_few_rows_times_a_matrix_of_contiguous_columns(rows, inner, columns, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    left, right = drawn((rows, inner + 5), "rows", dtype, rng)[:, 2:-3], drawn((inner, columns), "columns", dtype, rng)
    bias = rng.standard_normal(columns).astype(dtype)
    turned, straight = (np.full((rows, columns + 3), np.nan, dtype)[:, 1:-2] for _ in range(2))
    matmul(left, right, turned, bias)
    monkeypatch.setattr(cpu_matmul, "_FEW", 0)
    cpu_matmul._plan.cache_clear()
    matmul(left, right, straight, bias)
    cpu_matmul._plan.cache_clear()
    np.testing.assert_array_equal(turned, straight)
    assert_close(turned, left.astype(np.float64) @ right + bias, np.dtype(dtype).name, inner)
    assert np.isnan(turned.base[:, [0, -2, -1]]).all()


def test_a_part_of_a_wider_result_is_written_and_nothing_beside_it():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((40, 50)), rng.standard_normal((50, 45))
    wide = np.full((40, 60), np.nan)
    matmul(left, right, wide[:, 5:50])
    assert_close(wide[:, 5:50], left @ right, "float64", 50)
    assert np.isnan(wide[:, :5]).all()
    assert np.isnan(wide[:, 50:]).all()


@pytest.mark.parametrize("rows", [300, 50, 2])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_bits_do_not_depend_on_the_number_of_threads(rows, layout, monkeypatch):
    rng = np.random.default_rng(0)
    left, right = drawn((rows, 400), "rows", np.float32, rng), drawn((400, 200), layout, np.float32, rng)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(cpu_matmul, "threads_for", lambda multiply_adds, threads=threads: threads)
        results.append(matmul(left, right, np.empty((rows, 200), np.float32)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_a_part_of_the_rows_may_have_a_higher_block_than_all_of_them(layout, threads, monkeypatch):
    monkeypatch.setattr(cpu_matmul, "threads_for", lambda multiply_adds: threads)
    rng = np.random.default_rng(0)
    inner = 600
    left, right = (drawn(shape, layout, np.float32, rng) for shape in ((2113, inner), (inner, 170)))
    exact = left.astype(np.float64) @ right.astype(np.float64)
    for rows in (527, 529, 1055, 1057, 1068, 1585, 2113):
        for columns in (10, 20, 40, 170):
            out = matmul(left[:rows], right[:, :columns], np.full((rows, columns), np.nan, np.float32))
            assert_close(out, exact[:rows, :columns], "float32", inner)


def test_small_products_agree_too(monkeypatch):
    monkeypatch.setattr(cpu_matmul, "_SMALL", 1 << 18)
    rng = np.random.default_rng(0)
    left, right, bias = (rng.standard_normal(s).astype("f") for s in ((32, 20), (20, 10), (10,)))
    out = matmul(left, right, np.full((32, 10), np.nan, np.float32), bias)
    assert_close(out, left.astype(float) @ right + bias, "float32", 20)
