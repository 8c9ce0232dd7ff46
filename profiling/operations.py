"""Times operations on named real shapes, forward and backward, beside every peer that is installed: PyTorch, in
channels-last memory too, NumPy and SciPy, CuPy. Results are compared first; what differs is not timed.

  ranvier profile conv2d                          one operation on the shapes that it declares
  ranvier profile conv softmax/ --pass backward   families; with a slash where an operation has that name too
  ranvier profile all --seconds 0.3               everything
  ranvier profile conv2d --shape x=32x64x56x56 weight=64x64x3x3 --attribute stride=2,2
  ranvier profile cross_entropy --shape input=256x1000 target=256:1000

Columns: median and spread (the middle half of the samples, as a share of the median) of a call's time; rates and
FLOP/B from the least work of the pass; roofline is the share of what this machine's ceilings allow, and bound says
which ceiling: compute, bandwidth, or launch where a call costs more than the work. Above 100 % data stayed in a cache.
Forward passes save what a backward pass needs, in every library. Ctrl-C ends with what was measured so far.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..kernels.device import to_device
from . import agreement, cases, counters, record, table, work
from .cases import DTYPES, Case
from .ceilings import ceilings
from .gpu_timing import GpuClock, clock_for, sets_past_cache
from .machine import device_record
from .peers import no_peer, peer_variants
from .record import Error, Missing, Record, Row
from .timing import measure
from .variants import NoPeer, Variant, as_tuple, differentiated, launched, needed, ranvier_variant

PASSES = ("forward", "backward")
# What a kernel or a peer raises where it cannot do a case; anything else is a mistake in this program.
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ranvier profile WHAT`."""
    parser.add_argument("what", nargs="+", metavar="WHAT", help="operations, families, or all")
    parser.add_argument("--case", nargs="+", default=[], metavar="NAME", help="declared cases by name, small ones too")
    parser.add_argument(
        "--shape", nargs="+", metavar="INPUT=SHAPE", help="your own shapes; 256:1000 is integers < 1000"
    )
    parser.add_argument("--attribute", nargs="+", default=[], metavar="NAME=VALUE", help="such as stride=2,2")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES, help="float32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index> (%(default)s)")
    parser.add_argument(
        "--implementation", nargs="+", default=[None], choices=["reference", "cpu", "gpu"],
        help="of Ranvier's own: several are compared (the device's)",
    )  # fmt: skip
    parser.add_argument("--pass", dest="direction", choices=[*PASSES, "both"], default="both", help="%(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="to time each case and pass (%(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="time Ranvier alone")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="only these, such as pytorch (all that are installed)"
    )
    parser.add_argument("--remeasure", action="store_true", help="measure this machine's ceilings again")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="all measurements, for compare and reports")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="tables and roofline in one page")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="the roofline, as PNG and SVG")


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; returns the exit status: 130 after Ctrl-C, 1 if anything went wrong."""
    operations = cases.select(options.what)
    to_device(np.zeros(1, np.float32), options.device)  # refuses a device that is not there
    fitting = ("cpu", "reference") if options.device == "cpu" else ("gpu",)
    for implementation in options.implementation:
        if implementation not in (None, *fitting):
            raise ValueError(
                f"--implementation: expected {' or '.join(fitting)} on {options.device}, got {implementation}"
            )
    if not options.seconds > 0:
        raise ValueError(f"--seconds: expected a number above 0, got {options.seconds}")
    for word in cases.ambiguous(options.what):
        print(f"{word} is taken for the operation; {word}/ is the family")
    chosen, unfit = _chosen_cases(operations, options)
    profile = _Profile(options, _started(options), counts=options.device == "cpu")
    profile.record.errors += unfit
    for line in table.machine_lines(profile.record):
        print(line)
    if options.device == "cpu" and (reason := counters.unavailable()):
        print(reason)
        profile.counts = False
    status = profile.measure_all(chosen)
    for variant in dict.fromkeys(item.variant for item in profile.record.missing):
        reasons = [item.reason for item in profile.record.missing if item.variant == variant]
        print(f"missing: {variant}: {'; '.join(reasons)}")
    for item in profile.record.errors:
        print(f"error: {item.name} {item.case} {item.dtype} {item.direction}, {item.variant}: {item.reason}")
    profile.write_all()
    return status or (1 if profile.record.errors else 0)


def _chosen_cases(operations: Sequence, options: argparse.Namespace) -> tuple[list[Case], list[Error]]:
    """The cases to measure, and those that do not fit here. What the user spelled out must fit."""
    attributes = cases.parse_attributes(options.attribute)
    spelled_out = bool(options.shape or options.attribute or options.case)
    if options.shape and len(operations) != 1:
        raise ValueError(f"--shape: expected one operation to go with it, got {len(operations)}")
    chosen: list[Case] = []
    for operation in operations:
        for dtype in options.dtype:
            if options.shape:
                chosen.append(cases.case_of_shapes(operation, cases.parse_shapes(options.shape), attributes, dtype))
            else:
                declared = cases.declared_cases(operation, dtype, options.case)
                chosen += [cases.with_attributes(case, attributes) for case in declared]
    fit, unfit = [], []
    for case in chosen:
        variants = len(options.implementation) + (0 if options.no_peers else 3)
        try:
            cases.check_fits(case, options.device, variants, options.direction != "forward")
        except (ValueError, TypeError) as error:
            if spelled_out:
                raise
            unfit.append(Error(case.operation.name, case.name, case.dtype, options.direction, "ranvier", str(error)))
        else:
            fit.append(case)
    return fit, unfit


def _started(options: argparse.Namespace) -> Record:
    """The record before its first row, with the machine's ceilings."""
    machine = device_record(options.device)
    made = Record(record.new_run(machine, options.command_line))
    with tqdm(desc="ceilings", bar_format="{desc} [{elapsed}]", leave=False) as bar:
        made.run["ceilings"] = ceilings(
            options.device, machine, made.run["versions"], remeasure=options.remeasure, progress=bar.set_description
        )
    return made


