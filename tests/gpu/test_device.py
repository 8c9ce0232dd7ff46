"""Training on a real GPU ends where training on the CPU ends, and captured steps have the bits of uncaptured ones.

Part of `make gpu`, with the tests of `tests/kernels` and `tests/judges` that take `--device cuda`. Skips where there is
no GPU, and says so.
"""

import functools

import numpy as np
import pytest

cupy = pytest.importorskip("cupy", reason="no CuPy: `pip install ranvier[cuda13]`")
if not cupy.cuda.is_available():
    pytest.skip("no GPU on this machine", allow_module_level=True)

from training_steps import FAMILIES, NETWORKS, OPTIMIZERS, adversarial, losses_of, optimized, perceptron

import ranvier as rv

STEPS = 12


@pytest.fixture
def on_gpu(device):
    """Fails where the stand-in GPU took the device's place: no kernel would run."""
    assert device == "cuda", "run with --device cuda"
    assert cupy.cuda.runtime.getDeviceProperties(0)["name"] != b"stand-in"
    return device


def assert_trains_as_on_the_cpu(build, device):
    there, here = losses_of(build, device, STEPS), losses_of(build, "cpu", STEPS)
    assert there[-1] < there[0]
    # Both round otherwise, and a training run magnifies what was rounded.
    np.testing.assert_allclose(there, here, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("build", FAMILIES)
def test_a_family_trains_as_on_the_cpu(build, on_gpu):
    assert_trains_as_on_the_cpu(build, on_gpu)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_trains_as_on_the_cpu(name, on_gpu):
    assert_trains_as_on_the_cpu(functools.partial(optimized, name), on_gpu)


@pytest.mark.parametrize("build", [*NETWORKS, adversarial])
def test_captured_steps_have_the_bits_of_uncaptured_ones(build, on_gpu):
    def trained(captured):
        rv.seed(3)
        training, rng = build(on_gpu), np.random.default_rng(5)
        step = rv.capture(training.step) if captured else training.step
        results = [step(*training.batch(rng)) for _ in range(8)]
        losses = [(result["loss"] if isinstance(result, dict) else result).item() for result in results]
        return losses, [t.numpy() for t in training.model.state_dict().values()]

    (plain, state), (captured, other) = trained(False), trained(True)
    assert plain == captured
    for a, b in zip(state, other):
        np.testing.assert_array_equal(a, b)


def test_a_captured_step_refuses_a_wrong_label(on_gpu):
    training, rng = perceptron(on_gpu), np.random.default_rng(5)
    step = rv.capture(training.step)
    for _ in range(5):
        x, labels = training.batch(rng)
        step(x, labels)
    wrong = rv.tensor(np.full(labels.shape, 4), device=on_gpu)
    with pytest.raises(ValueError, match="cross_entropy: expected target"):
        step(x, wrong)
