"""What walking a whole sequence in one Triton kernel needs in either direction: `gpu_resident_forward.py` goes from the
first step to the last, `gpu_resident_backward.py` back.

A program has BLOCK_UNITS units of BLOCK_N sequences. It loads its slice of the recurrent weight once, before the loop
over time; the compiler keeps it in shared memory. At each step it needs what all programs that share its sequences have
made of the step before. It waits until all of them have arrived as often as there were steps, makes its own part,
stores it for the others, and arrives. Programs of other sequences count on another counter and do not wait for these.

All programs must run at once: they are launched cooperatively, and no more of them than the device holds.

Which sequences are walked so is a choice of the tuner, one for each direction. Shipped, before any device has measured
it: 5 steps or more, at most 64 sequences, and units in sixteens from 32 to 1024 in half types and to 512 in float32
(512 and 256 where a block has 99 KB of shared memory), where launches are most of the time that single steps take. All
others, float64, the LSTM with a projection, and grids that the device does not hold at once are launched step by step.
Layers of two directions or of several layers walk one after another: each is a call of its own.
"""

import numpy as np
import triton
import triton.language as tl

from ..gpu_arrays import contiguous, fill
from ..launch import empty, launch, programs_at_once
from ..precision import input_precision
from ..tuning import has_room

ROOM = 220 * 1024  # bytes of shared memory that a candidate may want
STRIDE = tl.constexpr(32)  # int32 numbers between two counters: each has a line of the cache to itself


@triton.jit
def arrive(counter):
    """Makes what this program has stored visible to those that wait on the counter, and adds 1 to it."""
    tl.debug_barrier()  # of all threads, before one of them releases
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait_for(counter, arrivals):
    """Returns when the counter has come to `arrivals`, and sees what was stored before each of them."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < arrivals:
        pass
    tl.debug_barrier()  # all threads behind the one that has acquired


@triton.jit
def own_part(batch, size, BLOCK_N: tl.constexpr, BLOCK_UNITS: tl.constexpr):
    """A program's sequences [BLOCK_N, 1] and units [1, BLOCK_UNITS], and which of them there are."""
    sequence = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)[:, None]
    unit = (tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS))[None, :]
    present = sequence < batch
    return sequence, unit, present, present & (unit < size)


@triton.jit
def own_counter(counters):
    """The counter of a program's sequences, and how many programs count on it."""
    return counters + tl.program_id(1) * STRIDE, tl.num_programs(0)


def worthwhile(architecture, dtype, steps, batch, size, aligned) -> bool:
    """Whether such sequences are walked in one launch, as shipped."""
    half = dtype.itemsize == 2
    widest = (1024 if half else 512) if has_room(architecture) else (512 if half else 256)
    return dtype.itemsize < 8 and aligned and steps >= 8 and batch <= 64 and 32 <= size <= widest


def bytes_held(dtype) -> int:
    """Of shared memory, a number of the weight: float32 is held in two parts, for its three products."""
    return 8 if dtype.itemsize == 4 else dtype.itemsize


def launch_at_once(kernel, grid, weight, *arguments, **constants) -> bool:
    """Launches programs that wait for one another, if the device holds all of them at once; says whether it does.

    Args:
        kernel: its first argument is the counters, which are made here.
        grid: programs along the units, and along the sequences.
        weight: W_hh, the second argument.
        arguments: the others.
        constants: the kernel's own.
    """
    counters, weight = empty(weight, (grid[1] * STRIDE.value,), np.int32), contiguous(weight)
    constants |= {
        "PRECISION": input_precision(weight.dtype),
        "num_stages": 1,  # nothing is loaded for a later step before its wait
        "launch_cooperative_grid": True,
    }
    if grid[0] * grid[1] > programs_at_once(kernel, counters, weight, *arguments, **constants):
        return False
    fill(counters, 0)
    launch(kernel, grid, counters, weight, *arguments, **constants)
    return True
