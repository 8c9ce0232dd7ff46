"""GPU kernels compiled for three architectures on a machine without one: they fit, do not spill, use tensor cores."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl
from compiling import ARCHITECTURES, SPILLED, Array

from ranvier.kernels import launch
from ranvier.kernels.compiled import Compiled
from ranvier.kernels.cubin import read_cubin
from ranvier.kernels.dense import gpu as dense
from ranvier.kernels.dense import gpu_product

DTYPES = ("float16", "bfloat16", "float32", "float64")


def compile_product(dtype, architecture, bias=True, address=4096):
    kernel = launch.TritonKernel(gpu_product.product_forward_kernel)
    array = Array(dtype, address)
    strides = (0, 0, 4096, 0, 64, 1, 0, 0, 4096, 0, 1, 64, 4096)
    sizes = (64, 64, 64, 1, 1, 1)
    signature, _ = kernel.bind((array, array, array, array if bias else None, None, None, None, *sizes, *strides))
    double = dtype == "float64"
    return kernel.compile(
        tuple(signature), architecture,
        ACTIVATION=1, SUMMED=False, PRECISION="tf32x3" if dtype == "float32" else "ieee",
        ACCUMULATOR=tl.float64 if double else tl.float32,
        BLOCK_M=32 if double else 64, BLOCK_N=32 if double else 64, BLOCK_K=32, GROUP_M=8,
        num_warps=4, num_stages=2 if double else 3,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_fits_and_does_not_spill(dtype, architecture):
    compiled = compile_product(dtype, architecture)
    assert compiled.info.registers <= 255
    assert compiled.info.stack_bytes <= SPILLED
    assert compiled.shared_bytes <= 163 * 1024  # what a block can have on sm_80, the smallest of the three


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_product_uses_tensor_cores_and_asynchronous_copies_on_sm_80(dtype):
    text = compile_product(dtype, 80).ptx
    assert "mma.sync" in text
    assert "cp.async" in text


def test_an_unaligned_view_gets_a_form_of_its_own():
    kernel = launch.TritonKernel(dense.dense_grad_sum_kernel)
    aligned, unaligned = (kernel.bind((Array("float32", a), Array("float32"), Array("float32"), 5))[0] for a in (32, 4))
    assert aligned != unaligned


def test_parameters_that_would_be_packed_otherwise_are_refused():
    good = compile_product("float32", 90)
    result = type("Result", (), {"metadata": good.metadata, "asm": {"cubin": good.cubin}})
    with pytest.raises(RuntimeError, match=r"expected parameters .* Triton 0 is not supported"):
        Compiled(result, ["*fp32"], scratch_pointers=2, compiler="Triton 0")


def test_wrong_number_of_arguments_is_refused():
    with pytest.raises(
        TypeError, match=r"dense_grad_sum_kernel: expected 4 arguments \(grad_y, state, grad_z, size\), got 1"
    ):
        launch.TritonKernel(dense.dense_grad_sum_kernel).bind((1,))


def test_what_is_no_cubin_is_refused():
    with pytest.raises(ValueError, match="read_cubin: expected a 64-bit ELF"):
        read_cubin(b"PTX", "kernel")
    with pytest.raises(ValueError, match="expected kernel 'other'"):
        read_cubin(compile_product("float16", 80).cubin, "other")
