"""Softmax of lines that no tile can hold, and of infinities and NaN, in Triton's interpreter."""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
from agreement import agree
from parity import DTYPES

from ranvier.kernels import softmax as family
from ranvier.kernels.gpu_lines import tile_lines
from ranvier.kernels.softmax import gpu

interpreter.install()
NAMES = ["softmax", "log_softmax", "logsumexp"]
LONG = [((2, 20_000), 1), ((70_001,), 0), ((2, 3_001, 5), 1), ((1_500, 40), 0)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), LONG)
@pytest.mark.parametrize("name", NAMES)
def test_lines_that_are_cut_agree_with_reference(name, shape, axis, dtype):
    outer, inner = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    assert tile_lines(gpu.FORWARD, np.empty(0, DTYPES[dtype]), outer, shape[axis], inner).chunks > 1
    rng = np.random.default_rng(0)
    agree(getattr(family, name), [rng.standard_normal(shape).astype(DTYPES[dtype])], {"axis": axis}, rng, dtype, "gpu")


@pytest.mark.parametrize("length", [7, 20_000])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_infinities_and_nan_come_out_as_on_the_cpu(name, length):
    x = np.random.default_rng(0).standard_normal((6, length)).astype(np.float32)
    x[0, 3], x[1, 3], x[2, 3], x[3, 3] = -np.inf, np.inf, np.nan, 1e4
    x[4] = -np.inf
    x[5] -= 1_000
    x[5, : length // 2] = -np.inf
    operation = getattr(family, name)
    on_cpu, on_gpu = (operation.forward(x, implementation=i)[0] for i in ("cpu", "gpu"))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_out_may_lie_anyhow(name):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    operation = getattr(family, name)
    expected, _ = operation.forward(x, implementation="gpu")
    out = np.zeros((*expected.shape[:-1], 2 * expected.shape[-1]), np.float32)[..., ::2]
    result, _ = operation.forward(x, implementation="gpu", out=out)
    assert result is out
    np.testing.assert_array_equal(out, expected)
