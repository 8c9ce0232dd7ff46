"""A small network that tells faces from all else, and slides over a picture to find them (scikit-image's lfw_subset).

A window of 25x25 pixels slides over the picture; a classifier says of each place whether it shows a face. Done naively
that means thousands of separate looks, most of which compute the same again. A network of convolutions alone needs no
loop: applied to the whole picture instead of one window, it gives the answer for every window at once (OverFeat,
Sermanet et al. 2014). Faces larger than the window are found in a pyramid of ever smaller copies of the picture, and
non-maximum suppression keeps the surest of windows that overlap.

The data are few: 100 faces of 100 people and 100 cut-outs without, 25x25 pixels each. (With one picture a person there
are no pairs to learn who is who from; so this recipe finds faces, and does not verify them.) A held-back part of so few
would say little, therefore five-fold cross-validation: five networks, each tested on the fifth that it has not seen, so
that every picture is tested once. Two baselines are judged on the same folds, both with logistic regression on top:
eigenfaces (principal components) and histograms of oriented gradients (HOG).

The network that slides is trained on all 200 and on windows from pictures without people, because cut-outs alone do
not show it how much in the world is no face. It is tried on a portrait whose face a cascade trained by others
(OpenCV's, which scikit-image ships) locates independently, and on pictures without people that it has not seen. A
hundred faces are few, and this is where it shows: the face is found, but things of its shades are taken for one, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from .. import pictures, run_folder
from ..boxes import box_iou, nms
from ..data import ArrayDataset, Compose, DataLoader, RandomHorizontalFlip, RandomShift, need, package_file, read_image
from ..trainer import Trainer

WINDOW, STEP = 25, 4  # pixels: side of the window, distance of windows that one application of the network judges
SHRINK = 1.15  # from one copy of the pyramid to the next
LONGEST = 320  # pixels: a larger picture is shrunk so far before the pyramid begins
SURE = 0.9  # a window counts as a face from this chance on
FOLDS = 5
WITHOUT_FACES = ["brick.png", "cell.png", "chelsea.png", "coins.png", "grass.png", "gravel.png", "horse.png",
                 "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg"]  # fmt: skip
UNSEEN_WITHOUT_FACES = ["coffee.png", "ihc.png", "rocket.jpg", "text.png"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=12)


def build() -> rv.Layer:
    """From [N, 1, H, W] to scores [N, 1, rows, columns] of the windows at every fourth pixel; one for 25x25."""
    return rv.Sequential(
        rv.Conv2d(1, 16, 4, activation="relu"),  # 25 -> 22
        rv.MaxPool2d(2),  # -> 11
        rv.Conv2d(16, 32, 4, activation="relu"),  # -> 8
        rv.MaxPool2d(2),  # -> 4
        rv.Dropout2d(0.2),
        rv.Conv2d(32, 64, 4, activation="relu"),  # -> 1: what a dense layer is to a picture of one size
        rv.Dropout2d(0.5),
        rv.Conv2d(64, 1, 1),
    )


class RandomLight:
    """Contrast and brightness changed."""

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        scale, shift = rng.uniform(0.7, 1.4, (len(images), 1, 1, 1)), rng.uniform(-0.15, 0.15, (len(images), 1, 1, 1))
        middle = images.mean(axis=(2, 3), keepdims=True)
        return np.clip((images - middle) * scale + middle + shift, 0, 1).astype(np.float32)


def loss(scores, is_face):
    return rv.functional.binary_cross_entropy_with_logits(scores.flatten(), is_face.float())


def train(images: np.ndarray, is_face: np.ndarray, epochs: int, options: argparse.Namespace, report: bool) -> rv.Layer:
    """A network trained on windows [N, 1, 25, 25]; with `report` it shows progress and writes into the run folder."""
    loader = DataLoader(
        ArrayDataset(images, is_face),
        batch_size=32,
        shuffle=True,
        drop_last=True,
        augment=Compose(RandomHorizontalFlip(), RandomShift(2), RandomLight()),
    )
    model = build()
    optimizer = rv.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model,
        loss,
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(loader)),
        schedule_interval="step",
        capture=True,
        device=options.device,
        run_dir=options.run_dir if report else None,
        enable_progress_bar=report,
    )
    trainer.fit(loader, resume=options.resume if report else None)
    return model


def run(options: argparse.Namespace) -> dict:
    for module in ("skimage", "sklearn"):
        need(module, "faces")
    images = np.load(package_file("skimage", "data/lfw_subset.npy", "faces")).astype(np.float32)[:, None]
    is_face = np.arange(200) < 100
    epochs, negatives = (6, 2500) if options.quick else (options.epochs, 16_000)
    cross_validated = cross_validate(images, is_face, options)

    rng = np.random.default_rng(options.seed)
    others = windows_of([package_file("skimage", f"data/{name}", "faces") for name in WITHOUT_FACES], negatives, rng)
    faces = np.tile(images[is_face], (len(others) // 400, 1, 1, 1))  # a fifth of all windows
    whole = np.concatenate([faces, images[~is_face], others])
    model = train(whole, np.arange(len(whole)) < len(faces), epochs, options, report=True)
    found = try_on_pictures(model, options.run_dir)
    result = {"pictures": len(images), "folds": FOLDS, **cross_validated, **found}
    run_folder.write_result(options.run_dir, result)
    print(f"\n{FOLDS}-fold cross-validation on {len(images)} pictures of {WINDOW}x{WINDOW}, half of them faces:")
    for name in ("network", "eigenfaces", "hog"):
        print(f"  {name:12} accuracy {result[f'{name}_accuracy']:.3f}   area under ROC {result[f'{name}_auc']:.3f}")
    print(f"portrait: a window overlaps the cascade's by {found['portrait_iou']:.2f} (IoU); number "
          f"{found['portrait_rank']} of {found['portrait_windows']} when the surest come first")  # fmt: skip
    print(f"false alarms: {found['portrait_false_alarms']} on the portrait, {found['other_false_alarms']} on "
          f"{len(UNSEEN_WITHOUT_FACES)} pictures without people, in {found['windows_judged']} windows")  # fmt: skip
    print(f"run folder {options.run_dir}/  (portrait.png, curves.png, metrics.csv, result.json, checkpoint/)")
    return result


def cross_validate(images: np.ndarray, is_face: np.ndarray, options: argparse.Namespace) -> dict:
    """Accuracy and area under the ROC curve of the network and both baselines, each picture judged by those that have
    not seen it."""
    from skimage.feature import hog
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pixels = images.reshape(len(images), -1)
    gradients = np.stack([hog(image, pixels_per_cell=(5, 5), cells_per_block=(2, 2)) for image in images[:, 0]])
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    baselines = {
        "eigenfaces": (pixels, make_pipeline(PCA(40, random_state=0), regression)),
        "hog": (gradients, regression),
    }
    chances = {name: np.zeros(len(images)) for name in ("network", *baselines)}
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=options.seed).split(pixels, is_face)
    for training, test in tqdm(folds, "cross-validation", total=FOLDS, unit="fold"):
        model = train(images[training], is_face[training], 15 if options.quick else 60, options, report=False)
        chances["network"][test] = chances_of(model, images[test]).ravel()
        for name, (features, classifier) in baselines.items():
            classifier.fit(features[training], is_face[training])
            chances[name][test] = classifier.predict_proba(features[test])[:, 1]
    accuracies = {f"{name}_accuracy": float(((chance > 0.5) == is_face).mean()) for name, chance in chances.items()}
    return accuracies | {f"{name}_auc": float(roc_auc_score(is_face, chance)) for name, chance in chances.items()}


def windows_of(paths: list[Path], count: int, rng: np.random.Generator) -> np.ndarray:
    """Windows [count, 1, 25, 25], cut out of pictures at random places and in random sizes."""
    from PIL import Image

    sources = [Image.fromarray(read_image(path, grayscale=True)[0]) for path in paths]
    windows = []
    for number in range(count):
        source = sources[number % len(sources)]
        side = int(np.exp(rng.uniform(np.log(WINDOW), np.log(min(source.size)))))
        x, y = rng.integers(0, source.width - side + 1), rng.integers(0, source.height - side + 1)
        square = source.resize((WINDOW, WINDOW), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
        windows.append(np.asarray(square))
    return np.stack(windows)[:, None]


def chances_of(model: rv.Layer, images: np.ndarray) -> np.ndarray:
    """The chance of a face [N, 1, rows, columns] of every window in images [N, 1, H, W]."""
    model.eval()
    with rv.no_grad():
        return rv.functional.sigmoid(model(rv.tensor(images, device=next(model.parameters()).device))).numpy()


def find_faces(model: rv.Layer, path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Slides over a picture and its smaller copies: boxes [N, 4] in pixels, surest first; chances; windows judged."""
    height, width = read_image(path, grayscale=True).shape[1:]
    boxes, chances, windows = [], [], 0
    scale = min(1.0, LONGEST / max(height, width))
    while scale * min(height, width) >= WINDOW:
        copy = read_image(path, (round(scale * height), round(scale * width)), grayscale=True)
        chance = chances_of(model, copy[None])[0, 0]
        windows += chance.size
        rows, columns = np.nonzero(chance > SURE)
        corners = np.stack([columns, rows], axis=1) * STEP
        boxes.append(np.concatenate([corners, corners + WINDOW], axis=1) / scale)
        chances.append(chance[rows, columns])
        scale /= SHRINK
    if not boxes:
        raise ValueError(f"faces: expected a picture of at least {WINDOW}x{WINDOW} pixels, got {width}x{height}")
    boxes, chances = np.concatenate(boxes), np.concatenate(chances)
    stay = nms(boxes, chances, 0.2)
    return boxes[stay], chances[stay], windows


