"""Measures of predictions, added up over batches: `update(predictions, targets)`, then `compute()`.

    accuracy = Accuracy()
    for inputs, labels in loader:
        accuracy.update(model(inputs), labels)
    accuracy.compute()

Predictions and targets are tensors or arrays, on any device. Where classes are predicted, predictions may be scores
[N, classes, ...] with targets [N, ...] (the highest score counts), labels of the targets' shape, or numbers of the
targets' shape that mean class 1 from `threshold` on. What cannot be computed, as from no data at all, is NaN.
"""

from __future__ import annotations

import math

import numpy as np

from ..kernels.check import check_choice, check_index_range, check_number
from ..kernels.device import to_device
from ..layers.tensor import Tensor

__all__ = [
    "Metric",
    "Accuracy",
    "TopKAccuracy",
    "ConfusionMatrix",
    "ClassScore",
    "Precision",
    "Recall",
    "F1",
    "JaccardIndex",
    "Ranking",
    "ROCAUC",
    "AveragePrecision",
    "Perplexity",
    "MAE",
    "MSE",
    "R2",
]


class Metric:
    """What all metrics share. A subclass defines `_empty`, `update` and `compute`.

    Attributes:
        state: what has been added up: numbers, arrays and lists of arrays by name.
    """

    def __init__(self):
        self.state = self._empty()

    def update(self, predictions, targets) -> None:
        """Adds a batch."""
        raise TypeError(f"{self._name}: expected a subclass that defines update()")

    def compute(self):
        """The metric over all batches since the last `reset`."""
        raise TypeError(f"{self._name}: expected a subclass that defines compute()")

    def reset(self) -> None:
        """Forgets all batches."""
        self.state = self._empty()

    def state_dict(self) -> dict:
        """What has been added up so far, for a checkpoint inside an epoch."""
        return dict(self.state)

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up a state that `state_dict` gave."""
        self.state = dict(state_dict)

    def _empty(self) -> dict:
        """The state before the first batch."""
        return {}

    @property
    def _name(self) -> str:
        return type(self).__name__


# ---- classes


class Accuracy(Metric):
    """The part of the targets that were predicted.

    Args:
        threshold: from where on a number means class 1.
        ignore_index: a target that does not count.
    """

    def __init__(self, threshold: float = 0.5, ignore_index: int | None = None):
        super().__init__()
        self.threshold, self.ignore_index = threshold, ignore_index

    def update(self, predictions, targets):
        predicted, actual = _labels(self._name, predictions, targets, self.threshold)
        counted = actual != self.ignore_index if self.ignore_index is not None else np.ones(actual.shape, bool)
        self.state["correct"] += int(((predicted == actual) & counted).sum())
        self.state["count"] += int(counted.sum())

    def compute(self) -> float:
        return _ratio(self.state["correct"], self.state["count"])

    def _empty(self):
        return {"correct": 0, "count": 0}


class TopKAccuracy(Metric):
    """The part of the targets that are among the k highest scores; of equal scores the first class is the higher.

    Args:
        k: how many count, 1 or more.
    """

    def __init__(self, k: int = 5):
        super().__init__()
        check_number(self._name, "k", k, 1)
        self.k = k

    def update(self, predictions, targets):
        scores, actual = _scores_by_class(self._name, predictions, targets)
        own = np.take_along_axis(scores, actual[:, None], axis=1)
        earlier = np.arange(scores.shape[1]) < actual[:, None]
        rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
        self.state["correct"] += int(((rank < self.k) & ~np.isnan(own[:, 0])).sum())
        self.state["count"] += len(actual)

    def compute(self) -> float:
        return _ratio(self.state["correct"], self.state["count"])

    def _empty(self):
        return {"correct": 0, "count": 0}


class ConfusionMatrix(Metric):
    """How often each class (row) was taken for each class (column).

    Args:
        num_classes: number of classes.
        threshold: from where on a number means class 1.
    """

    def __init__(self, num_classes: int, threshold: float = 0.5):
        check_number(self._name, "num_classes", num_classes, 2)
        self.num_classes, self.threshold = num_classes, threshold
        super().__init__()

    def update(self, predictions, targets):
        predicted, actual = _labels(self._name, predictions, targets, self.threshold)
        check_index_range(self._name, "predictions", predicted, 0, self.num_classes)
        check_index_range(self._name, "targets", actual, 0, self.num_classes)
        pairs = np.bincount(actual * self.num_classes + predicted, minlength=self.num_classes**2)
        self.state["matrix"] = self.state["matrix"] + pairs.reshape(self.num_classes, self.num_classes)

    def compute(self) -> np.ndarray:
        """[num_classes, num_classes], int64."""
        return self.state["matrix"].copy()

    def _empty(self):
        return {"matrix": np.zeros((self.num_classes, self.num_classes), np.int64)}


class ClassScore(ConfusionMatrix):
    """A score of each class from its true positives, false positives and false negatives, and their average.

    Args:
        average: 'binary' (class 1 of two), 'macro' (mean over the classes that occur), 'weighted' (each by how often
            it is the target), 'micro' (all decisions together) or None (an array, one a class).
        num_classes: number of classes; may be left out where `average` is 'binary'.
        threshold: from where on a number means class 1.
    """

    def __init__(self, average: str | None = "binary", num_classes: int | None = None, threshold: float = 0.5):
        check_choice(self._name, "average", average, ("binary", "macro", "weighted", "micro", None))
        if num_classes is None and average != "binary":
            raise ValueError(f"{self._name}: expected num_classes where average is {average!r}, got None")
        if average == "binary" and num_classes not in (None, 2):
            raise ValueError(f"{self._name}: expected 2 classes where average is 'binary', got {num_classes}")
        self.average = average
        super().__init__(num_classes or 2, threshold)

    def compute(self) -> float | np.ndarray:
        matrix = self.state["matrix"]
        hits = matrix.diagonal()
        predicted, actual = matrix.sum(axis=0), matrix.sum(axis=1)
        if not matrix.any():
            return np.full(self.num_classes, math.nan) if self.average is None else math.nan
        if self.average == "micro":
            return float(self._score(hits.sum(), predicted.sum(), actual.sum()))
        scores = self._score(hits, predicted, actual)
        if self.average is None:
            return scores
        if self.average == "binary":
            return float(scores[1])
        if self.average == "macro":
            return float(scores[(predicted + actual) > 0].mean())
        return float((scores * actual).sum() / actual.sum())

    def _score(self, hits, predicted, actual):
        """Hits over a number of chances; 0 where there were none."""
        chances = self._chances(predicted, actual)
        return hits / np.maximum(chances, np.finfo(float).tiny)

    def _chances(self, predicted, actual):
        raise TypeError(f"{self._name}: expected a subclass that defines _chances()")


class Precision(ClassScore):
    """Of what was taken for a class, the part that was it; arguments as ClassScore's."""

    def _chances(self, predicted, actual):
        return predicted


