"""Normalisation compiled for three architectures: it fits and does not spill."""

import os

import ml_dtypes  # noqa: F401  (registers bfloat16's name)
import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_launches_fit

from ranvier.kernels.norm import gpu

# Rows that just fit a tile, and rows that are cut.
CALLS = {
    "layer_norm": [((64, 16384), {"normalized_shape": (16384,)}), ((4, 50001), {"normalized_shape": (50001,)})],
    "rms_norm": [((64, 16384), {"normalized_shape": (16384,)})],
    "group_norm": [((2, 64, 32, 32), {"groups": 4}), ((2, 64, 33, 35), {"groups": 2})],
    "instance_norm": [((2, 64, 33, 35), {})],
    "batch_norm": [
        ((32, 64, 56, 56), {}),
        ((1024, 512), {}),
        ((32, 64, 56, 56), {"activation": "relu"}),
        ((1024, 512), {"activation": "relu"}),
    ],
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_kernel_fits_and_does_not_spill(dtype, architecture):
    compiled = set()
    for name, call in (("layer_norm", 0), ("layer_norm", 1), ("batch_norm", 0), ("batch_norm", 2)):
        shape, attributes = CALLS[name][call]
        compiled |= assert_launches_fit(lambda n=name, s=shape, a=attributes: both_passes(n, s, dtype, a), architecture)
    assert len([kernel for kernel in compiled if "norm" in kernel]) == 7


@pytest.mark.parametrize("name", ["rms_norm", "group_norm", "instance_norm", "batch_norm"])
def test_forms_for_other_shapes_fit_and_do_not_spill(name):
    for shape, attributes in CALLS[name]:
        assert assert_launches_fit(lambda s=shape, a=attributes: both_passes(name, s, "float32", a), 90)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_kernels_fit_and_do_not_spill(dtype, architecture):
    x, channel = np.zeros((8, 96, 27, 27), np.dtype(dtype)), np.zeros(96, np.dtype(dtype))

    def call():
        y, saved = gpu.local_response_norm_forward(x, size=5, alpha=1e-4, beta=0.75, k=2.0)
        gpu.local_response_norm_backward(saved, y, (True,))
        for activation in (None, "relu"):
            inputs = x, channel, channel, channel, channel
            y, saved = gpu.batch_norm_inference_forward(*inputs, eps=1e-5, activation=activation)
            gpu.batch_norm_inference_backward(saved, y, (True,) * 5)
        gpu.running_average_forward(channel, x[:, :, 0, 0], factor=0.1, scale=1.5)

    compiled = assert_launches_fit(call, architecture)
    assert {"local_response_grad_x_kernel", "inference_grad_statistics_kernel", "running_average_kernel"} <= compiled


@pytest.mark.parametrize(("name", "call"), [("layer_norm", 1), ("batch_norm", 1), ("batch_norm", 3)])
def test_normalisations_of_float64_fit(name, call):
    shape, attributes = CALLS[name][call]
    assert assert_launches_fit(lambda: both_passes(name, shape, "float64", attributes), 90)


def both_passes(name, shape, dtype, attributes):
    x = np.zeros(shape, np.dtype(dtype))
    affine = np.zeros(attributes.get("normalized_shape", shape[1:2]), x.dtype)
    parameters = (affine,) if name == "rms_norm" else (affine, affine)
    output, saved = getattr(gpu, f"{name}_forward")(x, *parameters, eps=1e-5, **attributes)
    getattr(gpu, f"{name}_backward")(saved, output, (True,) * (1 + len(parameters)))
