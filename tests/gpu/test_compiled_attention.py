"""Attention's kernels compiled for three architectures: they fit and do not spill."""

import os

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_launches_fit
from parity import DTYPES

from ranvier.kernels.attention import gpu

CASES = {
    "gpt2_bfloat16": ("bfloat16", 64, None, {"is_causal": True}),
    "wide_bias_bfloat16": ("bfloat16", 128, (2, 1, 256), {"dropout_p": 0.1}),
    "gpt2_float32": ("float32", 64, (2, 256, 256), {"is_causal": True, "dropout_p": 0.1}),
}
TRIED = [("gpt2_bfloat16", a) for a in ARCHITECTURES] + [("gpt2_float32", a) for a in ARCHITECTURES]


@pytest.mark.parametrize(("case", "architecture"), [*TRIED, ("wide_bias_bfloat16", 90)])
def test_attention_fits_and_does_not_spill(case, architecture):
    dtype, features, mask, attributes = CASES[case]
    x = np.zeros((1, 2, 256, features), DTYPES[dtype])
    mask = None if mask is None else np.zeros(mask, DTYPES[dtype])

    def both_passes():
        output, saved = gpu.scaled_dot_product_attention_forward(x, x, x, mask, **attributes)
        gpu.scaled_dot_product_attention_backward(saved, output, (True,) * 4)

    names = assert_launches_fit(both_passes, architecture)
    assert {"attention_forward_kernel", "attention_grad_query_kernel", "attention_grad_key_value_kernel"} <= names
    assert ("attention_grad_mask_kernel" in names) == (mask is not None)
