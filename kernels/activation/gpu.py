"""Activations on CuPy arrays: one pair of kernels for all that go element by element, the formula chosen when a kernel
is compiled. Parameters are compiled in as well: a model has few, and they cost neither a register nor digits.
PReLU is a broadcast of its slopes."""

import math

import triton
import triton.language as tl

from ..elementwise.gpu_broadcasting import broadcast, broadcast_sum
from ..gpu_arrays import contiguous, copy_into
from ..gpu_math import expm1, log1p, sigmoid, tanh
from ..launch import ceil_div, empty, launch
from .reference import SELU_ALPHA, SELU_SCALE

_BLOCK = 1024
_SAVE_OUTPUT = frozenset(("sigmoid", "tanh", "relu", "clamp"))
_ROOT_HALF = tl.constexpr(math.sqrt(0.5))
_DENSITY_AT_0 = tl.constexpr(1 / math.sqrt(2 * math.pi))
# (1 + tanh u) / 2 = sigmoid(2 u), which keeps its digits where tanh u is all but -1.
_GELU_SCALE, _GELU_CUBIC = tl.constexpr(2 * math.sqrt(2 / math.pi)), tl.constexpr(0.044715)


@triton.jit
def _load(pointer, offset, inside):
    """Values to compute with: half types in float32, the others as they are."""
    value = tl.load(pointer + offset, mask=inside, other=0.0)
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def activation_forward_kernel(
    x, y, size, FUNCTION: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr
):
    """y = f(x), a block of neighbours a program; what the parameters P, Q, R mean goes by f."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    v = _load(x, offset, inside)
    zero = tl.zeros_like(v)
    # Sums, because a bare number that is one side of a choice would be rounded to float32.
    p, q = zero + P, zero + Q
    if FUNCTION == "sigmoid":
        v = sigmoid(v)
    elif FUNCTION == "tanh":
        v = tanh(v)
    elif FUNCTION == "relu":
        v = tl.where(v <= 0, zero, v)
    elif FUNCTION == "threshold":
        v = tl.where(v <= p, q, v)
    elif FUNCTION == "clamp":
        v = tl.where(v < p, p, v)
        v = tl.where(v > q, q, v)
    elif FUNCTION == "leaky_relu":
        v = tl.where(v > 0, v, v * p)
    elif FUNCTION == "elu":
        v = tl.where(v <= 0, p * expm1(v * R), q * v)
    elif FUNCTION == "gelu":
        v = 0.5 * v * (1 + tl.erf(v * _ROOT_HALF))
    elif FUNCTION == "gelu_tanh":
        v = v * sigmoid((v + v * v * v * _GELU_CUBIC) * _GELU_SCALE)
    elif FUNCTION == "silu":
        v = v * sigmoid(v)
    elif FUNCTION == "mish":
        # With e = exp(x), tanh(log(1 + e)) = n / (n + 2), n = e (e + 2); beyond 20 it is 1, and e stays finite.
        e = tl.exp(tl.where(v > 20, zero + 20, v))
        n = e * (e + 2)
        v = v * (n / (n + 2))
    elif FUNCTION == "softplus":
        # log(1 + e^z) = max(z, 0) + log(1 + e^-|z|): nothing overflows.
        z = v * p
        v = tl.where(z > q, v, (tl.where(z > 0, z, zero) + log1p(tl.exp(-tl.abs(z)))) / p)
    elif FUNCTION == "softsign":
        v = v / (1 + tl.abs(v))
    elif FUNCTION == "hardsigmoid":
        v = tl.where(v >= 3, zero + 1, tl.where(v <= -3, zero, (v + 3) / 6))
    elif FUNCTION == "hardswish":
        v = v * tl.where(v >= 3, zero + 1, tl.where(v <= -3, zero, (v + 3) / 6))
    elif FUNCTION == "logsigmoid":
        v = tl.where(v < 0, v, zero) - log1p(tl.exp(-tl.abs(v)))
    elif FUNCTION == "softshrink":
        v = tl.where(v > p, v - p, tl.where(v < -p, v + p, 0 * v))
    elif FUNCTION == "hardshrink":
        v = tl.where(tl.abs(v) <= p, zero, v)
    else:
        tl.static_assert(FUNCTION == "tanhshrink")
        v = v - tanh(v)
    tl.store(y + offset, v.to(y.dtype.element_ty), mask=inside)


@triton.jit
def activation_grad_input_kernel(
    grad_y, state, grad_x, size,
    FUNCTION: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x = grad_y f'(x), a block of neighbours a program; `state` is f(x) for _SAVE_OUTPUT's functions, else x."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    g, v = _load(grad_y, offset, inside), _load(state, offset, inside)
    zero = tl.zeros_like(v)
    p, q = zero + P, zero + Q
    if FUNCTION == "sigmoid":
        g = g * (v * (1 - v))
    elif FUNCTION == "tanh":
        g = g * (1 - v * v)
    elif FUNCTION == "relu":
        g = tl.where(v <= 0, zero, g)
    elif FUNCTION == "threshold":
        g = tl.where(v <= p, zero, g)
    elif FUNCTION == "clamp":
        # What the state's type rounded the bounds to is what was stored.
        low, high = p.to(state.dtype.element_ty).to(v.dtype), q.to(state.dtype.element_ty).to(v.dtype)
        g = tl.where((v <= low) | (v >= high), zero, g)
    elif FUNCTION == "leaky_relu":
        g = tl.where(v > 0, g, g * p)
    elif FUNCTION == "elu":
        g = g * tl.where(v > 0, q, p * R * tl.exp(v * R))
    elif FUNCTION == "gelu":
        g = g * (0.5 * (1 + tl.erf(v * _ROOT_HALF)) + v * _DENSITY_AT_0 * tl.exp(-0.5 * v * v))
    elif FUNCTION == "gelu_tanh":
        s = sigmoid((v + v * v * v * _GELU_CUBIC) * _GELU_SCALE)
        g = g * (s + v * (s * (1 - s) * ((1 + 3 * v * v * _GELU_CUBIC) * _GELU_SCALE)))
    elif FUNCTION == "silu":
        s = sigmoid(v)
        g = g * (s * (1 + v * (1 - s)))
    elif FUNCTION == "mish":
        v = tl.where(v > 20, zero + 20, v)
        e = tl.exp(v)
        n = e * (e + 2)
        t = n / (n + 2)
        g = g * (t + v * ((1 - t * t) * (e / (1 + e))))
    elif FUNCTION == "softplus":
        z = v * p
        g = g * tl.where(z > q, zero + 1, sigmoid(z))
    elif FUNCTION == "softsign":
        root = 1 + tl.abs(v)
        g = g / (root * root)
    elif FUNCTION == "hardsigmoid":
        g = tl.where(tl.abs(v) < 3, g / 6, zero)
    elif FUNCTION == "hardswish":
        g = tl.where(v <= -3, zero, tl.where(v >= 3, g, g * (v / 3 + 0.5)))
    elif FUNCTION == "logsigmoid":
        g = g * sigmoid(-v)
    elif FUNCTION == "softshrink" or FUNCTION == "hardshrink":
        g = tl.where(tl.abs(v) <= p, zero, g)
    else:
        tl.static_assert(FUNCTION == "tanhshrink")
        t = tanh(v)
        g = g * (t * t)
    tl.store(grad_x + offset, g.to(grad_x.dtype.element_ty), mask=inside)


def _forward(function, x, out, p=0.0, q=0.0, r=0.0):
    order = _axes_by_memory(x)
    flat = _flat(x, order)
    direct = out is not None and order is None and out.flags.c_contiguous
    result = out.reshape(-1) if direct else empty(flat)
    numbers = {"P": float(p), "Q": float(q), "R": float(r)}
    grid = (ceil_div(flat.size, _BLOCK),)
    launch(activation_forward_kernel, grid, flat, result, flat.size, FUNCTION=function, **numbers, BLOCK=_BLOCK)
    state = result if function in _SAVE_OUTPUT else flat
    y = out if direct else _deliver(_unflat(result, x.shape, order), out)
    return y, (state, x.shape, order, function, numbers)


def _backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    state, shape, order, function, numbers = saved
    grad_x = empty(state)
    grid = (ceil_div(state.size, _BLOCK),)
    launch(
        activation_grad_input_kernel, grid, _flat(grad_y, order), state, grad_x, state.size,
        FUNCTION=function, **numbers, BLOCK=_BLOCK,
    )  # fmt: skip
    return (_unflat(grad_x, shape, order),)


def _deliver(y, out):
    """y, in the caller's array where there is one."""
    if out is None:
        return y
    copy_into(out, y)
    return out


