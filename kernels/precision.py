"""How GPU kernels multiply float32 values: tensor cores have no float32 of their own.

with rv.fp32_precision("tf32"):
    loss = rv.functional.cross_entropy(model(images), labels)
    loss.backward()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# What users write, and what Triton calls it.
_TRITON_NAMES = {"ieee": "ieee", "tf32": "tf32", "3xtf32": "tf32x3"}
_chosen: ContextVar[str] = ContextVar("fp32_precision", default="3xtf32")


@contextmanager
def fp32_precision(how: str) -> Iterator[None]:
    """Context manager (and decorator): float32 products of dense, convolutional, recurrent and attention layers inside
    are made on a GPU in this way, forward and backward.

    - "3xtf32", what holds without it: each factor is split into two TF32 values, of which three products are added: the
      digits of float32 at a third of tensor cores' TF32 rate;
    - "tf32": factors are rounded to TF32, which has 11 significant bits (as half precision has) and float32's range;
    - "ieee": float32's own multiply-adds, without tensor cores.

    Sums are in float32 in all three. Other types, and arrays on the CPU, are computed as ever. It holds for the calling
    thread; a captured step keeps what it was captured with.

    Raises:
        ValueError: no such way.
    """
    if how not in _TRITON_NAMES:
        raise ValueError(f"fp32_precision: expected {', '.join(map(repr, _TRITON_NAMES))}, got {how!r}")
    before = _chosen.set(how)
    try:
        yield
    finally:
        _chosen.reset(before)


def input_precision(dtype) -> str:
    """What `tl.dot` is told of products of this type."""
    return _TRITON_NAMES[_chosen.get()] if dtype.char == "f" else "ieee"
