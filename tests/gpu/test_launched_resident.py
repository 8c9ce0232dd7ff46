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

import ranvier as rv
from ranvier.kernels import launch
from ranvier.kernels.recurrent import gpu, gpu_resident_forward
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


class Passes:
    """A layer's forward and backward pass: what they are given and give, and what each launches."""

    def __init__(self, layer, *sizes):
        self.inputs = inputs_of(layer, *sizes)
        with standin.recorded() as self.forward:
            self.outputs, saved = getattr(gpu, f"{layer}_forward")(*self.inputs)
        self.grads = [cupy.empty(x.shape, x.dtype) for x in self.outputs]
        with standin.recorded() as self.backward:
            getattr(gpu, f"{layer}_backward")(saved, tuple(self.grads), (True,) * len(self.inputs))

    @property
    def cooperative(self):
        return [seen.name for seen in [*self.forward, *self.backward] if seen.cooperative]


def the_walk(launches, name, grid):
    """The one cooperative launch, and all that come before it."""
    (walk,) = [seen for seen in launches if seen.cooperative]
    assert (walk.name, walk.grid, walk.block) == (name, grid, (256, 1, 1))
    assert walk.shared_bytes <= walk.dynamic_shared_size
    assert not [seen for seen in launches if "step" in seen.name or "grad_gates" in seen.name]
    assert {seen.stream for seen in launches} == {0}
    return walk, launches[: launches.index(walk)]


def pointers_and_sizes(walk):
    """Its arguments: pointers, then the steps, the batch and the size."""
    *pointers, steps, batch, size, _, _ = walk.values("Q" * (len(walk.parameters) - 5) + "iiiQQ")
    return pointers, (steps, batch, size)


def filled_with_zeros(launches):
    """Where, and how many numbers."""
    seen = [launch.values("QfiQQ") for launch in launches if launch.name == "fill_kernel"]
    return [(target, count) for target, value, count, *_ in seen if value == 0]


def first_two(launches):
    """The first two pointers of each launch."""
    return [[int.from_bytes(raw, "little") for raw in seen.parameters[:2]] for seen in launches]


@pytest.mark.parametrize(("layer", "grid"), [("lstm", (16, 2, 1)), ("gru", (16, 2, 1)), ("rnn", (4, 2, 1))])
def test_one_launch_walks_the_sequence(layer, grid):
    made = Passes(layer, 64, 256)
    walk, before = the_walk(made.forward, f"{layer}_resident_kernel", grid)
    (counters, weight, _, bias, states, *kept), sizes = pointers_and_sizes(walk)
    assert (weight, bias) == (made.inputs[2].data.ptr, made.inputs[4].data.ptr)
    assert kept[-1] == made.outputs[0].data.ptr
    assert sizes == (48, 64, 256)
    # After an even number of steps the state lies where it began.
    assert made.outputs[1].data.ptr == states
    # The initial state and the counters are written before, on the same stream.
    assert (counters, 64) in filled_with_zeros(before)
    assert [made.inputs[5].data.ptr, states] in first_two(seen for seen in before if "copy" in seen.name)


@pytest.mark.parametrize(("layer", "grid"), [("lstm", (16, 2, 1)), ("gru", (16, 2, 1)), ("rnn", (16, 2, 1))])
def test_one_launch_walks_back(layer, grid):
    made = Passes(layer, 64, 256)
    walk, before = the_walk(made.backward, f"{layer}_resident_grad_kernel", grid)
    (counters, weight, *others), sizes = pointers_and_sizes(walk)
    assert weight == made.inputs[2].data.ptr
    # Without lengths: gradients of h_n and the output, what the steps started from, and the rows that are written.
    grad_h_n, grad_output, output, h0, grad_sums, started_from = others[-6:]
    assert (grad_output, grad_h_n) == tuple(grad.data.ptr for grad in made.grads[:2])
    assert (output, h0) == (made.outputs[0].data.ptr, made.inputs[5].data.ptr)
    assert sizes == (48, 64, 256)
    # The counters are set before; behind, the rows make the gradients of the weight and of the initial state.
    assert (counters, 64) in filled_with_zeros(before)
    assert not [seen for seen in before if "product" in seen.name]
    products = first_two(seen for seen in made.backward if "product" in seen.name)
    assert [grad_sums, started_from] in products
    assert [grad_sums, weight] in products


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "RNN"])
def test_every_direction_of_every_layer_is_one_launch_each_way(layer):
    model = getattr(rv, layer)(64, 128, num_layers=2, bidirectional=True).to("cuda", np.float16)
    x = rv.Tensor(cupy.empty((48, 16, 64), np.float16), requires_grad=True)
    with standin.recorded() as launches:
        model(x)[0].sum().backward()
    walks = [seen.name for seen in launches if seen.cooperative]
    assert walks == [f"{layer.lower()}_resident_kernel"] * 4 + [f"{layer.lower()}_resident_grad_kernel"] * 4
    assert not [seen for seen in launches if "step" in seen.name or "grad_gates" in seen.name]


