"""The trainer: what it computes, that a resumed run ends in the same bits, what it writes, what it refuses."""

import csv
import json

import numpy as np
import pytest

import ranvier as rv
from ranvier.train import data, metrics
from ranvier.train.callbacks import BestCheckpoint, Callback, EarlyStopping, PeriodicCheckpoint
from ranvier.train.checkpoint import load_checkpoint


def separable(count=96, seed=0):
    """Two noisy classes in the plane."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    points = rng.standard_normal((count, 2)) + 3 * labels[:, None]
    return data.ArrayDataset(points.astype(np.float32), labels)


def build(epochs=4, seed=0, **arguments):
    """A small network with dropout, so that the random state matters, and its loaders."""
    rv.seed(seed)
    model = rv.Sequential(rv.Dense(2, 16, activation="relu"), rv.Dropout(0.2), rv.Dense(16, 2))
    optimizer = rv.optim.Adam(model.parameters(), lr=0.01)
    train_loader = data.DataLoader(separable(), batch_size=16, shuffle=True)
    arguments.setdefault("metrics", {"accuracy": metrics.Accuracy()})
    trainer = rv.Trainer(
        model, rv.CrossEntropyLoss(), optimizer, max_epochs=epochs, enable_progress_bar=False, **arguments
    )
    return trainer, train_loader, data.DataLoader(separable(seed=1), batch_size=32)


def weights(trainer):
    return {name: t.numpy().copy() for name, t in trainer.model.state_dict().items()}


def assert_same_weights(a, b):
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=name)


def test_it_learns_and_tells():
    trainer, train, validation = build(epochs=15)
    history = trainer.fit(train, validation)
    assert len(history) == 15
    assert history[-1]["training_loss"] < history[0]["training_loss"]
    assert history[-1]["validation_accuracy"] > 0.95
    row = history[-1]
    assert row["gap"] == pytest.approx(row["validation_loss"] - row["training_loss"])
    assert trainer.evaluate(validation)["accuracy"] == row["validation_accuracy"]
    predicted = trainer.predict(validation).argmax(1)
    assert (predicted == separable(seed=1).arrays[1]).mean() == pytest.approx(row["validation_accuracy"])


def test_same_seed_same_bits():
    runs = []
    for _ in range(2):
        trainer, train, validation = build()
        trainer.fit(train, validation)
        runs.append(weights(trainer))
    assert_same_weights(*runs)


class StopAfter(Callback):
    """Interrupts a run as a crash would, after so many batches."""

    def __init__(self, batches):
        self.left = batches

    def on_batch_end(self, trainer):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batches", [3, 6, 8, 15])
@pytest.mark.parametrize("schedule", [False, True])
def test_a_resumed_run_ends_in_the_bits_of_an_unbroken_one(tmp_path, batches, schedule):
    def make(*more):
        trainer, train, validation = build(callbacks=[PeriodicCheckpoint(tmp_path / "checkpoint", 1), *more])
        if schedule:
            trainer.schedule = rv.optim.StepLR(trainer.optimizer, step_size=1, gamma=0.5)
        return trainer, train, validation

    whole, train, validation = make()
    whole.fit(train, validation)
    broken, train, validation = make(StopAfter(batches))
    with pytest.raises(KeyboardInterrupt):
        broken.fit(train, validation)
    resumed, train, validation = make()
    rv.seed(123)  # whatever the process did before must not matter
    state = load_checkpoint(tmp_path / "checkpoint")
    assert state["epoch"] * len(train) + state["batches_done"] == batches
    resumed.callbacks.append(Callback())
    resumed.fit(train, validation, resume=tmp_path / "checkpoint")
    assert_same_weights(weights(whole), weights(resumed))
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_accumulated_batches_are_one_large_batch():
    def run(batch_size, accumulate):
        trainer, _, _ = build(epochs=2, accumulate_grad_batches=accumulate)
        trainer.model.eval()
        trainer.model.train = lambda mode=True: trainer.model  # no dropout: its masks differ between batch sizes
        for layer in trainer.model.modules():
            layer.training = False
        trainer.fit(data.DataLoader(separable(), batch_size=batch_size, seed=0))
        return weights(trainer), trainer.step

    (large, steps), (small, small_steps) = run(32, 1), run(16, 2)
    assert steps == small_steps == 6
    for name in large:
        np.testing.assert_allclose(large[name], small[name], atol=2e-5)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_before_the_step(algorithm):
    seen = []

    class Watch(rv.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad.numpy() for group in self.param_groups for p in group["params"]]
            flat = np.concatenate([g.ravel() for g in grads])
            seen.append(np.linalg.norm(flat) if algorithm == "norm" else np.abs(flat).max())
            return super().step(closure)

    trainer, train, _ = build(epochs=1, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    trainer.optimizer = Watch(trainer.model.parameters(), lr=0.1)
    trainer.fit(train)
    assert len(seen) == 6
    assert max(seen) <= 1e-3 * (1 + 1e-5)


def test_early_stopping_puts_the_best_weights_back():
    class Worsen(Callback):
        """Makes every epoch after the second worse than the one before."""

        def on_epoch_end(self, trainer):
            if trainer.epoch > 2:
                trainer.history[-1]["validation_loss"] = 100.0 + trainer.epoch
            elif trainer.epoch == 2:
                self.best = weights(trainer)

    worsen = Worsen()
    trainer, train, validation = build(epochs=50, callbacks=[worsen, EarlyStopping(patience=2)])
    history = trainer.fit(train, validation)
    assert len(history) == 4
    assert_same_weights(worsen.best, weights(trainer))


def test_the_best_checkpoint_is_kept(tmp_path):
    trainer, train, validation = build(callbacks=[BestCheckpoint(tmp_path, "validation_accuracy", "max")])
    history = trainer.fit(train, validation)
    best = int(np.argmax([row["validation_accuracy"] for row in history]))
    assert load_checkpoint(tmp_path)["epoch"] == best + 1


def test_the_run_folder(tmp_path):
    trainer, train, validation = build(run_dir=tmp_path)
    history = trainer.fit(train, validation)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(row["training_loss"]) for row in rows] == [row["training_loss"] for row in history]
    assert json.loads((tmp_path / "metrics.json").read_text()) == history
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    state = load_checkpoint(tmp_path / "checkpoint")
    assert_same_weights(weights(trainer), state["model"])


def test_precision_and_schedules():
    trainer, train, validation = build(precision="float64")
    trainer.schedule = rv.optim.ReduceLROnPlateau(trainer.optimizer, patience=0, factor=0.1, threshold=1e9)
    trainer.fit(train, validation)
    assert {t.dtype for t in trainer.model.parameters()} == {np.dtype(np.float64)}
    rates = [row["learning_rate"] for row in trainer.history]
    assert rates[-1] < rates[0]


def test_a_loss_that_is_not_finite_stops_the_run():
    trainer, train, _ = build()
    trainer.model.load_state_dict({n: np.full(t.shape, np.nan) for n, t in trainer.model.state_dict().items()})
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 1, batch 1"):
        trainer.fit(train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_epochs": 0}, "max_epochs as an integer of 1 or more"),
        ({"precision": "float8"}, "precision as one of 'float32'"),
        ({"gradient_clip_algorithm": "mean"}, "gradient_clip_algorithm as one of"),
        ({"schedule_interval": "hour"}, "schedule_interval as one of"),
        ({"accumulate_grad_batches": 0.5}, "accumulate_grad_batches as an integer"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"Trainer: expected {message}"):
        rv.Trainer(rv.Dense(2, 2), rv.CrossEntropyLoss(), **arguments)


def test_missing_pieces_are_named():
    with pytest.raises(ValueError, match="expected loss or training_step"):
        rv.Trainer(rv.Dense(2, 2))
    trainer, train, _ = build()
    trainer.optimizer = None
    with pytest.raises(ValueError, match="expected an optimizer"):
        trainer.fit(train)
    trainer, train, _ = build(callbacks=[EarlyStopping("validation_f1")])
    with pytest.raises(ValueError, match="EarlyStopping: expected monitor as one of epoch"):
        trainer.fit(train)
