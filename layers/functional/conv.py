"""Convolutions and transposed convolutions over one, two or three axes."""

import operator

from ...kernels import conv as kernels
from ..tensor import apply

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, residual=None):
    """`conv2d` over one axis: input [N, C, L] or [C, L], weight [out, C / groups, k]."""
    return _conv(kernels.conv1d, 1, input, weight, bias, residual, stride, padding, dilation, groups, activation)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, residual=None):
    """Slides a kernel over images and sums the products; bias, residual and activation are part of the same operation.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [out, C / groups, kernel height, kernel width].
        bias: [out] or None.
        stride: distance between output positions, one number or one per axis.
        padding: zeros before and after each axis, one number or one per axis; 'valid' for none; 'same' for an output of
            the input's size (stride 1 only; where the zeros are odd in number, one more comes after).
        dilation: distance between kernel positions, one number or one per axis.
        groups: channels are split into that many convolutions side by side.
        activation: None or 'relu'. (PyTorch has no such argument.)
        residual: of the output's shape, or None: what is added before the activation. (PyTorch has no such argument.)

    Returns:
        [N, out, OH, OW] with OH = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1.

    Raises:
        ValueError: shapes or arguments that do not fit, among them a kernel larger than the padded input.
    """
    return _conv(kernels.conv2d, 2, input, weight, bias, residual, stride, padding, dilation, groups, activation)


def conv3d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, residual=None):
    """`conv2d` over three axes: input [N, C, D, H, W] or [C, D, H, W], weight [out, C / groups, *kernel]."""
    return _conv(kernels.conv3d, 3, input, weight, bias, residual, stride, padding, dilation, groups, activation)


def conv_transpose1d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, activation=None,
    residual=None,
):  # fmt: skip
    """`conv_transpose2d` over one axis: input [N, C, L] or [C, L], weight [C, out / groups, k]."""
    sizes = stride, padding, output_padding, dilation
    return _conv_transpose(kernels.conv_transpose1d, 1, input, weight, bias, residual, sizes, groups, activation)


def conv_transpose2d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, activation=None,
    residual=None,
):  # fmt: skip
    """The transpose of `conv2d`: every input position adds the kernel, times its value, to the output around it.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [C, out / groups, kernel height, kernel width].
        bias: [out] or None.
        stride: distance between the places of neighbouring inputs in the output, one number or one per axis.
        padding: positions cut off before and after each axis, one number or one per axis.
        output_padding: positions added after each axis, one number or one per axis, below stride or dilation.
        groups: channels are split into that many convolutions side by side.
        dilation: distance between kernel positions, one number or one per axis.
        activation: None or 'relu'. (PyTorch has no such argument.)
        residual: of the output's shape, or None: what is added before the activation. (PyTorch has no such argument.)

    Returns:
        [N, out, OH, OW] with OH = (H - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.

    Raises:
        ValueError: shapes or arguments that do not fit.
    """
    sizes = stride, padding, output_padding, dilation
    return _conv_transpose(kernels.conv_transpose2d, 2, input, weight, bias, residual, sizes, groups, activation)


def conv_transpose3d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, activation=None,
    residual=None,
):  # fmt: skip
    """`conv_transpose2d` over three axes: input [N, C, D, H, W] or [C, D, H, W], weight [C, out / groups, *kernel]."""
    sizes = stride, padding, output_padding, dilation
    return _conv_transpose(kernels.conv_transpose3d, 3, input, weight, bias, residual, sizes, groups, activation)


def per_axis(name: str, argument: str, value, rank: int) -> tuple[int, ...]:
    """One integer per axis, from one integer or a sequence of one or `rank` of them.

    Raises:
        TypeError: not integers.
        ValueError: not one or `rank` of them.
    """
    try:
        values = tuple(map(operator.index, value)) if isinstance(value, (tuple, list)) else operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected {argument} as an integer or {rank} of them, got {value!r}") from None
    if type(values) is int:
        return (values,) * rank
    if len(values) == 1:
        return values * rank
    if len(values) != rank:
        raise ValueError(f"{name}: expected {argument} as an integer or {rank} of them, got {value!r}")
    return values


def _conv(operation, rank, input, weight, bias, residual, stride, padding, dilation, groups, activation):
    name = operation.name
    stride, dilation = per_axis(name, "stride", stride, rank), per_axis(name, "dilation", dilation, rank)
    return apply(
        operation,
        input,
        weight,
        bias,
        residual,
        stride=stride,
        padding=_padding_pairs(name, padding, rank, weight, stride, dilation),
        dilation=dilation,
        groups=groups,
        activation=activation,
    )


def _conv_transpose(operation, rank, input, weight, bias, residual, sizes, groups, activation):
    arguments = ("stride", "padding", "output_padding", "dilation")
    attributes = {name: per_axis(operation.name, name, value, rank) for name, value in zip(arguments, sizes)}
    attributes["padding"] = tuple(zip(attributes["padding"], attributes["padding"]))
    return apply(operation, input, weight, bias, residual, groups=groups, activation=activation, **attributes)


def _padding_pairs(name, padding, rank, weight, stride, dilation):
    """(before, after) per axis."""
    if padding == "same":
        if stride != (1,) * rank:
            raise ValueError(f"{name}: expected stride 1 with padding 'same', got {stride}")
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
        # As many pairs as the weight has axes: where that is not the rank, the operation says which array is wrong.
        totals += [0] * (rank - len(totals))
        return tuple((total // 2, total - total // 2) for total in totals)
    if padding == "valid":
        return ((0, 0),) * rank
    if isinstance(padding, str):
        raise ValueError(f"{name}: expected padding as 'same', 'valid', an integer or {rank} of them, got {padding!r}")
    sizes = per_axis(name, "padding", padding, rank)
    return tuple(zip(sizes, sizes))
