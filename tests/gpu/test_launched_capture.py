"""Captured steps on a GPU: what replays hand to the driver, and in how many graphs.

Runs on the stand-in GPU: `python tests/standin pytest` with this file; `test_standin.py` starts it. No kernel runs, so
launches and what they are given are compared, not values.
"""

import contextlib
import functools
import gc
import itertools

import pytest
import standin

if not standin.installed():
    pytest.skip("runs on the stand-in GPU only, which test_standin.py starts", allow_module_level=True)

import cupy
import numpy as np
import triton
import triton.language as tl
from training_steps import CLASSES, NETWORKS, adversarial, clipped, convolutional, perceptron, recurrent, transformer

import ranvier as rv
from ranvier.kernels import gpu_arrays, launch
from ranvier.kernels.device import OutOfMemory, to_device
from ranvier.kernels.gpu_arrays import sum_of_two_kernel
from ranvier.kernels.loss import gpu_check
from ranvier.kernels.operation import all_operations
from ranvier.train.capture.arrays import owner_of
from ranvier.train.capture.graphs import Graphs
from ranvier.train.capture.recording import Call

OPERATIONS = list(all_operations())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def found(monkeypatch):
    """The smallest and largest index that checks find: what they launch to look at indices does not run."""
    bounds = [0, CLASSES - 1]
    for module in (gpu_arrays, gpu_check):
        monkeypatch.setattr(module, "fetched", lambda x: np.array(bounds)[:, None])
    return bounds


def launches_of(build, captured, steps=6):
    """What each of some steps hands to the driver, what is trained, and the function that was called."""
    rv.seed(3)
    training, rng = build("cuda"), np.random.default_rng(0)
    step, seen = rv.capture(training.step) if captured else training.step, []
    for _ in range(steps):
        arguments = training.batch(rng)
        with standin.recorded() as launches:
            step(*arguments)
        seen.append(launches)
    return seen, training, step


def four_times(step, *arguments):
    for _ in range(4):
        step(*arguments)


def without_checks(launches):
    return [launch for launch in launches if launch.name != "extent_kernel"]


def numbers(launch):
    """What a launch is given, with None for what is an address of the stand-in device's memory."""
    values = [int.from_bytes(value, "little") for value in launch.parameters]
    return [None if len(raw) == 8 and 2**40 < x < 2**48 else x for raw, x in zip(launch.parameters, values)]


def numbers_of(launch):
    """The parameters of a launch as integers: addresses as they are."""
    return [int.from_bytes(value, "little") for value in launch.parameters]


@pytest.mark.parametrize("build", NETWORKS)
def test_replays_launch_what_uncaptured_steps_launch(build):
    plain, *_ = launches_of(build, False)
    captured, training, step = launches_of(build, True)
    inputs = len(training.batch(np.random.default_rng(0)))
    for before, now in zip(plain[3:], captured[3:]):
        before, now = without_checks(before), without_checks(now)
        assert {launch.name for launch in [*now[:inputs], now[-1]]} == {"copy_kernel"}  # of arguments and the result
        now = now[inputs:-1]
        assert [(x.name, x.grid, x.block, x.shared_bytes) for x in now] == [
            (x.name, x.grid, x.block, x.shared_bytes) for x in before
        ]
        assert [numbers(x) for x in now] == [numbers(x) for x in before]
        assert any(x.in_graph for x in now)
        assert not any(x.in_graph for x in before)
    assert step.calls > 2


@pytest.mark.parametrize("build", NETWORKS)
def test_graphs_touch_memory_that_is_held(build):
    seen, training, step = launches_of(build, True)
    (captured,) = step._steps.values()
    recording = captured.recording
    held = [*recording.supply.pieces, *captured.inputs, *recording._outer]
    for group in training.optimizer._buffers:
        held += [part for buffer in group for part in (buffer.array, buffer.gradient, *buffer.state.values())]
    ranges = [(x.data.mem.ptr, x.data.mem.ptr + x.data.mem.size) for x in held]
    in_graphs = [[x for x in launches if x.in_graph] for launches in seen[3:]]
    for seen_launch in in_graphs[0]:
        for raw, number in zip(seen_launch.parameters, numbers(seen_launch)):
            if number is None:
                address = int.from_bytes(raw, "little")
                assert any(start <= address <= end for start, end in ranges), seen_launch
    assert [x.parameters for x in in_graphs[0]] == [x.parameters for x in in_graphs[-1]]


