"""Moving elements: joining, cutting, padding, indexing. No arithmetic, but backward passes that add up what a forward
pass has copied more than once.

    concatenate     arrays after one another along an axis              its gradient is cut into the parts
    split           an array in parts along an axis (views)             its gradient is joined from the parts
    scatter_slice   an array into a slice of zeros                      its gradient is that slice
    advanced_index  x[i, j, ...] with arrays of indices                 grad_x[i, j, ...] += grad_y, in the order of y
    gather          y[.., k, ..] = x[.., index[.., k, ..], ..]          likewise
    pad             a border of a constant, or of what lies inside      the border's gradient goes where it was read
    roll, triangle  shifted round; above or below a diagonal

All take floating-point, integer and bool arrays. Views (reshape, transpose, basic slices) need no kernel: the tape's
functions make them. `reference.py` is the definition, `cpu.py` and `gpu.py` are the kernels.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import (
    FLOATS,
    INTEGERS,
    check_array,
    check_choice,
    check_index_range,
    check_integer,
    check_number,
    check_same_dtype,
    refuse_type,
    refuse_value,
)
from ..operation import Cost, Integers, Normal, Operation, Refused, Sample

PAD_MODES = ("constant", "reflect", "replicate", "circular")
_ANY = FLOATS | INTEGERS | {np.dtype(bool)}


def _check_type(operation, argument, x) -> None:
    check_array(operation, argument, x)
    if x.dtype not in _ANY:
        refuse_type(operation, argument, "of a floating-point, integer or bool type", x.dtype)


def _check_axis(operation, argument, axis, ndim) -> None:
    if type(axis) is not int:
        refuse_type(operation, argument, "as an integer", type(axis).__qualname__)
    if not 0 <= axis < ndim:
        refuse_value(operation, argument, f"in [0, {ndim})", axis)


def _check_integers(operation, argument, values) -> None:
    if type(values) is not tuple or not all(type(value) is int for value in values):
        refuse_type(operation, argument, "as a tuple of integers", repr(values))


def _cost_copy(x, *_, **__):
    return Cost(flops=0, bytes=2 * x.size * x.dtype.itemsize)


def _vary_shape(pick, least=1):
    return tuple(pick(least, 6) for _ in range(pick(1, 4)))


# ---- joining and cutting


def _check_concatenate(*arrays, axis):
    """arrays: one or more of one type, with equal shapes but for `axis`."""
    if not arrays:
        refuse_value("concatenate", "arrays", "as at least one array", "none")
    first = arrays[0]
    _check_type("concatenate", "arrays[0]", first)
    _check_axis("concatenate", "axis", axis, first.ndim)
    others = first.shape[:axis] + first.shape[axis + 1 :]
    for index, x in enumerate(arrays):
        name = f"arrays[{index}]"
        check_same_dtype("concatenate", "arrays[0]", first, name, x)
        if x.ndim != first.ndim or x.shape[:axis] + x.shape[axis + 1 :] != others:
            refuse_value("concatenate", name, f"of arrays[0]'s shape {first.shape} but for axis {axis}", x.shape)


def _vary_concatenate(pick):
    shape = _vary_shape(pick)
    axis = pick(0, len(shape) - 1)
    shapes = [(*shape[:axis], pick(0, 4), *shape[axis + 1 :]) for _ in range(pick(1, 4))]
    return Sample("varied", {f"arrays[{i}]": Normal(shape) for i, shape in enumerate(shapes)}, {"axis": axis})


def _joined(name, *shapes, axis, **options):
    return Sample(name, {f"arrays[{i}]": Normal(shape) for i, shape in enumerate(shapes)}, {"axis": axis}, **options)


concatenate = Operation(
    "concatenate",
    __name__,
    check=_check_concatenate,
    by_form=True,
    cost=lambda *arrays, axis: Cost(flops=0, bytes=2 * sum(x.size for x in arrays) * arrays[0].dtype.itemsize),
    samples=[
        _joined("channels", (2, 3, 5, 5), (2, 4, 5, 5), (2, 1, 5, 5), axis=1),
        _joined("one", (3, 2), axis=0),
        _joined("empty_part", (3, 2), (0, 2), (1, 2), axis=0),
        Sample("integers", {"arrays[0]": Integers((3,), 0, 9), "arrays[1]": Integers((2,), 0, 9)}, {"axis": 0}),
        _joined("skip_connection", (16, 256, 64, 64), (16, 256, 64, 64), axis=1, large=True),
    ],
    refused=[
        Refused("none", {}, ValueError, "arrays as at least one array, got none", {"axis": 0}),
        Refused("axis", {"arrays[0]": np.zeros(3)}, ValueError, r"axis in \[0, 1\), got 1", {"axis": 1}),
        Refused(
            "shape",
            {"arrays[0]": np.zeros((3, 2)), "arrays[1]": np.zeros((3, 3))},
            ValueError,
            r"arrays\[1\] of arrays\[0\]'s shape \(3, 2\) but for axis 0, got \(3, 3\)",
            {"axis": 0},
        ),
        Refused(
            "mixed",
            {"arrays[0]": np.zeros(3), "arrays[1]": np.zeros(3, "f4")},
            TypeError,
            r"arrays\[1\] of arrays\[0\]'s type float64, got float32",
            {"axis": 0},
        ),
    ],
    vary=_vary_concatenate,
)


def _check_split(x, *, sizes, axis):
    """x: any array; sizes: two or more part sizes that add up to the size of `axis`."""
    _check_type("split", "x", x)
    _check_axis("split", "axis", axis, x.ndim)
    _check_integers("split", "sizes", sizes)
    if len(sizes) < 2 or min(sizes) < 0 or sum(sizes) != x.shape[axis]:
        refuse_value("split", "sizes", f"as two or more sizes that add up to axis {axis} of {x.shape}", sizes)


def _vary_split(pick):
    sizes = tuple(pick(0, 3) for _ in range(pick(2, 4)))
    return Sample("varied", {"x": (pick(0, 3), sum(sizes), pick(1, 3))}, {"sizes": sizes, "axis": 1})


split = Operation(
    "split",
    __name__,
    check=_check_split,
    by_form=True,
    cost=_cost_copy,
    samples=[
        Sample("gates", {"x": (5, 12)}, {"sizes": (4, 4, 4), "axis": 1}),
        Sample("uneven", {"x": (5, 3, 2)}, {"sizes": (3, 0, 2), "axis": 0}),
        Sample("gpt2_projections", {"x": (8, 1024, 2304)}, {"sizes": (768, 768, 768), "axis": 2}, large=True),
    ],
    refused=[
        Refused("sum", {"x": np.zeros(4)}, ValueError, "sizes as two or more sizes.*got", {"sizes": (3, 2), "axis": 0}),
        Refused("list", {"x": np.zeros(4)}, TypeError, "sizes as a tuple of integers", {"sizes": [2, 2], "axis": 0}),
        Refused("axis", {"x": np.zeros(4)}, TypeError, "axis as an integer", {"sizes": (2, 2), "axis": None}),
    ],
    vary=_vary_split,
)


def _check_scatter_slice(x, *, shape, index):
    """x: any array; shape: of the result; index: a tuple of integers, slices, None and Ellipsis, whose selection from
    an array of that shape has x's shape."""
    _check_type("scatter_slice", "x", x)
    _check_integers("scatter_slice", "shape", shape)
    if type(index) is not tuple or not all(
        item is None or item is Ellipsis or type(item) in (int, slice) for item in index
    ):
        refuse_type("scatter_slice", "index", "as a tuple of integers, slices, None and Ellipsis", repr(index))
    try:
        # A view of one element stands in for an array of that shape.
        selected = np.broadcast_to(np.zeros(()), shape)[index].shape
    except IndexError as error:
        refuse_value("scatter_slice", "index", f"into shape {shape}", error)
    if selected != x.shape:
        refuse_value("scatter_slice", "x", f"of shape {selected} (the slice of {shape})", x.shape)


