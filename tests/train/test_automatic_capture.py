"""A Trainer that captures by itself: the bits of one that does not, whatever changes between batches; what it leaves
uncaptured, and says."""

import functools

import numpy as np
import pytest

import ranvier as rv
from ranvier.train import data, metrics
from ranvier.train.callbacks import Callback
from ranvier.train.capture import automatic, recording


class Trainer(rv.Trainer):
    """Counts how often its pass runs, as it does not in a replay, and notes the count after each epoch."""

    passes = 0

    def _pass(self, *batch):
        self.passes += 1
        return super()._pass(*batch)


class At(Callback):
    """Does something to the trainer when an epoch begins."""

    def __init__(self, **actions):
        self.actions = {int(name.removeprefix("epoch_")): action for name, action in actions.items()}

    def on_epoch_start(self, trainer):
        if trainer.epoch in self.actions:
            self.actions[trainer.epoch](trainer)


def network(*more):
    return rv.Sequential(
        rv.Dense(6, 8), rv.BatchNorm1d(8, activation="relu"), rv.Dropout(0.3), rv.Dense(8, 8, activation="tanh"), *more,
        rv.Dense(8, 3),
    )  # fmt: skip


def fitted(capture, model=network, loss=None, batches=None, epochs=5, wanted=Trainer, **arguments):
    """A trainer after a fit of batches of 16, and 6 at the end of each epoch; what it has come to."""
    rv.seed(1)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((70, 6)).astype("f"), rng.integers(0, 3, 70)
    model = model()
    optimizer = rv.optim.Adam(model.parameters(), lr=1e-2)
    arguments.setdefault("enable_progress_bar", False)
    trainer = wanted(
        model, loss or rv.CrossEntropyLoss(), optimizer, max_epochs=epochs, capture=capture,
        metrics={"accuracy": metrics.Accuracy()}, schedule=rv.optim.StepLR(optimizer, 3, 0.5),
        schedule_interval="step", gradient_clip_val=0.5, **arguments,
    )  # fmt: skip
    loader = data.DataLoader(data.ArrayDataset(x, y), batch_size=16, shuffle=True) if batches is None else batches
    history = trainer.fit(loader, data.DataLoader(data.ArrayDataset(x, y), batch_size=50))
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in history]
    return trainer, history, [t.numpy().copy() for t in model.state_dict().values()]


def assert_same_run(one, other):
    assert one[1] == other[1]
    for a, b in zip(one[2], other[2], strict=True):
        np.testing.assert_array_equal(a, b)


def replayed(trainer):
    """How many of the steps were replays."""
    return trainer.step - trainer.passes


def test_a_whole_run_has_the_bits_of_an_uncaptured_one():
    plain, captured = fitted(False), fitted(None)
    assert_same_run(plain, captured)
    assert replayed(plain[0]) == 0
    assert replayed(captured[0]) == 5 * 4 - 3, "all but the last of each epoch, which is smaller, and the first three"
    assert captured[0].uncaptured is None


def test_after_a_fit_no_memory_of_it_is_kept_and_a_second_one_is_captured_again():
    trainer, *_ = fitted(None)
    assert trainer._captured._captured is None
    trainer.max_epochs, before = 7, replayed(trainer)
    trainer.fit(trainer._train_loader)
    assert replayed(trainer) == before + 2 * 4 - 3


def freeze(trainer):
    trainer.model[0].requires_grad_(False)


def thaw(trainer):
    trainer.model[0].requires_grad_(True)


def drop_more(trainer):
    trainer.model[2].p = 0.6


class KeepNormalizing(Callback):
    """Leaves a layer in evaluation mode, as one does who trains on with another's statistics."""

    def on_epoch_start(self, trainer):
        trainer.model[1].train(trainer.epoch < 2)


def replace_layer(trainer):
    trainer.model[3] = rv.Dense(8, 8, activation="gelu")
    trainer.optimizer.add_param_group({"params": trainer.model[3].parameters()})


def replace_statistics(trainer):
    trainer.model[1].running_mean = rv.ones(8)


def replace_frozen_array(trainer):
    trainer.model[0].weight.array = trainer.model[0].weight.array + np.float32(0.25)


def smooth(trainer):
    trainer.loss.label_smoothing = 0.1


