"""Augmentation: random changes of a batch of images [N, C, H, W] that leave the label true.

Each is called as `augment(images, rng)` and draws all its randomness from `rng`, so that a batch comes out the same
whichever process prepares it.
"""

from __future__ import annotations

import numpy as np


class Compose:
    """Several augmentations, one after the other."""

    def __init__(self, *augmentations):
        self.augmentations = augmentations

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for augmentation in self.augmentations:
            images = augmentation(images, rng)
        return images


class RandomHorizontalFlip:
    """Mirrors each image with probability p."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"RandomHorizontalFlip: expected p in [0, 1], got {p}")
        self.p = p

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        flipped = rng.random(len(images)) < self.p
        return np.where(flipped[:, None, None, None], images[..., ::-1], images)


class RandomCrop:
    """Pads each image with `fill` on all sides and cuts a window of `size` out at random.

    Args:
        size: height and width of the window, or one number for both.
        padding: pixels added on each side first.
        fill: their value.
    """

    def __init__(self, size: int | tuple[int, int], padding: int = 0, fill: float = 0.0):
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.padding, self.fill = padding, fill

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pad = ((0, 0), (0, 0), (self.padding, self.padding), (self.padding, self.padding))
        padded = np.pad(images, pad, constant_values=self.fill)
        height, width = self.size
        rows, columns = padded.shape[2] - height + 1, padded.shape[3] - width + 1
        if rows < 1 or columns < 1:
            raise ValueError(
                f"RandomCrop: expected images of at least {self.size} after padding, got {padded.shape[2:]}"
            )
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.size, axis=(2, 3))
        which = np.arange(len(images))
        return windows[which, :, rng.integers(0, rows, len(images)), rng.integers(0, columns, len(images))]


class RandomShift:
    """Moves each image by up to `pixels` in both directions; `fill` flows in."""

    def __init__(self, pixels: int, fill: float = 0.0):
        self.pixels, self.fill = pixels, fill

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return RandomCrop(images.shape[2:], self.pixels, self.fill)(images, rng)


class GaussianNoise:
    """Adds normal noise of deviation std."""

    def __init__(self, std: float):
        if not std >= 0:
            raise ValueError(f"GaussianNoise: expected std of 0 or more, got {std}")
        self.std = std

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return images + rng.standard_normal(images.shape, dtype=np.float32) * np.float32(self.std)
