"""A training step of a model, layer by layer and kernel by kernel: time, flops, memory.

    ranvier profile model digits
    ranvier profile model net.py:build --input 32x1x28x28 --loss cross_entropy --trace step.json

TARGET is a recipe (its own data, loss and optimizer; its options follow `--`), or FILE.py:FUNCTION. The function takes
nothing and returns

    a layer             --input says what it is fed with, --loss what becomes of its output
    (layer, inputs)     arrays or tensors that it is called with
    (layer, step)       step() returns the loss of a batch; or None, if it has gone backward and stepped by itself

First come steps in which kernels are compiled, then one in which memory is traced, then steps timed as they are, then
steps recorded. The tables show the recorded ones, without what the recording itself takes.
"""

from __future__ import annotations

import argparse
import contextlib
import tracemalloc
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from ..kernels import memory
from . import record
from .averages import describe_shapes, seconds, size
from .holdings import Peak
from .machine import device_record
from .model_target import DTYPES, LOSSES, OPTIMIZERS, Enough, target_of
from .trace import profile

_HOLDERS = 8  # lines of what held the memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="FILE.py:FUNCTION, or a recipe's name")
    parser.add_argument(
        "--input", action="append", default=[], metavar="SHAPE",
        help="an input of normal values, such as 32x1x28x28, or of whole numbers below 1000: 32x20:1000; once for each",
    )  # fmt: skip
    parser.add_argument("--loss", choices=LOSSES, help="with a target of random values (mse_loss)")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help="with its default options (Adam)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of parameters and inputs (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index> (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
    parser.add_argument("--steps", type=_positive, default=10, metavar="N", help="steps to record (%(default)s)")
    parser.add_argument(
        "--warm-up", type=_positive, default=3, metavar="N", help="steps before any count (%(default)s)"
    )
    parser.add_argument(
        "--training", type=_positive, default=1, metavar="N",
        help="which training, where a recipe has several: the N-th optimizer that takes a step (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--rows", type=_positive, default=20, metavar="N", help="rows of a table (%(default)s)")
    parser.add_argument("--trace", metavar="FILE.json", help="write a trace for https://ui.perfetto.dev")
    parser.add_argument("--output", metavar="FILE.jsonl", help="write steps and kernels as a record")
    parser.add_argument("--nvtx", action="store_true", help="mark ranges for NVIDIA's Nsight")
    parser.add_argument(
        "--with", dest="recipe_options", nargs=argparse.REMAINDER, default=[], metavar="OPTION",
        help="all that follows are options of the recipe: `ranvier profile model fashion --with --data DIR`",
    )  # fmt: skip
    parser.set_defaults(model=None)


def run(options: argparse.Namespace) -> int:
    """Prints the report; returns the exit status."""
    train = target_of(options)
    steps = Steps(options)
    with contextlib.suppress(Enough, KeyboardInterrupt):
        steps.watch(train)
    if not any(step.is_recorded for step in steps.profile.steps):
        raise ValueError(
            f"profile model: expected training {options.training} of {options.target} to make more than "
            f"{steps.before} steps, got {len(steps.profile.steps)}; --steps, --warm-up and --training choose others"
        )
    print(report(steps, options))
    if options.trace:
        steps.profile.export_chrome_trace(options.trace)
        print(f"\ntrace written to {options.trace}: open it in https://ui.perfetto.dev")
    if options.output:
        record.write(options.output, to_record(steps, options))
        print(f"record written to {options.output}")
    return 0


class Steps:
    """A training watched for as many steps as it takes.

    Attributes:
        profile: of the recorded steps.
        plain: seconds of the steps that were timed as they are.
        traced_peak: bytes that one step allocated at most beyond those it began with, None on a GPU.
        before: steps before the first recorded one.
    """

    def __init__(self, options: argparse.Namespace):
        self.traced = options.warm_up  # the index of the step in which memory is traced
        self.before = options.warm_up + 1 + options.steps
        self.needed = self.before + options.steps
        self.profile = profile(options.model, warm_up=self.before, nvtx=options.nvtx)
        self.traced_peak: int | None = None
        self._bar = tqdm(total=self.needed, unit="step", desc=f"{options.target}, kernels compile once", leave=False)
        self._on_cpu = options.device == "cpu"
        self._tracing = contextlib.ExitStack()

    def watch(self, train: Callable) -> None:
        """Trains until enough was seen."""
        with self._bar, self.profile, self._tracing:
            train(self._done)

    def _done(self) -> None:
        self.profile.step()
        self._bar.update()
        done = len(self.profile.steps)
        if done == self.traced + 1 and tracemalloc.is_tracing():
            self.traced_peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self._tracing.close()
        if done == self.traced and self._on_cpu:
            self._tracing.enter_context(memory.supplied_by(memory.fresh))
            tracemalloc.start()
        if done == self.needed:
            raise Enough

    @property
    def plain(self) -> np.ndarray:
        return np.array([step.seconds for step in self.profile.steps[self.traced + 1 : self.before]])

    @property
    def recorded(self) -> np.ndarray:
        """Seconds of the recorded steps, less what recording took."""
        return np.array([step.seconds for step in self.profile.steps if step.is_recorded])


