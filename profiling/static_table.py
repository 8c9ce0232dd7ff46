"""The table of `ranvier profile --static`: for people on a terminal, and as a file that tests hold the kernels against.

The file (`profiling/results/static.json`) has a line a form of a kernel: what it is (kernel, arguments, constants: see
`launches.Form`), where it is launched, and what the compiler made of it for each architecture.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ..train.checkpoint import write_atomically
from .launches import Form, read_form, to_text
from .static_analysis import Analysis

SCHEMA = 1
_PRODUCTS = {"tcgen05.mma": "tcgen05", "wgmma.mma_async": "wgmma", "mma.sync": "mma"}
_NOT_TOLD = ("BLOCK", "CHUNK", "num_warps", "num_stages", "GROUP_M", "ACCUMULATOR")
_HEADER = ("warps", "regs", "spill", "shared", "occupancy", "tensor", "copies", "loads", "bars")


def merged(forms: Iterable[Form], every: bool = False) -> list[Form]:
    """Forms of many operations: each once, with all operations that launch it; and, unless `every`, one for each
    kernel, dtype and set of constants, that of the widest launch."""
    once = _joined(forms, lambda form: form.key)
    return once if every else _joined(once, lambda form: (form.key[0], form.key[2], form.dtype))


def _joined(forms: Iterable[Form], key: Callable[[Form], tuple]) -> list[Form]:
    found: dict[tuple, Form] = {}
    for form in forms:
        known = found.setdefault(key(form), form)
        if known is not form:
            wider = form if form.programs > known.programs else known
            names = tuple(dict.fromkeys([*known.operations, *form.operations]))
            found[key(form)] = replace(wider, operations=names)
    return list(found.values())


def describe(forms: Sequence[Form], analyses: Sequence[Analysis], architecture: int, what: str) -> str:
    """The table as text, below 120 columns where the kernels' names allow it, and a summary."""
    order = {dtype: position for position, dtype in enumerate(dict.fromkeys(form.dtype for form in forms))}
    rows = sorted(zip(forms, analyses), key=lambda row: (order[row[0].dtype], row[0].name, -row[0].programs))
    title = f"{what} on sm_{architecture}: {len(rows)} forms of {len({form.name for form in forms})} kernels"
    names = _names(form for form, _ in rows)
    body: list[tuple[str, ...]] = []
    for name, (form, analysis) in zip(names, rows):
        body.append((name, _tile(form), *_cells(analysis, architecture)))
    header = ("kernel", "tile", *_HEADER)
    widths = [max(map(len, column)) for column in zip(header, *body)]
    lines = [title]
    dtype = None
    for (form, _), cells in zip(rows, body):
        if form.dtype != dtype:
            dtype = form.dtype
            lines += ["", _aligned((dtype, *header[1:]), widths)]
        lines.append(_aligned(cells, widths))
    return "\n".join([*lines, "", *_summary(rows, names, architecture)])


