"""Training steps, what handles parameters and memory, and a whole recipe reach the driver with kernels of ours only.

Runs on the stand-in GPU: `python tests/standin pytest` with this file; `test_standin.py` starts it. No kernel runs.
"""

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import struct
from collections import Counter

import cupy
import ml_dtypes
import numpy as np
from training_steps import FAMILIES

import ranvier as rv
from ranvier.__main__ import main
from ranvier.kernels import gpu_arrays
from ranvier.kernels.loss import gpu_check
from ranvier.kernels.shape import gpu_nonzero
from ranvier.train.recipes import digits

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_)
OPTIMIZERS = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Lion", "RMSprop", "Adagrad", "Adadelta"]


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


@pytest.fixture
def only_our_kernels():
    with standin.only_our_kernels():
        yield


def test_the_guard_sees_what_cupy_compiles(only_our_kernels):
    with pytest.raises(AssertionError, match="CuPy compiled a kernel"):
        cupy.arange(3)


@pytest.mark.usefixtures("only_our_kernels")
def test_a_training_step_of_a_dense_network_reaches_the_driver():
    model = rv.Sequential(rv.Dense(8, 16, activation="relu"), rv.Dense(16, 4)).to("cuda")
    optimizer = rv.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = rv.tensor(np.ones((32, 8), np.float32), device="cuda")
    grad_y = rv.tensor(np.ones((32, 4), np.float32), device="cuda")
    for _ in range(2):
        optimizer.zero_grad()
        with standin.recorded() as forward:
            y = model(x)
        with standin.recorded() as backward:
            y.backward(grad_y)
        with standin.recorded() as step:
            optimizer.step()

    assert y.shape == (32, 4)
    assert y.device == "cuda:0"
    assert [seen.name for seen in forward] == ["product_forward_kernel"] * 2
    assert pointers(forward[0]) >= {x.array.data.ptr, model[0].weight.array.data.ptr, model[0].bias.array.data.ptr}
    assert y.array.data.ptr in pointers(forward[1])

    # Two gradients of weights, each with its bias's, and one of a hidden layer; the input's is not needed.
    names = [seen.name for seen in backward]
    assert names.count("product_forward_kernel") == 3
    assert not {"dense_grad_sum_kernel", "column_sum_kernel"} & set(names)
    assert grad_y.array.data.ptr in pointers(backward[0])
    written = set().union(*map(pointers, backward))
    assert written >= {parameter.grad_buffer.data.ptr for parameter in model.parameters()}

    # All parameters, their gradients and their momentum in one launch over the flat buffers.
    (only,) = step
    assert pointers(only) >= {model[0].weight.array.data.ptr, model[0].weight.grad_buffer.data.ptr}


def on_device(values, dtype=np.float32):
    return rv.tensor(np.asarray(values, dtype), device="cuda")


@pytest.mark.usefixtures("only_our_kernels")
def test_arrays_come_and_go():
    for values in (3.5, [1.0, 2.0], np.ones((2, 0)), np.asfortranarray(np.arange(6.0).reshape(2, 3))):
        for dtype in DTYPES:
            there = on_device(values, dtype)
            assert there.device == "cuda:0"
            np.testing.assert_array_equal(there.numpy(), np.asarray(values, dtype))
    assert on_device(3.5).item() == float(on_device(3.5)) == 3.5
    assert "3.5" in repr(on_device(3.5))


MEMORY = {
    "strided to host": (lambda x: x[:, ::2].numpy(), 1),
    "tensor": (lambda x: rv.tensor(x), 1),
    "tensor of another type": (lambda x: rv.tensor(x, dtype=np.float16), 1),
    "clone": (lambda x: x.clone(), 1),
    "channels last": (lambda x: x.reshape(1, 2, 2, 4).to(memory_format="channels_last"), 1),
    "to half": (lambda x: x.to(np.float16), 1),
    "to its own type": (lambda x: x.to(np.float32), 0),
    "layer to half": (lambda x: rv.Dense(4, 4).to("cuda").to(dtype=np.float16), 2),
    "initial values": (lambda x: rv.init.uniform_(x), 1),
    "load_state_dict": (lambda x: rv.Dense(4, 4).to("cuda").load_state_dict(rv.Dense(4, 4).state_dict()), 2),
    "full": (lambda x: rv.full((3,), 2.0, device="cuda"), 0),
    "ones_like": (lambda x: rv.ones_like(x), 0),
    "zero_grad": (lambda x: rv.optim.SGD([rv.Parameter(x)], lr=0.1).zero_grad(set_to_none=False), 1),
}


