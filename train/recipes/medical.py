"""A U-Net that outlines cell nuclei in a fluorescence microscope's picture (one of 512x512 pixels with 125 nuclei).

Segmentation gives every pixel a class: here nucleus or background. A plain convolutional network that shrinks its
picture knows *what* there is but no longer *where*. The U-Net (Ronneberger et al. 2015) goes down and up again: the
way down (convolutions and pooling) gathers context, the way up (transposed convolutions) restores resolution, and at
every level a skip connection hands the fine detail of the way down to the way up.

Most pixels are background, so "background everywhere" would already be mostly right. The loss therefore joins two:
binary cross-entropy, which judges each pixel alone, and soft Dice, which judges the overlap of the two shapes and does
not care how much background there is. The result is measured as intersection over union (IoU) of the nuclei.

One picture is little data. Patches are cut from its left part at random places, turned, mirrored and brightened or
dimmed: all changes that leave the outline true. The strip beside it watches the training, and the right quarter, which
nothing has seen, tests. The baseline is what one would do without a network: Otsu's threshold on the brightness.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from .. import pictures, run_folder
from ..data import ArrayDataset, Compose, DataLoader, RandomCrop, need, package_file
from ..metrics import JaccardIndex
from ..trainer import Trainer

PATCH = 64  # pixels; the network itself takes any multiple of 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=15)
    parser.add_argument("--image", type=Path, help="your own grey picture to learn from (and --mask with it)")
    parser.add_argument("--mask", type=Path, help="picture of the same size: 0 is background, all else is inside")


class UNet(rv.Layer):
    """Scores [N, 1, H, W] of every pixel for being inside, from pictures [N, 1, H, W]; H and W divide by 4."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.down1, self.down2 = double_convolution(1, width), double_convolution(width, 2 * width)
        self.bottom = double_convolution(2 * width, 4 * width)
        self.rise2 = rv.ConvTranspose2d(4 * width, 2 * width, kernel_size=2, stride=2)
        self.up2 = double_convolution(4 * width, 2 * width)
        self.rise1 = rv.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
        self.up1 = double_convolution(2 * width, width)
        self.head = rv.Conv2d(width, 1, kernel_size=1)

    def forward(self, picture):
        fine = self.down1(picture)
        middle = self.down2(rv.functional.max_pool2d(fine, 2))
        coarse = self.bottom(rv.functional.max_pool2d(middle, 2))
        middle = self.up2(rv.functional.cat([middle, self.rise2(coarse)], dim=1))
        fine = self.up1(rv.functional.cat([fine, self.rise1(middle)], dim=1))
        return self.head(fine)


def double_convolution(channels_in: int, channels_out: int) -> rv.Layer:
    # A run is a few hundred steps: momentum 0.3 lets the running averages follow in time.
    return rv.Sequential(
        rv.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        rv.BatchNorm2d(channels_out, momentum=0.3, activation="relu"),
        rv.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        rv.BatchNorm2d(channels_out, momentum=0.3, activation="relu"),
    )


def build() -> rv.Layer:
    return UNet()


def dice_and_cross_entropy(scores, inside):
    """Cross-entropy of the pixels plus 1 - Dice, where Dice = 2 |overlap| / (|predicted| + |true|), kept smooth."""
    inside = inside.float()
    chance = rv.functional.sigmoid(scores)
    overlap = (chance * inside).sum()
    dice = (2 * overlap + 1) / (chance.sum() + inside.sum() + 1)
    return rv.functional.binary_cross_entropy_with_logits(scores, inside) + 1 - dice


