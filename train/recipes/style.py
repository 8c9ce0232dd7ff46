"""Style transfer: one picture's content painted with another's texture and colours (scikit-image's pictures).

Here it is not the network that is trained but the picture (Gatys, Ecker & Bethge 2015). A trained convolutional network
sees a picture on several levels: its early layers see edges and colours, later ones arrangements of them. Two pictures
have the same *content* if a level answers alike at the same places. They have the same *style* if, places left aside,
the same channels answer together: what the Gram matrix of a level's channels measures. So one starts from noise and
lets an optimizer change its pixels until three losses are small together:

    content             the first level's answers differ from those for the content picture
    style               the Gram matrices of all levels differ from those for the style picture
    total variation     neighbouring pixels differ: noise

Content and style are stated in relation to the size of what shall be met: 1 is what an all-zero answer would get.

The network is one that this recipe trains first: small, to tell from a patch of 48x48 pixels which of twelve packaged
pictures (bricks, grass, gravel, tissue, a cat, ...) it was cut from. That takes colours and textures, which is what
style is made of. A network trained on a million photographs would see more; nothing is downloaded here.

The baseline needs no network: the content picture with the style picture's mean and deviation of each colour.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from ...layers import random
from .. import pictures, run_folder
from ..checkpoint import load_checkpoint, save_checkpoint
from ..data import ArrayDataset, DataLoader, RandomHorizontalFlip, package_file, read_image
from ..metrics import Accuracy
from ..trainer import Trainer

PATCH = 48  # pixels
SOURCES = ["astronaut.png", "brick.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
           "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"]  # fmt: skip
CONTENT_LEVEL = 1  # of 0 (colours) to 3 (coarse): where the structure of a small picture is still sharp
STYLE_WEIGHT, VARIATION_WEIGHT = 2.0, 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=4)
    parser.add_argument("--content", type=Path, help="picture to paint (scikit-image's cat)")
    parser.add_argument("--style", type=Path, help="picture whose texture and colours to use (scikit-image's gravel)")
    parser.add_argument("--size", type=int, default=224, help="longer side of the result in pixels (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="changes of the picture (%(default)s)")


class Network(rv.Layer):
    """Class scores [N, 12] from pictures [N, 3, H, W] in 0..1; `features` gives what its levels see."""

    def __init__(self):
        super().__init__()

        def level(channels_in, channels_out):
            # The training is short: momentum 0.3 lets the running averages follow in time.
            return rv.Sequential(
                rv.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode="reflect", bias=False),
                rv.BatchNorm2d(channels_out, momentum=0.3, activation="relu"),
                rv.Conv2d(channels_out, channels_out, 3, padding=1, padding_mode="reflect", bias=False),
                rv.BatchNorm2d(channels_out, momentum=0.3, activation="relu"),
            )

        self.levels = rv.LayerList([level(3, 24), level(24, 48), level(48, 96)])
        self.head = rv.Dense(96, len(SOURCES))

    def features(self, picture):
        """What the levels see, from fine to coarse: the colours themselves, then the answers of the three levels."""
        colours = 2 * picture - 1
        fine = self.levels[0](colours)
        # Averages, not maxima: every pixel then has a say in every answer, and the picture comes out smoother.
        middle = self.levels[1](rv.functional.avg_pool2d(fine, 2))
        return colours, fine, middle, self.levels[2](rv.functional.avg_pool2d(middle, 2))

    def forward(self, picture):
        return self.head(self.features(picture)[-1].mean((2, 3)))


def build() -> rv.Layer:
    return Network()


# ---- first the network


def patches_of(count: int, rng: np.random.Generator):
    """Patches [N, 3, 48, 48] at random places and in three sizes, and which picture each is from: of every picture the
    left three quarters for training, the rest for the test."""
    from PIL import Image

    parts = {"training": ([], []), "test": ([], [])}
    for label, name in enumerate(SOURCES):
        whole = Image.fromarray((read_source(name).transpose(1, 2, 0) * 255).astype(np.uint8))
        border = whole.width * 3 // 4
        for part, left, right, number in [("training", 0, border, count), ("test", border, whole.width, count // 8)]:
            for _ in range(number):
                side = int(rng.choice([PATCH, 64, 80]))
                x, y = rng.integers(left, right - side + 1), rng.integers(0, whole.height - side + 1)
                patch = whole.resize((PATCH, PATCH), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
                parts[part][0].append(np.asarray(patch, np.float32).transpose(2, 0, 1) / 255)
                parts[part][1].append(label)
    return tuple(ArrayDataset(np.stack(patches), np.array(labels)) for patches, labels in parts.values())


def read_source(name: str) -> np.ndarray:
    """A packaged picture [3, H, W]."""
    return read_image(package_file("skimage", f"data/{name}", "style"))


def train_network(model: rv.Layer, options: argparse.Namespace) -> float:
    """Trains it to name the source of a patch; returns the accuracy on the parts that it has not seen."""
    count, epochs = (24, 2) if options.quick else (160, options.epochs)
    training, test = patches_of(count, np.random.default_rng(options.seed))
    loader = DataLoader(training, batch_size=32, shuffle=True, drop_last=True, augment=RandomHorizontalFlip())
    optimizer = rv.optim.Adam(model.parameters(), lr=2e-3)
    trainer = Trainer(
        model,
        rv.CrossEntropyLoss(),
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * len(loader)),
        schedule_interval="step",
        metrics={"accuracy": Accuracy()},
        capture=False,  # a replay would save nothing: the convolutions take all the time
        device=options.device,
        run_dir=options.run_dir / "network",
    )
    trainer.fit(loader, DataLoader(test, batch_size=48), resume=options.resume)
    return trainer.history[-1]["validation_accuracy"]


# ---- then the picture


def gram(answer):
    """The Gram matrix [C, C] of answers [1, C, H, W]: how strongly each two channels answer together."""
    channels = answer.flatten(2)[0]
    return rv.functional.matmul(channels, channels.T) / channels.shape[1]


class Losses:
    """Content, style and total variation of a picture [1, 3, H, W], for one content and one style picture."""

    def __init__(self, model: rv.Layer, content, style):
        self.model = model
        with rv.no_grad():
            self.content = model.features(content)[CONTENT_LEVEL]
            self.grams = [gram(answer) for answer in model.features(style)]

    def __call__(self, picture):
        answers = self.model.features(picture)
        content = relative_error(answers[CONTENT_LEVEL], self.content)
        style = sum(relative_error(gram(answer), wanted) for answer, wanted in zip(answers, self.grams)) / 4
        across, down = picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]
        return content, style, (across**2).mean() + (down**2).mean()


def relative_error(answer, wanted):
    return ((answer - wanted) ** 2).sum() / (wanted**2).sum().item()


class Painting:
    """A picture under way: its pixels, the optimizer that changes them, the losses so far."""

    def __init__(self, losses: Losses, start: np.ndarray, device: str):
        self.losses = losses
        start = start.clip(0.02, 0.98)
        # The sigmoid of what the optimizer changes is the picture: no step can leave 0..1.
        self.pixels = rv.Parameter(rv.tensor(np.log(start / (1 - start)), device=device))
        self.optimizer = rv.optim.Adam([self.pixels], lr=0.05)
        self.history: list[dict] = []

    def step(self) -> None:
        content, style, variation = self.losses(self.pixels.sigmoid())
        total = content + STYLE_WEIGHT * style + VARIATION_WEIGHT * variation
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        values = {"content": content.item(), "style": style.item(), "variation": variation.item()}
        self.history.append({"step": len(self.history) + 1, "total": total.item(), **values})

    def picture(self) -> np.ndarray:
        """[H, W, 3] in 0..1."""
        return self.pixels.detach().sigmoid().numpy()[0].transpose(1, 2, 0)

    def state_dict(self) -> dict:
        return {"pixels": self.pixels.numpy(), "optimizer": self.optimizer.state_dict(), "history": self.history}

    def load_state_dict(self, state: dict) -> None:
        if state["pixels"].shape != self.pixels.shape:
            raise ValueError(
                "style: expected the --content and --size of the run that goes on, a picture of "
                f"{state['pixels'].shape}, got one of {self.pixels.shape}"
            )
        self.pixels.array[...] = rv.tensor(state["pixels"], device=self.pixels.device).array
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = list(state["history"])


def paint(painting: Painting, steps: int, description: str) -> Iterator[int]:
    """Changes the picture until it has had so many steps; yields after each."""
    with tqdm(total=steps, initial=len(painting.history), desc=description, unit="step") as bar:
        while len(painting.history) < steps:
            painting.step()
            row = painting.history[-1]
            bar.set_postfix(content=f"{row['content']:.3f}", style=f"{row['style']:.3f}", refresh=False)
            bar.update()
            yield row["step"]


def begin(model: rv.Layer, content: np.ndarray, style: np.ndarray, device: str) -> Painting:
    """A painting that starts from noise, the style picture's pixels drawn at random; pictures are [3, H, W] in 0..1."""
    losses = Losses(model, *(rv.tensor(picture[None], device=device) for picture in (content, style)))
    colours = style.reshape(3, -1)
    drawn = random.generator().integers(0, colours.shape[1], content[0].size)
    return Painting(losses, colours[:, drawn].reshape(1, *content.shape), device)


