"""The library's randomness: one seed for weights, masks and shuffles.

Initial weights come from a NumPy generator on the host, so a seed gives the same network on every device. Dropout's
masks come from Philox counters in the kernels; `next_philox_seed` hands each call a key of its own.
"""

from __future__ import annotations

import numpy as np

_generator = np.random.Generator(np.random.PCG64())


def seed(n: int) -> None:
    """Makes everything random that follows repeatable: initial weights, dropout, shuffles.

    Args:
        n: any integer of 0 or more.
    """
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 0:
        raise ValueError(f"seed: expected an integer of 0 or more, got {n!r}")
    _generator.bit_generator.state = np.random.PCG64(int(n)).state


def generator() -> np.random.Generator:
    """The generator that `seed` sets."""
    return _generator


def next_philox_seed() -> int:
    """A new 64-bit key for a counter-based generator."""
    return int(_generator.integers(0, 2**63))


def get_state() -> dict:
    """The generator's state, as plain numbers and strings: what a checkpoint keeps."""
    return _generator.bit_generator.state


def set_state(state: dict) -> None:
    """Puts back what `get_state` gave."""
    _generator.bit_generator.state = state
