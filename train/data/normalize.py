"""Normalisation: means and deviations from the training data, applied to all data."""

from __future__ import annotations

import numpy as np


class Normalize:
    """(x - mean) / std, with mean and std per channel.

    Args:
        mean, std: numbers, or one a channel (axis 1 of a batch).
    """

    def __init__(self, mean, std):
        self.mean, self.std = np.atleast_1d(np.asarray(mean, np.float32)), np.atleast_1d(np.asarray(std, np.float32))
        if (self.std <= 0).any():
            raise ValueError(f"Normalize: expected std above 0, got {self.std.tolist()}")

    @classmethod
    def fit(cls, x: np.ndarray) -> Normalize:
        """Mean and deviation of each channel of x [N, C, ...]; a constant channel keeps its scale."""
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        std = x.std(axis=axes, dtype=np.float64)
        return cls(x.mean(axis=axes, dtype=np.float64), np.where(std > 0, std, 1.0))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return (x.astype(np.float32) - self.mean.reshape(shape)) / self.std.reshape(shape)
