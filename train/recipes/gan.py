"""A generative adversarial network (DCGAN) that learns to write digits which nobody wrote (MNIST, 5,000 of 28x28).

Two networks play against each other. The **generator** makes images out of random numbers and never sees a real one.
The **discriminator** sees real and made images and has to say which is which. Each is the other's teacher: the
discriminator's gradient tells the generator what would have made its image look more real, and better images force the
discriminator to look more closely. Neither loss falls to zero; they hold each other in balance, and what improves is
the images. Should the generator find one image that always works, it would make nothing else: **mode collapse**.

Both are convolutional (Radford, Metz & Chintala 2016, arXiv:1511.06434): the generator grows an image with transposed
convolutions, the discriminator shrinks it with strided ones, batch normalisation keeps their signals in scale. Each has
a dense layer more than the paper's, which sees the whole image at once. The loop is written by hand, as the two
optimizers take turns.

How good are the images? A third network, a classifier trained on real digits alone, is asked which digits it sees and
how surely. The baseline draws images from a normal distribution with the mean and covariance of the real ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from .. import pictures, run_folder
from ..checkpoint import load_checkpoint, save_checkpoint
from ..data import ArrayDataset, DataLoader, RandomShift, load_mnist_5k, random_split, read_drawing
from ..trainer import Trainer

NOISE = 64  # random numbers from which an image is made
CONFIDENT = 0.9  # probability from which on the classifier counts as sure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=50)


def build_generator(width: int = 16) -> rv.Layer:
    """Noise [N, 64] -> images [N, 1, 28, 28] in -1..1."""
    return rv.Sequential(
        rv.Dense(NOISE, 32 * width, bias=False),
        rv.BatchNorm1d(32 * width, activation="relu"),
        rv.Dense(32 * width, 2 * width * 7 * 7, bias=False),
        rv.Unflatten(1, (2 * width, 7, 7)),
        rv.BatchNorm2d(2 * width, activation="relu"),
        rv.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
        rv.BatchNorm2d(width, activation="relu"),
        rv.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
        rv.Tanh(),
    )


def build_discriminator(width: int = 16) -> rv.Layer:
    """Images [N, 1, 28, 28] -> scores [N], above 0 for 'real'."""
    return rv.Sequential(
        rv.Conv2d(1, width, 4, stride=2, padding=1),
        rv.LeakyReLU(0.2),
        rv.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
        rv.BatchNorm2d(2 * width),
        rv.LeakyReLU(0.2),
        rv.Flatten(),
        rv.Dense(2 * width * 7 * 7, 32 * width, bias=False),
        rv.BatchNorm1d(32 * width),
        rv.LeakyReLU(0.2),
        rv.Dense(32 * width, 1),
        rv.Flatten(0),
    )


def build_classifier() -> rv.Layer:
    """Images [N, 1, 28, 28] -> scores [N, 10]."""
    return rv.Sequential(
        rv.Conv2d(1, 16, 3, padding=1),
        rv.ReLU(),
        rv.MaxPool2d(2),
        rv.Conv2d(16, 32, 3, padding=1),
        rv.ReLU(),
        rv.MaxPool2d(2),
        rv.Flatten(),
        rv.Dense(32 * 7 * 7, 128, activation="relu"),
        rv.Dense(128, 10),
    )


class Game:
    """Generator, discriminator, their optimizers and how these slow down: all that a checkpoint keeps.

    Args:
        width: channels of the outer convolutions.
        epochs: over which the steps become smaller.
        device: where the networks live.
    """

    def __init__(self, width: int, epochs: int, device: str):
        self.device = device
        self.generator, self.average = (build_generator(width).to(device) for _ in range(2))
        self.discriminator = build_discriminator(width).to(device)
        for layer in (*self.generator.modules(), *self.discriminator.modules()):
            if isinstance(layer, (rv.Conv2d, rv.ConvTranspose2d, rv.Dense)):
                rv.init.normal_(layer.weight, std=0.02)  # the DCGAN paper's start
        self.average.eval().load_state_dict(self.generator.state_dict())
        self.turns = 0
        self.makers = rv.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        self.judges = rv.optim.Adam(self.discriminator.parameters(), lr=5e-4, betas=(0.5, 0.999))
        self.schedules = [
            rv.optim.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=epochs)
            for optimizer in (self.makers, self.judges)
        ]

    def play(self, real: rv.Tensor) -> tuple[float, float]:
        """A turn of each, on real images in -1..1; returns the loss of the discriminator and that of the generator."""
        made = self.generator(rv.randn((len(real), NOISE), device=self.device))
        # The discriminator's turn: real images shall score high, made ones low. `detach` leaves the generator out.
        judged = judge(self.discriminator(real), 0.9) + judge(self.discriminator(made.detach()), 0.0)
        self.judges.zero_grad()
        judged.backward()
        self.judges.step()
        # The generator's turn: what it made shall pass for real. The gradient goes through the frozen discriminator.
        self.discriminator.requires_grad_(False)
        fooled = judge(self.discriminator(made), 1.0)
        self.makers.zero_grad()
        fooled.backward()
        self.makers.step()
        self.discriminator.requires_grad_(True)
        self.remember()
        return judged.item(), fooled.item()

    def remember(self) -> None:
        """Keeps an average of the generator's weights over its last 500 turns, or the last tenth of its first ones.

        A generator in play runs after the discriminator's every turn; its average stands still in between, and makes
        the better images (Yazici et al. 2019, arXiv:1806.04498).
        """
        self.turns += 1
        weight = max(1 / 500, 10 / (10 + self.turns))
        now = self.generator.state_dict()
        self.average.load_state_dict({
            name: rv.functional.lerp(kept, now[name], weight) if kept.is_floating_point() else now[name]
            for name, kept in self.average.state_dict().items()})  # fmt: skip

    def make(self, noise: rv.Tensor) -> np.ndarray:
        """Images [N, 1, 28, 28] in 0..1."""
        with rv.no_grad():
            return (self.average(noise).numpy() + 1) / 2

    def parts(self) -> dict:
        """Everything with a state, by its name in the checkpoint."""
        slowing = {f"schedule_{index}": schedule for index, schedule in enumerate(self.schedules)}
        networks = {"model": self.average, "generator": self.generator, "discriminator": self.discriminator}
        return networks | {"makers": self.makers, "judges": self.judges} | slowing


def judge(scores: rv.Tensor, answer: float) -> rv.Tensor:
    """How far the discriminator's scores are from an answer: 0 for made, 1 for real. Real images ask for 0.9 only
    (one-sided label smoothing), so that it does not grow too sure of itself for the generator to learn from it."""
    return rv.functional.binary_cross_entropy_with_logits(scores, rv.full_like(scores, answer))


def run(options: argparse.Namespace) -> dict:
    images, labels = load_mnist_5k("gan")
    training, held_back = random_split(ArrayDataset(images, labels), [0.9, 0.1], stratify=labels)
    real, held_back = training.fetch(slice(None)), held_back.fetch(slice(None))
    game, history, moments = train(options, real[0])
    return report(options, game, history, moments, real, held_back)


def train(options: argparse.Namespace, real: np.ndarray) -> tuple[Game, list[dict], list[np.ndarray]]:
    """Plays all epochs; returns the game, losses an epoch, and what the same noise became after each epoch."""
    epochs, width = (min(options.epochs, 4), 8) if options.quick else (options.epochs, 16)
    game = Game(width, epochs, options.device)
    loader = DataLoader(ArrayDataset(real * 2 - 1), batch_size=64, shuffle=True, drop_last=True)
    same_noise = rv.randn((12, NOISE), device=options.device)
    history, moments = [], [game.make(same_noise)]
    if options.resume is not None:
        state = load_checkpoint(options.resume)
        for name, part in game.parts().items():
            part.load_state_dict(state[name])
        rv.layers.random.set_state(state["random"])
        history, moments, same_noise = (
            state["history"],
            state["moments"],
            rv.tensor(state["same_noise"], device=options.device),
        )
        loader.seed, loader.epoch, game.turns = state["loader_seed"], len(history), len(history) * len(loader)
    with tqdm(total=epochs * len(loader), initial=len(history) * len(loader), unit="batch", dynamic_ncols=True) as bar:
        while len(history) < epochs:
            losses = []
            for (batch,) in loader:
                losses.append(game.play(batch.to(options.device)))
                bar.update()
            for schedule in game.schedules:
                schedule.step()
            discriminator, generator = (float(loss) for loss in np.mean(losses, axis=0))
            row = {"epoch": len(history) + 1, "discriminator_loss": discriminator, "generator_loss": generator}
            bar.set_postfix({name: f"{value:.3f}" for name, value in row.items() if name != "epoch"})
            history.append(row)
            moments.append(game.make(same_noise))
            run_folder.write_metrics(options.run_dir, history)
            save_checkpoint(options.run_dir / "checkpoint", {n: p.state_dict() for n, p in game.parts().items()} | {
                "random": rv.layers.random.get_state(), "loader_seed": loader.seed, "same_noise": same_noise,
                "history": history, "moments": moments, "width": width})  # fmt: skip
    return game, history, moments


def train_classifier(options: argparse.Namespace, images: np.ndarray, labels: np.ndarray) -> Trainer:
    """A network that knows real digits and has never seen a made one."""
    print("a classifier, trained on real digits, will judge the made ones")
    model = build_classifier()
    epochs = 2 if options.quick else 10
    loader = DataLoader(ArrayDataset(images, labels), batch_size=64, shuffle=True, augment=RandomShift(1))
    optimizer = rv.optim.Adam(model.parameters(), lr=1e-3)
    schedule = rv.optim.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * len(loader))
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        optimizer,
        max_epochs=epochs,
        schedule=schedule,
        schedule_interval="step",
        device=options.device,
    )
    trainer.fit(loader)
    return trainer


def report(options, game: Game, history: list, moments: list, real: tuple, held_back: tuple) -> dict:
    """Has the classifier look at 1,000 made images, at real ones that it never saw, and at the baseline's."""
    classifier = train_classifier(options, *real)
    normal = np.random.default_rng(options.seed).multivariate_normal(
        real[0].reshape(-1, 784).mean(axis=0), np.cov(real[0].reshape(-1, 784).T), 1000, method="eigh"
    )
    made = game.make(rv.randn((1000, NOISE), device=options.device))
    judged = {"made": made, "real": held_back[0],
              "normal": normal.reshape(-1, 1, 28, 28).clip(0, 1).astype(np.float32)}  # fmt: skip
    result = {}
    for name, images in judged.items():
        scores = classifier.predict(DataLoader(ArrayDataset(images), batch_size=500))
        probabilities = rv.functional.softmax(rv.tensor(scores), dim=1).numpy()
        sure = probabilities.max(axis=1) >= CONFIDENT
        counts = np.bincount(probabilities.argmax(axis=1)[sure], minlength=10)
        result |= {f"{name}_recognised": float(sure.mean()), f"{name}_digits": counts.tolist()}
        if name == "real":
            result["classifier_accuracy"] = float((probabilities.argmax(axis=1) == held_back[1]).mean())
    run_folder.write_result(options.run_dir, result)
    draw_moments(moments, options.run_dir / "epochs.png")
    draw_samples(made[:60], options.run_dir / "samples.png")
    draw_losses(history, options.run_dir / "curves.png")
    print(f"\nthe classifier reads {result['classifier_accuracy']:.1%} of held-back real digits rightly; it is sure")
    print(f"(probability {CONFIDENT} or more) which digit it sees on    how often it sees   " +
          "".join(f"{digit:>5}" for digit in range(10)))  # fmt: skip
    for name, text in (
        ("made", "made by the generator"),
        ("real", "real, held back"),
        ("normal", "normal distribution"),
    ):
        counts = "".join(f"{count:5}" for count in result[f"{name}_digits"])
        print(f"  {text:36}{result[f'{name}_recognised']:7.1%}{'':27}{counts}")
    print(f"\nrun folder  {options.run_dir}/  (epochs.png, samples.png, curves.png, metrics.csv, checkpoint/)")
    print(f"try         ranvier predict {options.run_dir}   draws new digits")
    return result


