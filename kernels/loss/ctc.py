"""Connectionist temporal classification: the negative log-probability of a label sequence, over all its alignments.

An alignment names a label or the blank at each time; runs of one name are merged, then blanks dropped. With l' the
labels with blanks between and around them (2 S + 1 states) and y_t(k) = exp(log_probs[t, k]):

    alpha_t(s) = (alpha_t-1(s) + alpha_t-1(s - 1) + [l'_s not blank, l'_s != l'_s-2] alpha_t-1(s - 2)) y_t(l'_s)
    loss = -log(alpha_T(2 S + 1) + alpha_T(2 S))
    d loss / d log_probs[t, k] = -sum over s with l'_s = k of alpha_t(s) beta_t(s) exp(loss)

beta_t(s) being the probability of all that follows time t from state s. This is the derivative itself; PyTorch's adds
exp(log_probs), which makes no difference after a log-softmax and is wrong elsewhere.

A. Graves et al., Connectionist temporal classification, ICML 2006.
"""

from __future__ import annotations

import numpy as np

from ..check import check_float, check_index_range, check_integer, check_shape, refuse_type, refuse_value
from ..device import to_device
from ..operation import Cost, Operation, Refused, Sample, Values
from .common import REDUCTIONS, check_flag, check_reduction


def _check_ctc_loss(
    log_probs, targets, input_lengths, target_lengths, *, blank=0, zero_infinity=False, reduction="mean"
):
    """log_probs: [T, N, C], or [T, C] for one sequence. The others are integer arrays.

    targets: [N, S] of which each row's first target_lengths[n] labels count, or [sum of target_lengths], one sequence
    after the other; labels in [0, C) other than blank. input_lengths, target_lengths: [N] (for one sequence [] too), in
    0..T and 0..S.
    """
    check_float("ctc_loss", "log_probs", log_probs)
    if log_probs.ndim not in (2, 3) or log_probs.shape[-1] == 0:
        refuse_value("ctc_loss", "log_probs", "as [T, N, C] or [T, C]", f"shape {log_probs.shape}")
    batch = log_probs.shape[1] if log_probs.ndim == 3 else 1
    for argument, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        check_integer("ctc_loss", argument, lengths)
        if log_probs.ndim == 3 or lengths.ndim:
            check_shape("ctc_loss", argument, lengths, (batch,), "one for each sequence")
    check_integer("ctc_loss", "targets", targets)
    # Labels and lengths are few beside log_probs, and asked more questions than a kernel answers: of a GPU, copies.
    targets, input_lengths, target_lengths = (to_device(x, "cpu") for x in (targets, input_lengths, target_lengths))
    check_index_range("ctc_loss", "input_lengths", input_lengths, 0, log_probs.shape[0] + 1)
    if isinstance(blank, bool) or not isinstance(blank, (int, np.integer)):
        refuse_type("ctc_loss", "blank", "as an integer", type(blank).__qualname__)
    if not 0 <= blank < log_probs.shape[-1]:
        refuse_value("ctc_loss", "blank", f"in [0, {log_probs.shape[-1]})", blank)
    _check_labels(targets, target_lengths, batch, log_probs.shape[-1], blank)
    check_flag("ctc_loss", "zero_infinity", zero_infinity)
    check_reduction("ctc_loss", reduction)


def _check_labels(targets, target_lengths, batch, classes, blank):
    """The labels that count lie in [0, classes) and are not the blank; what pads them may be anything."""
    if targets.ndim == 2:
        check_shape("ctc_loss", "targets", targets, (batch, targets.shape[1]), "one row for each sequence")
        check_index_range("ctc_loss", "target_lengths", target_lengths, 0, targets.shape[1] + 1)
        places = np.arange(targets.shape[1])
        labels = targets[places < target_lengths.reshape(-1, 1)]
    else:
        check_index_range("ctc_loss", "target_lengths", target_lengths, 0, targets.size + 1)
        total = int(target_lengths.sum())
        check_shape("ctc_loss", "targets", targets, (total,), "the sum of target_lengths; or [N, S]")
        labels = targets
    check_index_range("ctc_loss", "targets", labels, 0, classes)
    if (labels == blank).any():
        refuse_value("ctc_loss", "targets", "without the blank", blank)


