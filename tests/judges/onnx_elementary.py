"""ONNX's operators on elements, reductions, shapes and constants, through Ranvier's functions.

A translation is a function (node, *inputs) -> output(s), inputs being tensors or None. NumPy only reads what says how:
axes, sizes, starts.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx
from onnx_operator import OPERATORS, operator

import ranvier as rv

F = rv.functional

# ---- elements


def _plain(function):
    return lambda node, *inputs: function(*inputs)


OPERATORS |= {
    "Abs": _plain(F.abs),
    "Add": _plain(F.add),
    "And": _plain(F.logical_and),
    "Ceil": _plain(F.ceil),
    "Cos": _plain(F.cos),
    "Equal": _plain(F.eq),
    "Erf": _plain(F.erf),
    "Exp": _plain(F.exp),
    "Floor": _plain(F.floor),
    "Greater": _plain(F.gt),
    "GreaterOrEqual": _plain(F.ge),
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda x: x),
    "IsNaN": _plain(F.isnan),
    "Less": _plain(F.lt),
    "LessOrEqual": _plain(F.le),
    "Log": _plain(F.log),
    "MatMul": _plain(F.matmul),
    "Max": _plain(lambda *inputs: functools.reduce(F.maximum, inputs)),
    "Mean": _plain(lambda *inputs: F.div(functools.reduce(F.add, inputs), len(inputs))),
    "Min": _plain(lambda *inputs: functools.reduce(F.minimum, inputs)),
    "Mish": _plain(F.mish),
    "Mod": _plain(F.remainder),
    "Mul": _plain(F.mul),
    "Neg": _plain(F.neg),
    "Not": _plain(F.logical_not),
    "Or": _plain(F.logical_or),
    "Reciprocal": _plain(F.reciprocal),
    "Relu": _plain(F.relu),
    "Round": _plain(F.round),
    "Sigmoid": _plain(F.sigmoid),
    "Sign": _plain(F.sign),
    "Sin": _plain(F.sin),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Sqrt": _plain(F.sqrt),
    "Sub": _plain(F.sub),
    "Sum": _plain(lambda *inputs: functools.reduce(F.add, inputs)),
    "Tanh": _plain(F.tanh),
    "Where": _plain(F.where),
    "Xor": _plain(F.logical_xor),
    "Celu": lambda node, x: F.celu(x, node.get("alpha", 1.0)),
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)),
    "Gelu": lambda node, x: F.gelu(x, node.get("approximate", "none")),
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "ThresholdedRelu": lambda node, x: F.threshold(x, node.get("alpha", 1.0), 0.0),
}


@operator("Div")
def divide(node, x, y):
    if x.is_floating_point():
        return F.div(x, y)
    if x.dtype.kind == "u":
        return F.floor_divide(x, y)
    # ONNX rounds quotients of integers towards zero, floor_divide down.
    return F.mul(F.mul(F.sign(x), F.sign(y)), F.floor_divide(F.abs(x), F.abs(y)))


@operator("Pow")
def power(node, x, y):
    return F.pow(x, y).to(dtype=x.dtype)


@operator("Clip")
def clip(node, x, low=None, high=None):
    low, high = node.get("min", low), node.get("max", high)
    return x if low is None and high is None else F.clamp(x, low, high)


@operator("IsInf")
def is_infinite(node, x):
    found = F.isinf(x)
    if not node.get("detect_negative", 1):
        found = F.logical_and(found, F.gt(x, 0.0))
    return found if node.get("detect_positive", 1) else F.logical_and(found, F.lt(x, 0.0))


@operator("Selu")
def selu(node, x):
    if not {"alpha", "gamma"} & node.attributes.keys():
        return F.selu(x)
    return F.mul(F.elu(x, node.get("alpha", 1.67326324)), node.get("gamma", 1.05070098))


@operator("HardSigmoid")
def hard_sigmoid(node, x):
    """max(0, min(1, alpha x + beta)), and ours has alpha 1/6 and beta 1/2."""
    return F.hardsigmoid(F.mul(x, 6 * node.get("alpha", 0.2)) + 6 * (node.get("beta", 0.5) - 0.5))


@operator("Swish")
def swish(node, x):
    alpha = node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1 else F.div(F.silu(F.mul(x, alpha)), alpha)


@operator("SwiGLU")
def swiglu(node, gate, x):
    return F.mul(swish(node, gate), x)


@operator("PRelu")
def prelu(node, x, slope):
    # Before version 7 a slope of one axis meant the channels.
    if slope.size == 1 or node.version < 7 or slope.shape == (x.shape[1], *(1,) * (x.ndim - 2)):
        return F.prelu(x, F.flatten(slope))
    # A slope for every element: as many channels.
    slopes = F.flatten(F.expand(slope, x.shape))
    return F.reshape(F.prelu(F.reshape(x, (1, x.size)), slopes), x.shape)


@operator("Shrink")
def shrink(node, x):
    bias, lambd = node.get("bias", 0.0), node.get("lambd", 0.5)
    return F.hardshrink(x, lambd) if bias == 0 else F.softshrink(x, lambd)


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(node, x):
    function = {"Softmax": F.softmax, "LogSoftmax": F.log_softmax, "Hardmax": _hardmax}[node.kind]
    if node.version >= 13:
        return function(x, node.get("axis", -1))
    # Before version 13 all axes from `axis` on counted as one.
    rows = math.prod(x.shape[: node.get("axis", 1)])
    return F.reshape(function(F.reshape(x, (rows, -1)), 1), x.shape)


def _hardmax(x, axis):
    largest = F.one_hot(F.argmax(x, axis), x.shape[axis]).to(dtype=x.dtype)
    return F.movedim(largest, -1, axis)


@operator("Cast")
def cast(node, x):
    return x.to(dtype=onnx.helper.tensor_dtype_to_np_dtype(node.get("to")))


@operator("CastLike")
def cast_like(node, x, other):
    return x.to(dtype=other.dtype)


# ---- reductions


def _axes(node, axes, x):
    """The axes to reduce: an attribute in old models, an input in new ones; none at all means all, or no reduction."""
    axes = node.get("axes", []) if axes is None else axes.tolist()
    if not axes and node.get("noop_with_empty_axes"):
        return None
    return tuple(axes) or tuple(range(x.ndim))


def _reduction(function):
    def reduce(node, x, axes=None):
        axes = _axes(node, axes, x)
        return x if axes is None else function(x, axes, bool(node.get("keepdims", 1))).to(dtype=x.dtype)

    return reduce


OPERATORS |= {
    "ReduceL1": _reduction(lambda x, axes, keep: F.norm(x, 1, axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: F.norm(x, 2, axes, keep)),
    "ReduceLogSum": _reduction(lambda x, axes, keep: F.log(F.sum(x, axes, keep))),
    "ReduceLogSumExp": _reduction(F.logsumexp),
    "ReduceMax": _reduction(F.amax),
    "ReduceMean": _reduction(F.mean),
    "ReduceMin": _reduction(F.amin),
    "ReduceProd": _reduction(F.prod),
    "ReduceSum": _reduction(F.sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: F.sum(F.square(x), axes, keep)),
}


@operator("ArgMax", "ArgMin")
def place(node, x):
    function = {"ArgMax": F.argmax, "ArgMin": F.argmin}[node.kind]
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    if node.get("select_last_index"):
        # Ours is the first of equals: the last is the first from behind.
        return F.sub(x.shape[axis] - 1, function(F.flip(x, axis), axis, keep))
    return function(x, axis, keep)


@operator("CumSum", "CumProd")
def cumulate(node, x, axis):
    function, start = {"CumSum": (F.cumsum, 0), "CumProd": (F.cumprod, 1)}[node.kind]
    axis, reverse = axis.item(), node.get("reverse")
    x = F.flip(x, axis) if reverse else x
    if node.get("exclusive"):
        first = rv.full_like(F.narrow(x, axis, 0, 1), start)
        x = F.cat([first, F.narrow(x, axis, 0, x.shape[axis] - 1)], axis)
    y = function(x, axis, dtype=x.dtype)
    return F.flip(y, axis) if reverse else y


# ---- shapes and indices


@operator("Reshape")
def reshape(node, x, shape=None):
    sizes = node.get("shape") if shape is None else shape.tolist()
    if not node.get("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return F.reshape(x, tuple(sizes))


@operator("Flatten")
def flatten(node, x):
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return F.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Transpose")
def transpose(node, x):
    return F.permute(x, tuple(node.get("perm", reversed(range(x.ndim)))))


@operator("Squeeze")
def squeeze(node, x, axes=None):
    axes = node.get("axes") if axes is None else axes.tolist()
    return F.squeeze(x, None if axes is None else tuple(axes))


@operator("Unsqueeze")
def unsqueeze(node, x, axes=None):
    axes = node.get("axes") if axes is None else axes.tolist()
    for axis in sorted(axis + x.ndim + len(axes) if axis < 0 else axis for axis in axes):
        x = F.unsqueeze(x, axis)
    return x


@operator("Expand")
def expand(node, x, shape):
    return F.expand(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


@operator("Tile")
def tile(node, x, repeats):
    return F.tile(x, tuple(repeats.tolist()))


@operator("Concat")
def concatenate(node, *inputs):
    return F.cat(inputs, node.get("axis", 1))


@operator("Split")
def split(node, x, sizes=None):
    axis, count = node.get("axis", 0), len(node.outputs)
    sizes = node.get("split") if sizes is None else sizes.tolist()
    part = -(-x.shape[axis] // count)
    return F.split(x, part if sizes is None else tuple(sizes), axis)


@operator("Slice")
def take_slice(node, x, starts=None, ends=None, axes=None, steps=None):
    given = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    starts, ends, axes, steps = (
        node.get(name) if value is None else np.atleast_1d(value.numpy()).tolist() for name, value in given.items()
    )
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps or [1] * len(starts)):
        size = x.shape[axis]
        low, high = (0, size) if step > 0 else (-1, size - 1)
        start, end = (min(max(edge + size if edge < 0 else edge, low), high) for edge in (start, end))
        # Before the first element is None where Python counts down: -1 is the last one.
        index[axis] = slice(None if start < 0 else start, None if end < 0 else end, step) if start >= 0 else slice(0, 0)
    return F.getitem(x, tuple(index))


@operator("Gather")
def gather(node, x, indices):
    axis = node.get("axis", 0)
    return F.getitem(x, (slice(None),) * (axis % x.ndim) + (indices,))


@operator("GatherElements")
def gather_elements(node, x, indices):
    axis = node.get("axis", 0)
    return F.gather(x, axis, _counted_from_start(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(node, x, indices):
    batch = node.get("batch_dims", 0)
    before = [
        F.reshape(rv.arange(size), (-1,) + (1,) * (indices.ndim - 2 - axis))
        for axis, size in enumerate(x.shape[:batch])
    ]
    return F.getitem(x, (*before, *F.unbind(indices, -1)))


def _counted_from_start(indices, size):
    return F.where(F.lt(indices, 0), F.add(indices, size), indices)


@operator("Compress")
def compress(node, x, condition):
    axis = node.get("axis")
    kept = F.flatten(F.argwhere(condition))
    return F.index_select(F.flatten(x) if axis is None else x, axis or 0, kept)


@operator("OneHot")
def one_hot(node, indices, depth, values):
    depth, axis = int(depth.item()), node.get("axis", -1)
    hot = F.one_hot(_counted_from_start(indices.to(dtype=np.int64), depth), depth)
    off, on = F.unbind(values)
    return F.movedim(F.where(F.eq(hot, 1), on, off), -1, axis)


@operator("NonZero")
def non_zero(node, x):
    return F.transpose(F.argwhere(x), 0, 1)


@operator("Trilu")
def triangle(node, x, k=None):
    return (F.triu if node.get("upper", 1) else F.tril)(x, 0 if k is None else k.item())


@operator("Pad")
def pad(node, x, pads=None, value=None, axes=None):
    pads = node.get("pads", node.get("paddings")) if pads is None else pads.tolist()
    axes = range(x.ndim) if axes is None else axes.tolist()
    widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :]):
        widths[axis] = before, after
    flat = [width for pair in reversed(widths) for width in pair]
    mode = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}
    value = node.get("value", 0.0) if value is None else value.item()
    return F.pad(x, flat, mode[node.get("mode", "constant")], value)


# ---- constants


@operator("Shape")
def shape(node, x):
    return rv.tensor(np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64))


@operator("Size")
def size(node, x):
    return rv.tensor(np.array(x.size, np.int64))


@operator("Constant")
def constant(node):
    ((name, value),) = node.attributes.items()
    types = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return rv.tensor(onnx.numpy_helper.to_array(value) if name == "value" else np.array(value, types[name]))


@operator("ConstantOfShape")
def constant_of_shape(node, sizes):
    value = onnx.numpy_helper.to_array(node.get("value")) if node.get("value") else np.zeros(1, np.float32)
    return rv.full(tuple(sizes.tolist()), value.item(), dtype=value.dtype)


@operator("Range")
def number_range(node, start, limit, delta):
    return rv.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("EyeLike")
def eye_like(node, x):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(node.get("dtype")) if node.get("dtype") else x.dtype
    ones, k = rv.ones(x.shape, dtype=dtype), node.get("k", 0)
    return F.triu(F.tril(ones, k), k)
