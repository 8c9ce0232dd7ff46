"""Optimizers: one pass over memory that turns parameters, gradients and state into the next parameters and state.

Every step takes a parameter array (as a rule the flat buffer of a whole model), its gradient and its state arrays, all
of one shape and type, and returns the new value of each array but the gradient, in that order; state that is None is
left out. Nothing is changed in place unless asked for: `out=` names the arrays to write to, and they may be the inputs
themselves, which is how an optimizer steps without allocating:

    sgd.forward(parameter, gradient, momentum_buffer, lr=0.1, momentum=0.9, out=(parameter, momentum_buffer))

What all steps share, with p the parameter, g the gradient, d `weight_decay`:

    maximize                g <- -g
    coupled decay (L2)      g <- g + d p
    decoupled decay         p <- p - lr d p      before the step (Loshchilov & Hutter 2019)

`step` counts from 1. The formulas are in `reference.py`, with their papers; where the literature has variants, they are
PyTorch's. `gradient_norm`, `gradient_scale`, `gradient_limit` and `gradient_clip` are what gradient clipping needs.
"""

from __future__ import annotations

import math

import numpy as np

from ..check import (
    check_choice,
    check_float,
    check_number,
    check_same_dtype,
    check_shape,
    refuse_type,
    refuse_value,
)
from ..operation import Cost, Normal, Operation, Refused, Sample, Uniform
from .clipping import gradient_clip, gradient_limit, gradient_norm, gradient_scale

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "gradient_clip",
    "gradient_limit",
    "gradient_norm",
    "gradient_scale",
    "lion",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
]

