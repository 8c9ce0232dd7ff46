"""The optimizers that the bench times: one step over all parameters of a network, and clipping their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from .bench_libraries import PYTORCH, Prepared, difference, library


@dataclass(frozen=True)
class OptimizerCase:
    """One step of an optimizer, or of clipping, over the parameters of a network.

    Args:
        subject: "adam", ...
        case: whose parameters.
        parameters: their shapes.
        step: `step(library, parameters) -> function` that does it once.
    """

    group: ClassVar[str] = "kernel"
    family: ClassVar[str] = "optimizer"
    directions: ClassVar[tuple[str, ...]] = ("step",)
    variants: ClassVar[tuple[str, ...]] = (PYTORCH,)
    cost: ClassVar[None] = None  # nobody counted it

    subject: str
    case: str
    parameters: tuple[tuple[int, ...], ...] = field(repr=False)
    step: Callable

    @property
    def name(self) -> str:
        """What it is asked for by: "adam/resnet_18"."""
        return f"{self.subject}/{self.case}"

    @property
    def elements(self) -> int:
        """Of all parameters."""
        return sum(int(np.prod(shape)) for shape in self.parameters)

    @property
    def shapes(self) -> str:
        """The shapes as people read them."""
        return f"{len(self.parameters)} parameters of {self.elements:,} elements"

    @property
    def expected(self) -> float:
        """Seconds that preparing and timing it may take, beyond what it is timed for: a guess for the progress bar."""
        return 0.2 + 6e-8 * self.elements

    def prepare(self, variant: str, shared: None) -> Prepared:
        """The step, after three whose results are compared."""
        of, random = library(variant), np.random.default_rng(0)
        parameters = [of.parameter(random.standard_normal(shape, np.float32)) for shape in self.parameters]
        step = self.step(of, parameters)
        for parameter in parameters:
            (parameter * of.tensor(random.standard_normal(parameter.shape, np.float32))).sum().backward()
        for _ in range(3):
            step()
        results = {}
        for index in (0, len(parameters) - 1):
            results[f"parameter {index}"] = parameters[index].detach().numpy()
            results[f"gradient {index}"] = parameters[index].grad.numpy()
        return Prepared({"step": step}, {name: value.copy() for name, value in results.items()})

    def disagreement(self, ours: dict, theirs: dict) -> str | None:
        """What is wrong with PyTorch's parameters and gradients beside Ranvier's, None if they agree."""
        return difference(ours, theirs, 1e-4)


def _optimizer(name: str, **options) -> Callable:
    return lambda library, parameters: getattr(library.optim, name)(parameters, lr=1e-4, **options).step


def _clip(library, parameters) -> Callable:
    return lambda: library.clip(parameters, 1.0)


def _resnet_18() -> tuple[tuple[int, ...], ...]:
    """The shapes of ResNet-18's parameters (He et al. 2016): 62 of them, 11.7 million elements."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for outputs in (64, 128, 256, 512):
        for block in range(2):
            shapes += [
                (outputs, inputs, 3, 3),
                (outputs,),
                (outputs,),
                (outputs, outputs, 3, 3),
                (outputs,),
                (outputs,),
            ]
            if block == 0 and outputs != 64:
                shapes += [(outputs, inputs, 1, 1), (outputs,), (outputs,)]
            inputs = outputs
    return (*shapes, (1000, 512), (1000,))


_MLP = ((128, 64), (128,), (10, 128), (10,))

CASES = [
    OptimizerCase(subject, case, shapes, step)
    for subject, step in (
        ("sgd", _optimizer("SGD", momentum=0.9)),
        ("adam", _optimizer("Adam")),
        ("adamw", _optimizer("AdamW")),
        ("rmsprop", _optimizer("RMSprop")),
        ("clip_grad_norm", _clip),
    )
    for case, shapes in (("mlp", _MLP), ("resnet_18", _resnet_18()))
]