@dataclass
class _Profile:
    """A run under way."""

    options: argparse.Namespace
    record: Record
    reasons: set[Missing] = field(default_factory=set)
    counts: bool = False

    def measure_all(self, chosen: Sequence[Case]) -> int:
        """Measures the cases one after the other; returns 130 if it was interrupted."""
        clock = clock_for(self.options.device)
        with tqdm(total=len(chosen), unit="case", disable=not chosen) as bar:
            for number, case in enumerate(chosen):
                bar.set_description(f"{case.operation.name} {case.name} {case.dtype}")
                before = len(self.record.rows)
                try:
                    _CaseProfile(self, case, clock).measure()
                except KeyboardInterrupt:
                    self._show(bar, before)
                    tqdm.write(f"interrupted: {number} of {len(chosen)} cases are whole")
                    return 130
                self._show(bar, before)
                if self.options.output:
                    record.write(self.options.output, self.record)
                bar.update(number + 1 - bar.n)
        return 0

    def _show(self, bar: tqdm, before: int) -> None:
        if rows := self.record.rows[before:]:
            bar.write("\n" + table.block(rows, self.record.ceilings))

    def write_all(self) -> None:
        """Writes the record, the report and the picture, as far as they were asked for."""
        options = self.options
        if options.output:
            record.write(options.output, self.record)
            print(f"measurements: {options.output}")
        if not (options.report or options.picture):
            return
        with tempfile.TemporaryDirectory() as folder:
            rows = options.output or Path(folder, "rows.jsonl")
            record.write(rows, self.record)
            if options.report:
                from . import report

                report.write(rows, options.report)
                print(f"report: {options.report}")
            if options.picture:
                from . import roofline

                for path in roofline.save(self.record, options.picture):
                    print(f"picture: {path}")

    def note_missing(self, missing: Sequence[Missing]) -> None:
        """Writes down what is missing, each reason once."""
        for item in missing:
            if item not in self.reasons:
                self.reasons.add(item)
                self.record.missing.append(item)


