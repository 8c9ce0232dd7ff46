"""Losses of labels: one among C classes, several among C, or a sequence of them."""

import numpy as np

from ...kernels import loss as kernels
from ...kernels.device import device_of, to_device
from ..tensor import apply, apply_in_place

__all__ = ["cross_entropy", "nll_loss", "multi_margin_loss", "multilabel_margin_loss", "ctc_loss"]


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0, inplace=False):
    """-log softmax(input) at the target, in one operation that never forms the probabilities.

    Args:
        input: logits [C], [N, C] or [N, C, d1, ...].
        target: labels, integers [], [N] or [N, d1, ...] in [0, C); or probabilities of input's shape and type.
        weight: [C], a factor for each class, or None.
        ignore_index: the label of positions that do not count.
        reduction: 'none', 'mean' (divided by the weights of the labels that count) or 'sum'.
        label_smoothing: how much of each target is spread evenly over the classes, in [0, 1].
        inplace: backward writes the gradient of the logits over the logits, instead of into an array of that size:
            after it, input holds its gradient. (PyTorch has no such argument.)

    Returns:
        A tensor without axes, or of the labels' shape for 'none'.

    Raises:
        ValueError: a label is neither in [0, C) nor ignore_index; or with inplace, input is a leaf, not C-contiguous,
            of half precision on the CPU, in memory of the targets, or of an operation whose backward reads it, such as
            an activation.
        RuntimeError: in backward, where something else needs the logits that are gone, such as a second backward.
    """
    attributes = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    if inplace:
        return apply_in_place(kernels.cross_entropy, input, target, weight, **attributes)
    return apply(kernels.cross_entropy, input, target, weight, **attributes)


def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """-input at the target, for an input of log-probabilities. Arguments as of cross_entropy, targets being labels."""
    return apply(kernels.nll_loss, input, target, weight, ignore_index=ignore_index, reduction=reduction)


def multi_margin_loss(input, target, p=1, margin=1.0, weight=None, reduction="mean"):
    """The sum over the other classes of max(0, margin - input[target] + input[other])^p, divided by C.

    Args:
        input: scores [N, C] or [C].
        target: labels, integers [N] or [], in [0, C).
        p: 1 or 2.
        margin: by how much the target's score shall lead.
        weight: [C], a factor for each class, or None. ('mean' does not divide by it.)
        reduction: 'none', 'mean' or 'sum'.
    """
    return apply(kernels.multi_margin_loss, input, target, weight, p=p, margin=margin, reduction=reduction)


def multilabel_margin_loss(input, target, reduction="mean"):
    """The sum of max(0, 1 - (input[label] - input[other])) over the labels and the classes that are none, by C.

    Args:
        input: scores [N, C] or [C].
        target: integers of input's shape: each row's labels, ended by -1 where they are fewer than C.
        reduction: 'none', 'mean' or 'sum'.
    """
    return apply(kernels.multilabel_margin_loss, input, target, reduction=reduction)


def ctc_loss(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Connectionist temporal classification: -log of the probability of the labels, over all their alignments.

    Args:
        log_probs: log-probabilities [T, N, C], or [T, C] for one sequence; commonly from log_softmax.
        targets: integers [N, S], padded, or [sum of target_lengths], one sequence after the other; not the blank.
        input_lengths: [N] (or [] for one sequence), up to T: a tensor, an array or a sequence of integers.
        target_lengths: [N] (or []), up to S: likewise.
        blank: the class that stands for no label.
        reduction: 'none', 'mean' (each loss divided by its target's length, then their mean) or 'sum'.
        zero_infinity: count sequences that are too short for their labels, of infinite loss, as 0.

    Returns:
        A tensor without axes, or [N] for 'none'. Its gradient is the derivative by log_probs as they are; PyTorch's is
        right only after a log-softmax, where both give the same.
    """
    there = device_of(getattr(log_probs, "array", log_probs))
    lengths = [
        to_device(np.asarray(x), there) if isinstance(x, (int, list, tuple)) else x
        for x in (input_lengths, target_lengths)
    ]
    attributes = {"blank": blank, "zero_infinity": zero_infinity, "reduction": reduction}
    return apply(kernels.ctc_loss, log_probs, targets, *lengths, **attributes)