@pytest.mark.usefixtures("only_our_kernels")
@pytest.mark.parametrize(("work", "expected"), MEMORY.values(), ids=MEMORY)
def test_what_handles_memory_launches_copies_only(work, expected):
    x = on_device(np.ones((4, 4)))
    with standin.recorded() as launches:
        work(x)
    assert [seen.name for seen in launches] == ["copy_kernel"] * expected


@pytest.mark.usefixtures("only_our_kernels")
@pytest.mark.parametrize(
    ("gradient", "expected"), [(slice(None), ["fill_kernel"]), (slice(None, None, 2), ["fill_kernel", "copy_kernel"])]
)
def test_gradients_are_set_to_zero_by_kernels_of_ours(gradient, expected):
    parameter = rv.Parameter(on_device(np.ones((4, 4))))
    optimizer = rv.optim.SGD([parameter], lr=0.1)
    parameter.grad = rv.Tensor(cupy.empty((8, 4), np.float32)[gradient][:4])
    with standin.recorded() as launches:
        optimizer.zero_grad(set_to_none=False)
    assert [seen.name for seen in launches] == expected


@pytest.mark.usefixtures("only_our_kernels")
def test_batch_norm_counts_its_batches_on_the_device():
    layer = rv.BatchNorm1d(4).to("cuda")
    with standin.recorded() as launches:
        layer(on_device(np.ones((4, 4)))).sum().backward()
    (counted,) = [seen for seen in launches if seen.name == "count_kernel"]
    assert counted.values("QQQ")[0] == layer.num_batches_tracked.array.data.ptr
    with standin.recorded() as launches:
        layer.eval()(on_device(np.ones((4, 4))))
    assert not [seen for seen in launches if seen.name == "count_kernel"]


@pytest.mark.usefixtures("only_our_kernels")
def test_an_optimizers_state_begins_with_its_value():
    parameter = rv.Parameter(on_device(np.ones(4)))
    optimizer = rv.optim.Adagrad([parameter], initial_accumulator_value=0.5)
    parameter.grad = on_device(np.ones(4))
    with standin.recorded() as launches:
        optimizer.step()
    assert [seen.values("QfiQQ")[1] for seen in launches if seen.name == "fill_kernel"] == [0.5]


@pytest.mark.usefixtures("only_our_kernels")
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_classifier_trains_without_a_kernel_of_cupys(optimizer, dtype, set_to_none, monkeypatch):
    # The largest label is what a kernel finds, and no kernel runs here.
    monkeypatch.setattr(gpu_arrays, "extent", lambda indices, ignored=None: (0, 3))
    model = rv.Sequential(rv.Dense(8, 16), rv.ReLU(), rv.Dense(16, 4)).to("cuda", dtype)
    optimizer = getattr(rv.optim, optimizer)(model.parameters(), lr=0.1)
    labels = on_device(np.arange(32) % 4, np.int64)
    with standin.recorded() as launches:
        for _ in range(2):
            optimizer.zero_grad(set_to_none)
            loss = rv.functional.cross_entropy(model(on_device(np.ones((32, 8)), dtype)), labels)
            loss.backward()
            rv.clip_grad_norm_(model.parameters(), 1.0)
            rv.clip_grad_value_(model.parameters(), 0.5)
            with standin.recorded() as step:
                optimizer.step()
    assert loss.shape == ()
    assert len(step) == 1
    names = [seen.name for seen in launches]
    assert all(name.endswith("_kernel") and not name.startswith("cupy") for name in names)
    assert names.count("gradient_norm_kernel") == 2
    assert names.count("gradient_scale_and_clip_kernel") >= 2


def pointers(seen):
    return {value for (value,) in (struct.unpack("Q", raw) for raw in seen.parameters if len(raw) == 8) if value}