def test_a_grid_that_the_device_does_not_hold_is_walked_step_by_step():
    # 64 programs for the units times 4 for the sequences; two for the sequences is what a device of 132 holds.
    made = Passes("lstm", 64, 1024)
    assert [seen.name for seen in made.forward].count("lstm_step_kernel") == 48
    assert [seen.name for seen in made.backward].count("lstm_grad_gates_kernel") == 48
    assert not made.cooperative
    assert Passes("lstm", 32, 1024).cooperative == ["lstm_resident_kernel", "lstm_resident_grad_kernel"]


@pytest.mark.parametrize(("sizes", "dtype"), [((128, 256), np.float16), ((8, 16), np.float16), ((8, 64), np.float64)])
@pytest.mark.parametrize(
    ("layer", "back"), [("rnn", "rnn_grad_sums"), ("lstm", "lstm_grad_gates"), ("gru", "gru_grad_gates")]
)
def test_what_the_rule_leaves_out_is_one_launch_a_step(layer, back, sizes, dtype):
    made = Passes(layer, *sizes, dtype)
    assert not made.cooperative
    # Forward, the product with all inputs and the steps are all there is.
    product, *names = [seen.name for seen in made.forward]
    assert product.startswith("product_")
    assert names == [f"{layer}_step_kernel"] * 48
    steps = [seen for seen in made.backward if seen.name == f"{back}_kernel"]
    first = made.backward.index(steps[0])
    assert made.backward[first : first + 48] == steps
    for launches, expected in ((made.forward[1:], [*range(48)]), (steps, [*range(47, -1, -1)])):
        assert [int.from_bytes(seen.parameters[-3], "little") for seen in launches] == expected
        assert len({(seen.grid, *seen.parameters[:-3]) for seen in launches}) == 1
        assert {seen.stream for seen in launches} == {0}
    pointers = [int.from_bytes(raw, "little") for raw in made.forward[1].parameters]
    assert pointers[0] == made.inputs[2].data.ptr
    assert {made.outputs[0].data.ptr, made.outputs[1].data.ptr, made.inputs[5].data.ptr} < set(pointers)


@pytest.mark.parametrize("layer", GATES)
def test_a_cell_is_a_product_and_a_step(layer):
    x, *others = inputs_of(layer, 8, 256)
    with standin.recorded() as launches:
        getattr(gpu, f"{layer}_cell_forward")(x[0], *others)
    assert [seen.name for seen in launches] == ["product_forward_kernel", f"{layer}_step_kernel"]


def prepared():
    array = cupy.empty(1 << 20, np.float16)
    wide, counters = cupy.empty(1 << 20, np.float32), cupy.empty(64, np.int32)
    arguments = (counters, array, wide, array, array, array, None, 48, 16, 512)
    constants = {
        "RELU": False, "REVERSE": False, "PRECISION": "ieee", "BLOCK_N": 16, "BLOCK_UNITS": 64, "BLOCK_K": 128,
        "CHUNKS": 4, "num_warps": 8, "num_stages": 1, "launch_cooperative_grid": True,
    }  # fmt: skip
    return gpu_resident_forward.rnn_resident_kernel, arguments, constants


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
