"""Embeddings: rows of a table looked up by index, one by one or reduced over bags.

    embedding:      y[i] = weight[indices[i]]
    embedding_bag:  y[b] = sum, mean or maximum of weight[indices[k]] over the positions k of bag b; a sum may weigh
                    each position: y[b] = sum of per_sample_weights[k] weight[indices[k]]

Their gradient adds up, for each row, what the positions that looked it up received: grad_weight[r] = sum of grad_y[i]
over indices[i] = r, in the order of the positions, whatever the number of threads. The row `padding_idx` gets none, and
bags leave it out; with `scale_grad_by_freq` a row's gradient is divided by how often it was looked up. (Both are other
than the derivative, on purpose.) With m the position that holds the maximum (the first, if several do), the maximum's
gradient goes to weight[indices[m]] alone.

    embedding_renorm:  the rows looked up, scaled down to a norm of at most max_norm
    one_hot:           1 at the index, 0 elsewhere
"""

from __future__ import annotations

import math

import numpy as np

from ..check import (
    check_array,
    check_choice,
    check_float,
    check_index_range,
    check_integer,
    check_number,
    check_same_dtype,
    check_shape,
    refuse_type,
    refuse_value,
)
from ..device import to_device
from ..operation import Cost, Integers, Operation, Refused, Sample, Values

MODES = ("sum", "mean", "max")


def _check_lookup(operation, indices, weight, padding_idx=None):
    """What all operations with a table ask: every index is a row."""
    check_integer(operation, "indices", indices)
    check_float(operation, "weight", weight)
    if weight.ndim != 2:
        refuse_value(operation, "weight", "as [num_embeddings, embedding_dim]", f"shape {weight.shape}")
    check_index_range(operation, "indices", indices, 0, weight.shape[0])
    if padding_idx is not None:
        if not isinstance(padding_idx, (int, np.integer)) or isinstance(padding_idx, bool):
            refuse_type(operation, "padding_idx", "as an integer or None", type(padding_idx).__qualname__)
        if not 0 <= padding_idx < weight.shape[0]:
            refuse_value(operation, "padding_idx", f"in [0, {weight.shape[0]})", padding_idx)


def _check_embedding(indices, weight, *, padding_idx=None, scale_grad_by_freq=False):
    """indices: integers of any shape, weight: [num_embeddings, embedding_dim]; padding_idx: a row or None."""
    _check_lookup("embedding", indices, weight, padding_idx)
    check_choice("embedding", "scale_grad_by_freq", scale_grad_by_freq, (False, True))


def _embedding_sample(name, shape, rows, columns, *, large=False, **attributes):
    return Sample(name, {"indices": Integers(shape, 0, rows), "weight": (rows, columns)}, attributes, large)


def _lookup_refused(**attributes):
    """Calls that every operation with a table refuses."""
    table, good = np.zeros((5, 3)), np.zeros((2, 4), int)
    return [
        Refused(
            "floats", {"indices": np.zeros(4), "weight": table}, TypeError, "indices of an integer type", attributes
        ),
        Refused("table", {"indices": good, "weight": np.zeros(5)}, ValueError, r"weight as \[num_embed", attributes),
        Refused(
            "too_large", {"indices": good + 5, "weight": table}, ValueError, r"indices in \[0, 5\), got 5", attributes
        ),
        Refused(
            "negative", {"indices": good - 1, "weight": table}, ValueError, r"indices in \[0, 5\), got -1", attributes
        ),
        Refused("no_rows", {"indices": good, "weight": table[:0]}, ValueError, r"indices in \[0, 0\)", attributes),
        Refused("integer_table", {"indices": good, "weight": good}, TypeError, "weight of type float16", attributes),
    ]


def _padding_refused():
    return [
        Refused(
            "padding",
            {"indices": np.zeros((2, 4), int), "weight": np.zeros((5, 3))},
            ValueError,
            r"padding_idx in \[0, 5\), got 5",
            {"padding_idx": 5},
        ),
        Refused(
            "padding_type",
            {"indices": np.zeros((2, 4), int), "weight": np.zeros((5, 3))},
            TypeError,
            "padding_idx as an integer or None, got float",
            {"padding_idx": 1.0},
        ),
        Refused(
            "frequency",
            {"indices": np.zeros((2, 4), int), "weight": np.zeros((5, 3))},
            ValueError,
            "scale_grad_by_freq as one of False, True",
            {"scale_grad_by_freq": 2},
        ),
    ]