class Recall(ClassScore):
    """Of what was of a class, the part that was taken for it; arguments as ClassScore's."""

    def _chances(self, predicted, actual):
        return actual


class F1(ClassScore):
    """The harmonic mean of precision and recall; arguments as ClassScore's."""

    def _chances(self, predicted, actual):
        return (predicted + actual) / 2


class JaccardIndex(ClassScore):
    """Intersection over union: hits over all that was taken for a class or was of it; arguments as ClassScore's."""

    def _score(self, hits, predicted, actual):
        return hits / np.maximum(predicted + actual - hits, np.finfo(float).tiny)


# ---- rankings


class Ranking(Metric):
    """Keeps all scores and targets: a ranking cannot be added up batch by batch.

    Args:
        num_classes: None for two classes with one score [N] each (higher for class 1); otherwise scores
            [N, num_classes], and every class is held against all others.
        average: 'macro' (mean over the classes that have a result), 'weighted' (each by how often it is the target) or
            None (an array, one a class).
    """

    def __init__(self, num_classes: int | None = None, average: str | None = "macro"):
        check_choice(self._name, "average", average, ("macro", "weighted", None))
        self.num_classes, self.average = num_classes, average
        super().__init__()

    def update(self, predictions, targets):
        if self.num_classes is None:
            scores, actual = _host(predictions), _host(targets).reshape(-1)
            if scores.size != actual.size:
                raise ValueError(
                    f"{self._name}: expected as many scores as targets where num_classes is None, "
                    f"got shape {scores.shape} for {actual.size} targets"
                )
            scores = scores.reshape(-1, 1)
            actual = _integers(self._name, actual)
            check_index_range(self._name, "targets", actual, 0, 2)
        else:
            scores, actual = _scores_by_class(self._name, predictions, targets)
            if scores.shape[1] != self.num_classes:
                raise ValueError(f"{self._name}: expected scores of {self.num_classes} classes, got {scores.shape[1]}")
        if np.isnan(scores).any():
            raise ValueError(f"{self._name}: expected scores that can be ordered, got NaN")
        self.state["scores"].append(scores.copy())
        self.state["targets"].append(actual.copy())

    def compute(self) -> float | np.ndarray:
        if not self.state["scores"]:
            return math.nan
        scores, targets = np.concatenate(self.state["scores"]), np.concatenate(self.state["targets"])
        if self.num_classes is None:
            return self._of_one(scores[:, 0], targets == 1)
        results = np.array([self._of_one(scores[:, c], targets == c) for c in range(self.num_classes)])
        if self.average is None:
            return results
        defined = ~np.isnan(results)
        weights = np.bincount(targets, minlength=self.num_classes) if self.average == "weighted" else defined
        return _ratio(float((results * weights)[defined].sum()), float(weights[defined].sum()))

    def _empty(self):
        return {"scores": [], "targets": []}

    def _of_one(self, scores: np.ndarray, positive: np.ndarray) -> float:
        raise TypeError(f"{self._name}: expected a subclass that defines _of_one()")


