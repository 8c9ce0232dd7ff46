"""Searches for the fastest tiles, warps and stages of the GPU kernels on this machine's GPU, and keeps them.

  ranvier tune dense conv2d           families and operations; without a name, every one that has a choice: hours
  ranvier tune softmax --quick        one shape and few candidates each, to see that it runs
  ranvier tune conv2d --shape x=32x64x56x56 weight=64x64x3x3 --attribute stride=2,2

Every kernel declares what there is to choose from (`kernels/tuning.py`). The candidates run on the shapes that the
operations declare for timing, or on yours, forward and backward; each must compute what the shipped configuration
computes; then they are timed in turns by the GPU's own clock, on inputs that are not in its cache. What is fastest goes
to a file of this kind of device in the user's cache directory, for this version of Triton, and every later process
starts with it. Where sums are split otherwise than before, results differ in their last digits. Ctrl-C keeps what was
measured.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from ..kernels.device import to_device
from ..train.checkpoint import write_atomically
from . import agreement, cases
from .cases import DTYPES, Case
from .gpu_timing import clock_for, sets_past_cache
from .machine import core_count, device_index
from .timing import Clock, measure
from .variants import differentiated, needed, ranvier_variant

if TYPE_CHECKING:  # it needs Triton
    from ..kernels.tuning import Question

_DTYPES = ("float32", "float16")
_SECONDS = 0.05
_QUICK_CANDIDATES = 4
_LEAST_GAIN = 1.02  # below that, the clock's own noise would choose


class Task(NamedTuple):
    """A question to be answered, and the pass of a case that asks it."""

    question: Question
    case: Case
    direction: str


@dataclass
class Result:
    """What was found for a task; seconds are medians of a whole pass."""

    task: Task
    old: tuple[int, ...]
    shipped: tuple[int, ...]
    seconds: dict[tuple[int, ...], float] = field(default_factory=dict)
    wrong: dict[tuple[int, ...], str] = field(default_factory=dict)
    without_room: int = 0

    @property
    def best(self) -> tuple[int, ...]:
        """The fastest; the shipped one unless another wins clearly."""
        fastest = min(self.seconds, key=self.seconds.get)
        return fastest if self.seconds[self.shipped] > _LEAST_GAIN * self.seconds[fastest] else self.shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ranvier tune`."""
    parser.add_argument("what", nargs="*", default=["all"], metavar="WHAT", help="families and operations (all)")
    parser.add_argument(
        "--shape", nargs="+", metavar="INPUT=SHAPE", help="your own shapes; 256:1000 is integers < 1000"
    )
    parser.add_argument("--attribute", nargs="+", default=[], metavar="NAME=VALUE", help="such as stride=2,2")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:<index> (%(default)s)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(_DTYPES), help=" and ".join(_DTYPES))
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="to time each candidate (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one shape and few candidates each, to see that it runs")


def run(options: argparse.Namespace) -> int:
    """Tunes what the options ask for; returns the exit status: 2 without a GPU, 130 after Ctrl-C, 1 if a candidate
    computed something else than the shipped configuration."""
    chosen = _chosen_cases(options)
    if not options.seconds > 0:
        raise ValueError(f"--seconds: expected a number above 0, got {options.seconds}")
    if missing := missing_for(options.device):
        print(
            f"ranvier: tune: expected a GPU, {missing}; `ranvier devices` says what this machine has", file=sys.stderr
        )
        return 2
    import cupy

    from ..kernels import tuning
    from ..kernels.launch import architecture_of

    index = device_index(options.device)
    name, architecture = tuning.name_of(index), architecture_of(index)
    path = tuning.path_of(name, architecture)
    tasks = plan(chosen, architecture)
    if not tasks:
        raise ValueError(f"tune: expected operations with a choice to make, got {' '.join(options.what)}")
    print(f"{name}, sm_{architecture}: {len(tasks)} choices")
    results: list[Result] = []
    status = 0
    with cupy.cuda.Device(index), tqdm(total=len(tasks), unit="choice") as bar:
        clock = clock_for(options.device)
        try:
            for group in _by_case(tasks):
                bar.set_description(f"{group[0].case.operation.name} {group[0].case.name} {group[0].case.dtype}")
                before = bar.n
                for result in search(group, options, architecture, clock, bar.write):
                    results.append(result)
                    keep(path, name, architecture, result)
                    bar.update()
                bar.update(before + len(group) - bar.n)
        except KeyboardInterrupt:
            status = 130
    interrupted = "interrupted; " if status else ""
    if not results:
        print(f"{interrupted}nothing was measured")
        return status
    print(describe(results))
    print(f"{interrupted}kept: {path}")
    return status or (1 if any(result.wrong for result in results) else 0)


