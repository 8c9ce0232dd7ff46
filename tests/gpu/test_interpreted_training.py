"""Training runs whose every operation is a GPU kernel in Triton's interpreter: they go where the CPU's go.

    TRITON_INTERPRET=1 pytest tests/gpu/test_interpreted_training.py

The families whose kernels take the interpreter long have their operations' tests; on a GPU all of them train
(`test_device.py`).
"""

import os

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

import interpreter
import training_steps
from training_steps import losses_of

from ranvier.kernels.operation import Operation

interpreter.install()


@pytest.mark.parametrize("name", ["embedding", "dropout", "moving", "losses"])
def test_a_family_trains_as_on_the_cpu(name, monkeypatch):
    build = getattr(training_steps, name)
    here, ran = losses_of(build, "cpu", 3), set()
    forward, backward = Operation.forward, Operation.backward

    def forward_on_gpu(operation, *inputs, **attributes):
        ran.add(operation.name)
        return forward(operation, *inputs, implementation="gpu", **attributes)

    monkeypatch.setattr(Operation, "forward", forward_on_gpu)
    monkeypatch.setattr(
        Operation, "backward", lambda operation, *arguments: backward(operation, *arguments, implementation="gpu")
    )
    there = losses_of(build, "cpu", 3)
    assert len(ran) > 2
    np.testing.assert_allclose(there, here, rtol=1e-5)
