"""Training steps of small networks on a device, with a network for each family of kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import ranvier as rv
from ranvier.layers import functional as F

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
        loss = rv.functional.cross_entropy(model(x), labels, inplace=clip)
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
        rv.Conv2d(2, 4, 3, padding=1), rv.BatchNorm2d(4, activation="relu"), rv.MaxPool2d(2),
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
    """Of as many steps and units as a GPU walks in one launch each way, and of units that it walks step by step."""
    embedding, layer, head = rv.Embedding(CLASSES, 16), rv.LSTM(16, 32, num_layers=2), rv.Dense(20, CLASSES)
    narrow = rv.GRU(32, 20)
    model = rv.Sequential(embedding, layer, narrow, head).to(device)
    optimizer = rv.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(words):
        y, _ = narrow(layer(embedding(words[:-1]))[0])
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


# ---- a network for each family of kernels


class _Model(rv.Layer):
    """Layers, and a function of them and the batch that gives the loss."""

    def __init__(self, loss, /, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.loss = loss

    def forward(self, *batch):
        return self.loss(self, *batch)


def _training(device, loss, batch, optimizer="SGD", /, **layers) -> Training:
    """`loss(model, *tensors)` of the layers, trained; `batch(rng)` gives the tensors' values."""
    model = _Model(loss, **layers).to(device)
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    optimizer = getattr(rv.optim, optimizer)(model.parameters(), lr=0.05, **options)

    def step(*tensors):
        loss = model(*tensors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Training(step, lambda rng: [rv.tensor(x, device=device) for x in batch(rng)], model, optimizer)


def _values(rng, *shape):
    return rng.standard_normal(shape).astype("f")


def _labelled(*shape):
    return lambda rng: (_values(rng, *shape), rng.integers(0, CLASSES, shape[0]))


def dense(device) -> Training:
    def loss(m, x, labels):
        return F.cross_entropy(m.out(m.hidden(x) + m.pair(x, x)), labels)

    layers = {"hidden": rv.Dense(20, 24, activation="tanh"), "pair": rv.Bilinear(20, 20, 24)}
    return _training(device, loss, _labelled(16, 20), **layers, out=rv.Dense(24, CLASSES))


def convolutions(device) -> Training:
    """In one and three dimensions, grouped, depthwise, strided, dilated, transposed."""

    def loss(m, x, labels):
        y = F.relu(m.transposed(F.relu(m.depthwise(F.relu(m.grouped(x))))))
        y = m.volume(y.reshape(6, 1, 8, 7, 7)).flatten(1)
        return F.cross_entropy(m.line(y.reshape(6, 2, 392)).mean(2), labels)

    layers = {
        "grouped": rv.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        "depthwise": rv.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        "transposed": rv.ConvTranspose2d(8, 8, 3, stride=2, padding=1),
        "volume": rv.Conv3d(1, 2, 3, padding=1),
        "line": rv.Conv1d(2, CLASSES, 5, stride=3),
    }
    return _training(device, loss, _labelled(6, 4, 8, 8), **layers)


def norms(device) -> Training:
    """All that normalise, batch norm's running statistics included."""

    def loss(m, x, labels):
        y = m.instance(m.group(m.batch(m.conv(x))))
        return F.cross_entropy(m.out(m.root(m.layer(m.response(y).flatten(1)))), labels)

    layers = {
        "conv": rv.Conv2d(3, 8, 3), "batch": rv.BatchNorm2d(8), "group": rv.GroupNorm(2, 8),
        "instance": rv.InstanceNorm2d(8, affine=True), "response": rv.LocalResponseNorm(3),
        "layer": rv.LayerNorm(128), "root": rv.RMSNorm(128), "out": rv.Dense(128, CLASSES),
    }  # fmt: skip
    return _training(device, loss, _labelled(6, 3, 6, 6), **layers)


def pools(device) -> Training:
    """Pools down, interpolations and shuffles up again, compared with what came in."""

    def loss(m, x):
        small = m.conv(F.avg_pool2d(x, 2) + F.max_pool2d(x, 2))
        small = small + F.lp_pool2d(x, 2, 2).mean((1,), keepdim=True)
        up = F.interpolate(small, scale_factor=2, mode="bilinear") + F.interpolate(small, scale_factor=2)
        shuffled = F.pixel_shuffle(m.wide(small), 2) + F.adaptive_avg_pool2d(up, 8)
        return F.smooth_l1_loss(m.back(shuffled), x)

    layers = {"conv": rv.Conv2d(3, 4, 3, padding=1), "wide": rv.Conv2d(4, 16, 1), "back": rv.Conv2d(4, 3, 1)}
    return _training(device, loss, lambda rng: [_values(rng, 4, 3, 8, 8)], **layers)


def _sequences(device, layer) -> Training:
    """Of as many steps and units as a GPU walks in one launch each way; `speech` has fewer units, for single steps."""

    def loss(m, x, lengths, labels):
        outputs, _ = m.layer(x, lengths=lengths)
        return F.cross_entropy(m.out(outputs.mean(0)), labels)

    def batch(rng):
        return _values(rng, 7, 5, 12), rng.integers(1, 8, 5), rng.integers(0, CLASSES, 5)

    return _training(device, loss, batch, layer=layer, out=rv.Dense(64, CLASSES))


def rnn(device) -> Training:
    return _sequences(device, rv.RNN(12, 32, num_layers=2, bidirectional=True))


def lstm(device) -> Training:
    return _sequences(device, rv.LSTM(12, 32, num_layers=2, bidirectional=True, dropout=0.1))


def gru(device) -> Training:
    return _sequences(device, rv.GRU(12, 32, num_layers=2, bidirectional=True))


def attention(device) -> Training:
    def loss(m, x, labels):
        y, _ = m.attention(x, x, x, need_weights=False)
        return F.cross_entropy(m.out(F.softmax(m.block(y), -1).mean(1)), labels)

    block = rv.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation="gelu")
    layers = {"attention": rv.MultiheadAttention(16, 4, batch_first=True), "block": block}
    return _training(device, loss, _labelled(4, 9, 16), **layers, out=rv.Dense(16, CLASSES))