@pytest.mark.parametrize(
    ("build", "calls"),
    [
        (perceptron, 5),  # labels' check, zero_grad, graph, optimizer, schedule
        (clipped, 5),  # the same: clipping is in the graph
        (convolutional, 5),
        (recurrent, 5),  # two checks, graph, optimizer, zero_grad
    ],
)
def test_without_dropout_all_up_to_the_optimizer_is_one_graph(build, calls):
    seen, _, step = launches_of(build, True)
    assert step.calls == calls
    names = [x.name for x in without_checks(seen[-1])]
    flags = [x.in_graph for x in without_checks(seen[-1])]
    first = flags.index(True)
    assert flags[first:].index(False) == sum(flags), names


@pytest.mark.parametrize("build", NETWORKS)
def test_replays_allocate_nothing(build):
    training = build("cuda")
    step, arguments = rv.capture(training.step), training.batch(np.random.default_rng(0))
    for _ in range(4):
        step(*arguments)
    gc.collect()
    pool = cupy.get_default_memory_pool()
    before = cupy.cuda.runtime.memGetInfo(), pool.used_bytes()
    for _ in range(3):
        step(*arguments)
    assert (cupy.cuda.runtime.memGetInfo(), pool.used_bytes()) == before


def test_the_steps_arrays_share_memory_where_they_are_never_alive_together():
    def run(x):
        for _ in range(50):
            x = x + 1
        return x

    step = rv.capture(run)
    for _ in range(4):
        step(rv.zeros(1000, device="cuda"))
    (captured,) = step._steps.values()
    assert sum(piece.nbytes for piece in captured.recording.supply.pieces) < 4 * 5000
    assert step.calls == 1


def test_seeds_and_the_optimizers_numbers_advance():
    seen, _, _ = launches_of(transformer, True)
    drawing = [[x.parameters for x in launches if "dropout" in x.name] for launches in seen[3:]]
    assert len(drawing[0]) == 6  # three layers of dropout, forward and backward; attention draws in its own kernel
    assert not any(a == b for first, second in itertools.pairwise(drawing) for a, b in zip(first, second))
    for launches in seen[3:]:
        for x in launches:
            assert not ("dropout" in x.name and x.in_graph)
    steps = [[x.parameters for x in launches if "adam" in x.name] for launches in seen[3:]]
    assert len({str(parameters) for parameters in steps}) == 3


def test_a_wrong_label_is_refused_before_anything_is_changed(found):
    training = perceptron("cuda")
    step, arguments = rv.capture(training.step), training.batch(np.random.default_rng(0))
    four_times(step, *arguments)
    found[1] = CLASSES
    with standin.recorded() as launches, pytest.raises(ValueError, match=r"cross_entropy: expected target in \[0, 4\)"):
        step(*arguments)
    assert [x.name for x in launches] == ["copy_kernel", "copy_kernel", "extent_kernel"]
    (captured,) = step._steps.values()
    assert launches[-1].values("QQQiiQQ")[0] == captured.inputs[1].data.ptr
    found[1] = CLASSES - 1
    step(*arguments)


def test_indices_that_the_step_makes_are_checked_between_graphs(found):
    def step(x):
        return rv.functional.one_hot(x.argmax(1), CLASSES)

    step = rv.capture(step)
    for _ in range(4):
        with standin.recorded() as launches:
            step(rv.zeros(3, CLASSES, device="cuda"))
    flags = [(x.name == "extent_kernel", x.in_graph) for x in launches]
    assert step.calls == 3
    assert flags.index((False, True)) < flags.index((True, False)) < len(flags) - flags[::-1].index((False, True))
    found[1] = CLASSES
    with pytest.raises(ValueError, match="one_hot: expected indices in"):
        step(rv.zeros(3, CLASSES, device="cuda"))


def test_random_numbers_and_constants_of_the_step_lie_where_they_lay():
    plain, *_ = launches_of(adversarial, False)
    captured, _, step = launches_of(adversarial, True)
    for before, now in zip(plain[3:], captured[3:]):
        # The argument, what is drawn, and the result are copied.
        assert [x.name for x in now[:2]] == ["copy_kernel"] * 2
        assert [(x.name, *numbers(x)) for x in now[2:-1]] == [(x.name, *numbers(x)) for x in before]
    assert step.calls == 8  # draw, zero_grad, graph, optimizer; zero_grad, graph, optimizer; graph of the sum


def test_scratch_of_a_graphs_launches_is_held_with_it():
    x, y = (cupy.empty((64, 64), np.float32) for _ in range(2))
    run = functools.partial(launch.launch, scratch_kernel, (2, 2), x, y, 64, 64, BLOCK=32)
    run()
    used = cupy.get_default_memory_pool().used_bytes()
    graphs = Graphs([Call(0, run, fixed=True)] * 2, 0)
    with standin.recorded() as launches:
        graphs.calls[0].run()
    assert len(graphs.calls) == 1
    assert [launch.name for launch in launches] == ["scratch_kernel"] * 2
    scratch = {launch.values("QQiiQQ")[-2] for launch in launches}
    assert all(scratch)
    assert graphs._pool.total_bytes() > 0
    assert cupy.get_default_memory_pool().used_bytes() == used


