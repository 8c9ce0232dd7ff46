"""A one-stage detector that finds garments in scenes: where each lies and which of ten kinds it is (Fashion-MNIST).

Classification says what a picture shows; detection also says where, for a number of objects that is not known before.
A one-stage detector (YOLO, Redmon et al. 2016) does it in a single look: a convolutional network shrinks the scene to
a grid of cells, and each cell answers for the objects whose centre lies in it, with 15 numbers:

    objectness      is there a centre in this cell?                        (binary cross-entropy, all cells)
    box             centre within the cell, logarithm of width and height  (smooth L1, cells with a centre)
    class           a score for each of the ten kinds                      (cross-entropy, cells with a centre)

Neighbouring cells often report the same object twice; non-maximum suppression keeps the surest of boxes that overlap.
A detector is measured by mean average precision (mAP@0.5): a box is right if it overlaps a true one of its class by
half (intersection over union); precision is averaged over recall for each class, then over the classes. As usual, a
box is reported with every class that the network holds possible, each with its score.

The scenes are composed while it trains, no two alike: garments at random places and sizes on a random texture. Those
for the test show test garments only. The baseline is template matching: a window slides over the scene at four sizes,
and what correlates best with a class's mean garment is reported, with the same suppression and the same measure.

Needs Fashion-MNIST: `apt-get install dataset-fashion-mnist` puts it in /usr/share/datasets/fashion-mnist.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from .. import pictures, run_folder
from ..boxes import box_iou, mean_average_precision, nms
from ..data import load_fashion_mnist, read_image
from ..data.scenes import compose_scene, resize_image, tight_box
from ..trainer import Trainer
from .fashion import CLASSES

SCENE, CELL = 96, 8  # pixels: side of a scene, side of a grid cell
SIZES = (22, 38)  # pixels: sides of the smallest and the largest garment
BATCHES = 150  # of 16 scenes, an epoch
MEAN_SIZE = 24.0  # pixels: where the logarithms of width and height are 0
NO_CLASS = -100  # label of a cell without a centre


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=10)
    parser.add_argument(
        "--data", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files (%(default)s)"
    )


def build() -> rv.Layer:
    """From scenes [N, 1, H, W] to [N, 15, H / 8, W / 8]: objectness, box (4), class scores (10) of each cell."""

    def convolution(channels_in, channels_out, size=3, stride=1):
        return rv.Sequential(
            rv.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False),
            rv.BatchNorm2d(channels_out, activation="relu"),
        )

    return rv.Sequential(
        convolution(1, 32, size=5, stride=2),
        convolution(32, 64, stride=2),
        convolution(64, 64),
        rv.MaxPool2d(2),
        convolution(64, 128),
        convolution(128, 128),
        rv.Conv2d(128, 1 + 4 + len(CLASSES), 1),
    )


# ---- data: scenes and what the grid shall say of them


class Scenes:
    """Batches of composed scenes [N, 1, 96, 96] and of what the grid shall say of them, see `targets`.

    Args:
        garments: [N, 28, 28] in 0..1; labels: [N].
        batches: how many an epoch; batch_size: scenes each.
        seed: with epoch and batch it decides a scene.
        fixed: the same scenes every epoch, for validation.
    """

    def __init__(self, garments, labels, batches: int, batch_size: int, seed: int, fixed: bool = False):
        self.garments, self.labels, self.batches, self.batch_size = garments, labels, batches, batch_size
        self.seed, self.fixed = seed, fixed
        self.epoch = self.skip = 0  # the trainer sets them when a run is resumed

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        first, self.skip = self.skip, 0
        epoch = 0 if self.fixed else self.epoch
        self.epoch += 1
        for batch in range(first, self.batches):
            rng = np.random.default_rng([self.seed, epoch, batch])
            scenes = [compose_scene(self.garments, self.labels, rng) for _ in range(self.batch_size)]
            yield np.stack([scene for scene, _, _ in scenes])[:, None], *targets(scenes)


def targets(scenes) -> tuple[np.ndarray, np.ndarray]:
    """What the grid shall say: box numbers [N, 4, 12, 12] and labels [N, 12, 12] (NO_CLASS where no centre lies)."""
    cells = SCENE // CELL
    numbers = np.zeros((len(scenes), 4, cells, cells), np.float32)
    classes = np.full((len(scenes), cells, cells), NO_CLASS, np.int64)
    for scene, (_, boxes, labels) in enumerate(scenes):
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2 / CELL, boxes[:, 2:] - boxes[:, :2]
        columns, rows = centres.astype(int).T
        numbers[scene, :, rows, columns] = np.concatenate([centres % 1, np.log(sizes / MEAN_SIZE)], axis=1)
        classes[scene, rows, columns] = labels
    return numbers, classes


# ---- the lesson: loss, and from the grid back to boxes


def step(trainer: Trainer, batch):
    """Loss of a batch, as the trainer wants it: objectness + box + class."""
    scenes, numbers, labels = batch
    prediction = trainer.model(scenes)
    has_centre = (labels >= 0).float()
    objectness = rv.functional.binary_cross_entropy_with_logits(prediction[:, 0], has_centre)
    difference = rv.functional.smooth_l1_loss(prediction[:, 1:5], numbers, reduction="none", beta=0.1)
    box = (difference.sum(1) * has_centre).sum() / (has_centre.sum() + 1)
    kind = rv.functional.cross_entropy(prediction[:, 5:], labels, ignore_index=NO_CLASS)
    return 5 * objectness + box + 2 * kind, prediction


def detections(prediction: np.ndarray, least: float = 0.01):
    """Boxes [N, 4] in pixels, scores [N] and labels [N] of one scene's grid [15, rows, columns], after suppression.

    A score is the chance of an object times that of the class; where the net hesitates, a box comes with each class.
    """
    chance = 1 / (1 + np.exp(-prediction[0]))
    rows, columns = np.nonzero(chance > 0.05)
    chance = chance[rows, columns]
    x, y, log_width, log_height = prediction[1:5, rows, columns]
    centres = np.stack([columns + x, rows + y], axis=1) * CELL
    halves = np.exp(np.clip(np.stack([log_width, log_height], axis=1), -2, 2)) * MEAN_SIZE / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    kinds = np.exp(prediction[5:, rows, columns] - prediction[5:, rows, columns].max(axis=0))
    scores = (chance * kinds / kinds.sum(axis=0)).T
    stay = nms(boxes, chance, 0.4)
    box, label = np.nonzero(scores[stay] > least)
    return boxes[stay][box], scores[stay][box, label], label


# ---- training, test, baseline


def run(options: argparse.Namespace) -> dict:
    from PIL import Image

    garments, labels, test_garments, test_labels = load_fashion_mnist(options.data)
    batches, test_scenes = (60, 40) if options.quick else (BATCHES, 300)
    epochs = 1 if options.quick else options.epochs
    train_loader = Scenes(garments[:-5000, 0], labels[:-5000], batches, 16, seed=2 * options.seed)
    validation_loader = Scenes(garments[-5000:, 0], labels[-5000:], 10, 16, seed=2 * options.seed + 1, fixed=True)
    model = build()
    optimizer = rv.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model,
        optimizer=optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * batches),
        schedule_interval="step",
        training_step=step,
        capture=True,
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, validation_loader, resume=options.resume)

    rng = np.random.default_rng(options.seed)
    scenes = [compose_scene(test_garments[:, 0], test_labels, rng) for _ in range(test_scenes)]
    truths = [(boxes, kinds) for _, boxes, kinds in scenes]
    found = [detections(grid(model, picture)) for picture, _, _ in scenes]
    mean, each = mean_average_precision(found, truths, len(CLASSES))
    templates = np.stack([garments[labels == label, 0].mean(axis=0) for label in range(len(CLASSES))])
    matched = [match(picture, templates) for picture, _, _ in tqdm(scenes, "baseline: template matching", unit="scene")]
    result = {
        "map": mean,
        "located_map": mean_average_precision([located(f) for f in found], [(b, 0 * k) for b, k in truths], 1)[0],
        "template_matching_map": mean_average_precision(matched, truths, len(CLASSES))[0],
        "average_precision": dict(zip(CLASSES, each.tolist())),
        "test_scenes": test_scenes,
        "test_garments": sum(len(kinds) for _, kinds in truths),
    }
    folder = options.run_dir
    run_folder.write_result(folder, result)
    draw(
        [(picture, *surest(f), truth) for (picture, *_), f, truth in zip(scenes, found, truths)][:8],
        folder / "test.png",
    )
    Image.fromarray((scenes[0][0] * 255).astype(np.uint8)).save(folder / "scene.png")
    print("\naverage precision at half overlap: " + ", ".join(f"{c} {v:.2f}" for c, v in zip(CLASSES, each)))
    print(f"mAP@0.5 {mean:.3f} on {test_scenes} scenes of test garments")
    print(f"the same where kinds do not count, only places: {result['located_map']:.3f}")
    print(f"baseline, template matching: mAP@0.5 {result['template_matching_map']:.3f}")
    print(f"run folder {folder}/  (test.png, scene.png to try `ranvier predict` on, curves.png, checkpoint/)")
    return result


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """The garments in each picture: kind, chance, and box in pixels; drawn in a picture in the run folder.

    The network knows garments of 22 to 38 pixels, brighter than what is behind them. A larger picture is therefore
    looked at several times, shrunk so that its longer side has 48, 96 and 192 pixels.
    """
    model = run.load_weights(build())
    for path in paths:
        whole = read_image(path, grayscale=True)[0]
        longest = max(whole.shape)
        sides = [side for side in (48, 96, 192) if side < longest] if longest > SCENE else [longest]
        looks = []
        for side in sides:
            size = tuple(max(CELL, round(length * side / longest)) for length in whole.shape)
            boxes, scores, labels = surest(detections(grid(model, read_image(path, size, grayscale=True)[0])))
            looks.append((boxes * longest / side, scores, labels))
        boxes, scores, labels = surest([np.concatenate(parts) for parts in zip(*looks)])
        target = run.folder / f"found-{path.stem}.png"
        draw([(whole, boxes, scores, labels, (boxes, labels))], target)
        places = [
            f"{CLASSES[k]} {score:.0%} at {box.round().astype(int).tolist()}"
            for box, score, k in zip(boxes, scores, labels)
        ]
        yield f"{path}: {'; '.join(places) or 'no garment found'}; drawn in {target}"


def grid(model: rv.Layer, picture: np.ndarray) -> np.ndarray:
    """What the grid says [15, rows, columns] of a picture [H, W] of any size; its rim is filled up with its edge."""
    padded = np.pad(picture, [(0, -side % CELL) for side in picture.shape], mode="edge")
    model.eval()
    with rv.no_grad():
        return model(rv.tensor(padded[None, None], device=next(model.parameters()).device)).numpy()[0]


def surest(found, least: float = 0.2):
    """Of detections, each box once, with its likeliest class: boxes, scores, labels."""
    boxes, scores, labels = found
    stay = nms(boxes, scores, 0.4)
    stay = stay[scores[stay] > least]
    return boxes[stay], scores[stay], labels[stay]


def located(found):
    """Detections as if there were one class."""
    boxes, scores, labels = surest(found, least=0)
    return boxes, scores, 0 * labels


def match(picture: np.ndarray, templates: np.ndarray):
    """Detections by normalised correlation of a window, at four sizes, with each class's mean garment [10, 28, 28]."""
    side = templates.shape[1]
    flat = templates.reshape(len(templates), -1) - templates.mean(axis=(1, 2))[:, None]
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    extents = np.stack([tight_box(template > template.max() / 4) for template in templates])
    boxes, scores, labels = [], [], []
    for size in np.linspace(*SIZES, 4):
        scaled = resize_image(picture, round(SCENE * side / size))
        windows = np.lib.stride_tricks.sliding_window_view(scaled, (side, side))[::4, ::4]
        rows, columns = (4 * place.ravel() for place in np.mgrid[: windows.shape[0], : windows.shape[1]])
        windows = windows.reshape(len(rows), -1)
        windows = windows - windows.mean(axis=1, keepdims=True)
        likeness = windows @ flat.T / (np.linalg.norm(windows, axis=1, keepdims=True) + 1e-6)
        label = likeness.argmax(axis=1)
        boxes.append((np.stack([columns, rows, columns, rows], axis=1) + extents[label]) * size / side)
        scores.append(likeness.max(axis=1))
        labels.append(label)
    boxes, scores, labels = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    stay = nms(boxes, scores, 0.4)
    return boxes[stay], scores[stay], labels[stay]


