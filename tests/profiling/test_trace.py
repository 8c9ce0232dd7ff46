"""`rv.profile`: what it counts, to which layer it puts it down, and that it leaves nothing behind."""

import json
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest

import ranvier as rv
from ranvier.kernels import accumulate, dense
from ranvier.kernels.operation import Operation
from ranvier.layers.tensor import Node
from ranvier.profiling import hooks
from ranvier.profiling.holdings import Ledger
from ranvier.profiling.recording import Recording

ROWS = 32


def network() -> rv.Layer:
    rv.seed(0)
    return rv.Sequential(rv.Dense(20, 40), rv.Sequential(rv.ReLU(), rv.Dense(40, 30)), rv.Dense(30, 10))


def batch():
    rng = np.random.default_rng(0)
    return rv.tensor(rng.standard_normal((ROWS, 20), np.float32)), rng.integers(0, 10, ROWS)


def train(model, steps: int, after_step=lambda: None):
    x, y = batch()
    optimizer = rv.optim.Adam(model.parameters())
    for _ in range(steps):
        loss = rv.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        rv.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        after_step()
    return loss


def trained(steps: int = 3, warm_up: int = 1, **options) -> rv.profile:
    model = network()
    with rv.profile(model, warm_up=warm_up, **options) as p:
        train(model, warm_up + steps, p.step)
    return p


def by_name(rows) -> dict:
    return {row.name: row for row in rows}


# ---- what is counted


def test_calls_of_a_known_network_are_exact():
    rows = by_name(trained(steps=3).key_averages("kernel"))
    calls = {name: row.calls for name, row in rows.items() if not name.startswith("(")}
    assert calls == {
        "dense forward": 9,
        "relu forward": 3,
        "cross_entropy forward": 3,
        "dense backward": 9,
        "relu backward": 3,
        "cross_entropy backward": 3,
        "accumulate.fill": 3,  # the gradient of the loss itself
        "accumulate.copy_into": 18,  # six parameters
        "gradient_norm forward": 3,
        "gradient_limit forward": 3,
        "adam forward": 3,
    }


def test_calls_of_layers_are_exact():
    rows = by_name(trained(steps=3).key_averages("layer", per_step=True))
    assert {name: row.calls for name, row in rows.items() if not name.startswith("(")} == {
        "Sequential": 1,
        "0: Dense": 1,
        "1: Sequential": 1,
        "1.0: ReLU": 1,
        "1.1: Dense": 1,
        "2: Dense": 1,
    }


def test_flops_are_those_that_the_operations_declare():
    p = trained(steps=2)
    rows = by_name(p.key_averages("layer"))
    # A product forward; going backward one more for the weight's gradient, and one for the input's, which the first
    # layer's does not need.
    assert rows["0: Dense"].flops == 2 * 2 * (2 * ROWS * 20 * 40)
    assert rows["1.1: Dense"].flops == 2 * 3 * (2 * ROWS * 40 * 30)
    relu, cross_entropy = Operation.registry["relu"], Operation.registry["cross_entropy"]
    assert rows["1.0: ReLU"].flops == 2 * 2 * relu.cost(np.zeros((ROWS, 40), np.float32)).flops
    x, y = np.zeros((ROWS, 10), np.float32), np.zeros(ROWS, np.int64)
    assert rows["(forward, no layer)"].flops == rows["(backward, no layer)"].flops == 2 * cross_entropy.cost(x, y).flops
    kernels = by_name(p.key_averages("kernel"))
    assert kernels["dense forward"].flops == 2 * 2 * ROWS * (20 * 40 + 40 * 30 + 30 * 10)
    assert kernels["dense backward"].flops == 2 * 2 * ROWS * (20 * 40 + 2 * 40 * 30 + 2 * 30 * 10)
    assert kernels["accumulate.copy_into"].flops is None


@pytest.mark.parametrize("group", ["kernel", "layer", "phase"])
@pytest.mark.parametrize("by_shape", [False, True])
def test_own_times_add_up_to_the_whole(group, by_shape):
    p = trained()
    rows = p.key_averages(group, by_shape=by_shape)
    assert sum(row.self_time for row in rows) == pytest.approx(p.wall_time, rel=1e-9)
    assert sum(row.share for row in rows) == pytest.approx(1, rel=1e-9)
    assert all(row.self_time >= 0 for row in rows)
    everything = p.key_averages("phase")
    assert sum(row.memory for row in rows) == sum(row.memory for row in everything)
    assert sum(row.flops or 0 for row in rows) == sum(row.flops or 0 for row in everything)
    assert sum(row.kernel_time for row in rows) == pytest.approx(sum(row.kernel_time for row in everything), rel=1e-9)