def run(options: argparse.Namespace) -> dict:
    if options.size < 32 or options.steps < 1:
        raise ValueError(
            f"style: expected --size of 32 or more and --steps of 1 or more, got {options.size} and {options.steps}"
        )
    size, steps = (min(options.size, 80), min(options.steps, 50)) if options.quick else (options.size, options.steps)
    content = read_scaled(options.content or package_file("skimage", "data/chelsea.png", "style"), size)
    style = read_scaled(options.style or package_file("skimage", "data/gravel.png", "style"), size)
    model = build()
    resumed = load_checkpoint(options.resume) if options.resume else {}
    if "painting" in resumed:  # the network was ready: on with the picture
        accuracy = resumed["accuracy"]
        model.load_state_dict(resumed["model"])
        model.to(options.device)
    else:
        accuracy = train_network(model, options)
    model.eval().requires_grad_(False)
    painting = begin(model, content, style, options.device)
    if "painting" in resumed:
        painting.load_state_dict(resumed["painting"])
    for step in paint(painting, steps, "painting"):
        if step % 25 == 0 or step == steps:
            state = {"model": model.state_dict(), "accuracy": accuracy, "painting": painting.state_dict()}
            save_checkpoint(options.run_dir / "checkpoint", state)
            run_folder.write_metrics(options.run_dir, painting.history)
    return report(painting, content, style, accuracy, options.run_dir)


