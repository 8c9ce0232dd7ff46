"""The recurrent layers' kernels for whole sequences, compiled: they fit, and spill a value or two at most; tensor cores
are used; the weight is loaded before the loop over time and never in it; states are read behind the wait and past the
L1 cache."""

import os
import re

import numpy as np
import pytest

pytest.importorskip("triton", reason="GPU kernels are compiled by Triton: `pip install ranvier[gpu-proof]`")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled with TRITON_INTERPRET=1", allow_module_level=True)

from compiling import ARCHITECTURES, compile_kernel, record_launches
from parity import DTYPES

from ranvier.kernels import tuning
from ranvier.kernels.recurrent import gpu, gpu_resident
from ranvier.profiling.occupancy import ARCHITECTURES as LIMITS

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
ACQUIRE = r"\b(?:ld|atom)\.global\.(?:gpu\.acquire|acquire\.gpu)\b"  # adding 0 may become a load
# Layer, type, hidden size, sequences: the widest that are shipped, and some that fill no tile.
QUICK = [
    (90, "lstm", "float16", 1024, 16),
    (80, "lstm", "float32", 512, 64),
    (100, "gru", "bfloat16", 496, 33),
    (80, "rnn", "float16", 768, 64),
]
SHAPES = [
    *[("lstm", "float16", size, batch) for size in (32, 256, 512, 1008) for batch in (1, 64)],
    *[("lstm", "float32", size, batch) for size in (32, 112, 256, 512) for batch in (1, 64)],
    ("lstm", "bfloat16", 512, 64),
    *[(layer, dtype, size, 64) for layer in ("gru", "rnn") for dtype, size in (("float16", 1024), ("float32", 512))],
]


def compiled(architecture, layer, dtype, size, batch):
    """The form that is launched for such a layer, with its constants and the programs along the units."""

    def array(*shape):
        return np.zeros(shape, DTYPES[dtype])

    gates = size * GATES[layer]
    inputs = array(8, batch, 16), array(gates, 16), array(gates, size), array(gates), array(gates), array(batch, size)
    with tuning.assuming(architecture):
        launches = record_launches(lambda: getattr(gpu, f"{layer}_forward")(*inputs))
    ((kernel, arguments, constants),) = [made for made in launches if made[0].__name__ == f"{layer}_resident_kernel"]
    return compile_kernel(kernel, arguments, architecture, **constants), constants


def assert_fits(architecture, shape):
    kernel, _ = compiled(architecture, *shape)
    assert kernel.metadata.launch_cooperative_grid
    # A value or two, in some forms and versions of the compiler.
    assert kernel.info.stack_bytes <= 8, f"spills {kernel.info.stack_bytes} bytes"
    assert kernel.shared_bytes <= LIMITS[architecture].block_shared_bytes
    assert re.search(r"\bmma\.sync|\bwgmma\.|\btcgen05\.mma", kernel.ptx)


@pytest.mark.parametrize(("architecture", *("layer", "dtype", "size", "batch")), QUICK)
def test_what_is_shipped_fits(architecture, layer, dtype, size, batch):
    assert_fits(architecture, (layer, dtype, size, batch))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_that_is_shipped_fits(architecture, shape):
    assert_fits(architecture, shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [("lstm", "float16", 512, 64), ("lstm", "float32", 256, 64)], ids=str)
@pytest.mark.parametrize("architecture", [86, 89, 120])
def test_what_is_shipped_fits_where_a_block_has_less_room(architecture, shape):
    assert_fits(architecture, shape)


def loop_over_time(ptx):
    """The instructions before the loop over time, and those in it: of the longest branch back."""
    lines = [line.strip() for line in ptx.splitlines()]
    labels = {line.split(":")[0]: at for at, line in enumerate(lines) if re.match(r"\$L__BB\d+_\d+:", line)}
    back = [
        (labels[target], at)
        for at, line in enumerate(lines)
        for target in re.findall(r"\bbra(?:\.uni)?\s+(\$L__BB\d+_\d+)", line)
        if labels[target] < at
    ]
    first, last = max(back, key=lambda span: span[1] - span[0])
    assert len(back) == 2, "the wait and the loop over time"
    return lines[:first], lines[first : last + 1]


def loaded_bytes(lines, kind):
    """Of global loads a thread, those of one kind: "" or ".cg"."""
    total = 0
    for line in lines:
        found = re.search(rf"\bld\.global{re.escape(kind)}(?:\.v(\d))?\.b(\d+)\b", line)
        total += int(found[1] or 1) * int(found[2]) // 8 if found else 0
    return total


def at(lines, pattern):
    return [place for place, line in enumerate(lines) if re.search(pattern, line)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", GATES)
def test_the_weight_stays_on_the_chip(layer, architecture):
    size = 512
    kernel, constants = compiled(architecture, layer, "float16", size, 16)
    lines, units = GATES[layer] if layer == "rnn" else 4, constants["BLOCK_UNITS"]
    before, loop = loop_over_time(kernel.ptx)
    # Before the loop: the whole slice, to the byte, and some for biases and the first state.
    slice_bytes = lines * units * size * 2 // kernel.threads
    assert slice_bytes <= loaded_bytes(before, "") <= slice_bytes + 64
    # In it: the gates' own numbers, the states of all units, and the counter; no more.
    gates_bytes = GATES[layer] * 16 * units * 4 // kernel.threads
    assert loaded_bytes(loop, "") == gates_bytes
    assert loaded_bytes(loop, ".cg") == 16 * size * 2 // kernel.threads
    assert len(at(loop, ACQUIRE)) == 1
    assert not at(loop, r"\bcp\.async|\bld\.local|\bst\.local")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_states_are_read_behind_the_wait_and_stored_before_the_arrival(dtype, architecture):
    kernel, _ = compiled(architecture, "lstm", dtype, 256, 16)
    _, loop = loop_over_time(kernel.ptx)
    (wait,) = at(loop, ACQUIRE)
    (arrival,) = at(loop, r"\b(?:red|atom)\.global\.gpu\.release\.add\b")
    barriers, reads, stores = at(loop, r"\bbar\.sync\b"), at(loop, r"\bld\.global\.cg\b"), at(loop, r"\bst\.global\b")
    assert reads
    assert wait < min(reads)
    assert max(reads) < min(stores) < arrival
    # Threads that do not wait themselves are held until the one that waits has acquired; it releases after them all.
    assert [place for place in barriers if wait < place < min(reads)]
    state = max(place for place in stores if place < arrival)
    assert [place for place in barriers if state < place < arrival]


def test_the_gates_of_a_step_are_loaded_before_its_wait():
    _, loop = loop_over_time(compiled(90, "lstm", "float16", 256, 16)[0].ptx)
    (wait,) = at(loop, ACQUIRE)
    assert max(at(loop, r"\bld\.global\.b32\b")) < wait


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_rule(dtype):
    def resident(steps=64, batch=16, size=256, aligned=True, architecture=90):
        return gpu_resident.WALK.shipped(architecture, np.dtype(dtype), (steps, batch, size, 4, aligned))["RESIDENT"]

    assert resident() == resident(steps=8) == resident(batch=64) == resident(size=32) == (dtype != "float64")
    assert (
        not resident(steps=4) | resident(batch=128) | resident(size=16) | resident(size=2048) | resident(aligned=False)
    )
    assert resident(size=1024) == (dtype == "float16")
    assert resident(size=512, architecture=86) == (dtype == "float16")
    assert not resident(size=1024, architecture=86)
