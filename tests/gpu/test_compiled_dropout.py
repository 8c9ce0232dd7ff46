"""Dropout compiled for three architectures: it fits and does not spill."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, Array, assert_fits

from ranvier.kernels.dropout import gpu


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dropout_fits_and_does_not_spill(dtype, architecture):
    x, numbers = Array(dtype), (2**62, 0.1, 1.25, 0.0, 0.0)
    for by_row, rows, length, columns in ((False, 1, 4096, 1024), (True, 512, 35, 128), (True, 3, 1, 16)):
        tile = {"BLOCK_ROWS": 1024 // columns, "BLOCK_COLUMNS": columns}
        assert_fits(gpu.dropout_kernel, (x, x, rows, length, *numbers), architecture, BY_ROW=by_row, **tile)
