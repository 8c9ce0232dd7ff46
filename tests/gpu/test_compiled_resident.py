"""The recurrent layers' kernels for whole sequences, compiled: they fit, and spill a value or two at most; tensor cores
are used; the weight is loaded before the loop over time and never in it; what other programs make is read behind the
wait and past the L1 cache."""

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
from ranvier.kernels.recurrent import gpu, gpu_resident_backward, gpu_resident_forward
from ranvier.profiling.occupancy import ARCHITECTURES as LIMITS

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
FORWARD, BACK = "resident_kernel", "resident_grad_kernel"
ACQUIRE = r"\b(?:ld|atom)\.global\.(?:gpu\.acquire|acquire\.gpu)\b"  # adding 0 may become a load
# Layer, way, type, hidden size, sequences: the widest that are shipped, and some that fill no tile.
QUICK = [
    (90, "lstm", FORWARD, "float16", 1024, 16),
    (80, "lstm", FORWARD, "float32", 512, 64),
    (100, "gru", FORWARD, "bfloat16", 496, 33),
    (80, "rnn", FORWARD, "float16", 768, 64),
    (90, "lstm", BACK, "float16", 512, 64),
    (80, "lstm", BACK, "float32", 512, 64),
    (80, "gru", BACK, "bfloat16", 1008, 16),
    (100, "rnn", BACK, "float16", 496, 33),
]
SHAPES = [
    (layer, way, *sizes)
    for way in (FORWARD, BACK)
    for layer, *sizes in [
        *[("lstm", "float16", size, batch) for size, batch in ((32, 64), (256, 1), (512, 1), (512, 64), (1008, 64))],
        *[("lstm", "float32", size, batch) for size, batch in ((32, 1), (112, 64), (256, 64), (512, 1))],
        *[(layer, kind, size, 64) for layer in ("gru", "rnn") for kind, size in (("float16", 1024), ("float32", 512))],
    ]
]


def compiled(architecture, layer, way, dtype, size, batch):
    """The form that is launched for such a layer, which has lengths on the way back, and its constants."""

    def array(*shape):
        return np.zeros(shape, DTYPES[dtype])

    gates = size * GATES[layer]
    inputs = [array(8, batch, 16), array(gates, 16), array(gates, size), array(gates), array(gates), array(batch, size)]
    if way == BACK:
        inputs += [None, None] * (layer == "lstm") + [np.full(batch, 8)]

    def both_passes():
        outputs, saved = getattr(gpu, f"{layer}_forward")(*inputs)
        getattr(gpu, f"{layer}_backward")(saved, outputs, (True,) * 6)

    with tuning.assuming(architecture):
        launches = record_launches(both_passes)
    ((kernel, arguments, constants),) = [made for made in launches if made[0].__name__ == f"{layer}_{way}"]
    return compile_kernel(kernel, arguments, architecture, **constants), constants


def assert_fits(architecture, shape):
    kernel, _ = compiled(architecture, *shape)
    assert kernel.metadata.launch_cooperative_grid
    # A value or two, in some forms and versions of the compiler.
    assert kernel.info.stack_bytes <= 8, f"spills {kernel.info.stack_bytes} bytes"
    assert kernel.shared_bytes <= LIMITS[architecture].block_shared_bytes
    assert re.search(r"\bmma\.sync|\bwgmma\.|\btcgen05\.mma", kernel.ptx)


@pytest.mark.parametrize(("architecture", "layer", "way", "dtype", "size", "batch"), QUICK)
def test_what_is_shipped_fits(architecture, layer, way, dtype, size, batch):
    assert_fits(architecture, (layer, way, dtype, size, batch))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_that_is_shipped_fits(architecture, shape):
    assert_fits(architecture, shape)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "size"), [("float16", 512), ("float32", 256)])
