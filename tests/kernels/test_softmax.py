"""Softmax along columns of many rows, whose sums grow while larger elements still come: what is not finite, too."""

import numpy as np
import pytest

from ranvier.kernels.softmax import log_softmax, softmax

ROWS = 300  # more than stay in a cache


def columns():
    """Rising, falling and late columns, some of which begin or end with -inf; the last three have no finite result."""
    rows = np.arange(ROWS)
    finite = [rows * 0.5, -rows * 0.5, np.where(rows < ROWS - 1, -1e30, 3.0), np.sin(rows) * 80]
    masked = [np.where(rows < 20, -np.inf, np.cos(rows)), np.where(rows % 9 == 4, 5.0, -np.inf)]
    last = [np.where(rows == 150, value, 1.0) for value in (np.nan, np.inf)] + [np.full(ROWS, -np.inf)]
    return np.stack(finite + masked + last, axis=1)


@pytest.mark.parametrize("operation", [softmax, log_softmax], ids=lambda operation: operation.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("copies", [1, 40])
def test_tall_columns_agree_with_the_reference(operation, dtype, copies):
    x = np.tile(columns(), (1, copies)).astype(dtype)
    with np.errstate(all="ignore"):
        expected, _ = operation.forward(x.astype(np.float64), axis=0, implementation="reference")
    y, _ = operation.forward(x, axis=0)
    np.testing.assert_allclose(y, expected, rtol=2e-6 if dtype == np.float32 else 1e-13, atol=1e-30)
    assert np.isnan(y[:, -1]).all()
    assert np.isfinite(softmax.forward(x, axis=0)[0][:, :6]).all()