scatter_slice = Operation(
    "scatter_slice",
    __name__,
    check=_check_scatter_slice,
    cost=lambda x, *, shape, index: Cost(flops=0, bytes=(x.size + math.prod(shape)) * x.dtype.itemsize),
    samples=[
        Sample("column", {"x": (4, 3)}, {"shape": (4, 5, 3), "index": (slice(None), 2)}),
        Sample("step", {"x": (2, 3)}, {"shape": (4, 3), "index": (slice(None, None, -2),)}),
        Sample("new_axis", {"x": (1, 4)}, {"shape": (4,), "index": (None, Ellipsis)}),
        Sample("element", {"x": ()}, {"shape": (4, 3), "index": (1, -1, Ellipsis)}),
        Sample("last_step", {"x": (64, 512)}, {"shape": (100, 64, 512), "index": (-1,)}, large=True),
    ],
    refused=[
        Refused(
            "outside",
            {"x": np.zeros(())},
            ValueError,
            r"index into shape \(3,\), got index 5 is out of bounds",
            {"shape": (3,), "index": (5,)},
        ),
        Refused(
            "shape", {"x": np.zeros(3)}, ValueError, r"x of shape \(2,\)", {"shape": (3,), "index": (slice(1, None),)}
        ),
        Refused("array", {"x": np.zeros(1)}, TypeError, "index as a tuple of integers", {"shape": (3,), "index": [0]}),
    ],
)