def _axes_by_memory(x):
    """The axes from the widest stride to the narrowest; None for C order. Channels-last input gives such output."""
    return None if x.flags.c_contiguous else tuple(sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis])))


def _flat(x, order):
    """x as a vector in the given order of axes; shares memory where x lies so."""
    return contiguous(x if order is None else x.transpose(order)).reshape(-1)


def _unflat(vector, shape, order):
    """A vector from `_flat` as an array of the shape."""
    if order is None:
        return vector.reshape(shape)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return vector.reshape([shape[axis] for axis in order]).transpose(inverse)


def sigmoid_forward(x, *, out=None):
    return _forward("sigmoid", x, out)


def tanh_forward(x, *, out=None):
    return _forward("tanh", x, out)


def relu_forward(x, *, out=None):
    return _forward("relu", x, out)


def relu6_forward(x, *, out=None):
    return _forward("clamp", x, out, 0.0, 6.0)


def leaky_relu_forward(x, *, negative_slope=0.01, out=None):
    return _forward("leaky_relu", x, out, negative_slope)


def elu_forward(x, *, alpha=1.0, out=None):
    return _forward("elu", x, out, alpha, 1.0, 1.0)


def celu_forward(x, *, alpha=1.0, out=None):
    return _forward("elu", x, out, alpha, 1.0, 1 / alpha)