class ROCAUC(Ranking):
    """The chance that one of a class is scored above one that is not, ties counting half; arguments as Ranking's."""

    def _of_one(self, scores, positive):
        positives, negatives = int(positive.sum()), int((~positive).sum())
        if not positives or not negatives:
            return math.nan
        # Mann-Whitney: the sum of the positives' ranks, with ties sharing the mean of theirs.
        _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
        ranks = np.cumsum(counts) - (counts - 1) / 2
        above = ranks[inverse.reshape(-1)][positive].sum() - positives * (positives + 1) / 2
        return float(above / (positives * negatives))


class AveragePrecision(Ranking):
    """Precision at each threshold, weighted with the recall that it adds; arguments as Ranking's."""

    def _of_one(self, scores, positive):
        if not positive.any():
            return math.nan
        # One threshold for each different score, from the highest down.
        _, inverse, counts = np.unique(-scores, return_inverse=True, return_counts=True)
        hits = np.bincount(inverse.reshape(-1), weights=positive)
        precision = np.cumsum(hits) / np.cumsum(counts)
        return float((precision * hits).sum() / hits.sum())


class Perplexity(Metric):
    """exp of the mean negative log-likelihood of the targets.

    Args:
        ignore_index: a target that does not count, such as padding.

    Shapes:
        predictions: scores before the softmax [N, classes, ...]; targets: [N, ...].
    """

    def __init__(self, ignore_index: int | None = None):
        super().__init__()
        self.ignore_index = ignore_index

    def update(self, predictions, targets):
        scores, actual = _scores_by_class(self._name, predictions, targets, self.ignore_index)
        top = scores.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
        own = np.take_along_axis(scores, actual[:, None], axis=1)[:, 0]
        self.state["loss"] += float((log_sum - own).sum())
        self.state["count"] += len(actual)

    def compute(self) -> float:
        mean = _ratio(self.state["loss"], self.state["count"])
        return math.exp(mean) if mean < 700 else mean if math.isnan(mean) else math.inf

    def _empty(self):
        return {"loss": 0.0, "count": 0}


# ---- numbers


class _Difference(Metric):
    """The mean of a function of predictions - targets; both of one shape."""

    def update(self, predictions, targets):
        predicted, actual = _numbers(self._name, predictions, targets)
        self.state["sum"] += float(self._size(predicted - actual).sum())
        self.state["count"] += actual.size

    def compute(self) -> float:
        return _ratio(self.state["sum"], self.state["count"])

    def _empty(self):
        return {"sum": 0.0, "count": 0}

    def _size(self, difference):
        raise TypeError(f"{self._name}: expected a subclass that defines _size()")


class MAE(_Difference):
    """The mean absolute error; predictions and targets are of one shape."""

    def _size(self, difference):
        return np.abs(difference)