# ---- indexing with arrays


def _check_advanced_index(x, *indices, axis):
    """x: any array; indices: one or more integer arrays that broadcast together, for the axes of x from `axis` on,
    with values in [-size, size) of their axis."""
    _check_type("advanced_index", "x", x)
    if not indices:
        refuse_value("advanced_index", "indices", "as at least one array", "none")
    _check_axis("advanced_index", "axis", axis, x.ndim)
    if axis + len(indices) > x.ndim:
        refuse_value("advanced_index", "indices", f"for the {x.ndim - axis} axes of x from {axis} on", len(indices))
    for number, index in enumerate(indices):
        name, size = f"indices[{number}]", x.shape[axis + number]
        check_integer("advanced_index", name, index)
        check_index_range("advanced_index", name, index, -size, size)
    try:
        np.broadcast_shapes(*(index.shape for index in indices))
    except ValueError:
        shapes = ", ".join(str(index.shape) for index in indices)
        refuse_value("advanced_index", "indices", "of shapes that broadcast", shapes)


def _indexed(name, x, *indices, axis=0, **options):
    inputs = {"x": x}
    for number, shape in enumerate(indices):
        size = x[axis + number]
        inputs[f"indices[{number}]"] = Integers(shape, -size, size)
    return Sample(name, inputs, {"axis": axis}, **options)


def _vary_advanced_index(pick):
    x = _vary_shape(pick)
    axis = pick(0, len(x) - 1)
    shape = tuple(pick(0, 4) for _ in range(pick(0, 2)))
    shapes = [shape[pick(0, len(shape)) :] for _ in range(pick(1, len(x) - axis))]
    return _indexed("varied", x, *shapes, axis=axis)


def _cost_advanced_index(x, *indices, axis):
    count = math.prod(np.broadcast_shapes(*(index.shape for index in indices)))
    per_index = x.size // max(math.prod(x.shape[axis : axis + len(indices)]), 1)
    return Cost(flops=0, bytes=count * (2 * per_index * x.dtype.itemsize + 8 * len(indices)))


