"""How many blocks of a kernel a streaming multiprocessor holds at once, and what keeps it from holding more.

The limits are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; how registers
and shared memory are handed out (units and granularity) is that of NVIDIA's occupancy calculator. Tensor memory, which
sm_100 has 512 columns of, is in the PTX ISA, "Tensor Memory".
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Limits(NamedTuple):
    """What one streaming multiprocessor has."""

    threads: int
    blocks: int
    shared_bytes: int
    block_shared_bytes: int  # the most that one block can have
    registers: int = 65536
    tensor_columns: int = 0


ARCHITECTURES = {
    80: Limits(2048, 32, 164 * 1024, 163 * 1024),
    86: Limits(1536, 16, 100 * 1024, 99 * 1024),
    89: Limits(1536, 24, 100 * 1024, 99 * 1024),
    90: Limits(2048, 32, 228 * 1024, 227 * 1024),
    100: Limits(2048, 32, 228 * 1024, 227 * 1024, tensor_columns=512),
    120: Limits(1536, 24, 100 * 1024, 99 * 1024),
}
_WARP = 32
_REGISTER_UNIT = 256  # registers are handed to a warp in such pieces
_WARP_UNIT = 4  # one warp a scheduler; registers are a scheduler's own
_SHARED_UNIT = 128
_SHARED_RESERVED = 1024  # by the system, in each block


class Occupancy(NamedTuple):
    """Resident blocks of a multiprocessor, their threads as a share of the most that it can hold, and the limiter.

    `limiter` is "threads" (the multiprocessor is full), "blocks", "registers", "shared memory" or "tensor memory"; of
    two that allow the same, the first in this order.
    """

    blocks: int
    share: float
    limiter: str


def occupancy(architecture: int, threads: int, registers: int, shared_bytes: int, tensor_columns: int = 0) -> Occupancy:
    """The theoretical occupancy of a kernel.

    Args:
        architecture: 80, 90, 100, ...: a key of ARCHITECTURES.
        threads: a block.
        registers: a thread.
        shared_bytes: a block, static and dynamic, without what the system reserves.
        tensor_columns: of tensor memory that a block allocates.
    """
    limits = ARCHITECTURES[architecture]
    warps = math.ceil(threads / _WARP)
    registers_a_warp = _round_up(max(registers, 1) * _WARP, _REGISTER_UNIT)
    warps_with_registers = limits.registers // registers_a_warp // _WARP_UNIT * _WARP_UNIT
    shared = _round_up(shared_bytes + _SHARED_RESERVED, _SHARED_UNIT)
    allowed = {
        "threads": limits.threads // (warps * _WARP),
        "blocks": limits.blocks,
        "registers": warps_with_registers // warps,
        "shared memory": limits.shared_bytes // shared if shared_bytes <= limits.block_shared_bytes else 0,
    }
    if tensor_columns:
        allowed["tensor memory"] = limits.tensor_columns // tensor_columns
    limiter = min(allowed, key=allowed.get)
    blocks = allowed[limiter]
    return Occupancy(blocks, blocks * warps * _WARP / limits.threads, limiter)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
