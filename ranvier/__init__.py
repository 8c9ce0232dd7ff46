"""Ranvier: neural networks whose every forward and backward pass is a kernel that you can open.

A network and one step of its training:

    import ranvier as rv

    model = rv.Sequential(rv.Dense(64, 128, activation="relu"), rv.Dense(128, 10))
    loss = rv.functional.cross_entropy(model(rv.tensor(images)), labels)
    loss.backward()
"""

from . import layers, train
from .layers import *
from .profiling.trace import profile
from .train import *

__all__ = [*layers.__all__, *train.__all__, "profile"]
__version__ = "0.1.0"


def __getattr__(name):
    """Says where a function of PyTorch's top level has its place here."""
    hint = f"; rv.functional.{name} is there" if hasattr(layers.functional, name) else ""
    hint = "; rv.seed is there" if name == "manual_seed" else hint
    raise AttributeError(f"module 'ranvier' has no attribute {name!r}{hint}")
