"""This library's standing table against PyTorch on this machine: a row a kernel, a training step, a start.

`ranvier bench` measures all rows, `--quick` the short ones in less than a minute, and names pick: `ranvier bench lstm`,
`ranvier bench conv2d/resnet_56`, `ranvier bench small`; `--list` shows them. Each library runs in a process of its own
and they take turns, so that neither's threads disturb the other. Ctrl-C ends with what was measured so far.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import bench_cases, bench_table, devices, record
from .bench_libraries import PYTORCH, RANVIER, require_pytorch
from .bench_processes import MemoryCase, StartCase
from .bench_worker import Turn, Worker, WorkerClock, WorkerError, WorkerGone
from .timing import measure

DEFAULT_RECORD = Path("profiling/results/bench-cpu.jsonl")
_SECONDS, _QUICK_SECONDS = 0.4, 0.06  # a row, all its variants together
_START_SECONDS = 8.0
_LONGEST_QUICK = 0.25  # expected seconds beyond the timing, of a row that --quick takes up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="rows, operations, families, kinds or sizes of models (all rows)"
    )
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name fits, such as 'conv2d/*' or resnet")
    parser.add_argument("--list", action="store_true", help="show the rows' names and measure nothing")
    parser.add_argument("--quick", action="store_true", help="short rows only, timed briefly: less than a minute")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"how long to time a row ({_SECONDS})")
    parser.add_argument("--threads", type=int, metavar="N", help="of both libraries (each one's own default)")
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=DEFAULT_RECORD,
        metavar="FILE",
        help=f"write JSON lines ({DEFAULT_RECORD})",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as a Markdown page")
    parser.add_argument(
        "--from", type=Path, dest="saved", metavar="FILE", help="show a saved file of measurements, measure nothing"
    )


def run(options: argparse.Namespace) -> int:
    """Runs `ranvier bench`; returns the exit status: 1 where rows failed, 130 where it was interrupted."""
    _check(options)
    if options.saved is not None:
        made = record.read(options.saved)
        print(bench_table.HEADER)
        for line in bench_table.lines_of(made):
            print(bench_table.text_line(line))
        return _finish(made, options)
    if options.list:
        print(bench_cases.listing(bench_cases.select(options.names, options.only)))
        return 0
    cases = _chosen(options)
    require_pytorch()
    device = {"name": devices.processor(), "threads": {}}  # the workers tell their threads when they have started
    made = record.Record(record.new_run(device, options.command_line))
    status = 0
    try:
        with _termination_as_interrupt():
            _measure_all(cases, options, made)
    except KeyboardInterrupt:
        print("interrupted: this is what was measured so far")
        status = 130
    except WorkerGone as error:
        print(f"{error}; this is what was measured before")
        status = 1
    finished = _finish(made, options)
    return status or finished


def _check(options: argparse.Namespace) -> None:
    for name in ("seconds", "threads"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"bench: expected --{name} above 0, got {value}")
    if not hasattr(signal, "SIGSTOP"):
        raise OSError("bench: expected a system that stops processes on request, as Linux and macOS do, got none")
    for path in (options.save, options.markdown):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"bench: expected a folder at {path.parent} to write {path.name} into, found none")


def _chosen(options: argparse.Namespace) -> list:
    """The cases that are asked for, in groups, the short ones first."""
    cases = bench_cases.select(options.names, options.only)
    if options.quick:
        cases = [case for case in cases if case.expected < _LONGEST_QUICK]
    if not cases:
        raise ValueError("bench: expected rows that --quick has time for, got none; leave it out")
    groups = list(dict.fromkeys(case.group for case in bench_cases.ALL))
    return sorted(cases, key=lambda case: (groups.index(case.group), case.expected))


def _measure_all(cases: Sequence, options: argparse.Namespace, made: record.Record) -> None:
    """Measures case by case into the record, and prints each line as soon as it is known."""
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS)
    in_processes = [case for case in cases if isinstance(case, (StartCase, MemoryCase))]
    in_workers = [case for case in cases if case not in in_processes]
    with _Progress(cases, seconds, made) as progress:
        if in_workers:
            with Worker(RANVIER, options.threads) as ours, Worker(PYTORCH, options.threads) as theirs:
                made.run["device"]["threads"] = ours.facts | theirs.facts
                progress.introduce()
                for case in in_workers:
                    progress.begin(case)
                    progress.end(case, list(_measured(case, ours, theirs, seconds, made)))
        else:
            progress.introduce()
        for case in in_processes:
            progress.begin(case)
            if isinstance(case, MemoryCase):
                made.run.setdefault("memory", {})[case.case] = case.measure(options.threads)
                progress.end(case, [])
            else:
                samples = case.measure(options.seconds or _START_SECONDS, options.threads)
                progress.end(case, [_row(case, "step", variant, values) for variant, values in samples.items()])


class _Progress:
    """The bar, above which the table grows line by line."""

    def __init__(self, cases: Sequence, seconds: float, made: record.Record):
        self._seconds, self._made = seconds, made
        bar_format = "{desc:32} {percentage:3.0f}%|{bar}| {remaining} left"
        total = sum(map(self._expected, cases))
        self._bar = tqdm(total=total, bar_format=bar_format, leave=False, disable=None, desc="starting both libraries")

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def introduce(self) -> None:
        """Prints what stands above the table."""
        tqdm.write(bench_table.machine(self._made.run))
        if len(set(self._made.run["device"]["threads"].values())) > 1:
            tqdm.write("the libraries use different numbers of threads; `--threads N` gives them the same")
        tqdm.write(bench_table.HEADER)

    def begin(self, case) -> None:
        """Says what is measured now."""
        self._bar.set_description_str(case.name)

    def end(self, case, rows: Sequence[record.Row]) -> None:
        """Adds a case's rows to the record and its lines to the table."""
        self._made.rows.extend(rows)
        peaks = {case.case: self._made.run["memory"][case.case]} if isinstance(case, MemoryCase) else {}
        for line in bench_table.lines_of(record.Record({"memory": peaks}, list(rows))):
            tqdm.write(bench_table.text_line(line))
        self._bar.update(self._expected(case))

    def _expected(self, case) -> float:
        return case.expected + self._seconds * len(getattr(case, "directions", ()))


