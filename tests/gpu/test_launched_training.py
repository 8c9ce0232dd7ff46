"""A training step of a network of each family, and a whole recipe, reach the driver with kernels of ours only.

Runs on the stand-in GPU: `python tests/standin pytest` with this file; `test_standin.py` starts it. No kernel runs.
"""

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

from collections import Counter

import numpy as np
from training_steps import FAMILIES

import ranvier as rv
from ranvier.__main__ import main
from ranvier.kernels import gpu_arrays
from ranvier.kernels.loss import gpu_check
from ranvier.kernels.shape import gpu_nonzero
from ranvier.train.recipes import digits


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


@pytest.fixture
def reads(monkeypatch):
    """Device and bytes of each tensor whose values the host asks for."""
    seen = []

    def noted(method):
        def read(tensor):
            seen.append((tensor.device, tensor.array.nbytes))
            return method(tensor)

        return read

    for name in ("item", "numpy"):
        monkeypatch.setattr(rv.Tensor, name, noted(getattr(rv.Tensor, name)))
    return seen


def test_the_command_for_digits_runs_on_a_gpu_with_one_word_changed(tmp_path, reads):
    def train(device):
        reads.clear()
        folder = str(tmp_path / device)
        words = ["train", "digits", "--quick", "--epochs", "1", "--run-dir", folder, "--device", device]
        with standin.only_our_kernels(), standin.recorded() as launches, standin.fetched() as fetched:
            assert main(words) == 0
        return [launch.name for launch in launches], fetched, list(reads)

    launched, fetched, read_on_cpu = train("cpu")
    assert not launched
    assert not fetched
    launched, fetched, read = train("cuda")

    # Batches of 32 images and 10 classes. What their loop reads is loss (twice), scores and labels, wherever they are.
    batches = launched.count("adam_step_kernel")
    assert batches == 39
    assert [size for _, size in read] == [size for _, size in read_on_cpu]
    batch = [4, 4, 32 * 10 * 4, 32 * 8]
    assert [size for _, size in read[: 4 * batches]] == batch * batches
    # Before it the check of the labels brings their smallest and largest; after the epoch there is the checkpoint, with
    # two averages of Adam for each parameter. Nothing else comes to the host.
    check = 2 * 8
    assert fetched[: 5 * batches] == [check, *batch] * batches
    checkpoint = Counter(parameter.array.nbytes for parameter in 3 * list(digits.build().parameters()))
    asked_for = Counter(size for device, size in read if device == "cuda:0")
    assert Counter(fetched) == asked_for + checkpoint + Counter({check: batches + 1})

    steps, last = Counter(launched), len(launched) - launched[::-1].index("adam_step_kernel")
    forward = {"conv_correlate_kernel": 2, "max_pool_kernel": 1, "product_forward_kernel": 2, "cross_entropy_kernel": 1}
    backward = {"conv_grad_weight_kernel": 2, "max_pool_grad_input_kernel": 1, "cross_entropy_grad_kernel": 1}
    for name, times in (forward | backward).items():
        assert steps[name] >= times * batches, name
    after = Counter(
        launched[last:]
    )  # one batch of validation images, and two of test images, whose loss nobody asks for
    for name, times in forward.items():
        assert after[name] == (times if name == "cross_entropy_kernel" else 3 * times), name
    assert not after.keys() & backward.keys()
