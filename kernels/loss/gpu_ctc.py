"""Connectionist temporal classification on CuPy arrays: the recursions are Numba-CUDA kernels (`gpu_ctc_kernels.py`),
what leads from the losses of the sequences to the output, and from its gradient back to them, Triton's.

Numba-CUDA is imported when CTC is first asked for: no other loss needs it. The host waits for nothing here: the states
of all sequences lie one after the other, so that no length has to be known to make room for them.
"""

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import cast, contiguous
from ..launch import ceil_div, empty, launch
from .gpu_reduce import Reduction, load_scale, wide_type

_BLOCK = 256
_MOST_WARPS, _MOST_SUMMING_WARPS = 16, 8


@triton.jit
def ctc_output_kernel(
    losses, target_lengths, shown, partial, batch, MEAN: tl.constexpr, ZERO_INFINITY: tl.constexpr, BLOCK: tl.constexpr
):
    """shown = the sequences' losses, or partial = their sums: infinite ones 0 if asked, for a mean by target length."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < batch
    loss = tl.load(losses + n, mask=inside, other=0.0)
    if ZERO_INFINITY:
        loss = tl.where(loss == float("inf"), 0.0, loss)
    if MEAN:
        loss = loss / tl.maximum(tl.load(target_lengths + n, mask=inside, other=1), 1).to(tl.float64)
    if shown is not None:
        tl.store(shown + n, loss.to(shown.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + tl.program_id(0), tl.sum(loss, axis=0))


@triton.jit
def ctc_scales_kernel(
    grad_output, factor, target_lengths, scales, batch, MEAN: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr
):
    """scales = what the derivative of each sequence's loss is multiplied with."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < batch
    scale = tl.zeros((BLOCK,), tl.float64) + load_scale(grad_output, factor, n, inside, EACH)
    if MEAN:
        scale = scale / tl.maximum(tl.load(target_lengths + n, mask=inside, other=1), 1).to(tl.float64)
    tl.store(scales + n, scale, mask=inside)


def ctc_loss_forward(
    log_probs, targets, input_lengths, target_lengths, *, blank=0, zero_infinity=False, reduction="mean"
):
    from .gpu_ctc_kernels import ctc_kernel

    x = contiguous(cast(log_probs, wide_type(log_probs)[0]))
    times, classes = x.shape[0], x.shape[-1]
    batch, total = input_lengths.size, targets.size
    integers = [_flat(cast(a, np.int64)) for a in (targets, input_lengths, target_lengths)]
    padding = targets.shape[1] if targets.ndim == 2 else -1
    sequences = (*integers, padding, int(blank), batch, classes, total)
    losses, alphas = empty(x, (batch,), np.float64), empty(x, (times * (2 * total + batch),), np.float64)
    launch(ctc_kernel, (batch,), _flat(x), *sequences, alphas, losses, num_warps=_warps_of_states(padding, total))

    programs = ceil_div(batch, _BLOCK)
    reduced = Reduction(log_probs, log_probs.shape[1:-1], reduction, programs, batch)
    mean, zero_infinity = reduction == "mean", bool(zero_infinity)
    launch(
        ctc_output_kernel, (programs,), losses, integers[2], reduced.losses, reduced.partial, batch,
        MEAN=mean, ZERO_INFINITY=zero_infinity, BLOCK=_BLOCK,
    )  # fmt: skip
    return reduced.output(log_probs), (x, sequences, alphas, losses, mean, zero_infinity, reduced, log_probs.dtype)


def ctc_loss_backward(saved, grad_output, needs):
    if not needs[0]:
        return None, None, None, None
    from .gpu_ctc_kernels import ctc_grad_log_probs_kernel, ctc_grad_states_kernel

    x, sequences, alphas, losses, mean, zero_infinity, reduced, dtype = saved
    labels, _, target_lengths, padding, _, batch, classes, total = sequences
    scales = empty(losses)
    *scale, each = reduced.scale(grad_output)
    launch(
        ctc_scales_kernel, (ceil_div(batch, _BLOCK),), *scale, target_lengths, scales, batch,
        MEAN=mean, EACH=each, BLOCK=_BLOCK,
    )  # fmt: skip
    ahead, posteriors = empty(x, (2 * (2 * total + batch),), np.float64), empty(x, alphas.shape)
    is_first, following = empty(labels), empty(labels)
    launch(
        ctc_grad_states_kernel, (batch,), _flat(x), *sequences, alphas, losses, ahead, posteriors, is_first, following,
        num_warps=_warps_of_states(padding, total),
    )  # fmt: skip
    grad, warps = empty(x), _warps(classes, _MOST_SUMMING_WARPS)
    launch(
        ctc_grad_log_probs_kernel, (x.shape[0] * batch,), *sequences, posteriors, is_first, following, losses, scales,
        _flat(grad), int(zero_infinity), num_warps=warps, shared_bytes=8 * 32 * warps,
    )  # fmt: skip
    return cast(grad, dtype), None, None, None


def _flat(x):
    """A C-contiguous array of one axis: what a Numba kernel sees of an array."""
    return contiguous(x).reshape(x.size)


def _warps_of_states(padding: int, total: int) -> int:
    """Enough for the states of the longest target that there can be, up to a limit."""
    return _warps(2 * (total if padding < 0 else padding) + 1, _MOST_WARPS)


def _warps(items: int, most: int) -> int:
    """A thread for each of so many, up to a limit; powers of two, so that few forms are compiled."""
    return min(triton.next_power_of_2(ceil_div(items, 32)), most)
