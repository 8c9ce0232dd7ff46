"""All that the bench measures, by name, and how a user picks from it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatch

from . import bench_kernels, bench_models, bench_optimizers, bench_processes

ALL = [
    *bench_kernels.CASES,
    *bench_optimizers.CASES,
    *bench_models.CASES,
    *bench_kernels.OVERHEADS,
    *bench_processes.CASES,
]
_BY_NAME = {case.name: case for case in ALL}


def find(name: str):
    """The case of a name."""
    return _BY_NAME[name]


def select(names: Sequence[str], pattern: str | None) -> list:
    """The cases that a user asks for, all of them where nothing is asked for.

    Args:
        names: of cases ("conv2d/resnet_56"), subjects ("conv2d", "lenet"), families ("conv", "model"), groups
            ("kernel", "start") or sizes of models ("small").
        pattern: matches cases' names, as file names are matched: "conv2d/*"; without `*`, `?` or `[`, a part of them.

    Raises:
        ValueError: a name or the pattern fits nothing; the message lists what there is.
    """
    cases = list(ALL)
    if names:
        for name in names:
            if not any(name in labels(case) for case in ALL):
                raise ValueError(_unknown(name))
        cases = [case for case in cases if labels(case) & set(names)]
    if pattern is not None:
        glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
        cases = [case for case in cases if fnmatch(case.name, glob)]
        if not cases:
            raise ValueError(_unknown(pattern))
    return cases


def labels(case) -> set[str]:
    """What a case can be asked for by."""
    sizes = {case.case} if case.group == bench_models.ModelCase.group else set()
    return {case.name, case.subject, case.family, case.group} | sizes


def listing(cases: Sequence) -> str:
    """The cases' names, a line a subject."""
    subjects: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        subjects.setdefault((case.group, case.subject), []).append(case.case)
    width = max(len(subject) for _, subject in subjects)
    lines, group = [], None
    for (of, subject), names in subjects.items():
        if of != group:
            lines.append(f"{of}:")
            group = of
        lines.append(f"  {subject:{width}}  {' '.join(names)}")
    return "\n".join(lines)


def _unknown(name: str) -> str:
    known = sorted({label for case in ALL for label in labels(case)})
    near = difflib.get_close_matches(name, known, 3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    return f"bench: expected names of rows, got {name!r}{hint}. There are, as SUBJECT or SUBJECT/CASE:\n{listing(ALL)}"
