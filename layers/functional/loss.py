"""Losses of regression, of probabilities and of distances between vectors.

Targets, weights and lengths may be tensors or arrays. Every `reduction` is 'none', 'mean' or 'sum'. Inputs and targets
have one shape: nothing is broadcast silently, and what does not fit raises ValueError.
"""

from ...kernels import elementwise
from ...kernels import loss as kernels
from ..tensor import apply
from .promotion import cast

__all__ = [
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "poisson_nll_loss",
    "gaussian_nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
    "soft_margin_loss",
    "multilabel_soft_margin_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "cosine_embedding_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def mse_loss(input, target, reduction="mean"):
    """Squared error (input - target)^2.

    Args:
        input, target: one shape, one floating-point type.
        reduction: 'none', 'mean' or 'sum'.

    Returns:
        A tensor without axes, or of input's shape for 'none'.
    """
    return apply(kernels.mse_loss, input, target, reduction=reduction)


def l1_loss(input, target, reduction="mean"):
    """Absolute error |input - target|. Arguments as of mse_loss."""
    return apply(kernels.l1_loss, input, target, reduction=reduction)


def smooth_l1_loss(input, target, reduction="mean", beta=1.0):
    """d^2 / (2 beta) where d = |input - target| is below beta, else d - beta / 2.

    Args:
        input, target, reduction: as of mse_loss.
        beta: where the parabola becomes a line, >= 0; 0 makes it l1_loss.
    """
    return apply(kernels.smooth_l1_loss, input, target, beta=beta, reduction=reduction)


def huber_loss(input, target, reduction="mean", delta=1.0):
    """d^2 / 2 where d = |input - target| is below delta, else delta (d - delta / 2).

    Args:
        input, target, reduction: as of mse_loss.
        delta: where the parabola becomes a line, > 0.
    """
    return apply(kernels.huber_loss, input, target, delta=delta, reduction=reduction)


def poisson_nll_loss(input, target, log_input=True, full=False, eps=1e-8, reduction="mean"):
    """Negative log-likelihood of counts under a Poisson distribution.

    Args:
        input: log of the rate, or the rate itself for log_input=False.
        target: counts, of input's shape and type.
        log_input: what input holds.
        full: add Stirling's approximation of log(target!) where target > 1.
        eps: added to the rate before its logarithm.
    """
    attributes = {"log_input": log_input, "full": full, "eps": eps, "reduction": reduction}
    return apply(kernels.poisson_nll_loss, input, target, **attributes)


def gaussian_nll_loss(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Negative log-likelihood under a normal distribution: (log var + (input - target)^2 / var) / 2.

    Args:
        input: the means.
        target: of input's shape and type.
        var: the variances, nowhere negative: of input's shape, without its last axis or with one axis of 1 instead; or
            one number.
        full: add log(2 pi) / 2.
        eps: the least variance; the gradient passes through it as if it were not there.
    """
    return apply(kernels.gaussian_nll_loss, input, target, var, full=full, eps=eps, reduction=reduction)


def binary_cross_entropy(input, target, weight=None, reduction="mean"):
    """-(target log(input) + (1 - target) log(1 - input)), the logarithms no less than -100.

    Args:
        input, target: probabilities in [0, 1], of one shape and type. (From logits,
            binary_cross_entropy_with_logits is safer.)
        weight: broadcasts to input's shape, or None.
        reduction: 'none', 'mean' or 'sum'.
    """
    return apply(kernels.binary_cross_entropy, input, target, weight, reduction=reduction)


def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """binary_cross_entropy of sigmoid(input), computed without overflow.

    Args:
        input: logits.
        target: probabilities, of input's shape and type.
        weight: broadcasts to input's shape, or None.
        reduction: 'none', 'mean' or 'sum'.
        pos_weight: weight of the targets' part, broadcasts to input's shape, or None.
    """
    return apply(kernels.binary_cross_entropy_with_logits, input, target, weight, pos_weight, reduction=reduction)


def kl_div(input, target, reduction="mean", log_target=False):
    """Kullback-Leibler divergence, element by element: target (log(target) - input).

    Args:
        input: log-probabilities.
        target: probabilities, or their logarithms for log_target=True; of input's shape and type.
        reduction: 'none', 'mean' over all elements, 'sum', or 'batchmean': the sum divided by the size of the first
            axis, which is the divergence as mathematics defines it.
        log_target: what target holds.
    """
    return apply(kernels.kl_div, input, target, log_target=log_target, reduction=reduction)


def soft_margin_loss(input, target, reduction="mean"):
    """log(1 + exp(-target input)) for targets 1 and -1. Arguments as of mse_loss."""
    return apply(kernels.soft_margin_loss, input, target, reduction=reduction)


def multilabel_soft_margin_loss(input, target, weight=None, reduction="mean"):
    """binary_cross_entropy_with_logits averaged over the classes.

    Args:
        input: logits [..., C].
        target: 0 or 1, of input's shape, in its type or as integers.
        weight: [C] or None.

    Returns:
        A tensor without axes, or [...] for reduction='none'.
    """
    target = cast(target, input.dtype)
    return apply(kernels.multilabel_soft_margin_loss, input, target, weight, reduction=reduction)


def hinge_embedding_loss(input, target, margin=1.0, reduction="mean"):
    """input where target is 1, max(0, margin - input) where it is -1.

    Args:
        input: distances.
        target: 1 and -1, of input's shape, in its type or as integers.
        margin: how far apart the pairs of target -1 shall be.
        reduction: 'none', 'mean' or 'sum'.
    """
    return apply(kernels.hinge_embedding_loss, input, target, margin=margin, reduction=reduction)


def margin_ranking_loss(input1, input2, target, margin=0.0, reduction="mean"):
    """max(0, margin - target (input1 - input2)).

    Args:
        input1, input2: scores of one shape and type.
        target: 1 where input1 shall be the greater, -1 where input2; of their shape, or one number.
        margin: by how much.
        reduction: 'none', 'mean' or 'sum'.
    """
    return apply(kernels.margin_ranking_loss, input1, input2, target, margin=margin, reduction=reduction)


def cosine_embedding_loss(input1, input2, target, margin=0.0, reduction="mean"):
    """1 - cos(input1, input2) where target is 1, max(0, cos(input1, input2) - margin) where it is -1.

    Args:
        input1, input2: [N, D] or [D].
        target: 1 and -1, [N] or [], in input's type or as integers.
        margin: the cosine that pairs of target -1 may have, in [-1, 1].
        reduction: 'none', 'mean' or 'sum'.
    """
    return apply(kernels.cosine_embedding_loss, input1, input2, target, margin=margin, reduction=reduction)


def triplet_margin_loss(anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"):
    """max(0, margin + |anchor - positive + eps|_p - |anchor - negative + eps|_p), norms over the last axis.

    Args:
        anchor, positive, negative: [..., D] of one shape and type.
        margin: how much nearer the positive shall be, > 0.
        p: the norm's degree, > 0; inf for the greatest difference.
        eps: added to each difference.
        swap: take the distance from the positive to the negative where it is the lesser.
        reduction: 'none', 'mean' or 'sum'.
    """
    attributes = {"margin": margin, "p": p, "eps": eps, "swap": swap, "reduction": reduction}
    return apply(kernels.triplet_margin_loss, anchor, positive, negative, **attributes)


def triplet_margin_with_distance_loss(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
):
    """max(0, margin + D(anchor, positive) - D(anchor, negative)) for any distance D.

    Args:
        anchor, positive, negative: tensors that the distance takes.
        distance_function: two tensors -> a tensor of distances; None: the Euclidean distance over the last axis.
        margin, swap, reduction: as of triplet_margin_loss.
    """
    if distance_function is None:
        return triplet_margin_loss(anchor, positive, negative, margin, swap=swap, reduction=reduction)
    near, far = distance_function(anchor, positive), distance_function(anchor, negative)
    if swap:
        far = apply(elementwise.minimum, far, distance_function(positive, negative))
    return margin_ranking_loss(far, near, 1, margin=margin, reduction=reduction)
