"""Offsets in arrays of more than 2^31 elements: no Triton kernel computes one in 32 bits, and each reaches the far end.

    TRITON_INTERPRET=1 pytest tests/gpu/test_interpreted_vast.py

Every operation's samples are walked with one of their sizes grown (`vast.py`), forward and backward; then it is asked
of each kernel of the library. Numba-CUDA kernels are no part of this: in them all integers have 64 bits.
"""

import importlib
import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
import triton
import triton.language as tl
import vast
from vast import ELEMENTS, Walk, name_of, virtual

from ranvier.kernels import gpu_arrays, launch
from ranvier.kernels.dense import gpu_product
from ranvier.kernels.operation import Operation, all_operations
from ranvier.profiling.launches import has_gpu_kernels

interpreter.install()
for operation in all_operations():
    has_gpu_kernels(operation)  # imports the family's kernels
gpu_check = importlib.import_module("ranvier.kernels.loss.gpu_check")
gpu_nonzero = importlib.import_module("ranvier.kernels.shape.gpu_nonzero")

# Kernels that read and write only arrays far smaller than those of the operation's caller.
SMALL = {
    "conv.gpu_products.conv_sum_of_parts_kernel": "sums are split where the result is a few tiles",
    "dense.gpu_product.sum_of_parts_kernel": "sums are split where the result is a few tiles",
    "embedding.gpu_sort.sort_starts_kernel": "a number for each digit and block of keys",
    "gpu_arrays.count_kernel": "one element",
    "loss.gpu_ctc.ctc_output_kernel": "a number for each sequence",
    "loss.gpu_ctc.ctc_scales_kernel": "a number for each sequence",
    "loss.gpu_reduce.loss_kernel": "a number for each program of the loss",
    "norm.gpu_kernels.inference_grad_statistics_kernel": "a number for each channel",
    "norm.gpu_kernels.norm_join_kernel": "a number for each chunk of a line",
    "optimizer.gpu_clipping.gradient_largest_kernel": "a number for each chunk of the gradient",
    "optimizer.gpu_clipping.gradient_norm_kernel": "a number for each chunk of the gradient",
    "resize.gpu_kernels.taps_kernel": "a few numbers for each place of an axis",
    "resize.gpu_kernels.taps_transposed_kernel": "a few numbers for each place of an axis",
    "shape.gpu_nonzero.nonzero_starts_kernel": "a number for each block of elements",
    "softmax.gpu.softmax_join_kernel": "a number for each chunk of a line",
}


@triton.jit
def narrow_kernel(x, size, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + offset, tl.load(x + offset, mask=offset < size), mask=offset < size)


@triton.jit
def wide_kernel(x, size, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + offset, tl.load(x + offset, mask=offset < size), mask=offset < size)


@triton.jit
def rows_kernel(x, columns, BLOCK: tl.constexpr):
    tl.store(x + tl.program_id(0) * columns + tl.arange(0, BLOCK), tl.zeros((BLOCK,), tl.float16))


@triton.jit
def unmasked_kernel(x, BLOCK: tl.constexpr):
    tl.store(x + tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), tl.zeros((BLOCK,), tl.float16))


@pytest.mark.parametrize(
    ("kernel", "grid", "numbers", "fault"),
    [
        (wide_kernel, (ELEMENTS // 1024 + 1,), (ELEMENTS + 5,), None),
        (narrow_kernel, (ELEMENTS // 1024 + 1,), (ELEMENTS + 5,), "multiply in 32 bits wraps"),
        (rows_kernel, (ELEMENTS // 1024 + 1,), (1024,), "multiply in 32 bits wraps"),
        (unmasked_kernel, (ELEMENTS // 1024 + 2,), (), "outside the arrays"),
        (wide_kernel, (1, 70_000), (ELEMENTS + 5,), "at most"),
    ],
)
def test_faults_are_seen(kernel, grid, numbers, fault):
    walk = Walk()
    walk(kernel, grid, (virtual((ELEMENTS + 1024,), np.float16), *numbers), {"BLOCK": 1024})
    if fault is None:
        assert walk.far[name_of(kernel)]
        assert not walk.faults
    else:
        assert fault in walk.faults[name_of(kernel)][0]


@pytest.mark.timeout(900)
def test_offsets_have_64_bits(monkeypatch):
    walk = Walk()
    for operation in all_operations():
        walk.operation(operation)
    with monkeypatch.context() as patch:
        patch.setattr(gpu_product.PRODUCT, "_default", lambda *question: (64, 64, 32, 8, 4, 3, 1))
        gpu_product.PRODUCT._picked.clear()
        walk.operation(Operation.registry["dense"])
    gpu_product.PRODUCT._picked.clear()
    with walk.walking():
        gpu_arrays.extent(virtual((ELEMENTS + 5000,), np.int64))
        gpu_check.first_outside(virtual((ELEMENTS + 5000,), np.float16), 0, 1)
        with monkeypatch.context() as patch:  # all that is found in nothing but zeros would be too little
            patch.setattr(gpu_nonzero, "fetched", lambda count: [ELEMENTS + 5000])
            gpu_nonzero.nonzero(virtual((ELEMENTS + 5000,), np.bool_))
    assert launch.interpreter is interpreter.interpret
    assert not walk.faults
    far = {name for name, times in walk.far.items() if times}
    assert set(vast.triton_kernels()) - far == set(SMALL)
