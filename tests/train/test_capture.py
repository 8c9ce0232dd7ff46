"""Captured steps: the bits of uncaptured ones, for every kind of network; what is captured anew; what is refused."""

import functools
import inspect
import threading
import tracemalloc

import numba
import numpy as np
import pytest

import ranvier as rv
from ranvier.kernels import accumulate, memory_pool
from ranvier.train import data
from ranvier.train.capture import calls, native

STEPS = 7


def classifier(layers, shape, classes=4, inplace=False):
    """A step that trains a classifier with clipping, by a function that no module shows, and a schedule, and what it
    changes."""
    clip = functools.partial(rv.clip_grad_norm_, max_norm=0.1)
    model = rv.Sequential(*layers)
    optimizer = rv.optim.Adam(model.parameters(), lr=1e-2)
    schedule = rv.optim.StepLR(optimizer, 2, 0.5)

    def step(x, labels):
        loss = rv.functional.cross_entropy(model(x), labels, inplace=inplace)
        optimizer.zero_grad()
        loss.backward()
        clip(model.parameters())
        optimizer.step()
        schedule.step()
        return loss

    def batch(rng):
        return rv.tensor(rng.standard_normal(shape).astype("f")), rv.tensor(rng.integers(0, classes, shape[0]))

    return step, batch, [model]


def dense():
    return classifier([rv.Flatten(), rv.Dense(12, 16, activation="gelu"), rv.Dropout(0.3), rv.Dense(16, 4)], (8, 3, 4))


def convolutional():
    layers = [
        rv.Conv2d(2, 4, 3, padding=1), rv.BatchNorm2d(4, activation="relu"), rv.MaxPool2d(2),
        rv.Conv2d(4, 4, 3, padding=1, groups=4), rv.LeakyReLU(), rv.AdaptiveAvgPool2d(1), rv.Flatten(), rv.Dense(4, 4),
    ]  # fmt: skip
    return classifier(layers, (5, 2, 8, 8), inplace=True)


def transformer():
    layers = [
        rv.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), rv.LayerNorm(8), rv.Flatten(),
        rv.Dense(40, 4),
    ]  # fmt: skip
    return classifier(layers, (3, 5, 8))


def recurrent():
    embedding, layer, head = rv.Embedding(11, 6), rv.LSTM(6, 5, num_layers=2, dropout=0.2), rv.Dense(5, 11)
    parameters = [p for part in (embedding, layer, head) for p in part.parameters()]
    optimizer = rv.optim.SGD(parameters, lr=0.1, momentum=0.9)

    def step(words, lengths):
        y, _ = layer(embedding(words[:-1]), None, lengths)
        loss = rv.functional.cross_entropy(head(y).reshape(-1, 11), words[1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss}

    def batch(rng):
        return rv.tensor(rng.integers(0, 11, (7, 3))), np.array([6, 4, 1])

    return step, batch, [embedding, layer, head]


def adversarial():
    generator = rv.Sequential(rv.Dense(3, 8, activation="tanh"), rv.Dense(8, 2))
    judge = rv.Sequential(rv.Dense(2, 8), rv.LeakyReLU(0.2), rv.Dense(8, 1))
    of_generator = rv.optim.RMSprop(generator.parameters(), lr=1e-3)
    of_judge = rv.optim.RMSprop(judge.parameters(), lr=1e-3)
    criterion = rv.functional.binary_cross_entropy_with_logits

    def step(real):
        fake = generator(rv.randn(real.shape[0], 3))
        yes, no = rv.ones(real.shape[0], 1), rv.zeros(real.shape[0], 1)
        judge_loss = criterion(judge(real), yes) + criterion(judge(fake.detach()), no)
        of_judge.zero_grad()
        judge_loss.backward()
        of_judge.step()
        generator_loss = criterion(judge(fake), yes)
        of_generator.zero_grad()
        generator_loss.backward()
        of_generator.step()
        return judge_loss, generator_loss

    return step, lambda rng: (rv.tensor(rng.standard_normal((6, 2)).astype("f")),), [generator, judge]


def values(result):
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, tuple) else [result]
    return [part.numpy().copy() for part in parts]


def trained(build, captured):
    """The results of some steps, and the state that they end in."""
    rv.seed(3)
    step, batch, models = build()
    step, rng = rv.capture(step) if captured else step, np.random.default_rng(5)
    results = [values(step(*batch(rng))) for _ in range(STEPS)]
    if captured:
        assert step.calls > 5
    return results, [t.numpy().copy() for model in models for t in model.state_dict().values()]


