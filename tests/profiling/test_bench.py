"""The bench: what it computes from measurements, what it measures, and that it keeps what it measured."""

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.kernels.operation import Sample
from ranvier.profiling import bench, bench_cases, bench_kernels, bench_models, bench_optimizers, bench_table, record
from ranvier.profiling.bench_libraries import CAPTURED, CHANNELS_LAST, PYTORCH, RANVIER, difference
from ranvier.profiling.bench_worker import Turn, Worker, WorkerClock, WorkerError, WorkerGone
from ranvier.profiling.timing import measure

torch_installed = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not torch_installed, reason="needs PyTorch: pip install ranvier[bench]")


def row(variant, seconds, group="kernel", name="conv2d", family="conv", case="resnet", direction="forward"):
    quantiles = {q: seconds * (0.9 + 0.2 * float(q)) for q in record.QUANTILES}
    return record.Row(group, name, family, case, "x 1x2", "float32", direction, variant, 9, quantiles)


def two_lines():
    made = record.Record(record.new_run({"name": "a processor", "threads": {"numba": 2, "torch": 2}}, "ranvier bench"))
    made.rows = [
        row(RANVIER, 2.0),
        row(PYTORCH, 3.0),
        row(CHANNELS_LAST, 1.0),
        row(RANVIER, 1.0, "training step", "mlp", "model", "small", "step"),
        row(CAPTURED, 0.5, "training step", "mlp", "model", "small", "step"),
        row(PYTORCH, 4.0, "training step", "mlp", "model", "small", "step"),
    ]
    return made


