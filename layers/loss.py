"""Loss layers, with torch.nn's names and arguments: each holds the arguments of the function of its name.

A loss is called with the arguments that change from step to step, `loss(input, target)`. Class weights are buffers, so
they move with the layer and belong to its `state_dict`.
"""

from __future__ import annotations

from . import functional
from .layer import Layer
from .tensor import Tensor

__all__ = [
    "MSELoss",
    "L1Loss",
    "SmoothL1Loss",
    "HuberLoss",
    "PoissonNLLLoss",
    "GaussianNLLLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "KLDivLoss",
    "SoftMarginLoss",
    "MultiLabelSoftMarginLoss",
    "CrossEntropyLoss",
    "NLLLoss",
    "MultiMarginLoss",
    "MultiLabelMarginLoss",
    "CTCLoss",
    "HingeEmbeddingLoss",
    "MarginRankingLoss",
    "CosineEmbeddingLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class _Loss(Layer):
    """What all losses have: their function's settings, shown in the repr, and weights as buffers."""

    def __init__(self, **settings):
        super().__init__()
        self._names = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def _hold(self, name, weight):
        """Registers a weight, a tensor, an array or None, as a buffer."""
        self.register_buffer(name, weight if weight is None or isinstance(weight, Tensor) else Tensor(weight))

    def _settings(self) -> dict:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._settings().items())


class MSELoss(_Loss):
    """Squared error: functional.mse_loss."""

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction=reduction)

    def forward(self, input, target):
        return functional.mse_loss(input, target, **self._settings())


class L1Loss(_Loss):
    """Absolute error: functional.l1_loss."""

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction=reduction)

    def forward(self, input, target):
        return functional.l1_loss(input, target, **self._settings())


class SmoothL1Loss(_Loss):
    """Absolute error with a parabola of width beta at 0: functional.smooth_l1_loss."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction=reduction, beta=beta)

    def forward(self, input, target):
        return functional.smooth_l1_loss(input, target, **self._settings())


class HuberLoss(_Loss):
    """Squared error that grows linearly beyond delta: functional.huber_loss."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction=reduction, delta=delta)

    def forward(self, input, target):
        return functional.huber_loss(input, target, **self._settings())


class PoissonNLLLoss(_Loss):
    """Negative log-likelihood of counts: functional.poisson_nll_loss."""

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"):
        super().__init__(log_input=log_input, full=full, eps=eps, reduction=reduction)

    def forward(self, input, target):
        return functional.poisson_nll_loss(input, target, **self._settings())


class GaussianNLLLoss(_Loss):
    """Negative log-likelihood under a normal distribution with a given variance: functional.gaussian_nll_loss."""

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(full=full, eps=eps, reduction=reduction)

    def forward(self, input, target, var):
        return functional.gaussian_nll_loss(input, target, var, **self._settings())


class BCELoss(_Loss):
    """Binary cross-entropy of probabilities: functional.binary_cross_entropy."""

    def __init__(self, weight=None, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self._hold("weight", weight)

    def forward(self, input, target):
        return functional.binary_cross_entropy(input, target, self.weight, **self._settings())


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of logits: functional.binary_cross_entropy_with_logits."""

    def __init__(self, weight=None, reduction: str = "mean", pos_weight=None):
        super().__init__(reduction=reduction)
        self._hold("weight", weight)
        self._hold("pos_weight", pos_weight)

    def forward(self, input, target):
        return functional.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, **self._settings()
        )


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence: functional.kl_div."""

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        super().__init__(reduction=reduction, log_target=log_target)

    def forward(self, input, target):
        return functional.kl_div(input, target, **self._settings())


class SoftMarginLoss(_Loss):
    """Logistic loss of targets 1 and -1: functional.soft_margin_loss."""

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction=reduction)

    def forward(self, input, target):
        return functional.soft_margin_loss(input, target, **self._settings())


class MultiLabelSoftMarginLoss(_Loss):
    """Logistic loss of several labels at once: functional.multilabel_soft_margin_loss."""

    def __init__(self, weight=None, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self._hold("weight", weight)

    def forward(self, input, target):
        return functional.multilabel_soft_margin_loss(input, target, self.weight, **self._settings())


class CrossEntropyLoss(_Loss):
    """-log softmax of logits at the target: functional.cross_entropy."""

    def __init__(
        self,
        weight=None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        inplace: bool = False,
    ):
        super().__init__(
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing, inplace=inplace
        )
        self._hold("weight", weight)

    def forward(self, input, target):
        return functional.cross_entropy(input, target, self.weight, **self._settings())


class NLLLoss(_Loss):
    """Negative log-probability at the target: functional.nll_loss."""

    def __init__(self, weight=None, ignore_index: int = -100, reduction: str = "mean"):
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self._hold("weight", weight)

    def forward(self, input, target):
        return functional.nll_loss(input, target, self.weight, **self._settings())


class MultiMarginLoss(_Loss):
    """Margin between the target's score and every other: functional.multi_margin_loss."""

    def __init__(self, p: int = 1, margin: float = 1.0, weight=None, reduction: str = "mean"):
        super().__init__(p=p, margin=margin, reduction=reduction)
        self._hold("weight", weight)

    def forward(self, input, target):
        return functional.multi_margin_loss(input, target, weight=self.weight, **self._settings())


class MultiLabelMarginLoss(_Loss):
    """Margin between the labels' scores and all others: functional.multilabel_margin_loss."""

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction=reduction)

    def forward(self, input, target):
        return functional.multilabel_margin_loss(input, target, **self._settings())


class CTCLoss(_Loss):
    """Connectionist temporal classification of sequences without alignment: functional.ctc_loss."""

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False):
        super().__init__(blank=blank, reduction=reduction, zero_infinity=zero_infinity)

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        return functional.ctc_loss(log_probs, targets, input_lengths, target_lengths, **self._settings())


class HingeEmbeddingLoss(_Loss):
    """Distances of like and unlike pairs: functional.hinge_embedding_loss."""

    def __init__(self, margin: float = 1.0, reduction: str = "mean"):
        super().__init__(margin=margin, reduction=reduction)

    def forward(self, input, target):
        return functional.hinge_embedding_loss(input, target, **self._settings())


class MarginRankingLoss(_Loss):
    """Which of two scores is to be the greater: functional.margin_ranking_loss."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__(margin=margin, reduction=reduction)

    def forward(self, input1, input2, target):
        return functional.margin_ranking_loss(input1, input2, target, **self._settings())


class CosineEmbeddingLoss(_Loss):
    """Angles between like and unlike vectors: functional.cosine_embedding_loss."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__(margin=margin, reduction=reduction)

    def forward(self, input1, input2, target):
        return functional.cosine_embedding_loss(input1, input2, target, **self._settings())


class TripletMarginLoss(_Loss):
    """An anchor nearer to a positive than to a negative: functional.triplet_margin_loss."""

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, reduction: str = "mean"
    ):
        super().__init__(margin=margin, p=p, eps=eps, swap=swap, reduction=reduction)

    def forward(self, anchor, positive, negative):
        return functional.triplet_margin_loss(anchor, positive, negative, **self._settings())


class TripletMarginWithDistanceLoss(_Loss):
    """TripletMarginLoss for any distance: functional.triplet_margin_with_distance_loss."""

    def __init__(self, *, distance_function=None, margin: float = 1.0, swap: bool = False, reduction: str = "mean"):
        super().__init__(distance_function=distance_function, margin=margin, swap=swap, reduction=reduction)

    def forward(self, anchor, positive, negative):
        return functional.triplet_margin_with_distance_loss(anchor, positive, negative, **self._settings())
