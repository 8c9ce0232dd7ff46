"""The recurrent layers' step kernels compiled for three architectures: they fit and do not spill."""

import os

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_fits, record_launches
from parity import DTYPES

from ranvier.kernels.recurrent import gpu, gpu_time

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STEPS = {
    "rnn": {"rnn_step_kernel", "rnn_grad_sums_kernel"},
    "lstm": {"lstm_step_kernel", "lstm_project_kernel", "lstm_grad_projected_kernel", "lstm_grad_gates_kernel"},
    "gru": {"gru_step_kernel", "gru_grad_gates_kernel"},
}


def launches_of(layer, dtype, with_lengths):
    """Both passes of a layer of 256 units over 2 steps of 32 sequences; an LSTM with lengths has a projection too."""

    def array(*shape):
        return np.zeros(shape, DTYPES[dtype])

    projected = layer == "lstm" and with_lengths
    gates, state = 256 * GATES[layer], 64 if projected else 256
    inputs = [array(2, 32, 128), array(gates, 128), array(gates, state), array(gates), array(gates), array(32, state)]
    if layer == "lstm":
        inputs += [array(32, 256), array(64, 256) if projected else None]
    inputs.append(np.full(32, 2) if with_lengths else None)

    def both_passes():
        outputs, saved = getattr(gpu, f"{layer}_forward")(*inputs, reverse=with_lengths)
        getattr(gpu, f"{layer}_backward")(saved, outputs, (True,) * len(inputs))

    launches = {kernel: (kernel, *rest) for kernel, *rest in record_launches(both_passes)}
    return [launch for kernel, launch in launches.items() if kernel.__name__ in vars(gpu_time)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", STEPS)
def test_steps_fit_and_do_not_spill(layer, dtype, architecture):
    # The longer form in one type, the shorter in the other.
    launches = launches_of(layer, dtype, with_lengths=dtype == "float32")
    for kernel, arguments, constants in launches:
        assert_fits(kernel, arguments, architecture, **constants)
    if dtype == "float32":
        assert {kernel.__name__ for kernel, *_ in launches} == STEPS[layer] | {"reorder_kernel"}
