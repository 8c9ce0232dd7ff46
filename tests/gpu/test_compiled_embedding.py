"""Embeddings and the sort behind their gradient compiled for three architectures: they fit and do not spill."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl
from compiling import ARCHITECTURES, assert_fits, assert_sample_fits

from ranvier.kernels.embedding import embedding_bag, gpu, gpu_sort

pytestmark = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_lookups_fit_and_do_not_spill(dtype, architecture):
    assert_fits(gpu.embedding_kernel, ["int64", dtype, dtype, 8192, 768], architecture, BLOCK=1, BLOCK_C=1024)
    assert_fits(gpu.embedding_kernel, ["int32", dtype, dtype, 8192, 33], architecture, BLOCK=16, BLOCK_C=64)
    arguments = ["int64", "int64", dtype, dtype, 768, -1]
    constants = {"BY_FREQUENCY": True, "WIDE": tl.float32, "BLOCK": 8, "BLOCK_C": 128}
    assert_fits(gpu.embedding_grad_weight_kernel, arguments, architecture, **constants)
    arguments = [dtype, "int8", dtype, 768, 1.0, 3.0]
    for code in (0, 3):
        constants = {"CODE": code, "WIDE": tl.float32, "BLOCK": 1024}
        assert_fits(gpu.embedding_renorm_kernel, arguments, architecture, **constants)


def test_integer_kernels_fit_and_do_not_spill(architecture):
    assert_fits(gpu.one_hot_kernel, ["int64", "int64", 320, 10], architecture, BLOCK=1024)
    assert_fits(gpu.rows_used_kernel, ["int64", "int8", 320], architecture, BLOCK=1024)
    constants = {"RADIX": 16, "BLOCK": gpu_sort._BLOCK}
    for keys in ("int32", "int64"):
        assert_fits(gpu_sort.sort_counts_kernel, [keys, "int64", 8192, 4], architecture, **constants)
        arguments = [keys, "int64", "int64", "int64", "int64", 8192, 4]
        assert_fits(gpu_sort.sort_order_kernel, arguments, architecture, **constants)
    assert_fits(gpu_sort.sort_starts_kernel, ["int64", 256], architecture, BLOCK=1024)
    assert_fits(gpu_sort.row_starts_kernel, ["int64", "int64", 8192, 50257], architecture, STEPS=14, BLOCK=1024)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("sample", ["recommender", "weighted", "padded_mean", "padded_max"])
def test_bags_fit_and_do_not_spill(sample, dtype, architecture):
    assert_sample_fits(embedding_bag, sample, dtype, architecture)
