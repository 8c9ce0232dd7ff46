"""Optimizers as their papers write them, with PyTorch's choice where there are variants. Every other implementation is
held against these, in float64."""

import math

import numpy as np


def _prepare(p, g, lr, weight_decay, decoupled, maximize):
    """Parameter and gradient after `maximize` and weight decay."""
    if maximize:
        g = -g
    if decoupled:
        return p - lr * weight_decay * p, g
    return p, g + weight_decay * p


def _moments(g, m, v, betas):
    """Running averages of the gradient and of its square."""
    beta1, beta2 = betas
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g


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
):
    """Polyak 1964; Nesterov's form as in Sutskever et al. 2013."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, False, maximize)
    if momentum_buffer is None:
        return p - lr * g, None
    b = momentum * momentum_buffer + (1 - dampening) * g
    return (p - lr * (g + momentum * b if nesterov else b), b), None


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
):
    """Kingma & Ba 2015, algorithm 1; decoupled: AdamW, Loshchilov & Hutter 2019; AMSGrad: Reddi et al. 2018."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, decoupled, maximize)
    m, v = _moments(g, exp_avg, exp_avg_sq, betas)
    largest = v if max_exp_avg_sq is None else np.maximum(max_exp_avg_sq, v)
    m_hat = m / (1 - betas[0] ** step)
    v_hat = largest / (1 - betas[1] ** step)
    p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return ((p, m, v) if max_exp_avg_sq is None else (p, m, v, largest)), None


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
):
    """Dozat 2016, algorithm 2."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, decoupled, maximize)
    m, v = _moments(g, exp_avg, exp_avg_sq, betas)
    mu, mu_next = (betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (step, step + 1))
    m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
    v_hat = v / (1 - betas[1] ** step)
    return (p - lr * m_hat / (np.sqrt(v_hat) + eps), m, v), None


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
):
    """Liu et al. 2020, algorithm 2; rectified once the approximated average is longer than 5."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, decoupled, maximize)
    m, v = _moments(g, exp_avg, exp_avg_sq, betas)
    m_hat = m / (1 - betas[0] ** step)
    longest = 2 / (1 - betas[1]) - 1
    length = longest - 2 * step * betas[1] ** step / (1 - betas[1] ** step)
    if length <= 5:
        return (p - lr * m_hat, m, v), None
    rectification = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    adaptive = math.sqrt(1 - betas[1] ** step) / (np.sqrt(v) + eps)
    return (p - lr * m_hat * rectification * adaptive, m, v), None


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
):
    """Kingma & Ba 2015, algorithm 2."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, False, maximize)
    m = betas[0] * exp_avg + (1 - betas[0]) * g
    u = np.maximum(betas[1] * exp_inf, np.abs(g) + eps)
    return (p - lr / (1 - betas[0] ** step) * m / u, m, u), None


def lion_forward(
    parameter, gradient, exp_avg, *, lr, betas=(0.9, 0.99), weight_decay=0.0, decoupled=True, maximize=False
):
    """Chen et al. 2023, algorithm 2."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, decoupled, maximize)
    direction = np.sign(betas[0] * exp_avg + (1 - betas[0]) * g)
    return (p - lr * direction, betas[1] * exp_avg + (1 - betas[1]) * g), None


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
):
    """Tieleman & Hinton 2012; centered: Graves 2013, equations 38-41."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, False, maximize)
    v = alpha * square_avg + (1 - alpha) * g * g
    variance, state = v, [v]
    if centered:
        mean = alpha * grad_avg + (1 - alpha) * g
        variance = v - mean * mean
    scaled = g / (np.sqrt(variance) + eps)
    if momentum_buffer is not None:
        scaled = momentum * momentum_buffer + scaled
        state.append(scaled)
    if centered:
        state.append(mean)
    return (p - lr * scaled, *state), None


def adagrad_forward(parameter, gradient, sum, *, lr, step, lr_decay=0.0, weight_decay=0.0, eps=1e-10, maximize=False):
    """Duchi et al. 2011, figure 1, diagonal."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, False, maximize)
    total = sum + g * g
    return (p - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(total) + eps), total), None


def adadelta_forward(
    parameter, gradient, square_avg, acc_delta, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False
):
    """Zeiler 2012, algorithm 1."""
    p, g = _prepare(parameter, gradient, lr, weight_decay, False, maximize)
    v = rho * square_avg + (1 - rho) * g * g
    delta = np.sqrt(acc_delta + eps) / np.sqrt(v + eps) * g
    return (p - lr * delta, v, rho * acc_delta + (1 - rho) * delta * delta), None


def gradient_norm_forward(gradient, *, norm_type=2.0):
    sizes = np.abs(gradient)
    if norm_type == math.inf:
        return np.asarray(sizes.max(initial=0.0)), None
    return np.asarray((sizes**norm_type).sum() ** (1 / norm_type)), None


def gradient_scale_forward(gradient, *, factor):
    return gradient * factor, None


def gradient_limit_forward(gradient, norm, *, max_norm):
    """Scaled by max_norm / (norm + 1e-6) where that is below 1; 0 stays 0 also if the norm is NaN."""
    factor = max_norm / (norm + 1e-6)
    return np.where((gradient == 0) | (factor >= 1), gradient, gradient * factor), None


def gradient_clip_forward(gradient, *, low, high):
    return np.minimum(np.maximum(gradient, low), high), None