embedding = Operation(
    "embedding",
    __name__,
    check=_check_embedding,
    cost=lambda indices, weight, **_: Cost(
        flops=0,
        bytes=indices.nbytes + 2 * indices.size * weight.shape[1] * weight.dtype.itemsize,
    ),
    reduction_length=lambda indices, weight, **_: indices.size,
    vary=lambda pick: _embedding_sample(
        "varied",
        tuple(pick(0, 6) for _ in range(pick(0, 3))),
        rows := pick(1, 9),
        pick(0, 9),
        padding_idx=pick.of((None, 0, rows - 1)),
        scale_grad_by_freq=pick.of((False, True)),
    ),
    samples=[
        _embedding_sample("sentences", (4, 7), 11, 33),
        _embedding_sample("repeated", (50,), 7, 16),
        _embedding_sample("one_index", (), 7, 5),
        _embedding_sample("no_indices", (0, 3), 4, 5),
        _embedding_sample("no_columns", (2, 3), 4, 0),
        _embedding_sample("gpt2", (8, 1024), 50257, 768, large=True),
    ],
    refused=[*_lookup_refused(), *_padding_refused()],
)


def bag_bounds(indices, offsets, include_last_offset) -> np.ndarray:
    """Where bags begin and end in the flat indices: [bags + 1]. A row of [bags, n] indices is a bag."""
    if offsets is None:
        bags, size = indices.shape
        return np.arange(bags + 1) * size
    offsets = offsets.astype(np.int64)
    return offsets if include_last_offset else np.concatenate([offsets, [indices.size]])


def _check_embedding_bag(
    indices,
    weight,
    offsets=None,
    per_sample_weights=None,
    *,
    mode="mean",
    padding_idx=None,
    scale_grad_by_freq=False,
    include_last_offset=False,
):
    """indices: [bags, n] without offsets, or [total] with offsets: [bags], where bags begin (include_last_offset:
    [bags + 1], and where the last ends). weight: [num_embeddings, embedding_dim]; per_sample_weights, for sums only: of
    the indices' shape; scale_grad_by_freq: not for maxima. An empty bag gives zeros."""
    _check_lookup("embedding_bag", indices, weight, padding_idx)
    check_choice("embedding_bag", "mode", mode, MODES)
    check_choice("embedding_bag", "scale_grad_by_freq", scale_grad_by_freq, (False, True))
    check_choice("embedding_bag", "include_last_offset", include_last_offset, (False, True))
    if scale_grad_by_freq and mode == "max":
        refuse_value("embedding_bag", "scale_grad_by_freq", "as False for mode 'max'", True)
    if per_sample_weights is not None:
        check_same_dtype("embedding_bag", "weight", weight, "per_sample_weights", per_sample_weights)
        check_shape("embedding_bag", "per_sample_weights", per_sample_weights, indices.shape, "indices' shape")
        if mode != "sum":
            refuse_value("embedding_bag", "mode", "as 'sum' where per_sample_weights are given", repr(mode))
    if offsets is None:
        if indices.ndim != 2:
            refuse_value("embedding_bag", "indices", "as [bags, n] without offsets", f"shape {indices.shape}")
    else:
        _check_offsets(indices, offsets, include_last_offset)


def _check_offsets(indices, offsets, include_last_offset):
    check_integer("embedding_bag", "offsets", offsets)
    offsets = to_device(offsets, "cpu")
    if indices.ndim != 1:
        refuse_value("embedding_bag", "indices", "as [total] with offsets", f"shape {indices.shape}")
    if offsets.ndim != 1:
        refuse_value("embedding_bag", "offsets", "as [bags]", f"shape {offsets.shape}")
    if include_last_offset and offsets.size == 0:
        refuse_value("embedding_bag", "offsets", "with at least one value where the last is included", "none")
    if offsets.size == 0:
        if indices.size:
            refuse_value("embedding_bag", "offsets", "with a bag for every index", "none")
        return
    if int(offsets[0]) != 0:
        refuse_value("embedding_bag", "offsets", "that begin at 0", int(offsets[0]))
    if (offsets[1:] < offsets[:-1]).any():
        refuse_value("embedding_bag", "offsets", "in ascending order", "a smaller one after a larger")
    last = int(offsets[-1])
    if last > indices.size or (include_last_offset and last != indices.size):
        relation = "that end at" if include_last_offset else "of at most"
        refuse_value("embedding_bag", "offsets", f"{relation} {indices.size}, the number of indices", last)


def _cost_embedding_bag(indices, weight, offsets=None, per_sample_weights=None, **_):
    bags = len(indices) if offsets is None else len(offsets)
    elements = (indices.size + bags) * weight.shape[1] + (0 if per_sample_weights is None else indices.size)
    flops = indices.size * weight.shape[1] * (1 if per_sample_weights is None else 2)
    return Cost(flops=flops, bytes=indices.nbytes + elements * weight.dtype.itemsize)


