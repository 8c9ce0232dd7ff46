"""The recurrent layers' step kernels compiled for three architectures: they fit, do not spill, multiply on tensor cores
and fetch what they multiply asynchronously."""

import os
import re

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, assert_compiled_fits, compile_kernel, record_launches
from parity import DTYPES

from ranvier.kernels import tuning
from ranvier.kernels.recurrent import gpu, gpu_step_backward, gpu_step_forward, gpu_time

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STEPS = {
    "rnn": {"rnn_step_kernel", "rnn_grad_sums_kernel"},
    "lstm": {"lstm_step_kernel", "lstm_project_kernel", "lstm_grad_projected_kernel", "lstm_grad_gates_kernel"},
    "gru": {"gru_step_kernel", "gru_grad_gates_kernel"},
}
TENSOR_CORES = r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)"


def launches_of(layer, dtype, architecture, with_lengths, batch, hidden):
    """Both passes of a layer over 2 steps; an LSTM with lengths has a projection too."""

    def array(*shape):
        return np.zeros(shape, DTYPES[dtype])

    projected = layer == "lstm" and with_lengths
    gates, state = hidden * GATES[layer], 64 if projected else hidden
    inputs = [array(2, batch, 128), array(gates, 128), array(gates, state), array(gates), array(gates)]
    inputs.append(array(batch, state))
    if layer == "lstm":
        inputs += [array(batch, hidden), array(64, hidden) if projected else None]
    inputs.append(np.full(batch, 2) if with_lengths else None)

    def both_passes():
        outputs, saved = getattr(gpu, f"{layer}_forward")(*inputs, reverse=with_lengths)
        getattr(gpu, f"{layer}_backward")(saved, outputs, (True,) * len(inputs))

    with tuning.assuming(architecture):
        launches = {kernel: (kernel, *rest) for kernel, *rest in record_launches(both_passes)}
    own = {*vars(gpu_step_forward), *vars(gpu_step_backward), *vars(gpu_time)}
    return [launch for kernel, launch in launches.items() if kernel.__name__ in own]


# The longer form in one type, the shorter and the larger tiles of many sequences in the other.
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "batch", "hidden"), [("float32", 32, 256), ("bfloat16", 4096, 1024)])
@pytest.mark.parametrize("layer", STEPS)
def test_steps_fit_and_do_not_spill(layer, dtype, batch, hidden, architecture):
    launches = launches_of(layer, dtype, architecture, dtype == "float32", batch, hidden)
    for kernel, arguments, constants in launches:
        compiled = compile_kernel(kernel, arguments, architecture, **constants)
        assert_compiled_fits(compiled, architecture)
        if "PRECISION" in constants:
            assert re.search(TENSOR_CORES, compiled.ptx)
            # Of 16 bytes: a row of the states, or of the gradients of their sums.
            assert re.search(r"cp\.async\.c[ag]\.shared\.global [^;]*, (?:0x10|16)\b", compiled.ptx)
    if dtype == "float32":
        assert {kernel.__name__ for kernel, *_ in launches} == STEPS[layer] | {"reorder_kernel"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_tiles_of_a_few_sequences_are_small_and_of_many_large(dtype):
    def tile(choice, batch, size, architecture=90):
        return choice.shipped(architecture, np.dtype(dtype), (batch, size, 4, True))

    forward, back = gpu_step_forward.STEP, gpu_step_backward.STEP_BACK
    for choice in (forward, back):
        assert tile(choice, 1, 2048)["BLOCK_N"] == (32 if dtype == "float64" else 16)
        for architecture in (80, 86, 89, 90, 100, 120):
            for batch in (1, 32, 128, 4096):
                made = tile(choice, batch, 1024, architecture)
                width = made.get("COLUMNS", made.get("BLOCK_UNITS"))
                fetched = made["num_stages"] * (made["BLOCK_N"] + width) * made["BLOCK_K"] * np.dtype(dtype).itemsize
                assert fetched <= (163 if tuning.has_room(architecture) else 99) * 1024
    if dtype == "float16":
        assert (tile(forward, 4096, 1024)["BLOCK_N"], tile(back, 4096, 1024)["BLOCK_UNITS"]) == (128, 64)