advanced_index = Operation(
    "advanced_index",
    __name__,
    check=_check_advanced_index,
    cost=_cost_advanced_index,
    reduction_length=lambda x, *indices, axis: max(math.prod(np.broadcast_shapes(*(i.shape for i in indices))), 1),
    samples=[
        _indexed("rows", (9, 5), (20,)),
        _indexed("pairs", (4, 3, 5), (6,), (6,)),
        _indexed("inner", (4, 7, 3), (2, 5), axis=1),
        _indexed("broadcast", (4, 7, 3), (5, 1), (3,), axis=1),
        _indexed("one", (4, 3), (), ()),
        _indexed("none", (4, 3), (0,)),
        _indexed("vocabulary", (50257, 768), (8, 1024), large=True),
    ],
    refused=[
        Refused(
            "outside",
            {"x": np.zeros(3), "indices[0]": np.array([0, 3])},
            ValueError,
            r"indices\[0\] in \[-3, 3\), got 3",
            {"axis": 0},
        ),
        Refused(
            "fraction",
            {"x": np.zeros(3), "indices[0]": np.zeros(2)},
            TypeError,
            r"indices\[0\] of an integer type",
            {"axis": 0},
        ),
        Refused(
            "many",
            {"x": np.zeros(3), "indices[0]": np.array([0]), "indices[1]": np.array([0])},
            ValueError,
            "indices for the 1 axes of x from 0 on, got 2",
            {"axis": 0},
        ),
        Refused(
            "shapes",
            {"x": np.zeros((3, 3)), "indices[0]": np.zeros(2, int), "indices[1]": np.zeros(3, int)},
            ValueError,
            r"indices of shapes that broadcast, got \(2,\), \(3,\)",
            {"axis": 0},
        ),
        Refused("none", {"x": np.zeros(3)}, ValueError, "indices as at least one array", {"axis": 0}),
    ],
    vary=_vary_advanced_index,
)


def _check_gather(x, index, *, axis):
    """x: any array; index: integer array of x's rank with values in [0, size) of `axis`, in the other axes no longer
    than x."""
    _check_type("gather", "x", x)
    check_integer("gather", "index", index)
    _check_axis("gather", "axis", axis, x.ndim)
    if index.ndim != x.ndim or any(i > n for k, (i, n) in enumerate(zip(index.shape, x.shape)) if k != axis):
        refuse_value("gather", "index", f"of a shape that fits in {x.shape} but for axis {axis}", index.shape)
    check_index_range("gather", "index", index, 0, x.shape[axis])


def _vary_gather(pick):
    x = _vary_shape(pick)
    axis = pick(0, len(x) - 1)
    shape = tuple(pick(0, 8) if k == axis else pick(0, n) for k, n in enumerate(x))
    return Sample("varied", {"x": Normal(x), "index": Integers(shape, 0, x[axis])}, {"axis": axis})


gather = Operation(
    "gather",
    __name__,
    check=_check_gather,
    cost=lambda x, index, *, axis: Cost(flops=0, bytes=index.size * (2 * x.dtype.itemsize + index.dtype.itemsize)),
    reduction_length=lambda x, index, *, axis: max(index.shape[axis], 1),
    samples=[
        Sample("chosen_class", {"x": (9, 5), "index": Integers((9, 1), 0, 5)}, {"axis": 1}),
        Sample("middle", {"x": (3, 4, 5), "index": Integers((2, 7, 5), 0, 4)}, {"axis": 1}),
        Sample("vector", {"x": (6,), "index": Integers((9,), 0, 6)}, {"axis": 0}),
        Sample("empty", {"x": (3, 4), "index": Integers((0, 4), 0, 3)}, {"axis": 0}),
        Sample("sorted_logits", {"x": (4096, 1000), "index": Integers((4096, 1000), 0, 1000)}, {"axis": 1}, large=True),
    ],
    refused=[
        Refused(
            "outside",
            {"x": np.zeros((2, 3)), "index": np.array([[0], [-1]])},
            ValueError,
            r"index in \[0, 3\), got -1",
            {"axis": 1},
        ),
        Refused(
            "shape",
            {"x": np.zeros((2, 3)), "index": np.zeros((3, 1), int)},
            ValueError,
            r"index of a shape that fits in \(2, 3\) but for axis 1, got \(3, 1\)",
            {"axis": 1},
        ),
        Refused(
            "fraction", {"x": np.zeros(3), "index": np.zeros(3)}, TypeError, "index of an integer type", {"axis": 0}
        ),
    ],
    vary=_vary_gather,
)


