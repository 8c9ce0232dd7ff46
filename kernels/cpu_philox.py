"""Philox 4x32-10 for CPU kernels, in a form that vectorises; `philox.py` is the definition and names the source.

Call it from kernels only: `from ..cpu_philox import uniform`. Numba's cache looks only at the kernel's own file: after
an edit here, run `make clean`.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from .philox import KEY_STEP_A, KEY_STEP_B, MULTIPLIER_A, MULTIPLIER_B, ROUNDS, UNIFORM_SCALE

_A, _B = np.uint64(MULTIPLIER_A), np.uint64(MULTIPLIER_B)
_STEP_A, _STEP_B = np.uint32(KEY_STEP_A), np.uint32(KEY_STEP_B)
_WORD, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_SCALE = np.float32(UNIFORM_SCALE)


@register_jitable
def uniform(seed, offset):
    """A float32 in [0, 1) for one offset: `philox.uniform` of an int64 seed and a non-negative int64 offset."""
    c0, c1, c2, c3 = np.uint64(offset) & _WORD, np.uint64(offset) >> _32, np.uint64(0), np.uint64(0)
    k0, k1 = np.uint32(seed), np.uint32(seed >> 32)
    for _ in range(ROUNDS):
        # Words stay in 64-bit lanes, as the vector unit's 32 x 32 -> 64 bit product wants them.
        product_a, product_b = c0 * _A, c2 * _B
        c0, c1 = (product_b >> _32) ^ c1 ^ np.uint64(k0), product_b & _WORD
        c2, c3 = (product_a >> _32) ^ c3 ^ np.uint64(k1), product_a & _WORD
        k0, k1 = np.uint32(k0 + _STEP_A), np.uint32(k1 + _STEP_B)
    bits = np.int32(np.uint32(c0))
    return np.float32(bits ^ (bits >> np.int32(31))) * _SCALE
