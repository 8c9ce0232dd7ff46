"""The networks that the bench trains: nine kinds in three sizes, each written once for both libraries.

A kind is a function `kind(library, random, **sizes) -> Training`. It draws its data from `random`, so that both
libraries train on the same numbers; the state of one network is copied into the other before they start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..train.capture import capture
from .bench_libraries import CAPTURED, PYTORCH_VARIANTS, Library, Prepared, difference, library

CLASSES = 10
COMPARED_STEPS = 5


@dataclass
class Training:
    """A network that can be trained a step at a time.

    Args:
        network: holds all parameters.
        step: forward, backward and optimizer, with the gradients cleared; returns the loss, a tensor of one element.
    """

    network: Any
    step: Callable[[], Any]


@dataclass(frozen=True)
class ModelCase:
    """One network of one size.

    Args:
        subject: the kind of network: "lenet", ...
        case: its size: "small", "medium" or "large".
        build: makes it, given a library and a random generator.
        sizes: what distinguishes the sizes, arguments of `build`.
        images: whether it works on [N, C, H, W], so that PyTorch's memory layouts matter.
        tolerance: how far losses may be apart after `COMPARED_STEPS`.
    """

    group: ClassVar[str] = "training step"
    family: ClassVar[str] = "model"
    directions: ClassVar[tuple[str, ...]] = ("step",)
    own_variants: ClassVar[tuple[str, ...]] = (CAPTURED,)

    subject: str
    case: str
    build: Callable[..., Training]
    sizes: dict[str, int]
    images: bool
    tolerance: float

    @property
    def name(self) -> str:
        """What it is asked for by: "lenet/small"."""
        return f"{self.subject}/{self.case}"

    @property
    def variants(self) -> tuple[str, ...]:
        """What of PyTorch it is compared with."""
        return PYTORCH_VARIANTS if self.images else PYTORCH_VARIANTS[:1]

    @property
    def expected(self) -> float:
        """Seconds that preparing and timing it may take, beyond what it is timed for: a guess for the progress bar."""
        return {"small": 0.2, "medium": 1.0, "large": 6.0}[self.case]

    @property
    def shapes(self) -> str:
        """The sizes as people read them."""
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.sizes.items())

    def training(self, library: Library, seed: int = 0) -> Training:
        """The network in `library`, with the weights and the data that belong to the seed."""
        library.seed(seed)
        return self.build(library, np.random.default_rng(seed), **self.sizes)

    def prepare(self, variant: str, shared: dict | None) -> Prepared:
        """The network in a library, after the steps whose losses are compared.

        Args:
            variant: of `bench_libraries`.
            shared: the state of the network that another library made; None keeps this one's own, and shares it.
        """
        of = library(variant)
        training = self.training(of)
        if shared is None:
            shared = {name: np.array(value) for name, value in training.network.state_dict().items()}
        else:
            of.load(training.network, shared)
        if variant == CAPTURED:
            training.step = capture(training.step)
        losses = [float(training.step().item()) for _ in range(COMPARED_STEPS)]
        return Prepared({"step": training.step}, {"losses": np.array(losses)}, shared)

    def disagreement(self, ours: dict, theirs: dict) -> str | None:
        """What is wrong with PyTorch's losses beside Ranvier's, None if they agree."""
        return difference(ours, theirs, self.tolerance)


def mlp(library: Library, random, batch: int, inputs: int, hidden: int) -> Training:
    """Two hidden layers, Adam."""
    nn = library.layers
    network = library.place(
        nn.Sequential(
            nn.Linear(inputs, hidden, activation="relu"),
            nn.Linear(hidden, hidden, activation="relu"),
            nn.Linear(hidden, CLASSES),
        )
    )
    x, labels = library.tensor(_normal(random, batch, inputs)), library.tensor(_labels(random, batch))
    optimizer = library.optim.Adam(network.parameters(), lr=1e-4)
    return _supervised(library, network, optimizer, x, labels)


def lenet(library: Library, random, batch: int) -> Training:
    """LeNet-5 (LeCun et al. 1998) as it is written today, on 28x28, SGD with momentum."""
    nn = library.layers
    network = library.place(
        nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2, activation="relu"),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, activation="relu"),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120, activation="relu"),
            nn.Linear(120, 84, activation="relu"),
            nn.Linear(84, CLASSES),
        )
    )
    x, labels = library.images(_normal(random, batch, 1, 28, 28)), library.tensor(_labels(random, batch))
    optimizer = library.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    return _supervised(library, network, optimizer, x, labels)


def resnet(library: Library, random, batch: int, image: int, channels: int) -> Training:
    """A stem and four residual blocks (He et al. 2016), the third at half the resolution and twice the channels."""
    nn = library.layers

    class Block(library.base):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs, activation="relu")
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Sequential()
            if stride != 1:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            y = self.bn1(self.conv1(x))
            return library.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    class ResNet(library.base):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(channels, activation="relu")
            self.blocks = nn.Sequential(
                Block(channels, channels, 1),
                Block(channels, channels, 1),
                Block(channels, 2 * channels, 2),
                Block(2 * channels, 2 * channels, 1),
            )
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(2 * channels, CLASSES)

        def forward(self, x):
            x = self.bn(self.stem(x))
            return self.head(self.pool(self.blocks(x)).flatten(1))

    network = library.place(ResNet())
    x, labels = library.images(_normal(random, batch, 3, image, image)), library.tensor(_labels(random, batch))
    optimizer = library.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    return _supervised(library, network, optimizer, x, labels)


def lstm_classifier(library: Library, random, time: int, batch: int, inputs: int, hidden: int) -> Training:
    """Sequences into one class each by an LSTM's last output, Adam."""
    return _sequence_classifier(library, random, library.layers.LSTM, time, batch, inputs, hidden)


