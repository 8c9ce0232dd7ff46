"""The sizes of a convolution, for all ranks at once: 1-D and 2-D are 3-D with leading axes of size 1."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

Sizes = tuple[int, int, int]


class ConvShape(NamedTuple):
    """A convolution from [batch, in_channels, *input] to [batch, out_channels, *output].

    Output position o reads, with kernel position k, the input at o * stride + k * dilation - padding, axis by axis;
    what lies outside the input counts as zero. A transposed convolution is the same map read backwards, so its input
    is `output` here.
    """

    batch: int
    groups: int
    in_channels: int
    out_channels: int
    input: Sizes
    kernel: Sizes
    output: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes

    @property
    def in_size(self) -> int:
        """Input positions of a channel."""
        return math.prod(self.input)

    @property
    def out_size(self) -> int:
        """Output positions of a channel."""
        return math.prod(self.output)

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return math.prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output position reads exactly the input position of its own index."""
        return self.taps == 1 and self.stride == (1, 1, 1) and self.padding == (0, 0, 0) and self.input == self.output

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel reads one input channel of several."""
        return self.groups == self.in_channels > 1


def with_defaults(rank, stride, padding, dilation, output_padding=None):
    """Each attribute, or for None its default: stride and dilation 1, no padding."""
    ones, zeros = (1,) * rank, (0,) * rank
    return (
        ones if stride is None else stride,
        ((0, 0),) * rank if padding is None else padding,
        ones if dilation is None else dilation,
        zeros if output_padding is None else output_padding,
    )


def output_sizes(input, kernel, stride, padding, dilation) -> tuple[int, ...]:
    """Output positions per axis; below 1 where the kernel is larger than the padded input."""
    return tuple(
        (size + before + after - d * (k - 1) - 1) // s + 1
        for size, k, s, (before, after), d in zip(input, kernel, stride, padding, dilation)
    )


def transposed_output_sizes(input, kernel, stride, padding, output_padding, dilation) -> tuple[int, ...]:
    """Output positions per axis of the transposed convolution; below 1 where padding removes everything."""
    return tuple(
        (size - 1) * s - before - after + d * (k - 1) + extra + 1
        for size, k, s, (before, after), extra, d in zip(input, kernel, stride, padding, output_padding, dilation)
    )


def conv_shape(x, weight, stride, padding, dilation, groups) -> ConvShape:
    """The shape of a convolution of arrays of the right ranks, and attributes of the right types."""
    return _conv_shape(x.shape, weight.shape, stride, padding, dilation, groups)


@lru_cache(maxsize=1024)
def _conv_shape(x, weight, stride, padding, dilation, groups):
    rank = len(weight) - 2
    stride, padding, dilation, _ = with_defaults(rank, stride, padding, dilation)
    output = output_sizes(x[-rank:], weight[2:], stride, padding, dilation)
    return ConvShape(
        x[0] if len(x) == rank + 2 else 1,
        groups,
        weight[1] * groups,
        weight[0],
        *_three_axes(x[-rank:], weight[2:], output, stride, padding, dilation),
    )


def transposed_conv_shape(x, weight, stride, padding, output_padding, dilation, groups) -> ConvShape:
    """The shape of the convolution whose transpose maps x to the output: `output` is x's, `input` the result's."""
    return _transposed_conv_shape(x.shape, weight.shape, stride, padding, output_padding, dilation, groups)


@lru_cache(maxsize=1024)
def _transposed_conv_shape(x, weight, stride, padding, output_padding, dilation, groups):
    rank = len(weight) - 2
    stride, padding, dilation, output_padding = with_defaults(rank, stride, padding, dilation, output_padding)
    sizes = transposed_output_sizes(x[-rank:], weight[2:], stride, padding, output_padding, dilation)
    return ConvShape(
        x[0] if len(x) == rank + 2 else 1,
        groups,
        weight[1] * groups,
        weight[0],
        *_three_axes(sizes, weight[2:], x[-rank:], stride, padding, dilation),
    )


def _three_axes(input, kernel, output, stride, padding, dilation):
    missing = 3 - len(kernel)
    before = tuple(pair[0] for pair in padding)
    fills = (1, 1, 1, 1, 0, 1)
    return [(fill,) * missing + tuple(s) for fill, s in zip(fills, (input, kernel, output, stride, before, dilation))]
