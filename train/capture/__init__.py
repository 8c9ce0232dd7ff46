"""Training steps replayed as a flat list of kernel calls: `step.py` begins, `recording.py` keeps what is done."""

from .recording import CaptureError
from .step import capture

__all__ = ["CaptureError", "capture"]