def report(steps: Steps, options: argparse.Namespace) -> str:
    """What a person wants to know, the broadest first."""
    recorded, plain, seen = steps.recorded, steps.plain, steps.profile
    low, middle, high = np.quantile(plain, [0.25, 0.5, 0.75])
    phases = seen.key_averages("phase", per_step=True)
    step = sum(row.self_time for row in phases)
    between = sum(row.self_time - row.kernel_time for row in phases)
    tables = [
        seen.table(group, sort_by=order, row_limit=options.rows, per_step=True)
        for group, order in (("phase", None), ("layer", None), ("kernel", "self_time"))
    ]
    return "\n\n".join([
        f"{options.target} on {options.device}: a step takes {seconds(middle)} "
        f"(the middle half {seconds(low)} to {seconds(high)}, {len(plain)} steps)\n"
        f"recorded: {len(recorded)} steps, mean {seconds(step)}, median {seconds(np.median(recorded))}; "
        f"{seconds(between)} ({between / step:.0%}) on the host outside kernels",
        *tables,
        describe_peak(seen.peak_memory, steps.traced_peak),
    ])  # fmt: skip


def describe_peak(peak: Peak, traced: int | None) -> str:
    """The peak and the largest of what held it."""
    lines = [f"memory: at most {size(peak.bytes)} in arrays that operations read, made or saved, held by"]
    holders: dict[tuple[str, str | None], list] = defaultdict(list)
    for holding in peak.holdings:
        holders[holding.origin, holding.layer].append(holding)
    rows = sorted(holders.items(), key=lambda item: -sum(holding.bytes for holding in item[1]))
    for (origin, layer), held in rows[:_HOLDERS]:
        largest = f"{'x'.join(map(str, held[0].shape)) or 'scalar'} {held[0].dtype}"
        text = largest if len(held) == 1 else f"{len(held)} arrays, the largest {largest}"
        bytes_held = sum(holding.bytes for holding in held)
        where = "" if layer is None else f" in {layer or 'the model'}"
        lines.append(f"  {size(bytes_held):>12}  {origin}{where}: {text}")
    if len(rows) > _HOLDERS:
        rest = sum(holding.bytes for _, held in rows[_HOLDERS:] for holding in held)
        lines.append(f"  {size(rest):>12}  {len(rows) - _HOLDERS} more")
    if traced is not None:
        lines.append(
            f"        one step allocated at most {size(traced)} more than there was, kernels' scratch included"
        )
    return "\n".join(lines)


def to_record(steps: Steps, options: argparse.Namespace) -> record.Record:
    """The steps, and each kernel by its shapes, as rows."""
    run_line = record.new_run(device_record(options.device), getattr(options, "command_line", "ranvier profile model"))
    common = {"family": "model", "variant": "ranvier", "configuration": options.device}
    rows = [
        record.Row(
            group="training step", name=options.target, case="profiled", shapes="", dtype=options.dtype,
            direction="step", samples=len(steps.plain), quantiles=record.quantiles_of(steps.plain), **common,
        )
    ]  # fmt: skip
    calls = defaultdict(list)
    for span in steps.profile.spans:
        if span.kind == "kernel":
            shapes = (span.cause or span).shapes
            dtype = shapes[0][2] if shapes else ""
            calls[span.name, span.direction or "forward", describe_shapes(shapes), dtype].append(span)
    for (name, direction, shapes, dtype), spans in calls.items():
        samples = np.array([span.time for span in spans]) / 1e9
        rows.append(record.Row(
            group="kernel in model", name=name, case=options.target, shapes=shapes, dtype=dtype, direction=direction,
            samples=len(samples), quantiles=record.quantiles_of(samples), flops=spans[0].flops, **common,
        ))  # fmt: skip
    return record.Record(run_line, rows)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of 1 or more, got {text}")
    return value
