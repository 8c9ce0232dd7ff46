"""Registers, spills, shared memory, occupancy and instructions of GPU kernels, on a machine without a GPU.

    ranvier profile --static lstm --arch sm_90

The kernels are compiled in the forms in which the operation's samples launch them, forward and backward: one form for
each kernel and set of constants, that of its widest launch among the shapes that the operation declares for timing
(`--all-forms`: every one). Triton brings all that this needs; what was compiled is kept, and a second call is quick.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from .cases import DTYPES, select
from .occupancy import ARCHITECTURES

TABLE = Path(__file__).with_name("results") / "static.json"
_DEFAULT_DTYPES = ("float32", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="WHAT", help="operations, families, or all")
    parser.add_argument(
        "--arch", action="append", metavar="sm_90", help=f"architecture, repeatable: {_architectures()} (sm_90)"
    )
    parser.add_argument(
        "--dtype", action="append", choices=DTYPES, help=f"repeatable ({' and '.join(_DEFAULT_DTYPES)})"
    )
    parser.add_argument("--all-forms", action="store_true", help="every form that any sample launches")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as JSON too, with all instructions")


def run(options: argparse.Namespace) -> int:
    """Prints the tables; returns the exit status.

    Raises:
        ValueError: no such operation, family or architecture; the message lists what there is.
        ModuleNotFoundError: Triton is not installed.
    """
    architectures = [_architecture(name) for name in dict.fromkeys(options.arch or ["sm_90"])]
    operations = select(options.what)
    if importlib.util.find_spec("triton") is None:
        raise ModuleNotFoundError(
            "profile --static: expected Triton, which compiles the kernels, got none: `pip install ranvier[gpu-proof]`"
        )
    from tqdm import tqdm

    from ..kernels import tuning
    from . import static_table
    from .launches import forms_of, has_gpu_kernels
    from .static_analysis import analyse
    from .unrecorded import unrecorded_forms

    dtypes = list(dict.fromkeys(options.dtype or _DEFAULT_DTYPES))
    skipped = [operation.name for operation in operations if not has_gpu_kernels(operation)]
    wanted = [(o, d) for o in operations if o.name not in skipped for d in dtypes if d in o.dtypes]
    forms = {}
    for architecture in architectures:
        # An architecture has tiles of its own.
        with tuning.assuming(architecture):
            found = [
                form
                for operation, dtype in tqdm(wanted, f"finding launches, sm_{architecture}", leave=False, delay=1)
                for form in forms_of(operation, dtype, options.all_forms)
            ]
        if "all" in options.what:
            found += [form for dtype in dtypes for form in unrecorded_forms(dtype, architecture)]
        forms[architecture] = static_table.merged(found, options.all_forms)
    if not any(forms.values()):
        raise ValueError(
            f"profile --static: expected operations that launch GPU kernels in {' or '.join(dtypes)}, "
            f"got {', '.join(operation.name for operation in operations)}"
        )
    analyses = {}
    with tqdm(total=sum(map(len, forms.values())), desc="compiling", unit="", leave=False, delay=1) as bar:
        for architecture in architectures:
            analyses[architecture] = analyse(forms[architecture], architecture, progress=bar.update)
    what = " ".join(options.what)
    for architecture in architectures:
        print(static_table.describe(forms[architecture], analyses[architecture], architecture, what), end="\n\n")
    if skipped:
        print(f"No GPU kernels: {', '.join(skipped)}.")
    if options.write is not None:
        static_table.write(options.write, forms, analyses, options.command_line)
        print(f"Written: {options.write}")
    return 0


def _architectures() -> str:
    return ", ".join(f"sm_{number}" for number in ARCHITECTURES)


def _architecture(name: str) -> int:
    number = name.removeprefix("sm_")
    if not number.isdigit() or int(number) not in ARCHITECTURES:
        raise ValueError(f"profile --static: expected --arch to be one of {_architectures()}, got {name!r}")
    return int(number)