class MSE(_Difference):
    """The mean squared error; predictions and targets are of one shape."""

    def _size(self, difference):
        return difference**2


class R2(Metric):
    """The part of the targets' variance that is explained, averaged over the outputs: 1 - residual / total.

    Shapes:
        predictions, targets: [N, ...], with one output for each element after the first axis.
    """

    def update(self, predictions, targets):
        predicted, actual = _numbers(self._name, predictions, targets)
        if actual.ndim == 0:
            raise ValueError(f"{self._name}: expected targets as [N, ...], got a scalar")
        rows = len(actual)
        if rows == 0:
            return
        actual, predicted = actual.reshape(rows, -1), predicted.reshape(rows, -1)
        # Two variances are joined by their means (Chan, Golub & LeVeque 1983): no difference of large sums.
        mean, before = actual.mean(axis=0), self.state["count"]
        shift, both = mean - self.state["mean"], before + rows
        self.state = {
            "count": both,
            "mean": self.state["mean"] + shift * rows / both,
            "total": self.state["total"] + ((actual - mean) ** 2).sum(axis=0) + shift**2 * before * rows / both,
            "residual": self.state["residual"] + ((actual - predicted) ** 2).sum(axis=0),
        }

    def compute(self) -> float:
        if self.state["count"] < 2:
            return math.nan
        total, residual = self.state["total"], self.state["residual"]
        varies = total > 0
        explained = 1 - residual / np.where(varies, total, 1)
        return float(np.where(varies, explained, np.where(residual > 0, 0.0, 1.0)).mean())

    def _empty(self):
        return {"count": 0, "mean": np.zeros(1), "total": np.zeros(1), "residual": np.zeros(1)}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _host(x) -> np.ndarray:
    """The values as a NumPy array; floating-point ones in float64."""
    if isinstance(x, Tensor):
        x = x.numpy()
    elif type(x).__module__.partition(".")[0] == "cupy":
        x = to_device(x, "cpu")
    x = np.asarray(x)
    return x if x.dtype.kind in "iub" else x.astype(np.float64)


def _integers(metric: str, targets: np.ndarray) -> np.ndarray:
    if targets.dtype.kind not in "iub":
        raise TypeError(f"{metric}: expected targets as integers, got {targets.dtype}")
    return targets.astype(np.int64).reshape(-1)


def _numbers(metric: str, predictions, targets) -> tuple[np.ndarray, np.ndarray]:
    predicted, actual = _host(predictions).astype(np.float64), _host(targets).astype(np.float64)
    if predicted.shape != actual.shape:
        raise ValueError(f"{metric}: expected predictions of the targets' shape {actual.shape}, got {predicted.shape}")
    return predicted, actual


def _labels(metric: str, predictions, targets, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and actual classes, [everything]."""
    predicted, actual = _host(predictions), _host(targets)
    if predicted.shape == actual.shape:
        predicted = predicted >= threshold if predicted.dtype.kind == "f" else predicted
    elif predicted.ndim == actual.ndim + 1 and predicted.shape[:1] + predicted.shape[2:] == actual.shape:
        predicted = predicted.argmax(axis=1)
    else:
        raise ValueError(
            f"{metric}: expected predictions of the targets' shape {actual.shape}, or scores [N, classes, ...], "
            f"got shape {predicted.shape}"
        )
    return predicted.astype(np.int64).reshape(-1), _integers(metric, actual)


def _scores_by_class(metric: str, predictions, targets, ignored: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores [everything, classes] and targets [everything] without the ignored ones, each a class there is."""
    scores, actual = _host(predictions).astype(np.float64), _host(targets)
    if scores.ndim != actual.ndim + 1 or scores.shape[:1] + scores.shape[2:] != actual.shape:
        raise ValueError(
            f"{metric}: expected scores [N, classes, ...] for targets of shape {actual.shape}, got shape {scores.shape}"
        )
    classes = scores.shape[1]
    scores, actual = np.moveaxis(scores, 1, -1).reshape(-1, classes), _integers(metric, actual)
    if ignored is not None:
        scores, actual = scores[actual != ignored], actual[actual != ignored]
    check_index_range(metric, "targets", actual, 0, classes)
    return scores, actual
