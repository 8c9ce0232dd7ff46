"""Which tiles, warps and stages a GPU kernel runs with: what was tuned on this device, else what the library ships.

    PRODUCT = Choice("dense.product", ("BLOCK_M", "BLOCK_N", "num_warps"), _candidates, _default)
    launch(product_kernel, grid, a, b, c, **PRODUCT.pick(a, m, n, k))

A kernel declares what there is to choose from, and which of it is shipped for an architecture. Choices are made for
buckets of sizes, each up to the next power of two, and remembered: a call looks one up in a dict. `ranvier tune` tries
the candidates on a device (`profiling/tune.py`) and writes what it found to the device's file in the user's cache
directory, which is read once a process. Nothing is searched at a call.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import triton

from .cache import cache_directory
from .launch import architecture_of

SCHEMA = 1
# Architectures on which a block can have 163 KB of shared memory or more; on the others it has 99 KB.
_ROOMY = {80, 87, 90, 100, 101, 103, 110}
_LEAST = 16  # of a tile's axis: what tensor cores take

# The architecture for which kernels are configured that are given NumPy arrays: interpreted, or analysed without a GPU.
_assumed = 90


class Question(NamedTuple):
    """What a choice was asked: the kernel's name for it, the dtype's name, and the bucket of sizes."""

    kernel: str
    dtype: str
    bucket: tuple[int | bool, ...]


_asked: dict[Question, None] = {}
_trials: dict[Question, tuple[int, ...]] = {}
_tuned: dict[int, dict[Question, dict]] = {}


class Choice:
    """What a kernel can run with.

    Args:
        name: family and kernel, such as "dense.product".
        fields: names of the constants and compile options that a configuration gives values for.
        candidates: takes (dtype, *bucket) -> configurations, tuples of values in the order of the fields.
        default: takes (architecture, dtype, *bucket) -> the shipped configuration, which fits on the architecture.
        along: field -> which of the sizes it lies along: a tile is no longer than its axis, but at least 16.
    """

    registry: ClassVar[dict[str, Choice]] = {}

    def __init__(
        self,
        name: str,
        fields: Sequence[str],
        candidates: Callable[..., Sequence[tuple[int, ...]]],
        default: Callable[..., tuple[int, ...]],
        along: dict[str, int] | None = None,
    ):
        if name in Choice.registry:
            raise ValueError(f"choice {name!r} is declared twice")
        self.name, self.fields = name, tuple(fields)
        self._candidates, self._default = candidates, default
        self._along = [(self.fields.index(field), size) for field, size in (along or {}).items()]
        self._picked: dict[tuple, dict[str, int]] = {}
        Choice.registry[name] = self

    def pick(self, like, *sizes: int | bool, dtype=None) -> dict[str, int]:
        """The values of all fields for a call with these sizes, on the device of the array `like` and in its dtype
        unless another is given. The dict is everybody's: not to be changed."""
        dtype = like.dtype if dtype is None else dtype
        where = None if type(like) is np.ndarray else like.data.device_id
        device = _assumed if where is None else ~where  # architectures are positive, devices negative
        key = (device, dtype.num, *[size if type(size) is bool else (size - 1).bit_length() for size in sizes])
        found = self._picked.get(key)
        if found is None:
            bucket = tuple(part if type(part) is bool else 1 << part for part in key[2:])
            found = self._picked[key] = self._decide(device, Question(self.name, dtype.name, bucket))
        return found

    def shipped(self, architecture: int, dtype: np.dtype, bucket: tuple) -> dict[str, int]:
        """The configuration that the library ships."""
        return self._named(self._fitted(self._default(architecture, dtype, *bucket), bucket))

    def configurations(self, architecture: int, dtype: np.dtype, bucket: tuple) -> list[tuple[int, ...]]:
        """All configurations to be tried for a bucket: the shipped one, then the candidates, each once."""
        every = [self._default(architecture, dtype, *bucket), *self._candidates(dtype, *bucket)]
        return list(dict.fromkeys(self._fitted(configuration, bucket) for configuration in every))

    def in_force(self, device: int, question: Question) -> tuple[int, ...]:
        """The configuration that calls on a device run with now."""
        return tuple(self._decide(~device, question).values())

    def _fitted(self, configuration: tuple[int, ...], bucket: tuple) -> tuple[int, ...]:
        values = list(configuration)
        for place, size in self._along:
            values[place] = max(min(values[place], bucket[size]), _LEAST)
        return tuple(values)

    def _named(self, configuration: tuple[int, ...]) -> dict[str, int]:
        return dict(zip(self.fields, configuration))

    def _decide(self, device: int, question: Question) -> dict[str, int]:
        _asked[question] = None
        if question in _trials:
            return self._named(_trials[question])
        architecture, dtype = device if device >= 0 else architecture_of(~device), np.dtype(question.dtype)
        tuned = None if device >= 0 else _tuned_on(~device).get(question)
        if tuned is None:
            return self.shipped(architecture, dtype, question.bucket)
        for configuration in self.configurations(architecture, dtype, question.bucket):
            if self._named(configuration) == tuned:
                return self._named(configuration)
        warnings.warn(
            f"{_path_of_device(~device)}: {question.kernel} was tuned to {tuned}, which this version of the library "
            "does not try; the shipped configuration is used. `ranvier tune` measures again",
            stacklevel=3,
        )
        return self.shipped(architecture, dtype, question.bucket)


