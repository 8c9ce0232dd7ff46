"""`ranvier profile model`: a file's function or a recipe, watched for some steps."""

import argparse
import json
import re

import numpy as np
import pytest

import ranvier as rv
from ranvier.__main__ import main
from ranvier.profiling import model, model_target, record
from ranvier.train import recipes

FILE = """
import helper_beside_it
import numpy as np
import ranvier as rv
from ranvier import Dense


def build():
    return rv.Sequential(Dense(20, 40, activation="relu"), Dense(40, 10))


def with_inputs():
    return build(), np.ones((4, 20), np.float32)


def images():
    return rv.Sequential(rv.Conv2d(1, 4, 3), rv.Flatten(), Dense(4 * 36, 10))


def words():
    class Words(rv.Layer):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.head = rv.Embedding(50, 8), rv.LSTM(8, 6, batch_first=True), Dense(6, 3)

        def forward(self, x):
            return self.head(self.lstm(self.embedding(x))[0])

    return Words()


def own_loss():
    layer = Dense(3, 2)
    x = rv.randn(5, 3)
    return layer, lambda: layer(x).sum()


def own_step():
    layer = Dense(3, 2)
    optimizer = rv.optim.SGD(layer.parameters(), lr=0.1)

    def step():
        layer(rv.randn(5, 3)).sum().backward()
        optimizer.step()

    return layer, step


def fails():
    return Dense(20, 40), np.ones((4, 7), np.float32)


def nothing():
    return 7


def _private():
    return build()
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper_beside_it.py").write_text("")
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    model.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def run(*words) -> int:
    return model.run(options(*words))


def watched(*words) -> model.Steps:
    chosen = options(*words)
    train = model_target.target_of(chosen)
    steps = model.Steps(chosen)
    with pytest.raises(model_target.Enough):
        steps.watch(train)
    return steps


def test_a_layer_is_fed_what_the_command_line_says(file):
    steps = watched(f"{file}:build", "--input", "32x20", "--loss", "cross_entropy", "--steps", 4)
    rows = {row.name: row for row in steps.profile.key_averages("layer", per_step=True)}
    assert rows["0: Dense"].flops == 2 * 2 * 32 * 20 * 40  # its input needs no gradient
    assert rows["1: Dense"].flops == 3 * 2 * 32 * 40 * 10
    assert rows["1: Dense"].calls == 1
    kernels = {row.name: row.calls for row in steps.profile.key_averages(per_step=True)}
    assert kernels["cross_entropy forward"] == kernels["adam forward"] == 1
    assert (len(steps.plain), len(steps.recorded)) == (4, 4)
    assert steps.traced_peak > 32 * 40 * 4


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("with_inputs", []),
        ("with_inputs", ["--dtype", "float64", "--optimizer", "SGD"]),
        ("images", ["--input", "3x1x8x8", "--loss", "binary_cross_entropy_with_logits"]),
        ("words", ["--input", "4x7:50"]),
        ("own_loss", []),
        ("own_step", []),
    ],
)
def test_what_a_function_may_return(file, capsys, function, words):
    assert run(f"{file}:{function}", "--steps", 2, *words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"a step takes [\d.]+ [mu]?s", printed)
    for heading in ("phase, a step", "layer, a step", "kernel, a step", "memory: at most"):
        assert heading in printed
    assert "backward" in printed


def test_dtype_reaches_every_kernel(file):
    steps = watched(f"{file}:build", "--input", "4x20", "--dtype", "float64", "--steps", 1)
    assert {shape[2] for span in steps.profile.spans if span.kind == "kernel" for shape in span.shapes} == {"float64"}


def test_a_recipe_trains_as_it_does_for_itself(capfd, tmp_path):
    trace, output = tmp_path / "trace.json", tmp_path / "steps.jsonl"
    assert run("digits", "--steps", 3, "--warm-up", 1, "--trace", trace, "--output", output) == 0
    printed = capfd.readouterr().out
    assert printed.startswith("digits on cpu: a step takes")
    assert "Sequential.2: Conv2d" in printed
    assert "adam forward" in printed
    assert "(data, no layer)" in printed
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["name"] == "Adam.step" for event in events) == 3
    assert sum(event["name"] == "batch" for event in events) == 3
    written = record.read(output)
    (step,) = [row for row in written.rows if row.group == "training step"]
    assert (step.name, step.direction, step.samples) == ("digits", "step", 3)
    conv = [row for row in written.rows if row.name == "conv2d" and row.direction == "forward"]
    assert [row.shapes for row in conv] == [
        "x 32x1x8x8, weight 32x1x3x3, bias 32",
        "x 32x32x8x8, weight 64x32x3x3, bias 64",
    ]
    assert [row.samples for row in conv] == [3, 3]
    assert conv[0].flops == 2 * 32 * 64 * 32 * 9


def test_what_is_replaced_for_a_recipe_is_put_back():
    before = vars(rv.optim.Optimizer)["step"]
    run("digits", "--steps", 1, "--warm-up", 1)
    assert vars(rv.optim.Optimizer)["step"] is before


def fake_recipe(monkeypatch, run_recipe, arguments=lambda parser: None):
    module = argparse.Namespace(run=run_recipe, add_arguments=arguments)
    monkeypatch.setattr(recipes, "names", lambda: ["fake"])
    monkeypatch.setattr(recipes, "load", lambda name: module)


def test_a_recipes_own_options_follow_with(monkeypatch):
    seen = []

    def train(chosen):
        seen.append(chosen)
        by_hand(rv.Dense(2, 2), 100)

    def arguments(parser):
        parser.set_defaults(epochs=7)
        parser.add_argument("--hidden", type=int)

    fake_recipe(monkeypatch, train, arguments)
    run("fake", "--steps", 1, "--with", "--hidden", 5)
    (chosen,) = seen
    assert (chosen.hidden, chosen.epochs, chosen.device, chosen.resume, chosen.quick) == (5, 7, "cpu", None, False)
    assert not chosen.run_dir.exists()


def by_hand(layer: rv.Layer, steps: int) -> None:
    optimizer = rv.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(steps):
        layer(rv.ones(3, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_one_of_several_trainings(monkeypatch):
    def train(chosen):
        by_hand(rv.Dense(2, 2), 100)
        by_hand(rv.Sequential(rv.Dense(2, 5)), 100)

    fake_recipe(monkeypatch, train)
    assert {span.layer for span in watched("fake", "--steps", 2).profile.spans if span.kind == "layer"} == {"Dense"}
    second = watched("fake", "--steps", 2, "--training", 2)
    assert "Dense" not in {span.layer for span in second.profile.spans}
    assert {row.name: row.calls for row in second.profile.key_averages()}["sgd forward"] == 2


def test_a_training_that_is_too_short_says_so(monkeypatch):
    fake_recipe(monkeypatch, lambda chosen: by_hand(rv.Dense(2, 2), 5))
    with pytest.raises(ValueError, match="training 1 of fake to make more than 14 steps, got 5"):
        run("fake")
    with pytest.raises(ValueError, match="training 2 of fake to make more than 14 steps, got 0"):
        run("fake", "--training", 2)


def test_half_of_the_steps_are_reported_where_there_are_no_more(monkeypatch, capsys):
    fake_recipe(monkeypatch, lambda chosen: by_hand(rv.Dense(2, 2), 16))
    assert run("fake") == 0
    assert "recorded: 2 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["nonsense"], ValueError, r"expected FILE.py:FUNCTION or a recipe \(.*digits.*\), got 'nonsense'"),
        (["{file}"], ValueError, "one of build, with_inputs, images, words, own_loss, own_step, fails, nothing$"),
        (["{file}:biuld"], ValueError, r"expected a function of .*net.py \(build, .*got 'biuld'"),
        (["{file}:Dense"], ValueError, "got 'Dense'"),
        (["/nowhere/net.py:build"], FileNotFoundError, "expected a Python file at /nowhere/net.py"),
        (["{file}:nothing"], TypeError, r"return a layer, \(layer, inputs\) or \(layer, step\), got int"),
        (["{file}:build"], ValueError, "expected --input SHAPE, such as 32x1x28x28"),
        (["{file}:build", "--input", "4x-1"], ValueError, "expected --input as sizes"),
        (["{file}:build", "--input", "4x20:0"], ValueError, "expected --input as sizes"),
        (["{file}:build", "--input", "wide"], ValueError, "got 'wide'"),
        (["{file}:with_inputs", "--input", "4x20"], ValueError, "expected no --input"),
        (["{file}:own_loss", "--loss", "mse_loss"], ValueError, "expected no --input and no --loss"),
        (["{file}:build", "--with", "--epochs"], ValueError, "expected nothing after .*got '--epochs'"),
        (["{file}:fails"], ValueError, "dense: expected"),
        (["digits", "--loss", "mse_loss"], ValueError, "expected no --loss: the recipe digits brings its own"),
        (["digits", "--dtype", "float64"], ValueError, "expected no --dtype"),
        (["digits", "--device", "tpu"], ValueError, "device: expected 'cpu', 'cuda'"),
    ],
)
def test_bad_words_are_refused(file, words, error, message):
    with pytest.raises(error, match=message):
        run(*(word.format(file=file) for word in words))


def test_the_command_says_what_is_wrong_and_fails(file, capsys):
    assert main(["profile", "model", f"{file}:biuld"]) == 1
    assert "expected a function of" in capsys.readouterr().err


def test_the_peak_is_told_by_what_held_it(file):
    steps = watched(f"{file}:with_inputs", "--steps", 3)
    peak = steps.profile.peak_memory
    text = model.describe_peak(peak, 12345)
    assert f"{peak.bytes / 1024:.2f} KiB" in text.splitlines()[0]
    assert "exp_avg of adam" in text
    assert "12.06 KiB more" in text
    assert np.isclose(sum(holding.bytes for holding in peak.holdings), peak.bytes)
