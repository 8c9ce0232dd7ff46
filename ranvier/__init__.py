"""Ranvier: neural networks whose every forward and backward pass is a kernel that you can open.

import ranvier as rv

model = rv.Sequential(rv.Dense(64, 128, activation="relu"), rv.Dense(128, 10))
loss = rv.functional.cross_entropy(model(rv.tensor(images)), labels)
loss.backward()
"""

from .layers import *
from .layers import (
    Layer,
    Parameter,
    Tensor,
    enable_grad,
    functional,
    init,
    is_grad_enabled,
    no_grad,
    seed,
)

__version__ = "0.1.0"