def selu_forward(x, *, out=None):
    return _forward("elu", x, out, SELU_ALPHA * SELU_SCALE, SELU_SCALE, 1.0)


def gelu_forward(x, *, approximate="none", out=None):
    return _forward("gelu_tanh" if approximate == "tanh" else "gelu", x, out)


def silu_forward(x, *, out=None):
    return _forward("silu", x, out)


def mish_forward(x, *, out=None):
    return _forward("mish", x, out)


def softplus_forward(x, *, beta=1.0, threshold=20.0, out=None):
    return _forward("softplus", x, out, beta, threshold)


def softsign_forward(x, *, out=None):
    return _forward("softsign", x, out)


def hardtanh_forward(x, *, min_val=-1.0, max_val=1.0, out=None):
    return _forward("clamp", x, out, min_val, max_val)


def hardsigmoid_forward(x, *, out=None):
    return _forward("hardsigmoid", x, out)


def hardswish_forward(x, *, out=None):
    return _forward("hardswish", x, out)


def logsigmoid_forward(x, *, out=None):
    return _forward("logsigmoid", x, out)


def softshrink_forward(x, *, lambd=0.5, out=None):
    return _forward("softshrink", x, out, lambd)


def hardshrink_forward(x, *, lambd=0.5, out=None):
    return _forward("hardshrink", x, out, lambd)


def tanhshrink_forward(x, *, out=None):
    return _forward("tanhshrink", x, out)


def threshold_forward(x, *, threshold=0.0, value=0.0, out=None):
    return _forward("threshold", x, out, threshold, value)


sigmoid_backward = tanh_backward = relu_backward = relu6_backward = leaky_relu_backward = _backward
elu_backward = celu_backward = selu_backward = gelu_backward = silu_backward = mish_backward = _backward
softplus_backward = softsign_backward = hardtanh_backward = hardsigmoid_backward = _backward
hardswish_backward = logsigmoid_backward = softshrink_backward = hardshrink_backward = _backward
tanhshrink_backward = threshold_backward = _backward


