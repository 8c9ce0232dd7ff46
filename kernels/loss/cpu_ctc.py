"""Connectionist temporal classification on NumPy arrays: one sequence for each thread.

The recursions run in float64 and in logarithms, whatever log_probs' type: over hundreds of times the alphas reach -1000
and more, where float32 has three digits left after the point, and a scaled recursion would lose states that only the
end of the sequence proves right. The forward pass keeps alpha, the backward pass needs beta of one time at once.
"""

import math

import numpy as np
from numba import prange

from ..cpu_jit import kernel, serial_kernel
from ..memory import empty, zeros
from .cpu_reduce import reduce_losses


@serial_kernel
def log_sum(a, b, c):
    """log(exp(a) + exp(b) + exp(c))."""
    highest = max(a, max(b, c))
    if highest == -np.inf:
        return a + b + c
    return highest + math.log(math.exp(a - highest) + math.exp(b - highest) + math.exp(c - highest))


@kernel
def ctc_kernel(log_probs, labels, offsets, input_lengths, target_lengths, blank, alphas, losses):
    """labels: all sequences' labels, sequence n's from offsets[n]. alphas: [N, T, states]; losses: [N]."""
    for n in prange(log_probs.shape[1]):
        times, count, first = input_lengths[n], target_lengths[n], offsets[n]
        states, alpha = 2 * count + 1, alphas[n]
        for t in range(times):
            blank_probability = float(log_probs[t, n, blank])
            for s in range(states):
                odd = s % 2 == 1
                label = labels[first + s // 2] if odd else blank
                if t == 0:
                    before = 0.0 if s < 2 else -np.inf
                else:
                    skips = odd and s > 1 and label != labels[first + s // 2 - 1]
                    before = log_sum(
                        alpha[t - 1, s],
                        alpha[t - 1, s - 1] if s > 0 else -np.inf,
                        alpha[t - 1, s - 2] if skips else -np.inf,
                    )
                alpha[t, s] = before + (float(log_probs[t, n, label]) if odd else blank_probability)
        if times == 0:
            losses[n] = 0.0 if count == 0 else np.inf
        else:
            last = alpha[times - 1]
            losses[n] = -log_sum(last[states - 1], last[states - 2] if count > 0 else -np.inf, -np.inf)


@kernel
def ctc_grad_kernel(log_probs, labels, offsets, input_lengths, target_lengths, blank, alphas, losses, scales, grad):
    """grad: [T, N, C], zero at first. A sequence of infinite loss has no derivative: NaN, or 0 if its scale is 0."""
    for n in prange(log_probs.shape[1]):
        times, count, first = input_lengths[n], target_lengths[n], offsets[n]
        states, scale = 2 * count + 1, scales[n]
        if losses[n] == np.inf:
            for t in range(times):
                for c in range(log_probs.shape[2]):
                    grad[t, n, c] = 0.0 if scale == 0.0 else np.nan
        else:
            beta = np.empty(states, np.float64)
            for s in range(states):
                beta[s] = 0.0 if s >= states - 2 else -np.inf
            for back in range(times):
                t = times - 1 - back
                for s in range(states):
                    label = labels[first + s // 2] if s % 2 == 1 else blank
                    grad[t, n, label] -= scale * math.exp(alphas[n, t, s] + beta[s] + losses[n])
                    # From here beta holds what follows *including* time t, as the step to t - 1 needs it.
                    beta[s] += float(log_probs[t, n, label])
                for s in range(states):  # upwards: beta[s] needs those above it, not yet stepped
                    skips = s % 2 == 1 and s + 2 < states and labels[first + s // 2] != labels[first + s // 2 + 1]
                    beta[s] = log_sum(
                        beta[s], beta[s + 1] if s + 1 < states else -np.inf, beta[s + 2] if skips else -np.inf
                    )


def _lengths(x):
    return np.ascontiguousarray(x, dtype=np.int64).reshape(-1)


def ctc_loss_forward(
    log_probs, targets, input_lengths, target_lengths, *, blank=0, zero_infinity=False, reduction="mean"
):
    x = np.ascontiguousarray(log_probs)
    x = x[:, None, :] if x.ndim == 2 else x
    times, batch, _ = x.shape
    input_lengths, target_lengths, labels = _lengths(input_lengths), _lengths(target_lengths), _lengths(targets)
    if targets.ndim == 2:
        offsets = np.arange(batch) * targets.shape[1]
    else:
        offsets = np.cumsum(target_lengths) - target_lengths
    alphas = empty((batch, times, 2 * int(target_lengths.max(initial=0)) + 1), np.float64)
    losses = empty(batch, np.float64)
    call = (x, labels, offsets, input_lengths, target_lengths, int(blank), alphas, losses)
    ctc_kernel(*call)
    counted = losses < np.inf if zero_infinity else np.ones(batch, bool)
    shares = 1 / np.maximum(target_lengths, 1) if reduction == "mean" else np.ones(batch)
    shown = np.where(counted, losses, 0.0) * shares
    output, factor = reduce_losses(shown, reduction, batch, log_probs.shape[1:-1])
    with np.errstate(over="ignore"):
        output = output.astype(x.dtype)
    return output, (call, shares * counted * factor, log_probs.shape)


def ctc_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None, None, None
    call, shares, shape = saved
    scales = shares * grad_output.astype(np.float64).reshape(-1)
    grad = zeros(call[0].shape, call[0].dtype)
    ctc_grad_kernel(*call, scales, grad)
    return grad.reshape(shape), None, None, None