def test_steps_add_up_to_the_whole():
    p = trained(steps=4, warm_up=2)
    assert [step.is_recorded for step in p.steps] == [False, False, True, True, True, True]
    assert sum(step.seconds for step in p.steps if step.is_recorded) == pytest.approx(p.wall_time, rel=0.02)


def test_what_a_layer_calls_is_in_its_total():
    rows = by_name(trained().key_averages("layer"))
    inner = rows["1.0: ReLU"].total_time + rows["1.1: Dense"].total_time
    assert rows["1: Sequential"].total_time == pytest.approx(inner + rows["1: Sequential"].self_time)
    dense = rows["1.1: Dense"]
    assert dense.total_time == pytest.approx(dense.forward_time + dense.backward_time)
    assert dense.forward_time > 0
    assert dense.backward_time > 0


def test_a_backward_pass_belongs_to_the_layer_of_its_forward_pass():
    spans = [span for span in trained(steps=1).spans if span.direction == "backward"]
    found = [(span.name, span.layer, span.shapes[0][1]) for span in spans]
    assert found == [
        ("cross_entropy", None, ()),
        ("dense", "2", (ROWS, 10)),
        ("dense", "1.1", (ROWS, 30)),
        ("relu", "1.0", (ROWS, 40)),
        ("dense", "0", (ROWS, 40)),
    ]
    for span in spans:
        assert (span.cause.name, span.cause.direction, span.cause.layer) == (span.name, "forward", span.layer)


def test_sums_of_gradients_belong_to_the_layer_that_they_are_of():
    spans = [span for span in trained(steps=1).spans if span.name == "accumulate.copy_into"]
    assert [(span.layer, span.shapes[0][1]) for span in spans] == [
        ("2", (10, 30)), ("2", (10,)), ("1.1", (30, 40)), ("1.1", (30,)), ("0", (40, 20)), ("0", (40,)),
    ]  # fmt: skip


def test_a_layer_called_twice_keeps_its_name_and_shared_ones_their_first():
    class Twice(rv.Layer):
        def __init__(self):
            super().__init__()
            self.first = rv.Dense(4, 4)
            self.second = self.first

        def forward(self, x):
            return self.second(self.first(x))

    with rv.profile() as p:
        Twice()(rv.randn(2, 4)).sum().backward()
    rows = by_name(p.key_averages("layer"))
    assert rows["Twice.first: Dense"].calls == 2
    assert [span.layer for span in p.spans if span.title == "dense backward"] == ["Twice.first"] * 2


def test_models_without_a_name_are_named_for_their_class():
    models = [rv.Sequential(rv.ReLU()), rv.Sequential(rv.Tanh()), rv.Dense(3, 3)]
    with rv.profile() as p:
        for model in models:
            model(rv.randn(2, 3))
    names = [row.name for row in p.key_averages("layer") if not row.name.startswith("(")]
    assert names == ["Sequential", "Sequential.0: ReLU", "Sequential#2", "Sequential#2.0: Tanh", "Dense"]


def test_phases_are_told_apart():
    images, labels = batch()
    loader = rv.data.DataLoader(rv.data.ArrayDataset(images.numpy(), labels), batch_size=8)
    model = network()
    optimizer = rv.optim.SGD(model.parameters(), lr=0.1)
    with rv.profile(model) as p:
        for x, y in loader:
            loss = rv.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            rv.clip_grad_value_(model.parameters(), 1e-3)
            optimizer.step()
            busy(1e-3)
    rows = by_name(p.key_averages("phase"))
    assert list(rows) == ["forward", "backward", "optimizer", "clipping", "data", "other"]
    assert rows["other"].self_time > 4e-3
    assert rows["data"].self_time > 0
    phases = {span.title: span.phase for span in p.spans}
    assert phases["sgd forward"] == phases["SGD.step"] == phases["SGD.zero_grad"] == "optimizer"
    assert phases["gradient_clip forward"] == phases["clip_grad_value_"] == "clipping"
    assert sum(span.name == "batch" for span in p.spans) == 5  # the fifth finds that there is none


