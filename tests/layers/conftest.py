"""`pytest --device cuda` runs the tests of layers on a GPU as they stand: what they make and pass is placed there."""

import pytest
from placing import place_on

# The tape, parameters and what is written over are about NumPy's memory itself.
_ABOUT_NUMPY = {"test_tensor", "test_layer", "test_init", "test_overwritten"}
_WRITTEN_OVER = ("in_place", "overwritten", "out_is_written")


@pytest.fixture(autouse=True)
def placed_on_device(request, device, monkeypatch):
    if device == "cpu":
        return
    written_over = any(words in request.node.name for words in _WRITTEN_OVER)
    if written_over or request.module.__name__.rpartition(".")[2] in _ABOUT_NUMPY:
        pytest.skip("about NumPy arrays")
    place_on(device, monkeypatch)
