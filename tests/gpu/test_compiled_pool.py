"""Pooling kernels, as their samples launch them, compiled for three architectures without a GPU."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_sample_fits

from ranvier.kernels import pool

CALLS = [
    (pool.max_pool, "resnet_stem"),
    (pool.adaptive_max_pool, "global"),
    (pool.avg_pool, "inception"),
    (pool.adaptive_avg_pool, "uneven"),
    (pool.lp_pool, "euclidean"),
    (pool.max_unpool, "doubling"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("operation", "name"), CALLS, ids=lambda value: getattr(value, "name", value))
def test_pooling_fits_and_does_not_spill(operation, name, dtype, architecture):
    assert_sample_fits(operation, name, dtype, architecture)
