"""Kernels that resize planes, as samples launch them, compiled for three architectures without a GPU."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_sample_fits

from ranvier.kernels import resize

SAMPLES = ["bilinear_up", "nearest_up", "nearest_exact", "cubic_corners", "trilinear", "antialiased", "lanczos"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SAMPLES)
def test_interpolation_fits_and_does_not_spill(name, dtype, architecture):
    assert_sample_fits(resize.interpolate, name, dtype, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unfolding_and_folding_fit_and_do_not_spill(dtype, architecture):
    assert_sample_fits(resize.unfold, "dilated", dtype, architecture)


def test_channels_are_copied_as_views():
    assert_sample_fits(resize.pixel_shuffle, "doubling", "bfloat16", 90)
    assert_sample_fits(resize.channel_shuffle, "three_groups", "float32", 90)
