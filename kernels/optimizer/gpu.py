"""Optimizer steps on CuPy arrays: each is one launch, one pass over memory, over the flat buffer of a whole model.

A program reads the same 1024 elements of every array before it writes them, so a step may write into its own inputs.
Arithmetic is in float32, or in float64 for arrays of that type; hyper-parameters arrive in double precision and are
rounded once. `sign` is -1 where a function is maximised, `coupled` is the decay that joins the gradient, `keep` is
1 - lr * decay where the decay is decoupled. State that a variant has not is None, which compiles to nothing.
"""

import math

import triton
import triton.language as tl

from ..gpu_arrays import contiguous
from ..launch import ceil_div, launch
from .gpu_clipping import (
    gradient_clip_forward,
    gradient_limit_forward,
    gradient_norm_forward,
    gradient_scale_forward,
)
from .gpu_elements import BLOCK, as_type, load_elements, store_elements, targets_for

__all__ = ["gradient_clip_forward", "gradient_limit_forward", "gradient_norm_forward", "gradient_scale_forward"]


@triton.jit
def sgd_step_kernel(
    parameter, gradient, buffer, new_parameter, new_buffer, size,
    lr: tl.float64, momentum: tl.float64, fresh: tl.float64, coupled: tl.float64, sign: tl.float64,
    NESTEROV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """buffer = momentum * buffer + fresh * g, parameter -= lr * buffer; Nesterov's looks one step ahead."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = load_elements(parameter, offset, inside), load_elements(gradient, offset, inside)
    step = as_type(sign, p) * g + as_type(coupled, p) * p
    if buffer is not None:
        velocity = as_type(momentum, p) * load_elements(buffer, offset, inside) + as_type(fresh, p) * step
        store_elements(new_buffer, offset, inside, velocity)
        if NESTEROV:
            step = step + as_type(momentum, p) * velocity
        else:
            step = velocity
    store_elements(new_parameter, offset, inside, p - as_type(lr, p) * step)


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
    p, g = load_elements(parameter, offset, inside), load_elements(gradient, offset, inside)
    m, v = load_elements(exp_avg, offset, inside), load_elements(exp_avg_sq, offset, inside)
    g = as_type(sign, p) * g + as_type(coupled, p) * p
    m = as_type(beta1, p) * m + as_type(new1, p) * g
    v = as_type(beta2, p) * v + as_type(new2, p) * g * g
    store_elements(new_exp_avg, offset, inside, m)
    store_elements(new_exp_avg_sq, offset, inside, v)
    if max_exp_avg_sq is not None:
        largest = load_elements(max_exp_avg_sq, offset, inside)
        v = tl.where((largest >= v) | (largest != largest), largest, v)  # NaN stays
        store_elements(new_max_exp_avg_sq, offset, inside, v)
    step = as_type(average_rate, p) * m + as_type(gradient_rate, p) * g
    if ADAPTIVE:
        step = step / (as_type(root_scale, p) * tl.sqrt(v) + as_type(eps, p))
    store_elements(new_parameter, offset, inside, as_type(keep, p) * p - step)


@triton.jit
def adamax_step_kernel(
    parameter, gradient, exp_avg, exp_inf, new_parameter, new_exp_avg, new_exp_inf, size,
    beta1: tl.float64, beta2: tl.float64, new1: tl.float64, rate: tl.float64, eps: tl.float64,
    coupled: tl.float64, sign: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """parameter -= rate * m / u, u the decaying maximum of |g| + eps."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = load_elements(parameter, offset, inside), load_elements(gradient, offset, inside)
    g = as_type(sign, p) * g + as_type(coupled, p) * p
    m = as_type(beta1, p) * load_elements(exp_avg, offset, inside) + as_type(new1, p) * g
    length = tl.abs(g) + as_type(eps, p)
    decayed = as_type(beta2, p) * load_elements(exp_inf, offset, inside)
    u = tl.where((decayed >= length) | (decayed != decayed), decayed, length)  # NaN stays
    store_elements(new_exp_avg, offset, inside, m)
    store_elements(new_exp_inf, offset, inside, u)
    store_elements(new_parameter, offset, inside, p - as_type(rate, p) * m / u)


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
    p, g, m = (
        load_elements(parameter, offset, inside),
        load_elements(gradient, offset, inside),
        load_elements(exp_avg, offset, inside),
    )
    g = as_type(sign, p) * g + as_type(coupled, p) * p
    direction = as_type(beta1, p) * m + as_type(new1, p) * g
    rate = as_type(lr, p)
    step = tl.where(direction > 0, rate, tl.where(direction < 0, -rate, direction))  # NaN stays
    store_elements(new_exp_avg, offset, inside, as_type(beta2, p) * m + as_type(new2, p) * g)
    store_elements(new_parameter, offset, inside, as_type(keep, p) * p - step)


@triton.jit
def rmsprop_step_kernel(
    parameter, gradient, square_avg, buffer, grad_avg, new_parameter, new_square_avg, new_buffer, new_grad_avg, size,
    old: tl.float64, new: tl.float64, lr: tl.float64, momentum: tl.float64, eps: tl.float64,
    coupled: tl.float64, sign: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """RMSprop, and with old = new = 1 Adagrad: v = old * v + new * g^2, parameter -= lr * g / (sqrt(v) + eps)."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = load_elements(parameter, offset, inside), load_elements(gradient, offset, inside)
    g = as_type(sign, p) * g + as_type(coupled, p) * p
    v = as_type(old, p) * load_elements(square_avg, offset, inside) + as_type(new, p) * g * g
    store_elements(new_square_avg, offset, inside, v)
    if grad_avg is not None:
        mean = as_type(old, p) * load_elements(grad_avg, offset, inside) + as_type(new, p) * g
        store_elements(new_grad_avg, offset, inside, mean)
        v -= mean * mean
    step = g / (tl.sqrt(v) + as_type(eps, p))
    if buffer is not None:
        step = as_type(momentum, p) * load_elements(buffer, offset, inside) + step
        store_elements(new_buffer, offset, inside, step)
    store_elements(new_parameter, offset, inside, p - as_type(lr, p) * step)


@triton.jit
def adadelta_step_kernel(
    parameter, gradient, square_avg, acc_delta, new_parameter, new_square_avg, new_acc_delta, size,
    rho: tl.float64, new: tl.float64, lr: tl.float64, eps: tl.float64, coupled: tl.float64, sign: tl.float64,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The step is the gradient times the ratio of the running root mean squares of steps and gradients."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    p, g = load_elements(parameter, offset, inside), load_elements(gradient, offset, inside)
    g = as_type(sign, p) * g + as_type(coupled, p) * p
    deltas = load_elements(acc_delta, offset, inside)
    v = as_type(rho, p) * load_elements(square_avg, offset, inside) + as_type(new, p) * g * g
    # Two roots: the quotient of the squares could overflow.
    delta = tl.sqrt(deltas + as_type(eps, p)) / tl.sqrt(v + as_type(eps, p)) * g
    store_elements(new_square_avg, offset, inside, v)
    store_elements(new_acc_delta, offset, inside, as_type(rho, p) * deltas + as_type(new, p) * delta * delta)
    store_elements(new_parameter, offset, inside, p - as_type(lr, p) * delta)


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
    targets = targets_for(operation, there, out)
    following = iter(targets)
    parameter, *state = (None if array is None else contiguous(array) for array in arrays)
    launch(
        kernel,
        (ceil_div(gradient.size, BLOCK),),
        parameter, contiguous(gradient), *state,
        *(None if array is None else next(following) for array in arrays),
        gradient.size,
        *map(float, numbers),
        **constants, BLOCK=BLOCK,
    )  # fmt: skip
    return targets[0] if len(targets) == 1 else tuple(targets), None


def _decay(lr, weight_decay, decoupled) -> tuple[float, float]:
    """What the gradient takes of the parameter, and the part of the parameter that is kept."""
    return (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)


def _sign(maximize) -> float:
    return -1.0 if maximize else 1.0
