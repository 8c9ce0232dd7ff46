"""Reductions compiled for three architectures: they fit and do not spill."""

import os

import ml_dtypes  # noqa: F401  (registers bfloat16's name)
import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_launches_fit

from ranvier.kernels.reduce import gpu

ROWS, COLUMNS = ((16, 50257), 1), ((2048, 768), 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reductions_fit_and_do_not_spill(dtype, architecture):
    compiled = set()
    for name, (shape, axis), attributes in (
        ("std", ROWS, {}),
        ("norm", COLUMNS, {"p": 3.0}),
        ("max", ROWS, {}),
        ("prod", COLUMNS, {}),
        ("cumprod", ROWS, {}),
    ):
        compiled |= assert_launches_fit(
            lambda n=name, s=shape, a=axis, rest=attributes: both_passes(n, s, a, dtype, rest), architecture
        )
    own = {"reduce", "reduce_grad_x", "choice", "scan", "scan_total", "prod_grad_x", "cumprod_grad_x"}
    assert {f"{name}_kernel" for name in own} <= compiled


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("sum", COLUMNS),
        ("amin", ROWS),
        ("norm", ROWS),
        ("var", COLUMNS),
        ("any", ROWS),
        ("all", ROWS),
        ("cumsum", COLUMNS),
    ],
)
def test_forms_of_other_operations_fit(name, lines):
    assert assert_launches_fit(lambda: both_passes(name, *lines, "float32", {}), 90)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float64"])
def test_other_types_compile(dtype):
    names = ["any"] if dtype == "bool" else ["sum", "prod", "amax", "max"]
    for name in names:
        assert assert_launches_fit(lambda n=name: both_passes(n, *ROWS, dtype, {}), 90)


def both_passes(name, shape, axis, dtype, attributes):
    x = np.zeros(shape, np.dtype(dtype))
    axis = axis if name in ("max", "min", "argmax", "argmin", "cumsum", "cumprod") else (axis,)
    output, saved = getattr(gpu, f"{name}_forward")(x, axis=axis, **attributes)
    if hasattr(gpu, f"{name}_backward") and x.dtype.kind not in "iub":
        getattr(gpu, f"{name}_backward")(saved, output, (True,))
