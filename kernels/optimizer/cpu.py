"""Optimizer steps on NumPy arrays: each is one pass over memory, shared among threads, in place.

The kernels change their arrays in place and only there: a kernel that read from one array and wrote to another would
have to be told whether the two overlap before its loop could be vectorised. A step without `out=` works on copies.

Numbers come as Python's floats, which reach a kernel faster than NumPy's, and take the arrays' type there.

Weight decay and maximize cost no branch: `sign` is -1 where a function is maximised, `coupled` is the decay that joins
the gradient, `keep` is 1 - lr * decay where the decay is decoupled. Flags are the same for all elements, so the
compiler takes them out of the loops.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import prange

from ..check import refuse_type, refuse_value
from ..cpu_jit import kernel, serial_kernel
from ..cpu_sums import wide_magnitude, wide_squares
from ..memory import empty

_WORTH_THREADS = 1 << 15  # elements; fewer are stepped before another thread has woken up
# Sums of one chunk are added in order by one thread, so the norm does not depend on the number of threads.
_CHUNK = 16384
_NOTHING = {np.dtype(kind): np.empty(0, kind) for kind in (np.float32, np.float64)}


@kernel
def sgd_step_kernel(parameter, gradient, buffer, nesterov, lr, momentum, fresh, coupled, sign):
    """buffer = momentum * buffer + fresh * g, parameter -= lr * buffer; Nesterov's looks one step ahead."""
    kind, has_buffer = parameter.dtype.type, buffer.size > 0
    lr, momentum, fresh, coupled, sign = kind(lr), kind(momentum), kind(fresh), kind(coupled), kind(sign)
    for i in prange(parameter.size):
        step = sign * gradient[i] + coupled * parameter[i]
        if has_buffer:
            velocity = momentum * buffer[i] + fresh * step
            buffer[i] = velocity
            step = step + momentum * velocity if nesterov else velocity
        parameter[i] -= lr * step


@kernel
def adam_step_kernel(
    parameter, gradient, exp_avg, exp_avg_sq, max_exp_avg_sq, adaptive, beta1, beta2, new1, new2, average_rate,
    gradient_rate, root_scale, eps, coupled, keep, sign,
):  # fmt: skip
    """Adam, NAdam and RAdam:

    parameter = keep * parameter - (average_rate * m + gradient_rate * g) / (root_scale * sqrt(v) + eps),

    without the division where `adaptive` is False. new1 and new2 are 1 - beta1 and 1 - beta2 in double precision.
    """
    kind, amsgrad = parameter.dtype.type, max_exp_avg_sq.size > 0
    beta1, beta2, new1, new2 = kind(beta1), kind(beta2), kind(new1), kind(new2)
    average_rate, gradient_rate, root_scale, eps = kind(average_rate), kind(gradient_rate), kind(root_scale), kind(eps)
    coupled, keep, sign = kind(coupled), kind(keep), kind(sign)
    for i in prange(parameter.size):
        g = sign * gradient[i] + coupled * parameter[i]
        m = beta1 * exp_avg[i] + new1 * g
        v = beta2 * exp_avg_sq[i] + new2 * g * g
        exp_avg[i] = m
        exp_avg_sq[i] = v
        if amsgrad:
            largest = max_exp_avg_sq[i]
            v = largest if largest >= v or largest != largest else v  # NaN stays
            max_exp_avg_sq[i] = v
        scale = root_scale * math.sqrt(v) + eps if adaptive else parameter.dtype.type(1)
        parameter[i] = keep * parameter[i] - (average_rate * m + gradient_rate * g) / scale


@kernel
def adamax_step_kernel(parameter, gradient, exp_avg, exp_inf, beta1, beta2, new1, rate, eps, coupled, sign):
    """parameter -= rate * m / u, u the decaying maximum of |g| + eps."""
    kind = parameter.dtype.type
    beta1, beta2, new1, rate = kind(beta1), kind(beta2), kind(new1), kind(rate)
    eps, coupled, sign = kind(eps), kind(coupled), kind(sign)
    for i in prange(parameter.size):
        g = sign * gradient[i] + coupled * parameter[i]
        m = beta1 * exp_avg[i] + new1 * g
        size = abs(g) + eps
        decayed = beta2 * exp_inf[i]
        u = decayed if decayed >= size or decayed != decayed else size  # NaN stays
        exp_avg[i] = m
        exp_inf[i] = u
        parameter[i] -= rate * m / u