_POSITIVE = ("square_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "acc_delta", "sum")  # state that is >= 0


def check_betas(operation: str, betas) -> None:
    """betas is a pair of numbers in [0, 1)."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        refuse_value(operation, "betas", "as a pair of numbers", betas)
    for index, beta in enumerate(betas):
        check_number(operation, f"betas[{index}]", beta, 0, 1, open_high=True)


def _check_arrays(operation, parameter, **others):
    """The parameter is of a floating-point type, all others (but None) of the same type and shape."""
    check_float(operation, "parameter", parameter)
    for argument, x in others.items():
        check_same_dtype(operation, "parameter", parameter, argument, x)
        if x is not None:
            check_shape(operation, argument, x, parameter.shape, "the parameter's")


def _check_amounts(operation, **amounts):
    """Finite numbers of 0 or more."""
    for argument, value in amounts.items():
        check_number(operation, argument, value, 0, math.inf, open_high=True)


def _check_count(operation, step):
    if not isinstance(step, (int, np.integer)) or isinstance(step, bool):
        refuse_type(operation, "step", "as an integer", type(step).__qualname__)
    if step < 1:
        refuse_value(operation, "step", "of 1 or more", step)


def _check_partner(operation, argument, x, wanted, reason):
    """State is there exactly where the attributes ask for it."""
    if wanted and x is None:
        refuse_value(operation, argument, f"where {reason}", "None")
    if not wanted and x is not None:
        refuse_value(operation, argument, f"as None unless {reason}", "an array")


def _step_sample(name, size, state, attributes, large=False):
    inputs = {"parameter": Normal(size), "gradient": Normal(size)}
    for argument in state:
        inputs[argument] = Uniform(size, 0.5, 1.5) if argument in _POSITIVE else Uniform(size, -0.5, 0.5)
    return Sample(name, inputs, attributes, large)


def _step_operation(name, check, flops, variants, refused):
    """Declares a step.

    Args:
        flops: floating-point operations an element.
        variants: sample name -> (names of the state arrays, attributes); the first is the usual one.
        refused: cases of its own: name -> (attributes, error, message).
    """

    def cost(parameter, gradient, *state, **attributes):
        arrays = 1 + sum(x is not None for x in state)
        return Cost(flops * parameter.size, (2 * arrays + 1) * parameter.size * parameter.dtype.itemsize)

    def vary(pick):
        state, attributes = pick.of(list(variants.values()))
        return _step_sample("varied", tuple(pick(0, 9) for _ in range(pick(0, 3))), state, attributes)

    state, usual = next(iter(variants.values()))
    arrays = {argument: np.zeros(3) for argument in ("parameter", "gradient", *state)}
    return Operation(
        name,
        __name__,
        check=check,
        cost=cost,
        vary=vary,
        differentiable=False,
        samples=[
            *(_step_sample(variant, (1237,), *values) for variant, values in variants.items()),
            _step_sample("matrix", (5, 7), state, usual),
            _step_sample("nothing", (0,), state, usual),
            _step_sample("one", (1,), state, usual),
            _step_sample("ten_million", (10_000_000,), state, usual, large=True),
        ],
        refused=[
            Refused(
                "integers", arrays | {"parameter": np.zeros(3, int)}, TypeError, "parameter of type float16", usual
            ),
            Refused(
                "mixed", arrays | {"gradient": np.zeros(3, "f4")}, TypeError, "gradient of parameter's type", usual
            ),
            Refused("shape", arrays | {"gradient": np.zeros(4)}, ValueError, r"gradient of shape \(3,\)", usual),
            Refused("lr", arrays, ValueError, r"lr in \[0, inf\), got nan", usual | {"lr": math.nan}),
            Refused("lr_type", arrays, TypeError, "lr as a real number, got str", usual | {"lr": "fast"}),
            *(Refused(case, arrays, error, message, usual | bad) for case, (bad, error, message) in refused.items()),
        ],
    )


def _check_sgd(
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
    """parameter, gradient and, with momentum, momentum_buffer (at first zeros): arrays of one shape and type."""
    _check_arrays("sgd", parameter, gradient=gradient, momentum_buffer=momentum_buffer)
    _check_amounts("sgd", lr=lr, momentum=momentum, weight_decay=weight_decay)
    check_number("sgd", "dampening", dampening, open_low=True, open_high=True)
    check_choice("sgd", "nesterov", nesterov, (True, False))
    check_choice("sgd", "maximize", maximize, (True, False))
    _check_partner("sgd", "momentum_buffer", momentum_buffer, momentum != 0, "momentum is not 0")
    if nesterov and (momentum == 0 or dampening != 0):
        refuse_value("sgd", "nesterov", "with momentum and without dampening", f"{momentum} and {dampening}")


sgd = _step_operation(
    "sgd",
    _check_sgd,
    flops=6,
    variants={
        "momentum": (("momentum_buffer",), {"lr": 0.1, "momentum": 0.9}),
        "plain": ((), {"lr": 0.1}),
        "decay": ((), {"lr": 0.1, "weight_decay": 0.3, "maximize": True}),
        "dampening": (("momentum_buffer",), {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.3}),
        "nesterov": (("momentum_buffer",), {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    },
    refused={
        "nesterov": ({"nesterov": True, "dampening": 0.1}, ValueError, "nesterov with momentum and without dampening"),
        "no_momentum": ({"momentum": 0.0}, ValueError, "momentum_buffer as None unless momentum"),
        "weight_decay": ({"weight_decay": -1.0}, ValueError, r"weight_decay in \[0, inf\), got -1"),
    },
)


def _check_adam(
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
    """parameter, gradient, running averages of the gradient and its square, for AMSGrad the latter's maximum: arrays of
    one shape and type."""
    _check_arrays(
        "adam", parameter, gradient=gradient, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, max_exp_avg_sq=max_exp_avg_sq
    )
    _check_amounts("adam", lr=lr, eps=eps, weight_decay=weight_decay)
    check_betas("adam", betas)
    _check_count("adam", step)
    check_choice("adam", "decoupled", decoupled, (True, False))
    check_choice("adam", "maximize", maximize, (True, False))


_MOMENTS = ("exp_avg", "exp_avg_sq")
_BAD_MOMENTS = {
    "betas": ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] in \[0, 1\), got 1"),
    "beta_count": ({"betas": (0.9,)}, ValueError, "betas as a pair"),
    "step": ({"step": 0}, ValueError, "step of 1 or more, got 0"),
    "step_type": ({"step": 1.0}, TypeError, "step as an integer, got float"),
    "eps": ({"eps": -1e-8}, ValueError, r"eps in \[0, inf\)"),
}

adam = _step_operation(
    "adam",
    _check_adam,
    flops=14,
    variants={
        "usual": (_MOMENTS, {"lr": 0.1, "step": 3}),
        "coupled": (_MOMENTS, {"lr": 0.1, "step": 1, "weight_decay": 0.3, "betas": (0.5, 0.9)}),
        "decoupled": (_MOMENTS, {"lr": 0.1, "step": 1000, "weight_decay": 0.3, "decoupled": True, "maximize": True}),
        "amsgrad": ((*_MOMENTS, "max_exp_avg_sq"), {"lr": 0.1, "step": 7}),
    },
    refused=_BAD_MOMENTS,
)


def _check_nadam(
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
    """parameter, gradient, running averages of the gradient and its square: arrays of one shape and type.
    mu_product: the product of the momenta of all steps, this one included."""
    _check_arrays("nadam", parameter, gradient=gradient, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    _check_amounts("nadam", lr=lr, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
    check_betas("nadam", betas)
    _check_count("nadam", step)
    check_number("nadam", "mu_product", mu_product, 0, 1, open_high=True)
    check_choice("nadam", "decoupled", decoupled, (True, False))
    check_choice("nadam", "maximize", maximize, (True, False))


nadam = _step_operation(
    "nadam",
    _check_nadam,
    flops=17,
    variants={
        "usual": (_MOMENTS, {"lr": 0.1, "step": 3, "mu_product": 0.1}),
        "coupled": (_MOMENTS, {"lr": 0.1, "step": 1, "mu_product": 0.4, "weight_decay": 0.3, "momentum_decay": 0.01}),
        "decoupled": (
            _MOMENTS,
            {"lr": 0.1, "step": 9, "mu_product": 0.0, "weight_decay": 0.3, "decoupled": True, "maximize": True},
        ),
    },
    refused=_BAD_MOMENTS | {"mu_product": ({"mu_product": 1.0}, ValueError, r"mu_product in \[0, 1\)")},
)


def _check_radam(
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
    """parameter, gradient, running averages of the gradient and its square: arrays of one shape and type."""
    _check_arrays("radam", parameter, gradient=gradient, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    _check_amounts("radam", lr=lr, eps=eps, weight_decay=weight_decay)
    check_betas("radam", betas)
    _check_count("radam", step)
    check_choice("radam", "decoupled", decoupled, (True, False))
    check_choice("radam", "maximize", maximize, (True, False))


radam = _step_operation(
    "radam",
    _check_radam,
    flops=14,
    variants={
        "rectified": (_MOMENTS, {"lr": 0.1, "step": 6}),
        "first_steps": (_MOMENTS, {"lr": 0.1, "step": 5, "weight_decay": 0.3}),
        "decoupled": (_MOMENTS, {"lr": 0.1, "step": 100, "weight_decay": 0.3, "decoupled": True, "maximize": True}),
    },
    refused=_BAD_MOMENTS,
)


def _check_adamax(
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
    """parameter, gradient, running average of the gradient and running maximum of its size: arrays of one shape and
    type."""
    _check_arrays("adamax", parameter, gradient=gradient, exp_avg=exp_avg, exp_inf=exp_inf)
    _check_amounts("adamax", lr=lr, eps=eps, weight_decay=weight_decay)
    check_betas("adamax", betas)
    _check_count("adamax", step)
    check_choice("adamax", "maximize", maximize, (True, False))


adamax = _step_operation(
    "adamax",
    _check_adamax,
    flops=11,
    variants={
        "usual": (("exp_avg", "exp_inf"), {"lr": 0.1, "step": 3}),
        "decay": (("exp_avg", "exp_inf"), {"lr": 0.1, "step": 1, "weight_decay": 0.3, "maximize": True}),
    },
    refused=_BAD_MOMENTS,
)


def _check_lion(
    parameter, gradient, exp_avg, *, lr, betas=(0.9, 0.99), weight_decay=0.0, decoupled=True, maximize=False
):
    """parameter, gradient and running average of the gradient: arrays of one shape and type."""
    _check_arrays("lion", parameter, gradient=gradient, exp_avg=exp_avg)
    _check_amounts("lion", lr=lr, weight_decay=weight_decay)
    check_betas("lion", betas)
    check_choice("lion", "decoupled", decoupled, (True, False))
    check_choice("lion", "maximize", maximize, (True, False))


lion = _step_operation(
    "lion",
    _check_lion,
    flops=8,
    variants={
        "usual": (("exp_avg",), {"lr": 0.1, "weight_decay": 0.3}),
        "coupled": (("exp_avg",), {"lr": 0.1, "weight_decay": 0.3, "decoupled": False, "maximize": True}),
    },
    refused={"betas": _BAD_MOMENTS["betas"]},
)


def _check_rmsprop(
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
    """parameter, gradient, running average of its square, with momentum a momentum_buffer, where centered the running
    average of the gradient: arrays of one shape and type."""
    _check_arrays(
        "rmsprop",
        parameter,
        gradient=gradient,
        square_avg=square_avg,
        momentum_buffer=momentum_buffer,
        grad_avg=grad_avg,
    )
    _check_amounts("rmsprop", lr=lr, eps=eps, weight_decay=weight_decay, momentum=momentum)
    check_number("rmsprop", "alpha", alpha, 0, 1)
    check_choice("rmsprop", "centered", centered, (True, False))
    check_choice("rmsprop", "maximize", maximize, (True, False))
    _check_partner("rmsprop", "momentum_buffer", momentum_buffer, momentum != 0, "momentum is not 0")
    _check_partner("rmsprop", "grad_avg", grad_avg, centered, "centered")


rmsprop = _step_operation(
    "rmsprop",
    _check_rmsprop,
    flops=10,
    variants={
        "usual": (("square_avg",), {"lr": 0.1}),
        "momentum": (("square_avg", "momentum_buffer"), {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}),
        "everything": (
            ("square_avg", "momentum_buffer", "grad_avg"),
            {"lr": 0.1, "momentum": 0.9, "centered": True, "alpha": 0.9, "maximize": True},
        ),
    },
    refused={
        "alpha": ({"alpha": 1.5}, ValueError, r"alpha in \[0, 1\], got 1.5"),
        "centered": ({"centered": True}, ValueError, "grad_avg where centered, got None"),
    },
)


def _check_adagrad(parameter, gradient, sum, *, lr, step, lr_decay=0.0, weight_decay=0.0, eps=1e-10, maximize=False):
    """parameter, gradient and sum of its squares: arrays of one shape and type."""
    _check_arrays("adagrad", parameter, gradient=gradient, sum=sum)
    _check_amounts("adagrad", lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps)
    _check_count("adagrad", step)
    check_choice("adagrad", "maximize", maximize, (True, False))


adagrad = _step_operation(
    "adagrad",
    _check_adagrad,
    flops=7,
    variants={
        "usual": (("sum",), {"lr": 0.1, "step": 1}),
        "decay": (
            ("sum",),
            {"lr": 0.1, "step": 4, "lr_decay": 0.1, "weight_decay": 0.3, "maximize": True},
        ),
    },
    refused={"step": _BAD_MOMENTS["step"]},
)


def _check_adadelta(
    parameter, gradient, square_avg, acc_delta, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False
):
    """parameter, gradient, running averages of the squares of gradient and step: arrays of one shape and type."""
    _check_arrays("adadelta", parameter, gradient=gradient, square_avg=square_avg, acc_delta=acc_delta)
    _check_amounts("adadelta", lr=lr, eps=eps, weight_decay=weight_decay)
    check_number("adadelta", "rho", rho, 0, 1)
    check_choice("adadelta", "maximize", maximize, (True, False))


adadelta = _step_operation(
    "adadelta",
    _check_adadelta,
    flops=14,
    variants={
        "usual": (("square_avg", "acc_delta"), {"lr": 1.0}),
        "decay": (("square_avg", "acc_delta"), {"lr": 0.5, "rho": 0.7, "weight_decay": 0.3, "maximize": True}),
    },
    refused={"rho": ({"rho": -0.1}, ValueError, r"rho in \[0, 1\]")},
)