def _bag_sample(name, indices, rows, columns, offsets=None, *, weighted=False, large=False, **attributes):
    inputs = {
        "indices": Integers(indices, 0, rows),
        "weight": (rows, columns),
        "offsets": None if offsets is None else Values(np.array(offsets, np.int64)),
        "per_sample_weights": indices if weighted else None,
    }
    return Sample(name, inputs, attributes, large)


def _vary_bag(pick):
    mode, total, rows = pick.of(MODES), pick(0, 20), pick(1, 6)
    inner = sorted(pick(0, total) for _ in range(pick(0, 5)))
    last = pick.of((False, True))
    return _bag_sample(
        "varied",
        (total,),
        rows,
        pick(1, 9),
        [0, *inner, total] if last else [0, *inner],
        weighted=mode == "sum" and pick.of((False, True)),
        mode=mode,
        padding_idx=pick.of((None, 0, rows - 1)),
        scale_grad_by_freq=mode != "max" and pick.of((False, True)),
        include_last_offset=last,
    )


def _bag_refused(name, error, message, offsets=None, weights=None, indices=(0, 1, 2, 3), **attributes):
    inputs = {
        "indices": np.array(indices),
        "weight": np.zeros((5, 3)),
        "offsets": None if offsets is None else np.array(offsets),
        "per_sample_weights": weights,
    }
    return Refused(name, inputs, error, message, attributes)


embedding_bag = Operation(
    "embedding_bag",
    __name__,
    check=_check_embedding_bag,
    cost=_cost_embedding_bag,
    reduction_length=lambda indices, weight, *_, **__: max(indices.size, weight.shape[1]),
    vary=_vary_bag,
    samples=[
        _bag_sample("sentences", (4, 7), 11, 33),
        _bag_sample("weighted", (20,), 11, 9, [0, 3, 3, 11], weighted=True, mode="sum"),
        _bag_sample("padded_sum", (20,), 4, 9, [0, 3, 3, 11], mode="sum", padding_idx=1),
        _bag_sample("padded_mean", (4, 6), 3, 5, padding_idx=0),
        _bag_sample("padded_max", (20,), 4, 9, [0, 3, 3, 11, 20], mode="max", padding_idx=2, include_last_offset=True),
        _bag_sample("max", (5, 6), 40, 17, mode="max"),
        _bag_sample("empty_bags", (3, 0), 4, 5),
        _bag_sample("no_bags", (0, 3), 4, 5),
        _bag_sample("no_offsets", (0,), 4, 5, [], mode="sum"),
        _bag_sample("recommender", (2048, 100), 100_000, 64, mode="sum", large=True),
    ],
    refused=[
        *_lookup_refused(),
        *_padding_refused(),
        _bag_refused("flat", ValueError, r"indices as \[bags, n\] without offsets"),
        _bag_refused("matrix", ValueError, r"indices as \[total\] with", [0], indices=[[0, 1]]),
        _bag_refused("mode", ValueError, "mode as one of 'sum', 'mean', 'max', got 'median'", [0], mode="median"),
        _bag_refused("float_offsets", TypeError, "offsets of an integer type", [0.0]),
        _bag_refused("offsets_rank", ValueError, r"offsets as \[bags\]", [[0]]),
        _bag_refused("begin", ValueError, "offsets that begin at 0, got 1", [1, 2]),
        _bag_refused("order", ValueError, "offsets in ascending order", [0, 3, 2]),
        _bag_refused("past_end", ValueError, "offsets of at most 4", [0, 5]),
        _bag_refused("last", ValueError, "offsets that end at 4", [0, 3], include_last_offset=True),
        _bag_refused("no_last", ValueError, "at least one value", np.zeros(0, int), include_last_offset=True),
        _bag_refused("no_bag", ValueError, "a bag for every index", np.zeros(0, int)),
        _bag_refused("weights_mode", ValueError, "mode as 'sum' where", [0], np.ones(4), mode="mean"),
        _bag_refused("weights_shape", ValueError, r"per_sample_weights of shape \(4,\)", [0], np.ones(3), mode="sum"),
        _bag_refused("weights_type", TypeError, "per_sample_weights of weight's", [0], np.ones(4, "f4"), mode="sum"),
        _bag_refused(
            "max_frequency", ValueError, "scale_grad_by_freq as False", [0], mode="max", scale_grad_by_freq=True
        ),
    ],
)


def _check_embedding_renorm(weight, indices, *, max_norm, norm_type=2.0):
    """weight: [num_embeddings, embedding_dim], indices: integers of any shape. Returns the table with each row that
    occurs and whose norm exceeds max_norm divided by (norm + 1e-7) / max_norm; `out=weight` writes into the table.
    norm_type: the p of the p-norm, above 0, or infinity."""
    _check_lookup("embedding_renorm", indices, weight)
    check_number("embedding_renorm", "max_norm", max_norm, 0, open_high=True)
    check_number("embedding_renorm", "norm_type", norm_type, 0, open_low=True)


