"""What the kernels of dense products share: where a tile lies, activations and their derivatives."""

import triton
import triton.language as tl

_RELU, _SIGMOID, _TANH, _GELU = (tl.constexpr(code) for code in range(1, 5))


@triton.jit
def place_of_tile(tile, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """(matrix, row, column) of a tile, rows and columns counted in tiles.

    Tiles are numbered down GROUP_M rows before a column on, so that the tiles of b which neighbours share stay in the
    L2 cache; one matrix comes after the other.
    """
    within = tile % (tiles_m * tiles_n)
    group = within // (GROUP_M * tiles_n)
    rows_of_group = min(tiles_m - group * GROUP_M, GROUP_M)
    row = group * GROUP_M + (within % (GROUP_M * tiles_n)) % rows_of_group
    return tile // (tiles_m * tiles_n), row, (within % (GROUP_M * tiles_n)) // rows_of_group


@triton.jit
def add_bias(total, bias, column, n):
    """total + bias[column] in each row; `bias` may be None."""
    if bias is not None:
        total += tl.load(bias + column, mask=column < n, other=0.0).to(total.dtype)[None, :]
    return total


@triton.jit
def activate(total, ACTIVATION: tl.constexpr):
    """activation(total); NaN stays NaN."""
    if ACTIVATION == _RELU:
        total = tl.where(total < 0, 0.0, total)
    elif ACTIVATION == _SIGMOID:
        total = 1 / (1 + tl.exp(-total))
    elif ACTIVATION == _TANH:
        total = 2 / (1 + tl.exp(-2 * total)) - 1
    elif ACTIVATION == _GELU:
        total = 0.5 * total * (1 + tl.erf(total * 0.7071067811865476))
    return total


@triton.jit
def differentiate(gradient, value, ACTIVATION: tl.constexpr):
    """gradient * activation'(z), from the activation's result (`value` = y), or for GELU its argument (z).

    Half types are computed in float32, which is what is returned for them.
    """
    if gradient.dtype != tl.float64:
        gradient, value = gradient.to(tl.float32), value.to(tl.float32)
    if ACTIVATION == _RELU:
        gradient = tl.where(value > 0, gradient, 0.0)
    elif ACTIVATION == _SIGMOID:
        gradient *= value * (1 - value)
    elif ACTIVATION == _TANH:
        gradient *= 1 - value * value
    else:
        density = 0.3989422804014327 * tl.exp(-0.5 * value * value)
        gradient *= 0.5 * (1 + tl.erf(value * 0.7071067811865476)) + value * density
    return gradient
