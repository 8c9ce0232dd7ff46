"""ONNX's operators of networks, through Ranvier's functions and layers: convolution, pooling, normalisation, recurrent
layers, attention, losses, resizing, optimizers. See onnx_elementary.py for the form of a translation.
"""

from __future__ import annotations

import math

import numpy as np
from onnx_operator import operator

import ranvier as rv

F = rv.functional

# ---- windows


def _window(node, x, kernel):
    """(stride, dilation, pads as pairs) of a window of shape `kernel` on x's spatial axes."""
    rank = x.ndim - 2
    stride, dilation = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            pads.append(_halves(total, auto == "SAME_UPPER"))
    else:
        flat = [0] * 2 * rank if auto == "VALID" else node.get("pads", [0] * 2 * rank)
        pads = list(zip(flat[:rank], flat[rank:]))
    return tuple(stride), tuple(dilation), pads


def _halves(total, more_after):
    small = total // 2
    return (small, total - small) if more_after else (total - small, small)


def _even(pads):
    return all(before == after >= 0 for before, after in pads)


def _padded(x, pads, value=0.0):
    return F.pad(x, [width for pair in reversed(pads) for width in pair], value=value)


@operator("Conv")
def convolve(node, x, weight, bias=None):
    stride, dilation, pads = _window(node, x, weight.shape[2:])
    x, padding = (x, tuple(p for p, _ in pads)) if _even(pads) else (_padded(x, pads), 0)
    function = getattr(F, f"conv{x.ndim - 2}d")
    return function(x, weight, bias, stride, padding, dilation, node.get("group", 1))


@operator("ConvTranspose")
def convolve_transposed(node, x, weight, bias=None):
    rank, kernel = x.ndim - 2, weight.shape[2:]
    stride, dilation, pads = _window(node, x, kernel)
    extra, auto = node.get("output_padding", [0] * rank), node.get("auto_pad", "NOTSET")
    sizes = node.get("output_shape")
    if sizes is None and auto.startswith("SAME"):
        sizes = [size * s for size, s in zip(x.shape[2:], stride)]
    if sizes is not None:
        whole = [
            (n - 1) * s + (k - 1) * d + 1 + e for n, s, k, d, e in zip(x.shape[2:], stride, kernel, dilation, extra)
        ]
        pads = [_halves(w - size, auto == "SAME_UPPER") for w, size in zip(whole, sizes[-rank:])]
    function, groups = getattr(F, f"conv_transpose{rank}d"), node.get("group", 1)
    if _even(pads):
        return function(x, weight, bias, stride, tuple(p for p, _ in pads), tuple(extra), groups, dilation)
    y = function(x, weight, None, stride, 0, tuple(extra), groups, dilation)
    y = _padded(y, [(-before, -after) for before, after in pads])
    return y if bias is None else F.add(y, F.reshape(bias, (-1,) + (1,) * rank))


@operator("MaxPool")
def max_pool(node, x):
    kernel = tuple(node.get("kernel_shape"))
    stride, dilation, pads = _window(node, x, kernel)
    padding = _pool_padding(pads, kernel)
    if padding is None:
        x, padding = _padded(x, pads, -math.inf), 0
    function, ceil = getattr(F, f"max_pool{x.ndim - 2}d"), bool(node.get("ceil_mode"))
    if not node.asks_for(1):
        return function(x, kernel, stride, padding, dilation, ceil)
    y, places = function(x, kernel, stride, padding, dilation, ceil, return_indices=True)
    if node.get("storage_order"):
        height, width = x.shape[2:]
        places = F.add(F.mul(F.remainder(places, width), height), F.floor_divide(places, width))
    return y, F.add(places, _plane_starts(x))


def _pool_padding(pads, kernel):
    """Pads as our pools take them, or None where they are uneven or wide."""
    if _even(pads) and all(2 * before <= k for (before, _), k in zip(pads, kernel)):
        return tuple(before for before, _ in pads)
    return None


def _plane_starts(x):
    """ONNX counts positions through all planes, PyTorch within each."""
    planes, rank = math.prod(x.shape[:2]), x.ndim - 2
    return F.reshape(F.mul(rv.arange(planes), math.prod(x.shape[2:])), (*x.shape[:2], *(1,) * rank))


