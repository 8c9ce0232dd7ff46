"""The judges' helpers lie beside them: `onnx_nodes` and its parts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
