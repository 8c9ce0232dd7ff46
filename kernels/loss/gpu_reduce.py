"""From the losses of all rows to the output on the device: sums in two stages, in a fixed order and in float64.

The first stage belongs to each loss's own kernel: program i writes the sum of its losses to `partial[i]`. The second is
here: one program adds them up from first to last. Divisor and factor of the gradient stay on the device, so that the
host never waits.
"""

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import empty, launch


@triton.jit
def load_wide(array, offset, inside):
    """Elements in the type that is computed in: float32, or float64 for arrays of that type."""
    value = tl.load(array + offset, mask=inside, other=0.0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value


@triton.jit
def as_wide(number, like):
    """A number that the host gave in double precision, in the type that is computed in."""
    return tl.full((), number, like.dtype)


@triton.jit
def load_scale(grad_output, factor, offset, inside, EACH: tl.constexpr):
    """What a row's gradient is multiplied with: its own output's gradient, or the only one times a factor."""
    if EACH:
        scale = load_wide(grad_output, offset, inside)
    else:
        scale = tl.load(grad_output)
        if scale.dtype != tl.float64:
            scale = scale.to(tl.float32)
        if factor is not None:
            scale = scale * tl.load(factor).to(scale.dtype)
    return scale


@triton.jit
def loss_kernel(partial, weights, output, factor, count, divisor: tl.float64, BLOCK: tl.constexpr):
    """output = the sum of partial / divisor, or of `weights` where they are given; factor = 1 / divisor.

    The mean of nothing is NaN and its factor 0.
    """
    total, weight = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        offset = start + tl.arange(0, BLOCK)
        total += tl.load(partial + offset, mask=offset < count, other=0.0)
        if weights is not None:
            weight += tl.load(weights + offset, mask=offset < count, other=0.0)
    if weights is not None:
        whole = tl.sum(weight, axis=0)
    else:
        whole = tl.full((), divisor, tl.float64)
    something = whole != 0
    inverse = 1.0 / tl.where(something, whole, 1.0)
    loss = tl.where(something, tl.sum(total, axis=0) / tl.where(something, whole, 1.0), float("nan"))
    tl.store(output, loss.to(output.dtype.element_ty))
    tl.store(factor, tl.where(something, inverse, 0.0))


def wide_type(x):
    """The type that is computed in, for the host and for kernels."""
    return (np.float64, tl.float64) if x.dtype == np.float64 else (np.float32, tl.float32)


class Reduction:
    """How the losses of `shape` become the output, for a loss whose first-stage kernel has `programs` programs.

    Attributes:
        losses: where the kernel writes each loss, or None if only sums are wanted.
        partial: where program i writes the sum of its losses, or None.
        weights: where it writes the sum of their weights, or None.
    """

    def __init__(self, like, shape, reduction, programs, divisor=1.0, weighted=False):
        self.each = reduction == "none"
        self.losses = empty(like, shape) if self.each else None
        self.partial = None if self.each else empty(like, (programs,), np.float64)
        self.weights = empty(like, (programs,), np.float64) if weighted and reduction == "mean" else None
        self.factor = None if self.each else empty(like, (1,), np.float64)
        self._divisor = 1.0 if reduction == "sum" else float(divisor)

    def output(self, like):
        """The losses, or their sum over the divisor: the second stage."""
        if self.each:
            return self.losses
        output = empty(like, ())
        count = self.partial.size
        launch(loss_kernel, (1,), self.partial, self.weights, output, self.factor, count, self._divisor, BLOCK=1024)
        return output

    def scale(self, grad_output) -> tuple:
        """(grad_output, factor, EACH) for `load_scale`."""
        return contiguous(grad_output), self.factor, self.each
