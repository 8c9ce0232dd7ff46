"""Softmax layers."""

from __future__ import annotations

from . import functional
from .layer import Layer

__all__ = ["Softmax", "LogSoftmax", "Softmin", "Softmax2d"]


class Softmax(Layer):
    """e^x over its sum along the axis dim."""

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return functional.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Layer):
    """The logarithm of softmax along the axis dim."""

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return functional.log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(Layer):
    """softmax of -x along the axis dim."""

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return functional.softmin(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax2d(Layer):
    """Softmax over the channels at each place of an image.

    Shapes:
        input: [N, C, H, W] or [C, H, W] -> y: the same.
    """

    def forward(self, input):
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input as [N, C, H, W] or [C, H, W], got shape {input.shape}")
        return functional.softmax(input, -3)