@triton.jit(do_not_specialize=["seed"])  # a new seed every step must not mean a new form
def rrelu_kernel(
    factor, x, result, size, seed: tl.int64, LOWER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """result = factor, or where x is not above 0 factor times the slope that Philox gives for the element's index.

    Forward the factor is x itself; backward it is grad_y, and the slopes are drawn again.
    """
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    value, sign = _load(factor, offset, inside), _load(x, offset, inside)
    slope = tl.rand(seed, offset).to(value.dtype) * WIDTH + LOWER
    tl.store(result + offset, tl.where(sign > 0, value, value * slope).to(result.dtype.element_ty), mask=inside)


def _rrelu(factor, x, result, numbers):
    launch(rrelu_kernel, (ceil_div(x.size, _BLOCK),), factor, x, result, x.size, numbers[0],
           LOWER=numbers[1], WIDTH=numbers[2], BLOCK=_BLOCK)  # fmt: skip


def rrelu_forward(x, *, lower=1 / 8, upper=1 / 3, seed=0, out=None):
    flat = contiguous(x).reshape(-1)
    result = empty(flat)
    numbers = int(seed), float(lower), float(upper - lower)
    _rrelu(flat, flat, result, numbers)
    return _deliver(result.reshape(x.shape), out), (flat, x.shape, numbers)


def rrelu_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    flat, shape, numbers = saved
    grad_x = empty(flat)
    _rrelu(contiguous(grad_y).reshape(-1), flat, grad_x, numbers)
    return (grad_x.reshape(shape),)


def prelu_forward(x, weight, *, out=None):
    # The slopes, shaped to broadcast with x: one for each of its channels, or one for all.
    shape = (weight.size, *[1] * (x.ndim - 2)) if weight.size != 1 else ()
    slope = contiguous(weight).reshape(shape)
    return broadcast("prelu", (x, slope, None), x.shape, x.dtype, out), (x, slope, weight.shape)


def prelu_backward(saved, grad_y, needs):
    x, slope, weight_shape = saved
    grad_x = grad_weight = None
    if needs[0]:
        grad_x = broadcast("prelu_grad_x", (grad_y, x, slope), x.shape, x.dtype)
    if needs[1]:
        sums = broadcast_sum("prelu_grad_weight", (grad_y, x, None), x.shape, slope.shape, x.dtype)
        grad_weight = sums.reshape(weight_shape)
    return grad_x, grad_weight


@triton.jit
def glu_forward_kernel(x, y, rows, length, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """y [rows, length] = a sigmoid(b), from x [rows, 2, length] with a and b side by side, a tile a program."""
    blocks = tl.cdiv(length, BLOCK_COLUMNS)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = (program % blocks).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (row < rows) & (column < length)
    a = x + row * (2 * length) + column
    value = _load(a, 0, inside) * sigmoid(_load(a, length, inside))
    tl.store(y + row * length + column, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def glu_grad_input_kernel(grad_y, x, grad_x, rows, length, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """grad_x [rows, 2, length] from grad_y [rows, length], a tile of grad_y a program: the gate is computed again."""
    blocks = tl.cdiv(length, BLOCK_COLUMNS)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = (program % blocks).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (row < rows) & (column < length)
    offset = row * (2 * length) + column
    a, gate = _load(x, offset, inside), sigmoid(_load(x, offset + length, inside))
    gradient = _load(grad_y, row * length + column, inside)
    kind = grad_x.dtype.element_ty
    tl.store(grad_x + offset, (gradient * gate).to(kind), mask=inside)
    tl.store(grad_x + offset + length, (gradient * a * (gate * (1 - gate))).to(kind), mask=inside)


def _glu_tiles(rows, length):
    """The grid and the tile for rows of that length: 1024 elements, one row's or those of several short rows."""
    columns = 16 if length <= 16 else 128 if length <= 128 else _BLOCK
    tile = {"BLOCK_ROWS": _BLOCK // columns, "BLOCK_COLUMNS": columns}
    return (ceil_div(rows, _BLOCK // columns) * ceil_div(length, columns),), tile


def glu_forward(x, *, axis=-1, out=None):
    axis %= x.ndim
    half = x.shape[axis] // 2
    shape = (*x.shape[:axis], half, *x.shape[axis + 1 :])
    rows, length = math.prod(x.shape[:axis]), half * math.prod(x.shape[axis + 1 :])
    halves = contiguous(x).reshape(rows, 2, length)
    y = empty(x, shape)
    grid, tile = _glu_tiles(rows, length)
    launch(glu_forward_kernel, grid, halves, y, rows, length, **tile)
    return _deliver(y, out), (halves, x.shape)


def glu_backward(saved, grad_y, needs):
    if not needs[0]:
        return (None,)
    halves, shape = saved
    rows, _, length = halves.shape
    grad_x = empty(halves)
    grid, tile = _glu_tiles(rows, length)
    launch(glu_grad_input_kernel, grid, contiguous(grad_y), halves, grad_x, rows, length, **tile)
    return (grad_x.reshape(shape),)
