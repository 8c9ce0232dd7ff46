"""Philox 4x32-10: random numbers as a function of a key and a counter, in plain NumPy.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A number
depends on nothing but its seed and its place, so every thread draws its own, a mask needs no memory to come back in the
backward pass, and the CPU and the GPU draw the same. `cpu_philox.py` is this for CPU kernels; on the GPU Triton's
`tl.rand(seed, offset)` gives the same bits.
"""

from __future__ import annotations

import numpy as np

# The multipliers and the Weyl sequence's steps that the paper chose.
MULTIPLIER_A, MULTIPLIER_B = 0xD2511F53, 0xCD9E8D57
KEY_STEP_A, KEY_STEP_B = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

# The largest float32 that keeps (2^31 - 1) * scale below 1 after rounding.
UNIFORM_SCALE = 4.6566127342e-10

_WORD = 0xFFFFFFFF


def philox_4x32(counter, key):
    """Four words of 32 random bits for each counter.

    Args:
        counter: four arrays (or integers) of 32-bit words, of shapes that broadcast.
        key: two 32-bit words.

    Returns:
        Four uint64 arrays that hold 32-bit words.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    k0, k1 = (int(word) for word in key)
    for _ in range(ROUNDS):
        product_a, product_b = c0 * np.uint64(MULTIPLIER_A), c2 * np.uint64(MULTIPLIER_B)
        high_a, low_a = product_a >> np.uint64(32), product_a & np.uint64(_WORD)
        high_b, low_b = product_b >> np.uint64(32), product_b & np.uint64(_WORD)
        c0, c1, c2, c3 = high_b ^ c1 ^ np.uint64(k0), low_b, high_a ^ c3 ^ np.uint64(k1), low_a
        k0, k1 = (k0 + KEY_STEP_A) & _WORD, (k1 + KEY_STEP_B) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, offsets) -> np.ndarray:
    """float32 values evenly distributed in [0, 1): what `tl.rand(seed, offset)` gives for each offset.

    Args:
        seed: 64-bit key.
        offsets: array of non-negative integers: the counter's two low words.
    """
    offsets = np.asarray(offsets).astype(np.uint64)
    counter = (offsets & np.uint64(_WORD), offsets >> np.uint64(32), 0, 0)
    bits = philox_4x32(counter, (seed & _WORD, (seed >> 32) & _WORD))[0].astype(np.uint32).view(np.int32)
    return np.where(bits < 0, ~bits, bits).astype(np.float32) * np.float32(UNIFORM_SCALE)
