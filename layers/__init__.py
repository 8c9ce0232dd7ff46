"""Tensor and tape, differentiable functions and layer objects. Knows kernels; knows no training loop."""

from . import functional, init
from .activation import *
from .attention import *
from .container import *
from .conv import *
from .dense import *
from .dropout import *
from .embedding import *
from .layer import Layer
from .loss import *
from .norm import *
from .pool import *
from .random import seed
from .recurrent import *
from .resize import *
from .softmax import *
from .tensor import Parameter, Tensor, enable_grad, is_grad_enabled, no_grad
