"""How results are compared: one tolerance for the whole suite, from the dtype and the length of the longest sum."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from ranvier.kernels.device import to_device

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
_EPSILON = {name: float(ml_dtypes.finfo(dtype).eps) for name, dtype in DTYPES.items()}


def assert_close(actual, exact, dtype: str, length: int = 1, what: str = "result") -> None:
    """actual (computed in `dtype`) lies within rounding of exact (float64).

    A sum of n terms in floating point errs by about sqrt(n) epsilon of its terms' size, so the bound is
    epsilon (16 + 4 sqrt(n)) times the element plus the array's root mean square. Few elements say little about the
    size of what was cancelled in them (inputs are about 1), so the root mean square counts as at least
    16 / size, up to 1.
    """
    assert actual.shape == exact.shape, f"{what}: shape {actual.shape}, expected {exact.shape}"
    if exact.dtype.kind in "iub":
        np.testing.assert_array_equal(actual, exact, err_msg=what)
        return
    if exact.size == 0:
        return
    assert actual.dtype == DTYPES[dtype], f"{what}: type {actual.dtype}, expected {dtype}"
    actual = actual.astype(np.float64)
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(actual[~finite], exact[~finite], err_msg=f"{what}: infinities and NaNs")
    if not finite.any():
        return
    scale = max(np.sqrt(np.mean(exact[finite] ** 2)), min(1.0, 16 / exact.size))
    bound = _EPSILON[dtype] * (16 + 4 * np.sqrt(length)) * (np.abs(exact[finite]) + scale) + np.finfo(np.float32).tiny
    error = np.abs(actual[finite] - exact[finite])
    worst = int(np.argmax(error - bound))
    assert (error <= bound).all(), (
        f"{what}: {int((~(error <= bound)).sum())} of {exact.size} values off; worst {actual[finite][worst]!r} "
        f"for {exact[finite][worst]!r}, {error[worst] / bound[worst]:.2f} times the bound"
    )


def float_inputs(inputs) -> tuple[bool, ...]:
    """Which inputs can have a gradient."""
    return tuple(isinstance(x, np.ndarray) and x.dtype in DTYPES.values() for x in inputs)


def as_tuple(output) -> tuple:
    return output if isinstance(output, tuple) else (output,)


def placed(x, device="cpu"):
    """An array on the device; what is none stays as it is."""
    return to_device(x, device) if isinstance(x, np.ndarray) else x


def non_contiguous(x, device="cpu"):
    """The same values on the device, spread out in memory: two elements apart along the last axis."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        return placed(x, device)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return placed(wide, device)[..., ::2]