def draw(scenes, path: Path) -> None:
    """Pictures with the boxes that were found (right ones green, others red) and those that were missed (dashed)."""
    columns = min(4, len(scenes))
    figure, axes = pictures.new_figure(
        4 * columns, 4.1 * -(-len(scenes) // columns), -(-len(scenes) // columns), columns
    )
    for axis in axes:
        axis.axis("off")
    for axis, (picture, boxes, scores, labels, (true_boxes, true_labels)) in zip(axes, scenes):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        right = (box_iou(boxes, true_boxes) >= 0.5) & (labels[:, None] == true_labels)
        for box, score, label, good in zip(boxes, scores, labels, right.any(axis=1)):
            frame(axis, box, f"{CLASSES[label]} {score:.0%}", "limegreen" if good else "orangered", "-")
        for box in true_boxes[~right.any(axis=0)]:
            frame(axis, box, "", "yellow", "--")
    figure.savefig(path, dpi=60)


def frame(axis, box: np.ndarray, text: str, color: str, style: str) -> None:
    x1, y1, x2, y2 = box
    axis.plot([x1, x2, x2, x1, x1], np.array([y1, y1, y2, y2, y1]), style, color=color, linewidth=1.5)
    if text:
        axis.text(
            x1, y1, text, color=color, fontsize=11, va="bottom", bbox={"facecolor": "black", "alpha": 0.6, "pad": 1}
        )