def _measured(case, ours: Worker, theirs: Worker, seconds: float, made: record.Record) -> Iterator[record.Row]:
    """The rows of one case; what fails or disagrees goes into the record's errors instead."""
    own = dict.fromkeys((RANVIER, *getattr(case, "own_variants", ())), ours)
    workers = own | dict.fromkeys(case.variants, theirs)
    shared, results = None, {}
    try:
        for variant, worker in list(workers.items()):
            results[variant], shared = worker.ask("prepare", case.name, variant, shared)
            wrong = case.disagreement(results[RANVIER], results[variant]) if variant != RANVIER else None
            if wrong:
                _fail(made, case, variant, wrong)
                del workers[variant]
        results.clear()
        for direction in case.directions if len(workers) > 1 else ():
            turns = {variant: Turn(worker, variant, direction) for variant, worker in workers.items()}
            samples = measure(turns, seconds=seconds, clock=WorkerClock())
            for variant, values in samples.items():
                yield _row(case, direction, variant, values)
    except WorkerError as error:
        _fail(made, case, variant, str(error))
    for worker in (ours, theirs):
        worker.ask("forget")


def _row(case, direction: str, variant: str, samples: np.ndarray) -> record.Row:
    cost = getattr(case, "cost", None) if direction == "forward" else None
    return record.Row(
        group=case.group,
        name=case.subject,
        family=case.family,
        case=case.case,
        shapes=getattr(case, "shapes", ""),
        dtype="float32",
        direction=direction,
        variant=variant,
        samples=len(samples),
        quantiles=record.quantiles_of(samples),
        flops=None if cost is None else cost.flops,
        bytes=None if cost is None else cost.bytes,
    )


def _fail(made: record.Record, case, variant: str, reason: str) -> None:
    made.errors.append(record.Error(case.subject, case.case, "float32", "", variant, reason))
    tqdm.write(f"{case.name:56} not timed: {variant}: {reason}")


def _finish(made: record.Record, options: argparse.Namespace) -> int:
    """Prints the means and writes the files that were asked for; returns 1 where rows failed, else 0."""
    lines = bench_table.lines_of(made)
    if lines:
        print(f"\n{bench_table.text_means(bench_table.means_of(lines))}\n\n{bench_table.LEGEND}")
        if options.save is not None:
            record.write(options.save, made)
            print(f"measurements: {options.save}")
        if options.markdown is not None:
            bench_table.write_markdown(options.markdown, made)
            print(f"table: {options.markdown}")
    if made.errors:
        print(f"{len(made.errors)} not timed, because they failed or their results did not agree; see above")
    return 1 if made.errors else 0


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """A request to end (SIGTERM, as `timeout` sends it) is taken as Ctrl-C: what was measured is kept."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
