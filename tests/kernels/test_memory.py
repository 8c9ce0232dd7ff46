"""Arrays for kernels begin where vectors do."""

import numpy as np
import pytest

from ranvier.kernels.memory import empty


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(), 0, 5, (3, 0), (7, 9), 40_000, (123, 457), (2, 3, 20_001)])
def test_what_is_not_small_begins_at_a_cache_line(shape, dtype):
    arrays = [empty(shape, dtype) for _ in range(5)]
    for array in arrays:
        assert array.shape == np.empty(shape, np.bool_).shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array.fill(1)
        if array.nbytes >= 1 << 15:
            assert array.ctypes.data % 64 == 0
