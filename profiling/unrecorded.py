"""Forms of GPU kernels that no pass on NumPy arrays shows: of those whose findings the host reads before it goes on,
and of the product that only the tuner chooses."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from ..kernels import tuning
from ..kernels.operation import Operation, Sample
from .launches import Array, Form, Launch, form_of, launches_of_sample

_SIZE = 1 << 20


def unrecorded_forms(dtype: str, architecture: int) -> list[Form]:
    """One form of each such kernel, for arrays of this dtype; kernels of integers come with float32 alone."""
    return [*_of_searches(dtype), *(_of_integers() if dtype == "float32" else ()), *_of_schedules(dtype, architecture)]


def _form(dtype: str, operation: str, kernel, *arguments, **constants) -> Form:
    """A form for large arrays; the name of a dtype stands for an array."""
    stand_ins = tuple(Array(argument) if isinstance(argument, str) else argument for argument in arguments)
    made = Launch(kernel, stand_ins, constants, (_SIZE // constants.get("BLOCK", _SIZE),))
    return form_of(made, dtype=dtype, sample="a million elements", operations=(operation,))


def _of_searches(dtype: str) -> list[Form]:
    check, nonzero = (import_module(f"ranvier.kernels.{name}") for name in ("loss.gpu_check", "shape.gpu_nonzero"))
    return [
        _form(
            dtype, "binary_cross_entropy", check.first_outside_kernel, dtype, "int64", _SIZE, 0.0, 1.0,
            ENDS=False, NAN=True, BLOCK=1024,
        ),
        _form(dtype, "nonzero", nonzero.nonzero_counts_kernel, dtype, "int64", _SIZE, BLOCK=1024),
        _form(dtype, "nonzero", nonzero.nonzero_places_kernel, dtype, "int64", "int64", _SIZE, BLOCK=1024),
    ]  # fmt: skip


def _of_integers() -> list[Form]:
    arrays, nonzero = (import_module(f"ranvier.kernels.{name}") for name in ("gpu_arrays", "shape.gpu_nonzero"))
    return [
        _form("int64", "batch_norm", arrays.count_kernel, "int64"),
        _form(
            "int64", "cross_entropy", arrays.extent_kernel, "int64", "int64", "int64", _SIZE, -100,
            IGNORE=True, BLOCK=1024,
        ),
        _form("int64", "nonzero", nonzero.nonzero_starts_kernel, "int64", "int64", 1024, BLOCK=1024),
        _form("int64", "nonzero", nonzero.coordinate_kernel, "int64", "int64", _SIZE, 768, 2048, BLOCK=1024),
    ]  # fmt: skip


def _of_schedules(dtype: str, architecture: int) -> list[Form]:
    """Products of the samples for timing by persistent programs, with the smallest tile that the tuner tries."""
    dense, found = Operation.registry["dense"], {}
    for sample in (sample for sample in dense.samples if sample.large):
        for question, configuration in _persistent_configurations(dense, sample, dtype, architecture):
            with tuning.assuming(architecture), tuning.trying(question, configuration):
                for made in launches_of_sample(dense, sample, np.dtype(dtype)):
                    form = form_of(made, dtype=dtype, sample=sample.name, operations=(dense.name,))
                    if form.name == "product_persistent_kernel":
                        found.setdefault(form.key, form)
    tuning.forget()
    return list(found.values())


def _persistent_configurations(operation: Operation, sample: Sample, dtype: str, architecture: int) -> list[tuple]:
    """(question, configuration) for each product of the sample that persistent programs could make through pointers."""
    tuning.forget()
    with tuning.assuming(architecture):
        launches_of_sample(operation, sample, np.dtype(dtype))
    pairs = []
    for question in tuning.asked():
        choice = tuning.Choice.registry[question.kernel]
        if choice.name == "dense.product":
            every = choice.configurations(architecture, np.dtype(dtype), question.bucket)
            persistent = [tried for tried in every if tried[choice.fields.index("SCHEDULE")] == 1]
            pairs += [(question, min(persistent, key=lambda tried: tried[0] * tried[1]))] if persistent else []
    return pairs