def draw_moments(moments: list[np.ndarray], path: Path) -> None:
    """What the same twelve draws of noise became: a row an epoch, from before the training, at most ten rows."""
    chosen = np.unique(np.linspace(0, len(moments) - 1, min(10, len(moments))).round().astype(int))
    figure, axes = pictures.new_figure(9, 0.78 * len(chosen), len(chosen), 12)
    for axis, image in zip(axes, (image for epoch in chosen for image in moments[epoch])):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    for row, epoch in enumerate(chosen):
        axes[12 * row].set_ylabel(f"epoch {epoch}", fontsize=8)
    figure.savefig(path, dpi=80)


def draw_samples(images: np.ndarray, path: Path) -> None:
    figure, axes = pictures.new_figure(9, 3.9, 5, 12)
    for axis, image in zip(axes, images):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        axis.axis("off")
    figure.savefig(path, dpi=80)


def draw_losses(history: list[dict], path: Path) -> None:
    figure, (axis,) = pictures.new_figure(6, 3.6)
    for name in ("discriminator", "generator"):
        axis.plot([row["epoch"] for row in history], [row[f"{name}_loss"] for row in history], "o-", label=name)
    axis.set(xlabel="epoch", title="both losses: what one gains, the other loses")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=90)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Without files: new digits. With image files: whether the discriminator takes them for real digits."""
    state = load_checkpoint(run.folder / "checkpoint")
    game = Game(state["width"], 1, "cpu")
    game.average.load_state_dict(state["model"])
    if not paths:
        draw_samples(game.make(rv.randn((60, NOISE))), run.folder / "new.png")
        yield f"{run.folder / 'new.png'}: 60 digits that nobody wrote"
    discriminator = run.load_weights(game.discriminator, "discriminator")
    for path in paths:
        image = rv.tensor(read_drawing(path, size=28, margin=4)[None] * 2 - 1)
        (real,) = rv.functional.sigmoid(discriminator(image)).numpy()
        yield f"{path}: {real:.0%} real, says the discriminator"
