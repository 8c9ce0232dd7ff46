"""Metrics against scikit-learn, in one batch and in many, and at their edges."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as judge

from ranvier.layers import Tensor
from ranvier.train.metrics import (
    F1,
    MAE,
    MSE,
    R2,
    ROCAUC,
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    JaccardIndex,
    Perplexity,
    Precision,
    Recall,
    TopKAccuracy,
)

rng = np.random.default_rng(0)
CLASSES = 5
SCORES = rng.standard_normal((101, CLASSES)).astype(np.float32)
LABELS = rng.integers(0, CLASSES, 101)
PREDICTED = SCORES.argmax(axis=1)
CHANCES = np.round(rng.random(101), 1)  # rounded: many ties
BINARY = rng.integers(0, 2, 101)


def in_batches(metric, predictions, targets):
    """Updated with three batches of different sizes, tensors and arrays, one of them empty."""
    for part in (slice(0, 40), slice(40, 40), slice(40, 41), slice(41, None)):
        metric.update(Tensor(predictions[part]), targets[part])
    return metric.compute()


def test_accuracy():
    expected = judge.accuracy_score(LABELS, PREDICTED)
    assert in_batches(Accuracy(), SCORES, LABELS) == pytest.approx(expected)
    assert in_batches(Accuracy(), PREDICTED, LABELS) == pytest.approx(expected)
    assert in_batches(Accuracy(threshold=0.3), CHANCES, BINARY) == pytest.approx(
        judge.accuracy_score(BINARY, CHANCES >= 0.3)
    )
    kept = LABELS != 2
    assert in_batches(Accuracy(ignore_index=2), SCORES, LABELS) == pytest.approx(
        judge.accuracy_score(LABELS[kept], PREDICTED[kept])
    )


def test_accuracy_of_pixels():
    scores, labels = rng.standard_normal((2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    metric = Accuracy()
    metric.update(scores, labels)
    assert metric.compute() == pytest.approx((scores.argmax(1) == labels).mean())


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_top_k_accuracy(k):
    expected = judge.top_k_accuracy_score(LABELS, SCORES, k=k) if k < CLASSES else 1.0
    assert in_batches(TopKAccuracy(k), SCORES, LABELS) == pytest.approx(expected)


def test_top_k_of_ties_counts_k():
    metric = TopKAccuracy(2)
    metric.update(np.zeros((4, 4)), np.arange(4))
    assert metric.compute() == 0.5


def test_confusion_matrix():
    np.testing.assert_array_equal(
        in_batches(ConfusionMatrix(CLASSES), SCORES, LABELS), judge.confusion_matrix(LABELS, PREDICTED)
    )


CLASS_SCORES = [
    (Precision, judge.precision_score),
    (Recall, judge.recall_score),
    (F1, judge.f1_score),
    (JaccardIndex, judge.jaccard_score),
]


@pytest.mark.parametrize(("metric", "judged"), CLASS_SCORES)
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
def test_class_scores(metric, judged, average):
    expected = judged(LABELS, PREDICTED, average=average, zero_division=0)
    np.testing.assert_allclose(in_batches(metric(average, CLASSES), SCORES, LABELS), expected, rtol=1e-12)


@pytest.mark.parametrize(("metric", "judged"), CLASS_SCORES)
def test_binary_scores(metric, judged):
    assert in_batches(metric(), CHANCES, BINARY) == pytest.approx(judged(BINARY, CHANCES >= 0.5))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    average=st.sampled_from(["macro", "micro", "weighted"]),
)
def test_class_scores_where_classes_are_missing(data, average):
    predicted, actual = map(np.array, zip(*data))
    for metric, judged in CLASS_SCORES:
        mine = metric(average, 4)
        mine.update(predicted, actual)
        assert mine.compute() == pytest.approx(judged(actual, predicted, average=average, zero_division=0))


RANKINGS = [(ROCAUC, judge.roc_auc_score), (AveragePrecision, judge.average_precision_score)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_binary_rankings_with_ties(data):
    scores, actual = map(np.array, zip(*data))
    if actual.all() or not actual.any():
        return
    for metric, judged in RANKINGS:
        mine = metric()
        mine.update(scores / 4, actual)
        assert mine.compute() == pytest.approx(judged(actual, scores / 4))


@pytest.mark.parametrize(("metric", "judged"), RANKINGS)
@pytest.mark.parametrize("average", ["macro", "weighted", None])
def test_rankings_one_class_against_the_rest(metric, judged, average):
    scores = np.round(SCORES.astype(np.float64), 1)
    expected = judged(np.eye(CLASSES)[LABELS], scores, average=average)
    np.testing.assert_allclose(in_batches(metric(CLASSES, average), scores, LABELS), expected, rtol=1e-12)


def test_rankings_of_one_class_only_are_not_defined():
    for metric in (ROCAUC(), ROCAUC(3)):
        metric.update(np.zeros(4) if metric.num_classes is None else np.zeros((4, 3)), np.zeros(4, int))
        assert math.isnan(metric.compute())


def test_perplexity():
    probabilities = np.exp(SCORES.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = np.exp(judge.log_loss(LABELS, probabilities, labels=range(CLASSES)))
    assert in_batches(Perplexity(), SCORES, LABELS) == pytest.approx(expected)
    metric = Perplexity(ignore_index=-100)
    metric.update(1e4 * np.eye(3)[None].repeat(2, 0), np.array([[0, 1, -100], [-100, -100, 2]]))
    assert metric.compute() == pytest.approx(1.0)
    metric.update(1e4 * np.eye(3)[None], np.array([[1, 2, 0]]))
    assert metric.compute() == math.inf


@pytest.mark.parametrize("shape", [(101,), (101, 3)])
def test_regression(shape):
    actual = 1e6 + rng.standard_normal(shape)
    predicted = actual + 0.3 * rng.standard_normal(shape)
    assert in_batches(MAE(), predicted, actual) == pytest.approx(judge.mean_absolute_error(actual, predicted))
    assert in_batches(MSE(), predicted, actual) == pytest.approx(judge.mean_squared_error(actual, predicted))
    assert in_batches(R2(), predicted, actual) == pytest.approx(judge.r2_score(actual, predicted), rel=1e-9)


def test_r2_of_targets_that_do_not_vary():
    for predicted in (np.ones(3), np.arange(3.0)):
        metric = R2()
        metric.update(predicted, np.ones(3))
        assert metric.compute() == judge.r2_score(np.ones(3), predicted)


ALL = [
    (Accuracy(), SCORES, LABELS),
    (TopKAccuracy(2), SCORES, LABELS),
    (ConfusionMatrix(CLASSES), SCORES, LABELS),
    (Precision("macro", CLASSES), SCORES, LABELS),
    (Recall("micro", CLASSES), SCORES, LABELS),
    (F1(None, CLASSES), SCORES, LABELS),
    (JaccardIndex("weighted", CLASSES), SCORES, LABELS),
    (ROCAUC(), CHANCES, BINARY),
    (AveragePrecision(CLASSES), SCORES, LABELS),
    (Perplexity(), SCORES, LABELS),
    (MAE(), CHANCES, CHANCES[::-1]),
    (MSE(), CHANCES, CHANCES[::-1]),
    (R2(), CHANCES, CHANCES[::-1]),
]


@pytest.mark.parametrize(("metric", "predictions", "targets"), ALL, ids=lambda x: getattr(x, "_name", ""))
def test_nothing_is_nan_reset_forgets_and_state_goes_on(metric, predictions, targets):
    metric = copy.deepcopy(metric)
    nothing = np.asarray(metric.compute())
    assert np.isnan(nothing).all() or not nothing.any()
    metric.update(predictions, targets)
    expected = metric.compute()
    metric.reset()
    np.testing.assert_array_equal(np.asarray(metric.compute()), nothing)
    metric.update(predictions[:50], targets[:50])
    other = copy.deepcopy(metric)
    other.reset()
    other.load_state_dict(metric.state_dict())
    other.update(predictions[50:], targets[50:])
    np.testing.assert_allclose(other.compute(), expected, rtol=1e-12)
    plain = {k: v for k, v in metric.state_dict().items() if not isinstance(v, (np.ndarray, list))}
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Accuracy().update(np.zeros((3, 2)), np.zeros(4, int)), ValueError, "^Accuracy: expected predictions"),
        (
            lambda: Accuracy().update(np.zeros((3, 2)), np.zeros(3)),
            TypeError,
            "^Accuracy: expected targets as integers",
        ),
        (lambda: TopKAccuracy(0), ValueError, r"^TopKAccuracy: expected k in \[1"),
        (lambda: TopKAccuracy(1).update(np.zeros((3, 2)), np.full(3, 2)), ValueError, r"targets in \[0, 2\), got 2"),
        (lambda: ConfusionMatrix(2).update(np.full(3, 2), np.zeros(3, int)), ValueError, r"predictions in \[0, 2\)"),
        (lambda: F1("macro"), ValueError, "^F1: expected num_classes where average is 'macro'"),
        (lambda: F1("binary", 3), ValueError, "^F1: expected 2 classes"),
        (lambda: Recall("mean", 3), ValueError, "^Recall: expected average as one of 'binary', 'macro'"),
        (lambda: ROCAUC().update(np.zeros((3, 2)), np.zeros(3, int)), ValueError, "^ROCAUC: expected as many scores"),
        (lambda: ROCAUC().update(np.full(3, np.nan), np.zeros(3, int)), ValueError, "can be ordered, got NaN"),
        (lambda: ROCAUC().update(np.zeros(3), np.full(3, 7)), ValueError, r"targets in \[0, 2\), got 7"),
        (lambda: ROCAUC(4).update(np.zeros((3, 2)), np.zeros(3, int)), ValueError, "scores of 4 classes, got 2"),
        (lambda: MSE().update(np.zeros((3, 1)), np.zeros(3)), ValueError, r"targets' shape \(3,\), got \(3, 1\)"),
        (lambda: R2().update(np.zeros(()), np.zeros(())), ValueError, "got a scalar"),
    ],
)
def test_bad_input_is_refused_with_a_reason(call, error, message):
    with pytest.raises(error, match=message):
        call()
