"""Dense products compiled for three architectures in the tiles that they are launched with: they fit, do not spill;
large ones on sm_90 and later go through tensor maps."""

import os

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl
from compiling import ARCHITECTURES, LIMITS, SPILLED, assert_fits, compile_kernel, record_launches

from ranvier import fp32_precision
from ranvier.kernels import tuning
from ranvier.kernels.cubin import read_code
from ranvier.kernels.dense import gpu, gpu_product
from ranvier.profiling import cases
from ranvier.profiling.launches import launches_of_sample
from ranvier.profiling.machine_code import disassemble, instruction_mix

MATRIX = np.empty((4096, 4096), np.float16)


def constants_of(*question):
    """What is shipped, as kernels take it."""
    return {name: value for name, value in gpu_product.PRODUCT.shipped(*question).items() if name != "SCHEDULE"}


def launched(architecture: int, a, b, **options):
    """The first launch of a product: the kernel's name, and a function that compiles it."""
    c = np.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    with tuning.assuming(architecture):
        kernel, arguments, constants = record_launches(lambda: gpu_product.product(a, b, c, **options))[0]
    return kernel.__name__, lambda: compile_kernel(kernel, arguments, architecture, **constants)


@pytest.mark.parametrize("architecture", [86, *ARCHITECTURES])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_products_that_differentiate_fit(dtype, architecture):
    """The gradients of a hidden layer with the activation that asks most; the weight's brings the bias's."""
    rows, grad_y, weight = (np.empty(shape, dtype) for shape in ((65536, 128), (65536, 512), (512, 128)))
    saved = rows.shape, rows, weight, grad_y, 4
    with tuning.assuming(architecture):
        made = record_launches(lambda: gpu.dense_backward(saved, grad_y, (True, True, True)))
    assert {kernel.__name__ for kernel, *_ in made} == {"product_forward_kernel", "sum_of_parts_kernel"}
    for kernel, arguments, constants in made:
        assert_fits(kernel, arguments, architecture, **constants)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("summed", [False, True])
def test_the_product_fits_in_its_largest_tile(summed, dtype, architecture):
    sizes = (4096, 4096, 4096, 2 if summed else 1, 16, 4)
    steps = (0, 65536, 4096, 8192, 4096, 1)
    assert_fits(
        gpu_product.product_forward_kernel,
        [dtype, dtype, "float32", None, None, None, None, *sizes, *steps, *steps, 65536],
        architecture,
        ACTIVATION=0,
        SUMMED=summed,
        PRECISION="tf32x3" if dtype == "float32" else "ieee",
        ACCUMULATOR=tl.float32,
        **constants_of(architecture, np.dtype(dtype), (4096, 4096, 4096, 32, False)),
    )


@pytest.mark.parametrize(("architecture", "instruction"), [(90, "wgmma.mma_async"), (100, "tcgen05.mma")])
@pytest.mark.parametrize("swapped", [(), ("a", "b"), ("b",)], ids=["neither", "both", "b"])
def test_large_products_go_through_tensor_maps(swapped, architecture, instruction):
    a, b = (MATRIX.T if name in swapped else MATRIX for name in "ab")
    # As dense does it for the activation that asks most.
    epilogue = {"bias": MATRIX[0], "state": MATRIX, "activation": 4} if swapped == ("b",) else {}
    name, compiled = launched(architecture, a, b, **epilogue)
    assert name == "product_mapped_kernel"
    made = compiled()
    assert made.info.stack_bytes == 0
    assert made.shared_bytes <= LIMITS[architecture].block_shared_bytes
    assert made.scratch_bytes >= 128 * (4 if epilogue else 3)  # a map each
    for expected in (instruction, "cp.async.bulk.tensor.3d.shared", "cp.async.bulk.tensor.3d.global"):
        assert expected in made.ptx


@pytest.mark.parametrize(
    ("architecture", "a", "b"),
    [
        (80, MATRIX, MATRIX),
        (90, MATRIX[:, 1:], MATRIX[1:]),
        (90, MATRIX, MATRIX[:, :-1]),
        (90, MATRIX[:, ::2], MATRIX[::2]),
        (90, MATRIX[:, ::-1], MATRIX),
        (90, np.broadcast_to(MATRIX[0], MATRIX.shape), MATRIX),
        (90, MATRIX.astype(np.float64), MATRIX.astype(np.float64)),
        (90, MATRIX[:, :32], MATRIX[:32]),
        (90, MATRIX[:64], MATRIX),
    ],
    ids=[
        "sm_80", "unaligned", "result unaligned", "no neighbours", "backwards", "one line", "double", "short sums",
        "few tiles",
    ],
)  # fmt: skip
def test_what_maps_do_not_fit_is_read_through_pointers(architecture, a, b):
    assert launched(architecture, a, b)[0] == "product_forward_kernel"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_persistent_programs_that_read_through_pointers_fit(architecture, monkeypatch):
    default = gpu_product.PRODUCT._default
    monkeypatch.setattr(gpu_product.PRODUCT, "_default", lambda *question: (*default(*question)[:-1], 1))
    tuning.forget()
    name, compiled = launched(architecture, MATRIX, MATRIX.T, bias=MATRIX[0])
    tuning.forget()
    assert name == "product_persistent_kernel"
    made = compiled()
    assert made.info.stack_bytes == 0
    assert made.shared_bytes <= LIMITS[architecture].block_shared_bytes
    assert "cp.async.c" in made.ptx


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_sum_of_parts_fits(dtype, architecture):
    arguments = ["float32", dtype, dtype, dtype, 65536, 4096, 16]
    assert_fits(gpu_product.sum_of_parts_kernel, arguments, architecture, ACTIVATION=4, BLOCK=512)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_is_multiplied_as_asked(architecture):
    a, found = MATRIX[:256, :256].astype(np.float32), {}
    for how in ("ieee", "tf32", "3xtf32"):
        with fp32_precision(how):
            compiled = launched(architecture, a, a.T)[1]()
        assert compiled.info.stack_bytes <= max(8, SPILLED)  # two values, on sm_100
        found[how] = instruction_mix(disassemble([read_code(compiled.cubin, compiled.name)], architecture)[0])
    products = {how: sum(mix.get("tensor", {}).values()) for how, mix in found.items()}
    assert products["ieee"] == 0
    assert products["3xtf32"] > products["tf32"] > 0


@pytest.mark.parametrize("name", ["dense", "matmul", "conv2d", "scaled_dot_product_attention", "lstm"])
def test_all_products_of_layers_are_made_as_asked(name):
    (operation,) = cases.select([name])
    for how, dtype, expected in (("tf32", "float32", "tf32"), ("ieee", "float32", "ieee"), ("tf32", "float16", "ieee")):
        with fp32_precision(how):
            launches = launches_of_sample(operation, operation.samples[0], np.dtype(dtype))
        assert {made.constants["PRECISION"] for made in launches if "PRECISION" in made.constants} == {expected}
    launches = launches_of_sample(operation, operation.samples[0], np.dtype("float32"))
    assert {made.constants["PRECISION"] for made in launches if "PRECISION" in made.constants} == {"tf32x3"}


def test_another_way_to_multiply_is_refused():
    with pytest.raises(ValueError, match="fp32_precision: expected 'ieee', 'tf32', '3xtf32', got 'high'"):
        fp32_precision("high").__enter__()
