"""What is known of a GPU kernel before it runs: registers, spills, shared memory, occupancy, instructions.

A form is compiled by Triton, its cubin read and disassembled. What came out is kept on disk under a hash of all that it
depends on, so that asking again is quick.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..kernels.cache import cache_directory
from ..kernels.compiled import Compiled
from ..kernels.cubin import read_code
from ..train.checkpoint import write_atomically
from .launches import Form
from .machine_code import arrays_on_the_stack, disassemble, instruction_mix, ptx_mix
from .occupancy import Occupancy, occupancy

_KEPT = 2  # the version of what is kept; another one is not read
_BATCH = 64  # kernels that are disassembled at once


@dataclass(frozen=True)
class Analysis:
    """One form of a kernel, compiled for one architecture.

    Attributes:
        registers: a thread.
        spill_bytes: of registers that had to be moved to memory, a thread.
        stack_bytes: a thread: spills, and arrays that the source itself puts there.
        shared_bytes, threads, tensor_columns: a block.
        instructions: see `machine_code.instruction_mix`.
        ptx: see `machine_code.ptx_mix`.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    threads: int
    tensor_columns: int = 0
    instructions: dict = field(default_factory=dict)
    ptx: dict = field(default_factory=dict)

    def occupancy(self, architecture: int) -> Occupancy:
        return occupancy(architecture, self.threads, self.registers, self.shared_bytes, self.tensor_columns)

    @property
    def tensor_instructions(self) -> int:
        return sum(self.instructions.get("tensor", {}).values())

    @property
    def async_copies(self) -> int:
        return sum(self.instructions.get("async_copy", {}).values())

    @property
    def load_width(self) -> int:
        """The widest load or copy from global memory, in bytes a thread; 0 where whole tiles are copied, or nothing."""
        widths = {**self.instructions.get("global_load", {}), **self.instructions.get("async_copy", {})}
        return max(map(int, widths), default=0)


def analyse(forms: Sequence[Form], architecture: int, progress: Callable[[], object] = lambda: None) -> list[Analysis]:
    """The forms, compiled for an architecture (80, 90, ...); `progress` is called after each."""
    results: dict[int, Analysis] = {}
    waiting: list[tuple[int, Path, Compiled]] = []
    for index, form in enumerate(forms):
        known, signature = form.compile_arguments()
        kept = _folder() / f"{known.key(signature, architecture, **form.constants)}.json"
        analysis = _read(kept)
        if analysis is None:
            waiting.append((index, kept, known.compile(signature, architecture, **form.constants)))
            if len(waiting) == _BATCH:
                results |= _finish(waiting, architecture)
                waiting = []
        else:
            results[index] = analysis
        progress()
    results |= _finish(waiting, architecture)
    return [results[index] for index in range(len(forms))]


def _finish(waiting: list[tuple[int, Path, Compiled]], architecture: int) -> dict[int, Analysis]:
    codes = [read_code(compiled.cubin, compiled.name) for _, _, compiled in waiting]
    finished = {}
    for (index, kept, compiled), opcodes in zip(waiting, disassemble(codes, architecture) if codes else []):
        arrays = arrays_on_the_stack(compiled.ptx)
        finished[index] = analysis = Analysis(
            registers=compiled.info.registers,
            # The frame is rounded up, so that an array alone can leave a few bytes over; spills come with stores.
            spill_bytes=max(0, compiled.info.stack_bytes - -(-arrays // 16) * 16),
            stack_bytes=compiled.info.stack_bytes,
            shared_bytes=compiled.shared_bytes,
            threads=compiled.threads,
            tensor_columns=getattr(compiled.metadata, "tmem_size", None) or 0,
            instructions=instruction_mix(opcodes),
            ptx=ptx_mix(compiled.ptx),
        )
        _write(kept, analysis)
    return finished


def _folder() -> Path:
    return cache_directory() / "static"


def _read(path: Path) -> Analysis | None:
    """What was kept; None where nothing was, or what this version cannot use."""
    try:
        kept = json.loads(path.read_text())
        return Analysis(**kept["analysis"]) if kept["version"] == _KEPT else None
    except FileNotFoundError:
        return None


def _write(path: Path, analysis: Analysis) -> None:
    text = json.dumps({"version": _KEPT, "analysis": asdict(analysis)})
    write_atomically(path, lambda temporary: Path(temporary).write_text(text))
