"""`ranvier tune` on a machine without a GPU: what it would try, what it refuses, the file that two processes write.

With a GPU's driver stood in for, `tests/gpu/test_launched_tune.py` runs it whole."""

import argparse
import json
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="GPU kernels come with Triton: `pip install ranvier[gpu-proof]`")

import ranvier.__main__ as command
from ranvier.kernels import tuning
from ranvier.profiling import tune


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Not the user's."""
    monkeypatch.setenv("RANVIER_CACHE_DIR", str(tmp_path))
    yield
    tuning.forget()


def test_without_a_gpu_it_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None if name == "cupy" else name)
    assert command.main(["tune", "dense"]) == 2
    assert "tune: expected a GPU, and cupy is not installed (`pip install ranvier[cuda13]`" in capsys.readouterr().err
    assert command.main(["tune", "dense", "--device", "cpu"]) == 2
    assert "got cpu, whose kernels have nothing to tune" in capsys.readouterr().err


def test_what_there_is_not_is_refused_with_what_there_is(capsys):
    assert command.main(["tune", "dens"]) == 1
    assert "got 'dens'; did you mean dense" in capsys.readouterr().err
    assert command.main(["tune", "dense", "--seconds", "0"]) == 1
    assert "--seconds: expected a number above 0, got 0.0" in capsys.readouterr().err


def plan(*words, dtypes=("float32",), architecture=90):
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    return tune.plan(tune._chosen_cases(parser.parse_args([*words, "--dtype", *dtypes])), architecture)


def test_a_plan_has_each_question_once_with_the_pass_that_asks_it():
    tasks = plan("dense", "matmul", dtypes=("float32", "float16"))
    questions = [task.question for task in tasks]
    assert len(set(questions)) == len(questions)
    assert {question.dtype for question in questions} == {"float32", "float16"}
    by_bucket = {task.question.bucket[:4]: task for task in tasks if task.question.dtype == "float32"}
    # transformer_up: [128, 1024] x [1024, 4096], then grad_x and grad_weight; whether maps fit them is asked as well
    assert by_bucket[128, 4096, 1024, 1].direction == "forward"
    assert by_bucket[128, 1024, 4096, 1].direction == "backward"
    assert by_bucket[4096, 1024, 128, 1].case.name == "transformer_up"
    assert tuning.asked() == []


def test_a_quick_plan_has_one_case_an_operation():
    tasks = plan("softmax/", "--quick")
    assert len({(task.case.operation.name, task.case.name) for task in tasks}) == len({t.case.operation for t in tasks})


def test_operations_without_a_choice_have_no_tasks():
    assert plan("relu", "elu") == []


def test_shapes_of_ones_own_are_planned():
    tasks = plan("conv2d", "--shape", "x=3x20x9x9", "weight=40x20x3x3", "--attribute", "stride=2,2")
    assert {task.question.kernel for task in tasks} == {"conv.channels_last", "conv.correlate", "conv.grad_weight"}
    assert all(task.case.attributes["stride"] == (2, 2) for task in tasks)
    with pytest.raises(ValueError, match="--shape: expected one operation to go with it, got 2"):
        plan("conv2d", "conv1d", "--shape", "x=3x20x9x9")


WRITER = """
import sys
from pathlib import Path
from ranvier.kernels.tuning import Question
from ranvier.kernels.softmax import gpu
from ranvier.profiling import cases
from ranvier.profiling.tune import Result, Task, keep
(case, *_) = cases.declared_cases(*cases.select(["softmax"]), "float32")
for number in range(25):
    question = Question("softmax.forward", "float32", (2**number, int(sys.argv[2]), True, False))
    result = Result(Task(question, case, "forward"), (1, 2, 4), (1, 2, 4), {(1, 2, 4): 1e-6})
    keep(Path(sys.argv[1]), "a GPU", 90, result)
"""


def test_processes_that_write_at_once_lose_nothing():
    path = tuning.path_of("a GPU", 90)
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(2**place)], stderr=subprocess.PIPE, text=True) for place in (4, 8)]
    for writer in writers:
        assert writer.wait(120) == 0, writer.stderr.read()
        writer.stderr.close()
    entries = tuning.read_entries(path, "a GPU", 90)
    assert {tuple(entry["bucket"][:2]) for entry in entries} == {(2**n, m) for n in range(25) for m in (16, 256)}
    assert sorted(file.name for file in path.parent.iterdir()) == ["a-GPU-sm_90.json", "a-GPU-sm_90.lock"]
    assert len(path.read_text().splitlines()) == 1 + 50 + 1
    assert json.loads(path.read_text())["schema"] == tuning.SCHEMA