@pytest.mark.parametrize("build", [dense, convolutional, transformer, recurrent, adversarial])
def test_captured_steps_have_the_bits_of_uncaptured_ones(build):
    plain, captured = trained(build, False), trained(build, True)
    for a, b in zip(
        [x for part in plain[0] for x in part] + plain[1], [x for p in captured[0] for x in p] + captured[1]
    ):
        np.testing.assert_array_equal(a, b)


def another_place(layer):
    for parameter in layer.parameters():
        parameter.grad, parameter.grad_buffer = None, np.full_like(parameter.array, np.nan)


def other_gradients(layer):
    for parameter in layer.parameters():
        parameter.grad = rv.ones(parameter.shape)


BETWEEN_STEPS = [
    lambda layer: None, rv.Layer.zero_grad, other_gradients, another_place,
    lambda layer: rv.optim.SGD(layer.parameters()),
]  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN_STEPS, ids=["nothing", "none", "others", "another place", "optimizer"])
@pytest.mark.parametrize(("size", "from_python"), [(3, False), (128, False), (128, True)])
def test_gradients_that_add_up(size, from_python, between, monkeypatch):
    if from_python:
        monkeypatch.setattr(native, "_MOST_BYTES", 0)

    def run(captured):
        rv.seed(0)
        layer = rv.Dense(size, size)
        rv.optim.SGD(layer.parameters())  # gives each gradient a place
        seen = []

        def step(x):
            layer(layer(x)).square().sum().backward()

        step = rv.capture(step) if captured else step
        for i in range(STEPS):
            if i == STEPS - 2:
                between(layer)
            step(rv.full((4, size), i / 7))
            seen.append([p.grad.numpy().copy() for p in layer.parameters()])
        return seen

    for plain, captured in zip(run(False), run(True)):
        np.testing.assert_array_equal(plain[0], captured[0])
        np.testing.assert_array_equal(plain[1], captured[1])


@pytest.mark.parametrize(("most_bytes", "calls"), [(native._MOST_BYTES, 3), (0, 11)], ids=["kernels", "passes"])
def test_replays_compute_large_gradients_where_the_optimizer_wants_them(most_bytes, calls, monkeypatch):
    monkeypatch.setattr(native, "_MOST_BYTES", most_bytes)
    rv.seed(0)
    size = 128
    layers = [rv.Dense(size, size, activation="relu"), rv.Dense(size, size)]
    model = rv.Sequential(*layers)
    optimizer = rv.optim.Adam(model.parameters())

    @rv.capture
    def step(x):
        optimizer.zero_grad()
        rv.functional.mse_loss(model(x), x).backward()
        optimizer.step()

    for _ in range(4):
        step(rv.ones(3, size))
    (recorded,) = step._steps.values()
    assert (size, size) not in [x.shape for x in recorded.recording.supply._arrays], "the plan has no memory for them"
    assert step.calls == calls
    for layer in layers:
        layer.weight.grad.array.fill(np.nan)
    step(rv.ones(3, size))
    assert all(layer.weight.grad.array is layer.weight.grad_buffer for layer in layers)
    assert all(np.isfinite(layer.weight.grad.array).all() for layer in layers)


def test_whatever_changes_an_array_for_the_tape_is_listened_to():
    functions = {name for name, value in vars(accumulate).items() if inspect.isfunction(value) and name[0] != "_"}
    assert functions - {"contiguous", "empty", "empty_like"} == set(calls._SUMS)