class RandomTurn:
    """One of the eight ways in which a square can be turned and mirrored."""

    def __call__(self, patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        ways = rng.integers(0, 8, len(patches))
        turned = [np.rot90(patch, way % 4, axes=(1, 2)) for patch, way in zip(patches, ways)]
        return np.stack([patch[..., ::-1] if way >= 4 else patch for patch, way in zip(turned, ways)])


class RandomIntensity:
    """Contrast and brightness of the picture (channel 0) changed; the mask (channel 1) stays."""

    def __call__(self, patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        gamma, scale, shift = (rng.uniform(*bounds, (len(patches), 1, 1)) for bounds in
                               [(0.8, 1.25), (0.8, 1.25), (-0.05, 0.05)])  # fmt: skip
        changed = patches.copy()
        changed[:, 0] = np.clip(patches[:, 0], 0, None) ** gamma * scale + shift
        return changed


class PictureAndMask(DataLoader):
    """Batches of patches [N, 2, H, W], augmented as one, given out as picture [N, 1, H, W] and mask (bool)."""

    def __iter__(self):
        for (both,) in super().__iter__():
            yield both[:, :1], both[:, 1:] > 0.5


def run(options: argparse.Namespace) -> dict:
    need("skimage", "medical")
    picture, mask = load_training(options.image, options.mask)
    both = np.stack([picture, mask.astype(np.float32)])
    width = picture.shape[1]
    training, validation, test = np.split(both, [width * 5 // 8, width * 3 // 4], axis=2)
    # Patches larger than needed: the augmentation crops them at a random place, so no two epochs see the same.
    patches = cut(training, size=PATCH + 32, step=32)
    epochs, repeats = (min(options.epochs, 4), 1) if options.quick else (options.epochs, 3)
    train_loader = PictureAndMask(
        ArrayDataset(np.tile(patches, (repeats, 1, 1, 1))),
        batch_size=16,
        shuffle=True,
        drop_last=True,
        augment=Compose(RandomCrop(PATCH), RandomTurn(), RandomIntensity()),
    )
    validation_loader = PictureAndMask(ArrayDataset(cut(validation, PATCH, PATCH)), batch_size=16)
    model = build()
    optimizer = rv.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model,
        dice_and_cross_entropy,
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        metrics={"iou": JaccardIndex(threshold=0)},  # a score of 0 is a chance of one half
        capture=True,
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, validation_loader, resume=options.resume)
    return report(trainer, training, test)


def report(trainer: Trainer, training: np.ndarray, test: np.ndarray) -> dict:
    """Measures the test part against two thresholds on the brightness, and draws all three."""
    from skimage.filters import threshold_otsu

    levels = np.linspace(0, 1, 101)
    learned = max(levels, key=lambda level: overlap(training[0] > level, training[1] > 0.5))
    picture, mask = test[0], test[1] > 0.5
    found = {
        "Otsu's threshold": picture > threshold_otsu(picture),
        "best threshold of the training part": picture > learned,
        "U-Net": inside_chance(trainer.model, picture) > 0.5,
    }
    scores = {name: overlap(shape, mask) for name, shape in found.items()}
    size = min(128, *mask.shape)
    patches = cut(np.stack([found["U-Net"], mask]), size, size)
    result = {
        "test_iou": scores["U-Net"],
        "test_iou_by_patch": [overlap(one, true) for one, true in patches],
        "otsu_iou": scores["Otsu's threshold"],
        "best_threshold_iou": scores["best threshold of the training part"],
        "test_pixels": mask.size,
    }
    folder = trainer.run_dir
    run_folder.write_result(folder, result)
    figure, axes = pictures.new_figure(2.2 * 3 + 0.4, 8.8, 1, 3)
    for axis, (name, shape) in zip(axes, found.items()):
        axis.imshow(overlay(picture, shape, mask))
        axis.set_title(f"{name}\nIoU {scores[name]:.3f}", fontsize=8)
        axis.axis("off")
    figure.suptitle("held-back part: right (green), missed (blue), wrongly taken (red)", fontsize=9)
    figure.savefig(folder / "test.png", dpi=100)
    print("\nintersection over union (IoU) with the true mask, on the part that was held back:")
    for name, score in scores.items():
        print(f"  {name:36} {score:.3f}")
    print(f"the U-Net patch by patch: {', '.join(f'{score:.3f}' for score in result['test_iou_by_patch'])}")
    print(f"run folder {folder}/  (test.png, curves.png, metrics.csv, result.json, checkpoint/)")
    return result


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """How much of each picture is nucleus, in how many regions; the outlines go to a picture in the run folder."""
    label = need("skimage.measure", "medical").label
    model = run.load_weights(build())
    for path in paths:
        picture = load_picture(path)
        inside = inside_chance(model, picture) > 0.5
        figure, (axis,) = pictures.new_figure(8, 8 * picture.shape[0] / picture.shape[1])
        axis.imshow(overlay(picture, inside, inside))
        axis.axis("off")
        target = run.folder / f"overlay-{path.stem}.png"
        figure.savefig(target, dpi=100)
        yield f"{path}: {inside.mean():.1%} inside, {label(inside).max()} separate regions; drawn in {target}"


def inside_chance(model: rv.Layer, picture: np.ndarray) -> np.ndarray:
    """Each pixel's chance [H, W] of being inside, for a picture [H, W] of any size."""
    height, width = picture.shape
    padded = np.pad(picture, ((0, -height % 4), (0, -width % 4)), mode="edge")
    model.eval()
    with rv.no_grad():
        scores = model(rv.tensor(padded[None, None], device=next(model.parameters()).device))
        return rv.functional.sigmoid(scores).numpy()[0, 0, :height, :width]


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two shapes."""
    metric = JaccardIndex()
    metric.update(found.astype(np.int64), true.astype(np.int64))
    return metric.compute()


def cut(both: np.ndarray, size: int, step: int) -> np.ndarray:
    """The squares [N, C, size, size] at every `step` pixels of an image [C, H, W]."""
    windows = np.lib.stride_tricks.sliding_window_view(both, (size, size), axis=(1, 2))[:, ::step, ::step]
    return windows.transpose(1, 2, 0, 3, 4).reshape(-1, len(both), size, size)


def overlay(picture: np.ndarray, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The picture in grey [H, W, 3]; green where a shape was found, blue where missed, red where wrongly taken."""
    grey = np.repeat(np.clip(picture, 0, 1)[..., None] ** 0.7, 3, axis=2)
    for shape, color in [
        (found & true, (0.2, 0.9, 0.3)),
        (~found & true, (0.2, 0.5, 1)),
        (found & ~true, (1, 0.2, 0.2)),
    ]:
        grey[shape] = 0.6 * grey[shape] + 0.4 * np.array(color)
    return grey


def load_training(image: Path | None, mask: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The picture [H, W] and its mask (bool): the packaged ones, or the user's."""
    if (image is None) != (mask is None):
        raise ValueError("medical: expected --image and --mask together, got only one of them")
    picture = load_picture(image or package_file("stardist", "data/images/img2d.tif", "medical"))
    inside = read_pixels(mask or package_file("stardist", "data/images/mask2d.tif", "medical"))
    inside = (inside if inside.ndim == 2 else inside.max(axis=2)) > 0
    if inside.shape != picture.shape:
        raise ValueError(f"medical: expected a mask of the image's size {picture.shape}, got {inside.shape}")
    if picture.shape[0] < PATCH + 32 or picture.shape[1] < 8 * PATCH:
        raise ValueError(
            f"medical: expected an image of at least {PATCH + 32} rows and {8 * PATCH} columns, got {picture.shape}"
        )
    return picture, inside


def load_picture(path: Path) -> np.ndarray:
    """A picture [H, W] in float32, scaled so that 1 % of its pixels lie below 0 and 1 % above 1."""
    pixels = read_pixels(path).astype(np.float32)
    pixels = pixels if pixels.ndim == 2 else pixels[..., :3].mean(axis=2)
    low, high = np.percentile(pixels, [1, 99])
    return ((pixels - low) / max(high - low, 1e-6)).astype(np.float32)


def read_pixels(path: Path) -> np.ndarray:
    """The pixels [H, W] or [H, W, channels] with the values that the file has: microscopes' often have 16 bits."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return np.asarray(file)
    except UnidentifiedImageError:
        raise ValueError(f"medical: expected a picture such as TIFF or PNG, got {path}") from None
