"""The recursions of connectionist temporal classification, as Numba-CUDA kernels: see `ctc.py` for the mathematics.

A block has one sequence and its threads share the states of a time; a barrier ends each time, because a state is
reached from three of the time before. As on the CPU, all is in logarithms and in float64, and only what a sum adds to
its greatest term is computed in log_probs' type.

How arrays are laid out: labels hold all sequences', `total` in all; sequence n's begin at its `offset`, and among the
states of all sequences (2 total + batch at each time) its own begin at 2 offset + n. State s stands for label s // 2
where s is odd, for the blank where it is even. Indices have 64 bits.
"""

import math

from numba import cuda, float64

from ..launch_numba import NumbaKernel


@cuda.jit(device=True, inline="always")
def _log_sum(a, b, c, like):
    """log(exp(a) + exp(b) + exp(c)), its logarithm and exponentials in the type of `like`; NaN stays."""
    real = type(like)
    highest = b if b > a else a
    highest = c if c > highest else highest
    if highest == -math.inf:
        result = a + b + c
    else:
        total = math.exp(real(a - highest)) + math.exp(real(b - highest)) + math.exp(real(c - highest))
        result = highest + float64(math.log(total))
    return result


@cuda.jit(device=True, inline="always")
def _offset_of(n, target_lengths, padding):
    """Where sequence n's labels begin: rows of `padding` labels, or, if that is negative, one after the other."""
    offset = n * padding
    if padding < 0:
        offset = 0
        for m in range(n):
            offset += target_lengths[m]
    return offset


@cuda.jit(device=True, inline="always")
def _name_of(s, labels, offset, blank):
    """The class that a state stands for."""
    return labels[offset + s // 2] if s % 2 == 1 else blank


@cuda.jit(device=True, inline="always")
def _is_reached_by_skipping(s, labels, offset):
    """Whether a state can follow the one two before it: a label other than the label before."""
    return s % 2 == 1 and s > 1 and labels[offset + s // 2] != labels[offset + s // 2 - 1]


@NumbaKernel
def ctc_kernel(
    log_probs, labels, input_lengths, target_lengths, padding, blank, batch, classes, total, alphas, losses
):  # fmt: skip
    """alphas[t] = the log-probability of each state at time t, with all that led there; losses[n]. One block each n."""
    n = cuda.blockIdx.x
    times, states = input_lengths[n], 2 * target_lengths[n] + 1
    offset = _offset_of(n, target_lengths, padding)
    first, width = 2 * offset + n, 2 * total + batch
    for t in range(times):
        now, emitted = t * width + first, (t * batch + n) * classes
        before = now - width
        for s in range(cuda.threadIdx.x, states, cuda.blockDim.x):
            emission = log_probs[emitted + _name_of(s, labels, offset, blank)]
            if t == 0:
                reached = 0.0 if s < 2 else -math.inf
            else:
                one = alphas[before + s - 1] if s > 0 else -math.inf
                two = alphas[before + s - 2] if _is_reached_by_skipping(s, labels, offset) else -math.inf
                reached = _log_sum(alphas[before + s], one, two, emission)
            alphas[now + s] = reached + emission
        cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        if times == 0:
            losses[n] = 0.0 if states == 1 else math.inf
        else:
            last = (times - 1) * width + first + states - 1
            one = alphas[last - 1] if states > 1 else -math.inf
            losses[n] = -_log_sum(alphas[last], one, -math.inf, one)


@NumbaKernel
def ctc_grad_states_kernel(
    log_probs, labels, input_lengths, target_lengths, padding, blank, batch, classes, total, alphas, losses,
    ahead, posteriors, is_first, following,
):  # fmt: skip
    """posteriors[t] = the share of each state at time t in all alignments. One block a sequence, from the last time;
    of a sequence of infinite loss there are none.

    ahead: two rows of states, in turn: what follows time t - 1, so that time t is included. The labels of a sequence
    that are equal are chained: is_first says where a chain begins, following which label is next in it.
    """
    n = cuda.blockIdx.x
    loss, count = losses[n], target_lengths[n]
    times, states = input_lengths[n] if loss != math.inf else 0, 2 * count + 1
    offset = _offset_of(n, target_lengths, padding)
    first, width = 2 * offset + n, 2 * total + batch
    for i in range(cuda.threadIdx.x, count, cuda.blockDim.x):
        label, begins, after = labels[offset + i], 1, count
        for j in range(count):
            if labels[offset + j] == label:
                if j < i:
                    begins = 0
                elif j > i and after == count:
                    after = j
        is_first[offset + i], following[offset + i] = begins, after
    for back in range(times):
        t = times - 1 - back
        here, then = (t % 2) * width + first, ((t + 1) % 2) * width + first
        now, emitted = t * width + first, (t * batch + n) * classes
        for s in range(cuda.threadIdx.x, states, cuda.blockDim.x):
            emission = log_probs[emitted + _name_of(s, labels, offset, blank)]
            if back == 0:
                beta = 0.0 if s >= states - 2 else -math.inf
            else:
                one = ahead[then + s + 1] if s + 1 < states else -math.inf
                two = -math.inf
                if s + 2 < states and _is_reached_by_skipping(s + 2, labels, offset):
                    two = ahead[then + s + 2]
                beta = _log_sum(ahead[then + s], one, two, emission)
            posteriors[now + s] = math.exp(type(emission)(alphas[now + s] + beta + loss))
            ahead[here + s] = beta + emission
        cuda.syncthreads()


@NumbaKernel
def ctc_grad_log_probs_kernel(
    labels, input_lengths, target_lengths, padding, blank, batch, classes, total, posteriors, is_first, following,
    losses, scales, grad, zero_infinity,
):  # fmt: skip
    """grad[t, n, k] = -scales[n] * the sum of the posteriors at time t of the states that stand for class k.

    One block a time and sequence. A thread adds up the states of a label, from first to last; those of the blank are
    all threads' together: sums of its own each, then halves, always in the same order. A sequence of infinite loss has
    no derivative: NaN, or 0 with zero_infinity.
    """
    sums = cuda.shared.array(0, float64)
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    t, n = cuda.blockIdx.x // batch, cuda.blockIdx.x % batch
    count, row = target_lengths[n], (t * batch + n) * classes
    infinite = losses[n] == math.inf
    value = math.nan if infinite and t < input_lengths[n] and zero_infinity == 0 else 0.0
    for k in range(thread, classes, threads):
        grad[row + k] = value
    cuda.syncthreads()
    if t < input_lengths[n] and not infinite:
        offset, scale = _offset_of(n, target_lengths, padding), scales[n]
        now = t * (2 * total + batch) + 2 * offset + n
        for i in range(thread, count, threads):
            if is_first[offset + i] == 1:
                label_sum, j = 0.0, i
                while j < count:
                    label_sum += posteriors[now + 2 * j + 1]
                    j = following[offset + j]
                grad[row + labels[offset + i]] = -scale * label_sum
        blank_sum = 0.0
        for i in range(thread, count + 1, threads):
            blank_sum += posteriors[now + 2 * i]
        sums[thread] = blank_sum
        cuda.syncthreads()
        half = threads // 2
        while half > 0:
            if thread < half:
                sums[thread] += sums[thread + half]
            cuda.syncthreads()
            half //= 2
        if thread == 0:
            grad[row + blank] = -scale * sums[0]
