"""Margin losses of pairs, triplets and classes."""

import numpy as np

from .reference_elementwise import reduce


def cosine_embedding_loss_forward(input1, input2, target, *, margin=0.0, reduction="mean"):
    square1, square2 = (np.sum(x * x, axis=-1) + 1e-12 for x in (input1, input2))
    product = np.sqrt(square1 * square2)
    cosine = np.sum(input1 * input2, axis=-1) / product
    loss = np.where(target == 1, 1 - cosine, np.maximum(0, cosine - margin))
    slope = np.where(target == 1, -1.0, 1.0 * (cosine >= margin))[..., None]
    by1 = slope * (input2 / product[..., None] - input1 * (cosine / square1)[..., None])
    by2 = slope * (input1 / product[..., None] - input2 * (cosine / square2)[..., None])
    output, scale = reduce(np.asarray(loss), reduction)
    return output, ((by1, by2, None), scale)


def _rows_backward(saved, grad_output, needs):
    derivatives, scale = saved
    g = np.asarray(grad_output * scale)[..., None]  # one for each row, or one for all
    return tuple(g * d if need and d is not None else None for d, need in zip(derivatives, needs))


def _distance(a, b, p, eps):
    """|a - b + eps|_p over the last axis, and its derivative by a."""
    d = a - b + eps
    size = np.abs(d)
    if np.isinf(p):
        distance = size.max(axis=-1, keepdims=True)
        greatest = size == distance
        return distance[..., 0], np.sign(d) * greatest / greatest.sum(axis=-1, keepdims=True)
    distance = (size**p).sum(axis=-1, keepdims=True) ** (1 / p)
    return distance[..., 0], np.sign(d) * (size / np.where(distance > 0, distance, 1)) ** (p - 1)


def triplet_margin_loss_forward(
    anchor, positive, negative, *, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"
):
    near, by_near = _distance(anchor, positive, p, eps)
    far, by_far = _distance(anchor, negative, p, eps)
    other, by_other = _distance(positive, negative, p, eps)
    swapped = (other < far)[..., None] & swap
    inside = margin + near - np.where(swapped[..., 0], other, far)
    active = (inside >= 0)[..., None]
    by_anchor = active * (by_near - np.where(swapped, 0, by_far))
    by_positive = active * (-by_near - np.where(swapped, by_other, 0))
    by_negative = active * np.where(swapped, by_other, by_far)
    output, scale = reduce(np.asarray(np.maximum(0, inside)), reduction)
    return output, ((by_anchor, by_positive, by_negative), scale)


def multi_margin_loss_forward(input, target, weight=None, *, p=1, margin=1.0, reduction="mean"):
    classes = input.shape[-1]
    own = target[..., None] == np.arange(classes)
    w = np.ones(target.shape) if weight is None else weight[target]
    inside = np.where(own, 0, np.maximum(0, margin - (input * own).sum(axis=-1, keepdims=True) + input))
    loss = w * (inside**p).sum(axis=-1) / classes
    slope = np.where(inside > 0, p * inside ** (p - 1), 0) * w[..., None] / classes
    derivative = slope - own * slope.sum(axis=-1, keepdims=True)
    output, scale = reduce(np.asarray(loss), reduction)
    return output, ((derivative, None, None), scale)


def multilabel_margin_loss_forward(input, target, *, reduction="mean"):
    x, labels = np.atleast_2d(input), np.atleast_2d(target)
    classes = x.shape[-1]
    loss, derivative = np.zeros(len(x)), np.zeros(x.shape)
    for row in range(len(x)):
        ends = np.flatnonzero(labels[row] == -1)
        named = labels[row, : ends[0] if len(ends) else classes]
        for label in named:
            for other in set(range(classes)) - set(named.tolist()):
                inside = 1 - (x[row, label] - x[row, other])
                if inside > 0:
                    loss[row] += inside / classes
                    derivative[row, label] -= 1 / classes
                    derivative[row, other] += 1 / classes
    output, scale = reduce(loss.reshape(input.shape[:-1]), reduction)
    return output, ((derivative.reshape(input.shape), None), scale)


cosine_embedding_loss_backward = triplet_margin_loss_backward = _rows_backward
multi_margin_loss_backward = multilabel_margin_loss_backward = _rows_backward
