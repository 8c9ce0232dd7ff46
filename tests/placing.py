"""The suites' own test bodies on a GPU: what they make and pass as NumPy arrays is placed there."""

import numpy as np

from ranvier.kernels.device import to_device
from ranvier.kernels.operation import Operation
from ranvier.layers import Tensor


def place_on(device, monkeypatch):
    """From here on, arrays that become tensors, inputs of operations and gradients that a backward starts from are on
    the device."""

    def placed(value):
        return to_device(value, device) if type(value) is np.ndarray else value

    def of_placed(method):
        return lambda self, *values, **options: method(self, *map(placed, values), **options)

    for owner, name in ((Tensor, "__init__"), (Tensor, "backward"), (Operation, "forward")):
        monkeypatch.setattr(owner, name, of_placed(getattr(owner, name)))
