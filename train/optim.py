"""Optimizers with torch.optim's constructor arguments and defaults, and the learning-rate schedules beside them.

The formulas are kernels, `ranvier/kernels/optimizer`; what follows says which numbers each of them wants. Every class
takes, before its own options, `params`: parameters, (name, parameter) pairs, or a list of groups with options of their
own; `lr`: the learning rate; and by keyword `maximize`: climb instead of descend. `weight_decay` is added to the
gradient (L2) except where it says decoupled: there the parameter shrinks by lr * weight_decay first.
"""

from __future__ import annotations

from ..kernels import optimizer as kernels
from ..kernels.check import check_number
from . import schedules as lr_scheduler
from .optimizer import Optimizer
from .schedules import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
    "Adamax",
    "Lion",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Optimizer",
    "lr_scheduler",
    "LRScheduler",
    "StepLR",
    "MultiStepLR",
    "ExponentialLR",
    "ConstantLR",
    "LinearLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "LambdaLR",
    "OneCycleLR",
    "SequentialLR",
    "ReduceLROnPlateau",
]


class SGD(Optimizer):
    """Stochastic gradient descent.

    Args:
        momentum: part of the last step that goes on.
        dampening: part of the gradient that does not enter the momentum, from its second step on.
        nesterov: look one step ahead (Sutskever et al. 2013).
    """

    operation = kernels.sgd

    def __init__(
        self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, *, maximize=False
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _state(self, group):
        return {"momentum_buffer": 0.0} if group["momentum"] != 0 else {}

    def _advance(self, group, counters):
        # Without momentum there is nothing to remember, and nothing to count.
        return {"step": counters["step"] + (group["momentum"] != 0)}

    def _attributes(self, group, counters):
        attributes = super()._attributes(group, counters)
        if counters["step"] == 1:
            attributes["dampening"] = 0.0  # momentum starts as the whole first gradient
        return attributes


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015).

    Args:
        betas: how much of the running averages of the gradient and of its square is kept at each step.
        eps: added to the denominator.
        amsgrad: divide by the largest average so far (Reddi et al. 2018).
        decoupled_weight_decay: as in AdamW.
    """

    operation = kernels.adam

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        amsgrad=False,
        *,
        maximize=False,
        decoupled_weight_decay=False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _state(self, group):
        state = {"exp_avg": 0.0, "exp_avg_sq": 0.0}
        return state | {"max_exp_avg_sq": 0.0} if group["amsgrad"] else state

    def _attributes(self, group, counters):
        return super()._attributes(group, counters) | counters | {"decoupled": group["decoupled_weight_decay"]}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); arguments as Adam's."""

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016).

    Args:
        betas, eps: as Adam's.
        momentum_decay: how fast the momentum warms up to betas[0].
        decoupled_weight_decay: as in AdamW.
    """

    operation = kernels.nadam

    def __init__(
        self,
        params,
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        momentum_decay=4e-3,
        decoupled_weight_decay=False,
        *,
        maximize=False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def _state(self, group):
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _counters(self):
        return {"step": 0, "mu_product": 1.0}

    def _advance(self, group, counters):
        step = counters["step"] + 1
        mu = group["betas"][0] * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"]))
        return {"step": step, "mu_product": counters["mu_product"] * mu}

    def _attributes(self, group, counters):
        return super()._attributes(group, counters) | counters | {"decoupled": group["decoupled_weight_decay"]}


class RAdam(Optimizer):
    """Adam whose first steps are made safe by rectifying the variance of the denominator (Liu et al. 2020).

    Args:
        betas, eps: as Adam's.
        decoupled_weight_decay: as in AdamW.
    """

    operation = kernels.radam

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled_weight_decay=False,
        *,
        maximize=False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def _state(self, group):
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _attributes(self, group, counters):
        return super()._attributes(group, counters) | counters | {"decoupled": group["decoupled_weight_decay"]}


class Adamax(Optimizer):
    """Adam with the maximum norm in its denominator (Kingma & Ba 2015, section 7.1); betas, eps as Adam's."""

    operation = kernels.adamax

    def __init__(self, params, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, *, maximize=False):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        )

    def _state(self, group):
        return {"exp_avg": 0.0, "exp_inf": 0.0}

    def _attributes(self, group, counters):
        return super()._attributes(group, counters) | counters


class Lion(Optimizer):
    """Steps of one size along the sign of the momentum (Chen et al. 2023); weight decay is decoupled.

    Args:
        betas: how much of the momentum enters the step, and how much of it is kept.
    """

    operation = kernels.lion

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, maximize=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def _state(self, group):
        return {"exp_avg": 0.0}


class RMSprop(Optimizer):
    """Gradients divided by the running root of their mean square (Tieleman & Hinton 2012).

    Args:
        alpha: how much of the running average is kept at each step.
        eps: added to the denominator.
        momentum: part of the last step that goes on.
        centered: divide by the standard deviation instead (Graves 2013).
    """

    operation = kernels.rmsprop

    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
        *,
        maximize=False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _state(self, group):
        wanted = {"square_avg": True, "momentum_buffer": group["momentum"] != 0, "grad_avg": group["centered"]}
        return {name: 0.0 for name, is_wanted in wanted.items() if is_wanted}


class Adagrad(Optimizer):
    """Gradients divided by the root of the sum of all their squares (Duchi et al. 2011).

    Args:
        lr_decay: the rate falls as lr / (1 + steps * lr_decay).
        initial_accumulator_value: what the sum starts from.
        eps: added to the denominator.
    """

    operation = kernels.adagrad

    def __init__(
        self,
        params,
        lr=1e-2,
        lr_decay=0.0,
        weight_decay=0.0,
        initial_accumulator_value=0.0,
        eps=1e-10,
        *,
        maximize=False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def _state(self, group):
        return {"sum": group["initial_accumulator_value"]}

    def _attributes(self, group, counters):
        return super()._attributes(group, counters) | counters

    def _check_options(self, group):
        super()._check_options(group)
        check_number("adagrad", "initial_accumulator_value", group["initial_accumulator_value"], 0)


class Adadelta(Optimizer):
    """Steps whose size follows that of the steps before (Zeiler 2012).

    Args:
        rho: how much of the running averages is kept at each step.
        eps: added under both roots.
    """

    operation = kernels.adadelta

    def __init__(self, params, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, *, maximize=False):
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize})

    def _state(self, group):
        return {"square_avg": 0.0, "acc_delta": 0.0}