# ---- padding, shifting, triangles


def _check_pad(x, *, widths, mode="constant", value=0.0):
    """x: any array; widths: (before, after) for every axis, negative ones crop in constant mode; mode: 'constant',
    'reflect' (widths less than the axis), 'replicate' or 'circular' (widths up to the axis); value: the constant."""
    _check_type("pad", "x", x)
    check_choice("pad", "mode", mode, PAD_MODES)
    check_number("pad", "value", value)
    if x.dtype in INTEGERS and value != int(value):
        refuse_type("pad", "value", f"as a number of x's type {x.dtype}", value)
    pairs = type(widths) is tuple and all(type(pair) is tuple and len(pair) == 2 for pair in widths)
    if not pairs or not all(type(width) is int for pair in widths for width in pair):
        refuse_type("pad", "widths", "as a tuple of pairs of integers", repr(widths))
    if len(widths) != x.ndim:
        refuse_value("pad", "widths", f"as {x.ndim} pairs, one an axis of x", widths)
    for axis, (size, (before, after)) in enumerate(zip(x.shape, widths)):
        most = {"constant": math.inf, "reflect": size - 1, "replicate": math.inf if size else 0, "circular": size}[mode]
        least = -size if mode == "constant" else 0
        if not (least <= before <= most and least <= after <= most) and (before or after):
            refuse_value("pad", "widths", f"in [{least}, {most}] on axis {axis} of {x.shape} ({mode})", (before, after))
        if size + before + after < 0:
            refuse_value("pad", "widths", f"that leave something of axis {axis} of {x.shape}", (before, after))