@pytest.mark.parametrize(
    ("calls", "free", "message"),
    [
        (1, 0, r"^capture: expected 4,000,000 bytes of GPU memory for a copy of an argument, float32 \(1000, 1000\), "),
        (1, 4_500_000, r"^dense_forward: expected 4,000,000 bytes of GPU memory for float32 \(1000, 1000\), "),
        (2, 4_500_000, r"^capture: expected 4,000,\d+ bytes of GPU memory for arrays of the step, "),
    ],
    ids=["arguments", "measuring", "plan"],
)
def test_a_full_device_names_who_asks_for_how_many_bytes(calls, free, message):
    layer, x = rv.Dense(1000, 1000).to("cuda"), rv.zeros(1000, 1000, device="cuda")
    step = rv.capture(layer)
    for _ in range(calls):
        step(x)
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    left, total = cupy.cuda.runtime.memGetInfo()
    message += r"got [\d,]+ free of [\d,]+ on cuda:0"
    with standin.memory_of(total - left + free), pytest.raises(OutOfMemory, match=message):
        step(x)
    for _ in range(3):
        step(x)
    assert step.calls == 1


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
def test_clipping_by_a_norm_does_not_wait_for_it(norm_type):
    model = rv.Sequential(rv.Dense(3, 5), rv.Dense(5, 2, dtype=np.float16)).to("cuda")
    optimizers = [rv.optim.SGD(layer.parameters(), lr=0.1) for layer in model]  # two buffers, of two types
    for parameter in model.parameters():
        parameter.grad = rv.Tensor(parameter.grad_buffer)
        parameter.grad.array = parameter.grad_buffer
    clip = functools.partial(rv.clip_grad_norm_, list(model.parameters()), 1.0, norm_type)
    with standin.recorded() as launches:
        norm = clip()
    assert norm.device == "cuda:0"
    assert norm.dtype == np.float32
    limits = [seen for seen in launches if seen.name == "gradient_limit_kernel"]
    (array, norm_read, target, *_), (_, same_norm, *_) = (numbers_of(seen) for seen in limits)
    assert array == target == optimizers[0].gradient_buffers()[0].data.ptr
    assert norm_read == same_norm == norm.array.data.ptr
    stream = captured_stream()  # which the stand-in lets nobody wait for
    with stream, cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc):
        clip()
        with pytest.raises(RuntimeError, match=r"captur|refused by the stand-in"):
            clip(error_if_nonfinite=True)
        with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
            stream.end_capture()


def test_other_shapes_are_captured_anew():
    calls = []
    step = rv.capture(lambda x: calls.append(x.shape) or x + 1)
    for count in (2, 3) * 5:
        assert step(rv.zeros(count, device="cuda")).shape == (count,)
    assert len(calls) == 6
    assert len(step._steps) == 2
    strict = rv.capture(lambda x: x + 1, strict=True)
    strict(rv.zeros(2, device="cuda"))
    with pytest.raises(rv.CaptureError, match="expected arguments of the form"):
        strict(rv.zeros(3, device="cuda"))


def test_results_are_copies():
    step = rv.capture(lambda x: x + 1)
    results = [step(rv.zeros(3, device="cuda")) for _ in range(6)]
    assert len({result.array.data.ptr for result in results}) == 6
    (captured,) = step._steps.values()
    assert all(owner_of(piece) is not owner_of(r.array) for piece in captured.recording.supply.pieces for r in results)


def test_replays_run_on_the_current_stream_and_on_the_steps_device():
    step = rv.capture(lambda x: x + 1)
    x = rv.zeros(3, device="cuda:1")
    for _ in range(4):
        step(x)
    with cupy.cuda.Device(1):
        stream = cupy.cuda.Stream(non_blocking=True)
    with standin.recorded() as launches, cupy.cuda.Device(1), stream:
        step(x)
    assert {(launch.stream, launch.device) for launch in launches} == {(stream.ptr, 1)}
    with standin.recorded() as launches, cupy.cuda.Stream(non_blocking=True):  # the current one of another device
        result = step(x)
    assert {(launch.stream, launch.device) for launch in launches} == {(0, 1)}
    assert result.device == "cuda:1"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * x.sum().item(), r"got item\(\)"),
        (lambda x: x.to("cpu") + 1, "expected arrays of one device, got to on cpu in a step on cuda:0"),
        (lambda x: x * rv.tensor(np.ones(3, "f"), device="cuda"), "expected arrays that outlive the step"),
        (lambda x: rv.functional.one_hot(x.argmax(-1)), "reads some to find the size of a result"),
    ],
)
def test_what_cannot_be_replayed_is_refused(function, message):
    step, x = rv.capture(function), rv.zeros(3, device="cuda")
    with pytest.raises(rv.CaptureError, match=message):
        four_times(step, x)
    assert rv.ones(3, device="cuda").sum().shape == ()


