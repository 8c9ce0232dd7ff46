"""Softmax compiled for three architectures: it fits and does not spill."""

import os

import ml_dtypes  # noqa: F401  (registers bfloat16's name)
import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_launches_fit

from ranvier.kernels.softmax import gpu

FULL_ROWS, FULL_COLUMNS, LONG_ROWS, LONG_COLUMNS = (2, 16384), (2, 512, 64), (2, 50257), (2, 2000, 100)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_softmax_fits_and_does_not_spill(dtype, architecture):
    compiled = set()
    for name, shapes in (
        ("softmax", (FULL_ROWS, FULL_COLUMNS, LONG_ROWS)),
        ("log_softmax", (FULL_ROWS, LONG_COLUMNS)),
        ("logsumexp", (FULL_COLUMNS, LONG_ROWS)),
    ):
        for shape in shapes:
            compiled |= assert_launches_fit(
                lambda name=name, shape=shape: both_passes(name, shape, dtype), architecture
            )
    assert len([kernel for kernel in compiled if kernel.startswith(("softmax", "logsumexp"))]) == 8


@pytest.mark.parametrize("shape", [(2, 8192), LONG_ROWS])
@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
def test_softmax_of_float64_fits(name, shape):
    assert assert_launches_fit(lambda: both_passes(name, shape, "float64"), 90)


def both_passes(name, shape, dtype):
    x = np.zeros(shape, np.dtype(dtype))
    y, saved = getattr(gpu, f"{name}_forward")(x, axis=1)
    getattr(gpu, f"{name}_backward")(saved, y, (True,))
