"""Boxes: overlap, suppression and mean average precision against cases worked by hand and against properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.train.boxes import average_precision, box_area, box_iou, mean_average_precision, nms

NONE = np.zeros((0, 4))
few = settings(max_examples=80, deadline=None, derandomize=True)


@st.composite
def boxes(draw, most=8):
    """Boxes with corners on a coarse grid, so that they meet, contain each other and have no area now and then."""
    count = draw(st.integers(0, most))
    numbers = draw(st.lists(st.integers(0, 12), min_size=4 * count, max_size=4 * count))
    corners = np.array(numbers, float).reshape(count, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).reshape(count, 4)


def test_overlap_of_boxes_worked_by_hand():
    first = np.array([[0, 0, 2, 2], [5, 5, 5, 5]])
    second = np.array([[1, 1, 3, 3], [0, 0, 2, 1], [2, 0, 4, 2], [0, 0, 2, 2], [5, 5, 5, 5]])
    expected = [[1 / 7, 1 / 2, 0, 1, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_allclose(box_iou(first, second), expected)
    assert box_area(second).tolist() == [4, 2, 4, 4, 0]
    assert box_iou(NONE, second).shape == (0, 5)


@few
@given(boxes(), boxes(), st.floats(0.1, 9), st.integers(-20, 20))
def test_overlap_is_symmetric_and_knows_no_place_or_scale(a, b, scale, shift):
    overlap = box_iou(a, b)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    np.testing.assert_array_equal(overlap, box_iou(b, a).T)
    np.testing.assert_allclose(overlap, box_iou(a * scale + shift, b * scale + shift), atol=1e-9)
    np.testing.assert_allclose(np.diag(box_iou(a, a)), box_area(a) > 0)
    # The same number by counting the unit cells of the grid that both, or either, cover.
    grid = np.arange(12)
    covers = [np.outer((grid >= y1) & (grid < y2), (grid >= x1) & (grid < x2)).ravel() for x1, y1, x2, y2 in [*a, *b]]
    for i in range(len(a)):
        for j in range(len(b)):
            one, other = covers[i], covers[len(a) + j]
            assert overlap[i, j] == pytest.approx((one & other).sum() / max((one | other).sum(), 1))


def test_suppression_worked_by_hand():
    # 0 and 1 overlap by 0.5, 1 and 2 by 0.6, 0 and 2 by 0.26: when 1 goes, it no longer suppresses 2.
    given_boxes = np.array([[0, 0, 6, 10], [2, 0, 8, 10], [3.5, 0, 9.5, 10], [20, 20, 21, 21]])
    scores = np.array([0.9, 0.8, 0.7, 0.95])
    assert nms(given_boxes, scores, 0.45).tolist() == [3, 0, 2]
    assert nms(given_boxes, scores, 0.5).tolist() == [3, 0, 1]
    assert nms(given_boxes, scores, 1.0).tolist() == [3, 0, 1, 2]
    assert nms(NONE, np.zeros(0), 0.5).tolist() == []
    assert nms(np.ones((3, 1)) * [0, 0, 1, 1], np.ones(3), 0.5).tolist() == [0]


@few
@given(boxes(), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_what_stays_lies_apart_and_what_goes_lies_on_something_better(given_boxes, seed, threshold):
    scores = np.random.default_rng(seed).random(len(given_boxes))
    stay = nms(given_boxes, scores, threshold)
    assert (np.diff(scores[stay]) <= 0).all()
    overlap = box_iou(given_boxes, given_boxes)
    assert (overlap[np.ix_(stay, stay)][~np.eye(len(stay), dtype=bool)] <= threshold).all()
    for gone in set(range(len(given_boxes))) - set(stay.tolist()):
        assert any(overlap[gone, s] > threshold and scores[s] >= scores[gone] for s in stay)


def test_average_precision_worked_by_hand():
    # Precision 1, 1/2, 2/3, 2/4, 3/5: the best from there on is 1, 2/3, 2/3, 3/5, 3/5; hits at 1, 3 and 5.
    hits = np.array([1, 0, 1, 0, 1], bool)
    assert average_precision(hits, 3) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(hits, 6) == pytest.approx((1 + 2 / 3 + 3 / 5) / 6)
    # A late run of hits lifts the precision of earlier ones.
    assert average_precision(np.array([0, 1, 1, 1], bool), 3) == pytest.approx(3 / 4)
    assert average_precision(np.zeros(0, bool), 2) == 0
    assert math.isnan(average_precision(np.zeros(4, bool), 0))


@few
@given(st.lists(st.booleans(), max_size=12), st.integers(0, 4))
def test_average_precision_is_the_area_under_the_best_precision_at_each_recall(hits, more):
    hits = np.array(hits, bool)
    truths = int(hits.sum()) + more
    if truths == 0:
        return
    points = [(hits[:n].sum() / truths, hits[:n].mean()) for n in range(1, len(hits) + 1)]
    steps = [max((p for recall, p in points if recall >= (k + 0.5) / truths), default=0) for k in range(truths)]
    assert average_precision(hits, truths) == pytest.approx(np.mean(steps))


def test_mean_average_precision_worked_by_hand():
    # The sure detections are those of the second image: scores count across images.
    true = [
        (np.array([[0, 0, 10, 10]]), np.array([0])),
        (np.array([[0, 0, 10, 10], [20, 0, 30, 10]]), np.array([0, 1])),
    ]
    found = [
        (np.array([[0, 0, 10, 6]]), np.array([0.6]), np.array([0])),
        # right, a second one on the same box (wrong), the right place with the wrong class (wrong)
        (np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10]]), np.array([0.9, 0.8, 0.7]), np.array([0, 0, 0])),
    ]
    mean, each = mean_average_precision(found, true, num_classes=3)
    assert each[0] == pytest.approx((1 + 2 / 4) / 2)
    assert each[1] == 0
    assert math.isnan(each[2])
    assert mean == pytest.approx(0.375)
    assert mean_average_precision(found, true, 3, iou_threshold=0.7)[1][0] == pytest.approx(1 / 2)
    assert math.isnan(mean_average_precision([], [], 2)[0])


def test_a_detection_takes_the_free_box_that_it_overlaps_best():
    true = [(np.array([[0, 0, 10, 10], [4, 0, 14, 10]]), np.array([0, 0]))]
    found = [(np.array([[1, 0, 11, 10], [1, 0, 11, 10]]), np.array([0.9, 0.8]), np.array([0, 0]))]
    assert mean_average_precision(found, true, 1)[0] == 1.0


@few
@given(boxes(6), st.integers(0, 2**32 - 1))
def test_perfect_detections_score_one_and_only_the_order_of_scores_counts(given_boxes, seed):
    rng = np.random.default_rng(seed)
    given_boxes = np.add(given_boxes, [0, 0, 1, 1])  # some area
    labels, scores = rng.integers(0, 3, len(given_boxes)), rng.random(len(given_boxes))
    truth = [(given_boxes, labels), (NONE, np.zeros(0, int))]
    empty = (NONE, np.zeros(0), np.zeros(0, int))
    mean, _ = mean_average_precision([(given_boxes, scores, labels), empty], truth, 3)
    assert math.isnan(mean) if not len(labels) else mean == 1.0
    shuffled = rng.permutation(labels)
    one, _ = mean_average_precision([(given_boxes, scores, shuffled), empty], truth, 3)
    other, _ = mean_average_precision([(given_boxes, np.exp(5 * scores), shuffled), empty], truth, 3)
    np.testing.assert_array_equal(one, other)
    assert not one > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: box_iou(np.zeros(4), NONE), r"^box_iou: expected boxes1 as \[N, 4\], got shape \(4,\)"),
        (lambda: box_iou(NONE, np.array([[2, 0, 1, 1]])), "^box_iou: expected boxes2 as .* x1 <= x2"),
        (lambda: nms(NONE, np.zeros(1), 0.5), "^nms: expected 0 scores"),
        (lambda: nms(NONE, np.zeros(0), 50), r"^nms: expected iou_threshold in \[0, 1\], got 50"),
        (lambda: mean_average_precision([], [(NONE, np.zeros(0))], 1), "expected detections of 1 images, got 0"),
    ],
)
def test_bad_input_is_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