def architecture_for(like) -> int:
    """The architecture (80, 90, ...) for which a kernel that is given the array `like` is configured."""
    return _assumed if type(like) is np.ndarray else architecture_of(like.data.device_id)


def has_room(architecture: int) -> bool:
    """Whether a block can have 163 KB of shared memory (sm_80, sm_90, sm_100, ...) and not 99 KB only."""
    return architecture in _ROOMY


def asked() -> list[Question]:
    """Every question that was decided since `forget()`, in order."""
    return list(_asked)


def forget() -> None:
    """Decides everything anew at the next call, and reads the devices' files again."""
    _asked.clear()
    _tuned.clear()
    for choice in Choice.registry.values():
        choice._picked.clear()


@contextmanager
def trying(question: Question, configuration: tuple[int, ...]) -> Iterator[None]:
    """Within the block the question has this answer."""
    picked = Choice.registry[question.kernel]._picked
    _trials[question] = configuration
    picked.clear()
    try:
        yield
    finally:
        del _trials[question]
        picked.clear()


@contextmanager
def assuming(architecture: int) -> Iterator[None]:
    """Within the block kernels that are given NumPy arrays are configured for this architecture (80, 90, ...)."""
    global _assumed
    before, _assumed = _assumed, architecture
    try:
        yield
    finally:
        _assumed = before


# ---- the file of a device


def path_of(name: str, architecture: int) -> Path:
    """Where the configurations tuned on devices of this name are kept."""
    return cache_directory() / "tuned" / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}-sm_{architecture}.json"


def header_of(name: str, architecture: int) -> dict:
    """What a file says of itself, beside its `entries`."""
    return {"schema": SCHEMA, "device": name, "architecture": f"sm_{architecture}"}


def read_entries(path: Path, name: str, architecture: int) -> list[dict]:
    """The entries of a device's file, of every version of Triton; none where there is no file.

    An entry has `kernel`, `dtype`, `bucket`, `triton` and `configuration`, and how it was measured.

    Raises:
        ValueError: the file is damaged, or another device's.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot be read as JSON ({error})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"is no file of configurations of schema {SCHEMA}")
    if any(content.get(field) != value for field, value in header_of(name, architecture).items()):
        raise ValueError(
            f"is of {content.get('device')} ({content.get('architecture')}), this device is {name} (sm_{architecture})"
        )
    entries = content.get("entries")
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ValueError("has entries without kernel, dtype, bucket, triton and configuration")
    return entries


def question_of(entry: dict) -> Question:
    """What an entry answers."""
    return Question(entry["kernel"], entry["dtype"], tuple(entry["bucket"]))


def name_of(device: int) -> str:
    """The device's name, as its driver has it."""
    from cupy.cuda import runtime

    return runtime.getDeviceProperties(device)["name"].decode()


def _is_entry(entry) -> bool:
    kinds = {"kernel": str, "dtype": str, "bucket": list, "triton": str, "configuration": dict}
    whole = isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
    return whole and all(isinstance(size, int) for size in entry["bucket"])


def _path_of_device(device: int) -> Path:
    return path_of(name_of(device), architecture_of(device))


def _tuned_on(device: int) -> dict[Question, dict]:
    """The configurations in the device's file that count here, read when first asked for."""
    if device not in _tuned:
        _tuned[device] = _read_tuned(device)
    return _tuned[device]


def _read_tuned(device: int) -> dict[Question, dict]:
    path = _path_of_device(device)
    try:
        entries = read_entries(path, name_of(device), architecture_of(device))
    except ValueError as error:
        warnings.warn(f"{path}: {error}; shipped configurations are used. `ranvier tune` writes it again", stacklevel=5)
        return {}
    own = [entry for entry in entries if entry["triton"] == triton.__version__]
    if entries and not own:
        versions = ", ".join(sorted({entry["triton"] for entry in entries}))
        warnings.warn(
            f"{path}: was tuned with Triton {versions}, this is {triton.__version__}; shipped configurations are used. "
            "`ranvier tune` measures again",
            stacklevel=5,
        )
    return {question_of(entry): entry["configuration"] for entry in own}
