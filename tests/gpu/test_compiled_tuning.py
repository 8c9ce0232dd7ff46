"""What is shipped for sm_86, sm_89 and sm_120, whose blocks have 99 KB of shared memory: compiled, it fits."""

import os

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from ranvier.kernels import tuning
from ranvier.kernels.conv.gpu_products import CORRELATE, GRAD_WEIGHT
from ranvier.kernels.dense.gpu_product import PRODUCT
from ranvier.profiling import cases
from ranvier.profiling.launches import form_of, launches_of_sample
from ranvier.profiling.occupancy import ARCHITECTURES

SMALL = [architecture for architecture, limits in ARCHITECTURES.items() if limits.block_shared_bytes < 100 * 1024]


def shared_bytes(family: str, dtype: str, architecture: int, *, shipped_for: int, samples=None) -> dict[str, int]:
    """What each kernel needs at most of those that the family's shapes for timing launch."""
    forms = {}
    with tuning.assuming(shipped_for):
        for operation in cases.select([family]):
            for sample in operation.samples:
                if sample.large if samples is None else sample.name in samples:
                    made = launches_of_sample(operation, sample, cases.DTYPES[dtype])
                    forms |= {(form.key[0], form.key[2]): form for form in map(form_of, made)}
    needed = {}
    for form in forms.values():
        known, signature = form.compile_arguments()
        compiled = known.compile(signature, architecture, **form.constants)
        needed[form.name] = max(compiled.shared_bytes, needed.get(form.name, 0))
    return needed


def test_the_smaller_architectures():
    assert SMALL == [86, 89, 120]


@pytest.mark.parametrize(
    ("dtype", "sample", "architecture"), [("float16", "gemma_2b", 86), ("float32", "llama_2", 120)]
)
def test_attention_of_wide_heads_fits(dtype, sample, architecture):
    limit = ARCHITECTURES[architecture].block_shared_bytes
    options = {"samples": [sample]}
    needed = shared_bytes("attention", dtype, architecture, shipped_for=architecture, **options)
    assert {"attention_forward_kernel", "attention_grad_query_kernel", "attention_grad_key_value_kernel"} <= set(needed)
    assert max(needed.values()) <= limit
    # What is shipped where there is room would not fit.
    assert max(shared_bytes("attention", dtype, architecture, shipped_for=90, **options).values()) > limit


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("family", ["attention", "conv", "dense/"])
def test_products_fit_on_the_smaller_architectures(family, dtype, architecture):
    needed = shared_bytes(family, dtype, architecture, shipped_for=architecture)
    assert max(needed.values()) <= ARCHITECTURES[architecture].block_shared_bytes, needed


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("choice", "rest"),
    [
        *((PRODUCT, (matrices, mapped)) for matrices in (1, 4096) for mapped in (False, True)),
        *((CORRELATE, (gathered,)) for gathered in (False, True)),
        *((GRAD_WEIGHT, (gathered, pointwise)) for gathered in (False, True) for pointwise in (False, True)),
    ],
)
def test_pipelines_hold_no_more_than_a_block_has(choice, rest, architecture, dtype):
    """The operands that are on their way at once, for any sizes: what a product needs at least."""
    limit, dtype = ARCHITECTURES[architecture].block_shared_bytes, np.dtype(dtype)
    for sizes in np.ndindex(3, 3, 3):
        bucket = (*(16 << 5 * size for size in sizes), *rest)
        tile = choice.shipped(architecture, dtype, bucket)
        rows, columns, inner, *_ = tile.values()
        stages = tile["num_stages"]
        assert stages * (rows + columns) * inner * dtype.itemsize <= limit
