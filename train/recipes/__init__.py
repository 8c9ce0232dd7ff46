"""One short file for each kind of network and each application: read it top to bottom, it is the documentation.

A recipe is a module with a docstring whose first line says what it trains, and with

    add_arguments(parser)   its own options and defaults
    run(options)            trains, writes into options.run_dir, returns its result as a dict of numbers
    predict(run, paths)     yields an answer for each of the user's files

`ranvier train NAME` runs it, `ranvier predict RUN FILE...` uses what came of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

_SHARED = {"classification"}  # modules here that recipes use, not recipes themselves


def names() -> list[str]:
    """All recipes."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)


def load(name: str) -> ModuleType:
    """A recipe's module.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in names():
        raise ValueError(f"train: expected a recipe ({', '.join(names())}), got {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
