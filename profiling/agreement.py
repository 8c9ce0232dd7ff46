"""Whether two libraries computed the same: checked before anything is timed, so that no wrong result gets a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from .cases import DTYPES, Case

# Each library draws its own random numbers: how many elements agree by chance is known, and is compared instead.
_RANDOM = {
    "dropout": lambda p, **_: p * p + (1 - p) * (1 - p),
    "channel_dropout": lambda p, **_: p * p + (1 - p) * (1 - p),
    "alpha_dropout": lambda p, **_: p * p + (1 - p) * (1 - p),
    "feature_alpha_dropout": lambda p, **_: p * p + (1 - p) * (1 - p),
    "rrelu": lambda **_: 0.5,  # the positive half
}


def disagreement(case: Case, ours: Sequence, theirs: Sequence, inputs: Sequence, what: str) -> str | None:
    """What is wrong with the peer's arrays beside ours, in a sentence; None if they agree.

    Both are computed in the case's type, so both may err: by epsilon (16 + 4 sqrt(n)) for sums of n terms, in units of
    the element plus the array's root mean square. `theirs` may be shorter: outputs that the peer does not give.
    """
    length = case.operation.reduction_length
    terms = length(*inputs, **case.sample.attributes) if length else 1
    share = _RANDOM.get(case.operation.name)
    expected = share(**case.sample.attributes) if share else None
    for index, (mine, other) in enumerate(zip(ours, theirs)):
        where = f"{what} {index}" if len(ours) > 1 else what
        if mine.shape != other.shape:
            return f"{where}: shape {other.shape}, Ranvier's is {mine.shape}"
        # A reduction that Ranvier sums accurately, whatever its length, may be a plain sum in the peer.
        longest = max(terms, *(x.size // max(mine.size, 1) for x in inputs if hasattr(x, "size")))
        wrong = _wrong(mine, other, case.dtype, longest)
        if expected is not None:
            if np.mean(~wrong) < expected - 5 * math.sqrt(expected * (1 - expected) / _drawn(case, mine)):
                return f"{where}: {np.mean(~wrong):.0%} of the elements agree, expected {expected:.0%} by chance"
        elif wrong.any():
            return (
                f"{where}: {wrong.sum():,} of {wrong.size:,} elements differ, the first: {_first(wrong, mine, other)}"
            )
    return None


def _drawn(case: Case, array: np.ndarray) -> int:
    """How many random numbers decide about the array: one an element, or one a channel."""
    whole_channels = case.operation.name in ("channel_dropout", "feature_alpha_dropout")
    return max(math.prod(array.shape[: case.attributes["mask_axes"]]) if whole_channels else array.size, 1)


def _wrong(mine: np.ndarray, other: np.ndarray, dtype: str, terms: int) -> np.ndarray:
    if mine.dtype.kind in "iub":
        return mine != other
    mine, other = mine.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(mine) & np.isfinite(other)
    scale = max(np.sqrt(np.mean(mine[finite] ** 2)), min(1.0, 16 / max(mine.size, 1))) if finite.any() else 1.0
    epsilon = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    bound = 2 * epsilon * (16 + 4 * np.sqrt(terms)) * (np.abs(np.where(finite, mine, 0)) + scale)
    same = (mine == other) | (np.isnan(mine) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        return ~(same | (finite & (np.abs(mine - other) <= bound)))


def _first(wrong: np.ndarray, mine: np.ndarray, other: np.ndarray) -> str:
    place = np.unravel_index(np.argmax(wrong), wrong.shape)
    return f"{other[place]} for {mine[place]} at {tuple(map(int, place))}"