def report(painting: Painting, content: np.ndarray, style: np.ndarray, accuracy: float, folder: Path) -> dict:
    """The losses before, after and of the baseline; the pictures side by side; the curves."""
    recoloured = with_colours_of(content, style)
    with rv.no_grad():
        device = painting.pixels.device
        baseline = [x.item() for x in painting.losses(rv.tensor(recoloured[None], device=device))]
        untouched = [x.item() for x in painting.losses(rv.tensor(content[None], device=device))]
    first, last = painting.history[0], painting.history[-1]
    names = ("content", "style", "variation")
    result = {
        "network_test_accuracy": accuracy,
        **{f"first_{name}": first[name] for name in names},
        **{f"last_{name}": last[name] for name in names},
        **{f"recoloured_{name}": value for name, value in zip(names, baseline)},
        **{f"untouched_{name}": value for name, value in zip(names, untouched)},
    }
    run_folder.write_result(folder, result)
    save_picture(painting.picture(), folder / "result.png")
    row = {"content": content, "style": style, "only the colours": recoloured}
    shown = {name: picture.transpose(1, 2, 0) for name, picture in row.items()} | {"painted": painting.picture()}
    figure, axes = pictures.new_figure(14, 3.4, 1, 4)
    for axis, (name, picture) in zip(axes, shown.items()):
        axis.imshow(picture)
        axis.set_title(name)
        axis.axis("off")
    figure.savefig(folder / "pictures.png", dpi=80)
    figure, axes = pictures.new_figure(11, 3.4, 1, 3)
    for axis, name in zip(axes, names):
        axis.semilogy([row["step"] for row in painting.history], [row[name] for row in painting.history])
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    figure.savefig(folder / "curves.png", dpi=90)
    print(f"\nthe network names the source of {accuracy:.1%} of unseen patches (by chance {1 / len(SOURCES):.1%})")
    print("                      content   style   variation")
    for name, values in [("noise at the start", first.values()), ("painted", last.values()),
                         ("only the colours", baseline), ("content, untouched", untouched)]:  # fmt: skip
        print(f"  {name:20}" + "".join(f"{value:9.4f}" for value in list(values)[-3:]))
    print(f"run folder {folder}/  (pictures.png, result.png, curves.png, metrics.csv, checkpoint/)")
    return result


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Paints each picture in the run's style; the result goes to the run folder."""
    options = run.options
    size, steps = (min(options.size, 80), min(options.steps, 50)) if options.quick else (options.size, options.steps)
    model = run.load_weights(build()).requires_grad_(False)
    style = Path(options.style) if options.style else package_file("skimage", "data/gravel.png", "style")
    for path in paths:
        painting = begin(model, read_scaled(path, size), read_scaled(style, size), "cpu")
        for _ in paint(painting, steps, path.name):
            pass
        target = run.folder / f"painted-{path.stem}.png"
        save_picture(painting.picture(), target)
        last = painting.history[-1]
        yield f"{path}: content {last['content']:.3f}, style {last['style']:.3f}; painted in {target}"


def with_colours_of(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """The content picture [3, H, W] with the mean and deviation that the style picture has in each channel."""
    own, wanted = content.reshape(3, -1), style.reshape(3, -1)
    scaled = (own - own.mean(1, keepdims=True)) / (own.std(1, keepdims=True) + 1e-6) * wanted.std(1, keepdims=True)
    return np.clip(scaled + wanted.mean(1, keepdims=True), 0, 1).reshape(content.shape)


def read_scaled(path: Path, size: int) -> np.ndarray:
    """A picture [3, H, W] in 0..1, shrunk or enlarged to `size` pixels on its longer side."""
    height, width = read_image(path).shape[1:]
    scale = size / max(height, width)
    return read_image(path, (max(round(height * scale), 16), max(round(width * scale), 16)))


def save_picture(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray((picture * 255).round().astype(np.uint8)).save(path)
