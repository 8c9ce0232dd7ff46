"""What each operation is called in PyTorch: one line an operation.

A call takes the operation's inputs as tensors, in order, and its attributes by keyword, and returns what the operation
returns, or its first outputs. It raises NoPeer where PyTorch has no such call for these attributes.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from .variants import NoPeer

ACTIVATIONS = {
    None: lambda z: z,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}


def _padded(x, padding):
    """x and the padding that a convolution can do itself: it knows only as much after as before."""
    padding = padding or ((0, 0),)
    if all(before == after for before, after in padding):
        return x, tuple(before for before, _ in padding)
    return F.pad(x, [amount for pair in reversed(padding) for amount in pair]), 0


def _conv(
    rank, x, weight, bias=None, residual=None, *,
    stride=None, padding=None, dilation=None, groups=1, activation=None,
):  # fmt: skip
    x, padding = _padded(x, padding)
    y = getattr(F, f"conv{rank}d")(x, weight, bias, stride or 1, padding, dilation or 1, groups)
    return ACTIVATIONS[activation](y if residual is None else y + residual)


def _conv_transpose(
    rank, x, weight, bias=None, residual=None, *,
    stride=None, padding=None, output_padding=None, dilation=None, groups=1, activation=None,
):  # fmt: skip
    if padding and any(before != after for before, after in padding):
        raise NoPeer("a transposed convolution with different padding before and after")
    padding = tuple(before for before, _ in padding) if padding else 0
    convolve = getattr(F, f"conv_transpose{rank}d")
    y = convolve(x, weight, bias, stride or 1, padding, output_padding or 0, groups, dilation or 1)
    return ACTIVATIONS[activation](y if residual is None else y + residual)


def _recurrent(kind, x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *rest, nonlinearity="tanh", reverse=False):
    """lstm: rest is h0, c0, weight_hr, lengths; rnn, gru: h0, lengths."""
    *states, lengths = (*rest, *[None] * ((4 if kind == "lstm" else 2) - len(rest)))
    if lengths is not None or reverse or (bias_ih is None) != (bias_hh is None):
        raise NoPeer("one layer with lengths, in reverse, or with one bias, without packing")
    weight_hr = states.pop() if kind == "lstm" else None
    batch, size = x.shape[1], weight_ih.shape[0] // {"rnn": 1, "gru": 3, "lstm": 4}[kind]
    widths = [weight_hh.shape[1], size][: len(states)]
    states = [x.new_zeros(batch, n) if state is None else state for state, n in zip(states, widths)]
    states = [state.unsqueeze(0) for state in states]
    parameters = [p for p in (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr) if p is not None]
    call = getattr(torch, f"rnn_{nonlinearity}" if kind == "rnn" else kind)
    initial = tuple(states) if kind == "lstm" else states[0]
    output, *final = call(x, initial, parameters, bias_ih is not None, 1, 0.0, True, False, False)
    return (output, *(state.squeeze(0) for state in final))


def _cell(kind, x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, c0=None, *, nonlinearity="tanh"):
    state = x.new_zeros(x.shape[0], weight_hh.shape[1]) if h0 is None else h0
    if kind == "lstm":
        state = (state, torch.zeros_like(state) if c0 is None else c0)
    call = getattr(torch, f"rnn_{nonlinearity}_cell" if kind == "rnn" else f"{kind}_cell")
    return call(x, state, weight_ih, weight_hh, bias_ih, bias_hh)


def _attention(
    query, key, value, attn_mask=None, *, is_causal=False, scale=None, dropout_p=0.0, seed=0, enable_gqa=False
):
    if dropout_p:
        raise NoPeer("attention with the same dropped weights")
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _pool(kind, x, *, kernel_size, stride, padding, ceil_mode=False, **attributes):
    call = getattr(F, f"{kind}_pool{len(kernel_size)}d")
    return call(x, kernel_size, stride, padding, ceil_mode=ceil_mode, **attributes)


def _avg_pool(x, *, divisor_override=None, **attributes):
    more = {} if divisor_override is None else {"divisor_override": divisor_override}
    return _pool("avg", x, **attributes, **more)


def _adaptive_pool(kind, x, *, output_size, **attributes):
    return getattr(F, f"adaptive_{kind}_pool{len(output_size)}d")(x, output_size, **attributes)


def _lp_pool(x, *, norm_type, kernel_size, stride, ceil_mode=False):
    if len(kernel_size) == 1:  # which takes numbers only
        kernel_size, stride = kernel_size[0], stride[0]
        return F.lp_pool1d(x, norm_type, kernel_size, stride, ceil_mode)
    return getattr(F, f"lp_pool{len(kernel_size)}d")(x, norm_type, kernel_size, stride, ceil_mode)


def _max_unpool(x, indices, *, output_size):
    rank = len(output_size)
    kernel = tuple(out // n for out, n in zip(output_size, x.shape[-rank:]))
    return getattr(F, f"max_unpool{rank}d")(x, indices, kernel, output_size=output_size)


def _interpolate(x, *, size, mode, align_corners=False, scales=None, antialias=False):
    rank = len(size)
    names = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}, "cubic": {2: "bicubic"}}
    mode = names.get(mode, {}).get(rank, mode)
    if scales is not None or mode in ("cubic", "lanczos"):
        raise NoPeer(f"interpolation with these scales in mode {mode!r}")
    align = {} if mode.startswith("nearest") else {"align_corners": align_corners}
    return F.interpolate(x, size, mode=mode, antialias=antialias, **align)


def _pad(x, *, widths, mode="constant", value=0.0):
    if mode != "constant" and any(widths[0] + widths[1]):
        raise NoPeer(f"{mode} padding of the first two axes")
    used = widths if mode == "constant" else widths[2:]
    return F.pad(x, [amount for pair in reversed(used) for amount in pair], mode, *([value] * (mode == "constant")))


def _advanced_index(x, *indices, axis):
    return x[(slice(None),) * axis + indices]


def _reduce(name, x, *, axis, keepdims=False):
    if axis == ():
        raise NoPeer("a reduction over no axis")
    return getattr(torch, name)(x, axis, keepdim=keepdims)


def _norm(x, *, axis, keepdims=False, p=2.0):
    if axis == ():
        raise NoPeer("a reduction over no axis")
    return torch.linalg.vector_norm(x, p, axis, keepdims)


def _prod(x, *, axis, keepdims=False):
    for one in sorted(axis, reverse=True):
        x = torch.prod(x, one, keepdim=keepdims)
    return x


def _channel_dropout(x, *, p, seed, mask_axes=2):
    if mask_axes != 2:
        raise NoPeer("dropout of a mask over other axes than batch and channels")
    return F.dropout2d(x, p, training=True)


def _activation(name):
    return lambda x, **attributes: getattr(F, name)(x, **attributes)


def _loss(name):
    return lambda input, target, **attributes: getattr(F, name)(input, target, **attributes)


def _weighted_loss(name):
    def call(input, target, weight=None, **attributes):
        return getattr(F, name)(input, target, weight=weight, **attributes)

    return call


def _method(name):
    return lambda *arrays: getattr(torch, name)(*arrays)


ELEMENTWISE = {
    name: _method(name)
    for name in (
        "abs", "add", "ceil", "cos", "divide", "erf", "exp", "expm1", "floor", "floor_divide", "isfinite", "isinf",
        "isnan", "log", "log1p", "logical_and", "logical_not", "logical_or", "logical_xor", "maximum", "minimum",
        "multiply", "negative", "not_equal", "reciprocal", "remainder", "round", "rsqrt", "sign", "sin", "sqrt",
        "square", "subtract", "where",
    )
}  # fmt: skip

# Why an operation's gradient is not compared and timed.
FORWARD_ONLY = {"ctc_loss": "ctc_loss: PyTorch's gradient is that of the values before their log_softmax"}

CALLS = ELEMENTWISE | {
    "equal": lambda x, y: torch.eq(x, y),
    "greater": lambda x, y: torch.gt(x, y),
    "greater_equal": lambda x, y: torch.ge(x, y),
    "less": lambda x, y: torch.lt(x, y),
    "less_equal": lambda x, y: torch.le(x, y),
    "power": lambda x, y: torch.pow(x, y),
    "clip": lambda x, *, min=None, max=None: torch.clamp(x, min, max),
    # products
    "dense": lambda x, weight, bias=None, *, activation=None: ACTIVATIONS[activation](F.linear(x, weight, bias)),
    "matmul": lambda a, b: torch.matmul(a, b),
    **{f"conv{rank}d": functools.partial(_conv, rank) for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": functools.partial(_conv_transpose, rank) for rank in (1, 2, 3)},
    "scaled_dot_product_attention": _attention,
    **{kind: functools.partial(_recurrent, kind) for kind in ("rnn", "gru", "lstm")},
    **{f"{kind}_cell": functools.partial(_cell, kind) for kind in ("rnn", "gru", "lstm")},
    # activations
    **{
        name: _activation(name)
        for name in (
            "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid",
            "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh",
            "tanhshrink", "threshold",
        )
    },
    "glu": lambda x, *, axis=-1: F.glu(x, axis),
    "prelu": lambda x, weight: F.prelu(x, weight),
    "rrelu": lambda x, *, lower, upper, seed: F.rrelu(x, lower, upper, training=True),
    "softmax": lambda x, *, axis=-1: torch.softmax(x, axis),
    "log_softmax": lambda x, *, axis=-1: torch.log_softmax(x, axis),
    "logsumexp": lambda x, *, axis=-1, keepdims=False: torch.logsumexp(x, axis, keepdim=keepdims),
    # normalisation; running statistics are left out, as in the operations
    "batch_norm": lambda x, weight=None, bias=None, *, eps, activation=None: ACTIVATIONS[activation](
        F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    ),
    "batch_norm_inference": lambda x, mean, variance, weight=None, bias=None, *, eps, activation=None: (
        ACTIVATIONS[activation](F.batch_norm(x, mean.detach(), variance.detach(), weight, bias, False, 0.0, eps))
    ),
    "instance_norm": lambda x, weight=None, bias=None, *, eps: F.instance_norm(
        x, None, None, weight, bias, True, 0.0, eps
    ),
    "group_norm": lambda x, weight=None, bias=None, *, groups, eps: F.group_norm(x, groups, weight, bias, eps),
    "layer_norm": lambda x, weight=None, bias=None, *, normalized_shape, eps: F.layer_norm(
        x, normalized_shape, weight, bias, eps
    ),
    "rms_norm": lambda x, weight=None, *, normalized_shape, eps: F.rms_norm(x, normalized_shape, weight, eps),
    "local_response_norm": lambda x, *, size, alpha, beta, k: F.local_response_norm(x, size, alpha, beta, k),
    "running_average": lambda running, value, *, factor, scale=1.0: torch.lerp(
        running, (value.mean(0) if value.ndim > 1 else value) * scale, factor
    ),
    # pooling, resizing
    "max_pool": functools.partial(_pool, "max"),
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": functools.partial(_adaptive_pool, "avg"),
    "adaptive_max_pool": functools.partial(_adaptive_pool, "max"),
    "lp_pool": _lp_pool,
    "max_unpool": _max_unpool,
    "interpolate": _interpolate,
    "unfold": lambda x, **attributes: F.unfold(x, **attributes),
    "fold": lambda x, **attributes: F.fold(x, **attributes),
    "pixel_shuffle": lambda x, *, upscale_factor: F.pixel_shuffle(x, upscale_factor),
    "pixel_unshuffle": lambda x, *, downscale_factor: F.pixel_unshuffle(x, downscale_factor),
    "channel_shuffle": lambda x, *, groups: torch.channel_shuffle(x, groups),
    # reductions
    **{name: functools.partial(_reduce, name) for name in ("all", "amax", "amin", "any", "argmax", "argmin")},
    **{name: functools.partial(_reduce, name) for name in ("max", "mean", "min", "sum")},
    "prod": _prod,
    "var": lambda x, *, axis, keepdims=False, correction=1.0: torch.var(
        x, axis, correction=correction, keepdim=keepdims
    ),
    "std": lambda x, *, axis, keepdims=False, correction=1.0: torch.std(
        x, axis, correction=correction, keepdim=keepdims
    ),
    "norm": _norm,
    "cumsum": lambda x, *, axis: torch.cumsum(x, axis),
    "cumprod": lambda x, *, axis: torch.cumprod(x, axis),
    # moving elements
    "concatenate": lambda *arrays, axis: torch.cat(arrays, axis),
    "split": lambda x, *, sizes, axis: torch.split(x, sizes, axis),
    "gather": lambda x, index, *, axis: torch.gather(x, axis, index),
    "advanced_index": _advanced_index,
    "pad": _pad,
    "roll": lambda x, *, shifts, axes: torch.roll(x, shifts, axes),
    "triangle": lambda x, *, diagonal=0, upper=False: (torch.triu if upper else torch.tril)(x, diagonal),
    # embeddings
    "embedding": lambda indices, weight, *, padding_idx=None, scale_grad_by_freq=False: F.embedding(
        indices, weight, padding_idx, scale_grad_by_freq=scale_grad_by_freq
    ),
    "embedding_bag": lambda indices, weight, offsets=None, per_sample_weights=None, **attributes: F.embedding_bag(
        indices, weight, offsets, per_sample_weights=per_sample_weights, **attributes
    ),
    "one_hot": lambda indices, *, num_classes=-1: F.one_hot(indices, num_classes),
    # dropout: each library draws its own numbers
    "dropout": lambda x, *, p, seed: F.dropout(x, p),
    "alpha_dropout": lambda x, *, p, seed: F.alpha_dropout(x, p, training=True),
    "channel_dropout": _channel_dropout,
    "feature_alpha_dropout": lambda x, *, p, seed, mask_axes=2: F.feature_alpha_dropout(x, p, training=True),
    # losses
    **{
        name: _loss(name)
        for name in (
            "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "mse_loss", "multilabel_margin_loss",
            "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss",
        )
    },
    **{
        name: _weighted_loss(name)
        for name in (
            "binary_cross_entropy", "multi_margin_loss", "multilabel_soft_margin_loss", "nll_loss",
        )
    },
    "cross_entropy": lambda input, target, weight=None, *, inplace=False, **attributes: F.cross_entropy(
        input, target, weight, **attributes
    ),
    "binary_cross_entropy_with_logits": lambda input, target, weight=None, pos_weight=None, *, reduction="mean": (
        F.binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)
    ),
    "cosine_embedding_loss": lambda a, b, target, **attributes: F.cosine_embedding_loss(a, b, target, **attributes),
    "gaussian_nll_loss": lambda input, target, var, **attributes: F.gaussian_nll_loss(
        input, target, var, **attributes
    ),
    "margin_ranking_loss": lambda a, b, target, **attributes: F.margin_ranking_loss(a, b, target, **attributes),
    "triplet_margin_loss": lambda a, b, c, **attributes: F.triplet_margin_loss(a, b, c, **attributes),
    "ctc_loss": lambda log_probs, targets, lengths, target_lengths, **attributes: F.ctc_loss(
        log_probs, targets, lengths, target_lengths, **attributes
    ),
    # gradients
    "gradient_norm": lambda gradient, *, norm_type=2.0: torch.linalg.vector_norm(gradient, norm_type),
    "gradient_scale": lambda gradient, *, factor: gradient * factor,
    "gradient_limit": lambda gradient, norm, *, max_norm: gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0),
    "gradient_clip": lambda gradient, *, low, high: torch.clamp(gradient, low, high),
}  # fmt: skip


# ---- optimizers

_OPTIMIZERS = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
FUSED = ("adagrad", "adam", "sgd")


def optimizer(name: str, states: dict[str, torch.Tensor], attributes: dict, **options) -> torch.optim.Optimizer:
    """PyTorch's optimizer of one parameter, before a step from the state given.

    Args:
        name: the operation's.
        states: `parameter`, `gradient` and the operation's other inputs by name; they are changed by a step.
        attributes: the operation's.
        options: more arguments of the optimizer, such as fused=True.
    """
    if name not in _OPTIMIZERS:
        raise NoPeer("no such optimizer")
    arguments = dict(attributes)
    step, mu_product = arguments.pop("step", 1), arguments.pop("mu_product", None)
    decoupled, kind = arguments.pop("decoupled", False), _OPTIMIZERS[name]
    if name == "adam":
        kind = torch.optim.AdamW if decoupled else kind
        arguments["amsgrad"] = "max_exp_avg_sq" in states
    elif decoupled:
        arguments["decoupled_weight_decay"] = True
    parameter = torch.nn.Parameter(states["parameter"])
    parameter.grad = states["gradient"]
    result = kind([parameter], **arguments, **options)
    state = {key: value for key, value in states.items() if key not in ("parameter", "gradient")}
    if name != "sgd":
        state["step"] = torch.tensor(float(step - 1))
    if mu_product is not None:
        # The operation is given the product with this step's factor, PyTorch keeps it without.
        mu = attributes["betas"][0] * (1 - 0.5 * 0.96 ** (step * attributes["momentum_decay"]))
        state["mu_product"] = torch.tensor(mu_product / mu, dtype=torch.float64)
    result.state[parameter] = state
    return result