def test_arguments_on_two_gpus_are_refused():
    step = rv.capture(lambda x, y: (x + 1, y + 1))
    x, y = rv.zeros(3, device="cuda"), rv.zeros(3, device="cuda:1")
    with pytest.raises(rv.CaptureError, match="expected arrays of one device, got add on cuda:1"):
        four_times(step, x, y)


def test_numbers_that_change_are_refused():
    count = iter(range(2, 10))
    step, x = rv.capture(lambda x: x * next(count)), rv.zeros(3, device="cuda")
    with pytest.raises(rv.CaptureError, match="expected the same call in each step"):
        four_times(step, x)


def test_an_error_while_a_graph_is_made_leaves_things_as_they_were(monkeypatch):
    step = rv.capture(lambda x: x + 1)
    x = rv.zeros(3, device="cuda")
    step(x), step(x)
    end = cupy.cuda.Stream.end_capture
    original, streams = launch.Kernel.__call__, []

    def fail(kernel, *arguments, **constants):
        stream = cupy.cuda.get_current_stream()
        if stream.ptr and stream.is_capturing():
            streams.append(stream)
            raise RuntimeError("no graph today")
        return original(kernel, *arguments, **constants)

    monkeypatch.setattr(launch.Kernel, "__call__", fail)
    with pytest.raises(RuntimeError, match="no graph today"):
        step(x)
    assert not streams[0].is_capturing()
    assert launch.Kernel.__call__ is fail
    assert cupy.cuda.Stream.end_capture is end
    assert cupy.cuda.get_current_stream().ptr == 0
    monkeypatch.undo()
    for _ in range(4):
        with standin.recorded() as launches:
            step(x)
    assert any(launch.in_graph for launch in launches)


@triton.jit
def scratch_kernel(x, y, rows, columns, BLOCK: tl.constexpr):
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target = tl.make_tensor_descriptor(y, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    row, column = tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK
    target.store([row, column], source.load([row, column]))


@triton.jit
def late_kernel(x, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), 1.0)


def captured_stream():
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    return stream


@pytest.mark.parametrize(
    "act",
    [
        lambda x, stream: stream.synchronize(),
        lambda x, stream: cupy.cuda.Device().synchronize(),
        lambda x, stream: x.get(),
        lambda x, stream: x.set(np.zeros(1024, "f")),
        lambda x, stream: launch.launch(late_kernel, (1,), x, BLOCK=1024),  # compiles and loads
    ],
)
def test_the_stand_in_refuses_what_no_graph_can_hold(act):
    x = cupy.empty(1024, np.float32)
    stream = captured_stream()
    with stream, pytest.raises(RuntimeError, match=r"CAPTURE|Capture|captur|refused by the stand-in"):
        act(x, stream)
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # CuPy itself may have refused, before the driver
        stream.end_capture()
    assert not stream.is_capturing()


def test_the_stand_in_hands_a_graph_to_the_driver_when_it_is_launched():
    a, b, total = (cupy.empty(1024, np.float32) for _ in range(3))
    launch.launch(sum_of_two_kernel, (1,), a, b, total, 1024, BLOCK=1024)
    stream = captured_stream()
    with standin.recorded() as launches, stream:
        launch.launch(sum_of_two_kernel, (1,), a, b, total, 1024, BLOCK=1024)
        graph = stream.end_capture()
    assert launches == []
    with standin.recorded() as launches:
        graph.launch()
        graph.launch()
    assert [(x.name, x.in_graph, x.stream) for x in launches] == [("sum_of_two_kernel", True, 0)] * 2
    assert launches[0].values("QQQiQQ")[:4] == [a.data.ptr, b.data.ptr, total.data.ptr, 1024]


def on_device(x):
    return to_device(x, "cuda") if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_pass_can_be_captured(operation):
    """No pass reads values, copies to the host or waits."""
    sample = next(sample for sample in operation.samples if not sample.large)
    inputs = [on_device(x) for x in sample.build(np.random.default_rng(0), np.dtype(np.float32))]
    forward, backward = operation.passes("gpu")
    needs = tuple(hasattr(x, "dtype") and x.dtype.kind == "f" for x in inputs)

    def both():
        output, saved = forward(*inputs, **sample.attributes)
        if operation.differentiable:
            backward(saved, output, needs)

    both()  # compiles
    stream = captured_stream()
    with stream:
        both()
        stream.end_capture()
