"""Training steps of the bench's networks on a GPU, beside PyTorch on the same: `python -m ranvier.profiling.gpu_steps`.

Both libraries train the same network on the same data, and their losses are compared before anything is timed. A time
is the host's, from the first launch until the GPU is done, over many steps: what a user waits for. PyTorch runs
eagerly, as it is set up by default, with convolutions in TF32, and with its fused optimizers.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..train.capture import CaptureError, capture
from . import record, table
from .bench_libraries import CAPTURED, PYTORCH, RANVIER, Library, difference, pytorch, ranvier
from .bench_models import CASES, COMPARED_STEPS, ModelCase, Training
from .machine import device_record
from .timing import measure

_TOLERANCE = 1e-2  # of the losses: TF32 has a mantissa of 10 bits
_FAILURES = (RuntimeError, ValueError, TypeError, MemoryError)


class WallClock:
    """Times calls by the host's clock, until the GPU has done all of them."""

    def __init__(self, device: str):
        import cupy

        from .machine import device_index

        self._device = cupy.cuda.Device(device_index(device))

    def settle(self) -> None:
        """Waits until the GPU has nothing to do."""
        self._device.synchronize()

    def sample(self, function: Callable[[], object], calls: int) -> float:
        """Seconds for all calls."""
        self.settle()
        started = time.perf_counter()
        for _ in itertools.repeat(None, calls):
            function()
        self.settle()
        return time.perf_counter() - started


def ranvier_on(device: str) -> Library:
    """Ranvier with its tensors on a device."""
    here = ranvier()

    def tensor(array):
        return here.tensor(array, device=device)

    return replace(here, tensor=tensor, images=tensor, place=lambda network: network.to(device))


def pytorch_on(device: str) -> Library:
    """PyTorch with its tensors on a device."""
    here = pytorch()
    return replace(
        here,
        tensor=lambda array: here.tensor(array).to(device),
        images=lambda array: here.images(array).to(device),
        place=lambda network: network.to(device),
    )


def trainings(case: ModelCase, device: str) -> dict[str, Training]:
    """The network in each variant, from the same state."""
    here = ranvier_on(device)
    ours, captured, theirs = case.training(here), case.training(here), case.training(other := pytorch_on(device))
    state = {name: value.numpy() for name, value in ours.network.state_dict().items()}
    here.load(captured.network, state)
    other.load(theirs.network, state)
    captured.step = capture(captured.step)
    return {RANVIER: ours, CAPTURED: captured, PYTORCH: theirs}


def rows_of(case: ModelCase, device: str, seconds: float, made: record.Record) -> list[record.Row]:
    """One case measured; what fails or disagrees is in the record's errors instead."""

    def fail(variant: str, reason: object) -> None:
        made.errors.append(record.Error(case.subject, case.case, "float32", "step", variant, str(reason)))

    steps, losses, variant = {}, {}, "all"
    try:
        for variant, training in trainings(case, device).items():
            losses[variant] = {"losses": np.array([float(training.step().item()) for _ in range(COMPARED_STEPS)])}
            if variant != RANVIER and (wrong := difference(losses[RANVIER], losses[variant], _TOLERANCE)):
                fail(variant, wrong)
            else:
                steps[variant] = training.step
        samples = measure(steps, seconds=seconds, clock=WallClock(device))
    except (*_FAILURES, CaptureError) as error:
        fail(variant, error)
        return []
    return [
        record.Row(
            group=case.group, name=case.subject, family=case.family, case=case.case, shapes=case.shapes,
            dtype="float32", direction="step", variant=variant, samples=len(values),
            quantiles=record.quantiles_of(values),
        )
        for variant, values in samples.items()
    ]  # fmt: skip


def main() -> int:
    """Measures all networks and prints a line a network; returns the exit status: 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:<index> (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="to time each network (%(default)s)")
    parser.add_argument("--only", default="", metavar="WORD", help="networks whose name has this in it, such as small")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="all measurements")
    options = parser.parse_args()
    made = record.Record(record.new_run(device_record(options.device), " ".join(["gpu_steps", *sys.argv[1:]])))
    for line in table.machine_lines(made):
        print(line)
    try:
        for case in (case for case in CASES if options.only in case.name):
            rows = rows_of(case, options.device, options.seconds, made)
            made.rows += rows
            times = {row.variant: row.median for row in rows}
            print(f"{case.name:28}", "  ".join(f"{name} {table.duration(t)}" for name, t in times.items()), flush=True)
            if options.output:
                record.write(options.output, made)
    except KeyboardInterrupt:
        print("interrupted: this is what was measured so far")
    for item in made.errors:
        print(f"error: {item.name}/{item.case}, {item.variant}: {item.reason}")
    return 1 if made.errors else 0


if __name__ == "__main__":
    sys.exit(main())
