"""Dropout layers: at work in training mode, the identity in evaluation mode."""

from __future__ import annotations

from ..kernels.check import check_number
from . import functional
from .layer import Layer

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _DropoutLayer(Layer):
    """Holds the rate p; subclasses say what is dropped. PyTorch's argument `inplace` is left out."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        check_number(type(self).__name__, "p", p, 0, 1)
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_DropoutLayer):
    """Sets each element to zero with probability p, and divides the others by 1 - p.

    Args:
        p: in [0, 1].

    Shapes:
        input: any -> the same.
    """

    def forward(self, input):
        return functional.dropout(input, self.p, self.training)


class Dropout1d(_DropoutLayer):
    """Sets each channel of a sequence to zero with probability p, and divides the others by 1 - p.

    Args:
        p: in [0, 1].

    Shapes:
        input: [N, C, L] or [C, L] -> the same.
    """

    def forward(self, input):
        return functional.dropout1d(input, self.p, self.training)


class Dropout2d(_DropoutLayer):
    """Sets each channel of an image to zero with probability p, and divides the others by 1 - p.

    Args:
        p: in [0, 1].

    Shapes:
        input: [N, C, H, W] or [C, H, W] -> the same.
    """

    def forward(self, input):
        return functional.dropout2d(input, self.p, self.training)


class Dropout3d(_DropoutLayer):
    """Sets each channel of a volume to zero with probability p, and divides the others by 1 - p.

    Args:
        p: in [0, 1].

    Shapes:
        input: [N, C, D, H, W] or [C, D, H, W] -> the same.
    """

    def forward(self, input):
        return functional.dropout3d(input, self.p, self.training)


class AlphaDropout(_DropoutLayer):
    """Dropout for networks with SELU: dropped elements get SELU's floor, and mean 0 and variance 1 stay.

    Args:
        p: in [0, 1].

    Shapes:
        input: any -> the same.
    """

    def forward(self, input):
        return functional.alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_DropoutLayer):
    """Alpha dropout of whole channels.

    Args:
        p: in [0, 1].

    Shapes:
        input: [N, C, ...] -> the same.
    """

    def forward(self, input):
        return functional.feature_alpha_dropout(input, self.p, self.training)