def _renorm_sample(name, shape, rows, columns, large=False, **attributes):
    return Sample(name, {"weight": (rows, columns), "indices": Integers(shape, 0, rows)}, attributes, large)


embedding_renorm = Operation(
    "embedding_renorm",
    __name__,
    check=_check_embedding_renorm,
    cost=lambda weight, indices, **_: Cost(
        flops=3 * indices.size * weight.shape[1],
        bytes=indices.nbytes + 2 * indices.size * weight.shape[1] * weight.dtype.itemsize,
    ),
    reduction_length=lambda weight, indices, **_: weight.shape[1],
    differentiable=False,
    samples=[
        _renorm_sample("sentences", (4, 7), 40, 33, max_norm=5.0),
        _renorm_sample("first_norm", (20,), 9, 5, max_norm=1.0, norm_type=1.0),
        _renorm_sample("largest", (20,), 9, 5, max_norm=0.5, norm_type=math.inf),
        _renorm_sample("no_indices", (0,), 4, 5, max_norm=1.0),
        _renorm_sample("gpt2", (8, 1024), 50257, 768, max_norm=1.0, large=True),
    ],
    refused=[
        Refused(
            "index",
            {"weight": np.zeros((5, 3)), "indices": np.array([5])},
            ValueError,
            r"indices in \[0, 5\), got 5",
            {"max_norm": 1.0},
        ),
        Refused(
            "norm",
            {"weight": np.zeros((5, 3)), "indices": np.array([0])},
            ValueError,
            r"max_norm in \[0, inf\), got nan",
            {"max_norm": math.nan},
        ),
        Refused(
            "norm_type",
            {"weight": np.zeros((5, 3)), "indices": np.array([0])},
            ValueError,
            r"norm_type in \(0, inf\], got 0",
            {"max_norm": 1.0, "norm_type": 0},
        ),
    ],
)


def _check_one_hot(indices, *, num_classes=-1):
    """indices: integers of any shape; num_classes: size of the new last axis, -1 for the largest index + 1."""
    check_array("one_hot", "indices", indices)
    check_integer("one_hot", "indices", indices)
    if not isinstance(num_classes, (int, np.integer)) or isinstance(num_classes, bool):
        refuse_type("one_hot", "num_classes", "as an integer", type(num_classes).__qualname__)
    if num_classes == 0 or num_classes < -1:
        refuse_value("one_hot", "num_classes", "of at least 1, or -1", num_classes)
    if num_classes == -1 and indices.size == 0:
        refuse_value("one_hot", "num_classes", "where there are no indices", num_classes)
    check_index_range("one_hot", "indices", indices, 0, 2**63 if num_classes == -1 else num_classes)


def count_classes(indices, num_classes) -> int:
    """num_classes, or what -1 stands for."""
    if num_classes != -1:
        return num_classes
    if type(indices) is np.ndarray:
        return int(indices.max()) + 1
    from ..gpu_arrays import extent  # not before the first GPU array: machines without one have no Triton

    return extent(indices)[1] + 1


one_hot = Operation(
    "one_hot",
    __name__,
    check=_check_one_hot,
    cost=lambda indices, *, num_classes=-1: Cost(
        flops=0, bytes=indices.nbytes + 8 * indices.size * count_classes(indices, num_classes)
    ),
    differentiable=False,
    samples=[
        Sample("digits", {"indices": Integers((32,), 0, 10)}, {"num_classes": 10}),
        Sample("counted", {"indices": Integers((3, 5), 0, 7)}),
        Sample("one_index", {"indices": Integers((), 0, 7)}, {"num_classes": 7}),
        Sample("no_indices", {"indices": Integers((0, 2), 0, 7)}, {"num_classes": 3}),
        Sample("imagenet", {"indices": Integers((8192,), 0, 1000)}, {"num_classes": 1000}, large=True),
    ],
    refused=[
        Refused("floats", {"indices": np.zeros(3)}, TypeError, "indices of an integer type"),
        Refused("large", {"indices": np.array([1, 3])}, ValueError, r"in \[0, 3\), got 3", {"num_classes": 3}),
        Refused("negative", {"indices": np.array([-2])}, ValueError, r"in \[0, .*, got -2"),
        Refused("classes", {"indices": np.array([1])}, ValueError, "num_classes of at least 1", {"num_classes": 0}),
        Refused(
            "classes_type", {"indices": np.array([1])}, TypeError, "num_classes as an integer", {"num_classes": 2.0}
        ),
        Refused("nothing", {"indices": np.zeros(0, int)}, ValueError, "num_classes where there are no indices"),
    ],
)
