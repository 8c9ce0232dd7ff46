"""Boxes of detected objects: how well two overlap, which to keep, how good a detector is.

A box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, in any unit; boxes come as arrays [N, 4]. `box_iou` and `nms` are
called as torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def box_area(boxes: np.ndarray) -> np.ndarray:
    """The areas [N] of boxes [N, 4]."""
    boxes = _checked("box_area", "boxes", boxes)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_iou(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes [N, 4] and [M, 4]: [N, M] in 0..1, 0 where both areas are 0."""
    boxes1, boxes2 = _checked("box_iou", "boxes1", boxes1), _checked("box_iou", "boxes2", boxes2)
    corner = np.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    opposite = np.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    intersection = np.clip(opposite - corner, 0, None).prod(axis=2)
    union = box_area(boxes1)[:, None] + box_area(boxes2)[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Non-maximum suppression: of boxes that lie on each other, only the one with the highest score stays.

    Args:
        boxes: [N, 4].
        scores: [N]; of equal ones the first counts as the higher.
        iou_threshold: a box goes if it overlaps one that stays by more than this.

    Returns:
        Indices of the boxes that stay, highest score first.
    """
    boxes, scores = _checked("nms", "boxes", boxes), np.asarray(scores)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"nms: expected {len(boxes)} scores for as many boxes, got shape {scores.shape}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms: expected iou_threshold in [0, 1], got {iou_threshold}")
    order = np.argsort(-scores, kind="stable")
    stay = []
    while order.size:
        best, order = order[0], order[1:]
        stay.append(best)
        order = order[box_iou(boxes[best : best + 1], boxes[order])[0] <= iou_threshold]
    return np.array(stay, dtype=np.int64)


def average_precision(hits: np.ndarray, truths: int) -> float:
    """The area under the curve of precision over recall, of detections in order of falling score.

    The precision at a recall is the best at that recall or a higher one (Pascal VOC from 2010, all points).

    Args:
        hits: [N] bool, whether each detection is right.
        truths: how many there were to find; without any the result is NaN.
    """
    if truths == 0:
        return math.nan
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[np.asarray(hits, bool)].sum() / truths)


def mean_average_precision(
    detections: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    truths: Sequence[tuple[np.ndarray, np.ndarray]],
    num_classes: int,
    iou_threshold: float = 0.5,
) -> tuple[float, np.ndarray]:
    """mAP: the mean over the classes of `average_precision`.

    Of each class, the detections of all images are gone through from the highest score down. One is right if it
    overlaps a true box of its class and image, not yet taken by another, by `iou_threshold` or more; it takes the one
    that it overlaps best.

    Args:
        detections: for each image (boxes [N, 4], scores [N], labels [N]).
        truths: for each image (boxes [M, 4], labels [M]).
        num_classes: labels are 0, ..., num_classes - 1.
        iou_threshold: of a right detection.

    Returns:
        the mean over the classes that occur in `truths`, and the value of each class [num_classes], NaN where a class
        does not occur.
    """
    if len(detections) != len(truths):
        raise ValueError(f"mean_average_precision: expected detections of {len(truths)} images, got {len(detections)}")
    values = np.full(num_classes, math.nan)
    for label in range(num_classes):
        scores, hits, count = [], [], 0
        for (boxes, confidence, found), (true_boxes, true_labels) in zip(detections, truths):
            of_class = found == label
            true_of_class = true_boxes[true_labels == label]
            order = np.argsort(-confidence[of_class], kind="stable")
            scores.append(confidence[of_class][order])
            hits.append(_hits(boxes[of_class][order], true_of_class, iou_threshold))
            count += len(true_of_class)
        order = np.argsort(-np.concatenate(scores), kind="stable") if scores else np.zeros(0, np.int64)
        values[label] = average_precision(np.concatenate(hits)[order] if hits else np.zeros(0, bool), count)
    occurs = ~np.isnan(values)
    return float(values[occurs].mean()) if occurs.any() else math.nan, values


def _hits(boxes: np.ndarray, true_boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Which of an image's boxes, best first, find a true box that none before them has taken."""
    overlaps = box_iou(boxes, true_boxes)
    hits = np.zeros(len(boxes), bool)
    if not len(true_boxes):
        return hits
    for index, row in enumerate(overlaps):
        best = row.argmax()
        if row[best] >= iou_threshold:
            hits[index] = True
            overlaps[:, best] = -1  # taken
    return hits


def _checked(function: str, argument: str, boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{function}: expected {argument} as [N, 4], got shape {boxes.shape}")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"{function}: expected {argument} as (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2")
    return boxes
