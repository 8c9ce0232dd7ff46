"""The judges' helpers lie beside them: `onnx_nodes` and its parts. `pytest --device cuda` runs the judges on a GPU as
they stand, as it does the tests of layers."""

import sys
from pathlib import Path

import pytest
from placing import place_on

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def placed_on_device(device, monkeypatch):
    if device != "cpu":
        place_on(device, monkeypatch)