def _cost_ctc(log_probs, targets, input_lengths, target_lengths, **attributes):
    times, states = int(input_lengths.sum()), 2 * int(target_lengths.max(initial=0)) + 1
    return Cost(flops=6 * times * states, bytes=log_probs.nbytes + targets.nbytes)


def _ctc_sample(name, times, classes, input_lengths, target_lengths, *, padding=None, large=False, **attributes):
    """Sequences of the lengths given; targets padded to `padding` labels, or one after the other."""
    batch = len(input_lengths)
    blank = attributes.get("blank", 0)
    rng = np.random.default_rng(times)
    labels = rng.integers(0, classes - 1, sum(target_lengths) if padding is None else (batch, padding))
    inputs = {
        "log_probs": (times, batch, classes),
        "targets": Values(labels + (labels >= blank)),
        "input_lengths": Values(np.array(input_lengths, np.int64)),
        "target_lengths": Values(np.array(target_lengths, np.int64)),
    }
    return Sample(name, inputs, attributes, large)


def _vary_ctc(pick):
    times, batch, classes, padding = pick(1, 9), pick(0, 4), pick(2, 5), pick(0, 5)
    input_lengths = [pick(0, times) for _ in range(batch)]
    target_lengths = [pick(0, padding) for _ in range(batch)]
    attributes = {"blank": pick(0, classes - 1), "zero_infinity": pick.of((True, False))}
    attributes["reduction"] = pick.of(REDUCTIONS)
    padding = pick.of((None, padding))
    return _ctc_sample("varied", times, classes, input_lengths, target_lengths, padding=padding, **attributes)


def _one_sequence(input_length=4, labels=(1, 2), **changes):
    inputs = {
        "log_probs": np.zeros((4, 1, 3)),
        "targets": np.array([labels]),
        "input_lengths": np.array([input_length]),
        "target_lengths": np.array([2]),
    }
    return {**inputs, **changes}


ctc_loss = Operation(
    "ctc_loss",
    __package__,
    check=_check_ctc_loss,
    cost=_cost_ctc,
    reduction_length=lambda log_probs, *_, **__: max(log_probs.size, 1),
    vary=_vary_ctc,
    samples=[
        _ctc_sample("padded", 9, 6, [9, 7, 8], [3, 2, 1], padding=4),
        _ctc_sample("joined", 9, 6, [9, 7, 8], [3, 2, 1], reduction="none"),
        _ctc_sample("last_is_blank", 9, 3, [9, 9], [4, 3], padding=4, blank=2, reduction="sum"),
        _ctc_sample("empty_targets", 5, 3, [5, 2], [0, 1], padding=2),
        _ctc_sample("impossible_left_out", 5, 3, [5, 2], [2, 4], padding=4, zero_infinity=True),
        _ctc_sample("no_sequences", 5, 3, [], [], padding=2, reduction="sum"),
        Sample(
            "one_sequence",
            {
                "log_probs": (6, 4),
                "targets": Values([1, 1, 3]),
                "input_lengths": Values(np.int64(6)),
                "target_lengths": Values(np.int64(3)),
            },
        ),
        _ctc_sample("speech", 500, 29, [500] * 16, [80] * 16, padding=80, large=True),
    ],
    refused=[
        Refused("axes", _one_sequence(log_probs=np.zeros(3)), ValueError, r"log_probs as \[T, N, C\] or"),
        Refused("times", _one_sequence(5), ValueError, r"input_lengths in \[0, 5\), got 5"),
        Refused("batch", _one_sequence(input_lengths=np.array([4, 4])), ValueError, "one for each"),
        Refused("label", _one_sequence(labels=(1, 3)), ValueError, r"targets in \[0, 3\), got 3"),
        Refused("blank_label", _one_sequence(labels=(1, 0)), ValueError, "targets without the blank, got 0"),
        Refused("length", _one_sequence(target_lengths=np.array([3])), ValueError, r"target_lengths in \[0, 3\)"),
        Refused("joined", _one_sequence(targets=np.array([1, 2, 1])), ValueError, r"targets of shape \(2,\)"),
        Refused("floats", _one_sequence(target_lengths=np.array([2.0])), TypeError, "target_lengths of an integer"),
        Refused("blank", _one_sequence(), ValueError, r"blank in \[0, 3\), got 3", {"blank": 3}),
    ],
)
