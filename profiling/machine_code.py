"""What a kernel's machine code consists of: tensor-core instructions, asynchronous copies, how wide its loads are.

The code is disassembled by `nvdisasm`, which Triton brings along. Many kernels go through one call, because starting
the program takes longer than disassembling a kernel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/ +(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)", re.IGNORECASE)
# Groups by the first part of an opcode; what stands in none is counted under "other".
_GROUPS = {
    "global_load": ("LDG", "LD"),
    "global_store": ("STG", "ST"),
    "async_copy": ("LDGSTS", "UBLKCP", "UBLKRED", "UTMALDG", "UTMASTG", "UTMAREDG"),
    "shared": ("LDS", "LDSM", "STS", "STSM", "ATOMS"),
    "tensor_memory": ("LDTM", "STTM", "UTCCP"),
    "local": ("LDL", "STL"),
    "atomic": ("ATOM", "ATOMG", "RED", "REDG", "REDAS"),
    "barrier": ("BAR", "SYNCS", "UCGABAR_ARV", "UCGABAR_WAIT", "BARRIER"),
    "shuffle": ("SHFL", "REDUX", "CREDUX", "VOTE", "VOTEU", "MATCH"),
    "special": ("MUFU",),
    "float": ("FADD", "FFMA", "FMUL", "FADD2", "FFMA2", "FMUL2", "FMNMX", "FMNMX3", "FSEL", "FSET", "FSETP", "FCHK"),
    "double": ("DADD", "DFMA", "DMUL", "DMNMX", "DSETP", "DSET"),
    "half": ("HADD2", "HFMA2", "HMUL2", "HMNMX2", "HSET2", "HSETP2"),
    "conversion": ("F2F", "F2FP", "F2I", "F2IP", "I2F", "I2FP", "I2I", "FRND"),
    "branch": ("BRA", "BRX", "CALL", "RET", "EXIT", "BSSY", "BSYNC", "WARPSYNC"),
}
_BY_WIDTH = ("global_load", "global_store", "async_copy")
_GROUP_OF = {root: group for group, roots in _GROUPS.items() for root in roots}


def disassemble(codes: Sequence[bytes], architecture: int) -> list[list[str]]:
    """The opcodes of each kernel's machine code, in order: "LDG.E.128", "HMMA.16816.F32", ...

    Raises:
        RuntimeError: nvdisasm does not know the architecture or the code.
    """
    from triton import knobs

    # Beginning with sm_90, Triton compiles for the architecture with its own extensions.
    name = f"SM{architecture}{'a' if architecture >= 90 else ''}"
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        Path(file.name).write_bytes(b"".join(codes))
        command = [knobs.nvidia.nvdisasm.path, "--binary", name, "--no-dataflow", file.name]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"nvdisasm: expected machine code of {name}, got: {result.stderr.strip()}")
    found: list[list[str]] = [[] for _ in codes]
    index, end = 0, len(codes[0]) if codes else 0
    for address, opcode in _INSTRUCTION.findall(result.stdout):
        while int(address, 16) >= end:
            index += 1
            end += len(codes[index])
        found[index].append(opcode)
    return found


def instruction_mix(opcodes: Sequence[str]) -> dict:
    """How many instructions of each kind, without the padding behind the code.

    `total`; `tensor`: {kind: count}, tensor-core instructions; `global_load`, `global_store`, `async_copy`: {bytes that
    one thread moves: count}, 0 for copies of whole tiles; all other groups: counts. Groups with nothing in them are
    left out.
    """
    mix: dict = {"total": 0}
    for opcode in opcodes:
        root = opcode.partition(".")[0]
        if root == "NOP":
            continue
        mix["total"] += 1
        if root.endswith("MMA"):
            _count(mix.setdefault("tensor", {}), root)
        elif (group := _GROUP_OF.get(root, "other")) in _BY_WIDTH:
            _count(mix.setdefault(group, {}), str(_width(opcode)))
        else:
            _count(mix, group)
    return mix


def _count(counts: dict, key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _width(opcode: str) -> int:
    """Bytes that a memory instruction moves for one thread."""
    root, *modifiers = opcode.split(".")
    if root.startswith(("UBLK", "UTMA")):
        return 0
    for modifier, width in (("256", 32), ("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if modifier in modifiers:
            return width
    return 4


# What programmers know the instructions by, as PTX writes them; the longer names first.
_PTX = (
    "tcgen05.mma", "wgmma.mma_async", "mma.sync", "cp.async.bulk.tensor", "cp.async.bulk", "cp.async.ca", "cp.async.cg",
    "ld.global", "st.global", "bar.sync", "mbarrier.try_wait",
)  # fmt: skip
_DEPOT = re.compile(r"\.local \.align \d+ \.b8\s+__local_depot\d+\[(\d+)\]")


def ptx_mix(ptx: str) -> dict[str, int]:
    """How often the PTX holds the instructions that memory and tensor cores are worked with."""
    counts = Counter(re.findall("|".join(map(re.escape, _PTX)), ptx))
    return {name: counts[name] for name in _PTX if counts[name]}


def arrays_on_the_stack(ptx: str) -> int:
    """Bytes a thread of arrays that the source itself puts on the stack (such as the table by which CUDA's sine reduces
    large arguments); what the compiled kernel has above that are spilled registers."""
    return sum(map(int, _DEPOT.findall(ptx)))
