"""Kernels that move elements, as samples launch them, compiled for three architectures without a GPU."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import numpy as np
from compiling import ARCHITECTURES, assert_fits, assert_launches_fit, assert_sample_fits

from ranvier.kernels import shape
from ranvier.kernels.shape import gpu_nonzero

CALLS = [
    (shape.advanced_index, "inner"),
    (shape.gather, "middle"),
    (shape.pad, "constant"),
    (shape.pad, "reflect"),
    (shape.pad, "replicate"),
    (shape.pad, "circular"),
    (shape.roll, "window"),
    (shape.triangle, "causal"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("operation", "name"), CALLS, ids=lambda value: getattr(value, "name", value))
def test_moving_fits_and_does_not_spill(operation, name, dtype, architecture):
    assert_sample_fits(operation, name, dtype, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_gradient_of_long_rows_fits_and_does_not_spill(dtype, architecture):
    x, rows = np.zeros((9, 768), np.dtype(dtype)), np.zeros(20, np.int64)

    def call():
        y, saved = shape.advanced_index.forward(x, rows, axis=0, implementation="gpu")
        shape.advanced_index.backward(saved, y, (True, False), implementation="gpu")

    assert "take_rows_grad_x_kernel" in assert_launches_fit(call, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float64"])
def test_finding_what_is_not_zero_fits_and_does_not_spill(dtype, architecture):
    assert_fits(gpu_nonzero.nonzero_counts_kernel, [dtype, "int64", 5000], architecture, BLOCK=1024)
    assert_fits(gpu_nonzero.nonzero_starts_kernel, ["int64", "int64", 5], architecture, BLOCK=1024)
    assert_fits(gpu_nonzero.nonzero_places_kernel, [dtype, "int64", "int64", 5000], architecture, BLOCK=1024)
    assert_fits(gpu_nonzero.coordinate_kernel, ["int64", "int64", 99, 7, 50], architecture, BLOCK=1024)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float64"])
def test_other_types_compile(dtype):
    x = np.zeros((4, 5), np.dtype(dtype))

    def call():
        shape.pad.forward(x, widths=((1, 1), (2, 0)), value=1, implementation="gpu")
        shape.triangle.forward(x, implementation="gpu")
        shape.gather.forward(x, np.zeros((4, 1), np.int64), axis=1, implementation="gpu")
        shape.concatenate.forward(x, x, axis=0, implementation="gpu")

    assert len(assert_launches_fit(call, 90)) == 4
