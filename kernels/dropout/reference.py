"""Dropout, as a textbook writes it. Every other implementation is held against these, in float64."""

import math

import numpy as np

from ..philox import uniform
from . import alpha_affine, plain_affine


def _kept(x, p, seed, mask_axes):
    """The mask, one value per element of the first `mask_axes` axes, shaped to broadcast with x."""
    shape = x.shape[:mask_axes]
    kept = uniform(seed, np.arange(math.prod(shape))) >= np.float32(p)
    return kept.reshape(shape + (1,) * (x.ndim - mask_axes))


def _forward(x, affine, p, seed, mask_axes):
    kept = _kept(x, p, seed, mask_axes)
    return np.where(kept, affine.scale * x + affine.shift, affine.dropped), (kept, affine.scale)


def dropout_forward(x, *, p, seed):
    return _forward(x, plain_affine(p), p, seed, x.ndim)


def alpha_dropout_forward(x, *, p, seed):
    return _forward(x, alpha_affine(p), p, seed, x.ndim)


def channel_dropout_forward(x, *, p, seed, mask_axes=2):
    return _forward(x, plain_affine(p), p, seed, mask_axes)


def feature_alpha_dropout_forward(x, *, p, seed, mask_axes=2):
    return _forward(x, alpha_affine(p), p, seed, mask_axes)


def dropout_backward(saved, grad_y, needs):
    kept, scale = saved
    return (np.where(kept, scale * grad_y, 0.0) if needs[0] else None,)


alpha_dropout_backward = channel_dropout_backward = feature_alpha_dropout_backward = dropout_backward