@operator("MaxUnpool")
def max_unpool(node, x, places, output_shape=None):
    kernel = tuple(node.get("kernel_shape"))
    stride, _, pads = _window(node, x, kernel)
    sizes = [(n - 1) * s + k - sum(p) for n, s, k, p in zip(x.shape[2:], stride, kernel, pads)]
    shape = (*x.shape[:2], *sizes)
    places = F.sub(places, _plane_starts(rv.zeros(shape)))
    function, padding = getattr(F, f"max_unpool{x.ndim - 2}d"), tuple(before for before, _ in pads)
    y = function(x, places, kernel, stride, padding)
    if output_shape is None:
        return y
    # ONNX's positions count in the smaller plane, which lies in the corner of the larger one.
    return _padded(y, [(0, wanted - size) for wanted, size in zip(output_shape.tolist()[2:], sizes)])


@operator("AveragePool")
def average_pool(node, x):
    kernel = tuple(node.get("kernel_shape"))
    stride, _, pads = _window(node, x, kernel)
    function, ceil = getattr(F, f"avg_pool{x.ndim - 2}d"), bool(node.get("ceil_mode"))
    count_pad, padding = bool(node.get("count_include_pad")), _pool_padding(pads, kernel)
    if padding is not None:
        return function(x, kernel, stride, padding, ceil, count_pad)
    y = function(_padded(x, pads), kernel, stride, 0, ceil)
    return y if count_pad else F.div(y, function(_padded(rv.ones_like(x), pads), kernel, stride, 0, ceil))


@operator("LpPool")
def lp_pool(node, x):
    kernel = tuple(node.get("kernel_shape"))
    stride, _, pads = _window(node, x, kernel)
    function = getattr(F, f"lp_pool{x.ndim - 2}d")
    # ONNX takes magnitudes, PyTorch powers as they are.
    return function(_padded(F.abs(x), pads), node.get("p", 2), kernel, stride, bool(node.get("ceil_mode")))


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node, x):
    name = {"GlobalAveragePool": "avg", "GlobalMaxPool": "max"}[node.kind]
    return getattr(F, f"adaptive_{name}_pool{x.ndim - 2}d")(x, 1)


@operator("Col2Im")
def column_to_image(node, x, image, block):
    stride, dilation, pads = (
        node.get(n, d) for n, d in (("strides", [1, 1]), ("dilations", [1, 1]), ("pads", [0] * 4))
    )
    return F.fold(x, tuple(image.tolist()), tuple(block.tolist()), tuple(dilation), tuple(pads[:2]), tuple(stride))


# ---- resizing


@operator("Resize", "Upsample")
def resize(node, x, *inputs):
    """Inputs: roi, scales, sizes; of Upsample: scales."""
    _, scales, sizes = (None, *inputs, None) if node.kind == "Upsample" else (*inputs, None, None, None)[:3]
    axes, rank = node.get("axes", list(range(x.ndim))), x.ndim - 2
    if sizes is not None and sizes.size:
        sizes = dict(zip(axes, sizes.tolist()))
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scale = (min if policy == "not_larger" else max)(size / x.shape[axis] for axis, size in sizes.items())
            sizes = {axis: math.floor(scale * x.shape[axis] + 0.5) for axis in sizes}
        target = {"size": tuple(sizes.get(axis, x.shape[axis]) for axis in range(2, x.ndim))}
    else:
        scales = dict(zip(axes, scales.tolist()))
        target = {"scale_factor": tuple(float(scales.get(axis, 1.0)) for axis in range(2, x.ndim))}
    transformation = node.get("coordinate_transformation_mode", "half_pixel")
    if node.get("mode", "nearest") == "nearest":
        old = node.kind == "Upsample" or transformation == "asymmetric"
        return F.interpolate(x, **target, mode="nearest" if old else "nearest-exact")
    modes = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}, "cubic": {2: "bicubic"}}
    return F.interpolate(
        x,
        **target,
        mode=modes[node.get("mode")][rank],
        align_corners=transformation == "align_corners",
        antialias=bool(node.get("antialias")),
    )


