"""What each operation is called in NumPy and SciPy, or in CuPy: one line an operation, forward passes only.

A call takes the module (numpy or cupy) and its `special` functions, then the inputs and attributes.
"""

from __future__ import annotations

_SAME_NAME = (
    "abs", "add", "ceil", "cos", "divide", "equal", "exp", "expm1", "floor", "floor_divide", "greater",
    "greater_equal", "isfinite", "isinf", "isnan", "less", "less_equal", "log", "log1p", "logical_and", "logical_not",
    "logical_or", "logical_xor", "matmul", "maximum", "minimum", "multiply", "negative", "not_equal", "power",
    "reciprocal", "remainder", "sign", "sin", "sqrt", "square", "subtract", "tanh", "where",
)  # fmt: skip


def _same_name(name):
    return lambda xp, special, *arrays: getattr(xp, name)(*arrays)


def _reduction(name):
    return lambda xp, special, x, *, axis, keepdims=False: getattr(xp, name)(x, axis, keepdims=keepdims)


NEED_SCIPY = {"erf", "sigmoid", "softmax", "log_softmax", "logsumexp"}

CALLS = {name: _same_name(name) for name in _SAME_NAME} | {
    "round": lambda xp, special, x: xp.round(x),
    "clip": lambda xp, special, x, *, min=None, max=None: xp.clip(x, min, max),
    "erf": lambda xp, special, x: special.erf(x),
    "sigmoid": lambda xp, special, x: special.expit(x),
    "softmax": lambda xp, special, x, *, axis=-1: special.softmax(x, axis),
    "log_softmax": lambda xp, special, x, *, axis=-1: special.log_softmax(x, axis),
    "logsumexp": lambda xp, special, x, *, axis=-1, keepdims=False: special.logsumexp(x, axis, keepdims=keepdims),
    "relu": lambda xp, special, x: xp.maximum(x, 0),
    **{name: _reduction(name) for name in ("all", "amax", "amin", "any", "mean", "prod", "sum")},
    "argmax": lambda xp, special, x, *, axis, keepdims=False: xp.argmax(x, axis, keepdims=keepdims),
    "argmin": lambda xp, special, x, *, axis, keepdims=False: xp.argmin(x, axis, keepdims=keepdims),
    "var": lambda xp, special, x, *, axis, keepdims=False, correction=1.0: xp.var(
        x, axis, ddof=correction, keepdims=keepdims
    ),
    "std": lambda xp, special, x, *, axis, keepdims=False, correction=1.0: xp.std(
        x, axis, ddof=correction, keepdims=keepdims
    ),
    "cumsum": lambda xp, special, x, *, axis: xp.cumsum(x, axis),
    "cumprod": lambda xp, special, x, *, axis: xp.cumprod(x, axis),
    "concatenate": lambda xp, special, *arrays, axis: xp.concatenate(arrays, axis),
    "gather": lambda xp, special, x, index, *, axis: xp.take_along_axis(x, index, axis),
    "roll": lambda xp, special, x, *, shifts, axes: xp.roll(x, shifts, axes),
    "triangle": lambda xp, special, x, *, diagonal=0, upper=False: (xp.triu if upper else xp.tril)(x, diagonal),
    "embedding": lambda xp, special, indices, weight, *, padding_idx=None, scale_grad_by_freq=False: xp.take(
        weight, indices, 0
    ),
    "gradient_scale": lambda xp, special, gradient, *, factor: gradient * gradient.dtype.type(factor),
    "gradient_clip": lambda xp, special, gradient, *, low, high: xp.clip(gradient, low, high),
}
