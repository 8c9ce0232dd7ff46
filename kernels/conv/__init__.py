"""Convolutions over one, two or three axes, and their transposes, with bias, a residual and ReLU fused.

With o an output position, k a kernel position and i = o * stride + k * dilation - padding, axis by axis:

    conv:            y[n, out, o] = b[out] + sum over in, k of  W[out, in, k] x[n, in, i]
    conv_transpose:  y[n, out, i] = b[out] + sum over in, o, k of  W[in, out, k] x[n, in, o]

What lies outside x counts as zero. The output is activation(y + residual), where the residual is what a network leads
around the convolution (He et al. 2016, "Deep residual learning for image recognition", section 3.2); there may be none.

A transposed convolution is the gradient of a convolution with respect to its input (Dumoulin & Visin 2016, "A guide to
convolution arithmetic for deep learning", chapter 4), so each is the other's backward pass. `groups` splits the
channels into that many convolutions side by side; as many groups as input channels is a depthwise convolution.

`padding` is a (before, after) pair per axis, because 'same' with an even kernel pads one more after than before.

`reference.py` is the definition, `cpu.py` and `gpu.py` are the kernels.
"""

from __future__ import annotations

import numpy as np

from ..check import check_choice, check_float, check_rank, check_same_dtype, check_shape, refuse_type, refuse_value
from ..operation import Cost, Operation, Refused, Sample
from .shape import conv_shape, output_sizes, transposed_conv_shape, transposed_output_sizes, with_defaults

ACTIVATIONS = (None, "relu")

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
_INTEGERS_ONLY = frozenset({int})
_LARGEST = 2**31 - 1  # of a stride, padding or dilation; kernels count positions in 64 bits


def _check_sizes(name, argument, value, rank, low):
    """value is a tuple of one integer of at least `low` per spatial axis."""
    if type(value) is not tuple or not _INTEGERS_ONLY.issuperset(map(type, value)):
        refuse_type(name, argument, f"as a tuple of {rank} integers", repr(value))
    if len(value) != rank or min(value) < low or max(value) > _LARGEST:
        refuse_value(name, argument, f"as {rank} integers of at least {low}", value)


def _check_arguments(name, rank, x, weight, bias, residual, layout, stride, padding, dilation, groups, activation):
    """What both directions ask of their arguments, channels aside."""
    check_float(name, "x", x)
    check_same_dtype(name, "x", x, "weight", weight)
    check_same_dtype(name, "x", x, "bias", bias)
    check_same_dtype(name, "x", x, "residual", residual)
    check_rank(name, "x", x, (rank + 1, rank + 2), f"[N, C, {_AXES[rank]}] or [C, {_AXES[rank]}]")
    check_rank(name, "weight", weight, rank + 2, layout)
    _check_sizes(name, "stride", stride, rank, 1)
    _check_sizes(name, "dilation", dilation, rank, 1)
    if type(padding) is not tuple or len(padding) != rank:
        refuse_type(name, "padding", f"as a tuple of {rank} (before, after) pairs", repr(padding))
    for pair in padding:
        _check_sizes(name, "padding's pairs", pair, 2, 0)
    if type(groups) is not int:
        refuse_type(name, "groups", "as an integer", repr(groups))
    if groups < 1:
        refuse_value(name, "groups", "of at least 1", groups)
    check_choice(name, "activation", activation, ACTIVATIONS)
    if weight.size == 0:
        refuse_value(name, "weight", "of at least one element", f"shape {weight.shape}")
    if 0 in x.shape[-rank:]:
        refuse_value(name, "x", "of at least one position per axis", f"shape {x.shape}")
    if weight.shape[0] % groups:
        refuse_value(name, "weight", f"as {layout}, its first axis divisible by groups {groups}", f"{weight.shape}")


def _check_channels(name, rank, x, channels, weight, groups):
    if x.shape[-rank - 1] != channels:
        refuse_value(name, "x", f"of {channels} channels (weight is {weight.shape}, groups {groups})", f"{x.shape}")


def _check_output(name, sizes, channels, x, weight, residual):
    """The output has positions, and a residual its shape."""
    if min(sizes) < 1:
        refuse_value(
            name,
            "at least one output position per axis",
            f"(x is {x.shape}, weight {weight.shape}); a kernel may not be larger than the padded input",
            sizes,
        )
    if residual is not None:
        leading = x.shape[: x.ndim - len(sizes) - 1]
        check_shape(name, "residual", residual, (*leading, channels, *sizes), "the output's")


