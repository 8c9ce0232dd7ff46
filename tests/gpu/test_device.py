"""GPU kernels on a real GPU, against the reference in float64: `make gpu`. Skips where there is none, and says so."""

import zlib

import numpy as np
import pytest

cupy = pytest.importorskip("cupy", reason="no CuPy: `pip install ranvier[cuda13]`")
if not cupy.cuda.is_available():
    pytest.skip("no GPU on this machine", allow_module_level=True)

from agreement import agree
from parity import DTYPES, non_contiguous
from training_steps import NETWORKS, adversarial, perceptron

import ranvier as rv
from ranvier.kernels.operation import all_operations

SAMPLES = [
    pytest.param(operation, sample, id=f"{operation.name}-{sample.name}")
    for operation in all_operations()
    for sample in operation.samples
    if not sample.large
]


def to_gpu(x):
    return cupy.asarray(x) if isinstance(x, np.ndarray) else x


def to_gpu_with_gaps(x):
    """On the GPU with the strides that `non_contiguous` gives."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        return to_gpu(x)
    return to_gpu(non_contiguous(x).base)[..., ::2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("operation", "sample"), SAMPLES)
def test_gpu_agrees_with_reference(operation, sample, dtype, request):
    if dtype not in operation.dtypes:
        pytest.skip(f"{operation.name} takes {', '.join(operation.dtypes)}")
    rng = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    inputs = sample.build(rng, DTYPES[dtype])
    agree(operation, inputs, sample.attributes, rng, dtype, arrange=to_gpu, fetch=cupy.asnumpy, implementation="gpu")


@pytest.mark.parametrize(("operation", "sample"), SAMPLES)
def test_gpu_takes_non_contiguous_arrays(operation, sample, request):
    rng = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    inputs = sample.build(rng, np.float32)
    agree(operation, inputs, sample.attributes, rng, "float32", "gpu", to_gpu_with_gaps, cupy.asnumpy)


def test_a_dense_network_trains_as_on_the_cpu():
    def losses(device):
        rv.seed(0)
        model = rv.Sequential(rv.Dense(64, 32, activation="tanh"), rv.Dense(32, 1)).to(device)
        optimizer = rv.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x = rv.tensor(np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32), device=device)
        seen = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = rv.functional.mse_loss(model(x), x[:, :1])
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    on_gpu, on_cpu = losses("cuda"), losses("cpu")
    assert on_gpu[-1] < on_gpu[0] / 4
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3)


@pytest.mark.parametrize("build", [*NETWORKS, adversarial])
def test_captured_steps_have_the_bits_of_uncaptured_ones(build):
    def trained(captured):
        rv.seed(3)
        training, rng = build("cuda"), np.random.default_rng(5)
        step = rv.capture(training.step) if captured else training.step
        results = [step(*training.batch(rng)) for _ in range(8)]
        losses = [(result["loss"] if isinstance(result, dict) else result).item() for result in results]
        return losses, [t.numpy() for t in training.model.state_dict().values()]

    (plain, state), (captured, other) = trained(False), trained(True)
    assert plain == captured
    for a, b in zip(state, other):
        np.testing.assert_array_equal(a, b)


def test_a_captured_step_refuses_a_wrong_label():
    training, rng = perceptron("cuda"), np.random.default_rng(5)
    step = rv.capture(training.step)
    for _ in range(5):
        x, labels = training.batch(rng)
        step(x, labels)
    wrong = rv.tensor(np.full(labels.shape, 4), device="cuda")
    with pytest.raises(ValueError, match="cross_entropy: expected target"):
        step(x, wrong)
