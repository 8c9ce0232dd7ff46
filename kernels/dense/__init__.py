"""Dense layers' products: a fused affine map with activation, and (batched) matrix products.

    dense:   y = activation(x W^T + b)        x: [..., in_features], W: [out_features, in_features], b: [out_features]
    matmul:  c = a b                          over the last two axes, leading axes broadcast as in NumPy

Gradients of dense, with z the sum before the activation and g = grad_y * activation'(z):

    grad_x = g W        grad_W = g^T x        grad_b = sum of g over all rows

`reference.py` is the definition, `cpu.py` and `gpu.py` are the kernels.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_choice, check_float, check_same_dtype, check_shape, refuse_value
from ..operation import Cost, Operation, Refused, Sample

ACTIVATIONS = (None, "relu", "sigmoid", "tanh", "gelu")


def _check_dense(x, weight, bias=None, *, activation=None):
    """x: [..., in_features], weight: [out_features, in_features], bias: [out_features] or None, all of one type."""
    check_float("dense", "x", x)
    check_same_dtype("dense", "x", x, "weight", weight)
    check_same_dtype("dense", "x", x, "bias", bias)
    check_choice("dense", "activation", activation, ACTIVATIONS)
    if weight.ndim != 2:
        refuse_value("dense", "weight", "as [out_features, in_features]", f"shape {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        refuse_value("dense", "x", f"as [..., {weight.shape[1]}] (weight is {weight.shape})", f"shape {x.shape}")
    if bias is not None:
        check_shape("dense", "bias", bias, (weight.shape[0],), "[out_features]")


def _cost_dense(x, weight, bias=None, *, activation=None):
    rows, (columns, inner) = math.prod(x.shape[:-1]), weight.shape
    elements = x.size + weight.size + rows * columns + (0 if bias is None else columns)
    return Cost(flops=2 * rows * columns * inner, bytes=elements * x.dtype.itemsize)


def _dense_sample(name, rows, inner, columns, activation=None, *, bias=True, large=False):
    inputs = {"x": (*rows, inner), "weight": (columns, inner), "bias": (columns,) if bias else None}
    return Sample(name, inputs, {"activation": activation}, large)


def _vary_dense(pick):
    rows = tuple(pick(0, 5) for _ in range(pick(0, 3)))
    return _dense_sample("varied", rows, pick(1, 40), pick(1, 40), pick.of(ACTIVATIONS), bias=pick.of((True, False)))


dense = Operation(
    "dense",
    __name__,
    check=_check_dense,
    by_form=True,
    cost=_cost_dense,
    reduction_length=lambda x, weight, bias=None, **_: max(weight.shape[1], weight.shape[0], x.size // x.shape[-1]),
    vary=_vary_dense,
    samples=[
        _dense_sample("digits", (32,), 64, 10),
        _dense_sample("digits_hidden", (32,), 64, 128, "relu"),
        _dense_sample("sequence", (4, 7), 33, 65, "tanh", bias=False),
        _dense_sample("gate", (17,), 31, 15, "sigmoid"),
        _dense_sample("one_row", (), 5, 3),
        _dense_sample("no_rows", (0,), 5, 3, "gelu"),
        _dense_sample("one_by_one", (1,), 1, 1),
        _dense_sample("transformer_up", (128,), 768, 3072, "gelu", large=True),
        _dense_sample("vgg_classifier", (64,), 4096, 4096, "relu", large=True),
    ],
    refused=[
        Refused("integers", {"x": np.zeros((2, 3), int), "weight": np.zeros((4, 3))}, TypeError, "expected x of type"),
        Refused("mixed", {"x": np.zeros((2, 3)), "weight": np.zeros((4, 3), "f4")}, TypeError, "weight of x's type"),
        Refused(
            "inner", {"x": np.zeros((2, 5)), "weight": np.zeros((4, 3))}, ValueError, r"x as \[\.\.\., 3\].*\(2, 5\)"
        ),
        Refused("vector", {"x": np.zeros((2, 3)), "weight": np.zeros(3)}, ValueError, r"weight as \[out_features, in_"),
        Refused(
            "bias",
            {"x": np.zeros((2, 3)), "weight": np.zeros((4, 3)), "bias": np.zeros(3)},
            ValueError,
            r"bias of shape \(4,\)",
        ),
        Refused(
            "activation",
            {"x": np.zeros((2, 3)), "weight": np.zeros((4, 3)), "bias": None},
            ValueError,
            "activation as one of None, 'relu'",
            {"activation": "step"},
        ),
    ],
)


def _check_matmul(a, b):
    """a: [..., m, k], b: [..., k, n] of one type; a vector stands for a row (a) or a column (b)."""
    check_float("matmul", "a", a)
    check_same_dtype("matmul", "a", a, "b", b)
    if a.ndim == 0 or b.ndim == 0:
        refuse_value("matmul", "a and b", "of at least one axis", f"shapes {a.shape} and {b.shape}")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        refuse_value("matmul", "b", f"with an inner axis of {a.shape[-1]} (a is {a.shape})", f"shape {b.shape}")
    if a.ndim == b.ndim == 2:
        return
    try:
        np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        refuse_value("matmul", "leading axes of b", f"that broadcast with a's {a.shape[:-2]}", b.shape[:-2])


def _cost_matmul(a, b):
    batch = math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    m, n = a.shape[-2] if a.ndim > 1 else 1, b.shape[-1] if b.ndim > 1 else 1
    return Cost(flops=2 * batch * m * n * a.shape[-1], bytes=(a.size + b.size + batch * m * n) * a.dtype.itemsize)


def _vary_matmul(pick):
    batch = tuple(pick(1, 3) for _ in range(pick(0, 2)))
    m, k, n = pick(0, 20), pick(1, 20), pick(1, 20)
    a_batch = tuple(1 if pick(0, 3) == 0 else size for size in batch)
    return Sample("varied", {"a": (*a_batch, m, k), "b": (*batch[pick(0, len(batch)) :], k, n)})


matmul = Operation(
    "matmul",
    __name__,
    check=_check_matmul,
    by_form=True,
    cost=_cost_matmul,
    reduction_length=lambda a, b: max(a.size, b.size, 1),
    vary=_vary_matmul,
    samples=[
        Sample("square", {"a": (33, 33), "b": (33, 33)}),
        Sample("batched", {"a": (4, 3, 17, 9), "b": (4, 3, 9, 5)}),
        Sample("broadcast", {"a": (4, 1, 7, 9), "b": (3, 9, 5)}),
        Sample("vector_matrix", {"a": (9,), "b": (9, 5)}),
        Sample("matrix_vector", {"a": (2, 7, 9), "b": (9,)}),
        Sample("dot", {"a": (9,), "b": (9,)}),
        Sample("no_rows", {"a": (0, 4), "b": (4, 3)}),
        Sample("no_inner", {"a": (2, 0), "b": (0, 3)}),
        Sample("gemm_1024", {"a": (1024, 1024), "b": (1024, 1024)}, large=True),
        Sample("attention_scores", {"a": (8, 12, 512, 64), "b": (8, 12, 64, 512)}, large=True),
    ],
    refused=[
        Refused("inner", {"a": np.zeros((2, 3)), "b": np.zeros((4, 5))}, ValueError, "b with an inner axis of 3"),
        Refused("scalar", {"a": np.zeros(()), "b": np.zeros(3)}, ValueError, "at least one axis"),
        Refused(
            "batch", {"a": np.zeros((2, 3, 3)), "b": np.zeros((4, 3, 3))}, ValueError, r"broadcast with a's \(2,\)"
        ),
        Refused("mixed", {"a": np.zeros((3, 3)), "b": np.zeros((3, 3), "f4")}, TypeError, "b of a's type float64"),
    ],
)