@pytest.mark.parametrize("way", [FORWARD, BACK])
@pytest.mark.parametrize("architecture", [86, 89, 120])
def test_what_is_shipped_fits_where_a_block_has_less_room(architecture, way, dtype, size):
    assert_fits(architecture, ("lstm", way, dtype, size, 64))


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
@pytest.mark.parametrize("way", [FORWARD, BACK])
@pytest.mark.parametrize("layer", GATES)
def test_the_weight_stays_on_the_chip(layer, way, architecture):
    size = 512
    kernel, constants = compiled(architecture, layer, way, "float16", size, 16)
    lines, units, part = GATES[layer], constants["BLOCK_UNITS"], 16 * constants["BLOCK_UNITS"]
    before, loop = loop_over_time(kernel.ptx)
    if way == FORWARD:
        held = (lines if layer == "rnn" else 4) * units * size
        own_bytes = lines * part * 4  # the gates' sums
        exchanged = 16 * size  # states of all units
    else:
        held, exchanged = lines * size * units, 16 * lines * size  # gradients of all sums
        own_bytes = {"rnn": 5 * 2, "lstm": 4 * 2 + 6 * 4, "gru": 4 * 2 + 4 * 4}[layer] * part
    # Before the loop: the whole slice, to the byte, and some for biases, the first state and lengths.
    slice_bytes = held * 2 // kernel.threads
    assert slice_bytes <= loaded_bytes(before, "") <= slice_bytes + 64
    # In it: the program's own numbers, what the others have made, and the counter; no more.
    assert loaded_bytes(loop, "") == own_bytes // kernel.threads
    assert loaded_bytes(loop, ".cg") == exchanged * 2 // kernel.threads
    assert len(at(loop, ACQUIRE)) == 1
    assert not at(loop, r"\bcp\.async|\bld\.local|\bst\.local")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("way", [FORWARD, BACK])
def test_what_others_make_is_read_behind_the_wait_and_stored_before_the_arrival(way, dtype, architecture):
    kernel, _ = compiled(architecture, "lstm", way, dtype, 256, 16)
    _, loop = loop_over_time(kernel.ptx)
    (wait,) = at(loop, ACQUIRE)
    (arrival,) = at(loop, r"\b(?:red|atom)\.global\.gpu\.release\.add\b")
    barriers, reads, stores = at(loop, r"\bbar\.sync\b"), at(loop, r"\bld\.global\.cg\b"), at(loop, r"\bst\.global\b")
    assert reads
    assert wait < min(reads)
    assert max(reads) < min(stores) < arrival
    # Threads that do not wait themselves are held until the one that waits has acquired; it releases after them all.
    assert [place for place in barriers if wait < place < min(reads)]
    made = max(place for place in stores if place < arrival)
    assert [place for place in barriers if made < place < arrival]
    # The rows of all four gates are there when others go on; what only the host reads is stored behind.
    assert way == FORWARD or len([place for place in stores if place < arrival]) == 4 < len(stores)


@pytest.mark.parametrize("way", [FORWARD, BACK])
def test_what_a_step_has_of_its_own_is_loaded_before_its_wait(way):
    _, loop = loop_over_time(compiled(90, "lstm", way, "float16", 256, 16)[0].ptx)
    (wait,) = at(loop, ACQUIRE)
    assert max(at(loop, r"\bld\.global\.b(?:16|32)\b")) < wait


@pytest.mark.parametrize("choice", [gpu_resident_forward.WALK, gpu_resident_backward.WALK_BACK])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_rule(dtype, choice):
    def resident(steps=64, batch=16, size=256, aligned=True, architecture=90):
        return choice.shipped(architecture, np.dtype(dtype), (steps, batch, size, 4, aligned))["RESIDENT"]

    assert resident() == resident(steps=8) == resident(batch=64) == resident(size=32) == (dtype != "float64")
    assert (
        not resident(steps=4) | resident(batch=128) | resident(size=16) | resident(size=2048) | resident(aligned=False)
    )
    assert resident(size=1024) == (dtype == "float16")
    assert resident(size=512, architecture=86) == (dtype == "float16")
    assert not resident(size=1024, architecture=86)