def gru_classifier(library: Library, random, time: int, batch: int, inputs: int, hidden: int) -> Training:
    """Sequences into one class each by a GRU's last output, Adam."""
    return _sequence_classifier(library, random, library.layers.GRU, time, batch, inputs, hidden)


def char_lm(library: Library, random, time: int, batch: int, hidden: int) -> Training:
    """The next character after each, of 96, by an LSTM; Adam, gradients clipped to a norm of 1."""
    nn = library.layers
    characters = 96

    class CharacterModel(library.base):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(characters, hidden // 2)
            self.lstm = nn.LSTM(hidden // 2, hidden)
            self.head = nn.Linear(hidden, characters)

        def forward(self, x):
            return self.head(self.lstm(self.embedding(x))[0].reshape(time * batch, hidden))

    network = library.place(CharacterModel())
    text = random.integers(0, characters, (time + 1, batch))
    x, following = library.tensor(text[:-1].copy()), library.tensor(text[1:].reshape(-1))
    optimizer = library.optim.Adam(network.parameters(), lr=1e-4)
    return _supervised(library, network, optimizer, x, following, clip=1.0)


def gan(library: Library, random, batch: int, image: int, channels: int) -> Training:
    """A step of discriminator and generator each: dense where `channels` is 0, else convolutional; Adam."""
    nn, functional = library.layers, library.functional
    noise = 64

    class Adversaries(library.base):
        def __init__(self):
            super().__init__()
            make = _convolutional_adversaries if channels else _dense_adversaries
            self.generator, self.discriminator = make(nn, noise, image, channels)

    network = library.place(Adversaries())
    generator, discriminator = network.generator, network.discriminator
    adam = {"lr": 1e-4, "betas": (0.5, 0.999)}
    generator_optimizer = library.optim.Adam(generator.parameters(), **adam)
    discriminator_optimizer = library.optim.Adam(discriminator.parameters(), **adam)
    z = library.tensor(_normal(random, batch, noise))
    shape = (batch, 1, image, image) if channels else (batch, image * image)
    real = np.tanh(_normal(random, *shape))
    real = library.images(real) if channels else library.tensor(real)
    ones, zeros = library.tensor(np.ones((batch, 1), np.float32)), library.tensor(np.zeros((batch, 1), np.float32))
    judge = functional.binary_cross_entropy_with_logits

    def step():
        made = generator(z)
        discriminator_optimizer.zero_grad()
        discriminator_loss = judge(discriminator(real), ones) + judge(discriminator(made.detach()), zeros)
        discriminator_loss.backward()
        discriminator_optimizer.step()
        generator_optimizer.zero_grad()
        generator_loss = judge(discriminator(made), ones)
        generator_loss.backward()
        generator_optimizer.step()
        return discriminator_loss.detach() + generator_loss.detach()

    return Training(network, step)


def autoencoder(library: Library, random, batch: int, image: int, channels: int) -> Training:
    """Images through a bottleneck and back, squared error: dense where `channels` is 0, else convolutional; Adam."""
    nn, pixels = library.layers, image * image
    if channels:
        network = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1, activation="relu"),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, activation="relu"),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(2 * channels, channels, 3, padding=1, activation="relu"),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(channels, 1, 3, padding=1),
        )
        x = library.images(_normal(random, batch, 1, image, image))
    else:
        network = nn.Sequential(
            nn.Linear(pixels, pixels // 2, activation="relu"),
            nn.Linear(pixels // 2, 16, activation="relu"),
            nn.Linear(16, pixels // 2, activation="relu"),
            nn.Linear(pixels // 2, pixels),
        )
        x = library.tensor(_normal(random, batch, pixels))
    network = library.place(network)
    optimizer = library.optim.Adam(network.parameters(), lr=1e-4)
    return _supervised(library, network, optimizer, x, x, loss=library.functional.mse_loss)


def transformer(library: Library, random, time: int, batch: int, features: int, heads: int) -> Training:
    """One encoder block (Vaswani et al. 2017) and a head on the mean over time; no dropout; AdamW."""
    nn = library.layers

    class Transformer(library.base):
        def __init__(self):
            super().__init__()
            self.block = nn.TransformerEncoderLayer(features, heads, 4 * features, dropout=0.0, batch_first=True)
            self.head = nn.Linear(features, CLASSES)

        def forward(self, x):
            return self.head(self.block(x).mean(1))

    network = library.place(Transformer())
    x, labels = library.tensor(_normal(random, batch, time, features)), library.tensor(_labels(random, batch))
    optimizer = library.optim.AdamW(network.parameters(), lr=1e-4)
    return _supervised(library, network, optimizer, x, labels)


def _sequence_classifier(library: Library, random, recurrent: type, time, batch, inputs, hidden) -> Training:
    nn = library.layers

    class SequenceClassifier(library.base):
        def __init__(self):
            super().__init__()
            self.recurrent = recurrent(inputs, hidden)
            self.head = nn.Linear(hidden, CLASSES)

        def forward(self, x):
            return self.head(self.recurrent(x)[0][-1])

    network = library.place(SequenceClassifier())
    x, labels = library.tensor(_normal(random, time, batch, inputs)), library.tensor(_labels(random, batch))
    optimizer = library.optim.Adam(network.parameters(), lr=1e-4)
    return _supervised(library, network, optimizer, x, labels)


def _dense_adversaries(nn, noise: int, image: int, channels: int) -> tuple:
    pixels = image * image
    hidden = pixels // 2
    generator = nn.Sequential(
        nn.Linear(noise, hidden, activation="relu"),
        nn.Linear(hidden, hidden, activation="relu"),
        nn.Linear(hidden, pixels, activation="tanh"),
    )
    discriminator = nn.Sequential(
        nn.Linear(pixels, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
    )
    return generator, discriminator


def _convolutional_adversaries(nn, noise: int, image: int, channels: int) -> tuple:
    """As DCGAN (Radford et al. 2016), for one channel of image x image."""
    quarter = image // 4
    generator = nn.Sequential(
        nn.Linear(noise, 2 * channels * quarter * quarter, bias=False),
        nn.Unflatten(1, (2 * channels, quarter, quarter)),
        nn.BatchNorm2d(2 * channels, activation="relu"),
        nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels, activation="relu"),
        nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, channels, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * channels),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * channels * quarter * quarter, 1),
    )
    return generator, discriminator


def _supervised(library: Library, network, optimizer, x, target, loss=None, clip: float | None = None) -> Training:
    loss = loss or library.functional.cross_entropy
    parameters = list(network.parameters())

    def step():
        optimizer.zero_grad()
        value = loss(network(x), target)
        value.backward()
        if clip is not None:
            library.clip(parameters, clip)
        optimizer.step()
        return value

    return Training(network, step)


def _normal(random, *shape: int) -> np.ndarray:
    return random.standard_normal(shape, np.float32)


def _labels(random, count: int) -> np.ndarray:
    return random.integers(0, CLASSES, count)


_SIZES = {
    mlp: (
        {"batch": 32, "inputs": 64, "hidden": 128},
        {"batch": 128, "inputs": 784, "hidden": 512},
        {"batch": 256, "inputs": 784, "hidden": 2048},
    ),
    lenet: ({"batch": 16}, {"batch": 64}, {"batch": 512}),
    resnet: (
        {"batch": 8, "image": 16, "channels": 16},
        {"batch": 16, "image": 32, "channels": 32},
        {"batch": 8, "image": 56, "channels": 64},
    ),
    lstm_classifier: (
        {"time": 28, "batch": 16, "inputs": 28, "hidden": 64},
        {"time": 50, "batch": 32, "inputs": 64, "hidden": 128},
        {"time": 100, "batch": 64, "inputs": 256, "hidden": 256},
    ),
    gru_classifier: (
        {"time": 28, "batch": 16, "inputs": 28, "hidden": 64},
        {"time": 50, "batch": 32, "inputs": 64, "hidden": 128},
        {"time": 100, "batch": 64, "inputs": 256, "hidden": 256},
    ),
    char_lm: (
        {"time": 32, "batch": 16, "hidden": 64},
        {"time": 64, "batch": 32, "hidden": 256},
        {"time": 64, "batch": 32, "hidden": 512},
    ),
    gan: (
        {"batch": 32, "image": 8, "channels": 0},
        {"batch": 64, "image": 28, "channels": 0},
        {"batch": 64, "image": 28, "channels": 64},
    ),
    autoencoder: (
        {"batch": 32, "image": 8, "channels": 0},
        {"batch": 128, "image": 28, "channels": 0},
        {"batch": 64, "image": 32, "channels": 64},
    ),
    transformer: (
        {"time": 16, "batch": 8, "features": 64, "heads": 4},
        {"time": 64, "batch": 16, "features": 256, "heads": 4},
        {"time": 256, "batch": 8, "features": 512, "heads": 8},
    ),
}
_ON_IMAGES = {lenet, resnet, gan, autoencoder}

# Adversaries amplify rounding: PyTorch comes apart from itself as far if its weights are changed in their last bit.
_TOLERANCES = {gan: 2e-4}

CASES = [
    ModelCase(
        build.__name__,
        size,
        build,
        sizes,
        images=build in _ON_IMAGES and sizes.get("channels", 1) > 0,
        tolerance=_TOLERANCES.get(build, 2e-5),
    )
    for build, all_sizes in _SIZES.items()
    for size, sizes in zip(("small", "medium", "large"), all_sizes)
]
