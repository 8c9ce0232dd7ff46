"""Records for tests of what is made from them; their figures are such that derived ones are round."""

from ranvier.profiling.record import QUANTILES, Missing, Record, Row

CEILINGS = {"copy": 1e10, "matmul": {"float32": 1e11}, "launch": 1e-6, "measured": "2026-01-02T03:04:05+00:00"}


def row(name="conv2d", case="block", variant="ranvier", median=1e-3, **changed) -> Row:
    """A row whose samples lie evenly around the median, from half of it to one and a half."""
    quantiles = {key: median * (0.5 + float(key)) for key in QUANTILES}
    fields = {
        "group": "kernel",
        "family": "conv",
        "shapes": "x 1x1",
        "dtype": "float32",
        "direction": "forward",
        "samples": 9,
        "flops": 10_000_000,
        "bytes": 1_000_000,
    }
    return Row(name=name, case=case, variant=variant, quantiles=quantiles, **(fields | changed))


def record(*rows: Row, missing: tuple[Missing, ...] = (), errors=()) -> Record:
    """A run with these rows on a machine of 10 GB/s and 100 GFLOP/s."""
    run = {
        "kind": "run",
        "schema": 1,
        "device": {"name": "Test & Co <processor>", "cores": 2, "threads": {"numba": 2, "blas": 2}},
        "versions": {"ranvier": "0.1.0", "numpy": "2.0"},
        "command": "ranvier profile conv2d",
        "started": "2026-01-02T03:04:05+00:00",
        "ceilings": CEILINGS,
    }
    return Record(run, list(rows), list(missing), list(errors))
