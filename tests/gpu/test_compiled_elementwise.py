"""Elementwise kernels compiled for three architectures: they fit and do not spill."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl
from compiling import ARCHITECTURES, assert_fits, compile_kernel

from ranvier.kernels.elementwise import gpu, gpu_broadcasting

ROW_TILE = {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 1024}
SHORT_TILE = {"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 16}
INNER = {"A_INNER": 1, "B_INNER": 0, "C_INNER": None}


def assert_tile_fits(function, arrays, result, architecture, rank=3, number=-1, wide=False, tile=ROW_TILE):
    numbers = (77, 4096, 1.5, 1, *(7, 11, 13), *range(15))
    assert_fits(
        gpu_broadcasting.tile_kernel, (*arrays, result, *numbers), architecture,
        FUNCTION=function, NUMBER=number, RANK=rank, WIDE=wide, **INNER, **tile,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiles_fit_and_do_not_spill(dtype, architecture):
    assert_tile_fits("add", (dtype, dtype, None), dtype, architecture)
    assert_tile_fits("divide_grad_y", (dtype, dtype, dtype), dtype, architecture, rank=5, wide=True)
    assert_tile_fits("power", (dtype, dtype, None), dtype, architecture, tile=SHORT_TILE)
    assert_tile_fits("where", ("bool", dtype, None), dtype, architecture, number=2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_flat_functions_fit_and_do_not_spill(dtype, architecture):
    for function in ("exp", "log1p", "round"):
        arguments = (dtype, None, None, dtype, 4096, 0.0, 0)
        assert_fits(gpu_broadcasting.flat_kernel, arguments, architecture, FUNCTION=function, NUMBER=-1, BLOCK=1024)
    arguments = (dtype, dtype, dtype, 4096, 0.0, 1.0, 0, 0)
    for gradient in (False, True):
        constants = {"LOW": True, "HIGH": True, "GRADIENT": gradient, "BLOCK": 1024}
        assert_fits(gpu.clip_kernel, arguments, architecture, **constants)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kept_last", "block_kept", "block_summed"), [(True, 64, 16), (False, 1, 1024), (False, 16, 64)]
)
def test_sums_fit_and_do_not_spill(dtype, architecture, kept_last, block_kept, block_summed):
    arguments = (dtype, dtype, dtype, "float32", 96, 4096, 1024, 0.0, 0, 3, 5, 7, 9, *range(18))
    assert_fits(
        gpu_broadcasting.sum_kernel, arguments, architecture,
        FUNCTION="divide_grad_y", NUMBER=-1, WIDE=False, KEPT_RANK=2, SUMMED_RANK=2, KEPT_LAST=kept_last,
        ACCUMULATOR=tl.float32, BLOCK_KEPT=block_kept, BLOCK_SUMMED=block_summed,
    )  # fmt: skip


@pytest.mark.parametrize("function", ["add", "power", "remainder", "floor_divide", "maximum", "less", "logical_xor"])
def test_integers_compile(function):
    for dtype in ("int64", "uint8"):
        result = "bool" if function in ("less", "logical_xor") else dtype
        assert_tile_fits(function, (dtype, dtype, None), result, 90)


def test_bools_and_float64_compile():
    for function in ("add", "equal", "maximum"):
        assert_tile_fits(function, ("bool", "bool", None), "bool", 90)
    for function in ("power_grad_y", "remainder", "grad_of_larger"):
        assert_tile_fits(function, ("float64", "float64", "float64"), "float64", 90)
    arguments = ("float64", None, None, "float64", 1, 0.0, 0)
    for function in ("expm1", "sqrt", "rsqrt", "erf"):
        assert_fits(gpu_broadcasting.flat_kernel, arguments, 90, FUNCTION=function, NUMBER=-1, BLOCK=1024)


@pytest.mark.parametrize("function", ["sin", "cos", "sin_grad", "cos_grad"])
def test_sines_compile(function):
    # CUDA's reduction of very large arguments keeps its table on the stack; no other value goes there.
    arguments = ("float32", "float32", None, "float32", 4096, 0.0, 0)
    kernel = gpu_broadcasting.flat_kernel
    compiled = compile_kernel(kernel, arguments, 90, FUNCTION=function, NUMBER=-1, BLOCK=1024)
    assert compiled.info.stack_bytes <= 64


def test_new_strides_are_no_new_form():
    from ranvier.kernels.launch import TritonKernel

    for kernel, before, numbers in (
        (gpu_broadcasting.tile_kernel, (77, 4095, 1.5, 1), 18),
        (gpu_broadcasting.sum_kernel, (77, 4095, 1024, 1.5, 1), 22),
    ):
        known = TritonKernel(kernel)
        forms = [known.bind((None, None, None, None, *before, *[n] * numbers))[0] for n in (1, 16, 7, 2**40)]
        assert all(form == forms[0] for form in forms)
