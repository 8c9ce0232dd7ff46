"""Normalisation: values brought to mean 0 and variance 1 over some axes, then scaled and shifted.

    x^ = (x - mean) / sqrt(variance + eps)        y = weight x^ + bias

    operation              mean and variance over                 weight and bias
    batch_norm             all axes of [N, C, ...] but C          one a channel
    batch_norm_inference   none: they are given, one a channel    one a channel
    instance_norm          the spatial axes, for each n and c     one a channel
    group_norm             the spatial axes and C / groups        one a channel
                           neighbouring channels, for each n
    layer_norm             the trailing axes                      one an element of those axes
    rms_norm               the same; x^ = x / sqrt(mean(x^2) + eps), no bias

Batch normalisation may end in an activation, y = activation(weight x^ + bias): what follows then has the gradient
before the activation in place of grad_y. What a rectifier let through, x tells, which backward reads anyway.

The variance is the mean of (x - mean)^2 (biased). With g^ = weight grad_y and means over the same axes,

    grad_x = (g^ - mean(g^) - x^ mean(g^ x^)) / sqrt(variance + eps)
    grad_weight = sum of grad_y x^        grad_bias = sum of grad_y

where mean(g^) falls away for rms_norm, and both means for batch_norm_inference. x^ is computed again from the saved
mean and variance instead of being stored.

    local_response_norm    values divided by a power of those of neighbouring channels (`response.py`)
    running_average        running + factor (scale * value - running), the update of running statistics

Sources: S. Ioffe, C. Szegedy, "Batch normalization", 2015; D. Ulyanov et al., "Instance normalization", 2016; Y. Wu,
K. He, "Group normalization", 2018; J. L. Ba et al., "Layer normalization", 2016; B. Zhang, R. Sennrich, "Root mean
square layer normalization", 2019.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import check_choice, check_float, check_number, check_same_dtype, check_shape, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample, Uniform
from .response import check_positive_integer, local_response_norm

__all__ = [
    "batch_norm",
    "batch_norm_inference",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "rms_norm",
    "running_average",
]

ACTIVATIONS = (None, "relu")


def _check_channels(operation, x, weight, bias, eps):
    """What all operations on [N, C, ...] ask."""
    check_float(operation, "x", x)
    if x.ndim < 2:
        refuse_value(operation, "x", "as [N, C, ...]", f"shape {x.shape}")
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None:
            check_same_dtype(operation, "x", x, name, array)
            check_shape(operation, name, array, (x.shape[1],), "[C]")
    check_number(operation, "eps", eps, 0, open_high=True)


def _cost(x, *parameters, **_):
    # Mean 1, squared deviations 3, normalisation and affine map 4.
    elements = 2 * x.size + sum(p.size for p in parameters if p is not None)
    return Cost(flops=8 * x.size, bytes=elements * x.dtype.itemsize)


def _per_channel(x, *_, **__):
    return x.size // max(x.shape[1], 1)


def _channel_sample(name, shape, weight=True, bias=True, *, large=False, **attributes):
    channels = (shape[1],)
    inputs = {"x": shape, "weight": channels if weight else None, "bias": channels if bias else None}
    return Sample(name, inputs, {"eps": 1e-5, **attributes}, large)


def _refused_channels(**attributes):
    """Calls that every operation on [N, C, ...] refuses."""
    x, attributes = np.zeros((2, 4, 3)), {"eps": 1e-5, **attributes}
    return [
        Refused("integers", {"x": np.zeros((2, 4, 3), int)}, TypeError, "expected x of type", attributes),
        Refused("vector", {"x": np.zeros(4)}, ValueError, r"x as \[N, C, \.\.\.\], got shape \(4,\)", attributes),
        Refused("weight", {"x": x, "weight": np.zeros(3)}, ValueError, r"weight of shape \(4,\)", attributes),
        Refused(
            "bias", {"x": x, "weight": None, "bias": np.zeros((4, 1))}, ValueError, r"bias of shape \(4,\)", attributes
        ),
        Refused("mixed", {"x": x, "weight": np.zeros(4, "f4")}, TypeError, "weight of x's type float64", attributes),
        Refused("eps", {"x": x}, ValueError, r"eps in \[0, inf\), got nan", {**attributes, "eps": math.nan}),
    ]


def _check_batch_norm(x, weight=None, bias=None, *, eps, activation=None):
    """x: [N, C, ...], weight, bias: [C] or None; activation: None or "relu". Returns y, and the batch's mean and
    variance (biased), both [C]; of no values they are 0."""
    _check_channels("batch_norm", x, weight, bias, eps)
    check_choice("batch_norm", "activation", activation, ACTIVATIONS)


def _vary_channels(pick, **attributes):
    shape = (pick(0, 4), pick(1, 6), *(pick(3, 6) for _ in range(pick(1, 3))))
    return _channel_sample("varied", shape, pick.of((True, False)), pick.of((True, False)), **attributes)


_NO_ACTIVATION = ValueError, "activation as one of None, 'relu', got 'gelu'", {"eps": 1e-5, "activation": "gelu"}

batch_norm = Operation(
    "batch_norm",
    __name__,
    check=_check_batch_norm,
    by_form=True,
    cost=_cost,
    reduction_length=_per_channel,
    vary=lambda pick: _vary_channels(pick, activation=pick.of(ACTIVATIONS)),
    samples=[
        _channel_sample("images", (4, 6, 5, 7)),
        _channel_sample("sequence", (3, 5, 33), bias=False),
        _channel_sample("volumes", (2, 3, 3, 4, 5), weight=False),
        _channel_sample("features", (33, 70)),
        _channel_sample("many_rows", (700, 9), weight=False, bias=False),
        _channel_sample("rectified_images", (4, 6, 5, 7), activation="relu"),
        _channel_sample("rectified_planes", (3, 5, 12, 13), weight=False, activation="relu"),
        _channel_sample("rectified_features", (70, 99), bias=False, activation="relu"),
        _channel_sample("one_channel", (3, 1, 4, 4)),
        _channel_sample("no_rows", (0, 4, 3, 3)),
        _channel_sample("no_rows_of_features", (0, 4)),
        _channel_sample("empty_planes", (2, 4, 0)),
        _channel_sample("resnet_layer1", (32, 64, 56, 56), large=True),
        _channel_sample("resnet_layer1_relu", (32, 64, 56, 56), activation="relu", large=True),
        _channel_sample("resnet_layer4", (32, 512, 7, 7), large=True),
        _channel_sample("mlp", (1024, 512), large=True),
    ],
    refused=[*_refused_channels(), Refused("activation", {"x": np.zeros((2, 4))}, *_NO_ACTIVATION)],
)


def _check_batch_norm_inference(x, mean, variance, weight=None, bias=None, *, eps, activation=None):
    """x: [N, C, ...], mean, variance: [C], weight, bias: [C] or None; activation: None or "relu"."""
    _check_channels("batch_norm_inference", x, weight, bias, eps)
    check_choice("batch_norm_inference", "activation", activation, ACTIVATIONS)
    for name, array in (("mean", mean), ("variance", variance)):
        if array is None:
            refuse_type("batch_norm_inference", name, "as a NumPy or CuPy array", "None")
        check_same_dtype("batch_norm_inference", "x", x, name, array)
        check_shape("batch_norm_inference", name, array, (x.shape[1],), "[C]")


def _inference_sample(name, shape, weight=True, bias=True, *, large=False, **attributes):
    sample = _channel_sample(name, shape, weight, bias, large=large, **attributes)
    x, *affine = sample.inputs.items()
    statistics = ("mean", (shape[1],)), ("variance", Uniform((shape[1],), 0.5, 2.0))
    return Sample(name, dict([x, *statistics, *affine]), sample.attributes, large)


def _vary_inference(pick):
    shape = (pick(0, 4), pick(0, 6), *(pick(1, 6) for _ in range(pick(0, 3))))
    weight, bias = pick.of((True, False)), pick.of((True, False))
    return _inference_sample("varied", shape, weight, bias, activation=pick.of(ACTIVATIONS))


batch_norm_inference = Operation(
    "batch_norm_inference",
    __name__,
    check=_check_batch_norm_inference,
    by_form=True,
    cost=lambda x, *parameters, **_: Cost(flops=4 * x.size, bytes=_cost(x, *parameters).bytes),
    reduction_length=_per_channel,
    vary=_vary_inference,
    samples=[
        _inference_sample("images", (4, 6, 5, 7)),
        _inference_sample("features", (33, 70), bias=False),
        _inference_sample("one_value", (1, 1), weight=False),
        _inference_sample("rectified_images", (4, 6, 5, 7), activation="relu"),
        _inference_sample("rectified_planes", (3, 5, 12, 13), weight=False, activation="relu"),
        _inference_sample("rectified_features", (33, 70), bias=False, activation="relu"),
        _inference_sample("no_rows", (0, 4, 3, 3)),
        _inference_sample("resnet_layer1", (32, 64, 56, 56), large=True),
        _inference_sample("resnet_layer1_relu", (32, 64, 56, 56), activation="relu", large=True),
    ],
    refused=[
        Refused(
            "mean",
            {"x": np.zeros((2, 4)), "mean": np.zeros(3), "variance": np.ones(4)},
            ValueError,
            r"mean of shape \(4,\) \(\[C\]\), got \(3,\)",
            {"eps": 1e-5},
        ),
        Refused(
            "no_variance",
            {"x": np.zeros((2, 4)), "mean": np.zeros(4), "variance": None},
            TypeError,
            "variance as a NumPy or CuPy array, got None",
            {"eps": 1e-5},
        ),
        Refused(
            "mixed",
            {"x": np.zeros((2, 4)), "mean": np.zeros(4), "variance": np.ones(4, "f4")},
            TypeError,
            "variance of x's type float64",
            {"eps": 1e-5},
        ),
        Refused(
            "eps",
            {"x": np.zeros((2, 4)), "mean": np.zeros(4), "variance": np.ones(4)},
            ValueError,
            r"eps in \[0, inf\), got -1",
            {"eps": -1},
        ),
        Refused("activation", {"x": np.zeros((2, 4)), "mean": np.zeros(4), "variance": np.ones(4)}, *_NO_ACTIVATION),
    ],
)


def _check_instance_norm(x, weight=None, bias=None, *, eps):
    """x: [N, C, ...], weight, bias: [C] or None. Returns y, and each instance's mean and variance (biased), [N, C]; of
    no values they are 0."""
    _check_channels("instance_norm", x, weight, bias, eps)


instance_norm = Operation(
    "instance_norm",
    __name__,
    check=_check_instance_norm,
    by_form=True,
    cost=_cost,
    reduction_length=_per_channel,
    vary=_vary_channels,
    samples=[
        _channel_sample("images", (4, 6, 5, 7)),
        _channel_sample("sequence", (3, 5, 33), weight=False, bias=False),
        _channel_sample("volumes", (2, 3, 3, 4, 5), bias=False),
        _channel_sample("no_rows", (0, 4, 3, 3)),
        _channel_sample("empty_planes", (2, 4, 0)),
        _channel_sample("style_transfer", (4, 64, 128, 128), large=True),
    ],
    refused=_refused_channels(),
)


def _check_group_norm(x, weight=None, bias=None, *, groups, eps):
    """x: [N, C, ...] with C divisible by groups, weight, bias: [C] or None."""
    _check_channels("group_norm", x, weight, bias, eps)
    check_positive_integer("group_norm", "groups", groups)
    if x.shape[1] % groups:
        refuse_value("group_norm", "groups", f"as a divisor of the {x.shape[1]} channels", groups)


def _vary_group_norm(pick):
    groups, spatial = pick(1, 3), tuple(pick(1, 5) for _ in range(pick(0, 3)))
    shape = (pick(0, 4), groups * pick(4, 6), *spatial)
    return _channel_sample("varied", shape, pick.of((True, False)), pick.of((True, False)), groups=groups)


group_norm = Operation(
    "group_norm",
    __name__,
    check=_check_group_norm,
    by_form=True,
    cost=_cost,
    reduction_length=lambda x, *_, groups, **__: max(_per_channel(x), x.size // max(len(x) * groups, 1)),
    vary=_vary_group_norm,
    samples=[
        _channel_sample("images", (4, 6, 5, 7), groups=2),
        _channel_sample("features", (5, 32), groups=4, bias=False),
        _channel_sample("one_group", (3, 4, 9), groups=1, weight=False),
        _channel_sample("no_rows", (0, 4, 3, 3), groups=2),
        _channel_sample("no_channels", (2, 0, 3), groups=2),
        _channel_sample("diffusion_unet", (4, 128, 64, 64), groups=32, large=True),
        _channel_sample("long_groups", (16, 64, 256, 256), groups=8, large=True),
    ],
    refused=[
        *_refused_channels(groups=2),
        Refused("divisor", {"x": np.zeros((2, 4, 3))}, ValueError, "divisor of the 4", {"groups": 3, "eps": 1e-5}),
        Refused("zero", {"x": np.zeros((2, 4, 3))}, ValueError, "groups of at least 1", {"groups": 0, "eps": 1e-5}),
        Refused("type", {"x": np.zeros((2, 4, 3))}, TypeError, "groups as an integer", {"groups": 2.0, "eps": 1e-5}),
    ],
)


def _check_trailing(operation, x, parameters, normalized_shape, eps):
    """What the operations over trailing axes ask."""
    check_float(operation, "x", x)
    if type(normalized_shape) is not tuple or not normalized_shape:
        refuse_value(operation, "normalized_shape", "as a tuple of at least one size", normalized_shape)
    if x.shape[-len(normalized_shape) :] != normalized_shape:
        sizes = ", ".join(map(str, normalized_shape))
        refuse_value(operation, "x", f"as [..., {sizes}]", f"shape {x.shape}")
    for name, array in parameters.items():
        if array is not None:
            check_same_dtype(operation, "x", x, name, array)
            check_shape(operation, name, array, normalized_shape, "normalized_shape")
    check_number(operation, "eps", eps, 0, open_high=True)


def _check_layer_norm(x, weight=None, bias=None, *, normalized_shape, eps):
    """x: [..., *normalized_shape], weight, bias: normalized_shape or None; normalized_shape: tuple of sizes."""
    _check_trailing("layer_norm", x, {"weight": weight, "bias": bias}, normalized_shape, eps)


def _check_rms_norm(x, weight=None, *, normalized_shape, eps):
    """x: [..., *normalized_shape], weight: normalized_shape or None; normalized_shape: tuple of sizes."""
    _check_trailing("rms_norm", x, {"weight": weight}, normalized_shape, eps)


def _trailing_length(x, *_, normalized_shape, **__):
    columns = math.prod(normalized_shape)
    return max(columns, x.size // max(columns, 1))


def _layer_sample(name, rows, shape, weight=True, bias=True, *, large=False):
    inputs = {"x": (*rows, *shape), "weight": shape if weight else None, "bias": shape if bias else None}
    return Sample(name, inputs, {"normalized_shape": shape, "eps": 1e-5}, large)


def _rms_sample(name, rows, shape, weight=True, *, large=False):
    inputs = {"x": (*rows, *shape), "weight": shape if weight else None}
    return Sample(name, inputs, {"normalized_shape": shape, "eps": 1e-6}, large)


def _vary_trailing(sample, flags):
    def vary(pick):
        rows, shape = (
            tuple(pick(low, high) for _ in range(pick(least, 2))) for low, high, least in [(0, 5, 0), (4, 9, 1)]
        )
        return sample("varied", rows, shape, *(pick.of((True, False)) for _ in range(flags)))

    return vary


def _refused_trailing():
    """Calls that both operations over trailing axes refuse."""
    x, good = np.zeros((2, 3, 4)), {"normalized_shape": (3, 4), "eps": 1e-5}
    return [
        Refused("integers", {"x": np.zeros((2, 3, 4), int)}, TypeError, "expected x of type", good),
        Refused("shape", {"x": np.zeros((2, 4, 3))}, ValueError, r"x as \[\.\.\., 3, 4\], got shape \(2, 4, 3\)", good),
        Refused("rank", {"x": np.zeros(4)}, ValueError, r"x as \[\.\.\., 3, 4\], got shape \(4,\)", good),
        Refused("weight", {"x": x, "weight": np.zeros(4)}, ValueError, r"weight of shape \(3, 4\)", good),
        Refused("mixed", {"x": x, "weight": np.zeros((3, 4), "f4")}, TypeError, "weight of x's type float64", good),
        Refused("no_axes", {"x": x}, ValueError, "normalized_shape as a tuple", {**good, "normalized_shape": ()}),
        Refused("eps", {"x": x}, ValueError, r"eps in \[0, inf\), got nan", {**good, "eps": math.nan}),
    ]


layer_norm = Operation(
    "layer_norm",
    __name__,
    check=_check_layer_norm,
    by_form=True,
    cost=_cost,
    reduction_length=_trailing_length,
    vary=_vary_trailing(_layer_sample, 2),
    samples=[
        _layer_sample("tokens", (2, 7), (33,)),
        _layer_sample("many_rows", (70,), (16,), bias=False),
        _layer_sample("two_axes", (5,), (4, 6), weight=False),
        _layer_sample("one_row", (), (64,)),
        _layer_sample("no_rows", (0,), (5,)),
        _layer_sample("no_columns", (5,), (0,), bias=False),
        _layer_sample("transformer", (512,), (768,), large=True),
        _layer_sample("images", (16,), (64, 256, 256), large=True),
    ],
    refused=[
        *_refused_trailing(),
        Refused(
            "bias",
            {"x": np.zeros((2, 3)), "weight": None, "bias": np.zeros(2)},
            ValueError,
            r"bias of shape \(3,\)",
            {"normalized_shape": (3,), "eps": 1e-5},
        ),
    ],
)

rms_norm = Operation(
    "rms_norm",
    __name__,
    check=_check_rms_norm,
    by_form=True,
    cost=lambda x, *parameters, **_: Cost(flops=4 * x.size, bytes=_cost(x, *parameters).bytes),
    reduction_length=_trailing_length,
    vary=_vary_trailing(_rms_sample, 1),
    samples=[
        _rms_sample("tokens", (2, 7), (33,)),
        _rms_sample("two_axes", (5,), (4, 6), weight=False),
        _rms_sample("one_row", (), (64,)),
        _rms_sample("no_rows", (0,), (5,)),
        _rms_sample("transformer", (512,), (4096,), large=True),
    ],
    refused=_refused_trailing(),
)


def _check_running_average(running, value, *, factor, scale=1.0):
    """running: [C], value: [C], or [N, C], of which the mean over N counts. Returns
    running + factor (scale * value - running); `out=running` updates in place. factor in [0, 1]; scale finite."""
    check_float("running_average", "running", running)
    check_same_dtype("running_average", "running", running, "value", value)
    if running.ndim != 1:
        refuse_value("running_average", "running", "as [C]", f"shape {running.shape}")
    if value.ndim not in (1, 2) or value.shape[-1] != running.shape[0] or (value.ndim == 2 and len(value) == 0):
        refuse_value(
            "running_average", "value", f"as [{running.shape[0]}] or [N, {running.shape[0]}]", f"shape {value.shape}"
        )
    check_number("running_average", "factor", factor, 0, 1)
    check_number("running_average", "scale", scale, open_low=True, open_high=True)


running_average = Operation(
    "running_average",
    __name__,
    check=_check_running_average,
    cost=lambda running, value, **_: Cost(
        flops=3 * running.size + value.size, bytes=(2 * running.size + value.size) * running.dtype.itemsize
    ),
    reduction_length=lambda running, value, **_: value.size // max(running.size, 1),
    differentiable=False,
    samples=[
        Sample("batch", {"running": (64,), "value": (64,)}, {"factor": 0.1, "scale": 32 / 31}),
        Sample("instances", {"running": (16,), "value": (5, 16)}, {"factor": 0.25}),
        Sample("replace", {"running": (7,), "value": (7,)}, {"factor": 1.0}),
        Sample("no_channels", {"running": (0,), "value": (0,)}, {"factor": 0.1}),
        Sample("resnet50_last", {"running": (2048,), "value": (2048,)}, {"factor": 0.1}, large=True),
    ],
    refused=[
        Refused(
            "integers", {"running": np.zeros(3, int), "value": np.zeros(3)}, TypeError, "running of type", {"factor": 1}
        ),
        Refused(
            "mixed",
            {"running": np.zeros(3), "value": np.zeros(3, "f4")},
            TypeError,
            "value of running's",
            {"factor": 1},
        ),
        Refused(
            "rank", {"running": np.zeros((3, 1)), "value": np.zeros(3)}, ValueError, r"running as \[C\]", {"factor": 1}
        ),
        Refused("shape", {"running": np.zeros(3), "value": np.zeros(4)}, ValueError, r"value as \[3\]", {"factor": 1}),
        Refused(
            "empty", {"running": np.zeros(3), "value": np.zeros((0, 3))}, ValueError, r"value as \[3\]", {"factor": 1}
        ),
        Refused(
            "factor", {"running": np.zeros(3), "value": np.zeros(3)}, ValueError, r"factor in \[0, 1\]", {"factor": 2}
        ),
        Refused(
            "scale",
            {"running": np.zeros(3), "value": np.zeros(3)},
            ValueError,
            "scale in .*, got nan",
            {"factor": 1, "scale": math.nan},
        ),
    ],
)
