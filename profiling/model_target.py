"""What `ranvier profile model` trains: a model from a file of the user's, or a recipe of the library."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from ..kernels.device import cast, to_device
from ..layers import functional
from ..layers.layer import Layer
from ..layers.random import generator, seed
from ..layers.tensor import Tensor
from ..train import optim, recipes
from ..train.hooks import definers, replaced
from ..train.optimizer import Optimizer

DTYPES = ("float16", "bfloat16", "float32", "float64")
OPTIMIZERS = tuple(sorted(
    name for name, value in vars(optim).items()
    if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
))  # fmt: skip


class Enough(BaseException):
    """Ends a training that has shown what it was started for; no Exception, so that nothing that handles errors
    catches it."""


def target_of(options: argparse.Namespace) -> Callable[[Callable[[], None]], None]:
    """The training that the command line names: a function that trains and calls what it is given after each step.

    Raises:
        ValueError, TypeError, FileNotFoundError: there is none of that name; the message says what there is.
    """
    path, colon, function = options.target.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), function, options)
    if options.target.endswith(".py"):
        known = ", ".join(_functions(_module(Path(options.target))))
        raise ValueError(f"profile model: expected FILE.py:FUNCTION with one of {known or 'no functions at all'}")
    if options.target not in recipes.names():
        known = ", ".join(recipes.names())
        raise ValueError(f"profile model: expected FILE.py:FUNCTION or a recipe ({known}), got {options.target!r}")
    return _from_recipe(options.target, options)


# ---- the user's file


def _from_file(path: Path, function: str, options: argparse.Namespace) -> Callable:
    module = _module(path)
    if function not in _functions(module):
        known = ", ".join(_functions(module)) or "none"
        raise ValueError(f"profile model: expected a function of {path} ({known}), got {function!r}")
    if options.recipe_options:
        raise ValueError(f"profile model: expected nothing after {options.target}, got {options.recipe_options[0]!r}")
    seed(options.seed)
    made = getattr(module, function)()
    model, what = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, Layer):
        raise TypeError(
            f"profile model: expected {options.target}() to return a layer, (layer, inputs) or (layer, step), "
            f"got {type(model).__name__}"
        )
    model.to(options.device, options.dtype)
    options.model = model
    optimizer = getattr(optim, options.optimizer or "Adam")(model.parameters())
    if callable(what) and not isinstance(what, Tensor):
        if options.input or options.loss:
            raise ValueError(f"profile model: expected no --input and no --loss where {function}() returns a step")
        return lambda done: _repeat(what, optimizer, done)
    forward = _step(model, _inputs(what, options), LOSSES[options.loss or "mse_loss"], options.loss or "mse_loss")
    return lambda done: _repeat(forward, optimizer, done)


def _repeat(step: Callable, optimizer: Optimizer, done: Callable[[], None]) -> None:
    """Trains until `done` has seen enough. A step that returns None has done its own backward and optimizer steps."""
    while True:
        loss = step()
        if loss is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        done()


def _step(model: Layer, inputs: list, target_of: Callable, loss_name: str) -> Callable[[], Tensor]:
    target = None

    def step() -> Tensor:
        nonlocal target
        output = model(*inputs)
        output = output[0] if isinstance(output, tuple) else output
        if target is None:
            target = target_of(output)
        return getattr(functional, loss_name)(output, target)

    return step


def _inputs(given, options: argparse.Namespace) -> list[Tensor]:
    """The inputs that the function returned, or those that --input describes."""
    if given is None and not options.input:
        raise ValueError(
            f"profile model: expected --input SHAPE, such as 32x1x28x28, because {options.target}() returns no inputs"
        )
    if given is not None and options.input:
        raise ValueError(f"profile model: expected no --input, because {options.target}() returns inputs")
    values = [_drawn(text) for text in options.input] if given is None else given
    values = list(values) if isinstance(values, (tuple, list)) else [values]
    return [_placed(value, options) for value in values]


def _drawn(text: str) -> np.ndarray:
    """'32x1x28x28': normal values. '32x20:1000': whole numbers of 0..999."""
    shape, colon, classes = text.partition(":")
    try:
        sizes, high = tuple(int(size) for size in shape.split("x")), int(classes) if colon else 1
        if min(sizes) < 0 or high < 1:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"profile model: expected --input as sizes such as 32x1x28x28, or 32x20:1000 for whole numbers below 1000, "
            f"got {text!r}"
        ) from None
    if colon:
        return generator().integers(0, high, sizes)
    return generator().standard_normal(sizes, np.float32)


def _placed(value, options: argparse.Namespace) -> Tensor:
    array = value.array if isinstance(value, Tensor) else np.asarray(value)
    array = to_device(array, options.device)
    return Tensor(cast(array, np.dtype(options.dtype)) if array.dtype.kind not in "iub" else array)


def _like(output: Tensor, values: np.ndarray) -> Tensor:
    return Tensor(to_device(values.astype(output.dtype), output.device))


def _normal_target(output: Tensor) -> Tensor:
    return _like(output, generator().standard_normal(output.shape, np.float32))


def _binary_target(output: Tensor) -> Tensor:
    return _like(output, generator().integers(0, 2, output.shape))


def _label_target(output: Tensor) -> Tensor:
    if output.ndim < 2:
        raise ValueError(f"profile model: expected an output [N, classes, ...] for cross_entropy, got {output.shape}")
    labels = generator().integers(0, output.shape[1], (output.shape[0], *output.shape[2:]))
    return Tensor(to_device(labels, output.device))


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "mse_loss": _normal_target,
    "l1_loss": _normal_target,
    "huber_loss": _normal_target,
    "cross_entropy": _label_target,
    "binary_cross_entropy_with_logits": _binary_target,
}


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"profile model: expected a Python file at {path}, found none")
    name = f"profiled_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _functions(module: ModuleType) -> list[str]:
    """The functions (and classes) that a module itself defines, without the private ones."""
    return [
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


# ---- recipes


def _from_recipe(name: str, options: argparse.Namespace) -> Callable:
    given = [option for option in ("input", "loss", "optimizer") if getattr(options, option)]
    if given or options.dtype != "float32":
        raise ValueError(f"profile model: expected no --{(*given, 'dtype')[0]}: the recipe {name} brings its own")
    recipe = recipes.load(name)
    parser = argparse.ArgumentParser(prog=f"ranvier profile model {name} --with", add_help=False)
    parser.set_defaults(epochs=None, device=options.device, seed=options.seed, resume=None, quick=False)
    recipe.add_arguments(parser)
    recipe_options = parser.parse_args(options.recipe_options)

    def train(done: Callable[[], None]) -> None:
        seed(options.seed)
        with tempfile.TemporaryDirectory() as folder, _after_steps(options.training, done):
            recipe_options.run_dir = Path(folder)
            # What the recipe says goes where its progress bar goes: standard output is the report's.
            with contextlib.redirect_stdout(sys.stderr):
                recipe.run(recipe_options)

    return train


@contextlib.contextmanager
def _after_steps(training: int, done: Callable[[], None]) -> Iterator[None]:
    """Calls `done` after each step of one optimizer: of the `training`-th that takes a step at all.

    An optimizer's steps mark the end of a training step in every loop, the Trainer's and a hand-written one.
    """
    seen: list[Optimizer] = []

    def counted(original: Callable) -> Callable:
        def step(optimizer, *arguments, **options):
            result = original(optimizer, *arguments, **options)
            if not any(known is optimizer for known in seen):
                seen.append(optimizer)
            if len(seen) >= training and seen[training - 1] is optimizer:
                done()
            return result

        return step

    with replaced((owner, "step", counted) for owner in definers(Optimizer, "step")):
        yield
