"""Activations compiled for three architectures: they fit and do not spill."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, Array, assert_fits

from ranvier.kernels.activation import gpu

# The costliest formulas, one of each sort; the others differ in a line.
FUNCTIONS = ("tanh", "gelu", "gelu_tanh", "mish", "softplus")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_fit_and_do_not_spill(dtype, architecture):
    x = Array(dtype)
    for function in FUNCTIONS:
        constants = {"FUNCTION": function, "P": 1.5, "Q": 20.0, "R": 0.5, "BLOCK": 1024}
        assert_fits(gpu.activation_forward_kernel, (x, x, 4096), architecture, **constants)
        assert_fits(gpu.activation_grad_input_kernel, (x, x, x, 4096), architecture, **constants)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_activations_of_float64_compile(function):
    x = Array("float64")
    constants = {"FUNCTION": function, "P": 1.5, "Q": 20.0, "R": 0.5, "BLOCK": 1024}
    assert_fits(gpu.activation_forward_kernel, (x, x, 1), 90, **constants)
    assert_fits(gpu.activation_grad_input_kernel, (x, x, x, 1), 90, **constants)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rrelu_and_glu_fit_and_do_not_spill(dtype, architecture):
    x = Array(dtype)
    assert_fits(gpu.rrelu_kernel, (x, x, x, 4097, 2**62), architecture, LOWER=0.1, WIDTH=0.3, BLOCK=1024)
    for rows, length, tile in (
        (64, 8000, {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 1024}),
        (1, 1, {"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 16}),
    ):
        assert_fits(gpu.glu_forward_kernel, (x, x, rows, length), architecture, **tile)
        assert_fits(gpu.glu_grad_input_kernel, (x, x, x, rows, length), architecture, **tile)