def _cells(analysis: Analysis, architecture: int) -> tuple[str, ...]:
    held = analysis.occupancy(architecture)
    copies, loads = analysis.instructions.get("async_copy", {}), analysis.instructions.get("global_load", {})
    return (
        str(analysis.threads // 32),
        str(analysis.registers),
        f"{analysis.spill_bytes} B" if analysis.spill_bytes else "",
        _bytes(analysis.shared_bytes),
        f"{held.share:4.0%}" + (f" {held.limiter.removesuffix(' memory')}" if held.limiter != "threads" else ""),
        " ".join(f"{_PRODUCTS[name]} {count}" for name, count in analysis.ptx.items() if name in _PRODUCTS),
        _by_width(copies),
        _by_width(loads),
        str(analysis.instructions.get("barrier", "")),
    )


def _by_width(counts: dict[str, int]) -> str:
    """ "6x16 24x4": how many of 16 bytes, how many of 4; whole tiles are copied by one thread."""
    widths = sorted(map(int, counts), reverse=True)
    return " ".join(f"{counts[str(width)]}x{width or 'tile'}" for width in widths)


def _bytes(count: int) -> str:
    if count == 0:
        return ""
    return f"{count / 1024:.3g} KB" if count >= 1024 else f"{count} B"


def _tile(form: Form) -> str:
    return "x".join(str(value) for name, value in form.constants.items() if name.startswith("BLOCK"))


def _names(forms: Iterable[Form]) -> list[str]:
    """Each form's kernel, with as many constants as tell it from the kernel's other forms of that dtype."""
    forms = list(forms)
    alike: dict[tuple[str, str], list[Form]] = {}
    for form in forms:
        alike.setdefault((form.name, form.dtype), []).append(form)
    telling = {key: _telling(group) for key, group in alike.items()}
    return [
        " ".join([form.name.removesuffix("_kernel"), *_words(form, telling[form.name, form.dtype])]) for form in forms
    ]


def _telling(forms: Sequence[Form]) -> list[str]:
    """Names of constants, no more than it takes to tell forms apart that have different tiles or constants."""
    every = [to_text(form.constants) for form in forms]
    seen = [(_tile(form),) for form in forms]
    chosen = []
    for name in every[0]:
        finer = [(*key, str(constants[name])) for key, constants in zip(seen, every)]
        if not name.startswith(_NOT_TOLD) and len(set(finer)) > len(set(seen)):
            chosen.append(name)
            seen = finer
    return chosen


def _words(form: Form, telling: Sequence[str]) -> list[str]:
    """Constants as words: "causal" for CAUSAL=True, "kernel 3x3" for KERNEL_H=3, KERNEL_W=3."""
    words, groups = [], {}
    for name, value in to_text(form.constants).items():
        if name not in telling:
            continue
        if isinstance(value, bool):
            words += [name.lower()] if value else []
        elif isinstance(value, str):
            words.append(value)
        else:
            groups.setdefault(name.removesuffix("_D").removesuffix("_H").removesuffix("_W"), []).append(f"{value:g}")
    return [*words, *(f"{name.lower()} {'x'.join(group)}" for name, group in groups.items())]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names and limits to the left, numbers to the right."""
    left = (0, 1, 6, 7)
    return "  ".join(
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths))
    ).rstrip()


def _summary(rows: Sequence[tuple[Form, Analysis]], names: Sequence[str], architecture: int) -> list[str]:
    """Sentences: what limits the occupancy, what spills, what uses the tensor cores."""
    held = [analysis.occupancy(architecture) for _, analysis in rows]
    limiters = Counter(one.limiter for one in held if one.limiter != "threads")
    parts = [f"{limiter} in {count}" for limiter, count in limiters.most_common()]
    filled = len(rows) - limiters.total()
    lowest = min(range(len(rows)), key=lambda index: held[index].share)
    form, analysis = rows[lowest]
    lines = [
        "tile: BLOCK constants; spill: bytes a thread; copies and loads: instructions x bytes a thread.",
        f"Occupancy is limited by {', '.join(parts) or 'nothing'} of {len(rows)} forms; "
        f"{filled} fill the multiprocessor with threads.",
        f"The lowest occupancy is {held[lowest].share:.0%}: {names[lowest]} {_tile(form)} in {form.dtype}, for its "
        f"{_reason(held[lowest].limiter, analysis)}.",
    ]
    spills = [(a.spill_bytes, n, f.dtype) for (f, a), n in zip(rows, names) if a.spill_bytes]
    if spills:
        lines.append(f"Registers spill in {len(spills)} of {len(rows)} forms:")
        lines += [f"  {name} in {dtype}: {count} B a thread" for count, name, dtype in sorted(spills)[::-1]]
    else:
        lines.append("No kernel spills registers.")
    products = sum(bool(analysis.tensor_instructions) for _, analysis in rows)
    lines.append(f"Tensor cores are used by {products} of {len(rows)} forms.")
    return lines


def _reason(limiter: str, analysis: Analysis) -> str:
    return {
        "registers": f"{analysis.registers} registers a thread",
        "shared memory": f"{_bytes(analysis.shared_bytes)} of shared memory a block",
        "tensor memory": f"{analysis.tensor_columns} columns of tensor memory a block",
    }.get(limiter, f"{analysis.threads} threads a block")


def write(path: Path, forms: dict[int, Sequence[Form]], analyses: dict[int, Sequence[Analysis]], command: str) -> None:
    """Writes the table, whole or not at all: a JSON object whose `forms` stand a line each, with what was found on each
    architecture that launches the form."""
    import triton

    header = {
        "schema": SCHEMA,
        "what": "GPU kernels as compiled, without a GPU; fields: profiling/static_table.py",
        "command": command,
        "triton": triton.__version__,
        "numba-cuda": numba_version(),
    }
    lines: dict[tuple, dict] = {}
    for architecture, results in analyses.items():
        for form, analysis in zip(forms[architecture], results):
            line = lines.setdefault(_order(form), _line(form))
            line[f"sm_{architecture}"] = _entry(analysis, architecture)
    body = ",\n".join(json.dumps(line, separators=(",", ":")) for _, line in sorted(lines.items()))
    text = json.dumps(header)[:-1] + ', "forms": [\n' + body + "\n]}\n"
    write_atomically(path, lambda temporary: Path(temporary).write_text(text))


def numba_version() -> str | None:
    """Of numba-cuda, which compiles what Triton's blocks do not fit; None where it is not installed."""
    return version("numba-cuda") if find_spec("numba_cuda") is not None else None


def _line(form: Form) -> dict:
    kernel, arguments, constants = form.key
    return {
        "kernel": kernel, "arguments": " ".join(arguments), "constants": dict(constants), "dtype": form.dtype,
        "sample": form.sample, "operations": form.operations,
    }  # fmt: skip


def _order(form: Form) -> tuple:
    return (*form.key[:1], form.dtype, str(form.key))


def _entry(analysis: Analysis, architecture: int) -> dict:
    """What the file has of an analysis: no zeros but that of the spills, not PTX's instructions beside the machine's,
    and of those not the others, which are what the total leaves."""
    held = analysis.occupancy(architecture)
    found = {
        name: value for name, value in asdict(analysis).items() if (value or name == "spill_bytes") and name != "ptx"
    }
    found["instructions"] = {name: count for name, count in analysis.instructions.items() if name != "other"}
    return {
        **found,
        "occupancy": round(held.share, 4),
        "limiter": held.limiter,
    }


def read(path: Path) -> tuple[dict, list[tuple[dict, dict[int, Analysis]]]]:
    """A table that was written: its header, and each form's line with its analyses by architecture.

    Raises:
        ValueError: the file is of another schema.
    """
    table = json.loads(path.read_text())
    if table.get("schema") != SCHEMA:
        raise ValueError(f"profile --static: expected a table of schema {SCHEMA} in {path}, got {table.get('schema')}")
    lines = []
    for line in table.pop("forms"):
        analyses = {}
        for name in [name for name in line if name.startswith("sm_")]:
            entry = {key: value for key, value in line.pop(name).items() if key not in ("occupancy", "limiter")}
            analyses[int(name[3:])] = Analysis(**({"stack_bytes": 0, "shared_bytes": 0} | entry))
            instructions = analyses[int(name[3:])].instructions
            if other := 2 * instructions["total"] - sum(map(_whole, instructions.values())):
                instructions["other"] = other
        lines.append((line, analyses))
    return table, lines


def _whole(count: int | dict[str, int]) -> int:
    """How many, whatever their widths or types."""
    return count if isinstance(count, int) else sum(count.values())


def form_of_line(line: dict) -> Form:
    """The form that a line of the table names, to be compiled again."""
    form = read_form(line["kernel"], line["arguments"].split(" "), line["constants"])
    return replace(form, dtype=line["dtype"], sample=line["sample"], operations=tuple(line["operations"]))