@kernel
def lion_step_kernel(parameter, gradient, exp_avg, beta1, beta2, new1, new2, lr, coupled, keep, sign):
    """parameter = keep * parameter - lr * sign(beta1 * m + new1 * g); then m follows the gradient."""
    kind = parameter.dtype.type
    beta1, beta2, new1, new2, lr = kind(beta1), kind(beta2), kind(new1), kind(new2), kind(lr)
    coupled, keep, sign, zero = kind(coupled), kind(keep), kind(sign), kind(0)
    for i in prange(parameter.size):
        g = sign * gradient[i] + coupled * parameter[i]
        direction = beta1 * exp_avg[i] + new1 * g
        step = lr if direction > zero else (-lr if direction < zero else direction)  # NaN stays
        exp_avg[i] = beta2 * exp_avg[i] + new2 * g
        parameter[i] = keep * parameter[i] - step


@kernel
def rmsprop_step_kernel(
    parameter, gradient, square_avg, buffer, grad_avg, old, new, lr, momentum, eps, coupled, sign
):  # fmt: skip
    """RMSprop, and with old = new = 1 Adagrad: v = old * v + new * g^2, parameter -= lr * g / (sqrt(v) + eps)."""
    kind, has_buffer, centered = parameter.dtype.type, buffer.size > 0, grad_avg.size > 0
    old, new, lr, momentum = kind(old), kind(new), kind(lr), kind(momentum)
    eps, coupled, sign = kind(eps), kind(coupled), kind(sign)
    for i in prange(parameter.size):
        g = sign * gradient[i] + coupled * parameter[i]
        v = old * square_avg[i] + new * g * g
        square_avg[i] = v
        if centered:
            mean = old * grad_avg[i] + new * g
            grad_avg[i] = mean
            v -= mean * mean
        step = g / (math.sqrt(v) + eps)
        if has_buffer:
            step = momentum * buffer[i] + step
            buffer[i] = step
        parameter[i] -= lr * step


@kernel
def adadelta_step_kernel(parameter, gradient, square_avg, acc_delta, rho, new, lr, eps, coupled, sign):
    """The step is the gradient times the ratio of the running root mean squares of steps and gradients."""
    kind = parameter.dtype.type
    rho, new, lr, eps, coupled, sign = kind(rho), kind(new), kind(lr), kind(eps), kind(coupled), kind(sign)
    for i in prange(parameter.size):
        g = sign * gradient[i] + coupled * parameter[i]
        v = rho * square_avg[i] + new * g * g
        delta = math.sqrt(acc_delta[i] + eps) / math.sqrt(v + eps) * g
        square_avg[i] = v
        acc_delta[i] = rho * acc_delta[i] + new * delta * delta
        parameter[i] -= lr * delta


@kernel
def gradient_power_sums_kernel(gradient, power, sums):
    """sums[c] = sum of |gradient|^power over chunk c, in float64."""
    for c in prange(sums.size):
        chunk = gradient[c * _CHUNK : min((c + 1) * _CHUNK, gradient.size)]
        total = 0.0
        if power == 2.0:
            total = wide_squares(chunk)
        elif power == 1.0:
            total = wide_magnitude(chunk)
        else:
            for i in range(chunk.size):
                total += abs(np.float64(chunk[i])) ** power
        sums[c] = total


@serial_kernel
def gradient_norm_kernel(sums, power, norm):
    """norm[0] = the root of the sums' sum, which are added one after another."""
    total = 0.0
    for c in range(sums.size):
        total += sums[c]
    norm[0] = math.sqrt(total) if power == 2.0 else total ** (1 / power)


@kernel
def gradient_largest_bits_kernel(bits, mask, largest):
    """largest[c] = the largest of chunk c's floating-point numbers without their signs, as integers: their bits sort
    as they do, and NaN above infinity."""
    for c in prange(largest.size):
        chunk = bits[c * _CHUNK : min((c + 1) * _CHUNK, bits.size)]
        top = mask & chunk[0]
        for i in range(chunk.size):
            top = max(top, mask & chunk[i])
        largest[c] = top


@serial_kernel
def gradient_largest_kernel(largest, bits):
    """bits[0] = the largest of the chunks' largest, 0 if there is none."""
    bits[0] = 0
    for c in range(largest.size):
        bits[0] = max(bits[0], largest[c])


@kernel
def gradient_scale_and_clip_kernel(gradient, factor, low, high):
    """gradient = factor * gradient, between low and high; NaN stays."""
    kind = gradient.dtype.type
    factor, low, high = kind(factor), kind(low), kind(high)
    for i in prange(gradient.size):
        scaled = factor * gradient[i]
        gradient[i] = low if scaled < low else (high if scaled > high else scaled)