def options(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    parsed = parser.parse_args(list(words))
    parsed.command_line = "ranvier bench"
    return parsed


# ---- what is computed


@pytest.mark.parametrize(("ratios", "mean"), [([2, 0.5], 1), ([1, 10, 100], 10), ([3], 3), ([1.5, 1.5, 1.5], 1.5)])
def test_geometric_mean(ratios, mean):
    assert bench_table.geometric_mean(ratios) == pytest.approx(mean)


def test_a_ratio_is_against_the_faster_layout():
    kernel, step = bench_table.lines_of(two_lines())
    assert kernel.ratio == pytest.approx(0.5)
    assert (kernel.ranvier, kernel.pytorch, kernel.channels_last) == (2.0, 3.0, 1.0)
    assert step.ratio == pytest.approx(4)
    assert step.captured_ratio == pytest.approx(8)
    assert kernel.captured_ratio is None
    assert step.channels_last is None
    assert kernel.spread == pytest.approx(0.1)


def test_a_line_needs_both_libraries():
    made = two_lines()
    made.rows = [one for one in made.rows if one.variant == RANVIER]
    assert bench_table.lines_of(made) == []


def test_means_of_kernels_steps_and_small_networks():
    means = {mean.label: mean for mean in bench_table.means_of(bench_table.lines_of(two_lines()))}
    assert means["kernels"].ratio == means["kernels, conv"].ratio == pytest.approx(0.5)
    assert means["kernels"].below == 1
    assert means["training steps"].ratio == means["small networks"].ratio == pytest.approx(4)
    assert means["training steps, captured"].ratio == means["small networks, captured"].ratio == pytest.approx(8)
    assert "large networks" not in means
    assert "kernels, backward" not in means


def test_rows_below_one_are_marked():
    kernel, step = map(bench_table.text_line, bench_table.lines_of(two_lines()))
    assert "0.50x<" in kernel
    assert "4.00x " in step


def test_peak_memory_has_lines_too():
    made = two_lines()
    made.run["memory"] = {"mlp/large": {RANVIER: 100 * 2**20, PYTORCH: 250 * 2**20}}
    line = bench_table.lines_of(made)[-1]
    assert line.ratio == 2.5
    assert "100 MiB" in bench_table.text_line(line)
    assert {mean.label for mean in bench_table.means_of([line])} == {"peak memory"}


def test_calls_are_measured_in_microseconds_forward_alone_and_have_a_mean_of_their_own():
    case = bench_cases.find("relu/call")
    assert case.directions == ("forward",)
    times = {RANVIER: 2.5e-6, PYTORCH: 2e-6}
    rows = [
        row(variant, seconds, case.group, case.subject, case.family, case.case) for variant, seconds in times.items()
    ]
    line = bench_table.line_of(rows)
    assert "2.50 us" in bench_table.text_line(line)
    assert {mean.label for mean in bench_table.means_of([line])} == {"overhead"}


def test_markdown_has_every_row_and_what_was_not_measured():
    made = two_lines()
    made.errors.append(record.Error("softmax", "digits", "float32", "", PYTORCH, "output: 3 of 9 elements differ"))
    page = bench_table.markdown(made)
    assert "| conv2d/resnet forward | 2000.000 ms | 3000.000 ms | 1000.000 ms | **0.50x** | 10% |" in page
    assert "| mlp/small | 1000.000 ms | 500.000 ms | 4000.000 ms | 4.00x | 8.00x | 10% |" in page
    assert "a processor" in page
    assert "- softmax digits pytorch: output: 3 of 9 elements differ" in page


def test_a_saved_file_is_shown_and_written_as_markdown(tmp_path, capsys):
    saved, page = tmp_path / "bench.jsonl", tmp_path / "bench.md"
    record.write(saved, two_lines())
    assert main(["bench", "--from", str(saved), "--markdown", str(page)]) == 0
    assert "conv2d/resnet forward" in capsys.readouterr().out
    assert page.read_text() == bench_table.markdown(record.read(saved))


# ---- what is measured, and how a user picks


def test_names_are_unique_and_say_where_they_belong():
    names = [case.name for case in bench_cases.ALL]
    assert len(set(names)) == len(names)
    assert all(case.name == f"{case.subject}/{case.case}" for case in bench_cases.ALL)


def test_every_family_and_every_kind_of_network_has_rows():
    families = {case.family for case in bench_cases.ALL}
    wanted = {"conv", "dense", "recurrent", "pool", "norm", "activation", "softmax", "loss", "embedding", "attention"}
    assert wanted | {"dropout", "reduce", "elementwise", "optimizer", "resize", "shape", "start", "memory"} <= families
    kinds = {case.subject for case in bench_models.CASES}
    assert len(kinds) == 9
    assert len(bench_models.CASES) == 27


@pytest.mark.parametrize("case", [*bench_kernels.CASES, *bench_kernels.OVERHEADS], ids=lambda case: case.name)
def test_a_kernel_case_is_a_call_that_its_operation_takes(case):
    call = case.call
    inputs = case._inputs
    floats = [x for x in inputs if getattr(x, "dtype", None) == np.float32]
    assert floats
    assert set(case.fixed) <= set(call.operation.inputs)
    if not any(hasattr(x, "dtype") and x.dtype.kind == "i" for x in inputs):
        call.operation.check(*inputs, **call.sample.attributes)
    assert case.shapes.startswith(("x ", "a ", "input ", "indices ", "query ", "arrays"))
    assert 0.2 < case.expected < 30


def test_rows_are_picked_by_name_family_group_size_and_pattern():
    def picked(names=(), pattern=None):
        return [case.name for case in bench_cases.select(names, pattern)]

    assert picked(["lenet/small"]) == ["lenet/small"]
    assert picked(["gru_cell"]) == ["gru_cell/decoder"]
    assert picked(["small"]) == [case.name for case in bench_models.CASES if case.case == "small"]
    assert set(picked(["training step"])) == {case.name for case in bench_models.CASES}
    assert {name.partition("/")[0] for name in picked(["recurrent"])} >= {"lstm", "gru", "rnn", "lstm_cell"}
    assert picked(["lenet", "mlp"], "*/small") == ["mlp/small", "lenet/small"]
    assert picked(pattern="autoencoder/l") == ["autoencoder/large", "memory/autoencoder/large"]
    assert picked() == [case.name for case in bench_cases.ALL]


@pytest.mark.parametrize("words", [["lnet"], ["--only", "lnet"]])
def test_an_unknown_row_lists_what_there_is(words, capsys):
    assert main(["bench", *words]) == 1
    message = capsys.readouterr().err
    assert "got 'lnet'" in message
    assert "lenet" in message
    assert "transformer" in message


def test_quick_takes_short_rows_only():
    cases = bench._chosen(options("--quick"))
    assert {case.group for case in cases} == {"kernel", "training step", "overhead"}
    assert {case.case for case in cases if case.group == "training step"} == {"small"}
    assert len(cases) < len(bench_cases.ALL) / 1.5
    with pytest.raises(ValueError, match="rows that --quick has time for"):
        bench._chosen(options("--quick", "resnet/large"))


def test_short_rows_come_first_in_each_group():
    cases = bench._chosen(options())
    groups = [case.group for case in cases]
    assert groups == sorted(groups, key=["kernel", "training step", "overhead", "start", "peak memory"].index)
    steps = [case.case for case in cases if case.group == "training step"]
    assert steps == ["small"] * 9 + ["medium"] * 9 + ["large"] * 9


def test_list_measures_nothing(capsys):
    assert main(["bench", "--list", "lenet"]) == 0
    assert capsys.readouterr().out.split() == ["training", "step:", "lenet", "small", "medium", "large"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", "0"], "expected --seconds above 0"),
        (["--threads", "-1"], "expected --threads above 0"),
        (["--save", "/no/such/folder/bench.jsonl"], "expected a folder at /no/such/folder"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(words, message, capsys):
    assert main(["bench", "dense/tiny", *words]) == 1
    assert message in capsys.readouterr().err


def test_without_pytorch_there_is_no_table(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    assert main(["bench", "dense/tiny"]) == 1
    printed = capsys.readouterr()
    assert "pip install ranvier[bench]" in printed.err
    assert printed.out == ""


# ---- workers


def state_of(worker):
    with open(f"/proc/{worker._process.pid}/stat") as status:
        return status.read().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_is_stopped_between_questions_and_gone_afterwards():
    with Worker(RANVIER, threads=1) as worker:
        assert worker.facts["numba"] == 1
        worker.ask("prepare", "relu/small", RANVIER, None)
        deadline = time.monotonic() + 5
        while state_of(worker) != "T":
            assert time.monotonic() < deadline
        samples = measure({RANVIER: Turn(worker, RANVIER, "forward")}, seconds=0.02, clock=WorkerClock())
        assert 0 < np.median(samples[RANVIER]) < 0.01
        with pytest.raises(WorkerError, match="KeyError"):
            worker.ask("prepare", "no such case", RANVIER, None)
        worker.ask("forget")
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(WorkerGone, match="ended unasked"):
            worker.ask("forget")
    assert worker._process.returncode is not None


# ---- agreement, in one process: nothing here is timed


def test_a_difference_is_found():
    same = {"losses": np.array([2.0, 1.0])}
    assert difference(same, same, 1e-3) is None
    assert "losses: apart by 5.0e-02" in difference({"losses": np.array([2.0, 1.1])}, same, 1e-3)
    assert difference({"losses": np.array([2.0, np.nan])}, same, 1e-3) is not None


@needs_torch
@pytest.mark.judge
@pytest.mark.parametrize("kind", [case.subject for case in bench_models.CASES if case.case == "small"])
def test_both_libraries_train_a_network_alike(kind):
    case = bench_cases.find(f"{kind}/small")
    ours = case.prepare(RANVIER, None)
    assert len(set(ours.results["losses"])) == bench_models.COMPARED_STEPS  # it learns: no two losses are the same
    for variant in case.variants:
        theirs = case.prepare(variant, ours.shared)
        np.testing.assert_allclose(theirs.results["losses"], ours.results["losses"], rtol=1e-5)
        assert case.disagreement(ours.results, theirs.results) is None


@needs_torch
@pytest.mark.judge
def test_networks_with_other_weights_do_not_agree():
    case = bench_cases.find("mlp/small")
    ours = case.prepare(RANVIER, None)
    other = {name: value * np.float32(1.01) for name, value in ours.shared.items()}
    assert case.disagreement(ours.results, case.prepare(PYTORCH, other).results) is not None


@needs_torch
@pytest.mark.judge
@pytest.mark.parametrize(
    "name",
    [
        "conv2d/lenet", "dense/tiny", "lstm/rows_28", "batch_norm/mlp", "max_pool/lenet", "softmax/digits", "sum/small",
        "cross_entropy/digits", "dropout/small", "relu/small", "argmax/logits", "adam/mlp", "clip_grad_norm/mlp",
        "multiply/call", "layer_norm/call",
    ],
)  # fmt: skip
def test_both_libraries_compute_a_kernel_alike(name):
    case = bench_cases.find(name)
    ours = case.prepare(RANVIER, None)
    for variant in case.variants:
        theirs = case.prepare(variant, None)
        assert theirs.functions.keys() == ours.functions.keys() >= set(case.directions)
        assert case.disagreement(ours.results, theirs.results) is None
        for result in theirs.results.values():
            result += 1
        assert case.disagreement(ours.results, theirs.results) is not None
    for function in ours.functions.values():
        function()


@needs_torch
@pytest.mark.judge
def test_only_inputs_that_train_get_gradients():
    first, second = bench_cases.find("conv2d/lenet"), bench_cases.find("conv2d/lenet_2")
    assert set(first.prepare(RANVIER, None).results) == {"output", "gradient of weight", "gradient of bias"}
    assert "gradient of x" in second.prepare(PYTORCH, None).results


@needs_torch
@pytest.mark.judge
def test_every_kernel_case_has_a_peer():
    from ranvier.profiling.peers_torch import CALLS

    assert {case.subject for case in (*bench_kernels.CASES, *bench_kernels.OVERHEADS)} <= CALLS.keys()


def test_resnet_18_has_the_parameters_that_the_paper_counts():
    case = bench_cases.find("adam/resnet_18")
    assert len(case.parameters) == 62
    assert case.elements == 11_689_512
    assert all(isinstance(one, bench_optimizers.OptimizerCase) for one in bench_optimizers.CASES)


# ---- the whole command


def command(*words):
    return [sys.executable, "-m", "ranvier", "bench", *words]


@needs_torch
@pytest.mark.judge
def test_the_command_measures_prints_and_saves(tmp_path):
    saved, page = tmp_path / "bench.jsonl", tmp_path / "bench.md"
    words = ["dense/tiny", "mlp/small", "--seconds", "0.02", "--threads", "1", "--save", saved, "--markdown", page]
    ran = subprocess.run(command(*map(str, words)), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    made = record.read(saved)
    assert made.run["device"]["threads"] == {"numba": 1, "blas": 1, "torch": 1}
    assert made.run["command"].startswith("ranvier bench dense/tiny")
    measured = {(one.name, one.direction, one.variant) for one in made.rows}
    assert measured == {
        (name, direction, variant)
        for name, direction in (("dense", "forward"), ("dense", "backward"), ("mlp", "step"))
        for variant in (RANVIER, PYTORCH)
    } | {("mlp", "step", CAPTURED)}
    assert all(0 < one.median < 0.1 and one.samples >= 5 for one in made.rows)
    for line in bench_table.lines_of(made):
        assert bench_table.text_line(line) in ran.stdout
    assert page.read_text() == bench_table.markdown(made)


@needs_torch
@pytest.mark.judge
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_keeps_what_it_measured(tmp_path, number):
    saved = tmp_path / "bench.jsonl"
    words = ["relu/small", "resnet/large", "--seconds", "0.02", "--threads", "1", "--save", str(saved)]
    running = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, text=True, start_new_session=True,
        # The tests themselves may run in the background of a shell, which has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in running.stdout:
        if line.startswith("relu/small backward"):
            os.killpg(running.pid, number) if number == signal.SIGINT else running.send_signal(number)
            break
    rest = running.stdout.read()
    assert running.wait(timeout=30) == 130
    assert "interrupted" in rest
    assert {json.loads(line).get("name") for line in saved.read_text().splitlines()[1:]} == {"relu"}
    with pytest.raises(ProcessLookupError):  # neither worker is left
        os.killpg(running.pid, 0)


@needs_torch
@pytest.mark.judge
def test_a_row_whose_results_disagree_is_not_timed(monkeypatch, capsys):
    case = bench_cases.find("relu/small")
    monkeypatch.setattr(bench_kernels.KernelCase, "disagreement", lambda self, ours, theirs: "output: all wrong")
    assert main(["bench", case.name, "--threads", "1"]) == 1
    printed = capsys.readouterr().out
    assert "relu/small" in printed
    assert "not timed: pytorch: output: all wrong" in printed
    assert "geometric mean" not in printed


def test_a_case_made_for_a_test_is_compared_in_shape_too():
    case = dataclasses.replace(bench_cases.find("relu/small"), sample=Sample("tiny", {"x": (2, 3)}))
    ours = {"output": np.zeros((2, 3), np.float32)}
    assert "shape (3, 2)" in case.disagreement(ours, {"output": np.zeros((3, 2), np.float32)})
    assert "results output, extra" in case.disagreement(ours, ours | {"extra": ours["output"]})