def counted(function):
    """The function, and a list that grows with every call of it."""
    calls = []

    def count(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return count, calls


def test_python_runs_three_times_for_each_form_of_the_arguments():
    square, calls = counted(lambda x: x * x)
    step = rv.capture(square)
    for count in (2, 3, 2, 3, 2, 3, 2, 3, 2):
        np.testing.assert_array_equal(step(rv.full((count,), 3.0)).numpy(), np.full(count, 9.0, "f"))
    assert len(calls) == 6
    step(rv.full((2,), 3.0, dtype="float64"))
    assert len(calls) == 7


def test_strict_refuses_a_second_form():
    step = rv.capture(lambda x: x * x, strict=True)
    step(rv.ones(2))
    with pytest.raises(rv.CaptureError, match="expected arguments of the form"):
        step(rv.ones(3))


def test_results_are_not_written_over():
    step = rv.capture(lambda x: x + 1)
    results = [step(rv.full((3,), float(i))) for i in range(6)]
    assert [r.numpy()[0] for r in results] == [1, 2, 3, 4, 5, 6]


def wide_recurrent():
    """A forward pass on more than 8 MiB, which runs its Python in replays, with scratch for each thread."""
    with rv.no_grad():
        layer = rv.LSTM(512, 1024)
    return lambda x: layer(x)[0].detach(), lambda rng: (rv.tensor(rng.standard_normal((2, 2, 512)).astype("f")),), []


@pytest.mark.parametrize("build", [convolutional, transformer, wide_recurrent])
def test_replays_on_another_thread_and_on_other_numbers_of_threads_have_the_same_bits(build):
    def run(captured):
        rv.seed(3)
        step, batch, _ = build()
        step, rng = rv.capture(step) if captured else step, np.random.default_rng(5)
        most, results = numba.get_num_threads(), []
        for i in range(2 * STEPS):
            arguments = batch(rng)

            def work(threads=1 if i % 2 else most, arguments=arguments):
                numba.set_num_threads(threads)
                results.extend(values(step(*arguments)))

            worker = threading.Thread(target=work)
            worker.start()
            worker.join()
        return results

    for a, b in zip(run(False), run(True), strict=True):
        np.testing.assert_array_equal(a, b)


def test_options_may_change_between_replays():
    def run(captured):
        rv.seed(0)
        layer = rv.Dense(3, 2)
        optimizer = rv.optim.SGD([{"params": [layer.weight]}, {"params": [layer.bias], "lr": 0.5}], lr=0.1)

        def step(x):
            layer(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        step = rv.capture(step) if captured else step
        for i in range(14):
            if i == 6:
                optimizer.param_groups[0]["lr"] = 0.01
            if i == 8:
                optimizer.param_groups[0]["momentum"] = 0.9
            if i == 10:
                layer.bias.requires_grad = False
            if i == 12:
                layer.bias.requires_grad = True
                optimizer.load_state_dict(optimizer.state_dict())
            step(rv.full((4, 3), i / 70))
        optimizer.param_groups[1]["lr"] = -1.0
        with pytest.raises(ValueError, match="lr"):
            step(rv.full((4, 3), 0.5))
        return [layer.weight.numpy(), layer.bias.numpy(), optimizer.state_dict()["state"]["0"]["momentum_buffer"]]

    for a, b in zip(run(False), run(True)):
        np.testing.assert_array_equal(a, b)


class Doubling(rv.optim.SGD):
    """An optimizer with a run of its own."""

    def _step_run(self, *run):
        super()._step_run(*run)
        super()._step_run(*run)


class Optimizer(rv.optim.SGD):
    """One named as the library's own."""

    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["params"][0].array[...] *= 0.5


@pytest.mark.parametrize("kind", [Doubling, Optimizer])
def test_what_an_optimizers_subclass_does_is_not_left_out(kind):
    def run(captured):
        rv.seed(0)
        layer = rv.Dense(3, 2)
        optimizer = kind(layer.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()

        step = rv.capture(step) if captured else step
        for i in range(STEPS):
            step(rv.full((4, 3), i / 7))
        return layer.weight.numpy()

    np.testing.assert_array_equal(run(False), run(True))


@pytest.mark.parametrize(("before", "runs"), [(5, 6), (2, 5), (1, 4)], ids=["recorded", "measured", "run"])
def test_replaced_parameters_are_captured_anew(before, runs):
    layer = rv.Dense(2, 2)
    optimizer = rv.optim.SGD(layer.parameters(), lr=0.1)
    forward, calls = counted(layer)

    def train(x):
        forward(x).sum().backward()
        optimizer.step()  # which takes what was replaced back into its buffer
        layer.weight.grad = layer.bias.grad = None

    step = rv.capture(train)
    for _ in range(before):
        step(rv.ones(1, 2))
    layer.weight.array = layer.weight.array.copy()
    for _ in range(5):
        step(rv.ones(1, 2))
    assert len(calls) == runs


def test_parameters_that_get_no_gradient_may_be_replaced():
    layer = rv.Dense(2, 2)
    infer = rv.capture(rv.no_grad()(layer))
    for value in (1.0, 2.0):
        layer.weight.array = np.full((2, 2), value, np.float32)
        for _ in range(4):
            np.testing.assert_array_equal(infer(rv.ones(1, 2)).numpy(), layer(rv.ones(1, 2)).numpy())
    assert infer.calls > 0


def test_indices_are_checked_in_every_replay():
    rv.seed(0)
    step, batch, (model,) = dense()
    step, rng = rv.capture(step), np.random.default_rng(0)
    for _ in range(4):
        step(*batch(rng))
    before = [p.numpy().copy() for p in model.parameters()]
    x, labels = batch(rng)
    labels.array[3] = 4
    with pytest.raises(ValueError, match=r"cross_entropy: expected target in \[0, 4\)"):
        step(x, labels)
    for parameter, array in zip(model.parameters(), before):
        np.testing.assert_array_equal(parameter.numpy(), array)


def test_a_replay_makes_no_large_arrays(monkeypatch):
    rv.seed(0)
    model = rv.Sequential(rv.Conv2d(3, 16, 3, padding=1), rv.ReLU(), rv.Conv2d(16, 16, 3, padding=1), rv.ReLU())
    optimizer = rv.optim.Adam(model.parameters())

    @rv.capture
    def step(x, target):
        optimizer.zero_grad()
        loss = rv.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    x, target = rv.ones(4, 3, 64, 64), rv.zeros(4, 16, 64, 64)  # 1 MB between any two layers
    for _ in range(4):
        step(x, target)
    take, taken = counted(memory_pool.take)  # what it gives, tracemalloc does not see
    monkeypatch.setattr(memory_pool, "take", take)
    tracemalloc.start()
    step(x, target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert not taken
    model(x)
    assert taken


def test_arrays_that_are_never_alive_together_share_memory():
    def run(x):
        for _ in range(50):
            x = x + 1
        return x

    step = rv.capture(run)
    for _ in range(4):
        assert step(rv.zeros(1000)).numpy()[0] == 50
    (recorded,) = step._steps.values()
    assert sum(piece.nbytes for piece in recorded.recording.supply.pieces) < 4 * 5000


def four_times(step):
    for _ in range(4):
        step(rv.ones(3))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * x.sum().item(), r"got item\(\)"),
        (lambda x: x if x.sum() > 0 else -x, r"got __bool__\(\)"),
        (lambda x: x[x > 0], r"got nonzero\(\)"),
        (lambda x: x * rv.tensor(np.ones(3, "f")), "expected arrays that outlive the step"),
        (lambda x: 1.0, "expected a step that returns tensors, got float"),
    ],
)
def test_what_cannot_be_replayed_is_refused(function, message):
    step = rv.capture(function)
    with pytest.raises(rv.CaptureError, match=message):
        four_times(step)


def test_numbers_that_change_are_refused():
    count = iter(range(10))
    step = rv.capture(lambda x: x * next(count))
    with pytest.raises(rv.CaptureError, match="expected the same call in each step"):
        four_times(step)


def test_after_an_error_the_library_is_as_before():
    step = rv.capture(lambda x: x * x.sum().item())
    step(rv.ones(3))
    with pytest.raises(rv.CaptureError):
        step(rv.ones(3))
    assert rv.ones(3).sum().item() == 3


def test_arguments_that_require_a_gradient_are_refused():
    with pytest.raises(rv.CaptureError, match="require no gradient, got one at 0"):
        rv.capture(lambda x: x.sum())(rv.ones(3, requires_grad=True))


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="capture: expected a function, got int"):
        rv.capture(3)


