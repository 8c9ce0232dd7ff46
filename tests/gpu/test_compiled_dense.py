"""Dense products compiled for three architectures in the tiles that they are launched with: they fit, do not spill."""

import os

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl
from compiling import ARCHITECTURES, assert_fits

from ranvier.kernels.dense import gpu_product


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("summed", [False, True])
def test_the_product_fits_in_its_largest_tile(summed, dtype, architecture):
    sizes = (4096, 4096, 4096, 2 if summed else 1, 16, 4)
    steps = (0, 65536, 4096, 8192, 4096, 1)
    assert_fits(
        gpu_product.product_forward_kernel,
        [dtype, dtype, "float32", None, None, *sizes, *steps, *steps, 65536],
        architecture,
        ACTIVATION=0,
        SUMMED=summed,
        PRECISION="tf32x3" if dtype == "float32" else "ieee",
        ACCUMULATOR=tl.float32,
        **gpu_product.PRODUCT.shipped(architecture, np.dtype(dtype), (4096, 4096, 4096, 32)),
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_sum_of_parts_fits(dtype, architecture):
    arguments = ["float32", dtype, dtype, dtype, 65536, 4096, 16]
    assert_fits(gpu_product.sum_of_parts_kernel, arguments, architecture, ACTIVATION=4, BLOCK=512)