def test_a_closure_runs_forward_and_backward_in_their_own_phases():
    model, (x, y) = network(), batch()
    optimizer = rv.optim.SGD(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = rv.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with rv.profile(model) as p:
        optimizer.step(closure)
    phases = {span.title: span.phase for span in p.spans}
    assert phases["dense forward"] == "forward"
    assert phases["dense backward"] == "backward"
    assert phases["sgd forward"] == "optimizer"


def test_methods_that_subclasses_replace_are_seen_too():
    class Loud(rv.Dense):
        def __call__(self, x):
            return super().__call__(x)

    class Slow(rv.optim.SGD):
        def step(self, closure=None):
            busy(1e-3)
            return super().step(closure)

    model = Loud(3, 3)
    optimizer = Slow(model.parameters())
    with rv.profile() as p:
        model(rv.randn(2, 3)).sum().backward()
        optimizer.step()
    rows = by_name(p.key_averages("phase"))
    assert rows["optimizer"].self_time > 1e-3
    assert by_name(p.key_averages("layer"))["Loud"].calls == 2  # its own call, and the one that it passes on to


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


class Busy(rv.Layer):
    def __init__(self, seconds: float, inner: rv.Layer | None = None):
        super().__init__()
        self.seconds, self.inner, self.took = seconds, inner, 0.0

    def forward(self, x):
        started = time.perf_counter()
        busy(self.seconds)
        self.took = time.perf_counter() - started  # longer, where something else had the processor at the end
        return x if self.inner is None else self.inner(x)


def test_a_busy_layer_took_as_long_as_it_was_busy():
    model = Busy(0.02, Busy(0.05))
    with rv.profile(model) as p:
        model(rv.zeros(1))
    rows = by_name(p.key_averages("layer"))
    assert rows["Busy"].self_time == pytest.approx(model.took, rel=0.05)
    assert rows["inner: Busy"].self_time == pytest.approx(model.inner.took, rel=0.05)
    assert rows["Busy"].total_time == pytest.approx(model.took + model.inner.took, rel=0.05)


def test_what_the_profile_takes_for_itself_is_left_out(monkeypatch):
    see = Ledger.see

    def slow_see(self, *arguments, **options):
        busy(1e-3)
        return see(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "see", slow_see)  # called once for the input and once for the output of each kernel
    relu = rv.Sequential(*[rv.ReLU() for _ in range(20)])
    relu(rv.randn(4))
    with rv.profile(relu) as p:
        relu(rv.randn(4))
    assert p.wall_time < 0.02 < 20 * 2e-3
    assert by_name(p.key_averages("layer"))["Sequential"].total_time < 0.02


def test_threads_have_lines_of_their_own():
    model = network()
    x, _ = batch()

    def work():
        for _ in range(20):
            model(x)

    with rv.profile(model) as p:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert by_name(p.key_averages("kernel"))["dense forward"].calls == 3 * 20 * 3
    assert len({span.thread for span in p.spans}) == 3
    assert by_name(p.key_averages("phase"))["other"].self_time == pytest.approx(
        p.wall_time
    )  # of the thread that waited
    for span in p.spans:
        assert span.parent is None or span.parent.thread == span.thread
        assert span.self_time >= 0


# ---- what is there before and after


def replaced_attributes() -> dict:
    with hooks.install(Recording(None, False, False)):
        pass
    return {(owner, name): vars(owner)[name] for owner, name, _ in hooks._hooks()}


def test_every_function_is_the_very_same_object_afterwards():
    before = replaced_attributes()
    assert len(before) > 10
    with rv.profile():
        during = {(owner, name): vars(owner)[name] for owner, name in before}
        assert not any(during[key] is before[key] for key in before)
    assert all(vars(owner)[name] is value for (owner, name), value in before.items())


def test_an_exception_leaves_nothing_behind():
    before = replaced_attributes()
    model = network()
    with pytest.raises(ValueError, match="dense"), rv.profile(model) as p:
        model(rv.zeros(3, 7))
    assert all(vars(owner)[name] is value for (owner, name), value in before.items())
    assert [(span.title, span.flops) for span in p.spans if span.kind == "kernel"] == [("dense forward", None)]
    assert [row.name for row in p.key_averages("layer")][:2] == ["Sequential", "0: Dense"]
    with rv.profile(model) as p:
        model(batch()[0])
    assert p.spans[-1].parent is None


def test_a_failing_installation_puts_back_what_it_replaced(monkeypatch):
    before = replaced_attributes()

    def broken():
        yield Operation, "forward", lambda recording, original: original.__get__
        raise RuntimeError("broken")

    monkeypatch.setattr(hooks, "_hooks", broken)
    with pytest.raises(RuntimeError, match="broken"), rv.profile():
        pass
    monkeypatch.undo()
    assert all(vars(owner)[name] is value for (owner, name), value in before.items())
    with rv.profile():
        pass


def test_one_profile_at_a_time():
    model = network()
    with rv.profile(model) as p:
        with pytest.raises(RuntimeError, match="one profile at a time"), rv.profile():
            pass
        errors = []

        def other():
            try:
                with rv.profile():
                    pass
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(errors) == 1
        model(batch()[0])
    assert by_name(p.key_averages("kernel"))["dense forward"].calls == 3
    with pytest.raises(RuntimeError, match="new profile"), p:
        pass
    with rv.profile():
        pass


def test_results_are_the_same_bits():
    def run(context):
        model = network()
        with context:
            loss = train(model, 4)
        return loss.numpy(), *(parameter.numpy() for parameter in model.parameters())

    for plain, profiled in zip(run(nullcontext()), run(rv.profile())):
        np.testing.assert_array_equal(plain, profiled)


def test_a_graph_can_outlive_the_profile_and_be_older():
    model, (x, y) = network(), batch()
    older = model(x)
    with rv.profile(model) as p:
        loss = rv.functional.cross_entropy(older, y)
        later = rv.functional.cross_entropy(model(x), y)
        loss.backward()
    assert [span.title for span in p.spans if span.direction == "backward"] == ["cross_entropy backward"]
    count = len(p.spans)
    model.zero_grad()
    later.backward()
    assert len(p.spans) == count
    expected = [parameter.grad.numpy() for parameter in model.parameters()]
    model.zero_grad()
    rv.functional.cross_entropy(model(x), y).backward()
    for parameter, grad in zip(model.parameters(), expected):
        np.testing.assert_array_equal(parameter.grad.numpy(), grad)


def test_warm_up_is_not_recorded_and_must_be_over():
    with rv.profile(warm_up=2) as p:
        for _ in range(3):
            rv.functional.relu(rv.zeros(3))
            p.step()
    assert by_name(p.key_averages())["relu forward"].calls == 1
    with rv.profile(warm_up=2) as p:
        rv.functional.relu(rv.zeros(3))
        p.step()
    assert p.spans == []
    with pytest.raises(ValueError, match="after the warm-up"):
        p.key_averages(per_step=True)


# ---- the table and the trace


def test_the_table_says_what_the_rows_say():
    p = trained(steps=2)
    lines = p.table("kernel", sort_by="calls", row_limit=3).splitlines()
    assert lines[0].split()[:4] == ["kernel", "self", "share", "total"]
    assert lines[1].startswith("accumulate.copy_into")
    assert len(lines) == 5
    assert lines[4].startswith("(13 more)")
    order = [row.name for row in p.key_averages("layer")]
    assert [line.split("  ")[0] for line in p.table("layer", sort_by=None).splitlines()[1:]] == order
    largest = max(p.key_averages("layer"), key=lambda row: row.self_time).name
    assert [line.split("  ")[0] for line in p.table("layer", sort_by=None, row_limit=1).splitlines()[1:]] == [
        largest, f"({len(order) - 1} more)",
    ]  # fmt: skip
    assert "x 32x20, weight 40x20, bias 40" in p.table(by_shape=True)
    assert p.table("phase", per_step=True).startswith("phase, a step")


def test_the_trace_loads_and_its_events_nest(tmp_path):
    p = trained(steps=2)
    p.export_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(p.spans)
    assert min(event["ts"] for event in events if "ts" in event) == 0
    open_events = []
    for event in sorted(complete, key=lambda event: (event["ts"], -event["dur"])):
        end = event["ts"] + event["dur"]
        while open_events and open_events[-1][1] <= event["ts"]:
            open_events.pop()
        assert not open_events or end <= open_events[-1][1] + 1e-3
        if event["cat"] == "kernel" and event["name"] == "dense forward":
            assert open_events[-1][0]["cat"] == "layer"
            assert open_events[-1][0]["name"] == event["args"]["layer"]
        open_events.append((event, end))
    names = {(event["name"], event["args"]["name"]) for event in events if event["ph"] == "M"}
    assert names == {("process_name", "host"), ("thread_name", "thread 0")}
    counters = [event["args"]["bytes"] for event in events if event["ph"] == "C"]
    assert max(counters) == p.peak_memory.bytes
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert len(starts) == 10
    assert all(starts[number]["ts"] < ends[number]["ts"] for number in starts)


# ---- refusals


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="expected model as a layer or None, got list"):
        rv.profile([])
    with pytest.raises(ValueError, match="warm_up as an integer of 0 or more, got -1"):
        rv.profile(warm_up=-1)
    p = trained()
    with pytest.raises(ValueError, match="group_by as one of 'kernel', 'layer', 'phase', got 'line'"):
        p.key_averages("line")
    with pytest.raises(ValueError, match="sort_by as None or one of name, calls"):
        p.table(sort_by="colour")
    with pytest.raises(ValueError, match="row_limit of 1 or more, got 0"):
        p.table(row_limit=0)
    with pytest.raises(RuntimeError, match=r"step\(\) within the block"):
        p.step()
    with rv.profile() as p, pytest.raises(RuntimeError, match="after the block"):
        p.table()


def test_the_seen_modules_are_those_that_run():
    assert vars(dense)["dense"] is Operation.registry["dense"]
    assert Node.__module__ == "ranvier.layers.tensor"
    assert accumulate.add.__module__ == "ranvier.kernels.accumulate"
