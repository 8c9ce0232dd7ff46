"""Losses: how far an output is from its target, and the gradients that training starts from.

With l the loss of one element (regression, binary), of one position (classification, ranking) or of one sequence (CTC):

    reduction='none': every l        reduction='sum': sum of l        reduction='mean': the mean that PyTorch defines

The mean is over all elements, except: cross_entropy and nll_loss divide by the summed class weights of the labels that
count, ctc_loss divides each sequence by its target's length first. The mean of nothing is NaN.

The declarations stand in `regression.py`, `binary.py`, `classification.py`, `ranking.py` and `ctc.py`. `reference.py`
is the definition, `cpu.py` leads to the kernels.
"""

from .binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    kl_div,
    multilabel_soft_margin_loss,
    soft_margin_loss,
)
from .classification import cross_entropy, nll_loss
from .ctc import ctc_loss
from .ranking import (
    cosine_embedding_loss,
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    triplet_margin_loss,
)
from .regression import gaussian_nll_loss, huber_loss, l1_loss, mse_loss, poisson_nll_loss, smooth_l1_loss

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
]
