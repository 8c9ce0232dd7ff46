"""Softmax and its logarithm over one axis, and the logarithm of a sum of exponentials.

    softmax:      y_i = e^(x_i - m) / sum_j e^(x_j - m)        m the largest x, so that nothing overflows
    log_softmax:  y_i = x_i - m - log sum_j e^(x_j - m)
    logsumexp:    y = m + log sum_j e^(x_j - m)                [..., n, ...] -> the axis gone, or of size 1

A row of nothing but -inf gives NaN (softmax, log_softmax) or -inf (logsumexp), as in PyTorch.
"""

from __future__ import annotations

import numpy as np

from ..check import check_float, check_number, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample


def _check_axis(operation, x, axis):
    check_float(operation, "x", x)
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        refuse_type(operation, "axis", "as an integer", type(axis).__qualname__)
    if x.ndim == 0:
        refuse_value(operation, "x", "of at least one axis", "a scalar")
    check_number(operation, "axis", axis, -x.ndim, x.ndim - 1)


def _check_softmax(x, *, axis=-1):
    """x: at least one axis; axis: the one whose elements shall add up to 1."""
    _check_axis("softmax", x, axis)


def _check_log_softmax(x, *, axis=-1):
    """x: at least one axis; axis: the one whose elements' exponentials shall add up to 1."""
    _check_axis("log_softmax", x, axis)


def _check_logsumexp(x, *, axis=-1, keepdims=False):
    """x: at least one axis; axis: the one to sum over; keepdims: leave it in the shape, of size 1."""
    _check_axis("logsumexp", x, axis)
    if not isinstance(keepdims, bool):
        refuse_type("logsumexp", "keepdims", "as a bool", type(keepdims).__qualname__)


def _cost_softmax(x, *, axis=-1):
    return Cost(flops=5 * x.size, bytes=2 * x.size * x.dtype.itemsize)


def _cost_logsumexp(x, *, axis=-1, keepdims=False):
    return Cost(flops=4 * x.size, bytes=(x.size + x.size // max(x.shape[axis], 1)) * x.dtype.itemsize)


def _vary(pick):
    shape = tuple(pick(0, 20) for _ in range(pick(1, 4)))
    return Sample("varied", {"x": shape}, {"axis": pick(-len(shape), len(shape) - 1)})


def _declare(name, check, cost, more_samples=()):
    return Operation(
        name,
        __name__,
        check=check,
        cost=cost,
        reduction_length=lambda x, *, axis=-1, **_: max(x.shape[axis], 1),
        vary=_vary,
        samples=[
            Sample("classes", {"x": (32, 10)}),
            Sample("rows", {"x": (5, 3, 67)}),
            Sample("pixels", {"x": (2, 5, 7, 19)}, {"axis": 1}),
            Sample("columns", {"x": (21, 150)}, {"axis": 0}),
            Sample("tall_columns", {"x": (2, 261, 33)}, {"axis": 1}),
            Sample("first_of_three", {"x": (4, 3, 5)}, {"axis": -3}),
            Sample("vector", {"x": (1025,)}),
            Sample("one", {"x": (1, 1)}),
            Sample("no_rows", {"x": (0, 4)}),
            Sample("no_columns", {"x": (3, 4, 0)}, {"axis": 1}),
            Sample("attention", {"x": (8, 12, 512, 512)}, large=True),
            Sample("vocabulary", {"x": (512, 50257)}, large=True),
            Sample("segmentation", {"x": (8, 21, 256, 256)}, {"axis": 1}, large=True),
            *more_samples,
        ],
        refused=[
            Refused("integers", {"x": np.zeros(3, int)}, TypeError, "expected x of type"),
            Refused("scalar", {"x": np.zeros(())}, ValueError, "x of at least one axis"),
            Refused("axis", {"x": np.zeros((2, 3))}, ValueError, r"axis in \[-2, 1\], got 2", {"axis": 2}),
            Refused(
                "axis_type", {"x": np.zeros((2, 3))}, TypeError, "axis as an integer, got NoneType", {"axis": None}
            ),
        ],
    )


_empty_rows = Sample("empty_rows", {"x": (3, 0)})
_kept_axis = Sample("kept_axis", {"x": (3, 4, 5)}, {"axis": 1, "keepdims": True})

softmax = _declare("softmax", _check_softmax, _cost_softmax, [_empty_rows])
log_softmax = _declare("log_softmax", _check_log_softmax, _cost_softmax, [_empty_rows])
logsumexp = _declare("logsumexp", _check_logsumexp, _cost_logsumexp, [_kept_axis])
