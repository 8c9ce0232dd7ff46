"""GPU kernels' own source, run by Triton's interpreter on NumPy arrays, against the reference in float64.

    TRITON_INTERPRET=1 pytest tests/gpu/test_interpreted.py

`test_interpreter.py` starts this file in a process of its own, so a plain `pytest` runs it too.
"""

import os
import zlib

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from parity import DTYPES, non_contiguous

from ranvier.kernels import memory
from ranvier.kernels.operation import all_operations

interpreter.install()
SAMPLES = [
    pytest.param(operation, sample, id=f"{operation.name}-{sample.name}")
    for operation in all_operations()
    for sample in operation.samples
    if not sample.large
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("operation", "sample"), SAMPLES)
def test_gpu_kernels_agree_with_reference(operation, sample, dtype, monkeypatch, request):
    monkeypatch.setattr(memory, "poison", True)
    if dtype not in operation.dtypes:
        pytest.skip(f"{operation.name} takes {', '.join(operation.dtypes)}")
    rng = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    agree(operation, sample.build(rng, DTYPES[dtype]), sample.attributes, rng, dtype, implementation="gpu")


@pytest.mark.parametrize(("operation", "sample"), SAMPLES)
def test_gpu_kernels_take_non_contiguous_arrays(operation, sample, monkeypatch, request):
    monkeypatch.setattr(memory, "poison", True)
    rng = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    agree(operation, sample.build(rng, np.float32), sample.attributes, rng, "float32", "gpu", arrange=non_contiguous)