def replace_loss(trainer):
    trainer.loss = functools.partial(rv.functional.cross_entropy, label_smoothing=0.2)


@pytest.mark.parametrize("capture", [None, True])
@pytest.mark.parametrize(
    "callback",
    [
        At(epoch_2=freeze),
        At(epoch_0=freeze, epoch_2=thaw),
        At(epoch_0=freeze, epoch_2=replace_frozen_array),
        At(epoch_2=drop_more),
        KeepNormalizing(),
        At(epoch_2=replace_layer),
        At(epoch_2=replace_statistics),
        At(epoch_2=smooth),
        At(epoch_2=replace_loss),
    ],
    ids=["frozen", "thawed", "frozen array", "dropout", "mode", "layer", "buffer", "setting of the loss", "loss"],
)
def test_what_changes_between_epochs_is_captured_anew(callback, capture):
    plain, captured = fitted(False, callbacks=[callback]), fitted(capture, callbacks=[callback])
    assert_same_run(plain, captured)
    assert 5 <= replayed(captured[0]) < replayed(fitted(capture)[0])
    assert captured[0].uncaptured is None


class Own(rv.Layer):
    """A layer of the user's."""

    def __init__(self):
        super().__init__()
        self.inner = rv.Dense(6, 3)

    def forward(self, x):
        return self.inner(x)


def replaced_forward():
    model = network()
    model[0].forward = lambda x: rv.functional.linear(x, model[0].weight)
    return model


def own_activation():
    return rv.Sequential(
        rv.Unflatten(1, (2, 3)), rv.TransformerEncoderLayer(3, 1, 4, activation=lambda x: x.tanh(), batch_first=True),
        rv.Flatten(), rv.Dense(6, 3),
    )  # fmt: skip


def own_step(trainer, batch):
    return trainer.supervised_step(batch)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"model": Own}, "Own is a layer of your own (capture=True captures them"),
        ({"model": lambda: rv.Sequential(Own())}, "Own is a layer of your own"),
        ({"model": replaced_forward}, "Dense.forward is a function of your own"),
        ({"model": own_activation}, "TransformerEncoderLayer.activation is a function of your own"),
        ({"loss": lambda x, y: rv.functional.cross_entropy(x, y)}, "the loss is a function or layer of your own"),
        ({"training_step": own_step}, "training_step is not the Trainer's own"),
        ({"accumulate_grad_batches": 2}, "gradients of 2 batches are summed (accumulate_grad_batches)"),
    ],
    ids=lambda x: x if isinstance(x, str) else "-",
)
def test_what_may_not_do_the_same_each_time_is_said_once_and_not_captured(arguments, reason, capsys):
    trainer, *_ = fitted(None, epochs=2, enable_progress_bar=True, **arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if "Trainer: steps are not captured" in line]
    assert len(said) == 1
    assert f"Trainer: steps are not captured: {reason}" in said[0]
    assert said[0].endswith("; capture=False says nothing of it")
    assert trainer.uncaptured in said[0]
    assert trainer.passes == 10
    fitted(False, epochs=1, enable_progress_bar=True, **arguments)
    assert "captured" not in capsys.readouterr().err


def test_a_loss_of_the_librarys_functions_and_their_settings_is_captured():
    trainer, *_ = fitted(None, loss=functools.partial(rv.functional.cross_entropy, label_smoothing=0.1))
    assert replayed(trainer) == 17
    own = functools.partial(functools.partial, rv.functional.cross_entropy)
    assert automatic._is_own(own) is False


def that_reads_a_value():
    """A model that changes much on its way to what cannot be captured: the mean over all batches reads their count."""
    model = rv.Sequential(
        rv.Embedding(60, 4, max_norm=30), rv.Flatten(), rv.BatchNorm1d(12), rv.Dropout(0.2),
        rv.BatchNorm1d(12, momentum=None), rv.Dense(12, 3),
    )  # fmt: skip
    model[0].weight.array *= 100  # so that the largest rows are shortened, to a length that rounding may leave above 30
    return model


def words():
    rng = np.random.default_rng(3)
    dataset = data.ArrayDataset(rng.integers(0, 60, (70, 3)), rng.integers(0, 3, 70))
    return data.DataLoader(dataset, batch_size=16, shuffle=True, seed=0)