def _cost(x, weight, bias, residual, shape, y_size):
    """Every weight meets every position of the convolution's output once per image."""
    elements = x.size + weight.size + shape.batch * y_size
    elements += sum(given.size for given in (bias, residual) if given is not None)
    return Cost(flops=2 * weight.size * shape.batch * shape.out_size, bytes=elements * x.dtype.itemsize)


def _longest(weight, shape):
    """The terms of the longest sum: over a kernel, or over all positions for a gradient of the weight or the bias."""
    return max(weight[0].size, weight[:, 0].size, shape.batch * max(shape.out_size, shape.in_size))


def _pairs(padding):
    return tuple(p if type(p) is tuple else (p, p) for p in padding)


def _pick_geometry(pick, rank):
    """Random sizes that leave at least one output position."""
    reach = {1: 6, 2: 4, 3: 2}[rank]
    kernel = tuple(pick(1, 1 + reach // 2) for _ in range(rank))
    geometry = {
        "stride": tuple(pick(1, 3) for _ in range(rank)),
        "padding": tuple((pick(0, 2), pick(0, 2)) for _ in range(rank)),
        "dilation": tuple(pick(1, 2) for _ in range(rank)),
        "groups": pick(1, 3),
        "activation": pick.of(ACTIVATIONS),
    }
    return kernel, geometry, tuple(pick(0, reach) for _ in range(rank))


def _varied(pick, x, weight, bias, residual, attributes):
    """A sample of these shapes, with and without what may be left out."""
    bias, residual = (shape if pick.of((True, False)) else None for shape in (bias, residual))
    return Sample("varied", {"x": x, "weight": weight, "bias": bias, "residual": residual}, attributes)


def _declare_conv(rank: int, samples: list[Sample]) -> Operation:
    name, layout = f"conv{rank}d", f"[out, in / groups, {', '.join(['k'] * rank)}]"

    def check(
        x, weight, bias=None, residual=None, *, stride=None, padding=None, dilation=None, groups=1, activation=None
    ):
        """x: [N, C, *spatial] or [C, *spatial], weight: [out, C / groups, *kernel], bias: [out] or None,
        residual: of the output's shape or None; one type.

        stride, dilation: an integer per axis, or None for 1; padding: a (before, after) pair per axis, or None for 0.
        """
        stride, padding, dilation, _ = with_defaults(rank, stride, padding, dilation)
        _check_arguments(name, rank, x, weight, bias, residual, layout, stride, padding, dilation, groups, activation)
        _check_channels(name, rank, x, weight.shape[1] * groups, weight, groups)
        if bias is not None:
            check_shape(name, "bias", bias, weight.shape[:1], "[out]")
        sizes = conv_shape(x, weight, stride, padding, dilation, groups).output[3 - rank :]
        _check_output(name, sizes, weight.shape[0], x, weight, residual)

    def shape_of(x, weight, stride=None, padding=None, dilation=None, groups=1, **_):
        return conv_shape(x, weight, stride, padding, dilation, groups)

    def cost(x, weight, bias=None, residual=None, **attributes):
        shape = shape_of(x, weight, **attributes)
        return _cost(x, weight, bias, residual, shape, shape.out_channels * shape.out_size)

    def vary(pick):
        kernel, geometry, room = _pick_geometry(pick, rank)
        groups, per_group = geometry["groups"], pick(1, 3)
        spatial = tuple(d * (k - 1) + 1 + extra for d, k, extra in zip(geometry["dilation"], kernel, room))
        batch = pick.of(((), (0,), (1,), (3,)))
        weight = (groups * pick(1, 3), per_group, *kernel)
        x = (*batch, groups * per_group, *spatial)
        attributes = (geometry[name] for name in ("stride", "padding", "dilation"))
        residual = (*batch, weight[0], *output_sizes(spatial, kernel, *attributes))
        return _varied(pick, x, weight, weight[:1], residual, geometry)

    return Operation(
        name,
        __name__,
        check=check,
        by_form=True,
        cost=cost,
        reduction_length=lambda x, weight, *_, **attributes: _longest(weight, shape_of(x, weight, **attributes)),
        vary=vary,
        samples=samples,
        refused=_refused(rank, transposed=False),
    )


def _declare_conv_transpose(rank: int, samples: list[Sample]) -> Operation:
    name, layout = f"conv_transpose{rank}d", f"[in, out / groups, {', '.join(['k'] * rank)}]"

    def check(
        x,
        weight,
        bias=None,
        residual=None,
        *,
        stride=None,
        padding=None,
        output_padding=None,
        dilation=None,
        groups=1,
        activation=None,
    ):
        """x: [N, C, *spatial] or [C, *spatial], weight: [C, out / groups, *kernel], bias: [out] or None,
        residual: of the output's shape or None; one type.

        stride, dilation: an integer per axis, or None for 1; padding: a (before, after) pair per axis, or None for 0;
        output_padding: an integer per axis, or None for 0.
        """
        stride, padding, dilation, output_padding = with_defaults(rank, stride, padding, dilation, output_padding)
        _check_arguments(name, rank, x, weight, bias, residual, layout, stride, padding, dilation, groups, activation)
        _check_sizes(name, "output_padding", output_padding, rank, 0)
        _check_channels(name, rank, x, weight.shape[0], weight, groups)
        if bias is not None:
            check_shape(name, "bias", bias, (weight.shape[1] * groups,), "[out]")
        for extra, s, d in zip(output_padding, stride, dilation):
            if extra >= max(s, d):
                refuse_value(
                    name,
                    "output_padding",
                    f"below stride {stride} or dilation {dilation} on every axis",
                    output_padding,
                )
        shape = transposed_conv_shape(x, weight, stride, padding, output_padding, dilation, groups)
        _check_output(name, shape.input[3 - rank :], weight.shape[1] * groups, x, weight, residual)

    def shape_of(x, weight, stride=None, padding=None, output_padding=None, dilation=None, groups=1, **_):
        return transposed_conv_shape(x, weight, stride, padding, output_padding, dilation, groups)

    def cost(x, weight, bias=None, residual=None, **attributes):
        shape = shape_of(x, weight, **attributes)
        return _cost(x, weight, bias, residual, shape, shape.in_channels * shape.in_size)

    def vary(pick):
        kernel, geometry, room = _pick_geometry(pick, rank)
        stride, dilation, groups = geometry["stride"], geometry["dilation"], geometry["groups"]
        geometry["output_padding"] = tuple(pick(0, max(s, d) - 1) for s, d in zip(stride, dilation))
        spatial = tuple(3 + extra for extra in room)  # large enough that no padding picked removes the output
        geometry["padding"] = tuple((min(a, 1), min(b, 1)) for a, b in geometry["padding"])
        batch, channels = pick.of(((), (0,), (1,), (3,))), groups * pick(1, 3)
        weight = (channels, pick(1, 3), *kernel)
        out = weight[1] * groups
        attributes = (geometry[name] for name in ("stride", "padding", "output_padding", "dilation"))
        residual = (*batch, out, *transposed_output_sizes(spatial, kernel, *attributes))
        return _varied(pick, (*batch, channels, *spatial), weight, (out,), residual, geometry)

    return Operation(
        name,
        __name__,
        check=check,
        by_form=True,
        cost=cost,
        reduction_length=lambda x, weight, *_, **attributes: _longest(weight, shape_of(x, weight, **attributes)),
        vary=vary,
        samples=samples,
        refused=_refused(rank, transposed=True),
    )


def _sample(
    name, x, weight, stride=1, padding=0, dilation=1, groups=1, *, bias=True, residual=None, large=False, **attributes
):
    """A convolution with the same stride, padding and dilation on every axis where a number is given."""
    rank = len(weight) - 2
    stride, padding, dilation = ((v,) * rank if type(v) is int else v for v in (stride, padding, dilation))
    transposed = attributes.pop("transposed", False)
    out = weight[1] * groups if transposed else weight[0]
    attributes |= {"stride": stride, "padding": _pairs(padding), "dilation": dilation, "groups": groups}
    inputs = {"x": x, "weight": weight, "bias": (out,) if bias else None, "residual": residual}
    return Sample(name, inputs, attributes, large)


def _transposed_sample(name, x, weight, stride=1, padding=0, output_padding=0, **arguments):
    rank = len(weight) - 2
    output_padding = (output_padding,) * rank if type(output_padding) is int else output_padding
    return _sample(name, x, weight, stride, padding, transposed=True, output_padding=output_padding, **arguments)


def _refused(rank: int, *, transposed: bool) -> list[Refused]:
    """Calls that every rank must refuse, around a good one of 4 -> 6 channels in 2 groups, kernel 3 on 5 positions."""
    shapes = {"x": (2, 4, *[5] * rank), "weight": (4, 3, *[3] * rank) if transposed else (6, 2, *[3] * rank), "bias": 6}
    arrays = {argument: np.ones(shape) for argument, shape in shapes.items()}

    def case(name, message, error=ValueError, inputs=(), **attributes):
        return Refused(name, arrays | dict(inputs), error, message, {"groups": 2} | attributes)

    cases = [
        case("integers", "x of type", TypeError, {"x": np.ones(shapes["x"], int)}),
        case("mixed", "weight of x's type float64", TypeError, {"weight": np.ones(shapes["weight"], "f4")}),
        case("x_rank", r"x as \[N, C, ", inputs={"x": np.ones((4, *[5] * (rank - 1)))}),
        case("weight_rank", "weight as ", inputs={"weight": np.ones((6, 2, *[3] * (rank - 1)))}),
        case("channels", "x of 4 channels", inputs={"x": np.ones((2, 3, *[5] * rank))}),
        case("groups_do_not_divide", "divisible by groups 5", groups=5),
        case("groups_zero", "groups of at least 1", groups=0),
        case("groups_float", "groups as an integer", TypeError, groups=2.0),
        case("bias", r"bias of shape \(6,\)", inputs={"bias": np.ones(5)}),
        case("residual", r"residual of shape \(2, 6, .*\(the output's\)", inputs={"residual": np.ones((2, 6))}),
        case("residual_type", "residual of x's type", TypeError, {"residual": np.ones((2, 6), "f4")}),
        case("stride_zero", "stride as .* at least 1", stride=(0,) * rank),
        case("stride_number", "stride as a tuple", TypeError, stride=2),
        case("stride_float", "stride as a tuple", TypeError, stride=(1.0,) * rank),
        case("stride_axes", "stride as .* integers", stride=(1,) * (rank + 1)),
        case("dilation_zero", "dilation as .* at least 1", dilation=(0,) * rank),
        case("padding_numbers", "padding's pairs as a tuple", TypeError, padding=(1,) * rank),
        case("padding_axes", "padding as a tuple", TypeError, padding=((1, 1),) * (rank + 1)),
        case("padding_negative", "padding's pairs as .* at least 0", padding=((0, -1),) * rank),
        case("activation", "activation as one of None, 'relu'", activation="gelu"),
        case("no_weights", "weight of at least one", inputs={"weight": np.ones((*shapes["weight"][:-1], 0))}),
        case("no_positions", "x of at least one position", inputs={"x": np.ones((2, 4, *[5] * (rank - 1), 0))}),
    ]
    if transposed:
        cases += [
            case("output_padding", "output_padding below stride", output_padding=(1,) * rank),
            case("output_padding_negative", "output_padding as .* at least 0", output_padding=(-1,) * rank),
            case("nothing_left", "at least one output position", padding=((4, 4),) * rank),
        ]
    else:
        cases.append(case("kernel_too_large", "at least one output position", dilation=(3,) * rank))
    return cases


conv1d = _declare_conv(
    1,
    [
        _sample("speech_frames", (2, 8, 37), (12, 8, 5), stride=2, padding=2),
        _sample("wavenet_dilated", (2, 6, 41), (6, 6, 2), dilation=8),
        _sample("depthwise", (2, 6, 19), (6, 1, 3), padding=1, groups=6),
        _sample("grouped", (1, 6, 17), (9, 2, 4), groups=3, activation="relu"),
        _sample("same_even_kernel", (2, 3, 11), (4, 3, 4), padding=((1, 2),)),
        _sample("stride_over_kernel", (2, 3, 23), (4, 3, 2), stride=5),
        _sample("pointwise", (3, 7, 9), (5, 7, 1)),
        _sample("wavenet_residual", (2, 6, 41), (6, 6, 1), residual=(2, 6, 41)),
        _sample("unbatched", (3, 9), (2, 3, 3), bias=False),
        _sample("no_batch", (0, 3, 9), (2, 3, 3)),
        _sample("one", (1, 1, 1), (1, 1, 1)),
        _sample("audio_encoder", (8, 64, 16000), (128, 64, 9), stride=4, padding=4, large=True),
    ],
)

conv2d = _declare_conv(
    2,
    [
        _sample("lenet_first", (2, 1, 12, 12), (6, 1, 5, 5)),
        _sample("resnet_block", (2, 8, 9, 9), (8, 8, 3, 3), padding=1, activation="relu"),
        _sample("resnet_residual", (2, 8, 9, 9), (8, 8, 3, 3), padding=1, activation="relu", residual=(2, 8, 9, 9)),
        _sample("resnet_first", (1, 3, 17, 19), (5, 3, 7, 7), stride=2, padding=3, bias=False),
        _sample("resnet_shortcut", (2, 6, 8, 8), (12, 6, 1, 1), stride=2, bias=False),
        _sample("pointwise", (2, 7, 5, 6), (5, 7, 1, 1)),
        _sample("pointwise_grouped", (2, 6, 5, 5), (9, 2, 1, 1), groups=3),
        _sample("mobilenet_depthwise", (2, 7, 9, 8), (7, 1, 3, 3), padding=1, groups=7, activation="relu"),
        _sample("depthwise_residual", (2, 5, 6, 7), (5, 1, 3, 3), padding=1, groups=5, residual=(2, 5, 6, 7)),
        _sample("depthwise_multiplier", (2, 3, 9, 8), (6, 1, 3, 2), stride=2, padding=1, groups=3),
        _sample("resnext_grouped", (2, 12, 7, 7), (12, 4, 3, 3), padding=1, groups=3),
        _sample("deeplab_dilated", (1, 4, 13, 13), (3, 4, 3, 3), padding=4, dilation=4),
        _sample("asymmetric", (2, 3, 11, 14), (4, 3, 5, 2), stride=(3, 1), padding=(0, 2), dilation=(1, 3)),
        _sample("same_even_kernel", (1, 3, 7, 6), (2, 3, 4, 2), padding=((1, 2), (0, 1))),
        _sample("stride_over_kernel", (2, 3, 13, 11), (4, 3, 2, 1), stride=(3, 4)),
        _sample("padding_over_kernel", (1, 2, 3, 3), (3, 2, 2, 2), padding=3),
        _sample("unbatched", (3, 6, 7), (4, 3, 3, 3), residual=(4, 4, 5)),
        _sample("no_batch", (0, 3, 6, 7), (4, 3, 3, 3)),
        _sample("one", (1, 1, 1, 1), (1, 1, 1, 1)),
        Sample("defaults", {"x": (2, 3, 6, 7), "weight": (4, 3, 3, 2), "bias": None}),
        _sample("lenet", (64, 1, 28, 28), (6, 1, 5, 5), large=True),
        _sample("resnet_56", (8, 64, 56, 56), (64, 64, 3, 3), padding=1, large=True),
        _sample("resnet_stem", (8, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3, large=True),
        _sample(
            "resnet_7_residual",
            (8, 512, 7, 7),
            (512, 512, 3, 3),
            padding=1,
            activation="relu",
            residual=(8, 512, 7, 7),
            large=True,
        ),
        _sample("bottleneck", (8, 256, 56, 56), (64, 256, 1, 1), large=True),
        _sample("mobilenet_112", (8, 32, 112, 112), (32, 1, 3, 3), padding=1, groups=32, large=True),
    ],
)

conv3d = _declare_conv(
    3,
    [
        _sample("video", (2, 3, 5, 6, 7), (4, 3, 3, 3, 3), padding=1, activation="relu"),
        _sample("asymmetric", (1, 2, 5, 8, 7), (3, 2, 2, 3, 1), stride=(1, 2, 3), padding=((0, 1), (2, 0), (0, 0))),
        _sample("depthwise", (2, 3, 4, 5, 6), (3, 1, 3, 2, 3), padding=1, groups=3),
        _sample("grouped_dilated", (1, 4, 5, 5, 5), (4, 2, 2, 2, 2), dilation=2, groups=2),
        _sample("pointwise", (2, 3, 2, 3, 4), (5, 3, 1, 1, 1), bias=False),
        _sample(
            "nothing_but_padding", (2, 3, 1, 2, 2), (3, 3, 1, 1, 1), stride=(2, 1, 1), padding=((1, 0), (0, 0), (0, 0))
        ),
        _sample("unbatched", (2, 4, 4, 4), (3, 2, 2, 2, 2)),
        _sample("no_batch", (0, 2, 3, 3, 3), (3, 2, 2, 2, 2)),
        _sample("c3d", (2, 64, 16, 56, 56), (64, 64, 3, 3, 3), padding=1, large=True),
    ],
)

conv_transpose1d = _declare_conv_transpose(
    1,
    [
        _transposed_sample("vocoder", (2, 8, 9), (8, 4, 8), stride=4, padding=2),
        _transposed_sample("depthwise", (2, 6, 9), (6, 1, 3), stride=2, groups=6, output_padding=1),
        _transposed_sample("grouped", (2, 6, 7), (6, 2, 4), groups=3, dilation=2, activation="relu"),
        _transposed_sample("pointwise", (2, 3, 5), (3, 4, 1)),
        _transposed_sample("unbatched", (3, 5), (3, 4, 3), bias=False),
        _transposed_sample("no_batch", (0, 3, 5), (3, 4, 3)),
        _transposed_sample("one", (1, 1, 1), (1, 1, 1)),
        _transposed_sample("hifigan_first", (16, 512, 32), (512, 256, 16), stride=8, padding=4, large=True),
    ],
)

conv_transpose2d = _declare_conv_transpose(
    2,
    [
        _transposed_sample("dcgan", (2, 8, 4, 4), (8, 4, 4, 4), stride=2, padding=1, activation="relu"),
        _transposed_sample("unet_up", (2, 6, 5, 7), (6, 3, 2, 2), stride=2),
        _transposed_sample("residual", (2, 6, 5, 4), (6, 3, 3, 3), stride=2, activation="relu", residual=(2, 3, 11, 9)),
        _transposed_sample(
            "output_padding", (2, 3, 5, 4), (3, 4, 3, 3), stride=(3, 2), padding=1, output_padding=(2, 1)
        ),
        _transposed_sample("output_padding_over_stride", (1, 3, 4, 4), (3, 2, 2, 2), dilation=3, output_padding=2),
        _transposed_sample("pointwise_output_padding", (1, 3, 4, 4), (3, 2, 1, 1), dilation=2, output_padding=1),
        _transposed_sample("stride_over_kernel", (2, 3, 4, 3), (3, 4, 2, 1), stride=(3, 4)),
        _transposed_sample("depthwise", (2, 4, 5, 5), (4, 1, 3, 3), stride=2, padding=1, groups=4),
        _transposed_sample("grouped", (2, 6, 5, 4), (6, 2, 3, 2), padding=((1, 0), (0, 1)), groups=2),
        _transposed_sample("pointwise", (2, 5, 4, 3), (5, 4, 1, 1)),
        _transposed_sample("unbatched", (3, 4, 5), (3, 4, 3, 3), bias=False),
        _transposed_sample("no_batch", (0, 3, 4, 5), (3, 4, 3, 3)),
        _transposed_sample("one", (1, 1, 1, 1), (1, 1, 1, 1)),
        Sample("defaults", {"x": (2, 3, 6, 7), "weight": (3, 4, 3, 2), "bias": None}),
        _transposed_sample("dcgan_64", (16, 512, 8, 8), (512, 256, 4, 4), stride=2, padding=1, large=True),
    ],
)

conv_transpose3d = _declare_conv_transpose(
    3,
    [
        _transposed_sample("volume_up", (1, 4, 3, 4, 3), (4, 3, 2, 2, 2), stride=2),
        _transposed_sample(
            "asymmetric", (2, 2, 3, 2, 4), (2, 3, 2, 3, 1), stride=(2, 1, 3), padding=((0, 1), (1, 0), (0, 0))
        ),
        _transposed_sample("depthwise", (1, 3, 3, 3, 3), (3, 1, 3, 2, 2), groups=3, stride=2, output_padding=1),
        _transposed_sample("unbatched", (2, 3, 3, 3), (2, 3, 2, 2, 2)),
        _transposed_sample("no_batch", (0, 2, 3, 3, 3), (2, 3, 2, 2, 2)),
        _transposed_sample("unet_up", (2, 128, 8, 16, 16), (128, 64, 2, 2, 2), stride=2, large=True),
    ],
)
