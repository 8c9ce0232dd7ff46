"""Differentiable functions, with torch.nn.functional's names, argument names, order and defaults."""

from .activation import *
from .attention import *
from .conv import *
from .dense import *
from .dropout import *
from .elementwise import *
from .embedding import *
from .loss import *
from .loss_classification import *
from .norm import *
from .pool import *
from .recurrent import *
from .reduce import *
from .resize import *
from .shape import *
from .softmax import *
