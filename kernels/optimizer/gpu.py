"""Optimizer steps on CuPy arrays: each is one launch, one pass over memory, over the flat buffer of a whole model.

A program reads the same 1024 elements of every array before it writes them, so a step may write into its own inputs.
Arithmetic is in float32, or in float64 for arrays of that type; hyper-parameters arrive in double precision and are
rounded once. `sign` is -1 where a function is maximised, `coupled` is the decay that joins the gradient, `keep` is
1 - lr * decay where the decay is decoupled. State that a variant has not is None, which compiles to nothing.
"""

import math

import numpy as np
import triton
import triton.language as tl

from ..check import refuse_type, refuse_value
from ..gpu_arrays import contiguous
from ..launch import ceil_div, empty, launch

_BLOCK = 1024
# Each program's chunk is summed in a fixed order, and so are the chunks: a norm is the same in every run.
_CHUNK = 16384
_POWER, _SQUARE, _SIZE = (tl.constexpr(code) for code in range(3))


@triton.jit
def _load(array, offset, inside):
    """Elements in the type that is computed in."""
    value = tl.load(array + offset, mask=inside, other=0.0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value


@triton.jit
def _store(array, offset, inside, value):
    tl.store(array + offset, value.to(array.dtype.element_ty), mask=inside)


@triton.jit
def _as(number, like):
    """A hyper-parameter in the type that is computed in."""
    return tl.full((), number, like.dtype)


@triton.jit
def sgd_step_kernel(
    parameter, gradient, buffer, new_parameter, new_buffer, size,
    lr: tl.float64, momentum: tl.float64, fresh: tl.float64, coupled: tl.float64, sign: tl.float64,
    NESTEROV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """buffer = momentum * buffer + fresh * g, parameter -= lr * buffer; Nesterov's looks one step ahead."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = _load(parameter, offset, inside), _load(gradient, offset, inside)
    step = _as(sign, p) * g + _as(coupled, p) * p
    if buffer is not None:
        velocity = _as(momentum, p) * _load(buffer, offset, inside) + _as(fresh, p) * step
        _store(new_buffer, offset, inside, velocity)
        if NESTEROV:
            step = step + _as(momentum, p) * velocity
        else:
            step = velocity
    _store(new_parameter, offset, inside, p - _as(lr, p) * step)


@triton.jit
def adam_step_kernel(
    parameter, gradient, exp_avg, exp_avg_sq, max_exp_avg_sq,
    new_parameter, new_exp_avg, new_exp_avg_sq, new_max_exp_avg_sq, size,
    beta1: tl.float64, beta2: tl.float64, new1: tl.float64, new2: tl.float64,
    average_rate: tl.float64, gradient_rate: tl.float64, root_scale: tl.float64, eps: tl.float64,
    coupled: tl.float64, keep: tl.float64, sign: tl.float64,
    ADAPTIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adam, NAdam and RAdam:

    parameter = keep * parameter - (average_rate * m + gradient_rate * g) / (root_scale * sqrt(v) + eps),

    without the division where not ADAPTIVE. new1 and new2 are 1 - beta1 and 1 - beta2.
    """
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = _load(parameter, offset, inside), _load(gradient, offset, inside)
    m, v = _load(exp_avg, offset, inside), _load(exp_avg_sq, offset, inside)
    g = _as(sign, p) * g + _as(coupled, p) * p
    m = _as(beta1, p) * m + _as(new1, p) * g
    v = _as(beta2, p) * v + _as(new2, p) * g * g
    _store(new_exp_avg, offset, inside, m)
    _store(new_exp_avg_sq, offset, inside, v)
    if max_exp_avg_sq is not None:
        largest = _load(max_exp_avg_sq, offset, inside)
        v = tl.where((largest >= v) | (largest != largest), largest, v)  # NaN stays
        _store(new_max_exp_avg_sq, offset, inside, v)
    step = _as(average_rate, p) * m + _as(gradient_rate, p) * g
    if ADAPTIVE:
        step = step / (_as(root_scale, p) * tl.sqrt(v) + _as(eps, p))
    _store(new_parameter, offset, inside, _as(keep, p) * p - step)


@triton.jit
def adamax_step_kernel(
    parameter, gradient, exp_avg, exp_inf, new_parameter, new_exp_avg, new_exp_inf, size,
    beta1: tl.float64, beta2: tl.float64, new1: tl.float64, rate: tl.float64, eps: tl.float64,
    coupled: tl.float64, sign: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """parameter -= rate * m / u, u the decaying maximum of |g| + eps."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = _load(parameter, offset, inside), _load(gradient, offset, inside)
    g = _as(sign, p) * g + _as(coupled, p) * p
    m = _as(beta1, p) * _load(exp_avg, offset, inside) + _as(new1, p) * g
    length = tl.abs(g) + _as(eps, p)
    decayed = _as(beta2, p) * _load(exp_inf, offset, inside)
    u = tl.where((decayed >= length) | (decayed != decayed), decayed, length)  # NaN stays
    _store(new_exp_avg, offset, inside, m)
    _store(new_exp_inf, offset, inside, u)
    _store(new_parameter, offset, inside, p - _as(rate, p) * m / u)


@triton.jit
def lion_step_kernel(
    parameter, gradient, exp_avg, new_parameter, new_exp_avg, size,
    beta1: tl.float64, beta2: tl.float64, new1: tl.float64, new2: tl.float64, lr: tl.float64,
    coupled: tl.float64, keep: tl.float64, sign: tl.float64,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """parameter = keep * parameter - lr * sign(beta1 * m + new1 * g); then m follows the gradient."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g, m = _load(parameter, offset, inside), _load(gradient, offset, inside), _load(exp_avg, offset, inside)
    g = _as(sign, p) * g + _as(coupled, p) * p
    direction = _as(beta1, p) * m + _as(new1, p) * g
    rate = _as(lr, p)
    step = tl.where(direction > 0, rate, tl.where(direction < 0, -rate, direction))  # NaN stays
    _store(new_exp_avg, offset, inside, _as(beta2, p) * m + _as(new2, p) * g)
    _store(new_parameter, offset, inside, _as(keep, p) * p - step)


@triton.jit
def rmsprop_step_kernel(
    parameter, gradient, square_avg, buffer, grad_avg, new_parameter, new_square_avg, new_buffer, new_grad_avg, size,
    old: tl.float64, new: tl.float64, lr: tl.float64, momentum: tl.float64, eps: tl.float64,
    coupled: tl.float64, sign: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """RMSprop, and with old = new = 1 Adagrad: v = old * v + new * g^2, parameter -= lr * g / (sqrt(v) + eps)."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = _load(parameter, offset, inside), _load(gradient, offset, inside)
    g = _as(sign, p) * g + _as(coupled, p) * p
    v = _as(old, p) * _load(square_avg, offset, inside) + _as(new, p) * g * g
    _store(new_square_avg, offset, inside, v)
    if grad_avg is not None:
        mean = _as(old, p) * _load(grad_avg, offset, inside) + _as(new, p) * g
        _store(new_grad_avg, offset, inside, mean)
        v -= mean * mean
    step = g / (tl.sqrt(v) + _as(eps, p))
    if buffer is not None:
        step = _as(momentum, p) * _load(buffer, offset, inside) + step
        _store(new_buffer, offset, inside, step)
    _store(new_parameter, offset, inside, p - _as(lr, p) * step)


@triton.jit
def adadelta_step_kernel(
    parameter, gradient, square_avg, acc_delta, new_parameter, new_square_avg, new_acc_delta, size,
    rho: tl.float64, new: tl.float64, lr: tl.float64, eps: tl.float64, coupled: tl.float64, sign: tl.float64,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The step is the gradient times the ratio of the running root mean squares of steps and gradients."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = _load(parameter, offset, inside), _load(gradient, offset, inside)
    g = _as(sign, p) * g + _as(coupled, p) * p
    deltas = _load(acc_delta, offset, inside)
    v = _as(rho, p) * _load(square_avg, offset, inside) + _as(new, p) * g * g
    # Two roots: the quotient of the squares could overflow.
    delta = tl.sqrt(deltas + _as(eps, p)) / tl.sqrt(v + _as(eps, p)) * g
    _store(new_square_avg, offset, inside, v)
    _store(new_acc_delta, offset, inside, _as(rho, p) * deltas + _as(new, p) * delta * delta)
    _store(new_parameter, offset, inside, p - _as(lr, p) * delta)


@triton.jit
def gradient_power_sums_kernel(
    gradient, sums, size, power: tl.float64, CODE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    """sums[c] = sum of |gradient|^power over chunk c, in float64: squares of float32 may not fit float32.

    A program walks its chunk in blocks, adds lane by lane and then the lanes.
    """
    start = tl.program_id(0).to(tl.int64) * CHUNK
    total = tl.zeros((BLOCK,), tl.float64)
    for block in range(0, CHUNK, BLOCK):
        offset = start + block + tl.arange(0, BLOCK)
        value = tl.abs(tl.load(gradient + offset, mask=offset < size, other=0.0).to(tl.float64))
        if CODE == _SQUARE:
            total += value * value
        elif CODE == _SIZE:
            total += value
        else:
            logarithm = tl.log(tl.where(value == 0, 1.0, value))
            total += tl.where(value == 0, 0.0, tl.exp(tl.full((), power, tl.float64) * logarithm))
    tl.store(sums + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def gradient_norm_kernel(sums, norm, count, power: tl.float64, CODE: tl.constexpr, BLOCK: tl.constexpr):
    """norm = (sum of sums)^(1 / power); the one program walks the sums from first to last."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        offset = start + tl.arange(0, BLOCK)
        total += tl.load(sums + offset, mask=offset < count, other=0.0)
    whole = tl.sum(total, axis=0)
    if CODE == _SQUARE:
        whole = tl.sqrt(whole)
    elif CODE == _POWER:
        logarithm = tl.log(tl.where(whole == 0, 1.0, whole))
        whole = tl.where(whole == 0, 0.0, tl.exp(logarithm / tl.full((), power, tl.float64)))
    tl.store(norm, whole.to(norm.dtype.element_ty))


@triton.jit
def gradient_largest_bits_kernel(gradient, largest, size, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """largest[c] = the largest of chunk c's floating-point numbers without their signs, as integers: their bits sort
    as they do, and NaN above infinity."""
    start = tl.program_id(0).to(tl.int64) * CHUNK
    top = tl.zeros((BLOCK,), largest.dtype.element_ty)
    for block in range(0, CHUNK, BLOCK):
        offset = start + block + tl.arange(0, BLOCK)
        value = _load(gradient, offset, offset < size)
        if value.dtype == tl.float64:
            bits = value.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF
        else:
            bits = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        top = tl.maximum(top, bits)
    tl.store(largest + tl.program_id(0), tl.max(top, axis=0))


@triton.jit
def gradient_largest_kernel(largest, norm, count, BLOCK: tl.constexpr):
    """norm = the number whose bits are the largest of `largest`."""
    top = tl.zeros((BLOCK,), largest.dtype.element_ty)
    for start in range(0, count, BLOCK):
        offset = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.load(largest + offset, mask=offset < count, other=0))
    bits = tl.max(top, axis=0)
    if bits.dtype == tl.int64:
        tl.store(norm, bits.to(tl.float64, bitcast=True))
    else:
        tl.store(norm, bits.to(tl.float32, bitcast=True).to(norm.dtype.element_ty))


@triton.jit
def gradient_limit_kernel(
    gradient, norm, result, size, max_norm: tl.float64, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr
):
    """result = gradient * max_norm / (norm + 1e-6) where that factor is below 1; 0 stays 0 also where the norm is NaN.

    Every program reads the norm, which lies on the device: the host need not wait for it. In place, nothing else is
    read or written where the gradient is short enough.
    """
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    factor = tl.full((BLOCK,), max_norm, tl.float64) / (tl.load(norm).to(tl.float64) + 1e-6)
    factor = tl.where(factor >= 1, 1.0, factor)
    if IN_PLACE:
        inside = inside & (factor != 1)
    value = _load(gradient, offset, inside)
    _store(result, offset, inside, tl.where(value == 0, value, factor.to(value.dtype) * value))


@triton.jit
def gradient_scale_and_clip_kernel(
    gradient, result, size, factor: tl.float64, low: tl.float64, high: tl.float64, BLOCK: tl.constexpr
):
    """result = factor * gradient, between low and high; NaN stays."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    scaled = _load(gradient, offset, inside)
    least, most = _as(low, scaled), _as(high, scaled)
    scaled = _as(factor, scaled) * scaled
    _store(result, offset, inside, tl.where(scaled < least, least, tl.where(scaled > most, most, scaled)))


def sgd_forward(
    parameter,
    gradient,
    momentum_buffer=None,
    *,
    lr,
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    maximize=False,
    out=None,
):
    numbers = lr, momentum, 1 - dampening, weight_decay, _sign(maximize)
    return _step("sgd", sgd_step_kernel, (parameter, momentum_buffer), gradient, out, numbers, NESTEROV=bool(nesterov))


def adam_forward(
    parameter,
    gradient,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq=None,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled=False,
    maximize=False,
    out=None,
):
    rates = lr / (1 - betas[0] ** step), 0.0, 1 / math.sqrt(1 - betas[1] ** step)
    arrays = parameter, exp_avg, exp_avg_sq, max_exp_avg_sq
    return _adam_step("adam", arrays, gradient, out, betas, rates, eps, _decay(lr, weight_decay, decoupled), maximize)


def nadam_forward(
    parameter,
    gradient,
    exp_avg,
    exp_avg_sq,
    *,
    lr,
    step,
    mu_product,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    momentum_decay=4e-3,
    decoupled=False,
    maximize=False,
    out=None,
):
    mu, mu_next = (betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (step, step + 1))
    average_rate, gradient_rate = lr * mu_next / (1 - mu_product * mu_next), lr * (1 - mu) / (1 - mu_product)
    rates = average_rate, gradient_rate, 1 / math.sqrt(1 - betas[1] ** step)
    arrays = parameter, exp_avg, exp_avg_sq, None
    return _adam_step("nadam", arrays, gradient, out, betas, rates, eps, _decay(lr, weight_decay, decoupled), maximize)


def radam_forward(
    parameter,
    gradient,
    exp_avg,
    exp_avg_sq,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled=False,
    maximize=False,
    out=None,
):
    rate, unbiased = lr / (1 - betas[0] ** step), 1 - betas[1] ** step
    longest = 2 / (1 - betas[1]) - 1
    length = longest - 2 * step * betas[1] ** step / unbiased
    adaptive = length > 5
    if adaptive:
        rectification = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        rate *= math.sqrt(rectification * unbiased)
    arrays, decay = (parameter, exp_avg, exp_avg_sq, None), _decay(lr, weight_decay, decoupled)
    return _adam_step("radam", arrays, gradient, out, betas, (rate, 0.0, 1.0), eps, decay, maximize, adaptive)


def adamax_forward(
    parameter,
    gradient,
    exp_avg,
    exp_inf,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    maximize=False,
    out=None,
):
    numbers = *betas, 1 - betas[0], lr / (1 - betas[0] ** step), eps, weight_decay, _sign(maximize)
    return _step("adamax", adamax_step_kernel, (parameter, exp_avg, exp_inf), gradient, out, numbers)


def lion_forward(
    parameter, gradient, exp_avg, *, lr, betas=(0.9, 0.99), weight_decay=0.0, decoupled=True, maximize=False, out=None
):
    decay = _decay(lr, weight_decay, decoupled)
    numbers = *betas, 1 - betas[0], 1 - betas[1], lr, *decay, _sign(maximize)
    return _step("lion", lion_step_kernel, (parameter, exp_avg), gradient, out, numbers)


def rmsprop_forward(
    parameter,
    gradient,
    square_avg,
    momentum_buffer=None,
    grad_avg=None,
    *,
    lr,
    alpha=0.99,
    eps=1e-8,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    maximize=False,
    out=None,
):
    numbers = alpha, 1 - alpha, lr, momentum, eps, weight_decay, _sign(maximize)
    arrays = parameter, square_avg, momentum_buffer, grad_avg
    return _step("rmsprop", rmsprop_step_kernel, arrays, gradient, out, numbers)


def adagrad_forward(
    parameter, gradient, sum, *, lr, step, lr_decay=0.0, weight_decay=0.0, eps=1e-10, maximize=False, out=None
):
    numbers = 1.0, 1.0, lr / (1 + (step - 1) * lr_decay), 0.0, eps, weight_decay, _sign(maximize)
    return _step("adagrad", rmsprop_step_kernel, (parameter, sum, None, None), gradient, out, numbers)


def adadelta_forward(
    parameter, gradient, square_avg, acc_delta, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False, out=None
):
    numbers = rho, 1 - rho, lr, eps, weight_decay, _sign(maximize)
    return _step("adadelta", adadelta_step_kernel, (parameter, square_avg, acc_delta), gradient, out, numbers)


def gradient_norm_forward(gradient, *, norm_type=2.0):
    flat, norm = contiguous(gradient), empty(gradient, ())
    chunks = ceil_div(flat.size, _CHUNK)
    if norm_type == math.inf:
        bits = np.int64 if flat.dtype == np.float64 else np.int32
        largest = empty(flat, (chunks,), bits)
        launch(gradient_largest_bits_kernel, (chunks,), flat, largest, flat.size, CHUNK=_CHUNK, BLOCK=_BLOCK)
        launch(gradient_largest_kernel, (1,), largest, norm, chunks, BLOCK=_BLOCK)
        return norm, None
    sums, power = empty(flat, (chunks,), np.float64), float(norm_type)
    code = {2.0: 1, 1.0: 2}.get(power, 0)
    launch(gradient_power_sums_kernel, (chunks,), flat, sums, flat.size, power, CODE=code, CHUNK=_CHUNK, BLOCK=_BLOCK)
    launch(gradient_norm_kernel, (1,), sums, norm, chunks, power, CODE=code, BLOCK=_BLOCK)
    return norm, None


def gradient_scale_forward(gradient, *, factor, out=None):
    return _scale_and_clip("gradient_scale", gradient, factor, -math.inf, math.inf, out)


def gradient_limit_forward(gradient, norm, *, max_norm, out=None):
    (target,) = _targets("gradient_limit", [gradient], out)
    grid, limit, in_place = (ceil_div(gradient.size, _BLOCK),), float(max_norm), target is gradient
    launch(
        gradient_limit_kernel, grid, contiguous(gradient), norm, target, gradient.size, limit, IN_PLACE=in_place,
        BLOCK=_BLOCK,
    )  # fmt: skip
    return target, None


def gradient_clip_forward(gradient, *, low, high, out=None):
    return _scale_and_clip("gradient_clip", gradient, 1.0, low, high, out)


def _scale_and_clip(operation, gradient, factor, low, high, out):
    (target,) = _targets(operation, [gradient], out)
    grid = (ceil_div(gradient.size, _BLOCK),)
    numbers = map(float, (factor, low, high))
    launch(gradient_scale_and_clip_kernel, grid, contiguous(gradient), target, gradient.size, *numbers, BLOCK=_BLOCK)
    return target, None


def _adam_step(operation, arrays, gradient, out, betas, rates, eps, decay, maximize, adaptive=True):
    numbers = *betas, 1 - betas[0], 1 - betas[1], *rates, eps, *decay, _sign(maximize)
    return _step(operation, adam_step_kernel, arrays, gradient, out, numbers, ADAPTIVE=adaptive)


def _step(operation, kernel, arrays, gradient, out, numbers, **constants):
    """Launches a step's kernel.

    Args:
        arrays: the parameter and its state; None for what this step has not.
        out: an array or arrays for their next values, the arrays themselves for a step in place, or None for new ones.

    Returns:
        (the array or arrays of next values, None).
    """
    there = [array for array in arrays if array is not None]
    targets = _targets(operation, there, out)
    following = iter(targets)
    parameter, *state = (None if array is None else contiguous(array) for array in arrays)
    launch(
        kernel,
        (ceil_div(gradient.size, _BLOCK),),
        parameter, contiguous(gradient), *state,
        *(None if array is None else next(following) for array in arrays),
        gradient.size,
        *map(float, numbers),
        **constants, BLOCK=_BLOCK,
    )  # fmt: skip
    return targets[0] if len(targets) == 1 else tuple(targets), None


def _targets(operation, arrays, out):
    """The arrays to write to: `out`, if it can hold what `arrays` become, or new ones."""
    if out is None:
        return [empty(array) for array in arrays]
    targets = list(out) if isinstance(out, tuple) else [out]
    if len(targets) != len(arrays):
        refuse_value(operation, "out", f"as {len(arrays)} arrays", len(targets))
    for target, array in zip(targets, arrays):
        if type(target) is not type(array) or target.dtype != array.dtype:
            refuse_type(operation, "out", f"as CuPy arrays of type {array.dtype}", getattr(target, "dtype", target))
        if target.shape != array.shape or not target.flags.c_contiguous:
            refuse_value(operation, "out", f"as C-contiguous arrays of shape {array.shape}", f"shape {target.shape}")
    return targets


def _decay(lr, weight_decay, decoupled) -> tuple[float, float]:
    """What the gradient takes of the parameter, and the part of the parameter that is kept."""
    return (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)


def _sign(maximize) -> float:
    return -1.0 if maximize else 1.0