@kernel
def gradient_limit_kernel(gradient, norm, max_norm):
    """gradient = gradient * max_norm / (norm + 1e-6) where that factor is below 1; 0 stays 0 also if the norm is NaN.

    Chunk by chunk, so that nothing is read or written where the gradient is short enough.
    """
    wanted = max_norm / (np.float64(norm[0]) + 1e-6)
    factor = gradient.dtype.type(wanted)
    for c in prange(-(-gradient.size // _CHUNK)):
        if not wanted >= 1:
            chunk = gradient[c * _CHUNK : min((c + 1) * _CHUNK, gradient.size)]
            for i in range(chunk.size):
                scaled = factor * chunk[i]
                chunk[i] = chunk[i] if chunk[i] == 0 else scaled


def _sgd_numbers(*, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    return bool(nesterov), lr, momentum, 1 - dampening, weight_decay, _sign(maximize)


def _adam_numbers(*, lr, step, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False, maximize=False):
    rates = lr / (1 - betas[0] ** step), 0.0, 1 / math.sqrt(1 - betas[1] ** step), eps
    return True, *_averaging(betas), *rates, *_decay(lr, weight_decay, decoupled), _sign(maximize)


def _nadam_numbers(
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
):
    mu, mu_next = (betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (step, step + 1))
    average_rate, gradient_rate = lr * mu_next / (1 - mu_product * mu_next), lr * (1 - mu) / (1 - mu_product)
    rates = average_rate, gradient_rate, 1 / math.sqrt(1 - betas[1] ** step), eps
    return True, *_averaging(betas), *rates, *_decay(lr, weight_decay, decoupled), _sign(maximize)


def _radam_numbers(*, lr, step, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False, maximize=False):
    rate, unbiased = lr / (1 - betas[0] ** step), 1 - betas[1] ** step
    longest = 2 / (1 - betas[1]) - 1
    length = longest - 2 * step * betas[1] ** step / unbiased
    if length > 5:
        rectification = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        rate *= math.sqrt(rectification * unbiased)
    decay = _decay(lr, weight_decay, decoupled)
    return bool(length > 5), *_averaging(betas), rate, 0.0, 1.0, eps, *decay, _sign(maximize)


def _adamax_numbers(*, lr, step, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    return *betas, 1 - betas[0], lr / (1 - betas[0] ** step), eps, weight_decay, _sign(maximize)


def _lion_numbers(*, lr, betas=(0.9, 0.99), weight_decay=0.0, decoupled=True, maximize=False):
    return *_averaging(betas), lr, *_decay(lr, weight_decay, decoupled), _sign(maximize)


def _rmsprop_numbers(*, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False):
    return alpha, 1 - alpha, lr, momentum, eps, weight_decay, _sign(maximize)


def _adagrad_numbers(*, lr, step, lr_decay=0.0, weight_decay=0.0, eps=1e-10, maximize=False):
    return 1.0, 1.0, lr / (1 + (step - 1) * lr_decay), 0.0, eps, weight_decay, _sign(maximize)


def _adadelta_numbers(*, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    return rho, 1 - rho, lr, eps, weight_decay, _sign(maximize)


def _averaging(betas) -> tuple[float, float, float, float]:
    """How much of the old averages is kept, and how much of the new value enters them."""
    return *betas, 1 - betas[0], 1 - betas[1]


class _Step(NamedTuple):
    """A step of one operation.

    Attributes:
        kernel: takes the parameter, its gradient, state arrays, an empty one for each that is left out, and numbers.
        states: how many state arrays it takes.
        numbers: gives the numbers for the operation's attributes.
    """

    kernel: Callable
    states: int
    numbers: Callable[..., tuple]


_STEPS = {
    "sgd": _Step(sgd_step_kernel, 1, _sgd_numbers),
    "adam": _Step(adam_step_kernel, 3, _adam_numbers),
    "nadam": _Step(adam_step_kernel, 3, _nadam_numbers),
    "radam": _Step(adam_step_kernel, 3, _radam_numbers),
    "adamax": _Step(adamax_step_kernel, 2, _adamax_numbers),
    "lion": _Step(lion_step_kernel, 1, _lion_numbers),
    "rmsprop": _Step(rmsprop_step_kernel, 3, _rmsprop_numbers),
    "adagrad": _Step(rmsprop_step_kernel, 3, _adagrad_numbers),
    "adadelta": _Step(adadelta_step_kernel, 2, _adadelta_numbers),
}


def step_numbers(name: str, attributes: dict) -> tuple[bool | float, ...]:
    """The last arguments of an operation's kernel, for its attributes: flags, and numbers that it takes as floats."""
    return _STEPS[name].numbers(**attributes)


def step_call(name: str, arrays, attributes: dict) -> tuple[Callable, tuple]:
    """The kernel, and its arguments, that does an operation's step in place, on flat arrays (None for no state)."""
    kernel, states, _ = _STEPS[name]
    parameter, *others = arrays
    nothing = _NOTHING[parameter.dtype]
    others = [nothing if x is None else x for x in others]
    others += [nothing] * (states + 1 - len(others))
    numbers = (x if type(x) is bool else float(x) for x in step_numbers(name, attributes))
    return _for(kernel, parameter), (parameter, *others, *numbers)


def _forward(name, parameter, gradient, *state, out=None, **attributes):
    output, (p, *states) = _targets(name, (parameter, *state), out)
    kernel, arguments = step_call(name, (p, _flat(gradient), *states), attributes)
    kernel(*arguments)
    return output, None


sgd_forward = partial(_forward, "sgd")
adam_forward = partial(_forward, "adam")
nadam_forward = partial(_forward, "nadam")
radam_forward = partial(_forward, "radam")
adamax_forward = partial(_forward, "adamax")
lion_forward = partial(_forward, "lion")
rmsprop_forward = partial(_forward, "rmsprop")
adagrad_forward = partial(_forward, "adagrad")
adadelta_forward = partial(_forward, "adadelta")


def gradient_norm_forward(gradient, *, norm_type=2.0):
    flat = _flat(gradient)
    norm, chunks = empty((), flat.dtype), -(-flat.size // _CHUNK)
    if norm_type == math.inf:
        integer = np.dtype(f"i{flat.itemsize}")
        largest = empty(chunks, integer)
        mask = integer.type(np.iinfo(integer).max)
        _for(gradient_largest_bits_kernel, flat)(flat.view(integer), mask, largest)
        gradient_largest_kernel(largest, norm.reshape(1).view(integer))
    else:
        sums, power = empty(chunks, np.float64), float(norm_type)
        _for(gradient_power_sums_kernel, flat)(flat, power, sums)
        gradient_norm_kernel(sums, power, norm.reshape(1))
    return norm, None


def gradient_scale_forward(gradient, *, factor, out=None):
    return _scale_and_clip("gradient_scale", gradient, factor, -math.inf, math.inf, out)


def gradient_limit_forward(gradient, norm, *, max_norm, out=None):
    output, (flat,) = _targets("gradient_limit", (gradient,), out)
    _for(gradient_limit_kernel, flat)(flat, norm.reshape(1), float(max_norm))
    return output, None


def gradient_clip_forward(gradient, *, low, high, out=None):
    return _scale_and_clip("gradient_clip", gradient, 1.0, low, high, out)


def _scale_and_clip(operation, gradient, factor, low, high, out):
    output, (flat,) = _targets(operation, (gradient,), out)
    _for(gradient_scale_and_clip_kernel, flat)(flat, *map(float, (factor, low, high)))
    return output, None


def _for(step_kernel, parameter):
    """The kernel on all threads, or on the calling one for few elements."""
    return step_kernel if parameter.size > _WORTH_THREADS else step_kernel.serial


def _decay(lr, weight_decay, decoupled) -> tuple[float, float]:
    """What the gradient takes of the parameter, and the part of the parameter that is kept."""
    return (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)


def _sign(maximize) -> float:
    return -1.0 if maximize else 1.0


def _flat(array):
    return array if array.ndim == 1 and array.flags.c_contiguous else np.ascontiguousarray(array).reshape(-1)


def _targets(operation, arrays, out):
    """The arrays that a step changes in place.

    Args:
        arrays: their values before it; None for one that this step has not.
        out: an array or arrays to hold them, the arrays themselves for a step in place, or None for new ones.

    Returns:
        (the operation's output, flat views of the output for the kernel, None for each None).
    """
    there = [array for array in arrays if array is not None]
    if out is None:
        targets = [empty(array.shape, array.dtype) for array in there]
    else:
        targets = _checked_out(operation, there, out)
    for target, array in zip(targets, there):
        if target is not array:
            np.copyto(target, array)
    flat = iter([_flat(target) for target in targets])
    output = targets[0] if len(targets) == 1 else tuple(targets)
    return output, [None if array is None else next(flat) for array in arrays]


def _checked_out(operation, arrays, out):
    targets = list(out) if isinstance(out, tuple) else [out]
    if len(targets) != len(arrays):
        refuse_value(operation, "out", f"as {len(arrays)} arrays", len(targets))
    for target, array in zip(targets, arrays):
        if type(target) is not np.ndarray or target.dtype != array.dtype:
            refuse_type(operation, "out", f"as NumPy arrays of type {array.dtype}", getattr(target, "dtype", target))
        if target.shape != array.shape or not target.flags.c_contiguous or not target.flags.writeable:
            refuse_value(
                operation, "out", f"as writable C-contiguous arrays of shape {array.shape}", f"shape {target.shape}"
            )
    return targets
