"""Tensor and tape, differentiable functions and layer objects. Knows kernels; knows no training loop."""

from ..kernels.memory import empty_cache
from ..kernels.precision import fp32_precision
from . import (
    activation,
    attention,
    container,
    conv,
    create,
    dense,
    distance,
    dropout,
    embedding,
    function,
    functional,
    init,
    loss,
    norm,
    padding,
    pool,
    recurrent,
    resize,
    softmax,
    tensor_methods,
    transformer,
)
from .activation import *
from .attention import *
from .container import *
from .conv import *
from .create import *
from .dense import *
from .distance import *
from .dropout import *
from .embedding import *
from .function import *
from .layer import Layer
from .loss import *
from .norm import *
from .padding import *
from .pool import *
from .random import seed
from .recurrent import *
from .resize import *
from .softmax import *
from .tensor import Parameter, Tensor, enable_grad, is_grad_enabled, no_grad
from .transformer import *

__all__ = [
    *(name for module in (
        activation, attention, container, conv, create, dense, distance, dropout, embedding, function, loss, norm,
        padding, pool, recurrent, resize, softmax, transformer,
    ) for name in module.__all__),
    "Layer", "Parameter", "Tensor", "empty_cache", "enable_grad", "fp32_precision", "functional", "init",
    "is_grad_enabled", "no_grad", "seed",
]  # fmt: skip
