"""Losses of labels: one among C classes, several among C, or a sequence of them."""

from ...kernels import loss as kernels
from ..tensor import apply

__all__ = ["cross_entropy", "nll_loss"]


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """-log softmax(input) at the target, in one operation that never forms the probabilities.

    Args:
        input: logits [C], [N, C] or [N, C, d1, ...].
        target: labels, integers [], [N] or [N, d1, ...] in [0, C); or probabilities of input's shape and type.
        weight: [C], a factor for each class, or None.
        ignore_index: the label of positions that do not count.
        reduction: 'none', 'mean' (divided by the weights of the labels that count) or 'sum'.
        label_smoothing: how much of each target is spread evenly over the classes, in [0, 1].

    Returns:
        A tensor without axes, or of the labels' shape for 'none'.

    Raises:
        ValueError: a label is neither in [0, C) nor ignore_index.
    """
    attributes = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    return apply(kernels.cross_entropy, input, target, weight, **attributes)


def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """-input at the target, for an input of log-probabilities. Arguments as of cross_entropy, targets being labels."""
    return apply(kernels.nll_loss, input, target, weight, ignore_index=ignore_index, reduction=reduction)