def embedding(device) -> Training:
    """A table looked up by word and by bag; a word occurs more than once."""

    def loss(m, words, labels):
        y = m.table(words).sum(1) + m.bag(words)
        return F.cross_entropy(m.out(y), labels)

    def batch(rng):
        return rng.integers(0, 11, (8, 6)), rng.integers(0, CLASSES, 8)

    layers = {"table": rv.Embedding(11, 20, padding_idx=0), "bag": rv.EmbeddingBag(11, 20, mode="mean")}
    return _training(device, loss, batch, **layers, out=rv.Dense(20, CLASSES))


def dropout(device) -> Training:
    """Its masks come from a counter, so they are the same on all devices."""

    def loss(m, x, labels):
        y = F.dropout(m.hidden(x), 0.3) + F.alpha_dropout(m.hidden(x), 0.2)
        return F.cross_entropy(m.out(y), labels)

    return _training(device, loss, _labelled(16, 20), hidden=rv.Dense(20, 24), out=rv.Dense(24, CLASSES))


def activations(device) -> Training:
    def loss(m, x, labels):
        y = m.hidden(x)
        parts = [F.relu(y), F.gelu(y), F.silu(y), F.elu(y), F.mish(y), F.softplus(y), F.hardswish(y), m.slope(y)]
        return F.cross_entropy(m.out(sum(parts[1:], parts[0])), labels)

    layers = {"hidden": rv.Dense(20, 24), "slope": rv.PReLU(24), "out": rv.Dense(24, CLASSES)}
    return _training(device, loss, _labelled(16, 20), **layers)


def moving(device) -> Training:
    """What moves, compares, adds up and scans elements, and indexing by arrays and masks."""

    def loss(m, x, labels):
        y = F.pad(m.hidden(x), (1, 2), mode="circular")
        y = F.cat([y[:, ::2], F.where(y > 0, y, y * 0.5).cumsum(1), F.roll(y, 1, 1)], 1)
        y = y[:, [3, 1, 1, 7, 20, 30, 5, 2]].clamp(-2.0, 2.0)
        kept = F.masked_select(y, y.detach() > 0)
        return F.cross_entropy(m.out(y), labels) + 0.1 * (kept * kept).mean() + 0.1 * y.var(1).sqrt().sum()

    return _training(device, loss, _labelled(16, 20), hidden=rv.Dense(20, 24), out=rv.Dense(8, CLASSES))


def losses(device) -> Training:
    """Losses of each kind of kernel: elementwise, by class, by pairs."""

    def loss(m, x, target, labels):
        y = m.hidden(x)
        probabilities = F.log_softmax(y, 1)
        both = F.binary_cross_entropy_with_logits(y, target) + F.kl_div(probabilities, target) + F.huber_loss(y, target)
        by_class = F.nll_loss(probabilities, labels) + F.multi_margin_loss(y, labels)
        return both + by_class + F.triplet_margin_loss(y, target, y.flip(0).detach())

    def batch(rng):
        return _values(rng, 12, 20), rng.random((12, CLASSES)).astype("f"), rng.integers(0, CLASSES, 12)

    return _training(device, loss, batch, hidden=rv.Dense(20, CLASSES))


def speech(device) -> Training:
    """Connectionist temporal classification over a recurrent layer."""

    def loss(m, x, labels, input_lengths, target_lengths):
        scores = F.log_softmax(m.out(m.layer(x)[0]), 2)
        return F.ctc_loss(scores, labels, input_lengths, target_lengths)

    def batch(rng):
        labels, lengths = rng.integers(1, CLASSES, (4, 5)), rng.integers(1, 6, 4)
        return _values(rng, 14, 4, 12), labels, np.array([14, 13, 12, 14]), lengths

    return _training(device, loss, batch, layer=rv.GRU(12, 16), out=rv.Dense(16, CLASSES))


FAMILIES = [
    dense, convolutions, norms, pools, rnn, lstm, gru, attention, embedding, dropout, activations, moving, losses,
    speech,
]  # fmt: skip
OPTIMIZERS = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Lion", "RMSprop", "Adagrad", "Adadelta"]


def optimized(optimizer: str, device) -> Training:
    """A perceptron that an optimizer of this name trains."""

    def loss(m, x, labels):
        return F.cross_entropy(m.out(m.hidden(x)), labels)

    layers = {"hidden": rv.Dense(20, 24, activation="relu"), "out": rv.Dense(24, CLASSES)}
    return _training(device, loss, _labelled(16, 20), optimizer, **layers)


def losses_of(build: Callable, device: str, steps: int) -> list[float]:
    """The losses of a training run on one batch; weights, values and masks are the same on each device."""
    rv.seed(3)
    training = build(device)
    batch = training.batch(np.random.default_rng(5))
    return [training.step(*batch).item() for _ in range(steps)]
