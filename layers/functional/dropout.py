"""Dropout in its forms.

Each call draws a new mask; `rv.seed` makes the sequence of masks repeatable. PyTorch's argument `inplace` is left out:
nothing here writes into its input.
"""

from ...kernels import dropout as kernels
from ...kernels.check import check_number, refuse_value
from ..random import next_philox_seed
from ..tensor import apply

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]


def dropout(input, p=0.5, training=True):
    """Sets each element to zero with probability p, and divides the others by 1 - p.

    Args:
        input: any shape.
        p: in [0, 1].
        training: False returns the input itself.
    """
    return _drop("dropout", kernels.dropout, input, p, training)


def alpha_dropout(input, p=0.5, training=False):
    """Dropout for networks with SELU: dropped elements get SELU's floor, and mean 0 and variance 1 stay.

    Args:
        input: any shape.
        p: in [0, 1].
        training: False returns the input itself.
    """
    return _drop("alpha_dropout", kernels.alpha_dropout, input, p, training)


def dropout1d(input, p=0.5, training=True):
    """Sets each channel of a sequence to zero with probability p, and divides the others by 1 - p.

    Args:
        input: [N, C, L], or [C, L].
        p: in [0, 1].
        training: False returns the input itself.
    """
    return _drop_channels("dropout1d", kernels.channel_dropout, input, p, training, spatial=1)


def dropout2d(input, p=0.5, training=True):
    """Sets each channel of an image to zero with probability p, and divides the others by 1 - p.

    Args:
        input: [N, C, H, W], or [C, H, W].
        p: in [0, 1].
        training: False returns the input itself.
    """
    return _drop_channels("dropout2d", kernels.channel_dropout, input, p, training, spatial=2)


def dropout3d(input, p=0.5, training=True):
    """Sets each channel of a volume to zero with probability p, and divides the others by 1 - p.

    Args:
        input: [N, C, D, H, W], or [C, D, H, W].
        p: in [0, 1].
        training: False returns the input itself.
    """
    return _drop_channels("dropout3d", kernels.channel_dropout, input, p, training, spatial=3)


def feature_alpha_dropout(input, p=0.5, training=False):
    """Alpha dropout of whole channels.

    Args:
        input: [N, C, ...].
        p: in [0, 1].
        training: False returns the input itself.
    """
    return _drop("feature_alpha_dropout", kernels.feature_alpha_dropout, input, p, training)


def _drop(name, operation, input, p, training, **attributes):
    check_number(name, "p", p, 0, 1)
    if not training or p == 0:
        return input
    return apply(operation, input, p=p, seed=next_philox_seed(), **attributes)


def _drop_channels(name, operation, input, p, training, spatial):
    if input.ndim not in (spatial + 1, spatial + 2):
        refuse_value(name, "input", f"with {spatial + 1} or {spatial + 2} axes", f"shape {input.shape}")
    return _drop(name, operation, input, p, training, mask_axes=input.ndim - spatial)