def test_of_a_capture_that_fails_nothing_remains(monkeypatch):
    monkeypatch.setattr(rv.Trainer, "evaluate", lambda self, loader: {"loss": 0.0})
    plain, tried = (fitted(capture, that_reads_a_value, batches=words()) for capture in (False, None))
    assert_same_run(plain, tried)
    assert "expected a step that leaves values in tensors, got __float__()" in tried[0].uncaptured
    assert tried[0].passes == 25 + 1
    with pytest.raises(rv.CaptureError, match="got __float__"):
        fitted(True, that_reads_a_value, batches=words())


def test_gradients_that_were_there_remain_if_a_capture_fails():
    def fit(capture):
        rv.seed(0)
        layer = rv.Dense(2, 2)  # no optimizer forgets its bias's gradient: each step adds to it, in another array
        trainer = Trainer(
            layer, rv.MSELoss(), rv.optim.SGD([layer.weight], 0.1), capture=capture, enable_progress_bar=False,
            max_epochs=6,
        )  # fmt: skip
        dataset = data.ArrayDataset(np.ones((4, 2), "f"), np.zeros((4, 2), "f"))
        trainer.fit(data.DataLoader(dataset, batch_size=4))
        return trainer, [layer.bias.grad.numpy().copy(), layer.weight.numpy().copy()]

    (_, plain), (tried, values) = fit(False), fit(None)
    assert "expected arrays that outlive the step" in tried.uncaptured
    assert tried.passes == 6 + 1
    for a, b in zip(plain, values):
        np.testing.assert_array_equal(a, b)


def test_a_step_whose_plan_finds_no_memory_goes_on_uncaptured(monkeypatch):
    def full(*arguments):
        raise MemoryError("memory: expected 5 bytes more")

    plain = fitted(False)
    monkeypatch.setattr(recording.Supply, "__init__", full)
    tried = fitted(None)
    assert_same_run(plain, tried)
    assert tried[0].uncaptured == "steps are not captured: memory: expected 5 bytes more"


class Lengths:
    """Batches of so many lengths, each some times in a row."""

    def __init__(self, lengths, times):
        self.lengths, self.times = lengths, times

    def __len__(self):
        return len(self.lengths) * self.times

    def __iter__(self):
        rng = np.random.default_rng(4)
        for length in self.lengths:
            for _ in range(self.times):
                yield rng.standard_normal((length, 6)).astype("f"), rng.integers(0, 3, length)


def test_only_so_many_shapes_are_captured():
    plain, captured = (fitted(c, batches=Lengths(range(3, 9), 5), epochs=2) for c in (False, None))
    assert_same_run(plain, captured)
    assert replayed(captured[0]) == 4 * 2 + 4 * 5, "four shapes in the first epoch and in the second"
    assert "steps are not captured for more than 4 shapes of batches" in captured[0].uncaptured
    assert replayed(fitted(True, batches=Lengths(range(3, 9), 5), epochs=2)[0]) == 6 * 2 + 6 * 5


class FreezeAndThaw(Callback):
    """Changes what is trained after every third batch."""

    batches = 0

    def on_batch_end(self, trainer):
        self.batches += 1
        if self.batches % 3 == 0:
            trainer.model[0].requires_grad_(not trainer.model[0].weight.requires_grad)


def test_what_changes_before_it_is_replayed_is_given_up():
    plain, captured = (fitted(c, callbacks=[FreezeAndThaw()], epochs=4) for c in (False, None))
    assert_same_run(plain, captured)
    assert replayed(captured[0]) == 0
    assert "change before a captured step is ever replayed" in captured[0].uncaptured


def test_a_profile_sees_each_step():
    seen = []

    class Watch(Callback):
        def on_epoch_start(self, trainer):
            self.profile = rv.profile(trainer.model) if trainer.epoch == 2 else None
            if self.profile:
                self.profile.__enter__()

        def on_epoch_end(self, trainer):
            if self.profile:
                self.profile.__exit__(None, None, None)
                seen.append(self.profile.table(group_by="kernel"))

    plain, captured = fitted(False), fitted(None, callbacks=[Watch()])
    assert_same_run(plain, captured)
    assert "cross_entropy" in seen[0]
    assert replayed(captured[0]) == 17 - 4
