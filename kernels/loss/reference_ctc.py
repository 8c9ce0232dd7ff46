"""Connectionist temporal classification: the recursions of Graves et al. 2006, in logarithms, one state at a time."""

import numpy as np

from .reference_elementwise import reduce


def _sequences(targets, target_lengths):
    """Each sequence's labels."""
    if targets.ndim == 2:
        return [row[:length] for row, length in zip(targets, target_lengths)]
    return np.split(targets, np.cumsum(target_lengths)[:-1])


def _log_sum(values):
    highest = max(values)
    return highest if highest == -np.inf else highest + np.log(np.exp(np.array(values) - highest).sum())


def _one_loss(log_y, labels, blank):
    """The loss of one sequence and its derivative by log_y: [T, C]."""
    states = [blank]
    for label in labels:
        states += [label, blank]
    times, count = len(log_y), len(states)
    derivative = np.zeros(log_y.shape)
    if times == 0:
        return (0.0 if count == 1 else np.inf), derivative

    def leads(s):
        """The states from which one can step to s."""
        skips = s > 1 and states[s] not in (blank, states[s - 2])
        return [s] + [s - 1] * (s > 0) + [s - 2] * skips

    alpha, beta = np.full((times, count), -np.inf), np.full((times, count), -np.inf)
    for s in range(min(2, count)):
        alpha[0, s] = log_y[0, states[s]]
    for t in range(1, times):
        for s in range(count):
            alpha[t, s] = _log_sum([alpha[t - 1, before] for before in leads(s)]) + log_y[t, states[s]]
    ends = range(max(0, count - 2), count)
    loss = -_log_sum([alpha[-1, s] for s in ends])
    if loss == np.inf:
        return loss, np.full(log_y.shape, np.nan)
    for s in ends:
        beta[-1, s] = 0.0
    for t in range(times - 2, -1, -1):
        for s in range(count):
            followers = [after for after in range(s, min(s + 3, count)) if s in leads(after)]
            beta[t, s] = _log_sum([beta[t + 1, after] + log_y[t + 1, states[after]] for after in followers])
    for t in range(times):
        for s in range(count):
            derivative[t, states[s]] -= np.exp(alpha[t, s] + beta[t, s] + loss)
    return loss, derivative


def ctc_loss_forward(
    log_probs, targets, input_lengths, target_lengths, *, blank=0, zero_infinity=False, reduction="mean"
):
    x = log_probs[:, None] if log_probs.ndim == 2 else log_probs
    input_lengths, target_lengths = np.atleast_1d(input_lengths), np.atleast_1d(target_lengths)
    losses, derivatives = np.zeros(x.shape[1]), np.zeros(x.shape)
    for n, labels in zip(range(x.shape[1]), _sequences(targets, target_lengths)):
        losses[n], derivatives[: input_lengths[n], n] = _one_loss(x[: input_lengths[n], n], labels, blank)
    if zero_infinity:
        derivatives[:, np.isinf(losses)] = 0
        losses[np.isinf(losses)] = 0
    if reduction == "mean":
        share = 1 / np.maximum(target_lengths, 1)
        losses, derivatives = losses * share, derivatives * share[:, None]
    output, scale = reduce(losses if log_probs.ndim == 3 else losses.reshape(()), reduction)
    return output, (derivatives.reshape(log_probs.shape), scale)


def ctc_loss_backward(saved, grad_output, needs):
    derivatives, scale = saved
    g = grad_output[:, None] if grad_output.ndim else grad_output
    return derivatives * g * scale if needs[0] else None, None, None, None
