"""Losses compiled for three architectures: they fit and do not spill."""

import os

import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl
from compiling import ARCHITECTURES, assert_fits, assert_sample_fits

from ranvier.kernels.loss import (
    ctc_loss,
    gpu_check,
    gpu_classification,
    gpu_elementwise,
    gpu_ranking,
    gpu_reduce,
    multilabel_margin_loss,
)

SHAPES = {"language_model": (512, 50257), "segmentation": (8, 21, 256, 256)}
BOTH = pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
ALL = pytest.mark.parametrize("architecture", ARCHITECTURES)


@ALL
@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_fits_and_does_not_spill(shape, dtype, architecture):
    planes = gpu_classification._Planes(SHAPES[shape])
    numbers, constants = (*planes.layout, -100, 0.9, 0.1), {"BY_LABEL": True} | planes.blocks
    arguments = [dtype, "int64", None, dtype, None, "float64", "float64", "float32", "float32", *numbers]
    assert_fits(
        gpu_classification.cross_entropy_kernel, arguments, architecture, SPREAD=True, WIDE=tl.float32, **constants
    )
    arguments = [dtype, "int64", None, dtype, "float32", "float32", dtype, "float64", dtype, None, *numbers]
    assert_fits(gpu_classification.cross_entropy_grad_kernel, arguments, architecture, EACH=False, **constants)


@ALL
@BOTH
def test_cross_entropy_with_probabilities_fits_and_does_not_spill(dtype, architecture):
    planes = gpu_classification._Planes((256, 1000))
    numbers, constants = (*planes.layout, -100, 0.9, 0.1), {"BY_LABEL": False} | planes.blocks
    arguments = [dtype, None, dtype, dtype, None, "float64", None, "float32", "float32", *numbers]
    assert_fits(
        gpu_classification.cross_entropy_kernel, arguments, architecture, SPREAD=True, WIDE=tl.float32, **constants
    )
    arguments = [dtype, None, dtype, dtype, "float32", "float32", dtype, None, dtype, dtype, *numbers]
    assert_fits(gpu_classification.cross_entropy_grad_kernel, arguments, architecture, EACH=True, **constants)


@ALL
@BOTH
def test_nll_loss_and_the_reduction_fit_and_do_not_spill(dtype, architecture):
    planes = gpu_classification._Planes((256, 1000))
    positions, classes, *strides = planes.layout
    arguments = ["int64", dtype, dtype, "float64", dtype, positions, classes, *strides, -100]
    constants = {"EACH": False, "WIDE": tl.float32} | planes.blocks
    assert_fits(gpu_classification.nll_loss_grad_x_kernel, arguments, architecture, **constants)
    arguments = [dtype, "int64", dtype, None, "float64", "float64", 256, positions, *strides, -100]
    assert_fits(gpu_classification.nll_loss_kernel, arguments, architecture, WIDE=tl.float32, BLOCK=1024)
    arguments = ["float64", "float64", dtype, "float64", 256, 1.0]
    assert_fits(gpu_reduce.loss_kernel, arguments, architecture, BLOCK=1024)


@ALL
@BOTH
@pytest.mark.parametrize("code", [gpu_elementwise._POISSON, gpu_elementwise._GAUSSIAN, gpu_elementwise._BCE])
def test_losses_of_elements_fit_and_do_not_spill(code, dtype, architecture):
    constants, numbers = {"CODE": code.value, "FULL": True, "BLOCK": 1024}, (1e-8, 0.0)
    arguments = [dtype, dtype, dtype, dtype, None, "float64", 4096, *numbers]
    assert_fits(gpu_elementwise.elementwise_loss_kernel, arguments, architecture, **constants)
    arguments = [dtype, dtype, dtype, dtype, dtype, "float64", dtype, dtype, 4096, 1, *numbers]
    constants |= {"BY": gpu_elementwise._BY_TARGET.value, "EACH": False}
    assert_fits(gpu_elementwise.elementwise_loss_grad_kernel, arguments, architecture, **constants)


