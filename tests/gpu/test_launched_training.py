"""A training step of a network of each family reaches the driver, launched with kernels of ours only.

Runs on the stand-in GPU: `python tests/standin pytest` with this file; `test_standin.py` starts it. No kernel runs.
"""

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import numpy as np
from training_steps import FAMILIES

import ranvier as rv
from ranvier.kernels import gpu_arrays
from ranvier.kernels.loss import gpu_check
from ranvier.kernels.shape import gpu_nonzero


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("build", FAMILIES)
def test_a_training_step_of_each_family_reaches_the_driver(build, monkeypatch):
    # What checks find in indices, and how many elements are not 0, kernels find, and none runs here.
    for module in (gpu_arrays, gpu_check):
        monkeypatch.setattr(module, "fetched", lambda x: np.ones((2, 1), np.int64))
    monkeypatch.setattr(gpu_nonzero, "fetched", lambda x: np.ones(1, np.int64))
    rv.seed(3)
    training = build("cuda")
    batch = training.batch(np.random.default_rng(5))
    with standin.only_our_kernels(), standin.recorded() as launches:
        loss = training.step(*batch)
    assert loss.shape == ()
    assert loss.device == "cuda:0"
    parameters = list(training.model.parameters())
    assert all(parameter.grad is not None for parameter in parameters)
    addresses = {int.from_bytes(value, "little") for value in launches[-1].parameters if len(value) == 8}
    assert parameters[0].array.data.ptr in addresses, "the optimizer comes last"