def missing_for(device: str) -> str | None:
    """What stands between this machine and kernels on `device`, None if nothing."""
    if device == "cpu":
        return "got cpu, whose kernels have nothing to tune"
    for package in ("cupy", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"and {package} is not installed (`pip install ranvier[cuda13]` brings it)"
    import cupy

    if not cupy.cuda.is_available():
        return "got none: no NVIDIA driver or no device"
    to_device(np.zeros(1, np.float32), device)  # refuses an index that is not there
    return None


def _chosen_cases(options: argparse.Namespace) -> list[Case]:
    """What the options name, each operation in each dtype that it has."""
    operations, attributes = cases.select(options.what or ["all"]), cases.parse_attributes(options.attribute)
    if options.shape and len(operations) != 1:
        raise ValueError(f"--shape: expected one operation to go with it, got {len(operations)}")
    chosen = []
    for operation in operations:
        for dtype in options.dtype:
            if dtype not in operation.dtypes:
                continue
            if options.shape:
                found = [cases.case_of_shapes(operation, cases.parse_shapes(options.shape), attributes, dtype)]
            else:
                found = [cases.with_attributes(case, attributes) for case in cases.declared_cases(operation, dtype)]
            chosen += found[:1] if options.quick else found
    return chosen


def plan(chosen: Iterable[Case], architecture: int) -> list[Task]:
    """The questions that cases ask on an architecture, each once; no kernel runs."""
    from ..kernels import tuning
    from .launches import gpu_passes, has_gpu_kernels, launches_of, zero_inputs

    tasks: dict[Question, Task] = {}
    for case in chosen:
        if not has_gpu_kernels(case.operation):
            continue
        inputs = zero_inputs(case.sample, DTYPES[case.dtype])
        passes = gpu_passes(case.operation, case.sample, inputs, needed(case, inputs))
        for direction, run_pass in zip(("forward", "backward"), passes):
            tuning.forget()
            with tuning.assuming(architecture):
                launches_of(run_pass)
            for question in tuning.asked():
                tasks.setdefault(question, Task(question, case, direction))
    tuning.forget()
    return list(tasks.values())


def _by_case(tasks: Sequence[Task]) -> list[list[Task]]:
    groups: dict[int, list[Task]] = {}
    for task in tasks:
        groups.setdefault(id(task.case), []).append(task)
    return list(groups.values())


class _InPlace(NamedTuple):
    """A pass, to be run with a candidate in place."""

    question: Question
    configuration: tuple[int, ...]
    call: Callable[[], object]

    def __call__(self):
        return self.call()


class _CandidatesClock:
    """A clock that puts a candidate in place while it is sampled."""

    def __init__(self, clock: Clock):
        self._clock = clock

    def settle(self) -> None:
        self._clock.settle()

    def sample(self, candidate: _InPlace, calls: int) -> float:
        from ..kernels import tuning

        with tuning.trying(candidate.question, candidate.configuration):
            return self._clock.sample(candidate, calls)


def search(
    tasks: Sequence[Task], options: argparse.Namespace, architecture: int, clock: Clock, say: Callable[[str], None]
) -> Iterator[Result]:
    """Yields the results of one case's tasks, one after the other: what an earlier one found counts for the later."""
    case, device = tasks[0].case, options.device
    try:
        cases.check_fits(case, device, 2, True)
    except (ValueError, TypeError) as error:
        say(f"left out: {error}")
        return
    inputs = case.build()
    copies = sets_past_cache(device, sum(x.nbytes for x in inputs if hasattr(x, "nbytes")))
    variant = ranvier_variant(case, inputs, device, None, copies)
    for task in tasks:
        if task.direction == "forward":
            call, timed, what = variant.forward, variant.timed, "output"
        else:
            call = timed = variant.backward(_gradients(case, [variant.fetch(y) for y in variant.forward()]))
            what = "gradient"

        def arrays(call=call):
            return [variant.fetch(array) for array in call()]

        yield _search_one(task, arrays, timed, inputs, what, options, architecture, clock)


def _gradients(case: Case, outputs: Sequence[np.ndarray]) -> tuple:
    rng, chosen = np.random.default_rng(1), differentiated(case, outputs)
    return tuple(
        rng.standard_normal(y.shape).astype(y.dtype) if index in chosen else None for index, y in enumerate(outputs)
    )


def _search_one(task, arrays, timed, inputs, what, options, architecture, clock) -> Result:
    from triton.runtime.errors import PTXASError

    from ..kernels import tuning
    from ..kernels.compiled import OutOfResources
    from ..kernels.device import OutOfMemory

    question, case = task.question, task.case
    choice = tuning.Choice.registry[question.kernel]
    configurations = choice.configurations(architecture, np.dtype(question.dtype), question.bucket)
    if options.quick:
        configurations = configurations[:_QUICK_CANDIDATES]
    old = choice.in_force(device_index(options.device), question)
    result = Result(task, old, configurations[0])
    configurations = list(dict.fromkeys([*configurations, old]))
    _compile_ahead(task, configurations, architecture)
    expected = None
    for configuration in configurations:
        try:
            with tuning.trying(question, configuration):
                found = arrays()
        except (OutOfResources, OutOfMemory, PTXASError):
            if expected is None:
                raise  # the shipped one must run
            result.without_room += 1
            continue
        if expected is None:
            expected = found
        if wrong := agreement.disagreement(case, expected, found, inputs, what):
            result.wrong[configuration] = wrong
            continue
        result.seconds[configuration] = 0.0
    candidates = {c: _InPlace(question, c, timed) for c in result.seconds}
    seconds = options.seconds * len(candidates)
    for configuration, samples in measure(candidates, seconds=seconds, clock=_CandidatesClock(clock)).items():
        result.seconds[configuration] = float(np.median(samples))
    return result


def _compile_ahead(task: Task, configurations: Sequence[tuple[int, ...]], architecture: int) -> None:
    """Compiles what the candidates launch on all cores at once; the disk keeps it until each is run."""
    from ..kernels import launch, tuning
    from .launches import form_of, gpu_passes, launches_of, zero_inputs

    case, forms = task.case, {}
    inputs = zero_inputs(case.sample, DTYPES[case.dtype])
    for configuration in configurations:
        with tuning.trying(task.question, configuration), tuning.assuming(architecture):
            for run_pass in gpu_passes(case.operation, case.sample, inputs, needed(case, inputs)):
                forms |= {form.key: form for form in map(form_of, launches_of(run_pass))}

    def compile_form(form):
        _, signature = form.compile_arguments()
        launch.kernel_of(form.kernel).obtain(signature, architecture, **form.constants)

    with ThreadPoolExecutor(core_count()) as pool:
        # What cannot be compiled fails again when it is run, and is told of there.
        wait([pool.submit(compile_form, form) for form in forms.values()])


def keep(path: Path, name: str, architecture: int, result: Result) -> None:
    """Puts a result into the device's file, beside what it has of other questions and other versions of Triton; a
    damaged file is written anew. Processes that write at once wait for one another."""
    import triton

    from ..kernels import tuning

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            before = tuning.read_entries(path, name, architecture)
        except ValueError:
            before = []
        entries = {(tuning.question_of(entry), entry["triton"]): entry for entry in before}
        entries[result.task.question, triton.__version__] = _entry(result, triton.__version__)
        lines = ",\n".join(json.dumps(entry) for _, entry in sorted(entries.items(), key=lambda item: str(item[0])))
        header = json.dumps(tuning.header_of(name, architecture))
        text = f'{header[:-1]}, "entries": [\n{lines}\n]}}\n'
        write_atomically(path, lambda temporary: Path(temporary).write_text(text))
    tuning.forget()


def _entry(result: Result, version: str) -> dict:
    from ..kernels import tuning

    (question, case, direction), best = result.task, result.best
    return {
        "kernel": question.kernel, "dtype": question.dtype, "bucket": list(question.bucket), "triton": version,
        "configuration": dict(zip(tuning.Choice.registry[question.kernel].fields, best)),
        "seconds": result.seconds[best], "shipped_seconds": result.seconds[result.shipped],
        "measured_on": f"{case.operation.name} {case.name} {direction}", "candidates": len(result.seconds),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def describe(results: Sequence[Result]) -> str:
    """The table of old and new, a line a choice; then what was wrong."""
    rows = [("kernel", "dtype", "sizes up to", "measured on", "old", "new", "old", "new", "gain")]
    for result in results:
        question, case, direction = result.task
        old, new = result.seconds.get(result.old), result.seconds[result.best]
        rows.append(
            (
                question.kernel,
                question.dtype,
                " ".join(map(str, question.bucket)),
                f"{case.operation.name} {case.name} {direction}",
                _text(result.old),
                "as it was" if result.best == result.old else _text(result.best),
                "-" if old is None else f"{old * 1e6:.1f} us",
                f"{new * 1e6:.1f} us",
                "-" if old is None else f"{old / new:.2f}x",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    changed = sum(result.best != result.old for result in results)
    skipped = sum(result.without_room for result in results)
    lines.append(f"{changed} of {len(results)} changed; {skipped} candidates need more of the device than it has.")
    for result in results:
        for configuration, wrong in result.wrong.items():
            question = result.task.question
            lines.append(f"error: {question.kernel} {question.dtype} {_text(configuration)}: {wrong}; never chosen")
    return "\n".join(lines)


def _text(configuration: tuple[int, ...]) -> str:
    return " ".join(map(str, configuration))
