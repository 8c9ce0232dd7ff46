"""Optimizer steps compiled for three architectures: they fit and do not spill."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_fits

from ranvier.kernels.optimizer import gpu, gpu_clipping

# kernel -> (arrays, numbers, constants), with all the state that there can be.
STEPS = {
    gpu.sgd_step_kernel: (5, 5, {"NESTEROV": True}),
    gpu.adam_step_kernel: (9, 11, {"ADAPTIVE": True}),
    gpu.adamax_step_kernel: (7, 7, {}),
    gpu.lion_step_kernel: (5, 8, {}),
    gpu.rmsprop_step_kernel: (9, 7, {}),
    gpu.adadelta_step_kernel: (7, 6, {}),
    gpu_clipping.gradient_scale_and_clip_kernel: (2, 3, {}),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kernel", STEPS, ids=lambda kernel: kernel.__name__)
def test_a_step_fits_and_does_not_spill(kernel, dtype, architecture):
    arrays, numbers, constants = STEPS[kernel]
    assert_fits(kernel, [dtype] * arrays + [4096] + [0.1] * numbers, architecture, **constants, BLOCK=1024)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_norm_fits_and_does_not_spill(dtype, architecture):
    for code in (0, 1):
        constants = {"CODE": code, "BLOCK": 1024}
        arguments = [dtype, "float64", 4096, 3.0]
        assert_fits(gpu_clipping.gradient_power_sums_kernel, arguments, architecture, **constants, CHUNK=16384)
        assert_fits(gpu_clipping.gradient_norm_kernel, ["float64", dtype, 4096, 3.0], architecture, **constants)
    arguments = [dtype, "int32", 4096]
    assert_fits(gpu_clipping.gradient_largest_bits_kernel, arguments, architecture, CHUNK=16384, BLOCK=1024)
    assert_fits(gpu_clipping.gradient_largest_kernel, ["int32", dtype, 4096], architecture, BLOCK=1024)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "norm"), [("bfloat16", "float32"), ("float32", "float32"), ("float32", "float64")])
def test_the_bound_on_a_norm_fits_and_does_not_spill(dtype, norm, architecture):
    arguments = [dtype, norm, dtype, 4096, 1.0]
    assert_fits(gpu_clipping.gradient_limit_kernel, arguments, architecture, IN_PLACE=True, BLOCK=1024)


def test_the_norm_of_float64_compiles():
    arguments = ["float64", "int64", 4096]
    assert_fits(gpu_clipping.gradient_largest_bits_kernel, arguments, 90, CHUNK=16384, BLOCK=1024)
    assert_fits(gpu_clipping.gradient_largest_kernel, ["int64", "float64", 4096], 90, BLOCK=1024)
