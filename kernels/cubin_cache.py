"""Compiled kernels on disk, so that a second process launches at once.

One file a compiled form, named by a hash of all that it depends on: a line with the SHA-256 of the rest, a line of JSON
with what a launch must know, the cubin. Files are written beside their place and renamed into it, so that processes
that write at once cannot mix; one that is damaged counts as absent. Nothing in a file is executed on the host.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import triton
from triton._C.libtriton import get_cache_invalidating_env_vars

from .cache import cache_directory

_NEEDED = (
    "name", "num_warps", "num_ctas", "shared", "global_scratch_size", "launch_cooperative_grid", "launch_pdl",
)  # fmt: skip


def key_of(function, types: dict, constants: dict, attributes: dict, options: dict, architecture: int) -> str:
    """A hash of the kernel's source with all that it calls, the arguments' types, constants, options, architecture,
    Triton's version and the settings in the environment that change what Triton compiles."""
    parts = [triton.__version__, architecture, function.__name__, function.cache_key, list(types.items())]
    for named in (constants, attributes, options, get_cache_invalidating_env_vars()):
        parts.append(sorted((str(name), _text(value)) for name, value in named.items()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read(key: str):
    """What `triton.compile` gave, as far as a launch needs it (`metadata`, `asm["cubin"]`), or None."""
    folder = _folder()
    try:
        content = (folder / key).read_bytes() if folder else b""
    except OSError:  # it is not there, or cannot be read: then it is compiled, and `write` says what is wrong
        return None
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    metadata, _, cubin = body.partition(b"\n")
    return SimpleNamespace(metadata=SimpleNamespace(**json.loads(metadata)), asm={"cubin": cubin})


def write(key: str, result) -> None:
    """Keeps what `triton.compile` gave. A disk that cannot be written to only costs the next process time."""
    folder = _folder()
    if folder is None:
        return
    metadata = json.dumps({name: getattr(result.metadata, name) for name in _NEEDED}).encode()
    body = metadata + b"\n" + result.asm["cubin"]
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix="writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            os.replace(temporary, folder / key)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        warnings.warn(f"compiled kernels are not kept: {error}", stacklevel=2)


def _folder() -> Path | None:
    """The folder, which only its owner may write to: a cubin that another put there would run on the GPU."""
    folder = cache_directory() / "cubins"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError as error:
        warnings.warn(f"compiled kernels are not kept: {error}", stacklevel=2)
        return None
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        warnings.warn(f"compiled kernels are not kept: others than you may write to {folder}", stacklevel=2)
        return None
    return folder


def _text(value) -> str:
    """A constant with its type: 1, 1.0 and True compile to different code."""
    value = getattr(value, "value", value) if isinstance(value, triton.language.constexpr) else value
    return f"{type(value).__name__} {getattr(value, 'cache_key', None) or repr(value)}"
