"""Compiled CPU kernels on disk, so that a second process starts at once.

Numba's own cache keeps an index a kernel, which two processes that compile at once can overwrite for each other (the
loser's entry then names the winner's machine code), and it looks only at the file of the kernel itself, so that an edit
of `cpu_math.py` left old code in use. This one has no index: a file for each kernel and its arguments' types, put in
place whole, that says what it was made from: Numba's version and the state of the kernel's file and of all that it
imports. What was made from anything else counts as absent and is overwritten.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import tempfile
from functools import cache, cached_property
from pathlib import Path

import numba
from numba.core import caching

_IMPORTS = re.compile(r"^[ \t]*from (\.+)([\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)
# Modules whose functions and numbers are in no compiled kernel, though files with kernels import them.
_PYTHON_ONLY = {"accumulate.py", "check.py", "device.py", "memory.py", "operation.py"}


class KernelCache(caching.FunctionCache):
    """What Numba's dispatcher asks for a compiled form, and gives each new one to."""

    def __init__(self, function):
        self._name = repr(function)
        self._py_func = function
        self.enable()

    @cached_property
    def _impl(self):
        # Finds a folder that can be written to: `NUMBA_CACHE_DIR`, beside the source, or the user's.
        return self._impl_class(self._py_func)

    @property
    def cache_path(self):
        return self._impl.locator.get_cache_path()

    @property
    def _cache_file(self):
        return self

    def flush(self):
        for file in Path(self.cache_path).glob(f"{self._impl.filename_base}.*.nbc"):
            file.unlink()

    def load(self, key):
        """The entry of a signature, or None where there is none, or one made from other sources."""
        try:
            with open(self._file(key), "rb") as file:
                return pickle.load(file) if pickle.load(file) == self._made_from(key) else None
        except (FileNotFoundError, EOFError, pickle.UnpicklingError):
            return None

    def save(self, key, data):
        """Keeps the entry of a signature: written beside its place and renamed into it."""
        handle, temporary = tempfile.mkstemp(dir=self.cache_path, prefix="writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                pickle.dump(self._made_from(key), file)
                file.write(self._dump(data))
            os.replace(temporary, self._file(key))
        except BaseException:
            os.unlink(temporary)
            raise

    def _file(self, key) -> str:
        digest = hashlib.sha256(_text(key).encode()).hexdigest()[:16]
        return os.path.join(self.cache_path, f"{self._impl.filename_base}.{digest}.nbc")

    def _made_from(self, key):
        return numba.__version__, _text(key), _state(Path(self._py_func.__code__.co_filename))

    @staticmethod
    def _dump(data) -> bytes:
        return caching.dumps(data)


def _text(key) -> str:
    # A function among the arguments is written with its address, which is another one in each process.
    return re.sub(r" at 0x[0-9a-f]+", "", str(key))


@cache
def _state(source: Path) -> tuple:
    """Name, size and time of the last change of a file with kernels and of all files that it imports from."""
    found, open_files = set(), [source]
    while open_files:
        file = open_files.pop()
        if file not in found and file.name not in _PYTHON_ONLY:
            found.add(file)
            open_files += _imported(file)
    states = ((file, file.stat()) for file in sorted(found))
    return tuple((file.name, state.st_size, state.st_mtime_ns) for file, state in states)


@cache
def _imported(source: Path) -> tuple[Path, ...]:
    """The files of `from .module import name` and `from . import module` in a file."""
    files = []
    for dots, module, names in _IMPORTS.findall(source.read_text()):
        place = source.parents[len(dots) - 1].joinpath(*module.split("."))
        candidates = [place.with_suffix(".py")] if module else []
        candidates += [place / "__init__.py", *(place / f"{name}.py" for name in re.findall(r"\w+", names))]
        files += [file for file in candidates if file.is_file()]
    return tuple(files)