def try_on_pictures(model: rv.Layer, folder: Path) -> dict:
    """How the sliding network does on a portrait and on pictures without people; draws the portrait."""
    from skimage.feature import Cascade

    portrait = package_file("skimage", "data/astronaut.png", "faces")
    cascade = Cascade(str(package_file("skimage", "data/lbpcascade_frontalface_opencv.xml", "faces")))
    (place,) = cascade.detect_multi_scale(read_image(portrait, grayscale=True)[0], 1.2, 1, (50, 50), (220, 220))
    true = np.array([[place["c"], place["r"], place["c"] + place["width"], place["r"] + place["height"]]])
    boxes, chances, windows = find_faces(model, portrait)
    draw(portrait, boxes, chances, folder / "portrait.png", true)
    overlaps = box_iou(boxes, true)[:, 0]
    alarms = 0
    for name in UNSEEN_WITHOUT_FACES:
        false, _, judged = find_faces(model, package_file("skimage", f"data/{name}", "faces"))
        alarms, windows = alarms + len(false), windows + judged
    return {
        "portrait_iou": float(overlaps.max(initial=0)),
        "portrait_rank": int(overlaps.argmax()) + 1 if len(overlaps) else None,
        "portrait_windows": len(boxes),
        "portrait_false_alarms": int((overlaps < 0.3).sum()),
        "other_false_alarms": alarms,
        "windows_judged": windows,
    }


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """The faces in each picture: chance and box in pixels; drawn in a picture in the run folder."""
    model = run.load_weights(build())
    for path in paths:
        boxes, chances, windows = find_faces(model, path)
        target = run.folder / f"faces-{path.stem}.png"
        draw(path, boxes, chances, target)
        places = [f"{chance:.1%} at {box.round().astype(int).tolist()}" for box, chance in zip(boxes, chances)]
        yield f"{path}: {'; '.join(places) or 'no face'} ({windows} windows judged); drawn in {target}"


def draw(path: Path, boxes: np.ndarray, chances: np.ndarray, target: Path, true: np.ndarray = ()) -> None:
    """The picture with what was found (orange) and, dashed, what another detector says (white)."""
    picture = read_image(path).transpose(1, 2, 0)
    height, width = picture.shape[:2]
    figure, (axis,) = pictures.new_figure(6, 6 * height / width)
    axis.imshow(picture)
    axis.axis("off")
    for color, style, places in [("white", "--", true), ("orange", "-", boxes)]:
        for x1, y1, x2, y2 in places:
            axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], style, color=color, linewidth=2)
    for (x1, y1, _, _), chance in zip(boxes, chances):
        axis.text(x1, y1 - 4, f"{chance:.1%}", color="orange")
    figure.savefig(target, dpi=80)
