"""Replacing the library's own functions for a while: how a profile listens, and how a step is recorded.

What is replaced are attributes of classes and modules that callers look up at every call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

_blocks: set[object] = set()  # those of `replaced` that are open


def is_listening() -> bool:
    """Whether functions of the library are replaced now, in whichever thread."""
    return bool(_blocks)


def replaced(replacements: Iterable[tuple[Any, str, Callable]]) -> ExitStack:
    """Puts other values in the place of attributes; closing what it returns puts the originals back.

    Args:
        replacements: (class or module, attribute, function that makes the new value of the original).
    """
    with ExitStack() as stack:
        _blocks.add(block := object())
        stack.callback(_blocks.remove, block)
        for owner, name, make in replacements:
            original = vars(owner)[name]
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, make(original))
        return stack.pop_all()


def definers(root: type, name: str) -> list[type]:
    """The class and all below it that define a method of their own of that name."""
    below = {inner: None for child in root.__subclasses__() for inner in definers(child, name)}
    return [*([root] if name in vars(root) else []), *below]


def modules_that_show(name: str, value) -> list:
    """The library's modules in which `name` is `value`."""
    package = __package__.partition(".")[0]
    modules = [module for key, module in sys.modules.items() if key.partition(".")[0] == package]
    return [module for module in modules if vars(module).get(name) is value]
