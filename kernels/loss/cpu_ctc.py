"""Connectionist temporal classification on NumPy arrays: one sequence for each thread.

The recursions run in logarithms and in float64, whatever log_probs' type: over hundreds of times alpha reaches -1000
and more, where float32 has three digits left after the point, and a scaled recursion would lose states that only the
end of the sequence proves right. Only what a sum adds to its greatest term, at most log 3, is computed in log_probs'
type. The forward pass keeps alpha; the backward pass needs beta of one time at once.

Alpha has two columns of -infinity before the first state, and beta two after the last, so that no step asks for the
borders; `gates` holds 0 where a state may be reached from two before, -infinity where not. So all states of a time are
one vector loop.
"""

import numpy as np
from numba import prange
from numba.extending import register_jitable

from ..cpu_jit import kernel, serial_kernel
from ..cpu_math import exp, log
from ..memory import empty, zeros
from .cpu_reduce import reduce_losses

_LEAST = -80.0  # exp of less vanishes beside 1, and costs a hundred cycles where it is subnormal
_WORTH_THREADS = 1 << 10  # states of all times; fewer are there before another thread has woken up


@register_jitable(forceinline=True)
def _bounded_exp(x, like):
    """exp(x) in the type of the array `like`, x at least _LEAST; NaN stays."""
    return exp(like.dtype.type(_LEAST if x < _LEAST else x))


@register_jitable(forceinline=True)
def _log_sum(a, b, c, like):
    """log(exp(a) + exp(b) + exp(c)), its logarithm and exponentials in the type of the array `like`."""
    highest = max(a, max(b, c))
    base = 0.0 if highest == -np.inf else highest
    total = _bounded_exp(a - base, like) + _bounded_exp(b - base, like) + _bounded_exp(c - base, like)
    result = base + np.float64(log(total))
    return a + b + c if highest == -np.inf else result


@serial_kernel
def ctc_states(labels, blank, names, gates):
    """names: the class of each state; gates: 0 where a state may be reached from two before it, -infinity elsewhere."""
    for s in range(names.size):
        names[s] = labels[s // 2] if s % 2 == 1 else blank
        gates[s] = 0.0 if s % 2 == 1 and s > 1 and labels[s // 2] != labels[s // 2 - 1] else -np.inf


@serial_kernel
def ctc_step(stay, one, two, gates, like, reached):
    """reached[s] = log(exp(stay[s]) + exp(one[s]) + exp(two[s] + gates[s])), for vectors of states."""
    for s in range(reached.size):
        reached[s] = _log_sum(stay[s], one[s], two[s] + gates[s], like)


@kernel
def ctc_kernel(log_probs, labels, offsets, input_lengths, target_lengths, blank, alphas, losses):
    """labels: all sequences' labels, sequence n's from offsets[n]. alphas: [N, T, 2 + states]; losses: [N]."""
    for n in prange(log_probs.shape[1]):
        times, count, first = input_lengths[n], target_lengths[n], offsets[n]
        states, alpha = 2 * count + 1, alphas[n]
        names, gates = np.empty(states, np.int64), np.empty(states)
        emissions, reached = np.empty(states), np.empty(states)
        ctc_states(labels[first : first + count], blank, names, gates)
        for t in range(times):
            now, before = alpha[t], alpha[max(t - 1, 0)]
            now[0], now[1] = -np.inf, -np.inf
            for s in range(states):
                emissions[s] = log_probs[t, n, names[s]]
            if t == 0:
                for s in range(states):
                    now[s + 2] = emissions[s] if s < 2 else -np.inf
            else:
                ctc_step(before[2:], before[1:], before, gates, log_probs, reached)
                for s in range(states):
                    now[s + 2] = reached[s] + emissions[s]
        if times == 0:
            losses[n] = 0.0 if count == 0 else np.inf
        else:
            last = alpha[times - 1]
            losses[n] = -_log_sum(last[states + 1], last[states], -np.inf, log_probs)


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
            names, gates = np.empty(states, np.int64), np.full(states + 2, -np.inf)
            ctc_states(labels[first : first + count], blank, names, gates[:states])
            posterior = np.empty(states, log_probs.dtype)
            # beta: what follows time t; beta_here: what follows time t - 1, so time t included.
            beta, beta_here = np.empty(states), np.full(states + 2, -np.inf)
            for s in range(states):
                beta[s] = 0.0 if s >= states - 2 else -np.inf
            for back in range(times):
                t = times - 1 - back
                alpha = alphas[n, t]
                for s in range(states):
                    logarithm = alpha[s + 2] + beta[s] + losses[n]
                    posterior[s] = 0.0 if logarithm < _LEAST else _bounded_exp(logarithm, log_probs)
                for s in range(states):
                    grad[t, n, names[s]] -= scale * posterior[s]
                    beta_here[s] = beta[s] + log_probs[t, n, names[s]]
                ctc_step(beta_here, beta_here[1:], beta_here[2:], gates[2:], log_probs, beta)


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
    alphas = empty((batch, times, 2 * int(target_lengths.max(initial=0)) + 3), np.float64)
    losses = empty(batch, np.float64)
    call = (x, labels, offsets, input_lengths, target_lengths, int(blank), alphas, losses)
    (ctc_kernel if alphas.size > _WORTH_THREADS else ctc_kernel.serial)(*call)
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
    alphas = call[6]
    (ctc_grad_kernel if alphas.size > _WORTH_THREADS else ctc_grad_kernel.serial)(*call, scales, grad)
    return grad.reshape(shape), None, None, None
