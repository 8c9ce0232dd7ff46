"""The two libraries behind one set of names, so that the bench writes every model once and builds it in both.

Ranvier's names are PyTorch's, so little is left to say: how an array becomes a tensor, what a layer's base class is,
and that PyTorch's layers have no activation of their own. Both are written as their users write them: where Ranvier
fuses an activation into a layer, PyTorch gets the in-place one of its own model zoo.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

RANVIER, CAPTURED, PYTORCH, CHANNELS_LAST = "ranvier", "ranvier captured", "pytorch", "pytorch channels-last"
PYTORCH_VARIANTS = (PYTORCH, CHANNELS_LAST)


@dataclass(frozen=True)
class Library:
    """What a model needs of a library.

    Args:
        name: the variant that it stands for in tables and records.
        layers: the namespace of layers; those of `activated` take `activation=`.
        functional: the namespace of functions.
        optim: the namespace of optimizers.
        base: what a network's class derives from.
        tensor: makes a tensor of a NumPy array.
        parameter: makes a tensor that an optimizer changes of a NumPy array.
        images: makes a tensor of a NumPy array [N, C, H, W], in the memory layout of this variant.
        place: puts a network's parameters into the memory layout of this variant, on its device.
        relu: rectifies a tensor that nothing else reads, in place where the library can.
        clip: scales gradients down to a norm.
        load: copies a state, arrays by name, into a network.
        seed: makes what is drawn from now on, initial weights, the same in every run.
    """

    name: str
    layers: Any
    functional: Any
    optim: Any
    base: type
    tensor: Callable
    parameter: Callable
    images: Callable
    place: Callable
    relu: Callable
    clip: Callable
    load: Callable
    seed: Callable


@dataclass(frozen=True)
class Prepared:
    """A case made ready in one library.

    Args:
        functions: what is timed, by direction: "forward", "backward" or "step".
        results: arrays by name, which must agree between the libraries.
        shared: what the other library needs to compute the same.
    """

    functions: dict[str, Callable[[], Any]]
    results: dict[str, np.ndarray]
    shared: Any = None


def difference(ours: dict, theirs: dict, tolerance: float) -> str | None:
    """What is wrong with PyTorch's arrays beside Ranvier's of the same name, None if they agree.

    Args:
        tolerance: how far apart they may be, as a share of PyTorch's largest element.
    """
    for name, array in theirs.items():
        apart = np.max(np.abs(ours[name] - array)) / np.max(np.abs(array))
        if not apart <= tolerance:
            return f"{name}: apart by {apart:.1e} of the largest element, expected {tolerance:.0e} or less"
    return None


def library(variant: str) -> Library:
    """The library that a variant is measured in.

    Raises:
        ModuleNotFoundError: it is PyTorch and not installed.
    """
    return ranvier() if variant in (RANVIER, CAPTURED) else pytorch(channels_last=variant == CHANNELS_LAST)


def ranvier() -> Library:
    """Ranvier on NumPy arrays."""
    from .. import layers, train

    return Library(
        name=RANVIER,
        layers=layers,
        functional=layers.functional,
        optim=train.optim,
        base=layers.Layer,
        tensor=layers.tensor,
        parameter=layers.Parameter,
        images=layers.tensor,
        place=lambda network: network,
        relu=layers.functional.relu,
        clip=train.clip_grad_norm_,
        load=lambda network, state: network.load_state_dict(state),
        seed=layers.seed,
    )


def pytorch(channels_last: bool = False) -> Library:
    """PyTorch on the CPU, eager. Its optimizers are asked for their fused kernels, the fastest that it has here.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    require_pytorch()
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    layers = SimpleNamespace(**vars(torch.nn))
    for name in ("Linear", "Conv1d", "Conv2d", "ConvTranspose2d", "BatchNorm2d"):
        setattr(layers, name, _activated(getattr(torch.nn, name)))
    fused = {name: _fused(getattr(torch.optim, name)) for name in ("SGD", "Adam", "AdamW")}
    return Library(
        name=CHANNELS_LAST if channels_last else PYTORCH,
        layers=layers,
        functional=torch.nn.functional,
        optim=SimpleNamespace(**vars(torch.optim) | fused),
        base=torch.nn.Module,
        tensor=torch.from_numpy,
        parameter=lambda array: torch.nn.Parameter(torch.from_numpy(array)),
        images=lambda array: torch.from_numpy(array).contiguous(memory_format=layout),
        place=lambda network: network.to(memory_format=layout),
        relu=torch.relu_,
        clip=torch.nn.utils.clip_grad_norm_,
        load=lambda network, state: network.load_state_dict(
            {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        ),
        seed=torch.manual_seed,
    )


def require_pytorch() -> None:
    """Raises ModuleNotFoundError, with the command that helps, where what the bench compares with is not installed."""
    for package in ("torch", "threadpoolctl"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"bench: expected {package} to be installed, found none; without PyTorch there is nothing to compare "
                "with. `make bench` or `pip install ranvier[bench]` brings it"
            )


def _activated(layer: type) -> type:
    """A PyTorch layer that takes Ranvier's `activation=` and applies it in place."""
    import torch

    in_place = {None: lambda x: x, "relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_}

    class Activated(layer):
        def __init__(self, *arguments, activation: str | None = None, **options):
            super().__init__(*arguments, **options)
            self.activate = in_place[activation]

        def forward(self, input):
            return self.activate(super().forward(input))

    return Activated


def _fused(optimizer: type) -> Callable:
    return lambda parameters, **options: optimizer(parameters, fused=True, **options)
