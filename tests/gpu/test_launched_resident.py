"""The recurrent layers' kernels for whole sequences reach the driver as cooperative launches, and only in grids that
the device holds at once.

Runs on the stand-in GPU: `python tests/standin pytest` with this file; `test_standin.py` starts it.
"""

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import numpy as np

from ranvier.kernels import launch
from ranvier.kernels.recurrent import gpu, gpu_resident
from ranvier.profiling.occupancy import occupancy

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
MULTIPROCESSORS = 132


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def inputs_of(layer, batch, hidden, dtype=np.float16, steps=48):
    gates = GATES[layer] * hidden
    shapes = [(steps, batch, 64), (gates, 64), (gates, hidden), (gates,), (gates,), (batch, hidden)]
    return [cupy.empty(shape, dtype) for shape in shapes]


def launches_of(layer, *sizes):
    inputs = inputs_of(layer, *sizes)
    with standin.recorded() as launches:
        outputs, _ = getattr(gpu, f"{layer}_forward")(*inputs)
    return inputs, outputs, launches


@pytest.mark.parametrize(("layer", "grid"), [("lstm", (16, 2, 1)), ("gru", (16, 2, 1)), ("rnn", (4, 2, 1))])
def test_one_launch_walks_the_sequence(layer, grid):
    inputs, (output, h, *_), launches = launches_of(layer, 64, 256)
    (walk,) = [seen for seen in launches if seen.cooperative]
    assert (walk.name, walk.grid, walk.block) == (f"{layer}_resident_kernel", grid, (256, 1, 1))
    assert not [seen for seen in launches if "step" in seen.name]
    assert walk.shared_bytes <= walk.dynamic_shared_size
    form = "Q" * (len(walk.parameters) - 5) + "iiiQQ"
    _, weight, bias, states, counters, *kept, steps, batch, size, _, _ = walk.values(form)
    assert (weight, bias) == (inputs[2].data.ptr, inputs[4].data.ptr)
    assert kept[-1] == output.data.ptr
    assert (steps, batch, size) == (48, 64, 256)
    # After an even number of steps the state lies where it began.
    assert h.data.ptr == states
    # The initial state and the counters are written before, on the same stream.
    before = launches[: launches.index(walk)]
    assert {seen.stream for seen in launches} == {0}
    filled = [seen.values("QfiQQ") for seen in before if seen.name == "fill_kernel"]
    assert (counters, 0.0, 64) in [tuple(values[:3]) for values in filled]
    copied = [[int.from_bytes(raw, "little") for raw in seen.parameters[:2]] for seen in before if "copy" in seen.name]
    assert [inputs[5].data.ptr, states] in copied


def test_a_grid_that_the_device_does_not_hold_is_walked_step_by_step():
    # 64 programs for the units times 4 for the sequences; two for the sequences is what a device of 132 holds.
    *_, launches = launches_of("lstm", 64, 1024)
    assert [seen.name for seen in launches].count("lstm_step_kernel") == 48
    assert not [seen for seen in launches if seen.cooperative]
    *_, launches = launches_of("lstm", 32, 1024)
    assert [seen.name for seen in launches if seen.cooperative] == ["lstm_resident_kernel"]


@pytest.mark.parametrize(("sizes", "dtype"), [((128, 256), np.float16), ((8, 16), np.float16), ((8, 64), np.float64)])
def test_what_the_rule_leaves_out_is_walked_step_by_step(sizes, dtype):
    *_, launches = launches_of("gru", *sizes, dtype)
    assert not [seen for seen in launches if seen.cooperative]


def prepared():
    array = cupy.empty(1 << 20, np.float16)
    wide, counters = cupy.empty(1 << 20, np.float32), cupy.empty(64, np.int32)
    arguments = (wide, array, array, array, counters, array, None, 48, 16, 512)
    constants = {
        "RELU": False, "REVERSE": False, "PRECISION": "ieee", "BLOCK_N": 16, "BLOCK_UNITS": 64, "BLOCK_K": 128,
        "CHUNKS": 4, "num_warps": 8, "num_stages": 1, "launch_cooperative_grid": True,
    }  # fmt: skip
    return gpu_resident.rnn_resident_kernel, arguments, constants


def test_as_many_programs_as_the_device_holds_are_launched_and_no_more():
    kernel, arguments, constants = prepared()
    compiled = launch.kernel_of(kernel).prepare(*arguments, **constants).compiled
    held = occupancy(90, compiled.threads, compiled.info.registers, compiled.shared_bytes).blocks * MULTIPROCESSORS
    assert launch.programs_at_once(kernel, *arguments, **constants) == held > 0
    with standin.recorded() as launches:
        launch.launch(kernel, (held,), *arguments, **constants)
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="TOO_LARGE"):
            launch.launch(kernel, (held + 1,), *arguments, **constants)
    assert [seen.grid for seen in launches] == [(held, 1, 1)]


def test_a_program_that_has_not_the_room_is_held_nowhere():
    kernel, arguments, constants = prepared()
    arguments = (*arguments[:-1], 4096)
    assert launch.programs_at_once(kernel, *arguments, **constants | {"CHUNKS": 32}) == 0