@pytest.mark.parametrize("code", range(15))
def test_every_loss_of_elements_compiles(code):
    constants, numbers = {"CODE": code, "FULL": False, "BLOCK": 1024}, (1.0, 0.0)
    arguments = ["float32", "float32", "float32", None, "float32", None, 4096, *numbers]
    assert_fits(gpu_elementwise.elementwise_loss_kernel, arguments, 80, **constants)
    arguments = ["float32", "float32", "float32", None, "float32", None, "float32", None, 4096, 1, *numbers]
    constants |= {"BY": gpu_elementwise._BY_INPUT.value, "EACH": True}
    assert_fits(gpu_elementwise.elementwise_loss_grad_kernel, arguments, 80, **constants)


@ALL
def test_the_sum_over_an_axis_fits_and_does_not_spill(architecture):
    arguments = ["float32", "bfloat16", 4096, 64, 1, 1.0]
    constants = {"WIDE": tl.float32, "BLOCK": 32, "BLOCK_LENGTH": 32}
    assert_fits(gpu_elementwise.axis_sum_kernel, arguments, architecture, **constants)


@ALL
@BOTH
def test_losses_of_pairs_and_classes_fit_and_do_not_spill(dtype, architecture):
    wide, block = {"WIDE": tl.float32}, {"BLOCK": 1024}
    arguments = [dtype, dtype, "int64", None, "float64", "float32", 256, 768, 0.5]
    assert_fits(gpu_ranking.cosine_embedding_kernel, arguments, architecture, **wide, **block)
    arguments = [dtype, dtype, dtype, "float32", dtype, "float64", dtype, dtype, 256, 768, 0.5]
    assert_fits(gpu_ranking.cosine_embedding_grad_kernel, arguments, architecture, EACH=False, **block)
    arguments = [dtype, "int64", dtype, None, "float64", 1000, 1.0]
    assert_fits(gpu_ranking.multi_margin_kernel, arguments, architecture, SQUARED=True, **wide, **block)
    arguments = [dtype, "int64", dtype, dtype, "float64", dtype, 1000, 1.0]
    constants = {"SQUARED": True, "EACH": False}
    assert_fits(gpu_ranking.multi_margin_grad_x_kernel, arguments, architecture, **constants, **wide, **block)


@ALL
@BOTH
@pytest.mark.parametrize("norm", [1, 2, 3])
def test_losses_of_triplets_fit_and_do_not_spill(norm, dtype, architecture):
    constants = {"NORM": norm, "SWAP": True, "WIDE": tl.float32, "BLOCK": 1024}
    points, numbers = [dtype] * 3, [256, 1536, 1.0, 3.0, 1e-6]
    arguments = [*points, None, "float64", "float32", *numbers]
    assert_fits(gpu_ranking.triplet_margin_kernel, arguments, architecture, **constants)
    arguments = [*points, "float32", dtype, "float64", *points, *numbers]
    assert_fits(gpu_ranking.triplet_margin_grad_kernel, arguments, architecture, EACH=False, **constants)


@ALL
@BOTH
@pytest.mark.parametrize("sample", ["tags", "each"])
def test_margins_of_several_labels_fit_and_do_not_spill(sample, dtype, architecture):
    assert_sample_fits(multilabel_margin_loss, sample, dtype, architecture)


@ALL
@pytest.mark.parametrize(("sample", "dtype"), [("speech", "float32"), ("joined", "float64"), ("padded", "bfloat16")])
def test_ctc_fits_and_does_not_spill(sample, dtype, architecture):
    assert_sample_fits(ctc_loss, sample, dtype, architecture)


@ALL
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int64", "uint8"])
def test_the_search_for_strange_values_fits_and_does_not_spill(dtype, architecture):
    arguments = [dtype, "int64", 4096, -1.0, 1.0]
    for ends in (False, True):
        assert_fits(gpu_check.first_outside_kernel, arguments, architecture, ENDS=ends, NAN=True, BLOCK=1024)