@operator("DepthToSpace")
def depth_to_space(node, x):
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "DCR":  # the block's axes come before the channels: ours come after
        n, c, *plane = x.shape
        x = F.reshape(F.transpose(F.reshape(x, (n, block**2, c // block**2, *plane)), 1, 2), x.shape)
    return F.pixel_shuffle(x, block)


@operator("SpaceToDepth")
def space_to_depth(node, x):
    block = node.get("blocksize")
    y = F.pixel_unshuffle(x, block)
    if node.get("mode", "DCR") == "CRD":
        return y
    n, c, *plane = y.shape
    return F.reshape(F.transpose(F.reshape(y, (n, c // block**2, block**2, *plane)), 1, 2), y.shape)


# ---- normalisation


@operator("BatchNormalization")
def batch_norm(node, x, scale, bias, mean, var):
    eps, keep = node.get("epsilon", 1e-5), node.get("momentum", 0.9)
    if not node.get("training_mode"):
        return F.batch_norm(x, mean, var, scale, bias, eps=eps)
    running = mean.clone()
    y = F.batch_norm(x, running, None, scale, bias, training=True, momentum=1 - keep, eps=eps)
    # PyTorch's running variance takes the unbiased one, ONNX's the biased.
    spread = F.var(x, (0, *range(2, x.ndim)), correction=0)
    return y, running, F.add(F.mul(var, keep), F.mul(spread, 1 - keep))


@operator("InstanceNormalization")
def instance_norm(node, x, scale, bias):
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(node, x, scale, bias):
    return F.group_norm(x, node.get("num_groups"), scale, bias, node.get("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_norm(node, x, scale, bias=None):
    axes, eps = tuple(range(node.get("axis", -1) % x.ndim, x.ndim)), node.get("epsilon", 1e-5)
    y = F.layer_norm(x, x.shape[axes[0] :], scale, bias, eps)
    return y, F.mean(x, axes, keepdim=True), F.rsqrt(F.add(F.var(x, axes, correction=0, keepdim=True), eps))


@operator("RMSNormalization")
def rms_norm(node, x, scale):
    shape = x.shape[node.get("axis", -1) % x.ndim :]
    return F.rms_norm(x, shape, scale, node.get("epsilon", 1e-5))


@operator("LRN")
def local_response_norm(node, x):
    numbers = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return F.local_response_norm(x, node.get("size"), *numbers)


@operator("MeanVarianceNormalization")
def mean_variance_norm(node, x):
    return F.batch_norm(x, None, None, training=True, eps=1e-9)


@operator("LpNormalization")
def lp_normalize(node, x):
    return F.normalize(x, float(node.get("p", 2)), node.get("axis", -1))


@operator("Dropout")
def dropout(node, x, ratio=None, training=None):
    rate = node.get("ratio", 0.5) if ratio is None else float(ratio.item())
    training = training is not None and bool(training.item())
    return F.dropout(x, rate, training), rv.full(x.shape, True)


# ---- products


@operator("Gemm")
def general_product(node, a, b, c=None):
    a = F.transpose(a, 0, 1) if node.get("transA") else a
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if node.get("transB") and alpha == beta == 1 and (c is None or c.ndim == 1):
        return F.linear(a, b, c)
    y = F.matmul(a, F.transpose(b, 0, 1) if node.get("transB") else b)
    y = y if alpha == 1 else F.mul(y, alpha)
    return y if c is None else F.add(y, c if beta == 1 else F.mul(c, beta))


@operator("Attention")
def attention(node, query, key, value, mask=None, past_key=None, past_value=None, valid=None):
    flat = query.ndim == 3
    if flat:
        query = _heads(query, node.get("q_num_heads"))
        key, value = (_heads(x, node.get("kv_num_heads")) for x in (key, value))
    past = 0
    if past_key is not None:
        past = past_key.shape[2]
        key, value = F.cat([past_key, key], 2), F.cat([past_value, value], 2)
    causal, windows = bool(node.get("is_causal")), (node.get("left_window_size", -1), node.get("right_window_size", -1))
    plain = valid is None and past == 0 and windows == (-1, -1)
    if not plain:
        mask = _visible(mask, query, key, past, None if valid is None else valid.numpy(), causal, *windows)
    elif mask is not None:
        mask = _as_long_as(mask, key.shape[2])
    y = F.scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        is_causal=causal and plain,
        scale=node.get("scale"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return F.flatten(F.transpose(y, 1, 2), 2) if flat else y, key, value


def _heads(x, count):
    return F.transpose(F.unflatten(x, 2, (count, x.shape[2] // count)), 1, 2)


def _as_long_as(mask, keys):
    """Keys past the mask's end are not seen."""
    missing = keys - mask.shape[-1]
    if missing == 0:
        return mask
    hidden = rv.full((*mask.shape[:-1], missing), False if mask.dtype == bool else -math.inf, dtype=mask.dtype)
    return F.cat([mask, hidden], -1)


def _visible(mask, query, key, past, valid, causal, left, right):
    """The mask, closed where keys are padding, lie in the future or outside the window."""
    length, keys = query.shape[2], key.shape[2]
    offset = np.array(past) if valid is None else (valid - length).reshape(-1, 1, 1, 1)
    position, j = np.arange(length)[:, None] + offset, np.arange(keys)
    seen = np.ones(np.broadcast_shapes(position.shape, j.shape), bool)
    if valid is not None:
        seen &= j < valid.reshape(-1, 1, 1, 1)
    if causal:
        seen &= j <= position
    if left >= 0:
        seen &= j >= position - left
    if right >= 0:
        seen &= j <= position + right
    seen = rv.tensor(seen)
    if mask is None:
        return seen
    mask = _as_long_as(mask, keys)
    return F.logical_and(mask, seen) if mask.dtype == bool else F.where(seen, mask, -math.inf)


# ---- losses


@operator("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
def classification_loss(node, x, labels, weight=None):
    function = {"SoftmaxCrossEntropyLoss": F.cross_entropy, "NegativeLogLikelihoodLoss": F.nll_loss}[node.kind]
    loss = function(x, labels, weight, node.get("ignore_index", -100), node.get("reduction", "mean"))
    return (loss, F.log_softmax(x, 1)) if node.asks_for(1) else loss


# ---- recurrent layers

# Our gates as rows of ONNX's: its LSTM has i, o, f, c and ours i, f, g, o; its GRU z, r, h and ours r, z, n.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}


@operator("LSTM", "GRU", "RNN")
def recurrent(node, x, weight, recurrence, bias=None, lengths=None, h_0=None, c_0=None):
    hidden, reverse = node.get("hidden_size"), node.get("direction", "forward") == "reverse"
    # A layer that runs backward only is the second half of one that runs both ways.
    both = reverse or node.get("direction") == "bidirectional"
    options = {"nonlinearity": node.get("activations", ["Tanh"])[0].lower()} if node.kind == "RNN" else {}
    layer = getattr(rv, node.kind)(
        weight.shape[2],
        hidden,
        bias=bias is not None,
        bidirectional=both,
        batch_first=bool(node.get("layout")),
        **options,
    )
    arrays = {"weight_ih": weight.numpy(), "weight_hh": recurrence.numpy()}
    if bias is not None:
        arrays["bias_ih"], arrays["bias_hh"] = np.split(bias.numpy(), 2, axis=1)
    rows = np.concatenate([np.arange(gate * hidden, (gate + 1) * hidden) for gate in _GATES[node.kind]])
    suffixes = {"_l0": 0, "_l0_reverse": -1} if both else {"_l0": 0}
    layer.load_state_dict({name + way: x[k][rows] for name, x in arrays.items() for way, k in suffixes.items()})
    h_0, c_0 = (_state(node, state, reverse) for state in (h_0, c_0))
    start = h_0 if node.kind != "LSTM" else None if h_0 is None and c_0 is None else (h_0, c_0)
    output, final = layer(x, start, lengths=lengths)
    final = final if node.kind == "LSTM" else (final,)
    output = F.unflatten(output, 2, (-1, hidden))  # [T, N, directions, hidden], or [N, T, ...] in batches
    output = output if node.get("layout") else F.transpose(output, 1, 2)
    if reverse:
        axis = 2 if node.get("layout") else 1
        output, final = F.narrow(output, axis, 1, 1), [F.narrow(state, 0, 1, 1) for state in final]
    return output, *(F.transpose(state, 0, 1) if node.get("layout") else state for state in final)


def _state(node, state, reverse):
    if state is None:
        return None
    state = F.transpose(state, 0, 1) if node.get("layout") else state
    return F.cat([state, state]) if reverse else state


# ---- optimizers


@operator("Momentum")
def momentum(node, rate, count, *arrays):
    options = {
        "lr": float(rate.item()),
        "momentum": node.get("alpha"),
        "dampening": 1 - node.get("beta") if count.item() > 0 else 0.0,
        "weight_decay": node.get("norm_coefficient"),
        "nesterov": node.get("mode") == "nesterov",
    }
    return _steps(rv.kernels.optimizer.sgd, arrays, options)


@operator("Adagrad")
def adagrad(node, rate, count, *arrays):
    options = {
        "lr": float(rate.item()),
        "step": count.item() + 1,
        "lr_decay": node.get("decay_factor", 0.0),
        "weight_decay": node.get("norm_coefficient", 0.0),
        "eps": node.get("epsilon", 1e-6),
    }
    return _steps(rv.kernels.optimizer.adagrad, arrays, options)


def _steps(operation, arrays, options):
    """Parameters, gradients and state come kind by kind, and so do the new parameters and the new state."""
    count = len(arrays) // 3
    groups = [[x.numpy() for x in arrays[index::count]] for index in range(count)]
    results = [operation.forward(*group, **options)[0] for group in groups]
    return tuple(rv.tensor(array) for kind in zip(*results) for array in kind)