def test_a_trainer_that_captures_ends_in_the_same_bits():
    def fit(capture):
        rv.seed(0)
        rng = np.random.default_rng(0)
        model = rv.Sequential(rv.Dense(2, 16, activation="relu"), rv.Dropout(0.2), rv.Dense(16, 2))
        trainer = rv.Trainer(
            model, rv.CrossEntropyLoss(), rv.optim.Adam(model.parameters()), max_epochs=3, gradient_clip_val=1.0,
            enable_progress_bar=False, capture=capture,
        )  # fmt: skip
        points = rng.standard_normal((70, 2)).astype("f")
        loader = data.DataLoader(
            data.ArrayDataset(points, (points[:, 0] > 0).astype("i8")), batch_size=16, shuffle=True
        )
        history = trainer.fit(loader, loader)
        return [row["training_loss"] for row in history], [p.numpy().copy() for p in model.parameters()]

    (plain, parameters), (captured, others) = fit(False), fit(True)
    assert plain == captured
    for a, b in zip(parameters, others):
        np.testing.assert_array_equal(a, b)


def test_a_trainer_captures_no_sums_of_batches():
    model = rv.Dense(1, 1)
    with pytest.raises(ValueError, match="accumulate_grad_batches as 1 where capture is set, got 2"):
        rv.Trainer(model, rv.MSELoss(), rv.optim.SGD(model.parameters()), capture=True, accumulate_grad_batches=2)