class _CaseProfile:
    """One case: its variants built, compared, timed."""

    def __init__(self, profile: _Profile, case: Case, clock):
        self.profile, self.case, self.clock, self.options = profile, case, clock, profile.options
        self.inputs = case.build()

    def measure(self) -> None:
        """Adds the rows of the passes asked for."""
        device, case = self.options.device, self.case
        copies = sets_past_cache(device, sum(x.nbytes for x in self.inputs if hasattr(x, "nbytes")))
        variants = []
        for implementation in self.options.implementation:
            variants.append(ranvier_variant(case, self.inputs, device, implementation, copies))
        if not self.options.no_peers:
            peers, missing = peer_variants(case, self.inputs, device, copies)
            chosen = self.options.peers
            variants += [peer for peer in peers if chosen is None or peer.name in chosen]
            self.profile.note_missing(missing)
        passes = PASSES if self.options.direction == "both" else (self.options.direction,)
        own_outputs, agreed = self._agreed("forward", [(v, v.forward) for v in variants])
        if own_outputs is None:
            return
        if "forward" in passes:
            self._time("forward", {v: v.timed for v, _ in agreed}, work.forward_work(case, self.inputs))
        if "backward" in passes and case.operation.differentiable and any(needed(case, self.inputs)):
            self._measure_backward([v for v, _ in agreed if v.backward], own_outputs)

    def _measure_backward(self, variants: Sequence[Variant], outputs: Sequence[np.ndarray]) -> None:
        rng, chosen = np.random.default_rng(1), differentiated(self.case, outputs)
        grads = tuple(
            rng.standard_normal(o.shape).astype(o.dtype) if index in chosen else None for index, o in enumerate(outputs)
        )
        calls = []
        for variant in variants:
            try:
                calls.append((variant, variant.backward(grads)))
            except _FAILURES as error:
                self._note("backward", variant, f"{type(error).__name__}: {error}")
        own_grads, agreed = self._agreed("backward", calls)
        if own_grads is not None:
            self._time("backward", dict(agreed), self._backward_cost(grads))

    def _agreed(self, direction: str, calls: Sequence[tuple]) -> tuple[list | None, list[tuple]]:
        """Ranvier's own arrays, and the (variant, call) whose arrays agree with them. None if its own fail."""
        own, agreed = None, []
        for variant, call in calls:
            try:
                arrays = [variant.fetch(array) for array in as_tuple(call())]
            except NoPeer as reason:
                self.profile.note_missing([no_peer(variant.name, self.case, reason)])
                continue
            except _FAILURES as error:
                self._note(direction, variant, f"{type(error).__name__}: {error}")
                if own is None:
                    return None, []
                continue
            if own is None:
                own = arrays
            else:
                what = "output" if direction == "forward" else "gradient"
                if wrong := agreement.disagreement(self.case, own, arrays, self.inputs, what):
                    self._note(direction, variant, wrong)
                    continue
            agreed.append((variant, call))
        return own, agreed

    def _backward_cost(self, grads: tuple):
        """The least work of the backward pass, from what the CPU's or the GPU's own forward pass saves."""
        case, device = self.case, self.options.device
        arrays = [to_device(x, device) if hasattr(x, "dtype") else x for x in self.inputs]
        output, saved = case.operation.forward(*arrays, **case.sample.attributes)
        given = tuple(None if g is None else to_device(g, device) for g in grads)
        grad = given if isinstance(output, tuple) else given[0]
        own = case.operation.backward(saved, grad, needed(case, self.inputs))
        return work.backward_work(case, self.inputs, saved, given, own)

    def _time(self, direction: str, calls: dict, cost) -> None:
        by_name = {variant.name: (variant, call) for variant, call in calls.items()}
        exposed = self.clock.exposed if isinstance(self.clock, GpuClock) else 0
        samples = measure(
            {name: call for name, (_, call) in by_name.items()}, seconds=self.options.seconds, clock=self.clock
        )
        caught_up = isinstance(self.clock, GpuClock) and self.clock.exposed > exposed
        for name, values in samples.items():
            variant, call = by_name[name]
            configuration = variant.configuration
            if self.options.device != "cpu" and name.partition(" ")[0] == "ranvier":
                configuration += f": {launched(call)}"
            self.profile.record.rows.append(
                Row(
                    group="kernel",
                    name=self.case.operation.name,
                    family=self.case.family,
                    case=self.case.name,
                    shapes=self.case.describe(self.inputs),
                    dtype=self.case.dtype,
                    direction=direction,
                    variant=name,
                    samples=len(values),
                    quantiles=record.quantiles_of(values),
                    configuration=configuration + (", host time not hidden" if caught_up else ""),
                    flops=int(cost.flops),
                    bytes=int(cost.bytes),
                    counters=counters.count(call) if self.profile.counts else None,
                )
            )

    def _note(self, direction: str, variant: Variant, reason: str) -> None:
        case = self.case
        self.profile.record.errors.append(
            Error(case.operation.name, case.name, case.dtype, direction, variant.name, " ".join(reason.split())[:300])
        )
