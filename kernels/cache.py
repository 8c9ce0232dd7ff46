"""Where the library keeps what it can make again: compiled kernels, measured ceilings."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """$RANVIER_CACHE_DIR, else `ranvier` in the user's cache directory."""
    if chosen := os.environ.get("RANVIER_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ranvier")
