"""`pytest --device cuda` runs the tests of layers on a GPU as they stand: what they make and pass is placed there."""

import numpy as np
import pytest

from ranvier.kernels.device import to_device
from ranvier.kernels.operation import Operation
from ranvier.layers import Tensor

# The tape, parameters and what is written over are about NumPy's memory itself.
_ABOUT_NUMPY = {"test_tensor", "test_layer", "test_init", "test_overwritten"}
_WRITTEN_OVER = ("in_place", "overwritten", "out_is_written")


@pytest.fixture(autouse=True)
def placed_on_device(request, device, monkeypatch):
    """Arrays that become tensors, inputs of operations and gradients that a backward starts from are on the device."""
    if device == "cpu":
        return
    written_over = any(words in request.node.name for words in _WRITTEN_OVER)
    if written_over or request.module.__name__.rpartition(".")[2] in _ABOUT_NUMPY:
        pytest.skip("about NumPy arrays")

    def placed(value):
        return to_device(value, device) if type(value) is np.ndarray else value

    def of_placed(method):
        return lambda self, *values, **options: method(self, *map(placed, values), **options)

    for owner, name in ((Tensor, "__init__"), (Tensor, "backward"), (Operation, "forward")):
        monkeypatch.setattr(owner, name, of_placed(getattr(owner, name)))
