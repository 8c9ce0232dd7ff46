"""Scenes for detection: small pictures of single objects, put at random places and sizes on a random texture."""

from __future__ import annotations

import numpy as np

from ..boxes import box_iou


def compose_scene(
    objects: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    side: int = 96,
    sizes: tuple[int, int] = (22, 38),
    tries: int = 30,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scene of some of the objects, which barely overlap.

    Args:
        objects: grey pictures [N, H, W] in 0..1, bright on black; black lets the background through.
        labels: [N].
        rng: what everything random is drawn from.
        side: of the scene in pixels.
        sizes: smallest and largest side of an object in pixels.
        tries: at most so many places are tried (the number itself is random); none is put where there is no room.

    Returns:
        picture [side, side] float32 in 0..1, boxes [K, 4] float32 that fit tightly (x1, y1, x2, y2), labels [K] int64.
    """
    scene = random_texture(side, rng)
    places, boxes, chosen = [], [], []
    for _ in range(rng.integers(1, tries + 1)):
        size = int(rng.integers(sizes[0], sizes[1] + 1))
        x, y = rng.integers(0, side - size + 1, 2)
        place = [x, y, x + size, y + size]
        if places and box_iou([place], places).max() > 0.1:
            continue
        index = rng.integers(len(objects))
        drawn = resize_image(objects[index], size)
        opaque = np.clip(4 * drawn, 0, 1)  # soft edges
        if not (opaque > 0.5).any():
            continue
        window = scene[y : y + size, x : x + size]
        window[...] = window * (1 - opaque) + drawn * opaque
        places.append(place)
        boxes.append(np.add(tight_box(opaque > 0.5), [x, y, x, y]))
        chosen.append(labels[index])
    return scene, np.array(boxes, np.float32).reshape(-1, 4), np.array(chosen, np.int64)


def random_texture(side: int, rng: np.random.Generator) -> np.ndarray:
    """A texture [side, side] in 0..1: a mean brightness, blobs of random size, stripes, noise."""
    blobs = resize_image(rng.random((rng.integers(2, 24),) * 2, dtype=np.float32), side)
    across, down, phase = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0, 6.3)
    rows, columns = np.mgrid[:side, :side]
    stripes = np.sin(across * columns + down * rows + phase)
    noise = rng.standard_normal((side, side), dtype=np.float32)
    mean, contrast = rng.uniform(0.05, 0.5), rng.uniform(0, 0.4)
    texture = mean + contrast * (blobs - 0.5) + rng.uniform(0, 0.12) * stripes + rng.uniform(0, 0.05) * noise
    return np.clip(texture, 0, 1).astype(np.float32)


def resize_image(image: np.ndarray, side: int) -> np.ndarray:
    """A grey picture [H, W] float32 as [side, side], bilinearly."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def tight_box(inside: np.ndarray) -> np.ndarray:
    """The smallest box (x1, y1, x2, y2) around what is True in [H, W], of which there must be something."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