def _vary_pad(pick):
    mode = pick.of(PAD_MODES)
    shape = _vary_shape(pick)
    most = {"constant": lambda n: 3, "reflect": lambda n: n - 1, "replicate": lambda n: 3, "circular": lambda n: n}[
        mode
    ]
    low = {"constant": lambda n: -(n // 2)}.get(mode, lambda n: 0)
    widths = tuple((pick(low(n), most(n)), pick(low(n), most(n))) for n in shape)
    return Sample("varied", {"x": Normal(shape)}, {"widths": widths, "mode": mode, "value": 0.5})


pad = Operation(
    "pad",
    __name__,
    check=_check_pad,
    by_form=True,
    cost=lambda x, *, widths, mode="constant", value=0.0: Cost(
        flops=0, bytes=(x.size + math.prod(n + a + b for n, (a, b) in zip(x.shape, widths))) * x.dtype.itemsize
    ),
    reduction_length=lambda x, **_: max(x.size, 1),
    samples=[
        Sample(mode, {"x": (2, 3, 5, 6)}, {"widths": ((0, 0), (0, 0), (2, 1), (3, 4)), "mode": mode, "value": 1.5})
        for mode in PAD_MODES
    ]
    + [
        Sample("crop", {"x": (4, 5)}, {"widths": ((-1, 2), (1, -3))}),
        Sample("no_rows", {"x": (0, 5)}, {"widths": ((0, 0), (2, 2)), "mode": "reflect"}),
        Sample("integers", {"x": Integers((4,), 0, 9)}, {"widths": ((1, 2),), "value": 7}),
        Sample("resnet_block", {"x": (32, 64, 56, 56)}, {"widths": ((0, 0), (0, 0), (1, 1), (1, 1))}, large=True),
    ],
    refused=[
        Refused(
            "reflect",
            {"x": np.zeros(3)},
            ValueError,
            r"widths in \[0, 2\] on axis 0 of \(3,\) \(reflect\), got \(3, 0\)",
            {"widths": ((3, 0),), "mode": "reflect"},
        ),
        Refused(
            "negative",
            {"x": np.zeros(3)},
            ValueError,
            r"widths in \[0, inf\]",
            {"widths": ((-1, 0),), "mode": "replicate"},
        ),
        Refused("crop", {"x": np.zeros(3)}, ValueError, "widths that leave", {"widths": ((-2, -2),)}),
        Refused("rank", {"x": np.zeros(3)}, ValueError, "widths as 1 pairs", {"widths": ((0, 0), (1, 1))}),
        Refused("flat", {"x": np.zeros(3)}, TypeError, "widths as a tuple of pairs", {"widths": (1, 1)}),
        Refused("mode", {"x": np.zeros(3)}, ValueError, "mode as one of 'cons", {"widths": ((1, 1),), "mode": "wrap"}),
    ],
    vary=_vary_pad,
)


def _check_roll(x, *, shifts, axes):
    """x: any array; shifts: how far along each of the axes `axes`, towards higher indices."""
    _check_type("roll", "x", x)
    _check_integers("roll", "shifts", shifts)
    _check_integers("roll", "axes", axes)
    if len(shifts) != len(axes):
        refuse_value("roll", "axes", f"as {len(shifts)} axes, one a shift", axes)
    for axis in axes:
        _check_axis("roll", "axes", axis, x.ndim)


roll = Operation(
    "roll",
    __name__,
    check=_check_roll,
    by_form=True,
    cost=_cost_copy,
    samples=[
        Sample("window", {"x": (2, 5, 6, 3)}, {"shifts": (2, -3), "axes": (1, 2)}),
        Sample("past_end", {"x": (5,)}, {"shifts": (12,), "axes": (0,)}),
        Sample("empty", {"x": (0, 3)}, {"shifts": (1,), "axes": (0,)}),
        Sample("swin_windows", {"x": (8, 56, 56, 96)}, {"shifts": (-3, -3), "axes": (1, 2)}, large=True),
    ],
    refused=[
        Refused("axis", {"x": np.zeros(3)}, ValueError, r"axes in \[0, 1\), got 2", {"shifts": (1,), "axes": (2,)}),
        Refused("count", {"x": np.zeros(3)}, ValueError, "axes as 2 axes", {"shifts": (1, 1), "axes": (0,)}),
        Refused("number", {"x": np.zeros(3)}, TypeError, "shifts as a tuple", {"shifts": 1, "axes": (0,)}),
    ],
)


def _check_triangle(x, *, diagonal=0, upper=False):
    """x: [..., rows, columns]; diagonal: 0 for the main one, positive above it; upper: keep what lies on and above it,
    rather than on and below it."""
    _check_type("triangle", "x", x)
    if x.ndim < 2:
        refuse_value("triangle", "x", "as [..., rows, columns]", f"shape {x.shape}")
    _check_integers("triangle", "diagonal", (diagonal,))
    check_choice("triangle", "upper", upper, (False, True))


triangle = Operation(
    "triangle",
    __name__,
    check=_check_triangle,
    cost=_cost_copy,
    samples=[
        Sample("causal", {"x": (2, 7, 7)}),
        Sample("upper", {"x": (5, 8)}, {"diagonal": 1, "upper": True}),
        Sample("below", {"x": (5, 3)}, {"diagonal": -2}),
        Sample("empty", {"x": (0, 3)}),
        Sample("attention", {"x": (8, 12, 512, 512)}, large=True),
    ],
    refused=[
        Refused("vector", {"x": np.zeros(3)}, ValueError, r"x as \[\.\.\., rows, columns\]"),
        Refused("fraction", {"x": np.zeros((3, 3))}, TypeError, "diagonal as a tuple of int", {"diagonal": 0.5}),
    ],
)
