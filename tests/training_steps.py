"""Training steps of small networks on a device, for tests of captured steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ranvier as rv

CLASSES = 4


@dataclass
class Training:
    """A step, `batch(rng)` that makes its arguments, and what it changes."""

    step: Callable
    batch: Callable
    model: rv.Layer
    optimizer: object


def _classifier(layers, shape, device, clip=False) -> Training:
    model = rv.Sequential(*layers).to(device)
    optimizer = rv.optim.Adam(model.parameters(), lr=1e-2)
    schedule = rv.optim.StepLR(optimizer, 2, 0.5)

    def step(x, labels):
        loss = rv.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            rv.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        return loss

    def batch(rng):
        x, labels = rng.standard_normal(shape).astype("f"), rng.integers(0, CLASSES, shape[0])
        return rv.tensor(x, device=device), rv.tensor(labels, device=device)

    return Training(step, batch, model, optimizer)


def perceptron(device, clip=False) -> Training:
    layers = [rv.Flatten(), rv.Dense(12, 16, activation="gelu"), rv.Dense(16, CLASSES)]
    return _classifier(layers, (8, 3, 4), device, clip)


def clipped(device) -> Training:
    return perceptron(device, clip=True)


def convolutional(device) -> Training:
    layers = [
        rv.Conv2d(2, 4, 3, padding=1), rv.BatchNorm2d(4), rv.ReLU(), rv.MaxPool2d(2),
        rv.AdaptiveAvgPool2d(1), rv.Flatten(), rv.Dense(4, CLASSES),
    ]  # fmt: skip
    return _classifier(layers, (5, 2, 8, 8), device)


def transformer(device) -> Training:
    layers = [
        rv.TransformerEncoderLayer(16, 2, 16, dropout=0.1, batch_first=True), rv.LayerNorm(16), rv.Flatten(),
        rv.Dense(80, CLASSES),
    ]  # fmt: skip
    return _classifier(layers, (3, 5, 16), device)


def recurrent(device) -> Training:
    embedding, layer, head = rv.Embedding(CLASSES, 16), rv.LSTM(16, 16, num_layers=2), rv.Dense(16, CLASSES)
    model = rv.Sequential(embedding, layer, head).to(device)
    optimizer = rv.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(words):
        y, _ = layer(embedding(words[:-1]))
        loss = rv.functional.cross_entropy(head(y).reshape(-1, CLASSES), words[1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss}

    return Training(step, lambda rng: (rv.tensor(rng.integers(0, CLASSES, (7, 3)), device=device),), model, optimizer)


def adversarial(device) -> Training:
    """Two networks and their optimizers, with random numbers and constants that the step makes."""
    generator = rv.Sequential(rv.Dense(3, 8, activation="tanh"), rv.Dense(8, 2)).to(device)
    judge = rv.Sequential(rv.Dense(2, 8), rv.LeakyReLU(0.2), rv.Dense(8, 1)).to(device)
    of_generator = rv.optim.RMSprop(generator.parameters(), lr=1e-3)
    of_judge = rv.optim.RMSprop(judge.parameters(), lr=1e-3)
    criterion = rv.functional.mse_loss

    def step(real):
        fake = generator(rv.randn(real.shape[0], 3, device=device))
        yes, no = rv.ones(real.shape[0], 1, device=device), rv.zeros(real.shape[0], 1, device=device)
        judge_loss = criterion(judge(real), yes) + criterion(judge(fake.detach()), no)
        of_judge.zero_grad()
        judge_loss.backward()
        of_judge.step()
        generator_loss = criterion(judge(fake), yes)
        of_generator.zero_grad()
        generator_loss.backward(rv.full_like(generator_loss, 0.5))
        of_generator.step()
        return judge_loss + generator_loss

    def batch(rng):
        return (rv.tensor(rng.standard_normal((6, 2)).astype("f"), device=device),)

    return Training(step, batch, rv.Sequential(generator, judge), of_judge)


NETWORKS = [perceptron, clipped, convolutional, transformer, recurrent]
